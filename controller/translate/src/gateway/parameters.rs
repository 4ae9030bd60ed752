//! What GatewayClasses and Gateways refer to for the looks of data planes: GatewayConfigs.

use std::fmt;

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

/// Which data planes serve the Gateways of a class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DataPlanes {
    /// Each Gateway has its own.
    PerGateway,
    /// All share those of the class.
    PerClass,
}

/// A GatewayConfig that is there.
pub(super) struct Config<'a> {
    key: ObjectKey,
    spec: &'a GatewayConfigSpec,
}

/// The GatewayConfig that is referred to; or a sentence that says why there is none.
pub(super) fn find<'a>(resources: &'a Resources, reference: &Reference) -> Result<Config<'a>, String> {
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
        Some(entry) => Ok(Config { key, spec: &entry.current.spec }),
        None => Err(format!("{field} names {known} {key}, which does not exist: create it, or correct the reference.")),
    }
}

impl Config<'_> {
    /// Which data planes serve the Gateways of the class that has these parameters; or a sentence that says what is wrong.
    pub fn data_planes(&self) -> Result<DataPlanes, String> {
        match self.spec.data_planes.as_deref() {
            None | Some("PerGateway") => Ok(DataPlanes::PerGateway),
            Some("PerClass") => Ok(DataPlanes::PerClass),
            Some(other) => self.wrong(format!("spec.dataPlanes is {other:?}: write PerGateway or PerClass.")),
        }
    }

    /// `class`, the parameters of the class, with what a Gateway's own say in their place; or a sentence that says what is wrong.
    pub fn of_gateway(&self, class: Parameters) -> Result<Parameters, String> {
        if self.spec.data_planes.is_some() {
            return self.wrong(
                "spec.dataPlanes is for all Gateways of a class: remove it here, and set it in the GatewayConfig that the \
                 GatewayClass refers to.",
            );
        }
        self.over(class)
    }

    /// `base` with what is said here in its place; or a sentence that says what is wrong.
    pub fn over(&self, base: Parameters) -> Result<Parameters, String> {
        merge(base, self.spec).or_else(|message| self.wrong(message))
    }

    fn wrong<T>(&self, message: impl fmt::Display) -> Result<T, String> {
        Err(format!("{} {}: {message}", Kind::GatewayConfig, self.key))
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
