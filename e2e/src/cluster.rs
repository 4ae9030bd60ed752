//! The cluster as its users handle it: kubectl, helm, addresses, pods.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::api::{Api, ListParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config, ResourceExt};
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::time::{sleep, timeout};

use crate::balancer;

pub struct Cluster {
    pub client: Client,
    /// The folder of the cluster that `up.sh` started.
    pub state: PathBuf,
    /// The folder with the programs and CRDs that `build.sh` made.
    pub programs: PathBuf,
}

impl Cluster {
    pub async fn connect(state: PathBuf, programs: PathBuf) -> Result<Cluster> {
        let kubeconfig = Kubeconfig::read_from(state.join("admin.kubeconfig"))?;
        let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
        Ok(Cluster { client: Client::try_from(config)?, state, programs })
    }

    /// Runs kubectl with these arguments, which are split at spaces, and returns what it printed.
    pub async fn kubectl(&self, arguments: &str) -> Result<String> {
        self.kubectl_with(arguments, "").await
    }

    /// `kubectl apply` of manifests in YAML or JSON.
    pub async fn apply(&self, manifests: &str) -> Result<String> {
        self.kubectl_with("apply -f -", manifests).await
    }

    async fn kubectl_with(&self, arguments: &str, input: &str) -> Result<String> {
        let mut command = Command::new(self.programs.join("kubernetes"));
        command.arg("kubectl").args(arguments.split_whitespace());
        self.run(command, input).await.with_context(|| format!("kubectl {arguments}"))
    }

    pub async fn helm(&self, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new(self.programs.join("helm"));
        command.args(arguments);
        self.run(command, "").await.with_context(|| format!("helm {}", arguments.join(" ")))
    }

    async fn run(&self, mut command: Command, input: &str) -> Result<String> {
        command.env("KUBECONFIG", self.state.join("admin.kubeconfig")).kill_on_drop(true);
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let mut stdin = process.stdin.take().context("no stdin")?;
        stdin.write_all(input.as_bytes()).await?;
        drop(stdin);
        let output = timeout(Duration::from_secs(180), process.wait_with_output()).await.context("timeout")??;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr).trim());
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// An object as JSON.
    pub async fn get(&self, namespace: &str, object: &str) -> Result<Value> {
        Ok(serde_json::from_str(&self.kubectl(&format!("-n {namespace} get {object} -o json")).await?)?)
    }

    /// Waits until a Deployment runs what its template says.
    pub async fn rolled_out(&self, namespace: &str, deployment: &str) -> Result<()> {
        self.kubectl(&format!("-n {namespace} rollout status deployment/{deployment} --timeout=170s")).await.map(|_| ())
    }

    /// The pods that match a label selector and are not on their way out.
    pub async fn pods(&self, namespace: &str, selector: &str) -> Result<Vec<Pod>> {
        let pods = Api::<Pod>::namespaced(self.client.clone(), namespace);
        let pods = pods.list(&ListParams::default().labels(selector)).await?.items;
        Ok(pods.into_iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()).collect())
    }

    /// The address that the load balancer gave to the one Service that matches a label selector.
    pub async fn address(&self, namespace: &str, selector: &str, port: u16) -> Result<SocketAddr> {
        let services = Api::<Service>::namespaced(self.client.clone(), namespace);
        let parameters = ListParams::default().labels(selector);
        let address = until(Duration::from_secs(30), "an address of the load balancer", async || {
            let services = services.list(&parameters).await?;
            services.items.iter().find_map(balancer::address).context("none yet")
        })
        .await?;
        Ok(SocketAddr::new(address.parse()?, port))
    }

    /// The messages of all Events about one object.
    pub async fn events(&self, namespace: &str, object: &str) -> Result<String> {
        let arguments = format!("-n {namespace} get events -o json --field-selector involvedObject.name={object}");
        let list: Value = serde_json::from_str(&self.kubectl(&arguments).await?)?;
        let messages = list["items"].as_array().into_iter().flatten().map(|event| {
            format!("{} {}: {}", event["type"], event["reason"], event["message"].as_str().unwrap_or_default())
        });
        Ok(messages.collect::<Vec<_>>().join("\n"))
    }

    /// The process of a pod's first container, as the machine sees it; an error while there is none.
    pub async fn process(&self, pod: &Pod) -> Result<u32> {
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default();
        let socket = self.state.join(format!("run/containerd-{}.sock", node.trim_start_matches("node")));
        let ctr = async |arguments: &[&str]| {
            let output =
                Command::new("ctr").arg("-a").arg(&socket).args(["-n", "k8s.io"]).args(arguments).output().await?;
            anyhow::Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        };
        let filter = format!(
            "labels.\"io.kubernetes.pod.uid\"=={},labels.\"io.cri-containerd.kind\"==container",
            pod.uid().unwrap_or_default()
        );
        let containers = ctr(&["containers", "ls", "-q", &filter]).await?;
        let tasks = ctr(&["tasks", "ls"]).await?;
        for container in containers.lines() {
            for task in tasks.lines().filter(|task| task.contains(container) && task.contains("RUNNING")) {
                if let Some(process) = task.split_whitespace().nth(1) {
                    return Ok(process.parse()?);
                }
            }
        }
        bail!("pod {} has no running container", pod.name_any())
    }
}

/// The address of a pod's port.
pub fn pod_address(pod: &Pod, port: u16) -> Result<SocketAddr> {
    let address = pod.status.as_ref().and_then(|status| status.pod_ip.as_deref()).context("the pod has no address")?;
    Ok(SocketAddr::new(address.parse()?, port))
}

/// Polls until the attempt succeeds, and fails with its last error.
pub async fn until<T>(patience: Duration, what: &str, mut attempt: impl AsyncFnMut() -> Result<T>) -> Result<T> {
    let began = Instant::now();
    loop {
        match attempt().await {
            Ok(value) => return Ok(value),
            Err(error) if began.elapsed() > patience => {
                return Err(error.context(format!("{what}: not within {patience:?}")));
            }
            Err(_) => sleep(Duration::from_millis(20)).await,
        }
    }
}
