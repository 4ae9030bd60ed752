use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use bytes::Bytes;
use http::Request;
use http_body_util::{Empty, Full};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use snapshot::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::backend::Backend;
use crate::client::{collect, http1, http2, raw};
use crate::rig::{Rig, eventually, free_port, options, route, rule};

/// A certificate for `name`, and its DER for those who trust it.
pub fn certificate(name: &str) -> (Certificate, CertificateDer<'static>) {
    let made = rcgen::generate_simple_self_signed(vec![name.to_owned()]).unwrap();
    let der = made.cert.der().clone();
    let key = Secret::new(made.signing_key.serialize_der());
    (Certificate { chain: vec![der.to_vec()], key, summary: name.into() }, der)
}

pub struct Secure {
    pub rig: Rig,
    address: SocketAddr,
    roots: RootCertStore,
}

impl Secure {
    /// A connection that speaks `protocol`.
    pub async fn connect(&self, protocol: &[u8]) -> TlsStream<TcpStream> {
        connect(&client(&self.roots, &[protocol]), self.address, "a.shop.example").await.unwrap()
    }
}

pub fn secure(endpoints: &[SocketAddr]) -> Secure {
    let port = free_port();
    let (exact, exact_der) = certificate("a.shop.example");
    let (wild, wild_der) = certificate("*.shop.example");
    let (fallback, fallback_der) = certificate("fallback.example");
    let mut roots = RootCertStore::empty();
    for der in [exact_der, wild_der, fallback_der] {
        roots.add(der).unwrap();
    }
    let rig = Rig::with(options(), endpoints, |snapshot| {
        snapshot.insert("exact", Resource::Certificate(exact));
        snapshot.insert("wild", Resource::Certificate(wild));
        snapshot.insert("fallback", Resource::Certificate(fallback));
        let entry = |pattern, name: &str| ServerCertificate { hosts: vec![pattern], certificate: name.into() };
        let tls = Tls {
            certificates: vec![
                entry(HostPattern::OneLabel("shop.example".into()), "wild"),
                entry(HostPattern::Exact("a.shop.example".into()), "exact"),
            ],
            default_certificate: Some("fallback".into()),
            client_validation: None,
        };
        let listener = Listener { port, hostname: HostPattern::Any, protocol: Protocol::Https(tls) };
        snapshot.insert("secure", Resource::Listener(listener));
        snapshot.insert("secure", Resource::Route(route("secure", vec![rule("rule 0", "/", "app")])));
    });
    Secure { address: SocketAddr::new(crate::rig::LOOPBACK, port), rig, roots }
}

fn client(roots: &RootCertStore, alpn: &[&[u8]]) -> TlsConnector {
    let mut config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots.clone())
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    TlsConnector::from(Arc::new(config))
}

async fn connect(connector: &TlsConnector, address: SocketAddr, name: &str) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await?;
    connector.connect(ServerName::try_from(name.to_owned()).unwrap(), stream).await
}

pub async fn over_http1(stream: TlsStream<TcpStream>, host: &str) -> crate::client::Answer {
    let (mut sender, driver) =
        hyper::client::conn::http1::handshake(hyper_util::rt::TokioIo::new(stream)).await.unwrap();
    tokio::spawn(driver);
    let request = Request::get("/").header("host", host).body(Empty::<Bytes>::new()).unwrap();
    collect(sender.send_request(request).await.unwrap()).await.unwrap()
}

#[tokio::test]
async fn the_server_name_chooses_the_certificate() {
    let backend = Backend::echo("one").await;
    let secure = secure(&[backend.address]);
    let connector = client(&secure.roots, &[]);
    for name in ["a.shop.example", "b.shop.example", "fallback.example"] {
        let stream = connect(&connector, secure.address, name).await.unwrap();
        let answer = over_http1(stream, name).await;
        assert!(answer.body.contains("x-forwarded-proto: https"), "{}", answer.body);
    }
    // The fallback's certificate is shown to others too, and does not name them.
    assert!(connect(&connector, secure.address, "stranger.example").await.is_err());
}

