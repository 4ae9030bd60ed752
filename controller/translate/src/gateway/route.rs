//! Routes: what each means to the parents it names, and its status.

use std::collections::{BTreeMap, BTreeSet};

use crds::gateway::{ParentReference, RouteParentStatus};
use kube_core::ObjectMeta;
use snapshot::HostPattern;

use super::attachment::{self, Candidate};
use super::backends::{Backends, Unresolved};
use super::filters::Step;
use super::memo::{Known, KnownRoutes};
use super::outcome::{Outcome, Part};
use super::route_kind::RouteKind;
use super::rules::{Rules, Unusable};
use super::{View, condition, emit, expressions, hostname};
use crate::context::Context;
use crate::{Entry, Kind, Map, ObjectKey};

/// Attaches all routes to the Gateways and ListenerSets of ours that they name, and writes their statuses.
pub(super) fn translate(context: &mut Context, backends: &Backends, views: &mut BTreeMap<ObjectKey, View>) {
    let sets = views.values().flat_map(|view| view.sets.iter().map(|set| (set.key.clone(), view.key.clone())));
    let sets = sets.collect();
    let resources = context.resources;
    let memo = std::mem::take(&mut context.memo.routes);
    let mut memo = memo.resume(resources, context.settings, &context.policies);
    let changed = &context.memo.services.changed(resources);
    of_kind(context, backends, views, &sets, &resources.http_routes, (&mut memo.http_routes, changed));
    of_kind(context, backends, views, &sets, &resources.grpc_routes, (&mut memo.grpc_routes, changed));
    of_kind(context, backends, views, &sets, &resources.tls_routes, (&mut memo.tls_routes, changed));
    of_kind(context, backends, views, &sets, &resources.tcp_routes, (&mut memo.tcp_routes, changed));
    of_kind(context, backends, views, &sets, &resources.udp_routes, (&mut memo.udp_routes, changed));
    context.memo.routes = memo;
}

fn of_kind<R: RouteKind>(
    context: &mut Context,
    backends: &Backends,
    views: &mut BTreeMap<ObjectKey, View>,
    sets: &BTreeMap<ObjectKey, ObjectKey>,
    routes: &Map<R>,
    (known, changed): (&mut KnownRoutes<R>, &BTreeSet<ObjectKey>),
) {
    // Both are in the same order.
    let mut before = std::mem::take(known).into_iter().peekable();
    let routes = routes.iter().map(|(key, entry)| {
        while before.next_if(|(other, _)| other < key).is_some() {}
        let refused = backends.expressions.refuse(R::KIND, key);
        let before =
            before.next_if(|(other, _)| other == key).filter(|(_, known)| known.holds(entry, changed, refused));
        let now = before.unwrap_or_else(|| {
            let outcome = attach(context, backends, views, sets, key, entry);
            (key.clone(), Known::new(entry, backends.take_asked(), refused, outcome))
        });
        apply(context, views, R::KIND, key, &now.1.outcome);
        now
    });
    *known = routes.collect();
}

fn attach<R: RouteKind>(
    context: &Context,
    backends: &Backends,
    views: &BTreeMap<ObjectKey, View>,
    sets: &BTreeMap<ObjectKey, ObjectKey>,
    key: &ObjectKey,
    entry: &Entry<R>,
) -> Outcome {
    let mut outcome = Outcome::default();
    let route = &entry.current;
    let parents = attachment::parents(views, sets, route.as_ref());
    if parents.is_empty() {
        outcome.foreign = true;
        return outcome; // entries from the time when the route had a parent of ours are to be removed
    }
    let verdict = Verdict::of(&mut outcome, backends, key, entry);
    let is_http = matches!(R::KIND, Kind::HTTPRoute | Kind::GRPCRoute);
    let hostnames: Vec<_> = route.hostnames().iter().map(|name| hostname::pattern(Some(name))).collect();
    let candidate = Candidate { kind: R::KIND, namespace: &key.namespace, hostnames: &hostnames };

    let mut attached: BTreeMap<ObjectKey, BTreeMap<usize, Vec<HostPattern>>> = BTreeMap::new();
    let mut statuses = Vec::new();
    for parent in parents {
        let Some(view) = views.get(&parent.gateway) else { continue };
        let found = attachment::attach(context.resources, &view.listeners, &parent, &candidate);
        if let (None, Err((reason, message))) = (&verdict.fatal, &found) {
            outcome.warn(R::KIND, key, "spec.parentRefs", reason, message);
        }
        let fatal = verdict.fatal.as_ref().map(|unusable| (unusable.reason, unusable.to_string()));
        statuses.push(status(
            context,
            route.metadata(),
            &parent.reference,
            fatal.as_ref().or(found.as_ref().err()),
            &verdict,
        ));
        attached.entry(parent.gateway).or_default().extend(found.unwrap_or_default());
    }
    outcome.parents = statuses.into();

    for (gateway, listeners) in attached {
        let Some(view) = views.get(&gateway) else { continue };
        let counted = if verdict.fatal.is_none() { listeners.keys().copied().collect() } else { Vec::new() };
        let mut part = Part::new(gateway, counted);
        // Requests to what cannot be used are refused: another route, which matches them too, would not protect them.
        if view.plane.is_some() && (verdict.fatal.is_none() || is_http && !verdict.rules.rules.is_empty()) {
            emit::route(context, &mut part, view, route.as_ref(), &verdict.rules, listeners);
        }
        outcome.parts.push(part);
    }
    outcome
}

