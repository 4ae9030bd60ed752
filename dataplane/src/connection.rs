//! One client connection, from accept to its end.

use std::future::Future;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use snapshot::Scheme;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsStream;

use crate::clock::Alarm;
use crate::forwarded::Origin;
use crate::handshake::{self, Begun};
use crate::http1;
use crate::l4;
use crate::reason::Reason;
use crate::shared::{Greeting, Port};
use crate::tls::{Opening, PortTls};
use crate::transport::{ClientStream, Transport};
use crate::watch::{Signal, Watch};
use crate::worker::Worker;

/// What every HTTP/2 connection begins with (RFC 9113, 3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

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

/// Serves a connection until it ends.
pub async fn serve(worker: Rc<Worker>, stream: TcpStream, peer: SocketAddr, port: Arc<Port>) {
    let number = port.number;
    let opened = match &*port.greeting.load_full() {
        // Who began on terms of the past is not among the connections that had to leave when they changed.
        Greeting::Http => {
            peek(&worker, stream, number).await.filter(|_| matches!(&**port.greeting.load(), Greeting::Http))
        }
        // In boxes, so that connections of HTTP keep no room for what comes before or goes elsewhere.
        Greeting::Tls(tls) => Box::pin(open(&worker, stream, peer, &port, tls)).await,
        Greeting::Tcp => {
            let session = l4::Session::begin(worker.clone(), peer, number, l4::Protocol::Tcp, "".into());
            Box::pin(l4::serve(session, stream)).await;
            None
        }
        Greeting::None => None,
    };
    if let Some(opened) = opened {
        serve_http(worker, opened, peer, number).await;
    }
}

/// Begins with TLS; what is not HTTP inside is served to its end.
async fn open(
    worker: &Rc<Worker>,
    mut stream: TcpStream,
    peer: SocketAddr,
    port: &Port,
    tls: &PortTls,
) -> Option<Opened> {
    let hello = match handshake::begin(worker, &mut stream).await? {
        Begun::Tls(hello) => hello,
        // Methods begin with a letter, records of TLS with a small number.
        Begun::Other(first_bytes) if tls.is_http() && first_bytes.first().is_some_and(u8::is_ascii_alphabetic) => {
            let transport = Transport::Plain(stream);
            return Some(Opened { transport, first_bytes, server_name: None, http2: false, lost: true, watch: None });
        }
        Begun::Other(bytes) => {
            handshake::refuse(worker, stream, &bytes, tls.is_http()).await;
            return None;
        }
    };
    let session = |protocol| l4::Session::begin(worker.clone(), peer, port.number, protocol, hello.server_name.clone());
    match tls.find(&hello.server_name) {
        Some(Opening::Http(config)) => {
            let server_name = Some(hello.server_name.clone());
            let stream = handshake::finish(worker, stream, hello, config, port).await?;
            let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
            let transport = Transport::Tls(Box::new(TlsStream::Server(stream)));
            let first_bytes = Vec::new();
            return Some(Opened { transport, first_bytes, server_name, http2, lost: false, watch: None });
        }
        Some(Opening::Passed) => l4::serve_passed(session(l4::Protocol::TlsPassthrough), stream, hello).await,
        Some(Opening::Terminated(config)) => {
            l4::serve_terminated(session(l4::Protocol::TlsTerminate), stream, hello, config, port).await;
        }
        Some(Opening::Refused) => worker.stats.handshake_failures.add(1),
        // The specification wants the end of the connection and no alert.
        None if tls.is_http() => worker.stats.handshake_failures.add(1),
        None => session(l4::Protocol::Tls).refuse(Reason::NoRoute),
    }
    None
}

async fn serve_http(worker: Rc<Worker>, opened: Opened, peer: SocketAddr, port: u16) {
    let watch = opened.watch.unwrap_or_else(|| Arc::new(Watch::new(port, opened.http2)));
    let _registered = worker.register(&watch);
    let stream = ClientStream::new(opened.transport, opened.first_bytes, watch.clone());
    let scheme = if opened.server_name.is_some() { Scheme::Https } else { Scheme::Http };
    let client = Rc::new(Client {
        worker: worker.clone(),
        origin: Origin::new(peer.ip(), scheme, port),
        server_name: opened.server_name,
        http2: opened.http2,
        lost: opened.lost,
        watch: watch.clone(),
    });
    if !client.http2 {
        http1::serve(&worker, client, stream).await;
        return;
    }
    let service = service_fn(move |request| {
        let client = client.clone();
        async move {
            if client.watch.overstays() {
                // Sent anew elsewhere, while what is under way here finishes.
                return Err(h2::Error::from(h2::Reason::REFUSED_STREAM));
            }
            if client.watch.cancels_too_much() {
                return Err(h2::Error::from(h2::Reason::ENHANCE_YOUR_CALM));
            }
            Ok(crate::http::serve(client, request, None).await)
        }
    });
    let mut connection = std::pin::pin!(worker.http2.serve_connection(TokioIo::new(stream), service));
    drive(
        &watch,
        &mut connection,
        |connection| connection.as_mut().graceful_shutdown(),
        |connection, cx| {
            connection.as_mut().poll(cx).map(|ended| ended.map_err(|error| tracing::debug!(%error, "connection ended")))
        },
    )
    .await;
}

/// How a connection stops being polled.
pub enum Driven {
    /// It is complete.
    Ends,
    /// It broke off, or was cut.
    Breaks,
    /// Nothing is under way on it: it can be taken apart until more comes.
    Rests,
}

/// Polls a connection and does what its watch asks for.
pub async fn drive<C>(
    watch: &Watch,
    connection: &mut C,
    mut finish: impl FnMut(&mut C),
    mut poll: impl FnMut(&mut C, &mut Context<'_>) -> Poll<Result<(), ()>>,
) -> Driven {
    let mut finishing = false;
    std::future::poll_fn(|cx| {
        watch.stay_registered(cx.waker());
        match watch.asked() {
            Signal::None => {}
            Signal::Finish if finishing => {}
            Signal::Finish => {
                // A request that has arrived already is served.
                if let Poll::Ready(ended) = poll(connection, cx) {
                    return Poll::Ready(over(ended));
                }
                finishing = true;
                finish(connection);
            }
            Signal::Cut => return Poll::Ready(Driven::Breaks),
        }
        let ended = poll(connection, cx);
        if ended.is_pending() && watch.is_to_rest() {
            return Poll::Ready(Driven::Rests);
        }
        ended.map(over)
    })
    .await
}

fn over(ended: Result<(), ()>) -> Driven {
    if ended.is_ok() { Driven::Ends } else { Driven::Breaks }
}

struct Opened {
    transport: Transport,
    first_bytes: Vec<u8>,
    server_name: Option<Box<str>>,
    http2: bool,
    lost: bool,
    watch: Option<Arc<Watch>>,
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
