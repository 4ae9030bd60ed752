//! The routing table: port, listener, host, path.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use snapshot::{Hash, ResourceId};

use super::build::{Misfit, Route};
use super::host::HostMap;
use super::l4::{L4Route, L4Routes};
use super::listener::PortKind;
use super::path::PathMap;
use super::{Found, RequestView};
use crate::reason::Reason;

/// Everything that routing needs, immutable. A request loads the current table once and lives on it.
#[derive(Debug, Default)]
pub struct RouteTable {
    pub(super) ports: BTreeMap<u16, Port>,
    /// The routes of datagrams by port of UDP.
    pub(super) udp: BTreeMap<u16, Option<Arc<L4Route>>>,
    /// The routes that are served, by name.
    pub(super) routes: HashMap<String, Arc<Route>>,
    /// The routes of connections and datagrams, by name.
    pub(super) l4_routes: L4Routes,
    /// Routes of the sources that do not fit into a host; the last good version, if any, is among `routes`.
    pub(super) misfits: BTreeMap<String, Misfit>,
    /// The listeners and routes that the table was compiled from.
    pub(super) sources: Vec<(ResourceId, Hash)>,
}

/// The listeners that share a port.
#[derive(Debug, Default)]
pub(super) struct Port {
    pub(super) kind: PortKind,
    pub(super) listeners: HostMap<Arc<Listener>>,
}

/// What all listeners with the same port and host name serve: requests by host, or connections by server name.
#[derive(Debug, Default)]
pub(super) struct Listener {
    pub(super) hosts: HostMap<Arc<Host>>,
    pub(super) routes: HostMap<Arc<L4Route>>,
}

/// The rules for one host pattern of one listener.
#[derive(Debug)]
pub(super) struct Host {
    pub(super) paths: PathMap,
    /// The routes that it is made of: equal ones make an equal host.
    pub(super) routes: Vec<Arc<Route>>,
}

impl RouteTable {
    /// The rule for a request that arrived on this port.
    ///
    /// # Errors
    /// [`Reason::NoRoute`].
    pub fn find(&self, port: u16, request: &RequestView<'_>) -> Result<Found<'_>, Reason> {
        let listener = self.listener(port, request.host).ok_or(Reason::NoRoute)?;
        // A more specific host whose rules do not match gives way to a less specific one (Gateway API).
        listener.hosts.matching(request.host).find_map(|host| host.paths.find(request)).ok_or(Reason::NoRoute)
    }

    /// Whether a request for `host` must be refused with 421 on a connection whose client asked for the certificate of
    /// `server_name` (empty when it sent none, `None` without TLS): the host is served here, but by another listener. So it
    /// is too on connections from before the port began to speak TLS, or ceased to.
    pub fn misdirected(&self, port: u16, server_name: Option<&str>, host: &str) -> bool {
        let of_port = self.ports.get(&port).map(|port| port.kind);
        let Some(server_name) = server_name else { return of_port == Some(PortKind::Tls) };
        if of_port.is_some_and(|kind| kind != PortKind::Tls) {
            return true;
        }
        if server_name == host {
            return false;
        }
        match (self.listener(port, server_name), self.listener(port, host)) {
            (Some(connected), Some(addressed)) => !Arc::ptr_eq(connected, addressed),
            (None, Some(_)) => true,
            (_, None) => false,
        }
    }

    /// The route of a connection that arrived on this port; `server_name` in lower case, empty when the client sent none.
    ///
    /// # Errors
    /// [`Reason::NoRoute`].
    pub fn connection(&self, port: u16, server_name: &str) -> Result<&Arc<L4Route>, Reason> {
        let listener = self.listener(port, server_name).ok_or(Reason::NoRoute)?;
        listener.routes.matching(server_name).next().ok_or(Reason::NoRoute)
    }

    /// The route of datagrams that arrived on this port of UDP.
    ///
    /// # Errors
    /// [`Reason::NoRoute`].
    pub fn datagrams(&self, port: u16) -> Result<&Arc<L4Route>, Reason> {
        self.udp.get(&port).and_then(Option::as_ref).ok_or(Reason::NoRoute)
    }

    /// The ports of TCP to listen on, in order, each with what its clients begin with.
    pub fn ports(&self) -> impl Iterator<Item = (u16, PortKind)> {
        self.ports.iter().map(|(&port, listeners)| (port, listeners.kind))
    }

    /// The ports of UDP to listen on, in order.
    pub fn udp_ports(&self) -> impl Iterator<Item = u16> {
        self.udp.keys().copied()
    }

    fn listener(&self, port: u16, host: &str) -> Option<&Arc<Listener>> {
        self.ports.get(&port)?.listeners.matching(host).next()
    }
}
