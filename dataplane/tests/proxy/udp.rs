//! UDP listeners: a session for each client.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use dataplane::Options;
use snapshot::{
    Attachment, BackendProtocol, Cluster, HostPattern, Kind, L4Backend, L4Route, Listener, PassiveHealth, Protocol,
    Rank, Refusal, Resource, ResourceId, Snapshot, Target,
};
use tokio::net::UdpSocket;
use tokio::task::JoinHandle;

use crate::backend::Backend;
use crate::client::fetch;
use crate::operations::{Collected, logging};
use crate::rig::{LOOPBACK, Rig, addresses, cluster, eventually, free_port, options};

/// Answers each datagram with its name, the address that it came from, and the datagram.
struct Echo {
    address: SocketAddr,
    answering: JoinHandle<()>,
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.answering.abort();
    }
}

async fn echo(name: &'static str) -> Echo {
    let socket = UdpSocket::bind((LOOPBACK, 0)).await.unwrap();
    let address = socket.local_addr().unwrap();
    let answering = tokio::spawn(async move {
        let mut buffer = vec![0; 65_535];
        while let Ok((length, peer)) = socket.recv_from(&mut buffer).await {
            let text = String::from_utf8_lossy(&buffer[..length]);
            let _ = socket.send_to(format!("{name} {peer} {text}").as_bytes(), peer).await;
        }
    });
    Echo { address, answering }
}

struct Client(UdpSocket);

impl Client {
    async fn of(rig: &Rig) -> Self {
        let socket = UdpSocket::bind((LOOPBACK, 0)).await.unwrap();
        socket.connect(rig.address()).await.unwrap();
        Self(socket)
    }

    async fn send(&self, text: &str) {
        self.0.send(text.as_bytes()).await.unwrap();
    }

    async fn answer(&self) -> String {
        let mut buffer = vec![0; 65_535];
        let received = tokio::time::timeout(Duration::from_secs(20), self.0.recv(&mut buffer)).await;
        String::from_utf8(buffer[..received.expect("no answer").unwrap()].to_vec()).unwrap()
    }

    /// As [`Client::ask`], and asks again where an answer does not come: its session may have been too short for it.
    async fn insist(&self, text: &str) -> (String, String) {
        for _ in 0..20 {
            if let Ok(answer) = tokio::time::timeout(Duration::from_secs(1), self.ask(text)).await {
                return answer;
            }
        }
        panic!("no answer");
    }

    /// The backend that answers, and the address that it saw.
    async fn ask(&self, text: &str) -> (String, String) {
        self.send(text).await;
        let answer = self.answer().await;
        let mut words = answer.splitn(3, ' ').map(str::to_owned);
        let who = (words.next().unwrap(), words.next().unwrap());
        assert_eq!(words.next().unwrap(), text, "an answer to something else");
        who
    }
}

fn to(targets: &[(u32, Target)]) -> L4Route {
    L4Route {
        name: "UDPRoute test/all".into(),
        attachments: vec![Attachment { listener: "udp".into(), hostnames: vec![HostPattern::Any] }],
        rank: Rank { specificity: 0, created: 0, object: "test/all".into(), rule: 0 },
        backends: targets
            .iter()
            .map(|(weight, target)| L4Backend { weight: *weight, target: target.clone() })
            .collect(),
    }
}

fn datagrams(endpoints: &str) -> Resource {
    Resource::Cluster(Cluster { protocol: BackendProtocol::Udp, ..cluster(endpoints) })
}

fn name(cluster: &str) -> Target {
    Target::Cluster(cluster.into())
}

/// A UDP listener on the port on which the rig speaks HTTP over TCP, with one backend that has these endpoints.
fn rig(options: Options, endpoints: &[SocketAddr]) -> Rig {
    let mut rig = Rig::with(options, &[], |snapshot| {
        snapshot.insert("one", Resource::Endpoints(addresses(endpoints)));
        snapshot.insert("one", datagrams("one"));
    });
    listen(&mut rig.snapshot, "udp", rig.port);
    rig.set("all", Resource::L4Route(to(&[(1, name("one"))])));
    rig
}

fn listen(snapshot: &mut Snapshot, name: &str, port: u16) {
    let listener = Listener { port, hostname: HostPattern::Any, protocol: Protocol::Udp };
    snapshot.insert(name, Resource::Listener(listener));
}

async fn metric(rig: &Rig, name: &str) -> u64 {
    let page = fetch(rig.proxy.admin_address().unwrap(), "/metrics").await.body;
    let line = page.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("{name} in\n{page}"));
    line.trim().parse().unwrap()
}

async fn dropped(rig: &Rig) -> u64 {
    metric(rig, "sluice_udp_datagrams_dropped_total").await
}

