//! One HTTP/1.1 connection to an endpoint.
//!
//! The task that serves the client also drives this connection: a request costs no hand-over between tasks. Only when the
//! backend answers before it has the whole request does the connection get a task of its own, because then both
//! directions must be able to move without each other.

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;

use super::{ConnectError, Entry, Lease};
use crate::body::RequestBody;
use crate::clock::Coarse;
use crate::transport::Transport;

/// Largest head of a response.
const MAX_HEAD: usize = 64 * 1024;
/// Most header lines of a response.
const MAX_HEADERS: usize = 200;

/// A connection, idle or carrying one request.
pub struct Http1 {
    sender: http1::SendRequest<RequestBody>,
    driver: http1::Connection<TokioIo<Transport>, RequestBody>,
    ended: bool,
    idle_since: Coarse,
    home: Rc<Entry>,
    /// Whether it has carried a request before: then the endpoint may have closed it at this very moment.
    pub reused: bool,
}

/// A connection that left HTTP behind.
#[derive(Debug)]
pub struct Upgraded {
    /// The stream.
    pub transport: Transport,
    /// What the backend sent right after its answer.
    pub first_bytes: Bytes,
}

/// What came of a request.
pub enum Sent {
    /// An answer.
    Answered(Response<Incoming>, Lease),
    /// An answer that leaves HTTP behind.
    Switched(Response<Incoming>, Upgraded),
}

/// Why there was no answer.
#[derive(Debug)]
pub struct SendError {
    /// What hyper says.
    pub error: hyper::Error,
    /// The request, when nothing of it was sent.
    pub unsent: Option<Request<RequestBody>>,
}

impl Http1 {
    pub(super) async fn handshake(transport: Transport, home: Rc<Entry>) -> Result<Self, ConnectError> {
        let (sender, driver) = http1::Builder::new()
            .max_headers(MAX_HEADERS)
            .max_buf_size(MAX_HEAD)
            .handshake(TokioIo::new(transport))
            .await
            .map_err(ConnectError::Http)?;
        Ok(Self { sender, driver, ended: false, idle_since: Coarse::now(), home, reused: false })
    }

    /// Sends a request and waits for the head of its answer. `limit` is polled while there is none, and ends the wait;
    /// the connection is closed then.
    ///
    /// # Errors
    /// The limit's value, or why the exchange failed.
    pub async fn send<L>(
        mut self: Box<Self>,
        request: Request<RequestBody>,
        mut limit: impl FnMut(&mut Context<'_>) -> Poll<L>,
        request_is_done: impl Fn() -> bool,
    ) -> Result<Result<Sent, SendError>, L> {
        let mut response = pin!(self.sender.try_send_request(request));
        let response = poll_fn(|cx| {
            self.drive(cx);
            match response.as_mut().poll(cx) {
                Poll::Ready(response) => Poll::Ready(Ok(response)),
                Poll::Pending => limit(cx).map(Err),
            }
        })
        .await?;
        let response = match response {
            Ok(response) => response,
            Err(mut error) => {
                let unsent = error.take_message();
                return Ok(Err(SendError { error: error.into_error(), unsent }));
            }
        };
        if response.status() == http::StatusCode::SWITCHING_PROTOCOLS {
            return Ok(Ok(self.switch(response).await));
        }
        if request_is_done() {
            return Ok(Ok(Sent::Answered(response, Lease::Http1(self))));
        }
        let Self { sender, driver, .. } = *self;
        tokio::task::spawn_local(async move {
            let _ = driver.without_shutdown().await;
            drop(sender);
        });
        Ok(Ok(Sent::Answered(response, Lease::Detached)))
    }

    async fn switch(mut self: Box<Self>, response: Response<Incoming>) -> Sent {
        poll_fn(|cx| {
            self.drive(cx);
            if self.ended { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        let parts = self.driver.into_parts();
        Sent::Switched(response, Upgraded { transport: parts.io.into_inner(), first_bytes: parts.read_buf })
    }

    /// Moves bytes in both directions.
    pub fn drive(&mut self, cx: &mut Context<'_>) {
        if !self.ended && self.driver.poll_without_shutdown(cx).is_ready() {
            self.ended = true;
        }
    }

    /// Whether a request may be sent: looks for the endpoint's goodbye first.
    pub(super) fn is_usable(&mut self) -> bool {
        self.drive(&mut Context::from_waker(Waker::noop()));
        !self.ended && self.sender.is_ready()
    }

    pub(super) fn idle_longer_than(&self, limit: Duration) -> bool {
        self.idle_since.older_than(limit)
    }

    /// Gives the connection back; it is dropped when it cannot carry another request.
    pub(super) fn release(mut self: Box<Self>) {
        if !self.sender.is_ready() {
            self.drive(&mut Context::from_waker(Waker::noop()));
        }
        if !self.ended && self.sender.is_ready() {
            self.idle_since = Coarse::now();
            let home = self.home.clone();
            home.push_idle(self);
        }
    }
}

impl fmt::Debug for Http1 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Http1").field("ended", &self.ended).field("reused", &self.reused).finish()
    }
}
