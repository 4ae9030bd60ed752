use std::collections::BTreeSet;
use std::time::Duration;

use crds::gateway::{GatewayStatus, ListenerSetStatus, ListenerStatus, ParentReference, RouteParentStatus};
use crds::policy::PolicyAncestorStatus;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ManagedFieldsEntry, Time};
use proptest::prelude::*;
use snapshot::{Hash, HostPattern, Listener, Protocol, Resource, ResourceId, ServerCertificate, Snapshot, Tls};

use super::*;
use crate::stream::Connected;

fn programmed(generation: i64) -> GatewayStatus {
    GatewayStatus { conditions: Some(vec![condition("Programmed", generation)]), ..GatewayStatus::default() }
}

fn condition(kind: &str, generation: i64) -> Condition {
    Condition {
        type_: kind.into(),
        status: "True".into(),
        reason: kind.into(),
        message: String::new(),
        observed_generation: Some(generation),
        last_transition_time: Time(jiff::Timestamp::UNIX_EPOCH),
    }
}

fn parents(name: &str) -> Vec<RouteParentStatus> {
    let parent_ref = ParentReference { name: name.into(), ..ParentReference::default() };
    let conditions = vec![condition("Accepted", 1)];
    vec![RouteParentStatus { parent_ref, controller_name: "ours".into(), conditions }]
}

fn observe(target: &Target, status: Option<Value>) -> BTreeMap<Target, Observed> {
    [(target.clone(), Observed::new(target.kind, status, &[], &["ours".into()]))].into()
}

fn running(version: Hash) -> Connected {
    let mut connected = Connected::new(1);
    (connected.version, connected.ready) = (Some(version), true);
    connected
}

/// What is to be written when all is compared.
fn compare(
    wanted: &Wanted,
    observed: &BTreeMap<Target, Observed>,
    gate: &mut Gate,
    acks: &Acks,
    refused: &BTreeMap<DataPlane, Refused>,
    now: Instant,
) -> Unwritten {
    let mut all = Wanted { withdraws: wanted.withdraws.clone(), ..Wanted::default() };
    all.replace(wanted.statuses.clone());
    all.touch(observed.keys().cloned());
    all.settle(gate, &View { observed, acks, refused, now });
    Unwritten::clone(all.unwritten())
}

/// The same when data planes refuse nothing.
fn unwritten(wanted: &Wanted, observed: &BTreeMap<Target, Observed>, gate: &mut Gate, acks: &Acks) -> Unwritten {
    compare(wanted, observed, gate, acks, &BTreeMap::new(), Instant::now())
}

fn pods(plane: &DataPlane, names: &[&str]) -> BTreeMap<DataPlane, BTreeSet<String>> {
    [(plane.clone(), names.iter().map(|name| (*name).to_owned()).collect())].into()
}

#[test]
fn only_differences_are_written_and_foreign_entries_do_not_count() {
    let object = ObjectKey::new("shop", "web");
    let target = Target::of(Kind::HTTPRoute, &object).unwrap();
    let mut wanted = Wanted::default();
    let mut statuses = Statuses::default();
    statuses.routes.insert((Kind::HTTPRoute, object), parents("a").into());
    wanted.replace(statuses);
    let unwritten = |observed| unwritten(&wanted, &observed, &mut Gate::default(), &Acks::default()).len();

    assert_eq!(unwritten(observe(&target, None)), 1);
    let ours = json!({"parentRef": {"name": "a"}, "controllerName": "ours", "conditions": [condition("Accepted", 1)]});
    let theirs = json!({"parentRef": {"name": "b"}, "controllerName": "theirs", "conditions": []});
    assert_eq!(unwritten(observe(&target, Some(json!({"parents": [theirs, ours]})))), 0);
    assert_eq!(unwritten(observe(&target, Some(json!({"parents": [theirs]})))), 1);
    assert_eq!(unwritten(BTreeMap::new()), 0, "an object that is gone gets no status");
}

#[test]
fn what_is_still_unwritten_is_not_serialised_again() {
    let [same, edited] = ["same", "edited"].map(|name| ObjectKey::new("shop", name));
    let of = |object: &ObjectKey| Target::of(Kind::HTTPRoute, object).unwrap();
    let observed: BTreeMap<_, _> = [&same, &edited].into_iter().flat_map(|object| observe(&of(object), None)).collect();
    let mut statuses = Statuses::default();
    for object in [&same, &edited] {
        statuses.routes.insert((Kind::HTTPRoute, object.clone()), parents("a").into());
    }
    let mut wanted = Wanted::default();
    let mut unwritten = |statuses: &Statuses| {
        wanted.replace(statuses.clone());
        let (acks, refused, now) = (Acks::default(), BTreeMap::new(), Instant::now());
        wanted.settle(&mut Gate::default(), &View { observed: &observed, acks: &acks, refused: &refused, now });
        wanted.unwritten().clone()
    };
    let before = unwritten(&statuses);
    statuses.routes.insert((Kind::HTTPRoute, edited.clone()), parents("b").into());
    let after = unwritten(&statuses);
    assert!(Arc::ptr_eq(&before[&of(&same)], &after[&of(&same)]));
    assert_eq!(after[&of(&edited)].status["parents"][0]["parentRef"]["name"], "b");
}

