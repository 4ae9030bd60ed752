//! One Gateway as large as the specification allows, with ListenerSets and certificates of many owners.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use dataplane::{Options, Proxy};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use translate::objects::{Gateway, GatewayClass, HTTPRoute, ListenerSet, Namespace, Secret};
use translate::{DataPlane, ObjectKey, PortMap, Resources, Settings, Stored, Translation, translate};

use crate::object;

/// As many listeners as a Gateway may have; the first of them have two certificates each.
const OWN: usize = 64;
const WITH_TWO: usize = 36;
const SETS: usize = 50;
const OF_EACH_SET: usize = 18;
/// Of all listeners together.
const CERTIFICATES: usize = OWN + WITH_TWO + SETS * OF_EACH_SET;

/// Certificates of one authority, by the name that a client asks for.
struct Certificates {
    issuer: Issuer<'static, KeyPair>,
    roots: RootCertStore,
    issued: BTreeMap<String, CertificateDer<'static>>,
}

impl Certificates {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(params.self_signed(&key).unwrap().der().clone()).unwrap();
        Self { issuer: Issuer::new(params, key), roots, issued: BTreeMap::new() }
    }

    /// A Secret with a certificate for `name`.
    fn secret(&mut self, namespace: &str, name: &str) -> Secret {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new([name.to_owned()]).unwrap().signed_by(&key, &self.issuer).unwrap();
        self.issued.insert(name.replace('*', "any"), certificate.der().clone());
        object(json!({
            "metadata": {"namespace": namespace, "name": secret_name(name)}, "type": "kubernetes.io/tls",
            "data": {"tls.crt": STANDARD.encode(certificate.pem()), "tls.key": STANDARD.encode(key.serialize_pem())},
        }))
    }
}

fn secret_name(host: &str) -> String {
    host.replace('*', "any")
}

fn listener(name: &str, hostname: Option<&str>, certificates: &[&str]) -> Value {
    let references: Vec<_> = certificates.iter().map(|host| json!({"name": secret_name(host)})).collect();
    json!({
        "name": name, "port": 443, "protocol": "HTTPS", "hostname": hostname, "tls": {"certificateRefs": references},
        "allowedRoutes": {"namespaces": {"from": "All"}},
    })
}

/// A route for everything that comes to its parent, which redirects to a host that tells whose it is.
fn route(namespace: &str, parent: Value, answer: &str) -> HTTPRoute {
    let filter = json!({"type": "RequestRedirect", "requestRedirect": {"hostname": answer}});
    object(json!({
        "metadata": {"namespace": namespace, "name": "web", "generation": 1},
        "spec": {"parentRefs": [parent], "rules": [{"filters": [filter]}]},
    }))
}

