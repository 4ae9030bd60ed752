//! The Gateway API: GatewayClasses, Gateways with their listeners, HTTPRoutes.
//!
//! Each accepted Gateway has data planes of its own and so a snapshot of its own. Listeners are judged first, then every
//! route once for all of its parents, then statuses are written, which count the routes.

mod attachment;
mod backends;
mod class;
mod conditions;
mod filters;
mod gateway_status;
mod grants;
mod hostname;
mod listeners;
mod matches;
mod names;
mod route;
mod rules;
mod tls;

use std::collections::BTreeMap;
use std::sync::Arc;

use crds::gateway::Gateway;

use crate::context::Context;
use crate::{DataPlane, Kind, ObjectKey};
use backends::Backends;
use grants::Grants;
use listeners::Listener;

pub(crate) use conditions::condition;
pub use names::{gateway_label, infrastructure_name};

/// A Gateway of ours.
struct View<'a> {
    key: ObjectKey,
    object: &'a Arc<Gateway>,
    listeners: Vec<Listener<'a>>,
    /// Why the Gateway as a whole is not accepted.
    refusal: Option<Refusal>,
    /// Its data planes, where it has any.
    plane: Option<DataPlane>,
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
    let backends = Backends { services: context.services.clone(), grants: Grants::new(context.resources) };
    let mut views = BTreeMap::new();
    for (key, entry) in &context.resources.gateways {
        let Some(class_accepted) = classes.get(&entry.current.spec.gateway_class_name) else { continue };
        let refusal = refusal(&entry.current, *class_accepted);
        if let Some(Refusal { field, reason, message }) = &refusal {
            context.reject(Kind::Gateway, key);
            context.warn(Kind::Gateway, key, *field, reason, message);
        }
        // What was accepted before stays in service: a bad edit must not take the data planes away.
        let serves = refusal.is_none() || entry.last_good.is_some();
        let plane = serves.then(|| DataPlane::Gateway(key.clone()));
        let mut listeners = listeners::judge(&entry.current, context.settings.ports);
        let https = |listener: &&mut Listener| {
            listener.protocol == Some(listeners::Protocol::Https) && listener.unusable.is_none()
        };
        for listener in listeners.iter_mut().filter(https) {
            (listener.tls, listener.unresolved) =
                tls::terminate(context, &backends.grants, key, plane.as_ref(), listener.spec);
        }
        let view = View { key: key.clone(), object: &entry.current, listeners, refusal, plane };
        gateway_status::serve(context, &view);
        views.insert(key.clone(), view);
    }
    for (key, entry) in &context.resources.http_routes {
        route::translate(context, &backends, &mut views, key, entry);
    }
    for view in views.values() {
        gateway_status::report(context, view);
    }
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
