use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Affinity, Toleration, TopologySpreadConstraint};
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
    /// The labels of nodes that pods may run on. Default, here and below: as Sluice was installed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_selector: Option<BTreeMap<String, String>>,
    /// The taints of nodes that pods tolerate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tolerations: Option<Vec<Toleration>>,
    /// Which nodes pods prefer or need, and which other pods they seek or avoid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity: Option<Affinity>,
    /// How pods are spread over nodes and zones; without a `labelSelector` it is the pods of these data planes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topology_spread_constraints: Option<Vec<TopologySpreadConstraint>>,
    /// The PriorityClass of the pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority_class_name: Option<String>,
    /// Labels of the pods, beside those of `spec.infrastructure` of the Gateway.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub pod_labels: BTreeMap<String, String>,
    /// What the data planes log: `debug`, `info`, `warn`, `error`, or a filter as of the env-filter syntax.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_level: Option<String>,
    /// How many seconds open connections may go on after a pod is asked to stop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 10, max = 86_400))]
    pub termination_grace_period_seconds: Option<i64>,
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
#[serde(rename_all = "camelCase")]
pub struct GatewayService {
    /// `LoadBalancer` (default), `NodePort` or `ClusterIP`.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["LoadBalancer", "NodePort", "ClusterIP"]))]
    pub type_: Option<String>,
    /// Annotations of the Service, beside those of `spec.infrastructure` of the Gateway.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// `Cluster` or `Local`: with `Local` the data planes see the addresses of clients, and only nodes with a pod take traffic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["Cluster", "Local"]))]
    pub external_traffic_policy: Option<String>,
    /// The load balancer implementation that serves it. It cannot be changed later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load_balancer_class: Option<String>,
    /// The addresses of clients that the load balancer lets in, as CIDRs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load_balancer_source_ranges: Option<Vec<String>>,
    /// Whether a LoadBalancer takes a port of every node for each port. `false` needs a load balancer that reaches pods or cluster
    /// addresses without them, as MetalLB, Cilium and kube-vip do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allocate_load_balancer_node_ports: Option<bool>,
}
