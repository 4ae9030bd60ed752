use std::net::SocketAddr;
use std::time::Duration;

use dataplane::Options;
use http::{Request, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use snapshot::{HostPattern, Listener, Protocol, Resource, Settings, Timeouts};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::backend::Backend;
use crate::client::{collect, fetch, get, http1, raw};
use crate::rig::{Rig, cluster, free_port, options, route, rule, timeouts};

const SHORT: Option<Duration> = Some(Duration::from_millis(100));

fn with(endpoints: &[SocketAddr], timeouts: Timeouts) -> Rig {
    Rig::with(options(), endpoints, |snapshot| {
        let mut rule = rule("timed", "/", "app");
        rule.timeouts = timeouts;
        snapshot.insert("all", Resource::Route(route("web", vec![rule])));
    })
}

async fn silent() -> Backend {
    Backend::http1(|_: Request<Incoming>| std::future::pending()).await
}

#[tokio::test]
async fn a_silent_backend_is_a_gateway_timeout() {
    let backend = silent().await;
    for (timeouts, reason) in [
        (Timeouts { read: SHORT, ..timeouts() }, "read_timeout"),
        (Timeouts { request: SHORT, ..timeouts() }, "request_timeout"),
        (Timeouts { backend_request: SHORT, ..timeouts() }, "request_timeout"),
    ] {
        let rig = with(&[backend.address], timeouts);
        let answer = fetch(rig.address(), "/").await;
        assert_eq!((answer.status.as_u16(), answer.header("x-sluice-reason")), (504, reason));
    }
}

#[tokio::test]
async fn an_endpoint_that_does_not_answer_connections_is_a_gateway_timeout() {
    // A full accept queue drops further handshakes.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
    socket.listen(0).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    let mut filling = Vec::new();
    for _ in 0..8 {
        filling.push(tokio::spawn(tokio::net::TcpStream::connect(address)));
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    let rig = with(&[address], Timeouts { connect: SHORT, ..timeouts() });
    let answer = fetch(rig.address(), "/").await;
    assert_eq!((answer.status.as_u16(), answer.header("x-sluice-reason")), (504, "connect_timeout"));
    filling.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test]
async fn a_body_that_stops_is_cut_off_and_never_taken_for_complete() {
    let backend = Backend::http1(|_: Request<Incoming>| async {
        let first = futures::stream::iter([Ok(Frame::data("begun".into()))]);
        let rest = futures::stream::pending();
        Response::new(StreamBody::new(futures::StreamExt::chain(first, rest)).boxed_unsync())
    })
    .await;
    let rig = with(&[backend.address], Timeouts { read: SHORT, ..timeouts() });
    let response = http1(rig.address()).await.send_request(get("/")).await.unwrap();
    assert_eq!(response.status(), 200);
    assert!(collect(response).await.is_err());
}

#[tokio::test]
async fn a_backend_that_closes_or_talks_nonsense_is_a_bad_gateway() {
    for (bytes, reason) in [(&b""[..], "upstream_reset"), (b"SSH-2.0-x\r\n\r\n", "bad_response")] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let accepting = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = [0; 64];
                let _ = tokio::io::AsyncReadExt::read(&mut stream, &mut request).await;
                let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, bytes).await;
            }
        });
        let rig = Rig::plain(&[address]);
        let answer = fetch(rig.address(), "/").await;
        assert_eq!((answer.status.as_u16(), answer.header("x-sluice-reason")), (502, reason));
        accepting.abort();
    }
}

