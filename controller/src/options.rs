//! The flags of `sluice controller`. Those that ingress-nginx has too are named and meant as there.

use std::net::SocketAddr;
use std::str::FromStr;

use clap::{Args, ValueEnum};
use ipnet::IpNet;
use translate::{ExternalNames, ObjectKey, Parameters, Settings};

use crate::provision::Installation;

/// Watches a cluster and feeds its data planes.
#[derive(Args, Clone, Debug)]
#[command(after_long_help = "Example:
  sluice controller --namespace sluice --stream-host sluice-controller.sluice.svc \\
    --shared-service-account sluice/sluice-dataplane --publish-service sluice/sluice \\
    --dataplane-image ghcr.io/sluice/sluice:1.0.0")]
pub struct Options {
    /// The namespace of this installation: of its Lease, its Secret of keys and its CA's ConfigMap
    #[arg(long, env = "POD_NAMESPACE", default_value = "sluice")]
    pub namespace: String,

    /// The name of this release: with the namespace and the controller name it tells the objects that this installation makes for
    /// Gateways from those of another one
    #[arg(long, default_value = "sluice")]
    pub release: String,

    /// The name of this replica in the Lease and in Events; default: the host's name
    #[arg(long, env = "POD_NAME", default_value_t = host_name())]
    pub pod_name: String,

    /// The name of the Lease by which replicas decide who writes statuses
    #[arg(long, default_value = "sluice-leader")]
    pub election_id: String,

    /// The ServiceAccount of the data planes that all Ingresses share, as namespace/name
    #[arg(long, value_parser = Reference::from_str, default_value = "sluice/sluice-dataplane")]
    pub shared_service_account: Reference,

    /// The Service that leads to those data planes, as namespace/name: statuses wait for its ready pods. Default: only for
    /// those that are connected
    #[arg(long, value_parser = Reference::from_str)]
    pub shared_service: Option<Reference>,

    /// The Service whose load balancer addresses Ingresses report, as namespace/name
    #[arg(long, value_parser = Reference::from_str)]
    pub publish_service: Option<Reference>,

    /// The Secret with the certificate for hosts without one of their own, as namespace/name
    #[arg(long, value_parser = Reference::from_str)]
    pub default_ssl_certificate: Option<Reference>,

    /// The Service that answers what no Ingress matches, as namespace/name; default: 404
    #[arg(long, value_parser = Reference::from_str)]
    pub default_backend_service: Option<Reference>,

    /// The value of the annotation kubernetes.io/ingress.class that selects an Ingress without ingressClassName
    #[arg(long, default_value = "sluice")]
    pub ingress_class: String,

    /// spec.controller of the IngressClasses to serve
    #[arg(long, default_value = "sluice.dev/ingress-controller")]
    pub controller_class: String,

    /// spec.controllerName of the GatewayClasses to serve
    #[arg(long, default_value = "sluice.dev/gateway-controller")]
    pub gateway_controller_name: String,

    /// Serve Ingresses that name no class at all, too
    #[arg(long)]
    pub watch_ingress_without_class: bool,

    /// Serve no Service of type ExternalName
    #[arg(long)]
    pub disable_svc_external_name: bool,

    /// A name that Services of type ExternalName may lead to, with all names below it; may be repeated. Default: every name
    /// outside of the cluster, and those inside that stay in the Service's namespace
    #[arg(long, value_name = "DOMAIN")]
    pub external_name_allow: Vec<String>,

    /// The domain of the cluster's Services and pods
    #[arg(long, default_value = "cluster.local")]
    pub cluster_domain: String,

    /// The image of the data planes that Gateways get
    #[arg(long, default_value = concat!("ghcr.io/sluice/sluice:", env!("CARGO_PKG_VERSION")))]
    pub dataplane_image: String,

    /// imagePullPolicy of that image
    #[arg(long, default_value = "IfNotPresent")]
    pub dataplane_image_pull_policy: String,

    /// A Secret to fetch that image with, by name, in the namespace of their pods; may be given several times
    #[arg(long)]
    pub dataplane_image_pull_secret: Vec<String>,

    /// The size of the memory-backed volume in which each of their pods keeps its last good snapshot, as a Kubernetes quantity
    #[arg(long, default_value = "64Mi")]
    pub dataplane_state_size_limit: String,

    /// How many seconds a connection of a TCPRoute or TLSRoute may carry nothing in either direction
    #[arg(long, default_value_t = 3600, value_parser = clap::value_parser!(u64).range(1..=31_536_000))]
    pub dataplane_tunnel_idle_seconds: u64,

