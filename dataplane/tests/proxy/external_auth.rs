//! Questions to a service whether requests may pass (GEP-1494).

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use snapshot::*;

use crate::backend::{Backend, Body, frames, full};
use crate::client::{Answer, collect, fetch, get, http1, raw, send};
use crate::rig::{Rig, addresses, cluster, options, route, rule};

/// What a service was asked, as text: request line, headers, empty line, body.
type Questions = Arc<Mutex<Vec<String>>>;

/// A service that notes what it is asked, and answers like this.
async fn service(
    http2: bool,
    answer: impl Fn() -> Response<Body> + Clone + Send + Sync + 'static,
) -> (Backend, Questions) {
    let questions = Questions::default();
    let noted = questions.clone();
    let answer = move |request: Request<Incoming>| {
        let (noted, answer) = (noted.clone(), answer.clone());
        async move {
            let (head, body) = request.into_parts();
            let mut text = format!("{} {}\n", head.method, head.uri);
            for (name, value) in &head.headers {
                text += &format!("{name}: {}\n", value.to_str().unwrap());
            }
            let body = body.collect().await.unwrap().to_bytes();
            noted.lock().unwrap().push(text + "\n" + std::str::from_utf8(&body).unwrap());
            answer()
        }
    };
    (if http2 { Backend::http2(answer).await } else { Backend::http1(answer).await }, questions)
}

fn answer(status: u16, headers: &[(&str, &str)], body: &'static str) -> Response<Body> {
    let mut response = full(body);
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    for (name, value) in headers {
        response.headers_mut().append(http::HeaderName::try_from(*name).unwrap(), value.parse().unwrap());
    }
    response
}

