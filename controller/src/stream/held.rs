//! What a data plane holds, as far as its session needs to know.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use snapshot::proto::{self};
use snapshot::{Batch, DecodeError, Hash, ResourceId, Snapshot, diff};

/// The most bytes that a session keeps of differences from what is published, each counted with its name. A data plane that was
/// away for longer gets everything anew.
const MAX_DIFFERENCE: usize = 256 << 10;

/// What a difference takes besides its name, roughly.
const DIFFERENCE: usize = 96;

/// A snapshot that was published, shared with everyone who uses it, and what a data plane holds otherwise.
///
/// Sessions of the same snapshot share its memory: 5,000 resources cost each of them nothing.
#[derive(Debug, Default)]
pub(super) struct Held {
    base: Arc<Snapshot>,
    /// The hash of what is held in place of the base's resource; `None` where nothing is.
    otherwise: BTreeMap<ResourceId, Option<Hash>>,
}

impl From<Arc<Snapshot>> for Held {
    /// A data plane that holds exactly this.
    fn from(base: Arc<Snapshot>) -> Self {
        Self { base, otherwise: BTreeMap::new() }
    }
}

impl Held {
    /// Reads what a Hello lists, compared with what is published. A list that differs by more than a session keeps counts as
    /// empty: the data plane then gets everything.
    ///
    /// # Errors
    /// A hash is not one.
    pub(super) fn of(listed: Vec<proto::Held>, base: Arc<Snapshot>) -> Result<Self, DecodeError> {
        let mut held = Self { base: base.clone(), otherwise: BTreeMap::new() };
        let (mut room, mut same) = (MAX_DIFFERENCE, BTreeSet::new());
        for item in listed {
            let hash = Hash::try_from(item.hash.as_slice())?;
            // A kind that is not known here is not published here either.
            let Some(Ok(id)) = item.name.map(ResourceId::try_from) else { continue };
            match base.get_key_value(&id) {
                Some((id, resource)) if resource.hash() == hash => _ = same.insert(id),
                _ if held.differs(id, Some(hash), &mut room) => {}
                _ => return Ok(Self::default()),
            }
        }
        for (id, _) in base.iter().filter(|(id, _)| !same.contains(id)) {
            if !held.otherwise.contains_key(id) && !held.differs(id.clone(), None, &mut room) {
                return Ok(Self::default());
            }
        }
        Ok(held)
    }

    /// Notes a difference. Returns whether there is `room` in bytes for it.
    fn differs(&mut self, id: ResourceId, hash: Option<Hash>, room: &mut usize) -> bool {
        let left = room.checked_sub(id.name.len() + DIFFERENCE);
        *room = left.unwrap_or_default();
        self.otherwise.insert(id, hash);
        left.is_some()
    }

    /// What turns the data plane into a holder of `new`.
    pub(super) fn diff(&self, new: &Snapshot) -> Batch {
        diff(self.iter(), new)
    }

    /// See [`Snapshot::version`].
    pub(super) fn version(&self) -> Hash {
        match self.otherwise.is_empty() {
            true => self.base.version(),
            false => snapshot::version(
                self.iter().map(|(id, hash)| (proto::Kind::from(id.kind).into(), id.name.as_str(), hash)),
            ),
        }
    }

    /// Whether nothing is held.
    pub(super) fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }

    /// How many resources are held.
    pub(super) fn len(&self) -> usize {
        self.iter().count()
    }

    /// What is held, ordered by id.
    fn iter(&self) -> impl Iterator<Item = (&ResourceId, Hash)> {
        let mut base = self.base.iter().peekable();
        let mut otherwise = self.otherwise.iter().peekable();
        std::iter::from_fn(move || {
            loop {
                let Some((id, hash)) = otherwise.next_if(|(id, _)| base.peek().is_none_or(|(other, _)| id <= other))
                else {
                    return base.next().map(|(id, resource)| (id, resource.hash()));
                };
                base.next_if(|(other, _)| *other == id);
                if let Some(hash) = hash {
                    return Some((id, *hash));
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use snapshot::{Endpoints, Resource};

    use super::*;

    fn snapshot(resources: &BTreeMap<u8, u16>) -> Arc<Snapshot> {
        let mut snapshot = Snapshot::default();
        for (name, port) in resources {
            let endpoints = Endpoints::Dns { name: "shop.example".into(), port: *port };
            snapshot.insert(name.to_string(), Resource::Endpoints(endpoints));
        }
        Arc::new(snapshot)
    }

    fn listed(snapshot: &Snapshot) -> Vec<proto::Held> {
        let item = |(id, resource): (&ResourceId, &snapshot::Hashed)| proto::Held {
            name: Some(id.into()),
            hash: resource.hash().into(),
        };
        snapshot.iter().map(item).collect()
    }

    fn resources() -> impl Strategy<Value = BTreeMap<u8, u16>> {
        prop::collection::btree_map(0u8..12, 1u16..3, 0..12)
    }

    proptest! {
        /// Compared with any base, a list stands for what was listed.
        #[test]
        fn a_list_is_what_was_listed(held in resources(), base in resources(), new in resources()) {
            let (held, base, new) = (snapshot(&held), snapshot(&base), snapshot(&new));
            let of_list = Held::of(listed(&held), base).unwrap();
            prop_assert_eq!(of_list.diff(&new), Held::from(held.clone()).diff(&new));
            prop_assert_eq!(of_list.version(), held.version());
            prop_assert_eq!(of_list.is_empty(), held.is_empty());
        }
    }

    #[test]
    fn who_holds_what_is_published_costs_no_memory() {
        let published = snapshot(&(0..100).map(|name| (name, 1)).collect());
        let held = Held::of(listed(&published), published.clone()).unwrap();
        assert!(held.otherwise.is_empty() && Arc::ptr_eq(&held.base, &published));
        assert_eq!((held.len(), held.version()), (100, published.version()));
    }

    #[test]
    fn made_up_names_take_no_memory() {
        let base = snapshot(&BTreeMap::from([(1, 1)]));
        let made_up = (0..10_000).map(|number| proto::Held {
            name: Some((&ResourceId::new(snapshot::Kind::Endpoints, format!("made-up-{number}"))).into()),
            hash: Hash::of(b"made up").into(),
        });
        let held = Held::of(made_up.collect(), base.clone()).unwrap();
        assert!(held.is_empty() && held.otherwise.is_empty());
        assert_eq!(held.diff(&base).upserts.len(), 1);
    }
}
