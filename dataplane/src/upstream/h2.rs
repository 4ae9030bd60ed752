//! HTTP/2 connections to an endpoint, each shared by many requests.

use std::cell::{Cell, RefCell};
use std::error::Error;
use std::fmt;
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use http::{Request, Response};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::{Mutex, OwnedMutexGuard, oneshot};
use tokio::time::Instant;
use tokio_util::io::InspectReader;

use super::h1::{SendError, Sent};
use super::{BackendBody, BackendError, ConnectError, Entry, MAX_HTTP2};
use crate::balance::Connecting;
use crate::body::RequestBody;
use crate::clock::{Coarse, within};
use crate::local::LocalExec;
use crate::tick::Tick;

/// Streams on one connection before another is opened.
const MAX_STREAMS: usize = 100;
/// What hyper says of the endpoint's limit of streams before its SETTINGS have come: no limit that SETTINGS can set.
const NOT_TOLD: usize = usize::MAX - 1;
/// Flow-control windows: large enough for one stream to fill a data-centre link, small enough to bound memory.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// Requests that may be cancelled on a connection before another takes its place. Endpoints that defend themselves against rapid reset
/// (CVE-2023-44487) close a connection after some hundreds, and with it everybody's requests.
const MAX_CANCELLED: usize = 100;
/// Largest head of a response.
const MAX_HEAD: u32 = 64 * 1024;
/// A peer that does not answer a ping for so long is gone.
const PING_EVERY: Duration = Duration::from_secs(20);
const PING_WITHIN: Duration = Duration::from_secs(10);

/// The connections of one worker to one endpoint.
#[derive(Default)]
pub(super) struct Shared {
    connections: RefCell<Vec<Channel>>,
    /// Held until the endpoint of a new connection has told its limit, so that a burst of requests opens no connection each
    /// and sends no more than the endpoint takes.
    connecting: Arc<Mutex<()>>,
}

struct Channel {
    sender: http2::SendRequest<RequestBody>,
    streams: Rc<Cell<usize>>,
    cancelled: Rc<Cell<usize>>,
    /// The endpoint's limit when it is below ours: more would wait here instead of going to another connection. One until
    /// it is told.
    max_streams: Rc<Cell<usize>>,
    used: Cell<Coarse>,
}

/// The right to one stream.
pub struct Http2 {
    sender: http2::SendRequest<RequestBody>,
    streams: Rc<Cell<usize>>,
    cancelled: Rc<Cell<usize>>,
    /// Whether a request was sent that has no response yet.
    waits: bool,
    /// Whether the connection was there before.
    pub reused: bool,
}

impl Shared {
    /// A stream on a new connection, unless one becomes free meanwhile.
    pub(super) async fn checkout(&self, home: &Rc<Entry>, connect: Option<Duration>) -> Result<Http2, ConnectError> {
        let deadline = connect.map(|limit| Instant::now() + limit);
        let connecting = match self.connecting.clone().try_lock_owned() {
            Ok(held) => held,
            Err(_) => {
                let lock = self.connecting.clone().lock_owned();
                let held = within(deadline, lock).await.ok_or(ConnectError::TimedOut)?;
                if let Some(stream) = self.open() {
                    return Ok(stream);
                }
                // Each in turn would wait as long as the one before.
                if home.is_doubtful(Tick::now()) {
                    return Err(ConnectError::FailedBefore);
                }
                held
            }
        };
        // The connection is wanted by others too when its request is gone.
        let home = home.clone();
        let (sender, receiver) = oneshot::channel();
        tokio::task::spawn_local(async move {
            let opened = home.shared.establish(&home, connecting, deadline).await;
            let _ = sender.send(opened);
        });
        // The task ends without a result only with its worker.
        receiver.await.unwrap_or(Err(ConnectError::FailedBefore))
    }

