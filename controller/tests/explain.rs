//! `sluice explain`: the way of a request, or why it has none.
#![allow(clippy::expect_used)] // helpers of tests may stop at the first surprise, too

use std::fs;
use std::path::Path;
use std::process::Command;

fn explain(dir: &Path, arguments: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_sluice"))
        .arg("explain")
        .arg(dir)
        .args(arguments)
        .output()
        .expect("sluice runs");
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&text).into_owned())
}

fn quickstart(arguments: &[&str]) -> (Option<i32>, String) {
    explain(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/quickstart"), arguments)
}

#[track_caller]
fn assert_tells(answer: &(Option<i32>, String), code: i32, words: &[&str]) {
    assert_eq!(answer.0, Some(code), "{}", answer.1);
    for word in words {
        assert!(answer.1.contains(word), "no {word:?} in\n{}", answer.1);
    }
}

#[test]
fn an_ingress_with_its_limit_and_where_the_limit_comes_from() {
    let answer = quickstart(&["http://shop.localhost/search/shoes"]);
    let words = [
        "port 8080",
        "shop.localhost",
        "Ingress demo/search",
        "path prefix /search",
        "at most 1 requests",
        "limit-rps",
        "127.0.0.1:9003",
    ];
    assert_tells(&answer, 0, &words);
}

#[test]
fn the_certificate_that_is_shown() {
    let words = [
        "port 8443",
        "certificate",
        "demo-tls",
        "for shop.localhost",
        "Ingress demo/shop",
        "cookie visitor",
        "127.0.0.1:9001",
        "127.0.0.1:9002",
    ];
    assert_tells(&quickstart(&["https://shop.localhost:8443/"]), 0, &words);
}

#[test]
fn headers_choose_the_rule_and_weights_the_backend() {
    let tester = quickstart(&["http://api.localhost:8080/orders", "-H", "X-Version: v2"]);
    assert_tells(&tester, 0, &["header x-version = v2", "100 %", "127.0.0.1:9005"]);
    assert!(!tester.1.contains("9004"), "{}", tester.1);
    assert_tells(
        &quickstart(&["http://api.localhost/orders"]),
        0,
        &["90 %", "10 %", "127.0.0.1:9004", "127.0.0.1:9005", "x-served-by"],
    );
}

#[test]
fn a_host_header_takes_the_place_of_the_urls_host() {
    let answer = quickstart(&["http://127.0.0.1:8080/search/x", "-H", "Host: shop.localhost"]);
    assert_tells(&answer, 0, &["http://shop.localhost:8080/search/x", "Ingress demo/search"]);
    assert_eq!(quickstart(&["https://127.0.0.1:8443/", "-H", "Host: shop.localhost"]).0, Some(2));
}

#[test]
fn what_acts_on_tls_only_is_told_there_only() {
    let (_, plain) = quickstart(&["http://shop.localhost/"]);
    let (_, tls) = quickstart(&["https://shop.localhost/"]);
    assert!(tls.contains("Strict-Transport-Security") && !plain.contains("Strict-Transport-Security"), "{tls}{plain}");
}

#[test]
fn programs_get_json() {
    let (code, text) = quickstart(&["-o", "json", "http://api.localhost/"]);
    let journey: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!((code, &journey["listener"]["port"]), (Some(0), &8080.into()));
    assert_eq!(journey["backends"][0]["endpoints"][0], "127.0.0.1:9004");
}

#[test]
fn why_a_request_finds_nothing() {
    assert_tells(&quickstart(&["http://shop.localhost:81/"]), 1, &["nothing listens on port 81", "8080, 8443"]);
    assert_tells(&quickstart(&["http://other.localhost/"]), 1, &["404", "shop.localhost"]);
    assert_tells(&quickstart(&["https://shop.localhost:8080/"]), 1, &["plain HTTP"]);
}

const GATEWAY: &str = "\
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: g}
spec:
  gatewayClassName: sluice
  listeners:
  - {name: http, port: 8000, protocol: HTTP}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: r}
spec:
  parentRefs: [{name: g}]
  hostnames: [a.example]
  rules:
  - matches:
    - path: {type: PathPrefix, value: /only}
      method: POST
    backendRefs: [{name: missing, port: 80}]
    retry: {attempts: 4, codes: [500, 503], backoff: 50ms}
  - matches:
    - path: {type: PathPrefix, value: /moved}
    filters:
    - type: RequestRedirect
      requestRedirect: {hostname: b.example, statusCode: 301}
";

#[test]
fn what_came_close_and_what_is_broken() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    fs::write(dir.path().join("g.yaml"), GATEWAY).expect("a file");
    let ask = |arguments: &[&str]| explain(dir.path(), arguments);
    assert_tells(&ask(&["http://a.example:8000/only/one"]), 1, &["404", "HTTPRoute default/r", "method POST"]);
    assert_tells(&ask(&["http://a.example:8000/other"]), 1, &["404", "path prefix /only", "path prefix /moved"]);
    assert_tells(&ask(&["http://b.example:8000/"]), 1, &["404", "a.example"]);
    assert_tells(&ask(&["http://a.example:8000/only", "-X", "POST"]), 1, &["500", "g.yaml:19:", "missing"]);
    let retries = "up to 4 retries after failed connections and statuses 500, 503, the first after 50ms";
    assert_tells(&ask(&["http://a.example:8000/only", "-X", "POST"]), 1, &[retries]);
    assert_tells(&ask(&["http://a.example:8000/moved/x"]), 0, &["301: redirect to http://b.example:8000/moved/x"]);
}

