//! What is malformed or ambiguous is refused and the connection closed; no backend sees it as it came.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use snapshot::{HostPattern, Listener, Protocol, Resource};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::backend::{Backend, full};
use crate::client::{fetch, raw};
use crate::operations::{Collected, logging};
use crate::rig::{Rig, eventually, options};

async fn watched() -> (Backend, Arc<Mutex<Vec<String>>>) {
    let seen: Arc<Mutex<Vec<String>>> = Arc::default();
    let noted = seen.clone();
    let backend = Backend::http1(move |request: Request<Incoming>| {
        let noted = noted.clone();
        async move {
            noted.lock().unwrap().push(format!("{} {} {:?}", request.method(), request.uri(), request.headers()));
            full("seen")
        }
    })
    .await;
    (backend, seen)
}

#[tokio::test]
async fn malformed_requests_are_refused_and_the_connection_closed() {
    let (backend, seen) = watched().await;
    let rig = Rig::plain(&[backend.address]);
    let host = "Host: a.example\r\n";
    let many: String = (0..200).map(|n| format!("x-{n}: 1\r\n")).collect();
    let large = format!("x-large: {}\r\n", "v".repeat(60_000));
    let long = "a".repeat(66_000);
    let cases: Vec<(&str, String, &[u16])> = vec![
        (
            "repeated length",
            format!("POST / HTTP/1.1\r\n{host}Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd"),
            &[400],
        ),
        ("signed length", format!("POST / HTTP/1.1\r\n{host}Content-Length: +3\r\n\r\nabc"), &[400]),
        ("length of words", format!("POST / HTTP/1.1\r\n{host}Content-Length: three\r\n\r\nabc"), &[400]),
        ("huge length", format!("POST / HTTP/1.1\r\n{host}Content-Length: 99999999999999999999\r\n\r\n"), &[400, 413]),
        ("list of lengths", format!("POST / HTTP/1.1\r\n{host}Content-Length: 3, 3\r\n\r\nabc"), &[400]),
        ("unknown encoding", format!("POST / HTTP/1.1\r\n{host}Transfer-Encoding: gzip\r\n\r\nabc"), &[400]),
        (
            "chunked not last",
            format!("POST / HTTP/1.1\r\n{host}Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n"),
            &[400],
        ),
        ("encoding in 1.0", format!("POST / HTTP/1.0\r\n{host}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"), &[400]),
        ("folded header", format!("GET / HTTP/1.1\r\n{host}X-A: 1\r\n 2\r\n\r\n"), &[400]),
        ("bare CR", format!("GET / HTTP/1.1\r\n{host}X-A: 1\r2\r\n\r\n"), &[400]),
        ("NUL", format!("GET / HTTP/1.1\r\n{host}X-A: 1\0\r\n\r\n"), &[400]),
        ("space before colon", format!("GET / HTTP/1.1\r\n{host}X-A : 1\r\n\r\n"), &[400]),
        ("space before name", format!("GET / HTTP/1.1\r\n{host} X-A: 1\r\n\r\n"), &[400]),
        ("no host", "GET / HTTP/1.1\r\n\r\n".into(), &[400]),
        ("two hosts", format!("GET / HTTP/1.1\r\n{host}Host: b.example\r\n\r\n"), &[400]),
        ("the same host twice", format!("GET / HTTP/1.1\r\n{host}{host}\r\n"), &[400]),
        ("host with space", "GET / HTTP/1.1\r\nHost: a b\r\n\r\n".into(), &[400]),
        ("host with path", "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n".into(), &[400]),
        ("invalid host beside one in the target", "GET http://a/ HTTP/1.1\r\nHost: a b\r\n\r\n".into(), &[400]),
        ("broken percent sequence", format!("GET /%zz HTTP/1.1\r\n{host}\r\n"), &[400]),
        ("asterisk", format!("OPTIONS * HTTP/1.1\r\n{host}\r\n"), &[400]),
        ("authority for a target", format!("GET a.example:80 HTTP/1.1\r\n{host}\r\n"), &[400]),
        ("trace", format!("TRACE / HTTP/1.1\r\n{host}\r\n"), &[405]),
        ("a later version", format!("GET / HTTP/1.2\r\n{host}\r\n"), &[400]),
        ("an invalid name", format!("GET / HTTP/1.1\r\n{host}x[a]: 1\r\n\r\n"), &[400]),
        ("a line without a colon", format!("GET / HTTP/1.1\r\n{host}x\r\n\r\n"), &[400]),
        (
            "space before the colon",
            format!("POST / HTTP/1.1\r\n{host}Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n"),
            &[400],
        ),
        ("a continuation line", format!("GET / HTTP/1.1\r\n{host}x: 1\r\n 2\r\n\r\n"), &[400]),
        ("an invalid length", format!("POST / HTTP/1.1\r\n{host}Content-Length: 5\x01\r\n\r\nabcde"), &[400]),
        ("bad version", format!("GET / HTTP/3.7\r\n{host}\r\n"), &[400]),
        ("no request line", "\0\x01\x02\x03\r\n\r\n".into(), &[400]),
        ("connect", "CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\n\r\n".into(), &[400, 405]),
        ("many headers", format!("GET / HTTP/1.1\r\n{host}{many}\r\n"), &[431]),
        ("large headers", format!("GET / HTTP/1.1\r\n{host}{large}\r\n"), &[431]),
        ("long target", format!("GET /{long} HTTP/1.1\r\n{host}\r\n"), &[414, 431]),
    ];
    for (what, bytes, expected) in cases {
        let answer = raw(rig.address(), bytes.as_bytes()).await;
        let status = answer.get(9..12).and_then(|status| status.parse::<u16>().ok());
        assert!(status.is_some_and(|status| expected.contains(&status)), "{what}: {answer:?}");
        assert!(answer.matches("HTTP/1.").count() == 1, "{what}: {answer}");
    }
    assert_eq!(*seen.lock().unwrap(), Vec::<String>::new());
}

