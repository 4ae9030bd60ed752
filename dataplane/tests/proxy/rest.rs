//! Connections of HTTP/1 that nothing moved on for a while keep only their stream. Nobody notices.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::backend::Backend;
use crate::rig::Rig;
use crate::tls;

/// Long enough to rest. Whether it does shows in what it holds (`memory`), and is no condition here.
const PAUSE: Duration = Duration::from_millis(2200);

const REQUEST: &[u8] = b"GET /some HTTP/1.1\r\nhost: a.shop.example\r\n\r\n";

/// Reads until the echo of `count` requests to `path` has come.
async fn served(stream: &mut (impl AsyncRead + Unpin), path: &str, count: usize) {
    let mut all = Vec::new();
    let said = format!("GET {path}\n");
    while all.windows(said.len()).filter(|window| *window == said.as_bytes()).count() < count {
        let mut space = [0; 4096];
        let read = stream.read(&mut space).await.unwrap();
        assert!(read > 0, "{}", String::from_utf8_lossy(&all));
        all.extend_from_slice(&space[..read]);
    }
}

async fn serves_on(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) {
    for _ in 0..2 {
        stream.write_all(REQUEST).await.unwrap();
        served(stream, "/some", 1).await;
        tokio::time::sleep(PAUSE).await;
    }
    // Several at once, the last in two parts.
    let (part, rest) = REQUEST.split_at(20);
    stream.write_all(&[REQUEST, REQUEST, part].concat()).await.unwrap();
    served(stream, "/some", 2).await;
    tokio::time::sleep(PAUSE).await;
    stream.write_all(&[rest, REQUEST].concat()).await.unwrap();
    served(stream, "/some", 2).await;
    // An empty line after a request is no beginning of another.
    stream.write_all(b"\r\n").await.unwrap();
    tokio::time::sleep(PAUSE).await;
    stream.write_all(REQUEST).await.unwrap();
    served(stream, "/some", 1).await;
}

#[tokio::test]
async fn a_connection_that_rested_serves_on() {
    let backend = Backend::echo("one").await;
    let rig = Rig::plain(&[backend.address]);
    let mut stream = TcpStream::connect(rig.address()).await.unwrap();
    serves_on(&mut stream).await;
}

#[tokio::test]
async fn a_connection_over_tls_that_rested_serves_on() {
    let backend = Backend::echo("one").await;
    let secure = tls::secure(&[backend.address]);
    let mut stream = secure.connect(b"http/1.1").await;
    serves_on(&mut stream).await;
}

#[tokio::test]
async fn a_head_in_many_pieces_is_read_to_its_end() {
    let backend = Backend::echo("one").await;
    let rig = Rig::plain(&[backend.address]);
    let mut stream = TcpStream::connect(rig.address()).await.unwrap();
    // More than is collected before the parser sees it.
    let head = format!("GET /some HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n", "x".repeat(9000));
    for piece in head.as_bytes().chunks(3000) {
        stream.write_all(piece).await.unwrap();
        tokio::time::sleep(PAUSE).await;
    }
    served(&mut stream, "/some", 1).await;
}

#[tokio::test]
async fn connections_that_rest_end_in_good_order_when_it_drains() {
    let backend = Backend::echo("one").await;
    let secure = tls::secure(&[backend.address]);
    let mut over_tls = secure.connect(b"http/1.1").await;
    let mut plain = TcpStream::connect(secure.rig.address()).await.unwrap();
    over_tls.write_all(REQUEST).await.unwrap();
    served(&mut over_tls, "/some", 1).await;
    plain.write_all(REQUEST).await.unwrap();
    served(&mut plain, "/some", 1).await;
    tokio::time::sleep(PAUSE).await;
    let ends = async {
        let mut rest = Vec::new();
        assert_eq!(plain.read_to_end(&mut rest).await.unwrap(), 0);
        drop(plain);
        // With close_notify, or this would be an error.
        assert_eq!(over_tls.read_to_end(&mut rest).await.unwrap(), 0);
        drop(over_tls);
    };
    let (drained, ()) = tokio::join!(secure.rig.proxy.drain(Duration::from_secs(10)), ends);
    assert_eq!(drained.cut, 0);
}
