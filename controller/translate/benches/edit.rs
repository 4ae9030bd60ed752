//! What one edit costs when there are many routes: a full translation, and what a data plane's session then compares.
//!
//! `cargo bench -p sluice-translate` prints medians. They are to be compared with each other, not with another day's.

#![allow(clippy::unwrap_used)] // A benchmark may stop at the first surprise.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::time::{Duration, Instant};

use crds::gateway::{Gateway, GatewayClass, HTTPRoute};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::{Ingress, IngressClass};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use snapshot::{Hash, ResourceId, Snapshot, diff};
use translate::{DataPlane, ObjectKey, Resources, Settings, Stored, translate};

const ROUNDS: usize = 21;

fn main() {
    // What `cargo test --benches` passes; there is nothing to test.
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    println!("one of so many routes is edited; medians of {ROUNDS}");
    println!("{:>10} {:>7} {:>12} {:>12} {:>12}", "kind", "routes", "translate", "diff", "resources");
    for routes in [1000, 5000] {
        measure::<Ingress>("Ingress", routes, ingresses(routes), ingress, DataPlane::Shared);
        let gateway = DataPlane::Gateway(ObjectKey::new("infra", "public"));
        measure::<HTTPRoute>("HTTPRoute", routes, http_routes(routes), http_route, gateway);
    }
}

fn measure<T: Stored + DeserializeOwned>(
    kind: &str,
    routes: usize,
    mut resources: Resources,
    route: fn(usize, usize) -> Value,
    plane: DataPlane,
) {
    let settings = Settings::default();
    let first = translate(&resources, &settings);
    assert_eq!(first.problems, []);
    resources.accept(&first.rejected);
    let mut held: BTreeMap<ResourceId, Hash> = first.snapshots[&plane].held();
    let (mut translations, mut diffs) = (Vec::new(), Vec::new());
    let mut last = Snapshot::default();
    for round in 1..=ROUNDS {
        put::<T>(&mut resources, route(routes / 2, round));
        let start = Instant::now();
        let translation = black_box(translate(&resources, &settings));
        translations.push(start.elapsed());
        resources.accept(&translation.rejected);
        let start = Instant::now();
        let batch = diff(&held, &translation.snapshots[&plane]);
        diffs.push(start.elapsed());
        assert_eq!(batch.upserts.len(), 1);
        last = translation.snapshots[&plane].clone();
        held = last.held();
    }
    let (translation, diff) = (median(translations), median(diffs));
    println!("{kind:>10} {routes:>7} {translation:>12.1?} {diff:>12.1?} {:>12}", last.len());
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

fn ingresses(routes: usize) -> Resources {
    let mut resources = services(routes);
    let class = json!({"metadata": {"name": "sluice"}, "spec": {"controller": "sluice.dev/ingress-controller"}});
    put::<IngressClass>(&mut resources, class);
    (0..routes).for_each(|index| put::<Ingress>(&mut resources, ingress(index, 0)));
    resources
}

fn http_routes(routes: usize) -> Resources {
    let mut resources = services(routes);
    let class = json!({"metadata": {"name": "sluice"}, "spec": {"controllerName": "sluice.dev/gateway-controller"}});
    put::<GatewayClass>(&mut resources, class);
    let gateway = json!({
        "metadata": {"namespace": "infra", "name": "public"},
        "spec": {"gatewayClassName": "sluice", "listeners": [{
            "name": "http", "port": 80, "protocol": "HTTP", "allowedRoutes": {"namespaces": {"from": "All"}},
        }]},
    });
    put::<Gateway>(&mut resources, gateway);
    (0..routes).for_each(|index| put::<HTTPRoute>(&mut resources, http_route(index, 0)));
    resources
}

/// Each Service has a slice with two endpoints.
fn services(count: usize) -> Resources {
    let mut resources = Resources::default();
    for index in 0..count {
        let name = format!("web-{index}");
        let ports = json!([{"name": "http", "port": 80, "targetPort": 8080}]);
        let service = json!({"metadata": {"namespace": "shop", "name": name}, "spec": {"ports": ports}});
        put::<Service>(&mut resources, service);
        let address = |last: u8| format!("10.{}.{}.{last}", index / 256, index % 256);
        let slice = json!({
            "metadata": {
                "namespace": "shop", "name": format!("{name}-x"), "labels": {"kubernetes.io/service-name": name},
            },
            "addressType": "IPv4",
            "ports": [{"name": "http", "port": 8080}],
            "endpoints": [{"addresses": [address(1)]}, {"addresses": [address(2)]}],
        });
        put::<EndpointSlice>(&mut resources, slice);
    }
    resources
}

fn ingress(index: usize, edit: usize) -> Value {
    let path = |path: &str| {
        let service = json!({"name": format!("web-{index}"), "port": {"number": 80}});
        json!({"path": path, "pathType": "Prefix", "backend": {"service": service}})
    };
    json!({
        "metadata": {
            "namespace": "shop", "name": format!("web-{index}"), "creationTimestamp": "2026-01-01T00:00:00Z",
            "annotations": {"nginx.ingress.kubernetes.io/proxy-read-timeout": (60 + edit).to_string()},
        },
        "spec": {"ingressClassName": "sluice", "rules": [{
            "host": format!("web-{index}.example"), "http": {"paths": [path("/"), path("/api")]},
        }]},
    })
}

fn http_route(index: usize, edit: usize) -> Value {
    let backends = json!([{"name": format!("web-{index}"), "port": 80}]);
    let timeouts = json!({"request": format!("{}s", 60 + edit)});
    json!({
        "metadata": {
            "namespace": "shop", "name": format!("web-{index}"), "creationTimestamp": "2026-01-01T00:00:00Z",
        },
        "spec": {
            "parentRefs": [{"namespace": "infra", "name": "public"}],
            "hostnames": [format!("web-{index}.example")],
            "rules": [
                {"matches": [{"path": {"type": "PathPrefix", "value": "/"}}], "backendRefs": backends},
                {
                    "matches": [{"path": {"type": "PathPrefix", "value": "/api"}}],
                    "timeouts": timeouts, "backendRefs": backends,
                },
            ],
        },
    })
}

fn put<T: Stored + DeserializeOwned>(resources: &mut Resources, document: Value) {
    resources.insert(serde_json::from_value::<T>(document).unwrap());
}
