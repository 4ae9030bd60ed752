//! What an API server would refuse to store, although it fits the types.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crds::gateway::{HTTPRoute, HTTPRouteFilter, Listener};
use crds::policy::GatewayConfig;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::{Ingress, IngressBackend};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use translate::ObjectKey;

use super::object::Object;

/// The fields that are refused, each with the reason and the remedy.
pub(super) fn refusals(key: &ObjectKey, object: &Object) -> Vec<(String, String)> {
    let mut found = Refusals::default();
    for (field, name) in [("metadata.name", &key.name), ("metadata.namespace", &key.namespace)] {
        if !name.is_empty() && !is_name(name) {
            found.add(
                field,
                "names are lower case letters, digits, `-` and `.`, and begin and end with a letter or digit",
            );
        }
    }
    match object {
        Object::Ingress(ingress) => found.ingress(ingress),
        Object::Service(service) => found.service(service),
        Object::EndpointSlice(slice) => found.endpoint_slice(slice),
        Object::Gateway(gateway) => found.listeners(&gateway.spec.listeners),
        Object::ListenerSet(set) => found.listeners(&set.spec.listeners),
        Object::GatewayConfig(config) => found.gateway_config(config),
        Object::HTTPRoute(route) => found.http_route(route),
        _ => {}
    }
    found.0
}

/// A DNS subdomain as Kubernetes wants names (RFC 1123).
fn is_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let label = |label: &str| {
        let bytes = label.as_bytes();
        let ends = [bytes.first(), bytes.last()];
        ends.iter().all(|end| end.is_some_and(|end| plain(*end))) && bytes.iter().all(|b| plain(*b) || *b == b'-')
    };
    name.len() <= 253 && name.split('.').all(label)
}

