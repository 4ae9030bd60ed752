//! The Gateway API: GatewayClasses, Gateways with their listeners, ListenerSets, routes of every kind.
//!
//! Each accepted Gateway has data planes of its own and so a snapshot of its own. Listeners are judged first, then every
//! route once for all of its parents, then statuses are written, which count the routes.

mod allowed;
mod attachment;
mod backends;
mod class;
mod conditions;
mod conflicts;
mod cors;
mod emit;
mod external_auth;
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
mod parameters;
mod pods;
mod protocol;
mod route;
mod route_kind;
mod rules;
mod shadowed;
mod tls;

use std::collections::BTreeMap;
use std::sync::Arc;

use crds::gateway::Gateway;

use crate::context::Context;
use crate::{DataPlane, Entry, Kind, ObjectKey, Parameters, Resources};
use backends::Backends;
use grants::Grants;
use listener_set::Set;
use listeners::{Listener, Owner, Unresolved};
use parameters::Reference;
use protocol::Protocol;

pub(crate) use conditions::condition;
pub use names::{GATEWAY_NAME, infrastructure_name, label_value};

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
    /// What its class and itself say of the looks of its data planes, where that can be used.
    parameters: Option<Parameters>,
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
#[derive(Clone)]
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
        let Some(class) = classes.get(&entry.current.spec.gateway_class_name) else { continue };
        let sets = listener_set::admit(resources, key, &entry.current, sets.remove(key).unwrap_or_default());
        let view = view(context, &backends.grants, key, entry, class.as_ref(), sets);
        gateway_status::serve(context, &view);
        views.insert(key.clone(), view);
    }
    route::translate(context, &backends, &mut views);
    shadowed::report(context);
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
    class: Option<&Parameters>,
    sets: Vec<Set<'a>>,
) -> View<'a> {
    let parameters = parameters(context.resources, key, &entry.current, class);
    let refusal = parameters.as_ref().err().cloned().or_else(|| unsupported_address(&entry.current));
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
    conflicts::compare(&mut listeners);
    for listener in &mut listeners {
        if listener.usable() && listener.protocol.is_some_and(Protocol::terminates_tls) {
            (listener.tls, listener.unresolved) = tls::terminate(context, grants, plane.as_ref(), listener);
        }
    }
    frontend::apply(context, grants, key, &entry.current, &mut listeners);
    let (client_certificate, unresolved) = tls::for_backends(context, grants, plane.as_ref(), key, &entry.current);
    View {
        key: key.clone(),
        object: &entry.current,
        listeners,
        sets,
        refusal,
        parameters: parameters.ok(),
        plane,
        client_certificate,
        unresolved,
    }
}

/// What the class and the Gateway say of the looks of data planes.
fn parameters(
    resources: &Resources,
    key: &ObjectKey,
    gateway: &Gateway,
    class: Option<&Parameters>,
) -> Result<Parameters, Refusal> {
    let Some(class) = class else {
        let message = format!("GatewayClass {} is not accepted: see its status.", gateway.spec.gateway_class_name);
        return Err(Refusal { field: "spec.gatewayClassName", reason: "Invalid", message });
    };
    let infrastructure = gateway.spec.infrastructure.as_ref();
    let Some(reference) = infrastructure.and_then(|infrastructure| infrastructure.parameters_ref.as_ref()) else {
        return Ok(class.clone());
    };
    let field = "spec.infrastructure.parametersRef";
    let reference = Reference {
        field,
        group: &reference.group,
        kind: &reference.kind,
        namespace: &key.namespace,
        name: &reference.name,
    };
    let refusal = |message| Refusal { field, reason: "InvalidParameters", message };
    parameters::resolve(resources, class.clone(), &reference).map_err(refusal)
}

fn unsupported_address(gateway: &Gateway) -> Option<Refusal> {
    let mut types = gateway.spec.addresses.iter().flatten().filter_map(|address| address.type_.as_deref());
    let unknown = types.find(|type_| !matches!(*type_, "IPAddress" | "Hostname"))?;
    let message = format!("spec.addresses: type {unknown:?} is not supported: use IPAddress or Hostname.");
    Some(Refusal { field: "spec.addresses", reason: "UnsupportedAddress", message })
}
