//! Retries that a rule asks for.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use snapshot::{BackendProtocol, Resource, Retry, Timeouts};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::backend::{Backend, Body, frames, full};
use crate::client::{self, collect, fetch, http1, send};
use crate::rig::{Rig, cluster, eventually, options, route, rule, timeouts};

fn retry(attempts: u32, statuses: &[u16]) -> Retry {
    Retry { attempts, statuses: statuses.to_vec(), backoff: Duration::ZERO }
}

fn with(endpoints: &[std::net::SocketAddr], protocol: BackendProtocol, retry: Retry, timeouts: Timeouts) -> Rig {
    let options = dataplane::Options { workers: Some(1), ..options() };
    Rig::with(options, endpoints, |snapshot| {
        let cluster = snapshot::Cluster { protocol, ..cluster("app") };
        snapshot.insert("app", Resource::Cluster(cluster));
        let rule = snapshot::Rule { retry: Some(retry), timeouts, ..rule("again", "/", "app") };
        snapshot.insert("all", Resource::Route(route("web", vec![rule])));
    })
}

fn plain(backend: &Backend, retry: Retry) -> Rig {
    with(&[backend.address], BackendProtocol::Http1, retry, timeouts())
}

/// What a backend saw: a body for each attempt.
type Seen = Arc<Mutex<Vec<(Bytes, Option<HeaderMap>)>>>;

/// Answers the first requests with this status, then with what came.
async fn failing(http2: bool, times: usize, status: u16) -> (Backend, Seen) {
    let seen = Seen::default();
    let told = seen.clone();
    let answer = move |request: Request<Incoming>| {
        let told = told.clone();
        async move {
            let collected = request.into_body().collect().await.unwrap();
            let trailers = collected.trailers().cloned();
            let body = collected.to_bytes();
            let attempt = {
                let mut seen = told.lock().unwrap();
                seen.push((body.clone(), trailers));
                seen.len()
            };
            let mut response = full(if attempt > times { body } else { format!("failed {attempt}").into() });
            if attempt <= times {
                *response.status_mut() = StatusCode::from_u16(status).unwrap();
            }
            response
        }
    };
    (if http2 { Backend::http2(answer).await } else { Backend::http1(answer).await }, seen)
}

#[tokio::test]
async fn listed_statuses_are_tried_again_as_often_as_asked_and_the_last_answer_is_the_clients() {
    for (failures, status, expected, attempts, body) in [
        (2, 500, 200, 3, ""),
        (3, 500, 200, 4, ""),
        (4, 500, 500, 4, "failed 4"),
        (9, 502, 502, 4, "failed 4"),
        (2, 503, 503, 1, "failed 1"),
    ] {
        let (backend, seen) = failing(false, failures, status).await;
        let rig = plain(&backend, retry(3, &[500, 502]));
        let answer = fetch(rig.address(), "/").await;
        assert_eq!((answer.status.as_u16(), answer.body.as_str()), (expected, body), "{failures} times {status}");
        assert_eq!(seen.lock().unwrap().len(), attempts, "{failures} times {status}");
    }
}

