//! TLS towards backends: whose certificates count, and what is shown to those who ask.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use rcgen::{BasicConstraints, IsCa};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::server::WebPkiClientVerifier;
use snapshot::*;
use tokio::net::TcpListener;

use crate::authority::{Authority, parts, self_signed};
use crate::backend::{Backend, echo};
use crate::client::fetch;
use crate::rig::{Rig, addresses, cluster, route, rule};

/// A backend that speaks TLS.
struct TlsBackend {
    address: SocketAddr,
    /// What the clients of its handshakes asked for and showed.
    seen: Arc<Mutex<Vec<Seen>>>,
    accepting: tokio::task::JoinHandle<()>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    server_name: Option<String>,
    certificate: Option<CertificateDer<'static>>,
}

impl Drop for TlsBackend {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl TlsBackend {
    /// Under this certificate; clients have to show one of `clients`, if given.
    async fn start(certificate: &Certificate, clients: Option<&Authority>) -> Self {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = rustls::ServerConfig::builder_with_provider(provider.clone());
        let builder = builder.with_safe_default_protocol_versions().unwrap();
        let builder = match clients {
            Some(authority) => {
                let mut roots = RootCertStore::empty();
                roots.add(authority.der.clone().into()).unwrap();
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
                builder.with_client_cert_verifier(verifier)
            }
            None => builder.with_no_client_auth(),
        };
        let (chain, key) = parts(certificate);
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(builder.with_single_cert(chain, key).unwrap()));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let noted = seen.clone();
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, noted) = (acceptor.clone(), noted.clone());
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let session = stream.get_ref().1;
                    noted.lock().unwrap().push(Seen {
                        server_name: session.server_name().map(ToOwned::to_owned),
                        certificate: session.peer_certificates().map(|chain| chain[0].clone()),
                    });
                    let service = hyper::service::service_fn(|request| async {
                        Ok::<_, std::convert::Infallible>(echo("tls", request).await)
                    });
                    let io = hyper_util::rt::TokioIo::new(stream);
                    let _ = hyper::server::conn::http1::Builder::new().serve_connection(io, service).await;
                });
            }
        });
        Self { address, seen, accepting }
    }

    fn last_seen(&self) -> Seen {
        self.seen.lock().unwrap().last().cloned().unwrap()
    }
}

fn over(tls: BackendTls) -> Resource {
    Resource::Cluster(Cluster { protocol: BackendProtocol::Https(tls), ..cluster("app") })
}

fn required(authorities: &[&[u8]], names: &[SubjectAltName]) -> Verification {
    let authorities = Authorities::These(authorities.iter().map(|der| der.to_vec()).collect());
    Verification::Required { authorities, names: names.to_vec() }
}

fn tls(server_name: &str, verification: Verification) -> BackendTls {
    BackendTls { server_name: Some(server_name.into()), verification, client_certificate: None }
}

async fn status(rig: &Rig) -> u16 {
    fetch(rig.address(), "/").await.status.as_u16()
}

#[tokio::test]
async fn a_backends_certificate_counts_where_it_is_asked_to() {
    let (ours, stranger) = (Authority::new(), Authority::new());
    let backend = TlsBackend::start(&ours.server(&["backend.example"]), None).await;
    let any = BackendTls { server_name: None, verification: Verification::None, client_certificate: None };
    let cases = [
        ("no verification", any, 200),
        ("its authority", tls("backend.example", required(&[&ours.der], &[])), 200),
        // One of them has the name of the other, so that names alone do not tell them apart.
        ("one of two", tls("backend.example", required(&[&stranger.der, &ours.der], &[])), 200),
        ("another name", tls("other.example", required(&[&ours.der], &[])), 502),
        ("another authority", tls("backend.example", required(&[&stranger.der], &[])), 502),
        (
            "browsers do not know it",
            tls("backend.example", Verification::Required { authorities: Authorities::WellKnown, names: Vec::new() }),
            502,
        ),
    ];
    let mut rig = Rig::plain(&[backend.address]);
    for (what, tls, expected) in cases {
        rig.set("app", over(tls));
        assert_eq!(status(&rig).await, expected, "{what}");
    }
}

