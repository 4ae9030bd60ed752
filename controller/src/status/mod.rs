//! Statuses: what the API server holds, what it should hold, and the difference.

mod gate;
mod managed;
mod merge;
mod programmed;
mod queue;
mod refused;
mod writer;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ManagedFieldsEntry};
use kube::ResourceExt;
use kube::api::DynamicObject;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::time::Instant;
use translate::{DataPlane, Kind, ObjectKey, Parents, Statuses};

use crate::stream::{Acks, Wait};

use gate::Claim;
pub use gate::Gate;
pub use managed::controllers;
use programmed::World;
pub use refused::Refused;
pub use writer::{MANAGER, Writer, clear};

/// The types of the conditions that translation gives to GatewayClasses, Gateways, ListenerSets and their listeners.
const CONDITIONS: [&str; 7] = [
    "Accepted",
    "Conflicted",
    "InsecureFrontendValidationMode",
    "OverlappingTLSConfig",
    "Programmed",
    "ResolvedRefs",
    "SupportedVersion",
];

/// Lists whose order says nothing. That of the stored list is kept, so a difference would be found again after every write.
const SETS: [&str; 5] = ["ancestors", "conditions", "listeners", "parents", "supportedFeatures"];

/// An object whose status the controller writes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Target {
    /// Its kind.
    pub kind: Kind,
    /// Its name.
    pub object: ObjectKey,
}

impl Target {
    /// The target for an object of a kind whose status the controller writes.
    pub fn of(kind: Kind, object: &ObjectKey) -> Option<Self> {
        let own = matches!(kind, Kind::Ingress | Kind::GatewayClass | Kind::Gateway | Kind::ListenerSet);
        (own || entries_field(kind).is_some()).then(|| Self { kind, object: object.clone() })
    }
}

/// A hash of a status without its transition times, and without the order of [`SETS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    fn of(status: &Value) -> Self {
        fn feed(hasher: &mut blake3::Hasher, member: &str, value: &Value) {
            match value {
                Value::Object(members) => {
                    hasher.update(b"{");
                    for (name, member) in members.iter().filter(|(name, _)| *name != "lastTransitionTime") {
                        hasher.update(&(name.len() as u64).to_le_bytes()).update(name.as_bytes());
                        feed(hasher, name, member);
                    }
                    hasher.update(b"}");
                }
                Value::Array(items) => {
                    hasher.update(b"[");
                    if SETS.contains(&member) {
                        let mut items: Vec<_> = items.iter().map(|item| Fingerprint::of(item).0).collect();
                        items.sort_unstable();
                        items.iter().for_each(|item| _ = hasher.update(item));
                    } else {
                        items.iter().for_each(|item| feed(hasher, "", item));
                    }
                    hasher.update(b"]");
                }
                scalar => {
                    let text = scalar.to_string();
                    hasher.update(&(text.len() as u64).to_le_bytes()).update(text.as_bytes());
                }
            }
        }
        let mut hasher = blake3::Hasher::new();
        feed(&mut hasher, "", status);
        Self(*hasher.finalize().as_bytes())
    }
}

/// What the API server last told about a status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observed {
    /// Of the part that is the controller's own.
    pub fingerprint: Fingerprint,
    /// Of each own entry, where the list of entries is as long as the API allows: more of them cannot be written.
    pub full: Option<Vec<Fingerprint>>,
    /// The generation for which the object is said to be `Programmed`.
    pub programmed: Option<i64>,
    /// The same of its listeners, by name.
    pub listeners: BTreeMap<String, i64>,
    /// Whether it is what this controller said, and nobody else has judged the object since.
    pub is_ours: bool,
}

