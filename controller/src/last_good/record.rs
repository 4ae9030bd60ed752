//! What the Secret holds, and what follows from it.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use snapshot::Hash;
use translate::{Kind, ObjectKey, Resources};

use crate::kinds::{Watched, of_kind};

/// No more bytes than this are recorded. The API server takes a Secret of 1 MiB.
const LIMIT: usize = 900 * 1024;

/// The objects whose current version is rejected, each with its last good version, or with none if it never had one.
///
/// It decides between replicas that remember different things, as they do when only one of them saw a version that was in
/// force for a moment: all but the leader, who writes it, yield to what it says about the very version that they see
/// ([`Record::adopt`]). What it says about another version of the same object is late or early, so that a replica goes by
/// its own memory until the leader has caught up; a replica without one, as after a restart, takes it for what it is, the
/// best that is known.
#[derive(Clone)]
pub struct Record {
    version: Option<String>,
    text: String,
    /// Those with a last good version first; of equals, the one that was rejected first.
    entries: Vec<Entry>,
    good: Resources,
}

/// An object that is recorded.
#[derive(Clone)]
struct Entry {
    kind: Kind,
    key: ObjectKey,
    uid: String,
    rejected: String,
    good: Good,
    text: String,
}

/// An entry as it is written.
#[derive(Serialize, Deserialize)]
struct Item {
    kind: String,
    namespace: String,
    name: String,
    /// A namesake that was created later has no part in what was good of this one.
    uid: String,
    /// Hash of the version that is rejected.
    rejected: String,
    /// The object as it was accepted last.
    good: Option<Value>,
}

/// Whether there is a last good version; what is known comes first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Good {
    Known,
    None,
}

/// What a [`Record`] should become.
#[derive(Debug, PartialEq, Eq)]
pub struct Next {
    /// Its text.
    pub text: String,
    /// The objects for whose last good versions there is no room.
    pub dropped: Vec<(Kind, ObjectKey)>,
}

impl Record {
    /// Reads what the Secret of this version holds. An entry that cannot be read is left out.
    pub fn read(version: String, bytes: Vec<u8>) -> Self {
        let text = String::from_utf8(bytes).unwrap_or_default();
        let mut record = Self { version: Some(version), ..Self::default() };
        let items: Vec<Value> = serde_json::from_str(&text).unwrap_or_else(|_| {
            tracing::warn!("the record of last good versions cannot be read; it counts as empty");
            Vec::new()
        });
        record.text = text;
        for item in items {
            if record.add(item).is_none() {
                tracing::warn!("an entry of the record of last good versions cannot be read; it is left out");
            }
        }
        record
    }

    /// The version of the Secret; `None` when there is none.
    pub fn version(&self) -> Option<&str> {
        self.version.as_deref()
    }

    /// What the Secret holds, to be compared with [`Next::text`].
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Sets the last good versions of the objects that are recorded and there.
    pub fn adopt(&self, resources: &mut Resources, leads: bool) {
        for entry in &self.entries {
            of_kind!(entry.kind, adopt(entry, &self.good, resources, leads));
        }
    }

    /// What to record now that these objects are `rejected`. Those with a last good version come first, then what is in the
    /// record already: when there is no room for all, those stay that were rejected first. Of `missing` kinds, and of
    /// objects that are unavailable, nothing is known, so that what is recorded stays.
    pub fn next(
        &self,
        resources: &Resources,
        rejected: &BTreeSet<(Kind, ObjectKey)>,
        missing: &BTreeSet<Kind>,
    ) -> Next {
        let before: BTreeSet<_> = self.entries.iter().map(|entry| (entry.kind, &entry.key)).collect();
        let unknown = |entry: &Entry| {
            missing.contains(&entry.kind) || resources.unavailable.contains(&(entry.kind, entry.key.clone()))
        };
        let kept = self.entries.iter().filter_map(|entry| match unknown(entry) {
            true => Some((entry.kind, &entry.key, Some((entry.text.clone(), entry.good)))),
            false => rejected.contains(&(entry.kind, entry.key.clone())).then_some((entry.kind, &entry.key, None)),
        });
        let new = rejected.iter().map(|(kind, key)| (*kind, key));
        let new = new.filter(|object| !before.contains(object)).map(|(kind, key)| (kind, key, None));
        let mut next = Next { text: "[".into(), dropped: Vec::new() };
        let mut items: Vec<_> = kept
            .chain(new)
            .filter_map(|(kind, key, text)| Some((kind, key, text.or_else(|| of_kind!(kind, write(key, resources)))?)))
            .collect();
        // That there was no good version takes no room from one.
        items.sort_by_key(|(_, _, (_, good))| *good);
        for (kind, key, (text, good)) in items {
            if next.text.len() + text.len() + 2 > LIMIT {
                if good == Good::Known {
                    next.dropped.push((kind, key.clone()));
                }
                continue;
            }
            if next.text.len() > 1 {
                next.text.push(',');
            }
            next.text.push_str(&text);
        }
        next.text.push(']');
        next
    }

    fn add(&mut self, item: Value) -> Option<()> {
        let item: Item = serde_json::from_value(item).ok()?;
        let kind = *Kind::ALL.iter().find(|kind| kind.name() == item.kind)?;
        let text = serde_json::to_string(&item).ok()?;
        let known = if item.good.is_some() { Good::Known } else { Good::None };
        if let Some(good) = item.good {
            of_kind!(kind, read(good, &mut self.good))?;
        }
        let key = ObjectKey::new(item.namespace, item.name);
        self.entries.push(Entry { kind, key, uid: item.uid, rejected: item.rejected, good: known, text });
        Some(())
    }
}

impl Default for Record {
    /// Nothing, and no Secret.
    fn default() -> Self {
        Self { version: None, text: "[]".into(), entries: Vec::new(), good: Resources::default() }
    }
}

/// Names only: the objects may be Secrets.
impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.entries.iter().map(|entry| format!("{} {}", entry.kind, entry.key))).finish()
    }
}

fn adopt<T: Watched>(recorded: &Entry, good: &Resources, resources: &mut Resources, leads: bool) {
    let Some(entry) = T::map_mut(resources).get_mut(&recorded.key) else { return }; // deleted is not broken
    let good = T::map(good).get(&recorded.key).map(|entry| &entry.current);
    if entry.current.metadata().uid.as_ref() != Some(&recorded.uid) || entry.last_good.as_ref() == good {
        return;
    }
    let yields = || !leads && hash(entry.current.as_ref()).as_ref() == Some(&recorded.rejected);
    if entry.last_good.is_none() || yields() {
        entry.last_good = good.cloned();
    }
}

fn write<T: Watched>(key: &ObjectKey, resources: &Resources) -> Option<(String, Good)> {
    let entry = T::map(resources).get(key)?;
    let good = entry.last_good.as_deref().map(serde_json::to_value).transpose().ok()?;
    let known = if good.is_some() { Good::Known } else { Good::None };
    let item = Item {
        kind: T::KIND.name().into(),
        namespace: key.namespace.clone(),
        name: key.name.clone(),
        uid: entry.current.metadata().uid.clone()?,
        rejected: hash(entry.current.as_ref())?,
        good,
    };
    Some((serde_json::to_string(&item).ok()?, known))
}

fn read<T: Watched>(object: Value, good: &mut Resources) -> Option<()> {
    good.insert::<T>(serde_json::from_value(object).ok()?);
    Some(())
}

fn hash<T: Watched>(object: &T) -> Option<String> {
    Some(Hash::of(&serde_json::to_vec(object).ok()?).to_string())
}
