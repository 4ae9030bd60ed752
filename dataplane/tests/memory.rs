//! What idle and slow connections cost, counted by the allocator.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests may stop at the first surprise")]

use std::alloc::System;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use dataplane::Options;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use snapshot::*;
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

use crate::rig::{Rig, free_port, options, route, rule};

#[path = "proxy/rig.rs"]
#[allow(dead_code, reason = "the tests of the proxy need more of it")]
mod rig;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// So many at once, so that what belongs to the process weighs nothing.
const CONNECTIONS: usize = 40;

/// How long anything may take before a test gives up.
const PATIENCE: Duration = Duration::from_secs(30);

const KIB: usize = 1024;
/// An HTTP/1.1 connection without a request for two seconds.
const PLAIN: usize = 5 * KIB;
const TLS: usize = 12 * KIB;
/// h2 keeps 34 KiB of it for each connection, 28 of them in buffers of fixed size, and rustls 6.
const HTTP2: usize = 46 * KIB;
/// One whose request's head has not come for two seconds.
const SLOW_HEAD: usize = 12 * KIB;

/// Bytes that are allocated now.
fn allocated() -> usize {
    let stats = ALLOCATOR.stats();
    stats.bytes_allocated - stats.bytes_deallocated
}

/// Counts are of the whole process, so its tests take turns.
fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Responds to `/N` with N bytes. Nothing on the heap, so that it does not count.
fn backend() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            std::thread::spawn(move || respond(stream.unwrap()));
        }
    });
    address
}

fn respond(mut stream: TcpStream) -> Option<()> {
    let mut space = [0; 64 * KIB];
    let mut filled = 0;
    loop {
        let end = loop {
            if let Some(end) = space[..filled].windows(4).position(|window| window == b"\r\n\r\n") {
                break end + 4;
            }
            filled += Some(stream.read(&mut space[filled..]).ok()?).filter(|read| *read > 0)?;
        };
        let head = std::str::from_utf8(&space[..end]).ok()?;
        let size: usize = head.split(['/', ' ']).nth(2)?.parse().ok()?;
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let mut body: usize = length.map_or(0, |length| length.parse().unwrap());
        let there = body.min(filled - end);
        space.copy_within(end + there..filled, 0);
        filled -= end + there;
        body -= there;
        let mut sink = [0; 16 * KIB];
        while body > 0 {
            let most = sink.len().min(body);
            body -= Some(stream.read(&mut sink[..most]).ok()?).filter(|read| *read > 0)?;
        }
        let mut left = size;
        write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {size}\r\n\r\n").ok()?;
        while left > 0 {
            let part = left.min(sink.len());
            stream.write_all(&sink[..part]).ok()?;
            left -= part;
        }
    }
}

struct Served {
    rig: Rig,
    plain: SocketAddr,
    secure: SocketAddr,
    authority: CertificateDer<'static>,
}

fn served() -> Served {
    let made = rcgen::generate_simple_self_signed(vec!["a.example".to_owned()]).unwrap();
    let authority = made.cert.der().clone();
    let key = Secret::new(made.signing_key.serialize_der());
    let certificate = Certificate { chain: vec![authority.to_vec()], key, summary: "a.example".into() };
    let port = free_port();
    let one_worker = Options { workers: Some(1), ..options() };
    let rig = Rig::with(one_worker, &[backend()], |snapshot| {
        snapshot.insert("a", Resource::Certificate(certificate));
        let tls = Tls { certificates: Vec::new(), default_certificate: Some("a".into()), client_validation: None };
        let listener = Listener { port, hostname: HostPattern::Any, protocol: Protocol::Https(tls) };
        snapshot.insert("secure", Resource::Listener(listener));
        snapshot.insert("secure", Resource::Route(route("secure", vec![rule("rule 0", "/", "app")])));
    });
    Served { plain: rig.address(), secure: SocketAddr::new(rig::LOOPBACK, port), rig, authority }
}

impl Served {
    fn tls(&self, protocol: &[u8]) -> StreamOwned<ClientConnection, TcpStream> {
        let mut roots = RootCertStore::empty();
        roots.add(self.authority.clone()).unwrap();
        let mut config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![protocol.to_vec()];
        let session = ClientConnection::new(Arc::new(config), ServerName::try_from("a.example").unwrap()).unwrap();
        let mut stream = StreamOwned::new(session, connect(self.secure));
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock).unwrap();
        }
        stream
    }

    /// The bytes that each of many connections costs once it is idle. `open` leaves its socket alone, which does not count.
    fn cost(&self, limit: usize, what: &str, open: impl Fn() -> TcpStream) {
        // What the process keeps for all.
        drop(open());
        eventually("nothing is open", || self.rig.proxy.open_connections() == 0);
        let before = allocated();
        let mut sockets = Vec::with_capacity(CONNECTIONS);
        let start = allocated() - before;
        sockets.extend((0..CONNECTIONS).map(|_| open()));
        eventually("all are accepted", || self.rig.proxy.open_connections() == CONNECTIONS as u64);
        let each = || allocated().saturating_sub(before + start) / CONNECTIONS;
        let busy = each();
        let begun = Instant::now();
        eventually(what, || each() <= limit || begun.elapsed() > Duration::from_secs(5));
        println!("{what}: {busy} bytes, after {:?} {}", begun.elapsed(), each());
        assert!(each() <= limit, "{what}: {} bytes of at most {limit}", each());
        assert_eq!(self.rig.proxy.open_connections(), CONNECTIONS as u64, "{what}");
        drop(sockets);
        eventually("all are closed", || self.rig.proxy.open_connections() == 0);
    }
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < end, "never happened: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Sends a request with a body of `body` bytes for a response of `size` bytes, and reads it.
fn exchange(stream: &mut (impl Read + Write), size: usize, body: usize) {
    let space = [b'x'; 16 * KIB];
    let length = if body > 0 { format!("content-length: {body}\r\n") } else { String::new() };
    write!(stream, "POST /{size} HTTP/1.1\r\nhost: a.example\r\n{length}\r\n").unwrap();
    let mut left = body;
    while left > 0 {
        let part = left.min(space.len());
        stream.write_all(&space[..part]).unwrap();
        left -= part;
    }
    stream.flush().unwrap();
    let mut space = [0; 64 * KIB];
    let mut filled = 0;
    let end = loop {
        let read = stream.read(&mut space[filled..]).unwrap();
        assert!(read > 0);
        filled += read;
        if let Some(end) = space[..filled].windows(4).position(|window| window == b"\r\n\r\n") {
            break end + 4;
        }
    };
    assert!(space.starts_with(b"HTTP/1.1 200 "), "{:?}", String::from_utf8_lossy(&space[..end]));
    let mut left = size - (filled - end);
    while left > 0 {
        let read = stream.read(&mut space).unwrap();
        assert!(read > 0);
        left -= read;
    }
}