impl Observed {
    /// Reads a stored status with who wrote which field; entries of `controllers` are the controller's own.
    pub fn new(kind: Kind, status: Option<Value>, written: &[ManagedFieldsEntry], controllers: &[String]) -> Self {
        let mut status = status.unwrap_or(Value::Null);
        let mut full = None;
        let own = match entries_field(kind) {
            Some(field) => {
                let entries = status[field].as_array().map(Vec::as_slice).unwrap_or_default();
                let own: Vec<_> = entries.iter().filter(|entry| merge::is_own(entry, controllers)).collect();
                if entries.len() >= longest(field) {
                    full = Some(own.iter().map(|entry| Fingerprint::of(entry)).collect());
                }
                json!({ field: own })
            }
            None if kind == Kind::Ingress => match &status["loadBalancer"]["ingress"] {
                Value::Null => load_balancer(Vec::<Value>::new()),
                addresses => load_balancer(addresses),
            },
            None if status.is_null() => json!({}),
            None => {
                drop_foreign(&mut status);
                status.clone()
            }
        };
        let listeners = status["listeners"].as_array().into_iter().flatten();
        let listeners = listeners
            .filter_map(|listener| Some((listener["name"].as_str()?.to_owned(), programmed_generation(listener)?)));
        let (programmed, listeners) = (programmed_generation(&status), listeners.collect());
        let is_ours = managed::is_own(kind, written, controllers);
        Self { fingerprint: Fingerprint::of(&own), full, programmed, listeners, is_ours }
    }
}

/// Takes away the conditions that somebody else has put there, and listeners that have no others: applying the controller's own
/// keeps them.
fn drop_foreign(status: &mut Value) {
    if let Some(Value::Array(conditions)) = status.get_mut("conditions") {
        conditions.retain(|condition| condition["type"].as_str().is_some_and(|name| CONDITIONS.contains(&name)));
    }
    if let Some(Value::Array(listeners)) = status.get_mut("listeners") {
        listeners.iter_mut().for_each(drop_foreign);
        listeners.retain(|listener| listener["conditions"] != json!([]));
    }
}

/// The generation for which the holder of these conditions is said to be `Programmed`.
fn programmed_generation(holder: &Value) -> Option<i64> {
    let mut conditions = holder["conditions"].as_array()?.iter();
    let programmed = conditions.find(|condition| condition["type"] == "Programmed" && condition["status"] == "True")?;
    programmed["observedGeneration"].as_i64()
}

/// The name of the list in which each controller has entries of its own, for kinds that have one.
fn entries_field(kind: Kind) -> Option<&'static str> {
    match kind {
        kind if kind.is_route() => Some("parents"),
        kind if kind.is_policy() => Some("ancestors"),
        _ => None,
    }
}

/// How many entries the API allows in such a list.
fn longest(field: &str) -> usize {
    match field {
        "parents" => 32,
        _ => 16,
    }
}

fn load_balancer(addresses: impl Serialize) -> Value {
    json!({ "loadBalancer": { "ingress": addresses } })
}

/// Whether an object of such a kind has a status, or entries in it, that were written under these names (see [`controllers`]).
pub fn is_written(kind: Kind, object: &DynamicObject, controllers: &[String]) -> bool {
    match entries_field(kind) {
        Some(field) => {
            let entries = object.data["status"][field].as_array();
            entries.into_iter().flatten().any(|entry| merge::is_own(entry, controllers))
        }
        None => managed::is_own(kind, object.managed_fields(), controllers),
    }
}

/// A status to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// The controller's own part of the status, without transition times; null to take away what it once wrote.
    pub status: Value,
    /// Of `status`.
    pub fingerprint: Fingerprint,
}

/// Every status that the API server does not hold yet.
pub type Unwritten = BTreeMap<Target, Arc<Write>>;

/// Compares wanted statuses with observed ones. Statuses that did not change are not serialised again.
#[derive(Debug, Default)]
pub struct Wanted {
    /// The kinds where what was written to objects that are not the controller's any more is taken away. Only who knows every Gateway,
    /// or every Ingress, and every class can tell which these are.
    pub withdraws: BTreeSet<Kind>,
    statuses: Statuses,
    fingerprints: BTreeMap<Target, Fingerprint>,
}

