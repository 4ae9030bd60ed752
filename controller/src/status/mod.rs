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

use crds::gateway::ParentReference;
use crds::policy::PolicyAncestorStatus;
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

/// What decides, besides the statuses themselves, what is to be written.
pub struct View<'a> {
    /// What the API server last told of statuses.
    pub observed: &'a BTreeMap<Target, Observed>,
    /// What data planes acknowledged.
    pub acks: &'a Acks,
    /// What they refused.
    pub refused: &'a BTreeMap<DataPlane, Refused>,
    /// When this is asked.
    pub now: Instant,
}

/// Compares wanted statuses with observed ones: only those that were touched, since it is asked after every event.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    statuses: Statuses,
    fingerprints: BTreeMap<Target, Fingerprint>,
    withdraws: BTreeSet<Kind>,
    unwritten: Arc<Unwritten>,
    /// What is to be compared again.
    touched: BTreeSet<Target>,
    /// Who depends on what these data planes acknowledge: Gateways, ListenerSets and what is not written yet.
    dependents: BTreeMap<DataPlane, BTreeSet<Target>>,
    /// The same by target.
    depends: BTreeMap<Target, Vec<DataPlane>>,
}

impl Wanted {
    /// Takes the statuses of a new translation.
    pub fn replace(&mut self, statuses: Statuses) {
        let before = std::mem::replace(&mut self.statuses, statuses);
        let now = &self.statuses;
        let mut note = |kind: Kind, object: &ObjectKey, status: Option<Value>| {
            let target = Target { kind, object: object.clone() };
            self.touched.insert(target.clone());
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
        let mut touch =
            |kind: Kind, object: &ObjectKey| _ = self.touched.insert(Target { kind, object: object.clone() });
        if before.data_planes != now.data_planes || before.listener_set_gateways != now.listener_set_gateways {
            now.gateways.keys().for_each(|object| touch(Kind::Gateway, object));
            now.listener_sets.keys().for_each(|object| touch(Kind::ListenerSet, object));
        }
        let gateways = changes(&before.gateways, &now.gateways, PartialEq::eq);
        gateways.iter().for_each(|(object, _)| touch(Kind::Gateway, object));
        let listener_sets = changes(&before.listener_sets, &now.listener_sets, PartialEq::eq);
        listener_sets.iter().for_each(|(object, _)| touch(Kind::ListenerSet, object));
        self.touch_outstanding();
    }

    /// Takes away, for these kinds, what was written to objects that are not the controller's any more. Only who knows every Gateway,
    /// or every Ingress, and every class can tell which these are.
    pub fn withdraw(&mut self, kinds: BTreeSet<Kind>, observed: &BTreeMap<Target, Observed>) {
        if self.withdraws != kinds {
            self.touch(observed.iter().filter(|(_, observed)| observed.is_ours).map(|(target, _)| target.clone()));
            self.withdraws = kinds;
        }
    }

    /// Has these compared again.
    pub fn touch(&mut self, targets: impl IntoIterator<Item = Target>) {
        self.touched.extend(targets);
    }

    /// Has those compared again that depend on these data planes.
    pub fn touch_planes<'p>(&mut self, planes: impl IntoIterator<Item = &'p DataPlane>) {
        let dependents = planes.into_iter().filter_map(|plane| self.dependents.get(plane));
        self.touched.extend(dependents.flatten().cloned());
    }

    /// Has those compared again that are not written, or wait.
    pub fn touch_outstanding(&mut self) {
        self.touched.extend(self.unwritten.keys().cloned());
        let waiting = self.depends.keys().filter(|target| !matches!(target.kind, Kind::Gateway | Kind::ListenerSet));
        self.touched.extend(waiting.cloned());
    }

    /// Every status that differs from what the API server holds, as far as data planes have acknowledged it.
    pub fn unwritten(&self) -> &Arc<Unwritten> {
        &self.unwritten
    }

    /// Compares what was touched.
    pub fn settle(&mut self, gate: &mut Gate, view: &View) {
        for target in std::mem::take(&mut self.touched) {
            let write = self.compare(&target, gate, view);
            let known = self.unwritten.get(&target);
            let same = match (known, &write) {
                (Some(known), Some(write)) => known.fingerprint == write.fingerprint,
                (known, write) => known.is_none() && write.is_none(),
            };
            if same {
                continue;
            }
            let unwritten = Arc::make_mut(&mut self.unwritten);
            match write {
                Some(write) => unwritten.insert(target, write),
                None => unwritten.remove(&target),
            };
        }
    }

