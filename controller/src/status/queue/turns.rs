//! Turns: kinds come one after the other, and so do the namespaces of each kind.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound::{Excluded, Unbounded};

use translate::Kind;

use super::Target;

/// The objects of one kind in one namespace. They share the causes of failures and delays: rights, webhooks, quotas.
pub type Lane = (Kind, String);

/// The lane of an object.
pub fn lane(target: &Target) -> Lane {
    (target.kind, target.object.namespace.clone())
}

/// Objects that wait for their turn.
#[derive(Default)]
pub struct Turns {
    lanes: BTreeMap<Kind, BTreeMap<String, BTreeSet<Target>>>,
    /// The kind that came last, and the namespace that came last of each.
    last: Option<Kind>,
    last_of: BTreeMap<Kind, String>,
}

impl Turns {
    /// Adds an object, unless it is there.
    pub fn add(&mut self, target: &Target) {
        let (kind, namespace) = lane(target);
        self.lanes.entry(kind).or_default().entry(namespace).or_default().insert(target.clone());
    }

    /// Takes an object out.
    pub fn remove(&mut self, target: &Target) {
        let Some(namespaces) = self.lanes.get_mut(&target.kind) else { return };
        if let Some(objects) = namespaces.get_mut(&target.object.namespace) {
            objects.remove(target);
            if objects.is_empty() {
                namespaces.remove(&target.object.namespace);
            }
        }
        if namespaces.is_empty() {
            self.lanes.remove(&target.kind);
        }
    }

    /// Takes a whole lane out.
    pub fn clear(&mut self, (kind, namespace): &Lane) -> BTreeSet<Target> {
        self.lanes.get_mut(kind).and_then(|namespaces| namespaces.remove(namespace)).unwrap_or_default()
    }

    /// Takes the object out whose turn it is, among lanes that are `allowed`.
    pub fn take(&mut self, allowed: impl Fn(&Lane) -> bool) -> Option<Target> {
        let after = self.last.map_or(Unbounded, Excluded);
        let kinds = self.lanes.range((after, Unbounded)).chain(self.lanes.iter());
        let target = kinds.into_iter().find_map(|(kind, namespaces)| {
            let after = self.last_of.get(kind).map_or(Unbounded, |last| Excluded(last.as_str()));
            let mut turns = namespaces.range::<str, _>((after, Unbounded)).chain(namespaces.iter());
            let (_, objects) = turns.find(|(namespace, _)| allowed(&(*kind, (*namespace).clone())))?;
            objects.first().cloned()
        })?;
        self.last = Some(target.kind);
        self.last_of.insert(target.kind, target.object.namespace.clone());
        self.remove(&target);
        Some(target)
    }
}
