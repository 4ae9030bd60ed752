//! Cross-origin requests.

use bytes::Bytes;
use http::{HeaderMap, Method, Request};
use http_body_util::Full;
use hyper::body::Incoming;
use snapshot::{Action, AllowList, Cors, Filter, LimitKey, OriginPattern, RateLimit, Refusal, Resource};

use crate::backend::{Backend, full};
use crate::client::{Answer, send};
use crate::rig::{Rig, options, route, rule};

fn these(names: &[&str]) -> AllowList {
    AllowList::These(names.iter().map(|name| (*name).to_owned()).collect())
}

/// As the Gateway API's own example, with credentials.
fn listed() -> Cors {
    let below = OriginPattern::Subdomains { scheme: "https".into(), suffix: "bar.com".into(), port: None };
    Cors {
        allow_origins: vec![OriginPattern::Exact("https://www.foo.com".into()), below],
        allow_credentials: true,
        allow_methods: these(&["GET", "OPTIONS"]),
        allow_headers: these(&["x-header-1", "x-header-2"]),
        expose_headers: these(&["x-header-3", "x-header-4"]),
        max_age: 3600,
    }
}

fn everything(allow_credentials: bool) -> Cors {
    Cors {
        allow_origins: vec![OriginPattern::Any],
        allow_credentials,
        allow_methods: AllowList::Any,
        allow_headers: AllowList::Any,
        expose_headers: AllowList::Any,
        max_age: 5,
    }
}

/// In front of a backend that would let everybody read.
async fn rig(cors: Cors) -> (Rig, Backend) {
    let backend = Backend::http1(|request: Request<Incoming>| async move {
        let mut response = full(format!("{} reached the backend", request.method()));
        let headers = response.headers_mut();
        headers.insert("access-control-allow-origin", "https://everybody.example".parse().unwrap());
        headers.insert("access-control-allow-credentials", "true".parse().unwrap());
        headers.insert("x-of-backend", "1".parse().unwrap());
        headers.insert("set-cookie", "a=b".parse().unwrap());
        headers.insert("vary", "Accept".parse().unwrap());
        response
    })
    .await;
    let rig = Rig::with(options(), &[backend.address], |snapshot| {
        let mut rule = rule("cors", "/", "app");
        rule.filters = vec![Filter::Cors(cors)];
        let mut broken = rule.clone();
        broken.matches[0].path = snapshot::PathMatch::Prefix("/broken".into());
        broken.action = Action::Refuse(Refusal::InvalidBackend);
        snapshot.insert("all", Resource::Route(route("web", vec![rule, broken])));
    });
    (rig, backend)
}

async fn ask(rig: &Rig, method: Method, path: &str, headers: &[(&str, &str)]) -> Answer {
    let mut request = Request::builder().method(method).uri(path).header("host", "a");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    send(rig.address(), request.body(Full::<Bytes>::default()).unwrap()).await
}

async fn preflight(rig: &Rig, origin: &str, method: &str, headers: &str) -> Answer {
    let sent =
        [("origin", origin), ("access-control-request-method", method), ("access-control-request-headers", headers)];
    ask(rig, Method::OPTIONS, "/", if headers.is_empty() { &sent[..2] } else { &sent }).await
}

/// The headers of CORS, and `Vary`.
fn said(headers: &HeaderMap) -> Vec<String> {
    let of_cors = |name: &str| name.starts_with("access-control-") || name == "vary";
    let mut lines: Vec<_> = headers
        .iter()
        .filter(|(name, _)| of_cors(name.as_str()))
        .map(|(name, value)| {
            format!("{}: {}", name.as_str().trim_start_matches("access-control-"), value.to_str().unwrap())
        })
        .collect();
    lines.sort();
    lines
}

#[tokio::test]
async fn preflight_requests_of_allowed_origins_are_answered_here() {
    let (rig, _backend) = rig(listed()).await;
    for origin in ["https://www.foo.com", "https://www.bar.com", "https://xpto.www.bar.com"] {
        let answer = preflight(&rig, origin, "GET", "x-header-1, x-header-2").await;
        assert_eq!((answer.status.as_u16(), answer.body.as_str()), (204, ""));
        assert_eq!(answer.header("x-sluice-reason"), "");
        let expected = [
            "allow-credentials: true",
            "allow-headers: x-header-1, x-header-2",
            "allow-methods: GET, OPTIONS",
            &format!("allow-origin: {origin}"),
            "expose-headers: x-header-3, x-header-4",
            "max-age: 3600",
            "vary: Origin",
        ];
        assert_eq!(said(&answer.headers), expected);
    }
}

#[tokio::test]
async fn preflight_requests_of_other_origins_are_refused() {
    let (rig, _backend) = rig(listed()).await;
    for origin in ["https://foobar.com", "https://bar.com", "http://www.foo.com", "https://www.foo.com:8443", "null"] {
        let answer = preflight(&rig, origin, "GET", "").await;
        assert_eq!((answer.status.as_u16(), answer.header("x-sluice-reason")), (403, "origin_refused"), "{origin}");
        assert_eq!(said(&answer.headers), ["vary: Origin"], "{origin}");
    }
}

#[tokio::test]
async fn what_is_no_preflight_request_goes_to_the_backend() {
    let (rig, _backend) = rig(listed()).await;
    let origin = ("origin", "https://www.foo.com");
    let method = ("access-control-request-method", "GET");
    for (asked, headers) in
        [(Method::OPTIONS, &[origin][..]), (Method::OPTIONS, &[method]), (Method::GET, &[origin, method])]
    {
        let answer = ask(&rig, asked.clone(), "/", headers).await;
        assert_eq!(answer.body, format!("{asked} reached the backend"));
    }
}

