//! The addresses that Ingresses report.

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::networking::v1::IngressLoadBalancerIngress;

use crate::context::Context;

/// The addresses of the Service in front of the shared data planes, sorted; none while it has none.
pub(super) fn addresses(context: &Context<'_>) -> Vec<IngressLoadBalancerIngress> {
    let service = context.settings.publish_service.as_ref();
    let service = service.and_then(|key| context.resources.get::<Service>(&key.namespace, &key.name));
    let mut addresses = service.map(|service| of_service(service)).unwrap_or_default();
    addresses.sort_by(|a, b| (&a.ip, &a.hostname).cmp(&(&b.ip, &b.hostname)));
    addresses.dedup();
    addresses
}

fn of_service(service: &Service) -> Vec<IngressLoadBalancerIngress> {
    let Some(spec) = &service.spec else { return Vec::new() };
    let address = |ip: Option<&String>, hostname: Option<&String>| IngressLoadBalancerIngress {
        ip: ip.cloned(),
        hostname: hostname.cloned(),
        ports: None,
    };
    let external = || spec.external_ips.iter().flatten().map(|ip| address(Some(ip), None));
    match spec.type_.as_deref() {
        Some("LoadBalancer") => {
            let status = service.status.iter().flat_map(|status| &status.load_balancer);
            let balanced = status.flat_map(|status| status.ingress.iter().flatten());
            balanced.map(|ingress| address(ingress.ip.as_ref(), ingress.hostname.as_ref())).chain(external()).collect()
        }
        Some("ExternalName") => spec.external_name.iter().map(|name| address(None, Some(name))).collect(),
        _ if spec.external_ips.iter().flatten().next().is_some() => external().collect(),
        _ => spec
            .cluster_ip
            .iter()
            .filter(|ip| *ip != "None" && !ip.is_empty())
            .map(|ip| address(Some(ip), None))
            .collect(),
    }
}
