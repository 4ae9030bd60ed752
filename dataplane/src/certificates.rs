//! How the handshakes of each port are made.

use std::collections::BTreeMap;
use std::mem::discriminant;
use std::sync::Arc;

use rustls::ServerConfig;
use snapshot::{Kind, Listener, Protocol, Resource, ResourceId, Snapshot};

use crate::compile::Rejection;
use crate::keys::Keys;
use crate::tickets::{Scope, TicketKeys};
use crate::tls::{CurrentCertificates, Inside, ListenerCertificates, PortCertificates, PortTls, server_config};

/// The handshakes' configurations, kept from one snapshot to the next.
#[derive(Default)]
pub struct Certificates {
    ports: BTreeMap<u16, Port>,
    tickets: Arc<TicketKeys>,
}

#[derive(Default)]
struct Port {
    certificates: Arc<CurrentCertificates>,
    /// By what is inside, and what is asked of clients.
    configs: BTreeMap<(Inside, Scope), Config>,
    tls: Arc<PortTls>,
}

/// The configuration for one thing that is asked of clients.
#[derive(Clone)]
struct Config {
    /// `None` where no client could pass.
    server: Option<Arc<ServerConfig>>,
    /// Which authorities cannot be used, and why.
    refused: Option<String>,
}

impl Certificates {
    /// Makes this snapshot's certificates those of the next handshake. A listener of whose authorities for clients some cannot be
    /// used is rejected and goes on with the others; without any it refuses handshakes.
    pub fn update(&mut self, snapshot: &Snapshot, keys: &Keys) -> Vec<Rejection> {
        if let Some(Resource::Settings(settings)) = resource(snapshot, Kind::Settings, "settings") {
            self.tickets.store(&settings.ticket_keys);
        }
        let mut ports: BTreeMap<u16, Vec<(&ResourceId, &Listener)>> = BTreeMap::new();
        let mut protocols = BTreeMap::new();
        for (id, hashed) in snapshot.iter() {
            let Resource::Listener(listener) = hashed.resource().as_ref() else { continue };
            if let Protocol::Https(_) | Protocol::TlsTerminate(_) | Protocol::TlsPassthrough = listener.protocol {
                // Another protocol for the same name was rejected by the routing table.
                let protocol = discriminant(&listener.protocol);
                if *protocols.entry((listener.port, &listener.hostname)).or_insert(protocol) == protocol {
                    ports.entry(listener.port).or_default().push((id, listener));
                }
            }
        }
        self.ports.retain(|port, _| ports.contains_key(port));
        let mut rejections = Vec::new();
        for (port, listeners) in ports {
            let held = self.ports.entry(port).or_default();
            rejections.extend(held.update(&listeners, keys, &self.tickets));
        }
        rejections
    }

    /// What becomes of connections to this port; `None` where no listener of it speaks TLS.
    pub fn of_port(&self, port: u16) -> Option<Arc<PortTls>> {
        self.ports.get(&port).map(|port| port.tls.clone())
    }
}

impl Port {
    fn update(
        &mut self,
        listeners: &[(&ResourceId, &Listener)],
        keys: &Keys,
        tickets: &Arc<TicketKeys>,
    ) -> Vec<Rejection> {
        let mut rejections = Vec::new();
        let mut certificates = PortCertificates::default();
        let mut tls = PortTls::default();
        let mut configs = BTreeMap::new();
        for &(id, listener) in listeners {
            let (settings, inside) = match &listener.protocol {
                Protocol::Https(tls) => (tls, Inside::Http),
                Protocol::TlsTerminate(tls) => (tls, Inside::Bytes),
                _ => {
                    tls.pass(listener);
                    continue;
                }
            };
            let of_listener = ListenerCertificates::new(settings, |name| keys.get(name).cloned());
            certificates.add(&listener.hostname, of_listener);
            let clients = settings.client_validation.as_ref();
            let key = (inside, Scope::of(clients));
            let config: &Config = configs.entry(key).or_insert_with(|| match self.configs.get(&key) {
                Some(same) => same.clone(),
                None => {
                    let (server, refused) = server_config(self.certificates.clone(), tickets.clone(), inside, clients);
                    Config { server: server.map(Arc::new), refused }
                }
            });
            rejections.extend(config.refused.clone().map(|reason| Rejection { id: id.clone(), reason }));
            tls.open(listener, settings, inside, config.server.clone());
        }
        self.certificates.store(Arc::new(certificates));
        self.configs = configs;
        self.tls = Arc::new(tls);
        rejections
    }
}

fn resource<'s>(snapshot: &'s Snapshot, kind: Kind, name: &str) -> Option<&'s Resource> {
    snapshot.get(&ResourceId::new(kind, name)).map(|hashed| hashed.resource().as_ref())
}
