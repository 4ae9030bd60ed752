//! Endpoints by name: resolved in the background, never while a request waits.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::system_conf::read_system_conf;
use tokio::sync::{Semaphore, SemaphorePermit, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use crate::background::Background;
use crate::cluster::{Cluster, ClusterRegistry};

/// A name is asked for again when its answer expires, within these bounds.
const SOONEST: Duration = Duration::from_secs(1);
const LATEST: Duration = Duration::from_secs(30);
/// After the first attempt that failed; each further one waits twice as long, up to [`LATEST`]. The last answer stays in use.
const RETRY: Duration = Duration::from_secs(2);
/// So many names are asked for at once, each for so long at most: a flood of them does not drown the resolver.
const AT_ONCE: usize = 64;
/// So many of these may be names whose last attempt failed: however many there are that nobody answers, they leave room for
/// those that are new or were answered.
const RETRIES_AT_ONCE: usize = 16;
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
    let resolving = Arc::new(Resolving { resolver, local, turns: Turns::new() });
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
    let Some(server) = server else {
        let (system, options) = read_system_conf()?;
        // A name is whole, as Kubernetes' DNS takes it. With the pod's search list `example.com` could be the Service `example`
        // of a namespace `com`, and each name would be asked for several times.
        let config = ResolverConfig::from_parts(None, Vec::new(), system.name_servers().to_vec());
        let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        *builder.options_mut() = options;
        return builder.build();
    };
    let mut ways = vec![ConnectionConfig::udp(), ConnectionConfig::tcp()];
    ways.iter_mut().for_each(|way| way.port = server.port());
    let server = NameServerConfig::new(server.ip(), true, ways);
    let config = ResolverConfig::from_name_servers(vec![server]);
    TokioResolver::builder_with_config(config, TokioRuntimeProvider::default()).build()
}

struct Resolving {
    resolver: TokioResolver,
    local: LocalEndpoints,
    turns: Turns,
}

impl Resolving {
    /// Keeps the endpoints of one cluster up to date. Never ends by itself.
    async fn follow(&self, cluster: &Cluster, source: &(String, u16)) {
        let mut retry = RETRY;
        let mut last = Last::NoFailure;
        loop {
            let next = match self.resolve(cluster, source, last).await {
                Some(expires) => {
                    (retry, last) = (RETRY, Last::NoFailure);
                    expires
                }
                None => {
                    last = Last::Failure;
                    let next = Instant::now() + retry;
                    retry = (retry * 2).min(LATEST);
                    next
                }
            };
            tokio::time::sleep_until(next).await;
        }
    }

    /// Resolves once and returns when the answer expires, or `None` when there is none.
    async fn resolve(&self, cluster: &Cluster, source: &(String, u16), last: Last) -> Option<Instant> {
        // A name that is an address needs no resolver.
        if let Ok(address) = source.0.parse() {
            cluster.set_resolved(source, &self.usable(std::iter::once(address), source.1));
            return Some(Instant::now() + LATEST);
        }
        let _turn = self.turns.take(last).await?;
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

/// What became of the last attempt at a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Last {
    /// It was answered, or there was none yet.
    NoFailure,
    Failure,
}

/// Who may ask now: [`AT_ONCE`] names, [`RETRIES_AT_ONCE`] of them after a failure.
struct Turns {
    all: Semaphore,
    retries: Semaphore,
}

/// Held while a name is asked for.
struct Turn<'a> {
    _any: SemaphorePermit<'a>,
    _retry: Option<SemaphorePermit<'a>>,
}

impl Turns {
    fn new() -> Self {
        Self { all: Semaphore::new(AT_ONCE), retries: Semaphore::new(RETRIES_AT_ONCE) }
    }

    /// Waits for a turn; `None` never happens, for nobody closes the semaphores.
    async fn take(&self, last: Last) -> Option<Turn<'_>> {
        // First the smaller share: who waits for that keeps nobody else waiting.
        let retry = match last {
            Last::NoFailure => None,
            Last::Failure => Some(self.retries.acquire().await.ok()?),
        };
        Some(Turn { _any: self.all.acquire().await.ok()?, _retry: retry })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn more_silent_names_than_turns_leave_room_for_others() {
        let turns = Arc::new(Turns::new());
        let mut silent = JoinSet::new();
        for _ in 0..2 * AT_ONCE {
            let turns = turns.clone();
            silent.spawn(async move {
                let _turn = turns.take(Last::Failure).await;
                std::future::pending::<()>().await;
            });
        }
        // On one thread each of them runs until it waits, before this goes on.
        tokio::task::yield_now().await;
        assert!(turns.all.available_permits() < AT_ONCE, "some of them are asked for");
        let others = async {
            let mut held = Vec::new();
            for _ in 0..AT_ONCE - RETRIES_AT_ONCE {
                held.push(turns.take(Last::NoFailure).await);
            }
        };
        timeout(PATIENCE, others).await.expect("the silent names take all turns");
        silent.abort_all();
    }
}
