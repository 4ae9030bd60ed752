use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube_derive::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What the data planes of Gateways look like: parameters of a GatewayClass or of a Gateway.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[kube(
    group = "sluice.dev",
    version = "v1alpha1",
    kind = "GatewayConfig",
    namespaced,
    derive = "PartialEq",
    doc = "What the data planes of Gateways look like: parameters of a GatewayClass or of a Gateway.",
    shortname = "gwconf",
    category = "sluice",
    printcolumn(name = "Replicas", type_ = "integer", json_path = ".spec.replicas"),
    printcolumn(name = "Service", type_ = "string", json_path = ".spec.service.type"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    crates(kube_core = "::kube_core")
)]
#[serde(rename_all = "camelCase")]
pub struct GatewayConfigSpec {
    /// Which data planes serve the Gateways of a class: `PerGateway` (default), each has its own in its namespace; `PerClass`, all
    /// share those of the class in Sluice's namespace. Only in the GatewayConfig that a GatewayClass refers to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["PerGateway", "PerClass"]))]
    pub data_planes: Option<String>,
    /// How many data planes a Gateway gets, or all of a class together, unless an autoscaler says otherwise. Default: as Sluice was installed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub replicas: Option<i64>,
    /// What each data plane may use. Default: it asks for 100m of CPU and 32Mi of memory and has no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ComputeResources>,
    /// The Service that leads to the data planes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<GatewayService>,
}

/// Requests and limits of a container, by the name of the resource.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub struct ComputeResources {
    /// What is set aside.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub requests: BTreeMap<String, IntOrString>,
    /// What is not exceeded.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub limits: BTreeMap<String, IntOrString>,
}

/// The Service of a Gateway.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub struct GatewayService {
    /// `LoadBalancer` (default), `NodePort` or `ClusterIP`.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["LoadBalancer", "NodePort", "ClusterIP"]))]
    pub type_: Option<String>,
    /// Annotations of the Service, beside those of `spec.infrastructure` of the Gateway.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}
