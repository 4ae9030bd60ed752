//! Names, hashes and batches of the stream.

use super::{DecodeError, enumeration, list, required, same_variants};
use crate::{Batch, Hash, Hashed, Kind, ResourceId, proto};

same_variants!(Kind { Settings, Certificate, Listener, Endpoints, Cluster, Route, L4Route });

impl From<&ResourceId> for proto::ResourceName {
    fn from(id: &ResourceId) -> Self {
        Self { kind: proto::Kind::from(id.kind).into(), name: id.name.clone() }
    }
}

impl TryFrom<proto::ResourceName> for ResourceId {
    type Error = DecodeError;

    fn try_from(wire: proto::ResourceName) -> Result<Self, DecodeError> {
        Ok(Self { kind: enumeration::<proto::Kind, _>(wire.kind, "kind")?, name: wire.name })
    }
}

impl TryFrom<&[u8]> for Hash {
    type Error = DecodeError;

    fn try_from(bytes: &[u8]) -> Result<Self, DecodeError> {
        <[u8; 16]>::try_from(bytes).map(Hash).map_err(|_| DecodeError::new("", "is not 16 bytes long"))
    }
}

impl From<Hash> for Vec<u8> {
    fn from(hash: Hash) -> Self {
        hash.0.to_vec()
    }
}

impl From<&(ResourceId, Hashed)> for proto::Upsert {
    fn from((id, hashed): &(ResourceId, Hashed)) -> Self {
        Self { name: Some(id.into()), resource: hashed.resource().encode() }
    }
}

impl TryFrom<proto::Upsert> for (ResourceId, Hashed) {
    type Error = DecodeError;

    fn try_from(wire: proto::Upsert) -> Result<Self, DecodeError> {
        let id: ResourceId = required(wire.name, "name")?;
        let hashed = Hashed::decode(&wire.resource)?;
        if hashed.resource().kind() != id.kind {
            return Err(DecodeError::new("name.kind", format!("is {:?}, the resource is another", id.kind)));
        }
        Ok((id, hashed))
    }
}

/// In one part.
impl From<&Batch> for proto::Batch {
    fn from(batch: &Batch) -> Self {
        Self {
            version: batch.version.into(),
            upserts: list(&batch.upserts),
            removals: list(&batch.removals),
            more: false,
        }
    }
}
