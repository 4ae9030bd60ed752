//! Questions in Envoy's protocol, `envoy.service.auth.v3.Authorization/Check`.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use prost::Message;
use snapshot::*;

use crate::backend::{Backend, Body, frames, full};
use crate::client::{fetch, get, send};
use crate::rig::{Rig, addresses, cluster, options, route, rule};

// Written from Envoy's own definitions, apart from those of the data plane.

#[derive(Clone, PartialEq, Message)]
struct CheckRequest {
    #[prost(message, optional, tag = "1")]
    attributes: Option<Attributes>,
}

#[derive(Clone, PartialEq, Message)]
struct Attributes {
    #[prost(message, optional, tag = "1")]
    source: Option<Peer>,
    #[prost(message, optional, tag = "4")]
    request: Option<AttributeRequest>,
}

#[derive(Clone, PartialEq, Message)]
struct Peer {
    #[prost(message, optional, tag = "1")]
    address: Option<Address>,
}

#[derive(Clone, PartialEq, Message)]
struct Address {
    #[prost(message, optional, tag = "1")]
    socket_address: Option<SocketAddress>,
}

#[derive(Clone, PartialEq, Message)]
struct SocketAddress {
    #[prost(string, tag = "2")]
    address: String,
}

#[derive(Clone, PartialEq, Message)]
struct AttributeRequest {
    #[prost(message, optional, tag = "2")]
    http: Option<HttpRequest>,
}

