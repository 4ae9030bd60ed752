//! The record of one connection that carries no HTTP, from accept to its end.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::balance::Picked;
use crate::cluster::Cluster;
use crate::reason::Reason;
use crate::route::L4Route;
use crate::tunnel::Carried;
use crate::worker::Worker;

/// What is known of a connection so far. Dropping it ends it: counts it, logs it, and releases its endpoint.
pub struct Session {
    worker: Rc<Worker>,
    picked: Option<Picked>,
    start: Instant,
    record: Record,
}

/// The facts.
#[derive(Debug)]
pub struct Record {
    /// Who connected.
    pub peer: SocketAddr,
    /// To which port.
    pub port: u16,
    /// What is spoken.
    pub protocol: Protocol,
    /// The name that the client asked for; empty when it sent none, and without TLS.
    pub server_name: Box<str>,
    /// The route that it belongs to.
    pub route: Option<Arc<L4Route>>,
    /// The endpoint that was asked last.
    pub endpoint: Option<SocketAddr>,
    /// Bytes from the client to the backend.
    pub bytes_in: u64,
    /// Bytes from the backend to the client.
    pub bytes_out: u64,
    /// Why it was refused, or ended before both sides were done.
    pub reason: Option<Reason>,
}

/// What is spoken on a connection that carries no HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Bytes.
    Tcp,
    /// TLS of a name that no listener has.
    Tls,
    /// TLS that is not opened.
    TlsPassthrough,
    /// TLS that ends here.
    TlsTerminate,
}

impl Protocol {
    /// As the access log has it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Protocol::Tcp => "tcp",
            Protocol::Tls => "tls",
            Protocol::TlsPassthrough => "tls_passthrough",
            Protocol::TlsTerminate => "tls_terminate",
        }
    }
}

impl Session {
    /// A connection that was accepted a moment ago.
    pub fn begin(worker: Rc<Worker>, peer: SocketAddr, port: u16, protocol: Protocol, server_name: Box<str>) -> Self {
        let record = Record {
            peer,
            port,
            protocol,
            server_name,
            route: None,
            endpoint: None,
            bytes_in: 0,
            bytes_out: 0,
            reason: None,
        };
        Self { worker, picked: None, start: Instant::now(), record }
    }

    /// The worker that serves it.
    pub fn worker(&self) -> &Rc<Worker> {
        &self.worker
    }

    /// The port that accepted it.
    pub fn port(&self) -> u16 {
        self.record.port
    }

    /// Where it goes, by the routes of this moment.
    ///
    /// # Errors
    /// Why it goes nowhere.
    pub fn choose(&mut self) -> Result<Arc<Cluster>, Reason> {
        let state = self.worker.state();
        let route = state.table.connection(self.record.port, &self.record.server_name)?;
        self.record.route = Some(route.clone());
        route.choose().cloned()
    }

    /// An endpoint was asked in vain.
    pub(super) fn tried(&mut self, endpoint: SocketAddr) {
        self.record.endpoint = Some(endpoint);
    }

    /// It is connected to this endpoint, which counts it until the end.
    pub(super) fn reached(&mut self, picked: Picked) {
        self.record.endpoint = Some(picked.endpoint().address());
        self.picked = Some(picked);
    }

    /// It is closed.
    pub fn refuse(mut self, reason: Reason) {
        self.record.reason = Some(reason);
    }

    /// It has ended.
    pub(super) fn ended(mut self, carried: &Carried) {
        self.record.bytes_in = carried.up;
        self.record.bytes_out = carried.down;
        self.record.reason = carried.end;
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let took: Duration = self.start.elapsed();
        self.worker.connection_finished(&self.record, took);
    }
}