#[test]
fn an_event_or_an_acknowledgement_compares_what_it_touches() {
    let gateway = |name: &str| ObjectKey::new("shop", name);
    let [plane, other] = ["a", "b"].map(|name| DataPlane::Gateway(gateway(name)));
    let mut statuses = Statuses::default();
    for name in ["a", "b"] {
        statuses.gateways.insert(gateway(name), programmed(1));
        for number in 0..100 {
            let route = ObjectKey::new("shop", format!("{name}-{number}"));
            statuses.routes.insert((Kind::HTTPRoute, route), parents(name).into());
        }
    }
    let mut observed: BTreeMap<_, _> = statuses
        .routes
        .keys()
        .map(|(kind, object)| Target::of(*kind, object).unwrap())
        .chain(statuses.gateways.keys().map(|object| Target::of(Kind::Gateway, object).unwrap()))
        .flat_map(|target| observe(&target, None))
        .collect();
    let (mut wanted, mut gate, mut acks, refused) = Default::default();
    let (wanted, gate, acks): (&mut Wanted, &mut Gate, &mut Acks) = (&mut wanted, &mut gate, &mut acks);
    let settle = |wanted: &mut Wanted, gate: &mut Gate, acks: &Acks, observed: &BTreeMap<_, _>| {
        let compared = wanted.touched.len();
        wanted.settle(gate, &View { observed, acks, refused: &refused, now: Instant::now() });
        compared
    };
    acks.published(1, [(&plane, Hash([1; 16])), (&other, Hash([2; 16]))].into_iter());
    gate.published(1);
    acks.heard(&plane, "pod", running(Hash([9; 16])));
    acks.heard(&other, "pod", running(Hash([2; 16])));
    wanted.replace(statuses.clone());
    assert_eq!(settle(wanted, gate, acks, &observed), 202, "all are new");
    let waiting =
        |unwritten: &Unwritten| unwritten.keys().filter(|target| target.object.name.starts_with("a-")).count();
    assert_eq!((wanted.unwritten().len(), waiting(wanted.unwritten())), (102, 0));
    for (target, write) in &*wanted.unwritten().clone() {
        observed.extend(observe(target, Some(write.status.clone())));
        wanted.touch([target.clone()]);
    }
    assert_eq!(settle(wanted, gate, acks, &observed), 102);
    assert!(wanted.unwritten().is_empty());

    // Those that are settled are not compared, those that wait are.
    let seen = acks.revision();
    acks.heard(&other, "pod", Connected { ready: false, ..running(Hash([2; 16])) });
    let heard: Vec<_> = acks.changed_since(seen).cloned().collect();
    assert_eq!(heard, [other]);
    wanted.touch_planes(&heard);
    assert_eq!(settle(wanted, gate, acks, &observed), 1, "the Gateway");
    let seen = acks.revision();
    acks.heard(&plane, "pod", running(Hash([1; 16])));
    wanted.touch_planes(acks.changed_since(seen));
    assert_eq!(settle(wanted, gate, acks, &observed), 101);
    assert_eq!(waiting(wanted.unwritten()), 100);

    // One edit among all.
    for (target, write) in &*wanted.unwritten().clone() {
        observed.extend(observe(target, Some(write.status.clone())));
        wanted.touch([target.clone()]);
    }
    settle(wanted, gate, acks, &observed);
    statuses.routes.insert((Kind::HTTPRoute, gateway("a-7")), parents("b").into());
    wanted.replace(statuses);
    assert!(settle(wanted, gate, acks, &observed) <= 2, "and what is outstanding");
}

#[test]
fn an_empty_list_is_no_difference_to_no_status() {
    let object = ObjectKey::new("shop", "web");
    let target = Target::of(Kind::HTTPRoute, &object).unwrap();
    let mut wanted = Wanted::default();
    let mut statuses = Statuses::default();
    statuses.routes.insert((Kind::HTTPRoute, object), Vec::new().into());
    wanted.replace(statuses);
    assert!(unwritten(&wanted, &observe(&target, None), &mut Gate::default(), &Acks::default()).is_empty());
}

