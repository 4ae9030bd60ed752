//! From snapshot to routing table, copy-on-write: what an edit did not touch is shared with the table before.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use snapshot::expression::ROUTE_SIZE;
use snapshot::{Hash, HostPattern, Kind, Match, Rank, Resource, ResourceId, Snapshot};

use super::l4;
use super::listener::{self, Listeners, Serves, admits};
use super::path::{Candidate, PathMap};
use super::pattern;
use super::renew::renew;
use super::rule::Rule;
use super::table::{Host, Listener, RouteTable};
use crate::cluster::ClusterRegistry;
use crate::compile::Rejection;
use crate::limit::LimiterRegistry;

/// The memory that the regular expressions of one host may take once compiled, in bytes: room for about 16,000 ordinary ones.
const EXPRESSIONS_LIMIT: usize = 64 << 20;

/// A route, compiled.
#[derive(Debug)]
pub(super) struct Route {
    name: String,
    hash: Hash,
    attachments: Vec<snapshot::Attachment>,
    candidates: Vec<Arc<Candidate>>,
    rules: Vec<Arc<Rule>>,
}

/// A route that does not fit into one of its hosts beside the others.
#[derive(Clone, Debug)]
pub(super) struct Misfit {
    route: Arc<Route>,
    reason: String,
}

/// The routes of each listener by host.
type Hosts<'s> = BTreeMap<(u16, &'s HostPattern), BTreeMap<HostPattern, Vec<Arc<Route>>>>;

/// A listener with its hosts, by port and host name.
type Built<'s> = (u16, &'s HostPattern, Arc<Listener>);

/// Compiles the listeners and routes of a snapshot. What cannot be compiled is rejected alone, and a rejected route
/// keeps the version that `previous` holds, if any. Returns `previous` itself when nothing of it would change. Every call
/// returns all rejections, also those that an earlier one found.
pub(crate) fn compile(
    snapshot: &Snapshot,
    previous: &Arc<RouteTable>,
    clusters: &ClusterRegistry,
    limiters: &mut LimiterRegistry,
) -> (Arc<RouteTable>, Vec<Rejection>) {
    compile_within(EXPRESSIONS_LIMIT, snapshot, previous, clusters, limiters)
}

/// As [`compile`] where the expressions of a host may take so many bytes.
pub(super) fn compile_within(
    expressions_limit: usize,
    snapshot: &Snapshot,
    previous: &Arc<RouteTable>,
    clusters: &ClusterRegistry,
    limiters: &mut LimiterRegistry,
) -> (Arc<RouteTable>, Vec<Rejection>) {
    let mut rejections = Vec::new();
    let (listeners, mut ports) = listener::compile(snapshot, &mut rejections);
    let sources = snapshot.iter().filter_map(|(id, hashed)| match hashed.resource().as_ref() {
        Resource::Route(source) => Some((id, hashed.hash(), source)),
        _ => None,
    });
    let unchanged = |name: &str, hash| {
        let held = previous.routes.get(name);
        let mut known = held.into_iter().chain(previous.misfits.get(name).map(|misfit| &misfit.route));
        known.find(|known| known.hash == hash && known.is_current(&listeners, clusters)).cloned()
    };
    let compile = |id: &ResourceId, source: &snapshot::Route, hash| {
        Route::compile(id, source, hash, &listeners, clusters, limiters)
    };
    let (mut routes, changed) = renew(sources, &previous.routes, unchanged, compile, &mut rejections);
    let (l4_routes, l4_changed) = l4::compile(snapshot, &previous.l4_routes, &listeners, clusters, &mut rejections);
    let of_table = |id: &ResourceId| matches!(id.kind, Kind::Listener | Kind::Route | Kind::L4Route);
    let sources: Vec<_> =
        snapshot.iter().filter(|(id, _)| of_table(id)).map(|(id, hashed)| (id.clone(), hashed.hash())).collect();
    if !changed && !l4_changed && sources == previous.sources {
        rejections.extend(previous.misfits.values().map(Misfit::rejection));
        return (previous.clone(), rejections);
    }
    let mut misfits = BTreeMap::new();
    let built = loop {
        let found = match build_listeners(&listeners, &routes, previous, expressions_limit) {
            Ok(built) => break built,
            Err(found) => found,
        };
        for misfit in found {
            let name = misfit.route.name.clone();
            // It may have been found in another of its hosts already.
            if !routes.get(&name).is_some_and(|route| Arc::ptr_eq(route, &misfit.route)) {
                continue;
            }
            // Each name loses two versions at most: that of the snapshot, and the last good one.
            match previous.routes.get(&name).filter(|good| !Arc::ptr_eq(good, &misfit.route)) {
                Some(last_good) => routes.insert(name.clone(), last_good.clone()),
                None => routes.remove(&name),
            };
            misfits.entry(name).or_insert(misfit);
        }
    };
    for (port, hostname, listener) in built {
        if let Some(port) = ports.tcp.get_mut(&port) {
            port.listeners.insert(hostname, listener);
        }
    }
    let mut udp: BTreeMap<_, _> = ports.udp.into_iter().map(|port| (port, None)).collect();
    for (place, routes) in l4::attach(&listeners, &l4_routes) {
        if place.serves == Serves::Datagrams {
            udp.insert(place.port, routes.matching("").next().cloned());
        } else if let Some(port) = ports.tcp.get_mut(&place.port) {
            port.listeners.insert(place.hostname, Arc::new(Listener { routes, ..Listener::default() }));
        }
    }
    rejections.extend(misfits.values().map(Misfit::rejection));
    (Arc::new(RouteTable { ports: ports.tcp, udp, routes, l4_routes, misfits, sources }), rejections)
}

