//! Endpoints whose node is gone: connecting to them takes as long as it may.

use std::net::SocketAddr;
use std::time::Duration;

use snapshot::{BackendProtocol, Cluster, Resource, Timeouts};
use socket2::{Domain, Socket, Type};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::backend::Backend;
use crate::client::fetch;
use crate::l4::{self, Peer};
use crate::rig::{LOOPBACK, Rig, cluster, options, route, rule, timeouts};

/// An address that swallows what would begin a connection: its queue is full.
pub struct Hole {
    pub address: SocketAddr,
    _sockets: Vec<Socket>,
}

impl Hole {
    pub fn new() -> Self {
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        listener.bind(&SocketAddr::new(LOOPBACK, 0).into()).unwrap();
        listener.listen(0).unwrap();
        let address = listener.local_addr().unwrap();
        let mut sockets = vec![listener];
        for _ in 0..4 {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            socket.set_nonblocking(true).unwrap();
            // It never completes.
            let _ = socket.connect(&address);
            sockets.push(socket);
        }
        Self { address: address.as_socket().unwrap(), _sockets: sockets }
    }
}

/// Far less than connecting to a hole may take, far more than a request takes that goes elsewhere.
const SOON: Duration = Duration::from_secs(20);

fn patient(endpoints: &[SocketAddr], protocol: BackendProtocol) -> Rig {
    Rig::with(options(), endpoints, |snapshot| {
        let minutes = Some(Duration::from_secs(300));
        let timeouts = Timeouts { connect: minutes, read: minutes, ..timeouts() };
        let rule = snapshot::Rule { timeouts, ..rule("all", "/", "app") };
        snapshot.insert("all", Resource::Route(route("web", vec![rule])));
        snapshot.insert("app", Resource::Cluster(Cluster { protocol, ..cluster("app") }));
    })
}

#[tokio::test]
async fn a_request_whose_connect_takes_long_goes_to_another_endpoint_and_so_do_those_after_it() {
    let (hole, backend) = (Hole::new(), Backend::echo("one").await);
    let rig = patient(&[hole.address, backend.address], BackendProtocol::Http1);
    let began = std::time::Instant::now();
    for _ in 0..40 {
        let answer = timeout(SOON, fetch(rig.address(), "/")).await.expect("the request waits for the hole");
        assert_eq!(answer.header("x-backend"), "one");
    }
    // One connect at a time finds out about the hole, and has not ended: of 40 requests some 20 chose it, and two waited.
    assert!(began.elapsed() < SOON / 2, "{:?}", began.elapsed());
}

#[tokio::test]
async fn requests_over_http2_go_to_another_endpoint_as_well() {
    let hole = Hole::new();
    let backend = Backend::http2(|request| crate::backend::echo("two", request)).await;
    let rig = patient(&[hole.address, backend.address], BackendProtocol::Http2);
    for _ in 0..20 {
        let answer = timeout(SOON, fetch(rig.address(), "/")).await.expect("the request waits for the hole");
        assert_eq!(answer.header("x-backend"), "two");
    }
}

#[tokio::test]
async fn a_connection_without_http_goes_to_another_endpoint_as_well() {
    let (hole, peer) = (Hole::new(), Peer::tcp("peer").await);
    let (rig, address) = l4::tcp(&[hole.address, peer.address]);
    for _ in 0..20 {
        let stream = TcpStream::connect(address).await.unwrap();
        let answer = timeout(Duration::from_millis(4500), l4::exchange(stream, b"hello")).await;
        assert_eq!(answer.expect("the connection waits for the hole").unwrap(), "peer hello bye");
    }
    drop(rig);
}

#[tokio::test]
async fn the_only_endpoint_is_waited_for() {
    let hole = Hole::new();
    let rig = Rig::with(options(), &[hole.address], |snapshot| {
        let timeouts = Timeouts { connect: Some(Duration::from_millis(600)), ..timeouts() };
        let rule = snapshot::Rule { timeouts, ..rule("all", "/", "app") };
        snapshot.insert("all", Resource::Route(route("web", vec![rule])));
    });
    let answer = fetch(rig.address(), "/").await;
    assert_eq!((answer.status.as_u16(), answer.header("x-sluice-reason")), (504, "connect_timeout"));
}

#[tokio::test]
async fn requests_that_wait_for_connections_are_bounded_and_the_client_learns_it() {
    let hole = Hole::new();
    let options = dataplane::Options { workers: Some(1), ..options() };
    let rig = Rig::with(options, &[hole.address], |snapshot| {
        let timeouts = Timeouts { connect: Some(Duration::from_secs(300)), ..timeouts() };
        let rule = snapshot::Rule { timeouts, ..rule("all", "/", "app") };
        snapshot.insert("all", Resource::Route(route("web", vec![rule])));
    });
    let (refused, mut refusals) = tokio::sync::mpsc::unbounded_channel();
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..11 {
        let client = crate::client::http2(TcpStream::connect(rig.address()).await.unwrap()).await;
        for _ in 0..100 {
            let (mut client, refused) = (client.clone(), refused.clone());
            clients.spawn(async move {
                let request = http::Request::get("http://app.example/");
                let request = request.body(http_body_util::Empty::<bytes::Bytes>::new()).unwrap();
                if let Ok(response) = client.send_request(request).await {
                    let reason = response.headers().get("x-sluice-reason").cloned();
                    let _ = refused.send((response.status().as_u16(), reason));
                }
            });
        }
    }
    // 1,024 of 1,100 wait.
    for _ in 0..76 {
        let (status, reason) = timeout(SOON, refusals.recv()).await.expect("more wait than may").unwrap();
        assert_eq!((status, reason.unwrap().to_str().unwrap()), (503, "upstream_overloaded"));
    }
    assert!(refusals.try_recv().is_err());
    let page = fetch(rig.proxy.admin_address().unwrap(), "/metrics").await.body;
    assert!(page.contains("\nsluice_upstream_full_total "), "{page}");
    clients.abort_all();
}
