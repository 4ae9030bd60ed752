//! What is left of a connection once it has left HTTP (WebSocket and any other upgrade): bytes in both directions.

use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::upgrade::{OnUpgrade, Upgraded as ClientUpgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::Instant;

use crate::clock::Alarm;
use crate::exchange::Exchange;
use crate::upstream::Upgraded;
use crate::watch::Signal;

/// What is held of a tunnel in each direction.
const BUFFER: usize = 16 * 1024;

/// Carries bytes between client and backend until both are done, nothing moved for `idle`, or the connection is cut.
pub fn spawn(exchange: Exchange, client: OnUpgrade, backend: Upgraded, idle: Option<Duration>) {
    tokio::task::spawn_local(async move {
        let connection = exchange.client.clone();
        connection.watch.becomes_tunnel();
        connection.worker.stats.open.add(1);
        {
            let _registered = connection.worker.register(&connection.watch);
            if let Ok(client) = client.await {
                carry(client, backend, idle, exchange).await;
            }
        }
        connection.worker.stats.open.sub(1);
    });
}

async fn carry(client: ClientUpgraded, mut backend: Upgraded, idle: Option<Duration>, mut exchange: Exchange) {
    let mut client = Noted { inner: TokioIo::new(client), moved: false, written: 0 };
    if client.write_all(&backend.first_bytes).await.is_err() {
        return;
    }
    let watch = exchange.client.watch.clone();
    let mut alarm = Alarm::new(idle.map(|idle| Instant::now() + idle));
    {
        let mut copying = Copying::new(&mut client, &mut backend.transport);
        std::future::poll_fn(|cx| {
            watch.register(cx.waker());
            if watch.asked() == Signal::Cut || copying.poll(cx).is_ready() {
                return Poll::Ready(());
            }
            if std::mem::take(&mut copying.client.moved) {
                alarm.set(idle.map(|idle| Instant::now() + idle));
            }
            alarm.poll(cx)
        })
        .await;
    }
    exchange.sent(client.written);
}

/// Both directions of a tunnel.
struct Copying<'t, C, B> {
    client: &'t mut C,
    backend: &'t mut B,
    up: Direction,
    down: Direction,
}

impl<'t, C: AsyncRead + AsyncWrite + Unpin, B: AsyncRead + AsyncWrite + Unpin> Copying<'t, C, B> {
    fn new(client: &'t mut C, backend: &'t mut B) -> Self {
        Self { client, backend, up: Direction::default(), down: Direction::default() }
    }

    /// Ready when both sides are done or one broke off.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let up = self.up.poll(cx, self.client, self.backend)?;
        let down = self.down.poll(cx, self.backend, self.client)?;
        ready!(up);
        ready!(down);
        Poll::Ready(Ok(()))
    }
}

/// One direction: a buffer, and whether its source has ended.
#[derive(Default)]
struct Direction {
    buffer: Vec<u8>,
    taken: usize,
    state: DirectionState,
}

#[derive(Default, PartialEq)]
enum DirectionState {
    #[default]
    Open,
    SourceEnded,
    Done,
}

impl Direction {
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut (impl AsyncRead + Unpin),
        sink: &mut (impl AsyncWrite + Unpin),
    ) -> Poll<io::Result<()>> {
        loop {
            while self.taken < self.buffer.len() {
                let written = ready!(Pin::new(&mut *sink).poll_write(cx, &self.buffer[self.taken..]))?;
                if written == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                self.taken += written;
            }
            match self.state {
                DirectionState::Done => return Poll::Ready(Ok(())),
                DirectionState::SourceEnded => {
                    ready!(Pin::new(&mut *sink).poll_shutdown(cx))?;
                    self.state = DirectionState::Done;
                }
                DirectionState::Open => {
                    self.buffer.resize(BUFFER, 0);
                    let mut space = ReadBuf::new(&mut self.buffer);
                    let read = Pin::new(&mut *source).poll_read(cx, &mut space);
                    let filled = space.filled().len();
                    self.taken = 0;
                    match read {
                        Poll::Ready(Ok(())) => self.buffer.truncate(filled),
                        Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                        Poll::Pending => {
                            // An idle tunnel holds no buffers.
                            self.buffer = Vec::new();
                            ready!(Pin::new(&mut *sink).poll_flush(cx))?;
                            return Poll::Pending;
                        }
                    }
                    if filled == 0 {
                        self.state = DirectionState::SourceEnded;
                    }
                }
            }
        }
    }
}

/// Remembers whether anything moved.
struct Noted<T> {
    inner: T,
    moved: bool,
    written: usize,
}

impl<T: AsyncRead + Unpin> AsyncRead for Noted<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(pin!(&mut this.inner).poll_read(cx, buf))?;
        this.moved = true;
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Noted<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = ready!(pin!(&mut this.inner).poll_write(cx, buf))?;
        this.moved = true;
        this.written += written;
        Poll::Ready(Ok(written))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        pin!(&mut self.get_mut().inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        pin!(&mut self.get_mut().inner).poll_shutdown(cx)
    }
}