/// One Gateway with its own listeners and so many ListenerSets, each in a namespace of its own.
fn resources(sets: usize, certificates: &mut Certificates) -> Resources {
    let mut resources = Resources::default();
    resources.insert(object::<GatewayClass>(json!({
        "metadata": {"name": "sluice"}, "spec": {"controllerName": "sluice.dev/gateway-controller"},
    })));
    resources.insert(object::<Namespace>(json!({"metadata": {"name": "edge"}})));
    let mut listeners = Vec::new();
    for index in 0..OWN {
        let (one, all) = (format!("a.g{index}.example"), format!("*.g{index}.example"));
        let both = [all.as_str(), one.as_str()];
        let hosts = if index < WITH_TWO { &both[..] } else { &both[..1] };
        hosts.iter().for_each(|host| resources.insert(certificates.secret("edge", host)));
        // One answers for every name that no other has, and so overlaps with all.
        let hostname = (index + 1 < OWN).then_some(all.as_str());
        listeners.push(listener(&format!("l{index}"), hostname, hosts));
    }
    resources.insert(object::<Gateway>(json!({
        "metadata": {"namespace": "edge", "name": "edge", "generation": 1},
        "spec": {
            "gatewayClassName": "sluice", "listeners": listeners,
            "allowedListeners": {"namespaces": {"from": "All"}},
        },
    })));
    resources.insert(route("edge", json!({"name": "edge"}), "own.example"));
    for set in 0..sets {
        let namespace = format!("team-{set}");
        resources.insert(object::<Namespace>(json!({"metadata": {"name": namespace}})));
        let mut listeners = Vec::new();
        for index in 0..OF_EACH_SET {
            let host = format!("s{index}.team-{set}.example");
            resources.insert(certificates.secret(&namespace, &host));
            listeners.push(listener(&format!("s{index}"), Some(&host), &[&host]));
        }
        resources.insert(object::<ListenerSet>(json!({
            "metadata": {"namespace": namespace, "name": "extra", "generation": 1, "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"parentRef": {"namespace": "edge", "name": "edge"}, "listeners": listeners},
        })));
        resources.insert(route(
            &namespace,
            json!({"kind": "ListenerSet", "name": "extra"}),
            &format!("team-{set}.example"),
        ));
    }
    resources
}

fn check_statuses(translation: &Translation, sets: usize) {
    let statuses = &translation.statuses;
    let holds = |conditions: &[Condition], type_: &str| {
        let condition = conditions.iter().find(|condition| condition.type_ == type_).unwrap();
        assert!(condition.message.len() <= 32_768, "the API server takes no longer message");
        condition.status == "True"
    };
    let gateway = &statuses.gateways[&ObjectKey::new("edge", "edge")];
    assert!(holds(gateway.conditions.as_deref().unwrap_or_default(), "Accepted"));
    assert_eq!(gateway.attached_listener_sets, Some(i32::try_from(sets).unwrap()));
    let own = gateway.listeners.as_deref().unwrap_or_default();
    assert_eq!(own.len(), OWN);
    for listener in own {
        assert!(holds(&listener.conditions, "Accepted") && holds(&listener.conditions, "ResolvedRefs"), "{listener:?}");
        assert_eq!(listener.attached_routes, 1);
    }
    let overlap = |name: &str| {
        let listener = own.iter().find(|listener| listener.name == name).unwrap();
        holds(&listener.conditions, "OverlappingTLSConfig")
    };
    assert!(overlap("l0") && overlap(&format!("l{}", OWN - 1)));
    assert_eq!(statuses.listener_sets.len(), sets);
    for (set, status) in &statuses.listener_sets {
        assert!(holds(status.conditions.as_deref().unwrap_or_default(), "Accepted"), "{set}");
        let listeners = status.listeners.as_deref().unwrap_or_default();
        assert_eq!(listeners.len(), OF_EACH_SET);
        for listener in listeners {
            assert!(holds(&listener.conditions, "Accepted") && holds(&listener.conditions, "ResolvedRefs"), "{set}");
            assert_eq!(listener.attached_routes, 1, "{set} {}", listener.name);
        }
    }
    assert_eq!(translation.problems, []);
}

/// What answers a request for `host`, and the certificate that it comes with.
async fn ask(connector: &TlsConnector, address: SocketAddr, host: &str) -> (CertificateDer<'static>, String) {
    let stream = TcpStream::connect(address).await.unwrap();
    let mut stream = connector.connect(ServerName::try_from(host.to_owned()).unwrap(), stream).await.unwrap();
    let certificate = stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned();
    let request = format!("GET / HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer).await; // the end may come without a word
    let location = answer.lines().find_map(|line| line.strip_prefix("location: https://"));
    let location = location.unwrap_or_else(|| panic!("no redirect for {host}: {answer}"));
    (certificate, location.split(['/', ':']).next().unwrap_or_default().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_with_a_thousand_certificates_is_accepted_and_served() {
    assert_eq!(CERTIFICATES, 1000);
    let https = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
    let settings = Settings {
        ports: PortMap { https: https.port(), ..PortMap::default() },
        cookie_key: snapshot::Secret::new(vec![7; 32]),
        access_log: snapshot::AccessLog::Off,
        ..Settings::default()
    };
    let proxy = Proxy::start(Options {
        address: Ipv4Addr::LOCALHOST.into(),
        workers: Some(1),
        drain_delay: Duration::ZERO,
        ..Options::default()
    })
    .unwrap();
    let mut certificates = Certificates::new();
    // Smaller ones before, so that the times show how they grow.
    for sets in [SETS / 4, SETS / 2, SETS] {
        let resources = resources(sets, &mut certificates);
        let began = Instant::now();
        let translation = translate(&resources, &settings);
        let translated = began.elapsed();
        check_statuses(&translation, sets);
        let snapshot = &translation.snapshots[&DataPlane::Gateway(ObjectKey::new("edge", "edge"))];
        let began = Instant::now();
        assert_eq!(proxy.apply(snapshot.clone()), []);
        let count = Secret::map(&resources).len();
        println!("{count} certificates: translated in {translated:?}, taken in {:?}", began.elapsed());
        let began = Instant::now();
        let again = translate(&resources, &settings);
        println!("translated again in {:?}", began.elapsed());
        assert_eq!(again.snapshots, translation.snapshots);
    }
    let mut config = ClientConfig::builder().with_root_certificates(certificates.roots.clone()).with_no_client_auth();
    config.resumption = rustls::client::Resumption::disabled();
    let connector = TlsConnector::from(Arc::new(config));
    for (host, certificate) in certificates.issued.iter().step_by(23) {
        let (shown, answer) = ask(&connector, https, host).await;
        assert_eq!(shown, *certificate, "{host}");
        let owner = match host.split_once(".team-") {
            Some((_, team)) => format!("team-{team}"),
            None => "own.example".to_owned(),
        };
        assert_eq!(answer, owner, "{host}");
    }
}
