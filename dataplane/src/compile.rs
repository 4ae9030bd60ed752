//! The step between an applied snapshot and live traffic. Runs beside the workers, never on a request's path.

use std::sync::Arc;

use snapshot::{ResourceId, Snapshot};

use crate::cluster::ClusterRegistry;
use crate::keys::Keys;
use crate::limit::LimiterRegistry;
use crate::route::{self, RouteTable};

/// A resource that cannot be compiled; the rest of its snapshot lives without it, or with its last good version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// Which one.
    pub id: ResourceId,
    /// Why, for the user.
    pub reason: String,
}

/// What lives from one snapshot to the next: the certificates, the table, the clusters and the limiters' state.
#[derive(Debug, Default)]
pub struct Compiler {
    keys: Keys,
    table: Arc<RouteTable>,
    clusters: ClusterRegistry,
    limiters: LimiterRegistry,
}

impl Compiler {
    /// Brings the clusters up to date, which takes effect at once, and returns the routing table to swap in. The table
    /// is the one before when no listener and no route changed.
    pub fn compile(&mut self, snapshot: &Snapshot) -> (Arc<RouteTable>, Vec<Rejection>) {
        let mut rejections = self.keys.update(snapshot);
        rejections.extend(self.clusters.update(snapshot, &self.keys));
        let (table, of_routes) = route::compile(snapshot, &self.table, &self.clusters, &mut self.limiters);
        rejections.extend(of_routes);
        self.table = table.clone();
        self.limiters.forget_unused();
        (table, rejections)
    }

    /// The certificates, for handshakes with clients.
    pub(crate) fn keys(&self) -> &Keys {
        &self.keys
    }

    /// All clusters, for resolving names and for metrics.
    pub fn clusters(&self) -> &ClusterRegistry {
        &self.clusters
    }
}
