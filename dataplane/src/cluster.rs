//! Clusters: the handles that routes hold. Configuration and endpoints swap inside, so that endpoint churn touches no
//! route and what is known about an endpoint outlives every push.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use http::{HeaderMap, HeaderValue};
use rustls::sign::CertifiedKey;
use snapshot::{Balancer, Endpoints, Hash, Kind, Persistence, Resource, ResourceId, Settings, Snapshot};

use crate::balance::{self, Endpoint, Outcome, Picked};
use crate::compile::Rejection;
use crate::keys::Keys;
use crate::persistence::{Cookies, Key, Names, Session, Sessions};
use crate::random;
use crate::tick::Tick;
use crate::upstream::ClientTls;

/// A backend's endpoints and how they are used. Shared by all workers, without locks.
#[derive(Debug)]
pub struct Cluster {
    name: String,
    state: ArcSwap<State>,
    /// Whose turn it is (round robin); starts anywhere, so that replicas do not march in step.
    turn: AtomicUsize,
}

/// What swaps inside of a [`Cluster`].
#[derive(Debug)]
struct State {
    config: Arc<ClusterConfig>,
    source: Arc<Endpoints>,
    endpoints: Arc<[Arc<Endpoint>]>,
    key: Arc<Key>,
    cookies: Option<Cookies>,
    /// Made when a session first asks for them: most clusters have none, or those of their rules.
    names: OnceLock<Names>,
}

/// How a backend is reached.
#[derive(Debug)]
pub struct ClusterConfig {
    hash: Hash,
    /// The configuration.
    pub cluster: snapshot::Cluster,
    /// Its TLS settings; `None` without TLS, and where they cannot be used: then there are no connections.
    pub(crate) tls: Option<Arc<ClientTls>>,
    /// The certificate that is shown to endpoints that ask for one.
    shown: Option<Arc<CertifiedKey>>,
    /// The cluster's own sessions.
    sessions: Option<Arc<Sessions>>,
    /// What of the settings cannot be used, and why.
    refused: Option<String>,
}

/// What choosing an endpoint depends on.
#[derive(Clone, Copy, Debug)]
pub struct Selection<'a> {
    /// The request's headers as the client sent them, for its persistence cookie.
    pub headers: &'a HeaderMap,
    /// Endpoints that this request has tried already.
    pub tried: &'a [SocketAddr],
    /// The present.
    pub now: Tick,
    /// The session that it belongs to.
    pub(crate) session: Option<&'a Session>,
}

impl Cluster {
    /// The name, unique among clusters.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What `read` makes of the current configuration. Counts no reference to it, over which the workers' cores would contend.
    pub fn with_config<T>(&self, read: impl FnOnce(&ClusterConfig) -> T) -> T {
        read(&self.state.load().config)
    }

    /// The current configuration.
    pub fn config(&self) -> Arc<ClusterConfig> {
        self.state.load().config.clone()
    }

    /// The current endpoints.
    pub fn endpoints(&self) -> Arc<[Arc<Endpoint>]> {
        self.state.load().endpoints.clone()
    }

    /// Whether these, once returned by [`Cluster::endpoints`], are still the current ones. Compares nothing but addresses in
    /// memory: `false` may also mean that an equal set has taken their place.
    pub fn has_endpoints(&self, endpoints: &Arc<[Arc<Endpoint>]>) -> bool {
        Arc::ptr_eq(&self.state.load().endpoints, endpoints)
    }

    /// An endpoint for a request, or `None` when every one was tried or there is none.
    ///
    /// The endpoint of the request's session goes first. Without a session, where the cluster has affinity the request's cookie
    /// decides; where it cannot (none, nonsense, its endpoint is gone) the balancer does and [`Picked::cookie`] holds the new
    /// value. An ejected endpoint is chosen only when nothing else is left.
    pub fn pick(&self, selection: &Selection<'_>) -> Option<Picked> {
        let state = self.state.load();
        let usable = balance::Usable { endpoints: &state.endpoints, tried: selection.tried, now: selection.now };
        let balanced = || balance::pick(state.config.cluster.balancer, &usable, &self.turn);
        if let Some(session) = selection.session {
            let own = session.endpoint().filter(|own| usable.admits(own)).cloned();
            return own.or_else(balanced).map(Picked::new);
        }
        match &state.cookies {
            Some(cookies) => cookies.pick(selection.headers, &usable, balanced),
            None => balanced().map(Picked::new),
        }
    }

    /// Takes note of how an attempt at an endpoint ended.
    pub fn report(&self, endpoint: &Endpoint, outcome: Outcome, now: Tick) {
        let state = self.state.load();
        // The others do not read it, and all workers would write to it.
        if state.config.cluster.balancer == Balancer::PeakEwma {
            endpoint.observe(outcome, now);
        }
        if let Some(health) = &state.config.cluster.passive_health {
            balance::judge(endpoint, outcome, health, &state.endpoints, now);
        }
    }

