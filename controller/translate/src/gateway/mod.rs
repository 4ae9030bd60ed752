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
pub use names::infrastructure_name;

/// A Gateway of ours.
struct View<'a> {
    key: ObjectKey,
    object: &'a Arc<Gateway>,
    listeners: Vec<Listener<'a>>,
    /// Why the Gateway as a whole is not accepted: a reason and a sentence.
    refusal: Option<(&'static str, String)>,
    /// Its data planes, where it has any.
    plane: Option<DataPlane>,
}

/// Translates everything of the Gateway API.
pub(crate) fn translate(context: &mut Context) {
    let classes = class::translate(context);
    let backends = Backends { services: context.services.clone(), grants: Grants::new(context.resources) };
    let mut views = BTreeMap::new();
    for (key, entry) in &context.resources.gateways {
        let Some(class_accepted) = classes.get(&entry.current.spec.gateway_class_name) else { continue };
        let refusal = refusal(&entry.current, *class_accepted);
        if let Some((reason, message)) = &refusal {
            context.reject(Kind::Gateway, key);
            context.warn(Kind::Gateway, key, "spec", reason, message);
        }
        // What was accepted before stays in service: a bad edit must not take the data planes away.
        let serves = refusal.is_none() || entry.last_good.is_some();
        let plane = serves.then(|| DataPlane::Gateway(key.clone()));
        let mut listeners = listeners::judge(&entry.current, context.settings.ports);
        for listener in listeners.iter_mut().filter(|listener| listener.protocol == Some(listeners::Protocol::Https)) {
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

/// Why a Gateway cannot be accepted, whatever its listeners.
fn refusal(gateway: &Gateway, class_accepted: bool) -> Option<(&'static str, String)> {
    let spec = &gateway.spec;
    if !class_accepted {
        let message = format!("GatewayClass {} is not accepted: see its status.", spec.gateway_class_name);
        return Some(("Invalid", message));
    }
    if spec.infrastructure.as_ref().is_some_and(|infrastructure| infrastructure.parameters_ref.is_some()) {
        let message = "spec.infrastructure.parametersRef is not supported: remove it.";
        return Some(("InvalidParameters", message.into()));
    }
    let known = |kind: &str| matches!(kind, "IPAddress" | "Hostname");
    let mut kinds = spec.addresses.iter().flatten().filter_map(|address| address.type_.as_deref());
    kinds.find(|kind| !known(kind)).map(|kind| {
        let message = format!("spec.addresses: type {kind:?} is not supported: use IPAddress or Hostname.");
        ("UnsupportedAddress", message)
    })
}
