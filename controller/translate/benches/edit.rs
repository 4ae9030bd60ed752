//! What one edit costs when there are many routes: a translation from nothing, one with the memo of the last one, and what a
//! data plane's session then compares.
//!
//! `cargo bench -p sluice-translate` prints processor time, to be compared with each other, not with another day's.

#![allow(clippy::unwrap_used)] // A benchmark may stop at the first surprise.

use std::hint::black_box;
use std::time::Duration;

use crds::gateway::{Gateway, GatewayClass, HTTPRoute};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::{Ingress, IngressClass};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use snapshot::diff;
use translate::{DataPlane, Memo, ObjectKey, Resources, Settings, Stored, translate};

/// As in the controller.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const ROUNDS: usize = 20;

fn main() {
    // What `cargo test --benches` passes; there is nothing to test.
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    println!("one of so many routes is edited; processor time, mean of {ROUNDS} rounds");
    println!(
        "{:>10} {:>7} {:>13} {:>12} {:>12} {:>12}",
        "kind", "routes", "from nothing", "with memo", "diff", "resources"
    );
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
    let mut memo = Memo::default();
    // The second finds everything accepted, as all later ones do.
    for _ in 0..2 {
        let first = memo.translate(&resources, &settings);
        assert_eq!(first.problems, []);
        resources.accept(&first);
    }
    let mut last = memo.translate(&resources, &settings);
    let mut held = last.snapshots[&plane].clone();
    let (mut from_nothing, mut with_memo, mut diffs) = (Duration::ZERO, Duration::ZERO, Duration::ZERO);
    for round in 1..=ROUNDS {
        put::<T>(&mut resources, route(routes / 2, round));
        let start = cpu();
        drop(black_box(translate(&resources, &settings)));
        from_nothing += cpu() - start;
        let start = cpu();
        // What the last translation held is freed, too.
        last = black_box(memo.translate(&resources, &settings));
        with_memo += cpu() - start;
        resources.accept(&last);
        let start = cpu();
        let batch = diff(held.held(), &last.snapshots[&plane]);
        diffs += cpu() - start;
        assert_eq!(batch.upserts.len(), 1);
        held = last.snapshots[&plane].clone();
    }
    let [from_nothing, with_memo, diff] = [from_nothing, with_memo, diffs].map(|sum| sum / ROUNDS as u32);
    let resources = last.snapshots[&plane].len();
    println!("{kind:>10} {routes:>7} {from_nothing:>13.1?} {with_memo:>12.1?} {diff:>12.1?} {resources:>12}");
}

/// The processor time of this thread so far, as fine as the scheduler counts it.
fn cpu() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(text.split(' ').next().unwrap().parse().unwrap())
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