#[tokio::test]
async fn the_answer_that_is_thrown_away_leaves_its_connection_usable() {
    let (backend, _) = failing(false, 3, 500).await;
    let rig = plain(&backend, retry(3, &[500]));
    assert_eq!(fetch(rig.address(), "/").await.status, 200);
    assert_eq!(backend.connections.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_body_is_sent_again_with_its_trailers() {
    for http2 in [false, true] {
        let (backend, seen) = failing(http2, 2, 500).await;
        let protocol = if http2 { BackendProtocol::Http2 } else { BackendProtocol::Http1 };
        let rig = with(&[backend.address], protocol, retry(2, &[500]), timeouts());
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", "7".parse().unwrap());
        let parts = vec![Bytes::from("one, "), Bytes::from("two, "), Bytes::from(vec![b'x'; 50_000])];
        let whole = parts.concat();
        let body = frames(parts, Some(trailers.clone()));
        let request = Request::post("http://a/").header("trailer", "x-sum");
        let response = if http2 {
            let mut client = client::http2(TcpStream::connect(rig.address()).await.unwrap()).await;
            client.send_request(request.body(body).unwrap()).await
        } else {
            http1(rig.address()).await.send_request(request.header("host", "a").body(body).unwrap()).await
        };
        let answer = collect(response.unwrap()).await.unwrap();
        assert_eq!((answer.status.as_u16(), answer.body.len()), (200, whole.len()));
        let seen = seen.lock().unwrap();
        assert_eq!(seen.len(), 3);
        for (body, came) in &*seen {
            assert_eq!(body, &whole);
            assert_eq!(came.as_ref(), Some(&trailers), "http2: {http2}");
        }
    }
}

#[tokio::test]
async fn an_answer_that_comes_before_the_end_of_the_body_is_tried_again_with_all_of_it() {
    for http2 in [false, true] {
        let attempts = Arc::new(AtomicUsize::new(0));
        let counted = attempts.clone();
        let answer = move |request: Request<Incoming>| {
            let first = counted.fetch_add(1, Ordering::SeqCst) == 0;
            async move {
                if first {
                    let mut response = full("too early");
                    *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
                    return response;
                }
                full(request.into_body().collect().await.unwrap().to_bytes())
            }
        };
        let backend = if http2 { Backend::http2(answer).await } else { Backend::http1(answer).await };
        let protocol = if http2 { BackendProtocol::Http2 } else { BackendProtocol::Http1 };
        let rig = with(&[backend.address], protocol, retry(1, &[503]), timeouts());
        let mut stream = TcpStream::connect(rig.address()).await.unwrap();
        let head = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\nConnection: close\r\n\r\nfirst";
        stream.write_all(head.as_bytes()).await.unwrap();
        eventually("the second attempt", || attempts.load(Ordering::SeqCst) == 2).await;
        stream.write_all(b"-last").await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("\r\n\r\nfirst-last"), "{answer}");
    }
}

#[tokio::test]
async fn a_body_that_is_too_large_to_keep_is_sent_once_and_whole() {
    for announced in [true, false] {
        let (backend, seen) = failing(false, 9, 500).await;
        let rig = plain(&backend, retry(3, &[500]));
        let body = vec![7; 200_000];
        let request = Request::post("/").header("host", "a");
        let answer = if announced {
            send(rig.address(), request.body(Full::new(Bytes::from(body.clone()))).unwrap()).await
        } else {
            let parts = body.chunks(10_000).map(Bytes::copy_from_slice).collect();
            let request = request.body(frames(parts, None)).unwrap();
            collect(http1(rig.address()).await.send_request(request).await.unwrap()).await.unwrap()
        };
        assert_eq!((answer.status.as_u16(), answer.body.as_str()), (500, "failed 1"));
        assert_eq!(seen.lock().unwrap().iter().map(|(body, _)| body.len()).collect::<Vec<_>>(), [200_000]);
    }
}

/// Closes so many connections after the request's head came, then answers.
async fn closing(times: usize) -> (std::net::SocketAddr, Arc<AtomicUsize>, tokio::task::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    let accepting = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.read(&mut [0; 1024]).await;
            if counted.fetch_add(1, Ordering::SeqCst) >= times {
                let _ = stream.write_all(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n").await;
            }
        }
    });
    (address, count, accepting)
}

#[tokio::test]
async fn connections_that_break_are_tried_again_where_a_second_delivery_does_no_harm() {
    let (address, count, accepting) = closing(4).await;
    let rig = with(&[address], BackendProtocol::Http1, retry(4, &[]), timeouts());
    assert_eq!(fetch(rig.address(), "/").await.status, 204);
    assert_eq!(count.load(Ordering::SeqCst), 5);
    accepting.abort();

    let (address, count, accepting) = closing(4).await;
    let rig = with(&[address], BackendProtocol::Http1, retry(4, &[]), timeouts());
    let request = Request::post("/").header("host", "a").body(Full::new(Bytes::from("pay 7"))).unwrap();
    let answer = send(rig.address(), request).await;
    assert_eq!((answer.status.as_u16(), answer.header("x-sluice-reason")), (502, "upstream_reset"));
    assert_eq!(count.load(Ordering::SeqCst), 1);
    accepting.abort();
}