/// Puts what follows from a route into the translation, and counts it among the routes of its listeners.
fn apply(context: &mut Context, views: &mut BTreeMap<ObjectKey, View>, kind: Kind, key: &ObjectKey, outcome: &Outcome) {
    outcome.apply(context, kind, key);
    for part in &outcome.parts {
        let Some(view) = views.get_mut(&part.gateway) else { continue };
        for index in &part.listeners {
            if let Some(listener) = view.listeners.get_mut(*index) {
                listener.attached += 1;
            }
        }
        if let Some(plane) = &view.plane {
            part.apply(context, plane);
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
    fn of<R: RouteKind>(outcome: &mut Outcome, backends: &Backends<'a>, key: &ObjectKey, entry: &Entry<R>) -> Self {
        if backends.expressions.refuse(R::KIND, key) {
            return Self::without_room::<R>(outcome, key);
        }
        let rules = entry.current.rules(key, backends);
        let mut verdict = match rules.unusable.is_empty() {
            true => Self { rules, fatal: None, partial: None, unresolved: None },
            false => Self::of_broken(outcome, backends, key, entry, rules),
        };
        verdict.unresolved = unresolved::<R>(outcome, key, &verdict.rules);
        verdict
    }

    fn without_room<R: RouteKind>(outcome: &mut Outcome, key: &ObjectKey) -> Self {
        outcome.reject();
        let unusable = expressions::no_room();
        let message = format!("{}; the route is not used", unusable.message);
        outcome.warn(R::KIND, key, &unusable.field, unusable.reason, message);
        Self { rules: Rules::none(), fatal: Some(unusable), partial: None, unresolved: None }
    }

    fn of_broken<R: RouteKind>(
        outcome: &mut Outcome,
        backends: &Backends<'a>,
        key: &ObjectKey,
        entry: &Entry<R>,
        rules: Rules<'a>,
    ) -> Self {
        outcome.reject();
        let good = entry.last_good.as_ref().map(|good| good.rules(key, backends));
        // The last good rules would be open where these ask for a protection.
        let unprotected = rules.unusable.iter().any(|unusable| unusable.protects);
        let guarded = |rules: &Rules| {
            let work = rules.rules.iter().filter_map(|rule| rule.work.as_ref());
            work.filter(|work| work.filters.iter().any(|step| matches!(step, Step::ExternalAuth(_)))).count()
        };
        let good = good.filter(|good| good.unusable.is_empty() && !unprotected && guarded(good) >= guarded(&rules));
        let is_http = matches!(R::KIND, Kind::HTTPRoute | Kind::GRPCRoute);
        let refused = |unusable: &Unusable| {
            let mut refused = rules.rules.iter().filter(|rule| rule.work.is_none());
            refused.any(|rule| unusable.field.starts_with(&rule.place))
        };
        for unusable in &rules.unusable {
            let consequence = match &good {
                Some(_) => "the last valid rules stay in use",
                None if refused(unusable) && is_http => "requests to the rule are answered with 500",
                None if rules.good == 0 => "the route is not used",
                None => "the rule is dropped",
            };
            let message = format!("{}; {consequence}", unusable.message);
            outcome.warn(R::KIND, key, &unusable.field, unusable.reason, message);
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

fn unresolved<R: RouteKind>(outcome: &mut Outcome, key: &ObjectKey, rules: &Rules) -> Option<(&'static str, String)> {
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
            outcome.warn(R::KIND, key, field, error.reason, message);
            reason = reason.or(Some(error.reason));
        }
        for (field, error, consequence) in lost {
            messages.push(format!("{field}: {}", error.message));
            outcome.warn(R::KIND, key, field, error.reason, format!("{}; {consequence}", error.message));
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
