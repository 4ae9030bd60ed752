use crds::gateway::{GatewayStatus, ListenerStatus, ParentReference, RouteParentStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use snapshot::{Hash, ResourceId};

use super::*;
use crate::stream::Connected;

fn programmed(generation: i64) -> GatewayStatus {
    let condition = Condition {
        type_: "Programmed".into(),
        status: "True".into(),
        reason: "Programmed".into(),
        message: String::new(),
        observed_generation: Some(generation),
        last_transition_time: Time(jiff::Timestamp::UNIX_EPOCH),
    };
    GatewayStatus { conditions: Some(vec![condition]), ..GatewayStatus::default() }
}

fn parents(name: &str) -> Vec<RouteParentStatus> {
    let parent_ref = ParentReference { name: name.into(), ..ParentReference::default() };
    vec![RouteParentStatus { parent_ref, controller_name: "ours".into(), conditions: Vec::new() }]
}

fn observe(target: &Target, status: Option<Value>) -> BTreeMap<Target, Observed> {
    [(target.clone(), Observed::new(target.kind, status, &["ours".into()]))].into()
}

fn running(version: Hash) -> Connected {
    let mut connected = Connected::new(1);
    (connected.version, connected.ready) = (Some(version), true);
    connected
}

#[test]
fn only_differences_are_written_and_foreign_entries_do_not_count() {
    let object = ObjectKey::new("shop", "web");
    let target = Target::of(Kind::HTTPRoute, &object).unwrap();
    let mut wanted = Wanted::default();
    let mut statuses = Statuses::default();
    statuses.routes.insert((Kind::HTTPRoute, object), parents("a"));
    wanted.replace(statuses);
    let unwritten = |observed| wanted.unwritten(&observed, &mut Gate::default(), &Acks::default()).len();

    assert_eq!(unwritten(observe(&target, None)), 1);
    let ours = json!({"parentRef": {"name": "a"}, "controllerName": "ours", "conditions": []});
    let theirs = json!({"parentRef": {"name": "b"}, "controllerName": "theirs", "conditions": []});
    assert_eq!(unwritten(observe(&target, Some(json!({"parents": [theirs, ours]})))), 0);
    assert_eq!(unwritten(observe(&target, Some(json!({"parents": [theirs]})))), 1);
    assert_eq!(unwritten(BTreeMap::new()), 0, "an object that is gone gets no status");
}

#[test]
fn an_empty_list_is_no_difference_to_no_status() {
    let object = ObjectKey::new("shop", "web");
    let target = Target::of(Kind::HTTPRoute, &object).unwrap();
    let mut wanted = Wanted::default();
    let mut statuses = Statuses::default();
    statuses.routes.insert((Kind::HTTPRoute, object), Vec::new());
    wanted.replace(statuses);
    assert!(wanted.unwritten(&observe(&target, None), &mut Gate::default(), &Acks::default()).is_empty());
}

#[test]
fn a_gateway_is_programmed_after_the_acknowledgement_and_stays_so() {
    let object = ObjectKey::new("shop", "web");
    let plane = Statuses::data_plane(&object);
    let target = Target::of(Kind::Gateway, &object).unwrap();
    let version = Hash([1; 16]);
    let (mut gate, mut acks) = (Gate::default(), Acks::default());
    acks.published(1, [(&plane, version)].into_iter());
    gate.published(1);
    let mut wanted = Wanted::default();
    let mut statuses = Statuses::default();
    statuses.gateways.insert(object.clone(), programmed(1));
    wanted.replace(statuses.clone());
    let condition = |unwritten: &Unwritten| unwritten[&target].status["conditions"][0].clone();

    let before = observe(&target, None);
    let unwritten = wanted.unwritten(&before, &mut gate, &acks);
    assert_eq!(condition(&unwritten)["status"], "False");
    assert_eq!(condition(&unwritten)["reason"], "Pending");

    acks.heard(&plane, "pod", running(version));
    let unwritten = wanted.unwritten(&before, &mut gate, &acks);
    assert_eq!(condition(&unwritten)["status"], "True");

    // This replica is new and has heard of no data plane yet: what was programmed is not taken back.
    let after = observe(&target, Some(unwritten[&target].status.clone()));
    assert!(wanted.unwritten(&after, &mut gate, &Acks::default()).is_empty());

    // A new generation waits for a new acknowledgement.
    statuses.gateways.insert(object, programmed(2));
    wanted.replace(statuses);
    acks.published(2, [(&plane, Hash([2; 16]))].into_iter());
    gate.published(2);
    assert_eq!(condition(&wanted.unwritten(&after, &mut gate, &acks))["status"], "False");
}

#[test]
fn a_listener_that_a_data_plane_rejects_is_not_programmed() {
    let object = ObjectKey::new("shop", "web");
    let plane = Statuses::data_plane(&object);
    let target = Target::of(Kind::Gateway, &object).unwrap();
    let version = Hash([1; 16]);
    let (mut gate, mut acks) = (Gate::default(), Acks::default());
    acks.published(1, [(&plane, version)].into_iter());
    gate.published(1);
    let mut status = programmed(1);
    let listeners = ["plain", "busy"].map(|name| ListenerStatus {
        name: name.into(),
        conditions: status.conditions.clone().unwrap(),
        ..ListenerStatus::default()
    });
    status.listeners = Some(listeners.into());
    let mut wanted = Wanted::default();
    wanted.replace(Statuses { gateways: [(object, status)].into(), ..Statuses::default() });

    acks.heard(&plane, "one", running(version));
    let mut other = running(version);
    let id = ResourceId::new(snapshot::Kind::Listener, "shop/web/busy");
    other.rejected.insert(id, "port 80 cannot be bound".into());
    acks.heard(&plane, "two", other);
    let status = wanted.unwritten(&observe(&target, None), &mut gate, &acks)[&target].status.clone();
    let of = |holder: &Value| holder["conditions"][0].clone();
    assert_eq!(of(&status)["status"], "False");
    assert_eq!(of(&status)["reason"], "Invalid");
    assert!(of(&status)["message"].as_str().unwrap().contains("busy"));
    assert_eq!(of(&status["listeners"][0])["status"], "True");
    assert_eq!(of(&status["listeners"][1])["reason"], "Invalid");
    assert!(of(&status["listeners"][1])["message"].as_str().unwrap().contains("port 80 cannot be bound"));

    // It is bound now.
    acks.heard(&plane, "two", running(version));
    let status = wanted.unwritten(&observe(&target, Some(status)), &mut gate, &acks)[&target].status.clone();
    assert_eq!([&status, &status["listeners"][1]].map(|holder| of(holder)["status"].clone()), ["True", "True"]);
}

#[test]
fn a_gateway_waits_for_every_data_plane_that_the_cluster_holds_for_ready() {
    let object = ObjectKey::new("shop", "web");
    let plane = Statuses::data_plane(&object);
    let target = Target::of(Kind::Gateway, &object).unwrap();
    let version = Hash([1; 16]);
    let (mut gate, mut acks) = (Gate::default(), Acks::default());
    acks.published(1, [(&plane, version)].into_iter());
    gate.published(1);
    gate.expect([(plane.clone(), 2)].into());
    let mut wanted = Wanted::default();
    wanted.replace(Statuses { gateways: [(object, programmed(1))].into(), ..Statuses::default() });
    let mut verdict = |acks: &Acks| {
        let unwritten = wanted.unwritten(&observe(&target, None), &mut gate, acks);
        unwritten[&target].status["conditions"][0]["status"].clone()
    };
    acks.heard(&plane, "one", running(version));
    assert_eq!(verdict(&acks), "False", "the other one has not come back yet");
    acks.heard(&plane, "two", running(version));
    assert_eq!(verdict(&acks), "True");
}

#[test]
fn an_ingress_gets_its_address_when_the_data_planes_serve_it() {
    let object = ObjectKey::new("shop", "web");
    let target = Target::of(Kind::Ingress, &object).unwrap();
    let (mut gate, mut acks) = (Gate::default(), Acks::default());
    acks.published(1, [(&DataPlane::Shared, Hash([1; 16]))].into_iter());
    gate.published(1);
    let mut wanted = Wanted::default();
    let mut statuses = Statuses::default();
    let address = serde_json::from_value(json!([{"ip": "192.0.2.1"}])).unwrap();
    statuses.ingresses.insert(object, address);
    wanted.replace(statuses);
    let before = observe(&target, Some(json!({"loadBalancer": {}})));
    assert!(wanted.unwritten(&before, &mut gate, &acks).is_empty());
    acks.heard(&DataPlane::Shared, "pod", running(Hash([1; 16])));
    let unwritten = wanted.unwritten(&before, &mut gate, &acks);
    assert_eq!(unwritten[&target].status, json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}}));
    let after = observe(&target, Some(unwritten[&target].status.clone()));
    assert!(wanted.unwritten(&after, &mut gate, &acks).is_empty());
}

#[test]
fn a_route_is_accepted_once_the_connected_data_planes_serve_it() {
    let object = ObjectKey::new("shop", "web");
    let plane = DataPlane::Gateway(ObjectKey::new("shop", "a"));
    let target = Target::of(Kind::HTTPRoute, &object).unwrap();
    let mut statuses = Statuses::default();
    statuses.routes.insert((Kind::HTTPRoute, object), parents("a"));
    let mut wanted = Wanted::default();
    wanted.replace(statuses);
    let (mut gate, mut acks) = (Gate::default(), Acks::default());
    let mut waits = |acks: &Acks| wanted.unwritten(&observe(&target, None), &mut gate, acks).is_empty();

    assert!(!waits(&acks), "with nobody to wait for");
    acks.published(0, [(&plane, Hash([1; 16]))].into_iter());
    acks.heard(&plane, "pod", running(Hash([9; 16])));
    assert!(waits(&acks), "one runs something older");
    acks.heard(&plane, "pod", running(Hash([1; 16])));
    assert!(!waits(&acks));
}
