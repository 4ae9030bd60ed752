//! `status.ancestors` of policies.

use std::collections::{BTreeMap, BTreeSet};

use crds::gateway::ParentReference;
use crds::policy::PolicyAncestorStatus;

use super::target::Target;
use super::{Judged, Policies, References, Verdict, users};
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
    let of_services = |policy: &Judged| matches!(policy.kind, Kind::BackendPolicy | Kind::BackendTLSPolicy);
    let users = match policies.judged.iter().any(of_services) {
        true => users::users(resources, statuses),
        false => BTreeMap::new(),
    };
    let entries = policies.judged.iter().map(|policy| {
        let mut ancestors: BTreeMap<ParentReference, Vec<&Verdict>> = BTreeMap::new();
        for (target, verdict) in &policy.targets {
            for ancestor in ancestors_of(policy, target, verdict, statuses, &users) {
                ancestors.entry(ancestor).or_default().push(verdict);
            }
        }
        // A policy that names nothing possible has nobody else to be reported under; one of the Gateway API may be another's.
        let astray = policy.astray.iter().filter(|_| policy.kind != Kind::BackendTLSPolicy);
        ancestors.extend(astray.map(|reference| (reference.clone(), Vec::new())));
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
    let references = policy.references.as_ref();
    let untrusting = references.filter(|references| !references.usable).map(References::describe);
    let (verdict, reason, message) = match (&policy.invalid, conflict, not_found, &untrusting) {
        (Some(message), ..) => (false, "Invalid", message.as_str()),
        (_, Some(message), ..) => (false, "Conflicted", message.as_str()),
        (_, _, Some(message), _) => (false, "TargetNotFound", message.as_str()),
        (.., Some(message)) => (false, "NoValidCACertificate", message.as_str()),
        _ => (true, "Accepted", "The policy is in force."),
    };
    let accepted = condition(&policy.metadata, "Accepted", verdict, reason, message);
    let resolved = references.map(|references| match references.broken.first() {
        Some(first) => condition(&policy.metadata, "ResolvedRefs", false, first.reason, references.describe()),
        None => condition(&policy.metadata, "ResolvedRefs", true, "ResolvedRefs", "All references are resolved."),
    });
    PolicyAncestorStatus {
        ancestor_ref,
        controller_name: settings.gateway_controller.clone(),
        conditions: std::iter::once(accepted).chain(resolved).collect(),
    }
}

fn ancestors_of(
    policy: &Judged,
    target: &Target,
    verdict: &Verdict,
    statuses: &Statuses,
    users: &BTreeMap<ObjectKey, BTreeSet<ParentReference>>,
) -> Vec<ParentReference> {
    let users = users.get(&target.object);
    match (policy.kind, verdict, target.kind) {
        (Kind::BackendTLSPolicy, ..) => {
            let gateways = users.into_iter().flatten().filter(|user| user.kind.as_deref() == Some("Gateway"));
            gateways.cloned().collect()
        }
        (_, Verdict::NotFound(..), _) => vec![target.reference()],
        (.., Kind::Gateway) if statuses.gateways.contains_key(&target.object) => vec![target.reference()],
        (.., Kind::Ingress) if statuses.ingresses.contains_key(&target.object) => vec![target.reference()],
        (.., Kind::HTTPRoute) => users::gateways_of(Kind::HTTPRoute, &target.object, statuses).into_iter().collect(),
        (.., Kind::Service) => match users {
            Some(users) => users.iter().cloned().collect(),
            None => vec![target.reference()],
        },
        _ => Vec::new(),
    }
}