fn strings(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

fn http(request_headers: &[&str], response_headers: Option<&[&str]>) -> HttpAuth {
    HttpAuth {
        path_prefix: String::new(),
        request_headers: strings(request_headers),
        response_headers: response_headers.map_or(AllowList::Any, |these| AllowList::These(strings(these))),
    }
}

fn asks(auth: HttpAuth, max_body: u16) -> Filter {
    Filter::ExternalAuth(ExternalAuth { cluster: "auth".into(), protocol: AuthProtocol::Http(auth), max_body })
}

/// A data plane whose only rule has these filters.
fn rig(backend: &Backend, auth: &[SocketAddr], filters: Vec<Filter>) -> Rig {
    let options = dataplane::Options { workers: Some(1), ..options() };
    Rig::with(options, &[backend.address], |snapshot| {
        snapshot.insert("auth", Resource::Endpoints(addresses(auth)));
        snapshot.insert("auth", Resource::Cluster(cluster("auth")));
        snapshot.insert("all", Resource::Route(route("web", vec![Rule { filters, ..rule("guarded", "/", "app") }])));
    })
}

fn refusal(answer: &Answer) -> (u16, &str) {
    (answer.status.as_u16(), answer.header("x-sluice-reason"))
}

#[tokio::test]
async fn the_service_sees_what_it_may_and_its_headers_reach_the_backend() {
    let backend = Backend::echo("one").await;
    for http2 in [false, true] {
        let yes = || {
            answer(200, &[("x-user", "bob"), ("x-user", "bo"), ("content-type", "text/auth"), ("x-more", "1")], "yes")
        };
        let (auth, questions) = service(http2, yes).await;
        let filter = asks(HttpAuth { path_prefix: "/check/me".into(), ..http(&["x-team"], None) }, 0);
        let mut rig = rig(&backend, &[auth.address], vec![filter]);
        if http2 {
            rig.set("auth", Resource::Cluster(Cluster { protocol: BackendProtocol::Http2, ..cluster("auth") }));
        }
        let request = Request::post("/shop/a%20b?c=d").header("host", "app.example").header("x-user", "admin");
        // Backends that read `_` as `-` would take these for the service's, and for ours.
        let request = request.header("x_user", "admin").header("x_forwarded_for", "admin").header("x_mine", "stays");
        let request = request.header("authorization", "Bearer x").header("x-team", "red").header("cookie", "a=b");
        let request = request.header("content-type", "text/plain").body(Full::new(Bytes::from("hello"))).unwrap();
        let answer = send(rig.address(), request).await;
        assert_eq!(answer.status, 200);
        for line in [
            "POST /shop/a%20b?c=d\n",
            "x-user: bob\nx-user: bo\n",
            "x-more: 1\n",
            "x_mine: stays\n",
            "content-type: text/plain\n",
            "\n\nhello",
        ] {
            assert!(answer.body.contains(line), "{line:?} in {}", answer.body);
        }
        assert!(!answer.body.contains("admin"), "{}", answer.body);
        let questions = std::mem::take(&mut *questions.lock().unwrap());
        let [question] = &questions[..] else { panic!("{questions:?}") };
        let target =
            if http2 { "POST http://app.example/check/me/shop/a%20b?c=d\n" } else { "POST /check/me/shop/a%20b?c=d\n" };
        assert!(question.starts_with(target) && question.ends_with("\n\n"), "{question}");
        for line in ["authorization: Bearer x\n", "x-team: red\n", "content-length: 0\n"] {
            assert!(question.contains(line), "{line:?} in {question}");
        }
        assert!(http2 || question.contains("host: app.example\n"), "{question}");
        for name in ["cookie:", "x-user:", "content-type:", "x-forwarded-for:", "expect:"] {
            assert!(!question.contains(name), "{name} in {question}");
        }
    }
}

#[tokio::test]
async fn only_listed_headers_of_the_service_pass_and_clients_cannot_make_them_up() {
    let backend = Backend::echo("one").await;
    let (auth, _) =
        service(false, || answer(200, &[("x-user", "bob"), ("x-secret", "1"), ("connection", "x-user")], "")).await;
    let filter = asks(http(&["x-seen"], Some(&["x-role", "x-secret", "x-seen", "authorization"])), 0);
    let rig = rig(&backend, &[auth.address], vec![filter]);
    let mut request = get("/");
    for (name, value) in [("x-user", "me"), ("x-role", "admin"), ("x-seen", "too"), ("authorization", "Bearer x")] {
        request.headers_mut().insert(name, value.parse().unwrap());
    }
    let answer = send(rig.address(), request).await;
    for line in ["x-user: me\n", "x-secret: 1\n", "x-seen: too\n", "authorization: Bearer x\n"] {
        assert!(answer.body.contains(line), "{line:?} in {}", answer.body);
    }
    assert!(!answer.body.contains("x-role"), "the service did not say so: {}", answer.body);
}

#[tokio::test]
async fn a_refusal_is_the_clients_answer_and_nothing_reaches_the_backend() {
    let (backend, reached) = service(false, || full("secret")).await;
    let (copies, copied) = service(false, || full("copy")).await;
    let large: &'static str = Box::leak("x".repeat(300_000).into_boxed_str());
    let refusals: [fn() -> Response<Body>; 4] = [
        || answer(401, &[("www-authenticate", "Basic"), ("set-cookie", "a=1"), ("set-cookie", "b=2")], "log in"),
        || answer(302, &[("location", "https://login.example/"), ("connection", "x-hop"), ("x-hop", "1")], ""),
        || answer(204, &[], ""),
        || frames_of_500(),
    ];
    for (refused, status, body) in
        refusals.into_iter().zip([401, 302, 204, 500]).zip(["log in", "", "", "broken"]).map(|((a, b), c)| (a, b, c))
    {
        let (auth, _) = service(false, refused).await;
        let mirror = Filter::Mirror(Mirror { cluster: "copies".into(), numerator: 1, denominator: 1 });
        let mut rig = rig(&backend, &[auth.address], vec![]);
        rig.snapshot.insert("copies", Resource::Endpoints(addresses(&[copies.address])));
        rig.snapshot.insert("copies", Resource::Cluster(cluster("copies")));
        let filters = vec![mirror, asks(http(&[], None), 0), Filter::StrictTransportSecurity("max-age=1".into())];
        rig.set("all", Resource::Route(route("web", vec![Rule { filters, ..rule("guarded", "/", "app") }])));
        let answer = fetch(rig.address(), "/").await;
        assert_eq!((refusal(&answer), &*answer.body), ((status, "auth_denied"), body));
        match status {
            401 => {
                let cookies: Vec<_> = answer.headers.get_all("set-cookie").iter().collect();
                assert_eq!(cookies, ["a=1", "b=2"]);
                assert_eq!(answer.header("www-authenticate"), "Basic");
            }
            302 => assert_eq!((answer.header("location"), answer.header("x-hop")), ("https://login.example/", "")),
            _ => {}
        }
    }
    let (auth, _) = service(false, move || answer(403, &[], large)).await;
    let answer = fetch(rig(&backend, &[auth.address], vec![asks(http(&[], None), 0)]).address(), "/").await;
    assert_eq!((answer.status.as_u16(), answer.body.len()), (403, large.len()));
    assert!(reached.lock().unwrap().is_empty() && copied.lock().unwrap().is_empty());
}

fn frames_of_500() -> Response<Body> {
    let mut response = Response::new(frames(vec![Bytes::from("bro"), Bytes::from("ken")], None));
    *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
    response
}

#[tokio::test]
async fn without_an_answer_nothing_passes() {
    let (backend, reached) = service(false, || full("secret")).await;
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let switching = || answer(101, &[("connection", "upgrade"), ("upgrade", "x")], "");
    let (switching, _) = service(false, switching).await;
    let mute = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let nonsense = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let nonsense_address = nonsense.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = nonsense.accept().await {
            let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, b"yes\r\n\r\n").await;
        }
    });
    for endpoints in [vec![], vec![gone], vec![switching.address], vec![nonsense_address]] {
        let rig = rig(&backend, &endpoints, vec![asks(http(&[], None), 0)]);
        assert_eq!(refusal(&fetch(rig.address(), "/").await), (503, "auth_unavailable"), "{endpoints:?}");
    }
    let mut rig = rig(&backend, &[mute.local_addr().unwrap()], vec![]);
    let mut hurried = Rule { filters: vec![asks(http(&[], None), 0)], ..rule("guarded", "/", "app") };
    hurried.timeouts.request = Some(Duration::from_millis(200));
    rig.set("all", Resource::Route(route("web", vec![hurried])));
    assert_eq!(refusal(&fetch(rig.address(), "/").await), (504, "request_timeout"));
    assert!(reached.lock().unwrap().is_empty());
}

