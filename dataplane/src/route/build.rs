//! From snapshot to routing table, copy-on-write: what an edit did not touch is shared with the table before.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use snapshot::{Hash, HostPattern, Kind, Protocol, Resource, ResourceId, Snapshot};

use super::path::{Candidate, PathMap};
use super::rule::Rule;
use super::table::{Host, Listener, Port, RouteTable};
use crate::cluster::ClusterRegistry;
use crate::compile::Rejection;
use crate::limit::LimiterRegistry;

/// A route, compiled.
#[derive(Debug)]
pub(super) struct Route {
    name: String,
    hash: Hash,
    attachments: Vec<snapshot::Attachment>,
    candidates: Vec<Arc<Candidate>>,
    rules: Vec<Arc<Rule>>,
}

/// Port and host name by listener; `None` for a listener that was rejected.
type Listeners<'s> = BTreeMap<&'s str, Option<(u16, &'s HostPattern)>>;

/// The routes of each listener by host.
type Hosts<'s> = BTreeMap<(u16, &'s HostPattern), BTreeMap<HostPattern, Vec<Arc<Route>>>>;

/// Compiles the listeners and routes of a snapshot. What cannot be compiled is rejected alone, and a rejected route
/// keeps the version that `previous` holds, if any. Returns `previous` itself when nothing of it would change.
pub(crate) fn compile(
    snapshot: &Snapshot,
    previous: &Arc<RouteTable>,
    clusters: &ClusterRegistry,
    limiters: &mut LimiterRegistry,
) -> (Arc<RouteTable>, Vec<Rejection>) {
    let mut rejections = Vec::new();
    let (listeners, mut ports) = compile_listeners(snapshot, &mut rejections);
    let mut routes = HashMap::new();
    let mut changed = false;
    for (id, hashed) in snapshot.iter() {
        let Resource::Route(source) = hashed.resource().as_ref() else { continue };
        let held = previous.routes.get(&id.name);
        if let Some(same) = held.filter(|held| held.hash == hashed.hash() && held.is_current(&listeners, clusters)) {
            routes.insert(id.name.clone(), same.clone());
            continue;
        }
        match Route::compile(id, source, hashed.hash(), &listeners, clusters, limiters) {
            Ok(route) => {
                changed = true;
                routes.insert(id.name.clone(), Arc::new(route));
            }
            Err(reason) => {
                rejections.push(Rejection { id: id.clone(), reason });
                if let Some(last_good) = held {
                    routes.insert(id.name.clone(), last_good.clone());
                }
            }
        }
    }
    let of_table = |id: &ResourceId| matches!(id.kind, Kind::Listener | Kind::Route);
    let sources: Vec<_> =
        snapshot.iter().filter(|(id, _)| of_table(id)).map(|(id, hashed)| (id.clone(), hashed.hash())).collect();
    if !changed && sources == previous.sources {
        return (previous.clone(), rejections);
    }
    for ((port, hostname), hosts) in attach(&listeners, &routes) {
        let before = previous.ports.get(&port).and_then(|port| port.listeners.get(hostname));
        let listener = Listener::build(hosts, before, &mut rejections);
        if let Some(port) = ports.get_mut(&port) {
            port.listeners.insert(hostname, listener);
        }
    }
    (Arc::new(RouteTable { ports, routes, sources }), rejections)
}

fn compile_listeners<'s>(
    snapshot: &'s Snapshot,
    rejections: &mut Vec<Rejection>,
) -> (Listeners<'s>, BTreeMap<u16, Port>) {
    let mut listeners = Listeners::new();
    let mut ports: BTreeMap<u16, Port> = BTreeMap::new();
    for (id, hashed) in snapshot.iter() {
        let Resource::Listener(listener) = hashed.resource().as_ref() else { continue };
        let tls = matches!(listener.protocol, Protocol::Https(_));
        let port = ports.entry(listener.port).or_insert_with(|| Port { tls, ..Port::default() });
        if port.tls == tls {
            listeners.insert(&id.name, Some((listener.port, &listener.hostname)));
        } else {
            let reason = format!("port {} already speaks another protocol", listener.port);
            rejections.push(Rejection { id: id.clone(), reason });
            listeners.insert(&id.name, None);
        }
    }
    (listeners, ports)
}

