//! One HTTP/1.1 connection to an endpoint.
//!
//! The task that serves the client also drives this connection: a request costs no hand-over between tasks, and no
//! channel. Only when the backend answers before it has the whole request does the rest of the request get a task of
//! its own, because then both directions must be able to move without each other.

mod framing;
pub mod fuzzing;
mod head;
mod invalid;
mod progress;

use std::cell::RefCell;
use std::fmt;
use std::future::{Future, poll_fn};
use std::io::{self, IoSlice, Write as _};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use tokio::io::{AsyncReadExt, AsyncWrite};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::{BackendBody, BackendError, Entry, Home};
use crate::body::RequestBody;
use crate::clock::{Alarm, Coarse};
use crate::transport::Transport;
use framing::Framing;
use head::{Encoding, Head};
use progress::Progress;

/// Read at once: at first, and of a backend that fills it.
const READ: usize = 8 * 1024;
const READ_MOST: usize = 64 * 1024;
/// Of a request's body no more is taken from the client before this has left.
const WRITE: usize = 16 * 1024;
/// A frame of a request's body as large as this is written from where it lies, smaller ones are gathered.
const LARGE: usize = 8 * 1024;
/// Memory that a connection keeps for its next request, until a tick passes without one.
const IDLE_BUFFER: usize = 16 * 1024;
const IDLE_HEADERS: usize = 64;
/// A backend that has responded and then takes nothing of the request for so long gets no more of it.
const LATE_UPLOAD: Duration = Duration::from_secs(60);

/// A connection, idle or carrying one request.
pub struct Http1 {
    transport: Transport,
    /// What arrived and was not taken yet.
    input: BytesMut,
    read: usize,
    /// How far the head of a response has come.
    progress: Progress,
    /// What is to be written, and how much of it was.
    output: Vec<u8>,
    written: usize,
    /// Bytes of all requests that were written.
    sent: u64,
    /// A large frame of the request's body, which follows `output`.
    large: Bytes,
    /// What is to come of the request's body.
    encoding: Encoding,
    /// What is to come of the response's body.
    framing: Framing,
    keep_alive: bool,
    /// An empty map for the headers of the next answer: that of the request before, which has grown already.
    spare: HeaderMap,
    idle_since: Coarse,
    home: Home,
    /// Whether anything came since the request began to leave.
    heard: bool,
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
    Answered(Response<()>, BackendBody),
    /// An answer that leaves HTTP behind.
    Switched(Response<()>, Upgraded),
}

/// Why there was no answer.
#[derive(Debug)]
pub struct SendError {
    /// What went wrong.
    pub error: BackendError,
    /// Whether nothing of the request was sent, so that it may be sent elsewhere.
    pub unsent: bool,
    /// Whether the endpoint ended the connection without a byte of an answer, as it does with one that was idle.
    pub silent: bool,
}

impl Http1 {
    pub(super) fn new(transport: Transport, home: Rc<Entry>) -> Self {
        Self {
            transport,
            input: BytesMut::new(),
            read: READ,
            progress: Progress::default(),
            output: Vec::new(),
            written: 0,
            sent: 0,
            large: Bytes::new(),
            encoding: Encoding::Done,
            framing: Framing::Done,
            keep_alive: false,
            spare: HeaderMap::new(),
            idle_since: Coarse::now(),
            heard: false,
            home: Home::new(home),
            reused: false,
        }
    }

