//! Bodies of requests that are kept while they pass, up to a bound, so that they can be sent again or elsewhere as well.
//!
//! Nothing waits for a body to be complete: the first attempt streams it as any other.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use tokio::sync::oneshot;

use crate::body::{BodyError, Incoming, UploadState, is_complete};

/// Most that is kept of one body, in bytes. A larger one is sent once.
pub const MOST: usize = 64 * 1024;

/// A body and what was kept of it.
#[derive(Debug, Clone)]
pub struct Recording(Rc<RefCell<Tape>>);

#[derive(Debug)]
struct Tape {
    incoming: Incoming,
    /// What the client announced.
    length: Option<u64>,
    /// In one piece: small frames of a client would cost more memory than they hold.
    kept: Vec<u8>,
    trailers: Option<HeaderMap>,
    state: State,
    /// The attempt that may read; those before it must not take what this one needs.
    attempt: u32,
    /// Of the attempt that waits for the client.
    waiting: Option<Waker>,
    copies: Vec<oneshot::Sender<Copied>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// All that came so far is kept.
    Kept,
    /// All of the body is kept.
    Complete,
    /// There is more than is kept, or it broke off.
    Lost,
}

/// One attempt's view of a [`Recording`]: what was kept, then what comes.
#[derive(Debug)]
pub struct Replay {
    recording: Recording,
    attempt: u32,
    /// How much of what is kept was read.
    position: usize,
    /// Bytes read.
    delivered: u64,
    trailers_sent: bool,
}

/// A complete body of another request.
#[derive(Clone, Debug)]
pub struct Copied {
    data: Bytes,
    trailers: Option<HeaderMap>,
}

impl Recording {
    /// Keeps what is read of `incoming`.
    pub fn new(incoming: Incoming) -> Self {
        let length = incoming.size_hint().exact();
        let (kept, trailers, copies) = (Vec::new(), None, Vec::new());
        // What is certainly too large is not kept at all.
        let state = if incoming.size_hint().lower() > MOST as u64 { State::Lost } else { State::Kept };
        Self(Rc::new(RefCell::new(Tape { incoming, length, kept, trailers, state, attempt: 0, waiting: None, copies })))
    }

    /// Whether it can be read from its beginning.
    pub fn is_replayable(&self) -> bool {
        self.0.borrow().state != State::Lost
    }

    /// The body from its beginning. Whoever read it before gets an error from now on.
    pub fn replay(&self) -> Replay {
        let mut tape = self.0.borrow_mut();
        tape.attempt += 1;
        // Nothing of the client's will ever wake it again.
        if let Some(waiting) = tape.waiting.take() {
            waiting.wake();
        }
        tape.incoming.upload().moves(UploadState::AwaitsBackend);
        let attempt = tape.attempt;
        Replay { recording: self.clone(), attempt, position: 0, delivered: 0, trailers_sent: false }
    }

    /// All of the body, if it is kept.
    pub fn whole(&self) -> Option<Copied> {
        let tape = self.0.borrow();
        (tape.state == State::Complete).then(|| tape.copied())
    }

    /// A copy as soon as all of the body is kept. Ends without one when that never happens.
    pub fn copy(&self) -> oneshot::Receiver<Copied> {
        let (sender, receiver) = oneshot::channel();
        let mut tape = self.0.borrow_mut();
        match tape.state {
            State::Kept => tape.copies.push(sender),
            State::Complete => _ = sender.send(tape.copied()),
            State::Lost => {}
        }
        receiver
    }
}

impl Tape {
    /// Takes the next frame from the client, and keeps it.
    fn poll_incoming(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = ready!(Pin::new(&mut self.incoming).poll_frame(cx));
        match &frame {
            Some(Ok(frame)) if self.state == State::Kept => {
                if let Some(data) = frame.data_ref() {
                    self.keep(data);
                } else {
                    self.trailers = frame.trailers_ref().cloned();
                }
                // Nobody asks for more after trailers, or after the length that was announced.
                if self.state == State::Kept && (frame.is_trailers() || is_complete(&self.incoming)) {
                    self.complete();
                }
            }
            Some(Ok(_)) => {}
            Some(Err(_)) => self.lose(),
            None if self.state == State::Kept => self.complete(),
            None => {}
        }
        Poll::Ready(frame)
    }

