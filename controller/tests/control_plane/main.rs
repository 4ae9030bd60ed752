//! The controller against a real control plane: etcd and kube-apiserver, no kubelet.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test may stop at the first surprise

mod class;
mod cluster;
mod dataplane;
mod faults;
mod kinds;
mod provisioning;
mod second_writer;
mod withdrawn;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use clap::Parser;
use controller::ca::InstallationSecret;
use controller::client;
use controller::cluster::{Controller, Error};
use controller::metrics::Metrics;
use controller::options::Options;
use controller::provision::{Installation, Plan, Provisioner, Template, Wanted};
use controller::shutdown::{self, Trigger};
use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use translate::{Infrastructure, ObjectKey, Parameters};

use cluster::{Cluster, eventually};
use dataplane::DataPlane;

const GATEWAY_API: &str = "gateway.networking.k8s.io/v1";

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    options: Options,
}

/// A controller in this process.
struct Replica {
    stream: SocketAddr,
    admin: SocketAddr,
    leads: watch::Receiver<bool>,
    trigger: Trigger,
    task: JoinHandle<Result<(), Error>>,
}

impl Replica {
    /// Starts one whose classes are named after the namespace, so that tests do not meddle with each other.
    async fn start(cluster: &Cluster, namespace: &str, name: &str) -> Self {
        Self::start_with(cluster.config(), namespace, name).await
    }

    /// The same with access of another kind to the API server.
    async fn start_with(config: kube::Config, namespace: &str, name: &str) -> Self {
        Self::start_at(config, namespace, name, "127.0.0.1:0".parse().unwrap()).await
    }

    /// The same with health and metrics at this address.
    async fn start_at(config: kube::Config, namespace: &str, name: &str, admin: SocketAddr) -> Self {
        let arguments = [
            "sluice".to_owned(),
            format!("--namespace={namespace}"),
            format!("--pod-name={name}"),
            format!("--shared-service-account={namespace}/dataplane"),
            format!("--ingress-class={namespace}"),
            format!("--controller-class=test/{namespace}-ingress"),
            format!("--gateway-controller-name=test/{namespace}-gateway"),
            format!("--publish-service={namespace}/published"),
            "--stream-address=127.0.0.1:0".into(),
            format!("--admin-address={admin}"),
        ];
        let (trigger, shutdown) = shutdown::channel();
        let options = Cli::try_parse_from(arguments).unwrap().options;
        let metrics = Metrics::default();
        let client = client::build(config, &metrics).unwrap();
        let controller = Controller::start(options, client, metrics, shutdown.clone()).await.unwrap();
        let (stream, admin, leads) = (controller.stream_address, controller.admin_address, controller.leads());
        Self { stream, admin, leads, trigger, task: tokio::spawn(controller.run(shutdown)) }
    }

    async fn stop(self) {
        self.trigger.stop();
        self.task.await.unwrap().unwrap();
    }

    async fn get(&self, path: &str) -> (u16, String) {
        get(self.admin, path).await.unwrap()
    }