#[tokio::test]
async fn every_endpoint_is_tried_before_one_is_tried_twice() {
    let (failing_one, seen_by_one) = failing(false, 9, 500).await;
    let (failing_other, seen_by_other) = failing(false, 9, 500).await;
    let endpoints = [failing_one.address, failing_other.address];
    let rig = with(&endpoints, BackendProtocol::Http1, retry(3, &[500]), timeouts());
    assert_eq!(fetch(rig.address(), "/").await.status, 500);
    assert_eq!((seen_by_one.lock().unwrap().len(), seen_by_other.lock().unwrap().len()), (2, 2));
}

/// Says nothing to the first requests.
async fn silent(times: usize) -> (Backend, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    let backend = Backend::http1(move |_| {
        let attempt = counted.fetch_add(1, Ordering::SeqCst);
        async move {
            if attempt < times {
                std::future::pending::<()>().await;
            }
            full("at last")
        }
    })
    .await;
    (backend, count)
}

#[tokio::test]
async fn an_attempt_that_takes_too_long_is_tried_again() {
    let (backend, count) = silent(2).await;
    let limits = Timeouts { backend_request: Some(Duration::from_millis(200)), ..timeouts() };
    let rig = with(&[backend.address], BackendProtocol::Http1, retry(2, &[]), limits);
    assert_eq!(fetch(rig.address(), "/").await.body, "at last");
    assert_eq!(count.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn the_time_for_the_whole_request_ends_all_retries() {
    let (backend, _) = silent(usize::MAX).await;
    let limits = Timeouts {
        request: Some(Duration::from_millis(600)),
        backend_request: Some(Duration::from_millis(50)),
        ..timeouts()
    };
    let rig = with(&[backend.address], BackendProtocol::Http1, retry(u32::MAX, &[]), limits);
    let answer = tokio::time::timeout(Duration::from_secs(20), fetch(rig.address(), "/")).await.expect("no end");
    assert_eq!((answer.status.as_u16(), answer.header("x-sluice-reason")), (504, "request_timeout"));
}

#[tokio::test]
async fn a_retry_that_could_only_come_too_late_leaves_the_answer_that_is_there() {
    let (backend, seen) = failing(false, 9, 500).await;
    let limits = Timeouts { request: Some(Duration::from_secs(30)), ..timeouts() };
    let retry = Retry { backoff: Duration::from_secs(60), ..retry(3, &[500]) };
    let rig = with(&[backend.address], BackendProtocol::Http1, retry, limits);
    let answer = tokio::time::timeout(Duration::from_secs(20), fetch(rig.address(), "/")).await.expect("it waits");
    assert_eq!((answer.status.as_u16(), answer.body.as_str()), (500, "failed 1"));
    assert_eq!(seen.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn no_retry_comes_before_its_pause_which_doubles() {
    let (backend, seen) = failing(false, 3, 500).await;
    let retry = Retry { backoff: Duration::from_millis(20), ..retry(3, &[500]) };
    let rig = plain(&backend, retry);
    let began = Instant::now();
    assert_eq!(fetch(rig.address(), "/").await.status, 200);
    assert!(began.elapsed() >= Duration::from_millis(20 + 40 + 80), "{:?}", began.elapsed());
    assert_eq!(seen.lock().unwrap().len(), 4);
}

#[tokio::test]
async fn what_a_rule_asks_for_is_not_taken_from_the_budget() {
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    let backend = Backend::http1(move |_| {
        let odd = counted.fetch_add(1, Ordering::SeqCst).is_multiple_of(2);
        async move {
            let mut response: Response<Body> = full("x");
            if odd {
                *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
            }
            response
        }
    })
    .await;
    let rig = plain(&backend, retry(1, &[500]));
    let mut client = http1(rig.address()).await;
    for request in 0..400 {
        client.ready().await.unwrap();
        let answer = collect(client.send_request(crate::client::get("/")).await.unwrap()).await.unwrap();
        assert_eq!(answer.status, 200, "request {request}");
    }
    assert_eq!(count.load(Ordering::SeqCst), 800);
}
