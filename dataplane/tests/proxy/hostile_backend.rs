//! Backends that do what none should.

use std::net::SocketAddr;
use std::time::Duration;

use http::Request;
use http_body_util::{BodyExt, Empty};
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

/// A backend that reads the head of a request, sends these pieces, each by itself, and closes.
async fn closing(pieces: &'static [&'static str]) -> (SocketAddr, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut accepting = JoinSet::new();
    accepting.spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                stream.set_nodelay(true).unwrap();
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    let Ok(byte) = stream.read_u8().await else { return };
                    request.push(byte);
                }
                for piece in pieces {
                    let _ = stream.write_all(piece.as_bytes()).await;
                    tokio::task::yield_now().await;
                }
            });
        }
    });
    (address, accepting)
}

const SHORT: &str = "HTTP/1.1 200 OK\r\nContent-Length: 29\r\nConnection: close\r\n\r\n";
const PART: &str = "twenty bytes of body";

#[tokio::test]
async fn a_response_that_ends_early_delivers_its_head_and_what_came() {
    let whole: &str = format!("{SHORT}{PART}").leak();
    let timings: [&[&str]; 3] = [vec![whole].leak(), &[SHORT, PART], &[SHORT]];
    for pieces in timings {
        let (address, _backend) = closing(pieces).await;
        let rig = Rig::plain(&[address]);
        for _ in 0..100 {
            let answer = crate::client::raw(rig.address(), b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
            assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{pieces:?}: {answer:?}");
            assert!(answer.ends_with(if pieces == [SHORT] { "\r\n\r\n" } else { PART }), "{pieces:?}: {answer:?}");
        }
    }
}

#[tokio::test]
async fn a_response_that_ends_early_delivers_what_came_over_http2_too() {
    let whole: &str = format!("{SHORT}{PART}").leak();
    let timings: [&[&str]; 3] = [vec![whole].leak(), &[SHORT, PART], &[SHORT]];
    for pieces in timings {
        let (address, _backend) = closing(pieces).await;
        let rig = Rig::plain(&[address]);
        let mut client = crate::client::http2(TcpStream::connect(rig.address()).await.unwrap()).await;
        for _ in 0..100 {
            let request = Request::get("http://app.example/").body(Empty::<bytes::Bytes>::new()).unwrap();
            let mut response = client.send_request(request).await.expect("the head is lost");
            assert_eq!(response.status(), 200);
            let mut data = Vec::new();
            let failed = loop {
                match response.body_mut().frame().await {
                    Some(Ok(frame)) => data.extend_from_slice(frame.data_ref().unwrap()),
                    Some(Err(_)) => break true,
                    None => break false,
                }
            };
            assert!(failed, "it looks complete");
            assert_eq!(data, if pieces == [SHORT] { "" } else { PART }.as_bytes(), "{pieces:?}");
        }
    }
}

#[tokio::test]
async fn a_body_that_follows_a_response_without_one_meets_no_other_request() {
    for head in ["HTTP/1.1 200 OK", "HTTP/1.1 304 Not Modified"] {
        // The response and its forbidden body, which looks like a response, in segments of their own.
        let forged = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-Forged: 1\r\n\r\nforge";
        let head: &str = format!("{head}\r\nContent-Length: {}\r\n\r\n", forged.len()).leak();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let rig = Rig::plain(&[listener.local_addr().unwrap()]);
        let accepting = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let mut request = [0; 4096];
                    while !matches!(stream.read(&mut request).await, Ok(0) | Err(_)) {
                        let _ = stream.write_all(head.as_bytes()).await;
                        tokio::time::sleep(Duration::from_millis(1)).await;
                        let _ = stream.write_all(forged.as_bytes()).await;
                    }
                });
            }
        });
        for _ in 0..30 {
            let request = Request::head("/").header("host", "a").body(Empty::<bytes::Bytes>::new()).unwrap();
            let response = http1(rig.address()).await.send_request(request).await.unwrap();
            assert!(!response.headers().contains_key("x-forged"), "{head}");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        accepting.abort();
    }
}

#[tokio::test]
async fn what_follows_a_response_in_a_segment_of_its_own_meets_no_other_request() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let options = dataplane::Options { workers: Some(1), ..options() };
    let rig = Rig::with(options, &[listener.local_addr().unwrap()], |_| {});
    let accepting = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                stream.set_nodelay(true).unwrap();
                let mut request = [0; 4096];
                while !matches!(stream.read(&mut request).await, Ok(0) | Err(_)) {
                    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
                    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-Forged: 1\r\n\r\n").await;
                }
            });
        }
    });
    for _ in 0..50 {
        let first = fetch(rig.address(), "/").await;
        assert!(!first.headers.contains_key("x-forged"));
        // By now both have arrived, and nothing has asked the connection.
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    accepting.abort();
}

#[tokio::test]
async fn header_lines_with_invalid_names_are_dropped_unless_they_are_dangerous() {
    for (line, status) in [
        ("x[a]: 1", 200),
        ("no colon", 200),
        ("x[a] : 1", 502),
        ("(content-length): 9", 502),
        (" folded", 502),
        ("{Connection}: close", 502),
    ] {
        let answer = format!("HTTP/1.1 200 OK\r\na: b\r\n{line}\r\nContent-Length: 2\r\n\r\nok");
        let (address, _backend) = scripted(answer.leak()).await;
        let rig = Rig::plain(&[address]);
        let answer = fetch(rig.address(), "/").await;
        assert_eq!(answer.status, status, "{line:?}");
        assert_eq!(answer.header("a"), if status == 200 { "b" } else { "" }, "{line:?}");
    }
}

#[tokio::test]
async fn unknown_statuses_and_many_header_lines_are_passed_on() {
    let lines: String = (0..255).map(|number| format!("x-{number}: 1\r\n")).collect();
    let answer = format!("HTTP/1.1 600 <none>\r\n{lines}Content-Length: 2\r\n\r\nok");
    let (address, _backend) = scripted(answer.leak()).await;
    let rig = Rig::plain(&[address]);
    let answer = crate::client::raw(rig.address(), b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 600 ") && answer.ends_with("ok"), "{answer}");
    assert_eq!(answer.matches("\r\nx-").count(), 255);
}

#[tokio::test]
async fn an_upload_ends_with_the_response_although_the_backend_takes_no_more_of_it() {
    // It responds after the first bytes, reads no more, and never closes.
    let (closed, mut ends) = tokio::sync::mpsc::unbounded_channel();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let accepting = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.read_exact(&mut [0; 16]).await.unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfour").await.unwrap();
        // The end of a connection does not come through to one that does not read; a reset does, once something is written.
        while stream.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let _ = closed.send(());
    });
    let rig = Rig::with(options(), &[address], |snapshot| {
        let mut rule = rule("all", "/", "app");
        rule.timeouts = Timeouts { send: None, read: None, ..timeouts() };
        snapshot.insert("all", Resource::Route(route("web", vec![rule])));
    });
    let (mut from, mut to) = TcpStream::connect(rig.address()).await.unwrap().into_split();
    to.write_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000000\r\n\r\n").await.unwrap();
    let sending = tokio::spawn(async move { while to.write_all(&[0; 64 * 1024]).await.is_ok() {} });
    let mut answer = [0; 12];
    from.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");
    let ended = tokio::time::timeout(Duration::from_secs(20), ends.recv()).await;
    ended.expect("the connection to the backend stays");
    sending.abort();
    accepting.abort();
}
