//! GatewayClasses of ours.

use std::collections::BTreeMap;

use crds::gateway::{CustomResourceDefinition, GatewayClassStatus, SupportedFeature};

use super::parameters::{self, DataPlanes, Reference};
use super::{condition, names};
use crate::context::Context;
use crate::{DataPlane, Kind, Parameters, Resources};

const FIELD: &str = "spec.parametersRef";

/// The version of the Gateway API that this program is written and tested for.
const VERSION: &str = "v1.6";

/// What works, by the names of the Gateway API.
const FEATURES: &[&str] = &[
    "BackendTLSPolicy",
    "BackendTLSPolicySANValidation",
    "GRPCRoute",
    "GRPCRouteNamedRouteRule",
    "Gateway",
    "GatewayAddressEmpty",
    "GatewayBackendClientCertificate",
    "GatewayFrontendClientCertificateValidation",
    "GatewayFrontendClientCertificateValidationInsecureFallback",
    "GatewayHTTPListenerIsolation",
    "GatewayHTTPSListenerDetectMisdirectedRequests",
    "GatewayInfrastructure",
    "GatewayPort8080",
    "GatewayStaticAddresses",
    "HTTPRoute",
    "HTTPRoute303RedirectStatusCode",
    "HTTPRoute307RedirectStatusCode",
    "HTTPRoute308RedirectStatusCode",
    "HTTPRouteBackendProtocolH2C",
    "HTTPRouteBackendProtocolWebSocket",
    "HTTPRouteBackendRequestHeaderModification",
    "HTTPRouteBackendTimeout",
    "HTTPRouteCORS",
    "HTTPRouteDestinationPortMatching",
    "HTTPRouteHostRewrite",
    "HTTPRouteMethodMatching",
    "HTTPRouteNamedRouteRule",
    "HTTPRouteParentRefPort",
    "HTTPRoutePathRedirect",
    "HTTPRoutePathRewrite",
    "HTTPRoutePortRedirect",
    "HTTPRouteQueryParamMatching",
    "HTTPRouteRequestMirror",
    "HTTPRouteRequestMultipleMirrors",
    "HTTPRouteRequestPercentageMirror",
    "HTTPRouteRequestTimeout",
    "HTTPRouteResponseHeaderModification",
    "HTTPRouteSchemeRedirect",
    "ListenerSet",
    "ReferenceGrant",
    "TCPRoute",
    "TLSRoute",
    "TLSRouteModeMixed",
    "TLSRouteModeTerminate",
    "UDPRoute",
];

/// What works besides where the CRDs have its fields: those of the experimental channel.
const EXPERIMENTAL_FEATURES: &[&str] =
    &["HTTPRouteRetry", "HTTPRouteRetryBackendTimeout", "HTTPRouteRetryConnectionError"];

/// A GatewayClass of ours.
pub(super) struct Class {
    /// What its GatewayConfig says; `None` when the class is not accepted.
    pub parameters: Option<Parameters>,
    /// Which data planes serve its Gateways.
    pub data_planes: DataPlanes,
}

/// Judges the GatewayClasses with our controller name and returns them by name.
pub(super) fn translate(context: &mut Context) -> BTreeMap<String, Class> {
    let mut classes = BTreeMap::new();
    let features = features(context.resources);
    let version = version(context.resources);
    for (key, entry) in &context.resources.gateway_classes {
        let class = &entry.current;
        if class.spec.controller_name != context.settings.gateway_controller {
            continue;
        }
        let config = class.spec.parameters_ref.as_ref().map(|reference| {
            let reference = Reference {
                field: FIELD,
                group: &reference.group,
                kind: &reference.kind,
                namespace: reference.namespace.as_deref().unwrap_or_default(),
                name: &reference.name,
            };
            parameters::find(context.resources, &reference)
        });
        let (data_planes, parameters) = match config {
            None => (Ok(DataPlanes::PerGateway), Ok(context.settings.gateway_defaults.clone())),
            Some(Ok(config)) => (config.data_planes(), config.over(context.settings.gateway_defaults.clone())),
            Some(Err(message)) => (Err(message.clone()), Err(message)),
        };
        let parameters = data_planes.clone().and(parameters);
        // Nobody is moved by a mistake: while it cannot be told what is asked for, Gateways stay where they are.
        let data_planes = data_planes.unwrap_or_else(|_| running(context, &key.name));
        let (reason, message) = match &parameters {
            Ok(_) => ("Accepted", "Gateways of this class are served."),
            Err(message) => ("InvalidParameters", message.as_str()),
        };
        if parameters.is_err() {
            context.warn(Kind::GatewayClass, key, FIELD, reason, message);
        }
        let mut conditions = vec![condition(&class.metadata, "Accepted", parameters.is_ok(), reason, message)];
        if let Some(Version { supported, reason, message }) = &version {
            conditions.push(condition(&class.metadata, "SupportedVersion", *supported, reason, message));
            if !supported {
                context.warn(Kind::GatewayClass, key, "", reason, message);
            }
        }
        let status = GatewayClassStatus { conditions: Some(conditions), supported_features: Some(features.clone()) };
        context.statuses.gateway_classes.insert(key.clone(), status);
        classes.insert(key.name.clone(), Class { parameters: parameters.ok(), data_planes });
    }
    classes
}

