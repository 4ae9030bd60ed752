//! The byte streams under HTTP: plain or TLS, towards clients and towards backends.

use std::future::Future;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsStream;

use crate::clock::Alarm;
use crate::watch::Watch;

/// How long and how much is read from a client after the last answer, so that closing does not reset the
/// connection before the client has read that answer.
const LINGER: Duration = Duration::from_secs(2);
const LINGER_BYTES: usize = 1 << 20;

/// What is collected of a head that comes in pieces before its parser gets them.
const COLLECTED: usize = 4096;

/// How it is noticed within 90 s that a peer vanished from whom nothing is expected: a tunnel may be silent for long.
pub const KEEP_ALIVE: TcpKeepalive =
    TcpKeepalive::new().with_time(Duration::from_secs(60)).with_interval(Duration::from_secs(10)).with_retries(3);

/// A connection, plain or within TLS.
#[derive(Debug)]
pub enum Transport {
    /// Plain TCP.
    Plain(TcpStream),
    /// TLS over TCP, in either role.
    Tls(Box<TlsStream<TcpStream>>),
}

macro_rules! delegate {
    ($self:ident, $stream:ident => $call:expr) => {
        match $self.get_mut() {
            Transport::Plain(stream) => {
                let $stream = Pin::new(stream);
                $call
            }
            Transport::Tls(stream) => {
                let $stream = Pin::new(stream.as_mut());
                $call
            }
        }
    };
}

impl AsyncRead for Transport {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        delegate!(self, stream => stream.poll_read(cx, buf))
    }
}

impl AsyncWrite for Transport {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        delegate!(self, stream => stream.poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        // One buffer, as for every request without a body: the kernel has less to do than with a list.
        if let [only] = bufs {
            return self.poll_write(cx, only);
        }
        delegate!(self, stream => stream.poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        delegate!(self, stream => stream.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        delegate!(self, stream => stream.poll_shutdown(cx))
    }
}

impl Transport {
    /// Whether the peer has sent nothing and has not closed. Asks the kernel: what tokio knows is of the last time that it looked.
    /// Needs no memory but where TLS has something to read.
    pub fn is_quiet(&mut self) -> bool {
        let (socket, session) = match self {
            Transport::Plain(stream) => (&*stream, None),
            Transport::Tls(stream) => match stream.as_mut() {
                TlsStream::Client(stream) => {
                    let (socket, session) = stream.get_mut();
                    (&*socket, Some(session))
                }
                TlsStream::Server(_) => return false,
            },
        };
        let socket = SockRef::from(socket);
        let would_block = |error: io::Error| error.kind() == io::ErrorKind::WouldBlock;
        let Some(session) = session else {
            return socket.peek(&mut [MaybeUninit::uninit()]).is_err_and(would_block);
        };
        loop {
            // What has been decrypted already lies in the session, and so does a farewell: the socket tells of neither.
            match session.process_new_packets() {
                Ok(state) if state.plaintext_bytes_to_read() == 0 && !state.peer_has_closed() => {}
                _ => return false,
            }
            match socket.peek(&mut [MaybeUninit::uninit()]) {
                // Tickets of TLS 1.3 come unasked.
                Ok(1..) if session.read_tls(&mut &*socket).is_ok_and(|read| read > 0) => {}
                Ok(_) => return false,
                Err(error) => return would_block(error),
            }
        }
    }

    /// Lets this connection end with a reset when it is dropped: what it carried is not complete.
    pub fn reset(&self) {
        let stream = match self {
            Transport::Plain(stream) => stream,
            Transport::Tls(stream) => stream.get_ref().0,
        };
        // One that is gone already needs no reset.
        let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
    }
}

/// A client's connection: tells its [`Watch`] what moves, gives back bytes that were read to learn the protocol,
/// and lingers before it closes.
#[derive(Debug)]
pub struct ClientStream {
    transport: Transport,
    watch: Arc<Watch>,
    first_bytes: Vec<u8>,
    linger: Option<Linger>,
}

#[derive(Debug)]
struct Linger {
    alarm: Alarm,
    bytes_left: usize,
}

impl ClientStream {
    /// A stream that yields `first_bytes` before what `transport` has.
    pub fn new(transport: Transport, first_bytes: Vec<u8>, watch: Arc<Watch>) -> Self {
        Self { transport, watch, first_bytes, linger: None }
    }
}

impl AsyncRead for ClientStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.first_bytes.is_empty() {
            let take = this.first_bytes.len().min(buf.remaining());
            buf.put_slice(&this.first_bytes[..take]);
            this.first_bytes.drain(..take);
            this.watch.bytes_came();
            this.watch.read_waits(false);
            if this.first_bytes.is_empty() {
                this.first_bytes = Vec::new();
                // The rest of the head most often, so that it is parsed once. What is wrong shows at the next read.
                let _ = Pin::new(&mut this.transport).poll_read(cx, buf);
            }
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        let read = Pin::new(&mut this.transport).poll_read(cx, buf);
        this.watch.read_waits(read.is_pending());
        ready!(read)?;
        if buf.filled().len() > before {
            this.watch.bytes_came();
        }
        Poll::Ready(Ok(()))
    }
}

impl ClientStream {
    /// Whether bytes were read before this stream, and not yet from it.
    pub fn has_first_bytes(&self) -> bool {
        !self.first_bytes.is_empty()
    }