#[tokio::test]
async fn a_certificate_may_vouch_for_itself_whatever_it_calls_itself() {
    for is_ca in [IsCa::NoCa, IsCa::ExplicitNoCa, IsCa::Ca(BasicConstraints::Unconstrained)] {
        let own = self_signed(&["backend.example"], is_ca);
        let other = self_signed(&["backend.example"], is_ca);
        let backend = TlsBackend::start(&own, None).await;
        let mut rig = Rig::plain(&[backend.address]);
        let cases = [("backend.example", &own, 200), ("other.example", &own, 502), ("backend.example", &other, 502)];
        for (name, trusted, expected) in cases {
            rig.set("app", over(tls(name, required(&[&trusted.chain[0]], &[]))));
            assert_eq!(status(&rig).await, expected, "{is_ca:?}: {name}");
        }
    }
}

#[tokio::test]
async fn given_names_are_the_only_ones_that_count() {
    let ours = Authority::new();
    let names = ["abc.example.com", "spiffe://abc.example.com/test", "*.wild.example.com"];
    let backend = TlsBackend::start(&ours.server(&names), None).await;
    let host = |name: &str| SubjectAltName::Hostname(name.into());
    let uri = |name: &str| SubjectAltName::Uri(name.into());
    let cases = [
        (vec![host("abc.example.com")], 200),
        (vec![host("ABC.example.com")], 200),
        (vec![host("*.example.com")], 200),
        (vec![host("one.wild.example.com")], 200),
        (vec![host("one.two.wild.example.com")], 502),
        (vec![host("def.example.com")], 502),
        (vec![uri("spiffe://abc.example.com/test")], 200),
        (vec![uri("spiffe://abc.example.com/TEST")], 502),
        (vec![uri("spiffe://abc.example.com/test/more")], 502),
        (vec![uri("abc.example.com")], 502),
        (vec![host("spiffe://abc.example.com/test")], 502),
        (vec![uri("spiffe://def.example.com/test"), host("abc.example.com")], 200),
        (vec![uri("spiffe://def.example.com/test"), host("def.example.com")], 502),
    ];
    let mut rig = Rig::plain(&[backend.address]);
    for (names, expected) in cases {
        // The certificate is not for this name, which only chooses it.
        rig.set("app", over(tls("server.example", required(&[&ours.der], &names))));
        assert_eq!(status(&rig).await, expected, "{names:?}");
    }
    assert_eq!(backend.last_seen().server_name.as_deref(), Some("server.example"));
    // The right name under the wrong authority is no name.
    rig.set("app", over(tls("abc.example.com", required(&[&Authority::new().der], &[host("abc.example.com")]))));
    assert_eq!(status(&rig).await, 502);
}

#[tokio::test]
async fn an_authority_that_is_taken_away_counts_for_no_further_handshake() {
    let (ours, stranger) = (Authority::new(), Authority::new());
    let backend = TlsBackend::start(&ours.server(&["backend.example"]), None).await;
    let mut rig = Rig::plain(&[backend.address]);
    rig.set("app", over(tls("backend.example", required(&[&ours.der, &stranger.der], &[]))));
    assert_eq!(status(&rig).await, 200);
    // Neither the idle connection nor the session of the handshake before is used.
    rig.set("app", over(tls("backend.example", required(&[&stranger.der], &[]))));
    assert_eq!(status(&rig).await, 502);
}

