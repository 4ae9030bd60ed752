//! Endpoints by name: resolved in the background, never while a request waits.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use crate::background::Background;
use crate::cluster::{Cluster, ClusterRegistry};

/// A name is asked for again when its answer expires, within these bounds.
const SOONEST: Duration = Duration::from_secs(1);
const LATEST: Duration = Duration::from_secs(30);
/// After the first attempt that failed; each further one waits twice as long, up to [`LATEST`]. The last answer stays in use.
const RETRY: Duration = Duration::from_secs(2);
/// So many names are asked for at once, each for so long at most: a flood of them does not drown the resolver, and those
/// that nobody answers leave room for the others.
const AT_ONCE: usize = 64;
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
    /// Starts resolving in the background, by asking `server` or else the servers of the system.
    pub fn start(background: &Background, local: LocalEndpoints, server: Option<SocketAddr>) -> Self {
        let (clusters, changed) = watch::channel(Vec::new());
        background.spawn(run(changed, local, server));
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

/// A cluster, by the address of its handle, and what it is to be resolved from.
type Followed = (usize, (String, u16));

/// Follows each name in a task of its own: a name waits for others only while [`AT_ONCE`] of them are asked for.
async fn run(mut changed: watch::Receiver<Vec<Arc<Cluster>>>, local: LocalEndpoints, server: Option<SocketAddr>) {
    // Nothing is set up, and no resolver configuration read, until there is a name.
    if changed.wait_for(|clusters| !clusters.is_empty()).await.is_err() {
        return;
    }
    let resolver = match resolver(server) {
        Ok(resolver) => resolver,
        Err(error) => {
            tracing::error!(%error, "names cannot be resolved");
            return;
        }
    };
    let resolving = Arc::new(Resolving { resolver, local, turns: Semaphore::new(AT_ONCE) });
    let mut tasks = JoinSet::new();
    let mut following = HashMap::new();
    loop {
        let mut before = std::mem::take(&mut following);
        for cluster in changed.borrow_and_update().iter() {
            let Some(source) = cluster.dns() else { continue };
            // Its task holds the cluster, so that the address stays its own.
            let key: Followed = (Arc::as_ptr(cluster).addr(), source.clone());
            let task = before.remove(&key).unwrap_or_else(|| {
                let (resolving, cluster) = (resolving.clone(), cluster.clone());
                tasks.spawn(async move { resolving.follow(&cluster, &source).await })
            });
            following.insert(key, task);
        }
        before.values().for_each(tokio::task::AbortHandle::abort);
        while tasks.try_join_next().is_some() {}
        if changed.changed().await.is_err() {
            return;
        }
    }
}

fn resolver(server: Option<SocketAddr>) -> Result<TokioResolver, hickory_resolver::net::NetError> {
    let Some(server) = server else { return TokioResolver::builder_tokio()?.build() };
    let mut ways = vec![ConnectionConfig::udp(), ConnectionConfig::tcp()];
    ways.iter_mut().for_each(|way| way.port = server.port());
    let server = NameServerConfig::new(server.ip(), true, ways);
    let config = ResolverConfig::from_name_servers(vec![server]);
    TokioResolver::builder_with_config(config, TokioRuntimeProvider::default()).build()
}

struct Resolving {
    resolver: TokioResolver,
    local: LocalEndpoints,
    turns: Semaphore,
}

impl Resolving {
    /// Keeps the endpoints of one cluster up to date. Never ends by itself.
    async fn follow(&self, cluster: &Cluster, source: &(String, u16)) {
        let mut retry = RETRY;
        loop {
            let next = match self.resolve(cluster, source).await {
                Some(expires) => {
                    retry = RETRY;
                    expires
                }
                None => {
                    let next = Instant::now() + retry;
                    retry = (retry * 2).min(LATEST);
                    next
                }
            };
            tokio::time::sleep_until(next).await;
        }
    }

    /// Resolves once and returns when the answer expires, or `None` when there is none.
    async fn resolve(&self, cluster: &Cluster, source: &(String, u16)) -> Option<Instant> {
        // A name that is an address needs no resolver.
        if let Ok(address) = source.0.parse() {
            cluster.set_resolved(source, &self.usable(std::iter::once(address), source.1));
            return Some(Instant::now() + LATEST);
        }
        let _turn = self.turns.acquire().await.ok()?;
        let Ok(answer) = timeout(PATIENCE, self.resolver.lookup_ip(source.0.as_str())).await else {
            tracing::warn!(name = source.0, "the name of a backend is not resolved in time, its last addresses stay");
            return None;
        };
        match answer {
            Ok(answer) => {
                let addresses = self.usable(answer.iter(), source.1);
                if addresses.is_empty() {
                    tracing::warn!(name = source.0, "the name of a backend leads to no address that may be used");
                }
                cluster.set_resolved(source, &addresses);
                let valid = answer.valid_until().saturating_duration_since(std::time::Instant::now());
                Some(Instant::now() + valid.clamp(SOONEST, LATEST))
            }
            Err(error) => {
                tracing::warn!(name = source.0, %error, "cannot resolve the name of a backend, its last addresses stay");
                None
            }
        }
    }

    fn usable(&self, addresses: impl Iterator<Item = IpAddr>, port: u16) -> Vec<SocketAddr> {
        let allowed = |address: &IpAddr| self.local == LocalEndpoints::Allowed || !snapshot::is_local(*address);
        addresses.filter(allowed).map(|address| SocketAddr::new(address, port)).collect()
    }
}