    fn keep(&mut self, data: &Bytes) {
        if self.kept.len() + data.len() > MOST {
            self.lose();
        } else {
            self.kept.extend_from_slice(data);
        }
    }

    fn lose(&mut self) {
        self.state = State::Lost;
        self.kept = Vec::new();
        self.trailers = None;
        self.copies.clear();
    }

    fn copied(&self) -> Copied {
        Copied { data: Bytes::copy_from_slice(&self.kept), trailers: self.trailers.clone() }
    }

    fn complete(&mut self) {
        self.state = State::Complete;
        if self.copies.is_empty() {
            return;
        }
        let copied = self.copied();
        for copy in self.copies.drain(..) {
            // Whoever waited for it may have given up.
            let _ = copy.send(copied.clone());
        }
    }
}

impl Replay {
    /// What is read here.
    pub fn recording(&self) -> &Recording {
        &self.recording
    }
}

impl Body for Replay {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let mut tape = this.recording.0.borrow_mut();
        if tape.attempt != this.attempt {
            return Poll::Ready(Some(Err(BodyError::SentAgain)));
        }
        let frame = if let Some(kept) = tape.kept.get(this.position..).filter(|kept| !kept.is_empty()) {
            let kept = Bytes::copy_from_slice(kept);
            let done = tape.state == State::Complete && tape.trailers.is_none();
            tape.incoming.upload().moves(if done { UploadState::Done } else { UploadState::AwaitsBackend });
            Some(Ok(Frame::data(kept)))
        } else if tape.state != State::Complete {
            match tape.poll_incoming(cx) {
                Poll::Ready(frame) => frame,
                Poll::Pending => {
                    tape.waiting = Some(cx.waker().clone());
                    return Poll::Pending;
                }
            }
        } else {
            let trailers = tape.trailers.clone().filter(|_| !this.trailers_sent);
            tape.incoming.upload().moves(UploadState::Done);
            trailers.map(|trailers| Ok(Frame::trailers(trailers)))
        };
        if let Some(Ok(frame)) = &frame {
            this.delivered += frame.data_ref().map_or(0, |data| data.len() as u64);
            this.trailers_sent |= frame.is_trailers();
            this.position = tape.kept.len();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        let tape = self.recording.0.borrow();
        match tape.state {
            _ if tape.attempt != self.attempt => false,
            State::Complete => self.position == tape.kept.len() && (self.trailers_sent || tape.trailers.is_none()),
            State::Kept => false,
            State::Lost => tape.incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self.recording.0.borrow().length {
            Some(length) => SizeHint::with_exact(length.saturating_sub(self.delivered)),
            None => SizeHint::default(),
        }
    }
}

impl Copied {
    /// A body of this.
    pub fn new(data: Bytes) -> Self {
        Self { data, trailers: None }
    }

    /// All of it but trailers.
    pub fn into_data(self) -> Bytes {
        self.data
    }

    /// The next frame, or the end.
    pub fn next(&mut self) -> Option<Frame<Bytes>> {
        if !self.data.is_empty() {
            return Some(Frame::data(std::mem::take(&mut self.data)));
        }
        self.trailers.take().map(Frame::trailers)
    }

    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.data.is_empty() && self.trailers.is_none()
    }

    /// What is left. With trailers the length stays open: HTTP/1.1 has them in chunked bodies only.
    pub fn size_hint(&self) -> SizeHint {
        match self.trailers {
            Some(_) => SizeHint::default(),
            None => SizeHint::with_exact(self.data.len() as u64),
        }
    }
}
