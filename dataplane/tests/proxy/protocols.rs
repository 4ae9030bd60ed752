//! HTTP/2 on both sides, and gRPC's trailers over it.

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Incoming;
use snapshot::{BackendProtocol, Cluster, Resource};
use tokio::net::TcpStream;

use crate::backend::{Backend, Body, echo, frames};
use crate::client::{collect, fetch, http1, http2};
use crate::rig::{Rig, cluster, options};

/// Answers as a gRPC server does: the status is in the trailers.
async fn grpc(request: Request<Incoming>) -> Response<Body> {
    let te = request.headers().get("te").cloned();
    let host = request.uri().authority().map(ToString::to_string).unwrap_or_default();
    let collected = request.into_body().collect().await.unwrap();
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", "0".parse().unwrap());
    trailers.insert("x-te", te.unwrap_or("none".parse().unwrap()));
    trailers.insert("x-authority", host.parse().unwrap());
    if let Some(sent) = collected.trailers() {
        trailers.extend(sent.clone());
    }
    let mut response = Response::new(frames(vec![collected.to_bytes()], Some(trailers)));
    response.headers_mut().insert("content-type", "application/grpc".parse().unwrap());
    response
}

fn http2_cluster() -> Cluster {
    Cluster { protocol: BackendProtocol::Http2, ..cluster("app") }
}

#[tokio::test]
async fn prior_knowledge_is_recognised_on_a_plain_port() {
    let backend = Backend::echo("one").await;
    let rig = Rig::plain(&[backend.address]);
    let mut client = http2(TcpStream::connect(rig.address()).await.unwrap()).await;
    for _ in 0..3 {
        let request = Request::get("http://app.example/x?y").body(Empty::<Bytes>::new()).unwrap();
        let answer = collect(client.send_request(request).await.unwrap()).await.unwrap();
        assert!(answer.body.starts_with("GET /x?y\n"), "{}", answer.body);
        assert!(answer.body.contains("host: app.example"), "{}", answer.body);
    }
}

#[tokio::test]
async fn many_streams_share_connections_on_both_sides() {
    let backend = Backend::http2(|request| echo("two", request)).await;
    let rig = Rig::with(options(), &[backend.address], |snapshot| {
        snapshot.insert("app", Resource::Cluster(http2_cluster()));
    });
    let client = http2(TcpStream::connect(rig.address()).await.unwrap()).await;
    let mut requests = tokio::task::JoinSet::new();
    for number in 0..64 {
        let mut client = client.clone();
        requests.spawn(async move {
            let uri = format!("http://app.example/{number}");
            let request = Request::get(uri).body(Empty::<Bytes>::new()).unwrap();
            collect(client.send_request(request).await.unwrap()).await.unwrap().status
        });
    }
    while let Some(status) = requests.join_next().await {
        assert_eq!(status.unwrap(), 200);
    }
    assert_eq!(backend.connections.load(std::sync::atomic::Ordering::SeqCst), 1);
}

#[tokio::test]
async fn http1_clients_reach_http2_backends() {
    let backend = Backend::http2(|request| echo("two", request)).await;
    let rig = Rig::with(options(), &[backend.address], |snapshot| {
        snapshot.insert("app", Resource::Cluster(http2_cluster()));
    });
    let answer = fetch(rig.address(), "/x").await;
    assert!(answer.body.starts_with("GET http://app.example/x\n"), "{}", answer.body);
}

#[tokio::test]
async fn grpc_passes_with_trailers_in_both_directions() {
    let backend = Backend::http2(grpc).await;
    let rig = Rig::with(options(), &[backend.address], |snapshot| {
        snapshot.insert("app", Resource::Cluster(http2_cluster()));
    });
    let mut client = http2(TcpStream::connect(rig.address()).await.unwrap()).await;
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sent", "1".parse().unwrap());
    let request = Request::post("http://grpc.example/service/Method").header("te", "trailers");
    let body = frames(vec![Bytes::from("one"), Bytes::from("two")], Some(trailers));
    let answer = collect(client.send_request(request.body(body).unwrap()).await.unwrap()).await.unwrap();
    assert_eq!(answer.body, "onetwo");
    let trailers = answer.trailers.unwrap();
    assert_eq!(trailers["grpc-status"], "0");
    assert_eq!(trailers["x-te"], "trailers");
    assert_eq!(trailers["x-authority"], "grpc.example");
    assert_eq!(trailers["x-sent"], "1");
}

#[tokio::test]
async fn hop_by_hop_headers_end_here() {
    let backend = Backend::http1(|request| async move {
        let mut response = echo("one", request).await;
        response.headers_mut().insert("keep-alive", "timeout=5".parse().unwrap());
        response.headers_mut().insert("proxy-authenticate", "x".parse().unwrap());
        response
    })
    .await;
    let rig = Rig::plain(&[backend.address]);
    let request = Request::get("/").header("host", "a").header("connection", "x-secret").header("x-secret", "1");
    let request = request.header("x-request-id", "mine").body(Full::<Bytes>::default()).unwrap();
    let answer = collect(http1(rig.address()).await.send_request(request).await.unwrap()).await.unwrap();
    assert!(!answer.body.contains("x-secret"), "{}", answer.body);
    assert!(answer.body.contains("x-request-id: mine"), "{}", answer.body);
    assert!(!answer.headers.contains_key("keep-alive") && !answer.headers.contains_key("proxy-authenticate"));
}
