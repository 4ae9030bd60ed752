//! Backends whose answers are odd: what of them is passed on, and what it costs the connection.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::client::{fetch, raw};
use crate::rig::{Rig, options};

/// Answers every request with these bytes, whatever they are, and counts connections. `closes` ends each after its answer.
async fn answering(bytes: &'static [u8], closes: bool) -> (std::net::SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = connections.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            counted.fetch_add(1, Ordering::Relaxed);
            tokio::spawn(async move {
                let mut request = Vec::new();
                while stream.read_buf(&mut request).await.is_ok_and(|read| read > 0) {
                    if request.ends_with(b"\r\n\r\n") {
                        request.clear();
                        let written = stream.write_all(bytes).await;
                        if closes || written.is_err() {
                            break;
                        }
                    }
                }
            });
        }
    });
    (address, connections)
}

#[tokio::test]
async fn what_follows_an_answer_unasked_reaches_nobody() {
    let bytes = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil";
    let (address, connections) = answering(bytes, false).await;
    let rig = Rig::plain(&[address]);
    for expected in 1..4 {
        assert_eq!(fetch(rig.address(), "/").await.body, "ok");
        assert_eq!(connections.load(Ordering::Relaxed), expected, "the connection is not used again");
    }
}

#[tokio::test]
async fn interim_answers_are_for_the_hop_before() {
    let bytes = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
    let (address, connections) = answering(bytes, false).await;
    // Each worker has connections of its own.
    let rig = Rig::with(dataplane::Options { workers: Some(1), ..options() }, &[address], |_| {});
    for _ in 0..2 {
        let answer = fetch(rig.address(), "/").await;
        assert_eq!((answer.status.as_u16(), answer.header("link"), &*answer.body), (200, "", "ok"));
    }
    assert_eq!(connections.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn an_answer_without_length_ends_with_its_connection() {
    let (address, _) = answering(b"HTTP/1.1 200 OK\r\n\r\nall of it", true).await;
    let rig = Rig::plain(&[address]);
    assert_eq!(fetch(rig.address(), "/").await.body, "all of it");
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_not_passed_off_as_complete() {
    for bytes in [
        &b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf"[..],
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf!\r\n0\r\n\r\n",
    ] {
        let (address, _) = answering(bytes, true).await;
        let rig = Rig::plain(&[address]);
        let answer = raw(rig.address(), b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await;
        // What had not left yet when it broke off may be missing, the head included.
        let complete = answer.contains("content-length: 4\r\n") || answer.ends_with("0\r\n\r\n");
        assert!(!complete, "{answer}");
    }
}

#[tokio::test]
async fn answers_whose_end_is_ambiguous_are_refused() {
    for lines in [
        &b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nok"[..],
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx : 1\r\n\r\n",
        b"nonsense\r\n\r\n",
    ] {
        let (address, _) = answering(lines, true).await;
        let answer = fetch(Rig::plain(&[address]).address(), "/").await;
        assert_eq!((answer.status.as_u16(), answer.header("x-sluice-reason")), (502, "bad_response"));
    }
}