/// Which routes each listener serves for which hosts, in the order of their names.
fn attach<'s>(listeners: &Listeners<'s>, routes: &HashMap<String, Arc<Route>>) -> Hosts<'s> {
    let places = listeners.values().flatten().filter(|place| place.serves == Serves::Requests);
    let mut hosts: Hosts<'s> = places.map(|place| ((place.port, place.hostname), BTreeMap::new())).collect();
    let mut ordered: Vec<_> = routes.values().collect();
    ordered.sort_unstable_by(|one, other| one.name.cmp(&other.name));
    for route in ordered {
        for attachment in &route.attachments {
            let place = listeners.get(attachment.listener.as_str()).copied().flatten();
            let by_host = place.and_then(|place| hosts.get_mut(&(place.port, place.hostname)));
            let Some(by_host) = by_host else { continue };
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

/// All listeners with their hosts, or the routes that do not fit.
fn build_listeners<'s>(
    listeners: &Listeners<'s>,
    routes: &HashMap<String, Arc<Route>>,
    previous: &RouteTable,
    expressions_limit: usize,
) -> Result<Vec<Built<'s>>, Vec<Misfit>> {
    let mut built = Vec::new();
    let mut misfits = Vec::new();
    for ((port, hostname), hosts) in attach(listeners, routes) {
        let before = previous.ports.get(&port).and_then(|port| port.listeners.get(hostname));
        match Listener::build(hosts, before, expressions_limit) {
            Ok(listener) => built.push((port, hostname, listener)),
            Err(found) => misfits.extend(found),
        }
    }
    if misfits.is_empty() { Ok(built) } else { Err(misfits) }
}

impl Listener {
    /// The listener with these hosts; `before` itself when it has the same ones.
    fn build(
        routes: BTreeMap<HostPattern, Vec<Arc<Route>>>,
        before: Option<&Arc<Listener>>,
        expressions_limit: usize,
    ) -> Result<Arc<Self>, Vec<Misfit>> {
        let mut same = before.is_some_and(|before| before.hosts.len() == routes.len());
        let mut listener = Self::default();
        let mut misfits = Vec::new();
        for (pattern, routes) in routes {
            let held = before.and_then(|before| before.hosts.get(&pattern));
            if let Some(unchanged) = held.filter(|held| held.is_of(&routes)) {
                listener.hosts.insert(&pattern, unchanged.clone());
                continue;
            }
            same = false;
            match Host::build(&pattern, routes, held, expressions_limit) {
                Ok(host) => listener.hosts.insert(&pattern, Arc::new(host)),
                Err(found) => misfits.extend(found),
            }
        }
        match before {
            _ if !misfits.is_empty() => Err(misfits),
            Some(before) if same => Ok(before.clone()),
            _ => Ok(Arc::new(listener)),
        }
    }
}

