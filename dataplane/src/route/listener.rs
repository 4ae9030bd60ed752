//! What the listeners of a snapshot speak, and which of them share a port.

use std::collections::{BTreeMap, BTreeSet};
use std::mem::discriminant;

use snapshot::{HostPattern, Protocol, Resource, Snapshot};

use super::table::Port;
use crate::compile::Rejection;

/// What the clients of a port of TCP begin with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PortKind {
    /// HTTP.
    #[default]
    Http,
    /// A ClientHello, whose server name tells the listeners apart.
    Tls,
    /// Anything, or nothing: bytes.
    Tcp,
}

/// What is routed on a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Serves {
    Requests,
    Connections,
    Datagrams,
}

/// Where a listener stands; listeners at the same place are served as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place<'s> {
    pub(super) port: u16,
    pub(super) hostname: &'s HostPattern,
    pub(super) serves: Serves,
}

/// Places by listener; `None` for a listener that was rejected.
pub(super) type Listeners<'s> = BTreeMap<&'s str, Option<Place<'s>>>;

/// The ports of a snapshot, still without their listeners.
#[derive(Default)]
pub(super) struct Ports {
    pub(super) tcp: BTreeMap<u16, Port>,
    pub(super) udp: BTreeSet<u16>,
}

/// The listeners of a snapshot. One that does not go together with those before it on its port is rejected.
pub(super) fn compile<'s>(snapshot: &'s Snapshot, rejections: &mut Vec<Rejection>) -> (Listeners<'s>, Ports) {
    let mut listeners = Listeners::new();
    let mut ports = Ports::default();
    let mut protocols = BTreeMap::new();
    for (id, hashed) in snapshot.iter() {
        let Resource::Listener(listener) = hashed.resource().as_ref() else { continue };
        let place = Place { port: listener.port, hostname: &listener.hostname, serves: serves(&listener.protocol) };
        let protocol = discriminant(&listener.protocol);
        let accepted = match port_kind(&listener.protocol) {
            None => {
                ports.udp.insert(listener.port);
                Ok(place)
            }
            Some(kind) => {
                let port = ports.tcp.entry(listener.port).or_insert_with(|| Port { kind, ..Port::default() });
                if port.kind != kind {
                    Err(format!("port {} already speaks another protocol", listener.port))
                } else if *protocols.entry((listener.port, &listener.hostname)).or_insert(protocol) != protocol {
                    Err(format!("port {} already speaks another protocol for {}", listener.port, listener.hostname))
                } else {
                    Ok(place)
                }
            }
        };
        let place = accepted.map_err(|reason| rejections.push(Rejection { id: id.clone(), reason })).ok();
        listeners.insert(&id.name, place);
    }
    (listeners, ports)
}

/// Whether a route that serves this may be attached to the listener of this name.
///
/// # Errors
/// Says what is in the way. A listener that was rejected itself is not: the route serves its others.
pub(super) fn admits(listeners: &Listeners<'_>, name: &str, serving: &[Serves]) -> Result<(), String> {
    match listeners.get(name) {
        None => Err(format!("the listener {name:?} does not exist")),
        Some(Some(place)) if !serving.contains(&place.serves) => {
            Err(format!("the listener {name:?} speaks another protocol than the route"))
        }
        Some(_) => Ok(()),
    }
}

fn serves(protocol: &Protocol) -> Serves {
    match protocol {
        Protocol::Http | Protocol::Https(_) => Serves::Requests,
        Protocol::TlsPassthrough | Protocol::TlsTerminate(_) | Protocol::Tcp => Serves::Connections,
        Protocol::Udp => Serves::Datagrams,
    }
}

/// `None` for datagrams, which have ports of their own.
fn port_kind(protocol: &Protocol) -> Option<PortKind> {
    match protocol {
        Protocol::Http => Some(PortKind::Http),
        Protocol::Https(_) | Protocol::TlsPassthrough | Protocol::TlsTerminate(_) => Some(PortKind::Tls),
        Protocol::Tcp => Some(PortKind::Tcp),
        Protocol::Udp => None,
    }
}
