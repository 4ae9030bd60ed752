//! Who uses what policies apply to.

use std::collections::{BTreeMap, BTreeSet};

use crds::gateway::{BackendObjectReference, GRPCRoute, HTTPRoute, ParentReference, TCPRoute, TLSRoute, UDPRoute};
use k8s_openapi::api::networking::v1::{Ingress, IngressBackend};

use super::target::Target;
use crate::{Kind, ObjectKey, Resources, Statuses};

/// The Gateways and Ingresses of ours that send traffic to each Service, also by filters of routes.
pub(super) fn users(resources: &Resources, statuses: &Statuses) -> BTreeMap<ObjectKey, BTreeSet<ParentReference>> {
    let mut users: BTreeMap<ObjectKey, BTreeSet<ParentReference>> = BTreeMap::new();
    for (kind, route) in statuses.routes.keys() {
        let gateways = gateways_of(*kind, route, statuses);
        if gateways.is_empty() {
            continue;
        }
        for reference in references(*kind, route, resources).into_iter().filter(|reference| is_service(reference)) {
            let namespace = reference.namespace.as_deref().unwrap_or(&route.namespace);
            let service = ObjectKey::new(namespace, reference.name.as_str());
            users.entry(service).or_default().extend(gateways.iter().cloned());
        }
    }
    for ingress in statuses.ingresses.keys() {
        let Some(object) = resources.get::<Ingress>(&ingress.namespace, &ingress.name) else { continue };
        for service in services_of(object) {
            let service = ObjectKey::new(&ingress.namespace, service);
            users.entry(service).or_default().insert(whole(Kind::Ingress, ingress));
        }
    }
    users
}

/// The Gateways of ours that a route names as parents, by themselves or by one of their ListenerSets.
pub(super) fn gateways_of(kind: Kind, route: &ObjectKey, statuses: &Statuses) -> BTreeSet<ParentReference> {
    let parents = statuses.routes.get(&(kind, route.clone())).into_iter().flat_map(|parents| parents.iter());
    let gateways = parents.filter_map(|parent| statuses.gateway_of(&parent.parent_ref, &route.namespace));
    gateways.map(|gateway| whole(Kind::Gateway, &gateway)).collect()
}

/// The backends of a route, those of its filters included.
fn references<'r>(kind: Kind, route: &ObjectKey, resources: &'r Resources) -> Vec<&'r BackendObjectReference> {
    macro_rules! rules {
        ($kind:ident) => {{
            let route = resources.get::<$kind>(&route.namespace, &route.name);
            route.into_iter().flat_map(|route| route.spec.rules.iter().flatten())
        }};
    }
    macro_rules! of_requests {
        ($kind:ident, $of_filter:expr) => {
            rules!($kind)
                .flat_map(|rule| {
                    let backends = || rule.backend_refs.iter().flatten();
                    let of_backends = backends().flat_map(|backend| backend.filters.iter().flatten());
                    let filters = rule.filters.iter().flatten().chain(of_backends);
                    backends().map(|backend| &backend.backend.object).chain(filters.flat_map($of_filter))
                })
                .collect()
        };
    }
    macro_rules! of_connections {
        ($kind:ident) => {
            rules!($kind).flat_map(|rule| rule.backend_refs.iter().flatten()).map(|backend| &backend.object).collect()
        };
    }
    match kind {
        Kind::HTTPRoute => of_requests!(HTTPRoute, |filter| {
            let mirror = filter.request_mirror.as_ref().map(|mirror| &mirror.backend_ref);
            mirror.into_iter().chain(filter.external_auth.as_ref().map(|auth| &auth.backend_ref))
        }),
        Kind::GRPCRoute => {
            of_requests!(GRPCRoute, |filter| filter.request_mirror.as_ref().map(|mirror| &mirror.backend_ref))
        }
        Kind::TLSRoute => of_connections!(TLSRoute),
        Kind::TCPRoute => of_connections!(TCPRoute),
        Kind::UDPRoute => of_connections!(UDPRoute),
        _ => Vec::new(),
    }
}

fn is_service(reference: &BackendObjectReference) -> bool {
    Kind::named(reference.group.as_deref(), reference.kind.as_deref(), Kind::Service) == Some(Kind::Service)
}

fn services_of(ingress: &Ingress) -> impl Iterator<Item = &str> {
    let spec = ingress.spec.iter();
    let paths = spec.clone().flat_map(|spec| spec.rules.iter().flatten());
    let paths =
        paths.filter_map(|rule| rule.http.as_ref()).flat_map(|http| http.paths.iter().map(|path| &path.backend));
    let backends = spec.filter_map(|spec| spec.default_backend.as_ref()).chain(paths);
    backends.filter_map(|backend: &IngressBackend| Some(backend.service.as_ref()?.name.as_str()))
}

fn whole(kind: Kind, object: &ObjectKey) -> ParentReference {
    Target { kind, object: object.clone(), section: None }.reference()
}
