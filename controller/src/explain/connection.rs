//! Which route takes a connection that carries no HTTP, or a client's datagrams.

use dataplane::compile::Compiler;
use snapshot::{Kind, L4Route, Resource, Snapshot};

use super::describe;
use super::journey::{Journey, RuleStep, Traffic, known_hosts, step};
use super::spoken::Spoken;

/// Follows a connection to its backends with the data plane's own routing table.
pub(super) fn follow(journey: &mut Journey, snapshot: &Snapshot, port: u16, spoken: Spoken, server_name: &str) {
    journey.traffic = if spoken == Spoken::Udp { Traffic::Datagrams } else { Traffic::Connections };
    let (table, rejections) = Compiler::default().compile(snapshot);
    let rejections = rejections.iter().filter(|rejection| rejection.id.kind == Kind::L4Route);
    journey
        .hints
        .extend(rejections.map(|refused| format!("the data plane refuses {}: {}", refused.id, refused.reason)));
    let listeners = journey.listener.as_ref().map(|listener| listener.names.as_slice()).unwrap_or_default();
    let here = || attached(snapshot, listeners);
    let found = match spoken {
        Spoken::Udp => table.datagrams(port),
        _ => table.connection(port, server_name),
    };
    let Some((id, route)) = found.ok().and_then(|found| here().find(|(_, route)| *route.name == *found.name)) else {
        let hosts: Vec<_> = here().flat_map(|(_, route)| &route.attachments).flat_map(|to| &to.hostnames).collect();
        let hint = match (hosts.is_empty(), server_name) {
            (true, _) => "no route is attached to this listener".to_owned(),
            (false, "") if spoken.is_tls() => "the client sends no server name: it asks for an address".to_owned(),
            (false, _) => known_hosts(hosts.into_iter(), "routes on this listener"),
        };
        journey.hints.push(hint);
        journey.answer = Some(match spoken {
            Spoken::Udp => "no answer: no route takes these datagrams".into(),
            _ => "the connection is closed: no route takes it".into(),
        });
        return;
    };
    let matched = match (spoken, server_name) {
        (Spoken::Udp, _) => "all datagrams".to_owned(),
        (_, "") => "every connection".to_owned(),
        (_, name) => format!("server name {name}"),
    };
    journey.rule = Some(RuleStep {
        route: id.to_owned(),
        name: route.name.clone(),
        matched,
        filters: Vec::new(),
        origins: Vec::new(),
        limits: Vec::new(),
    });
    let sum: f64 = route.backends.iter().map(|backend| f64::from(backend.weight)).sum();
    if sum == 0.0 {
        journey.answer = Some("nothing gets through: the route has no backend, or the weights of all are 0".into());
    }
    let backends = route.backends.iter();
    journey.backends = backends
        .map(|backend| step(snapshot, &backend.target, backend.weight, sum, describe::refused_traffic))
        .collect();
}

/// The routes of connections and datagrams on some of these listeners, by the names of their resources.
fn attached<'s>(snapshot: &'s Snapshot, listeners: &[String]) -> impl Iterator<Item = (&'s str, &'s L4Route)> {
    let routes = snapshot.iter().filter_map(|(id, hashed)| match hashed.resource().as_ref() {
        Resource::L4Route(route) => Some((id.name.as_str(), route)),
        _ => None,
    });
    routes.filter(|(_, route)| route.attachments.iter().any(|to| listeners.contains(&to.listener)))
}
