//! What the controllers believe that we hold, what of it can be read, and what of that is good.

use std::collections::BTreeMap;

use prost::Message as _;
use snapshot::proto::{self, Rejected, ResourceName};
use snapshot::{DecodeError, Hash, Hashed, ResourceId, Snapshot};

/// A resource's name on the wire, where its kind may be one that is not known here.
type WireName = (i32, String);

/// Room in bytes for the tag and length of one entry.
const HELD_HEAD: usize = 8;

/// What is held. All parts change together, by [`Holding::receive`] and then [`Holding::applied`].
#[derive(Debug, Default)]
pub(super) struct Holding {
    /// What the controllers believe: every resource, readable or not, by the hash of its bytes.
    names: BTreeMap<WireName, Hash>,
    /// The newest readable version of each.
    newest: Snapshot,
    /// Why the newest version of some is not readable.
    unreadable: BTreeMap<WireName, String>,
    /// Why the newest readable version of some was not taken.
    refused: BTreeMap<ResourceId, String>,
    /// The newest version of each that was taken.
    good: Snapshot,
    /// Of `names`; `None` before the first snapshot.
    version: Option<Hash>,
}

/// A batch after which the two ends disagree about what is held.
#[derive(Debug, thiserror::Error)]
pub(super) enum BatchError {
    #[error("the batch leads to version {found} but promises {promised}")]
    Version { found: Hash, promised: Hash },
    #[error("the batch cannot be read: {0}")]
    Decode(#[from] DecodeError),
    #[error("the batch has an upsert without a name")]
    Nameless,
}

impl Holding {
    /// What was kept from before.
    pub(super) fn restored(kept: Snapshot) -> Self {
        let names = kept.iter().map(|(id, resource)| (wire_name(id.into()), resource.hash())).collect();
        let mut holding = Self { names, good: kept.clone(), newest: kept, ..Self::default() };
        holding.version = Some(holding.compute_version());
        holding
    }

    /// Takes a batch in. Then [`Holding::snapshot`] must be applied. After an error nothing of it is applied, and nothing counts as
    /// held, so that the next batch brings everything; what is run stays as it is.
    pub(super) fn receive(&mut self, batch: proto::Batch) -> Result<(), BatchError> {
        let starts_over = self.names.is_empty();
        let result = self.enter(&batch);
        if result.is_err() {
            self.names.clear();
            return result;
        }
        for upsert in batch.upserts {
            let Some(name) = upsert.name.clone().map(wire_name) else { continue };
            match <(ResourceId, Hashed)>::try_from(upsert) {
                Ok((id, resource)) => {
                    self.newest.insert_hashed(id, resource);
                    self.unreadable.remove(&name);
                }
                Err(error) => {
                    tracing::error!(resource = name.1, %error, "cannot read a resource; its last good version stays");
                    self.unreadable.insert(name, error.to_string());
                }
            }
        }
        let gone: Vec<ResourceId> = if starts_over {
            // What is gone since was never removed by name.
            let held = |id: &ResourceId| self.names.contains_key(&wire_name(id.into()));
            self.newest.iter().map(|(id, _)| id).filter(|id| !held(id)).cloned().collect()
        } else {
            batch.removals.into_iter().filter_map(|name| ResourceId::try_from(name).ok()).collect()
        };
        for id in gone {
            self.newest.remove(&id);
        }
        self.unreadable.retain(|name, _| self.names.contains_key(name));
        Ok(())
    }

    /// Names and hashes only: cheap to check, and nothing is lost when they turn out wrong.
    fn enter(&mut self, batch: &proto::Batch) -> Result<(), BatchError> {
        let promised = Hash::try_from(batch.version.as_slice())?;
        for removal in &batch.removals {
            self.names.remove(&wire_name(removal.clone()));
        }
        for upsert in &batch.upserts {
            let name = upsert.name.clone().ok_or(BatchError::Nameless)?;
            self.names.insert(wire_name(name), Hash::of(&upsert.resource));
        }
        let found = self.compute_version();
        if found != promised {
            return Err(BatchError::Version { found, promised });
        }
        self.version = Some(found);
        Ok(())
    }

    /// What is to be applied.
    pub(super) fn snapshot(&self) -> &Snapshot {
        &self.newest
    }