#[test]
fn the_order_of_entries_is_no_difference() {
    let object = ObjectKey::new("shop", "web");
    let route = Target::of(Kind::HTTPRoute, &object).unwrap();
    let policy = Target::of(Kind::BackendTLSPolicy, &object).unwrap();
    let ancestor = |name: &str| PolicyAncestorStatus {
        ancestor_ref: parents(name).remove(0).parent_ref,
        controller_name: "ours".into(),
        conditions: vec![condition("Accepted", 1), condition("ResolvedRefs", 1)],
    };
    let mut wanted = Wanted::default();
    let mut statuses = Statuses::default();
    statuses.routes.insert((Kind::HTTPRoute, object.clone()), [parents("a"), parents("b")].concat().into());
    statuses.policies.insert((Kind::BackendTLSPolicy, object), vec![ancestor("a"), ancestor("b")]);
    wanted.replace(statuses);
    let unwritten = |observed| unwritten(&wanted, &observed, &mut Gate::default(), &Acks::default()).len();

    let theirs = json!({"parentRef": {"name": "c"}, "controllerName": "theirs", "conditions": []});
    let entry = |name: &str| json!(parents(name)[0]);
    assert_eq!(unwritten(observe(&route, Some(json!({"parents": [entry("b"), theirs, entry("a")]})))), 0);
    assert_eq!(unwritten(observe(&route, Some(json!({"parents": [entry("b"), theirs]})))), 1);
    assert_eq!(unwritten(observe(&route, Some(json!({"parents": [entry("b"), entry("b"), entry("a")]})))), 1);
    let mut stored = [ancestor("b"), ancestor("a")];
    assert_eq!(unwritten(observe(&policy, Some(json!({"ancestors": stored})))), 0);
    stored[0].conditions.reverse();
    assert_eq!(unwritten(observe(&policy, Some(json!({"ancestors": stored})))), 0);
    stored[0].conditions.pop();
    assert_eq!(unwritten(observe(&policy, Some(json!({"ancestors": stored})))), 1);
}

#[test]
fn a_list_that_is_full_of_right_entries_is_not_written_again() {
    let object = ObjectKey::new("shop", "web");
    let ours = |number: usize| parents(&format!("gateway-{number:02}")).remove(0);
    for (kind, field, limit) in [(Kind::HTTPRoute, "parents", 32), (Kind::TrafficPolicy, "ancestors", 16)] {
        let target = Target::of(kind, &object).unwrap();
        let wants = |count: usize| {
            let mut statuses = Statuses::default();
            let ancestor = |parent: RouteParentStatus| PolicyAncestorStatus {
                ancestor_ref: parent.parent_ref,
                controller_name: parent.controller_name,
                conditions: parent.conditions,
            };
            match field {
                "parents" => _ = statuses.routes.insert((kind, object.clone()), (0..count).map(ours).collect()),
                _ => _ = statuses.policies.insert((kind, object.clone()), (0..count).map(ours).map(ancestor).collect()),
            }
            let mut wanted = Wanted::default();
            wanted.replace(statuses);
            wanted
        };
        let unwritten = |count: usize, stored: &Value| {
            let observed = observe(&target, Some(json!({ field: stored })));
            unwritten(&wants(count), &observed, &mut Gate::default(), &Acks::default())
        };
        let theirs =
            |number: usize| json!({"parentRef": {"name": number}, "controllerName": "theirs", "conditions": []});
        let foreign = Value::Array((0..limit - 2).map(theirs).collect());
        // As the writer writes it.
        let first = unwritten(4, &foreign).remove(&target).unwrap().status.clone();
        let wanted = first[field].as_array().unwrap().clone();
        let merged = |stored: &Value| Value::from(merge::entries(stored, wanted.clone(), &["ours".into()], limit));
        let stored = merged(&foreign);
        assert_eq!(stored.as_array().unwrap().len(), limit);
        assert_eq!(unwritten(4, &stored), Unwritten::new(), "{kind}");
        assert_eq!(unwritten(1, &stored).len(), 1, "one of them has to go");
        let mut wrong = stored.clone();
        wrong[limit - 1]["conditions"][0]["status"] = "False".into();
        assert_eq!(unwritten(4, &wrong).len(), 1, "one of them is wrong");
        assert_eq!(merged(&wrong), stored);
    }
}

#[test]
fn a_gateway_is_programmed_after_the_acknowledgement_and_stays_so() {
    let object = ObjectKey::new("shop", "web");
    let plane = DataPlane::Gateway(object.clone());
    let target = Target::of(Kind::Gateway, &object).unwrap();
    let version = Hash([1; 16]);
    let (mut gate, mut acks) = (Gate::default(), Acks::default());
    acks.published(1, [(&plane, version)].into_iter());
    gate.published(1);
    let mut wanted = Wanted::default();
    let mut statuses = Statuses::default();
    statuses.gateways.insert(object.clone(), programmed(1));
    wanted.replace(statuses.clone());
    let told = |written: &Unwritten| written[&target].status["conditions"][0].clone();

    let before = observe(&target, None);
    let written = unwritten(&wanted, &before, &mut gate, &acks);
    assert_eq!(told(&written)["status"], "False");
    assert_eq!(told(&written)["reason"], "Pending");

    acks.heard(&plane, "pod", running(version));
    let written = unwritten(&wanted, &before, &mut gate, &acks);
    assert_eq!(told(&written)["status"], "True");

    // This replica is new and has heard of no data plane yet: what was programmed is not taken back.
    let after = observe(&target, Some(written[&target].status.clone()));
    assert!(unwritten(&wanted, &after, &mut gate, &Acks::default()).is_empty());

    // Without a Service, or without a Deployment, nobody reaches them for long.
    gate.lack([(plane.clone(), "no Service".to_owned())].into());
    let written = unwritten(&wanted, &after, &mut gate, &acks);
    assert_eq!((&told(&written)["status"], &told(&written)["message"]), (&json!("False"), &json!("no Service")));
    gate.lack(BTreeMap::new());
    assert!(unwritten(&wanted, &after, &mut gate, &acks).is_empty());

    // A new generation waits for a new acknowledgement.
    statuses.gateways.insert(object, programmed(2));
    wanted.replace(statuses);
    acks.published(2, [(&plane, Hash([2; 16]))].into_iter());
    gate.published(2);
    assert_eq!(told(&unwritten(&wanted, &after, &mut gate, &acks))["status"], "False");
}

