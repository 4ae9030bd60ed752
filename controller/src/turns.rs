//! Turns: kinds come one after the other, and so do the namespaces of each kind.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound::{Excluded, Unbounded};

use translate::{Kind, ObjectKey};

/// The objects of one kind in one namespace. They share the causes of failures and delays: rights, webhooks, quotas.
pub type Lane = (Kind, String);

/// The lane of an object.
pub fn lane(kind: Kind, object: &ObjectKey) -> Lane {
    (kind, object.namespace.clone())
}

/// What waits for its turn. In a lane the smallest comes first.
pub struct Turns<T> {
    lanes: BTreeMap<Kind, BTreeMap<String, BTreeSet<T>>>,
    /// The kind that came last, and the namespace that came last of each.
    last: Option<Kind>,
    last_of: BTreeMap<Kind, String>,
}

impl<T> Default for Turns<T> {
    fn default() -> Self {
        Self { lanes: BTreeMap::new(), last: None, last_of: BTreeMap::new() }
    }
}

impl<T: Ord + Clone> Turns<T> {
    /// Adds an item, unless it is there.
    pub fn add(&mut self, (kind, namespace): Lane, item: T) {
        self.lanes.entry(kind).or_default().entry(namespace).or_default().insert(item);
    }

    /// Takes an item out, if it is there.
    pub fn remove(&mut self, (kind, namespace): &Lane, item: &T) {
        let Some(namespaces) = self.lanes.get_mut(kind) else { return };
        if let Some(items) = namespaces.get_mut(namespace) {
            items.remove(item);
            if items.is_empty() {
                namespaces.remove(namespace);
            }
        }
        if namespaces.is_empty() {
            self.lanes.remove(kind);
            self.last_of.remove(kind);
        }
    }

    /// Takes a whole lane out.
    pub fn clear(&mut self, (kind, namespace): &Lane) -> BTreeSet<T> {
        self.lanes.get_mut(kind).and_then(|namespaces| namespaces.remove(namespace)).unwrap_or_default()
    }

    /// Takes the item out whose turn it is, among lanes that are `allowed`.
    pub fn take(&mut self, allowed: impl Fn(&Lane) -> bool) -> Option<T> {
        let after = self.last.map_or(Unbounded, Excluded);
        let mut kinds = self.lanes.range((after, Unbounded)).chain(self.lanes.iter());
        let (lane, item) = kinds.find_map(|(kind, namespaces)| {
            let after = self.last_of.get(kind).map_or(Unbounded, |last| Excluded(last.as_str()));
            let turns = namespaces.range::<str, _>((after, Unbounded)).chain(namespaces.iter());
            let mut lanes = turns.map(|(namespace, items)| ((*kind, namespace.clone()), items));
            let (lane, items) = lanes.find(|(lane, _)| allowed(lane))?;
            Some((lane, items.first()?.clone()))
        })?;
        self.last = Some(lane.0);
        self.last_of.insert(lane.0, lane.1.clone());
        self.remove(&lane, &item);
        Some(item)
    }
}
