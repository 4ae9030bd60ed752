//! What a Gateway gets: listeners in its snapshot, data planes, and a status.

use crds::gateway::{GatewayStatus, GatewayStatusAddress, ListenerStatus};
use k8s_openapi::api::core::v1::{LoadBalancerIngress, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use snapshot::{Listener as Served, Resource};

use super::listeners::Listener;
use super::{View, condition, gateway_label, infrastructure_name};
use crate::context::Context;
use crate::{Infrastructure, Kind, Resources};

/// The label by which generated objects name their Gateway (GEP-1762).
const GATEWAY_NAME: &str = "gateway.networking.k8s.io/gateway-name";

/// Asks for data planes, and puts the listeners that can be served into their snapshot.
pub(super) fn serve(context: &mut Context, view: &View) {
    let Some(plane) = &view.plane else { return };
    // A listener that is broken today keeps its port at the load balancer.
    let supported = view.listeners.iter().filter(|listener| listener.protocol.is_some());
    let ports: std::collections::BTreeSet<_> =
        supported.filter_map(|listener| u16::try_from(listener.spec.port).ok()).filter(|port| *port > 0).collect();
    if ports.is_empty() {
        return;
    }
    let asked = view.object.spec.infrastructure.as_ref();
    let infrastructure = Infrastructure {
        class: view.object.spec.gateway_class_name.clone(),
        ports,
        labels: asked.and_then(|asked| asked.labels.clone()).unwrap_or_default(),
        annotations: asked.and_then(|asked| asked.annotations.clone()).unwrap_or_default(),
    };
    context.infrastructure.insert(view.key.clone(), infrastructure);
    // Even where nothing can be served: without a snapshot new data planes are never ready, and old ones keep what they have.
    context.snapshot(plane);
    for listener in &view.listeners {
        if let Some(protocol) = listener.serves() {
            let served = Served { port: listener.port, hostname: listener.hostname.clone(), protocol };
            context.snapshot(plane).insert(name(view, listener), Resource::Listener(served));
        }
    }
}

/// The name of a listener in a snapshot: `namespace/gateway/listener`.
pub(super) fn name(view: &View, listener: &Listener) -> String {
    format!("{}/{}", view.key, listener.spec.name)
}

/// Writes the status of a Gateway and reports what is wrong with it.
pub(super) fn report(context: &mut Context, view: &View) {
    let listeners: Vec<_> = view.listeners.iter().map(|listener| listener_status(view, listener)).collect();
    for (index, listener) in view.listeners.iter().enumerate() {
        warn(context, view, index, listener);
    }
    let addresses = Addresses::find(context.resources, view);
    let conditions = vec![accepted(view), programmed(view, &addresses)];
    for condition in conditions.iter().filter(|condition| condition.reason == "AddressNotUsable") {
        context.warn(Kind::Gateway, &view.key, "spec.addresses", "AddressNotUsable", &condition.message);
    }
    let status =
        GatewayStatus { addresses: Some(addresses.assigned), conditions: Some(conditions), listeners: Some(listeners) };
    context.statuses.gateways.insert(view.key.clone(), status);
}

fn accepted(view: &View) -> Condition {
    let metadata = &view.object.metadata;
    let broken: Vec<_> = view.listeners.iter().filter(|listener| listener.serves().is_none()).collect();
    let names: Vec<_> = broken.iter().map(|listener| listener.spec.name.as_str()).collect();
    match &view.refusal {
        Some(refusal) => condition(metadata, "Accepted", false, refusal.reason, &refusal.message),
        None if broken.is_empty() && !view.listeners.is_empty() => {
            condition(metadata, "Accepted", true, "Accepted", "The Gateway is accepted.")
        }
        None => {
            let some_serve = broken.len() < view.listeners.len();
            let message = format!("Listener {} cannot be served: see its conditions.", names.join(", "));
            condition(metadata, "Accepted", some_serve, "ListenersNotValid", message)
        }
    }
}

fn programmed(view: &View, addresses: &Addresses) -> Condition {
    let metadata = &view.object.metadata;
    let no = |reason, message: &str| condition(metadata, "Programmed", false, reason, message);
    if view.plane.is_none() {
        no("Invalid", "The Gateway is not accepted.")
    } else if view.listeners.iter().all(|listener| listener.serves().is_none()) {
        no("Invalid", "No listener can be served: see their conditions.")
    } else if let Some(address) = &addresses.unusable {
        let message = format!(
            "spec.addresses asks for {address}, which the load balancer did not assign: remove it, or ask the \
             load balancer for it by an annotation in spec.infrastructure.annotations."
        );
        no("AddressNotUsable", &message)
    } else if addresses.pending {
        no("AddressNotAssigned", "The Gateway's Service has no address yet: the cluster's load balancer assigns it.")
    } else {
        condition(metadata, "Programmed", true, "Programmed", "Every data plane serves the Gateway as it is.")
    }
}

struct Addresses {
    assigned: Vec<GatewayStatusAddress>,
    /// An address that was asked for and is not there.
    unusable: Option<String>,
    /// Whether the Service waits for its address.
    pending: bool,
}

impl Addresses {
    fn find(resources: &Resources, view: &View) -> Self {
        let class = &view.object.spec.gateway_class_name;
        let (name, label) = (infrastructure_name(&view.key.name, class), gateway_label(&view.key.name, class));
        let ours = |service: &&std::sync::Arc<Service>| {
            let labels = service.metadata.labels.as_ref();
            labels.and_then(|labels| labels.get(GATEWAY_NAME)) == Some(&label)
        };
        let Some(service) = resources.get::<Service>(&view.key.namespace, &name).filter(ours) else {
            return Self { assigned: Vec::new(), unusable: None, pending: false };
        };
        let assigned = addresses(service);
        let asked = view.object.spec.addresses.iter().flatten().filter_map(|address| address.value.as_ref());
        let mut asked = asked.filter(|value| !value.is_empty());
        let unusable = asked.find(|value| assigned.iter().all(|address| address.value != **value)).cloned();
        Self { pending: assigned.is_empty(), unusable: unusable.filter(|_| !assigned.is_empty()), assigned }
    }
}

fn addresses(service: &Service) -> Vec<GatewayStatusAddress> {
    let address = |kind: &str, value: &str| GatewayStatusAddress { type_: Some(kind.into()), value: value.into() };
    let balancer = service.status.iter().flat_map(|status| status.load_balancer.iter());
    let balancer = balancer.flat_map(|balancer| balancer.ingress.iter().flatten());
    let of_balancer = |ingress: &LoadBalancerIngress| match (&ingress.ip, &ingress.hostname) {
        (Some(ip), _) if !ip.is_empty() => Some(address("IPAddress", ip)),
        (_, Some(hostname)) if !hostname.is_empty() => Some(address("Hostname", hostname)),
        _ => None,
    };
    let spec = service.spec.as_ref();
    if spec.is_some_and(|spec| spec.type_.as_deref() == Some("LoadBalancer")) {
        balancer.filter_map(of_balancer).collect()
    } else {
        let inside = spec.into_iter().flat_map(|spec| spec.cluster_ips.iter().flatten());
        inside.filter(|ip| *ip != "None").map(|ip| address("IPAddress", ip)).collect()
    }
}

fn listener_status(view: &View, listener: &Listener) -> ListenerStatus {
    let condition =
        |type_, verdict, reason, message: &str| condition(&view.object.metadata, type_, verdict, reason, message);
    let accepted = match listener.unusable.as_ref().or(listener.conflict.as_ref()) {
        Some((reason, message)) => condition("Accepted", false, reason, message),
        None => condition("Accepted", true, "Accepted", "The listener is accepted."),
    };
    let resolved = match (&listener.invalid_kinds, &listener.unresolved) {
        (_, Some((reason, message))) => condition("ResolvedRefs", false, reason, message),
        (Some(message), None) => condition("ResolvedRefs", false, "InvalidRouteKinds", message),
        (None, None) => condition("ResolvedRefs", true, "ResolvedRefs", "All references are resolved."),
    };
    let programmed = match (&listener.conflict, listener.serves(), &view.plane) {
        (Some((reason, message)), ..) => condition("Programmed", false, reason, message),
        (None, None, _) => {
            condition("Programmed", false, "Invalid", "The listener cannot be served: see its other conditions.")
        }
        (None, Some(_), None) => {
            condition("Programmed", false, "Invalid", "The Gateway is not accepted: see its conditions.")
        }
        (None, Some(_), Some(_)) => {
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

fn warn(context: &mut Context, view: &View, index: usize, listener: &Listener) {
    let mut warn = |field: &str, reason: &'static str, message: &str| {
        let field = format!("spec.listeners[{index}]{field}");
        context.warn(Kind::Gateway, &view.key, field, reason, message);
    };
    if let Some((reason, message)) = listener.unusable.as_ref().or(listener.conflict.as_ref()) {
        warn("", reason, message);
    }
    if let Some((reason, message)) = &listener.unresolved {
        warn(".tls.certificateRefs", reason, message);
    }
    if let Some(message) = &listener.invalid_kinds {
        warn(".allowedRoutes.kinds", "InvalidRouteKinds", message);
    }
}
