//! The status of listeners, of a Gateway's own and of a ListenerSet's alike.

use crds::gateway::ListenerStatus;
use kube_core::ObjectMeta;

use super::listeners::{Listener, Owner};
use super::{View, condition};
use crate::context::Context;

/// The statuses of the listeners of one owner, whose metadata this is; reports what is wrong with them.
pub(super) fn report(context: &mut Context, view: &View, owner: &Owner, metadata: &ObjectMeta) -> Vec<ListenerStatus> {
    let own: Vec<_> = view.listeners.iter().filter(|listener| listener.owner == *owner).collect();
    for (index, listener) in own.iter().enumerate() {
        warn(context, index, listener);
    }
    own.into_iter().map(|listener| status(view, listener, metadata)).collect()
}

fn status(view: &View, listener: &Listener, metadata: &ObjectMeta) -> ListenerStatus {
    let condition = |type_, verdict, reason, message: &str| condition(metadata, type_, verdict, reason, message);
    let accepted = match listener.unusable.as_ref().or(listener.conflict.as_ref()) {
        Some((reason, message)) => condition("Accepted", false, reason, message),
        None => condition("Accepted", true, "Accepted", "The listener is accepted."),
    };
    let resolved = match (&listener.invalid_kinds, &listener.unresolved) {
        (_, Some(unresolved)) => condition("ResolvedRefs", false, unresolved.reason, &unresolved.message),
        (Some(message), None) => condition("ResolvedRefs", false, "InvalidRouteKinds", message),
        (None, None) => condition("ResolvedRefs", true, "ResolvedRefs", "All references are resolved."),
    };
    let programmed = match (&listener.conflict, listener.is_served(), &view.plane) {
        (Some((reason, message)), ..) => condition("Programmed", false, reason, message),
        (None, false, _) => {
            condition("Programmed", false, "Invalid", "The listener cannot be served: see its other conditions.")
        }
        (None, true, None) => {
            condition("Programmed", false, "Invalid", "The Gateway is not accepted: see its conditions.")
        }
        (None, true, Some(_)) => {
            condition("Programmed", true, "Programmed", "Every data plane serves the listener as it is.")
        }
    };
    let conflicted = match &listener.conflict {
        Some((reason, message)) => condition("Conflicted", true, reason, message),
        None => condition("Conflicted", false, "NoConflicts", "No other listener asks for the same."),
    };
    let overlap = listener.overlap.as_ref();
    let overlap = overlap.map(|message| condition("OverlappingTLSConfig", true, "OverlappingHostnames", message));
    ListenerStatus {
        name: listener.spec.name.clone(),
        supported_kinds: listener.kinds.clone(),
        attached_routes: listener.attached,
        conditions: [accepted, conflicted].into_iter().chain(overlap).chain([programmed, resolved]).collect(),
    }
}

fn warn(context: &mut Context, index: usize, listener: &Listener) {
    let (kind, key) = (listener.owner.kind(), listener.owner.key());
    let mut warn = |field: &str, reason: &'static str, message: &str| {
        context.warn(kind, key, format!("spec.listeners[{index}]{field}"), reason, message);
    };
    if let Some((reason, message)) = listener.unusable.as_ref().or(listener.conflict.as_ref()) {
        warn("", reason, message);
    }
    if let Some(unresolved) = &listener.unresolved {
        warn(unresolved.field, unresolved.reason, &unresolved.message);
    }
    for (place, message) in &listener.strange {
        warn(&format!(".tls.certificateRefs[{place}]"), "CertificateNotCovering", message);
    }
    if let Some(message) = &listener.invalid_kinds {
        warn(".allowedRoutes.kinds", "InvalidRouteKinds", message);
    }
}