    /// The sum of the metrics that begin like this.
    async fn metric(&self, prefix: &str) -> f64 {
        let (_, text) = self.get("/metrics").await;
        let lines = text.lines().filter(|line| line.starts_with(prefix));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    async fn connect(&self, cluster: &Cluster, installation: &str, account: (&str, &str)) -> DataPlane {
        let map = cluster.get("v1", "ConfigMap", installation, "sluice-ca").await.unwrap();
        let ca = map["data"]["ca.crt"].as_str().unwrap();
        eventually("the stream lets the data plane in", || async {
            DataPlane::connect(cluster, self.stream, ca, account).await.ok()
        })
        .await
    }
}

/// Status and body of a response, if there is one.
async fn get(address: SocketAddr, path: &str) -> Option<(u16, String)> {
    let stream = TcpStream::connect(address).await.ok()?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.ok()?;
    tokio::spawn(connection);
    let request = http::Request::get(path).header("host", "test").body(Empty::<Bytes>::new()).unwrap();
    let response = sender.send_request(request).await.ok()?;
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.ok()?.to_bytes();
    Some((status, String::from_utf8_lossy(&body).into_owned()))
}

/// A namespace, classes of its own, a Service `echo` with one endpoint.
async fn prepare(namespace: &str) -> Arc<Cluster> {
    let cluster = Cluster::shared().await;
    cluster.namespace(namespace).await;
    let manifest = format!(
        "
apiVersion: v1
kind: ServiceAccount
metadata: {{name: dataplane, namespace: {namespace}}}
---
apiVersion: networking.k8s.io/v1
kind: IngressClass
metadata: {{name: {namespace}}}
spec: {{controller: test/{namespace}-ingress}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {{name: {namespace}}}
spec: {{controllerName: test/{namespace}-gateway}}
---
apiVersion: v1
kind: Service
metadata: {{name: echo, namespace: {namespace}}}
spec: {{ports: [{{name: http, port: 80, targetPort: 8080}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: echo-1, namespace: {namespace}, labels: {{kubernetes.io/service-name: echo}}}}
addressType: IPv4
endpoints: [{{addresses: [10.1.2.3], conditions: {{ready: true}}}}]
ports: [{{name: http, port: 8080, protocol: TCP}}]
"
    );
    cluster.apply(&manifest).await;
    cluster
}

fn ingress(namespace: &str, name: &str, host: &str) -> String {
    format!(
        "
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {{name: {name}, namespace: {namespace}}}
spec:
  ingressClassName: {namespace}
  rules:
    - host: {host}
      http: {{paths: [{{path: /, pathType: Prefix, backend: {{service: {{name: echo, port: {{number: 80}}}}}}}}]}}
"
    )
}

fn gateway(namespace: &str) -> String {
    format!(
        "
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: web, namespace: {namespace}}}
spec:
  gatewayClassName: {namespace}
  listeners: [{{name: http, port: 80, protocol: HTTP}}]
"
    )
}

fn route(namespace: &str) -> String {
    format!(
        "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: web, namespace: {namespace}}}
spec:
  parentRefs: [{{name: web}}]
  hostnames: [web.example]
  rules: [{{backendRefs: [{{name: echo, port: 80}}]}}]
"
    )
}

fn condition(conditions: &Value, kind: &str) -> Value {
    conditions.as_array().into_iter().flatten().find(|condition| condition["type"] == kind).cloned().unwrap_or_default()
}

/// Does what the load balancer of a cloud would do.
async fn assign_address(cluster: &Cluster, namespace: &str, service: &str, address: &str) {
    let body = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"namespace": namespace}});
    let status = json!({"status": {"loadBalancer": {"ingress": [{"ip": address}]}}});
    let api = cluster.api(&body);
    eventually("the Service takes an address", || async {
        api.patch_status(service, &PatchParams::default(), &Patch::Merge(&status)).await.ok()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs etcd and kube-apiserver; make test runs it"]
async fn an_ingress_edit_reaches_the_data_planes_and_its_address_the_ingress() {
    let namespace = "edit";
    let cluster = prepare(namespace).await;
    cluster.apply(&ingress(namespace, "web", "before.example")).await;
    cluster
        .apply(&format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: published, namespace: {namespace}}}\nspec: {{type: LoadBalancer, ports: [{{port: 80}}]}}"
        ))
        .await;
    assign_address(&cluster, namespace, "published", "192.0.2.1").await;

    let replica = Replica::start(&cluster, namespace, "one").await;
    eventually("the first build is published", || async { (replica.get("/readyz").await.0 == 200).then_some(()) })
        .await;
    let mut data_plane = replica.connect(&cluster, namespace, (namespace, "dataplane")).await;
    let first = data_plane.batch().await;
    assert!(first.upserts.iter().any(|upsert| format!("{upsert:?}").contains("web")), "the route is there");
    let read = || async {
        let ingress = cluster.get("networking.k8s.io/v1", "Ingress", namespace, "web").await.unwrap();
        ingress["status"]["loadBalancer"]["ingress"][0]["ip"].as_str().map(str::to_owned)
    };
    assert_eq!(read().await, None, "no data plane serves it yet");
    data_plane.acknowledge().await;
    assert_eq!(eventually("the Ingress has its address", read).await, "192.0.2.1");

    cluster.apply(&ingress(namespace, "web", "after.example")).await;
    data_plane.until(b"after.example").await;
    replica.stop().await;
}

