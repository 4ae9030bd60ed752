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
    for arguments in [&["check", "/no/such/folder"][..], &["check"], &["check", ".", "--nonsense"]] {
        let output = sluice(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(!output.stderr.is_empty());
    }
}