#[tokio::test]
async fn a_broken_authority_is_named_and_the_others_count() {
    let (ours, before) = (Authority::new(), Authority::new());
    let backend = TlsBackend::start(&ours.server(&["backend.example"]), None).await;
    let old = TlsBackend::start(&before.server(&["backend.example"]), None).await;
    let mut rig = Rig::plain(&[backend.address]);
    rig.set("app", over(tls("backend.example", required(&[&before.der], &[]))));
    rig.snapshot.insert("app", over(tls("backend.example", required(&[&ours.der, b"nonsense"], &[]))));
    // Each time it is applied it is rejected.
    for _ in 0..2 {
        let rejected = rig.apply();
        assert_eq!(rejected.len(), 1, "{rejected:?}");
        assert_eq!(rejected[0].id, ResourceId::new(Kind::Cluster, "app"));
        let said = "the certificate authority 2 of 2 cannot be used";
        assert!(rejected[0].reason.starts_with(said), "{}", rejected[0].reason);
        assert_eq!(status(&rig).await, 200);
    }
    // Who was trusted before is trusted no more.
    rig.snapshot.insert("app", Resource::Endpoints(addresses(&[old.address])));
    assert_eq!(rig.apply().len(), 1);
    assert_eq!(status(&rig).await, 502);
    // Where nobody is left nobody is trusted.
    rig.snapshot.insert("app", over(tls("backend.example", required(&[b"nonsense"], &[]))));
    assert_eq!(rig.apply().len(), 1);
    assert_eq!(status(&rig).await, 502);
}

#[tokio::test]
async fn a_certificate_is_shown_to_backends_that_ask_for_one() {
    let (ours, clients) = (Authority::new(), Authority::new());
    let backend = TlsBackend::start(&ours.server(&["backend.example"]), Some(&clients)).await;
    let mut rig = Rig::plain(&[backend.address]);
    let trusting = tls("backend.example", required(&[&ours.der], &[]));
    let showing = BackendTls { client_certificate: Some("ours".into()), ..trusting.clone() };

    rig.set("app", over(trusting));
    assert_eq!(status(&rig).await, 502, "the backend insists");

    let first = clients.client();
    rig.snapshot.insert("ours", Resource::Certificate(first.clone()));
    rig.set("app", over(showing));
    assert_eq!(status(&rig).await, 200);
    assert_eq!(backend.last_seen().certificate.unwrap().as_ref(), first.chain[0]);

    // A new certificate makes new connections, although the cluster says the same as before.
    let second = clients.client();
    rig.set("ours", Resource::Certificate(second.clone()));
    assert_eq!(status(&rig).await, 200);
    assert_eq!(backend.last_seen().certificate.unwrap().as_ref(), second.chain[0]);

    let stranger = Authority::new().client();
    rig.set("ours", Resource::Certificate(stranger));
    assert_eq!(status(&rig).await, 502);

    rig.set("ours", Resource::Certificate(second));
    assert_eq!(status(&rig).await, 200);
    rig.snapshot.remove(&ResourceId::new(Kind::Certificate, "ours"));
    let rejected = rig.apply();
    assert_eq!(rejected.len(), 1, "{rejected:?}");
    assert_eq!(rejected[0].id, ResourceId::new(Kind::Cluster, "app"));
    assert!(rejected[0].reason.contains("\"ours\""), "{}", rejected[0].reason);
    assert_eq!(status(&rig).await, 502, "a certificate that was taken away is shown no more");
}

#[tokio::test]
async fn a_service_that_decides_what_passes_has_to_prove_itself() {
    let (ours, stranger) = (Authority::new(), Authority::new());
    let service = TlsBackend::start(&ours.server(&["auth.example"]), None).await;
    let backend = Backend::echo("one").await;
    let mut rig = Rig::plain(&[backend.address]);
    rig.snapshot.insert("auth", Resource::Endpoints(addresses(&[service.address])));
    let http = HttpAuth { path_prefix: String::new(), request_headers: Vec::new(), response_headers: AllowList::Any };
    let auth = ExternalAuth { cluster: "auth".into(), protocol: AuthProtocol::Http(http), max_body: 0 };
    let guarded = Rule { filters: vec![Filter::ExternalAuth(auth)], ..rule("guarded", "/", "app") };
    rig.snapshot.insert("all", Resource::Route(route("web", vec![guarded])));
    for (authority, expected) in [(&ours, (200, "")), (&stranger, (503, "auth_unavailable"))] {
        let tls = tls("auth.example", required(&[&authority.der], &[]));
        rig.set("auth", Resource::Cluster(Cluster { protocol: BackendProtocol::Https(tls), ..cluster("auth") }));
        let answer = fetch(rig.address(), "/").await;
        assert_eq!((answer.status.as_u16(), answer.header("x-sluice-reason")), expected);
    }
}
