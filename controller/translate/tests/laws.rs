//! Laws: what holds for every input.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // Helpers of tests may stop at the first surprise, too.

mod support;

use std::fs;
use std::path::Path;

use k8s_openapi::api::discovery::v1::EndpointSlice;
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;
use serde_json::{Value, json};
use snapshot::{Kind as ResourceKind, Snapshot};
use support::{Input, apply, render};
use translate::{DataPlane, Kind, Memo, ObjectKey, Resources, Translation, endpoints, translate};

/// The input of a golden case.
fn golden(name: &str) -> Input {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    let text = fs::read_to_string(path).unwrap();
    Input::parse(text.split_once("\n--- # expected\n").unwrap().0)
}

fn resources(documents: &[Value]) -> Resources {
    let mut resources = Resources::default();
    documents.iter().for_each(|document| apply(&mut resources, document));
    resources
}

fn ingress(name: &str, service: &str, port: u16) -> Value {
    let backend = json!({"service": {"name": service, "port": {"number": port}}});
    json!({
        "kind": "Ingress",
        "metadata": {"namespace": "shop", "name": name, "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"ingressClassName": "sluice", "rules": [{
            "host": format!("{name}.example"),
            "http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": backend}]},
        }]},
    })
}

fn service(name: &str, spec: Value) -> Value {
    json!({"kind": "Service", "metadata": {"namespace": "shop", "name": name}, "spec": spec})
}

fn class() -> Value {
    json!({"kind": "IngressClass", "metadata": {"name": "sluice"}, "spec": {"controller": "sluice.dev/ingress-controller"}})
}

const CASES: &[&str] = &[
    "ingress-conflicts.yaml",
    "ingress-tls.yaml",
    "ingress-tls-bad.yaml",
    "ingress-service-settings.yaml",
    "ingress-catch-all.yaml",
    "ingress-services.yaml",
    "gateway-attachment.yaml",
    "gateway-client-validation.yaml",
    "gateway-backend-certificate.yaml",
    "policy-traffic-defects.yaml",
    "policy-backend-tls.yaml",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// The order in which objects arrive changes nothing.
    #[test]
    fn input_order_does_not_matter(
        (case, shuffled) in prop::sample::select(CASES).prop_flat_map(|case| {
            let documents = golden(case).edits.remove(0);
            (Just(case), Just(documents).prop_shuffle())
        })
    ) {
        let input = golden(case);
        let ordered = translate(&resources(&input.edits[0]), &input.settings);
        let other = translate(&resources(&shuffled), &input.settings);
        prop_assert_eq!(render(&ordered), render(&other));
        prop_assert_eq!(versions(&ordered), versions(&other));
        prop_assert_eq!(ordered.statuses, other.statuses);
    }

    /// Bad objects change none of the resources of the good ones around them.
    #[test]
    fn bad_objects_harm_nobody_else(bad in prop::sample::subsequence(bad(), 1..=bad().len()), good in 1usize..8) {
        let mut documents = vec![class()];
        for index in 0..good {
            documents.push(ingress(&format!("good-{index}"), &format!("web-{index}"), 80));
            documents.push(service(&format!("web-{index}"), json!({"ports": [{"port": 80}]})));
        }
        let settings = Default::default();
        let alone = translate(&resources(&documents), &settings);
        prop_assert!(alone.problems.is_empty());
        documents.extend(bad);
        let among = translate(&resources(&documents), &settings);
        prop_assert!(!among.problems.is_empty());
        prop_assert!(among.problems.iter().all(|problem| !problem.object.name.starts_with("good")));
        let among = &among.snapshots[&DataPlane::Shared];
        for (id, resource) in alone.snapshots[&DataPlane::Shared].iter() {
            prop_assert_eq!(among.get(id), Some(resource), "{}", id);
        }
    }

    /// Whatever a memo comes from, a translation with it says what one from nothing says.
    #[test]
    fn a_memo_changes_nothing(
        case in prop::sample::select(golden_cases()),
        edits in prop::collection::vec((any::<prop::sample::Index>(), edit(), any::<bool>()), 1..12),
    ) {
        let input = golden(&case);
        let documents = input.edits.concat();
        let mut resources = resources(&documents);
        let mut memo = Memo::default();
        memo.translate(&resources, &input.settings);
        for (index, edit, accepted) in edits {
            edit.happen(&documents[index.index(documents.len())], &documents, &mut resources);
            let fresh = translate(&resources, &input.settings);
            let with_memo = memo.translate(&resources, &input.settings);
            prop_assert_eq!(render(&with_memo), render(&fresh), "{}", case);
            prop_assert_eq!(versions(&with_memo), versions(&fresh));
            prop_assert_eq!(&with_memo.statuses, &fresh.statuses);
            prop_assert_eq!(&with_memo.wanted, &fresh.wanted);
            prop_assert_eq!(&with_memo.unjudged, &fresh.unjudged);
            if accepted {
                resources.accept(&fresh);
            }
        }
    }

    /// After any events of EndpointSlices, the fast path gives what a full translation gives.
    #[test]
    fn the_endpoint_fast_path_equals_a_full_translation(events in prop::collection::vec(event(), 1..24)) {
        let input = endpoints_input();
        let mut resources = resources(&input.edits[0]);
        let mut fast = translate(&resources, &input.settings).snapshots;
        prop_assert!(count_endpoints(&fast) >= 5, "both data planes have endpoints");
        for event in events {
            let services = event.happen(&mut resources);
            for snapshot in fast.values_mut() {
                for service in &services {
                    for (id, resource) in endpoints(&resources, &input.settings, service, snapshot) {
                        prop_assert!(snapshot.get(&id).is_some(), "{} is new", id);
                        snapshot.insert_hashed(id, resource);
                    }
                }
            }
            same(&fast, &translate(&resources, &input.settings))?;
        }
    }
}

