//! Routes as parts of a Gateway's snapshot.

use std::collections::BTreeMap;

use snapshot::{
    Action, Attachment, Cluster, Filter, HostPattern, L4Backend, L4Route, Refusal, Resource, Route, Rule, Target,
};

use super::View;
use super::backends::{Backend, Port};
use super::filters::Step;
use super::listeners::Owner;
use super::route_kind::RouteKind;
use super::rules::{self, ParsedRule, Rules, Work};
use crate::context::Context;
use crate::policy::Traffic;
use crate::{DataPlane, Kind, ObjectKey};

/// Puts a route into a Gateway's snapshot: `HTTPRoute/ns/name@ns/gateway`, and once more with `/listener` for each
/// listener that has a policy of its own.
pub(super) fn route<R: RouteKind>(
    context: &mut Context,
    plane: &DataPlane,
    view: &View,
    route: &R,
    rules: &Rules,
    listeners: BTreeMap<usize, Vec<HostPattern>>,
) {
    let key = ObjectKey::of(route.metadata());
    let served = listeners.into_iter().filter_map(|(index, hostnames)| {
        let listener = view.listeners.get(index).filter(|listener| listener.serves().is_some())?;
        Some((listener, Attachment { listener: listener.id(), hostnames }))
    });
    match R::KIND {
        Kind::HTTPRoute | Kind::GRPCRoute => {
            let mut groups: BTreeMap<Option<&str>, Vec<Attachment>> = BTreeMap::new();
            for (listener, attachment) in served {
                let name = listener.spec.name.as_str();
                let own = matches!(listener.owner, Owner::Gateway(_));
                let group = (own && context.policies.singles_out(&view.key, name)).then_some(name);
                groups.entry(group).or_default().push(attachment);
            }
            for (listener, attachments) in groups {
                http::<R>(context, plane, view, &key, rules, listener, attachments);
            }
        }
        _ => l4(context, plane, view, route, &key, rules, served.map(|(_, attachment)| attachment).collect()),
    }
}

fn http<R: RouteKind>(
    context: &mut Context,
    plane: &DataPlane,
    view: &View,
    key: &ObjectKey,
    rules: &Rules,
    listener: Option<&str>,
    attachments: Vec<Attachment>,
) {
    let policies = context.policies.clone();
    let build = |rule: &ParsedRule| {
        let mut filters = Vec::new();
        let mut origins = Vec::new();
        let traffic = policies.for_rule(&view.key, listener, R::KIND, key, rule.section.as_deref());
        if let Some(Traffic::Limited(limits)) = traffic {
            (filters, origins) = limits.iter().cloned().unzip();
        }
        let (action, timeouts, retry) = match (&rule.work, traffic) {
            (None, _) => (Action::Refuse(Refusal::Unsupported), rules::no_timeouts(), None),
            (Some(_), Some(Traffic::Refused(why))) => {
                origins.push(why.clone());
                (Action::Refuse(Refusal::Unavailable), rules::no_timeouts(), None)
            }
            (Some(work), _) => {
                filters.extend(steps(context, plane, &work.filters, &mut origins));
                (action(context, plane, work, &mut origins), work.timeouts.clone(), work.retry.clone())
            }
        };
        Rule {
            name: rule.name.clone(),
            matches: rule.matches.clone(),
            filters,
            action,
            timeouts,
            retry,
            max_body: None,
            origins,
        }
    };
    let rules = rules.rules.iter().map(build).collect();
    let suffix = listener.map(|name| format!("/{name}")).unwrap_or_default();
    let route = Resource::Route(Route { attachments, rules });
    context.snapshot(plane).insert(format!("{}/{key}@{}{suffix}", R::KIND, view.key), route);
}

fn l4<R: RouteKind>(
    context: &mut Context,
    plane: &DataPlane,
    view: &View,
    route: &R,
    key: &ObjectKey,
    rules: &Rules,
    attachments: Vec<Attachment>,
) {
    if attachments.is_empty() {
        return;
    }
    let mut origins = Vec::new();
    let work = rules.rules.iter().find_map(|rule| rule.work.as_ref());
    let backends = work.map(|work| work.backends.as_slice()).unwrap_or_default();
    let backend =
        |backend: &Backend| L4Backend { weight: backend.weight, target: target(context, plane, backend, &mut origins) };
    let route = L4Route {
        name: format!("{} {key}", R::KIND),
        attachments,
        rank: rules::rank(route, 0, 0),
        backends: backends.iter().map(backend).collect(),
    };
    context.snapshot(plane).insert(format!("{}/{key}@{}", R::KIND, view.key), Resource::L4Route(route));
}

fn action(context: &mut Context, plane: &DataPlane, work: &Work, origins: &mut Vec<String>) -> Action {
    let redirects = work.filters.iter().any(Step::is_redirect);
    if work.backends.is_empty() || redirects {
        return Action::Refuse(Refusal::InvalidBackend);
    }
    let backend = |backend: &Backend| snapshot::Backend {
        weight: backend.weight,
        target: target(context, plane, backend, origins),
        filters: steps(context, plane, &backend.filters, origins),
    };
    Action::Forward(work.backends.iter().map(backend).collect())
}

/// The filters of a rule or a backend. A mirror that leads nowhere is left out: it protects nothing.
fn steps(context: &mut Context, plane: &DataPlane, steps: &[Step], origins: &mut Vec<String>) -> Vec<Filter> {
    let filter = |step: &Step| match step {
        Step::Filter(filter) => Some(filter.clone()),
        Step::Mirror(mirror) => {
            let port = mirror.target.as_ref().ok()?;
            let (numerator, denominator) = (mirror.numerator, mirror.denominator);
            let cluster = cluster(context, plane, port, origins);
            Some(Filter::Mirror(snapshot::Mirror { cluster, numerator, denominator }))
        }
    };
    steps.iter().filter_map(filter).collect()
}

fn target(context: &mut Context, plane: &DataPlane, backend: &Backend, origins: &mut Vec<String>) -> Target {
    match &backend.target {
        Ok(port) => Target::Cluster(cluster(context, plane, port, origins)),
        Err(_) => Target::Refuse(Refusal::InvalidBackend),
    }
}

fn cluster(context: &mut Context, plane: &DataPlane, backend: &Port, origins: &mut Vec<String>) -> String {
    let port = &backend.port;
    let settings = context.policies.for_service(&port.key, port.name);
    origins.extend(settings.origins.into_values().map(|origin| format!("Service {}: {origin}", port.id())));
    context.insert_cluster(plane, &backend.cluster, port, |endpoints| Cluster {
        endpoints,
        protocol: backend.protocol.clone(),
        balancer: settings.balancer.unwrap_or(snapshot::Balancer::RoundRobin),
        persistence: settings.persistence,
        passive_health: settings.passive_health,
    });
    backend.cluster.clone()
}
