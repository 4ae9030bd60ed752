//! Bytes in both directions: what is left of a connection once it has left HTTP (WebSocket and any other upgrade), and all
//! of one that never was HTTP.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use crate::clock::Alarm;
use crate::exchange::Exchange;
use crate::reason::Reason;
use crate::transport::ClientStream;
use crate::upstream::Upgraded;
use crate::watch::{Signal, Watch};
use crate::worker::Worker;

/// What is read at once, and the most that is held of a tunnel in each direction besides what came before it.
const BUFFER: usize = 16 * 1024;

thread_local! {
    /// Where all tunnels of a worker read to. Most of it is written at once, so only one whose other side does not keep up has a
    /// buffer of its own.
    static SPACE: RefCell<Vec<u8>> = RefCell::new(vec![0; BUFFER]);
}

/// What was read of a side before it became a tunnel.
#[derive(Debug, Default)]
pub struct FirstBytes {
    /// For the backend.
    pub up: Vec<u8>,
    /// For the client.
    pub down: Vec<u8>,
}

/// What a tunnel has carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Carried {
    /// Bytes that the backend took.
    pub up: u64,
    /// Bytes that the client took.
    pub down: u64,
    /// Why it ended before both sides were done.
    pub end: Option<Reason>,
}

/// Where a request that switches protocols leaves what its tunnel needs, until its connection has sent the response. Empty
/// before.
#[derive(Clone, Default)]
pub struct Switched(Rc<RefCell<Option<Leaving>>>);

/// The end of HTTP on a connection.
pub struct Leaving {
    exchange: Exchange,
    backend: Upgraded,
    idle: Option<Duration>,
}

impl Switched {
    /// The exchange goes on as a tunnel to `backend`, for as long as something moves within `idle`.
    pub fn set(&self, exchange: Exchange, backend: Upgraded, idle: Option<Duration>) {
        self.0.replace(Some(Leaving { exchange, backend, idle }));
    }

    /// What was left.
    pub fn take(&self) -> Option<Leaving> {
        self.0.take()
    }
}

/// Carries bytes between a client that left HTTP and its backend. `first_bytes` came after its request.
pub async fn run(worker: &Worker, leaving: Leaving, mut client: ClientStream, first_bytes: Vec<u8>) {
    let Leaving { mut exchange, backend, idle } = leaving;
    let watch = exchange.client.watch.clone();
    watch.becomes_tunnel();
    let Upgraded { mut transport, first_bytes: of_backend } = backend;
    let first = FirstBytes { up: first_bytes, down: of_backend.into() };
    let carried = carry(worker, &mut client, &mut transport, first, idle, &watch).await;
    exchange.sent(carried.down);
    if let Some(reason) = carried.end {
        exchange.failed(reason);
    }
}

/// Carries bytes between client and backend until both are done, one breaks off, nothing moved for `idle`, or the connection
/// is cut. What a side has sent before it was done still arrives, and the other may go on sending.
pub async fn carry(
    worker: &Worker,
    client: &mut (impl AsyncRead + AsyncWrite + Unpin),
    backend: &mut (impl AsyncRead + AsyncWrite + Unpin),
    first: FirstBytes,
    idle: Option<Duration>,
    watch: &Watch,
) -> Carried {
    worker.stats.tunnels.add(1);
    let mut alarm = Alarm::new(idle.map(|idle| Instant::now() + idle));
    let mut copying = Copying { client, backend, up: Direction::new(first.up), down: Direction::new(first.down) };
    let mut moved = 0;
    let end = std::future::poll_fn(|cx| {
        watch.register(cx.waker());
        if watch.asked() == Signal::Cut {
            return Poll::Ready(Some(Reason::Cut));
        }
        if let Poll::Ready(ended) = copying.poll(cx) {
            return Poll::Ready(ended.err());
        }
        let carried = copying.up.carried + copying.down.carried;
        if carried != moved {
            moved = carried;
            alarm.set(idle.map(|idle| Instant::now() + idle));
        }
        alarm.poll(cx).map(|()| Some(Reason::IdleTimeout))
    })
    .await;
    worker.stats.tunnels.sub(1);
    Carried { up: copying.up.carried, down: copying.down.carried, end }
}

/// Both directions of a tunnel.
struct Copying<'t, C, B> {
    client: &'t mut C,
    backend: &'t mut B,
    up: Direction,
    down: Direction,
}

impl<C: AsyncRead + AsyncWrite + Unpin, B: AsyncRead + AsyncWrite + Unpin> Copying<'_, C, B> {
    /// Ready when both sides are done or one broke off.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Reason>> {
        let (of_client, of_backend) = (Reason::ClientGone, Reason::UpstreamReset);
        let up = self.up.poll(cx, self.client, self.backend);
        // Before what is wrong with the other: a backend that closes with an error may have said why.
        let down = self.down.poll(cx, self.backend, self.client);
        let up = up.map_err(|broken| broken.reason(of_client, of_backend))?;
        let down = down.map_err(|broken| broken.reason(of_backend, of_client))?;
        ready!(up);
        ready!(down);
        Poll::Ready(Ok(()))
    }
}