    /// Keeps what was read of a request's head until more comes. Empty lines before a request mean nothing (RFC 9112, 2.2).
    pub fn rest(&mut self, read: &[u8]) {
        let start = read.iter().position(|byte| !matches!(byte, b'\r' | b'\n')).unwrap_or(read.len());
        let kept = [&read[start..], &self.first_bytes].concat();
        self.first_bytes = kept;
        self.watch.rests(!self.first_bytes.is_empty());
    }

    /// Looks for bytes that TLS has decrypted already: no readiness of the socket would tell of them. Whether there is
    /// something to serve.
    pub fn poll_decrypted(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if matches!(self.transport, Transport::Plain(_)) || self.has_first_bytes() {
            return Poll::Pending;
        }
        let mut space = [0; 256];
        let mut buf = ReadBuf::new(&mut space);
        // What is wrong shows at the next read.
        let _ = ready!(Pin::new(&mut self.transport).poll_read(cx, &mut buf));
        self.first_bytes = buf.filled().to_vec();
        Poll::Ready(())
    }

    /// Waits, without a buffer, for the first byte of a request, or collects the rest of a head. Ready as soon as a parser
    /// has something to do: with the first byte, at the end of a head, or when it gets long; and when the stream has ended.
    pub fn poll_wake(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.first_bytes.is_empty() || self.first_bytes.len() > COLLECTED {
            return self.socket().poll_read_ready(cx).map(drop);
        }
        let mut space = [0; 1024];
        loop {
            let mut buf = ReadBuf::new(&mut space);
            let read = ready!(Pin::new(&mut self.transport).poll_read(cx, &mut buf));
            if read.is_err() || buf.filled().is_empty() {
                return Poll::Ready(());
            }
            let before = self.first_bytes.len();
            self.first_bytes.reserve_exact(buf.filled().len());
            self.first_bytes.extend_from_slice(buf.filled());
            let new = &self.first_bytes[before.saturating_sub(3)..];
            let complete = new.windows(2).any(|two| two == b"\n\n") || new.windows(3).any(|three| three == b"\n\r\n");
            if complete || self.first_bytes.len() > COLLECTED {
                return Poll::Ready(());
            }
        }
    }

    fn socket(&self) -> &TcpStream {
        match &self.transport {
            Transport::Plain(stream) => stream,
            Transport::Tls(stream) => stream.get_ref().0,
        }
    }