impl Host {
    fn build(
        pattern: &HostPattern,
        routes: Vec<Arc<Route>>,
        held: Option<&Arc<Self>>,
        expressions_limit: usize,
    ) -> Result<Self, Vec<Misfit>> {
        let misfits = |routes: Vec<&Arc<Route>>, reason: String| -> Vec<Misfit> {
            routes.into_iter().map(|route| Misfit { route: route.clone(), reason: reason.clone() }).collect()
        };
        let excess = excess(&routes, held, expressions_limit);
        if !excess.is_empty() {
            let reason = format!(
                "host {pattern}: its regular expressions do not fit beside those of the host's other routes: together they \
                 may take {} MiB once compiled; shorten repetitions, or use prefixes",
                expressions_limit >> 20
            );
            return Err(misfits(excess, reason));
        }
        let candidates = routes.iter().flat_map(|route| route.candidates.iter().cloned()).collect();
        match PathMap::new(candidates) {
            Ok(paths) => Ok(Self { paths, routes }),
            Err(reason) => {
                let with_expressions = routes.iter().filter(|route| route.expressions_size() > 0).collect();
                Err(misfits(with_expressions, format!("host {pattern}: {reason}")))
            }
        }
    }

    fn is_of(&self, routes: &[Arc<Route>]) -> bool {
        self.routes.len() == routes.len() && self.routes.iter().zip(routes).all(|(one, other)| Arc::ptr_eq(one, other))
    }

    fn serves(&self, route: &Arc<Route>) -> bool {
        self.routes.iter().any(|served| Arc::ptr_eq(served, route))
    }
}

/// The routes whose expressions are too many for their host. What is served already stays, so that nobody's edit takes a
/// route from somebody else; then by rank.
fn excess<'r>(routes: &'r [Arc<Route>], held: Option<&Arc<Host>>, limit: usize) -> Vec<&'r Arc<Route>> {
    if routes.iter().map(|route| route.expressions_size()).sum::<usize>() <= limit {
        return Vec::new();
    }
    let mut excess: Vec<_> = routes.iter().filter(|route| route.expressions_size() > 0).collect();
    excess.sort_by_cached_key(|route| (!held.is_some_and(|held| held.serves(route)), route.rank().cloned()));
    let mut sum = 0;
    excess.retain(|route| {
        let with = sum + route.expressions_size();
        let fits = with <= limit;
        if fits {
            sum = with;
        }
        !fits
    });
    excess
}

impl Misfit {
    fn rejection(&self) -> Rejection {
        Rejection { id: ResourceId::new(Kind::Route, &self.route.name), reason: self.reason.clone() }
    }
}

/// Adds up what the route's regular expressions take before any of them is compiled for good.
///
/// # Errors
/// Together they take more than a route may.
fn within_budget(source: &snapshot::Route) -> Result<(), String> {
    let mut sum = 0;
    for rule in &source.rules {
        for expression in rule.matches.iter().flat_map(Match::expressions) {
            sum += pattern::size(expression).map_err(|reason| format!("{}: {reason}", rule.name))?;
            if sum > ROUTE_SIZE {
                return Err(format!(
                    "{}: the regular expressions of the route take more than {} MiB once compiled",
                    rule.name,
                    ROUTE_SIZE >> 20
                ));
            }
        }
    }
    Ok(())
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
            admits(listeners, &attachment.listener, &[Serves::Requests])?;
        }
        within_budget(source)?;
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

    /// The memory in bytes that its regular expressions take once compiled.
    fn expressions_size(&self) -> usize {
        self.candidates.iter().map(|candidate| candidate.expression_size()).sum()
    }

    /// The place of its first regular expression.
    fn rank(&self) -> Option<&Rank> {
        let with_expression = self.candidates.iter().filter(|candidate| candidate.expression_size() > 0);
        with_expression.map(|candidate| candidate.rank()).min()
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
