use kube_derive::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{PolicyStatus, PolicyTargetReference};

/// How a Service's endpoints are chosen, kept and left out.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[kube(
    group = "sluice.dev",
    version = "v1alpha1",
    kind = "BackendPolicy",
    namespaced,
    status = "PolicyStatus",
    derive = "PartialEq",
    crates(kube_core = "::kube_core")
)]
#[serde(rename_all = "camelCase")]
pub struct BackendPolicySpec {
    /// The Services that the policy applies to; `sectionName` is a port's name.
    pub target_refs: Vec<PolicyTargetReference>,
    /// `RoundRobin` (default), `LeastRequest` or `PeakEWMA`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load_balancer: Option<String>,
    /// Keeps a client on its endpoint by a cookie.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_persistence: Option<CookiePersistence>,
    /// Leaves out endpoints that fail.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub passive_health: Option<PassiveHealthCheck>,
}

/// The cookie that keeps a client on its endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CookiePersistence {
    /// The cookie's name. Default `sluice`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cookie_name: Option<String>,
    /// `Path` of the cookie. Default: the path that matched.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// `Max-Age` in seconds. Default: none, the cookie ends with the browser's session.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_age_seconds: Option<i64>,
    /// `None`, `Lax` or `Strict`. Default: not sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub same_site: Option<String>,
}

/// When an endpoint is left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PassiveHealthCheck {
    /// Failures in a row. Default 5.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub consecutive_failures: Option<i64>,
    /// How long the first time, as GEP-2257 writes it. Default `10s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ejection_time: Option<String>,
    /// The largest share of endpoints that is out at once, in percent. Default 50.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_ejected_percent: Option<i64>,
}