#[tokio::test]
async fn another_endpoint_of_the_service_is_asked_when_one_is_gone() {
    let backend = Backend::echo("one").await;
    let (auth, questions) = service(false, || full("yes")).await;
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let rig = rig(&backend, &[gone, auth.address], vec![asks(http(&[], None), 0)]);
    for _ in 0..6 {
        assert_eq!(fetch(rig.address(), "/").await.status, 200);
    }
    assert_eq!(questions.lock().unwrap().len(), 6);
}

#[tokio::test]
async fn bodies_are_shown_up_to_the_limit_and_reach_the_backend_as_well() {
    let backend = Backend::echo("one").await;
    let (auth, questions) = service(false, || full("yes")).await;
    let rig = rig(&backend, &[auth.address], vec![asks(http(&[], None), 5), asks(http(&[], None), 5)]);
    let head = "POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n";
    for body in [
        "Content-Length: 5\r\n\r\nhello",
        "Transfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n",
        "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nx-sum: 1\r\n\r\n",
    ] {
        let answer = raw(rig.address(), format!("{head}{body}").as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("\n\nhello"), "{answer}");
        let asked = std::mem::take(&mut *questions.lock().unwrap());
        assert_eq!(asked.len(), 2, "both filters ask");
        assert!(
            asked.iter().all(|asked| asked.contains("content-length: 5\n") && asked.ends_with("\n\nhello")),
            "{asked:?}"
        );
    }
    for body in
        ["Content-Length: 6\r\n\r\nhello!", "Transfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n3\r\nlo!\r\n0\r\n\r\n"]
    {
        let answer = raw(rig.address(), format!("{head}{body}").as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 413 ") && answer.contains("x-sluice-reason: body_too_large"), "{answer}");
    }
    assert!(questions.lock().unwrap().is_empty());
    assert_eq!(fetch(rig.address(), "/").await.status, 200);
    let asked = questions.lock().unwrap().join("");
    assert!(asked.contains("content-length: 0\n"), "a request without a body: {asked}");
    questions.lock().unwrap().clear();
    let empty = raw(rig.address(), format!("{head}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n").as_bytes()).await;
    assert!(empty.starts_with("HTTP/1.1 200 "), "{empty}");
    let asked = questions.lock().unwrap().join("");
    assert!(asked.contains("content-length: 0\n") && !asked.contains("transfer-encoding"), "{asked}");
}

#[tokio::test]
async fn the_place_among_the_filters_counts() {
    let backend = Backend::echo("one").await;
    let (auth, questions) = service(false, || answer(200, &[("x-place", "service")], "")).await;
    let set = |value: &str| {
        let set = vec![("x-place".to_owned(), value.to_owned())];
        Filter::RequestHeaders(HeaderEdit { set, ..HeaderEdit::default() })
    };
    let allow = || AllowList::These(Vec::new());
    let cors = Filter::Cors(Cors {
        allow_origins: vec![OriginPattern::Any],
        allow_credentials: false,
        allow_methods: allow(),
        allow_headers: allow(),
        expose_headers: allow(),
        max_age: 5,
    });
    let filter = asks(http(&["x-place"], None), 0);
    let rig = rig(&backend, &[auth.address], vec![cors, set("before"), filter, Filter::NginxHeaders]);
    let answer = fetch(rig.address(), "/").await;
    assert!(answer.body.contains("x-place: service\n"), "{}", answer.body);
    assert!(questions.lock().unwrap()[0].contains("x-place: before\n"));
    let preflight = Request::options("/").header("host", "a").header("origin", "https://a.example");
    let preflight = preflight.header("access-control-request-method", "GET").body(Full::default()).unwrap();
    assert_eq!(send(rig.address(), preflight).await.status, 204);
    assert_eq!(questions.lock().unwrap().len(), 1, "a preflight request is answered before");
}

#[tokio::test]
async fn connections_to_the_service_are_kept_and_a_closed_one_costs_nothing() {
    let backend = Backend::echo("one").await;
    let (auth, _) = service(false, || full("yes")).await;
    let rig = rig(&backend, &[auth.address], vec![asks(http(&[], None), 0)]);
    let mut client = http1(rig.address()).await;
    for _ in 0..10 {
        client.ready().await.unwrap();
        assert_eq!(collect(client.send_request(get("/")).await.unwrap()).await.unwrap().status, 200);
    }
    assert_eq!(auth.connections.load(std::sync::atomic::Ordering::SeqCst), 1);
}

#[tokio::test]
async fn questions_are_asked_again_within_the_budget_of_retries() {
    let backend = Backend::echo("one").await;
    let gone = SocketAddr::new(crate::rig::LOOPBACK, crate::rig::free_port());
    let rig = rig(&backend, &[gone], vec![asks(http(&[], None), 0)]);
    // Each may be tried twice more, which takes the savings of 200 faster than they come.
    for _ in 0..150 {
        assert_eq!(refusal(&fetch(rig.address(), "/").await), (503, "auth_unavailable"));
    }
    let page = fetch(rig.proxy.admin_address().unwrap(), "/metrics").await.body;
    let refused = page.lines().find_map(|line| line.strip_prefix("sluice_upstream_retries_refused_total "));
    assert!(refused.unwrap().parse::<u64>().unwrap() > 0, "{page}");
}

#[tokio::test]
async fn a_service_that_accepts_connections_and_says_nothing_is_ejected() {
    let backend = Backend::echo("one").await;
    let silent = Backend::http1(|_| std::future::pending::<Response<Body>>()).await;
    let (auth, _) = service(false, || answer(200, &[], "")).await;
    let mut rig = rig(&backend, &[silent.address, auth.address], vec![asks(http(&[], None), 0)]);
    let passive_health = Some(PassiveHealth {
        consecutive_failures: 1,
        ejection_time: Duration::from_secs(300),
        max_ejected_percent: 50,
    });
    rig.set("auth", Resource::Cluster(Cluster { passive_health, ..cluster("auth") }));
    let mut refused = 0;
    for _ in 0..8 {
        refused += u32::from(fetch(rig.address(), "/").await.status != 200);
    }
    assert_eq!(refused, 1);
}