#[derive(Clone, PartialEq, Message)]
struct HttpRequest {
    #[prost(string, tag = "2")]
    method: String,
    #[prost(map = "string, string", tag = "3")]
    headers: HashMap<String, String>,
    #[prost(string, tag = "4")]
    path: String,
    #[prost(string, tag = "5")]
    host: String,
    #[prost(string, tag = "6")]
    scheme: String,
    #[prost(int64, tag = "9")]
    size: i64,
    #[prost(string, tag = "10")]
    protocol: String,
    #[prost(string, tag = "11")]
    body: String,
    #[prost(bytes, tag = "12")]
    raw_body: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct CheckResponse {
    #[prost(message, optional, tag = "1")]
    status: Option<Code>,
    #[prost(message, optional, tag = "2")]
    denied: Option<Denied>,
    #[prost(message, optional, tag = "3")]
    ok: Option<Granted>,
}

/// Both `google.rpc.Status` and `envoy.type.v3.HttpStatus`.
#[derive(Clone, PartialEq, Message)]
struct Code {
    #[prost(int32, tag = "1")]
    code: i32,
}

#[derive(Clone, PartialEq, Message)]
struct Denied {
    #[prost(message, optional, tag = "1")]
    status: Option<Code>,
    #[prost(message, repeated, tag = "2")]
    headers: Vec<HeaderOption>,
    #[prost(string, tag = "3")]
    body: String,
}

#[derive(Clone, PartialEq, Message)]
struct Granted {
    #[prost(message, repeated, tag = "2")]
    headers: Vec<HeaderOption>,
    #[prost(string, repeated, tag = "5")]
    headers_to_remove: Vec<String>,
    #[prost(message, repeated, tag = "6")]
    response_headers_to_add: Vec<HeaderOption>,
    #[prost(string, repeated, tag = "8")]
    query_parameters_to_remove: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
struct HeaderOption {
    #[prost(message, optional, tag = "1")]
    header: Option<Pair>,
    #[prost(message, optional, tag = "2")]
    append: Option<Flag>,
    #[prost(int32, tag = "3")]
    action: i32,
}

#[derive(Clone, PartialEq, Message)]
struct Pair {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(string, tag = "2")]
    value: String,
}

#[derive(Clone, PartialEq, Message)]
struct Flag {
    #[prost(bool, tag = "1")]
    value: bool,
}

fn set(key: &str, value: &str) -> HeaderOption {
    HeaderOption { header: Some(Pair { key: key.into(), value: value.into() }), append: None, action: 0 }
}

/// The answer of a server of gRPC.
fn call(message: &CheckResponse, status: &str) -> Response<Body> {
    let mut bytes = BytesMut::new();
    bytes.put_u8(0);
    bytes.put_u32(message.encoded_len() as u32);
    bytes.put_slice(&message.encode_to_vec());
    let trailers: HeaderMap = [("grpc-status".parse().unwrap(), status.parse().unwrap())].into_iter().collect();
    // In two pieces, as the network may cut it.
    let rest = bytes.split_off(3);
    let mut response = Response::new(frames(vec![bytes.freeze(), rest.freeze()], Some(trailers)));
    response.headers_mut().insert("content-type", "application/grpc".parse().unwrap());
    response
}

/// A service that notes what it is asked, and answers like this.
async fn service(
    answer: impl Fn() -> Response<Body> + Clone + Send + Sync + 'static,
) -> (Backend, Arc<Mutex<Vec<HttpRequest>>>) {
    let questions = Arc::<Mutex<Vec<HttpRequest>>>::default();
    let noted = questions.clone();
    let backend = Backend::http2(move |request: Request<Incoming>| {
        let (noted, answer) = (noted.clone(), answer.clone());
        async move {
            assert_eq!(request.uri().path(), "/envoy.service.auth.v3.Authorization/Check");
            assert_eq!(
                (&request.headers()["content-type"], &request.headers()["te"]),
                (&"application/grpc".parse().unwrap(), &"trailers".parse().unwrap())
            );
            let body = request.into_body().collect().await.unwrap().to_bytes();
            let (prefix, message) = body.split_at(5);
            assert_eq!(prefix, [&[0][..], &(message.len() as u32).to_be_bytes()].concat());
            let attributes = CheckRequest::decode(message).unwrap().attributes.unwrap();
            let address = attributes.source.unwrap().address.unwrap().socket_address.unwrap().address;
            assert_eq!(address, "127.0.0.1");
            noted.lock().unwrap().push(attributes.request.unwrap().http.unwrap());
            answer()
        }
    })
    .await;
    (backend, questions)
}

fn rig(backend: &Backend, auth: &Backend, request_headers: AllowList, max_body: u16) -> Rig {
    let protocol = AuthProtocol::Grpc(GrpcAuth { request_headers });
    let filters = vec![Filter::ExternalAuth(ExternalAuth { cluster: "auth".into(), protocol, max_body })];
    Rig::with(options(), &[backend.address], |snapshot| {
        snapshot.insert("auth", Resource::Endpoints(addresses(&[auth.address])));
        let http2 = Cluster { protocol: BackendProtocol::Http2, ..cluster("auth") };
        snapshot.insert("auth", Resource::Cluster(http2));
        snapshot.insert("all", Resource::Route(route("web", vec![Rule { filters, ..rule("guarded", "/", "app") }])));
    })
}

fn passes(ok: Granted) -> CheckResponse {
    CheckResponse { status: Some(Code { code: 0 }), denied: None, ok: Some(ok) }
}

#[tokio::test]
async fn the_service_sees_the_request_and_changes_it_and_its_answer() {
    let backend = Backend::echo("one").await;
    let ok = || Granted {
        headers: vec![
            set("x-user", "bob"),
            HeaderOption { append: Some(Flag { value: true }), ..set("x-role", "reader") },
            HeaderOption { action: 1, ..set("x-kept", "changed") },
            HeaderOption { action: 3, ..set("x-absent", "1") },
            set("content-length", "1"),
        ],
        headers_to_remove: vec!["authorization".into(), ":path".into(), "host".into()],
        response_headers_to_add: vec![set("x-checked", "yes"), set("x-backend", "hidden")],
        query_parameters_to_remove: vec![],
    };
    let (auth, questions) = service(move || call(&passes(ok()), "0")).await;
    let rig = rig(&backend, &auth, AllowList::Any, 0);
    let request = Request::post("/shop/a%20b?c=d").header("host", "app.example").header("x-user", "admin");
    let request = request.header("authorization", "Bearer x").header("x-role", "one").header("x-role", "two");
    let request = request.header("x-kept", "kept").body(Full::new(Bytes::from("hello"))).unwrap();
    let answer = send(rig.address(), request).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!((answer.header("x-checked"), answer.header("x-backend")), ("yes", "hidden"));
    for line in [
        "POST /shop/a%20b?c=d\n",
        "host: app.example\n",
        "x-user: bob\n",
        "x-role: one\nx-role: two\nx-role: reader\n",
        "x-kept: kept\n",
        "\n\nhello",
    ] {
        assert!(answer.body.contains(line), "{line:?} in {}", answer.body);
    }
    for name in ["authorization", "x-absent", "admin"] {
        assert!(!answer.body.contains(name), "{name} in {}", answer.body);
    }
    let question = questions.lock().unwrap()[0].clone();
    let HttpRequest { method, path, host, scheme, size, protocol, .. } = &question;
    assert_eq!((&**method, &**path, &**host), ("POST", "/shop/a%20b?c=d", "app.example"));
    assert_eq!((&**scheme, *size, &**protocol), ("http", 5, "HTTP/1.1"));
    assert_eq!((&*question.headers["x-role"], &*question.headers["x-forwarded-for"]), ("one,two", "127.0.0.1"));
    assert_eq!((&*question.body, &question.raw_body[..]), ("", &b""[..]));
}

#[tokio::test]
async fn it_sees_listed_headers_and_bodies_up_to_the_limit() {
    let backend = Backend::echo("one").await;
    let (auth, questions) = service(|| call(&CheckResponse::default(), "0")).await;
    let rig = rig(&backend, &auth, AllowList::These(vec!["x-team".into()]), 5);
    let post = async |body: &'static [u8]| {
        let request = Request::post("/").header("host", "a").header("x-team", "red").header("cookie", "a=b");
        send(rig.address(), request.body(Full::new(Bytes::from_static(body))).unwrap()).await
    };
    assert!(post(b"hello").await.body.ends_with("\n\nhello"));
    assert_eq!(post(b"\xff\xfe").await.status, 200);
    assert_eq!(post(b"hello!").await.status, 413);
    let questions = questions.lock().unwrap();
    let [text, bytes] = &questions[..] else { panic!("{questions:?}") };
    assert_eq!(text.headers, HashMap::from([("x-team".to_owned(), "red".to_owned())]));
    assert_eq!((&*text.body, &text.raw_body[..]), ("hello", &b""[..]));
    assert_eq!((&*bytes.body, &bytes.raw_body[..]), ("", &b"\xff\xfe"[..]));
}

