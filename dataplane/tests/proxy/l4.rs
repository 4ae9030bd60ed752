//! Connections without HTTP: TCP, TLS that is passed through and TLS that ends here.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use dataplane::{Options, Proxy};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use snapshot::*;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;

use crate::backend::Backend;
use crate::client::fetch;
use crate::rig::{LOOPBACK, Rig, addresses, cluster, eventually, free_port, options, route, rule};
use crate::tls::{certificate, over_http1, trusting};

/// A peer that says its name, sends everything back, and when the client is done says good-bye.
pub struct Peer {
    pub address: SocketAddr,
    accepting: JoinHandle<()>,
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Peer {
    pub async fn tcp(name: &'static str) -> Self {
        Self::start(move |stream| talk(name, stream)).await
    }

    async fn tls(name: &'static str, certificate: &Certificate) -> Self {
        let chain = certificate.chain.iter().map(|der| CertificateDer::from(der.clone())).collect();
        let key = PrivateKeyDer::try_from(certificate.key.expose().to_vec()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        Self::start(move |stream| {
            let acceptor = acceptor.clone();
            async move {
                if let Ok(stream) = acceptor.accept(stream).await {
                    talk(name, stream).await;
                }
            }
        })
        .await
    }

    async fn start<T>(talk: impl Fn(TcpStream) -> T + Send + 'static) -> Self
    where
        T: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind((LOOPBACK, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(talk(stream));
            }
        });
        Self { address, accepting }
    }
}

async fn talk(name: &str, mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    let mut buf = [0; 4096];
    if stream.write_all(format!("{name} ").as_bytes()).await.is_err() || stream.flush().await.is_err() {
        return;
    }
    loop {
        match stream.read(&mut buf).await {
            Ok(0) => break,
            Ok(read) if stream.write_all(&buf[..read]).await.is_ok() && stream.flush().await.is_ok() => {}
            _ => return,
        }
    }
    let _ = stream.write_all(b" bye").await;
    let _ = stream.shutdown().await;
}

/// Sends `message`, says that this is all, and returns everything that comes.
pub async fn exchange(mut stream: impl AsyncRead + AsyncWrite + Unpin, message: &[u8]) -> io::Result<String> {
    let (mut reading, mut writing) = tokio::io::split(&mut stream);
    let mut answer = Vec::new();
    let write = async {
        writing.write_all(message).await?;
        writing.shutdown().await
    };
    let (wrote, read) = tokio::join!(write, reading.read_to_end(&mut answer));
    wrote.and(read)?;
    Ok(String::from_utf8(answer).unwrap())
}

fn exact(name: &str) -> HostPattern {
    HostPattern::Exact(name.into())
}

fn listener(port: u16, hostname: HostPattern, protocol: Protocol) -> Resource {
    Resource::Listener(Listener { port, hostname, protocol })
}

fn terminated(certificate: &str) -> Tls {
    Tls { certificates: Vec::new(), default_certificate: Some(certificate.into()), client_validation: None }
}

fn l4_cluster(endpoints: &str, protocol: BackendProtocol) -> Resource {
    Resource::Cluster(Cluster { protocol, ..cluster(endpoints) })
}

/// A route of this name on a listener, for one host name, to these targets with their weights.
fn l4_route(name: &str, listener: &str, hostname: HostPattern, targets: &[(u32, Target)]) -> Resource {
    Resource::L4Route(L4Route {
        name: name.into(),
        attachments: vec![Attachment { listener: listener.into(), hostnames: vec![hostname] }],
        rank: Rank { specificity: 0, created: 0, object: name.into(), rule: 0 },
        backends: targets.iter().cloned().map(|(weight, target)| L4Backend { weight, target }).collect(),
    })
}

fn to(cluster: &str) -> Target {
    Target::Cluster(cluster.into())
}

/// A data plane with a port of TCP whose route leads to these endpoints.
fn tcp_with(options: Options, endpoints: &[SocketAddr]) -> (Rig, SocketAddr) {
    let port = free_port();
    let rig = Rig::with(options, &[], |snapshot| {
        snapshot.insert("db", Resource::Endpoints(addresses(endpoints)));
        snapshot.insert("db", l4_cluster("db", BackendProtocol::Tcp));
        snapshot.insert("tcp", listener(port, HostPattern::Any, Protocol::Tcp));
        snapshot.insert("db", l4_route("TCPRoute test/db", "tcp", HostPattern::Any, &[(1, to("db"))]));
    });
    (rig, SocketAddr::new(LOOPBACK, port))
}

pub fn tcp(endpoints: &[SocketAddr]) -> (Rig, SocketAddr) {
    tcp_with(options(), endpoints)
}

async fn tls_client<S>(stream: S, name: &str) -> io::Result<tokio_rustls::client::TlsStream<S>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    TlsConnector::from(Arc::new(trusting())).connect(ServerName::try_from(name.to_owned()).unwrap(), stream).await
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Log {
    /// The lines, once there are so many.
    async fn lines(&self, count: usize) -> Vec<serde_json::Value> {
        let lines = || -> Vec<serde_json::Value> {
            let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
        };
        eventually("the lines are written", || lines().len() >= count).await;
        lines()
    }
}

/// The same data plane with an access log.
fn logged(rig: Rig, options: Options) -> (Rig, Log) {
    let Rig { proxy, mut snapshot, port } = rig;
    drop(proxy);
    let log = Log::default();
    let settings = Settings { access_log: AccessLog::Json, ..crate::rig::settings() };
    snapshot.insert("settings", Resource::Settings(settings));
    let mut rig = Rig { proxy: Proxy::start_logging_to(options, log.clone()).unwrap(), snapshot, port };
    assert_eq!(rig.apply(), []);
    (rig, log)
}

#[tokio::test]
async fn bytes_flow_both_ways_and_each_side_may_finish_first() {
    let peer = Peer::tcp("one").await;
    let (_rig, address) = tcp(&[peer.address]);
    let message = "x".repeat(300_000);
    let answer = exchange(TcpStream::connect(address).await.unwrap(), message.as_bytes()).await.unwrap();
    assert_eq!(answer, format!("one {message} bye"));

    // A backend that is done first still gets all that the client has to say.
    let (heard, hearing) = tokio::sync::oneshot::channel();
    let heard = Mutex::new(Some(heard));
    let first = Peer::start(move |mut stream| {
        let heard = heard.lock().unwrap().take();
        async move {
            stream.write_all(b"that is all").await.unwrap();
            stream.shutdown().await.unwrap();
            let mut rest = Vec::new();
            stream.read_to_end(&mut rest).await.unwrap();
            heard.unwrap().send(rest).unwrap();
        }
    })
    .await;
    let (_rig, address) = tcp(&[first.address]);
    let mut client = TcpStream::connect(address).await.unwrap();
    let mut said = String::new();
    client.read_to_string(&mut said).await.unwrap();
    assert_eq!(said, "that is all");
    client.write_all(message.as_bytes()).await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(hearing.await.unwrap(), message.as_bytes());
}

#[tokio::test]
async fn a_side_that_reads_nothing_holds_the_other_back() {
    let (release, released) = tokio::sync::watch::channel(false);
    let peer = Peer::start(move |mut stream| {
        let mut released = released.clone();
        async move {
            released.wait_for(|released| *released).await.unwrap();
            let read = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await.unwrap();
            stream.write_all(read.to_string().as_bytes()).await.unwrap();
        }
    })
    .await;
    let (_rig, address) = tcp(&[peer.address]);
    let mut client = TcpStream::connect(address).await.unwrap();
    let mut sent = 0;
    // The kernel's buffers of two connections and ours are finite.
    while let Ok(written) = tokio::time::timeout(Duration::from_millis(500), client.write(&[1; 65_536])).await {
        sent += written.unwrap();
        assert!(sent < 64 << 20, "the data plane takes everything");
    }
    release.send(true).unwrap();
    client.shutdown().await.unwrap();
    let mut read = String::new();
    client.read_to_string(&mut read).await.unwrap();
    assert_eq!(read, sent.to_string());
}

#[tokio::test]
async fn a_broken_connection_does_not_look_complete() {
    let peer = Peer::start(|mut stream| async move {
        stream.write_all(b"half of it").await.unwrap();
        // Waits until it has arrived, for a reset overtakes what is on its way.
        stream.read_u8().await.unwrap();
        stream.set_zero_linger().unwrap();
    })
    .await;
    let (_rig, address) = tcp(&[peer.address]);
    let mut client = TcpStream::connect(address).await.unwrap();
    let mut half = [0; 10];
    client.read_exact(&mut half).await.unwrap();
    client.write_all(b"x").await.unwrap();
    let error = client.read_to_end(&mut Vec::new()).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn shares_follow_the_weights_and_broken_ones_are_closed() {
    let peers = [Peer::tcp("one").await, Peer::tcp("two").await];
    let (mut rig, address) = tcp(&[peers[0].address]);
    rig.snapshot.insert("other", Resource::Endpoints(addresses(&[peers[1].address])));
    rig.snapshot.insert("other", l4_cluster("other", BackendProtocol::Tcp));
    let broken = Target::Refuse(Refusal::InvalidBackend);
    let targets = [(2, to("db")), (1, to("other")), (1, broken), (0, to("db"))];
    rig.set("db", l4_route("TCPRoute test/db", "tcp", HostPattern::Any, &targets));
    let mut counts: HashMap<String, usize> = HashMap::new();
    for _ in 0..400 {
        let answer = exchange(TcpStream::connect(address).await.unwrap(), b"").await.unwrap_or_default();
        *counts.entry(answer).or_default() += 1;
    }
    let count = |answer: &str| counts.get(answer).copied().unwrap_or_default();
    assert!((150..250).contains(&count("one  bye")), "{counts:?}");
    assert!((60..140).contains(&count("two  bye")), "{counts:?}");
    assert!((60..140).contains(&count("")), "{counts:?}");
}

#[tokio::test]
async fn another_endpoint_is_tried_when_one_refuses() {
    let peer = Peer::tcp("alive").await;
    let dead = SocketAddr::new(LOOPBACK, free_port());
    let (mut rig, address) = tcp(&[dead, peer.address]);
    for _ in 0..10 {
        assert_eq!(exchange(TcpStream::connect(address).await.unwrap(), b"x").await.unwrap(), "alive x bye");
    }
    rig.set("db", Resource::Endpoints(addresses(&[dead])));
    assert_eq!(exchange(TcpStream::connect(address).await.unwrap(), b"").await.unwrap_or_default(), "");
}

#[tokio::test]
async fn an_idle_connection_ends_and_each_connection_is_counted_and_logged() {
    let peer = Peer::tcp("one").await;
    let options = Options { tunnel_timeout: Duration::from_millis(200), ..options() };
    let (rig, address) = tcp_with(options.clone(), &[peer.address]);
    let (rig, log) = logged(rig, options);
    assert_eq!(exchange(TcpStream::connect(address).await.unwrap(), b"hello").await.unwrap(), "one hello bye");
    let mut idle = TcpStream::connect(address).await.unwrap();
    let mut said = Vec::new();
    let error = idle.read_to_end(&mut said).await.unwrap_err();
    assert_eq!((&said[..], error.kind()), (&b"one "[..], io::ErrorKind::ConnectionReset));
    let mut lines = log.lines(2).await;
    // Workers write theirs when they come to it.
    lines.sort_by_key(|line| line["time"].to_string());
    for line in &lines {
        assert_eq!(line["client"], "127.0.0.1");
        assert_eq!((&line["protocol"], &line["port"]), (&"tcp".into(), &address.port().into()));
        assert_eq!(line["route"], "TCPRoute test/db");
        assert_eq!(line["endpoint"], peer.address.to_string());
        assert!(line["duration"].as_f64().is_some());
    }
    let bytes = |line: &serde_json::Value| (line["bytes_in"].as_u64().unwrap(), line["bytes_out"].as_u64().unwrap());
    assert_eq!((bytes(&lines[0]), &lines[0]["reason"]), ((5, 13), &serde_json::Value::Null));
    assert_eq!((bytes(&lines[1]), &lines[1]["reason"]), ((0, 4), &"idle_timeout".into()));
    let page = fetch(rig.proxy.admin_address().unwrap(), "/metrics").await.body;
    for line in [
        "sluice_l4_connections_total{route=\"TCPRoute test/db\"} 2",
        "sluice_l4_received_bytes_total{route=\"TCPRoute test/db\"} 5",
        "sluice_l4_sent_bytes_total{route=\"TCPRoute test/db\"} 17",
        "sluice_l4_failures_total{route=\"TCPRoute test/db\",reason=\"idle_timeout\"} 1",
        "sluice_tunnels_open 0",
    ] {
        assert!(page.contains(line), "{line} in\n{page}");
    }
}

#[tokio::test]
async fn connections_live_through_edits_and_a_drain_up_to_its_deadline() {
    let peer = Peer::tcp("one").await;
    let (rig, address) = tcp(&[peer.address]);
    let (mut rig, log) = logged(rig, options());
    let mut client = TcpStream::connect(address).await.unwrap();
    let mut buf = [0; 4];
    client.read_exact(&mut buf).await.unwrap();
    // Even without its route and its listener.
    rig.snapshot.remove(&ResourceId::new(Kind::L4Route, "db"));
    rig.snapshot.remove(&ResourceId::new(Kind::Listener, "tcp"));
    assert_eq!(rig.apply(), []);
    client.write_all(b"more").await.unwrap();
    client.read_exact(&mut buf).await.unwrap();
    assert_eq!(&buf, b"more");
    let during = async {
        while rig.proxy.ready() {
            tokio::task::yield_now().await;
        }
        client.write_all(b"last").await.unwrap();
        client.read_exact(&mut buf).await.unwrap();
        let mut rest = Vec::new();
        let error = client.read_to_end(&mut rest).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        rest
    };
    let (drained, rest) = tokio::join!(rig.proxy.drain(Duration::from_millis(600)), during);
    assert_eq!((drained.cut, rest), (1, Vec::new()));
    assert_eq!(log.lines(1).await[0]["reason"], "cut");
}

/// A connection that sends a few bytes at a time.
struct Dripping(TcpStream);

impl AsyncRead for Dripping {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Dripping {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, &buf[..buf.len().min(50)])
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// One port with HTTPS (`web.example`), TLS that ends here (`*.term.example`) and TLS that is passed on (`*.pass.example`).
struct Mixed {
    rig: Rig,
    address: SocketAddr,
    _peers: [Peer; 3],
    _backend: Backend,
    certificates: HashMap<&'static str, CertificateDer<'static>>,
}

async fn mixed() -> Mixed {
    let port = free_port();
    let mut certificates = HashMap::new();
    let mut certified = |name: &'static str| {
        let (certificate, der) = certificate(name);
        certificates.insert(name, der);
        certificate
    };
    let [web, term, pass] = ["web.example", "a.term.example", "a.pass.example"].map(&mut certified);
    let [general, special] = [Peer::tls("general", &pass).await, Peer::tls("special", &pass).await];
    let plain = Peer::tcp("plain").await;
    let backend = Backend::echo("web").await;
    let endpoints = [backend.address];
    let rig = Rig::with(options(), &endpoints, |snapshot| {
        for (name, peer) in [("general", &general), ("special", &special), ("plain", &plain)] {
            snapshot.insert(name, Resource::Endpoints(addresses(&[peer.address])));
            snapshot.insert(name, l4_cluster(name, BackendProtocol::Tcp));
        }
        for (name, certificate) in [("web", web), ("term", term)] {
            snapshot.insert(name, Resource::Certificate(certificate));
        }
        let [pass, term] = ["pass.example", "term.example"].map(|suffix| HostPattern::AnyLabels(suffix.into()));
        snapshot.insert("https", listener(port, exact("web.example"), Protocol::Https(terminated("web"))));
        snapshot.insert("term", listener(port, term.clone(), Protocol::TlsTerminate(terminated("term"))));
        snapshot.insert("pass", listener(port, pass.clone(), Protocol::TlsPassthrough));
        snapshot.insert("https", Resource::Route(route("https", vec![rule("rule 0", "/", "app")])));
        snapshot.insert("general", l4_route("general", "pass", pass, &[(1, to("general"))]));
        snapshot.insert("special", l4_route("special", "pass", exact("b.pass.example"), &[(1, to("special"))]));
        snapshot.insert("plain", l4_route("plain", "term", term, &[(1, to("plain"))]));
        let broken = [(1, Target::Refuse(Refusal::InvalidBackend))];
        snapshot.insert("broken", l4_route("broken", "term", exact("broken.term.example"), &broken));
    });
    let address = SocketAddr::new(LOOPBACK, port);
    Mixed { rig, address, _peers: [general, special, plain], _backend: backend, certificates }
}

#[tokio::test]
async fn the_server_name_tells_apart_what_is_opened_and_what_is_passed_on() {
    let mixed = mixed().await;
    for (name, certificate, said) in [
        ("a.pass.example", "a.pass.example", "general hi bye"),
        ("b.pass.example", "a.pass.example", "special hi bye"),
        ("x.b.pass.example", "a.pass.example", "general hi bye"),
        ("a.term.example", "a.term.example", "plain hi bye"),
    ] {
        let stream = TcpStream::connect(mixed.address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let stream = tls_client(Dripping(stream), name).await.unwrap();
        assert_eq!(stream.get_ref().1.peer_certificates().unwrap()[0], mixed.certificates[certificate], "{name}");
        assert_eq!(exchange(stream, b"hi").await.unwrap(), said, "{name}");
    }
    let web = |host: &'static str| async move {
        let stream = tls_client(TcpStream::connect(mixed.address).await.unwrap(), "web.example").await.unwrap();
        over_http1(stream, host).await
    };
    assert_eq!(web("web.example").await.status, 200);
    // What is another listener's is not served on this connection, whatever that one speaks.
    assert_eq!(web("a.pass.example").await.status, 421);
}

#[tokio::test]
async fn a_name_that_leads_nowhere_is_closed_without_an_alert() {
    let mixed = mixed().await;
    let log = Log::default();
    let settings = Settings { access_log: AccessLog::Json, ..crate::rig::settings() };
    let Mixed { mut rig, address, .. } = mixed;
    rig.snapshot.insert("settings", Resource::Settings(settings));
    rig.proxy = Proxy::start_logging_to(options(), log.clone()).unwrap();
    assert_eq!(rig.apply(), []);
    // No listener, a listener without a route, a route without a backend, no name at all; what is no TLS.
    let hello = |name: &str| {
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let mut bytes = Vec::new();
        rustls::ClientConnection::new(Arc::new(trusting()), name).unwrap().write_tls(&mut bytes).unwrap();
        bytes
    };
    rig.snapshot.remove(&ResourceId::new(Kind::L4Route, "general"));
    assert_eq!(rig.apply(), []);
    for bytes in [
        hello("stranger.example"),
        hello("a.pass.example"),
        hello("broken.term.example"),
        hello("192.0.2.1"),
        b"GET / HTTP/1.1\r\nHost: web.example\r\n\r\n".to_vec(),
    ] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(&bytes).await.unwrap();
        let mut answer = Vec::new();
        let read = tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut answer)).await;
        // FIN and RST are both the end; what counts is that nothing is sent.
        let _ = read.expect("the connection stays open");
        assert_eq!(answer, b"", "{:?}", String::from_utf8_lossy(&bytes));
    }
    let lines = log.lines(4).await;
    let mut told: Vec<_> = lines
        .iter()
        .map(|line| {
            let text = |field: &str| line[field].as_str().unwrap_or_default().to_owned();
            (text("server_name"), text("protocol"), text("reason"))
        })
        .collect();
    told.sort();
    let expected = [
        ("", "tls", "no_route"),
        ("a.pass.example", "tls_passthrough", "no_route"),
        ("broken.term.example", "tls_terminate", "invalid_backend"),
        ("stranger.example", "tls", "no_route"),
    ];
    let expected = expected.map(|(name, protocol, reason)| (name.into(), protocol.into(), reason.into()));
    assert_eq!(told, expected);
}

#[tokio::test]
async fn bytes_go_to_backends_over_tls() {
    let (certificate, der) = certificate("backend.example");
    let (_, stranger) = crate::tls::certificate("backend.example");
    let peer = Peer::tls("secret", &certificate).await;
    let (mut rig, address) = tcp(&[peer.address]);
    let mut trust = |authority: &CertificateDer<'_>| {
        let authorities = Authorities::These(vec![authority.to_vec()]);
        let tls = BackendTls {
            server_name: Some("backend.example".into()),
            verification: Verification::Required { authorities, names: Vec::new() },
            client_certificate: None,
        };
        rig.set("db", l4_cluster("db", BackendProtocol::Tls(tls)));
    };
    trust(&der);
    assert_eq!(exchange(TcpStream::connect(address).await.unwrap(), b"x").await.unwrap(), "secret x bye");
    trust(&stranger);
    assert_eq!(exchange(TcpStream::connect(address).await.unwrap(), b"").await.unwrap_or_default(), "");
}