#[tokio::test]
async fn the_rule_says_who_may_read_an_answer_and_not_the_backend() {
    let (rig, _backend) = rig(listed()).await;
    let answer = ask(&rig, Method::GET, "/", &[("origin", "https://www.foo.com")]).await;
    let expected = [
        "allow-credentials: true",
        "allow-origin: https://www.foo.com",
        "expose-headers: x-header-3, x-header-4",
        "vary: Accept",
        "vary: Origin",
    ];
    assert_eq!(said(&answer.headers), expected);
    for headers in [&[("origin", "https://foobar.com")][..], &[]] {
        let answer = ask(&rig, Method::GET, "/", headers).await;
        assert_eq!(answer.status, 200);
        assert_eq!(said(&answer.headers), ["vary: Accept", "vary: Origin"]);
    }
}

#[tokio::test]
async fn answers_of_the_data_plane_can_be_read_as_well() {
    let (rig, _backend) = rig(listed()).await;
    let answer = ask(&rig, Method::GET, "/broken", &[("origin", "https://www.foo.com")]).await;
    assert_eq!(answer.status, 500);
    assert_eq!(answer.header("access-control-allow-origin"), "https://www.foo.com");
}

#[tokio::test]
async fn wildcards_without_credentials_let_everybody_in() {
    let (rig, _backend) = rig(everything(false)).await;
    let answer = preflight(&rig, "https://other.foo.com:12345", "PUT", "authorization, x-header-1").await;
    let expected = [
        "allow-headers: authorization, x-header-1",
        "allow-methods: PUT",
        "allow-origin: *",
        "expose-headers: *",
        "max-age: 5",
    ];
    assert_eq!(said(&answer.headers), expected);
    let answer = ask(&rig, Method::GET, "/", &[("origin", "null")]).await;
    assert_eq!(said(&answer.headers), ["allow-origin: *", "expose-headers: *", "vary: Accept"]);
}

#[tokio::test]
async fn wildcards_with_credentials_never_become_a_star() {
    let (rig, _backend) = rig(everything(true)).await;
    let answer = preflight(&rig, "https://other.foo.com", "PUT", "x-header-1").await;
    assert_eq!(answer.header("access-control-allow-origin"), "https://other.foo.com");
    assert_eq!(answer.header("access-control-allow-methods"), "PUT");
    assert_eq!(answer.header("access-control-allow-headers"), "x-header-1");
    assert!(said(&answer.headers).iter().all(|line| !line.contains('*')), "{:?}", said(&answer.headers));
    let answer = preflight(&rig, "https://other.foo.com", "PUT", "").await;
    assert!(!answer.headers.contains_key("access-control-allow-headers"));
    let answer = ask(&rig, Method::GET, "/", &[("origin", "https://other.foo.com")]).await;
    let exposed = answer.header("access-control-expose-headers");
    assert!(exposed.contains("x-of-backend") && !exposed.contains("set-cookie") && !exposed.contains('*'), "{exposed}");
}

#[tokio::test]
async fn every_refusal_of_a_rule_or_of_its_backend_says_who_may_read_it() {
    let origin = "https://www.foo.com";
    let limited = Filter::RateLimit(RateLimit {
        id: "limit".into(),
        key: LimitKey::ClientIp,
        requests: 1,
        per: std::time::Duration::from_secs(3600),
        burst: 0,
        exempt: Vec::new(),
        status: 429,
    });
    let gone = crate::rig::free_port();
    let rig = Rig::with(options(), &[std::net::SocketAddr::new(crate::rig::LOOPBACK, gone)], |snapshot| {
        let mut of_rule = rule("cors", "/rule", "app");
        // As the filters of a policy, the limit stands before the route's own.
        of_rule.filters = vec![limited, Filter::Cors(listed())];
        let mut of_backend = rule("backend", "/backend", "app");
        let Action::Forward(backends) = &mut of_backend.action else { panic!("a rule with a backend") };
        backends[0].filters = vec![Filter::Cors(listed())];
        snapshot.insert("all", Resource::Route(route("web", vec![of_rule, of_backend])));
    });
    let readable = |answer: &Answer| answer.header("access-control-allow-origin") == origin;
    let first = ask(&rig, Method::GET, "/rule", &[("origin", origin)]).await;
    assert_eq!((first.status.as_u16(), readable(&first)), (502, true), "{first:?}");
    let second = ask(&rig, Method::GET, "/rule", &[("origin", origin)]).await;
    assert_eq!((second.status.as_u16(), readable(&second)), (429, true), "{second:?}");
    // A preflight is no request of the page's: it takes nothing from its limit.
    let asked = [("origin", origin), ("access-control-request-method", "GET")];
    assert!(readable(&ask(&rig, Method::OPTIONS, "/rule", &asked).await));
    let of_backend = ask(&rig, Method::GET, "/backend", &[("origin", origin)]).await;
    assert_eq!((of_backend.status.as_u16(), readable(&of_backend)), (502, true), "{of_backend:?}");
    let stranger = ask(&rig, Method::GET, "/backend", &[("origin", "https://evil.example")]).await;
    assert_eq!(stranger.header("access-control-allow-origin"), "");
}
