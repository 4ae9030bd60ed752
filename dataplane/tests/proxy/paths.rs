//! What was matched is what is forwarded: to backends, to services that are asked, and in copies.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Empty;
use hyper::body::Incoming;
use snapshot::*;
use tokio::net::TcpStream;

use crate::backend::{Backend, Body, full};
use crate::client::{collect, http2, raw};
use crate::rig::{Rig, addresses, cluster, eventually, options, route, rule};

type Seen = Arc<Mutex<Vec<String>>>;

/// A peer that notes the targets that it gets, and responds with this status.
async fn noting(status: u16) -> (Backend, Seen) {
    let seen = Seen::default();
    let noted = seen.clone();
    let respond = move |request: Request<Incoming>| {
        noted.lock().unwrap().push(request.uri().to_string());
        let mut response: Response<Body> = full("");
        *response.status_mut() = StatusCode::from_u16(status).unwrap();
        async move { response }
    };
    (Backend::http1(respond).await, seen)
}

fn guard() -> Filter {
    let headers = AllowList::Any;
    let http = HttpAuth { path_prefix: String::new(), request_headers: Vec::new(), response_headers: headers };
    Filter::ExternalAuth(ExternalAuth { cluster: "auth".into(), protocol: AuthProtocol::Http(http), max_body: 0 })
}

fn with(backend: &Backend, auth: &Backend, rules: Vec<Rule>) -> Rig {
    let options = dataplane::Options { workers: Some(1), ..options() };
    Rig::with(options, &[backend.address], |snapshot| {
        snapshot.insert("auth", Resource::Endpoints(addresses(&[auth.address])));
        snapshot.insert("auth", Resource::Cluster(cluster("auth")));
        snapshot.insert("all", Resource::Route(route("web", rules)));
    })
}

/// The status of the response to a GET of this target.
async fn get(rig: &Rig, target: &str) -> u16 {
    let request = format!("GET {target} HTTP/1.1\r\nHost: app.example\r\nConnection: close\r\n\r\n");
    let response = raw(rig.address(), request.as_bytes()).await;
    response.get(9..12).and_then(|status| status.parse().ok()).unwrap_or_else(|| panic!("{target}: {response:?}"))
}

fn taken(seen: &Seen) -> Vec<String> {
    std::mem::take(&mut *seen.lock().unwrap())
}

#[tokio::test]
async fn a_guarded_path_is_reached_under_no_other_spelling() {
    let ((backend, seen), (auth, _)) = (noting(200).await, noting(403).await);
    let guarded = Rule { filters: vec![guard()], ..rule("guarded", "/admin", "app") };
    let rig = with(&backend, &auth, vec![guarded, rule("open", "/", "app")]);
    for (target, status, forwarded) in [
        ("/admin/users", 403, None),
        ("/admin//../users", 403, None),
        ("/x/../admin/users", 403, None),
        ("/x/%2e%2E/admin/users", 403, None),
        ("/admin%2fusers", 403, None),
        ("/admin\\users", 403, None),
        ("/x/a%2fb/../../admin/users", 400, None),
        ("/x\\..\\admin/users", 400, None),
        ("/x/..;/admin/users", 400, None),
        ("/x/../../admin/users", 400, None),
        ("/admin/../x", 200, Some("/x")),
        ("/admin/%2e%2e/x?../y", 200, Some("/x?../y")),
        ("//x/admin/users", 200, Some("/x/admin/users")),
        ("/x//a%2Fb", 200, Some("/x//a%2Fb")),
    ] {
        assert_eq!(get(&rig, target).await, status, "{target}");
        assert_eq!(taken(&seen).first().map(String::as_str), forwarded, "{target}");
    }
}

#[tokio::test]
async fn a_line_feed_evades_no_expression() {
    let ((backend, seen), (auth, _)) = (noting(200).await, noting(403).await);
    let mut guarded = Rule { filters: vec![guard()], ..rule("guarded", "/", "app") };
    guarded.matches[0].path = PathMatch::Regex("/admin/.*".into());
    let rig = with(&backend, &auth, vec![guarded, rule("open", "/", "app")]);
    for (target, status) in
        [("/admin/x", 403), ("/admin/x%0A", 403), ("/admin/%0Ax", 403), ("/admin/x%0D", 400), ("/admin/%7Fx", 400)]
    {
        assert_eq!(get(&rig, target).await, status, "{target}");
    }
    assert_eq!(taken(&seen), Vec::<String>::new());
}

#[tokio::test]
async fn services_that_are_asked_and_copies_see_what_the_backend_sees() {
    let ((backend, seen), (auth, asked)) = (noting(200).await, noting(200).await);
    let (mirror, copied) = noting(200).await;
    let copy = Filter::Mirror(Mirror { cluster: "mirror".into(), numerator: 1, denominator: 1 });
    let mut rig = with(&backend, &auth, vec![rule("none", "/none", "app")]);
    rig.set("mirror", Resource::Endpoints(addresses(&[mirror.address])));
    rig.set("mirror", Resource::Cluster(cluster("mirror")));
    let guarded = Rule { filters: vec![guard(), copy], ..rule("guarded", "/", "app") };
    rig.set("all", Resource::Route(route("web", vec![guarded])));
    for (target, forwarded) in [
        ("/a/./b%20c//../d?q=%2e", "/a/b%20c/d?q=%2e"),
        ("//a\\b//c?\\", "/a/b//c?\\"),
        ("http://app.example?x", "/?x"),
        ("http://app.example", "/"),
    ] {
        assert_eq!(get(&rig, target).await, 200, "{target}");
        eventually("a copy", || !copied.lock().unwrap().is_empty()).await;
        assert_eq!([taken(&seen), taken(&asked), taken(&copied)], [[forwarded]; 3], "{target}");
    }
}

#[tokio::test]
async fn a_path_without_a_slash_is_malformed_in_http2() {
    let (backend, seen) = noting(200).await;
    let rig = Rig::plain(&[backend.address]);
    let mut client = http2(TcpStream::connect(rig.address()).await.unwrap()).await;
    let request = Request::get("http://app.example?x").body(Empty::<Bytes>::new()).unwrap();
    let response = collect(client.send_request(request).await.unwrap()).await.unwrap();
    assert_eq!((response.status.as_u16(), response.header("x-sluice-reason")), (400, "bad_path"));
    assert_eq!(taken(&seen), Vec::<String>::new());
}
