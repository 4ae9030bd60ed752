//! How connections of clients end: they are told, so that no request is lost in the crossing.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::Request;
use snapshot::{HostPattern, Listener, Protocol, Resource, Tls};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::authority::{Authority, connect, trusting};
use crate::backend::Backend;
use crate::client::fetch;
use crate::rig::{Rig, eventually, options, route, rule};

/// Longer than anything here takes.
const LONG: Duration = Duration::from_secs(30);

fn idle() -> dataplane::Options {
    dataplane::Options { idle_timeout: Duration::from_secs(1), ..options() }
}

/// The types of the frames in these bytes.
fn frames(mut bytes: &[u8]) -> Vec<u8> {
    let mut types = Vec::new();
    while let [a, b, c, kind, ..] = *bytes {
        types.push(kind);
        bytes = &bytes[(9 + u32::from_be_bytes([0, a, b, c]) as usize).min(bytes.len())..];
    }
    types
}

#[tokio::test]
async fn an_idle_http2_connection_ends_with_goaway() {
    const GOAWAY: u8 = 7;
    let backend = Backend::echo("one").await;
    let rig = Rig::with(idle(), &[backend.address], |_| {});
    let mut client = TcpStream::connect(rig.address()).await.unwrap();
    client.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    let mut said = Vec::new();
    let ended = timeout(LONG, client.read_to_end(&mut said)).await.expect("it stays open");
    assert!(ended.is_ok() && frames(&said).contains(&GOAWAY), "{ended:?} {:?}", frames(&said));
}

#[tokio::test]
async fn an_idle_connection_of_tls_ends_with_close_notify() {
    let backend = Backend::echo("one").await;
    let servers = Authority::new();
    let port = crate::rig::free_port();
    let rig = Rig::with(idle(), &[backend.address], |snapshot| {
        let tls = Tls { certificates: Vec::new(), default_certificate: Some("it".into()), client_validation: None };
        snapshot.insert("it", Resource::Certificate(servers.server(&["app.example"])));
        let listener = Listener { port, hostname: HostPattern::Any, protocol: Protocol::Https(tls) };
        snapshot.insert("secure", Resource::Listener(listener));
        snapshot.insert("secure", Resource::Route(route("secure", vec![rule("secure", "/", "app")])));
    });
    let address = std::net::SocketAddr::new(rig.address().ip(), port);
    let request = "GET / HTTP/1.1\r\nhost: app.example\r\n\r\n";
    let last = "GET / HTTP/1.1\r\nhost: app.example\r\nconnection: close\r\n\r\n";
    for sent in ["", request, last] {
        let mut client = connect(trusting(&[&servers], None), &[], address, "app.example").await.unwrap();
        client.write_all(sent.as_bytes()).await.unwrap();
        client.flush().await.unwrap();
        let mut said = Vec::new();
        // rustls tells an end without close_notify as an error.
        let ended = timeout(LONG, client.read_to_end(&mut said)).await.expect("it stays open");
        assert!(ended.is_ok(), "{sent:?}: {ended:?}");
        assert_eq!(said.starts_with(b"HTTP/1.1 200 "), !sent.is_empty());
    }
}

#[tokio::test]
async fn a_client_that_cancels_most_of_its_requests_gets_no_more() {
    let backend = Backend::http1(|_: Request<hyper::body::Incoming>| std::future::pending()).await;
    let rig = Rig::plain(&[backend.address]);
    let stream = TcpStream::connect(rig.address()).await.unwrap();
    let (mut sender, driver) = h2::client::handshake(stream).await.unwrap();
    let driver = tokio::spawn(driver);
    let mut opened = 0;
    // Each stream is reset only when its request has arrived at the backend.
    'batches: while opened < 2000 && !driver.is_finished() {
        let mut streams = Vec::new();
        for _ in 0..60 {
            let Ok(ready) = sender.clone().ready().await else { break 'batches };
            sender = ready;
            let request = Request::get("http://app.example/").body(()).unwrap();
            let Ok(stream) = sender.send_request(request, true) else { break 'batches };
            streams.push(stream);
        }
        opened += streams.len();
        let arrived = async {
            while backend.connections.load(Ordering::SeqCst) < opened {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let (first, mut rest) = streams.swap_remove(59);
        let refused = tokio::select! {
            () = arrived => None,
            response = first => Some(response.unwrap_err()),
        };
        if let Some(refused) = refused {
            assert!(refused.is_reset() || refused.is_go_away() || refused.is_io(), "{refused}");
            assert!(refused.reason().is_none_or(|reason| reason == h2::Reason::ENHANCE_YOUR_CALM), "{refused}");
            break;
        }
        rest.send_reset(h2::Reason::CANCEL);
        streams.iter_mut().for_each(|(_, stream)| stream.send_reset(h2::Reason::CANCEL));
    }
    // 100 cancelled ones, and those that were under way by then.
    assert!(backend.connections.load(Ordering::SeqCst) <= 100 + 2 * 60, "{opened} went to the backend");
    drop(sender);
    let _ = timeout(LONG, driver).await.expect("the connection stays open");
    let page = fetch(rig.proxy.admin_address().unwrap(), "/metrics").await.body;
    assert!(page.contains("sluice_connections_cancelling_total 1"), "{page}");
}

#[tokio::test]
async fn requests_that_clients_cancel_do_not_use_up_the_connection_that_others_share() {
    static ARRIVED: AtomicUsize = AtomicUsize::new(0);
    let backend = Backend::http2(|request: Request<hyper::body::Incoming>| async move {
        if request.uri().path() == "/fast" {
            return crate::backend::echo("one", request).await;
        }
        ARRIVED.fetch_add(1, Ordering::SeqCst);
        std::future::pending().await
    })
    .await;
    let options = dataplane::Options { workers: Some(1), ..options() };
    let rig = Rig::with(options, &[backend.address], |snapshot| {
        let protocol = snapshot::BackendProtocol::Http2;
        snapshot.insert("app", Resource::Cluster(snapshot::Cluster { protocol, ..crate::rig::cluster("app") }));
    });
    let admin = rig.proxy.admin_address().unwrap();
    for round in 1..=3 {
        let mut clients = Vec::new();
        for _ in 0..60 {
            let mut stream = TcpStream::connect(rig.address()).await.unwrap();
            stream.write_all(b"GET /slow HTTP/1.1\r\nhost: app.example\r\n\r\n").await.unwrap();
            clients.push(stream);
        }
        eventually("the requests arrive", || ARRIVED.load(Ordering::SeqCst) == 60 * round).await;
        drop(clients);
        let over = async {
            while !fetch(admin, "/metrics").await.body.contains("sluice_requests_in_flight 0\n") {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(LONG, over).await.expect("the requests are not cancelled");
        assert_eq!(fetch(rig.address(), "/fast").await.status, 200);
    }
    // 180 were cancelled: one connection took the first 120, and another the rest.
    assert_eq!(backend.connections.load(Ordering::SeqCst), 2);
}