    /// Whether the client closed its side, also behind bytes that are not read yet.
    fn client_left(&self, cx: &mut Context<'_>) -> bool {
        let ready = std::pin::pin!(self.socket().ready(Interest::READABLE)).poll(cx);
        matches!(ready, Poll::Ready(Ok(ready)) if ready.is_read_closed())
    }

    fn note_write(&self, result: &Poll<io::Result<usize>>) {
        match result {
            Poll::Ready(_) => self.watch.bytes_left(),
            Poll::Pending => self.watch.write_stalls(),
        }
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let result = Pin::new(&mut this.transport).poll_write(cx, buf);
        this.note_write(&result);
        result
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let result = Pin::new(&mut this.transport).poll_write_vectored(cx, bufs);
        this.note_write(&result);
        result
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // hyper flushes whenever it is woken, but reads no more while bytes of a next request are there.
        if this.watch.is_to_look() && this.client_left(cx) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        let result = Pin::new(&mut this.transport).poll_flush(cx);
        match &result {
            Poll::Ready(_) => this.watch.bytes_left(),
            Poll::Pending => this.watch.write_stalls(),
        }
        result
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.watch.is_tunnel() {
            // What the client still sends is for the backend.
            return Pin::new(&mut this.transport).poll_shutdown(cx);
        }
        this.watch.closes();
        let linger = match &mut this.linger {
            Some(linger) => linger,
            None => {
                ready!(Pin::new(&mut this.transport).poll_shutdown(cx))?;
                let alarm = Alarm::new(Some(Instant::now() + LINGER));
                this.linger.insert(Linger { alarm, bytes_left: LINGER_BYTES })
            }
        };
        let mut space = [0; 4096];
        while linger.bytes_left > 0 {
            let mut buf = ReadBuf::new(&mut space);
            match Pin::new(&mut this.transport).poll_read(cx, &mut buf) {
                Poll::Ready(Ok(())) if !buf.filled().is_empty() => {
                    linger.bytes_left = linger.bytes_left.saturating_sub(buf.filled().len());
                }
                Poll::Ready(_) => break,
                Poll::Pending => {
                    ready!(linger.alarm.poll(cx));
                    break;
                }
            }
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use rustls::ClientConfig;
    use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio_rustls::{TlsAcceptor, TlsConnector};

    use super::*;

    /// A backend that sends these bytes in one record, and a connection to it.
    async fn connected(sent: &'static [u8]) -> (Transport, tokio_rustls::server::TlsStream<TcpStream>) {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let made = rcgen::generate_simple_self_signed(vec!["a.example".to_owned()]).unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
        let server = rustls::ServerConfig::builder_with_provider(provider.clone());
        let server = server.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
        let server = server.with_single_cert(vec![made.cert.der().clone()], key).unwrap();
        let mut roots = rustls::RootCertStore::empty();
        roots.add(made.cert.der().clone()).unwrap();
        let client = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let client = client.with_root_certificates(roots).with_no_client_auth();

        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let accepting = async {
            let stream = listener.accept().await.unwrap().0;
            let mut stream = TlsAcceptor::from(Arc::new(server)).accept(stream).await.unwrap();
            stream.write_all(sent).await.unwrap();
            stream.flush().await.unwrap();
            stream
        };
        let connecting = async {
            let stream = TcpStream::connect(address).await.unwrap();
            let name = ServerName::try_from("a.example").unwrap();
            TlsConnector::from(Arc::new(client)).connect(name, stream).await.unwrap()
        };
        let (backend, stream) = tokio::join!(accepting, connecting);
        (Transport::Tls(Box::new(stream.into())), backend)
    }

    #[tokio::test]
    async fn what_tls_has_decrypted_already_is_not_quiet() {
        let (mut transport, _backend) = connected(b"ab").await;
        let mut byte = [0];
        transport.read_exact(&mut byte).await.unwrap();
        assert!(!transport.is_quiet(), "a byte of the same record is left");
        transport.read_exact(&mut byte).await.unwrap();
        assert!(transport.is_quiet());
    }
}
