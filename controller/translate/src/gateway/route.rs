//! HTTPRoutes: what each means to the Gateways it names as parents, and its status.

use std::collections::BTreeMap;

use crds::gateway::{GROUP, HTTPRoute, ParentReference, RouteParentStatus};
use k8s_openapi::api::core::v1::Namespace;
use snapshot::{Action, Attachment, Cluster, Filter, HostPattern, Refusal, Resource, Route, Rule, Target};

use super::attachment::{self, Candidate};
use super::backends::{Backends, Port};
use super::rules::{self, ParsedRule, Rules, Unusable, Work};
use super::{View, condition, gateway_status, hostname};
use crate::context::Context;
use crate::policy::Traffic;
use crate::{DataPlane, Entry, Kind, ObjectKey};

/// The label that every namespace has (well-known labels of Kubernetes).
const NAMESPACE_NAME: &str = "kubernetes.io/metadata.name";

/// Attaches a route to the Gateways of ours that it names, and writes its status.
pub(super) fn translate(
    context: &mut Context,
    backends: &Backends,
    views: &mut BTreeMap<ObjectKey, View>,
    key: &ObjectKey,
    entry: &Entry<HTTPRoute>,
) {
    let route = &entry.current;
    let parents: Vec<_> =
        route.spec.parent_refs.iter().flatten().filter_map(|parent| ours(views, key, parent)).collect();
    if parents.is_empty() {
        // Entries from the time when the route had a parent of ours are to be removed.
        context.statuses.routes.insert((Kind::HTTPRoute, key.clone()), Vec::new());
        return;
    }
    let verdict = Verdict::of(context, backends, key, entry);
    let hostnames: Vec<_> = route.spec.hostnames.iter().flatten().map(|name| hostname::pattern(Some(name))).collect();
    let labels = labels(context, &key.namespace);
    let candidate =
        Candidate { kind: Kind::HTTPRoute, namespace: &key.namespace, labels: &labels, hostnames: &hostnames };

    let mut attached: BTreeMap<ObjectKey, BTreeMap<usize, Vec<HostPattern>>> = BTreeMap::new();
    let mut statuses = Vec::new();
    for (gateway, parent) in parents {
        let Some(view) = views.get(&gateway) else { continue };
        let found = match &verdict.fatal {
            Some(unusable) => Err((unusable.reason, unusable.to_string())),
            None => attachment::attach(&gateway, &view.listeners, parent, &candidate),
        };
        if let (None, Err((reason, message))) = (&verdict.fatal, &found) {
            context.warn(Kind::HTTPRoute, key, "spec.parentRefs", reason, message);
        }
        statuses.push(status(context, route, parent, found.as_ref().err(), &verdict));
        attached.entry(gateway).or_default().extend(found.unwrap_or_default());
    }
    context.statuses.routes.insert((Kind::HTTPRoute, key.clone()), statuses);

    for (gateway, listeners) in attached {
        let Some(view) = views.get_mut(&gateway) else { continue };
        for index in listeners.keys() {
            if let Some(listener) = view.listeners.get_mut(*index) {
                listener.attached += 1;
            }
        }
        if let Some(plane) = view.plane.clone() {
            emit(context, &plane, view, key, &verdict.rules, listeners);
        }
    }
}

/// The Gateway of ours that a parent reference names.
fn ours<'p>(
    views: &BTreeMap<ObjectKey, View>,
    route: &ObjectKey,
    parent: &'p ParentReference,
) -> Option<(ObjectKey, &'p ParentReference)> {
    let is_gateway = parent.group.as_deref().unwrap_or(GROUP) == GROUP
        && parent.kind.as_deref().unwrap_or(Kind::Gateway.name()) == Kind::Gateway.name();
    let gateway = ObjectKey::new(parent.namespace.as_deref().unwrap_or(&route.namespace), &parent.name);
    (is_gateway && views.contains_key(&gateway)).then_some((gateway, parent))
}

