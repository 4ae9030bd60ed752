//! Copies of requests.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use snapshot::{BackendProtocol, Filter, HeaderEdit, Mirror, Resource};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use crate::backend::{Backend, frames, full};
use crate::client::{collect, fetch, get, http1, send};
use crate::rig::{Rig, addresses, cluster, eventually, free_port, options, route, rule};

struct Copied {
    request: String,
    headers: HeaderMap,
    body: Bytes,
    trailers: Option<HeaderMap>,
}

/// A target of copies, and what it gets.
async fn target(http2: bool) -> (Backend, UnboundedReceiver<Copied>) {
    let (sender, received) = unbounded_channel();
    let answer = move |request: Request<Incoming>| {
        let sender = sender.clone();
        async move {
            let (head, body) = request.into_parts();
            let collected = body.collect().await.unwrap();
            let trailers = collected.trailers().cloned();
            let request = format!("{} {}", head.method, head.uri);
            sender.send(Copied { request, headers: head.headers, body: collected.to_bytes(), trailers }).unwrap();
            full("nobody reads this")
        }
    };
    (if http2 { Backend::http2(answer).await } else { Backend::http1(answer).await }, received)
}

async fn next(received: &mut UnboundedReceiver<Copied>) -> Copied {
    tokio::time::timeout(Duration::from_secs(20), received.recv()).await.expect("no copy came").unwrap()
}

fn set(value: &str) -> Filter {
    let set = vec![("x-place".to_owned(), value.to_owned())];
    Filter::RequestHeaders(HeaderEdit { set, ..HeaderEdit::default() })
}

fn mirror(cluster: &str, numerator: u32, denominator: u32) -> Filter {
    Filter::Mirror(Mirror { cluster: cluster.into(), numerator, denominator })
}

/// A rule with these filters; each target is a cluster `t0`, `t1`, …
fn with(backend: &Backend, filters: Vec<Filter>, targets: &[(BackendProtocol, &[SocketAddr])]) -> Rig {
    let options = dataplane::Options { workers: Some(1), ..options() };
    Rig::with(options, &[backend.address], |snapshot| {
        for (index, (protocol, endpoints)) in targets.iter().enumerate() {
            let name = format!("t{index}");
            snapshot.insert(&name, Resource::Endpoints(addresses(endpoints)));
            let cluster = snapshot::Cluster { protocol: protocol.clone(), ..cluster(&name) };
            snapshot.insert(&name, Resource::Cluster(cluster));
        }
        let rule = snapshot::Rule { filters, ..rule("mirrored", "/", "app") };
        snapshot.insert("all", Resource::Route(route("web", vec![rule])));
    })
}

async fn metric(rig: &Rig, name: &str) -> u64 {
    let page = fetch(rig.proxy.admin_address().unwrap(), "/metrics").await.body;
    let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("{name} is not in {page}")).parse().unwrap()
}

