//! Routes of connections and datagrams.

use super::{DecodeError, enumeration, fields, list, not_blank, unset};
use crate::{L4Backend, L4Route, Target, proto};

impl From<&L4Route> for proto::L4Route {
    fn from(route: &L4Route) -> Self {
        Self {
            name: route.name.clone(),
            attachments: list(&route.attachments),
            rank: Some((&route.rank).into()),
            backends: list(&route.backends),
        }
    }
}

impl TryFrom<proto::L4Route> for L4Route {
    type Error = DecodeError;

    fn try_from(wire: proto::L4Route) -> Result<Self, DecodeError> {
        Ok(Self {
            name: wire.name,
            attachments: fields(wire.attachments, "attachments")?,
            rank: wire.rank.ok_or_else(|| unset("rank"))?.into(),
            backends: fields(wire.backends, "backends")?,
        })
    }
}

impl From<&L4Backend> for proto::L4Backend {
    fn from(backend: &L4Backend) -> Self {
        use proto::l4_backend::Target as Wire;
        let target = match &backend.target {
            Target::Cluster(name) => Wire::Cluster(name.clone()),
            Target::Refuse(refusal) => Wire::Refuse(proto::Refusal::from(*refusal).into()),
        };
        Self { weight: backend.weight, target: Some(target) }
    }
}

impl TryFrom<proto::L4Backend> for L4Backend {
    type Error = DecodeError;

    fn try_from(wire: proto::L4Backend) -> Result<Self, DecodeError> {
        use proto::l4_backend::Target as Wire;
        let target = match wire.target.ok_or_else(|| unset("target"))? {
            Wire::Cluster(name) => Target::Cluster(not_blank(name, "cluster")?),
            Wire::Refuse(refusal) => Target::Refuse(enumeration::<proto::Refusal, _>(refusal, "refuse")?),
        };
        Ok(Self { weight: wire.weight, target })
    }
}
