//! Persistent sessions (GEP-1619).

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::{Empty, Full};
use snapshot::*;

use crate::backend::{Backend, echo, frames};
use crate::client::{Answer, collect, fetch, http1, http2, send};
use crate::rig::{Rig, addresses, cluster, options, route, rule};

fn cookie(name: &str) -> SessionPersistence {
    let cookie = SessionCookie { path: None, lifetime: CookieLifetime::Session, same_site: Some(SameSite::Lax) };
    SessionPersistence {
        name: name.into(),
        carrier: Carrier::Cookie(cookie),
        absolute_timeout: None,
        idle_timeout: None,
    }
}

fn header(name: &str) -> SessionPersistence {
    SessionPersistence { carrier: Carrier::Header, ..cookie(name) }
}

/// A rule for everything, with these sessions and shares of the clusters `one` and `two`.
fn shared_by(sessions: SessionPersistence, shares: &[(&str, u32)]) -> Rule {
    let backend = |(cluster, weight): &(&str, u32)| snapshot::Backend {
        weight: *weight,
        target: Target::Cluster((*cluster).into()),
        filters: Vec::new(),
    };
    let action = Action::Forward(shares.iter().map(backend).collect());
    Rule { action, persistence: Some(sessions), ..rule("rule 0", "/", "app") }
}

/// A rig whose only rule is this one, with the clusters `one` and `two`.
fn rig(rule: Rule, one: &[SocketAddr], two: &[SocketAddr]) -> Rig {
    Rig::with(options(), one, |snapshot| {
        for (name, endpoints) in [("one", one), ("two", two)] {
            snapshot.insert(name, Resource::Endpoints(addresses(endpoints)));
            snapshot.insert(name, Resource::Cluster(cluster(name)));
        }
        snapshot.insert("all", Resource::Route(route("web", vec![rule])));
    })
}

