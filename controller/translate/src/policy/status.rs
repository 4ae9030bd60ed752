//! `status.ancestors` of policies.

use std::collections::{BTreeMap, BTreeSet};

use crds::gateway::{HTTPRoute, ParentReference};
use crds::policy::PolicyAncestorStatus;
use k8s_openapi::api::networking::v1::{Ingress, IngressBackend};

use super::target::Target;
use super::{Judged, Policies, Verdict};
use crate::gateway::condition;
use crate::{Kind, ObjectKey, Resources, Settings, Statuses};

/// The most entries that `status.ancestors` may have.
const MOST_ANCESTORS: usize = 16;

/// Our entries of every policy's `status.ancestors`. `statuses` holds those of Gateways, routes and Ingresses already:
/// they tell which objects are ours. A policy whose targets belong to other controllers gets no entry.
pub(crate) fn statuses(
    policies: &Policies,
    resources: &Resources,
    settings: &Settings,
    statuses: &Statuses,
) -> BTreeMap<(Kind, ObjectKey), Vec<PolicyAncestorStatus>> {
    let users = match policies.judged.iter().any(|policy| policy.kind == Kind::BackendPolicy) {
        true => users(resources, statuses),
        false => BTreeMap::new(),
    };
    let entries = policies.judged.iter().map(|policy| {
        let mut ancestors: BTreeMap<ParentReference, Vec<&Verdict>> = BTreeMap::new();
        for (target, verdict) in &policy.targets {
            let of_target = match verdict {
                Verdict::NotFound(..) => vec![target.reference()],
                _ => ancestors_of(target, resources, statuses, &users),
            };
            for ancestor in of_target {
                ancestors.entry(ancestor).or_default().push(verdict);
            }
        }
        // A policy that names nothing possible has nobody else to be reported under.
        ancestors.extend(policy.astray.iter().map(|reference| (reference.clone(), Vec::new())));
        let entries = ancestors.into_iter().take(MOST_ANCESTORS);
        let entries = entries.map(|(ancestor, verdicts)| entry(policy, settings, ancestor, &verdicts)).collect();
        ((policy.kind, policy.key.clone()), entries)
    });
    entries.collect()
}

fn entry(
    policy: &Judged,
    settings: &Settings,
    ancestor_ref: ParentReference,
    verdicts: &[&Verdict],
) -> PolicyAncestorStatus {
    let first = |choose: fn(&Verdict) -> Option<&String>| verdicts.iter().find_map(|verdict| choose(verdict));
    let conflict = first(|verdict| match verdict {
        Verdict::Conflicted(message) => Some(message),
        _ => None,
    });
    let not_found = first(|verdict| match verdict {
        Verdict::NotFound(_, message) => Some(message),
        _ => None,
    });
    let (verdict, reason, message) = match (&policy.invalid, conflict, not_found) {
        (Some(message), ..) => (false, "Invalid", message.as_str()),
        (_, Some(message), _) => (false, "Conflicted", message.as_str()),
        (.., Some(message)) => (false, "TargetNotFound", message.as_str()),
        _ => (true, "Accepted", "The policy is in force."),
    };
    PolicyAncestorStatus {
        ancestor_ref,
        controller_name: settings.gateway_controller.clone(),
        conditions: vec![condition(&policy.metadata, "Accepted", verdict, reason, message)],
    }
}

fn ancestors_of(
    target: &Target,
    resources: &Resources,
    statuses: &Statuses,
    users: &BTreeMap<ObjectKey, BTreeSet<ParentReference>>,
) -> Vec<ParentReference> {
    match target.kind {
        Kind::Gateway if statuses.gateways.contains_key(&target.object) => vec![target.reference()],
        Kind::Ingress if statuses.ingresses.contains_key(&target.object) => vec![target.reference()],
        Kind::HTTPRoute => gateways_of(&target.object, resources, statuses).into_iter().collect(),
        Kind::Service => match users.get(&target.object) {
            Some(users) => users.iter().cloned().collect(),
            None => vec![target.reference()],
        },
        _ => Vec::new(),
    }
}

/// The Gateways of ours that a route names as parents.
fn gateways_of(route: &ObjectKey, resources: &Resources, statuses: &Statuses) -> BTreeSet<ParentReference> {
    let parents = statuses.routes.get(&(Kind::HTTPRoute, route.clone()));
    let parents = parents.filter(|_| resources.http_routes.contains_key(route)).into_iter().flatten();
    let gateways = parents.filter_map(|parent| statuses.gateway_of(&parent.parent_ref, &route.namespace));
    gateways.map(|gateway| whole(Kind::Gateway, &gateway)).collect()
}

/// The Gateways and Ingresses of ours that send requests to each Service.
fn users(resources: &Resources, statuses: &Statuses) -> BTreeMap<ObjectKey, BTreeSet<ParentReference>> {
    let mut users: BTreeMap<ObjectKey, BTreeSet<ParentReference>> = BTreeMap::new();
    for (_, route) in statuses.routes.keys().filter(|(kind, _)| *kind == Kind::HTTPRoute) {
        let Some(object) = resources.get::<HTTPRoute>(&route.namespace, &route.name) else { continue };
        let gateways = gateways_of(route, resources, statuses);
        for service in object.spec.rules.iter().flatten().flat_map(|rule| rule.backend_refs.iter().flatten()) {
            let namespace = service.backend.object.namespace.as_deref().unwrap_or(&route.namespace);
            let service = ObjectKey::new(namespace, &service.backend.object.name);
            users.entry(service).or_default().extend(gateways.iter().cloned());
        }
    }
    for ingress in statuses.ingresses.keys() {
        let Some(object) = resources.get::<Ingress>(&ingress.namespace, &ingress.name) else { continue };
        for service in services_of(object) {
            let service = ObjectKey::new(&ingress.namespace, service);
            users.entry(service).or_default().insert(whole(Kind::Ingress, ingress));
        }
    }
    users
}

fn services_of(ingress: &Ingress) -> impl Iterator<Item = &str> {
    let spec = ingress.spec.iter();
    let paths = spec.clone().flat_map(|spec| spec.rules.iter().flatten());
    let paths =
        paths.filter_map(|rule| rule.http.as_ref()).flat_map(|http| http.paths.iter().map(|path| &path.backend));
    let backends = spec.filter_map(|spec| spec.default_backend.as_ref()).chain(paths);
    backends.filter_map(|backend: &IngressBackend| Some(backend.service.as_ref()?.name.as_str()))
}

fn whole(kind: Kind, object: &ObjectKey) -> ParentReference {
    Target { kind, object: object.clone(), section: None }.reference()
}
