//! Bodies in both directions: streamed frame by frame, counted and limited. What is kept of some is in [`crate::replay`].

use std::cell::Cell;
use std::error::Error;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::Instant;

use crate::clock::Alarm;
use crate::connection::Client;
use crate::exchange::Exchange;
use crate::hop_by_hop;
use crate::reason::Reason;
use crate::replay::{Copied, Recording, Replay};
use crate::upstream::{BackendBody, BackendError};
use crate::watch::{Outgoing, Unread};

/// Why a body ended before its end.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The client broke off or sent something invalid.
    #[error("the client's body broke off: {0}")]
    Client(hyper::Error),
    /// The backend broke off or sent something invalid.
    #[error("the backend's body broke off: {0}")]
    Backend(BackendError),
    /// The rule's limit.
    #[error("the body is larger than the rule allows")]
    TooLarge,
    /// A timeout of the rule.
    #[error("the backend took too long")]
    TooSlow,
    /// Another attempt sends this body now.
    #[error("the request is sent again")]
    SentAgain,
}

/// Who has to move for an upload to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UploadState {
    /// The client has to send.
    AwaitsClient,
    /// The backend has to take what is there.
    AwaitsBackend,
    /// Everything was passed on.
    Done,
    /// It is larger than the rule allows.
    TooLarge,
    /// The client broke off.
    ClientGone,
    /// What the client sent is not valid HTTP.
    Malformed,
}

/// The progress of a request's body, seen from outside of it.
#[derive(Debug)]
pub struct Upload {
    state: Cell<UploadState>,
    moved: Cell<Instant>,
    bytes: Cell<u64>,
}

impl Upload {
    /// An upload that is about to begin.
    pub fn new(now: Instant) -> Self {
        Self { state: Cell::new(UploadState::AwaitsBackend), moved: Cell::new(now), bytes: Cell::new(0) }
    }

    /// Who has to move.
    pub fn state(&self) -> UploadState {
        self.state.get()
    }

    /// When it last moved.
    pub fn moved(&self) -> Instant {
        self.moved.get()
    }

    /// Bytes so far.
    pub fn bytes(&self) -> u64 {
        self.bytes.get()
    }

    /// It moved, and this is who has to move next.
    pub(crate) fn moves(&self, state: UploadState) {
        self.state.set(state);
        self.moved.set(Instant::now());
    }
}

/// A request's body on its way to the backend.
#[derive(Debug, Default)]
pub enum RequestBody {
    /// None.
    #[default]
    Empty,
    /// From the client.
    Streamed(Incoming),
    /// From the client, or from what was kept of it.
    Kept(Replay),
    /// A copy of another request's.
    Copied(Copied),
}

/// A body that a client is sending.
#[derive(Debug)]
pub struct Incoming {
    body: hyper::body::Incoming,
    _unread: Unread,
    /// How many bytes may still come.
    left: u64,
    /// What others see of it.
    upload: Rc<Upload>,
}

impl Incoming {
    /// A body of at most `left` bytes.
    pub fn new(body: hyper::body::Incoming, unread: Unread, left: u64, upload: Rc<Upload>) -> Self {
        Self { body, _unread: unread, left, upload }
    }

    /// What others see of it.
    pub(crate) fn upload(&self) -> &Upload {
        &self.upload
    }
}