async fn echoes(names: &[&'static str]) -> Vec<Backend> {
    let mut backends = Vec::new();
    for name in names {
        backends.push(Backend::echo(name).await);
    }
    backends
}

fn of(backends: &[Backend]) -> Vec<SocketAddr> {
    backends.iter().map(|backend| backend.address).collect()
}

async fn fetch_with(address: SocketAddr, path: &str, name: &str, value: &str) -> Answer {
    let request = Request::get(path).header("host", "app.example").header(name, value);
    send(address, request.body(Full::default()).unwrap()).await
}

/// `name=value` of the cookie that an answer sets.
fn set(answer: &Answer) -> String {
    answer.header("set-cookie").split(';').next().unwrap().to_owned()
}

#[tokio::test]
async fn a_cookie_keeps_a_client_on_its_endpoint_on_every_replica_and_says_nothing() {
    let backends = echoes(&["a", "b", "c", "d"]).await;
    let rule = || shared_by(cookie("stay"), &[("one", 1)]);
    let replicas = [rig(rule(), &of(&backends), &[]), rig(rule(), &of(&backends), &[])];
    let first = fetch(replicas[0].address(), "/shop").await;
    assert_eq!(first.header("set-cookie").split_once("; ").unwrap().1, "Path=/; HttpOnly; SameSite=Lax");
    for round in 0..20 {
        let answer =
            fetch_with(replicas[round % 2].address(), "/", "cookie", &format!("a=1; {}; b=2", set(&first))).await;
        assert_eq!(answer.header("x-backend"), first.header("x-backend"));
        assert_eq!(answer.header("set-cookie"), "", "nothing is new");
    }
    let port = backends[0].address.port().to_string();
    let mut tokens = BTreeSet::new();
    for _ in 0..4 {
        let token = set(&fetch(replicas[0].address(), "/").await);
        assert!(!token.contains("127.0.0.1") && !token.contains(&port), "{token}");
        tokens.insert(token);
    }
    assert!(tokens.len() > 1, "clients have sessions of their own: {tokens:?}");
}

#[tokio::test]
async fn a_header_keeps_a_client_on_its_endpoint() {
    let backends = echoes(&["a", "b", "c", "d"]).await;
    let rig = rig(shared_by(header("X-Stay"), &[("one", 1)]), &of(&backends), &[]);
    let first = fetch(rig.address(), "/").await;
    let token = first.header("x-stay").to_owned();
    assert!(!token.is_empty() && first.header("set-cookie").is_empty(), "{first:?}");
    for _ in 0..12 {
        let answer = fetch_with(rig.address(), "/", "x-stay", &token).await;
        assert_eq!((answer.header("x-backend"), answer.header("x-stay")), (first.header("x-backend"), ""));
    }
    let forged = fetch_with(rig.address(), "/", "x-stay", &token.replace(&token[20..22], "__")).await;
    assert!(!forged.header("x-stay").is_empty(), "a forged token is no session");
}

#[tokio::test]
async fn a_session_stays_with_its_backend_whatever_the_weights_become() {
    let backends = echoes(&["a", "b", "c"]).await;
    let (one, two) = (of(&backends[..2]), of(&backends[2..]));
    let mut rig = rig(shared_by(cookie("stay"), &[("one", 1), ("two", 0)]), &one, &two);
    let first = fetch(rig.address(), "/").await;
    assert_ne!(first.header("x-backend"), "c");
    rig.set("all", Resource::Route(route("web", vec![shared_by(cookie("stay"), &[("one", 0), ("two", 1)])])));
    assert_eq!(fetch(rig.address(), "/").await.header("x-backend"), "c");
    for _ in 0..12 {
        let answer = fetch_with(rig.address(), "/", "cookie", &set(&first)).await;
        assert_eq!(answer.header("x-backend"), first.header("x-backend"));
    }
    // Its endpoint goes: the session moves, within its backend.
    let own = if first.header("x-backend") == "a" { 0 } else { 1 };
    rig.set("one", Resource::Endpoints(addresses(&[one[1 - own]])));
    let moved = fetch_with(rig.address(), "/", "cookie", &set(&first)).await;
    assert_eq!(moved.header("x-backend"), if own == 0 { "b" } else { "a" });
    assert_ne!(set(&moved), "");
    // Its backend has no endpoints, or is gone: the weights decide.
    rig.set("one", Resource::Endpoints(addresses(&[])));
    let elsewhere = fetch_with(rig.address(), "/", "cookie", &set(&moved)).await;
    assert_eq!((elsewhere.status.as_u16(), elsewhere.header("x-backend")), (200, "c"));
    rig.set("one", Resource::Endpoints(addresses(&one)));
    rig.set("all", Resource::Route(route("web", vec![shared_by(cookie("stay"), &[("two", 1)])])));
    let elsewhere = fetch_with(rig.address(), "/", "cookie", &set(&moved)).await;
    assert_eq!(elsewhere.header("x-backend"), "c");
    assert_ne!(set(&elsewhere), "");
}

#[tokio::test]
async fn rules_share_no_sessions_and_a_rules_sessions_go_before_the_clusters() {
    let backends = echoes(&["a", "b", "c", "d"]).await;
    let rig = Rig::with(options(), &of(&backends), |snapshot| {
        let own = Persistence::Session(header("x-own"));
        snapshot.insert("app", Resource::Cluster(Cluster { persistence: Some(own), ..cluster("app") }));
        let a = Rule { persistence: Some(cookie("stay")), ..rule("rule a", "/a", "app") };
        let b = Rule { persistence: Some(cookie("stay")), ..rule("rule b", "/b", "app") };
        snapshot.insert("all", Resource::Route(route("web", vec![a, b, rule("rest", "/", "app")])));
    });
    let of_a = fetch(rig.address(), "/a/x").await;
    assert!(of_a.header("set-cookie").contains("; Path=/a; ") && of_a.header("x-own").is_empty(), "{of_a:?}");
    let of_b = fetch_with(rig.address(), "/b", "cookie", &set(&of_a)).await;
    assert!(of_b.header("set-cookie").contains("; Path=/b; "), "the session of another rule counts: {of_b:?}");
    // Both cookies come to a path below both, in any order.
    let both = format!("{}; {}", set(&of_b), set(&of_a));
    for _ in 0..8 {
        let answer = fetch_with(rig.address(), "/a", "cookie", &both).await;
        assert_eq!(answer.header("x-backend"), of_a.header("x-backend"));
    }
    let rest = fetch(rig.address(), "/").await;
    assert!(!rest.header("x-own").is_empty() && rest.header("set-cookie").is_empty());
    for _ in 0..8 {
        let answer = fetch_with(rig.address(), "/", "x-own", rest.header("x-own")).await;
        assert_eq!((answer.header("x-backend"), answer.header("x-own")), (rest.header("x-backend"), ""));
    }
}

/// Asks with the client's latest token until an answer is `wanted`, which must happen.
async fn ask_until(rig: &Rig, token: &mut String, wanted: impl Fn(&Answer) -> bool) -> Answer {
    for _ in 0..1000 {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let answer = fetch_with(rig.address(), "/", "x-stay", token).await;
        if !answer.header("x-stay").is_empty() {
            *token = answer.header("x-stay").to_owned();
        }
        if wanted(&answer) {
            return answer;
        }
    }
    panic!("no answer is as wanted");
}

#[tokio::test]
async fn a_session_ends_after_its_timeouts_and_requests_renew_it() {
    let backends = echoes(&["a", "b", "c", "d"]).await;
    let hour = Some(Duration::from_secs(3600));
    let begin = async |absolute_timeout, idle_timeout| {
        let sessions = SessionPersistence { absolute_timeout, idle_timeout, ..header("x-stay") };
        let rig = rig(shared_by(sessions, &[("one", 1)]), &of(&backends), &[]);
        let first = fetch(rig.address(), "/").await;
        let token = first.header("x-stay").to_owned();
        (rig, first, token)
    };
    let (rig, first, mut token) = begin(hour, hour).await;
    let before = token.clone();
    let renewed = ask_until(&rig, &mut token, |answer| !answer.header("x-stay").is_empty()).await;
    assert_ne!(token, before);
    assert_eq!(renewed.header("x-backend"), first.header("x-backend"), "it is the same session");
    let after = ask_until(&rig, &mut token, |_| true).await;
    assert_eq!(after.header("x-backend"), first.header("x-backend"));

    let (rig, first, mut token) = begin(Some(Duration::from_millis(300)), Some(Duration::from_secs(1))).await;
    ask_until(&rig, &mut token, |answer| answer.header("x-backend") != first.header("x-backend")).await;

    let (rig, first, token) = begin(None, Some(Duration::from_millis(10))).await;
    ask_until(&rig, &mut token.clone(), |answer| answer.header("x-backend") != first.header("x-backend")).await;
}

#[tokio::test]
async fn an_endpoint_that_fails_loses_its_sessions_to_another_one() {
    let backends = echoes(&["a", "b"]).await;
    let rig = rig(shared_by(cookie("stay"), &[("one", 1)]), &of(&backends), &[]);
    let first = fetch(rig.address(), "/").await;
    let rest: Vec<Backend> = backends
        .into_iter()
        .zip(["a", "b"])
        .filter(|(_, name)| first.header("x-backend") != *name)
        .map(|(b, _)| b)
        .collect();
    let second = fetch_with(rig.address(), "/", "cookie", &set(&first)).await;
    assert_eq!(second.status, 200);
    assert_ne!(second.header("x-backend"), first.header("x-backend"));
    assert!(set(&second).starts_with("stay=") && set(&second) != set(&first));
    let third = fetch_with(rig.address(), "/", "cookie", &set(&second)).await;
    assert_eq!((third.header("x-backend"), third.header("set-cookie")), (second.header("x-backend"), ""));
    drop(rest);
}

#[tokio::test]
async fn the_path_of_the_cookie_is_one_that_browsers_send_it_to() {
    let backends = echoes(&["a"]).await;
    let rig = Rig::with(options(), &of(&backends), |snapshot| {
        let of = |path| {
            let mut rule = Rule { persistence: Some(cookie("stay")), ..rule("rule 0", "/", "app") };
            rule.matches[0].path = path;
            rule
        };
        let rules = vec![
            of(PathMatch::Prefix("/shop".into())),
            of(PathMatch::Exact("/exactly/this".into())),
            of(PathMatch::Regex("/p1/p2/.*/p3".into())),
        ];
        snapshot.insert("all", Resource::Route(route("web", rules)));
    });
    for (path, expected) in [
        ("/shop", "/shop"),
        ("/shop/cart?a=b", "/shop"),
        ("/%73hop/cart", "/"),
        ("/exactly/this", "/exactly/this"),
        ("/p1/p2/foo/p3", "/"),
    ] {
        let answer = fetch(rig.address(), path).await;
        assert_eq!(answer.header("set-cookie").split("; ").nth(1), Some(format!("Path={expected}").as_str()), "{path}");
    }
}

#[tokio::test]
async fn upgrades_and_grpc_calls_have_sessions_too() {
    let switching = |name: &'static str| async move {
        Backend::http1(move |_| async move {
            let mut response = http::Response::new(frames(Vec::new(), None));
            *response.status_mut() = http::StatusCode::SWITCHING_PROTOCOLS;
            for (header, value) in [("connection", "upgrade"), ("upgrade", "echo"), ("x-backend", name)] {
                response.headers_mut().insert(header, value.parse().unwrap());
            }
            response
        })
        .await
    };
    let backends = [switching("a").await, switching("b").await, switching("c").await];
    let rig = rig(shared_by(cookie("stay"), &[("one", 1)]), &of(&backends), &[]);
    let upgrade = async |cookie: &str| {
        let request = Request::get("/").header("host", "a").header("connection", "Upgrade").header("upgrade", "echo");
        let request = request.header("cookie", cookie).body(Empty::<Bytes>::new()).unwrap();
        let response = http1(rig.address()).await.send_request(request).await.unwrap();
        assert_eq!(response.status(), 101);
        response.headers().clone()
    };
    let first = upgrade("").await;
    let token = first["set-cookie"].to_str().unwrap().split(';').next().unwrap();
    for _ in 0..6 {
        let headers = upgrade(token).await;
        assert_eq!(headers["x-backend"], first["x-backend"]);
        assert!(!headers.contains_key("set-cookie"));
    }

    let backends = [
        Backend::http2(|request| echo("a", request)).await,
        Backend::http2(|request| echo("b", request)).await,
        Backend::http2(|request| echo("c", request)).await,
    ];
    let mut rig = self::rig(shared_by(header("x-stay"), &[("one", 1)]), &of(&backends), &[]);
    rig.set("one", Resource::Cluster(Cluster { protocol: BackendProtocol::Http2, ..cluster("one") }));
    let mut client = http2(tokio::net::TcpStream::connect(rig.address()).await.unwrap()).await;
    let mut call = async |token: Option<&str>| {
        let mut request = Request::post("http://a/shop.Cart/Add").header("content-type", "application/grpc");
        if let Some(token) = token {
            request = request.header("x-stay", token);
        }
        collect(client.send_request(request.body(Full::<Bytes>::default()).unwrap()).await.unwrap()).await.unwrap()
    };
    let first = call(None).await;
    for _ in 0..6 {
        let answer = call(Some(first.header("x-stay"))).await;
        assert_eq!((answer.header("x-backend"), answer.header("x-stay")), (first.header("x-backend"), ""));
    }
}
