//! What a Gateway gets: listeners in its snapshot, data planes, and a status.

use std::collections::BTreeSet;

use crds::gateway::{GatewayStatus, GatewayStatusAddress, ListenerStatus};
use k8s_openapi::api::core::v1::{LoadBalancerIngress, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use snapshot::{Listener as Served, Resource};

use super::listeners::{Listener, Owner};
use super::{View, budget, condition, frontend, listener_set, listener_status, names, pods};
use crate::context::Context;
use crate::{DataPlane, Infrastructure, Kind};

/// Asks for the data planes that serve these Gateways (several in order of precedence), and puts the listeners that can be served
/// into their snapshot.
pub(super) fn serve(context: &mut Context, plane: &DataPlane, views: &[View]) {
    let Some(first) = views.first().filter(|view| view.plane.is_some()) else { return };
    let listeners = || views.iter().flat_map(|view| &view.listeners);
    // One of the Gateway's own that is broken today keeps its port at the load balancer. Others get ports for what they serve.
    let needs_port = |listener: &&Listener| matches!(listener.owner, Owner::Gateway(_)) || listener.is_served();
    let ports: BTreeSet<_> = listeners().filter(needs_port).filter_map(budget::place).collect();
    let class = &first.object.spec.gateway_class_name;
    let Some(key) = names::infrastructure_key(plane, class, context.settings).filter(|_| !ports.is_empty()) else {
        return;
    };
    let own = first.object.spec.infrastructure.as_ref().filter(|_| matches!(plane, DataPlane::Gateway(_)));
    let mut asked = views.iter().flat_map(asked_addresses);
    let infrastructure = Infrastructure {
        key,
        class: class.clone(),
        ports,
        labels: own.and_then(|own| own.labels.clone()).unwrap_or_default(),
        annotations: own.and_then(|own| own.annotations.clone()).unwrap_or_default(),
        address: asked.find_map(|(type_, value)| value.parse().ok().filter(|_| type_ == "IPAddress")),
        parameters: first.parameters.clone(),
    };
    context.infrastructure.insert(plane.clone(), infrastructure);
    // Even where nothing can be served: without a snapshot new data planes are never ready, and old ones keep what they have.
    context.snapshot(plane);
    for listener in listeners() {
        if let Some(protocol) = listener.serves() {
            let served = Served { port: listener.port, hostname: listener.hostname.clone(), protocol };
            context.snapshot(plane).insert(listener.id(), Resource::Listener(served));
        }
    }
}

/// Writes the status of a Gateway and reports what is wrong with it.
pub(super) fn report(context: &mut Context, view: &View) {
    let owner = Owner::Gateway(view.key.clone());
    let listeners = listener_status::report(context, view, &owner, &view.object.metadata);
    let addresses = Addresses::find(context, view);
    let mut conditions = vec![accepted(view)];
    conditions.extend(insecure(view));
    conditions.push(programmed(context, view, &addresses));
    conditions.push(resolved(view, &listeners));
    if let Some(unresolved) = &view.unresolved {
        context.warn(Kind::Gateway, &view.key, unresolved.field, unresolved.reason, &unresolved.message);
    }
    for condition in conditions.iter().filter(|condition| condition.reason == "AddressNotUsable") {
        context.warn(Kind::Gateway, &view.key, "spec.addresses", "AddressNotUsable", &condition.message);
    }
    let status = GatewayStatus {
        addresses: Some(addresses.assigned),
        conditions: Some(conditions),
        listeners: Some(listeners),
        attached_listener_sets: (!view.sets.is_empty()).then(|| listener_set::count_accepted(view)),
    };
    context.statuses.gateways.insert(view.key.clone(), status);
    context.statuses.data_planes.extend(view.plane.clone().map(|plane| (view.key.clone(), plane)));
}

fn accepted(view: &View) -> Condition {
    let metadata = &view.object.metadata;
    let own = || view.own_listeners();
    let broken: Vec<_> = own().filter(|listener| !listener.is_served()).collect();
    let names: Vec<_> = broken.iter().map(|listener| listener.spec.name.as_str()).collect();
    match &view.refusal {
        Some(refusal) => condition(metadata, "Accepted", false, refusal.reason, &refusal.message),
        None if broken.is_empty() && own().next().is_some() => {
            condition(metadata, "Accepted", true, "Accepted", "The Gateway is accepted.")
        }
        None => {
            let some_serve = broken.len() < own().count();
            let message = format!("Listener {} cannot be served: see its conditions.", names.join(", "));
            condition(metadata, "Accepted", some_serve, "ListenersNotValid", message)
        }
    }
}

fn programmed(context: &Context, view: &View, addresses: &Addresses) -> Condition {
    let metadata = &view.object.metadata;
    let no = |reason, message: &str| condition(metadata, "Programmed", false, reason, message);
    if view.plane.is_none() {
        no("Invalid", "The Gateway is not accepted.")
    } else if view.own_listeners().all(|listener| !listener.is_served()) {
        no("Invalid", "No listener can be served: see their conditions.")
    } else if let Some(trouble) = pods::trouble(context, view) {
        no(trouble.reason, &trouble.message)
    } else if let Some(address) = &addresses.unusable {
        let message = match &view.plane {
            Some(DataPlane::Class(class)) => format!(
                "spec.addresses asks for {address}, which the load balancer has not assigned to the Service that all Gateways of \
                 GatewayClass {class} share. That asks for the first IPAddress of the oldest Gateway with one: remove the address \
                 here, or ask for it by an annotation of the load balancer's in service.annotations of the class's GatewayConfig."
            ),
            _ => format!(
                "spec.addresses asks for {address}, which the load balancer has not assigned to the Gateway's Service. The \
                 Service asks for the first IPAddress alone: name one that the load balancer has to give, or ask for more by an \
                 annotation of the load balancer's in spec.infrastructure.annotations."
            ),
        };
        no("AddressNotUsable", &message)
    } else if addresses.pending {
        no("AddressNotAssigned", "The Gateway's Service has no address yet: the cluster's load balancer assigns it.")
    } else {
        condition(metadata, "Programmed", true, "Programmed", "Every data plane serves the Gateway as it is.")
    }
}

/// That clients without a valid certificate are let in although one is asked for (GEP-91).
fn insecure(view: &View) -> Option<Condition> {
    let message =
        "spec.tls.frontend lets in clients without a valid certificate: set mode to AllowValidOnly to refuse them.";
    let condition =
        || condition(&view.object.metadata, "InsecureFrontendValidationMode", true, "ConfigurationChanged", message);
    frontend::allows_insecure(view.object).then(condition)
}

/// Whether everything that the Gateway and its listeners refer to is there.
fn resolved(view: &View, listeners: &[ListenerStatus]) -> Condition {
    let unresolved = |listener: &&ListenerStatus| {
        listener.conditions.iter().any(|condition| condition.type_ == "ResolvedRefs" && condition.status == "False")
    };
    let names: Vec<_> = listeners.iter().filter(unresolved).map(|listener| listener.name.as_str()).collect();
    let (reason, message) = match &view.unresolved {
        Some(unresolved) => (unresolved.reason, unresolved.message.clone()),
        None if names.is_empty() => ("ResolvedRefs", "All references are resolved.".to_owned()),
        None => {
            let message = format!("Listener {} refers to what cannot be used: see its conditions.", names.join(", "));
            ("ListenersNotResolved", message)
        }
    };
    condition(&view.object.metadata, "ResolvedRefs", reason == "ResolvedRefs", reason, message)
}

struct Addresses {
    assigned: Vec<GatewayStatusAddress>,
    /// An address that was asked for and is not there.
    unusable: Option<String>,
    /// Whether the Service waits for its address.
    pending: bool,
}

impl Addresses {
    fn find(context: &Context, view: &View) -> Self {
        let own = DataPlane::Gateway(view.key.clone());
        let (plane, class) = (view.plane.as_ref().unwrap_or(&own), &view.object.spec.gateway_class_name);
        let Some(service) = names::service(context.resources, context.settings, plane, class) else {
            return Self { assigned: Vec::new(), unusable: None, pending: false };
        };
        let assigned = addresses(service);
        let mut asked = asked_addresses(view).map(|(_, value)| value);
        let unusable = asked.find(|value| assigned.iter().all(|address| address.value != *value));
        Self { pending: assigned.is_empty(), unusable: unusable.map(Into::into), assigned }
    }
}

/// Types and values of the addresses that a Gateway asks for. One without a value is any of that type.
fn asked_addresses<'a>(view: &'a View) -> impl Iterator<Item = (&'a str, &'a str)> {
    let addresses = view.object.spec.addresses.iter().flatten();
    let addresses = addresses
        .filter_map(|address| Some((address.type_.as_deref().unwrap_or("IPAddress"), address.value.as_deref()?)));
    addresses.filter(|(_, value)| !value.is_empty())
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
