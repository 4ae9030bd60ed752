//! One client connection, from accept to its end.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::server::{Accepted, Acceptor};
use snapshot::Scheme;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::{StartHandshake, TlsStream};

use crate::clock::{Alarm, within};
use crate::forwarded::Origin;
use crate::reason::Reason;
use crate::shared::Port;
use crate::tls::PortTls;
use crate::transport::{ClientStream, Transport};
use crate::watch::{Signal, Watch};
use crate::worker::Worker;

/// What every HTTP/2 connection begins with (RFC 9113, 3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A TLS handshake takes a few milliseconds; this is for slow links.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// What is read of a client's first flight before it is known to speak TLS. A ClientHello is smaller.
const FIRST_READ: usize = 4096;

/// Who connected before a drain has so long for a first request: it may be on its way.
const FIRST_REQUEST: Duration = Duration::from_secs(1);

/// What the requests of a connection have in common.
pub struct Client {
    /// The worker that serves it.
    pub worker: Rc<Worker>,
    /// Where it comes from, and to where.
    pub origin: Origin,
    /// The server name that it asked for, in lower case; `None` without TLS. Empty when it sent none.
    pub server_name: Option<Box<str>>,
    /// Whether it speaks HTTP/2.
    pub http2: bool,
    /// Whether it speaks plain HTTP on a port for TLS, where nothing is served to it.
    pub lost: bool,
    /// What the worker's sweep sees of it.
    pub watch: Arc<Watch>,
}

impl Client {
    /// Whether it came over TLS.
    pub fn is_tls(&self) -> bool {
        self.server_name.is_some()
    }
}

/// Serves a connection until it ends.
pub async fn serve(worker: Rc<Worker>, stream: TcpStream, peer: SocketAddr, port: &Port) {
    let opened = match port.tls.load_full() {
        Some(tls) => handshake(&worker, stream, port, tls).await,
        None => peek(&worker, stream, port.number).await,
    };
    let Some(opened) = opened else { return };
    let port = port.number;
    let watch = opened.watch.unwrap_or_else(|| Arc::new(Watch::new(port, opened.http2)));
    let _registered = worker.register(&watch);
    let stream = TokioIo::new(ClientStream::new(opened.transport, opened.first_bytes, watch.clone()));
    let scheme = if opened.server_name.is_some() { Scheme::Https } else { Scheme::Http };
    let client = Rc::new(Client {
        worker: worker.clone(),
        origin: Origin::new(peer.ip(), scheme, port),
        server_name: opened.server_name,
        http2: opened.http2,
        lost: opened.lost,
        watch: watch.clone(),
    });
    let service = service_fn(move |request| {
        let client = client.clone();
        async move {
            Ok::<_, Infallible>(match client.lost {
                false => crate::http::serve(client, request).await,
                true => crate::http::refuse_plain(client, request),
            })
        }
    });
    if opened.http2 {
        let mut connection = std::pin::pin!(worker.http2.serve_connection(stream, service));
        drive(
            &watch,
            &mut connection,
            |connection| connection.as_mut().graceful_shutdown(),
            |connection, cx| {
                connection
                    .as_mut()
                    .poll(cx)
                    .map(|ended| ended.map_err(|error| tracing::debug!(%error, "connection ended")))
            },
        )
        .await;
    } else {
        let mut connection = std::pin::pin!(worker.http1.serve_connection(stream, service).with_upgrades());
        drive(
            &watch,
            &mut connection,
            |connection| connection.as_mut().graceful_shutdown(),
            |connection, cx| {
                connection.as_mut().poll(cx).map(|ended| ended.map_err(|error| count_refusal(&worker, &error)))
            },
        )
        .await;
    }
}

