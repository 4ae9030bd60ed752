use kube_derive::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::shared::{DISTINCT, DURATION, TOKEN};
use super::{PolicyStatus, PolicyTargetReference};

/// How a Service's endpoints are chosen, kept and left out.
#[allow(clippy::duplicated_attributes)] // each printer column has a type
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[kube(
    group = "sluice.dev",
    version = "v1alpha1",
    kind = "BackendPolicy",
    namespaced,
    status = "PolicyStatus",
    derive = "PartialEq",
    doc = "How a Service's endpoints are chosen, kept and left out.",
    shortname = "bpol",
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
pub struct BackendPolicySpec {
    /// The Services in the policy's namespace that the policy applies to; `sectionName` is a port's name.
    /// A policy for a port goes before one for the whole Service.
    #[schemars(length(min = 1, max = 16), extend("x-kubernetes-list-type" = "atomic", "x-kubernetes-validations" = [
        {"rule": "self.all(t, t.group == '' && t.kind == 'Service')", "message": "a target is a Service of group \"\""},
        {"rule": DISTINCT, "message": "each target may be named once"},
    ]))]
    pub target_refs: Vec<PolicyTargetReference>,
    /// `RoundRobin` (default), `LeastRequest` or `PeakEWMA`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["RoundRobin", "LeastRequest", "PeakEWMA"]))]
    pub load_balancer: Option<String>,
    /// Keeps a client on its endpoint (GEP-1619).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_persistence: Option<BackendSessionPersistence>,
    /// Leaves out endpoints that fail.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passive_health: Option<PassiveHealthCheck>,
}

/// What keeps a client on its endpoint: a token that it gets with the first answer, and shows with every request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "!has(self.cookieConfig) || !has(self.type) || self.type == 'Cookie'", "message": "cookieConfig needs type Cookie"},
    {"rule": "!has(self.cookieConfig) || !has(self.cookieConfig.lifetimeType) || self.cookieConfig.lifetimeType != 'Permanent' || has(self.absoluteTimeout)", "message": "lifetimeType Permanent needs an absoluteTimeout"},
]))]
pub struct BackendSessionPersistence {
    /// The name of the cookie or the header. Default: one that follows from the Service's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = TOKEN), length(min = 1, max = 128))]
    pub session_name: Option<String>,
    /// What carries the token: `Cookie` (default), or `Header`, of answers and requests.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["Cookie", "Header"]))]
    pub type_: Option<String>,
    /// How long a session lasts at most, as GEP-2257 writes it. Default: without end, as `0s`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = DURATION), length(max = 32))]
    pub absolute_timeout: Option<String>,
    /// How long a session lasts without a request, as GEP-2257 writes it. Default: without end, as `0s`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = DURATION), length(max = 32))]
    pub idle_timeout: Option<String>,
    /// Attributes of the cookie.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cookie_config: Option<SessionCookieConfig>,
}

/// Attributes of the cookie that keeps a client on its endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SessionCookieConfig {
    /// `Session` (default): the client forgets the cookie when it ends. `Permanent`: after `absoluteTimeout` (`Max-Age`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["Session", "Permanent"]))]
    pub lifetime_type: Option<String>,
    /// `Path`. Default: the path that matched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = "^/[!-:<-~]*$"), length(max = 1024))]
    pub path: Option<String>,
    /// `SameSite`: `None`, `Lax` (default) or `Strict`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["None", "Lax", "Strict"]))]
    pub same_site: Option<String>,
}

/// When an endpoint is left out: after failed connections or answers 502, 503, 504 in a row.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PassiveHealthCheck {
    /// Failures in a row. Default 5.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub consecutive_failures: Option<i64>,
    /// How long the first time, as GEP-2257 writes it; at most 1h. Default `10s`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = DURATION), length(max = 32), extend("x-kubernetes-validations" = [
        {"rule": "duration(self) > duration('0s') && duration(self) <= duration('1h')", "message": "must be longer than 0s and at most 1h"},
    ]))]
    pub ejection_time: Option<String>,
    /// The largest share of endpoints that is out at once, in percent. Default 50.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub max_ejected_percent: Option<i64>,
}
