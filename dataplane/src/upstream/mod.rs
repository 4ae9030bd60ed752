//! Connections to backends: one pool per worker, so no request waits for another thread.

mod budget;
mod choose;
mod connect;
mod h1;
mod h2;
mod tls;
mod verify;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::sync::oneshot;
use tokio::time::Instant;

pub use budget::RetryBudget;
pub use choose::Choice;
pub use connect::{ConnectError, Connector};
pub use h1::fuzzing;
pub use h1::{Http1, SendError, Sent, Upgraded};
pub use h2::Http2;
pub use tls::ClientTls;

use crate::balance::{Connecting, Endpoint};
use crate::clock::Coarse;
use crate::metrics::WorkerStats;
use crate::reason::Reason;
use crate::tick::Tick;
use crate::transport::Transport;

/// Idle connections are closed after this, before backends (60 s and more, most of them) close them under a request.
const IDLE: Duration = Duration::from_secs(50);

/// Idle HTTP/1.1 connections kept per endpoint and worker.
const MAX_IDLE: usize = 128;

/// Connections of HTTP/1.1 to an endpoint per worker, and of HTTP/2, each of up to 100 requests. Those that left HTTP do not count.
const MAX_HTTP1: usize = 4096;
const MAX_HTTP2: usize = 64;

/// Requests per endpoint and worker that wait for a connection.
const MAX_PENDING: usize = 1024;

/// Frames of an answer that are read to keep its connection; a longer one costs more than a new connection.
const DISCARDED: usize = 8;

/// The connections of one worker.
pub struct Pool {
    stats: Arc<WorkerStats>,
    /// By address of the endpoint's handle and of its connector; each entry keeps both alive, so neither can be reused.
    entries: RefCell<ByAddress<(usize, usize), Rc<Entry>>>,
}

/// A map by addresses of our own objects.
pub type ByAddress<K, V> = HashMap<K, V, BuildHasherDefault<AddressHasher>>;

/// Hashes addresses of our own objects, which nobody chooses: no defence against collisions is needed.
#[derive(Default)]
pub struct AddressHasher(u64);

impl Hasher for AddressHasher {
    fn finish(&self) -> u64 {
        crate::random::mix(self.0)
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_usize(usize::from(*byte)));
    }

    fn write_usize(&mut self, address: usize) {
        self.0 = self.0.rotate_left(29) ^ address as u64;
    }
}

/// The connections of one worker to one endpoint.
pub struct Entry {
    endpoint: Arc<Endpoint>,
    connector: Arc<Connector>,
    #[expect(clippy::vec_box, reason = "a connection moves between here and requests; only its pointer is copied")]
    idle: RefCell<Vec<Box<Http1>>>,
    shared: h2::Shared,
    /// Connections of HTTP/1.1, idle ones too.
    open: Cell<usize>,
    /// Requests that wait for a connection.
    pending: Cell<usize>,
    used: Cell<Coarse>,
}

/// Counts a connection of HTTP/1.1 at its endpoint.
struct Home(Rc<Entry>);

/// Counts a request that waits for a connection.
struct Pending(Rc<Entry>);

/// A connection on which a request may be sent.
pub enum Connection {
    /// For this request alone until its response is complete.
    Http1(Box<Http1>),
    /// Shared with other requests.
    Http2(Http2),
}

