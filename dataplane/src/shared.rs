//! What the control thread publishes to the workers.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use ipnet::IpNet;
use rustls::ServerConfig;
use snapshot::Hash;

use crate::persistence::Key;
use crate::route::RouteTable;
use crate::tls::PortTls;
use crate::watch::ConnectionTimeouts;

/// Everything that a request depends on, swapped as a whole.
#[derive(Debug)]
pub struct State {
    /// The routes.
    pub table: Arc<RouteTable>,
    /// Peers whose forwarded headers are believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Ports that serve Ingresses.
    pub ingress_ports: Vec<u16>,
    /// The key of sessions.
    pub session_key: Arc<Key>,
    /// Whether requests are logged.
    pub access_log: bool,
    /// The snapshot's version; none before the first.
    pub version: Option<Hash>,
    /// When it was applied.
    pub applied: SystemTime,
}

impl Default for State {
    fn default() -> Self {
        Self {
            table: Arc::default(),
            trusted_proxies: Vec::new(),
            ingress_ports: Vec::new(),
            session_key: Arc::default(),
            access_log: false,
            version: None,
            applied: SystemTime::UNIX_EPOCH,
        }
    }
}

/// A port that is listened on.
#[derive(Debug)]
pub struct Port {
    /// The port.
    pub number: u16,
    /// How its connections begin.
    pub greeting: ArcSwap<Greeting>,
}

impl Port {
    /// Whether handshakes for this name are still made like this.
    pub fn makes(&self, server_name: &str, config: &Arc<ServerConfig>) -> bool {
        let Greeting::Tls(tls) = &**self.greeting.load() else { return false };
        tls.find(server_name).and_then(|opening| opening.config()).is_some_and(|now| Arc::ptr_eq(now, config))
    }
}

/// How the connections of a port begin.
#[derive(Debug)]
pub enum Greeting {
    /// With HTTP.
    Http,
    /// With a ClientHello.
    Tls(Arc<PortTls>),
    /// With anything, or nothing.
    Tcp,
    /// Datagrams have none.
    None,
}

/// Where the data plane is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Phase {
    /// Nothing to serve yet.
    Starting = 0,
    /// Serving.
    Ready = 1,
    /// Serving, and asking clients to leave.
    Draining = 2,
}

/// Limits that hold for the whole data plane.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections that all workers together serve at once; more wait in the kernel's queue.
    pub connections: usize,
    /// Limits of client connections in time.
    pub timeouts: ConnectionTimeouts,
    /// From the first byte of a request's head to its last, on ports that serve Ingresses.
    pub ingress_header: Duration,
    /// Without a byte of a request's body (nginx `client_body_timeout`).
    pub body: Duration,
    /// Without a byte in either direction of a connection that carries no HTTP.
    pub tunnel: Duration,
    /// UDP sessions that a worker keeps at once.
    pub sessions_per_worker: usize,
    /// Without a datagram in either direction.
    pub udp_idle: Duration,
}

/// What all workers see.
#[derive(Debug)]
pub struct Shared {
    /// What is served.
    pub state: ArcSwap<State>,
    /// A [`Phase`].
    pub phase: AtomicU8,
    /// The address that ports are bound to.
    pub address: IpAddr,
    /// The limits.
    pub limits: Limits,
    /// Client connections of all workers.
    pub open: AtomicUsize,
}