    /// Sends a request and waits for the head of its answer. `limit` is polled while there is none, and ends the wait;
    /// the connection is closed then. Where the answer comes before the request's end, `limit` also ends what is left of
    /// the request. A request without a body stays whole, so that it can be sent again.
    ///
    /// # Errors
    /// The limit's value, or why the exchange failed.
    pub async fn send<L: 'static>(
        mut self: Box<Self>,
        request: &mut Request<RequestBody>,
        mut limit: impl FnMut(&mut Context<'_>) -> Poll<L> + 'static,
    ) -> Result<Result<Sent, SendError>, L> {
        self.heard = false;
        self.encoding = head::write(request, &mut self.output);
        let method = request.method().clone();
        let mut upload = Upload { done: false, touched: false, error: None };
        let answered = poll_fn(|cx| {
            if !upload.done {
                match self.poll_upload(request.body_mut(), &mut upload.touched, cx) {
                    Poll::Ready(result) => {
                        upload.done = true;
                        upload.error = result.err();
                    }
                    Poll::Pending => {}
                }
            }
            if matches!(upload.error, Some(BackendError::Upload)) {
                return Poll::Ready(Ok(Err(BackendError::Upload)));
            }
            match self.poll_head(&method, cx) {
                Poll::Ready(Ok(response)) => Poll::Ready(Ok(Ok(response))),
                // A backend that takes no more may have answered why; if not, the first error says most.
                Poll::Ready(Err(error)) => Poll::Ready(Ok(Err(upload.error.take().unwrap_or(error)))),
                Poll::Pending => limit(cx).map(Err),
            }
        })
        .await?;
        let response = match answered {
            Ok(response) => response,
            Err(error) => {
                let silent = !self.heard && matches!(error, BackendError::Closed | BackendError::Io(_));
                return Ok(Err(SendError { error, unsent: !upload.touched, silent }));
            }
        };
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            // The new protocol begins after the request (RFC 9110, 7.8); what is left of it would pass for the new protocol.
            if !upload.done {
                let error = BackendError::Malformed("it switches protocols before the request is complete");
                return Ok(Err(SendError { error, unsent: false, silent: false }));
            }
            let upgraded = Upgraded { transport: self.transport, first_bytes: self.input.freeze() };
            return Ok(Ok(Sent::Switched(response, upgraded)));
        }
        self.spare = std::mem::take(request.headers_mut());
        self.spare.clear();
        self.keep_alive &= upload.done && upload.error.is_none();
        if upload.done {
            return Ok(Ok(Sent::Answered(response, BackendBody::Http1(self))));
        }
        let shared = Rc::new(RefCell::new(*self));
        let uploading = shared.clone();
        let mut body = std::mem::take(request.body_mut());
        let (wanted, unwanted) = oneshot::channel();
        let mut stalls = Alarm::default();
        let mut waiting = None;
        let upload = poll_fn(move |cx| {
            let mut connection = uploading.borrow_mut();
            let done = connection.poll_upload(&mut body, &mut true, cx);
            // A backend that responds and takes no more must not hold the client's body for good.
            if done.is_ready() || limit(cx).is_ready() {
                return Poll::Ready(());
            }
            let stalled = connection.is_writing().then_some(connection.sent);
            if std::mem::replace(&mut waiting, stalled) != stalled {
                stalls.set(stalled.map(|_| Instant::now() + LATE_UPLOAD));
            }
            stalls.poll(cx)
        });
        tokio::task::spawn_local(async move {
            tokio::select! {
                () = upload => {}
                // The response is complete, or nobody wants the rest of it.
                _ = unwanted => {}
            }
        });
        Ok(Ok(Sent::Answered(response, BackendBody::Early(shared, wanted))))
    }

    /// The next frame of the response's body.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BackendError>>> {
        loop {
            match self.framing.decode(&mut self.input) {
                Ok(Some(frame)) => return Poll::Ready(Some(Ok(frame))),
                Ok(None) if self.framing == Framing::Done => return Poll::Ready(None),
                Ok(None) => {}
                Err(error) => return Poll::Ready(Some(Err(error))),
            }
            match ready!(self.poll_read(cx)) {
                Ok(0) if self.framing == Framing::UntilClose => self.framing = Framing::Done,
                Ok(0) => return Poll::Ready(Some(Err(BackendError::Closed))),
                Ok(_) => {}
                Err(error) => return Poll::Ready(Some(Err(error.into()))),
            }
        }
    }

    /// Whether the response's body is complete.
    pub fn is_end_stream(&self) -> bool {
        self.framing == Framing::Done
    }

    /// What is known of the size of the response's body.
    pub fn size_hint(&self) -> SizeHint {
        self.framing.size_hint()
    }

    /// Whether a request may be sent: looks for the endpoint's goodbye first.
    pub(super) fn is_usable(&mut self) -> bool {
        // What an endpoint says without being asked would pass for the answer to the next request.
        self.input.is_empty() && self.transport.is_quiet()
    }

    /// Gives back the memory that only a request needs.
    pub(super) fn shrink(&mut self) {
        self.input = BytesMut::new();
        self.read = READ;
        self.output = Vec::new();
        self.spare = HeaderMap::new();
    }

    /// Whether a tick has passed since the last request.
    pub(super) fn is_resting(&self) -> bool {
        self.idle_since != Coarse::now()
    }

    pub(super) fn idle_longer_than(&self, limit: Duration) -> bool {
        self.idle_since.older_than(limit)
    }

    /// Gives the connection back; it is dropped when it cannot carry another request.
    pub(super) fn release(mut self: Box<Self>) {
        if !self.keep_alive || self.framing != Framing::Done || !self.input.is_empty() {
            return;
        }
        if self.input.capacity() > IDLE_BUFFER {
            self.input = BytesMut::new();
            self.read = READ;
        }
        if self.output.capacity() > IDLE_BUFFER {
            self.output = Vec::new();
        }
        if self.spare.capacity() > IDLE_HEADERS {
            self.spare = HeaderMap::new();
        }
        self.idle_since = Coarse::now();
        let home = self.home.0.clone();
        home.push_idle(self);
    }

    /// Waits for the head of the final answer; interim ones (1xx) are for this hop.
    fn poll_head(&mut self, method: &Method, cx: &mut Context<'_>) -> Poll<Result<Response<()>, BackendError>> {
        loop {
            let parse = !self.input.is_empty() && self.progress.admits(&self.input);
            let head = if parse { head::parse(&mut self.input, method, &mut self.spare)? } else { None };
            match head {
                Some(Head { response, framing, keep_alive }) => {
                    let status = response.status();
                    self.progress = Progress::default();
                    if !status.is_informational() || status == StatusCode::SWITCHING_PROTOCOLS {
                        self.framing = framing;
                        self.keep_alive = keep_alive;
                        return Poll::Ready(Ok(response));
                    }
                }
                None => {
                    if !self.input.is_empty() {
                        self.progress.incomplete(&self.input);
                    }
                    if ready!(self.poll_read(cx))? == 0 {
                        return Poll::Ready(Err(BackendError::Closed));
                    }
                }
            }
        }
    }

    /// Ready when the whole request was written. `touched` becomes true once that cannot be undone.
    fn poll_upload(
        &mut self,
        body: &mut RequestBody,
        touched: &mut bool,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), BackendError>> {
        loop {
            let mut awaits_client = false;
            while self.encoding != Encoding::Done
                && self.output.len() < WRITE
                && self.large.is_empty()
                && !awaits_client
            {
                match Pin::new(&mut *body).poll_frame(cx) {
                    Poll::Ready(frame) => {
                        *touched = true;
                        let frame = frame.transpose().map_err(|_| BackendError::Upload)?;
                        self.large = self.encoding.write(frame, &mut self.output)?;
                    }
                    Poll::Pending => awaits_client = true,
                }
            }
            let within_chunk = self.encoding == Encoding::Chunked && !self.large.is_empty();
            while self.is_writing() {
                let written = ready!(self.poll_write(cx))?;
                if written == 0 {
                    return Poll::Ready(Err(io::Error::from(io::ErrorKind::WriteZero).into()));
                }
                *touched = true;
                self.sent += written as u64;
                let of_output = written.min(self.output.len() - self.written);
                self.written += of_output;
                self.large.advance(written - of_output);
            }
            self.output.clear();
            self.written = 0;
            if within_chunk {
                self.output.extend_from_slice(b"\r\n");
            }
            if awaits_client || self.encoding == Encoding::Done {
                ready!(Pin::new(&mut self.transport).poll_flush(cx))?;
                return if awaits_client { Poll::Pending } else { Poll::Ready(Ok(())) };
            }
        }
    }

    /// Whether there is something that the backend has not taken.
    fn is_writing(&self) -> bool {
        self.written < self.output.len() || !self.large.is_empty()
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let output = &self.output[self.written..];
        let transport = Pin::new(&mut self.transport);
        if self.large.is_empty() {
            return transport.poll_write(cx, output);
        }
        transport.poll_write_vectored(cx, &[IoSlice::new(output), IoSlice::new(&self.large)])
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.input.capacity() - self.input.len() < self.read / 4 {
            self.input.reserve(self.read);
        }
        let space = self.input.capacity() - self.input.len();
        let read = ready!(pin!(self.transport.read_buf(&mut self.input)).poll(cx))?;
        self.heard |= read > 0;
        if read == space {
            self.read = (self.read * 2).min(READ_MOST);
        }
        Poll::Ready(Ok(read))
    }
}

