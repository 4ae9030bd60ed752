use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::backend::{Backend, Body, frames, full};
use crate::client::{collect, fetch, http1, raw, send};
use crate::rig::{Rig, eventually, options, route, rule};
use snapshot::Resource;

const CHUNK: usize = 64 * 1024;

fn limited(endpoints: &[std::net::SocketAddr], max: u64) -> Rig {
    Rig::with(options(), endpoints, |snapshot| {
        let mut rule = rule("limited", "/", "app");
        rule.max_body = Some(max);
        snapshot.insert("all", Resource::Route(route("web", vec![rule])));
    })
}

#[tokio::test]
async fn a_body_that_says_it_is_too_large_is_refused_at_once() {
    let backend = Backend::echo("one").await;
    let rig = limited(&[backend.address], 10);
    let request =
        |body: &'static str| Request::post("/").header("host", "a").body(Full::new(Bytes::from(body))).unwrap();
    assert_eq!(send(rig.address(), request("0123456789")).await.status, 200);
    let answer = send(rig.address(), request("0123456789a")).await;
    assert_eq!((answer.status.as_u16(), answer.header("connection")), (413, "close"));
    assert_eq!(answer.header("x-sluice-reason"), "body_too_large");
}

#[tokio::test]
async fn a_body_that_turns_out_too_large_is_refused_when_it_does() {
    let backend = Backend::echo("one").await;
    let rig = limited(&[backend.address], 10);
    let chunks = "5\r\n01234\r\n5\r\n56789\r\n1\r\na\r\n0\r\n\r\n";
    let bytes = format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}");
    let answer = raw(rig.address(), bytes.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
}

#[tokio::test]
async fn a_client_that_expects_a_go_ahead_gets_it() {
    let backend = Backend::echo("one").await;
    let rig = Rig::plain(&[backend.address]);
    let mut stream = TcpStream::connect(rig.address()).await.unwrap();
    let head = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut ahead = [0; 25];
    stream.read_exact(&mut ahead).await.unwrap();
    assert_eq!(&ahead, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"hello").await.unwrap();
    let mut rest = String::new();
    stream.read_to_string(&mut rest).await.unwrap();
    assert!(rest.starts_with("HTTP/1.1 200 ") && rest.contains("hello"), "{rest}");
    assert!(!rest.contains("expect:"), "{rest}");
}

#[tokio::test]
async fn answers_without_bodies_stay_without() {
    let backend = Backend::http1(|request: Request<Incoming>| async move {
        let mut response = full(if request.method() == Method::HEAD { "" } else { "text" });
        match request.uri().path() {
            "/204" => response = Response::builder().status(204).body(full("").into_body()).unwrap(),
            "/304" => {
                response = Response::builder().status(304).header("etag", "x").body(full("").into_body()).unwrap()
            }
            _ => _ = response.headers_mut().insert("content-length", "4".parse().unwrap()),
        }
        response
    })
    .await;
    let rig = Rig::plain(&[backend.address]);
    let mut client = http1(rig.address()).await;
    for (method, path, status) in [(Method::HEAD, "/", 200), (Method::GET, "/204", 204), (Method::GET, "/304", 304)] {
        let request =
            Request::builder().method(method).uri(path).header("host", "a").body(Empty::<Bytes>::new()).unwrap();
        let answer = collect(client.send_request(request).await.unwrap()).await.unwrap();
        assert_eq!((answer.status.as_u16(), answer.body.as_str()), (status, ""));
        client.ready().await.unwrap();
    }
    assert_eq!(fetch(rig.address(), "/").await.body, "text");
}

/// Hands out as many chunks as are asked for, and counts them.
fn counted(sent: Arc<AtomicUsize>) -> Body {
    let chunks = futures::stream::iter((0..4096).map(move |_| {
        sent.fetch_add(1, Ordering::SeqCst);
        Ok(Frame::data(Bytes::from(vec![0; CHUNK])))
    }));
    StreamBody::new(chunks).boxed_unsync()
}

#[tokio::test]
async fn a_slow_reader_slows_the_backend_and_not_the_memory_down() {
    let sent = Arc::new(AtomicUsize::new(0));
    let counter = sent.clone();
    let backend = Backend::http1(move |_| {
        let body = counted(counter.clone());
        async move { Response::new(body) }
    })
    .await;
    let rig = Rig::plain(&[backend.address]);
    let mut stream = TcpStream::connect(rig.address()).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    let mut first = [0; 1024];
    stream.read_exact(&mut first).await.unwrap();
    // The kernel's buffers on four sockets may fill, 256 MiB may not.
    let mut before = 0;
    eventually("the backend stops", || {
        let now = sent.load(Ordering::SeqCst);
        std::thread::sleep(Duration::from_millis(100));
        std::mem::replace(&mut before, now) == now
    })
    .await;
    assert!(sent.load(Ordering::SeqCst) < 1024, "{} chunks", sent.load(Ordering::SeqCst));
}