/// The same in HTTP/2, on stream 1, after the preface.
fn exchange_http2(stream: &mut (impl Read + Write), size: usize) {
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap();
    // SETTINGS: windows of 1 GiB for streams; WINDOW_UPDATE: and for the connection.
    stream.write_all(&[0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 4, 0x40, 0, 0, 0]).unwrap();
    stream.write_all(&[0, 0, 4, 8, 0, 0, 0, 0, 0, 0x3f, 0, 0, 0]).unwrap();
    let path = format!("/{size}");
    let mut block = vec![0x82, 0x87, 0x04, path.len() as u8];
    block.extend(path.as_bytes());
    block.extend([0x41, 9]);
    block.extend(b"a.example");
    stream.write_all(&[0, 0, block.len() as u8, 1, 5, 0, 0, 0, 1]).unwrap();
    stream.write_all(&block).unwrap();
    stream.flush().unwrap();
    let mut space = [0; 64 * KIB];
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).unwrap();
        let [_, high, low, kind, flags, .., stream_id] = head;
        let length = usize::from(high) << 8 | usize::from(low);
        stream.read_exact(&mut space[..length]).unwrap();
        assert!(kind != 7 && kind != 3, "the stream or its connection ends: {:?}", &space[..length]);
        if kind == 4 && flags & 1 == 0 {
            stream.write_all(&[0, 0, 0, 4, 1, 0, 0, 0, 0]).unwrap();
            stream.flush().unwrap();
        }
        if kind <= 1 && flags & 1 == 1 && stream_id == 1 {
            return;
        }
    }
}

/// What came before the pause: the sizes of responses and of requests' bodies.
const HISTORIES: [(&str, &[(usize, usize)]); 6] = [
    ("one small response", &[(10, 0)]),
    ("three small responses", &[(10, 0), (10, 0), (10, 0)]),
    ("a response of 100 KiB", &[(100 * KIB, 0)]),
    ("a response of 1 MiB", &[(1024 * KIB, 0)]),
    ("a response of 1 MiB and three small ones", &[(1024 * KIB, 0), (10, 0), (10, 0), (10, 0)]),
    ("a request of 1 MiB", &[(10, 1024 * KIB)]),
];

#[test]
fn an_idle_connection_of_http1_keeps_5_kib() {
    let _turn = alone();
    let served = served();
    served.cost(PLAIN, "plain, connected", || connect(served.plain));
    for (history, exchanges) in HISTORIES {
        served.cost(PLAIN, &format!("plain, {history}"), || {
            let mut stream = connect(served.plain);
            exchanges.iter().for_each(|(size, body)| exchange(&mut stream, *size, *body));
            stream
        });
    }
}

#[test]
fn an_idle_connection_of_http1_over_tls_keeps_12_kib() {
    let _turn = alone();
    let served = served();
    served.cost(TLS, "TLS, handshake", || served.tls(b"http/1.1").sock);
    for (history, exchanges) in HISTORIES {
        served.cost(TLS, &format!("TLS, {history}"), || {
            let mut stream = served.tls(b"http/1.1");
            exchanges.iter().for_each(|(size, body)| exchange(&mut stream, *size, *body));
            stream.sock
        });
    }
}

#[test]
fn an_idle_connection_of_http2_over_tls_keeps_46_kib() {
    let _turn = alone();
    let served = served();
    for size in [10, 100 * KIB, 1024 * KIB] {
        served.cost(HTTP2, &format!("HTTP/2, a response of {size} bytes"), || {
            let mut stream = served.tls(b"h2");
            exchange_http2(&mut stream, size);
            stream.sock
        });
    }
}

#[test]
fn a_head_that_does_not_end_keeps_12_kib() {
    let _turn = alone();
    let served = served();
    for length in [1, 1000, 3000] {
        served.cost(SLOW_HEAD, &format!("a head of {length} bytes and more"), || {
            let mut stream = connect(served.plain);
            let head = [b"GET / HTTP/1.1\r\nx: ".as_slice(), &[b'x'; 3000]].concat();
            stream.write_all(&head[..length]).unwrap();
            stream
        });
    }
}