/// A quantity of Kubernetes that is not negative: a decimal number with a suffix, or with an exponent.
fn is_quantity(text: &str) -> bool {
    const SUFFIXES: [&str; 16] = ["", "n", "u", "m", "k", "M", "G", "T", "P", "E", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let exponent = suffix.strip_prefix(['e', 'E']).is_some_and(|exponent| exponent.parse::<i8>().is_ok());
    number.parse::<f64>().is_ok() && (exponent || SUFFIXES.contains(&suffix))
}

#[derive(Default)]
struct Refusals(Vec<(String, String)>);

impl Refusals {
    fn add(&mut self, field: impl Into<String>, message: impl Into<String>) {
        self.0.push((field.into(), message.into()));
    }

    fn port(&mut self, field: impl Into<String>, port: Option<i32>) {
        if let Some(port) = port.filter(|port| !(1..=65535).contains(port)) {
            self.add(field, format!("{port} is not a port; ports are 1 to 65535"));
        }
    }

    fn ingress(&mut self, ingress: &Ingress) {
        let spec = ingress.spec.clone().unwrap_or_default();
        let rules = spec.rules.unwrap_or_default();
        if rules.is_empty() && spec.default_backend.is_none() {
            self.add("spec", "an Ingress without `rules` and `defaultBackend` serves nothing; add one of them");
        }
        if let Some(backend) = &spec.default_backend {
            self.ingress_backend("spec.defaultBackend", backend);
        }
        for (number, rule) in rules.iter().enumerate() {
            for (index, path) in rule.http.iter().flat_map(|http| &http.paths).enumerate() {
                let field = format!("spec.rules[{number}].http.paths[{index}]");
                let kind = path.path_type.as_str();
                match kind {
                    "Exact" | "Prefix" if !path.path.as_ref().is_some_and(|path| path.starts_with('/')) => {
                        self.add(
                            format!("{field}.path"),
                            format!("a path of type {kind} must begin with `/`; write it so"),
                        );
                    }
                    "Exact" | "Prefix" | "ImplementationSpecific" => {}
                    "" => self.add(&field, "`pathType` is missing; add Exact, Prefix or ImplementationSpecific"),
                    unknown => self.add(
                        format!("{field}.pathType"),
                        format!("there is no path type {unknown}; write Exact, Prefix or ImplementationSpecific"),
                    ),
                }
                self.ingress_backend(&format!("{field}.backend"), &path.backend);
            }
        }
    }

    fn ingress_backend(&mut self, field: &str, backend: &IngressBackend) {
        match (&backend.service, &backend.resource) {
            (None, None) => {
                let message = "the backend is missing; write `backend: {service: {name: NAME, port: {number: PORT}}}`";
                self.add(field, message);
            }
            (Some(_), Some(_)) => self.add(field, "`service` and `resource` exclude each other; remove one"),
            (Some(service), None) if service.name.is_empty() => {
                self.add(format!("{field}.service"), "the Service has no `name`; add it");
            }
            (Some(service), None) => match service.port.as_ref().map(|port| (port.number, port.name.as_deref())) {
                Some((Some(number), None)) => self.port(format!("{field}.service.port.number"), Some(number)),
                Some((None, Some(_))) => {}
                Some((Some(_), Some(_))) => {
                    self.add(format!("{field}.service.port"), "`number` and `name` exclude each other; remove one");
                }
                None | Some((None, None)) => {
                    self.add(
                        format!("{field}.service"),
                        "the port is missing; add `port: {number: PORT}` or `port: {name: NAME}`",
                    );
                }
            },
            (None, Some(_)) => {}
        }
    }

    fn service(&mut self, service: &Service) {
        for (index, port) in service.spec.iter().flat_map(|spec| spec.ports.iter().flatten()).enumerate() {
            self.port(format!("spec.ports[{index}].port"), Some(port.port));
        }
    }

    fn endpoint_slice(&mut self, slice: &EndpointSlice) {
        let family = slice.address_type.as_str();
        if !["IPv4", "IPv6", "FQDN"].contains(&family) {
            self.add("addressType", "write `addressType: IPv4`, IPv6 or FQDN");
        }
        for (number, endpoint) in slice.endpoints.iter().enumerate() {
            for (index, address) in endpoint.addresses.iter().enumerate() {
                let fits = match (family, address.parse()) {
                    ("IPv4", parsed) => matches!(parsed, Ok(IpAddr::V4(_))),
                    ("IPv6", parsed) => matches!(parsed, Ok(IpAddr::V6(_))),
                    _ => true,
                };
                if !fits {
                    let field = format!("endpoints[{number}].addresses[{index}]");
                    self.add(
                        field,
                        format!("`{address}` is not an address of type {family}; correct it or `addressType`"),
                    );
                }
            }
        }
        for (index, port) in slice.ports.iter().flatten().enumerate() {
            self.port(format!("ports[{index}].port"), port.port);
        }
    }

    fn listeners(&mut self, listeners: &[Listener]) {
        let mut names = BTreeSet::new();
        for (index, listener) in listeners.iter().enumerate() {
            let field = format!("spec.listeners[{index}]");
            self.port(format!("{field}.port"), Some(listener.port));
            if !names.insert(&listener.name) {
                let message = format!("a second listener is named {}; give each a name of its own", listener.name);
                self.add(format!("{field}.name"), message);
            }
        }
    }

    /// What the CRD's schema says.
    fn gateway_config(&mut self, config: &GatewayConfig) {
        let spec = &config.spec;
        let type_ = spec.service.as_ref().and_then(|service| service.type_.as_deref());
        self.one_of("spec.dataPlanes", spec.data_planes.as_deref(), &["PerGateway", "PerClass"]);
        self.one_of("spec.service.type", type_, &["LoadBalancer", "NodePort", "ClusterIP"]);
        let policy = spec.service.as_ref().and_then(|service| service.external_traffic_policy.as_deref());
        self.one_of("spec.service.externalTrafficPolicy", policy, &["Cluster", "Local"]);
        if let Some(seconds) = spec.termination_grace_period_seconds.filter(|seconds| !(10..=86_400).contains(seconds))
        {
            let message = format!("{seconds} is not possible; write a number from 10 to 86400");
            self.add("spec.terminationGracePeriodSeconds", message);
        }
        if let Some(replicas) = spec.replicas.filter(|replicas| !(1..=1000).contains(replicas)) {
            self.add("spec.replicas", format!("{replicas} is not possible; write a number from 1 to 1000"));
        }
        let resources = spec.resources.iter();
        for (list, resources) in resources.flat_map(|all| [("requests", &all.requests), ("limits", &all.limits)]) {
            for (name, quantity) in resources {
                let IntOrString::String(quantity) = quantity else { continue };
                if !is_quantity(quantity) {
                    let message = format!("`{quantity}` is not a quantity; write for example 100m, 2 or 64Mi");
                    self.add(format!("spec.resources.{list}.{name}"), message);
                }
            }
        }
    }

    fn one_of(&mut self, field: &str, value: Option<&str>, known: &[&str]) {
        if let Some(value) = value.filter(|value| !known.contains(value)) {
            self.add(field, format!("there is no {value}; write one of {}", known.join(", ")));
        }
    }

    fn http_route(&mut self, route: &HTTPRoute) {
        for (number, rule) in route.spec.rules.iter().flatten().enumerate() {
            let field = format!("spec.rules[{number}]");
            self.repeated(&field, rule.filters.as_deref().unwrap_or_default());
            for (index, backend) in rule.backend_refs.iter().flatten().enumerate() {
                let field = format!("{field}.backendRefs[{index}]");
                self.repeated(&field, backend.filters.as_deref().unwrap_or_default());
                self.port(format!("{field}.port"), backend.backend.object.port);
            }
        }
    }

    /// A list may hold each of these filters once.
    fn repeated(&mut self, field: &str, filters: &[HTTPRouteFilter]) {
        const ONCE: [&str; 4] = ["RequestHeaderModifier", "ResponseHeaderModifier", "RequestRedirect", "URLRewrite"];
        let mut seen = BTreeSet::new();
        for (index, filter) in filters.iter().enumerate() {
            let kind = filter.type_.as_str();
            if ONCE.contains(&kind) && !seen.insert(kind) {
                self.add(
                    format!("{field}.filters[{index}]"),
                    format!("a second {kind}; put all of it into one filter"),
                );
            }
        }
    }
}
