//! What operators see.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dataplane::{Options, Proxy};
use snapshot::{AffinityCookie, AffinityMode, CookieSecure, Persistence, Resource};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use crate::backend::Backend;
use crate::client::{fetch, get, http1, http2, send};
use crate::rig::{Rig, cluster, eventually, options};

#[tokio::test]
async fn health_readiness_and_metrics_are_served_on_a_port_of_their_own() {
    let empty = Proxy::start(options()).unwrap();
    let admin = empty.admin_address().unwrap();
    assert_eq!(fetch(admin, "/healthz").await.status, 200);
    assert_eq!(fetch(admin, "/readyz").await.status, 503);

    let backend = Backend::echo("one").await;
    let rig = Rig::plain(&[backend.address]);
    let admin = rig.proxy.admin_address().unwrap();
    assert_eq!(fetch(admin, "/readyz").await.status, 200);
    for _ in 0..7 {
        fetch(rig.address(), "/").await;
    }
    fetch(rig.address(), "/%zz").await;
    let mut page = String::new();
    // The last count is written after the last byte of its answer.
    for _ in 0..200 {
        page = fetch(admin, "/metrics").await.body;
        if page.contains("reason=\"bad_path\"") {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for line in [
        "sluice_requests_total{rule=\"rule 0\",code=\"2xx\"} 7",
        "sluice_refusals_total{rule=\"\",reason=\"bad_path\"} 1",
        "sluice_request_duration_seconds_count{rule=\"rule 0\"} 7",
        "sluice_request_duration_seconds_bucket{le=\"+Inf\",rule=\"rule 0\"} 7",
        "sluice_connections_accepted_total 8",
    ] {
        assert!(page.contains(line), "{line} in\n{page}");
    }
    assert!(page.contains(&format!("version=\"{}\"", rig.snapshot.version())), "{page}");
    rig.proxy.drain(Duration::from_millis(50)).await;
    assert_eq!(fetch(admin, "/readyz").await.status, 503);
    assert_eq!(fetch(admin, "/healthz").await.status, 200);
}

#[tokio::test]
async fn silent_connections_to_the_admin_port_keep_no_probe_out() {
    let proxy = Proxy::start(options()).unwrap();
    let admin = proxy.admin_address().unwrap();
    let mut silent = Vec::new();
    for _ in 0..3 {
        for _ in 0..100 {
            silent.push(TcpStream::connect(admin).await.unwrap());
        }
        // A probe of Kubernetes waits for 1 s; silent clients are cut after 2 s.
        let probed = tokio::time::timeout(Duration::from_secs(1), fetch(admin, "/healthz"));
        assert_eq!(probed.await.expect("a probe waits for silent clients").status, 200);
    }
    // All of them end, those that were not pushed out by their time limit.
    for mut stream in silent {
        let ended = tokio::time::timeout(Duration::from_secs(20), stream.read(&mut [0])).await;
        assert!(matches!(ended.expect("a silent client stays"), Ok(0) | Err(_)));
    }
}

#[tokio::test]
async fn a_client_stays_on_its_endpoint_on_every_replica() {
    let backends = [Backend::echo("one").await, Backend::echo("two").await, Backend::echo("three").await];
    let addresses: Vec<SocketAddr> = backends.iter().map(|backend| backend.address).collect();
    let sticky = |snapshot: &mut snapshot::Snapshot| {
        let persistence = AffinityCookie {
            cookie: "route".into(),
            mode: AffinityMode::Persistent,
            path: None,
            domain: None,
            expires: None,
            max_age: None,
            same_site: None,
            secure: CookieSecure::OnHttps,
        };
        let sticky = snapshot::Cluster { persistence: Some(Persistence::Affinity(persistence)), ..cluster("app") };
        snapshot.insert("app", Resource::Cluster(sticky));
    };
    let replicas = [Rig::with(options(), &addresses, sticky), Rig::with(options(), &addresses, sticky)];
    let first = fetch(replicas[0].address(), "/").await;
    let cookie = first.header("set-cookie").split(';').next().unwrap().to_owned();
    assert!(cookie.starts_with("route="), "{first:?}");
    for round in 0..20 {
        let request = http::Request::get("/").header("host", "a").header("cookie", &cookie);
        let request = request.body(http_body_util::Full::<bytes::Bytes>::default()).unwrap();
        let answer = send(replicas[round % 2].address(), request).await;
        assert_eq!(answer.header("x-backend"), first.header("x-backend"));
        assert_eq!(answer.header("set-cookie"), "");
    }
}

/// Collects what is written.
#[derive(Clone, Default)]
pub struct Collected(pub Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Collected {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The rig with a data plane that logs there, on another port; nothing is applied to it yet.
pub fn logging(mut rig: Rig, options: Options, log: &Collected) -> Rig {
    let settings = snapshot::Settings { access_log: snapshot::AccessLog::Json, ..crate::rig::settings() };
    rig.snapshot.insert("settings", Resource::Settings(settings));
    rig.proxy = Proxy::start_logging_to(options, log.clone()).unwrap();
    rig.port = crate::rig::free_port();
    rig
}

#[tokio::test]
async fn the_access_log_has_one_json_line_for_each_request() {
    let backend = Backend::echo("one").await;
    let log = Collected::default();
    let mut rig = logging(Rig::plain(&[backend.address]), options(), &log);
    let listener =
        snapshot::Listener { port: rig.port, hostname: snapshot::HostPattern::Any, protocol: snapshot::Protocol::Http };
    rig.set("web", Resource::Listener(listener));
    let request = http::Request::post("/a\"b?c").header("host", "app.example").header("x-request-id", "id-1");
    let request = request.body(http_body_util::Full::new(bytes::Bytes::from("hello"))).unwrap();
    let answer = send(rig.address(), request).await;
    fetch(rig.address(), "/%00").await;
    eventually("both lines are written", || log.0.lock().unwrap().iter().filter(|byte| **byte == b'\n').count() == 2)
        .await;
    let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of = |path: &str| lines.iter().find(|line| line["path"] == path).unwrap();
    let served = of("/a\"b?c");
    assert_eq!(served["client"], "127.0.0.1");
    assert_eq!(served["method"], "POST");
    assert_eq!(served["host"], "app.example");
    assert_eq!(served["status"], 200);
    assert_eq!(served["rule"], "rule 0");
    assert_eq!(served["endpoint"], backend.address.to_string());
    assert_eq!((served["bytes_in"].as_u64(), served["bytes_out"].as_u64()), (Some(5), Some(answer.body.len() as u64)));
    assert_eq!(served["request_id"], "id-1");
    assert_eq!(served["protocol"], "HTTP/1.1");
    assert!(served["duration"].as_f64() >= served["upstream_duration"].as_f64());
    assert_eq!((&of("/%00")["status"], &of("/%00")["reason"]), (&400.into(), &"bad_path".into()));
    assert_eq!(of("/%00")["request_id"].as_str().map(str::len), Some(32));
}

#[tokio::test]
async fn what_is_cut_has_ended_with_the_drain_and_is_in_the_log_with_the_data_planes_end() {
    let backend = Backend::http1(|_: http::Request<hyper::body::Incoming>| std::future::pending()).await;
    let log = Collected::default();
    let mut rig = logging(Rig::plain(&[backend.address]), options(), &log);
    let listener =
        snapshot::Listener { port: rig.port, hostname: snapshot::HostPattern::Any, protocol: snapshot::Protocol::Http };
    rig.set("web", Resource::Listener(listener));
    let mut http1 = http1(rig.address()).await;
    let mut http2 = http2(tokio::net::TcpStream::connect(rig.address()).await.unwrap()).await;
    let request = http::Request::get("http://a/two").body(http_body_util::Full::<bytes::Bytes>::default()).unwrap();
    let (one, two) = (http1.send_request(get("/one")), http2.send_request(request));
    let (drained, one, two) = tokio::join!(rig.proxy.drain(Duration::from_millis(600)), one, two);
    assert!(one.is_err() && two.is_err());
    assert_eq!((drained.cut, rig.proxy.open_connections()), (2, 0));
    drop(rig);
    let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(text.contains("\"path\":\"/one\"") && text.contains("\"path\":\"/two\""), "{text}");
}
