//! Backends that do what none should.

use std::net::SocketAddr;
use std::time::Duration;

use http::Request;
use http_body_util::Empty;
use snapshot::{Resource, Timeouts};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::client::{collect, fetch, get, http1};
use crate::rig::{Rig, options, route, rule, timeouts};

/// A backend that reads the head of a request, answers with these bytes, and then only keeps the connection.
async fn scripted(answer: &'static str) -> (SocketAddr, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut accepting = JoinSet::new();
    accepting.spawn(async move {
        let mut kept = JoinSet::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            kept.spawn(async move {
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    let Ok(byte) = stream.read_u8().await else { return };
                    request.push(byte);
                }
                let _ = stream.write_all(answer.as_bytes()).await;
                std::future::pending::<()>().await;
            });
        }
    });
    (address, accepting)
}

#[tokio::test]
async fn an_upload_that_a_backend_takes_no_more_of_ends_although_the_answer_is_there() {
    let (address, _backend) = scripted("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    let options = dataplane::Options { idle_timeout: Duration::from_secs(3600), ..options() };
    let rig = Rig::with(options, &[address], |snapshot| {
        let mut rule = rule("all", "/", "app");
        rule.timeouts = Timeouts { send: Some(Duration::from_millis(200)), ..timeouts() };
        snapshot.insert("all", Resource::Route(route("web", vec![rule])));
    });
    let (mut from, mut to) = TcpStream::connect(rig.address()).await.unwrap().into_split();
    to.write_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000000\r\n\r\n").await.unwrap();
    let sending = tokio::spawn(async move { while to.write_all(&[0; 64 * 1024]).await.is_ok() {} });
    let mut answer = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(20), from.read_to_end(&mut answer)).await;
    let _ = read.expect("the connection stays open");
    assert!(answer.starts_with(b"HTTP/1.1 200 ") && answer.ends_with(b"ok"), "{}", String::from_utf8_lossy(&answer));
    sending.await.unwrap();
}

#[tokio::test]
async fn protocols_are_not_switched_within_a_request() {
    let (address, _backend) =
        scripted("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n").await;
    let rig = Rig::plain(&[address]);
    let request = |body: &str| format!("POST / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: echo\r\n{body}");
    for (body, status) in [("\r\n", "101"), ("Content-Length: 5\r\n\r\n", "502")] {
        let mut stream = TcpStream::connect(rig.address()).await.unwrap();
        stream.write_all(request(body).as_bytes()).await.unwrap();
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(answer[9..], *status.as_bytes());
    }
}

#[tokio::test]
async fn what_follows_an_answer_is_nobodys_answer() {
    let (address, _backend) = scripted(
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\noneHTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-Forged: 1\r\n\r\nforge",
    )
    .await;
    let rig = Rig::plain(&[address]);
    for _ in 0..3 {
        assert_eq!(fetch(rig.address(), "/").await.body, "one");
    }
}

#[tokio::test]
async fn a_body_whose_chunks_are_no_chunks_never_looks_complete() {
    // Without a size, with the size elsewhere, and with a line feed that ends the line for some and not for others.
    for chunks in ["3\r\none\r\n\r\n\r\n", "3\r\none\r\n;0\r\n\r\n", "3;x\ny\r\none\r\n0\r\n\r\n"] {
        let answer = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}");
        let (address, _backend) = scripted(answer.leak()).await;
        let rig = Rig::plain(&[address]);
        let mut client = http1(rig.address()).await;
        let answer = async { collect(client.send_request(get("/")).await?).await };
        assert!(answer.await.is_err(), "{chunks:?}");
    }
}

#[tokio::test]
async fn an_answer_that_must_not_have_a_length_gets_none() {
    let (address, _backend) = scripted("HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\n").await;
    let rig = Rig::plain(&[address]);
    let request = Request::get("/").header("host", "a").body(Empty::<bytes::Bytes>::new()).unwrap();
    let response = http1(rig.address()).await.send_request(request).await.unwrap();
    assert_eq!((response.status().as_u16(), response.headers().contains_key("content-length")), (204, false));
}