/// Translation learns at once of every Secret and ConfigMap that it needs: with those that it wants it says what it says with all.
#[test]
fn what_is_wanted_suffices() {
    for case in CASES {
        let input = golden(case);
        let all = resources(&input.edits[0]);
        let mut some = all.clone();
        some.secrets.clear();
        some.config_maps.clear();
        let wanted = translate(&some, &input.settings).wanted;
        let is_wanted = |kind, key: &ObjectKey| wanted.contains(&(kind, key.clone()));
        let secrets = all.secrets.iter().filter(|(key, _)| is_wanted(Kind::Secret, key));
        some.secrets = secrets.map(|(key, entry)| (key.clone(), entry.clone())).collect();
        let config_maps = all.config_maps.iter().filter(|(key, _)| is_wanted(Kind::ConfigMap, key));
        some.config_maps = config_maps.map(|(key, entry)| (key.clone(), entry.clone())).collect();
        let (with_some, with_all) = (translate(&some, &input.settings), translate(&all, &input.settings));
        assert_eq!(render(&with_some), render(&with_all), "{case}");
        assert_eq!(versions(&with_some), versions(&with_all), "{case}");
    }
}

fn versions(translation: &Translation) -> Vec<snapshot::Hash> {
    translation.snapshots.values().map(Snapshot::version).collect()
}

fn same(fast: &std::collections::BTreeMap<DataPlane, Snapshot>, full: &Translation) -> Result<(), TestCaseError> {
    prop_assert_eq!(fast, &full.snapshots);
    Ok(())
}

/// The golden cases whose objects can all be there at once.
fn golden_cases() -> Vec<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> =
        names.filter(|name| golden(name).edits.concat().iter().all(|document| document["deleted"] != true)).collect();
    names.sort();
    names
}

/// Something that happens to an object.
#[derive(Clone, Debug)]
enum Edit {
    Delete,
    Restore,
    /// The value at a place becomes another: numbers of the place, and of the value among [`VALUES`] and all that the case holds.
    Replace(prop::sample::Index, prop::sample::Index),
}

const VALUES: &[&str] =
    &["null", "\"\"", "\"x\"", "\"All\"", "\"http\"", "\"1s\"", "0", "80", "8080", "true", "[]", "{}"];

