use std::sync::atomic::Ordering;

use bytes::Bytes;
use http::Request;
use http_body_util::Full;

use crate::backend::Backend;
use crate::client::{collect, fetch, get, http1, send};
use crate::rig::Rig;

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