#[tokio::test]
async fn answers_reach_the_client_that_asked_beside_tcp_on_the_same_port() {
    let (datagrams, requests) = (echo("udp").await, Backend::echo("tcp").await);
    let mut rig = rig(options(), &[datagrams.address]);
    rig.set("app", Resource::Endpoints(addresses(&[requests.address])));
    let clients = [Client::of(&rig).await, Client::of(&rig).await, Client::of(&rig).await];
    let mut seen = BTreeMap::new();
    for round in 0..5 {
        for (number, client) in clients.iter().enumerate() {
            client.send(&format!("{round} {number}")).await;
        }
        for (number, client) in clients.iter().enumerate() {
            let answer = client.answer().await;
            let peer = answer.strip_prefix("udp ").unwrap().strip_suffix(&format!(" {round} {number}")).unwrap();
            assert_eq!(seen.entry(number).or_insert_with(|| peer.to_owned()), peer, "one session for each client");
        }
    }
    assert_eq!(seen.values().collect::<BTreeSet<_>>().len(), clients.len());
    assert_eq!(rig.proxy.open_sessions(), 3);
    assert_eq!(fetch(rig.address(), "/").await.header("x-backend"), "tcp");
    rig.snapshot.remove(&ResourceId::new(Kind::Listener, "web"));
    rig.snapshot.remove(&ResourceId::new(Kind::Route, "all"));
    assert_eq!(rig.apply(), []);
    clients[0].ask("TCP is gone").await;
}

#[tokio::test]
async fn datagrams_of_every_size_pass() {
    let backend = UdpSocket::bind((LOOPBACK, 0)).await.unwrap();
    let rig = rig(options(), &[backend.local_addr().unwrap()]);
    let client = Client::of(&rig).await;
    let mut buffer = vec![0; 65_535];
    for size in [0, 1, 1_472, 9_000, 65_507] {
        client.0.send(&vec![b'a'; size]).await.unwrap();
        let (length, peer) = backend.recv_from(&mut buffer).await.unwrap();
        assert_eq!(length, size);
        backend.send_to(&vec![b'b'; size], peer).await.unwrap();
        assert_eq!(client.answer().await, "b".repeat(size));
    }
}

#[tokio::test]
async fn bursts_lose_nothing_and_keep_their_order() {
    let backend = echo("one").await;
    let rig = rig(options(), &[backend.address]);
    let client = Client::of(&rig).await;
    for number in 0..50 {
        client.send(&number.to_string()).await;
    }
    for number in 0..50 {
        let answer = client.answer().await;
        assert_eq!(answer.rsplit(' ').next(), Some(number.to_string().as_str()));
    }
}

