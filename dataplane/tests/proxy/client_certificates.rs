//! Listeners that ask clients for certificates (GEP-91).

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use rcgen::{BasicConstraints, IsCa};
use rustls::{ClientConfig, HandshakeKind};
use snapshot::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::authority::{Authority, connect_again, parts, self_signed, trusting};
use crate::backend::Backend;
use crate::client::{collect, http2};
use crate::rig::{Rig, eventually, free_port, options, route, rule};

const GUARDED: &str = "guarded.example";
const OPEN: &str = "open.example";

/// A port with a listener that asks for certificates, and one for all other names that does not.
struct Guarded {
    rig: Rig,
    servers: Authority,
    port: u16,
    _backend: Backend,
}

impl Guarded {
    async fn new(validation: Option<ClientValidation>) -> Self {
        let backend = Backend::echo("one").await;
        let servers = Authority::new();
        let port = free_port();
        let rig = Rig::with(options(), &[backend.address], |snapshot| {
            snapshot.insert("shown", Resource::Certificate(servers.server(&[GUARDED, OPEN])));
            snapshot.insert("guarded", listener(port, HostPattern::Exact(GUARDED.into()), validation));
            snapshot.insert("open", listener(port, HostPattern::Any, None));
            for name in ["guarded", "open"] {
                snapshot.insert(format!("{name}-route"), Resource::Route(route(name, vec![rule(name, "/", "app")])));
            }
        });
        Self { rig, servers, port, _backend: backend }
    }

    fn demand(&mut self, validation: Option<ClientValidation>) -> Vec<dataplane::Rejection> {
        let port = self.port;
        self.rig.snapshot.insert("guarded", listener(port, HostPattern::Exact(GUARDED.into()), validation));
        self.rig.apply()
    }

    fn client(&self, certificate: Option<&Certificate>) -> Arc<ClientConfig> {
        let mut config = trusting(&[&self.servers], certificate);
        config.alpn_protocols = vec![b"h2".to_vec()];
        Arc::new(config)
    }

    /// The answer's status, and how the handshake went; `None` where the connection fails.
    async fn get(&self, client: &Arc<ClientConfig>, name: &str) -> Option<(u16, HandshakeKind)> {
        let address = SocketAddr::new(self.rig.address().ip(), self.port);
        let stream = connect_again(client, address, name).await.ok()?;
        let kind = stream.get_ref().1.handshake_kind()?;
        // In TLS 1.3 the client's part of the handshake ends before the server has judged its certificate.
        let request = Request::get(format!("https://{name}/")).body(Full::<Bytes>::default()).unwrap();
        let answer = collect(http2(stream).await.send_request(request).await.ok()?).await.ok()?;
        Some((answer.status.as_u16(), kind))
    }

    async fn passes(&self, certificate: Option<&Certificate>, name: &str) -> bool {
        self.get(&self.client(certificate), name).await.is_some_and(|(status, _)| status == 200)
    }
}

fn listener(port: u16, hostname: HostPattern, client_validation: Option<ClientValidation>) -> Resource {
    let tls = Tls { certificates: Vec::new(), default_certificate: Some("shown".into()), client_validation };
    Resource::Listener(Listener { port, hostname, protocol: Protocol::Https(tls) })
}

fn required(authorities: &[&Authority]) -> Option<ClientValidation> {
    Some(ClientValidation::Required(authorities.iter().map(|authority| authority.der.clone()).collect()))
}

#[tokio::test]
async fn only_clients_of_the_authority_pass_where_a_certificate_is_required() {
    let (ours, other) = (Authority::new(), Authority::new());
    let mut port = Guarded::new(required(&[&ours])).await;
    let (client, stranger) = (ours.client(), other.client());
    // Both authorities have the same name.
    assert!(port.passes(Some(&client), GUARDED).await);
    assert!(!port.passes(Some(&stranger), GUARDED).await);
    assert!(!port.passes(None, GUARDED).await);
    assert!(!port.passes(Some(&ours.server(&["a.example"])), GUARDED).await, "a server's certificate is no client's");
    // The other listener of the port asks nobody.
    assert!(port.passes(None, OPEN).await);
    assert!(port.passes(Some(&stranger), OPEN).await);

    assert_eq!(port.demand(required(&[&other, &ours])), []);
    assert!(port.passes(Some(&client), GUARDED).await);
    assert!(port.passes(Some(&stranger), GUARDED).await);
    assert_eq!(port.demand(required(&[&other])), []);
    assert!(!port.passes(Some(&client), GUARDED).await, "its authority was taken away");
    assert!(port.passes(Some(&stranger), GUARDED).await);
    assert_eq!(port.demand(None), []);
    assert!(port.passes(None, GUARDED).await);
}

