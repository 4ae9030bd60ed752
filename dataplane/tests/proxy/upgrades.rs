use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::backend::{Backend, Body, frames, full};
use crate::client::{http1, raw};
use crate::rig::{Rig, options, route, rule};

/// Switches to a protocol that sends everything back, until the client is done; then says good-bye.
async fn switching(request: Request<Incoming>) -> Response<Body> {
    if request.headers().get("upgrade").is_none_or(|protocol| protocol != "echo") {
        return full("not an upgrade");
    }
    tokio::spawn(async move {
        let mut stream = TokioIo::new(hyper::upgrade::on(request).await.unwrap());
        stream.write_all(b"hello ").await.unwrap();
        let mut buf = [0; 4096];
        loop {
            match stream.read(&mut buf).await {
                Ok(0) | Err(_) => break,
                Ok(read) => stream.write_all(&buf[..read]).await.unwrap(),
            }
        }
        let _ = stream.write_all(b" bye").await;
        let _ = stream.shutdown().await;
    });
    let mut response = Response::new(frames(Vec::new(), None));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().insert("connection", "upgrade".parse().unwrap());
    response.headers_mut().insert("upgrade", "echo".parse().unwrap());
    response
}

async fn upgrade(rig: &Rig) -> TokioIo<hyper::upgrade::Upgraded> {
    let request = Request::get("/").header("host", "a").header("connection", "Upgrade").header("upgrade", "echo");
    let request = request.body(Empty::<Bytes>::new()).unwrap();
    let response = http1(rig.address()).await.send_request(request).await.unwrap();
    assert_eq!(response.status(), 101);
    assert_eq!(response.headers()["upgrade"], "echo");
    TokioIo::new(hyper::upgrade::on(response).await.unwrap())
}

#[tokio::test]
async fn bytes_flow_both_ways_and_each_side_may_finish_first() {
    let backend = Backend::http1(switching).await;
    let rig = Rig::plain(&[backend.address]);
    let mut stream = upgrade(&rig).await;
    let message = vec![7; 300_000];
    let (mut reading, mut writing) = tokio::io::split(&mut stream);
    let write = async {
        writing.write_all(&message).await.unwrap();
        writing.shutdown().await.unwrap();
    };
    let mut answer = Vec::new();
    let (_, read) = tokio::join!(write, reading.read_to_end(&mut answer));
    read.unwrap();
    assert_eq!(answer.len(), 6 + message.len() + 4);
    assert!(answer.starts_with(b"hello ") && answer.ends_with(b" bye"));
}

#[tokio::test]
async fn a_backend_that_is_done_first_still_hears_the_client() {
    let (heard, hearing) = tokio::sync::oneshot::channel();
    let heard = Arc::new(Mutex::new(Some(heard)));
    let backend = Backend::http1(move |request: Request<Incoming>| {
        let heard = heard.lock().unwrap().take();
        async move {
            tokio::spawn(async move {
                let mut stream = TokioIo::new(hyper::upgrade::on(request).await.unwrap());
                stream.write_all(b"that is all").await.unwrap();
                stream.shutdown().await.unwrap();
                let mut rest = Vec::new();
                stream.read_to_end(&mut rest).await.unwrap();
                heard.unwrap().send(rest).unwrap();
            });
            let mut response = Response::new(frames(Vec::new(), None));
            *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            response.headers_mut().insert("connection", "upgrade".parse().unwrap());
            response.headers_mut().insert("upgrade", "echo".parse().unwrap());
            response
        }
    })
    .await;
    let rig = Rig::plain(&[backend.address]);
    let mut stream = upgrade(&rig).await;
    let mut said = Vec::new();
    stream.read_to_end(&mut said).await.unwrap();
    assert_eq!(said, b"that is all");
    let message = vec![7; 300_000];
    stream.write_all(&message).await.unwrap();
    stream.shutdown().await.unwrap();
    assert_eq!(hearing.await.unwrap(), message);
}

#[tokio::test]
async fn an_idle_tunnel_ends_after_the_read_timeout() {
    let backend = Backend::http1(switching).await;
    let rig = Rig::with(options(), &[backend.address], |snapshot| {
        let mut rule = rule("short", "/", "app");
        rule.timeouts.read = Some(Duration::from_millis(100));
        snapshot.insert("all", snapshot::Resource::Route(route("web", vec![rule])));
    });
    let mut stream = upgrade(&rig).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    assert_eq!(answer, b"hello ");
}

#[tokio::test]
async fn a_backend_that_does_not_switch_answers_as_usual() {
    let backend = Backend::echo("one").await;
    let rig = Rig::plain(&[backend.address]);
    let request = Request::get("/").header("host", "a").header("connection", "Upgrade").header("upgrade", "websocket");
    let request = request.body(Empty::<Bytes>::new()).unwrap();
    let response = http1(rig.address()).await.send_request(request).await.unwrap();
    assert_eq!(response.status(), 200);
}

#[tokio::test]
async fn tunnels_live_through_edits_and_a_drain_up_to_its_deadline() {
    let backend = Backend::http1(switching).await;
    let mut rig = Rig::plain(&[backend.address]);
    let mut stream = upgrade(&rig).await;
    let mut buf = [0; 6];
    stream.read_exact(&mut buf).await.unwrap();
    for edit in 0..20 {
        let name = format!("edit {edit}");
        rig.set("all", snapshot::Resource::Route(route("web", vec![rule(&name, "/", "app")])));
        stream.write_all(b"edited").await.unwrap();
        stream.read_exact(&mut buf).await.unwrap();
    }
    let during = async {
        while rig.proxy.ready() {
            tokio::task::yield_now().await;
        }
        stream.write_all(b"drains").await.unwrap();
        stream.read_exact(&mut buf).await.unwrap();
        assert_eq!(&buf, b"drains");
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest).await;
        assert_eq!(rest, b"");
    };
    let (drained, ()) = tokio::join!(rig.proxy.drain(Duration::from_millis(600)), during);
    assert_eq!(drained.cut, 1);
}

#[tokio::test]
async fn an_upgrade_to_http2_is_no_tunnel() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let noted = seen.clone();
    let backend = Backend::http1(move |request: Request<Incoming>| {
        noted.lock().unwrap().push(format!("{:?}", request.headers()));
        async { full("plain") }
    })
    .await;
    let rig = Rig::plain(&[backend.address]);
    for (connection, upgrade) in [
        ("Upgrade, HTTP2-Settings", "h2c"),
        ("Upgrade", "H2C"),
        ("Upgrade", "websocket, h2c"),
        ("Upgrade", "websocket\r\nUpgrade: h2c"),
    ] {
        let head = format!("Host: a\r\nConnection: {connection}\r\nUpgrade: {upgrade}\r\n");
        let last = "GET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
        let bytes = format!("GET / HTTP/1.1\r\n{head}HTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n{last}");
        let answer = raw(rig.address(), bytes.as_bytes()).await;
        assert_eq!(answer.matches("HTTP/1.1 200 ").count(), 2, "{upgrade}: {answer}");
    }
    let seen = seen.lock().unwrap().join("\n");
    assert!(!seen.contains("upgrade") && !seen.contains("http2-settings"), "{seen}");
}