#[tokio::test]
async fn clients_are_shared_by_weight_and_a_broken_share_is_dropped() {
    let (one, two, none) = (echo("one").await, echo("two").await, echo("none").await);
    let mut rig = rig(options(), &[one.address]);
    for (name, backend) in [("two", &two), ("none", &none)] {
        rig.snapshot.insert(name, Resource::Endpoints(addresses(&[backend.address])));
        rig.snapshot.insert(name, datagrams(name));
    }
    rig.set("all", Resource::L4Route(to(&[(30, name("one")), (70, name("two")), (0, name("none"))])));
    let mut shares: BTreeMap<String, u32> = BTreeMap::new();
    for _ in 0..400 {
        *shares.entry(Client::of(&rig).await.ask("who").await.0).or_default() += 1;
    }
    assert_eq!(shares.keys().collect::<Vec<_>>(), ["one", "two"]);
    assert!((70..170).contains(&shares["one"]), "{shares:?}");

    let broken = Target::Refuse(Refusal::InvalidBackend);
    rig.set("all", Resource::L4Route(to(&[(1, name("one")), (1, broken)])));
    let mut clients = Vec::new();
    for _ in 0..100 {
        let client = Client::of(&rig).await;
        client.send("lost?").await;
        clients.push(client);
    }
    let mut answered = 0;
    let mut lost = 0;
    for _ in 0..2_000 {
        lost = dropped(&rig).await;
        answered += clients.iter().filter(|client| client.0.try_recv(&mut [0; 100]).is_ok()).count() as u64;
        if answered + lost == 100 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(answered + lost, 100);
    assert!((20..80).contains(&lost), "{lost}");
    // Trying again does not help: the share is one of clients, not of their attempts.
    for client in &clients {
        client.send("again").await;
    }
    for _ in 0..2_000 {
        if dropped(&rig).await == 2 * lost {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(dropped(&rig).await, 2 * lost);
}

#[tokio::test]
async fn a_quiet_session_ends_and_the_next_datagram_begins_another() {
    let backend = echo("one").await;
    let idle = Options { udp_idle_timeout: Duration::from_millis(500), ..options() };
    let rig = rig(idle, &[backend.address]);
    let client = Client::of(&rig).await;
    let (_, first) = client.insist("same").await;
    eventually("the session ends", || rig.proxy.open_sessions() == 0).await;
    assert_ne!(client.insist("same").await.1, first);
}

#[tokio::test]
async fn an_endpoint_that_refuses_ends_its_sessions_and_is_left_out() {
    let backend = echo("one").await;
    let gone = UdpSocket::bind((LOOPBACK, 0)).await.unwrap().local_addr().unwrap();
    let mut rig = rig(options(), &[backend.address, gone]);
    let health =
        PassiveHealth { consecutive_failures: 1, ejection_time: Duration::from_secs(3600), max_ejected_percent: 100 };
    let Resource::Cluster(cluster) = datagrams("one") else { unreachable!() };
    rig.set("one", Resource::Cluster(Cluster { passive_health: Some(health), ..cluster }));
    let clients = [Client::of(&rig).await, Client::of(&rig).await];
    for client in &clients {
        client.send("hello").await;
    }
    for _ in 0..2_000 {
        if metric(&rig, "sluice_udp_sessions_opened_total").await == 2 && rig.proxy.open_sessions() == 1 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(rig.proxy.open_sessions(), 1);
    for _ in 0..20 {
        assert_eq!(Client::of(&rig).await.ask("hello").await.0, "one");
    }
    // Whoever met the endpoint meets another.
    for client in &clients {
        client.send("again").await;
        while !client.answer().await.ends_with("again") {}
    }
}

#[tokio::test]
async fn sessions_follow_endpoints_and_routes_and_survive_other_edits() {
    let (one, two) = (echo("one").await, echo("two").await);
    let mut rig = rig(options(), &[one.address]);
    let client = Client::of(&rig).await;
    let (_, first) = client.ask("begin").await;
    rig.snapshot.insert("two", Resource::Endpoints(addresses(&[two.address])));
    rig.snapshot.insert("two", datagrams("two"));
    rig.set("all", Resource::L4Route(to(&[(1, name("one")), (1, name("two"))])));
    assert_eq!(client.ask("another backend came").await, ("one".into(), first.clone()));
    rig.set("one", Resource::Endpoints(addresses(&[one.address, two.address])));
    assert_eq!(client.ask("another endpoint came").await, ("one".into(), first));
    rig.set("one", Resource::Endpoints(addresses(&[two.address])));
    assert_eq!(client.ask("the endpoint left").await.0, "two");
    rig.set("all", Resource::L4Route(to(&[(0, name("one")), (1, name("two"))])));
    assert_eq!(client.ask("the backend left").await.0, "two");
    rig.set("all", Resource::L4Route(to(&[])));
    eventually("the session ends without a datagram", || rig.proxy.open_sessions() == 0).await;
}

#[tokio::test]
async fn only_the_oldest_route_gets_traffic() {
    let (one, two) = (echo("one").await, echo("two").await);
    let mut rig = rig(options(), &[one.address]);
    rig.snapshot.insert("two", Resource::Endpoints(addresses(&[two.address])));
    rig.snapshot.insert("two", datagrams("two"));
    let younger = to(&[(1, name("two"))]);
    let rank = Rank { created: 5, ..younger.rank.clone() };
    rig.set("a younger route", Resource::L4Route(L4Route { rank, ..younger }));
    for _ in 0..20 {
        assert_eq!(Client::of(&rig).await.ask("who").await.0, "one");
    }
    rig.snapshot.remove(&ResourceId::new(Kind::L4Route, "all"));
    assert_eq!(rig.apply(), []);
    assert_eq!(Client::of(&rig).await.ask("who").await.0, "two");
}

#[tokio::test]
async fn many_clients_are_bounded_and_cost_a_busy_one_nothing() {
    let backend = echo("one").await;
    let few = Options { workers: Some(1), max_udp_sessions: 8, ..options() };
    let rig = rig(few, &[backend.address]);
    let busy = Client::of(&rig).await;
    let who = busy.ask("begin").await;
    // All of them are there to the end: the port of one that went could become another's.
    let mut clients = Vec::new();
    for _ in 0..100 {
        clients.push(Client::of(&rig).await);
        clients[clients.len() - 1].ask("once").await;
        assert_eq!(busy.ask("still").await, who);
        assert!(rig.proxy.open_sessions() <= 8);
    }
    assert_eq!(metric(&rig, "sluice_udp_sessions_evicted_total").await, 101 - 8);
}

#[tokio::test]
async fn a_listener_that_is_removed_closes_its_port_and_one_that_is_taken_is_rejected() {
    let backend = echo("one").await;
    let mut rig = rig(options(), &[backend.address]);
    let stranger = UdpSocket::bind((LOOPBACK, free_port())).await.unwrap();
    let taken = stranger.local_addr().unwrap().port();
    listen(&mut rig.snapshot, "taken", taken);
    let rejected = rig.apply();
    assert_eq!(rejected.iter().map(|rejected| rejected.id.name.as_str()).collect::<Vec<_>>(), ["taken"]);
    drop(stranger);
    assert_eq!(rig.apply(), [], "the port is free now");
    let client = Client::of(&rig).await;
    client.ask("one").await;
    rig.snapshot.remove(&ResourceId::new(Kind::Listener, "udp"));
    rig.apply();
    eventually("the sessions end", || rig.proxy.open_sessions() == 0).await;
    let address = rig.address();
    eventually("the port is free", || std::net::UdpSocket::bind(address).is_ok()).await;
    let port = rig.port;
    listen(&mut rig.snapshot, "udp", port);
    assert_eq!(rig.apply(), []);
    client.insist("again").await;
}

#[tokio::test]
async fn a_port_that_closes_and_opens_again_at_once_is_bound() {
    let backend = echo("one").await;
    let mut rig = rig(options(), &[backend.address]);
    let client = Client::of(&rig).await;
    for _ in 0..3 {
        let before = ["udp", "web"].map(|name| (name, rig.snapshot.remove(&ResourceId::new(Kind::Listener, name))));
        rig.apply();
        for (name, listener) in before {
            rig.snapshot.insert(name, listener.unwrap().resource().as_ref().clone());
        }
        // Where workers still hold the sockets, it is tried again.
        rig.apply();
        let mut rejections = rig.proxy.rejections();
        let bound = tokio::time::timeout(Duration::from_secs(60), rejections.wait_for(Vec::is_empty)).await;
        bound.expect("it is tried again").unwrap();
        client.insist("still there").await;
        assert_eq!(fetch(rig.address(), "/").await.status, 503, "a listener without endpoints");
    }
}

#[tokio::test]
async fn a_socket_for_both_families_answers_both() {
    let backend = echo("one").await;
    let rig = rig(Options { address: IpAddr::from(Ipv6Addr::UNSPECIFIED), ..options() }, &[backend.address]);
    Client::of(&rig).await.ask("IPv4").await;
    let socket = UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).await.unwrap();
    socket.connect((Ipv6Addr::LOCALHOST, rig.port)).await.unwrap();
    Client(socket).ask("IPv6").await;
}

#[tokio::test]
async fn a_drain_waits_for_answers_and_takes_no_new_clients() {
    let backend = UdpSocket::bind((LOOPBACK, 0)).await.unwrap();
    let rig = rig(options(), &[backend.local_addr().unwrap()]);
    let client = Client::of(&rig).await;
    client.send("question").await;
    let mut buffer = [0; 100];
    let (_, peer) = backend.recv_from(&mut buffer).await.unwrap();
    let late = async {
        while rig.proxy.ready() {
            tokio::task::yield_now().await;
        }
        backend.send_to(b"late", peer).await.unwrap();
        assert_eq!(client.answer().await, "late");
    };
    let (drained, ()) = tokio::join!(rig.proxy.drain(Duration::from_secs(60)), late);
    assert_eq!(drained.cut, 0);
    let lost = dropped(&rig).await;
    Client::of(&rig).await.send("too late").await;
    for _ in 0..2_000 {
        if dropped(&rig).await > lost {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("the datagram is never dropped");
}

#[tokio::test]
async fn the_access_log_has_one_line_for_each_session() {
    let backend = echo("one").await;
    let log = Collected::default();
    let mut rig = logging(rig(options(), &[backend.address]), options(), &log);
    let port = rig.port;
    listen(&mut rig.snapshot, "udp", port);
    assert_eq!(rig.apply(), []);
    let client = Client::of(&rig).await;
    let (_, peer) = client.ask("one").await;
    client.ask("two").await;
    rig.set("all", Resource::L4Route(to(&[])));
    eventually("the line is written", || !log.0.lock().unwrap().is_empty()).await;
    let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    let line: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(line["client"], "127.0.0.1");
    assert_eq!(line["protocol"], "UDP");
    assert_eq!(line["route"], "UDPRoute test/all");
    assert_eq!(line["endpoint"], backend.address.to_string());
    assert_eq!((&line["datagrams_in"], &line["datagrams_out"]), (&2.into(), &2.into()));
    assert_eq!((&line["bytes_in"], &line["bytes_out"]), (&6.into(), &(2 * ("one  one".len() + peer.len())).into()));
    assert!(line["reason"].is_null(), "{line}");
    assert_eq!(metric(&rig, "sluice_l4_connections_total{route=\"UDPRoute test/all\"}").await, 1);
    assert_eq!(metric(&rig, "sluice_l4_received_bytes_total{route=\"UDPRoute test/all\"}").await, 6);
}
