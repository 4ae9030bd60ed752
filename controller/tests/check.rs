//! `sluice check`: what it finds, and how it exits.
#![allow(clippy::expect_used)] // helpers of tests may stop at the first surprise, too

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn sluice(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_sluice")).args(arguments).output().expect("sluice runs")
}

fn deploy(folder: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(folder)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn the_quickstart_and_all_examples_together_have_no_problem() {
    for folder in ["quickstart", "examples"] {
        let output = sluice(&["check", &deploy(folder).display().to_string()]);
        assert_eq!(output.status.code(), Some(0), "{folder}: {}{}", text(&output.stdout), text(&output.stderr));
        assert!(text(&output.stdout).contains("no problem found"), "{}", text(&output.stdout));
    }
}

#[test]
fn each_example_stands_for_itself() {
    let shared = ["backends.yaml", "certificate.yaml"];
    let examples = fs::read_dir(deploy("examples")).expect("the examples").map(|entry| entry.expect("an entry").path());
    let mut seen = 0;
    for example in examples.filter(|path| !shared.iter().any(|name| path.ends_with(name))) {
        let dir = tempfile::tempdir().expect("a temporary folder");
        for path in shared.iter().map(|name| deploy("examples").join(name)).chain([example.clone()]) {
            fs::copy(&path, dir.path().join(path.file_name().expect("a name"))).expect("a copy");
        }
        let output = sluice(&["check", &dir.path().display().to_string()]);
        assert_eq!(output.status.code(), Some(0), "{}: {}", example.display(), text(&output.stdout));
        seen += 1;
    }
    assert!(seen >= 12, "only {seen} examples");
}

#[test]
fn ports_are_judged_as_written() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let gateway = "
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge}
spec:
  gatewayClassName: sluice
  listeners:
  - {name: http, port: 80, protocol: HTTP}
  - {name: other, port: 8080, protocol: HTTP}
";
    fs::write(dir.path().join("gateway.yaml"), gateway).expect("a file");
    let output = sluice(&["check", &dir.path().display().to_string()]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stdout));
}

/// Defects of every kind: in the text, in the types, and those that only translation sees.
const DEFECTS: &str = "\
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata:
  name: web
  annotations:
    nginx.ingress.kubernetes.io/limit-rps: \"1\"
    nginx.ingress.kubernetes.io/no-such-thing: \"1\"
spec:
  ingressClassName: sluice
  rules:
  - host: a.example
    http:
      paths:
      - path: /
        pathType: Prefix
        backend: {service: {name: missing, port: {number: 80}}}
---
apiVersion: v1
kind: Service
metadata: {name: typo}
spec:
  ports:
  - port: eighty
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: lost}
spec:
  parentRefs: [{name: nobody}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: fine}
---
kind: [
";

#[test]
fn every_problem_is_told_with_file_and_line() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    fs::write(dir.path().join("all.yaml"), DEFECTS).expect("a file");
    let output = sluice(&["check", &dir.path().display().to_string()]);
    let found = text(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{found}");
    let has = |line: &str, words: &[&str]| {
        let place = format!("all.yaml:{line}:");
        assert!(
            found.lines().any(|told| told.contains(&place) && words.iter().all(|word| told.contains(word))),
            "no line with {place} and {words:?} in\n{found}"
        );
    };
    has("7", &["Ingress default/web", "no-such-thing"]);
    has("16", &["Ingress default/web", "missing"]);
    has("23", &["Service default/typo", "spec.ports[0].port", "InvalidField"]);
    has("29", &["HTTPRoute default/lost"]);
    has("31", &["notice: ", "Deployment", "NotRead"]);
    assert!(found.contains("(InvalidYaml)"), "{found}");
}

fn found(manifests: &str, arguments: &[&str]) -> (Option<i32>, String) {
    let dir = tempfile::tempdir().expect("a temporary folder");
    if !manifests.is_empty() {
        fs::write(dir.path().join("all.yaml"), manifests).expect("a file");
    }
    let output = sluice(&[&["check", &dir.path().display().to_string()], arguments].concat());
    (output.status.code(), text(&output.stdout) + &text(&output.stderr))
}

/// An Ingress and its Service, in a class that another controller serves in the cluster that they come from.
const OTHER_CLASS: &str = "\
apiVersion: networking.k8s.io/v1
kind: IngressClass
metadata: {name: nginx}
spec: {controller: k8s.io/ingress-nginx}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: web}
spec:
  ingressClassName: nginx
  defaultBackend: {service: {name: web, port: {number: 80}}}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {ports: [{port: 80}]}
";

