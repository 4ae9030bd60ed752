//! What the operator of this installation decided, and keys that all replicas share.

use snapshot::Secret;

use crate::{ExternalNames, ObjectKey, Parameters};

/// What translation needs to know besides the resources.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The namespace of this installation, where the data planes are that Gateways of a class share. Default `sluice`.
    pub namespace: String,
    /// `spec.controller` of our IngressClasses. Default `sluice.dev/ingress-controller`.
    pub ingress_controller: String,
    /// The class name for Ingresses that use the old annotation `kubernetes.io/ingress.class`. Default `sluice`.
    pub ingress_class: String,
    /// Whether Ingresses without any class are ours too. Default no.
    pub watch_ingress_without_class: bool,
    /// `spec.controllerName` of our GatewayClasses. Default `sluice.dev/gateway-controller`.
    pub gateway_controller: String,
    /// How the data planes of Gateways look where no GatewayConfig says otherwise.
    pub gateway_defaults: Parameters,
    /// The most pods that a Gateway's own GatewayConfig may ask for. Default 20.
    pub gateway_max_replicas: u32,
    /// Where ports 80 and 443 are bound.
    pub ports: PortMap,
    /// Whether loopback and link-local addresses in EndpointSlices are used (`sluice run`). Default no.
    pub allow_loopback_endpoints: bool,
    /// Where Services of type ExternalName may lead.
    pub external_names: ExternalNames,
    /// The Secret with the certificate for Ingress hosts without one of their own.
    pub default_certificate: Option<ObjectKey>,
    /// Certificate chain and key in PEM, used when `default_certificate` is not set or not usable.
    pub fallback_certificate: Option<(Vec<u8>, Secret)>,
    /// The Service whose load balancer addresses Ingresses report.
    pub publish_service: Option<ObjectKey>,
    /// Answers every Ingress request that no rule matches. Without it: 404.
    pub default_backend: Option<ObjectKey>,
    /// See [`snapshot::Settings::cookie_key`].
    pub cookie_key: Secret,
    /// See [`snapshot::Settings::ticket_keys`].
    pub ticket_keys: Vec<Secret>,
    /// See [`snapshot::Settings::trusted_proxies`].
    pub trusted_proxies: Vec<ipnet::IpNet>,
    /// See [`snapshot::Settings::access_log`].
    pub access_log: snapshot::AccessLog,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            namespace: "sluice".into(),
            ingress_controller: "sluice.dev/ingress-controller".into(),
            ingress_class: "sluice".into(),
            watch_ingress_without_class: false,
            gateway_controller: "sluice.dev/gateway-controller".into(),
            gateway_defaults: Parameters::default(),
            gateway_max_replicas: 20,
            ports: PortMap::default(),
            allow_loopback_endpoints: false,
            external_names: ExternalNames::default(),
            default_certificate: None,
            fallback_certificate: None,
            publish_service: None,
            default_backend: None,
            cookie_key: Secret::default(),
            ticket_keys: Vec::new(),
            trusted_proxies: Vec::new(),
            access_log: snapshot::AccessLog::Json,
        }
    }
}

/// Where Ingresses and the Gateway ports 80 and 443 are bound; other listener ports are bound as written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortMap {
    /// In place of 80.
    pub http: u16,
    /// In place of 443.
    pub https: u16,
}

impl Default for PortMap {
    fn default() -> Self {
        Self { http: 80, https: 443 }
    }
}

impl PortMap {
    /// The port to bind for a port as written in a Gateway.
    pub fn bind(self, port: u16) -> u16 {
        match port {
            80 => self.http,
            443 => self.https,
            other => other,
        }
    }
}
