use kube_derive::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{PolicyStatus, PolicyTargetReference};

/// Limits on the traffic of a Gateway, an HTTPRoute or one rule of it, or an Ingress.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[kube(
    group = "sluice.dev",
    version = "v1alpha1",
    kind = "TrafficPolicy",
    namespaced,
    status = "PolicyStatus",
    derive = "PartialEq",
    crates(kube_core = "::kube_core")
)]
#[serde(rename_all = "camelCase")]
pub struct TrafficPolicySpec {
    /// What the policy applies to.
    pub target_refs: Vec<PolicyTargetReference>,
    /// Rate limits, all of which hold. Each data plane counts for itself.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rate_limits: Vec<LocalRateLimit>,
}

/// A token bucket per key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LocalRateLimit {
    /// How many requests per `per`.
    pub requests: i64,
    /// The time as GEP-2257 writes it, for example `1s` or `1m`.
    pub per: String,
    /// How many requests beyond the rate may come at once. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub burst: Option<i64>,
    /// The name of the request header whose values are counted apart. Default: the client's address is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub header: Option<String>,
    /// Client addresses (CIDR) that are not limited.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exempt: Vec<String>,
}