    /// The `Set-Cookie` header for an endpoint that was newly chosen, or `None` when the client needs no new cookie.
    ///
    /// `matched_path` is the cookie's path unless the configuration has one; `unix_now` is in seconds since 1970.
    pub fn set_cookie(&self, picked: &Picked, matched_path: &str, https: bool, unix_now: i64) -> Option<HeaderValue> {
        let state = self.state.load();
        let Some(Persistence::Affinity(affinity)) = &state.config.cluster.persistence else { return None };
        crate::persistence::set_cookie(affinity, picked.cookie()?, matched_path, https, unix_now)
    }

    /// The session of a request with these headers, where the cluster has sessions of its own.
    pub(crate) fn session(self: &Arc<Self>, headers: &HeaderMap) -> Option<Session> {
        let state = self.state.load();
        let sessions = state.config.sessions.as_ref()?;
        Some(sessions.resume(headers, &state.key, std::iter::once((self, ()))).0)
    }

    /// Asks for what names the cluster and its endpoints in tokens of sessions.
    pub(crate) fn with_names<T>(&self, ask: impl FnOnce(&Names) -> T) -> T {
        let state = self.state.load();
        ask(state.names.get_or_init(|| Names::new(&state.key, &self.name, &state.endpoints)))
    }

    /// The name and port to resolve for this cluster's endpoints; `None` when its addresses are known.
    pub fn dns(&self) -> Option<(String, u16)> {
        match &*self.state.load().source {
            Endpoints::Dns { name, port } => Some((name.clone(), *port)),
            Endpoints::Addresses(_) => None,
        }
    }

    /// Replaces the endpoints of a cluster with a name by what the name was resolved to. Nothing happens to a cluster
    /// whose source is no longer this name.
    pub fn set_resolved(&self, source: &(String, u16), addresses: &[SocketAddr]) {
        let mut addresses = addresses.to_vec();
        addresses.sort_unstable();
        addresses.dedup();
        self.state.rcu(|state| match &*state.source {
            Endpoints::Dns { name, port } if *name == source.0 && *port == source.1 => {
                Arc::new(state.with_addresses(&addresses))
            }
            _ => state.clone(),
        });
    }
}

impl ClusterConfig {
    /// The configuration of this source; `held` itself where nothing changes. What cannot be used of it is of no effect, and
    /// nothing of the past takes its place: who is no longer trusted, or shown a certificate, would be.
    fn renew(held: Option<&Arc<Self>>, name: &str, source: (&snapshot::Cluster, Hash), keys: &Keys) -> Arc<Self> {
        let (cluster, hash) = source;
        let tls = cluster.protocol.tls();
        let wanted = tls.and_then(|tls| tls.client_certificate.as_ref());
        let shown = wanted.and_then(|name| keys.get(name));
        if let Some(held) = held
            && held.hash == hash
            && held.shown.as_ref().map(Arc::as_ptr) == shown.map(Arc::as_ptr)
        {
            return held.clone();
        }
        let compiled = match (tls, wanted) {
            (None, _) => Ok((None, None)),
            (Some(_), Some(wanted)) if shown.is_none() => {
                Err(format!("the client certificate {wanted:?} does not exist or cannot be used"))
            }
            (Some(tls), _) => ClientTls::new(tls, &cluster.protocol, shown.cloned())
                .map(|(tls, refused)| (Some(Arc::new(tls)), refused)),
        };
        let (tls, refused) = compiled.unwrap_or_else(|reason| (None, Some(reason)));
        let sessions = match &cluster.persistence {
            Some(Persistence::Session(session)) => Some(Sessions::new(session, name).map(Arc::new)),
            Some(Persistence::Affinity(_)) | None => None,
        };
        let (sessions, refused) = match sessions.transpose() {
            Ok(sessions) => (sessions, refused),
            Err(reason) => (None, refused.or(Some(reason))),
        };
        Arc::new(Self { hash, cluster: cluster.clone(), shown: shown.cloned(), tls, sessions, refused })
    }
}

impl State {
    fn with_addresses(&self, addresses: &[SocketAddr]) -> Self {
        let endpoints = balance::renew(&self.endpoints, addresses);
        Self::new(self.config.clone(), self.source.clone(), endpoints, self.key.clone())
    }

    fn new(config: Arc<ClusterConfig>, source: Arc<Endpoints>, endpoints: Arc<[Arc<Endpoint>]>, key: Arc<Key>) -> Self {
        let cookies = match &config.cluster.persistence {
            Some(Persistence::Affinity(affinity)) => Some(Cookies::new(affinity, &key, &endpoints)),
            Some(Persistence::Session(_)) | None => None,
        };
        Self { config, source, endpoints, key, cookies, names: OnceLock::new() }
    }
}

