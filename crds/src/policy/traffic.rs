use kube_derive::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::shared::{DISTINCT, DURATION, TOKEN};
use super::{PolicyStatus, PolicyTargetReference};

const TARGETS: &str = "self.all(t, t.group == 'gateway.networking.k8s.io' ? t.kind in ['Gateway', 'HTTPRoute'] \
    : t.group == 'networking.k8s.io' && t.kind == 'Ingress')";

/// Limits on the traffic of a Gateway or one listener of it, an HTTPRoute or one rule of it, or an Ingress.
#[allow(clippy::duplicated_attributes)] // each printer column has a type
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[kube(
    group = "sluice.dev",
    version = "v1alpha1",
    kind = "TrafficPolicy",
    namespaced,
    status = "PolicyStatus",
    derive = "PartialEq",
    doc = "Limits on the traffic of a Gateway or one listener of it, an HTTPRoute or one rule of it, or an Ingress.",
    shortname = "tpol",
    category = "sluice",
    category = "gateway-api",
    label("gateway.networking.k8s.io/policy", "Direct"),
    printcolumn(name = "Targets", type_ = "string", json_path = ".spec.targetRefs[*].name"),
    printcolumn(
        name = "Accepted",
        type_ = "string",
        json_path = r#".status.ancestors[*].conditions[?(@.type=="Accepted")].status"#
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    crates(kube_core = "::kube_core")
)]
#[serde(rename_all = "camelCase")]
pub struct TrafficPolicySpec {
    /// What the policy applies to: Gateways, HTTPRoutes and Ingresses in the policy's namespace. Where several policies
    /// reach the same request, the most specific one counts: rule, HTTPRoute, listener, Gateway.
    #[schemars(length(min = 1, max = 16), extend("x-kubernetes-list-type" = "atomic", "x-kubernetes-validations" = [
        {"rule": TARGETS, "message": "a target is a Gateway or HTTPRoute of group gateway.networking.k8s.io, or an Ingress of group networking.k8s.io"},
        {"rule": "self.all(t, !has(t.sectionName) || t.kind != 'Ingress')", "message": "an Ingress has no sections: leave out sectionName"},
        {"rule": DISTINCT, "message": "each target may be named once"},
    ]))]
    pub target_refs: Vec<PolicyTargetReference>,
    /// Rate limits, all of which hold. Each data plane counts for itself.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), extend("x-kubernetes-list-type" = "atomic"))]
    pub rate_limits: Vec<LocalRateLimit>,
}

/// A token bucket per client address or header value. What exceeds it is answered with 429.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LocalRateLimit {
    /// How many requests per `per`.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub requests: i64,
    /// The time as GEP-2257 writes it, for example `1s` or `1m`; at most 24h.
    #[schemars(regex(pattern = DURATION), length(max = 32), extend("x-kubernetes-validations" = [
        {"rule": "duration(self) > duration('0s') && duration(self) <= duration('24h')", "message": "must be longer than 0s and at most 24h"},
    ]))]
    pub per: String,
    /// How many requests beyond the rate may come at once. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1_000_000))]
    pub burst: Option<i64>,
    /// The name of the request header whose values are counted apart. Default: the client's address is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = TOKEN), length(min = 1, max = 256))]
    pub header: Option<String>,
    /// Client addresses (CIDR) that are not limited.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "atomic", "items" = {"type": "string", "format": "cidr", "maxLength": 43}))]
    pub exempt: Vec<String>,
}
