//! The cluster's load balancer: gives every Service of type LoadBalancer an address of 10.201.0.0/24, which kube-proxy
//! then routes. A Service that asks for an address (`spec.loadBalancerIP`) gets that one or none.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1::Service;
use kube::api::{Api, ListParams, Patch, PatchParams};
use kube::{Client, ResourceExt};
use serde_json::json;
use tokio::time::sleep;

/// Runs until it is dropped.
pub async fn run(client: Client) {
    loop {
        if let Err(error) = assign(&client).await {
            eprintln!("load balancer: {error:#}");
        }
        sleep(Duration::from_millis(300)).await;
    }
}

async fn assign(client: &Client) -> Result<()> {
    let services = Api::<Service>::all(client.clone()).list(&ListParams::default()).await?.items;
    let balanced = services
        .iter()
        .filter(|service| service.spec.as_ref().and_then(|spec| spec.type_.as_deref()) == Some("LoadBalancer"));
    let (assigned, waiting): (Vec<_>, Vec<_>) = balanced.partition(|service| address(service).is_some());
    let mut taken: BTreeSet<String> = assigned.into_iter().filter_map(address).collect();
    for service in waiting {
        let asked = service.spec.as_ref().and_then(|spec| spec.load_balancer_ip.as_deref()).filter(|ip| !ip.is_empty());
        let free = match asked {
            Some(asked) if asked.starts_with("10.201.0.") && !taken.contains(asked) => asked.to_owned(),
            Some(_) => continue,
            None => {
                let free = (10..250).map(|host| format!("10.201.0.{host}")).find(|address| !taken.contains(address));
                free.context("no address left")?
            }
        };
        let namespace = service.namespace().unwrap_or_default();
        let status = json!({"status": {"loadBalancer": {"ingress": [{"ip": free}]}}});
        Api::<Service>::namespaced(client.clone(), &namespace)
            .patch_status(&service.name_any(), &PatchParams::default(), &Patch::Merge(status))
            .await?;
        taken.insert(free);
    }
    Ok(())
}

/// The address that a Service was given.
pub fn address(service: &Service) -> Option<String> {
    service.status.as_ref()?.load_balancer.as_ref()?.ingress.as_ref()?.first()?.ip.clone()
}