/// A Secret that nobody referred to is fetched when an Ingress comes to use it, and followed from then on.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs etcd and kube-apiserver; make test runs it"]
async fn a_secret_that_comes_into_use_is_served_and_rotated() {
    let namespace = "secrets";
    let cluster = prepare(namespace).await;
    let rotate = async || {
        let pair = rcgen::generate_simple_self_signed(vec!["tls.example".to_owned()]).unwrap();
        let secret = json!({
            "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
            "metadata": {"name": "pair", "namespace": namespace},
            "stringData": {"tls.crt": pair.cert.pem(), "tls.key": pair.signing_key.serialize_pem()},
        });
        cluster.apply(&secret.to_string()).await;
        pair.cert.der().to_vec()
    };
    let first = rotate().await;
    let replica = Replica::start(&cluster, namespace, "one").await;
    let mut data_plane = replica.connect(&cluster, namespace, (namespace, "dataplane")).await;
    let stored = || replica.metric("sluice_controller_objects{kind=\"Secret\"}");
    eventually("the first build is published", || async { (replica.get("/readyz").await.0 == 200).then_some(()) })
        .await;
    assert_eq!(stored().await, 0.0);

    let tls = "spec:\n  tls: [{hosts: [tls.example], secretName: pair}]";
    cluster.apply(&ingress(namespace, "tls", "tls.example").replace("spec:", tls)).await;
    data_plane.until(&first).await;
    // It is counted once all that follows from the build is told.
    eventually("the Secret is counted", || async { (stored().await == 1.0).then_some(()) }).await;
    data_plane.until(&rotate().await).await;
    replica.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs etcd and kube-apiserver; make test runs it"]
async fn a_config_map_that_comes_into_use_is_fetched() {
    let namespace = "config-maps";
    let cluster = prepare(namespace).await;
    let authority = rcgen::generate_simple_self_signed(vec!["authority.example".to_owned()]).unwrap();
    let config_map = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "authority", "namespace": namespace},
        "data": {"ca.crt": authority.cert.pem()},
    });
    cluster.apply(&config_map.to_string()).await;
    let replica = Replica::start(&cluster, namespace, "one").await;
    eventually("the first build is published", || async { (replica.get("/readyz").await.0 == 200).then_some(()) })
        .await;
    let stored = || replica.metric("sluice_controller_objects{kind=\"ConfigMap\"}");
    assert_eq!(stored().await, 0.0);

    let policy = json!({
        "apiVersion": GATEWAY_API, "kind": "BackendTLSPolicy", "metadata": {"name": "echo", "namespace": namespace},
        "spec": {
            "targetRefs": [{"group": "", "kind": "Service", "name": "echo"}],
            "validation": {
                "hostname": "echo.example",
                "caCertificateRefs": [{"group": "", "kind": "ConfigMap", "name": "authority"}],
            },
        },
    });
    cluster.apply(&policy.to_string()).await;
    cluster.apply(&gateway(namespace)).await;
    cluster.apply(&route(namespace)).await;
    eventually("the ConfigMap is kept", || async { (stored().await == 1.0).then_some(()) }).await;
    replica.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs etcd and kube-apiserver; make test runs it"]
async fn only_the_leader_writes_and_the_next_one_takes_over() {
    let namespace = "leader";
    let cluster = prepare(namespace).await;
    cluster.apply(&gateway(namespace)).await;
    let mut replicas =
        vec![Replica::start(&cluster, namespace, "one").await, Replica::start(&cluster, namespace, "two").await];
    let accepted = |generation: i64| {
        let cluster = &cluster;
        move || async move {
            let gateway = cluster.get(GATEWAY_API, "Gateway", namespace, "web").await?;
            let accepted = condition(&gateway["status"]["conditions"], "Accepted");
            (accepted["observedGeneration"] == generation).then_some(())
        }
    };
    eventually("the Gateway has a status", accepted(1)).await;
    let leading: Vec<_> = replicas.iter().map(|replica| *replica.leads.borrow()).collect();
    assert_eq!(leading.iter().filter(|leads| **leads).count(), 1, "{leading:?}");
    let leader = replicas.remove(leading.iter().position(|leads| *leads).unwrap());
    let mut other = replicas.remove(0);
    assert!(leader.metric("sluice_controller_status_writes_total").await >= 1.0);
    eventually("the other one is ready too", || async { (other.get("/readyz").await.0 == 200).then_some(()) }).await;
    assert_eq!(other.metric("sluice_controller_status_writes_total").await, 0.0);

    leader.stop().await;
    let manifest = gateway(namespace).replace("port: 80", "port: 8080");
    cluster.apply(&manifest).await;
    eventually("the next leader writes", accepted(2)).await;
    assert!(*other.leads.borrow_and_update());
    other.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs etcd and kube-apiserver; make test runs it"]
async fn a_lease_that_is_freed_is_taken_before_it_would_have_ended() {
    let namespace = "freed";
    let cluster = prepare(namespace).await;
    // So long that no test waits for its end.
    let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string();
    let mut lease = json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {"name": "sluice-leader", "namespace": namespace},
        "spec": {"holderIdentity": "former", "leaseDurationSeconds": 3600, "acquireTime": now, "renewTime": now},
    });
    cluster.apply(&lease.to_string()).await;
    let replica = Replica::start(&cluster, namespace, "one").await;
    eventually("it is ready", || async { (replica.get("/readyz").await.0 == 200).then_some(()) }).await;
    assert!(!*replica.leads.borrow());

    lease["spec"] = json!({}); // as the holder leaves it when it stops
    cluster.apply(&lease.to_string()).await;
    eventually("it leads", || async { replica.leads.borrow().then_some(()) }).await;
    replica.stop().await;
    let lease = cluster.get("coordination.k8s.io/v1", "Lease", namespace, "sluice-leader").await.unwrap();
    assert_eq!(lease["spec"]["holderIdentity"], Value::Null, "and frees it when it stops");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs etcd and kube-apiserver; make test runs it"]
