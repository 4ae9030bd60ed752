use snapshot::{
    Attachment, BackendProtocol, Balancer, Endpoints, HostPattern, Kind, L4Backend, Listener, Protocol, Rank, Refusal,
    Resource, ResourceId, Snapshot, Target, Tls,
};

use crate::compile::Compiler;
use crate::reason::Reason;
use crate::route::PortKind;

fn exact(name: &str) -> HostPattern {
    HostPattern::Exact(name.into())
}

fn below(suffix: &str) -> HostPattern {
    HostPattern::AnyLabels(suffix.into())
}

fn listener(port: u16, hostname: HostPattern, protocol: Protocol) -> Resource {
    Resource::Listener(Listener { port, hostname, protocol })
}

fn tls() -> Tls {
    Tls { certificates: vec![], default_certificate: None, client_validation: None }
}

/// A route of this name and age on these listeners and host names, whose backend is the cluster `c`.
fn route(name: &str, created: i64, attachments: &[(&str, HostPattern)]) -> Resource {
    let attach = |(listener, hostname): &(&str, HostPattern)| Attachment {
        listener: (*listener).into(),
        hostnames: vec![hostname.clone()],
    };
    Resource::L4Route(snapshot::L4Route {
        name: name.into(),
        attachments: attachments.iter().map(attach).collect(),
        rank: Rank { specificity: 0, created, object: name.into(), rule: 0 },
        backends: vec![L4Backend { weight: 1, target: Target::Cluster("c".into()) }],
    })
}

fn snapshot(resources: Vec<(&str, Resource)>) -> Snapshot {
    let cluster = snapshot::Cluster {
        endpoints: "e".into(),
        protocol: BackendProtocol::Tcp,
        balancer: Balancer::RoundRobin,
        persistence: None,
        passive_health: None,
    };
    let mut snapshot = Snapshot::default();
    snapshot.insert("c", Resource::Cluster(cluster));
    snapshot.insert("e", Resource::Endpoints(Endpoints::Addresses(vec![])));
    for (name, resource) in resources {
        snapshot.insert(name, resource);
    }
    snapshot
}

#[test]
fn the_listener_is_found_first_then_the_route_then_the_oldest() {
    let snapshot = snapshot(vec![
        ("any", listener(443, HostPattern::Any, Protocol::TlsPassthrough)),
        ("wild", listener(443, below("example"), Protocol::TlsTerminate(tls()))),
        ("web", listener(443, exact("web.example"), Protocol::Https(tls()))),
        ("r1", route("of any", 1, &[("any", HostPattern::Any), ("any", exact("a.example"))])),
        ("r2", route("wild", 1, &[("wild", below("example"))])),
        ("r3", route("exact, young", 3, &[("wild", exact("b.example"))])),
        ("r4", route("exact, old", 2, &[("wild", exact("b.example"))])),
        ("r5", route("half", 1, &[("wild", below("half.example"))])),
    ]);
    let (table, rejections) = Compiler::default().compile(&snapshot);
    assert_eq!(rejections, []);
    assert_eq!(table.ports().collect::<Vec<_>>(), [(443, PortKind::Tls)]);
    for (server_name, expected) in [
        ("", Some("of any")),
        ("other", Some("of any")),
        ("a.example", Some("wild")),
        ("b.example", Some("exact, old")),
        ("x.half.example", Some("half")),
        ("web.example", None),
    ] {
        let found = table.connection(443, server_name).ok().map(|route| &*route.name);
        assert_eq!(found, expected, "{server_name}");
    }
    assert_eq!(table.connection(444, "").unwrap_err(), Reason::NoRoute);
    assert!(table.misdirected(443, Some("web.example"), "a.example"));
}

#[test]
fn a_port_of_tcp_and_one_of_udp_may_have_the_same_number() {
    let snapshot = snapshot(vec![
        ("tcp", listener(53, HostPattern::Any, Protocol::Tcp)),
        ("udp", listener(53, HostPattern::Any, Protocol::Udp)),
        ("empty", listener(54, HostPattern::Any, Protocol::Udp)),
        ("r1", route("connections", 1, &[("tcp", HostPattern::Any)])),
        ("r2", route("datagrams", 1, &[("udp", HostPattern::Any)])),
    ]);
    let (table, rejections) = Compiler::default().compile(&snapshot);
    assert_eq!(rejections, []);
    assert_eq!(table.ports().collect::<Vec<_>>(), [(53, PortKind::Tcp)]);
    assert_eq!(table.udp_ports().collect::<Vec<_>>(), [53, 54]);
    assert_eq!(&*table.connection(53, "").unwrap().name, "connections");
    assert_eq!(&*table.datagrams(53).unwrap().name, "datagrams");
    assert_eq!(table.datagrams(54).unwrap_err(), Reason::NoRoute);
}

#[test]
fn what_does_not_fit_is_rejected_alone_and_keeps_its_last_good_version() {
    let mut snapshot = snapshot(vec![
        ("a", listener(80, HostPattern::Any, Protocol::Tcp)),
        ("b", listener(80, exact("b"), Protocol::Http)),
        ("p", listener(443, exact("p"), Protocol::TlsPassthrough)),
        ("q", listener(443, exact("p"), Protocol::Https(tls()))),
        ("web", listener(8080, HostPattern::Any, Protocol::Http)),
        ("r", route("good", 1, &[("a", HostPattern::Any)])),
        ("s", route("on http", 1, &[("web", HostPattern::Any)])),
    ]);
    let mut compiler = Compiler::default();
    let rejected = |rejections: Vec<crate::Rejection>| {
        rejections.into_iter().map(|rejection| rejection.id.name).collect::<Vec<_>>()
    };
    let (table, rejections) = compiler.compile(&snapshot);
    assert_eq!(rejected(rejections), ["b", "q", "s"]);
    assert_eq!(&*table.connection(80, "").unwrap().name, "good");

    snapshot.insert("r", route("bad", 1, &[("a", HostPattern::Any), ("gone", HostPattern::Any)]));
    let (table, rejections) = compiler.compile(&snapshot);
    assert_eq!(rejected(rejections), ["b", "q", "r", "s"]);
    assert_eq!(&*table.connection(80, "").unwrap().name, "good");

    snapshot.remove(&ResourceId::new(Kind::L4Route, "r"));
    let (table, _) = compiler.compile(&snapshot);
    assert_eq!(table.connection(80, "").unwrap_err(), Reason::NoRoute);
}

#[test]
fn a_route_chooses_a_cluster_or_says_why_not() {
    let mut broken = snapshot::L4Route {
        name: "broken".into(),
        attachments: vec![Attachment { listener: "a".into(), hostnames: vec![HostPattern::Any] }],
        rank: Rank { specificity: 0, created: 0, object: String::new(), rule: 0 },
        backends: vec![L4Backend { weight: 1, target: Target::Refuse(Refusal::InvalidBackend) }],
    };
    let mut snapshot = snapshot(vec![("a", listener(80, HostPattern::Any, Protocol::Tcp))]);
    let mut compiler = Compiler::default();
    let mut choose = |route: &snapshot::L4Route| {
        snapshot.insert("r", Resource::L4Route(route.clone()));
        let (table, _) = compiler.compile(&snapshot);
        let route = table.connection(80, "").unwrap();
        route.choose().map(|cluster| cluster.name().to_owned())
    };
    assert_eq!(choose(&broken), Err(Reason::InvalidBackend));
    broken.backends[0].target = Target::Cluster("c".into());
    assert_eq!(choose(&broken), Ok("c".to_owned()));
    broken.backends.clear();
    assert_eq!(choose(&broken), Err(Reason::InvalidBackend));
}