#[tokio::test]
async fn alpn_chooses_the_protocol() {
    let backend = Backend::echo("one").await;
    let secure = secure(&[backend.address]);
    let stream =
        connect(&client(&secure.roots, &[b"h2", b"http/1.1"]), secure.address, "a.shop.example").await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let request = Request::get("https://a.shop.example/").body(Full::<Bytes>::default()).unwrap();
    let answer = collect(http2(stream).await.send_request(request).await.unwrap()).await.unwrap();
    assert_eq!(answer.status, 200);
    let stream = connect(&client(&secure.roots, &[b"http/1.1"]), secure.address, "a.shop.example").await.unwrap();
    assert_eq!(over_http1(stream, "a.shop.example").await.status, 200);
}

#[tokio::test]
async fn plain_http_on_a_port_for_tls_is_told_so() {
    let backend = Backend::echo("one").await;
    let secure = secure(&[backend.address]);
    let two = "GET / HTTP/1.1\r\nHost: a.shop.example\r\n\r\n".repeat(2);
    let upload = format!("post / HTTP/1.0\r\nContent-Length: 100000\r\n\r\n{}", "x".repeat(100_000));
    for request in [two, upload] {
        let answer = raw(secure.address, request.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1."), "{answer:?}");
        assert!(answer.contains(" 400 Bad Request\r\n"), "{answer}");
        assert!(answer.contains("x-sluice-reason: plain_http\r\n"), "{answer}");
        assert!(answer.ends_with("\r\n\r\nThe plain HTTP request was sent to an HTTPS port.\n"), "{answer}");
        assert_eq!(answer.matches("HTTP/1.").count(), 1, "{answer}");
    }
    // What is neither gets an alert, as before.
    let alert = raw(secure.address, &[0x16, 3, 1, 0, 1, 9, 0x80, 0, 0, 0]).await;
    assert!(!alert.contains("HTTP"), "{alert:?}");
    assert_eq!(backend.connections.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_client_hello_in_pieces_is_understood() {
    let backend = Backend::echo("one").await;
    let secure = secure(&[backend.address]);
    // A server name and protocols that make the first flight larger than one read of it.
    let protocols: Vec<Vec<u8>> =
        (0..60).map(|n| format!("{n:0>100}").into_bytes()).chain([b"http/1.1".to_vec()]).collect();
    let protocols: Vec<&[u8]> = protocols.iter().map(Vec::as_slice).collect();
    let stream = connect(&client(&secure.roots, &protocols), secure.address, "a.shop.example").await.unwrap();
    assert_eq!(over_http1(stream, "a.shop.example").await.status, 200);
}

#[tokio::test]
async fn a_session_is_resumed_by_another_replica() {
    let backend = Backend::echo("one").await;
    let one = secure(&[backend.address]);
    let other = secure(&[backend.address]);
    let mut roots = one.roots.clone();
    roots.extend(other.roots.roots.iter().cloned());
    let connector = client(&roots, &[]);
    for (replica, expected) in [(&one, rustls::HandshakeKind::Full), (&other, rustls::HandshakeKind::Resumed)] {
        let stream = connect(&connector, replica.address, "a.shop.example").await.unwrap();
        assert_eq!(stream.get_ref().1.handshake_kind(), Some(expected));
        assert_eq!(over_http1(stream, "a.shop.example").await.status, 200);
    }
}

#[tokio::test]
async fn without_a_certificate_the_handshake_is_refused_and_a_broken_one_keeps_the_last_good() {
    let backend = Backend::echo("one").await;
    let mut secure = secure(&[backend.address]);
    let connector = client(&secure.roots, &[]);
    let broken = Certificate { chain: vec![vec![1, 2, 3]], key: Secret::new(vec![4, 5]), summary: "broken".into() };
    secure.rig.snapshot.insert("exact", Resource::Certificate(broken));
    let rejected = secure.rig.apply();
    assert_eq!(rejected.len(), 1);
    assert_eq!(rejected[0].id, ResourceId::new(Kind::Certificate, "exact"));
    assert!(connect(&connector, secure.address, "a.shop.example").await.is_ok());
    for name in ["exact", "wild", "fallback"] {
        secure.rig.snapshot.remove(&ResourceId::new(Kind::Certificate, name));
    }
    secure.rig.apply();
    assert!(connect(&connector, secure.address, "a.shop.example").await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_rotate_under_load_without_a_failure() {
    let backend = Backend::echo("one").await;
    let mut secure = secure(&[backend.address]);
    let address = secure.address;
    let stop = Arc::new(AtomicBool::new(false));
    let served = Arc::new(AtomicUsize::new(0));
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let (stop, served) = (stop.clone(), served.clone());
        clients.spawn(async move {
            while !stop.load(Ordering::SeqCst) {
                let connector = TlsConnector::from(Arc::new(trusting()));
                let stream = connect(&connector, address, "a.shop.example").await.expect("a handshake failed");
                assert_eq!(over_http1(stream, "a.shop.example").await.status, 200);
                served.fetch_add(1, Ordering::SeqCst);
            }
        });
    }
    for rotation in 0..50 {
        let (new, der) = certificate("a.shop.example");
        secure.rig.set("exact", Resource::Certificate(new));
        let stream = connect(&TlsConnector::from(Arc::new(trusting())), address, "a.shop.example").await.unwrap();
        assert_eq!(stream.get_ref().1.peer_certificates().unwrap()[0], der, "rotation {rotation}");
    }
    eventually("there was load", || served.load(Ordering::SeqCst) > 20).await;
    stop.store(true, Ordering::SeqCst);
    while let Some(client) = clients.join_next().await {
        client.unwrap();
    }
}

/// Trusts what is not yet known when the configuration is made; the test compares certificates itself.
pub fn trusting() -> ClientConfig {
    #[derive(Debug)]
    struct Anyone;
    impl rustls::client::danger::ServerCertVerifier for Anyone {
        fn verify_server_cert(
            &self,
            _: &CertificateDer<'_>,
            _: &[CertificateDer<'_>],
            _: &ServerName<'_>,
            _: &[u8],
            _: rustls::pki_types::UnixTime,
        ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
            Ok(rustls::client::danger::ServerCertVerified::assertion())
        }

        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &rustls::DigitallySignedStruct,
        ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
            Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
        }

        fn verify_tls13_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &rustls::DigitallySignedStruct,
        ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
            Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
        }

        fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
            rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
        }
    }
    ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anyone))
        .with_no_client_auth()
}