#[tokio::test]
async fn a_client_that_is_idle_or_dawdles_is_closed() {
    let backend = Backend::echo("one").await;
    let options = dataplane::Options {
        idle_timeout: Duration::from_secs(1),
        header_timeout: Duration::from_secs(1),
        ..options()
    };
    let rig = Rig::with(options, &[backend.address], |_| {});
    for bytes in ["", "GET / HT", "GET / HTTP/1.1\r\nHost: a\r\nX-"] {
        let answer = raw(rig.address(), bytes.as_bytes()).await;
        assert!(!answer.contains(" 200 "), "{answer}");
    }
    let kept = raw(rig.address(), b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert!(kept.starts_with("HTTP/1.1 200 "), "{kept}");
}

#[tokio::test]
async fn a_body_that_never_comes_is_a_request_timeout() {
    let backend = Backend::echo("one").await;
    let options = dataplane::Options { transfer_timeout: Duration::from_millis(200), ..options() };
    let rig = Rig::with(options, &[backend.address], |_| {});
    let answer = raw(rig.address(), b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nab").await;
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
}

#[tokio::test]
async fn requests_do_not_queue_up_behind_an_http2_endpoint_that_does_not_answer_connections() {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
    socket.listen(0).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    let filling: tokio::task::JoinSet<_> = (0..8).map(|_| tokio::net::TcpStream::connect(address)).collect();
    tokio::time::sleep(Duration::from_millis(100)).await;
    let options = dataplane::Options { workers: Some(1), ..options() };
    let rig = Rig::with(options, &[address], |snapshot| {
        let cluster = snapshot::Cluster { protocol: snapshot::BackendProtocol::Http2, ..cluster("app") };
        snapshot.insert("app", Resource::Cluster(cluster));
        let mut rule = rule("timed", "/", "app");
        rule.timeouts.connect = Some(Duration::from_secs(1));
        snapshot.insert("all", Resource::Route(route("web", vec![rule])));
    });
    let requests: tokio::task::JoinSet<_> = (0..30).map(|_| fetch(rig.address(), "/")).collect();
    let answers = tokio::time::timeout(Duration::from_secs(15), requests.join_all()).await.expect("a queue");
    assert!(answers.iter().all(|answer| matches!(answer.status.as_u16(), 502 | 504)), "{answers:?}");
    drop(filling);
}

#[tokio::test]
async fn an_http2_client_that_takes_nothing_is_closed() {
    let backend = Backend::http1(|_: Request<Incoming>| async { crate::backend::full(vec![7; 16 << 20]) }).await;
    let options = dataplane::Options { transfer_timeout: Duration::from_secs(1), ..options() };
    let rig = Rig::with(options, &[backend.address], |_| {});
    let stream = tokio::net::TcpStream::connect(rig.address()).await.unwrap();
    let mut client = crate::client::http2(stream).await;
    let request = Request::get("http://a/").body(http_body_util::Empty::<bytes::Bytes>::new()).unwrap();
    // Unread, so the stream's window stays closed while pings are answered.
    let response = client.send_request(request).await.unwrap();
    crate::rig::eventually("the connection is closed", || client.is_closed()).await;
    assert!(collect(response).await.is_err());
}

#[tokio::test]
async fn an_http2_client_that_takes_nothing_of_a_short_answer_is_closed() {
    let backend = Backend::http1(|_: Request<Incoming>| async { crate::backend::full("0123456789") }).await;
    let options = dataplane::Options { transfer_timeout: Duration::from_secs(1), ..options() };
    let rig = Rig::with(options, &[backend.address], |_| {});
    // With room for one byte hyper hands the whole answer over, and the exchange ends.
    for window in [0, 1] {
        let stream = TcpStream::connect(rig.address()).await.unwrap();
        let mut builder = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
        let handshake = builder.initial_stream_window_size(window).handshake(TokioIo::new(stream));
        let (mut client, driver) = handshake.await.unwrap();
        tokio::spawn(driver);
        let request = Request::get("http://a/").body(http_body_util::Empty::<bytes::Bytes>::new()).unwrap();
        let response = client.send_request(request).await.unwrap();
        crate::rig::eventually("the connection is closed", || client.is_closed()).await;
        assert!(collect(response).await.is_err());
    }
}

#[tokio::test]
async fn an_answer_that_is_taken_hides_none_that_is_not() {
    let backend = Backend::http1(|request: Request<Incoming>| async move {
        crate::backend::full(vec![b'x'; if request.uri().path() == "/large" { 16 << 20 } else { 10 }])
    })
    .await;
    let options = dataplane::Options { transfer_timeout: Duration::from_secs(1), ..options() };
    let rig = Rig::with(options, &[backend.address], |_| {});
    let mut client = crate::client::http2(TcpStream::connect(rig.address()).await.unwrap()).await;
    let request = |path: &str| {
        Request::get(format!("http://a{path}")).body(http_body_util::Empty::<bytes::Bytes>::new()).unwrap()
    };
    let untaken = client.send_request(request("/large")).await.unwrap();
    let live = async {
        while let Ok(response) = client.send_request(request("/")).await {
            let Ok(answer) = collect(response).await else { break };
            assert_eq!(answer.status, 200);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), live).await.expect("the connection stays");
    // The client was asked to leave; what it takes now would still come.
    crate::rig::eventually("the connection is cut", || rig.proxy.open_connections() == 0).await;
    assert!(collect(untaken).await.is_err());
}

#[tokio::test]
async fn an_answer_that_keeps_flowing_ends_when_its_time_is_up() {
    const LENGTH: usize = 32 << 20;
    let backend = Backend::http1(|_: Request<Incoming>| async { crate::backend::full(vec![b'x'; LENGTH]) }).await;
    for timeouts in [Timeouts { request: SHORT, ..timeouts() }, Timeouts { backend_request: SHORT, ..timeouts() }] {
        let rig = with(&[backend.address], timeouts);
        let mut stream = TcpStream::connect(rig.address()).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        let (mut read, mut space) = (0, vec![0; 64 * 1024]);
        while let Ok(some @ 1..) = stream.read(&mut space).await {
            read += some;
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        assert!((1..LENGTH).contains(&read), "{read}");
    }
}

#[tokio::test]
async fn a_head_that_dribbles_in_is_cut_soon_and_on_ports_of_ingresses_later() {
    assert_eq!(Options::default().header_timeout, Duration::from_secs(10));
    assert_eq!(Options::default().ingress_header_timeout, Duration::from_secs(60));
    let backend = Backend::echo("one").await;
    let ingress_port = free_port();
    let options = Options { header_timeout: Duration::from_secs(2), ..options() };
    let rig = Rig::with(options, &[backend.address], |snapshot| {
        let listener = Listener { port: ingress_port, hostname: HostPattern::Any, protocol: Protocol::Http };
        snapshot.insert("ingress", Resource::Listener(listener));
        snapshot.insert("ingress", Resource::Route(route("ingress", vec![rule("rule 0", "/", "app")])));
        let settings = Settings { ingress_ports: vec![ingress_port], ..crate::rig::settings() };
        snapshot.insert("settings", Resource::Settings(settings));
    });
    let mut of_ingress = TcpStream::connect((crate::rig::LOOPBACK, ingress_port)).await.unwrap();
    let mut other = TcpStream::connect(rig.address()).await.unwrap();
    of_ingress.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
    other.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
    // However often something comes.
    let mut byte = [0];
    let ended = loop {
        let _ = of_ingress.write_all(b"x").await;
        let _ = other.write_all(b"x").await;
        match tokio::time::timeout(Duration::from_millis(100), other.read(&mut byte)).await {
            Ok(ended) => break ended,
            Err(_) => continue,
        }
    };
    assert!(!matches!(ended, Ok(1..)), "{ended:?}");
    of_ingress.write_all(b": 1\r\nhost: a\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    of_ingress.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}
