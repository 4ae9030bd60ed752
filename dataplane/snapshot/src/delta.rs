//! Content hashes, and the difference of two snapshots.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, OnceLock};

use serde::Serialize;

use crate::{DecodeError, Kind, Resource, ResourceId};

/// The first 16 bytes of a BLAKE3 hash. Equal content has equal hashes on every replica and version of the same protocol.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hash(pub [u8; 16]);

impl Hash {
    /// The hash of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self::finish(&blake3::Hasher::new().update(bytes).finalize())
    }

    fn finish(hash: &blake3::Hash) -> Self {
        let mut short = [0; 16];
        short.copy_from_slice(&hash.as_bytes()[..16]);
        Self(short)
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A resource with the hash of its wire encoding. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hashed {
    hash: Hash,
    resource: Arc<Resource>,
}

impl Hashed {
    /// Encodes the resource once to learn its hash.
    pub fn new(resource: Resource) -> Self {
        let hash = Hash::of(&resource.encode());
        Self { hash, resource: Arc::new(resource) }
    }

    /// A resource from the wire. The hash is of the bytes as they came, so what this version does not know still counts.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        Ok(Self { hash: Hash::of(bytes), resource: Arc::new(Resource::decode(bytes)?) })
    }

    /// The content's hash.
    pub fn hash(&self) -> Hash {
        self.hash
    }

    /// The resource.
    pub fn resource(&self) -> &Arc<Resource> {
        &self.resource
    }
}

/// Everything one data plane needs to serve. Cheap to clone; the first change of a clone copies the names.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    resources: Arc<BTreeMap<ResourceId, Hashed>>,
    /// Computed once for all who ask.
    version: Arc<OnceLock<Hash>>,
}

impl PartialEq for Snapshot {
    fn eq(&self, other: &Self) -> bool {
        self.resources == other.resources
    }
}

impl Eq for Snapshot {}

impl Snapshot {
    /// Adds or replaces a resource under `name`; its kind is the resource's own.
    pub fn insert(&mut self, name: impl Into<String>, resource: Resource) {
        let id = ResourceId::new(resource.kind(), name);
        self.insert_hashed(id, Hashed::new(resource));
    }

    /// Adds or replaces a resource whose hash is known.
    pub fn insert_hashed(&mut self, id: ResourceId, resource: Hashed) {
        self.resources_mut().insert(id, resource);
    }

    /// Removes a resource.
    pub fn remove(&mut self, id: &ResourceId) -> Option<Hashed> {
        self.resources_mut().remove(id)
    }

    fn resources_mut(&mut self) -> &mut BTreeMap<ResourceId, Hashed> {
        match Arc::get_mut(&mut self.version) {
            Some(version) => _ = version.take(),
            None => self.version = Arc::default(), // a clone keeps its own
        }
        Arc::make_mut(&mut self.resources)
    }

    /// The resource of this id.
    pub fn get(&self, id: &ResourceId) -> Option<&Hashed> {
        self.resources.get(id)
    }

    /// The resource of this id, with the id as it is held here.
    pub fn get_key_value(&self, id: &ResourceId) -> Option<(&ResourceId, &Hashed)> {
        self.resources.get_key_value(id)
    }

    /// All resources, ordered by id.
    pub fn iter(&self) -> impl Iterator<Item = (&ResourceId, &Hashed)> {
        self.resources.iter()
    }

    /// How many resources there are.
    pub fn len(&self) -> usize {
        self.resources.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.resources.is_empty()
    }

    /// See [`version`].
    pub fn version(&self) -> Hash {
        let held = || self.resources.iter().map(|(id, resource)| (number(id.kind), id.name.as_str(), resource.hash));
        *self.version.get_or_init(|| version(held()))
    }

    /// What [`diff`] needs to know of a holder of this snapshot.
    pub fn held(&self) -> impl Iterator<Item = (&ResourceId, Hash)> {
        self.resources.iter().map(|(id, resource)| (id, resource.hash))
    }
}

impl Serialize for Snapshot {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.resources.iter().map(|(id, hashed)| (id.to_string(), hashed.resource.as_ref())))
    }
}

/// The change from one snapshot to another, applied as a whole by the data plane (`source::holding`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// [`Snapshot::version`] after the batch.
    pub version: Hash,
    /// What is new or changed.
    pub upserts: Vec<(ResourceId, Hashed)>,
    /// What is gone.
    pub removals: Vec<ResourceId>,
}

impl Batch {
    /// Whether the batch changes nothing.
    pub fn is_empty(&self) -> bool {
        self.upserts.is_empty() && self.removals.is_empty()
    }
}

/// The hash over kind numbers (of the protocol), names and hashes in this order: equal versions mean equal content.
///
/// In this form a data plane can also compute it over kinds that it does not know.
pub fn version<'a>(held: impl Iterator<Item = (i32, &'a str, Hash)>) -> Hash {
    let mut hasher = blake3::Hasher::new();
    for (kind, name, hash) in held {
        hasher.update(&kind.to_le_bytes());
        hasher.update(&(name.len() as u64).to_le_bytes());
        hasher.update(name.as_bytes());
        hasher.update(&hash.0);
    }
    Hash::finish(&hasher.finalize())
}

fn number(kind: Kind) -> i32 {
    crate::proto::Kind::from(kind).into()
}

/// What turns a holder of `held` (names and hashes, ordered by id) into a holder of `new`.
pub fn diff<'a>(held: impl Iterator<Item = (&'a ResourceId, Hash)>, new: &Snapshot) -> Batch {
    let mut batch = Batch { version: new.version(), upserts: Vec::new(), removals: Vec::new() };
    // Both are in the same order, and nearly the same: side by side is faster than looking up each of the thousands.
    let mut held = held.peekable();
    for (id, resource) in new.resources.iter() {
        while let Some((gone, _)) = held.next_if(|(other, _)| *other < id) {
            batch.removals.push(gone.clone());
        }
        match held.next_if(|(other, _)| *other == id) {
            Some((_, hash)) if hash == resource.hash => {}
            _ => batch.upserts.push((id.clone(), resource.clone())),
        }
    }
    batch.removals.extend(held.map(|(gone, _)| gone.clone()));
    batch
}