async fn an_unknown_annotation_becomes_one_event() {
    let namespace = "events";
    let cluster = prepare(namespace).await;
    let manifest = ingress(namespace, "web", "web.example").replace(
        "metadata: {name: web,",
        "metadata: {annotations: {nginx.ingress.kubernetes.io/no-such-thing: 'yes'}, name: web,",
    );
    cluster.apply(&manifest).await;
    let events = async || {
        let body = json!({"apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"namespace": namespace}});
        let events = cluster.api(&body).list(&Default::default()).await.unwrap();
        let events = events.items.into_iter().map(|event| serde_json::to_value(event).unwrap());
        events.filter(|event| event["note"].to_string().contains("no-such-thing")).collect::<Vec<_>>()
    };
    for restart in ["one", "two"] {
        let replica = Replica::start(&cluster, namespace, restart).await;
        let event = eventually("there is an Event", || async { events().await.pop() }).await;
        assert_eq!(event["type"], "Warning");
        assert_eq!(event["regarding"]["kind"], "Ingress");
        assert_eq!(event["regarding"]["name"], "web");
        assert!(event["regarding"]["uid"].is_string());
        replica.stop().await;
    }
    assert_eq!(events().await.len(), 1, "a restart tells nothing twice");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs etcd and kube-apiserver; make test runs it"]
async fn a_kind_that_is_installed_later_is_noticed() {
    let namespace = "later";
    let cluster = prepare(namespace).await;
    let replica = Replica::start(&cluster, namespace, "one").await;
    eventually("it is ready without the policies", || async { (replica.get("/readyz").await.0 == 200).then_some(()) })
        .await;
    cluster.install_crds(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../crds/yaml"), |_| true).await;
    let policy = format!(
        "
apiVersion: sluice.dev/v1alpha1
kind: TrafficPolicy
metadata: {{name: limit, namespace: {namespace}}}
spec:
  targetRefs: [{{group: networking.k8s.io, kind: Ingress, name: web}}]
  rateLimits: [{{requests: 10, per: 1s}}]
"
    );
    cluster.apply(&policy).await;
    let objects = || replica.metric("sluice_controller_objects{kind=\"TrafficPolicy\"}");
    eventually("the policy is seen", || async { (objects().await == 1.0).then_some(()) }).await;
    replica.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs etcd and kube-apiserver; make test runs it"]
async fn a_gateway_gets_data_planes_and_is_programmed_after_they_acknowledge() {
    let namespace = "programmed";
    let cluster = prepare(namespace).await;
    cluster.apply(&gateway(namespace)).await;
    cluster.apply(&route(namespace)).await;
    let name = format!("web-{namespace}");
    // The cluster holds two for ready, as after a start of the controller to which one has not come back yet.
    let slice = |second: bool| {
        format!(
            "
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: {name}-1, namespace: {namespace}, labels: {{kubernetes.io/service-name: {name}}}}}
addressType: IPv4
endpoints:
  - {{addresses: [10.1.2.4], conditions: {{ready: true}}, targetRef: {{kind: Pod, name: {name}-0}}}}
  - {{addresses: [10.1.2.5], conditions: {{ready: {second}}}, targetRef: {{kind: Pod, name: {name}-1}}}}
ports: [{{name: p-80, port: 80, protocol: TCP}}]
"
        )
    };
    cluster.apply(&slice(true)).await;
    let replica = Replica::start(&cluster, namespace, "one").await;
    let deployment =
        eventually("the Gateway has a Deployment", || cluster.get("apps/v1", "Deployment", namespace, &name)).await;
    assert_eq!(deployment["metadata"]["ownerReferences"][0]["name"], "web");
    assert_eq!(deployment["metadata"]["labels"]["gateway.networking.k8s.io/gateway-name"], "web");
    assign_address(&cluster, namespace, &name, "192.0.2.7").await;

    let programmed = || async {
        let gateway = cluster.get(GATEWAY_API, "Gateway", namespace, "web").await.unwrap();
        (condition(&gateway["status"]["conditions"], "Programmed"), gateway["status"].clone())
    };
    let pending = || async {
        let (condition, status) = programmed().await;
        (condition["reason"] == "Pending" && condition["observedGeneration"] == 1 && status["addresses"].is_array())
            .then_some(condition)
    };
    assert_eq!(eventually("the Gateway waits for its data planes", pending).await["status"], "False");

    let mut data_plane = replica.connect(&cluster, namespace, (namespace, &name)).await;
    data_plane.batch().await;
    assert_eq!(programmed().await.0["status"], "False");
    data_plane.acknowledge().await;
    let absent = || async {
        let (condition, _) = programmed().await;
        condition["message"].to_string().contains(&format!("controller: {name}-1.")).then_some(condition)
    };
    assert_eq!(eventually("the Gateway waits for the second one", absent).await["status"], "False");
    cluster.apply(&slice(false)).await;
    let done = || async { (programmed().await.0["status"] == "True").then_some(()) };
    eventually("the Gateway is programmed", done).await;

    // A port that cannot be bound is not served, whatever else is.
    data_plane.reject(snapshot::proto::Kind::Listener, &format!("{namespace}/web/http"), "the port is taken").await;
    let invalid = || async {
        let (condition, status) = programmed().await;
        (condition["reason"] == "Invalid").then_some(status)
    };
    let status = eventually("the Gateway is not programmed", invalid).await;
    let listener = condition(&status["listeners"][0]["conditions"], "Programmed");
    assert_eq!(listener["status"], "False");
    assert!(listener["message"].as_str().unwrap().contains("the port is taken"), "{listener}");
    data_plane.acknowledge().await;
    eventually("the Gateway is programmed again", done).await;

    // A route that a data plane does not take says so.
    let id = format!("HTTPRoute/{namespace}/web@{namespace}/web");
    data_plane.reject(snapshot::proto::Kind::Route, &id, "it is too large").await;
    let fallen_back = || async {
        let route = cluster.get(GATEWAY_API, "HTTPRoute", namespace, "web").await?;
        let conditions = &route["status"]["parents"][0]["conditions"];
        assert_eq!(condition(conditions, "Accepted")["status"], "True");
        let partly = condition(conditions, "PartiallyInvalid");
        (partly["status"] == "True").then_some(partly)
    };
    let message = eventually("the route falls back", fallen_back).await["message"].to_string();
    assert!(message.starts_with("\"Fall Back") && message.contains("it is too large"), "{message}");
    data_plane.acknowledge().await;
    eventually("the route is taken", || async { fallen_back().await.is_none().then_some(()) }).await;

    // What was made for the Gateway goes with it, even where no garbage collector runs.
    let body = json!({"apiVersion": GATEWAY_API, "kind": "Gateway", "metadata": {"namespace": namespace}});
    cluster.api(&body).delete("web", &Default::default()).await.unwrap();
    eventually("its Deployment is gone", || async {
        cluster.get("apps/v1", "Deployment", namespace, &name).await.is_none().then_some(())
    })
    .await;
    replica.stop().await;
}

/// The leader puts a new ticket key before the old one in the Secret, and data planes get both without a restart.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs etcd and kube-apiserver; make test runs it"]
async fn ticket_keys_rotate_and_reach_the_data_planes() {
    let namespace = "rotation";
    let cluster = prepare(namespace).await;
    let replica = Replica::start(&cluster, namespace, "one").await;
    let mut data_plane = replica.connect(&cluster, namespace, (namespace, "dataplane")).await;
    let keys = async || {
        let secret = cluster.get("v1", "Secret", namespace, "sluice-installation").await.unwrap();
        let data = secret["data"].as_object().unwrap().clone();
        let data = data.into_iter().map(|(name, value)| (name, serde_json::from_value::<ByteString>(value).unwrap().0));
        InstallationSecret::from_secret_data(&data.collect()).unwrap()
    };
    let before = keys().await;
    assert_eq!(before.ticket_keys.len(), 1);
    let theirs = |keys: &InstallationSecret| keys.ticket_keys[0].derive(&translate::DataPlane::Shared.to_string());
    data_plane.until(theirs(&before).expose()).await;

    // As if the key had been made long ago.
    let old = InstallationSecret { ticket_key_made: jiff::Timestamp::UNIX_EPOCH, ..before.clone() };
    let data: BTreeMap<_, _> =
        old.to_secret_data().into_iter().map(|(name, bytes)| (name, ByteString(bytes))).collect();
    let body = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"namespace": namespace}});
    let patch = Patch::Merge(json!({ "data": data }));
    cluster.api(&body).patch("sluice-installation", &PatchParams::default(), &patch).await.unwrap();
    let after = eventually("the leader rotates", || async {
        let keys = keys().await;
        (keys.ticket_keys.len() == 2).then_some(keys)
    })
    .await;
    assert_eq!(after.ticket_keys[1], before.ticket_keys[0]);
    assert_eq!((&after.authority, &after.cookie_key), (&before.authority, &before.cookie_key));

    // What somebody takes from the data planes is back when the leader looks the next time, though nothing is due.
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"namespace": namespace}});
    cluster.api(&map).delete("sluice-ca", &Default::default()).await.unwrap();
    let look = Patch::Merge(json!({"metadata": {"annotations": {"looked-at": "now"}}}));
    cluster.api(&body).patch("sluice-installation", &PatchParams::default(), &look).await.unwrap();
    let map =
        eventually("the leader publishes its CA again", || cluster.get("v1", "ConfigMap", namespace, "sluice-ca"));
    assert_eq!(map.await["data"]["ca.crt"], before.trusted());
    data_plane.until(theirs(&after).expose()).await;
    replica.stop().await;
}

