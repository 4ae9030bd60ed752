//! GatewayClasses of ours.

use std::collections::BTreeMap;

use crds::gateway::{GatewayClassStatus, SupportedFeature};

use super::condition;
use super::parameters::{self, Reference};
use crate::context::Context;
use crate::{Kind, Parameters};

const FIELD: &str = "spec.parametersRef";

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
    "UDPRoute",
];

/// Judges the GatewayClasses with our controller name and returns them by name, each with its parameters, or none when it is not
/// accepted.
pub(super) fn translate(context: &mut Context) -> BTreeMap<String, Option<Parameters>> {
    let mut classes = BTreeMap::new();
    for (key, entry) in &context.resources.gateway_classes {
        let class = &entry.current;
        if class.spec.controller_name != context.settings.gateway_controller {
            continue;
        }
        let parameters = match &class.spec.parameters_ref {
            None => Ok(Parameters::default()),
            Some(reference) => {
                let reference = Reference {
                    field: FIELD,
                    group: &reference.group,
                    kind: &reference.kind,
                    namespace: reference.namespace.as_deref().unwrap_or_default(),
                    name: &reference.name,
                };
                parameters::resolve(context.resources, Parameters::default(), &reference)
            }
        };
        let (reason, message) = match &parameters {
            Ok(_) => ("Accepted", "Gateways of this class are served."),
            Err(message) => ("InvalidParameters", message.as_str()),
        };
        if parameters.is_err() {
            context.warn(Kind::GatewayClass, key, FIELD, reason, message);
        }
        let features = FEATURES.iter().map(|name| SupportedFeature { name: (*name).into() });
        let status = GatewayClassStatus {
            conditions: Some(vec![condition(&class.metadata, "Accepted", parameters.is_ok(), reason, message)]),
            supported_features: Some(features.collect()),
        };
        context.statuses.gateway_classes.insert(key.clone(), status);
        classes.insert(key.name.clone(), parameters.ok());
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
