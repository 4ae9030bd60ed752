//! Endpoints by name: resolved in the background, never while a request waits.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, stream};
use hickory_resolver::TokioResolver;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use crate::background::Background;
use crate::cluster::{Cluster, ClusterRegistry};

/// A name is asked for again when its answer expires, within these bounds.
const SOONEST: Duration = Duration::from_secs(1);
const LATEST: Duration = Duration::from_secs(30);
/// Between attempts that failed; the last answer stays in use.
const RETRY: Duration = Duration::from_secs(2);
/// No name keeps others waiting: so many are resolved at once, each for so long at most.
const AT_ONCE: usize = 16;
const PATIENCE: Duration = Duration::from_secs(5);

/// Whether names may lead to addresses that are local to the machine (see [`snapshot::is_local`]).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LocalEndpoints {
    /// Such addresses are left out.
    #[default]
    Refused,
    /// They are used; for a data plane on one's own machine.
    Allowed,
}

/// Keeps the endpoints of clusters with a name up to date.
pub struct Resolution {
    clusters: watch::Sender<Vec<Arc<Cluster>>>,
}

impl Resolution {
    /// Starts resolving in the background.
    pub fn start(background: &Background, local: LocalEndpoints) -> Self {
        let (clusters, changed) = watch::channel(Vec::new());
        background.spawn(run(changed, local));
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

async fn run(mut changed: watch::Receiver<Vec<Arc<Cluster>>>, local: LocalEndpoints) {
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
        let (resolver, before) = (&resolver, &due);
        let resolved = stream::iter(clusters).map(|cluster| async move {
            let source = cluster.dns()?;
            let again = match before.get(&source) {
                // A cluster that is new, or changed its name, has no addresses of it yet.
                Some(at) if *at > Instant::now() && !cluster.endpoints().is_empty() => *at,
                _ => resolve(resolver, &cluster, &source, local).await,
            };
            Some((source, again))
        });
        let seen: HashMap<_, _> = resolved.buffer_unordered(AT_ONCE).filter_map(std::future::ready).collect().await;
        due = seen;
        let next = due.values().min().copied().unwrap_or_else(|| Instant::now() + LATEST);
        tokio::select! {
            changed = changed.changed() => if changed.is_err() { return },
            () = tokio::time::sleep_until(next) => {}
        }
    }
}

/// Resolves once and returns when to do it again.
async fn resolve(
    resolver: &TokioResolver,
    cluster: &Cluster,
    source: &(String, u16),
    local: LocalEndpoints,
) -> Instant {
    let usable = |addresses: &mut dyn Iterator<Item = IpAddr>| -> Vec<SocketAddr> {
        let allowed = |address: &IpAddr| local == LocalEndpoints::Allowed || !snapshot::is_local(*address);
        addresses.filter(allowed).map(|address| SocketAddr::new(address, source.1)).collect()
    };
    // A name that is an address needs no resolver.
    if let Ok(address) = source.0.parse() {
        cluster.set_resolved(source, &usable(&mut std::iter::once(address)));
        return Instant::now() + LATEST;
    }
    let Ok(answer) = timeout(PATIENCE, resolver.lookup_ip(source.0.as_str())).await else {
        tracing::warn!(name = source.0, "the name of a backend is not resolved in time, its last addresses stay");
        return Instant::now() + RETRY;
    };
    match answer {
        Ok(answer) => {
            let addresses = usable(&mut answer.iter());
            if addresses.is_empty() {
                tracing::warn!(name = source.0, "the name of a backend leads to no address that may be used");
            }
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