/// Why a backend did not answer, or not completely.
#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    /// The connection failed.
    #[error("the connection failed: {0}")]
    Io(#[from] io::Error),
    /// The endpoint closed the connection too early.
    #[error("the connection was closed")]
    Closed,
    /// What the endpoint sent is not valid HTTP.
    #[error("not valid HTTP: {0}")]
    Malformed(&'static str),
    /// The body of the request broke off; its [`crate::body::Upload`] says why.
    #[error("the body of the request broke off")]
    Upload,
    /// The endpoint did nothing with the request and says so (RFC 9113, 8.7): any request may be sent again.
    #[error("the request was refused")]
    Refused,
    /// What hyper says of an HTTP/2 connection.
    #[error(transparent)]
    Http2(hyper::Error),
}

/// A response's body with its connection.
#[derive(Debug)]
pub enum BackendBody {
    /// The connection goes back to the pool when the body is complete.
    Http1(Box<Http1>),
    /// The request is still being sent; the connection is not used again.
    Early(Rc<RefCell<Http1>>, #[allow(dead_code, reason = "its end ends the upload")] oneshot::Sender<()>),
    /// The connection runs by itself; it counts a stream until this is dropped.
    Http2(Incoming, #[allow(dead_code, reason = "held until it is dropped")] Http2),
}

impl Pool {
    /// A pool without connections, of the worker that counts here.
    pub fn new(stats: Arc<WorkerStats>) -> Self {
        Self { stats, entries: RefCell::default() }
    }

    /// The connections to this endpoint.
    pub fn entry(&self, endpoint: &Arc<Endpoint>, connector: &Arc<Connector>) -> Rc<Entry> {
        let key = (Arc::as_ptr(endpoint).addr(), Arc::as_ptr(connector).addr());
        let mut entries = self.entries.borrow_mut();
        let entry = entries.entry(key).or_insert_with(|| {
            endpoint.pooled();
            Rc::new(Entry {
                endpoint: endpoint.clone(),
                connector: connector.clone(),
                idle: RefCell::default(),
                shared: h2::Shared::default(),
                open: Cell::new(0),
                pending: Cell::new(0),
                used: Cell::new(Coarse::now()),
            })
        });
        entry.used.set(Coarse::now());
        entry.clone()
    }

    /// Closes what is idle for too long or leads to endpoints that were removed, takes memory from what rests, and forgets
    /// endpoints that nobody uses. Called once per tick.
    pub fn sweep(&self) {
        self.entries.borrow_mut().retain(|_, entry| {
            let idle = if entry.endpoint.is_removed() { Duration::ZERO } else { IDLE };
            entry.idle.borrow_mut().retain_mut(|connection| {
                if connection.is_resting() {
                    connection.shrink();
                }
                !connection.idle_longer_than(idle) && connection.is_usable()
            });
            entry.shared.sweep(idle);
            let empty = entry.idle.borrow().is_empty() && entry.shared.is_empty();
            !(empty && Rc::strong_count(entry) == 1 && entry.used.get().older_than(idle))
        });
    }
}

impl Entry {
    /// Whether another endpoint is the better choice, because of how connecting to this one goes.
    pub fn is_doubtful(&self, now: Tick) -> bool {
        self.endpoint.reachability.is_doubtful(now)
    }

    /// A connection that is there.
    fn reuse(&self) -> Option<Connection> {
        if self.connector.speaks_http2() {
            return self.shared.open().map(Connection::Http2);
        }
        self.pop_idle().map(Connection::Http1)
    }

    /// A pooled connection, or a new one within `connect`.
    ///
    /// # Errors
    /// Says why no connection could be made; nothing has been sent to the endpoint then.
    pub async fn checkout(self: &Rc<Self>, connect: Option<Duration>) -> Result<Connection, ConnectError> {
        if self.connector.speaks_http2() {
            return self.shared.checkout(self, connect).await.map(Connection::Http2);
        }
        match self.pop_idle() {
            Some(connection) => Ok(Connection::Http1(connection)),
            None if self.open.get() >= MAX_HTTP1 => Err(ConnectError::Full),
            None => {
                let pooled = |home: Rc<Entry>, transport| home.clone().push_idle(Box::new(Http1::new(transport, home)));
                let transport = self.connect(connect.map(|limit| Instant::now() + limit), pooled).await?;
                Ok(Connection::Http1(Box::new(Http1::new(transport, self.clone()))))
            }
        }
    }

    /// A request begins to wait for a connection.
    fn wait(self: &Rc<Self>) -> Result<Pending, ConnectError> {
        if self.pending.get() >= MAX_PENDING {
            return Err(ConnectError::Full);
        }
        self.pending.set(self.pending.get() + 1);
        Ok(Pending(self.clone()))
    }

    /// A new connection by `deadline`, for whatever may be sent on it. It goes on when nobody waits for it any more, where
    /// others learn from it how the endpoint is; `unclaimed` gets the connection then.
    ///
    /// # Errors
    /// Says why no connection could be made.
    pub async fn connect(
        self: &Rc<Self>,
        deadline: Option<Instant>,
        unclaimed: fn(Rc<Entry>, Transport),
    ) -> Result<Transport, ConnectError> {
        let connecting = Connecting::begin(&self.endpoint, Tick::now());
        let (mut sender, receiver) = oneshot::channel();
        let home = self.clone();
        tokio::task::spawn_local(async move {
            let connected = tokio::select! {
                biased;
                connected = home.connector.connect(home.endpoint.address(), deadline) => connected,
                () = sender.closed(), if !connecting.is_probe() => return,
            };
            match &connected {
                Ok(_) => connecting.succeeded(),
                Err(_) => connecting.failed(Tick::now()),
            }
            if let Err(Ok(transport)) = sender.send(connected) {
                unclaimed(home, transport);
            }
        });
        // The task ends without a result only with its worker.
        receiver.await.unwrap_or(Err(ConnectError::FailedBefore))
    }

    fn pop_idle(&self) -> Option<Box<Http1>> {
        loop {
            let mut connection = self.idle.borrow_mut().pop()?;
            if connection.is_usable() {
                connection.reused = true;
                return Some(connection);
            }
        }
    }

    /// Closes the idle connections.
    pub fn forget_idle(&self) {
        self.idle.borrow_mut().clear();
    }

    fn push_idle(&self, connection: Box<Http1>) {
        let mut idle = self.idle.borrow_mut();
        if idle.len() < MAX_IDLE {
            idle.push(connection);
        }
    }
}

impl Home {
    fn new(entry: Rc<Entry>) -> Self {
        entry.open.set(entry.open.get() + 1);
        Self(entry)
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get().saturating_sub(1));
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.0.pending.set(self.0.pending.get().saturating_sub(1));
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.endpoint.unpooled();
    }
}

impl Connection {
    /// Whether the endpoint may have closed it while it was idle.
    pub fn is_reused(&self) -> bool {
        match self {
            Connection::Http1(connection) => connection.reused,
            Connection::Http2(connection) => connection.reused,
        }
    }
}

impl Sent {
    /// The answer's status.
    pub fn status(&self) -> http::StatusCode {
        match self {
            Sent::Answered(response, _) | Sent::Switched(response, _) => response.status(),
        }
    }

    /// Nobody wants the rest. The connection is kept where that has arrived already.
    pub fn discard(self) {
        let Sent::Answered(_, mut body) = self else { return };
        let mut cx = Context::from_waker(Waker::noop());
        for _ in 0..DISCARDED {
            if body.is_end_stream() {
                return body.finish();
            }
            if !matches!(body.poll_frame(&mut cx), Poll::Ready(Some(Ok(_)))) {
                return;
            }
        }
    }
}

impl BackendError {
    /// The reason to answer with.
    pub fn reason(&self) -> Reason {
        match self {
            BackendError::Malformed(_) => Reason::BadResponse,
            BackendError::Http2(error) if error.is_parse() => Reason::BadResponse,
            _ => Reason::UpstreamReset,
        }
    }
}

impl BackendBody {
    /// The next frame.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BackendError>>> {
        match self {
            BackendBody::Http1(connection) => connection.poll_frame(cx),
            BackendBody::Early(connection, _) => connection.borrow_mut().poll_frame(cx),
            BackendBody::Http2(incoming, _) => Pin::new(incoming).poll_frame(cx).map_err(BackendError::Http2),
        }
    }

    /// Whether it is complete.
    pub fn is_end_stream(&self) -> bool {
        match self {
            BackendBody::Http1(connection) => connection.is_end_stream(),
            BackendBody::Early(connection, _) => connection.borrow().is_end_stream(),
            BackendBody::Http2(incoming, _) => incoming.is_end_stream(),
        }
    }

    /// What is known of its size.
    pub fn size_hint(&self) -> SizeHint {
        match self {
            BackendBody::Http1(connection) => connection.size_hint(),
            BackendBody::Early(connection, _) => connection.borrow().size_hint(),
            BackendBody::Http2(incoming, _) => incoming.size_hint(),
        }
    }

    /// It is complete: the connection may carry another request.
    pub fn finish(self) {
        if let BackendBody::Http1(connection) = self {
            connection.release();
        }
    }
}
