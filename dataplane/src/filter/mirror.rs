//! Copies of requests (GEP-3171).

use std::sync::Arc;

use super::Outgoing;
use crate::cluster::{Cluster, ClusterRegistry};
use crate::random;

/// A compiled [`snapshot::Mirror`].
#[derive(Debug)]
pub struct Mirror {
    cluster: Arc<Cluster>,
    numerator: u32,
    denominator: u32,
}

/// A copy of a request that is to be sent.
#[derive(Clone, Debug)]
pub struct Duplicate {
    /// Where it goes.
    pub cluster: Arc<Cluster>,
    /// The request as it was at the filter's place.
    pub request: Outgoing,
}

impl Mirror {
    pub(super) fn compile(source: &snapshot::Mirror, clusters: &ClusterRegistry) -> Result<Self, String> {
        let cluster = clusters.get(&source.cluster);
        let cluster = cluster.ok_or_else(|| format!("the cluster {:?} does not exist", source.cluster))?.clone();
        Ok(Self { cluster, numerator: source.numerator, denominator: source.denominator })
    }

    /// Where copies go.
    pub fn cluster(&self) -> &Arc<Cluster> {
        &self.cluster
    }

    /// A copy of this request, if it is one of those that are copied.
    pub(super) fn copy(&self, request: &Outgoing) -> Option<Duplicate> {
        let drawn = random::below(u64::from(self.denominator)) < u64::from(self.numerator);
        drawn.then(|| Duplicate { cluster: self.cluster.clone(), request: request.clone() })
    }
}
