//! Routes of connections and datagrams.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use snapshot::{Hash, Rank, Resource, ResourceId, Snapshot};

use super::host::HostMap;
use super::listener::{Listeners, Place, Serves, admits};
use super::renew::renew;
use super::rule::Target;
use super::weighted::Weighted;
use crate::cluster::{Cluster, ClusterRegistry};
use crate::compile::Rejection;
use crate::reason::Reason;

/// A route of connections or datagrams, compiled.
#[derive(Debug)]
pub struct L4Route {
    /// For people and metrics, see [`snapshot::L4Route::name`].
    pub name: Arc<str>,
    hash: Hash,
    attachments: Vec<snapshot::Attachment>,
    rank: Rank,
    backends: Weighted<Target>,
}

/// The routes of a table, by the name of their resource.
pub(super) type L4Routes = HashMap<String, Arc<L4Route>>;

impl L4Route {
    /// Where the next connection goes, or the next client's datagrams: at random by weight.
    ///
    /// # Errors
    /// Why it goes nowhere: there is no backend, or its reference is broken.
    pub fn choose(&self) -> Result<&Arc<Cluster>, Reason> {
        self.backends.choose()?.reach()
    }

    /// As [`L4Route::choose`] for who drew `draw`, any number: the same for the same number.
    ///
    /// # Errors
    /// As [`L4Route::choose`].
    pub fn choose_for(&self, draw: u64) -> Result<&Arc<Cluster>, Reason> {
        self.backends.drawn(draw)?.reach()
    }

    /// Whether some share goes to this cluster.
    pub fn leads_to(&self, cluster: &Arc<Cluster>) -> bool {
        self.backends.with_share().filter_map(Target::cluster).any(|held| Arc::ptr_eq(held, cluster))
    }

    fn compile(
        source: &snapshot::L4Route,
        hash: Hash,
        listeners: &Listeners<'_>,
        clusters: &ClusterRegistry,
    ) -> Result<Self, String> {
        for attachment in &source.attachments {
            admits(listeners, &attachment.listener, &[Serves::Connections, Serves::Datagrams])?;
        }
        let mut backends = Vec::with_capacity(source.backends.len());
        for backend in &source.backends {
            backends.push((backend.weight, Target::compile(&backend.target, clusters)?));
        }
        Ok(Self {
            name: source.name.as_str().into(),
            hash,
            attachments: source.attachments.clone(),
            rank: source.rank.clone(),
            backends: Weighted::new(backends),
        })
    }

    /// Whether everything that the route refers to is still what it was compiled with.
    fn is_current(&self, listeners: &Listeners<'_>, clusters: &ClusterRegistry) -> bool {
        let is_held = |held: &Arc<Cluster>| clusters.get(held.name()).is_some_and(|current| Arc::ptr_eq(held, current));
        self.attachments.iter().all(|attachment| listeners.contains_key(attachment.listener.as_str()))
            && self.backends.iter().filter_map(Target::cluster).all(is_held)
    }
}

/// The routes of a snapshot, and whether one of them is new. What cannot be compiled is rejected and keeps the version
/// that `previous` holds, if any.
pub(super) fn compile(
    snapshot: &Snapshot,
    previous: &L4Routes,
    listeners: &Listeners<'_>,
    clusters: &ClusterRegistry,
    rejections: &mut Vec<Rejection>,
) -> (L4Routes, bool) {
    let sources = snapshot.iter().filter_map(|(id, hashed)| match hashed.resource().as_ref() {
        Resource::L4Route(source) => Some((id, hashed.hash(), source)),
        _ => None,
    });
    let unchanged = |name: &str, hash| {
        previous.get(name).filter(|held| held.hash == hash && held.is_current(listeners, clusters)).cloned()
    };
    let compile =
        |_: &ResourceId, source: &snapshot::L4Route, hash| L4Route::compile(source, hash, listeners, clusters);
    renew(sources, previous, unchanged, compile, rejections)
}

/// Which route each listener for connections and datagrams has for which host names: of several the one with the
/// smallest rank.
pub(super) fn attach<'s>(listeners: &Listeners<'s>, routes: &L4Routes) -> BTreeMap<Place<'s>, HostMap<Arc<L4Route>>> {
    let places = listeners.values().flatten().filter(|place| place.serves != Serves::Requests);
    let mut attached: BTreeMap<_, _> = places.map(|place| (*place, HostMap::default())).collect();
    let mut ordered: Vec<_> = routes.iter().collect();
    ordered.sort_unstable_by_key(|&(id, route)| (&route.rank, id));
    for (_, route) in ordered {
        for attachment in &route.attachments {
            let place = listeners.get(attachment.listener.as_str()).copied().flatten();
            let Some(hosts) = place.and_then(|place| attached.get_mut(&place)) else { continue };
            for hostname in &attachment.hostnames {
                hosts.get_or_insert_with(hostname, || route.clone());
            }
        }
    }
    attached
}

#[cfg(test)]
mod tests;
