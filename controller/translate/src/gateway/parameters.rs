//! What GatewayClasses and Gateways refer to for the looks of data planes: GatewayConfigs.

use std::collections::BTreeMap;
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

    /// `class`, the parameters of the class, with what a Gateway's own say in their place; or a sentence that says what is wrong. Whoever
    /// may make Gateways gets at most `most` pods for each.
    pub fn of_gateway(&self, class: Parameters, most: u32) -> Result<Parameters, String> {
        if let Some(replicas) = self.spec.replicas.filter(|replicas| *replicas > i64::from(most)) {
            return self.wrong(format!(
                "spec.replicas is {replicas}: a Gateway's own GatewayConfig may ask for at most {most} (--gateway-max-replicas). \
                 Ask for fewer, or have it set in the GatewayConfig of the class."
            ));
        }
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

impl Parameters {
    /// What a GatewayConfig says, over nothing; or a sentence that says what is wrong.
    pub fn of(spec: &GatewayConfigSpec) -> Result<Self, String> {
        merge(Self::default(), spec)
    }
}

/// Puts a field that is written in the place of what the base says.
fn set(
    fields: &mut BTreeMap<&'static str, serde_json::Value>,
    name: &'static str,
    value: Option<&impl serde::Serialize>,
) {
    // These are plain data, which always have a JSON form.
    if let Some(value) = value.and_then(|value| serde_json::to_value(value).ok()) {
        fields.insert(name, value);
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
    merged.service_annotations.extend(service.clone().flat_map(|service| service.annotations.clone()));
    for service in service {
        if let Some(policy) =
            service.external_traffic_policy.as_deref().filter(|policy| !["Cluster", "Local"].contains(policy))
        {
            return Err(format!("spec.service.externalTrafficPolicy is {policy:?}: write Cluster or Local."));
        }
        let wrong =
            service.load_balancer_source_ranges.iter().flatten().find(|range| range.parse::<ipnet::IpNet>().is_err());
        if let Some(range) = wrong {
            return Err(format!(
                "spec.service.loadBalancerSourceRanges: {range:?} is no CIDR: write it like 192.0.2.0/24."
            ));
        }
        set(&mut merged.service_fields, "externalTrafficPolicy", service.external_traffic_policy.as_ref());
        set(&mut merged.service_fields, "loadBalancerClass", service.load_balancer_class.as_ref());
        set(&mut merged.service_fields, "loadBalancerSourceRanges", service.load_balancer_source_ranges.as_ref());
        let node_ports = service.allocate_load_balancer_node_ports;
        set(&mut merged.service_fields, "allocateLoadBalancerNodePorts", node_ports.as_ref());
    }
    set(&mut merged.pod_fields, "nodeSelector", spec.node_selector.as_ref());
    set(&mut merged.pod_fields, "tolerations", spec.tolerations.as_ref());
    set(&mut merged.pod_fields, "affinity", spec.affinity.as_ref());
    set(&mut merged.pod_fields, "topologySpreadConstraints", spec.topology_spread_constraints.as_ref());
    set(&mut merged.pod_fields, "priorityClassName", spec.priority_class_name.as_ref());
    merged.pod_labels.extend(spec.pod_labels.clone());
    merged.log_level = spec.log_level.clone().or(merged.log_level);
    if let Some(seconds) = spec.termination_grace_period_seconds {
        let seconds = u32::try_from(seconds).ok().filter(|seconds| (10..=86_400).contains(seconds));
        merged.grace_seconds =
            Some(seconds.ok_or("spec.terminationGracePeriodSeconds: write a number from 10 to 86400.".to_owned())?);
    }
    Ok(merged)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of_gateway(spec: serde_json::Value) -> Result<Parameters, String> {
        let spec: GatewayConfigSpec = serde_json::from_value(spec).unwrap();
        let config = Config { key: ObjectKey::new("shop", "looks"), spec: &spec };
        let class = json!({"priorityClassName": "low", "nodeSelector": {"pool": "edge"}, "logLevel": "info"});
        config.of_gateway(Parameters::of(&serde_json::from_value(class).unwrap()).unwrap(), 20)
    }

    #[test]
    fn a_gateway_asks_for_no_more_pods_than_the_installation_lets_it() {
        assert_eq!(of_gateway(json!({"replicas": 20})).unwrap().replicas, Some(20));
        let message = of_gateway(json!({"replicas": 21})).unwrap_err();
        assert!(message.contains("shop/looks") && message.contains("at most 20"), "{message}");
    }

    #[test]
    fn a_field_of_the_gateways_config_takes_the_place_of_the_classs() {
        let merged = of_gateway(json!({"priorityClassName": "high", "logLevel": "warn"})).unwrap();
        assert_eq!(merged.pod_fields["priorityClassName"], "high");
        assert_eq!(merged.pod_fields["nodeSelector"], json!({"pool": "edge"}));
        assert_eq!(merged.log_level.as_deref(), Some("warn"));
    }

    #[test]
    fn what_the_api_server_would_refuse_is_told_by_field() {
        for (spec, field) in [
            (json!({"service": {"externalTrafficPolicy": "Some"}}), "externalTrafficPolicy"),
            (json!({"service": {"loadBalancerSourceRanges": ["office"]}}), "loadBalancerSourceRanges"),
            (json!({"terminationGracePeriodSeconds": 5}), "terminationGracePeriodSeconds"),
        ] {
            assert!(of_gateway(spec).unwrap_err().contains(field), "{field}");
        }
    }
}