/// How far the request has got.
struct Upload {
    done: bool,
    touched: bool,
    error: Option<BackendError>,
}

impl Encoding {
    /// Writes a frame of the request's body, or its end. Returns the data where it is large: the caller writes it after `out`, and
    /// the end of its line after it where it is a chunk.
    fn write(&mut self, frame: Option<Frame<Bytes>>, out: &mut Vec<u8>) -> Result<Bytes, BackendError> {
        let data = match frame.map(Frame::into_data) {
            Some(Ok(data)) if data.is_empty() => return Ok(data),
            Some(Ok(data)) => data,
            Some(Err(frame)) => return self.end(frame.into_trailers().ok(), out).map(|()| Bytes::new()),
            None => return self.end(None, out).map(|()| Bytes::new()),
        };
        let large = data.len() >= LARGE;
        match self {
            Encoding::Done => return Err(BackendError::Upload),
            Encoding::Length(left) => {
                *left = left.checked_sub(data.len() as u64).ok_or(BackendError::Upload)?;
                if *left == 0 {
                    *self = Encoding::Done;
                }
            }
            // Writing to a vector does not fail.
            Encoding::Chunked => _ = write!(out, "{:x}\r\n", data.len()),
        }
        if large {
            return Ok(data);
        }
        out.extend_from_slice(&data);
        if *self == Encoding::Chunked {
            out.extend_from_slice(b"\r\n");
        }
        Ok(Bytes::new())
    }

    fn end(&mut self, trailers: Option<HeaderMap>, out: &mut Vec<u8>) -> Result<(), BackendError> {
        match std::mem::replace(self, Encoding::Done) {
            // The backend still waits for the rest.
            Encoding::Length(left) if left > 0 => return Err(BackendError::Upload),
            Encoding::Length(_) | Encoding::Done => {}
            Encoding::Chunked => {
                out.extend_from_slice(b"0\r\n");
                for (name, value) in trailers.iter().flatten() {
                    head::write_header(name, value, out);
                }
                out.extend_from_slice(b"\r\n");
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Http1 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Http1").field("framing", &self.framing).field("reused", &self.reused).finish()
    }
}