/// A Deployment or a Service that somebody deletes is there again long before everything is looked at again.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs etcd and kube-apiserver; make test runs it"]
async fn a_deployment_or_a_service_that_somebody_deletes_comes_back() {
    let namespace = "deleted";
    let cluster = prepare(namespace).await;
    cluster.apply(&gateway(namespace)).await;
    let name = format!("web-{namespace}");
    let replica = Replica::start(&cluster, namespace, "one").await;
    for (api_version, kind) in [("apps/v1", "Deployment"), ("v1", "Service"), ("apps/v1", "Deployment")] {
        let uid = || async {
            let object = cluster.get(api_version, kind, namespace, &name).await?;
            Some(object["metadata"]["uid"].as_str()?.to_owned())
        };
        let before = eventually(&format!("the {kind} is there"), uid).await;
        let body = json!({"apiVersion": api_version, "kind": kind, "metadata": {"namespace": namespace}});
        cluster.api(&body).delete(&name, &Default::default()).await.unwrap();
        let other = || async { uid().await.filter(|uid| *uid != before) };
        eventually(&format!("the {kind} is there again"), other).await;
    }
    replica.stop().await;
}

/// The objects of a Gateway that is gone are deleted; those of one that a bad edit made unacceptable stay, also after a restart.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs etcd and kube-apiserver; make test runs it"]
async fn a_bad_edit_and_a_restart_take_no_data_planes_away() {
    let namespace = "refused";
    let cluster = prepare(namespace).await;
    let other = gateway(namespace).replace("name: web", "name: other");
    cluster.apply(&gateway(namespace)).await;
    cluster.apply(&other).await;
    let deployment = |gateway: &str| {
        let (cluster, name) = (cluster.clone(), format!("{gateway}-{namespace}"));
        async move { cluster.get("apps/v1", "Deployment", namespace, &name).await }
    };
    let replica = Replica::start(&cluster, namespace, "one").await;
    eventually("a Gateway has a Deployment", || deployment("web")).await;
    eventually("the other one too", || deployment("other")).await;
    replica.stop().await;

    let bad = "infrastructure: {parametersRef: {group: '', kind: ConfigMap, name: none}}\n  gatewayClassName:";
    cluster.apply(&gateway(namespace).replace("gatewayClassName:", bad)).await;
    let body = json!({"apiVersion": GATEWAY_API, "kind": "Gateway", "metadata": {"namespace": namespace}});
    cluster.api(&body).delete("other", &Default::default()).await.unwrap();
    let replica = Replica::start(&cluster, namespace, "one").await;
    eventually("what the other one had is gone", || async { deployment("other").await.is_none().then_some(()) }).await;
    eventually("the bad edit is seen", || async {
        let gateway = cluster.get(GATEWAY_API, "Gateway", namespace, "web").await?;
        (condition(&gateway["status"]["conditions"], "Accepted")["status"] == "False").then_some(())
    })
    .await;
    assert!(deployment("web").await.is_some());

    let body = json!({"apiVersion": GATEWAY_API, "kind": "Gateway", "metadata": {"namespace": namespace}});
    cluster.api(&body).delete("web", &Default::default()).await.unwrap();
    eventually("it goes with its Gateway", || async { deployment("web").await.is_none().then_some(()) }).await;
    replica.stop().await;
}

