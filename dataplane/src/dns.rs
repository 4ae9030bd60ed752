//! Endpoints by name: resolved in the background, never while a request waits.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::TokioResolver;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::background::Background;
use crate::cluster::{Cluster, ClusterRegistry};

/// A name is asked for again when its answer expires, within these bounds.
const SOONEST: Duration = Duration::from_secs(1);
const LATEST: Duration = Duration::from_secs(30);
/// Between attempts that failed; the last answer stays in use.
const RETRY: Duration = Duration::from_secs(2);

/// Keeps the endpoints of clusters with a name up to date.
pub struct Resolution {
    clusters: watch::Sender<Vec<Arc<Cluster>>>,
}

impl Resolution {
    /// Starts resolving in the background.
    pub fn start(background: &Background) -> Self {
        let (clusters, changed) = watch::channel(Vec::new());
        background.spawn(run(changed));
        Self { clusters }
    }

    /// Follows the names of these clusters from now on, and those of no others.
    pub fn follow(&self, clusters: &ClusterRegistry) {
        let named: Vec<_> = clusters.iter().filter(|cluster| cluster.dns().is_some()).cloned().collect();
        if !named.is_empty() || !self.clusters.borrow().is_empty() {
            self.clusters.send_replace(named);
        }
    }
}

async fn run(mut changed: watch::Receiver<Vec<Arc<Cluster>>>) {
    // Nothing is set up, and no resolver configuration read, until there is a name.
    if changed.wait_for(|clusters| !clusters.is_empty()).await.is_err() {
        return;
    }
    let resolver = match TokioResolver::builder_tokio().and_then(|builder| builder.build()) {
        Ok(resolver) => resolver,
        Err(error) => {
            tracing::error!(%error, "names cannot be resolved");
            return;
        }
    };
    let mut due: HashMap<(String, u16), Instant> = HashMap::new();
    loop {
        let clusters = changed.borrow_and_update().clone();
        let mut next = Instant::now() + LATEST;
        let mut seen = HashMap::new();
        for cluster in &clusters {
            let Some(source) = cluster.dns() else { continue };
            let again = match due.get(&source) {
                // A cluster that is new, or changed its name, has no addresses of it yet.
                Some(at) if *at > Instant::now() && !cluster.endpoints().is_empty() => *at,
                _ => resolve(&resolver, cluster, &source).await,
            };
            next = next.min(again);
            seen.insert(source, again);
        }
        due = seen;
        tokio::select! {
            changed = changed.changed() => if changed.is_err() { return },
            () = tokio::time::sleep_until(next) => {}
        }
    }
}

/// Resolves once and returns when to do it again.
async fn resolve(resolver: &TokioResolver, cluster: &Cluster, source: &(String, u16)) -> Instant {
    // A name that is an address needs no resolver.
    if let Ok(address) = source.0.parse() {
        cluster.set_resolved(source, &[SocketAddr::new(address, source.1)]);
        return Instant::now() + LATEST;
    }
    match resolver.lookup_ip(source.0.as_str()).await {
        Ok(answer) => {
            let addresses: Vec<_> = answer.iter().map(|address| SocketAddr::new(address, source.1)).collect();
            cluster.set_resolved(source, &addresses);
            let valid = answer.valid_until().saturating_duration_since(std::time::Instant::now());
            Instant::now() + valid.clamp(SOONEST, LATEST)
        }
        Err(error) => {
            tracing::warn!(name = source.0, %error, "cannot resolve the name of a backend, its last addresses stay");
            Instant::now() + RETRY
        }
    }
}
