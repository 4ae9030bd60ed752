//! Which listeners a route attaches to.

use std::collections::BTreeMap;

use crds::gateway::ParentReference;
use snapshot::HostPattern;

use super::hostname;
use super::listeners::Listener;
use crate::{Kind, ObjectKey};

/// What attachment depends on, of a route.
pub(super) struct Candidate<'a> {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace.
    pub namespace: &'a str,
    /// The labels of that namespace.
    pub labels: &'a BTreeMap<String, String>,
    /// Its host names; empty means those of the listener.
    pub hostnames: &'a [HostPattern],
}

/// Listeners by index, each with the host names of the route there.
pub(super) type Attached = Vec<(usize, Vec<HostPattern>)>;

/// The listeners (by index) that a parent reference finds, each with the host names of the route there; or why there are
/// none: the reason and the message of `Accepted`.
pub(super) fn attach(
    gateway: &ObjectKey,
    listeners: &[Listener],
    parent: &ParentReference,
    route: &Candidate,
) -> Result<Attached, (&'static str, String)> {
    let named = |listener: &Listener| {
        parent.section_name.as_ref().is_none_or(|name| *name == listener.spec.name)
            && parent.port.is_none_or(|port| port == listener.spec.port)
    };
    let named: Vec<_> = listeners.iter().enumerate().filter(|(_, listener)| named(listener)).collect();
    if named.is_empty() {
        let wanted = match (&parent.section_name, parent.port) {
            (Some(name), Some(port)) => format!("no listener {name} on port {port}: correct sectionName or port"),
            (Some(name), None) => format!("no listener {name}: correct sectionName"),
            (None, Some(port)) => format!("no listener on port {port}: correct port"),
            (None, None) => "no listener".into(),
        };
        return Err(("NoMatchingParent", format!("Gateway {gateway} has {wanted} in spec.parentRefs.")));
    }
    let allowed = |listener: &Listener| {
        listener.kinds.iter().any(|kind| kind.kind == route.kind.name())
            && listener.namespaces.allow(&gateway.namespace, route.namespace, route.labels)
    };
    let allowed: Vec<_> = named.into_iter().filter(|(_, listener)| allowed(listener)).collect();
    if allowed.is_empty() {
        let message = format!(
            "No listener of Gateway {gateway} lets a {} of namespace {} attach: extend allowedRoutes of the listener.",
            route.kind, route.namespace
        );
        return Err(("NotAllowedByListeners", message));
    }
    let answering = |(index, listener): (usize, &Listener)| {
        let hostnames = hostname::attached(&listener.hostname, route.hostnames);
        (!hostnames.is_empty()).then_some((index, hostnames))
    };
    let found: Vec<_> = allowed.into_iter().filter_map(answering).collect();
    if found.is_empty() {
        let message = format!(
            "No listener of Gateway {gateway} answers for a name in spec.hostnames: change them, or a listener's hostname."
        );
        return Err(("NoMatchingListenerHostname", message));
    }
    Ok(found)
}
