//! The resources as plain maps, and what changed in them since they were last translated.

use std::collections::{BTreeMap, BTreeSet};
use std::mem;

use translate::objects::{ConfigMap, Secret};
use translate::{Kind, ObjectKey, Problem, Resources, Severity};

use crate::kinds::Watched;
use crate::last_good::{Next, Record};
use crate::status::{Observed, Target};

/// One event of a watch.
pub struct Change(Box<dyn FnOnce(&mut Store) + Send>);

impl Change {
    /// The object is new or changed.
    pub fn apply<T: Watched>(object: T) -> Self {
        Self(Box::new(move |store| store.apply(object)))
    }

    /// The object is gone.
    pub fn delete<T: Watched>(key: ObjectKey) -> Self {
        Self(Box::new(move |store| store.delete::<T>(&key)))
    }

    /// The list of a kind is complete; objects that are not in it are gone.
    pub fn listed<T: Watched>(keys: BTreeSet<ObjectKey>) -> Self {
        Self(Box::new(move |store| {
            store.listed::<T>(&keys);
            store.dirty.structure |= store.missing.remove(&T::KIND);
        }))
    }

    /// The API server does not know the kind: there are no objects, or it has just started.
    pub fn missing<T: Watched>() -> Self {
        Self(Box::new(move |store| {
            store.listed::<T>(&BTreeSet::new());
            store.missing.insert(T::KIND);
        }))
    }

    /// What is recorded of last good versions.
    pub fn recorded(record: Record) -> Self {
        Self(Box::new(move |store| {
            store.record = Some(record);
            store.invalidate();
        }))
    }

    /// These are the Deployments that this installation made; `None` when that is not known any more.
    pub fn deployments(names: Option<BTreeSet<ObjectKey>>) -> Self {
        Self(Box::new(move |store| {
            store.dirty.structure |= store.deployments != names;
            store.deployments = names;
        }))
    }

    /// The object is there but does not decode; its last version that did stays in force.
    pub fn undecodable<T: Watched>(key: ObjectKey, error: &str) -> Self {
        let why = match T::KIND {
            Kind::Secret => "its fields have unexpected types", // the error could quote the content
            _ => error,
        };
        let problem = Problem {
            kind: T::KIND,
            object: key.clone(),
            field: String::new(),
            reason: "Undecodable",
            message: format!(
                "The object cannot be read: {why}. Its last readable version stays in force, if there was one."
            ),
            severity: Severity::Warning,
        };
        Self(Box::new(move |store| store.undecodable(problem)))
    }
}

/// What changed since the last build.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Dirty {
    /// Something that only a full translation can follow.
    pub structure: bool,
    /// Services of which nothing but the endpoints changed.
    pub endpoints: BTreeSet<ObjectKey>,
    /// Objects whose status the controller writes and that came or went, or whose status was changed by it or by somebody else.
    pub statuses: BTreeSet<Target>,
}

impl Dirty {
    /// Whether there is anything to do.
    pub fn any(&self) -> bool {
        self.structure || !self.statuses.is_empty() || !self.endpoints.is_empty()
    }
}

/// The watched objects. One owner, the build loop: no lock, no second writer.
#[derive(Debug)]
pub struct Store {
    /// What translation reads.
    pub resources: Resources,
    /// What the API server last told about the statuses that the controller writes.
    pub observed: BTreeMap<Target, Observed>,
    /// The Deployments that this installation made; `None` where that is not known.
    pub deployments: Option<BTreeSet<ObjectKey>>,
    controllers: Vec<String>,
    awaited: BTreeSet<Kind>,
    missing: BTreeSet<Kind>,
    record: Option<Record>,
    undecodable: BTreeMap<(Kind, ObjectKey), Problem>,
    /// The objects to keep of kinds that are kept on demand.
    wanted: BTreeSet<(Kind, ObjectKey)>,
    dirty: Dirty,
}

impl Store {
    /// An empty store that is ready once each of `kinds` was listed and the record of last good versions read. Status entries
    /// of `controllers` are its own.
    pub fn new(kinds: impl IntoIterator<Item = Kind>, controllers: Vec<String>) -> Self {
        Self {
            resources: Resources::default(),
            observed: BTreeMap::new(),
            deployments: None,
            controllers,
            awaited: kinds.into_iter().collect(),
            missing: BTreeSet::new(),
            record: None,
            undecodable: BTreeMap::new(),
            wanted: BTreeSet::new(),
            dirty: Dirty::default(),
        }
    }

    /// Takes one event in.
    pub fn change(&mut self, change: Change) {
        (change.0)(self);
    }

    /// Whether every watch had its first full list, and the record of last good versions was read.
    pub fn ready(&self) -> bool {
        self.awaited.is_empty() && self.record.is_some()
    }

    /// Whether every watch had its first full list.
    #[cfg(test)]
    pub fn listed_all(&self) -> bool {
        self.awaited.is_empty()
    }

    /// Brings last good versions in line with the record; see [`Record::adopt`].
    pub fn adopt(&mut self, leads: bool) {
        if let Some(record) = &self.record {
            record.adopt(&mut self.resources, leads);
        }
    }

    /// The record, and what it should become now that translation `rejected` these objects.
    pub fn next_record(&self, rejected: &BTreeSet<(Kind, ObjectKey)>) -> Option<(&Record, Next)> {
        let record = self.record.as_ref()?;
        Some((record, record.next(&self.resources, rejected, &self.missing)))
    }

    /// Has everything translated again, as if something had changed.
    pub fn invalidate(&mut self) {
        self.dirty.structure = true;
    }

