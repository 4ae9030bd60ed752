//! From the snapshot's certificates to what handshakes use.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::sign::CertifiedKey;
use snapshot::{Hash, Kind, Protocol, Resource, ResourceId, Snapshot};

use crate::compile::Rejection;
use crate::tickets::TicketKeys;
use crate::tls::{CurrentCertificates, ListenerCertificates, PortCertificates, certified_key, server_config};

/// The certificates in use, kept from one snapshot to the next.
#[derive(Default)]
pub struct Certificates {
    /// The last good version of each, with the hash of the version that was tried last.
    keys: HashMap<String, (Hash, Arc<CertifiedKey>)>,
    ports: BTreeMap<u16, (Arc<CurrentCertificates>, Arc<ServerConfig>)>,
    tickets: Arc<TicketKeys>,
}

impl Certificates {
    /// Makes this snapshot's certificates those of the next handshake. One that cannot be used is rejected and its last
    /// good version stays.
    pub fn update(&mut self, snapshot: &Snapshot) -> Vec<Rejection> {
        let rejections = self.update_keys(snapshot);
        if let Some(Resource::Settings(settings)) = resource(snapshot, Kind::Settings, "settings") {
            self.tickets.store(&settings.ticket_keys);
        }
        let mut ports: BTreeMap<u16, PortCertificates> = BTreeMap::new();
        for (_, hashed) in snapshot.iter() {
            let Resource::Listener(listener) = hashed.resource().as_ref() else { continue };
            let Protocol::Https(tls) = &listener.protocol else { continue };
            let certificates = ListenerCertificates::new(tls, |name| self.keys.get(name).map(|(_, key)| key.clone()));
            ports.entry(listener.port).or_default().add(listener.hostname.clone(), certificates);
        }
        self.ports.retain(|port, _| ports.contains_key(port));
        for (port, certificates) in ports {
            if let Some((current, _)) = self.ports.get(&port) {
                current.store(Arc::new(certificates));
                continue;
            }
            let current = Arc::new(CurrentCertificates::default());
            current.store(Arc::new(certificates));
            match server_config(current.clone(), self.tickets.clone()) {
                Ok(config) => _ = self.ports.insert(port, (current, Arc::new(config))),
                Err(error) => tracing::error!(port, %error, "TLS cannot be set up"),
            }
        }
        rejections
    }

    /// How handshakes on this port are made; `None` where no listener of it speaks TLS.
    pub fn of_port(&self, port: u16) -> Option<Arc<ServerConfig>> {
        self.ports.get(&port).map(|(_, config)| config.clone())
    }

    fn update_keys(&mut self, snapshot: &Snapshot) -> Vec<Rejection> {
        let mut rejections = Vec::new();
        for (id, hashed) in snapshot.iter() {
            let Resource::Certificate(certificate) = hashed.resource().as_ref() else { continue };
            if self.keys.get(&id.name).is_some_and(|(hash, _)| *hash == hashed.hash()) {
                continue;
            }
            match certified_key(certificate) {
                Ok(key) => _ = self.keys.insert(id.name.clone(), (hashed.hash(), Arc::new(key))),
                Err(error) => rejections.push(Rejection { id: id.clone(), reason: error.to_string() }),
            }
        }
        self.keys.retain(|name, _| resource(snapshot, Kind::Certificate, name).is_some());
        rejections
    }
}

fn resource<'s>(snapshot: &'s Snapshot, kind: Kind, name: &str) -> Option<&'s Resource> {
    snapshot.get(&ResourceId::new(kind, name)).map(|hashed| hashed.resource().as_ref())
}
