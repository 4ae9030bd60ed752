//! HTTP/2 connections to an endpoint, each shared by many requests.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::Future;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Request, Response};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::time::Instant;

use super::h1::{SendError, Sent};
use super::{BackendBody, BackendError, ConnectError, Entry, IDLE};
use crate::body::RequestBody;
use crate::clock::{Coarse, within};
use crate::local::LocalExec;

/// Streams on one connection before another is opened.
const MAX_STREAMS: usize = 100;
/// Flow-control windows: large enough for one stream to fill a data-centre link, small enough to bound memory.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// Largest head of a response.
const MAX_HEAD: u32 = 64 * 1024;
/// A peer that does not answer a ping for so long is gone.
const PING_EVERY: Duration = Duration::from_secs(20);
const PING_WITHIN: Duration = Duration::from_secs(10);

/// The connections of one worker to one endpoint.
#[derive(Default)]
pub(super) struct Shared {
    connections: RefCell<Vec<Channel>>,
    /// Held while connecting, so that a burst of requests opens one connection and not one each.
    connecting: tokio::sync::Mutex<()>,
}

struct Channel {
    sender: http2::SendRequest<RequestBody>,
    streams: Rc<Cell<usize>>,
    /// The endpoint's limit when it is below ours: more would wait here instead of going to another connection.
    max_streams: Rc<Cell<usize>>,
    used: Cell<Coarse>,
}

/// The right to one stream.
pub struct Http2 {
    sender: http2::SendRequest<RequestBody>,
    streams: Rc<Cell<usize>>,
    /// Whether the connection was there before.
    pub reused: bool,
}

impl Shared {
    pub(super) async fn checkout(&self, home: &Rc<Entry>, connect: Option<Duration>) -> Result<Http2, ConnectError> {
        if let Some(stream) = self.open() {
            return Ok(stream);
        }
        let deadline = connect.map(|limit| Instant::now() + limit);
        let _connecting = match self.connecting.try_lock() {
            Ok(held) => held,
            Err(_) => {
                let held = within(deadline, self.connecting.lock()).await.ok_or(ConnectError::TimedOut)?;
                if let Some(stream) = self.open() {
                    return Ok(stream);
                }
                // Each in turn would wait as long as the one before.
                if home.is_cooling_down() {
                    return Err(ConnectError::FailedBefore);
                }
                held
            }
        };
        let transport = home.connect(deadline).await?;
        let (sender, driver) = http2::Builder::new(LocalExec)
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(MAX_HEAD)
            .keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_WITHIN)
            .handshake(TokioIo::new(transport))
            .await
            .map_err(ConnectError::Http)?;
        let max_streams = Rc::new(Cell::new(MAX_STREAMS));
        let told = max_streams.clone();
        tokio::task::spawn_local(async move {
            let mut driver = std::pin::pin!(driver);
            let ended = std::future::poll_fn(|cx| {
                let ended = driver.as_mut().poll(cx);
                told.set(driver.current_max_send_streams().min(MAX_STREAMS));
                ended
            });
            if let Err(error) = ended.await {
                tracing::debug!(%error, "an HTTP/2 connection to a backend ended");
            }
        });
        let channel = Channel { sender, streams: Rc::default(), max_streams, used: Cell::new(Coarse::now()) };
        let stream = channel.open(false);
        self.connections.borrow_mut().push(channel);
        Ok(stream)
    }

    fn open(&self) -> Option<Http2> {
        let mut connections = self.connections.borrow_mut();
        connections.retain(|channel| !channel.sender.is_closed());
        let free = |channel: &&Channel| channel.sender.is_ready() && channel.streams.get() < channel.max_streams.get();
        connections.iter().find(free).map(|channel| channel.open(true))
    }

    pub(super) fn sweep(&self) {
        self.connections.borrow_mut().retain(|channel| {
            let idle = channel.streams.get() == 0 && channel.used.get().older_than(IDLE);
            !idle && !channel.sender.is_closed()
        });
    }

    pub(super) fn is_empty(&self) -> bool {
        self.connections.borrow().is_empty()
    }
}

impl Channel {
    fn open(&self, reused: bool) -> Http2 {
        self.used.set(Coarse::now());
        self.streams.set(self.streams.get() + 1);
        Http2 { sender: self.sender.clone(), streams: self.streams.clone(), reused }
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
        let mut response = std::pin::pin!(self.sender.try_send_request(taken));
        let response = std::future::poll_fn(|cx| match response.as_mut().poll(cx) {
            Poll::Ready(response) => Poll::Ready(Ok(response)),
            Poll::Pending => limit(cx).map(Err),
        })
        .await?;
        Ok(match response {
            Ok(response) => {
                let (head, incoming) = response.into_parts();
                Ok(Sent::Answered(Response::from_parts(head, ()), BackendBody::Http2(incoming, self)))
            }
            Err(mut error) => {
                let unsent = error.take_message().map(|unsent| *request = unsent).is_some();
                Err(SendError { error: BackendError::Http2(error.into_error()), unsent })
            }
        })
    }
}

impl Drop for Http2 {
    fn drop(&mut self) {
        self.streams.set(self.streams.get().saturating_sub(1));
    }
}

impl fmt::Debug for Http2 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Http2").field("streams", &self.streams.get()).finish()
    }
}