#[test]
fn ingresses_of_another_class_are_told_and_nothing_served_is_a_problem() {
    let (code, told) = found(OTHER_CLASS, &[]);
    assert_eq!(code, Some(1), "{told}");
    assert!(told.contains("1 Ingress of class nginx is not served here; --class nginx"), "{told}");
    assert!(told.contains("(NothingServed)"), "{told}");
    let (code, told) = found(OTHER_CLASS, &["--class", "nginx"]);
    assert_eq!(code, Some(0), "{told}");
    // Next to one that is served, it is a notice.
    let ours =
        OTHER_CLASS.replace("name: web}\nspec:\n  ingressClassName: nginx", "name: b}\nspec:\n  ingressClassName: our");
    let ours = ours.split("---\n").nth(1).expect("the Ingress");
    let (code, told) = found(&format!("{OTHER_CLASS}---\n{ours}"), &["--class", "our"]);
    assert_eq!(code, Some(0), "{told}");
    assert!(told.contains("notice: ") && told.contains("1 Ingress of class nginx is not"), "{told}");
    let (code, told) = found("", &[]);
    assert_eq!(code, Some(1), "{told}");
    assert!(told.contains("no manifest"), "{told}");
}

/// What an API server refuses, one object for each reason, with the place and a word of what is told of it.
const REFUSED: [(&str, &str, &str); 16] = [
    ("networking.k8s.io/v1 Ingress a", "spec: {}", "spec: an Ingress without `rules`"),
    (
        "networking.k8s.io/v1 Ingress a",
        "spec: {rules: [{http: {paths: [{path: /, pathType: Prefx, backend: \
      {service: {name: w, port: {number: 80}}}}]}}]}",
        "paths[0].pathType: there is no path type Prefx",
    ),
    (
        "networking.k8s.io/v1 Ingress a",
        "spec: {rules: [{http: {paths: [{path: /, pathType: Prefix, bakend: \
      {service: {name: w, port: {number: 80}}}}]}}]}",
        "paths[0].backend: the backend is missing",
    ),
    (
        "networking.k8s.io/v1 Ingress a",
        "spec: {defaultBackend: {service: {name: w, port: {number: 80000}}}}",
        "80000 is not a port",
    ),
    ("v1 Service Not_A_Name", "spec: {ports: [{port: 80}]}", "metadata.name: names are"),
    ("v1 Service a", "spec: {ports: [{port: 0}]}", "spec.ports[0].port: 0 is not a port"),
    (
        "discovery.k8s.io/v1 EndpointSlice a",
        "addressType: IPv4\nendpoints: [{addresses: [localhost]}]",
        "endpoints[0].addresses[0]: `localhost`",
    ),
    (
        "discovery.k8s.io/v1 EndpointSlice a",
        "addressType: IPv4\nendpoints: []\nports: [{port: 70000}]",
        "ports[0].port: 70000",
    ),
    (
        "gateway.networking.k8s.io/v1 Gateway a",
        "spec: {gatewayClassName: sluice, listeners: [{name: a, port: 65536, protocol: HTTP}]}",
        "spec.listeners[0].port: 65536",
    ),
    (
        "gateway.networking.k8s.io/v1 Gateway a",
        "spec: {gatewayClassName: sluice, listeners: [{name: a, port: 80, protocol: HTTP}, {name: a, port: 81, protocol: HTTP}]}",
        "spec.listeners[1].name: a second listener is named a",
    ),
    (
        "gateway.networking.k8s.io/v1 ListenerSet a",
        "spec: {parentRef: {name: a}, listeners: [{name: a, port: 80, protocol: HTTP}, {name: a, port: 81, protocol: HTTP}]}",
        "spec.listeners[1].name: a second listener is named a",
    ),
    ("sluice.dev/v1alpha1 GatewayConfig a", "spec: {replicas: 0}", "spec.replicas: 0 is not possible"),
    ("sluice.dev/v1alpha1 GatewayConfig a", "spec: {dataPlanes: PerNode}", "spec.dataPlanes: there is no PerNode"),
    (
        "sluice.dev/v1alpha1 GatewayConfig a",
        "spec: {service: {type: External}}",
        "spec.service.type: there is no External",
    ),
    (
        "sluice.dev/v1alpha1 GatewayConfig a",
        "spec: {resources: {requests: {cpu: '1e3', memory: 0.5Gi}, limits: {cpu: 2, memory: 64MB}}}",
        "spec.resources.limits.memory: `64MB` is not a quantity",
    ),
    (
        "gateway.networking.k8s.io/v1 HTTPRoute a",
        "spec: {rules: [{filters: [{type: URLRewrite}, {type: URLRewrite}]}]}",
        "spec.rules[0].filters[1]: a second URLRewrite",
    ),
];

#[test]
fn what_an_api_server_would_refuse_is_told() {
    for (object, rest, expected) in REFUSED {
        let [version, kind, name] = object.split(' ').collect::<Vec<_>>()[..] else { continue };
        let manifest = format!("apiVersion: {version}\nkind: {kind}\nmetadata: {{name: {name}}}\n{rest}\n");
        let (code, told) = found(&manifest, &[]);
        assert_eq!(code, Some(1), "{told}");
        assert!(told.contains(expected) && told.contains("(InvalidField)"), "no {expected:?} in\n{told}");
    }
}