/// All clusters by name. Only the compiler changes it.
#[derive(Debug, Default)]
pub struct ClusterRegistry {
    clusters: HashMap<String, Entry>,
    key: Option<Arc<Key>>,
}

#[derive(Debug)]
struct Entry {
    cluster: Arc<Cluster>,
    /// Hash of the endpoints resource that was applied last.
    endpoints: Hash,
}

impl ClusterRegistry {
    /// The cluster of this name.
    pub fn get(&self, name: &str) -> Option<&Arc<Cluster>> {
        self.clusters.get(name).map(|entry| &entry.cluster)
    }

    /// All clusters, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Cluster>> {
        self.clusters.values().map(|entry| &entry.cluster)
    }

    /// The key of cookies and sessions.
    pub(crate) fn key(&self) -> Arc<Key> {
        self.key.clone().unwrap_or_default()
    }

    /// Makes the clusters those of the snapshot. Changes take effect at once, on requests under way too. A cluster whose
    /// endpoints resource is missing is rejected and keeps what it had; of one whose TLS settings cannot be used as a whole
    /// the rest holds.
    pub(crate) fn update(&mut self, snapshot: &Snapshot, keys: &Keys) -> Vec<Rejection> {
        let mut rejections = Vec::new();
        let key = self.current_key(snapshot);
        for (id, hashed) in snapshot.iter() {
            let Resource::Cluster(source) = hashed.resource().as_ref() else { continue };
            let endpoints = snapshot.get(&ResourceId::new(Kind::Endpoints, &source.endpoints));
            let Some((Resource::Endpoints(addresses), of_endpoints)) =
                endpoints.map(|endpoints| (endpoints.resource().as_ref(), endpoints.hash()))
            else {
                let reason = format!("the endpoints {:?} do not exist", source.endpoints);
                rejections.push(Rejection { id: id.clone(), reason });
                continue;
            };
            let held = self.clusters.get(&id.name).map(|entry| entry.cluster.config());
            let config = ClusterConfig::renew(held.as_ref(), &id.name, (source, hashed.hash()), keys);
            rejections.extend(config.refused.clone().map(|reason| Rejection { id: id.clone(), reason }));
            match self.clusters.get_mut(&id.name) {
                Some(entry) => {
                    let state = entry.cluster.state.load();
                    let same = Arc::ptr_eq(&state.config, &config) && Arc::ptr_eq(&state.key, &key);
                    if same && entry.endpoints == of_endpoints {
                        continue;
                    }
                    entry.endpoints = of_endpoints;
                    entry.cluster.state.rcu(|state| Arc::new(state.updated(&config, addresses, &key)));
                }
                None => {
                    let empty = Arc::new(Endpoints::Addresses(Vec::new()));
                    let state = State::new(config.clone(), empty, Arc::default(), key.clone());
                    let cluster = Arc::new(Cluster {
                        name: id.name.clone(),
                        state: ArcSwap::from_pointee(state.updated(&config, addresses, &key)),
                        turn: AtomicUsize::new(random::bits() as usize),
                    });
                    self.clusters.insert(id.name.clone(), Entry { cluster, endpoints: of_endpoints });
                }
            }
        }
        self.clusters.retain(|name, _| snapshot.get(&ResourceId::new(Kind::Cluster, name)).is_some());
        rejections
    }

    /// The key for cookies; the one before while it says the same.
    fn current_key(&mut self, snapshot: &Snapshot) -> Arc<Key> {
        let settings = snapshot.get(&ResourceId::new(Kind::Settings, "settings"));
        let new = match settings.map(|settings| settings.resource().as_ref()) {
            Some(Resource::Settings(Settings { cookie_key, .. })) => Key::new(cookie_key.expose()),
            _ => Key::new(&[]),
        };
        match &self.key {
            Some(key) if **key == new => key.clone(),
            _ => self.key.insert(Arc::new(new)).clone(),
        }
    }
}

impl State {
    fn updated(&self, config: &Arc<ClusterConfig>, source: &Endpoints, key: &Arc<Key>) -> Self {
        let endpoints = match source {
            Endpoints::Addresses(addresses) => {
                let addresses: Vec<_> = addresses.iter().map(|endpoint| endpoint.address).collect();
                balance::renew(&self.endpoints, &addresses)
            }
            // What was resolved stays until the name is resolved again; another name's addresses do not.
            Endpoints::Dns { .. } if *self.source == *source => self.endpoints.clone(),
            Endpoints::Dns { .. } => Arc::default(),
        };
        Self::new(config.clone(), Arc::new(source.clone()), endpoints, key.clone())
    }
}

#[cfg(test)]
mod tests;