impl Wanted {
    /// Takes the statuses of a new translation.
    pub fn replace(&mut self, statuses: Statuses) {
        let before = std::mem::replace(&mut self.statuses, statuses);
        let now = &self.statuses;
        let mut note = |kind: Kind, object: &ObjectKey, status: Option<Value>| {
            let target = Target { kind, object: object.clone() };
            match status {
                Some(status) => self.fingerprints.insert(target, Fingerprint::of(&status)),
                None => self.fingerprints.remove(&target),
            };
        };
        for (object, status) in changes(&before.gateway_classes, &now.gateway_classes, PartialEq::eq) {
            note(Kind::GatewayClass, object, status.map(value));
        }
        for (object, addresses) in changes(&before.ingresses, &now.ingresses, PartialEq::eq) {
            note(Kind::Ingress, object, addresses.map(load_balancer));
        }
        let same = |one: &Parents, other: &Parents| Arc::ptr_eq(one, other) || one == other;
        for ((kind, object), parents) in changes(&before.routes, &now.routes, same) {
            note(*kind, object, parents.map(|parents| json!({ "parents": parents.as_ref() })));
        }
        for ((kind, object), ancestors) in changes(&before.policies, &now.policies, PartialEq::eq) {
            note(*kind, object, ancestors.map(|ancestors| json!({ "ancestors": ancestors })));
        }
    }

    /// What differs from what the API server holds, as far as data planes have acknowledged it, and with what they `refused`.
    /// Of what was unwritten `before`, only what changed is serialised again: this is asked after every event.
    pub fn unwritten(
        &self,
        before: &Unwritten,
        observed: &BTreeMap<Target, Observed>,
        gate: &mut Gate,
        acks: &Acks,
        refused: &BTreeMap<DataPlane, Refused>,
        now: Instant,
    ) -> Unwritten {
        let mut unwritten = Unwritten::new();
        let mut world = World { statuses: &self.statuses, observed, gate, acks, refused, now };
        for (object, status) in &self.statuses.gateways {
            unwritten.extend(world.unwritten(Kind::Gateway, object, object, status));
        }
        for (object, status) in &self.statuses.listener_sets {
            let gateway = self.statuses.listener_set_gateways.get(object);
            unwritten.extend(gateway.and_then(|gateway| world.unwritten(Kind::ListenerSet, object, gateway, status)));
        }
        let all = observed;
        // Both are in the same order.
        let mut observed = observed.iter().peekable();
        let others = self.fingerprints.iter().filter_map(|(target, fingerprint)| {
            while observed.next_if(|(other, _)| *other < target).is_some() {}
            let (_, observed) = observed.next_if(|(other, _)| *other == target)?;
            let told = self.refused(target, refused);
            let fingerprint = told.as_ref().map_or(*fingerprint, Fingerprint::of);
            if observed.fingerprint == fingerprint || self.fills(target, told.as_ref(), observed) {
                gate.settled(target);
                return None;
            }
            if self.waits(&Claim { target, token: fingerprint, acks, now }, gate) {
                return None;
            }
            let write = match before.get(target).filter(|write| write.fingerprint == fingerprint) {
                Some(write) => write.clone(),
                None => Arc::new(Write { status: told.or_else(|| self.status(target))?, fingerprint }),
            };
            Some((target.clone(), write))
        });
        unwritten.extend(others);
        unwritten.extend(self.withdrawn(all));
        unwritten
    }

    /// What was written to Gateways, ListenerSets and Ingresses that are somebody else's now, or nobody's: whoever starts now would
    /// write nothing there.
    fn withdrawn(&self, observed: &BTreeMap<Target, Observed>) -> impl Iterator<Item = (Target, Arc<Write>)> {
        let is_wanted = |target: &Target| match target.kind {
            Kind::Gateway => self.statuses.gateways.contains_key(&target.object),
            Kind::ListenerSet => self.statuses.listener_sets.contains_key(&target.object),
            _ => self.statuses.ingresses.contains_key(&target.object),
        };
        let ours =
            observed.iter().filter(|(target, observed)| observed.is_ours && self.withdraws.contains(&target.kind));
        let left = ours.map(|(target, _)| target).filter(move |target| !is_wanted(target));
        left.map(|target| {
            let write = Write { status: Value::Null, fingerprint: Fingerprint::of(&Value::Null) };
            (target.clone(), Arc::new(write))
        })
    }

    /// Whether no entry is wrong that is stored of an object, and there is no room for those that are missing.
    fn fills(&self, target: &Target, told: Option<&Value>, observed: &Observed) -> bool {
        let (Some(stored), Some(field)) = (&observed.full, entries_field(target.kind)) else { return false };
        let wanted = told.cloned().or_else(|| self.status(target)).unwrap_or(Value::Null);
        let wanted: Vec<_> = wanted[field].as_array().into_iter().flatten().map(Fingerprint::of).collect();
        stored.iter().all(|entry| wanted.contains(entry))
    }