    /// How many seconds a UDP session may see no datagram in either direction
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=31_536_000))]
    pub dataplane_udp_idle_seconds: u64,

    /// How many data plane pods each Gateway gets
    #[arg(long, default_value_t = 2)]
    pub gateway_replicas: u32,

    /// The most pods that a Gateway's own GatewayConfig may ask for
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub gateway_max_replicas: u32,

    /// How the data planes of Gateways look where no GatewayConfig says otherwise: the spec of one, as JSON
    #[arg(long, value_parser = parameters, default_value = "{}")]
    pub gateway_defaults: Parameters,

    /// The user that runs the data planes of Gateways; 0 where the platform chooses one, as OpenShift does
    #[arg(long, default_value_t = 65532)]
    pub gateway_pod_user: u32,

    /// Give the data planes of Gateways a NetworkPolicy that lets traffic in to their listeners and metrics only
    #[arg(long)]
    pub gateway_network_policies: bool,

    /// Give the pods of Gateways the annotations prometheus.io/scrape, port and path
    #[arg(long)]
    pub gateway_metrics_annotations: bool,

    /// Where data planes connect to
    #[arg(long, default_value = "0.0.0.0:15010")]
    pub stream_address: SocketAddr,

    /// The name under which data planes reach every replica: the headless Service's. Default: sluice-controller.NAMESPACE.svc
    #[arg(long)]
    pub stream_host: Option<String>,

    /// Where /healthz, /readyz and /metrics are served
    #[arg(long, default_value = "0.0.0.0:10254")]
    pub admin_address: SocketAddr,

    /// The ConfigMap that gets the internal CA's certificate, for the shared data planes
    #[arg(long, default_value = "sluice-ca")]
    pub ca_config_map: String,

    /// The Secret with the keys that all replicas share; made when it is not there
    #[arg(long, default_value = "sluice-installation")]
    pub installation_secret: String,

    /// The Secret with the last good versions of objects that are broken; made when it is first needed
    #[arg(long, default_value = "sluice-last-good")]
    pub last_good_secret: String,

    /// The format of the data planes' access log
    #[arg(long, value_enum, default_value_t = AccessLog::Json)]
    pub access_log: AccessLog,

    /// Proxies whose X-Forwarded-* headers are believed, as CIDRs; may be repeated
    #[arg(long, value_delimiter = ',')]
    pub trusted_proxies: Vec<IpNet>,
}

/// A namespace and a name, written `namespace/name`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference(pub ObjectKey);

impl FromStr for Reference {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('/') {
            Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => {
                Ok(Self(ObjectKey::new(namespace, name)))
            }
            _ => Err(format!("`{text}` is not namespace/name")),
        }
    }
}

/// See [`snapshot::AccessLog`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum AccessLog {
    /// One JSON object per request.
    Json,
    /// None.
    Off,
}

impl From<AccessLog> for snapshot::AccessLog {
    fn from(format: AccessLog) -> Self {
        match format {
            AccessLog::Json => snapshot::AccessLog::Json,
            AccessLog::Off => snapshot::AccessLog::Off,
        }
    }
}

impl Options {
    /// The name that data planes dial and that the server's certificate is for.
    pub fn stream_host(&self) -> String {
        self.stream_host.clone().unwrap_or_else(|| format!("sluice-controller.{}.svc", self.namespace))
    }

    /// What tells the objects of this installation from those of another one.
    pub fn installation(&self) -> Installation {
        Installation::new(&self.namespace, &self.release, &self.gateway_controller_name)
    }

    /// What translation needs of the flags; keys come from the installation's Secret.
    pub fn settings(&self) -> Settings {
        let key = |reference: &Option<Reference>| reference.clone().map(|reference| reference.0);
        Settings {
            namespace: self.namespace.clone(),
            ingress_controller: self.controller_class.clone(),
            ingress_class: self.ingress_class.clone(),
            watch_ingress_without_class: self.watch_ingress_without_class,
            gateway_controller: self.gateway_controller_name.clone(),
            gateway_defaults: self.gateway_defaults.clone(),
            gateway_max_replicas: self.gateway_max_replicas,
            default_certificate: key(&self.default_ssl_certificate),
            publish_service: key(&self.publish_service),
            default_backend: key(&self.default_backend_service),
            trusted_proxies: self.trusted_proxies.clone(),
            access_log: self.access_log.into(),
            external_names: ExternalNames {
                enabled: !self.disable_svc_external_name,
                allowed: self.external_name_allow.clone(),
                cluster_domain: self.cluster_domain.clone(),
            },
            ..Settings::default()
        }
    }
}

fn parameters(text: &str) -> Result<Parameters, String> {
    let spec = serde_json::from_str(text).map_err(|error| format!("not the spec of a GatewayConfig: {error}"))?;
    Parameters::of(&spec)
}

fn host_name() -> String {
    std::env::var("HOSTNAME").ok().filter(|name| !name.is_empty()).unwrap_or_else(|| "sluice-controller".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_has_two_parts() {
        assert_eq!("a/b".parse(), Ok(Reference(ObjectKey::new("a", "b"))));
        for wrong in ["", "a", "/b", "a/", "a/b/c"] {
            assert!(wrong.parse::<Reference>().is_err(), "{wrong}");
        }
    }
}