/// Which routes each listener serves for which hosts, in the order of their names.
fn attach<'s>(listeners: &Listeners<'s>, routes: &HashMap<String, Arc<Route>>) -> Hosts<'s> {
    let mut hosts: Hosts<'s> = listeners.values().flatten().map(|&key| (key, BTreeMap::new())).collect();
    let mut ordered: Vec<_> = routes.values().collect();
    ordered.sort_unstable_by(|one, other| one.name.cmp(&other.name));
    for route in ordered {
        for attachment in &route.attachments {
            let key = listeners.get(attachment.listener.as_str()).copied().flatten();
            let Some(by_host) = key.and_then(|key| hosts.get_mut(&key)) else { continue };
            for hostname in &attachment.hostnames {
                let attached = by_host.entry(hostname.clone()).or_default();
                // A route on two listeners that are served as one counts once.
                if !attached.last().is_some_and(|last| Arc::ptr_eq(last, route)) {
                    attached.push(route.clone());
                }
            }
        }
    }
    hosts
}

impl Listener {
    /// The listener with these hosts; `before` itself when it has the same ones.
    fn build(
        routes: BTreeMap<HostPattern, Vec<Arc<Route>>>,
        before: Option<&Arc<Listener>>,
        rejections: &mut Vec<Rejection>,
    ) -> Arc<Self> {
        let mut same = before.is_some_and(|before| before.hosts.len() == routes.len());
        let mut listener = Self::default();
        for (pattern, routes) in routes {
            let held = before.and_then(|before| before.hosts.get(&pattern));
            if let Some(unchanged) = held.filter(|held| held.is_of(&routes)) {
                listener.hosts.insert(&pattern, unchanged.clone());
                continue;
            }
            same = false;
            let candidates = routes.iter().flat_map(|route| route.candidates.iter().cloned()).collect();
            match PathMap::new(candidates) {
                Ok(paths) => listener.hosts.insert(&pattern, Arc::new(Host { paths, routes })),
                Err(reason) => {
                    let reject = |route: &Arc<Route>| Rejection {
                        id: ResourceId::new(Kind::Route, &route.name),
                        reason: format!("host {pattern}: {reason}"),
                    };
                    rejections.extend(routes.iter().map(reject));
                    if let Some(last_good) = held {
                        listener.hosts.insert(&pattern, last_good.clone());
                    }
                }
            }
        }
        match before {
            Some(before) if same => before.clone(),
            _ => Arc::new(listener),
        }
    }
}

impl Host {
    fn is_of(&self, routes: &[Arc<Route>]) -> bool {
        self.routes.len() == routes.len() && self.routes.iter().zip(routes).all(|(one, other)| Arc::ptr_eq(one, other))
    }
}

impl Route {
    fn compile(
        id: &ResourceId,
        source: &snapshot::Route,
        hash: Hash,
        listeners: &Listeners<'_>,
        clusters: &ClusterRegistry,
        limiters: &mut LimiterRegistry,
    ) -> Result<Self, String> {
        for attachment in &source.attachments {
            if !listeners.contains_key(attachment.listener.as_str()) {
                return Err(format!("the listener {:?} does not exist", attachment.listener));
            }
        }
        let mut candidates = Vec::new();
        let mut rules = Vec::with_capacity(source.rules.len());
        for rule in &source.rules {
            let in_rule = |reason| format!("{}: {reason}", rule.name);
            let compiled = Arc::new(Rule::compile(rule, clusters, limiters).map_err(in_rule)?);
            for condition in &rule.matches {
                candidates.push(Arc::new(Candidate::compile(condition, compiled.clone()).map_err(in_rule)?));
            }
            rules.push(compiled);
        }
        Ok(Self { name: id.name.clone(), hash, attachments: source.attachments.clone(), candidates, rules })
    }

    /// Whether everything that the route refers to is still what it was compiled with.
    fn is_current(&self, listeners: &Listeners<'_>, clusters: &ClusterRegistry) -> bool {
        self.attachments.iter().all(|attachment| listeners.contains_key(attachment.listener.as_str()))
            && self
                .rules
                .iter()
                .flat_map(|rule| rule.clusters())
                .all(|held| clusters.get(held.name()).is_some_and(|current| Arc::ptr_eq(held, current)))
    }
}
