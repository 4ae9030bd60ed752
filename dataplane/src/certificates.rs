//! How the handshakes of each port are made.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use rustls::ServerConfig;
use snapshot::{Kind, Listener, Protocol, Resource, ResourceId, Snapshot, Tls};

use crate::compile::Rejection;
use crate::keys::Keys;
use crate::tickets::{Scope, TicketKeys};
use crate::tls::{CurrentCertificates, ListenerCertificates, PortCertificates, PortTls, server_config};

/// The handshakes' configurations, kept from one snapshot to the next.
#[derive(Default)]
pub struct Certificates {
    ports: BTreeMap<u16, Port>,
    tickets: Arc<TicketKeys>,
}

#[derive(Default)]
struct Port {
    certificates: Arc<CurrentCertificates>,
    /// By what is asked of clients.
    configs: BTreeMap<Scope, Arc<ServerConfig>>,
    /// What each listener asks of clients, in its last good version.
    scopes: HashMap<String, Scope>,
    tls: Arc<PortTls>,
}

impl Certificates {
    /// Makes this snapshot's certificates those of the next handshake. A listener whose demands on clients cannot be used is
    /// rejected and goes on with the last good ones; without such it refuses handshakes.
    pub fn update(&mut self, snapshot: &Snapshot, keys: &Keys) -> Vec<Rejection> {
        if let Some(Resource::Settings(settings)) = resource(snapshot, Kind::Settings, "settings") {
            self.tickets.store(&settings.ticket_keys);
        }
        let mut ports: BTreeMap<u16, Vec<(&ResourceId, &Listener, &Tls)>> = BTreeMap::new();
        for (id, hashed) in snapshot.iter() {
            let Resource::Listener(listener) = hashed.resource().as_ref() else { continue };
            let Protocol::Https(tls) = &listener.protocol else { continue };
            ports.entry(listener.port).or_default().push((id, listener, tls));
        }
        self.ports.retain(|port, _| ports.contains_key(port));
        let mut rejections = Vec::new();
        for (port, listeners) in ports {
            let held = self.ports.entry(port).or_default();
            rejections.extend(held.update(&listeners, keys, &self.tickets));
        }
        rejections
    }

    /// How handshakes on this port are made; `None` where no listener of it speaks TLS.
    pub fn of_port(&self, port: u16) -> Option<Arc<PortTls>> {
        self.ports.get(&port).map(|port| port.tls.clone())
    }
}

impl Port {
    fn update(
        &mut self,
        listeners: &[(&ResourceId, &Listener, &Tls)],
        keys: &Keys,
        tickets: &Arc<TicketKeys>,
    ) -> Vec<Rejection> {
        let mut rejections = Vec::new();
        let mut certificates = PortCertificates::default();
        let mut tls = PortTls::default();
        let mut scopes = HashMap::new();
        let mut configs = BTreeMap::new();
        for &(id, listener, settings) in listeners {
            let of_listener = ListenerCertificates::new(settings, |name| keys.get(name).cloned());
            certificates.add(listener.hostname.clone(), of_listener);
            let wanted = Scope::of(settings.client_validation.as_ref());
            let found = configs.get(&wanted).or_else(|| self.configs.get(&wanted)).cloned();
            let made = found.map(Ok).unwrap_or_else(|| {
                let clients = settings.client_validation.as_ref();
                server_config(self.certificates.clone(), tickets.clone(), clients).map(Arc::new)
            });
            let chosen = match made {
                Ok(config) => Some((wanted, config)),
                Err(reason) => {
                    rejections.push(Rejection { id: id.clone(), reason });
                    let last_good = self.scopes.get(&id.name);
                    last_good.and_then(|scope| Some((*scope, self.configs.get(scope)?.clone())))
                }
            };
            tls.add(listener, settings, chosen.as_ref().map(|(_, config)| config.clone()));
            if let Some((scope, config)) = chosen {
                scopes.insert(id.name.clone(), scope);
                configs.insert(scope, config);
            }
        }
        self.certificates.store(Arc::new(certificates));
        self.configs = configs;
        self.scopes = scopes;
        self.tls = Arc::new(tls);
        rejections
    }
}

fn resource<'s>(snapshot: &'s Snapshot, kind: Kind, name: &str) -> Option<&'s Resource> {
    snapshot.get(&ResourceId::new(kind, name)).map(|hashed| hashed.resource().as_ref())
}
