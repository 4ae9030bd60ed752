//! Which listeners a route attaches to.

use std::collections::BTreeMap;

use crds::gateway::{GROUP, ParentReference};
use snapshot::HostPattern;

use super::listeners::{Listener, Owner};
use super::protocol::Protocol;
use super::route_kind::RouteKind;
use super::{View, hostname};
use crate::{Kind, ObjectKey, Resources};

/// A parent of ours that a route names, or that it has by default.
pub(super) struct Parent {
    /// The Gateway whose listeners may take the route.
    pub gateway: ObjectKey,
    /// The object that is named: the Gateway, or one of its ListenerSets.
    pub owner: Owner,
    /// As written.
    pub reference: ParentReference,
}

/// The parents of ours of a route, in the order in which it names them. `sets` holds the Gateway of every ListenerSet that
/// names one of ours.
pub(super) fn parents<R: RouteKind>(
    views: &BTreeMap<ObjectKey, View>,
    sets: &BTreeMap<ObjectKey, ObjectKey>,
    route: &R,
) -> Vec<Parent> {
    let namespace = route.metadata().namespace.as_deref().unwrap_or_default();
    let named = |reference: &ParentReference| {
        let key = ObjectKey::new(reference.namespace.as_deref().unwrap_or(namespace), &reference.name);
        let (gateway, owner) = match Kind::named(reference.group.as_deref(), reference.kind.as_deref(), Kind::Gateway)?
        {
            Kind::Gateway => (key.clone(), Owner::Gateway(key)),
            Kind::ListenerSet => (sets.get(&key)?.clone(), Owner::ListenerSet(key)),
            _ => return None,
        };
        views.contains_key(&gateway).then(|| Parent { gateway, owner, reference: reference.clone() })
    };
    let mut parents: Vec<_> = route.parent_refs().iter().filter_map(named).collect();
    if route.uses_default_gateways() {
        for view in views.values().filter(|view| view.object.spec.default_scope.as_deref() == Some("All")) {
            let owner = Owner::Gateway(view.key.clone());
            if parents.iter().all(|parent| parent.owner != owner) {
                let reference = ParentReference {
                    group: Some(GROUP.into()),
                    kind: Some(Kind::Gateway.name().into()),
                    namespace: Some(view.key.namespace.clone()),
                    name: view.key.name.clone(),
                    ..ParentReference::default()
                };
                parents.push(Parent { gateway: view.key.clone(), owner, reference });
            }
        }
    }
    parents
}

/// What attachment depends on, of a route.
pub(super) struct Candidate<'a> {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace.
    pub namespace: &'a str,
    /// Its host names; empty means those of the listener.
    pub hostnames: &'a [HostPattern],
}

/// Listeners by index, each with the host names of the route there.
pub(super) type Attached = Vec<(usize, Vec<HostPattern>)>;

/// The listeners (by index) that a parent reference finds, each with the host names of the route there; or why there are
/// none: the reason and the message of `Accepted`.
pub(super) fn attach(
    resources: &Resources,
    listeners: &[Listener],
    parent: &Parent,
    route: &Candidate,
) -> Result<Attached, (&'static str, String)> {
    let (owner, reference) = (&parent.owner, &parent.reference);
    let named = |listener: &Listener| {
        listener.owner == *owner
            && reference.section_name.as_ref().is_none_or(|name| *name == listener.spec.name)
            && reference.port.is_none_or(|port| port == listener.spec.port)
    };
    let named: Vec<_> = listeners.iter().enumerate().filter(|(_, listener)| named(listener)).collect();
    if named.is_empty() {
        let wanted = match (&reference.section_name, reference.port) {
            (Some(name), Some(port)) => format!("no listener {name} on port {port}: correct sectionName or port"),
            (Some(name), None) => format!("no listener {name}: correct sectionName"),
            (None, Some(port)) => format!("no listener on port {port}: correct port"),
            (None, None) => "no listener that is in use: see its status, or correct the reference".into(),
        };
        return Err(("NoMatchingParent", format!("{owner} has {wanted} in spec.parentRefs.")));
    }
    let speaks = |listener: &Listener| listener.protocol.is_none_or(|protocol| protocol.kinds().contains(&route.kind));
    if !named.iter().any(|(_, listener)| speaks(listener)) {
        let message = format!(
            "No listener of {owner} has a protocol that {}s are for: name a listener of protocol {}, or write another kind of \
             route.",
            route.kind,
            Protocol::names_for(route.kind)
        );
        return Err(("NotAllowedByListeners", message));
    }
    let allowed = |listener: &Listener| {
        listener.kinds.iter().any(|kind| kind.kind == route.kind.name())
            && listener.namespaces.allow(resources, &listener.owner.key().namespace, route.namespace)
    };
    let allowed: Vec<_> = named.into_iter().filter(|(_, listener)| allowed(listener)).collect();
    if allowed.is_empty() {
        let message = format!(
            "No listener of {owner} lets {}s of namespace {} attach: extend allowedRoutes of the listener.",
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
            "No listener of {owner} answers for a name in spec.hostnames: change them, or a listener's hostname."
        );
        return Err(("NoMatchingListenerHostname", message));
    }
    Ok(found)
}