#[tokio::test]
async fn a_backend_that_does_not_read_slows_the_client_down() {
    let backend = Backend::http1(|request: Request<Incoming>| async move {
        std::future::pending::<()>().await;
        drop(request);
        full("never")
    })
    .await;
    let rig = Rig::plain(&[backend.address]);
    let sent = Arc::new(AtomicUsize::new(0));
    let body = counted(sent.clone());
    let request = Request::post("/").header("host", "a").body(body).unwrap();
    let mut client = http1(rig.address()).await;
    let pending = tokio::spawn(client.send_request(request));
    let mut before = 0;
    eventually("the client stops", || {
        let now = sent.load(Ordering::SeqCst);
        std::thread::sleep(Duration::from_millis(100));
        now > 0 && std::mem::replace(&mut before, now) == now
    })
    .await;
    assert!(sent.load(Ordering::SeqCst) < 1024, "{} chunks", sent.load(Ordering::SeqCst));
    pending.abort();
}

#[tokio::test]
async fn both_directions_flow_at_once() {
    // The backend answers while it reads, which a client may wait for before it sends the rest.
    let backend =
        Backend::http1(|request: Request<Incoming>| async move { Response::new(request.into_body().boxed_unsync()) })
            .await;
    let rig = Rig::plain(&[backend.address]);
    let (sender, receiver) = futures::channel::mpsc::channel::<Result<Frame<Bytes>, std::convert::Infallible>>(1);
    let request = Request::post("/").header("host", "a").body(StreamBody::new(receiver)).unwrap();
    let mut client = http1(rig.address()).await;
    let mut sender = sender;
    sender.try_send(Ok(Frame::data(Bytes::from("one")))).unwrap();
    let mut response = client.send_request(request).await.unwrap().into_body();
    assert_eq!(response.frame().await.unwrap().unwrap().into_data().unwrap(), "one");
    sender.try_send(Ok(Frame::data(Bytes::from("two")))).unwrap();
    assert_eq!(response.frame().await.unwrap().unwrap().into_data().unwrap(), "two");
    drop(sender);
    assert!(response.frame().await.is_none());
}

#[tokio::test]
async fn an_upload_of_large_and_small_pieces_arrives_as_it_was_sent() {
    let backend = Backend::http1(|request: Request<Incoming>| async move {
        let length = request.headers().get("content-length").map_or("none", |value| value.to_str().unwrap()).to_owned();
        let body = request.into_body().collect().await.unwrap().to_bytes();
        let in_order = body.iter().enumerate().all(|(at, byte)| *byte == (at % 251) as u8);
        full(format!("{length} {} {in_order}", body.len()))
    })
    .await;
    let rig = Rig::plain(&[backend.address]);
    let sizes = [1, 100_000, 3, 8192, 8191, 70_000, 1, 1, 500_000];
    let whole: Bytes = (0..sizes.iter().sum()).map(|at: usize| (at % 251) as u8).collect();
    let mut rest = whole.clone();
    let pieces = sizes.map(|size| rest.split_to(size)).to_vec();
    let mut client = http1(rig.address()).await;
    for (body, length) in [(frames(pieces, None), "none"), (full(whole.clone()).into_body(), "686389")] {
        let request = Request::post("/").header("host", "a").body(body).unwrap();
        let answer = collect(client.send_request(request).await.unwrap()).await.unwrap();
        assert_eq!(answer.body, format!("{length} {} true", whole.len()));
        client.ready().await.unwrap();
    }
    assert_eq!(backend.connections.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_large_answer_arrives_whole_and_its_connection_is_used_again() {
    let backend = Backend::http1(|_| async {
        Response::new(frames((0..64).map(|n| Bytes::from(vec![n; CHUNK])).collect(), None))
    })
    .await;
    let rig = Rig::plain(&[backend.address]);
    let mut client = http1(rig.address()).await;
    for _ in 0..3 {
        let request = Request::get("/").header("host", "a").body(Empty::<Bytes>::new()).unwrap();
        let body = client.send_request(request).await.unwrap().into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body.len(), 64 * CHUNK);
        assert!(body.chunks(CHUNK).enumerate().all(|(n, chunk)| chunk.iter().all(|byte| usize::from(*byte) == n)));
        client.ready().await.unwrap();
    }
    assert_eq!(backend.connections.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn an_upload_is_complete_with_the_last_byte_of_its_length() {
    let backend = Backend::http1(|request: Request<Incoming>| async move {
        let body = request.into_body().collect().await.unwrap().to_bytes();
        tokio::time::sleep(Duration::from_millis(600)).await;
        full(body)
    })
    .await;
    let rig = Rig::with(options(), &[backend.address], |snapshot| {
        let mut rule = rule("all", "/", "app");
        rule.timeouts.send = Some(Duration::from_millis(200));
        snapshot.insert("all", Resource::Route(route("web", vec![rule])));
    });
    // The end of the stream would be an empty frame of its own.
    let (response, _upload) = upload_without_end(rig.address()).await;
    assert_eq!(response.await.unwrap().status(), 200);
}

/// A request of HTTP/2 with all five bytes of its body.
pub async fn upload_without_end(address: std::net::SocketAddr) -> (h2::client::ResponseFuture, h2::SendStream<Bytes>) {
    let (client, driver) = h2::client::handshake(TcpStream::connect(address).await.unwrap()).await.unwrap();
    tokio::spawn(driver);
    let request = Request::post("http://a/").header("content-length", 5).body(()).unwrap();
    let (response, mut upload) = client.ready().await.unwrap().send_request(request, false).unwrap();
    upload.send_data(Bytes::from("hello"), false).unwrap();
    (response, upload)
}
