//! Routes: what each means to the parents it names, and its status.

use std::collections::BTreeMap;

use crds::gateway::{ParentReference, RouteParentStatus};
use kube_core::ObjectMeta;
use snapshot::HostPattern;

use super::attachment::{self, Candidate, Parent};
use super::backends::{Backends, Unresolved};
use super::filters::Step;
use super::route_kind::RouteKind;
use super::rules::{Rules, Unusable};
use super::{View, condition, emit, hostname};
use crate::context::Context;
use crate::{Entry, Kind, Map, ObjectKey};

/// Attaches all routes to the Gateways and ListenerSets of ours that they name, and writes their statuses.
pub(super) fn translate(context: &mut Context, backends: &Backends, views: &mut BTreeMap<ObjectKey, View>) {
    let sets = views.values().flat_map(|view| view.sets.iter().map(|set| (set.key.clone(), view.key.clone())));
    let sets = sets.collect();
    let resources = context.resources;
    of_kind(context, backends, views, &sets, &resources.http_routes);
    of_kind(context, backends, views, &sets, &resources.grpc_routes);
    of_kind(context, backends, views, &sets, &resources.tls_routes);
    of_kind(context, backends, views, &sets, &resources.tcp_routes);
    of_kind(context, backends, views, &sets, &resources.udp_routes);
}

fn of_kind<R: RouteKind>(
    context: &mut Context,
    backends: &Backends,
    views: &mut BTreeMap<ObjectKey, View>,
    sets: &BTreeMap<ObjectKey, ObjectKey>,
    routes: &Map<R>,
) {
    for (key, entry) in routes {
        let parents = attachment::parents(views, sets, entry.current.as_ref());
        if parents.is_empty() {
            // Entries from the time when the route had a parent of ours are to be removed.
            context.statuses.routes.insert((R::KIND, key.clone()), Vec::new());
        } else {
            attach(context, backends, views, key, entry, parents);
        }
    }
}

fn attach<R: RouteKind>(
    context: &mut Context,
    backends: &Backends,
    views: &mut BTreeMap<ObjectKey, View>,
    key: &ObjectKey,
    entry: &Entry<R>,
    parents: Vec<Parent>,
) {
    let route = &entry.current;
    let verdict = Verdict::of(context, backends, key, entry);
    let hostnames: Vec<_> = route.hostnames().iter().map(|name| hostname::pattern(Some(name))).collect();
    let candidate = Candidate { kind: R::KIND, namespace: &key.namespace, hostnames: &hostnames };

    let mut attached: BTreeMap<ObjectKey, BTreeMap<usize, Vec<HostPattern>>> = BTreeMap::new();
    let mut statuses = Vec::new();
    for parent in parents {
        let Some(view) = views.get(&parent.gateway) else { continue };
        let found = match &verdict.fatal {
            Some(unusable) => Err((unusable.reason, unusable.to_string())),
            None => attachment::attach(context.resources, &view.listeners, &parent, &candidate),
        };
        if let (None, Err((reason, message))) = (&verdict.fatal, &found) {
            context.warn(R::KIND, key, "spec.parentRefs", reason, message);
        }
        statuses.push(status(context, route.metadata(), &parent.reference, found.as_ref().err(), &verdict));
        attached.entry(parent.gateway).or_default().extend(found.unwrap_or_default());
    }
    context.statuses.routes.insert((R::KIND, key.clone()), statuses);

    for (gateway, listeners) in attached {
        let Some(view) = views.get_mut(&gateway) else { continue };
        for index in listeners.keys() {
            if let Some(listener) = view.listeners.get_mut(*index) {
                listener.attached += 1;
            }
        }
        if let Some(plane) = view.plane.clone() {
            emit::route(context, &plane, view, route.as_ref(), &verdict.rules, listeners);
        }
    }
}

/// What is true of a route under every parent.
struct Verdict<'a> {
    rules: Rules<'a>,
    /// Nothing can be used.
    fatal: Option<Unusable>,
    /// Message of `PartiallyInvalid`.
    partial: Option<String>,
    /// Reason and message of `ResolvedRefs`, where it is false.
    unresolved: Option<(&'static str, String)>,
}

impl<'a> Verdict<'a> {
    fn of<R: RouteKind>(context: &mut Context, backends: &Backends<'a>, key: &ObjectKey, entry: &Entry<R>) -> Self {
        let rules = entry.current.rules(key, backends);
        let mut verdict = match rules.unusable.is_empty() {
            true => Self { rules, fatal: None, partial: None, unresolved: None },
            false => Self::of_broken(context, backends, key, entry, rules),
        };
        verdict.unresolved = unresolved::<R>(context, key, &verdict.rules);
        verdict
    }

