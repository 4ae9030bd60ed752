use http::header::COOKIE;
use snapshot::{AccessLog, AffinityCookie, AffinityMode, BackendProtocol, Balancer, CookieSecure, Endpoint, Secret};

use super::*;

fn cluster() -> snapshot::Cluster {
    snapshot::Cluster {
        endpoints: "e".into(),
        protocol: BackendProtocol::Http1,
        balancer: Balancer::RoundRobin,
        persistence: None,
        passive_health: None,
    }
}

fn addresses(ports: &[u16]) -> Endpoints {
    let endpoint = |&port| Endpoint { address: SocketAddr::from(([10, 0, 0, 1], port)) };
    Endpoints::Addresses(ports.iter().map(endpoint).collect())
}

fn snapshot(cluster: snapshot::Cluster, endpoints: Endpoints) -> Snapshot {
    let mut snapshot = Snapshot::default();
    snapshot.insert("c", Resource::Cluster(cluster));
    snapshot.insert("e", Resource::Endpoints(endpoints));
    snapshot.insert("settings", settings(b"0123456789abcdef"));
    snapshot
}

fn settings(key: &[u8]) -> Resource {
    Resource::Settings(Settings {
        cookie_key: Secret::new(key.to_vec()),
        ticket_keys: vec![],
        trusted_proxies: vec![],
        ingress_ports: vec![],
        access_log: AccessLog::Off,
    })
}

fn pick(cluster: &Cluster) -> Option<Picked> {
    cluster.pick(&Selection { headers: &HeaderMap::new(), tried: &[], now: Tick::now(), session: None })
}

#[test]
fn endpoints_swap_inside_the_handle_and_keep_their_state() {
    let mut registry = ClusterRegistry::default();
    assert!(registry.update(&snapshot(cluster(), addresses(&[1])), &Keys::default()).is_empty());
    let handle = registry.get("c").unwrap().clone();
    let picked = pick(&handle).unwrap();
    registry.update(&snapshot(cluster(), addresses(&[1, 2])), &Keys::default());
    assert!(Arc::ptr_eq(&handle, registry.get("c").unwrap()));
    assert_eq!(handle.endpoints().len(), 2);
    assert!(Arc::ptr_eq(&handle.endpoints()[0], picked.endpoint()));
    assert_eq!(handle.endpoints()[0].in_flight(), 1);
    registry.update(&snapshot(cluster(), addresses(&[])), &Keys::default());
    assert!(pick(&handle).is_none());
}

#[test]
fn a_cluster_without_endpoints_resource_is_rejected_and_keeps_what_it_had() {
    let mut registry = ClusterRegistry::default();
    let mut snapshot = snapshot(cluster(), addresses(&[1]));
    registry.update(&snapshot, &Keys::default());
    snapshot.remove(&ResourceId::new(Kind::Endpoints, "e"));
    let rejections = registry.update(&snapshot, &Keys::default());
    assert_eq!(rejections[0].id, ResourceId::new(Kind::Cluster, "c"));
    assert_eq!(registry.get("c").unwrap().endpoints().len(), 1);
    registry.update(&Snapshot::default(), &Keys::default());
    assert!(registry.get("c").is_none());
}

#[test]
fn resolved_addresses_stay_until_the_name_changes() {
    let dns = |name: &str| Endpoints::Dns { name: name.into(), port: 80 };
    let mut registry = ClusterRegistry::default();
    registry.update(&snapshot(cluster(), dns("a.example")), &Keys::default());
    let handle = registry.get("c").unwrap().clone();
    let source = handle.dns().unwrap();
    assert!(pick(&handle).is_none());
    handle.set_resolved(&source, &["10.0.0.1:80".parse().unwrap(), "10.0.0.1:80".parse().unwrap()]);
    assert_eq!(handle.endpoints().len(), 1);
    registry.update(
        &snapshot(snapshot::Cluster { balancer: Balancer::PeakEwma, ..cluster() }, dns("a.example")),
        &Keys::default(),
    );
    assert_eq!(handle.endpoints().len(), 1);
    registry.update(&snapshot(cluster(), dns("b.example")), &Keys::default());
    assert!(handle.endpoints().is_empty());
    handle.set_resolved(&source, &["10.0.0.1:80".parse().unwrap()]);
    assert!(handle.endpoints().is_empty(), "an answer for the old name comes too late");
}

#[test]
fn persistence_follows_configuration_and_key() {
    let persistence = AffinityCookie {
        cookie: "stick".into(),
        mode: AffinityMode::Persistent,
        path: None,
        domain: None,
        expires: None,
        max_age: None,
        same_site: None,
        secure: CookieSecure::OnHttps,
    };
    let sticky = snapshot::Cluster { persistence: Some(Persistence::Affinity(persistence)), ..cluster() };
    let mut registry = ClusterRegistry::default();
    let mut snapshot = snapshot(sticky, addresses(&[1, 2, 3]));
    registry.update(&snapshot, &Keys::default());
    let handle = registry.get("c").unwrap().clone();
    let first = pick(&handle).unwrap();
    let set_cookie = handle.set_cookie(&first, "/shop", false, 0).unwrap();
    assert!(set_cookie.to_str().unwrap().ends_with("; Path=/shop; HttpOnly"));
    let headers: HeaderMap =
        [(COOKIE, format!("stick={}", first.cookie().unwrap()).parse().unwrap())].into_iter().collect();
    let selection = Selection { headers: &headers, tried: &[], now: Tick::now(), session: None };
    for _ in 0..10 {
        let again = handle.pick(&selection).unwrap();
        assert_eq!(again.endpoint().address(), first.endpoint().address());
        assert!(handle.set_cookie(&again, "/shop", false, 0).is_none());
    }
    snapshot.insert("settings", settings(b"another key, as long"));
    registry.update(&snapshot, &Keys::default());
    assert!(handle.pick(&selection).unwrap().cookie().is_some(), "cookies of another key mean nothing");
}