impl Edit {
    /// Changes one of the objects, unless what comes out cannot be read.
    fn happen(&self, document: &Value, all: &[Value], resources: &mut Resources) {
        match self {
            Self::Delete => support::delete(resources, document),
            Self::Restore => apply(resources, document),
            Self::Replace(place, value) => {
                let mut values: Vec<Value> = VALUES.iter().map(|text| serde_json::from_str(text).unwrap()).collect();
                values.extend(all.iter().flat_map(|document| {
                    leaves(document, String::new()).into_iter().map(|place| document.pointer(&place).unwrap().clone())
                }));
                let mut document = document.clone();
                let mut places = leaves(&document, String::new());
                let fixed = ["/apiVersion", "/kind", "/metadata/namespace", "/metadata/name"];
                places.retain(|place| !fixed.contains(&place.as_str()));
                if !places.is_empty() {
                    let place = &places[place.index(places.len())];
                    *document.pointer_mut(place).unwrap() = values[value.index(values.len())].clone();
                    support::try_apply(resources, &document);
                }
            }
        }
    }
}

fn edit() -> impl Strategy<Value = Edit> {
    let replace = (any::<prop::sample::Index>(), any::<prop::sample::Index>());
    prop_oneof![
        1 => Just(Edit::Delete),
        1 => Just(Edit::Restore),
        4 => replace.prop_map(|(place, value)| Edit::Replace(place, value)),
    ]
}

/// The pointers of all values that hold no others.
fn leaves(value: &Value, at: String) -> Vec<String> {
    match value {
        Value::Object(fields) => fields
            .iter()
            .flat_map(|(name, value)| leaves(value, format!("{at}/{}", name.replace('~', "~0").replace('/', "~1"))))
            .collect(),
        Value::Array(items) => {
            items.iter().enumerate().flat_map(|(index, item)| leaves(item, format!("{at}/{index}"))).collect()
        }
        _ => vec![at],
    }
}

/// Objects that are wrong in one way each.
fn bad() -> Vec<Value> {
    let annotated = |name: &str, annotation: &str, value: &str| {
        let mut object = ingress(name, "web-0", 80);
        let name = format!("nginx.ingress.kubernetes.io/{annotation}");
        object["metadata"]["annotations"] = json!({name: value});
        object
    };
    let mut regex = ingress("regex", "web-0", 80);
    regex["spec"]["rules"][0]["http"]["paths"][0]["path"] = json!("/(.*");
    let mut thief = ingress("thief", "web-0", 80);
    thief["metadata"]["creationTimestamp"] = json!("2026-02-01T00:00:00Z");
    thief["spec"]["rules"][0]["host"] = json!("good-0.example");
    let mut tls = ingress("tls", "web-0", 80);
    tls["spec"]["tls"] = json!([{"hosts": ["tls.example"], "secretName": "missing"}]);
    let mut later = annotated("later", "affinity", "cookie");
    later["metadata"]["creationTimestamp"] = json!("2026-02-01T00:00:00Z");
    vec![
        annotated("limit", "limit-rps", "many"),
        annotated("list", "limit-allowlist", "everybody"),
        annotated("size", "proxy-body-size", "huge"),
        annotated("unknown", "configuration-snippet", "return 200;"),
        ingress("nowhere", "missing", 80),
        ingress("no-port", "web-0", 8080),
        regex,
        thief,
        tls,
        later,
        json!({"kind": "BackendPolicy", "metadata": {"namespace": "shop", "name": "nobody"}, "spec": {
            "targetRefs": [{"group": "", "kind": "Service", "name": "missing"}],
        }}),
        json!({"kind": "BackendPolicy", "metadata": {"namespace": "shop", "name": "wrong"}, "spec": {
            "targetRefs": [{"group": "", "kind": "Service", "name": "web-0"}], "loadBalancer": "Guess",
        }}),
    ]
}