    /// A stream on a new connection. Those who want one too wait for `lock`.
    async fn establish(
        &self,
        home: &Rc<Entry>,
        lock: OwnedMutexGuard<()>,
        deadline: Option<Instant>,
    ) -> Result<Http2, ConnectError> {
        let connecting = Connecting::begin(&home.endpoint, Tick::now());
        if self.connections.borrow().len() >= MAX_HTTP2 {
            return Err(ConnectError::Full);
        }
        let transport = match home.connector.connect(home.endpoint.address(), deadline).await {
            Ok(transport) => transport,
            Err(error) => {
                connecting.failed(Tick::now());
                return Err(error);
            }
        };
        let arrival = Rc::new(Arrival::default());
        let told = arrival.clone();
        let transport = InspectReader::new(transport, move |_: &[u8]| told.notify());
        let (sender, driver) = http2::Builder::new(LocalExec)
            .timer(TokioTimer::new())
            .initial_max_send_streams(NOT_TOLD)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(MAX_HEAD)
            .keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_WITHIN)
            .handshake(TokioIo::new(transport))
            .await
            .map_err(ConnectError::Http)?;
        let max_streams = Rc::new(Cell::new(1));
        let mut greeting = Greeting { arrival, max_streams: max_streams.clone(), held: Some((lock, connecting)) };
        tokio::task::spawn_local(async move {
            let mut driver = std::pin::pin!(driver);
            let ended = std::future::poll_fn(|cx| {
                let ended = driver.as_mut().poll(cx);
                greeting.learn(driver.current_max_send_streams(), cx.waker());
                ended
            });
            if let Err(error) = ended.await {
                tracing::debug!(%error, "an HTTP/2 connection to a backend ended");
            }
        });
        let channel = Channel {
            sender,
            streams: Rc::default(),
            cancelled: Rc::default(),
            max_streams,
            used: Cell::new(Coarse::now()),
        };
        let stream = channel.open(false);
        self.connections.borrow_mut().push(channel);
        Ok(stream)
    }

    /// A stream on a connection that is there.
    pub(super) fn open(&self) -> Option<Http2> {
        let mut connections = self.connections.borrow_mut();
        // What is under way on one that is left out finishes.
        connections.retain(|channel| !channel.sender.is_closed() && channel.cancelled.get() < MAX_CANCELLED);
        let free = |channel: &&Channel| channel.sender.is_ready() && channel.streams.get() < channel.max_streams.get();
        connections.iter().find(free).map(|channel| channel.open(true))
    }

    /// Closes what is idle for so long.
    pub(super) fn sweep(&self, idle: Duration) {
        self.connections.borrow_mut().retain(|channel| {
            let idle = channel.streams.get() == 0 && channel.used.get().older_than(idle);
            !idle && !channel.sender.is_closed()
        });
    }

    pub(super) fn is_empty(&self) -> bool {
        self.connections.borrow().is_empty()
    }
}

/// Learns what the endpoint's SETTINGS say, and lets the requests that wait for the first of them go on.
struct Greeting {
    arrival: Rc<Arrival>,
    max_streams: Rc<Cell<usize>>,
    held: Option<(OwnedMutexGuard<()>, Connecting)>,
}

impl Greeting {
    fn learn(&mut self, max_streams: usize, waker: &Waker) {
        if max_streams == NOT_TOLD {
            self.arrival.0.set(Some(waker.clone()));
            return;
        }
        self.max_streams.set(max_streams.min(MAX_STREAMS));
        if let Some((_, connecting)) = self.held.take() {
            connecting.succeeded();
        }
    }
}

impl Drop for Greeting {
    fn drop(&mut self) {
        // It ended before it said what every HTTP/2 connection begins with. Who waits need not find out as well.
        if let Some((_, connecting)) = self.held.take() {
            connecting.failed(Tick::now());
        }
    }
}

/// Wakes the driver when something comes: hyper reads SETTINGS in a task of its own, and tells nobody.
#[derive(Default)]
struct Arrival(Cell<Option<Waker>>);

impl Arrival {
    fn notify(&self) {
        if let Some(waker) = self.0.take() {
            waker.wake();
        }
    }
}

impl Channel {
    fn open(&self, reused: bool) -> Http2 {
        self.used.set(Coarse::now());
        self.streams.set(self.streams.get() + 1);
        let (sender, streams, cancelled) = (self.sender.clone(), self.streams.clone(), self.cancelled.clone());
        Http2 { sender, streams, cancelled, waits: false, reused }
    }
}

impl Http2 {
    /// See [`super::Http1::send`]. The request is taken, and given back when nothing of it was sent.
    pub async fn send<L>(
        mut self,
        request: &mut Request<RequestBody>,
        mut limit: impl FnMut(&mut Context<'_>) -> Poll<L>,
    ) -> Result<Result<Sent, SendError>, L> {
        let taken = std::mem::take(request);
        self.waits = true;
        let mut response = std::pin::pin!(self.sender.try_send_request(taken));
        let response = std::future::poll_fn(|cx| match response.as_mut().poll(cx) {
            Poll::Ready(response) => Poll::Ready(Ok(response)),
            Poll::Pending => limit(cx).map(Err),
        })
        .await?;
        self.waits = false;
        Ok(match response {
            Ok(response) => {
                let (head, incoming) = response.into_parts();
                Ok(Sent::Answered(Response::from_parts(head, ()), BackendBody::Http2(incoming, self)))
            }
            Err(mut error) => {
                let unsent = error.take_message().map(|unsent| *request = unsent).is_some();
                let error = error.into_error();
                let error = if is_refusal(&error) { BackendError::Refused } else { BackendError::Http2(error) };
                Err(SendError { error, unsent, silent: false })
            }
        })
    }
}

/// RFC 9113, 8.7: the endpoint says that it did nothing with the request. A GOAWAY without an error says so too of the requests
/// that it leaves out, and h2 ends no others with it.
fn is_refusal(error: &hyper::Error) -> bool {
    let Some(error) = error.source().and_then(|source| source.downcast_ref::<h2::Error>()) else { return false };
    let refused = error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM);
    let left_out = error.is_go_away() && error.reason() == Some(h2::Reason::NO_ERROR);
    error.is_remote() && (refused || left_out)
}

impl Drop for Http2 {
    fn drop(&mut self) {
        self.streams.set(self.streams.get().saturating_sub(1));
        if self.waits {
            self.cancelled.set(self.cancelled.get() + 1);
        }
    }
}

impl fmt::Debug for Http2 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Http2").field("streams", &self.streams.get()).finish()
    }
}
