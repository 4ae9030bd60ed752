use std::collections::BTreeMap;

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::Full;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::backend::Backend;
use crate::client::{fetch, send};
use crate::rig::{LOOPBACK, Rig, free_port};

#[tokio::test]
async fn requests_take_turns() {
    let backends = [Backend::echo("one").await, Backend::echo("two").await];
    let rig = Rig::plain(&[backends[0].address, backends[1].address]);
    let mut seen: BTreeMap<String, u32> = BTreeMap::new();
    for _ in 0..20 {
        *seen.entry(fetch(rig.address(), "/").await.header("x-backend").to_owned()).or_default() += 1;
    }
    assert_eq!(seen.len(), 2, "{seen:?}");
    assert!(seen.values().all(|count| *count >= 8), "{seen:?}");
}

#[tokio::test]
async fn a_refused_connection_is_tried_at_another_endpoint() {
    let backend = Backend::echo("one").await;
    let gone = std::net::SocketAddr::new(LOOPBACK, free_port());
    let rig = Rig::plain(&[gone, backend.address]);
    for _ in 0..20 {
        assert_eq!(fetch(rig.address(), "/").await.header("x-backend"), "one");
    }
}

/// Answers one request per connection, then closes it at the moment in which the next one arrives.
async fn closing_on_reuse() -> (std::net::SocketAddr, tokio::task::JoinHandle<()>) {
    scripted_on_reuse(b"").await
}

/// The same, with these bytes before it closes.
async fn scripted_on_reuse(last: &'static [u8]) -> (std::net::SocketAddr, tokio::task::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let accepting = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut request = [0; 4096];
                let _ = stream.read(&mut request).await;
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
                let _ = stream.read(&mut request).await;
                let _ = stream.write_all(last).await;
            });
        }
    });
    (address, accepting)
}

#[tokio::test]
async fn a_connection_that_closes_under_a_request_costs_an_idempotent_one_nothing_and_never_repeats_another() {
    let (address, accepting) = closing_on_reuse().await;
    let mut options = crate::rig::options();
    options.workers = Some(1);
    let rig = Rig::with(options, &[address], |_| {});
    let request = |method: Method, body: &'static str| {
        Request::builder().method(method).uri("/").header("host", "a").body(Full::new(Bytes::from(body))).unwrap()
    };
    for _ in 0..10 {
        assert_eq!(send(rig.address(), request(Method::GET, "")).await.status, 200);
    }
    let answer = send(rig.address(), request(Method::POST, "once")).await;
    assert_eq!((answer.status.as_u16(), answer.header("x-sluice-reason")), (502, "upstream_reset"));
    accepting.abort();
}

#[tokio::test]
async fn nonsense_on_a_connection_that_is_used_again_counts_against_the_endpoint() {
    let (address, accepting) = scripted_on_reuse(b"nonsense\r\n\r\n").await;
    let other = Backend::echo("other").await;
    let options = dataplane::Options { workers: Some(1), ..crate::rig::options() };
    let rig = Rig::with(options, &[address, other.address], |snapshot| {
        let health = snapshot::PassiveHealth {
            consecutive_failures: 1,
            ejection_time: std::time::Duration::from_secs(60),
            max_ejected_percent: 50,
        };
        let cluster = snapshot::Cluster { passive_health: Some(health), ..crate::rig::cluster("app") };
        snapshot.insert("app", snapshot::Resource::Cluster(cluster));
    });
    let mut at_other = Vec::new();
    for _ in 0..12 {
        at_other.push(fetch(rig.address(), "/").await.header("x-backend") == "other");
    }
    // It answered once, and not again after its nonsense.
    assert_eq!(at_other.iter().filter(|at_other| !**at_other).count(), 1, "{at_other:?}");
    accepting.abort();
}
