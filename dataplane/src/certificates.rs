//! How the handshakes of each port are made.

use std::collections::BTreeMap;
use std::sync::Arc;

use rustls::ServerConfig;
use snapshot::{Kind, Protocol, Resource, ResourceId, Snapshot};

use crate::keys::Keys;
use crate::tickets::TicketKeys;
use crate::tls::{CurrentCertificates, ListenerCertificates, PortCertificates, server_config};

/// The certificates in use, kept from one snapshot to the next.
#[derive(Default)]
pub struct Certificates {
    ports: BTreeMap<u16, (Arc<CurrentCertificates>, Arc<ServerConfig>)>,
    tickets: Arc<TicketKeys>,
}

impl Certificates {
    /// Makes this snapshot's certificates those of the next handshake.
    pub fn update(&mut self, snapshot: &Snapshot, keys: &Keys) {
        if let Some(Resource::Settings(settings)) = resource(snapshot, Kind::Settings, "settings") {
            self.tickets.store(&settings.ticket_keys);
        }
        let mut ports: BTreeMap<u16, PortCertificates> = BTreeMap::new();
        for (_, hashed) in snapshot.iter() {
            let Resource::Listener(listener) = hashed.resource().as_ref() else { continue };
            let Protocol::Https(tls) = &listener.protocol else { continue };
            let certificates = ListenerCertificates::new(tls, |name| keys.get(name).cloned());
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
    }

    /// How handshakes on this port are made; `None` where no listener of it speaks TLS.
    pub fn of_port(&self, port: u16) -> Option<Arc<ServerConfig>> {
        self.ports.get(&port).map(|(_, config)| config.clone())
    }
}

fn resource<'s>(snapshot: &'s Snapshot, kind: Kind, name: &str) -> Option<&'s Resource> {
    snapshot.get(&ResourceId::new(kind, name)).map(|hashed| hashed.resource().as_ref())
}