#[tokio::test]
async fn a_clients_certificate_may_vouch_for_itself() {
    for is_ca in [IsCa::NoCa, IsCa::Ca(BasicConstraints::Unconstrained)] {
        let own = self_signed(&[], is_ca);
        let other = self_signed(&[], is_ca);
        let port = Guarded::new(Some(ClientValidation::Required(own.chain.clone()))).await;
        assert!(port.passes(Some(&own), GUARDED).await, "{is_ca:?}");
        assert!(!port.passes(Some(&other), GUARDED).await, "{is_ca:?}");
    }
}

#[tokio::test]
async fn any_certificate_and_none_pass_where_one_is_only_requested() {
    let port = Guarded::new(Some(ClientValidation::Requested)).await;
    assert!(port.passes(None, GUARDED).await);
    assert!(port.passes(Some(&Authority::new().client()), GUARDED).await);
    assert!(port.passes(Some(&self_signed(&["a.example"], IsCa::NoCa)), GUARDED).await);
    // Its key has to be the client's all the same.
    let (chain, _) = parts(&Authority::new().client());
    let (_, key) = parts(&Authority::new().client());
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let key = provider.key_provider.load_private_key(key).unwrap();
    let mut config = trusting(&[&port.servers], None);
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.client_auth_cert_resolver =
        Arc::new(rustls::sign::SingleCertAndKey::from(rustls::sign::CertifiedKey::new(chain, key)));
    assert_eq!(port.get(&Arc::new(config), GUARDED).await, None);
}

#[tokio::test]
async fn no_session_leads_past_what_is_asked_of_clients() {
    let (ours, other) = (Authority::new(), Authority::new());
    let certificate = ours.client();
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        let mut port = Guarded::new(None).await;
        let with = |certificate: Option<&Certificate>| {
            let mut roots = rustls::RootCertStore::empty();
            roots.add(port.servers.der.clone().into()).unwrap();
            let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
            let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[version]).unwrap();
            let builder = builder.with_root_certificates(roots);
            let mut config = match certificate {
                Some(certificate) => {
                    let (chain, key) = parts(certificate);
                    builder.with_client_auth_cert(chain, key).unwrap()
                }
                None => builder.with_no_client_auth(),
            };
            config.alpn_protocols = vec![b"h2".to_vec()];
            Arc::new(config)
        };
        let (nobody, known) = (with(None), with(Some(&certificate)));
        for client in [&nobody, &known] {
            assert_eq!(port.get(client, GUARDED).await, Some((200, HandshakeKind::Full)));
            assert_eq!(port.get(client, GUARDED).await, Some((200, HandshakeKind::Resumed)));
        }
        // Both hold tickets of sessions in which no certificate was asked for.
        assert_eq!(port.demand(required(&[&ours])), []);
        assert_eq!(port.get(&nobody, GUARDED).await, None, "{version:?}");
        // A certificate is verified in each handshake.
        for _ in 0..3 {
            assert_eq!(port.get(&known, GUARDED).await, Some((200, HandshakeKind::Full)), "{version:?}");
        }
        // And now of a session that counted under another authority.
        assert_eq!(port.demand(required(&[&other])), []);
        assert_eq!(port.get(&known, GUARDED).await, None, "{version:?}");
    }
}

#[tokio::test]
async fn a_session_does_not_outlive_its_clients_certificate() {
    const LIFE: Duration = Duration::from_secs(6);
    let ours = Authority::new();
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        let port = Guarded::new(required(&[&ours])).await;
        let certificate = ours.client_for(LIFE);
        let mut roots = rustls::RootCertStore::empty();
        roots.add(port.servers.der.clone().into()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[version]).unwrap();
        let (chain, key) = parts(&certificate);
        let mut client = builder.with_root_certificates(roots).with_client_auth_cert(chain, key).unwrap();
        client.alpn_protocols = vec![b"h2".to_vec()];
        let client = Arc::new(client);
        assert_eq!(port.get(&client, GUARDED).await.map(|(status, _)| status), Some(200), "{version:?}");
        // It is refused as soon as it has expired, though the client kept what it could of its sessions.
        let expired = tokio::time::timeout(LIFE * 5, async {
            while port.get(&client, GUARDED).await.is_some() {
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        });
        expired.await.unwrap_or_else(|_| panic!("{version:?}: still let in"));
    }
}

