//! The Gateway API: GatewayClasses, Gateways with their listeners, ListenerSets, routes of every kind.
//!
//! Each accepted Gateway has data planes of its own and so a snapshot of its own, or shares those of its class. Listeners are judged
//! first, by themselves and beside those of the same data planes, then every route once for all of its parents, then statuses are
//! written, which count the routes.

mod allowed;
mod attachment;
mod backends;
mod budget;
mod class;
mod conditions;
mod conflicts;
mod cors;
mod emit;
mod expressions;
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
mod memo;
mod mirror;
mod names;
mod outcome;
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
use crate::resources::created;
use crate::{DataPlane, Entry, Kind, ObjectKey, Parameters};
use backends::Backends;
use class::Class;
use expressions::Expressions;
use grants::Grants;
use listener_set::Set;
use listeners::{Listener, Owner, Unresolved};
use parameters::{DataPlanes, Reference};
use protocol::Protocol;

pub(crate) use conditions::condition;
pub(crate) use expressions::Memo as ExpressionsMemo;
pub(crate) use memo::Memo;
pub use names::{CLASS_NAME, GATEWAY_NAME, label_value, service, services_of_gateway};

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
    /// What its class says of the looks of data planes, and itself of its own, where that can be used.
    parameters: Option<Parameters>,
    /// Its data planes, where it has any: its own, or those of its class.
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
    let expressions = Expressions::new(resources, std::mem::take(&mut context.memo.expressions));
    let backends =
        Backends::new(context.services.clone(), Grants::new(resources), context.policies.clone(), expressions);
    let mut sets = listener_set::by_gateway(resources);
    let mut views = Vec::new();
    for (key, entry) in &resources.gateways {
        let Some(class) = classes.get(&entry.current.spec.gateway_class_name) else {
            context.leave(Kind::Gateway, key);
            continue;
        };
        let sets = listener_set::admit(resources, key, &entry.current, sets.remove(key).unwrap_or_default());
        views.push(view(context, key, entry, class, sets));
    }
    // On shared data planes the oldest goes first, then the first by name; by name they are sorted.
    views.sort_by_key(|view: &View| created(&view.object.metadata));
    refuse_namesakes(context, &mut views);
    let mut planes: BTreeMap<DataPlane, Vec<View>> = BTreeMap::new();
    for view in views {
        // One that is not served is in nobody's way.
        let plane = view.plane.clone().unwrap_or_else(|| DataPlane::Gateway(view.key.clone()));
        planes.entry(plane).or_default().push(view);
    }
    for (plane, views) in &mut planes {
        let mut listeners: Vec<_> = views.iter_mut().flat_map(|view| &mut view.listeners).collect();
        conflicts::compare(&mut listeners);
        for view in views.iter_mut() {
            certify(context, &backends.grants, view);
        }
        gateway_status::serve(context, plane, views);
    }
    let mut views = planes.into_values().flatten().map(|view| (view.key.clone(), view)).collect();
    route::translate(context, &backends, &mut views);
    context.memo.expressions = backends.expressions.into_memo();
    shadowed::report(context);
    for view in views.values() {
        gateway_status::report(context, view);
        listener_set::report(context, view);
    }
}

/// A Gateway with its listeners, each judged by itself.
fn view<'a>(
    context: &mut Context,
    key: &ObjectKey,
    entry: &'a Entry<Gateway>,
    class: &Class,
    sets: Vec<Set<'a>>,
) -> View<'a> {
    let object = &entry.current;
    let parameters = parameters(context, key, object, class);
    let refusal = parameters.as_ref().err().cloned().or_else(|| unsupported_address(object));
    if let Some(Refusal { field, reason, message }) = &refusal {
        context.reject(Kind::Gateway, key);
        context.warn(Kind::Gateway, key, *field, reason, message);
    }
    // What was accepted before stays in service: a bad edit must not take the data planes away.
    let serves = refusal.is_none() || entry.last_good.is_some();
    let (plane, parameters) = match class.data_planes {
        DataPlanes::PerGateway => (DataPlane::Gateway(key.clone()), parameters.ok()),
        DataPlanes::PerClass => {
            let class_name = &object.spec.gateway_class_name;
            ineffective(context, key, object);
            (DataPlane::Class(class_name.clone()), class.parameters.clone())
        }
    };
    let own = (Owner::Gateway(key.clone()), &object.spec.listeners);
    let admitted = sets.iter().filter(|set| set.allowed);
    let added = admitted.map(|set| (Owner::ListenerSet(set.key.clone()), &set.object.spec.listeners));
    let ports = context.settings.ports;
    let mut listeners: Vec<_> = std::iter::once(own)
        .chain(added)
        .flat_map(|(owner, listeners)| listeners.iter().map(move |spec| listeners::judge(key, &owner, spec, ports)))
        .collect();
    budget::refuse(&mut listeners);
    View {
        key: key.clone(),
        object,
        listeners,
        sets,
        refusal,
        parameters,
        plane: serves.then_some(plane),
        client_certificate: None,
        unresolved: None,
    }
}