/// Services of all sorts, used by an Ingress and by an HTTPRoute.
fn endpoints_input() -> Input {
    let mut input = golden("ingress-class-watched.yaml");
    let gateway = json!({"namespace": "shop", "name": "edge", "generation": 1});
    let backends = json!([{"name": "web", "port": 80}, {"name": "api", "port": 8080}]);
    input.edits = vec![vec![
        class(),
        service(
            "web",
            json!({"ports": [{"name": "http", "port": 80}, {"name": "admin", "port": 81}, {"name": "quic", "port": 80, "protocol": "UDP"}]}),
        ),
        service("api", json!({"clusterIP": "None", "ports": [{"port": 8080}]})),
        service("external", json!({"type": "ExternalName", "externalName": "api.example", "ports": [{"port": 80}]})),
        ingress("web", "web", 80),
        ingress("admin", "web", 81),
        ingress("api", "api", 8080),
        ingress("external", "external", 80),
        json!({"kind": "GatewayClass", "metadata": {"name": "sluice"}, "spec": {"controllerName": "sluice.dev/gateway-controller"}}),
        json!({"kind": "Namespace", "metadata": {"name": "shop"}}),
        json!({"kind": "Gateway", "metadata": gateway, "spec": {"gatewayClassName": "sluice", "listeners": [
            {"name": "http", "port": 80, "protocol": "HTTP"},
        ]}}),
        json!({"kind": "HTTPRoute", "metadata": {"namespace": "shop", "name": "web", "generation": 1}, "spec": {
            "parentRefs": [{"name": "edge"}], "rules": [{"backendRefs": backends}],
        }}),
    ]];
    input
}

fn count_endpoints(snapshots: &std::collections::BTreeMap<DataPlane, Snapshot>) -> usize {
    let ids = snapshots.values().flat_map(Snapshot::iter).map(|(id, _)| id);
    ids.filter(|id| id.kind == ResourceKind::Endpoints).count()
}

/// Something that happens to an EndpointSlice.
#[derive(Clone, Debug)]
struct Event {
    slice: usize,
    object: Option<Value>,
}

impl Event {
    /// Changes the resources; returns the Services that the slice belonged and belongs to.
    fn happen(&self, resources: &mut Resources) -> Vec<ObjectKey> {
        let name = format!("slice-{}", self.slice);
        let of_slice = |resources: &Resources| {
            let labels = resources.get::<EndpointSlice>("shop", &name)?.metadata.labels.clone()?;
            Some(ObjectKey::new("shop", labels.get("kubernetes.io/service-name")?))
        };
        let before = of_slice(resources);
        resources.remove::<EndpointSlice>(&ObjectKey::new("shop", name.as_str()));
        if let Some(object) = &self.object {
            let mut object = object.clone();
            object["metadata"]["name"] = json!(name);
            apply(resources, &object);
        }
        before.into_iter().chain(of_slice(resources)).collect()
    }
}

fn event() -> impl Strategy<Value = Event> {
    let object = prop_oneof![1 => Just(None), 6 => slice().prop_map(Some)];
    (0usize..4, object).prop_map(|(slice, object)| Event { slice, object })
}

fn slice() -> impl Strategy<Value = Value> {
    let service = prop::sample::select(vec!["web", "api", "external", "unused"]);
    let family = prop::sample::select(vec!["IPv4", "IPv4", "IPv4", "FQDN"]);
    let port = (prop::sample::select(vec![None, Some("http"), Some("admin")]), 1u16..4);
    let address = prop::sample::select(vec!["10.0.0.1", "10.0.0.2", "10.0.0.3", "127.0.0.1"]);
    let state = (any::<Option<bool>>(), any::<bool>(), any::<bool>());
    let endpoint = (address, state).prop_map(|(address, (ready, serving, terminating))| {
        json!({"addresses": [address], "conditions": {"ready": ready, "serving": serving, "terminating": terminating}})
    });
    let ports = prop::collection::vec(port.prop_map(|(name, port)| json!({"name": name, "port": port})), 0..3);
    (service, family, ports, prop::collection::vec(endpoint, 0..4)).prop_map(|(service, family, ports, endpoints)| {
        json!({
            "kind": "EndpointSlice",
            "metadata": {"namespace": "shop", "labels": {"kubernetes.io/service-name": service}},
            "addressType": family, "ports": ports, "endpoints": endpoints,
        })
    })
}