    /// What to write to an object now. Notes on which data planes that depends.
    fn compare(&mut self, target: &Target, gate: &mut Gate, view: &View) -> Option<Arc<Write>> {
        let Some(observed) = view.observed.get(target) else {
            self.depend(target, Vec::new());
            return None;
        };
        let statuses = &self.statuses;
        let mut world = World { gate, acks: view.acks, refused: view.refused, now: view.now };
        let listening = match target.kind {
            Kind::Gateway => statuses.gateways.get(&target.object).map(|status| {
                let plane = statuses.data_plane(&target.object);
                (world.unwritten(target, observed, &plane, status), plane)
            }),
            Kind::ListenerSet => statuses.listener_sets.get(&target.object).and_then(|status| {
                let plane = statuses.data_plane(statuses.listener_set_gateways.get(&target.object)?);
                Some((world.unwritten(target, observed, &plane, status), plane))
            }),
            _ => None,
        };
        if let Some((write, plane)) = listening {
            self.depend(target, vec![plane]);
            return write;
        }
        let Some(fingerprint) = self.fingerprints.get(target) else {
            self.depend(target, Vec::new());
            return self.withdrawn(target, observed);
        };
        let told = self.refused(target, view.refused);
        let fingerprint = told.as_ref().map_or(*fingerprint, Fingerprint::of);
        if observed.fingerprint == fingerprint || self.fills(target, told.as_ref(), observed) {
            gate.settled(target);
            self.depend(target, Vec::new());
            return None;
        }
        let planes = self.claimed(target);
        let claim = Claim { target, token: fingerprint, acks: view.acks, now: view.now };
        // Where there is nobody, waiting for somebody would say less than the status does. An Ingress has no address as long as
        // nobody serves it.
        let serves_nobody = |wait| wait == Wait::Nobody && target.kind != Kind::Ingress;
        let waits =
            planes.iter().any(|plane| gate.check_patiently(&claim, plane).is_err_and(|wait| !serves_nobody(wait)));
        self.depend(target, planes);
        if waits {
            return None;
        }
        if let Some(known) = self.unwritten.get(target).filter(|write| write.fingerprint == fingerprint) {
            return Some(known.clone());
        }
        Some(Arc::new(Write { status: told.or_else(|| self.status(target))?, fingerprint }))
    }

    /// Notes on which data planes it depends what is to be written to an object.
    fn depend(&mut self, target: &Target, planes: Vec<DataPlane>) {
        let before = match planes.is_empty() {
            true => self.depends.remove(target),
            false => self.depends.insert(target.clone(), planes.clone()),
        };
        if before.as_ref() == Some(&planes) {
            return;
        }
        for plane in before.into_iter().flatten() {
            if let Some(dependents) = self.dependents.get_mut(&plane) {
                dependents.remove(target);
                if dependents.is_empty() {
                    self.dependents.remove(&plane);
                }
            }
        }
        for plane in planes {
            self.dependents.entry(plane).or_default().insert(target.clone());
        }
    }

    /// What was written to Gateways, ListenerSets and Ingresses that are somebody else's now, or nobody's, is taken away: whoever
    /// starts now would write nothing there.
    fn withdrawn(&self, target: &Target, observed: &Observed) -> Option<Arc<Write>> {
        let status = Value::Null;
        let is_left = observed.is_ours && self.withdraws.contains(&target.kind);
        is_left.then(|| Arc::new(Write { fingerprint: Fingerprint::of(&status), status }))
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

    /// The data planes whose acknowledgement a status waits for: a route or a policy that is told to be accepted is in force from then
    /// on.
    fn claimed(&self, target: &Target) -> Vec<DataPlane> {
        let key = (target.kind, target.object.clone());
        let gateway_of = |parent: &ParentReference| self.statuses.gateway_of(parent, &target.object.namespace);
        let mut planes: Vec<_> = match target.kind {
            Kind::Ingress => vec![DataPlane::Shared],
            kind if kind.is_route() => {
                let parents = self.statuses.routes.get(&key).into_iter().flat_map(|parents| parents.iter());
                let parents = parents.filter(|parent| accepted(&parent.conditions));
                let gateways = parents.filter_map(|parent| gateway_of(&parent.parent_ref));
                gateways.map(|gateway| self.statuses.data_plane(&gateway)).collect()
            }
            kind if kind.is_policy() => {
                let ancestors = self.statuses.policies.get(&key).into_iter().flatten();
                let ancestors = ancestors.filter(|ancestor| accepted(&ancestor.conditions));
                let plane = |ancestor: &PolicyAncestorStatus| match ancestor.ancestor_ref.kind.as_deref() {
                    Some("Gateway") => {
                        gateway_of(&ancestor.ancestor_ref).map(|gateway| self.statuses.data_plane(&gateway))
                    }
                    Some("Ingress") => Some(DataPlane::Shared),
                    _ => None, // a Service that nobody uses
                };
                ancestors.filter_map(plane).collect()
            }
            _ => Vec::new(),
        };
        planes.dedup();
        planes
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
