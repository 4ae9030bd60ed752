use crds::gateway::{Gateway, GatewaySpec};
use k8s_openapi::api::core::v1::{ConfigMap, Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::json;
use translate::Translation;

use super::*;

const KINDS: [Kind; 2] = [Kind::Service, Kind::Secret];

fn store() -> Store {
    Store::new(KINDS, vec!["ours".into()])
}

fn object<T: Watched>(value: serde_json::Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn secret(name: &str) -> Secret {
    object(json!({"metadata": {"namespace": "a", "name": name}}))
}

fn slice(name: &str, service: &str, address: &str) -> EndpointSlice {
    object(json!({
        "metadata": {"namespace": "a", "name": name, "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": [address]}],
    }))
}

#[test]
fn is_ready_when_every_kind_was_listed_and_the_record_was_read() {
    let mut store = store();
    store.change(Change::listed::<Service>(BTreeSet::new()));
    assert!(!store.ready());
    store.change(Change::listed::<Secret>(BTreeSet::new()));
    assert!(!store.ready());
    store.change(Change::recorded(Record::default()));
    assert!(store.ready());
    assert!(store.take_dirty().structure);
}

#[test]
fn endpoints_touch_only_their_services() {
    let mut store = store();
    store.change(Change::apply(slice("x-1", "x", "10.0.0.1")));
    let touched = |service| [ObjectKey::new("a", service)].into();
    assert_eq!(store.take_dirty(), Dirty { endpoints: touched("x"), ..Dirty::default() });

    store.change(Change::apply(slice("x-1", "x", "10.0.0.1")));
    assert!(!store.is_dirty(), "the same again changes nothing");

    store.change(Change::apply(slice("x-1", "y", "10.0.0.1")));
    let both = [ObjectKey::new("a", "x"), ObjectKey::new("a", "y")].into();
    assert_eq!(store.take_dirty(), Dirty { endpoints: both, ..Dirty::default() });

    store.change(Change::delete::<EndpointSlice>(ObjectKey::new("a", "x-1")));
    assert_eq!(store.take_dirty(), Dirty { endpoints: touched("y"), ..Dirty::default() });
}

#[test]
fn a_new_list_removes_what_it_does_not_hold() {
    let mut store = store();
    let service = |name: &str| object::<Service>(json!({"metadata": {"namespace": "a", "name": name}}));
    store.change(Change::apply(service("x")));
    store.change(Change::apply(service("y")));
    store.change(Change::listed::<Service>([ObjectKey::new("a", "y")].into()));
    assert_eq!(store.resources.services.keys().map(|key| key.name.as_str()).collect::<Vec<_>>(), ["y"]);
}

#[test]
fn a_namesake_has_no_last_good_version() {
    let mut store = store();
    let service = |uid: &str, port: u16| {
        let spec = json!({"ports": [{ "port": port }]});
        object::<Service>(json!({"metadata": {"namespace": "a", "name": "x", "uid": uid}, "spec": spec}))
    };
    let rejected = BTreeSet::from([(Kind::Service, ObjectKey::new("a", "x"))]);
    let (all_good, rejected) = (Translation::default(), Translation { rejected, ..Translation::default() });
    let mut last_good = |uid, port| {
        store.change(Change::apply(service(uid, port)));
        store.resources.accept(if port < 100 { &all_good } else { &rejected });
        store.resources.services[&ObjectKey::new("a", "x")].last_good.is_some()
    };
    assert!(last_good("1", 80));
    assert!(last_good("1", 8080), "an edit of the same");
    assert!(!last_good("2", 8080), "deleted and created anew while the watch was interrupted");
}

#[test]
fn what_is_recorded_of_a_kind_that_is_missing_stays() {
    let mut store = Store::new([Kind::Gateway], Vec::new());
    let gateway = |listeners: serde_json::Value| {
        let metadata = json!({"namespace": "a", "name": "g", "uid": "1"});
        object::<Gateway>(json!({"metadata": metadata, "spec": {"gatewayClassName": "x", "listeners": listeners}}))
    };
    let rejected: BTreeSet<_> = [(Kind::Gateway, ObjectKey::new("a", "g"))].into();
    store.change(Change::recorded(Record::default()));
    store.change(Change::apply(gateway(json!([]))));
    store.resources.accept(&Translation::default());
    store.change(Change::apply(gateway(json!([{"name": "http", "port": 80, "protocol": "HTTP"}]))));
    let text = store.next_record(&rejected).unwrap().1.text;

    let mut store = Store::new([Kind::Gateway], Vec::new());
    store.change(Change::recorded(Record::read("1".into(), text.clone().into())));
    store.change(Change::missing::<Gateway>());
    store.take_dirty();
    store.change(Change::missing::<Gateway>());
    assert!(!store.is_dirty(), "that it is still missing is nothing new");
    assert_eq!(store.next_record(&BTreeSet::new()).unwrap().1.text, text);
    store.change(Change::listed::<Gateway>(BTreeSet::new()));
    assert!(store.take_dirty().structure);
    assert_eq!(store.next_record(&BTreeSet::new()).unwrap().1.text, "[]");
}

#[test]
fn keeps_only_what_is_wanted_and_says_what_to_fetch() {
    let mut store = store();
    let config_map = || object::<ConfigMap>(json!({"metadata": {"namespace": "a", "name": "used"}}));
    store.change(Change::apply(secret("used")));
    store.change(Change::apply(secret("unused")));
    store.change(Change::apply(config_map()));
    assert!(store.resources.secrets.is_empty() && store.resources.config_maps.is_empty());

    let key = |kind, name: &str| (kind, ObjectKey::new("a", name));
    let wanted = [key(Kind::Secret, "used"), key(Kind::Secret, "missing"), key(Kind::ConfigMap, "used")].into();
    assert_eq!(store.want(&wanted), [key(Kind::Secret, "used"), key(Kind::ConfigMap, "used")]);
    store.take_dirty();
    store.change(Change::apply(secret("used")));
    assert!(store.take_dirty().structure);
    assert_eq!(store.want(&wanted), [key(Kind::ConfigMap, "used")], "a namesake of another kind is another object");
    store.change(Change::apply(config_map()));
    assert_eq!(store.want(&wanted), []);
    store.change(Change::apply(secret("missing")));
    assert_eq!(store.resources.secrets.len(), 2, "one that appears later is kept at once");

    assert_eq!(store.want(&BTreeSet::new()), []);
    assert!(store.resources.secrets.is_empty() && store.resources.config_maps.is_empty());
    assert_eq!(store.want(&wanted).len(), 3);
    store.change(Change::delete::<Secret>(ObjectKey::new("a", "used")));
    store.change(Change::listed::<ConfigMap>(BTreeSet::new()));
    assert_eq!(store.want(&wanted), [key(Kind::Secret, "missing")]);
}

#[test]
fn a_status_of_ours_is_observed_but_changes_nothing_that_is_built() {
    let mut store = store();
    let gateway = |status: serde_json::Value| {
        let mut gateway = Gateway::new("g", GatewaySpec::default());
        gateway.metadata.namespace = Some("a".into());
        gateway.status = serde_json::from_value(status).unwrap();
        gateway
    };
    store.change(Change::apply(gateway(json!({"conditions": []}))));
    store.take_dirty();
    let programmed = json!({"conditions": [{"type": "Programmed", "status": "True", "reason": "Programmed", "message": "",
        "observedGeneration": 7, "lastTransitionTime": "2024-01-01T00:00:00Z"}]});
    store.change(Change::apply(gateway(programmed)));
    let target = Target::of(Kind::Gateway, &ObjectKey::new("a", "g")).unwrap();
    assert_eq!(store.take_dirty(), Dirty { statuses: [target.clone()].into(), ..Dirty::default() });
    assert_eq!(store.observed[&target].programmed, Some(7));
}

#[test]
fn an_object_that_does_not_decode_is_told_and_its_last_version_kept() {
    let mut store = store();
    let key = ObjectKey::new("a", "g");
    let mut gateway = Gateway::new("g", GatewaySpec::default());
    gateway.metadata.namespace = Some("a".into());
    store.change(Change::apply(gateway.clone()));
    store.change(Change::undecodable::<Gateway>(key.clone(), "no listeners"));
    assert_eq!(store.resources.gateways.len(), 1);
    assert!(store.problems().next().unwrap().message.contains("no listeners"));
    store.change(Change::apply(gateway));
    assert_eq!(store.problems().count(), 0);

    store.change(Change::undecodable::<Secret>(ObjectKey::new("a", "s"), "found `hunter2`"));
    assert!(!format!("{store:?}").contains("hunter2"));
}