#[tokio::test]
async fn a_request_with_length_and_encoding_is_refused_or_framed_once_and_the_connection_closed() {
    let (backend, seen) = watched().await;
    let rig = Rig::plain(&[backend.address]);
    for first in ["Content-Length: 4\r\nTransfer-Encoding: chunked", "Transfer-Encoding: chunked\r\nContent-Length: 4"]
    {
        let smuggled = "GET /smuggled HTTP/1.1\r\nHost: a.example\r\n\r\n";
        let bytes = format!("POST / HTTP/1.1\r\nHost: a.example\r\n{first}\r\n\r\n0\r\n\r\n{smuggled}");
        let answer = raw(rig.address(), bytes.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
    }
    let seen = seen.lock().unwrap();
    assert!(seen.iter().all(|request| !request.contains("smuggled")), "{seen:?}");
    assert!(seen.iter().all(|request| !(request.contains("content-length") && request.contains("transfer-encoding"))));
}

#[tokio::test]
async fn equal_lengths_are_one() {
    let (backend, seen) = watched().await;
    let rig = Rig::plain(&[backend.address]);
    let length = "Content-Length: 3\r\n";
    let bytes = format!("POST / HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n{length}{length}\r\nabc");
    let answer = raw(rig.address(), bytes.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    let seen = seen.lock().unwrap();
    assert_eq!(seen[0].matches(r#""content-length": "3""#).count(), 1, "{seen:?}");
    assert_eq!(seen[0].matches("content-length").count(), 1, "{seen:?}");
}

#[tokio::test]
async fn bad_chunks_end_the_request_and_the_connection() {
    let backend = Backend::echo("one").await;
    let rig = Rig::plain(&[backend.address]);
    for chunk in [
        "zz\r\nabc\r\n0\r\n\r\n",
        "0x3\r\nabc\r\n0\r\n\r\n",
        "3\r\nabcdef\r\n0\r\n\r\n",
        "-1\r\n\r\n",
        "\r\n\r\n",
        "fffffffffffffffff\r\n",
        "3\r\nabc\r\nzz\r\n",
    ] {
        let bytes = format!("POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n{chunk}");
        let answer = raw(rig.address(), bytes.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{chunk:?}: {answer}");
        assert!(answer.contains("x-sluice-reason: bad_request\r\n"), "{chunk:?}: {answer}");
        assert!(answer.contains("connection: close\r\n"), "{chunk:?}: {answer}");
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{chunk:?}: {answer}");
    }
}

#[tokio::test]
async fn a_body_that_stops_too_early_is_a_client_that_left() {
    let backend = Backend::echo("one").await;
    let rig = Rig::plain(&[backend.address]);
    for head in ["Content-Length: 9\r\n\r\nabc", "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"] {
        let mut stream = TcpStream::connect(rig.address()).await.unwrap();
        stream.write_all(format!("POST / HTTP/1.1\r\nHost: a.example\r\n{head}").as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{answer}");
    }
    let admin = rig.proxy.admin_address().unwrap();
    let counted = "sluice_refusals_total{rule=\"rule 0\",reason=\"client_gone\"} 2";
    let mut metrics = String::new();
    // The last count is written after the last byte of its answer.
    for _ in 0..200 {
        metrics = fetch(admin, "/metrics").await.body;
        if metrics.contains(counted) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("{metrics}");
}

#[tokio::test]
async fn the_host_of_an_absolute_target_replaces_the_header() {
    let (backend, seen) = watched().await;
    let rig = Rig::plain(&[backend.address]);
    let request = "GET http://b.example:81/x HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n";
    let answer = raw(rig.address(), request.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    let seen = seen.lock().unwrap();
    assert!(seen[0].starts_with("GET /x ") && seen[0].contains(r#""host": "b.example:81""#), "{seen:?}");
    assert!(!seen[0].contains("a.example"), "{seen:?}");
}

#[tokio::test]
async fn targets_that_the_parser_refuses_are_400_and_have_a_line_in_the_access_log() {
    let (backend, seen) = watched().await;
    let log = Collected::default();
    let mut rig = logging(Rig::plain(&[backend.address]), options(), &log);
    let listener = Listener { port: rig.port, hostname: HostPattern::Any, protocol: Protocol::Http };
    rig.set("web", Resource::Listener(listener));
    let targets =
        [&b"/a<b"[..], b"/a>b", b"/a`b", b"/?a\"b", b"/?a<b", b"/?a>b", b"/caf\xe9", b"/?caf\xe9", b"/\xc3\xa9\xff"];
    for target in targets {
        let request = [b"GET ", target, b" HTTP/1.1\r\nHost: a\r\n\r\n"].concat();
        let response = raw(rig.address(), &request).await;
        assert!(response.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{response}");
    }
    assert_eq!(*seen.lock().unwrap(), Vec::<String>::new());
    let lines = || String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    eventually("all lines are written", || lines().lines().count() == targets.len()).await;
    for line in lines().lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        let fields = (&line["client"], &line["status"], &line["reason"]);
        assert_eq!(fields, (&"127.0.0.1".into(), &400.into(), &"bad_request".into()), "{line}");
    }
}