#[tokio::test]
async fn a_refusal_is_answered_as_the_service_says() {
    let backend = Backend::echo("one").await;
    let denied = |status: Option<i32>| CheckResponse {
        status: Some(Code { code: 16 }),
        denied: Some(Denied {
            status: status.map(|code| Code { code }),
            headers: vec![
                set("www-authenticate", "Bearer"),
                HeaderOption { append: Some(Flag { value: true }), ..set("set-cookie", "a=1") },
            ],
            body: "log in".into(),
        }),
        ok: None,
    };
    let bare = CheckResponse { status: Some(Code { code: 7 }), denied: None, ok: None };
    let cases = [
        (denied(Some(401)), 401, "log in"),
        (denied(None), 403, "log in"),
        (denied(Some(101)), 403, "log in"),
        (bare, 403, ""),
    ];
    for (answer, status, body) in cases {
        let (auth, _) = service(move || call(&answer, "0")).await;
        let rig = rig(&backend, &auth, AllowList::Any, 0);
        let answer = fetch(rig.address(), "/").await;
        assert_eq!(
            (answer.status.as_u16(), &*answer.body, answer.header("x-sluice-reason")),
            (status, body, "auth_denied")
        );
        if !body.is_empty() {
            assert_eq!((answer.header("www-authenticate"), answer.header("set-cookie")), ("Bearer", "a=1"));
        }
        let mut head = get("/");
        *head.method_mut() = http::Method::HEAD;
        assert_eq!(send(rig.address(), head).await.status, status);
    }
}

#[tokio::test]
async fn what_is_no_answer_lets_nothing_pass() {
    let backend = Backend::echo("one").await;
    let yes = || passes(Granted::default());
    let unsupported = passes(Granted { query_parameters_to_remove: vec!["token".into()], ..Granted::default() });
    let nameless = passes(Granted { headers: vec![set(":path", "/")], ..Granted::default() });
    let no_answers: [Arc<dyn Fn() -> Response<Body> + Send + Sync>; 7] = [
        Arc::new(move || call(&yes(), "14")),
        Arc::new(move || call(&unsupported, "0")),
        Arc::new(move || call(&nameless, "0")),
        Arc::new(|| full("yes")),
        Arc::new(|| Response::new(frames(vec![Bytes::from_static(&[0, 0, 0, 0, 0])], None))),
        Arc::new(|| Response::new(frames(vec![Bytes::from(vec![0; 300_000])], Some(HeaderMap::new())))),
        Arc::new(|| {
            let mut response = Response::new(frames(Vec::new(), None));
            response.headers_mut().insert("grpc-status", "12".parse().unwrap());
            response
        }),
    ];
    for (case, answer) in no_answers.into_iter().enumerate() {
        let (auth, questions) = service(move || answer()).await;
        let answer = fetch(rig(&backend, &auth, AllowList::Any, 0).address(), "/").await;
        assert_eq!(
            (answer.status.as_u16(), answer.header("x-sluice-reason")),
            (503, "auth_unavailable"),
            "case {case}"
        );
        assert_eq!(questions.lock().unwrap().len(), 1, "case {case}");
    }
}