#[tokio::test]
async fn connections_of_before_end_when_a_port_begins_or_ceases_to_speak_tls() {
    let backend = Backend::echo("one").await;
    let mut rig = Rig::plain(&[backend.address]);
    let get = |uri: &str| Request::get(uri).header("host", "a.example").body(Full::<Bytes>::default()).unwrap();
    let mut kept = http1(rig.address()).await;
    assert_eq!(collect(kept.send_request(get("/")).await.unwrap()).await.unwrap().status, 200);
    let mut shared = http2(TcpStream::connect(rig.address()).await.unwrap()).await;
    assert_eq!(collect(shared.send_request(get("http://a.example/")).await.unwrap()).await.unwrap().status, 200);
    // How HTTP/2 begins, and POST.
    let mut begun = TcpStream::connect(rig.address()).await.unwrap();
    begun.write_all(b"P").await.unwrap();
    eventually("all are accepted", || rig.proxy.open_connections() == 3).await;

    let (certificate, der) = certificate("a.example");
    rig.snapshot.insert("shown", Resource::Certificate(certificate));
    let tls = Tls { certificates: Vec::new(), default_certificate: Some("shown".into()), client_validation: None };
    let listener = |protocol| Resource::Listener(Listener { port: rig.port, hostname: HostPattern::Any, protocol });
    let (secure, plain) = (listener(Protocol::Https(tls)), listener(Protocol::Http));
    rig.set("web", secure);
    let _ = begun.write_all(b"OST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 0\r\n\r\n").await;
    let mut answer = Vec::new();
    let _ = begun.read_to_end(&mut answer).await;
    assert!(!String::from_utf8_lossy(&answer).contains(" 200 "));
    if let Ok(response) = kept.send_request(get("/")).await {
        assert_eq!(response.status(), 421);
    }
    eventually("the plain connections end", || kept.is_closed() && shared.is_closed()).await;

    let mut roots = RootCertStore::empty();
    roots.add(der).unwrap();
    let stream = connect(&client(&roots, &[b"h2"]), rig.address(), "a.example").await.unwrap();
    let mut shared = http2(stream).await;
    assert_eq!(collect(shared.send_request(get("https://a.example/")).await.unwrap()).await.unwrap().status, 200);
    rig.set("web", plain);
    eventually("the connection with TLS ends", || shared.is_closed()).await;
}
