//! A real control plane: etcd and kube-apiserver on loopback, shared by the tests that run at the same time.

use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use kube::Client;
use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams};
use kube::config::{AuthInfo, Config};
use serde_json::{Value, json};

const TOKEN: &str = "0123456789abcdef";
/// How long anything may take before a test gives up.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The CRD that is not installed until a test does it.
const LATER: &str = "udproutes.gateway.networking.k8s.io";

/// The processes, which end with it.
pub struct Cluster {
    url: String,
    directory: tempfile::TempDir,
    processes: Vec<Child>,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for process in &mut self.processes {
            let _ = process.kill();
            let _ = process.wait();
        }
        if std::thread::panicking() {
            let log = fs::read_to_string(self.directory.path().join("kube-apiserver")).unwrap_or_default();
            let end: Vec<_> = log.lines().rev().take(5).collect();
            eprintln!("the end of the API server's log:\n{}", end.join("\n"));
        }
    }
}

static SHARED: Mutex<Weak<Cluster>> = Mutex::new(Weak::new());

impl Cluster {
    /// The running control plane, or a new one with the CRDs of the Gateway API, [`LATER`] excepted.
    pub async fn shared() -> Arc<Self> {
        let cluster = tokio::task::spawn_blocking(|| {
            let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
            shared.upgrade().unwrap_or_else(|| {
                let cluster = Arc::new(Self::start());
                *shared = Arc::downgrade(&cluster);
                cluster
            })
        })
        .await
        .unwrap();
        let client = cluster.client();
        eventually("the API server answers", || {
            let client = client.clone();
            async move { client.apiserver_version().await.is_ok().then_some(()) }
        })
        .await;
        cluster.install_crds(&gateway_api(), |crd| crd != LATER).await;
        cluster
    }

    /// A client with all rights.
    pub fn client(&self) -> Client {
        Client::try_from(self.config()).unwrap()
    }

    /// Access with all rights.
    pub fn config(&self) -> Config {
        let mut config = Config::new(self.url.parse().unwrap());
        config.accept_invalid_certs = true; // the server's certificate is self-signed
        config.auth_info = AuthInfo { token: Some(TOKEN.to_owned().into()), ..AuthInfo::default() };
        config
    }

