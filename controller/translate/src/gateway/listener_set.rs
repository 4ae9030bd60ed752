//! ListenerSets: listeners that others than its owner add to a Gateway (GEP-1713).

use std::collections::BTreeMap;
use std::sync::Arc;

use crds::gateway::{Gateway, ListenerSet, ListenerSetStatus};

use super::allowed::AllowedNamespaces;
use super::listeners::Owner;
use super::{View, condition, listener_status};
use crate::context::Context;
use crate::resources::created;
use crate::{Kind, ObjectKey, Resources};

/// A ListenerSet that names a Gateway of ours.
pub(super) struct Set<'a> {
    /// Its name.
    pub key: ObjectKey,
    /// As it is.
    pub object: &'a Arc<ListenerSet>,
    /// Whether the Gateway lets it attach.
    pub allowed: bool,
}

/// ListenerSets with their names, in order of precedence.
type Sets<'a> = Vec<(&'a ObjectKey, &'a Arc<ListenerSet>)>;

/// All ListenerSets by the Gateway that they name; of one Gateway the oldest goes first, then the first by name.
pub(super) fn by_gateway(resources: &Resources) -> BTreeMap<ObjectKey, Sets<'_>> {
    let mut sets: BTreeMap<_, Sets> = BTreeMap::new();
    for (key, entry) in &resources.listener_sets {
        let parent = &entry.current.spec.parent_ref;
        if Kind::named(parent.group.as_deref(), parent.kind.as_deref(), Kind::Gateway) == Some(Kind::Gateway) {
            let gateway = ObjectKey::new(parent.namespace.as_deref().unwrap_or(&key.namespace), &parent.name);
            sets.entry(gateway).or_default().push((key, &entry.current));
        }
    }
    for sets in sets.values_mut() {
        sets.sort_by_key(|(key, set)| (created(&set.metadata), *key));
    }
    sets
}

/// The sets that name `gateway`, each with whether it may attach.
pub(super) fn admit<'a>(resources: &Resources, key: &ObjectKey, gateway: &Gateway, sets: Sets<'a>) -> Vec<Set<'a>> {
    let written = gateway.spec.allowed_listeners.as_ref().and_then(|allowed| allowed.namespaces.as_ref());
    let (namespaces, _) = AllowedNamespaces::read(written, "None");
    let admit = |(set, object): (&ObjectKey, &'a Arc<ListenerSet>)| {
        let allowed = namespaces.allow(resources, &key.namespace, &set.namespace);
        Set { key: set.clone(), object, allowed }
    };
    sets.into_iter().map(admit).collect()
}

/// How many sets of a Gateway are accepted.
pub(super) fn count_accepted(view: &View) -> i32 {
    let accepted = view.sets.iter().filter(|set| verdict(view, set).accepted).count();
    i32::try_from(accepted).unwrap_or(i32::MAX)
}

/// Writes the statuses of a Gateway's sets and reports what is wrong with them.
pub(super) fn report(context: &mut Context, view: &View) {
    for set in &view.sets {
        let metadata = &set.object.metadata;
        let listeners = listener_status::report(context, view, &Owner::ListenerSet(set.key.clone()), metadata);
        let verdict = verdict(view, set);
        if !verdict.accepted {
            let field = if set.allowed { "spec.listeners" } else { "spec.parentRef" };
            context.warn(Kind::ListenerSet, &set.key, field, verdict.reason, &verdict.message);
        }
        let programmed = if verdict.accepted { "Programmed" } else { verdict.reason };
        let conditions = vec![
            condition(metadata, "Accepted", verdict.accepted, verdict.reason, &verdict.message),
            condition(metadata, "Programmed", verdict.accepted, programmed, &verdict.message),
        ];
        let status = ListenerSetStatus { conditions: Some(conditions), listeners: Some(listeners) };
        context.statuses.listener_set_gateways.insert(set.key.clone(), view.key.clone());
        context.statuses.listener_sets.insert(set.key.clone(), status);
    }
}

struct Verdict {
    accepted: bool,
    reason: &'static str,
    message: String,
}

fn verdict(view: &View, set: &Set) -> Verdict {
    let no = |reason, message| Verdict { accepted: false, reason, message };
    if !set.allowed {
        let message = format!(
            "Gateway {} lets no ListenerSet of namespace {} attach: extend spec.allowedListeners of the Gateway.",
            view.key, set.key.namespace
        );
        return no("NotAllowed", message);
    }
    if view.plane.is_none() {
        return no("ParentNotAccepted", format!("Gateway {} is not accepted: see its conditions.", view.key));
    }
    let owner = Owner::ListenerSet(set.key.clone());
    let own = || view.listeners.iter().filter(|listener| listener.owner == owner);
    let broken: Vec<_> =
        own().filter(|listener| !listener.is_served()).map(|listener| listener.spec.name.as_str()).collect();
    if broken.is_empty() {
        return Verdict {
            accepted: true,
            reason: "Accepted",
            message: "The listeners are added to the Gateway.".into(),
        };
    }
    let message = format!("Listener {} cannot be served: see its conditions.", broken.join(", "));
    Verdict { accepted: broken.len() < own().count(), reason: "ListenersNotValid", message }
}