/// What a bad edit broke is served as it was by every replica: by one that saw it, by one that came later, and by one that
/// starts after all others are gone.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs etcd and kube-apiserver; make test runs it"]
async fn last_good_versions_outlive_the_controllers() {
    let namespace = "last-good";
    let cluster = prepare(namespace).await;
    let [one, two] = [(); 2].map(|()| rcgen::generate_simple_self_signed(vec!["web.example".to_owned()]).unwrap());
    let secret = |key: &rcgen::KeyPair| {
        let data = json!({"tls.crt": one.cert.pem(), "tls.key": key.serialize_pem()});
        let metadata = json!({"name": "pair", "namespace": namespace});
        json!({"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls", "metadata": metadata, "stringData": data})
            .to_string()
    };
    // A limit that is not there yet would close the Ingress rather than leave an earlier version open.
    let good = ingress(namespace, "web", "web.example")
        .replace("spec:", "spec:\n  tls: [{hosts: [web.example], secretName: pair}]")
        .replace(
            "metadata: {name: web,",
            "metadata: {annotations: {nginx.ingress.kubernetes.io/limit-rps: '5'}, name: web,",
        );
    let apply = async |ingress: &str, route: &str, secret: &str| {
        for manifest in [ingress, route, secret] {
            cluster.apply(manifest).await;
        }
    };
    apply(&good, &route(namespace), &secret(&one.signing_key)).await;
    cluster.apply(&gateway(namespace)).await;
    let account = format!("web-{namespace}");
    let versions = async |replica: &Replica| {
        eventually("the Gateway has an account", || cluster.get("v1", "ServiceAccount", namespace, &account)).await;
        let mut versions = Vec::new();
        for account in ["dataplane", &account] {
            let mut data_plane = replica.connect(&cluster, namespace, (namespace, account)).await;
            versions.push(data_plane.batch().await.version);
        }
        versions
    };
    let recorded = async || {
        let secret = cluster.get("v1", "Secret", namespace, "sluice-last-good").await?;
        let secret: Secret = serde_json::from_value(secret).unwrap();
        let objects: Value = serde_json::from_slice(&secret.data?["objects.json"].0).unwrap();
        let objects = objects.as_array().unwrap().iter().filter(|object| object["good"].is_object());
        Some(objects.map(|object| object["kind"].as_str().unwrap().to_owned()).collect::<Vec<_>>())
    };

    let replica = Replica::start(&cluster, namespace, "one").await;
    let before = versions(&replica).await;
    let bad = good.replace("web.example", "other.example").replace("limit-rps: '5'", "limit-rps: five");
    let unclosed = "rules: [{matches: [{path: {type: RegularExpression, value: '/(unclosed'}}], ";
    let bad_route = route(namespace).replace("rules: [{", unclosed);
    apply(&bad, &bad_route, &secret(&two.signing_key)).await;
    eventually("what was good is recorded", || async {
        let mut kinds = recorded().await?;
        kinds.sort();
        (kinds == ["HTTPRoute", "Ingress", "Secret"]).then_some(())
    })
    .await;
    assert_eq!(versions(&replica).await, before, "a bad edit changes nothing");

    let later = Replica::start(&cluster, namespace, "two").await;
    assert_eq!(versions(&later).await, before, "a replica that comes later serves the same");
    replica.stop().await;
    later.stop().await;
    let restarted = Replica::start(&cluster, namespace, "three").await;
    assert_eq!(versions(&restarted).await, before, "so does one that comes when all others are gone");

    apply(&good, &route(namespace), &secret(&one.signing_key)).await;
    eventually("nothing is recorded of what is mended", || async { recorded().await?.is_empty().then_some(()) }).await;
    assert_eq!(versions(&restarted).await, before);
    restarted.stop().await;
}