    /// What a program reads to have all rights, as KUBECONFIG; a file that ends with the cluster.
    #[allow(dead_code)] // for the benchmark
    pub fn kubeconfig(&self) -> PathBuf {
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "all",
            "contexts": [{"name": "all", "context": {"cluster": "all", "user": "all"}}],
            "clusters": [{"name": "all", "cluster": {"server": self.url, "insecure-skip-tls-verify": true}}],
            "users": [{"name": "all", "user": {"token": TOKEN}}],
        });
        let path = self.directory.path().join("kubeconfig");
        fs::write(&path, config.to_string()).unwrap();
        path
    }

    /// A client with the rights of this user, who has none unless they are bound to it.
    pub fn client_as(&self, user: &str) -> Client {
        let mut config = self.config();
        config.auth_info.impersonate = Some(user.to_owned());
        Client::try_from(config).unwrap()
    }

    /// Applies a manifest, which may hold several objects.
    pub async fn apply(&self, manifest: &str) {
        for object in documents(manifest) {
            self.api(&object)
                .patch(
                    object["metadata"]["name"].as_str().unwrap(),
                    &PatchParams::apply("test").force(),
                    &Patch::Apply(&object),
                )
                .await
                .unwrap();
        }
    }

    /// Installs the CRDs of a folder that are `wanted`, by name, and waits until they are served.
    pub async fn install_crds(&self, folder: &Path, wanted: impl Fn(&str) -> bool) {
        let mut names = Vec::new();
        for entry in fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
            let path = entry.unwrap().path();
            if path.extension().is_none_or(|extension| extension != "yaml") {
                continue;
            }
            for object in documents(&fs::read_to_string(path).unwrap()) {
                if object["kind"] == "CustomResourceDefinition" {
                    let name = object["metadata"]["name"].as_str().unwrap().to_owned();
                    if !wanted(&name) {
                        continue;
                    }
                    self.api(&object)
                        .patch(&name, &PatchParams::apply("test").force(), &Patch::Apply(&object))
                        .await
                        .unwrap();
                    names.push(name);
                }
            }
        }
        let api = self
            .api(&json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {}}));
        for name in names {
            eventually("a CRD is established", || async {
                let object = api.get(&name).await.ok()?;
                let conditions = object.data["status"]["conditions"].as_array()?.clone();
                conditions.iter().any(|c| c["type"] == "Established" && c["status"] == "True").then_some(())
            })
            .await;
        }
    }

    /// Access to the kind and namespace of an object.
    pub fn api(&self, object: &Value) -> Api<DynamicObject> {
        api_of(self.client(), object)
    }

    /// One object as it is.
    pub async fn get(&self, api_version: &str, kind: &str, namespace: &str, name: &str) -> Option<Value> {
        let mut object = json!({"apiVersion": api_version, "kind": kind, "metadata": {"namespace": namespace}});
        if namespace.is_empty() {
            object["metadata"] = json!({});
        }
        serde_json::to_value(self.api(&object).get_opt(name).await.unwrap()?).ok()
    }

    /// A new namespace, named after the test.
    pub async fn namespace(&self, name: &str) {
        self.apply(&format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}}}")).await;
        // Made by the controller manager in a whole cluster; nothing here depends on it.
        assert_eq!(
            self.get("v1", "Namespace", "", name).await.map(|n| n["metadata"]["name"].clone()),
            Some(json!(name))
        );
    }

    fn start() -> Self {
        let executable = PathBuf::from(required("SLUICE_KUBERNETES"));
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name).display().to_string();
        let key = rcgen::KeyPair::generate().unwrap();
        fs::write(at("sa.key"), key.serialize_pem()).unwrap();
        fs::write(at("sa.pub"), key.public_key_pem()).unwrap();
        fs::write(at("tokens.csv"), format!("{TOKEN},admin,admin,system:masters\n")).unwrap();
        let [etcd, peer, secure] = free_ports();
        let spawn = |name: &str, arguments: &[String]| {
            let log = File::create(directory.path().join(name)).unwrap();
            Command::new(&executable)
                .arg(name)
                .args(arguments)
                .stdin(Stdio::null())
                .stdout(log.try_clone().unwrap())
                .stderr(log)
                .spawn()
                .unwrap_or_else(|error| panic!("{}: {error}", executable.display()))
        };
        let etcd_url = format!("http://127.0.0.1:{etcd}");
        let peer_url = format!("http://127.0.0.1:{peer}");
        let processes = vec![
            spawn(
                "etcd",
                &[
                    format!("--data-dir={}", at("data")),
                    "--unsafe-no-fsync".into(),
                    "--log-level=error".into(),
                    format!("--listen-client-urls={etcd_url}"),
                    format!("--advertise-client-urls={etcd_url}"),
                    format!("--listen-peer-urls={peer_url}"),
                    format!("--initial-advertise-peer-urls={peer_url}"),
                    format!("--initial-cluster=default={peer_url}"),
                ],
            ),
            spawn(
                "kube-apiserver",
                &[
                    format!("--etcd-servers={etcd_url}"),
                    "--bind-address=127.0.0.1".into(),
                    "--advertise-address=127.0.0.1".into(),
                    format!("--secure-port={secure}"),
                    format!("--cert-dir={}", at("certificates")),
                    format!("--token-auth-file={}", at("tokens.csv")),
                    format!("--service-account-key-file={}", at("sa.pub")),
                    format!("--service-account-signing-key-file={}", at("sa.key")),
                    "--service-account-issuer=https://kubernetes.default.svc".into(),
                    "--service-cluster-ip-range=10.96.0.0/16".into(),
                    "--authorization-mode=RBAC".into(),
                    "--disable-admission-plugins=ServiceAccount".into(),
                ],
            ),
        ];
        Self { url: format!("https://127.0.0.1:{secure}"), directory, processes }
    }
}

/// Access to the kind and namespace of an object.
pub fn api_of(client: Client, object: &Value) -> Api<DynamicObject> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (group, version) = match text(&object["apiVersion"]).split_once('/') {
        Some((group, version)) => (group.to_owned(), version.to_owned()),
        None => (String::new(), text(&object["apiVersion"])),
    };
    let resource = ApiResource::from_gvk(&GroupVersionKind { group, version, kind: text(&object["kind"]) });
    match object["metadata"]["namespace"].as_str() {
        Some(namespace) => Api::namespaced_with(client, namespace, &resource),
        None => Api::all_with(client, &resource),
    }
}

/// Polls until there is an answer; panics with `what` when it takes too long.
pub async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, mut probe: impl FnMut() -> F) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = probe().await {
            return answer;
        }
        assert!(Instant::now() < end, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The folder with the CRDs of the Gateway API.
pub fn gateway_api() -> PathBuf {
    PathBuf::from(required("SLUICE_GATEWAY_API"))
}

fn required(variable: &str) -> String {
    std::env::var(variable).unwrap_or_else(|_| {
        panic!(
            "{variable} is not set. `make test` builds what this test needs and sets SLUICE_KUBERNETES (an executable \
             with the subcommands etcd and kube-apiserver) and SLUICE_GATEWAY_API (the folder config/crd/standard of \
             the Gateway API, v1.6)."
        )
    })
}

#[allow(dead_code)] // for the benchmark
/// A ClusterRole of this name with these rules, and its binding to a user of the same name.
pub fn grant(name: &str, rules: &Value) -> (Value, Value) {
    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": name}, "rules": rules,
    });
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": name}],
    });
    (role, binding)
}

pub fn documents(manifest: &str) -> Vec<Value> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(manifest).unwrap();
    documents.into_iter().filter(|document| document.is_object()).collect()
}

/// Ports that are free now. Held together until all are chosen, so that they differ.
fn free_ports<const N: usize>() -> [u16; N] {
    let listeners: Vec<_> = (0..N).map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap()).collect();
    std::array::from_fn(|n| listeners[n].local_addr().unwrap().port())
}