fn labels(context: &Context, namespace: &str) -> BTreeMap<String, String> {
    let object = context.resources.get::<Namespace>("", namespace);
    let mut labels = object.and_then(|object| object.metadata.labels.clone()).unwrap_or_default();
    // A folder of manifests need not hold its namespaces.
    labels.entry(NAMESPACE_NAME.into()).or_insert_with(|| namespace.into());
    labels
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
    fn of(context: &mut Context, backends: &Backends<'a>, key: &ObjectKey, entry: &Entry<HTTPRoute>) -> Self {
        let rules = rules::parse(key, &entry.current, backends);
        let mut verdict = match rules.unusable.is_empty() {
            true => Self { rules, fatal: None, partial: None, unresolved: None },
            false => Self::of_broken(context, backends, key, entry, rules),
        };
        verdict.unresolved = unresolved(context, key, &verdict.rules);
        verdict
    }

    fn of_broken(
        context: &mut Context,
        backends: &Backends<'a>,
        key: &ObjectKey,
        entry: &Entry<HTTPRoute>,
        rules: Rules<'a>,
    ) -> Self {
        context.reject(Kind::HTTPRoute, key);
        let good = entry.last_good.as_ref().map(|good| rules::parse(key, good, backends));
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
            context.warn(Kind::HTTPRoute, key, &unusable.field, unusable.reason, message);
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

fn unresolved(context: &mut Context, key: &ObjectKey, rules: &Rules) -> Option<(&'static str, String)> {
    let mut reason = None;
    let mut messages = Vec::new();
    for rule in &rules.rules {
        for (index, backend) in rule.work.iter().flat_map(|work| &work.backends).enumerate() {
            let Err(error) = &backend.target else { continue };
            let field = format!("{}.backendRefs[{index}]", rule.place);
            let message = format!("{}; its share of requests is answered with 500", error.message);
            messages.push(format!("{field}: {}", error.message));
            context.warn(Kind::HTTPRoute, key, field, error.reason, message);
            reason = reason.or(Some(error.reason));
        }
    }
    reason.map(|reason| (reason, messages.join("; ")))
}

fn status(
    context: &Context,
    route: &HTTPRoute,
    parent: &ParentReference,
    refusal: Option<&(&'static str, String)>,
    verdict: &Verdict,
) -> RouteParentStatus {
    let condition = |type_, verdict, reason, message: &str| condition(&route.metadata, type_, verdict, reason, message);
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

/// Puts the route into a Gateway's snapshot: `HTTPRoute/ns/name@ns/gateway`, and once more with `/listener` for each
/// listener that has a policy of its own.
fn emit(
    context: &mut Context,
    plane: &DataPlane,
    view: &View,
    key: &ObjectKey,
    rules: &Rules,
    listeners: BTreeMap<usize, Vec<HostPattern>>,
) {
    let policies = context.policies.clone();
    let mut groups: BTreeMap<Option<&str>, Vec<Attachment>> = BTreeMap::new();
    for (index, hostnames) in listeners {
        let Some(listener) = view.listeners.get(index).filter(|listener| listener.serves().is_some()) else { continue };
        let name = listener.spec.name.as_str();
        let group = policies.singles_out(&view.key, name).then_some(name);
        groups.entry(group).or_default().push(Attachment { listener: gateway_status::name(view, listener), hostnames });
    }
    for (listener, attachments) in groups {
        let build = |rule: &ParsedRule| {
            let mut filters = Vec::new();
            let mut origins = Vec::new();
            let traffic = policies.for_rule(&view.key, listener, key, rule.section.as_deref());
            if let Some(Traffic::Limited(limits)) = traffic {
                (filters, origins) = limits.iter().cloned().unzip();
            }
            let (action, timeouts) = match (&rule.work, traffic) {
                (None, _) => (Action::Refuse(Refusal::Unsupported), rules::no_timeouts()),
                (Some(_), Some(Traffic::Refused(why))) => {
                    origins.push(why.clone());
                    (Action::Refuse(Refusal::Unavailable), rules::no_timeouts())
                }
                (Some(work), _) => {
                    filters.extend(work.filters.iter().cloned());
                    (action(context, plane, work, &mut origins), work.timeouts.clone())
                }
            };
            Rule {
                name: rule.name.clone(),
                matches: rule.matches.clone(),
                filters,
                action,
                timeouts,
                retry: None,
                max_body: None,
                origins,
            }
        };
        let rules = rules.rules.iter().map(build).collect();
        let suffix = listener.map(|name| format!("/{name}")).unwrap_or_default();
        let route = Resource::Route(Route { attachments, rules });
        context.snapshot(plane).insert(format!("HTTPRoute/{key}@{}{suffix}", view.key), route);
    }
}

fn action(context: &mut Context, plane: &DataPlane, work: &Work, origins: &mut Vec<String>) -> Action {
    let redirects = work.filters.iter().any(|filter| matches!(filter, Filter::Redirect(_)));
    if work.backends.is_empty() || redirects {
        return Action::Refuse(Refusal::InvalidBackend);
    }
    let backend = |backend: &super::backends::Backend| snapshot::Backend {
        weight: backend.weight,
        target: match &backend.target {
            Ok(port) => Target::Cluster(cluster(context, plane, port, origins)),
            Err(_) => Target::Refuse(Refusal::InvalidBackend),
        },
        filters: backend.filters.clone(),
    };
    Action::Forward(work.backends.iter().map(backend).collect())
}

fn cluster(context: &mut Context, plane: &DataPlane, backend: &Port, origins: &mut Vec<String>) -> String {
    let port = &backend.port;
    let name = format!("Service/{}", port.id());
    let settings = context.policies.for_service(&port.key, port.name);
    origins.extend(settings.origins.into_values().map(|origin| format!("Service {}: {origin}", port.id())));
    context.insert_cluster(plane, &name, port, |endpoints| Cluster {
        endpoints,
        protocol: backend.protocol.clone(),
        balancer: settings.balancer.unwrap_or(snapshot::Balancer::RoundRobin),
        persistence: settings.persistence,
        passive_health: settings.passive_health,
    });
    name
}
