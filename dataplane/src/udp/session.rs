//! One client's datagrams.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, Type};
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::balance::{Endpoint, Outcome, Picked};
use crate::clock::{Coarse, TICK};
use crate::cluster::{Cluster, Selection};
use crate::reason::Reason;
use crate::route::{L4Route, RouteTable};
use crate::tick::Tick;

/// Whose datagrams: the port that they come to, and where they come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// The listener's port.
    pub port: u16,
    /// The client as the listener's socket tells it: on a socket for IPv4 and IPv6, IPv4 is mapped.
    pub client: SocketAddr,
}

/// A client's datagrams, from the first to the end of its silence.
#[derive(Debug)]
pub struct Session {
    /// Whose it is.
    pub key: Key,
    /// When it began.
    pub start: Instant,
    route: RefCell<Arc<L4Route>>,
    cluster: Arc<Cluster>,
    /// The cluster's endpoints when the session's was last looked for among them.
    seen: RefCell<Arc<[Arc<Endpoint>]>>,
    picked: Picked,
    /// Connected to the endpoint: the kernel hands over what comes from there and nothing else.
    socket: UdpSocket,
    client: SockAddr,
    moved: Cell<Coarse>,
    answered: Cell<bool>,
    /// When the last datagram was passed on before the first answer.
    asked: Cell<Instant>,
    /// What came from the client and was passed on.
    pub up: Traffic,
    /// What came from the endpoint and was passed on.
    pub down: Traffic,
    /// The task that passes answers on.
    task: RefCell<Option<AbortHandle>>,
}

/// What went in one direction.
#[derive(Debug, Default)]
pub struct Traffic {
    /// Datagrams.
    pub datagrams: Cell<u64>,
    /// Bytes of their contents.
    pub bytes: Cell<u64>,
}

/// Why a datagram did not go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// It is lost: there was no room, or it does not fit.
    Lost,
    /// The endpoint does not take datagrams, so the session is of no use.
    Endpoint,
}

impl Session {
    /// A session for the client that drew `draw`, with an endpoint of the route's backend for it.
    ///
    /// # Errors
    /// Why there is no endpoint for it.
    pub fn open(key: Key, route: &Arc<L4Route>, draw: u64) -> Result<Self, Reason> {
        let cluster = route.choose_for(draw)?.clone();
        let seen = cluster.endpoints();
        let headers = http::HeaderMap::new();
        let selection = Selection { headers: &headers, tried: &[], now: Tick::now(), session: None };
        let picked = cluster.pick(&selection).ok_or(Reason::NoEndpoints)?;
        let socket = connect(picked.endpoint().address()).map_err(|error| {
            tracing::debug!(endpoint = %picked.endpoint().address(), %error, "no socket for an endpoint");
            if !is_unreachable(&error) {
                return Reason::Overloaded;
            }
            cluster.report(picked.endpoint(), Outcome::Failed, Tick::now());
            Reason::ConnectFailed
        })?;
        Ok(Self {
            key,
            start: Instant::now(),
            route: RefCell::new(route.clone()),
            cluster,
            seen: RefCell::new(seen),
            picked,
            socket,
            client: key.client.into(),
            moved: Cell::new(Coarse::now()),
            answered: Cell::new(false),
            asked: Cell::new(Instant::now()),
            up: Traffic::default(),
            down: Traffic::default(),
            task: RefCell::default(),
        })
    }

    /// Whether a client that began now could be given the same endpoint: the route still leads to the cluster, and
    /// the cluster still has the endpoint.
    pub fn is_current(&self, table: &RouteTable) -> bool {
        let Ok(now) = table.datagrams(self.key.port) else { return false };
        if !Arc::ptr_eq(&self.route.borrow(), now) {
            if !now.leads_to(&self.cluster) {
                return false;
            }
            self.route.replace(now.clone());
        }
        if !self.cluster.has_endpoints(&self.seen.borrow()) {
            let endpoints = self.cluster.endpoints();
            if !endpoints.iter().any(|endpoint| Arc::ptr_eq(endpoint, self.picked.endpoint())) {
                return false;
            }
            self.seen.replace(endpoints);
        }
        true
    }

