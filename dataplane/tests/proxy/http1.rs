use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use dataplane::Options;
use http::Request;
use http_body_util::Full;
use hyper::body::Incoming;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::backend::{Backend, full};
use crate::client::{collect, fetch, get, http1, send};
use crate::rig::{Rig, eventually, options};

#[tokio::test]
async fn a_request_reaches_the_backend_and_its_answer_comes_back() {
    let backend = Backend::echo("one").await;
    let rig = Rig::plain(&[backend.address]);
    let answer = fetch(rig.address(), "/a/b?c=d").await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("x-backend"), "one");
    assert!(answer.body.starts_with("GET /a/b?c=d\n"), "{}", answer.body);
    for line in ["host: app.example", "x-forwarded-for: 127.0.0.1", "x-forwarded-proto: http", "x-real-ip: 127.0.0.1"] {
        assert!(answer.body.contains(line), "{line} in {}", answer.body);
    }
}

#[tokio::test]
async fn connections_are_kept_on_both_sides() {
    let backend = Backend::echo("one").await;
    let rig = Rig::plain(&[backend.address]);
    let mut client = http1(rig.address()).await;
    for _ in 0..50 {
        let answer = collect(client.send_request(get("/")).await.unwrap()).await.unwrap();
        assert_eq!(answer.status, 200);
        client.ready().await.unwrap();
    }
    assert_eq!(backend.connections.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_body_is_passed_on_with_its_length_or_in_chunks() {
    let backend = Backend::echo("one").await;
    let rig = Rig::plain(&[backend.address]);
    let request = Request::post("/").header("host", "a.example").body(Full::new(Bytes::from("hello"))).unwrap();
    let answer = send(rig.address(), request).await;
    assert!(answer.body.contains("content-length: 5"), "{}", answer.body);
    assert!(answer.body.ends_with("\n\nhello"), "{}", answer.body);
}

#[tokio::test]
async fn without_endpoints_or_route_the_answer_says_so() {
    let mut rig = Rig::plain(&[]);
    let answer = fetch(rig.address(), "/").await;
    assert_eq!((answer.status.as_u16(), answer.header("x-sluice-reason")), (503, "no_endpoints"));
    let id = snapshot::ResourceId::new(snapshot::Kind::Route, "all");
    rig.snapshot.remove(&id);
    assert_eq!(rig.apply(), []);
    let answer = fetch(rig.address(), "/").await;
    assert_eq!((answer.status.as_u16(), answer.header("x-sluice-reason")), (404, "no_route"));
}

/// A request under way at a backend that takes its time, and how many of those there are.
async fn waiting(rig: &Rig) -> u64 {
    let metrics = fetch(rig.proxy.admin_address().unwrap(), "/metrics").await.body;
    let line = metrics
        .lines()
        .find(|line| line.starts_with("sluice_requests_in_flight "))
        .unwrap_or_else(|| panic!("{metrics}"));
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_client_that_left_is_noticed_though_bytes_follow_its_request() {
    let backend = Backend::http1(|_: Request<Incoming>| std::future::pending()).await;
    let rig = Rig::plain(&[backend.address]);
    for follow in ["G", "GET / HTTP/1.1\r\nhost: a\r\n\r\n"] {
        let mut stream = TcpStream::connect(rig.address()).await.unwrap();
        stream.write_all(format!("GET /slow HTTP/1.1\r\nhost: a\r\n\r\n{follow}").as_bytes()).await.unwrap();
        while waiting(&rig).await == 0 {}
        drop(stream);
        for _ in 0..2000 {
            if waiting(&rig).await == 0 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(waiting(&rig).await, 0, "{follow:?}");
        eventually("the connection is closed", || rig.proxy.open_connections() == 0).await;
    }
}

#[tokio::test]
async fn a_client_that_sends_its_next_request_early_is_waited_for() {
    let backend = Backend::http1(|_: Request<Incoming>| async {
        tokio::time::sleep(Duration::from_millis(1500)).await;
        full("late")
    })
    .await;
    let rig = Rig::plain(&[backend.address]);
    let mut stream = TcpStream::connect(rig.address()).await.unwrap();
    let last = "GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    stream.write_all(format!("GET / HTTP/1.1\r\nhost: a\r\n\r\n{last}").as_bytes()).await.unwrap();
    let mut answers = String::new();
    stream.read_to_string(&mut answers).await.unwrap();
    assert_eq!(answers.matches("late").count(), 2, "{answers}");
}

#[tokio::test]
async fn a_worker_accepts_as_long_as_all_together_have_room() {
    let backend = Backend::echo("one").await;
    let options = Options { workers: Some(4), max_connections: 16, ..options() };
    let rig = Rig::with(options, &[backend.address], |_| {});
    let mut clients = Vec::new();
    // However the kernel spreads them over the workers, whose even share would be four.
    for _ in 0..16 {
        let mut stream = TcpStream::connect(rig.address()).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        let mut byte = [0];
        stream.read_exact(&mut byte).await.unwrap();
        clients.push(stream);
    }
    assert_eq!(rig.proxy.open_connections(), 16);
    // One that leaves makes room for one that waits.
    clients.pop();
    let answer = fetch(rig.address(), "/").await;
    assert_eq!(answer.status, 200);
}