#[test]
fn what_was_written_to_an_object_that_is_not_ours_any_more_is_withdrawn() {
    let fields = |manager: &str, operation: &str, kind: &str| ManagedFieldsEntry {
        manager: Some(manager.into()),
        operation: Some(operation.into()),
        fields_v1: serde_json::from_value(
            json!({"f:status": {"f:conditions": {format!(r#"k:{{"type":"{kind}"}}"#): {}}}}),
        )
        .unwrap(),
        ..ManagedFieldsEntry::default()
    };
    let ours = fields("ours", "Apply", "Accepted");
    let set = Target::of(Kind::ListenerSet, &ObjectKey::new("shop", "web")).unwrap();
    let write = |wanted: &Wanted, target: &Target, written: &[ManagedFieldsEntry]| {
        let observed = Observed::new(target.kind, Some(json!({})), written, &["ours".into()]);
        let observed = [(target.clone(), observed)].into();
        let mut unwritten = unwritten(wanted, &observed, &mut Gate::default(), &Acks::default());
        unwritten.remove(target).map(|write| write.status.clone())
    };
    let mut wanted = Wanted::default();
    assert_eq!(write(&wanted, &set, std::slice::from_ref(&ours)), None, "not before it is known what is ours");
    wanted.withdraws = [Kind::Gateway, Kind::ListenerSet, Kind::Ingress].into();
    assert_eq!(write(&wanted, &set, &[ours.clone(), fields("monitor", "Update", "Audited")]), Some(Value::Null));
    assert_eq!(write(&wanted, &set, &[fields("theirs", "Apply", "Accepted")]), None);
    assert_eq!(
        write(&wanted, &set, &[ours.clone(), fields("theirs", "Update", "Accepted")]),
        None,
        "they judge it now"
    );
    assert_eq!(write(&wanted, &set, &[]), None);
    let ingress = Target::of(Kind::Ingress, &set.object).unwrap();
    assert_eq!(write(&wanted, &ingress, std::slice::from_ref(&ours)), None);

    let addresses = |manager: &str, operation: &str| ManagedFieldsEntry {
        fields_v1: serde_json::from_value(json!({"f:status": {"f:loadBalancer": {"f:ingress": {}}}})).unwrap(),
        ..fields(manager, operation, "")
    };
    assert_eq!(write(&wanted, &ingress, &[addresses("ours", "Apply")]), Some(Value::Null));
    assert_eq!(write(&wanted, &ingress, &[addresses("theirs", "Update")]), None);
    assert_eq!(write(&wanted, &ingress, &[addresses("ours", "Apply"), addresses("theirs", "Update")]), None);
    wanted.withdraws.remove(&Kind::Ingress);
    assert_eq!(write(&wanted, &ingress, &[addresses("ours", "Apply")]), None, "not before it is known what is ours");

    let mut statuses = Statuses::default();
    statuses.gateways.insert(set.object.clone(), programmed(1));
    wanted.replace(statuses);
    let gateway = Target::of(Kind::Gateway, &set.object).unwrap();
    assert!(write(&wanted, &gateway, &[ours]).is_some_and(|status| status["conditions"].is_array()));
}

#[test]
fn a_listener_that_comes_without_a_new_generation_waits_for_data_planes_too() {
    let object = ObjectKey::new("shop", "web");
    let plane = DataPlane::Gateway(object.clone());
    let (mut gate, mut acks) = (Gate::default(), Acks::default());
    let version = |number: u64| Hash([number as u8; 16]);
    let publish = |gate: &mut Gate, acks: &mut Acks, number: u64| {
        acks.published(number, [(&plane, version(number))].into_iter());
        gate.published(number);
    };
    let listener = |name: &str, verdict: &str| {
        let programmed = Condition { status: verdict.into(), ..condition("Programmed", 1) };
        ListenerStatus { name: name.into(), conditions: vec![programmed], ..ListenerStatus::default() }
    };
    let gateway = |with: &str| GatewayStatus {
        listeners: Some(vec![listener("plain", "True"), listener("secret", with)]),
        ..programmed(1)
    };
    let set = |with: &str| {
        let GatewayStatus { conditions, listeners, .. } = gateway(with);
        ListenerSetStatus { conditions, listeners }
    };
    let mut wanted = Wanted::default();
    let replace = |wanted: &mut Wanted, with: &str| {
        wanted.replace(Statuses {
            gateways: [(object.clone(), gateway(with))].into(),
            listener_sets: [(object.clone(), set(with))].into(),
            listener_set_gateways: [(object.clone(), object.clone())].into(),
            ..Statuses::default()
        });
    };
    replace(&mut wanted, "False");
    publish(&mut gate, &mut acks, 1);
    acks.heard(&plane, "pod", running(version(1)));
    let targets = [Kind::Gateway, Kind::ListenerSet].map(|kind| Target::of(kind, &object).unwrap());
    let mut observed: BTreeMap<_, _> = targets.iter().flat_map(|target| observe(target, None)).collect();
    let mut write = |wanted: &Wanted, gate: &mut Gate, acks: &Acks| {
        let written = unwritten(wanted, &observed, gate, acks);
        targets.each_ref().map(|target| {
            let status = &written[target].status;
            observed.extend(observe(target, Some(status.clone())));
            let of = |holder: &Value| holder["conditions"][0]["reason"].clone();
            [of(status), of(&status["listeners"][0]), of(&status["listeners"][1])]
        })
    };
    let verdicts = write(&wanted, &mut gate, &acks);
    assert_eq!(verdicts, [["Programmed"; 3]; 2], "the reason of the second one is that of translation");

    // Its Secret is created: the same generation, another publication.
    replace(&mut wanted, "True");
    publish(&mut gate, &mut acks, 2);
    assert_eq!(write(&wanted, &mut gate, &acks), [["Programmed", "Programmed", "Pending"]; 2]);
    acks.heard(&plane, "pod", running(version(2)));
    assert_eq!(write(&wanted, &mut gate, &acks), [["Programmed"; 3]; 2]);
}

#[test]
fn conditions_and_listeners_of_others_make_no_difference_and_own_ones_do() {
    let object = ObjectKey::new("shop", "web");
    let target = Target::of(Kind::Gateway, &object).unwrap();
    let listener =
        ListenerStatus { name: "http".into(), conditions: vec![condition("Accepted", 1)], ..ListenerStatus::default() };
    let status = GatewayStatus {
        conditions: Some(vec![condition("Accepted", 1)]),
        listeners: Some(vec![listener]),
        ..GatewayStatus::default()
    };
    let mut wanted = Wanted::default();
    wanted.replace(Statuses { gateways: [(object, status.clone())].into(), ..Statuses::default() });
    let (mut gate, mut acks) = (Gate::default(), Acks::default());
    acks.published(0, [].into_iter());
    let mut differs = |edit: &dyn Fn(&mut Value)| {
        let mut stored = value(&status);
        edit(&mut stored);
        !unwritten(&wanted, &observe(&target, Some(stored)), &mut gate, &acks).is_empty()
    };
    let add = |list: &mut Value, item: Value| list.as_array_mut().unwrap().push(item);
    assert!(!differs(&|_| {}));
    let foreign = || json!(condition("example.com/Backup", 1));
    assert!(!differs(&|stored| add(&mut stored["conditions"], foreign())));
    assert!(!differs(&|stored| add(&mut stored["listeners"][0]["conditions"], foreign())));
    assert!(!differs(&|stored| {
        add(&mut stored["listeners"], json!({"name": "x", "conditions": [foreign()]}));
    }));
    let former = || json!(condition("OverlappingTLSConfig", 1));
    assert!(differs(&|stored| add(&mut stored["conditions"], former())));
    assert!(differs(&|stored| add(&mut stored["listeners"][0]["conditions"], former())));
    assert!(differs(&|stored| {
        add(&mut stored["listeners"], json!({"name": "x", "conditions": [former(), foreign()]}));
    }));
}

#[test]
fn a_listener_that_a_data_plane_rejects_is_not_programmed() {
    let object = ObjectKey::new("shop", "web");
    let plane = DataPlane::Gateway(object.clone());
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
    let certificates = vec![ServerCertificate { hosts: vec![HostPattern::Any], certificate: "shop/tls".into() }];
    let tls = Protocol::Https(Tls { certificates, default_certificate: None, client_validation: None });
    let mut snapshot = Snapshot::default();
    for (name, protocol) in [("shop/web/plain", Protocol::Http), ("shop/web/busy", tls)] {
        snapshot.insert(name, Resource::Listener(Listener { port: 80, hostname: HostPattern::Any, protocol }));
    }
    let mut write = |acks: &Acks, stored: Option<Value>| {
        let refused = [(plane.clone(), Refused::new(&snapshot, &acks.rejected(&plane)))].into();
        let now = Instant::now();
        let unwritten = compare(&wanted, &observe(&target, stored), &mut gate, acks, &refused, now);
        unwritten[&target].status.clone()
    };
    let of = |holder: &Value| holder["conditions"][0].clone();

    for (id, why) in [
        (ResourceId::new(snapshot::Kind::Listener, "shop/web/busy"), "port 80 cannot be bound"),
        (ResourceId::new(snapshot::Kind::Certificate, "shop/tls"), "Secret shop/tls: the key does not fit"),
    ] {
        acks.heard(&plane, "one", running(version));
        let mut other = running(version);
        other.rejected.insert(id, why.rsplit(": ").next().unwrap().into());
        acks.heard(&plane, "two", other);
        let status = write(&acks, None);
        assert_eq!(of(&status)["status"], "False");
        assert_eq!(of(&status)["reason"], "Invalid");
        assert!(of(&status)["message"].as_str().unwrap().contains("busy"));
        assert_eq!(of(&status["listeners"][0])["status"], "True");
        assert_eq!(of(&status["listeners"][1])["reason"], "Invalid");
        assert!(of(&status["listeners"][1])["message"].as_str().unwrap().contains(why));

        // It is taken now.
        acks.heard(&plane, "two", running(version));
        let status = write(&acks, Some(status));
        assert_eq!([&status, &status["listeners"][1]].map(|holder| of(holder)["status"].clone()), ["True", "True"]);
    }
}

#[test]
fn a_listener_set_is_programmed_as_the_data_planes_of_its_gateway_tell() {
    let (set, gateway) = (ObjectKey::new("team", "extra"), ObjectKey::new("shop", "web"));
    let plane = DataPlane::Gateway(gateway.clone());
    let target = Target::of(Kind::ListenerSet, &set).unwrap();
    let version = Hash([1; 16]);
    let (mut gate, mut acks) = (Gate::default(), Acks::default());
    acks.published(1, [(&plane, version)].into_iter());
    gate.published(1);
    let conditions = vec![condition("Programmed", 1)];
    let listener = ListenerStatus { name: "plain".into(), conditions: conditions.clone(), ..ListenerStatus::default() };
    let status = ListenerSetStatus { conditions: Some(conditions), listeners: Some(vec![listener]) };
    let mut statuses = Statuses::default();
    statuses.listener_sets.insert(set.clone(), status);
    statuses.listener_set_gateways.insert(set, gateway);
    let mut wanted = Wanted::default();
    wanted.replace(statuses);
    let name = "ListenerSet/team/extra/plain";
    let mut snapshot = Snapshot::default();
    let hostname = HostPattern::Any;
    snapshot.insert(name, Resource::Listener(Listener { port: 80, hostname, protocol: Protocol::Http }));
    let mut told = |acks: &Acks| {
        let refused = [(plane.clone(), Refused::new(&snapshot, &acks.rejected(&plane)))].into();
        let now = Instant::now();
        let unwritten = compare(&wanted, &observe(&target, None), &mut gate, acks, &refused, now);
        let status = &unwritten[&target].status;
        [&status["conditions"], &status["listeners"][0]["conditions"]].map(|list| list[0]["reason"].clone())
    };
    assert_eq!(told(&acks), ["Pending", "Pending"]);
    acks.heard(&plane, "pod", running(version));
    assert_eq!(told(&acks), ["Programmed", "Programmed"]);
    let mut refusing = running(version);
    refusing.rejected.insert(ResourceId::new(snapshot::Kind::Listener, name), "port 80 cannot be bound".into());
    acks.heard(&plane, "pod", refusing);
    assert_eq!(told(&acks), ["Invalid", "Invalid"]);
}

#[test]
fn a_route_that_a_data_plane_does_not_take_says_so_under_that_gateway_alone() {
    let object = ObjectKey::new("shop", "web");
    let target = Target::of(Kind::HTTPRoute, &object).unwrap();
    let gateways = ["a", "b"].map(|name| ObjectKey::new("shop", name));
    let own = gateways.clone().map(DataPlane::Gateway);
    // Also where both are served by the same data planes.
    let shared = ["c", "c"].map(|class| DataPlane::Class(class.into()));
    for planes in [own, shared] {
        let data_planes = gateways.iter().cloned().zip(planes.clone()).collect();
        let mut statuses = Statuses { data_planes, ..Statuses::default() };
        let parents = [parents("a"), parents("b")].concat();
        statuses.routes.insert((Kind::HTTPRoute, object.clone()), parents.into());
        let mut wanted = Wanted::default();
        wanted.replace(statuses);
        let id = ResourceId::new(snapshot::Kind::Route, "HTTPRoute/shop/web@shop/a");
        let refused = Refused::new(&Snapshot::default(), &[(&id, "too many rules")].into());
        let refused = [(planes[0].clone(), refused)].into();
        let written = |refused: &BTreeMap<DataPlane, Refused>, stored: Option<Value>| {
            let (mut gate, acks, now) = (Gate::default(), Acks::default(), Instant::now());
            let observed = observe(&target, stored);
            let unwritten = compare(&wanted, &observed, &mut gate, &acks, refused, now);
            unwritten.get(&target).map(|write| write.status.clone())
        };
        let status = written(&refused, None).unwrap();
        let conditions = status["parents"][0]["conditions"].as_array().unwrap();
        let told: Vec<_> = conditions.iter().map(|condition| (&condition["type"], &condition["status"])).collect();
        assert_eq!(told, [(&json!("Accepted"), &json!("True")), (&json!("PartiallyInvalid"), &json!("True"))]);
        let message = conditions[1]["message"].as_str().unwrap();
        assert!(message.starts_with("Fall Back") && message.contains("too many rules"), "{message}");
        assert_eq!(status["parents"][1]["conditions"].as_array().unwrap().len(), 1);

        assert_eq!(written(&refused, Some(status.clone())), None);
        let status = written(&BTreeMap::new(), Some(status)).unwrap();
        assert_eq!(status["parents"][0]["conditions"].as_array().unwrap().len(), 1);
    }
}

#[test]
fn a_gateway_waits_for_every_data_plane_that_the_cluster_holds_for_ready() {
    let object = ObjectKey::new("shop", "web");
    let plane = DataPlane::Gateway(object.clone());
    let target = Target::of(Kind::Gateway, &object).unwrap();
    let version = Hash([1; 16]);
    let (mut gate, mut acks) = (Gate::default(), Acks::default());
    acks.published(1, [(&plane, version)].into_iter());
    gate.published(1);
    gate.expect(pods(&plane, &["one", "two"]));
    let mut wanted = Wanted::default();
    wanted.replace(Statuses { gateways: [(object, programmed(1))].into(), ..Statuses::default() });
    let mut verdict = |acks: &Acks| {
        let written = unwritten(&wanted, &observe(&target, None), &mut gate, acks);
        written[&target].status["conditions"][0]["status"].clone()
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
    assert!(unwritten(&wanted, &before, &mut gate, &acks).is_empty());
    acks.heard(&DataPlane::Shared, "pod", running(Hash([1; 16])));
    gate.expect(pods(&DataPlane::Shared, &["pod", "other"]));
    assert!(unwritten(&wanted, &before, &mut gate, &acks).is_empty(), "another one gets traffic too");
    acks.heard(&DataPlane::Shared, "other", running(Hash([1; 16])));
    let written = unwritten(&wanted, &before, &mut gate, &acks);
    assert_eq!(written[&target].status, json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}}));
    let after = observe(&target, Some(written[&target].status.clone()));
    assert!(unwritten(&wanted, &after, &mut gate, &acks).is_empty());
}

#[test]
fn routes_and_policies_are_accepted_once_every_ready_data_plane_serves_them_or_patience_ends() {
    let object = ObjectKey::new("shop", "web");
    let plane = DataPlane::Gateway(ObjectKey::new("shop", "a"));
    let mut statuses = Statuses::default();
    let kinds = Kind::ALL.iter().copied().filter(|kind| kind.is_route() || kind.is_policy());
    for kind in kinds.clone().filter(|kind| kind.is_route()) {
        statuses.routes.insert((kind, object.clone()), parents("a").into());
    }
    // A set of listeners is served by its Gateway.
    let mut under_a_set = parents("extra");
    under_a_set[0].parent_ref.kind = Some("ListenerSet".into());
    statuses.routes.insert((Kind::TCPRoute, object.clone()), under_a_set.into());
    statuses.listener_set_gateways.insert(ObjectKey::new("shop", "extra"), ObjectKey::new("shop", "a"));
    let ancestor = PolicyAncestorStatus {
        ancestor_ref: ParentReference { kind: Some("Gateway".into()), ..parents("a").remove(0).parent_ref },
        controller_name: "ours".into(),
        conditions: vec![condition("Accepted", 1)],
    };
    for kind in kinds.clone().filter(|kind| kind.is_policy()) {
        statuses.policies.insert((kind, object.clone()), vec![ancestor.clone()]);
    }
    let mut wanted = Wanted::default();
    wanted.replace(statuses);
    let targets: Vec<_> = kinds.map(|kind| Target::of(kind, &object).unwrap()).collect();
    let observed: BTreeMap<_, _> = targets.iter().flat_map(|target| observe(target, None)).collect();
    let (mut gate, mut acks) = (Gate::default(), Acks::default());
    let begin = Instant::now();
    let waits = |gate: &mut Gate, acks: &Acks, after: u64| {
        let now = begin + Duration::from_secs(after);
        let written = compare(&wanted, &observed, gate, acks, &BTreeMap::new(), now).len();
        assert!(written == 0 || written == targets.len(), "all or none: {written}");
        written == 0
    };

    assert!(!waits(&mut gate, &acks, 0), "with nobody to wait for");
    acks.published(0, [(&plane, Hash([1; 16]))].into_iter());
    acks.heard(&plane, "pod", running(Hash([9; 16])));
    assert!(waits(&mut gate, &acks, 0), "one runs something older");
    acks.heard(&plane, "pod", running(Hash([1; 16])));
    assert!(!waits(&mut gate, &acks, 0));

    gate.expect(pods(&plane, &["pod", "other"]));
    assert!(waits(&mut gate, &acks, 1), "another one gets traffic and is not connected");
    let end = gate.take_wake().unwrap();
    assert!(end > begin && !waits(&mut gate, &acks, (end - begin).as_secs() + 1), "not for ever");
    acks.heard(&plane, "other", running(Hash([1; 16])));
    assert!(!waits(&mut gate, &acks, 1));
}

/// Something that happens to what statuses depend on.
#[derive(Clone, Debug)]
enum Happening {
    /// A data plane of a Gateway tells that it runs this version.
    Heard(usize, usize, u8),
    /// It is gone.
    Ended(usize, usize),
    /// So many of its pods are ready.
    Ready(usize, usize),
    /// It lacks a Service, or has it.
    Lacks(usize, bool),
    /// A route names this Gateway, and both are published.
    Edited(usize, usize),
    /// What is to be written is written.
    Written,
    /// The status of a route is lost.
    Lost(usize),
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        4 => (0..2_usize, 0..2_usize, 0..8_u8).prop_map(|(plane, pod, version)| Happening::Heard(plane, pod, version)),
        1 => (0..2_usize, 0..2_usize).prop_map(|(plane, pod)| Happening::Ended(plane, pod)),
        2 => (0..2_usize, 0..3_usize).prop_map(|(plane, pods)| Happening::Ready(plane, pods)),
        1 => (0..2_usize, any::<bool>()).prop_map(|(plane, lacks)| Happening::Lacks(plane, lacks)),
        3 => (0..4_usize, 0..2_usize).prop_map(|(route, gateway)| Happening::Edited(route, gateway)),
        3 => Just(Happening::Written),
        1 => (0..4_usize).prop_map(Happening::Lost),
    ]
}

proptest! {
    #[test]
    fn comparing_what_is_touched_finds_what_comparing_all_finds(happenings in prop::collection::vec(happening(), 0..60)) {
        let gateway = |number: usize| ObjectKey::new("shop", ["a", "b"][number]);
        let plane = |number: usize| DataPlane::Gateway(gateway(number));
        let route = |number: usize| ObjectKey::new("shop", format!("route-{number}"));
        let target_of = |number: usize| Target::of(Kind::HTTPRoute, &route(number)).unwrap();
        let mut statuses = Statuses::default();
        let mut observed = BTreeMap::new();
        for number in 0..2 {
            statuses.gateways.insert(gateway(number), programmed(1));
            observed.extend(observe(&Target::of(Kind::Gateway, &gateway(number)).unwrap(), None));
        }
        let (mut wanted, mut gate, mut acks, refused) =
            (Wanted::default(), Gate::default(), Acks::default(), BTreeMap::new());
        wanted.replace(statuses.clone());
        let (mut ready, mut lacking) = (BTreeMap::new(), BTreeMap::new());
        let (mut heard, mut publication, mut session, now) = (0, 0, 0, Instant::now());
        for happening in happenings {
            session += 1;
            match happening {
                Happening::Heard(number, pod, version) => {
                    let connected = Connected { version: Some(Hash([version; 16])), ready: true, ..Connected::new(session) };
                    acks.heard(&plane(number), ["x", "y"][pod], connected);
                }
                Happening::Ended(number, pod) => {
                    let known = acks.connected(&plane(number)).find(|(name, _)| *name == ["x", "y"][pod]);
                    if let Some(session) = known.map(|(_, known)| known.session) {
                        acks.ended(&plane(number), ["x", "y"][pod], session);
                    }
                }
                Happening::Ready(number, count) => {
                    ready.extend(pods(&plane(number), &["x", "y"][..count]));
                    wanted.touch_planes(&gate.expect(ready.clone()));
                }
                Happening::Lacks(number, lacks) => {
                    if lacks { lacking.insert(plane(number), "no Service".to_owned()); } else { lacking.remove(&plane(number)); }
                    wanted.touch_planes(&gate.lack(lacking.clone()));
                }
                Happening::Edited(number, to) => {
                    statuses.routes.insert((Kind::HTTPRoute, route(number)), parents(["a", "b"][to]).into());
                    if !observed.contains_key(&target_of(number)) {
                        observed.extend(observe(&target_of(number), None));
                        wanted.touch([target_of(number)]);
                    }
                    publication += 1;
                    let version = Hash([(publication % 8) as u8; 16]);
                    acks.published(publication, [(&plane(0), version), (&plane(1), version)].into_iter());
                    gate.published(publication);
                    wanted.replace(statuses.clone());
                }
                Happening::Written => {
                    for (target, write) in &*wanted.unwritten().clone() {
                        observed.extend(observe(target, Some(write.status.clone())));
                        wanted.touch([target.clone()]);
                    }
                }
                Happening::Lost(number) => {
                    if observed.contains_key(&target_of(number)) {
                        observed.extend(observe(&target_of(number), None));
                        wanted.touch([target_of(number)]);
                    }
                }
            }
            wanted.touch_planes(acks.changed_since(heard));
            heard = acks.revision();
            wanted.settle(&mut gate, &View { observed: &observed, acks: &acks, refused: &refused, now });
            let all = compare(&wanted, &observed, &mut gate.clone(), &acks, &refused, now);
            prop_assert_eq!(&**wanted.unwritten(), &all);
        }
    }
}
