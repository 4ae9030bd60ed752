//! Many HTTPRoutes attached to one Gateway on a real control plane: how long until the Gateway counts them, how many statuses
//! are written for it, and what an edit and the whole cost then.
//!
//! `make bench-routes` builds the controller and runs this with its path; `ROUTES` is how many, 1000 unless told.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // A benchmark may stop at the first surprise.

#[allow(dead_code)] // the tests need more of it
#[path = "../tests/control_plane/cluster.rs"]
mod cluster;
#[allow(dead_code)]
#[path = "../tests/control_plane/dataplane.rs"]
mod dataplane;

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use futures::{StreamExt, stream};
use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use cluster::{Cluster, api_of, eventually};
use dataplane::DataPlane;

const GATEWAY_API: &str = "gateway.networking.k8s.io/v1";
/// Where everything lives.
const NAMESPACE: &str = "bench";
/// So many objects are applied at once, as by `kubectl apply` in a few terminals.
const AT_ONCE: usize = 4;
/// So many routes are edited, one after the other.
const EDITS: usize = 50;

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    // Without a program there is nothing to measure: as under `cargo test --benches`.
    let [program] = arguments.as_slice() else { return };
    if program.starts_with("--") {
        return;
    }
    let routes = std::env::var("ROUTES").map_or(1000, |routes| routes.parse().expect("ROUTES is a number"));
    let cluster = Cluster::shared().await;
    prepare(&cluster, routes).await;
    let controller = Controller::start(program, &cluster);
    let data_plane = controller.attach_data_plane(&cluster).await;
    measure_attaching(&cluster, &controller, routes).await;
    measure_edits(&cluster, &controller, routes).await;
    data_plane.abort(); // it would take the end of the controller for a failure
}

/// A Gateway with one listener, and a Service with an endpoint for each route.
async fn prepare(cluster: &Cluster, routes: usize) {
    cluster.namespace(NAMESPACE).await;
    let class = json!({
        "apiVersion": GATEWAY_API, "kind": "GatewayClass", "metadata": {"name": NAMESPACE},
        "spec": {"controllerName": "bench/gateway"},
    });
    let gateway = json!({
        "apiVersion": GATEWAY_API, "kind": "Gateway", "metadata": {"namespace": NAMESPACE, "name": "public"},
        "spec": {"gatewayClassName": NAMESPACE, "listeners": [{"name": "http", "port": 80, "protocol": "HTTP"}]},
    });
    apply(cluster, vec![class, gateway]).await;
    let services = (0..routes).flat_map(|index| {
        let name = format!("web-{index}");
        let service = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"namespace": NAMESPACE, "name": name},
            // No address of its own: the API server has only so many.
            "spec": {"clusterIP": "None", "ports": [{"name": "http", "port": 80, "targetPort": 8080}]},
        });
        let slice = json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {
                "namespace": NAMESPACE, "name": format!("{name}-x"), "labels": {"kubernetes.io/service-name": name},
            },
            "addressType": "IPv4", "ports": [{"name": "http", "port": 8080}],
            "endpoints": [{"addresses": [format!("10.{}.{}.1", index / 256, index % 256)]}],
        });
        [service, slice]
    });
    apply(cluster, services.collect()).await;
}

fn route(index: usize, timeout: usize) -> Value {
    let backends = json!([{"name": format!("web-{index}"), "port": 80}]);
    json!({
        "apiVersion": GATEWAY_API, "kind": "HTTPRoute",
        "metadata": {"namespace": NAMESPACE, "name": format!("web-{index}")},
        "spec": {
            "parentRefs": [{"name": "public"}],
            "hostnames": [format!("web-{index}.example")],
            "rules": [{"timeouts": {"request": format!("{timeout}s")}, "backendRefs": backends}],
        },
    })
}

/// Over one connection, unlike [`Cluster::apply`].
async fn apply(cluster: &Cluster, objects: Vec<Value>) {
    let client = cluster.client();
    let apply = |object: Value| {
        let api = api_of(client.clone(), &object);
        async move {
            let name = object["metadata"]["name"].as_str().unwrap();
            api.patch(name, &PatchParams::apply("bench").force(), &Patch::Apply(&object)).await.unwrap();
        }
    };
    stream::iter(objects).map(apply).buffer_unordered(AT_ONCE).collect::<()>().await;
}

async fn measure_attaching(cluster: &Cluster, controller: &Controller, routes: usize) {
    let written = async |kind: &str| controller.metric(&format!("status_writes_total{{kind=\"{kind}\"")).await;
    let before = (written("Gateway").await, written("HTTPRoute").await);
    let first = Instant::now();
    let applied = async {
        apply(cluster, (0..routes).map(|index| route(index, 60)).collect()).await;
        Instant::now()
    };
    let (last, counted) = tokio::join!(applied, attached(cluster, routes));
    println!("{routes} HTTPRoutes attached to one Gateway");
    println!("  applied within                 {:>8.2} s", (last - first).as_secs_f64());
    println!("  counted after the first apply  {:>8.2} s", (counted - first).as_secs_f64());
    println!("  counted after the last apply   {:>8.2} s", counted.saturating_duration_since(last).as_secs_f64());
    eventually("every route has its status", || async {
        (written("HTTPRoute").await - before.1 >= routes as f64).then_some(())
    })
    .await;
    println!("  routes told after the last apply {:>6.2} s", last.elapsed().as_secs_f64());
    println!("  statuses written of the Gateway{:>8}", written("Gateway").await - before.0);
    println!("  statuses written of routes     {:>8}", written("HTTPRoute").await - before.1);
}