/// Polls a connection and does what its watch asks for.
async fn drive<C>(
    watch: &Watch,
    connection: &mut C,
    mut finish: impl FnMut(&mut C),
    mut poll: impl FnMut(&mut C, &mut Context<'_>) -> Poll<Result<(), ()>>,
) {
    let mut registered = false;
    let mut finishing = false;
    std::future::poll_fn(|cx| {
        // A task's waker stays the same as long as it lives.
        if !registered {
            registered = true;
            watch.register(cx.waker());
        }
        match watch.asked() {
            Signal::None => {}
            Signal::Finish if finishing => {}
            Signal::Finish => {
                // A request that has arrived already is served.
                if poll(connection, cx).is_ready() {
                    return Poll::Ready(());
                }
                finishing = true;
                finish(connection);
            }
            Signal::Cut => return Poll::Ready(()),
        }
        poll(connection, cx).map(|_| ())
    })
    .await;
}

/// hyper answers what it cannot parse by itself; here it is counted.
fn count_refusal(worker: &Worker, error: &hyper::Error) {
    let reason = if error.is_parse_too_large() {
        Reason::HeadersTooLarge
    } else if error.is_parse() {
        Reason::BadRequest
    } else {
        tracing::debug!(%error, "connection ended");
        return;
    };
    worker.stats.unrouted.count(reason.status(), Some(reason), Duration::ZERO, 0, 0);
}

struct Opened {
    transport: Transport,
    first_bytes: Vec<u8>,
    server_name: Option<Box<str>>,
    http2: bool,
    lost: bool,
    watch: Option<Arc<Watch>>,
}

async fn handshake(worker: &Worker, stream: TcpStream, port: &Port, tls: Arc<PortTls>) -> Option<Opened> {
    let deadline = Some(Instant::now() + HANDSHAKE);
    let shaken = async {
        let (hello, stream) = match greet(stream).await? {
            Greeted::Tls(hello, stream) => (hello, stream),
            Greeted::Plain(first_bytes, stream) => return Ok(Err((first_bytes, stream))),
        };
        let name = hello.client_hello().server_name().map(str::to_owned);
        let config = tls.config(name.as_deref()).ok_or_else(|| io::Error::other("no listener takes it"))?.clone();
        // In a box, so that connections do not keep room for their handshakes.
        let stream = Box::new(StartHandshake::from_parts(*hello, stream).into_stream(config.clone())).await?;
        // Who was let in on terms of the past is not among the connections that had to leave when they changed.
        let now = port.tls.load();
        match now.as_ref().and_then(|now| now.config(name.as_deref())) {
            Some(now) if Arc::ptr_eq(now, &config) => Ok(Ok(stream)),
            _ => Err(io::Error::other("what is asked of clients has just changed")),
        }
    };
    let stream = match within(deadline, shaken).await {
        Some(Ok(Ok(stream))) => stream,
        Some(Ok(Err((first_bytes, stream)))) => {
            let transport = Transport::Plain(stream);
            return Some(Opened { transport, first_bytes, server_name: None, http2: false, lost: true, watch: None });
        }
        Some(Err(error)) => {
            tracing::debug!(%error, "a TLS handshake failed");
            worker.stats.handshake_failures.add(1);
            return None;
        }
        None => {
            worker.stats.handshake_failures.add(1);
            return None;
        }
    };
    let session = stream.get_ref().1;
    let http2 = session.alpn_protocol() == Some(b"h2");
    let server_name = session.server_name().unwrap_or_default().trim_end_matches('.').to_ascii_lowercase().into();
    Some(Opened {
        transport: Transport::Tls(Box::new(TlsStream::Server(stream))),
        first_bytes: Vec::new(),
        server_name: Some(server_name),
        http2,
        lost: false,
        watch: None,
    })
}

/// What a client on a port for TLS begins with.
enum Greeted {
    /// The first message of a handshake.
    Tls(Box<Accepted>, TcpStream),
    /// Plain HTTP, as far as it was read.
    Plain(Vec<u8>, TcpStream),
}

/// Reads what the client sends first: the message that names the server it wants, unless it is plain HTTP.
async fn greet(mut stream: TcpStream) -> io::Result<Greeted> {
    // Nothing is set up for a client that sends nothing.
    stream.readable().await?;
    let mut bytes = Vec::with_capacity(FIRST_READ);
    let mut acceptor: Option<Acceptor> = None;
    loop {
        bytes.clear();
        if stream.read_buf(&mut bytes).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        // Methods begin with a letter, records of TLS with a small number.
        if acceptor.is_none() && bytes.first().is_some_and(u8::is_ascii_alphabetic) {
            return Ok(Greeted::Plain(bytes, stream));
        }
        let acceptor = acceptor.get_or_insert_default();
        let mut unread = bytes.as_slice();
        while !unread.is_empty() {
            acceptor.read_tls(&mut unread)?;
        }
        match acceptor.accept() {
            Ok(Some(hello)) => return Ok(Greeted::Tls(Box::new(hello), stream)),
            Ok(None) => {}
            Err((error, mut alert)) => {
                let mut sent = Vec::new();
                alert.write_all(&mut sent)?;
                stream.write_all(&sent).await?;
                return Err(io::Error::new(io::ErrorKind::InvalidData, error));
            }
        }
    }
}

/// Reads until it is clear whether the client begins with the preface of HTTP/2. Nothing else of a connection exists
/// until its first byte, so one that sends nothing costs next to nothing.
async fn peek(worker: &Worker, stream: TcpStream, port: u16) -> Option<Opened> {
    let watch = Arc::new(Watch::new(port, false));
    let registered = worker.register(&watch);
    let mut first_bytes = Vec::new();
    let http2 = {
        let mut alarm: Option<Alarm> = None;
        let mut reading = std::pin::pin!(read_preface(&stream, &mut first_bytes, &watch));
        std::future::poll_fn(|cx| {
            watch.register(cx.waker());
            match watch.asked() {
                Signal::None => {}
                Signal::Finish => {
                    alarm.get_or_insert_with(|| Alarm::new(Some(Instant::now() + FIRST_REQUEST)));
                }
                Signal::Cut => return Poll::Ready(None),
            }
            if let Poll::Ready(read) = Future::poll(reading.as_mut(), cx) {
                return Poll::Ready(read);
            }
            match &mut alarm {
                Some(alarm) => alarm.poll(cx).map(|()| None),
                None => Poll::Pending,
            }
        })
        .await?
    };
    drop(registered);
    let transport = Transport::Plain(stream);
    let watch = (!http2).then_some(watch);
    Some(Opened { transport, first_bytes, server_name: None, http2, lost: false, watch })
}

async fn read_preface(stream: &TcpStream, first_bytes: &mut Vec<u8>, watch: &Watch) -> Option<bool> {
    let mut buf = [0; PREFACE.len()];
    loop {
        stream.ready(Interest::READABLE).await.ok()?;
        match stream.try_read(&mut buf[first_bytes.len()..]) {
            Ok(0) => return None,
            Ok(read) => {
                watch.bytes_came();
                let start = first_bytes.len();
                first_bytes.extend_from_slice(&buf[start..start + read]);
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => continue,
            Err(_) => return None,
        }
        if !PREFACE.starts_with(first_bytes) {
            return Some(false);
        }
        if first_bytes.len() == PREFACE.len() {
            return Some(true);
        }
    }
}