    fn of_broken<R: RouteKind>(
        context: &mut Context,
        backends: &Backends<'a>,
        key: &ObjectKey,
        entry: &Entry<R>,
        rules: Rules<'a>,
    ) -> Self {
        context.reject(R::KIND, key);
        let good = entry.last_good.as_ref().map(|good| good.rules(key, backends));
        let good = good.filter(|good| good.unusable.is_empty());
        let refused = |unusable: &Unusable| {
            let mut refused = rules.rules.iter().filter(|rule| rule.work.is_none());
            refused.any(|rule| unusable.field.starts_with(&rule.place))
        };
        for unusable in &rules.unusable {
            let consequence = match &good {
                Some(_) => "the last valid rules stay in use",
                None if rules.good == 0 => "the route is not used",
                None if refused(unusable) => "requests to the rule are answered with 500",
                None => "the rule is dropped",
            };
            let message = format!("{}; {consequence}", unusable.message);
            context.warn(R::KIND, key, &unusable.field, unusable.reason, message);
        }
        let all: Vec<_> = rules.unusable.iter().map(ToString::to_string).collect();
        let all = all.join("; ");
        let (fatal, partial) = match &good {
            Some(_) => (None, Some(format!("Fall Back to the last valid rules: {all}"))),
            None if rules.good == 0 => (rules.unusable.first().cloned(), None),
            None => (None, Some(format!("Dropped Rule: {all}"))),
        };
        Self { rules: good.unwrap_or(rules), fatal, partial, unresolved: None }
    }
}

fn unresolved<R: RouteKind>(context: &mut Context, key: &ObjectKey, rules: &Rules) -> Option<(&'static str, String)> {
    let mut reason = None;
    let mut messages = Vec::new();
    for rule in &rules.rules {
        let Some(work) = &rule.work else { continue };
        let mut lost = lost(&work.filters, &rule.place);
        for (index, backend) in work.backends.iter().enumerate() {
            let field = format!("{}.backendRefs[{index}]", rule.place);
            lost.extend(self::lost(&backend.filters, &field));
            let Err(error) = &backend.target else { continue };
            let consequence = match R::KIND {
                Kind::HTTPRoute | Kind::GRPCRoute => "its share of requests is answered with 500",
                _ => "its share of the traffic is refused",
            };
            let message = format!("{}; {consequence}", error.message);
            messages.push(format!("{field}: {}", error.message));
            context.warn(R::KIND, key, field, error.reason, message);
            reason = reason.or(Some(error.reason));
        }
        for (field, error, consequence) in lost {
            messages.push(format!("{field}: {}", error.message));
            context.warn(R::KIND, key, field, error.reason, format!("{}; {consequence}", error.message));
            reason = reason.or(Some(error.reason));
        }
    }
    reason.map(|reason| (reason, messages.join("; ")))
}

/// The references among the filters of `parent` that lead nowhere, each with its path and what follows.
fn lost<'s>(filters: &'s [Step], parent: &str) -> Vec<(String, &'s Unresolved, &'static str)> {
    let lost = |(index, step): (usize, &'s Step)| {
        let (field, target, consequence) = match step {
            Step::Mirror(mirror) => ("requestMirror", &mirror.target, "nothing is mirrored"),
            Step::ExternalAuth(auth) => {
                ("externalAuth", &auth.target, "nothing passes, requests are answered with 500")
            }
            Step::Filter(_) => return None,
        };
        Some((format!("{parent}.filters[{index}].{field}.backendRef"), target.as_ref().err()?, consequence))
    };
    filters.iter().enumerate().filter_map(lost).collect()
}

fn status(
    context: &Context,
    metadata: &ObjectMeta,
    parent: &ParentReference,
    refusal: Option<&(&'static str, String)>,
    verdict: &Verdict,
) -> RouteParentStatus {
    let condition = |type_, verdict, reason, message: &str| condition(metadata, type_, verdict, reason, message);
    let accepted = match refusal {
        None => condition("Accepted", true, "Accepted", "The route is accepted."),
        Some((reason, message)) => condition("Accepted", false, reason, message),
    };
    let partial = verdict.partial.as_ref();
    let partial = partial.map(|message| condition("PartiallyInvalid", true, "UnsupportedValue", message));
    let resolved = match &verdict.unresolved {
        None => condition("ResolvedRefs", true, "ResolvedRefs", "All references are resolved."),
        Some((reason, message)) => condition("ResolvedRefs", false, reason, message),
    };
    RouteParentStatus {
        parent_ref: parent.clone(),
        controller_name: context.settings.gateway_controller.clone(),
        conditions: [accepted].into_iter().chain(partial).chain([resolved]).collect(),
    }
}