/// Which end of a direction broke off.
enum Broken {
    Source(io::Error),
    Sink(io::Error),
}

impl Broken {
    fn reason(self, of_source: Reason, of_sink: Reason) -> Reason {
        let (error, reason) = match self {
            Broken::Source(error) => (error, of_source),
            Broken::Sink(error) => (error, of_sink),
        };
        tracing::debug!(%error, reason = reason.as_str(), "a tunnel broke off");
        reason
    }
}

/// One direction: what its sink did not take yet, and whether its source has ended.
struct Direction {
    buffer: Vec<u8>,
    taken: usize,
    carried: u64,
    state: DirectionState,
}

#[derive(PartialEq)]
enum DirectionState {
    Open,
    SourceEnded,
    Done,
}

impl Direction {
    fn new(first_bytes: Vec<u8>) -> Self {
        Self { buffer: first_bytes, taken: 0, carried: 0, state: DirectionState::Open }
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut (impl AsyncRead + Unpin),
        sink: &mut (impl AsyncWrite + Unpin),
    ) -> Poll<Result<(), Broken>> {
        loop {
            let before = self.taken;
            let written = poll_write_all(cx, sink, &self.buffer, &mut self.taken);
            self.carried += (self.taken - before) as u64;
            ready!(written)?;
            // An idle tunnel holds no buffers.
            (self.buffer, self.taken) = (Vec::new(), 0);
            match self.state {
                DirectionState::Done => return Poll::Ready(Ok(())),
                DirectionState::SourceEnded => {
                    ready!(Pin::new(&mut *sink).poll_shutdown(cx)).map_err(Broken::Sink)?;
                    self.state = DirectionState::Done;
                }
                DirectionState::Open => {
                    let Poll::Ready(moved) = SPACE.with_borrow_mut(|space| self.poll_move(cx, source, sink, space))
                    else {
                        ready!(Pin::new(&mut *sink).poll_flush(cx)).map_err(Broken::Sink)?;
                        return Poll::Pending;
                    };
                    moved?;
                }
            }
        }
    }

    /// Reads once, and keeps what the sink does not take at once.
    fn poll_move(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut (impl AsyncRead + Unpin),
        sink: &mut (impl AsyncWrite + Unpin),
        space: &mut [u8],
    ) -> Poll<Result<(), Broken>> {
        let mut space = ReadBuf::new(space);
        ready!(Pin::new(source).poll_read(cx, &mut space)).map_err(Broken::Source)?;
        let read = space.filled();
        if read.is_empty() {
            self.state = DirectionState::SourceEnded;
        }
        let mut taken = 0;
        let written = poll_write_all(cx, sink, read, &mut taken);
        self.carried += taken as u64;
        self.buffer = read[taken..].to_vec();
        self.taken = 0;
        match written {
            Poll::Ready(Err(broken)) => Poll::Ready(Err(broken)),
            _ => Poll::Ready(Ok(())),
        }
    }
}

/// Writes what is left of `bytes` after `taken`, and counts it there.
fn poll_write_all(
    cx: &mut Context<'_>,
    sink: &mut (impl AsyncWrite + Unpin),
    bytes: &[u8],
    taken: &mut usize,
) -> Poll<Result<(), Broken>> {
    while *taken < bytes.len() {
        match ready!(Pin::new(&mut *sink).poll_write(cx, &bytes[*taken..])).map_err(Broken::Sink)? {
            0 => return Poll::Ready(Err(Broken::Sink(io::ErrorKind::WriteZero.into()))),
            written => *taken += written,
        }
    }
    Poll::Ready(Ok(()))
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;

    /// A backend that says why, and then takes nothing more.
    struct Leaving(&'static [u8]);

    impl AsyncRead for Leaving {
        fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            if self.0.is_empty() {
                return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
            }
            buf.put_slice(std::mem::take(&mut self.0));
            Poll::Ready(Ok(()))
        }
    }

    impl AsyncWrite for Leaving {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
            Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn what_a_backend_said_before_it_broke_off_arrives() {
        let (mut near, mut far) = tokio::io::duplex(64);
        let mut backend = Leaving(b"too much");
        let (up, down) = (Direction::new(b"more".to_vec()), Direction::new(Vec::new()));
        let mut copying = Copying { client: &mut near, backend: &mut backend, up, down };
        let ended = std::future::poll_fn(|cx| copying.poll(cx)).await;
        assert_eq!(ended, Err(Reason::UpstreamReset));
        drop(near);
        let mut said = String::new();
        far.read_to_string(&mut said).await.unwrap();
        assert_eq!(said, "too much");
    }
}