const FILTERS: &str = "\
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: g}
spec:
  gatewayClassName: sluice
  listeners:
  - {name: http, port: 8000, protocol: HTTP}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: r}
spec:
  parentRefs: [{name: g}]
  hostnames: [a.example]
  rules:
  - matches:
    - path: {type: PathPrefix, value: /moved}
    filters:
    - type: RequestRedirect
      requestRedirect: {hostname: b.example, port: 8443, scheme: https, path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}}
  - matches:
    - path: {type: PathPrefix, value: /old}
    filters:
    - type: URLRewrite
      urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}}
    backendRefs:
    - name: web
      port: 80
      filters:
      - type: URLRewrite
        urlRewrite: {hostname: inner.example}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {ports: [{port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{port: 9001}]
endpoints: [{addresses: [127.0.0.1]}]
";

#[test]
fn where_a_redirect_leads_and_what_a_backend_gets() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    fs::write(dir.path().join("g.yaml"), FILTERS).expect("a file");
    let redirected = explain(dir.path(), &["http://a.example:8000/moved/a%20b?c=d"]);
    assert_tells(&redirected, 0, &["302: redirect to https://b.example:8443/new/a%20b?c=d"]);
    let rewritten = explain(dir.path(), &["http://a.example:8000/old/a%20b?c=d"]);
    assert_tells(&rewritten, 0, &["/new/a%20b?c=d for the host inner.example", "127.0.0.1:9001"]);
    let (_, json) = explain(dir.path(), &["-o", "json", "http://a.example:8000/moved"]);
    let journey: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(journey["location"], "https://b.example:8443/new");
    let (_, json) = explain(dir.path(), &["-o", "json", "http://a.example:8000/old"]);
    let journey: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(journey["backends"][0]["sent"]["target"], "/new");
    assert_eq!(journey["backends"][0]["sent"]["host"], "inner.example");
}

/// Listeners that carry no HTTP, with their routes, and a route on a listener that does.
const CONNECTIONS: &str = "\
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: g}
spec:
  gatewayClassName: sluice
  listeners:
  - {name: http, port: 8000, protocol: HTTP}
  - {name: tls, port: 8001, protocol: TLS, hostname: '*.example', tls: {mode: Passthrough}}
  - {name: tcp, port: 8002, protocol: TCP}
  - {name: idle, port: 8003, protocol: TCP}
  - {name: udp, port: 8002, protocol: UDP}
---
apiVersion: gateway.networking.k8s.io/v1
kind: TLSRoute
metadata: {name: mail}
spec:
  parentRefs: [{name: g, sectionName: tls}]
  hostnames: [mail.example]
  rules: [{backendRefs: [{name: web, port: 80}]}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: TCPRoute
metadata: {name: db}
spec:
  parentRefs: [{name: g, sectionName: tcp}]
  rules: [{backendRefs: [{name: web, port: 80, weight: 3}, {name: gone, port: 80, weight: 1}]}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: UDPRoute
metadata: {name: dns}
spec:
  parentRefs: [{name: g, sectionName: udp}]
  rules: [{backendRefs: [{name: names, port: 53}]}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: TCPRoute
metadata: {name: misled}
spec:
  parentRefs: [{name: g, sectionName: http}]
  rules: [{backendRefs: [{name: web, port: 80}]}]
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: names}
spec: {ports: [{port: 53, protocol: UDP}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{port: 9001}]
endpoints: [{addresses: [127.0.0.1]}]
";

#[test]
fn which_route_takes_a_connection_or_datagrams() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    fs::write(dir.path().join("g.yaml"), CONNECTIONS).expect("a file");
    let ask = |url: &str| explain(dir.path(), &[url]);
    let mail = ["default/g/tls", "TLSRoute default/mail (server name mail.example)", "127.0.0.1:9001"];
    assert_tells(&ask("tls://mail.example:8001"), 0, &mail);
    assert_tells(&ask("https://mail.example:8001/inbox"), 0, &mail);
    let other = ask("tls://other.example:8001");
    assert_tells(&other, 1, &["the connection is closed: no route takes it", "for mail.example"]);
    assert_tells(&ask("tls://mail.test:8001"), 1, &["closed before the handshake", "for *.example"]);
    assert_tells(&ask("tls://127.0.0.1:8001"), 1, &["closed before the handshake"]);
    let db = ["TCPRoute default/db (every connection)", "75 % of the connections", "25 %", "Service default/gone"];
    assert_tells(&ask("tcp://x:8002"), 0, &db);
    assert_tells(&ask("http://x:8002/"), 0, &db);
    assert_tells(&ask("tcp://x:8003"), 1, &["no route is attached to this listener"]);
    let dns = ["UDPRoute default/dns (all datagrams)", "refused: the Service has no ready endpoint"];
    assert_tells(&ask("udp://x:8002"), 1, &dns);
    assert_tells(&ask("udp://x:8003"), 1, &["nothing listens for datagrams", "tcp://x:8003"]);
    assert_tells(&ask("tcp://x:9000"), 1, &["connection refused", "8002, 8002/udp"]);
    let misled = ["plain HTTP", "TCPRoute default/misled would be for this", "name a listener of protocol TCP"];
    assert_tells(&ask("tcp://x:8000"), 1, &misled);
    assert_tells(&ask("tcp://x"), 2, &["write a port"]);
    let (_, json) = explain(dir.path(), &["-o", "json", "tcp://x:8002"]);
    let journey: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!((&journey["traffic"], &journey["rule"]["name"]), (&"connections".into(), &"TCPRoute default/db".into()));
}

/// A Gateway whose class serves nothing for `b.example`, but would with what is refused.
const REFUSED: &str = "\
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: g}
spec:
  gatewayClassName: sluice
  listeners:
  - {name: http, port: 8000, protocol: HTTP}
  - {name: bare, port: 8001, protocol: HTTPS, tls: {certificateRefs: [{name: none}]}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: misnamed}
spec:
  parentRefs: [{name: g, sectionName: nope}]
  hostnames: [b.example]
  rules: [{matches: [{path: {value: /here}}]}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: astray}
spec:
  parentRefs: [{name: elsewhere}]
  hostnames: ['*.example']
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: other}
spec:
  parentRefs: [{name: g, sectionName: nope}]
  hostnames: [c.test]
";

#[test]
fn what_is_refused_and_would_have_matched() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    fs::write(dir.path().join("g.yaml"), REFUSED).expect("a file");
    let ask = |url: &str| explain(dir.path(), &[url]);
    let here = ask("http://b.example:8000/here/1");
    let astray = "HTTPRoute default/astray would be for this, but: none of its parentRefs";
    assert_tells(&here, 1, &["HTTPRoute default/misnamed would be for this", "NoMatchingParent", astray]);
    assert!(!here.1.contains("default/other"), "{}", here.1);
    let elsewhere = ask("http://b.example:8000/elsewhere");
    assert_tells(&elsewhere, 1, &[astray]);
    assert!(!elsewhere.1.contains("default/misnamed"), "{}", elsewhere.1);
    let bare =
        ["nothing listens on port 8001", "Gateway default/g has listener bare for this", "InvalidCertificateRef"];
    assert_tells(&ask("https://b.example:8001/"), 1, &bare);
}

#[test]
fn a_certificate_that_clients_need() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/examples");
    for name in ["gateway-client-certificates.yaml", "backends.yaml", "certificate.yaml"] {
        fs::copy(examples.join(name), dir.path().join(name)).expect("a copy");
    }
    let url = "https://gateway-client-certificates.localhost/";
    assert_tells(&explain(dir.path(), &[url]), 1, &["certificate required, of 1 authority"]);
    // No Ingress is in this folder: who asks for another name finds nobody.
    let other = explain(dir.path(), &["https://other.localhost/"]);
    assert_tells(&other, 1, &["closed before the handshake", "for gateway-client-certificates.localhost"]);
}