    /// Notes what of the snapshot was not taken. May be called again when that changes.
    pub(super) fn applied(&mut self, refused: BTreeMap<ResourceId, String>) {
        let mut good = self.newest.clone();
        for (id, reason) in &refused {
            if self.refused.get(id) != Some(reason) {
                tracing::error!(resource = %id, reason, "cannot use a resource; its last good version stays");
            }
            match self.good.remove(id) {
                Some(before) => good.insert_hashed(id.clone(), before),
                None => drop(good.remove(id)),
            }
        }
        for id in self.refused.keys().filter(|id| !refused.contains_key(id) && good.get(id).is_some()) {
            tracing::info!(resource = %id, "a resource that was refused is used now");
        }
        self.good = good;
        self.refused = refused;
    }

    /// What is in use.
    pub(super) fn good(&self) -> &Snapshot {
        &self.good
    }

    /// The version that is run: that of the last batch, rejected resources included.
    pub(super) fn version(&self) -> Option<Hash> {
        self.version
    }

    /// All resources of the version that are not in use.
    pub(super) fn rejected(&self) -> Vec<Rejected> {
        let unreadable = self.unreadable.iter().map(|(name, reason)| (proto_name(name), reason));
        let refused = self.refused.iter().map(|(id, reason)| (id.into(), reason));
        unreadable.chain(refused).map(|(name, reason)| Rejected { name: Some(name), reason: reason.clone() }).collect()
    }

    /// What is held by name and hash, for a Hello: as much as fits into so many bytes.
    pub(super) fn held(&self, mut room: usize) -> Vec<proto::Held> {
        let held =
            |(name, hash): (&WireName, &Hash)| proto::Held { name: Some(proto_name(name)), hash: (*hash).into() };
        let fits = |held: &proto::Held| match room.checked_sub(held.encoded_len() + HELD_HEAD) {
            Some(left) => {
                room = left;
                true
            }
            None => false,
        };
        self.names.iter().map(held).take_while(fits).collect()
    }

