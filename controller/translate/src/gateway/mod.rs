//! The Gateway API: GatewayClasses, Gateways with their listeners, ListenerSets, routes of every kind.
//!
//! Each accepted Gateway has data planes of its own and so a snapshot of its own. Listeners are judged first, then every
//! route once for all of its parents, then statuses are written, which count the routes.

mod allowed;
mod attachment;
mod backends;
mod class;
mod conditions;
mod cors;
mod emit;
mod filters;
mod frontend;
mod gateway_status;
mod grants;
mod grpc_rules;
mod hostname;
mod http_rules;
mod l4_rules;
mod listener_set;
mod listener_status;
mod listeners;
mod matches;
mod mirror;
mod names;
mod protocol;
mod route;
mod route_kind;
mod rules;
mod tls;

use std::collections::BTreeMap;
use std::sync::Arc;

use crds::gateway::Gateway;

use crate::context::Context;
use crate::{DataPlane, Entry, Kind, ObjectKey};
use backends::Backends;
use grants::Grants;
use listener_set::Set;
use listeners::{Listener, Owner, Unresolved};
use protocol::Protocol;

pub(crate) use conditions::condition;
pub use names::infrastructure_name;

/// A Gateway of ours.
struct View<'a> {
    key: ObjectKey,
    object: &'a Arc<Gateway>,
    /// Its own and those of its ListenerSets, in order of precedence.
    listeners: Vec<Listener<'a>>,
    /// The ListenerSets that name it.
    sets: Vec<Set<'a>>,
    /// Why the Gateway as a whole is not accepted.
    refusal: Option<Refusal>,
    /// Its data planes, where it has any.
    plane: Option<DataPlane>,
    /// The certificate that it shows to backends, by its name in the snapshot.
    client_certificate: Option<String>,
    /// What is wrong with the reference to that certificate.
    unresolved: Option<Unresolved>,
}

impl View<'_> {
    /// The listeners that the Gateway itself holds.
    fn own_listeners(&self) -> impl Iterator<Item = &Listener<'_>> {
        self.listeners.iter().filter(|listener| matches!(listener.owner, Owner::Gateway(_)))
    }
}

/// Why a Gateway as a whole is not accepted.
struct Refusal {
    field: &'static str,
    reason: &'static str,
    message: String,
}

/// Translates everything of the Gateway API.
pub(crate) fn translate(context: &mut Context) {
    let classes = class::translate(context);
    let resources = context.resources;
    let backends = Backends {
        services: context.services.clone(),
        grants: Grants::new(resources),
        policies: context.policies.clone(),
    };
    let mut sets = listener_set::by_gateway(resources);
    let mut views = BTreeMap::new();
    for (key, entry) in &resources.gateways {
        let Some(class_accepted) = classes.get(&entry.current.spec.gateway_class_name) else { continue };
        let sets = listener_set::admit(resources, key, &entry.current, sets.remove(key).unwrap_or_default());
        let view = view(context, &backends.grants, key, entry, *class_accepted, sets);
        gateway_status::serve(context, &view);
        views.insert(key.clone(), view);
    }
    route::translate(context, &backends, &mut views, &resources.http_routes);
    route::translate(context, &backends, &mut views, &resources.grpc_routes);
    route::translate(context, &backends, &mut views, &resources.tls_routes);
    route::translate(context, &backends, &mut views, &resources.tcp_routes);
    route::translate(context, &backends, &mut views, &resources.udp_routes);
    for view in views.values() {
        gateway_status::report(context, view);
        listener_set::report(context, view);
    }
}

fn view<'a>(
    context: &mut Context,
    grants: &Grants,
    key: &ObjectKey,
    entry: &'a Entry<Gateway>,
    class_accepted: bool,
    sets: Vec<Set<'a>>,
) -> View<'a> {
    let refusal = refusal(&entry.current, class_accepted);
    if let Some(Refusal { field, reason, message }) = &refusal {
        context.reject(Kind::Gateway, key);
        context.warn(Kind::Gateway, key, *field, reason, message);
    }
    // What was accepted before stays in service: a bad edit must not take the data planes away.
    let serves = refusal.is_none() || entry.last_good.is_some();
    let plane = serves.then(|| DataPlane::Gateway(key.clone()));
    let own = (Owner::Gateway(key.clone()), &entry.current.spec.listeners);
    let admitted = sets.iter().filter(|set| set.allowed);
    let added = admitted.map(|set| (Owner::ListenerSet(set.key.clone()), &set.object.spec.listeners));
    let ports = context.settings.ports;
    let mut listeners: Vec<_> = std::iter::once(own)
        .chain(added)
        .flat_map(|(owner, listeners)| listeners.iter().map(move |spec| listeners::judge(&owner, spec, ports)))
        .collect();
    listeners::compare(&mut listeners);
    for listener in &mut listeners {
        if listener.usable() && listener.protocol.is_some_and(Protocol::terminates_tls) {
            (listener.tls, listener.unresolved) = tls::terminate(context, grants, plane.as_ref(), listener);
        }
    }
    frontend::apply(context, grants, key, &entry.current, &mut listeners);
    let (client_certificate, unresolved) = tls::for_backends(context, grants, plane.as_ref(), key, &entry.current);
    View { key: key.clone(), object: &entry.current, listeners, sets, refusal, plane, client_certificate, unresolved }
}

/// Looks for what makes a Gateway unacceptable, whatever its listeners.
fn refusal(gateway: &Gateway, class_accepted: bool) -> Option<Refusal> {
    let spec = &gateway.spec;
    let known = |kind: &str| matches!(kind, "IPAddress" | "Hostname");
    let mut kinds = spec.addresses.iter().flatten().filter_map(|address| address.type_.as_deref());
    if !class_accepted {
        let message = format!("GatewayClass {} is not accepted: see its status.", spec.gateway_class_name);
        Some(Refusal { field: "spec.gatewayClassName", reason: "Invalid", message })
    } else if spec.infrastructure.as_ref().is_some_and(|infrastructure| infrastructure.parameters_ref.is_some()) {
        let message = "spec.infrastructure.parametersRef is not supported: remove it.".into();
        Some(Refusal { field: "spec.infrastructure.parametersRef", reason: "InvalidParameters", message })
    } else {
        let unknown = kinds.find(|kind| !known(kind))?;
        let message = format!("spec.addresses: type {unknown:?} is not supported: use IPAddress or Hostname.");
        Some(Refusal { field: "spec.addresses", reason: "UnsupportedAddress", message })
    }
}
