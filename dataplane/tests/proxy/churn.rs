//! Edits while there is traffic.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use snapshot::{HostPattern, Kind, Listener, Protocol, Resource, ResourceId};

use crate::backend::Backend;
use crate::client::{collect, fetch, get, http1};
use crate::rig::{LOOPBACK, Rig, addresses, cluster, eventually, free_port, route, rule};

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_edits_under_load_fail_no_request_and_reach_no_wrong_backend() {
    let (stable, even, odd) = (Backend::echo("stable").await, Backend::echo("even").await, Backend::echo("odd").await);
    let mut rig = Rig::plain(&[stable.address]);
    rig.snapshot.insert("even", Resource::Endpoints(addresses(&[even.address])));
    rig.snapshot.insert("odd", Resource::Endpoints(addresses(&[odd.address])));
    rig.snapshot.insert("even", Resource::Cluster(cluster("even")));
    rig.set("odd", Resource::Cluster(cluster("odd")));
    let stop = Arc::new(AtomicBool::new(false));
    let served = Arc::new(AtomicUsize::new(0));
    let address = rig.address();
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let (stop, served) = (stop.clone(), served.clone());
        clients.spawn(async move {
            let mut client = http1(address).await;
            while !stop.load(Ordering::SeqCst) {
                client.ready().await.unwrap();
                let answer = collect(client.send_request(get("/stable")).await.unwrap()).await.unwrap();
                assert_eq!((answer.status.as_u16(), answer.header("x-backend")), (200, "stable"));
                served.fetch_add(1, Ordering::SeqCst);
            }
        });
    }
    for edit in 0..200 {
        let name = if edit % 2 == 0 { "even" } else { "odd" };
        rig.set("edited", Resource::Route(route("web", vec![rule("edited", "/edited", name)])));
        // An edit is live as soon as it is applied.
        assert_eq!(fetch(address, "/edited").await.header("x-backend"), name, "edit {edit}");
    }
    eventually("there was load", || served.load(Ordering::SeqCst) > 200).await;
    stop.store(true, Ordering::SeqCst);
    while let Some(client) = clients.join_next().await {
        client.unwrap();
    }
}

#[tokio::test]
async fn ports_come_and_go_without_a_restart_and_one_that_is_taken_is_rejected() {
    let backend = Backend::echo("one").await;
    let mut rig = Rig::plain(&[backend.address]);
    let taken = std::net::TcpListener::bind((LOOPBACK, 0)).unwrap();
    let listener = |port| Resource::Listener(Listener { port, hostname: HostPattern::Any, protocol: Protocol::Http });
    rig.snapshot.insert("taken", listener(taken.local_addr().unwrap().port()));
    let rejected = rig.apply();
    assert_eq!(rejected.iter().map(|rejected| rejected.id.name.as_str()).collect::<Vec<_>>(), ["taken"]);
    assert_eq!(fetch(rig.address(), "/").await.status, 200);
    rig.snapshot.remove(&ResourceId::new(Kind::Listener, "taken"));

    let port = free_port();
    rig.snapshot.insert("new", listener(port));
    rig.set("new", Resource::Route(route("new", vec![rule("new", "/", "app")])));
    let address = std::net::SocketAddr::new(LOOPBACK, port);
    assert_eq!(fetch(address, "/").await.status, 200);
    rig.snapshot.remove(&ResourceId::new(Kind::Route, "new"));
    rig.snapshot.remove(&ResourceId::new(Kind::Listener, "new"));
    assert_eq!(rig.apply(), []);
    eventually("the port is closed", || std::net::TcpStream::connect(address).is_err()).await;
    assert_eq!(fetch(rig.address(), "/").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_becomes_free_is_served_without_a_new_snapshot() {
    let backend = Backend::echo("one").await;
    let mut rig = Rig::plain(&[backend.address]);
    let port = free_port();
    let taken = std::net::TcpListener::bind((LOOPBACK, port)).unwrap();
    let listener = |port| Resource::Listener(Listener { port, hostname: HostPattern::Any, protocol: Protocol::Http });
    rig.snapshot.insert("late", listener(port));
    rig.snapshot.insert("late", Resource::Route(route("late", vec![rule("late", "/", "app")])));
    let mut rejections = rig.proxy.rejections();
    let [rejected] = &rig.apply()[..] else { panic!("one is rejected") };
    assert!(rejected.id.name == "late" && rejected.reason.contains("cannot be bound"), "{rejected:?}");
    assert_eq!(rig.apply().len(), 1, "it is rejected again with the next snapshot");

    drop(taken);
    let served = tokio::time::timeout(Duration::from_secs(60), rejections.wait_for(Vec::is_empty));
    served.await.expect("it is tried again").unwrap();
    let answer = fetch(std::net::SocketAddr::new(LOOPBACK, port), "/").await;
    assert_eq!((answer.status.as_u16(), answer.header("x-backend")), (200, "one"));
    assert_eq!(rig.apply(), [], "it is held, not bound again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_that_restarts_between_requests_costs_none() {
    let mut rig = Rig::plain(&[]);
    let mut client = http1(rig.address()).await;
    for _ in 0..20 {
        let backend = Backend::echo("one").await;
        rig.set("app", Resource::Endpoints(addresses(&[backend.address])));
        for _ in 0..5 {
            client.ready().await.unwrap();
            let answer = collect(client.send_request(get("/")).await.unwrap()).await.unwrap();
            assert_eq!(answer.status, 200);
        }
        drop(backend);
    }
    tokio::time::sleep(Duration::from_millis(1)).await;
}

#[tokio::test]
async fn idle_connections_to_an_endpoint_that_was_removed_are_closed_at_once() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind((LOOPBACK, 0)).await.unwrap();
    let mut rig = Rig::plain(&[listener.local_addr().unwrap()]);
    let serving = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = [0; 4096];
        while stream.read(&mut request).await.unwrap() > 0 {
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
        }
    });
    assert_eq!(fetch(rig.address(), "/").await.body, "ok");
    tokio::time::sleep(Duration::from_millis(1200)).await;
    assert!(!serving.is_finished(), "it is closed although it may be used again");
    let other = Backend::echo("other").await;
    rig.set("app", Resource::Endpoints(addresses(&[other.address])));
    // Far before the 50 s after which idle connections are closed.
    tokio::time::timeout(Duration::from_secs(20), serving).await.expect("the connection stays open").unwrap();
}
