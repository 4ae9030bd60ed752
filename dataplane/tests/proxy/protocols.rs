//! HTTP/2 on both sides, and gRPC's trailers over it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Incoming;
use snapshot::{AffinityCookie, AffinityMode, BackendProtocol, Cluster, CookieSecure, Persistence, Resource};
use tokio::net::TcpStream;
use tokio::sync::Barrier;

use crate::backend::{Backend, Body, echo, frames, full};
use crate::client::{collect, fetch, http1, http2, raw, send};
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

#[tokio::test]
async fn trailers_pass_but_for_what_belongs_before_a_body() {
    let backend = Backend::http1(|request: Request<Incoming>| async move {
        let trailers = request.into_body().collect().await.unwrap().trailers().cloned().unwrap_or_default();
        let mut names: Vec<_> = trailers.keys().map(http::HeaderName::as_str).collect();
        names.sort_unstable();
        full(names.join(" "))
    })
    .await;
    let rig = Rig::plain(&[backend.address]);
    let trailers = "X-Sum: 1\r\nContent-Length: 9\r\nTransfer-Encoding: x\r\nHost: b\r\nX-Forwarded-For: 1.1.1.1\r\nX-Real-IP: 1.1.1.1\r\n";
    let head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n";
    let answer = raw(rig.address(), format!("{head}1\r\na\r\n0\r\n{trailers}\r\n").as_bytes()).await;
    assert!(answer.ends_with("\r\n\r\nx-sum"), "{answer}");
}

#[tokio::test]
async fn cookies_of_http2_reach_the_backend_as_one_field_and_keep_their_meaning() {
    let backends = [Backend::echo("one").await, Backend::echo("two").await];
    let rig = Rig::with(options(), &backends.each_ref().map(|backend| backend.address), |snapshot| {
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
        snapshot.insert(
            "app",
            Resource::Cluster(Cluster { persistence: Some(Persistence::Affinity(persistence)), ..cluster("app") }),
        );
    });
    let mut client = http2(TcpStream::connect(rig.address()).await.unwrap()).await;
    let request = Request::get("http://a/").body(Empty::<Bytes>::new()).unwrap();
    let first = collect(client.send_request(request).await.unwrap()).await.unwrap();
    let route = first.header("set-cookie").split(';').next().unwrap();
    for _ in 0..8 {
        let request = Request::get("http://a/").header("cookie", "a=1").header("cookie", route).header("cookie", "b=2");
        let request = request.body(Empty::<Bytes>::new()).unwrap();
        let answer = collect(client.send_request(request).await.unwrap()).await.unwrap();
        assert_eq!(answer.header("x-backend"), first.header("x-backend"));
        assert!(answer.body.contains(&format!("cookie: a=1; {route}; b=2\n")), "{}", answer.body);
    }
}

#[tokio::test]
async fn a_request_of_http10_without_host_names_the_endpoint() {
    let backend = Backend::echo("one").await;
    let rig = Rig::plain(&[backend.address]);
    let answer = raw(rig.address(), b"GET / HTTP/1.0\r\n\r\n").await;
    assert!(answer.contains(&format!("host: {}\n", backend.address)), "{answer}");
}

#[tokio::test]
async fn a_backends_limit_of_streams_leads_to_further_connections() {
    let waiting = Arc::new(Barrier::new(3));
    let arrived = waiting.clone();
    let backend = Backend::http2_with_streams(2, move |request: Request<Incoming>| {
        let arrived = arrived.clone();
        async move {
            if request.uri().path() == "/together" {
                arrived.wait().await;
            }
            full("ok")
        }
    })
    .await;
    let options = dataplane::Options { workers: Some(1), ..options() };
    let rig = Rig::with(options, &[backend.address], |snapshot| {
        snapshot.insert("app", Resource::Cluster(http2_cluster()));
    });
    // The limit comes with the first answer, and is seen with the next request.
    for _ in 0..2 {
        assert_eq!(fetch(rig.address(), "/").await.body, "ok");
    }
    let mut requests = tokio::task::JoinSet::new();
    for _ in 0..3 {
        let address = rig.address();
        requests.spawn(async move { fetch(address, "/together").await.status });
    }
    let done = tokio::time::timeout(Duration::from_secs(20), requests.join_all()).await;
    assert!(done.expect("requests wait for each other").iter().all(|status| *status == 200));
}

#[tokio::test]
async fn a_burst_on_new_connections_exceeds_no_limit_of_streams() {
    for limit in 1..=4 {
        let backend = Backend::http2_with_streams(limit, |request| echo("two", request)).await;
        let options = dataplane::Options { workers: Some(1), ..options() };
        let rig = Rig::with(options, &[backend.address], |snapshot| {
            snapshot.insert("app", Resource::Cluster(http2_cluster()));
        });
        let client = http2(TcpStream::connect(rig.address()).await.unwrap()).await;
        let mut requests = tokio::task::JoinSet::new();
        for _ in 0..40 {
            let mut client = client.clone();
            requests.spawn(async move {
                // A body that was sent cannot be sent again.
                let request = Request::post("http://app.example/").body(Full::new(Bytes::from("hello"))).unwrap();
                collect(client.send_request(request).await.unwrap()).await.unwrap()
            });
        }
        while let Some(answer) = requests.join_next().await {
            let answer = answer.unwrap();
            assert_eq!(answer.status, 200, "at most {limit}: {answer:?}");
            assert!(answer.body.ends_with("\n\nhello"), "{answer:?}");
        }
    }
}

/// A backend that refuses the first `refusals` streams and answers the others.
async fn refusing(refusals: usize) -> std::net::SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let left = Arc::new(AtomicUsize::new(refusals));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let left = left.clone();
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(stream).await.unwrap();
                while let Some(Ok((_, mut respond))) = connection.accept().await {
                    let refuse = |left: usize| left.checked_sub(1);
                    if left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, refuse).is_ok() {
                        respond.send_reset(h2::Reason::REFUSED_STREAM);
                    } else {
                        respond.send_response(Response::new(()), true).unwrap();
                    }
                }
            });
        }
    });
    address
}

#[tokio::test]
async fn a_refused_stream_is_sent_again() {
    for (refusals, status) in [(2, 200), (3, 502)] {
        let rig = Rig::with(options(), &[refusing(refusals).await], |snapshot| {
            snapshot.insert("app", Resource::Cluster(http2_cluster()));
        });
        // Not idempotent, and yet safe: the backend says that it did nothing.
        let request = Request::post("/").header("host", "a").body(Full::<Bytes>::default()).unwrap();
        let answer = send(rig.address(), request).await;
        assert_eq!(answer.status, status, "{answer:?}");
    }
}

#[tokio::test]
async fn headers_are_counted_in_http2_too() {
    let backend = Backend::echo("one").await;
    let rig = Rig::plain(&[backend.address]);
    let mut client = http2(TcpStream::connect(rig.address()).await.unwrap()).await;
    for (count, status) in [(80, 200), (129, 431)] {
        let mut request = Request::get("http://a.example/").body(Full::<Bytes>::default()).unwrap();
        for n in 0..count {
            let name = http::HeaderName::try_from(format!("x-{n}")).unwrap();
            request.headers_mut().insert(name, http::HeaderValue::from_static("1"));
        }
        assert_eq!(collect(client.send_request(request).await.unwrap()).await.unwrap().status, status);
    }
}
