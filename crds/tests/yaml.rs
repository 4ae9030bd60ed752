//! `crds/yaml` holds the custom resource definitions as manifests. They are generated from the types; this test says when
//! they are stale. `CRDS_REWRITE=1 cargo test -p sluice-crds --test yaml` (or `make crds`) writes them anew.

#![allow(clippy::unwrap_used)] // a helper of tests, which clippy does not recognise as one

use std::path::PathBuf;

use crds::policy::{BackendPolicy, GatewayConfig, TrafficPolicy};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube_core::CustomResourceExt;
use serde_json::Value;

#[test]
fn traffic_policy_is_up_to_date() {
    compare("sluice.dev_trafficpolicies.yaml", &TrafficPolicy::crd());
}

#[test]
fn backend_policy_is_up_to_date() {
    compare("sluice.dev_backendpolicies.yaml", &BackendPolicy::crd());
}

#[test]
fn gateway_config_is_up_to_date() {
    compare("sluice.dev_gatewayconfigs.yaml", &GatewayConfig::crd());
}

fn compare(file: &str, crd: &CustomResourceDefinition) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("yaml").join(file);
    let expected = serde_json::to_value(crd).unwrap();
    let text =
        format!("# Generated from crds/src/policy by `make crds`.\n{}", serde_saphyr::to_string(&expected).unwrap());
    let reread: Value = serde_saphyr::from_str(&text).unwrap();
    assert_eq!(reread, expected, "{file} does not say what the type says");
    if std::env::var_os("CRDS_REWRITE").is_some() {
        std::fs::write(&path, text).unwrap();
        return;
    }
    let stored = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        stored == text,
        "{} is stale: run `make crds` (or `CRDS_REWRITE=1 cargo test -p sluice-crds --test yaml`)",
        path.display()
    );
}