/// An autoscaler and the controller do not fight over the count of replicas.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs etcd and kube-apiserver; make test runs it"]
async fn a_count_of_replicas_that_somebody_else_sets_stays() {
    let namespace = "scaled";
    let cluster = prepare(namespace).await;
    cluster.apply(&gateway(namespace)).await;
    let name = format!("web-{namespace}");
    let replica = Replica::start(&cluster, namespace, "one").await;
    let deployment =
        eventually("the Gateway has a Deployment", || cluster.get("apps/v1", "Deployment", namespace, &name)).await;
    assert_eq!(deployment["spec"]["replicas"], 2);

    let autoscaler = PatchParams { field_manager: Some("autoscaler".into()), ..PatchParams::default() };
    let scale = Patch::Merge(json!({"spec": {"replicas": 5}}));
    let body = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"namespace": namespace}});
    cluster.api(&body).patch_scale(&name, &autoscaler, &scale).await.unwrap();
    let labelled = "infrastructure: {labels: {team: shop}}\n  gatewayClassName:";
    cluster.apply(&gateway(namespace).replace("gatewayClassName:", labelled)).await;
    let deployment = eventually("the Deployment is applied again", || async {
        let deployment = cluster.get("apps/v1", "Deployment", namespace, &name).await?;
        (deployment["metadata"]["labels"]["team"] == "shop").then_some(deployment)
    })
    .await;
    assert_eq!(deployment["spec"]["replicas"], 5);
    replica.stop().await;
}

