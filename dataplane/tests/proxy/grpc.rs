//! Answers of the data plane itself to gRPC calls.

use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use hyper::body::Incoming;
use snapshot::{BackendProtocol, Filter, LimitKey, RateLimit, Resource, Timeouts};
use tokio::net::TcpStream;

use crate::backend::Backend;
use crate::client::{Answer, collect, http2, send};
use crate::rig::{Rig, addresses, cluster, options, route, rule, timeouts};

async fn call(rig: &Rig, path: &str, content_type: &str) -> Answer {
    let mut client = http2(TcpStream::connect(rig.address()).await.unwrap()).await;
    let request = Request::post(format!("http://app.example{path}"))
        .header("content-type", content_type)
        .header("te", "trailers")
        .body(Full::new(Bytes::from_static(&[0; 5])))
        .unwrap();
    collect(client.send_request(request).await.unwrap()).await.unwrap()
}

/// Of calls that a backend never answers.
async fn rig() -> (Rig, Backend) {
    let backend = Backend::http2(|_: Request<Incoming>| std::future::pending()).await;
    let rig = Rig::with(options(), &[backend.address], |snapshot| {
        let grpc =
            |endpoints| Resource::Cluster(snapshot::Cluster { protocol: BackendProtocol::Http2, ..cluster(endpoints) });
        snapshot.insert("app", grpc("app"));
        snapshot.insert("none", Resource::Endpoints(addresses(&[])));
        snapshot.insert("none", grpc("none"));
        let mut refused = rule("refused", "/refused", "app");
        refused.action = snapshot::Action::Refuse(snapshot::Refusal::InvalidBackend);
        let mut slow = rule("slow", "/slow", "app");
        slow.timeouts = Timeouts { request: Some(Duration::from_millis(100)), ..timeouts() };
        let mut limited = rule("limited", "/limited", "none");
        limited.filters = vec![Filter::RateLimit(RateLimit {
            id: "r".into(),
            key: LimitKey::Header("x-none".into()),
            requests: 1,
            per: Duration::from_secs(3600),
            burst: 0,
            status: 503,
            exempt: Vec::new(),
        })];
        let rules = vec![refused, slow, limited, rule("none", "/none", "none")];
        snapshot.insert("all", Resource::Route(route("web", rules)));
    });
    (rig, backend)
}

#[tokio::test]
async fn grpc_calls_get_a_status_of_grpc() {
    let (rig, _backend) = rig().await;
    assert_eq!(call(&rig, "/limited", "application/grpc").await.header("grpc-status"), "14");
    for (path, status, reason) in [
        ("/unknown.Service/Method", "12", "no_route"),
        ("/refused", "14", "invalid_backend"),
        ("/none", "14", "no_endpoints"),
        ("/slow", "4", "request_timeout"),
        ("/limited", "8", "rate_limited"),
    ] {
        for content_type in ["application/grpc", "application/grpc+proto", "application/grpc;x=y"] {
            let answer = call(&rig, path, content_type).await;
            assert_eq!(answer.status, 200, "{path}");
            assert_eq!(answer.header("grpc-status"), status, "{path}");
            assert_eq!(answer.header("content-type"), "application/grpc", "{path}");
            assert_eq!(answer.header("x-sluice-reason"), reason, "{path}");
            assert_ne!(answer.header("grpc-message"), "", "{path}");
            // Only then headers count as trailers.
            assert_eq!((answer.body.as_str(), answer.trailers), ("", None), "{path}");
        }
    }
}

#[tokio::test]
async fn other_requests_get_a_status_of_http() {
    let (rig, _backend) = rig().await;
    for content_type in ["application/json", "application/grpc-web", "application/grpc-web+proto"] {
        let answer = call(&rig, "/none", content_type).await;
        assert_eq!((answer.status.as_u16(), answer.header("grpc-status")), (503, ""), "{content_type}");
    }
    let request = Request::post("/none").header("host", "a").header("content-type", "application/grpc");
    let answer = send(rig.address(), request.body(Full::default()).unwrap()).await;
    assert_eq!((answer.status.as_u16(), answer.header("grpc-status")), (503, ""));
}