async fn becomes(rig: &Rig, name: &str, value: u64) {
    for _ in 0..2000 {
        if metric(rig, name).await == value {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("{name} never becomes {value}");
}

#[tokio::test]
async fn every_target_gets_the_request_as_it_is_at_its_place() {
    let backend = Backend::echo("main").await;
    let (one, mut at_one) = target(false).await;
    let (other, mut at_other) = target(true).await;
    let filters = vec![set("first"), mirror("t0", 1, 1), set("second"), mirror("t1", 100, 100), set("third")];
    let targets = [(BackendProtocol::Http1, &[one.address][..]), (BackendProtocol::Http2, &[other.address])];
    let rig = with(&backend, filters, &targets);
    let answer = fetch(rig.address(), "/a?b=c").await;
    assert_eq!(answer.header("x-backend"), "main");
    assert!(answer.body.contains("x-place: third"), "{}", answer.body);
    let copied = next(&mut at_one).await;
    assert_eq!((copied.request.as_str(), &copied.headers["host"]), ("GET /a?b=c", &"app.example".parse().unwrap()));
    assert_eq!(copied.headers["x-place"], "first");
    let copied = next(&mut at_other).await;
    assert_eq!(copied.request, "GET http://app.example/a?b=c");
    assert_eq!(copied.headers["x-place"], "second");
}

#[tokio::test]
async fn bodies_are_copied_with_their_trailers() {
    let backend = Backend::echo("main").await;
    let (one, mut at_one) = target(false).await;
    let (other, mut at_other) = target(true).await;
    let targets = [(BackendProtocol::Http1, &[one.address][..]), (BackendProtocol::Http2, &[other.address])];
    let rig = with(&backend, vec![mirror("t0", 1, 1), mirror("t1", 1, 1)], &targets);
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", "7".parse().unwrap());
    let parts = vec![Bytes::from("one, "), Bytes::from("two")];
    let request = Request::post("/")
        .header("host", "a")
        .header("trailer", "x-sum")
        .body(frames(parts, Some(trailers.clone())))
        .unwrap();
    let answer = collect(http1(rig.address()).await.send_request(request).await.unwrap()).await.unwrap();
    assert!(answer.body.ends_with("\n\none, two"), "{}", answer.body);
    for received in [&mut at_one, &mut at_other] {
        let copied = next(received).await;
        assert_eq!((copied.body.as_ref(), copied.trailers.as_ref()), (&b"one, two"[..], Some(&trailers)));
    }
}

#[tokio::test]
async fn a_body_that_is_too_large_to_copy_only_loses_the_copy() {
    let backend = Backend::echo("main").await;
    let (one, mut received) = target(false).await;
    let rig = with(&backend, vec![mirror("t0", 1, 1)], &[(BackendProtocol::Http1, &[one.address])]);
    let request =
        |length| Request::post("/").header("host", "a").body(Full::new(Bytes::from(vec![b'x'; length]))).unwrap();
    let answer = send(rig.address(), request(300_000)).await;
    assert!(answer.body.len() > 300_000);
    // Whatever was copied of the first would come before the second.
    send(rig.address(), request(3)).await;
    assert_eq!(next(&mut received).await.body, "xxx");
    becomes(&rig, "sluice_mirrors_total", 1).await;
    becomes(&rig, "sluice_mirrors_dropped_total", 1).await;
}

#[tokio::test]
async fn shares_are_drawn_for_each_request_and_mirror() {
    let backend = Backend::echo("main").await;
    let (none, mut at_none) = target(false).await;
    let (half, mut at_half) = target(false).await;
    let (all, mut at_all) = target(false).await;
    let filters = vec![mirror("t0", 0, 100), mirror("t1", 1, 2), mirror("t2", 3, 3)];
    let targets = [&none, &half, &all].map(|target| (BackendProtocol::Http1, std::slice::from_ref(&target.address)));
    let rig = with(&backend, filters, &targets);
    let mut client = http1(rig.address()).await;
    for _ in 0..400 {
        client.ready().await.unwrap();
        collect(client.send_request(get("/")).await.unwrap()).await.unwrap();
    }
    for _ in 0..400 {
        next(&mut at_all).await;
    }
    // Six standard deviations below and above what is to be expected.
    for _ in 0..140 {
        next(&mut at_half).await;
    }
    let mut further = 0;
    while at_half.try_recv().is_ok() {
        further += 1;
    }
    assert!(further <= 120, "{further}");
    assert!(at_none.try_recv().is_err());
}

#[tokio::test]
async fn a_target_that_never_answers_delays_nobody() {
    let backend = Backend::echo("main").await;
    let silent = Backend::http1(|_: Request<Incoming>| std::future::pending()).await;
    let rig = with(&backend, vec![mirror("t0", 1, 1)], &[(BackendProtocol::Http1, &[silent.address])]);
    // More than may be under way.
    let mut client = http1(rig.address()).await;
    for _ in 0..600 {
        client.ready().await.unwrap();
        let answer = collect(client.send_request(get("/")).await.unwrap()).await.unwrap();
        assert_eq!(answer.header("x-backend"), "main");
    }
    assert_eq!(metric(&rig, "sluice_mirrors_dropped_total").await, 600 - 512);
}

#[tokio::test]
async fn an_endpoint_that_refuses_connections_costs_no_copy() {
    let backend = Backend::echo("main").await;
    let (one, mut received) = target(false).await;
    let dead = SocketAddr::new(crate::rig::LOOPBACK, free_port());
    let rig = with(&backend, vec![mirror("t0", 1, 1)], &[(BackendProtocol::Http1, &[dead, one.address])]);
    for _ in 0..10 {
        assert_eq!(fetch(rig.address(), "/").await.status, 200);
        next(&mut received).await;
    }
}

#[tokio::test]
async fn a_target_without_endpoints_is_no_error() {
    let backend = Backend::echo("main").await;
    let rig = with(&backend, vec![mirror("t0", 1, 1)], &[(BackendProtocol::Http1, &[])]);
    assert_eq!(fetch(rig.address(), "/").await.status, 200);
    becomes(&rig, "sluice_mirrors_dropped_total", 1).await;
}

#[tokio::test]
async fn a_mirror_keeps_its_cluster_alive_and_follows_its_endpoints() {
    let backend = Backend::echo("main").await;
    let (one, mut at_one) = target(false).await;
    let (other, mut at_other) = target(false).await;
    let mut rig = with(&backend, vec![mirror("t0", 1, 1)], &[(BackendProtocol::Http1, &[one.address])]);
    fetch(rig.address(), "/1").await;
    assert_eq!(next(&mut at_one).await.request, "GET /1");
    rig.set("t0", Resource::Endpoints(addresses(&[other.address])));
    fetch(rig.address(), "/2").await;
    assert_eq!(next(&mut at_other).await.request, "GET /2");
}

#[tokio::test]
async fn a_body_is_copied_with_the_last_byte_of_its_length() {
    let backend = Backend::echo("main").await;
    let (one, mut received) = target(false).await;
    let rig = with(&backend, vec![mirror("t0", 1, 1)], &[(BackendProtocol::Http1, &[one.address])]);
    let (response, _upload) = crate::bodies::upload_without_end(rig.address()).await;
    assert_eq!(response.await.unwrap().status(), 200);
    assert_eq!(next(&mut received).await.body, "hello");
}

#[tokio::test]
async fn uploads_that_do_not_come_keep_no_copy_from_its_place() {
    let begun = Arc::new(AtomicUsize::new(0));
    let counted = begun.clone();
    let backend = Backend::http2(move |request: Request<Incoming>| {
        counted.fetch_add(1, Ordering::SeqCst);
        async move {
            if request.method() == Method::POST {
                std::future::pending::<()>().await;
            }
            full("main")
        }
    })
    .await;
    let (one, mut received) = target(false).await;
    let mut rig = with(&backend, vec![mirror("t0", 1, 1)], &[(BackendProtocol::Http1, &[one.address])]);
    rig.set("app", Resource::Cluster(snapshot::Cluster { protocol: BackendProtocol::Http2, ..cluster("app") }));
    let mut uploads = Vec::new();
    for _ in 0..6 {
        let stream = tokio::net::TcpStream::connect(rig.address()).await.unwrap();
        let (mut client, driver) = h2::client::handshake(stream).await.unwrap();
        tokio::spawn(driver);
        for _ in 0..100 {
            client = client.ready().await.unwrap();
            let request = Request::post("http://a/").header("content-length", 5).body(()).unwrap();
            uploads.push(client.send_request(request, false).unwrap() as (_, h2::SendStream<Bytes>));
        }
    }
    // More than copies may be under way.
    eventually("all have begun", || begun.load(Ordering::SeqCst) == 600).await;
    assert_eq!(fetch(rig.address(), "/now").await.body, "main");
    assert_eq!(next(&mut received).await.request, "GET /now");
}
