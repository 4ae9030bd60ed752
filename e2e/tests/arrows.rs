//! The arrows between the crates, as ARCHITECTURE.md draws them, and no others.
#![allow(clippy::unwrap_used)] // the helpers of a test, too, may stop at the first surprise

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

/// Each crate of the workspace with those that it may use.
const ARROWS: &[(&str, &[&str])] = &[
    ("sluice-crds", &[]),
    ("sluice-snapshot", &[]),
    ("sluice-translate", &["sluice-crds", "sluice-snapshot"]),
    ("sluice-dataplane", &["sluice-snapshot"]),
    ("sluice-controller", &["sluice-crds", "sluice-dataplane", "sluice-snapshot", "sluice-translate"]),
    ("sluice-e2e", &[]),
];

#[test]
fn the_crates_use_each_other_as_drawn() {
    let metadata = metadata();
    let packages = metadata["packages"].as_array().unwrap();
    let members: BTreeSet<&str> = metadata["workspace_members"].as_array().unwrap().iter().map(text).collect();
    let drawn: BTreeMap<_, _> = ARROWS.iter().copied().collect();
    let mut found = BTreeSet::new();
    for package in packages.iter().filter(|package| members.contains(text(&package["id"]))) {
        let name = text(&package["name"]);
        let allowed = drawn.get(name).unwrap_or_else(|| panic!("{name} is not drawn"));
        for dependency in package["dependencies"].as_array().unwrap() {
            let used = text(&dependency["name"]);
            let ours = drawn.contains_key(used) && !dependency["path"].is_null();
            // A crate may stand in its own tests.
            assert!(!ours || allowed.contains(&used) || used == name, "{name} must not use {used}");
        }
        found.insert(name);
    }
    assert_eq!(found, drawn.into_keys().collect(), "what is drawn is there");
}

#[test]
fn translation_is_pure() {
    let metadata = metadata();
    let nodes: BTreeMap<&str, &Value> =
        metadata["resolve"]["nodes"].as_array().unwrap().iter().map(|node| (text(&node["id"]), node)).collect();
    let names: BTreeMap<&str, &str> = metadata["packages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|package| (text(&package["id"]), text(&package["name"])))
        .collect();
    let start = names.iter().find(|(_, name)| **name == "sluice-translate").unwrap().0;
    let mut closure = BTreeSet::new();
    let mut open = vec![*start];
    while let Some(id) = open.pop() {
        if !closure.insert(id) {
            continue;
        }
        for dependency in nodes[id]["deps"].as_array().unwrap() {
            let linked = dependency["dep_kinds"].as_array().unwrap().iter().any(|kind| kind["kind"].is_null());
            if linked {
                open.push(text(&dependency["pkg"]));
            }
        }
    }
    let linked: BTreeSet<&str> = closure.iter().map(|id| names[id]).collect();
    assert!(linked.contains("sluice-snapshot"), "the closure is that of translate: {linked:?}");
    for forbidden in ["tokio", "hyper", "kube", "kube-client", "kube-runtime"] {
        assert!(!linked.contains(forbidden), "translate is linked to {forbidden}");
    }
}

fn metadata() -> Value {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--locked", "--filter-platform=x86_64-unknown-linux-gnu"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}
