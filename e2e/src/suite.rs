//! What the scenarios share.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{Api, ListParams};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::balancer;
use crate::certificates::Authority;
use crate::client::Target;
use crate::cluster::{Cluster, pod_address, until};
use crate::manifests::NAMESPACE;

/// Where the chart is installed.
pub const SYSTEM: &str = "sluice-system";
/// For so long a change may take to have its effect before a scenario gives up on it.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Labels of the pods of the chart, and of those of the Gateway `web`.
pub const CONTROLLERS: &str = "app.kubernetes.io/component=controller";
pub const DATAPLANES: &str = "app.kubernetes.io/component=dataplane";
pub const GATEWAY_DATAPLANES: &str = "gateway.networking.k8s.io/gateway-name=web";

pub struct Suite {
    pub cluster: Cluster,
    pub authority: Authority,
    /// The WebSockets that live through the scenarios, each with what became of it, until the channel is closed.
    pub sockets: Option<(watch::Sender<()>, JoinSet<Result<usize>>)>,
    _balancer: JoinSet<()>,
}

impl Suite {
    pub async fn start(state: PathBuf, programs: PathBuf) -> Result<Suite> {
        let cluster = Cluster::connect(state, programs).await?;
        let mut balancer = JoinSet::new();
        balancer.spawn(balancer::run(cluster.client.clone()));
        Ok(Suite { cluster, authority: Authority::new()?, sockets: None, _balancer: balancer })
    }

    /// The address of the shared data planes.
    pub async fn ingress_address(&self, port: u16) -> Result<SocketAddr> {
        self.cluster.address(SYSTEM, DATAPLANES, port).await
    }

    /// The address of the Gateway `web`.
    pub async fn gateway_address(&self, port: u16) -> Result<SocketAddr> {
        self.cluster.address(NAMESPACE, GATEWAY_DATAPLANES, port).await
    }

    /// A target for this host at the shared data planes, without TLS.
    pub async fn ingress_target(&self, host: &str) -> Result<Target> {
        Ok(Target::http(self.ingress_address(80).await?, host, "/"))
    }

    /// The same target at each of these pods.
    pub async fn at_pods(&self, target: &Target, namespace: &str, selector: &str) -> Result<Vec<Target>> {
        let pods = self.cluster.pods(namespace, selector).await?;
        ensure!(pods.len() == 2, "there are {} data planes {selector}", pods.len());
        let at = |pod: &Pod| Ok(Target { address: pod_address(pod, target.address.port())?, ..target.clone() });
        pods.iter().map(at).collect()
    }

    /// Waits until this Service answers there.
    pub async fn answers(&self, target: &Target, service: &str) -> Result<String> {
        let what = format!("{}{} is answered by {service}", target.host, target.path);
        until(PATIENCE, &what, async || target.get().await?.from(service)).await
    }

    /// Waits until this Service answers at both shared data planes.
    pub async fn answers_everywhere(&self, target: &Target, service: &str) -> Result<()> {
        for target in self.at_pods(target, SYSTEM, DATAPLANES).await? {
            self.answers(&target, service).await?;
        }
        Ok(())
    }

    /// Waits until an Event about the object says all of this.
    pub async fn event(&self, object: &str, says: &[&str]) -> Result<()> {
        until(PATIENCE, &format!("an Event about {object} that says {says:?}"), async || {
            let events = self.cluster.events(NAMESPACE, object).await?;
            let told = events.lines().any(|event| says.iter().all(|part| event.contains(part)));
            ensure!(told, "the Events are:\n{events}");
            Ok(())
        })
        .await
    }

    /// Waits until an object's JSON at this pointer is this string.
    pub async fn status(&self, object: &str, pointer: &str, expected: &str) -> Result<()> {
        until(PATIENCE, &format!("{object} {pointer} is {expected}"), async || {
            let json = self.cluster.get(NAMESPACE, object).await?;
            let value = json.pointer(pointer).with_context(|| format!("the status is {}", json["status"]))?;
            ensure!(value == expected, "it is {value}, the status is {}", json["status"]);
            Ok(())
        })
        .await
    }

    /// Ends all controllers at once and keeps them away.
    pub async fn kill_controllers(&self) -> Result<()> {
        let processes = self.controllers().await?;
        ensure!(processes.len() == 2, "there are {} controllers", processes.len());
        for process in processes {
            kill(process).await?;
        }
        self.cluster.kubectl(&format!("-n {SYSTEM} scale deployment/sluice-controller --replicas=0")).await?;
        until(PATIENCE, "no controller", async || {
            let left = self.cluster.kubectl(&format!("-n {SYSTEM} get pods -l {CONTROLLERS} -o name")).await?;
            // The kubelet may have started them again before it heard that they shall go.
            for process in self.controllers().await? {
                let _ = kill(process).await; // an error means that it is gone
            }
            ensure!(left.trim().is_empty(), "left: {left}");
            Ok(())
        })
        .await
    }

    /// The processes of the controllers that run, also of those that are asked to end.
    async fn controllers(&self) -> Result<Vec<u32>> {
        let pods = Api::<Pod>::namespaced(self.cluster.client.clone(), SYSTEM);
        let pods = pods.list(&ListParams::default().labels(CONTROLLERS)).await?.items;
        let mut processes = Vec::new();
        for pod in pods {
            processes.extend(self.cluster.process(&pod).await.ok());
        }
        Ok(processes)
    }

    /// Brings the controllers back.
    pub async fn restore_controllers(&self) -> Result<()> {
        self.cluster.kubectl(&format!("-n {SYSTEM} scale deployment/sluice-controller --replicas=2")).await?;
        self.cluster.rolled_out(SYSTEM, "sluice-controller").await
    }

    /// Prints what helps to understand a failure.
    pub async fn describe(&self) {
        if let Ok(text) = self.cluster.kubectl("get pods -A -o wide").await {
            println!("--- kubectl get pods -A -o wide\n{text}");
        }
        for pod in self.cluster.pods(SYSTEM, "app.kubernetes.io/name=sluice").await.unwrap_or_default() {
            let arguments = format!("-n {SYSTEM} logs --tail=15 {}", pod.name_any());
            if let Ok(text) = self.cluster.kubectl(&arguments).await {
                println!("--- kubectl {arguments}\n{text}");
            }
        }
    }
}

/// Ends a process at once.
pub async fn kill(process: u32) -> Result<()> {
    let status = tokio::process::Command::new("kill").args(["-KILL", &process.to_string()]).status().await?;
    ensure!(status.success(), "kill {process}: {status}");
    Ok(())
}