impl Body for Incoming {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Self { body, left, upload, .. } = self.get_mut();
        let frame = match Pin::new(&mut *body).poll_frame(cx) {
            Poll::Ready(frame) => frame,
            Poll::Pending => {
                if upload.state() != UploadState::AwaitsClient {
                    upload.moves(UploadState::AwaitsClient);
                }
                return Poll::Pending;
            }
        };
        match frame {
            Some(Ok(mut frame)) => {
                if let Some(trailers) = frame.trailers_mut() {
                    hop_by_hop::strip_trailers(trailers);
                }
                let length = frame.data_ref().map_or(0, |data| data.len() as u64);
                upload.bytes.set(upload.bytes() + length);
                let Some(rest) = left.checked_sub(length) else {
                    upload.moves(UploadState::TooLarge);
                    return Poll::Ready(Some(Err(BodyError::TooLarge)));
                };
                *left = rest;
                let done = is_complete(body);
                upload.moves(if done { UploadState::Done } else { UploadState::AwaitsBackend });
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Err(error)) => {
                upload.moves(if is_malformed(&error) { UploadState::Malformed } else { UploadState::ClientGone });
                Poll::Ready(Some(Err(BodyError::Client(error))))
            }
            None => {
                upload.moves(UploadState::Done);
                Poll::Ready(None)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl RequestBody {
    /// What is kept of it.
    pub fn recording(&self) -> Option<&Recording> {
        match self {
            RequestBody::Kept(body) => Some(body.recording()),
            _ => None,
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            RequestBody::Empty => Poll::Ready(None),
            RequestBody::Streamed(body) => Pin::new(body).poll_frame(cx),
            RequestBody::Kept(body) => Pin::new(body).poll_frame(cx),
            RequestBody::Copied(body) => Poll::Ready(body.next().map(Ok)),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            RequestBody::Empty => true,
            RequestBody::Streamed(body) => body.is_end_stream(),
            RequestBody::Kept(body) => body.is_end_stream(),
            RequestBody::Copied(body) => body.is_empty(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            RequestBody::Empty => SizeHint::with_exact(0),
            RequestBody::Streamed(body) => body.size_hint(),
            RequestBody::Kept(body) => body.size_hint(),
            RequestBody::Copied(body) => body.size_hint(),
        }
    }
}

/// Whether all data is there. In HTTP/2 the end may follow in a frame of its own, for which nobody waits who knows the length.
pub(crate) fn is_complete(body: &impl Body) -> bool {
    body.is_end_stream() || body.size_hint().exact() == Some(0)
}

/// Whether hyper could not read what came, rather than nothing coming any more.
fn is_malformed(error: &hyper::Error) -> bool {
    let cause = error.source().and_then(|cause| cause.downcast_ref::<io::Error>());
    cause.is_some_and(|cause| matches!(cause.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData))
}

/// A response's body on its way to the client. Dropping it ends the exchange.
#[derive(Debug)]
pub struct ResponseBody {
    source: Source,
    /// None once it belongs to a tunnel.
    exchange: Option<Exchange>,
}

#[derive(Debug)]
enum Source {
    Own(Bytes),
    Backend(Box<Download>),
    Failing(Box<Failing>),
    Done,
}

/// A response that has failed, until all that came of it has left: hyper drops what it has not written when a body fails, the
/// response's head too.
#[derive(Debug)]
struct Failing {
    error: BodyError,
    again: Alarm,
    until: Instant,
}

/// HTTP/2: how often it is asked whether everything has left, and for how long. Other responses may never pause.
const LEAVES_EVERY: Duration = Duration::from_millis(10);
const LEAVES_WITHIN: Duration = Duration::from_secs(1);

impl Failing {
    fn new(error: BodyError) -> Self {
        Self { error, again: Alarm::default(), until: Instant::now() + LEAVES_WITHIN }
    }

    /// Ready when nothing is left to be written.
    fn poll(&mut self, client: &Client, cx: &mut Context<'_>) -> Poll<()> {
        if !client.watch.has_unwritten() {
            return Poll::Ready(());
        }
        // The connection itself polls a body of HTTP/1.1 when it has written, and its own limit ends the wait.
        if !client.http2 {
            return Poll::Pending;
        }
        loop {
            let now = Instant::now();
            if now >= self.until || !client.watch.has_unwritten() {
                return Poll::Ready(());
            }
            self.again.set(Some(now + LEAVES_EVERY));
            ready!(self.again.poll(cx));
        }
    }
}

/// A backend's body, and how long it may take.
#[derive(Debug)]
pub struct Download {
    body: BackendBody,
    alarm: Alarm,
    read: Option<Duration>,
    until: Option<(Instant, Reason)>,
    waiting: bool,
}

impl Download {
    /// A body that must keep moving within `read`, and end by `until`.
    pub fn new(body: BackendBody, read: Option<Duration>, until: Option<(Instant, Reason)>) -> Self {
        Self { body, alarm: Alarm::default(), read, until, waiting: false }
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let polled = self.body.poll_frame(cx);
        if polled.is_ready() {
            self.waiting = false;
        }
        polled.map_err(BodyError::Backend)
    }

    fn poll_timeout(&mut self, cx: &mut Context<'_>) -> Poll<Reason> {
        if self.read.is_none() && self.until.is_none() {
            return Poll::Pending;
        }
        if !self.waiting {
            self.waiting = true;
            let read = self.read.map(|read| Instant::now() + read);
            self.alarm.set(earliest(read, self.until.map(|(at, _)| at)));
        }
        ready!(self.alarm.poll(cx));
        Poll::Ready(match self.until {
            Some((at, reason)) if at <= Instant::now() => reason,
            _ => Reason::ReadTimeout,
        })
    }
}

fn earliest(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

impl ResponseBody {
    /// A body of our own.
    pub fn own(bytes: Bytes, exchange: Exchange) -> Self {
        let source = if bytes.is_empty() { Source::Done } else { Source::Own(bytes) };
        Self::new(source, exchange)
    }

    /// No body, of an answer that a tunnel follows.
    pub fn none() -> Self {
        Self { source: Source::Done, exchange: None }
    }

    /// A backend's body.
    pub fn backend(download: Download, exchange: Exchange) -> Self {
        if download.body.is_end_stream() {
            download.body.finish();
            return Self::new(Source::Done, exchange);
        }
        Self::new(Source::Backend(Box::new(download)), exchange)
    }

    fn new(source: Source, exchange: Exchange) -> Self {
        Self { source, exchange: Some(exchange) }
    }

    /// Data leaves: counts it, and has the client's connection see when it is taken.
    fn sent(&mut self, data: Bytes) -> Outgoing {
        let Some(exchange) = &mut self.exchange else { return data.into() };
        exchange.sent(data.len() as u64);
        exchange.client.watch.until_taken(data)
    }

    /// The body ends with this error, once what came before it has left.
    fn fails(&mut self, reason: Reason, error: BodyError, cx: &Context<'_>) {
        self.failed(reason);
        self.source = Source::Failing(Box::new(Failing::new(error)));
        cx.waker().wake_by_ref();
    }

    fn failed(&mut self, reason: Reason) {
        self.source = Source::Done;
        if let Some(exchange) = &mut self.exchange {
            exchange.failed(reason);
        }
    }

    fn finish(&mut self) {
        if let Source::Backend(download) = std::mem::replace(&mut self.source, Source::Done) {
            download.body.finish();
        }
    }
}

impl Body for ResponseBody {
    type Data = Outgoing;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Outgoing>, BodyError>>> {
        let this = self.get_mut();
        let download = match &mut this.source {
            Source::Backend(download) => download,
            Source::Own(bytes) => {
                let bytes = std::mem::take(bytes);
                this.source = Source::Done;
                return Poll::Ready(Some(Ok(Frame::data(this.sent(bytes)))));
            }
            Source::Failing(failing) => {
                if let Some(exchange) = &this.exchange {
                    ready!(failing.poll(&exchange.client, cx));
                }
                let Source::Failing(failing) = std::mem::replace(&mut this.source, Source::Done) else {
                    return Poll::Ready(None);
                };
                return Poll::Ready(Some(Err(failing.error)));
            }
            Source::Done => return Poll::Ready(None),
        };
        // An answer that never pauses would see no alarm.
        if let Some((until, reason)) = download.until
            && until <= Instant::now()
        {
            this.fails(reason, BodyError::TooSlow, cx);
            return Poll::Pending;
        }
        let Poll::Ready(frame) = download.poll_frame(cx) else {
            let reason = ready!(download.poll_timeout(cx));
            this.fails(reason, BodyError::TooSlow, cx);
            return Poll::Pending;
        };
        match frame {
            Some(Ok(mut frame)) => {
                if let Some(trailers) = frame.trailers_mut() {
                    hop_by_hop::strip_trailers(trailers);
                }
                let complete = download.body.is_end_stream() || frame.is_trailers();
                let frame = frame.map_data(|data| this.sent(data));
                if complete {
                    this.finish();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Err(error)) => {
                this.fails(Reason::UpstreamReset, error, cx);
                Poll::Pending
            }
            None => {
                this.finish();
                Poll::Ready(None)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.source, Source::Done)
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Own(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Source::Backend(download) => download.body.size_hint(),
            // It has no end that could be told.
            Source::Failing(_) => SizeHint::default(),
            Source::Done => SizeHint::with_exact(0),
        }
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        if !matches!(self.source, Source::Done) {
            self.failed(Reason::ClientGone);
        }
    }
}