    /// Passes a client's datagram on.
    ///
    /// # Errors
    /// See [`Failure`].
    pub fn send(&self, datagram: &[u8]) -> Result<(), Failure> {
        if !self.answered.get() {
            self.asked.set(Instant::now());
        }
        // Not through tokio, which lets nobody send before it has heard that a new socket can be written to.
        SockRef::from(&self.socket).send(datagram).map_err(|error| self.failure(&error))?;
        self.up.add(datagram.len());
        self.moved.set(Coarse::now());
        Ok(())
    }

    /// Passes the endpoint's datagrams on to the client through `listener`. Returns when the endpoint refuses.
    pub async fn answer(&self, listener: &UdpSocket, buffer: &RefCell<Box<[u8]>>, lost: impl Fn()) {
        loop {
            // What ICMP says makes a socket neither readable nor writable.
            match self.socket.ready(Interest::READABLE | Interest::ERROR).await {
                Ok(ready) if ready.is_error() && self.is_refused() => return,
                Ok(_) => {}
                Err(_) => return,
            }
            let mut rest = super::AT_ONCE;
            while rest > 0 {
                rest -= 1;
                let mut buffer = buffer.borrow_mut();
                match self.socket.try_recv(&mut buffer) {
                    Ok(length) => {
                        self.answered();
                        match SockRef::from(listener).send_to(&buffer[..length], &self.client) {
                            Ok(_) => self.down.add(length),
                            Err(error) => {
                                tracing::debug!(client = %self.key.client, %error, "an answer is lost");
                                lost();
                            }
                        }
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) if self.failure(&error) == Failure::Endpoint => return,
                    Err(_) => {}
                }
            }
            if rest == 0 {
                tokio::task::yield_now().await;
            }
        }
    }

    /// Whether an error is waiting that ends the session.
    fn is_refused(&self) -> bool {
        let waiting = self.socket.try_io(Interest::ERROR, || {
            SockRef::from(&self.socket).take_error()?.ok_or_else(|| io::ErrorKind::WouldBlock.into())
        });
        waiting.is_ok_and(|error| self.failure(&error) == Failure::Endpoint)
    }

    /// Something came back: the endpoint lives.
    fn answered(&self) {
        self.moved.set(Coarse::now());
        if !self.answered.replace(true) {
            let outcome = Outcome::Answered(StatusCode::OK, self.asked.get().elapsed());
            self.cluster.report(self.picked.endpoint(), outcome, Tick::now());
        }
    }

    /// What an error means. An endpoint that refuses is noted against it.
    fn failure(&self, error: &io::Error) -> Failure {
        tracing::debug!(endpoint = %self.endpoint(), %error, "a datagram is lost");
        if !is_unreachable(error) {
            return Failure::Lost;
        }
        self.cluster.report(self.picked.endpoint(), Outcome::Failed, Tick::now());
        Failure::Endpoint
    }

    /// Whether nothing was passed on for so long, up to a tick longer: the present tick may have just begun.
    pub fn is_idle(&self, limit: Duration) -> bool {
        self.moved.get().older_than(limit + TICK)
    }

    /// The route's name.
    pub fn route(&self) -> Arc<str> {
        self.route.borrow().name.clone()
    }

    /// Where its datagrams go.
    pub fn endpoint(&self) -> SocketAddr {
        self.picked.endpoint().address()
    }

    /// Remembers the task of [`Session::answer`], which [`Session::stop`] ends.
    pub fn started(&self, task: AbortHandle) {
        self.task.replace(Some(task));
    }

    /// Ends the task that passes answers on, and with it what keeps the socket open.
    pub fn stop(&self) {
        if let Some(task) = self.task.take() {
            task.abort();
        }
    }
}

impl Traffic {
    fn add(&self, bytes: usize) {
        self.datagrams.set(self.datagrams.get() + 1);
        self.bytes.set(self.bytes.get() + bytes as u64);
    }
}

/// Whether the network, or the endpoint itself (ICMP), says that nobody takes datagrams there.
fn is_unreachable(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionRefused, HostUnreachable, NetworkUnreachable};
    matches!(error.kind(), ConnectionRefused | HostUnreachable | NetworkUnreachable)
}

fn connect(endpoint: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(endpoint), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    socket.connect(&endpoint.into())?;
    UdpSocket::from_std(socket.into())
}
