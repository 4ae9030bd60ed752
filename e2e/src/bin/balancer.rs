//! The cluster's load balancer by itself, for a suite that is not ours. It runs until it is ended.
//! usage: balancer KUBECONFIG

#[path = "../balancer.rs"]
mod balancer;

use anyhow::{Context as _, Result};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

#[tokio::main]
async fn main() -> Result<()> {
    let path = std::env::args().nth(1).context("usage: balancer KUBECONFIG")?;
    rustls::crypto::aws_lc_rs::default_provider().install_default().ok().context("a TLS provider is installed")?;
    let kubeconfig = Kubeconfig::read_from(path)?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    balancer::run(Client::try_from(config)?).await;
    Ok(())
}