/// Refuses Gateways whose data planes would have the name of an older one's: `<gateway>-<class>` can be the same for several.
fn refuse_namesakes(context: &mut Context, views: &mut [View]) {
    let mut owners = BTreeMap::new();
    for view in views {
        let class = &view.object.spec.gateway_class_name;
        let Some(plane @ DataPlane::Gateway(_)) = &view.plane else { continue };
        let Some(name) = names::infrastructure_key(plane, class, context.settings) else { continue };
        let owner = owners.entry(name.clone()).or_insert_with(|| view.key.clone());
        if *owner == view.key {
            continue;
        }
        let message = format!(
            "The data planes of Gateway {owner} are named {} already: rename this Gateway, or give it another class.",
            name.name
        );
        context.reject(Kind::Gateway, &view.key);
        context.warn(Kind::Gateway, &view.key, "metadata.name", "Invalid", &message);
        view.refusal = Some(Refusal { field: "metadata.name", reason: "Invalid", message });
        view.plane = None;
    }
}

/// Finds the certificates that a Gateway shows, and those that it asks its clients for.
fn certify(context: &mut Context, grants: &Grants, view: &mut View) {
    let plane = view.plane.as_ref();
    for listener in &mut view.listeners {
        if listener.usable() && listener.protocol.is_some_and(Protocol::terminates_tls) {
            tls::terminate(context, grants, plane, listener);
        }
    }
    frontend::apply(context, grants, &view.key, view.object, &mut view.listeners);
    (view.client_certificate, view.unresolved) = tls::for_backends(context, grants, plane, &view.key, view.object);
}

/// Tells what a Gateway says of the looks of data planes that are not its own.
fn ineffective(context: &mut Context, key: &ObjectKey, gateway: &Gateway) {
    let Some(infrastructure) = &gateway.spec.infrastructure else { return };
    let fields = [
        ("labels", infrastructure.labels.as_ref().is_some_and(|labels| !labels.is_empty())),
        ("annotations", infrastructure.annotations.as_ref().is_some_and(|annotations| !annotations.is_empty())),
        ("parametersRef", infrastructure.parameters_ref.is_some()),
    ];
    let class = &gateway.spec.gateway_class_name;
    for (field, _) in fields.into_iter().filter(|(_, is_set)| *is_set) {
        let message = format!(
            "has no effect: all Gateways of GatewayClass {class} share their data planes. Remove it; what the GatewayConfig of the \
             class says holds for them."
        );
        context.notice(Kind::Gateway, key, format!("spec.infrastructure.{field}"), "NoEffect", message);
    }
}

/// What the class and the Gateway say of the looks of data planes.
fn parameters(context: &Context, key: &ObjectKey, gateway: &Gateway, class: &Class) -> Result<Parameters, Refusal> {
    let Some(class) = &class.parameters else {
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
    let config = parameters::find(context.resources, &reference);
    config.and_then(|config| config.of_gateway(class.clone(), context.settings.gateway_max_replicas)).map_err(refusal)
}

fn unsupported_address(gateway: &Gateway) -> Option<Refusal> {
    let mut types = gateway.spec.addresses.iter().flatten().filter_map(|address| address.type_.as_deref());
    let unknown = types.find(|type_| !matches!(*type_, "IPAddress" | "Hostname"))?;
    let message = format!("spec.addresses: type {unknown:?} is not supported: use IPAddress or Hostname.");
    Some(Refusal { field: "spec.addresses", reason: "UnsupportedAddress", message })
}