/// A Gateway of TLS for `host`, with a certificate for `a.example` that is valid between these years.
fn with_certificate(host: &str, years: (i32, i32)) -> String {
    let mut params = rcgen::CertificateParams::new(vec!["a.example".to_owned()]).expect("names");
    params.not_before = rcgen::date_time_ymd(years.0, 1, 1);
    params.not_after = rcgen::date_time_ymd(years.1, 1, 1);
    let key = rcgen::KeyPair::generate().expect("a key");
    let certificate = params.self_signed(&key).expect("a certificate");
    let indented = |text: String| text.trim_end().replace('\n', "\n    ");
    format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: a}}\nstringData:\n  tls.crt: |\n    {}\n  tls.key: |\n    {}\n---\n\
         apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: g}}\nspec:\n  gatewayClassName: sluice\n  \
         listeners:\n  - {{name: one, port: 443, protocol: HTTPS, hostname: '{host}', tls: {{certificateRefs: [{{name: a}}]}}}}\n",
        indented(certificate.pem()),
        indented(key.serialize_pem())
    )
}

#[test]
fn certificates_that_clients_refuse() {
    for host in ["a.example", "*.example"] {
        let (code, told) = found(&with_certificate(host, (2020, 4000)), &[]);
        assert_eq!(code, Some(0), "{told}");
    }
    let (code, told) = found(&with_certificate("a.example", (2020, 2021)), &[]);
    let expired = "all.yaml:5:3: Secret default/a: stringData[tls.crt]: the certificate was valid until 2021-01-01";
    assert!(code == Some(1) && told.contains(expired) && told.contains("(CertificateExpired)"), "{told}");
    let (code, told) = found(&with_certificate("a.example", (3999, 4000)), &[]);
    assert!(code == Some(1) && told.contains("valid from 3999-01-01 on"), "{told}");
    let (code, told) = found(&with_certificate("b.example", (2020, 4000)), &[]);
    let strange = "spec.listeners[0].tls.certificateRefs[0]: the certificate in Secret default/a (a.example until 4000-01-01) is for no";
    assert!(code == Some(1) && told.contains(strange) && told.contains("(CertificateNotCovering)"), "{told}");
}

#[test]
fn listeners_of_tls_that_overlap_are_a_notice() {
    let one = with_certificate("a.example", (2020, 4000));
    let wider =
        one.lines().last().expect("a listener").replace("name: one", "name: two").replace("'a.example'", "'*.example'");
    let (code, told) = found(&format!("{one}{wider}\n"), &[]);
    assert_eq!(code, Some(0), "{told}");
    assert!(told.contains("notice: ") && told.contains("OverlappingTLSConfig: listener two"), "{told}");
}

#[test]
fn fields_that_nobody_knows_are_told_beside_what_is_known() {
    let route = |kind: &str, backend: &str| {
        format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: {kind}\nmetadata: {{name: a}}\n\
             spec: {{rules: [{{backendRefs: [{{name: w, port: 80, {backend}}}]}}]}}\n"
        )
    };
    for kind in ["HTTPRoute", "GRPCRoute", "TLSRoute", "TCPRoute", "UDPRoute"] {
        let (_, told) = found(&route(kind, "weigth: 5"), &[]);
        let expected = format!("{kind} default/a: spec.rules[0].backendRefs[0].weigth: Sluice knows no such field");
        assert!(told.contains(&expected), "no {expected:?} in\n{told}");
    }
    let filter = "weight: 5, filters: [{type: RequestHeaderModifier, requestHeaderModifer: {}}]";
    let (_, told) = found(&route("HTTPRoute", filter), &[]);
    let expected = "backendRefs[0].filters[0].requestHeaderModifer: Sluice knows no such field";
    assert!(told.contains(expected) && !told.contains("weight"), "no {expected:?} in\n{told}");
}

#[test]
fn programs_get_json() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    fs::write(dir.path().join("a.yaml"), "just text\n").expect("a file");
    let output = sluice(&["check", "-o", "json", &dir.path().display().to_string()]);
    assert_eq!(output.status.code(), Some(1));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(report["findings"][0]["reason"], "NotAnObject");
    assert_eq!(report["findings"][0]["line"], 1);
}

#[test]
fn a_wrong_argument_is_told_apart_from_a_problem() {
    for arguments in [
        &["check", "/no/such/folder"][..],
        &["check"],
        &["check", ".", "--nonsense"],
        &["check", ".", "--http-port", "0"],
        &["check", ".", "--http-port", "8443"],
    ] {
        let output = sluice(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(!output.stderr.is_empty());
    }
}