    fn compute_version(&self) -> Hash {
        snapshot::version(self.names.iter().map(|((kind, name), hash)| (*kind, name.as_str(), *hash)))
    }
}

fn wire_name(name: ResourceName) -> WireName {
    (name.kind, name.name)
}

fn proto_name((kind, name): &WireName) -> ResourceName {
    ResourceName { kind: *kind, name: name.clone() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use snapshot::{Endpoints, Kind, Resource, diff};

    use super::*;

    fn endpoints(port: u16) -> Resource {
        Resource::Endpoints(Endpoints::Dns { name: "shop.example".into(), port })
    }

    fn snapshot(ports: &[(&str, u16)]) -> Snapshot {
        let mut snapshot = Snapshot::default();
        ports.iter().for_each(|(name, port)| snapshot.insert(*name, endpoints(*port)));
        snapshot
    }

    fn batch(from: &Snapshot, to: &Snapshot) -> proto::Batch {
        proto::Batch::from(&diff(from.held(), to))
    }

    fn holding(snapshot: &Snapshot) -> Holding {
        let mut holding = Holding::default();
        holding.receive(batch(&Snapshot::default(), snapshot)).unwrap();
        holding.applied(BTreeMap::new());
        holding
    }

    /// Few names and versions, so that two snapshots share some.
    fn any_snapshot() -> impl Strategy<Value = Snapshot> {
        prop::collection::btree_map(prop::sample::select(vec!["a", "b", "c", "d"]), 1..4_u16, 0..5)
            .prop_map(|ports| snapshot(&ports.into_iter().collect::<Vec<_>>()))
    }

    proptest! {
        #[test]
        fn a_diff_leads_from_any_snapshot_to_any_other(old in any_snapshot(), new in any_snapshot()) {
            let mut holding = holding(&old);
            prop_assert!(holding.receive(batch(&old, &new)).is_ok());
            prop_assert_eq!(holding.snapshot(), &new);
            prop_assert_eq!(holding.version(), Some(new.version()));
            let held: Vec<_> = new.held().map(|(_, hash)| Vec::from(hash)).collect();
            prop_assert_eq!(holding.held(usize::MAX).into_iter().map(|held| held.hash).collect::<Vec<_>>(), held);
        }
    }

    #[test]
    fn a_refused_resource_keeps_its_last_good_version_and_the_rest_moves_on() {
        let (old, new) = (snapshot(&[("a", 1), ("b", 1)]), snapshot(&[("a", 2), ("b", 2), ("c", 2)]));
        let mut holding = holding(&old);
        holding.receive(batch(&old, &new)).unwrap();
        let refuse = |name: &str| (ResourceId::new(Kind::Endpoints, name), "no".to_owned());
        holding.applied(BTreeMap::from([refuse("a"), refuse("c")]));
        assert_eq!(holding.good(), &snapshot(&[("a", 1), ("b", 2)]));
        assert_eq!(holding.snapshot(), &new);
        assert_eq!(holding.version(), Some(new.version()));
        assert_eq!(holding.rejected().len(), 2);

        holding.applied(BTreeMap::from([refuse("a")]));
        assert_eq!(holding.good(), &snapshot(&[("a", 1), ("b", 2), ("c", 2)]), "what is taken later is good then");
        assert_eq!(holding.rejected().len(), 1);

        let newer = snapshot(&[("a", 3), ("b", 2)]);
        holding.receive(batch(&new, &newer)).unwrap();
        holding.applied(BTreeMap::new());
        assert_eq!(holding.good(), &newer);
        assert!(holding.rejected().is_empty());
    }

    #[test]
    fn an_unreadable_resource_is_rejected_alone_and_counts_as_held() {
        let old = snapshot(&[("a", 1), ("b", 1)]);
        let mut holding = holding(&old);
        // As a newer controller may send it: one resource of an unknown shape, one of an unknown kind.
        let unknown = |kind: i32, name: &str| proto::Upsert {
            name: Some(ResourceName { kind, name: name.to_owned() }),
            resource: vec![0xc2, 0x3e, 0x00],
        };
        let endpoints_kind = proto::Kind::Endpoints.into();
        let readable = proto::Upsert::from(&(ResourceId::new(Kind::Endpoints, "b"), Hashed::new(endpoints(2))));
        let hash = Hash::of(&[0xc2, 0x3e, 0x00]);
        let names = [(endpoints_kind, "a", hash), (endpoints_kind, "b", Hash::of(&readable.resource)), (99, "x", hash)];
        let version = snapshot::version(names.into_iter());
        let upserts = vec![unknown(endpoints_kind, "a"), readable, unknown(99, "x")];
        holding.receive(proto::Batch { version: version.into(), upserts, removals: Vec::new(), more: false }).unwrap();
        holding.applied(BTreeMap::new());

        assert_eq!(holding.good(), &snapshot(&[("a", 1), ("b", 2)]));
        assert_eq!(holding.version(), Some(version));
        assert_eq!(holding.held(usize::MAX).len(), 3);
        let reasons: Vec<String> = holding.rejected().into_iter().map(|rejected| rejected.reason).collect();
        assert_eq!(
            reasons,
            ["resource: is of a kind that is not known here", "name.kind: the value 99 is not known here"]
        );
    }

    #[test]
    fn what_does_not_fit_into_a_hello_is_left_out_of_it() {
        let holding = holding(&snapshot(&[("a", 1), ("b", 1), ("c", 1)]));
        let entry = holding.held(usize::MAX)[0].encoded_len() + HELD_HEAD;
        for count in 0..3 {
            assert_eq!(holding.held(entry * (count + 1) - 1).len(), count);
        }
    }

    #[test]
    fn a_batch_to_another_version_changes_nothing_and_the_next_brings_everything() {
        let old = snapshot(&[("a", 1), ("gone", 1)]);
        let mut holding = holding(&old);
        let mut wrong = batch(&old, &snapshot(&[("a", 2), ("gone", 1)]));
        wrong.version = vec![7; 16];
        holding.receive(wrong).unwrap_err();
        assert_eq!((holding.snapshot(), holding.good()), (&old, &old));
        assert_eq!(holding.version(), Some(old.version()));
        assert!(holding.held(usize::MAX).is_empty());

        let new = snapshot(&[("a", 3)]);
        holding.receive(batch(&Snapshot::default(), &new)).unwrap();
        assert_eq!(holding.snapshot(), &new);
    }
}