    /// What changed since the last call.
    pub fn take_dirty(&mut self) -> Dirty {
        mem::take(&mut self.dirty)
    }

    /// Whether anything changed since the last [`Self::take_dirty`].
    pub fn is_dirty(&self) -> bool {
        self.dirty.any()
    }

    /// Whether every object of these kinds could be read, and the API server has the kinds.
    pub fn knows(&self, kinds: &[Kind]) -> bool {
        !self.lacks(kinds) && !self.problems().any(|problem| kinds.contains(&problem.kind))
    }

    /// The objects that do not decode.
    pub fn problems(&self) -> impl Iterator<Item = &Problem> {
        self.undecodable.values()
    }

    /// From now on keeps these Secrets and ConfigMaps and no others. Returns those that exist but were not kept so far: they
    /// have to be fetched.
    pub fn want(&mut self, wanted: &BTreeSet<(Kind, ObjectKey)>) -> Vec<(Kind, ObjectKey)> {
        self.forget::<Secret>(wanted);
        self.forget::<ConfigMap>(wanted);
        self.wanted.clone_from(wanted);
        self.resources.unavailable.intersection(wanted).cloned().collect()
    }

    /// Whether one of these kinds cannot be listed, so that nothing follows from there being no such objects.
    pub fn lacks(&self, kinds: &[Kind]) -> bool {
        kinds.iter().any(|kind| self.missing.contains(kind))
    }

    /// Takes in an object that was fetched, unless a watch told of it since.
    pub fn fetched(&mut self, object: &(Kind, ObjectKey), change: Change) {
        if self.resources.unavailable.contains(object) {
            self.change(change);
        }
    }

    fn forget<T: Watched>(&mut self, wanted: &BTreeSet<(Kind, ObjectKey)>) {
        let kept = T::map(&self.resources).keys().map(|key| (T::KIND, key.clone()));
        for object in kept.filter(|object| !wanted.contains(object)).collect::<Vec<_>>() {
            self.resources.remove::<T>(&object.1);
            self.resources.unavailable.insert(object);
        }
    }

    fn apply<T: Watched>(&mut self, mut object: T) {
        let key = ObjectKey::of(object.metadata());
        self.undecodable.remove(&(T::KIND, key.clone()));
        if T::ON_DEMAND {
            let object = (T::KIND, key.clone());
            if !self.wanted.contains(&object) {
                self.resources.unavailable.insert(object);
                return;
            }
            self.resources.unavailable.remove(&object);
        }
        if let Some(target) = Target::of(T::KIND, &key) {
            let written = object.meta_mut().managed_fields.take().unwrap_or_default();
            let observed = Observed::new(T::KIND, object.take_status(), &written, &self.controllers);
            if self.observed.get(&target) != Some(&observed) {
                self.dirty.statuses.insert(target.clone());
                self.observed.insert(target, observed);
            }
        }
        let before = T::map(&self.resources).get(&key).map(|entry| entry.current.clone());
        if before.as_deref() == Some(&object) {
            return;
        }
        // Of a namesake nothing was ever good.
        if before.as_ref().is_some_and(|before| before.metadata().uid != object.metadata().uid) {
            self.resources.remove::<T>(&key);
        }
        self.resources.insert(object);
        self.touch::<T>(&key, before.as_deref());
    }

    fn delete<T: Watched>(&mut self, key: &ObjectKey) {
        let decoded = self.undecodable.remove(&(T::KIND, key.clone())).is_none();
        if let Some(target) = Target::of(T::KIND, key) {
            self.observed.remove(&target);
            self.dirty.statuses.insert(target);
        }
        if T::ON_DEMAND {
            self.resources.unavailable.remove(&(T::KIND, key.clone()));
        }
        match self.resources.remove::<T>(key) {
            Some(entry) => self.touch::<T>(key, Some(&entry.current)),
            None => self.dirty.structure |= !decoded,
        }
    }

    fn listed<T: Watched>(&mut self, keys: &BTreeSet<ObjectKey>) {
        let stored = T::map(&self.resources).keys();
        let undecodable = self.undecodable.keys().filter(|(kind, _)| *kind == T::KIND).map(|(_, key)| key);
        let gone: Vec<_> = stored.chain(undecodable).filter(|key| !keys.contains(*key)).cloned().collect();
        for key in gone {
            self.delete::<T>(&key);
        }
        self.resources.unavailable.retain(|(kind, key)| *kind != T::KIND || keys.contains(key));
        self.dirty.structure |= self.awaited.remove(&T::KIND);
    }

    fn undecodable(&mut self, problem: Problem) {
        tracing::warn!(object = %problem.object, kind = %problem.kind, "{}", problem.message);
        let key = (problem.kind, problem.object.clone());
        self.dirty.structure |= self.undecodable.insert(key, problem.clone()).as_ref() != Some(&problem);
    }

    /// Marks what a change of this object asks to be built again.
    fn touch<T: Watched>(&mut self, key: &ObjectKey, before: Option<&T>) {
        if T::KIND != Kind::EndpointSlice {
            self.dirty.structure = true;
            return;
        }
        let now = self.resources.endpoint_slices.get(key).and_then(|entry| service_of(&entry.current.metadata));
        let then = before.and_then(|slice| service_of(slice.metadata()));
        self.dirty.endpoints.extend(now.into_iter().chain(then));
    }
}

/// The Service that a slice belongs to.
fn service_of(slice: &kube::core::ObjectMeta) -> Option<ObjectKey> {
    let service = translate::service_of(slice)?;
    Some(ObjectKey::new(slice.namespace.clone().unwrap_or_default(), service))
}

#[cfg(test)]
mod tests;
