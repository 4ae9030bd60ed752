//! A running data plane and the snapshot that it serves.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use dataplane::{Options, Proxy, Rejection};
use snapshot::*;

pub const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

pub struct Rig {
    pub proxy: Proxy,
    pub snapshot: Snapshot,
    pub port: u16,
}

/// A port that nobody uses: below those that the system gives to outgoing connections, and given out once.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = 10_000 + (std::process::id() % 200) as u16 * 100;
    loop {
        let port = start + NEXT.fetch_add(1, Ordering::SeqCst) % 2_000;
        if std::net::TcpListener::bind((LOOPBACK, port)).is_ok() {
            return port;
        }
    }
}

pub fn options() -> Options {
    Options {
        address: LOOPBACK,
        workers: Some(2),
        admin: Some(SocketAddr::new(LOOPBACK, 0)),
        drain_delay: Duration::from_millis(300),
        ..Options::default()
    }
}

impl Rig {
    /// Serves every host and path on a plain port with these endpoints.
    pub fn plain(endpoints: &[SocketAddr]) -> Self {
        Self::with(options(), endpoints, |_| {})
    }

    pub fn with(options: Options, endpoints: &[SocketAddr], change: impl FnOnce(&mut Snapshot)) -> Self {
        let port = free_port();
        let mut snapshot = Snapshot::default();
        snapshot.insert("settings", Resource::Settings(settings()));
        snapshot
            .insert("web", Resource::Listener(Listener { port, hostname: HostPattern::Any, protocol: Protocol::Http }));
        snapshot.insert("app", Resource::Endpoints(addresses(endpoints)));
        snapshot.insert("app", Resource::Cluster(cluster("app")));
        snapshot.insert("all", Resource::Route(route("web", vec![rule("rule 0", "/", "app")])));
        change(&mut snapshot);
        let mut rig = Self { proxy: Proxy::start(options).unwrap(), snapshot, port };
        assert_eq!(rig.apply(), []);
        rig
    }

    pub fn apply(&mut self) -> Vec<Rejection> {
        self.proxy.apply(self.snapshot.clone())
    }

    pub fn address(&self) -> SocketAddr {
        SocketAddr::new(LOOPBACK, self.port)
    }

    pub fn set(&mut self, name: &str, resource: Resource) {
        self.snapshot.insert(name, resource);
        assert_eq!(self.apply(), []);
    }
}

pub fn settings() -> Settings {
    Settings {
        cookie_key: Secret::new(vec![7; 32]),
        ticket_keys: vec![Secret::new(vec![9; 32])],
        trusted_proxies: Vec::new(),
        ingress_ports: Vec::new(),
        access_log: AccessLog::Off,
    }
}

pub fn addresses(endpoints: &[SocketAddr]) -> Endpoints {
    let mut endpoints: Vec<_> = endpoints.iter().map(|address| Endpoint { address: *address }).collect();
    endpoints.sort();
    Endpoints::Addresses(endpoints)
}

pub fn cluster(endpoints: &str) -> Cluster {
    Cluster {
        endpoints: endpoints.into(),
        protocol: BackendProtocol::Http1,
        balancer: Balancer::RoundRobin,
        persistence: None,
        passive_health: None,
    }
}

pub fn route(listener: &str, rules: Vec<Rule>) -> Route {
    let attachments = vec![Attachment { listener: listener.into(), hostnames: vec![HostPattern::Any] }];
    Route { attachments, rules }
}

pub fn timeouts() -> Timeouts {
    let minute = Some(Duration::from_secs(60));
    Timeouts { connect: Some(Duration::from_secs(5)), read: minute, send: minute, request: None, backend_request: None }
}

pub fn rule(name: &str, prefix: &str, cluster: &str) -> Rule {
    Rule {
        name: name.into(),
        matches: vec![Match {
            path: PathMatch::Prefix(prefix.into()),
            method: None,
            headers: Vec::new(),
            query: Vec::new(),
            rank: Rank { specificity: 0, created: 0, object: "test/test".into(), rule: 0 },
        }],
        filters: Vec::new(),
        action: Action::Forward(vec![Backend {
            weight: 1,
            target: Target::Cluster(cluster.into()),
            filters: Vec::new(),
        }]),
        timeouts: timeouts(),
        retry: None,
        persistence: None,
        max_body: None,
        origins: Vec::new(),
    }
}

/// Waits until `condition` holds.
pub async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    for _ in 0..2000 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("never happened: {what}");
}