/// Without rights a Gateway is told why it has no data planes; with those that the chart grants it gets them.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs etcd and kube-apiserver; make test runs it"]
async fn a_gateway_is_told_when_the_controller_lacks_rights() {
    let namespace = "denied";
    let cluster = prepare(namespace).await;
    let grant = async |rules: &Value| {
        let (role, binding) = cluster::grant(namespace, rules);
        cluster.apply(&format!("{role}\n---\n{binding}")).await;
    };
    grant(&json!([{"apiGroups": ["events.k8s.io"], "resources": ["events"], "verbs": ["create"]}])).await;

    let wanted = |team: &str| {
        let labels = [("team".to_owned(), team.to_owned())].into();
        let infrastructure = Infrastructure {
            key: ObjectKey::new(namespace, "web-c"),
            class: "c".into(),
            ports: [(80, translate::Transport::Tcp)].into(),
            labels,
            annotations: BTreeMap::new(),
            address: None,
            parameters: Some(Parameters::default()),
        };
        let wanted = [(
            translate::DataPlane::Gateway(ObjectKey::new(namespace, "web")),
            Wanted { uid: "1".into(), infrastructure },
        )]
        .into();
        Arc::new(Some(Plan { wanted, ..Plan::default() }))
    };
    let (plan, plan_receiver) = watch::channel(wanted("one"));
    let (_leads, leader) = watch::channel(true);
    let (trigger, shutdown) = shutdown::channel();
    let (_trusted, trusted) = watch::channel(String::new());
    let provisioner = Provisioner {
        client: cluster.client_as(namespace),
        template: template(namespace),
        plan: plan_receiver,
        taken: watch::Sender::default(),
        trusted,
        leader,
        instance: "test".into(),
    };
    let run = tokio::spawn(provisioner.run(shutdown));
    let events = json!({"apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"namespace": namespace}});
    let event = eventually("the Gateway has an Event", || async {
        let events = cluster.api(&events).list(&Default::default()).await.unwrap().items;
        events.into_iter().map(|event| event.data).find(|event| event["reason"] == "ProvisioningFailed")
    })
    .await;
    assert_eq!((&event["regarding"]["kind"], &event["regarding"]["name"]), (&json!("Gateway"), &json!("web")));
    let note = event["note"].as_str().unwrap();
    assert!(note.contains("cannot get resource") && note.contains("gatewayClassResource"), "{note}");

    let chart = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/sluice.yaml");
    let chart = cluster::documents(&std::fs::read_to_string(chart).unwrap());
    grant(&chart.iter().find(|object| object["kind"] == "ClusterRole").unwrap()["rules"]).await;
    plan.send_replace(wanted("two"));
    for (api_version, kind) in [
        ("v1", "ServiceAccount"),
        ("v1", "ConfigMap"),
        ("networking.k8s.io/v1", "NetworkPolicy"),
        ("apps/v1", "Deployment"),
        ("v1", "Service"),
        ("policy/v1", "PodDisruptionBudget"),
    ] {
        eventually(kind, || cluster.get(api_version, kind, namespace, "web-c")).await;
    }
    plan.send_replace(Arc::new(Some(Plan::default())));
    eventually("all is deleted", || async {
        let left = cluster.get("policy/v1", "PodDisruptionBudget", namespace, "web-c").await;
        left.is_none().then_some(())
    })
    .await;
    trigger.stop();
    run.await.unwrap();
}

fn template(installation: &str) -> Template {
    Template {
        image: "sluice".into(),
        pull_policy: "Never".into(),
        pull_secrets: Vec::new(),
        state_size_limit: "64Mi".into(),
        tunnel_idle_seconds: 3600,
        udp_idle_seconds: 60,
        replicas: 1,
        user: Some(65532),
        controllers: "controllers:1".into(),
        ca: String::new(),
        installation: Installation::new(installation, "sluice", "test/controller"),
        network_policies: true,
        metrics_annotations: true,
    }
}

/// Whoever leads before anything is known about Gateways deletes nothing.
#[tokio::test]
#[ignore = "needs etcd and kube-apiserver; make test runs it"]
async fn a_leader_without_a_build_deletes_nothing() {
    let namespace = "unbuilt";
    let cluster = prepare(namespace).await;
    let labels = format!("sluice.dev/installation: {namespace}, gateway.networking.k8s.io/gateway-name: web");
    for name in ["known", "former"] {
        cluster
            .apply(&format!(
                "
apiVersion: v1
kind: ConfigMap
metadata:
  name: {name}
  namespace: {namespace}
  labels: {{{labels}}}
  ownerReferences: [{{apiVersion: {GATEWAY_API}, kind: Gateway, name: {name}, uid: '1', controller: true}}]
"
            ))
            .await;
    }
    let (plan, plan_receiver) = watch::channel(Arc::new(None));
    let (_leads, leader) = watch::channel(true);
    let (trigger, shutdown) = shutdown::channel();
    let (_trusted, trusted) = watch::channel(String::new());
    let provisioner = Provisioner {
        client: cluster.client(),
        template: template(namespace),
        plan: plan_receiver,
        taken: watch::Sender::default(),
        trusted,
        leader,
        instance: "test".into(),
    };
    let mut run = Box::pin(provisioner.run(shutdown));
    assert!(futures::poll!(&mut run).is_pending(), "it has seen that it leads, and no plan");
    plan.send_replace(Arc::new(Some(Plan {
        owners: ["1".to_owned()].into(),
        spared: [translate::DataPlane::Gateway(ObjectKey::new(namespace, "known"))].into(),
        ..Plan::default()
    })));
    let run = tokio::spawn(run);
    let there = async |name: &str| cluster.get("v1", "ConfigMap", namespace, name).await.is_some();
    eventually("a former Gateway's object is gone", || async { (!there("former").await).then_some(()) }).await;
    assert!(there("known").await);
    trigger.stop();
    run.await.unwrap();
}