#[test]
fn a_preflight_request_is_answered_well() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let cors =
        "filters: [{type: CORS, cors: {allowOrigins: ['https://b.example'], allowMethods: [PUT]}}]\n    backendRefs:";
    fs::write(dir.path().join("g.yaml"), GATEWAY.replacen("backendRefs:", cors, 1).replace("method: POST", ""))
        .expect("a file");
    let ask = |origin: &str| {
        let origin = format!("Origin: https://{origin}");
        let method = "Access-Control-Request-Method: PUT";
        explain(dir.path(), &["http://a.example:8000/only", "-X", "OPTIONS", "-H", &origin, "-H", method])
    };
    assert_tells(&ask("b.example"), 0, &["204: the preflight request is allowed"]);
    assert_tells(&ask("c.example"), 1, &["403: origin refused"]);
}

#[test]
fn data_planes_that_share_a_port_here() {
    let note = "the Ingresses and Gateway demo/api share ports here as one";
    assert_tells(&quickstart(&["http://api.localhost/"]), 0, &[note]);
    let dir = tempfile::tempdir().expect("a temporary folder");
    fs::write(dir.path().join("g.yaml"), GATEWAY).expect("a file");
    let (_, alone) = explain(dir.path(), &["http://a.example:8000/moved"]);
    assert!(!alone.contains("share ports"), "{alone}");
}

#[test]
fn a_wrong_argument_is_told_apart_from_an_answer() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    for arguments in [
        &["not a url"][..],
        &["/path"],
        &["http://a/", "-H", "no colon"],
        &["http://a:99999/"],
        &["http://a:0/"],
        &["http://u:p@a/"],
        &[],
    ] {
        assert_eq!(explain(dir.path(), arguments).0, Some(2), "{arguments:?}");
    }
    assert_eq!(explain(Path::new("/no/such/folder"), &["http://a/"]).0, Some(2));
}
