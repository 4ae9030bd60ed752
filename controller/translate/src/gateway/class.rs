//! GatewayClasses of ours.

use std::collections::BTreeMap;

use crds::gateway::{GatewayClassStatus, SupportedFeature};

use super::condition;
use crate::Kind;
use crate::context::Context;

/// What works, by the names of the Gateway API; sorted. A feature is here when its conformance tests are expected to pass.
const FEATURES: &[&str] = &[
    "BackendTLSPolicy",
    "BackendTLSPolicySANValidation",
    "Gateway",
    "GatewayBackendClientCertificate",
    "GatewayFrontendClientCertificateValidation",
    "GatewayFrontendClientCertificateValidationInsecureFallback",
    "GatewayHTTPListenerIsolation",
    "GatewayHTTPSListenerDetectMisdirectedRequests",
    "GatewayInfrastructure",
    "GatewayPort8080",
    "HTTPRoute",
    "HTTPRoute303RedirectStatusCode",
    "HTTPRoute307RedirectStatusCode",
    "HTTPRoute308RedirectStatusCode",
    "HTTPRouteBackendProtocolH2C",
    "HTTPRouteBackendProtocolWebSocket",
    "HTTPRouteBackendRequestHeaderModification",
    "HTTPRouteBackendTimeout",
    "HTTPRouteHostRewrite",
    "HTTPRouteMethodMatching",
    "HTTPRouteNamedRouteRule",
    "HTTPRouteParentRefPort",
    "HTTPRoutePathRedirect",
    "HTTPRoutePathRewrite",
    "HTTPRoutePortRedirect",
    "HTTPRouteQueryParamMatching",
    "HTTPRouteRequestTimeout",
    "HTTPRouteResponseHeaderModification",
    "HTTPRouteSchemeRedirect",
    "ReferenceGrant",
];

/// Judges the GatewayClasses with our controller name and returns them by name: whether each is accepted.
pub(super) fn translate(context: &mut Context) -> BTreeMap<String, bool> {
    let mut classes = BTreeMap::new();
    for (key, entry) in &context.resources.gateway_classes {
        let class = &entry.current;
        if class.spec.controller_name != context.settings.gateway_controller {
            continue;
        }
        let accepted = class.spec.parameters_ref.is_none();
        let (reason, message) = match accepted {
            true => ("Accepted", "Gateways of this class are served."),
            false => ("InvalidParameters", "spec.parametersRef is not supported: remove it."),
        };
        if !accepted {
            context.warn(Kind::GatewayClass, key, "spec.parametersRef", reason, message);
        }
        let features = FEATURES.iter().map(|name| SupportedFeature { name: (*name).into() });
        let status = GatewayClassStatus {
            conditions: Some(vec![condition(&class.metadata, "Accepted", accepted, reason, message)]),
            supported_features: Some(features.collect()),
        };
        context.statuses.gateway_classes.insert(key.clone(), status);
        classes.insert(key.name.clone(), accepted);
    }
    classes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_are_sorted_as_the_specification_asks() {
        assert!(FEATURES.is_sorted());
        assert!(FEATURES.len() <= 64);
    }
}
