//! What GatewayClasses and Gateways refer to for the looks of data planes: GatewayConfigs.

use crds::policy::{GROUP, GatewayConfigSpec};

use crate::{Kind, ObjectKey, Parameters, Resources, ServiceType};

/// A reference to parameters, of a class or of a Gateway alike.
pub(super) struct Reference<'a> {
    /// The field that holds it.
    pub field: &'static str,
    pub group: &'a str,
    pub kind: &'a str,
    /// Empty where a namespace was needed and is missing.
    pub namespace: &'a str,
    pub name: &'a str,
}

/// `base` with what the GatewayConfig says in its place; or a sentence that says why it cannot be used.
pub(super) fn resolve(resources: &Resources, base: Parameters, reference: &Reference) -> Result<Parameters, String> {
    let Reference { field, group, kind, namespace, name } = *reference;
    let known = Kind::GatewayConfig.name();
    if group != GROUP || kind != known {
        return Err(format!("{field} names {kind} of group {group:?}: only {known} of group {GROUP} is read."));
    }
    if namespace.is_empty() {
        return Err(format!("{field} lacks the namespace of the {known}: add it."));
    }
    let key = ObjectKey::new(namespace, name);
    match resources.gateway_configs.get(&key) {
        Some(entry) => merge(base, &entry.current.spec).map_err(|message| format!("{known} {key}: {message}")),
        None => Err(format!("{field} names {known} {key}, which does not exist: create it, or correct the reference.")),
    }
}

fn merge(base: Parameters, spec: &GatewayConfigSpec) -> Result<Parameters, String> {
    let mut merged = base;
    if let Some(replicas) = spec.replicas {
        let count = u32::try_from(replicas).ok().filter(|count| (1..=1000).contains(count));
        merged.replicas =
            Some(count.ok_or_else(|| format!("spec.replicas is {replicas}: write a number from 1 to 1000."))?);
    }
    if let Some(resources) = &spec.resources {
        merged.resources = Some(resources.clone());
    }
    let service = spec.service.iter();
    if let Some(type_) = service.clone().find_map(|service| service.type_.as_deref()) {
        merged.service_type = match type_ {
            "LoadBalancer" => ServiceType::LoadBalancer,
            "NodePort" => ServiceType::NodePort,
            "ClusterIP" => ServiceType::ClusterIP,
            _ => return Err(format!("spec.service.type is {type_:?}: write LoadBalancer, NodePort or ClusterIP.")),
        };
    }
    merged.service_annotations.extend(service.flat_map(|service| service.annotations.clone()));
    Ok(merged)
}