    /// The status of a route that data planes do not take.
    fn refused(&self, target: &Target, refused: &BTreeMap<DataPlane, Refused>) -> Option<Value> {
        if refused.is_empty() {
            return None; // as almost always, and this is asked of every route
        }
        let parents = self.statuses.routes.get(&(target.kind, target.object.clone()))?;
        let parents = refused::route(target.kind, &target.object, parents, &self.statuses, refused)?;
        Some(json!({ "parents": parents }))
    }

    /// Whether a status has to wait for data planes: an Ingress has no address as long as nobody serves it, and a route or a policy
    /// that is told to be accepted is in force from then on.
    fn waits(&self, claim: &Claim, gate: &mut Gate) -> bool {
        let target = claim.target;
        let mut check = |plane: &DataPlane| gate.check_patiently(claim, plane);
        // Where there is nobody, waiting for somebody would say less than the status does.
        let mut served = |plane: &DataPlane| matches!(check(plane), Ok(()) | Err(Wait::Nobody));
        let key = (target.kind, target.object.clone());
        let gateway_of = |parent| self.statuses.gateway_of(parent, &target.object.namespace);
        match target.kind {
            Kind::Ingress => check(&DataPlane::Shared).is_err(),
            kind if kind.is_route() => {
                let parents = self.statuses.routes.get(&key).into_iter().flat_map(|parents| parents.iter());
                let parents = parents.filter(|parent| accepted(&parent.conditions));
                let mut gateways = parents.filter_map(|parent| gateway_of(&parent.parent_ref));
                gateways.any(|gateway| !served(&self.statuses.data_plane(&gateway)))
            }
            kind if kind.is_policy() => {
                let ancestors = self.statuses.policies.get(&key).into_iter().flatten();
                let mut ancestors = ancestors.filter(|ancestor| accepted(&ancestor.conditions));
                ancestors.any(|ancestor| match ancestor.ancestor_ref.kind.as_deref() {
                    Some("Gateway") => gateway_of(&ancestor.ancestor_ref)
                        .is_some_and(|gateway| !served(&self.statuses.data_plane(&gateway))),
                    Some("Ingress") => !served(&DataPlane::Shared),
                    _ => false, // a Service that nobody uses
                })
            }
            _ => false,
        }
    }

    fn status(&self, target: &Target) -> Option<Value> {
        let key = || (target.kind, target.object.clone());
        match target.kind {
            Kind::GatewayClass => self.statuses.gateway_classes.get(&target.object).map(value),
            Kind::Ingress => self.statuses.ingresses.get(&target.object).map(load_balancer),
            kind if kind.is_route() => {
                self.statuses.routes.get(&key()).map(|parents| json!({ "parents": parents.as_ref() }))
            }
            _ => self.statuses.policies.get(&key()).map(|ancestors| json!({ "ancestors": ancestors })),
        }
    }
}

/// What is new or not the same in `now`, and what is gone (`None`). Both are in the same order, and nearly the same.
fn changes<'m, K: Ord, V>(
    before: &'m BTreeMap<K, V>,
    now: &'m BTreeMap<K, V>,
    same: impl Fn(&V, &V) -> bool,
) -> Vec<(&'m K, Option<&'m V>)> {
    let mut changes = Vec::new();
    let mut before = before.iter().peekable();
    for (key, value) in now {
        while let Some((gone, _)) = before.next_if(|(other, _)| *other < key) {
            changes.push((gone, None));
        }
        if before.next_if(|(other, _)| *other == key).is_none_or(|(_, known)| !same(known, value)) {
            changes.push((key, Some(value)));
        }
    }
    changes.extend(before.map(|(gone, _)| (gone, None)));
    changes
}

fn accepted(conditions: &[Condition]) -> bool {
    conditions.iter().any(|condition| condition.type_ == "Accepted" && condition.status == "True")
}

/// Statuses are plain data; a value that does not serialise cannot be built.
fn value(status: impl Serialize) -> Value {
    serde_json::to_value(status).unwrap_or(Value::Null)
}

#[cfg(test)]
mod tests;