/// When the Gateway counts so many routes.
async fn attached(cluster: &Cluster, routes: usize) -> Instant {
    let end = Instant::now() + Duration::from_secs(600);
    let gateway =
        json!({"apiVersion": GATEWAY_API, "kind": "Gateway", "metadata": {"namespace": NAMESPACE, "name": "public"}});
    let api = api_of(cluster.client(), &gateway);
    loop {
        let gateway = serde_json::to_value(api.get("public").await.unwrap()).unwrap();
        let now = Instant::now();
        if gateway["status"]["listeners"][0]["attachedRoutes"] == json!(routes) {
            return now;
        }
        assert!(now < end, "the Gateway does not count its routes: {:#}", gateway["status"]);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn measure_edits(cluster: &Cluster, controller: &Controller, routes: usize) {
    tokio::time::sleep(Duration::from_secs(5)).await; // nothing is left to be done
    let builds = async || controller.metric("builds_total{path=\"full\"").await;
    let (cpu, built) = (controller.cpu(), builds().await);
    for edit in 0..EDITS {
        apply(cluster, vec![route(edit % routes, 61 + edit)]).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let (cpu, built) = (controller.cpu() - cpu, builds().await - built);
    println!("one of them is edited, {EDITS} times");
    println!("  processor time per edit        {:>8.1} ms", cpu.as_secs_f64() * 1000.0 / EDITS as f64);
    println!("  translations                   {built:>8}");
    println!("  memory, now and at most        {:>8} {} kB", controller.memory("VmRSS:"), controller.memory("VmHWM:"));
}

/// The program under test, which ends with it.
struct Controller {
    process: Child,
    stream: SocketAddr,
    admin: SocketAddr,
}

impl Drop for Controller {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Controller {
    fn start(program: &str, cluster: &Cluster) -> Self {
        let [stream, admin] = free_addresses();
        let process = Command::new(program)
            .arg("controller")
            .args([format!("--stream-address={stream}"), format!("--admin-address={admin}")])
            .args([format!("--namespace={NAMESPACE}"), format!("--shared-service-account={NAMESPACE}/dataplane")])
            .args(["--pod-name=bench-0", "--gateway-controller-name=bench/gateway", "--controller-class=bench/ingress"])
            .env("KUBECONFIG", cluster.kubeconfig())
            .env("RUST_LOG", "error")
            .stdin(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("{program}: {error}"));
        Self { process, stream, admin }
    }

    /// Has a data plane acknowledge everything, as statuses wait for it.
    async fn attach_data_plane(&self, cluster: &Cluster) -> JoinHandle<()> {
        let mut data_plane = eventually("the stream lets the data plane in", || async {
            let map = cluster.get("v1", "ConfigMap", NAMESPACE, "sluice-ca").await?;
            let account = format!("public-{NAMESPACE}");
            cluster.get("v1", "ServiceAccount", NAMESPACE, &account).await?;
            DataPlane::connect(cluster, self.stream, map["data"]["ca.crt"].as_str()?, (NAMESPACE, &account)).await.ok()
        })
        .await;
        tokio::spawn(async move {
            loop {
                data_plane.batch().await;
                data_plane.acknowledge().await;
            }
        })
    }

    /// The sum of the metrics that begin like this.
    async fn metric(&self, prefix: &str) -> f64 {
        let stream = TcpStream::connect(self.admin).await.unwrap();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let request = http::Request::get("/metrics").header("host", "bench").body(Empty::<Bytes>::new()).unwrap();
        let body = sender.send_request(request).await.unwrap().into_body().collect().await.unwrap().to_bytes();
        let text = String::from_utf8(body.into()).unwrap();
        let lines = text.lines().filter_map(|line| line.strip_prefix("sluice_controller_"));
        let lines = lines.filter(|line| line.starts_with(prefix));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    /// Processor time so far.
    fn cpu(&self) -> Duration {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.process.id())).unwrap();
        let spent = tasks.filter_map(|task| {
            let text = fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
            text.split(' ').next()?.parse::<u64>().ok()
        });
        Duration::from_nanos(spent.sum())
    }

    /// A line of `/proc/PID/status` in kB.
    fn memory(&self, name: &str) -> String {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        line.trim().trim_end_matches(" kB").to_owned()
    }
}

/// Held together until both are chosen, so that they differ.
fn free_addresses<const N: usize>() -> [SocketAddr; N] {
    let listeners: Vec<_> = (0..N).map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap()).collect();
    std::array::from_fn(|n| listeners[n].local_addr().unwrap())
}
