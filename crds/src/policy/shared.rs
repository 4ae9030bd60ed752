use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::gateway::ParentReference;

/// The object that a policy applies to, in the policy's own namespace (GEP-713).
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PolicyTargetReference {
    /// The API group of the target; empty for Services.
    #[schemars(length(max = 253))]
    pub group: String,
    /// The kind of the target.
    #[schemars(length(min = 1, max = 63))]
    pub kind: String,
    /// The name of the target.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// A part of the target: the listener of a Gateway, the rule of an HTTPRoute, the port of a Service, each by its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub section_name: Option<String>,
}

/// The status of a policy: one entry per ancestor and controller (GEP-713).
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
pub struct PolicyStatus {
    /// At most 16.
    #[serde(default)]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "atomic"))]
    pub ancestors: Vec<PolicyAncestorStatus>,
}

/// What one controller says of a policy under one ancestor.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PolicyAncestorStatus {
    /// The ancestor: a Gateway, or for Ingresses the Ingress itself.
    pub ancestor_ref: ParentReference,
    /// The controller that says so.
    #[schemars(length(min = 1, max = 253))]
    pub controller_name: String,
    /// What is said. `Accepted` tells whether the policy is in force, and why it is not.
    #[serde(default)]
    #[schemars(length(max = 8), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// A duration as GEP-2257 writes it: up to four parts of at most five digits and `h`, `m`, `s` or `ms`.
pub(super) const DURATION: &str = "^([0-9]{1,5}(h|m|s|ms)){1,4}$";

/// The name of a header or a cookie: a token of RFC 9110.
pub(super) const TOKEN: &str = "^[A-Za-z0-9!#$%&'*+.^_`|~-]+$";

/// No target is named twice; for lists of [`PolicyTargetReference`].
pub(super) const DISTINCT: &str = "self.all(a, self.exists_one(b, a.group == b.group && a.kind == b.kind && a.name == b.name \
    && (has(a.sectionName) ? a.sectionName : '') == (has(b.sectionName) ? b.sectionName : '')))";