/// Which data planes serve the Gateways of a class now, by the Service that they would share.
fn running(context: &Context, class: &str) -> DataPlanes {
    let plane = DataPlane::Class(class.to_owned());
    match names::service(context.resources, context.settings, &plane, class) {
        Some(_) => DataPlanes::PerClass,
        None => DataPlanes::PerGateway,
    }
}

/// What a class says of the Gateway API's version.
struct Version {
    supported: bool,
    reason: &'static str,
    message: String,
}

/// Judges the Gateway API's CRDs; `None` where none are known.
fn version(resources: &Resources) -> Option<Version> {
    let versions: BTreeMap<_, _> = gateway_api(resources)
        .map(|(name, crd)| (crd.annotation(CustomResourceDefinition::BUNDLE_VERSION), name))
        .collect();
    let supported = |version: &Option<&str>| {
        version.and_then(|version| version.strip_prefix(VERSION)).is_some_and(|rest| rest.starts_with('.'))
    };
    let (first, _) = versions.first_key_value()?;
    Some(match versions.iter().find(|(version, _)| !supported(version)) {
        None => Version {
            supported: true,
            reason: "SupportedVersion",
            message: format!("The Gateway API's CRDs are {}.", first.unwrap_or_default()),
        },
        Some((version, name)) => Version {
            supported: false,
            reason: "UnsupportedVersion",
            message: format!(
                "CustomResourceDefinition {name} is of {}, and Sluice is made for {VERSION}: what both know is served. Install the \
                 CRDs of {VERSION}, or a Sluice that is made for yours.",
                version.map_or_else(|| "no known version".to_owned(), |version| format!("Gateway API {version}")),
            ),
        },
    })
}

/// What works with the CRDs that are there; sorted, as the specification asks.
fn features(resources: &Resources) -> Vec<SupportedFeature> {
    let standard =
        gateway_api(resources).any(|(_, crd)| crd.annotation(CustomResourceDefinition::CHANNEL) == Some("standard"));
    let experimental = if standard { &[] } else { EXPERIMENTAL_FEATURES };
    let mut features: Vec<_> =
        FEATURES.iter().chain(experimental).map(|name| SupportedFeature { name: (*name).into() }).collect();
    features.sort();
    features
}

fn gateway_api(resources: &Resources) -> impl Iterator<Item = (&str, &CustomResourceDefinition)> {
    let crds = resources.custom_resource_definitions.iter().map(|(key, entry)| (key.name.as_str(), &*entry.current));
    crds.filter(|(_, crd)| crd.of_gateway_api())
}

#[cfg(test)]
mod tests {
    use kube_core::ObjectMeta;

    use super::*;

    fn cluster(channel: &str) -> Resources {
        let mut resources = Resources::default();
        let annotations = [(CustomResourceDefinition::CHANNEL.to_owned(), channel.to_owned())];
        let metadata = ObjectMeta {
            name: Some("httproutes.gateway.networking.k8s.io".into()),
            annotations: Some(annotations.into()),
            ..ObjectMeta::default()
        };
        resources.insert(CustomResourceDefinition { metadata, ..CustomResourceDefinition::default() });
        resources
    }

    #[test]
    fn features_are_those_of_the_channel_sorted() {
        let names = |resources: &Resources| -> Vec<String> {
            features(resources).into_iter().map(|feature| feature.name).collect()
        };
        let all = names(&cluster("experimental"));
        assert_eq!(all.len(), FEATURES.len() + EXPERIMENTAL_FEATURES.len());
        assert!(all.is_sorted() && all.len() <= 64);
        assert_eq!(names(&Resources::default()), all, "a folder has no CRDs and takes every field");
        let standard = names(&cluster("standard"));
        assert_eq!(standard, FEATURES);
    }
}