#[tokio::test]
async fn connections_of_before_end_when_certificates_become_required() {
    let ours = Authority::new();
    let mut port = Guarded::new(None).await;
    let address = SocketAddr::new(port.rig.address().ip(), port.port);
    let stream = connect_again(&port.client(None), address, GUARDED).await.unwrap();
    let mut connection = http2(stream).await;
    let request = || Request::get(format!("https://{GUARDED}/")).body(Full::<Bytes>::default()).unwrap();
    assert_eq!(collect(connection.send_request(request()).await.unwrap()).await.unwrap().status, 200);
    assert_eq!(port.demand(required(&[&ours])), []);
    eventually("the connection ends", || connection.is_closed()).await;
    // One that has shown its certificate stays when nothing more is asked.
    let stream = connect_again(&port.client(Some(&ours.client())), address, GUARDED).await.unwrap();
    let mut connection = http2(stream).await;
    port.rig.set("unrelated", listener(port.port, HostPattern::Exact("new.example".into()), None));
    assert_eq!(collect(connection.send_request(request()).await.unwrap()).await.unwrap().status, 200);
}

/// The head of a request in HTTP/2, the last frame of its stream or not.
fn headers(stream: u8, is_last: bool) -> Vec<u8> {
    // POST, https, /, and the authority as it is.
    let block = [&[0x83, 0x87, 0x84, 0x01, GUARDED.len() as u8], GUARDED.as_bytes()].concat();
    let flags = if is_last { 5 } else { 4 };
    [&[0, 0, block.len() as u8, 1, flags, 0, 0, 0, stream], &block[..]].concat()
}

#[tokio::test]
async fn who_answers_no_ping_does_not_stay_when_certificates_become_required() {
    let mut port = Guarded::new(None).await;
    let address = SocketAddr::new(port.rig.address().ip(), port.port);
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    // One that has nothing under way, and one with a request that never ends, beside which it sends others.
    let mut idle = connect_again(&port.client(None), address, GUARDED).await.unwrap();
    let mut busy = connect_again(&port.client(None), address, GUARDED).await.unwrap();
    let (ping, pong) = (b"\0\0\x08\x06\0\0\0\0\0no hurry", b"\0\0\x08\x06\x01\0\0\0\0no hurry");
    let mut space = [0; 4096];
    for (client, is_last) in [(&mut idle, true), (&mut busy, false)] {
        client.write_all(&[&preface[..], &headers(1, is_last), ping].concat()).await.unwrap();
        client.flush().await.unwrap();
        // Then the request before it has arrived.
        let mut frames = Vec::new();
        while !frames.windows(pong.len()).any(|frame| frame == pong) {
            let read = client.read(&mut space).await.unwrap();
            frames.extend_from_slice(&space[..read]);
        }
    }
    assert_eq!(port.demand(required(&[&Authority::new()])), []);
    let leaves = async {
        while matches!(idle.read(&mut space).await, Ok(1..)) {}
        let mut frames = Vec::new();
        for stream in (3..=255).step_by(2) {
            busy.write_all(&headers(stream, true)).await.unwrap();
            busy.flush().await.unwrap();
            if let Ok(read) = tokio::time::timeout(Duration::from_millis(100), busy.read(&mut space)).await {
                frames.extend_from_slice(&space[..read.unwrap()]);
            }
            // RST_STREAM with REFUSED_STREAM.
            if frames.windows(13).any(|frame| frame[..8] == [0, 0, 4, 3, 0, 0, 0, 0] && frame[9..] == [0, 0, 0, 7]) {
                return;
            }
        }
        panic!("requests go on");
    };
    tokio::time::timeout(Duration::from_secs(20), leaves).await.expect("the connections stay");
    // The request that is under way is not cut.
    eventually("one is left", || port.rig.proxy.open_connections() == 1).await;
    drop(busy);
    eventually("both are closed", || port.rig.proxy.open_connections() == 0).await;
}

#[tokio::test]
async fn a_broken_authority_of_clients_is_named_and_the_others_count() {
    let (ours, before) = (Authority::new(), Authority::new());
    let (client, stranger) = (ours.client(), before.client());
    let mut port = Guarded::new(required(&[&before])).await;
    let nonsense = || b"nonsense".to_vec();
    for _ in 0..2 {
        let rejected = port.demand(Some(ClientValidation::Required(vec![nonsense(), ours.der.clone()])));
        assert_eq!(rejected.len(), 1, "{rejected:?}");
        assert_eq!(rejected[0].id, ResourceId::new(Kind::Listener, "guarded"));
        let said = "the certificate authority 1 of 2 cannot be used";
        assert!(rejected[0].reason.starts_with(said), "{}", rejected[0].reason);
        assert!(port.passes(Some(&client), GUARDED).await);
        assert!(!port.passes(Some(&stranger), GUARDED).await, "its authority was taken away");
    }
    // Without any nobody is let in, not even by the listener that takes all names.
    assert_eq!(port.demand(Some(ClientValidation::Required(vec![nonsense()]))).len(), 1);
    assert!(!port.passes(Some(&client), GUARDED).await);
    assert!(!port.passes(None, GUARDED).await);
    assert!(port.passes(None, OPEN).await);
}
