//! Connections to the API server that go silent, and an API server that is away.

use std::net::{Ipv4Addr, SocketAddr};

use kube::Config;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::cluster::{Cluster, eventually};
use crate::{Replica, prepare};

/// A way to the API server on which bytes stop to move when a test says so. No connection is closed: as when a node dies
/// behind a load balancer.
struct Hole {
    address: SocketAddr,
    open: watch::Sender<bool>,
}

impl Hole {
    async fn before(cluster: &Cluster) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let to = cluster.config().cluster_url.authority().unwrap().to_string();
        let (open, passes) = watch::channel(true);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(&to).await.unwrap();
                let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
                tokio::spawn(copy(from_client, to_server, passes.clone()));
                tokio::spawn(copy(from_server, to_client, passes.clone()));
            }
        });
        Self { address, open }
    }

    /// Access through it.
    fn config(&self, cluster: &Cluster) -> Config {
        config_at(cluster, self.address)
    }
}

fn config_at(cluster: &Cluster, address: SocketAddr) -> Config {
    let mut config = cluster.config();
    config.cluster_url = format!("https://{address}").parse().unwrap();
    config
}

async fn copy(
    mut from: impl AsyncReadExt + Unpin,
    mut to: impl AsyncWriteExt + Unpin,
    mut passes: watch::Receiver<bool>,
) {
    let mut bytes = vec![0; 16 << 10];
    while let Ok(count @ 1..) = from.read(&mut bytes).await {
        if passes.wait_for(|open| *open).await.is_err() || to.write_all(&bytes[..count]).await.is_err() {
            return;
        }
    }
}

/// Two replicas never lead at once, though no request of the first ever fails or ends.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs etcd and kube-apiserver; make test runs it"]
async fn a_leader_whose_connections_go_silent_yields_before_the_next_one_leads() {
    let namespace = "silent";
    let cluster = prepare(namespace).await;
    let hole = Hole::before(&cluster).await;
    let first = Replica::start_with(hole.config(&cluster), namespace, "one").await;
    let mut leads = first.leads.clone();
    leads.wait_for(|leads| *leads).await.unwrap();
    let second = Replica::start(&cluster, namespace, "two").await;
    eventually("the second is ready", || async { (second.get("/readyz").await.0 == 200).then_some(()) }).await;
    assert!(!*second.leads.borrow());

    hole.open.send_replace(false);
    let mut next = second.leads.clone();
    let next = tokio::spawn(async move { next.wait_for(|leads| *leads).await.map(drop) });
    leads.wait_for(|leads| !leads).await.unwrap();
    assert!(!*second.leads.borrow(), "the first has ceased before");
    next.await.unwrap().unwrap();
    assert_eq!(first.metric("sluice_controller_leader ").await, 0.0);

    hole.open.send_replace(true);
    second.stop().await;
    leads.wait_for(|leads| *leads).await.unwrap();
    assert_eq!(first.metric("sluice_controller_leader_changes_total").await, 3.0);
    first.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs etcd and kube-apiserver; make test runs it"]
async fn a_controller_that_starts_while_the_api_server_is_away_waits_for_it() {
    let namespace = "away";
    let cluster = prepare(namespace).await;
    // Nobody listens there yet.
    let away = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap().local_addr().unwrap();
    let config = config_at(&cluster, away);
    let admin = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap().local_addr().unwrap();
    let starting = tokio::spawn(Replica::start_at(config, namespace, "one", admin));
    let status = || async { Some(crate::get(admin, "/readyz").await?.0) };
    assert_eq!(eventually("health is served", status).await, 503);

    let listener = TcpListener::bind(away).await.unwrap();
    let to = cluster.config().cluster_url.authority().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let to = to.clone();
            tokio::spawn(async move {
                let mut server = TcpStream::connect(&to).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
            });
        }
    });
    let replica = starting.await.unwrap();
    eventually("it is ready", || async { (replica.get("/readyz").await.0 == 200).then_some(()) }).await;
    replica.stop().await;
}

/// Kinds that only explain or that nobody uses hold up nothing.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs etcd and kube-apiserver; make test runs it"]
async fn a_controller_without_rights_to_some_kinds_serves_the_others() {
    let namespace = "forbidden";
    let cluster = prepare(namespace).await;
    let chart = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/sluice.yaml");
    let chart = crate::cluster::documents(&std::fs::read_to_string(chart).unwrap());
    let role = chart.iter().find(|object| object["kind"] == "ClusterRole").unwrap();
    let mut rules = role["rules"].as_array().unwrap().clone();
    for rule in &mut rules {
        let resources = rule["resources"].as_array_mut().unwrap();
        resources.retain(|resource| resource != "pods" && resource != "udproutes" && resource != "tlsroutes");
    }
    rules.retain(|rule| rule["resources"] != serde_json::json!([]));
    // Those in the namespace of the release.
    rules.push(serde_json::json!({"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["get", "create", "update"]}));
    rules.push(serde_json::json!({"apiGroups": [""], "resources": ["secrets", "configmaps"], "verbs": ["create", "update", "patch"]}));
    let (role, binding) = crate::cluster::grant(namespace, &serde_json::json!(rules));
    cluster.apply(&format!("{role}\n---\n{binding}")).await;
    let mut config = cluster.config();
    config.auth_info.impersonate = Some(namespace.to_owned());
    let replica = Replica::start_with(config, namespace, "one").await;
    eventually("it is ready", || async { (replica.get("/readyz").await.0 == 200).then_some(()) }).await;
    for kind in ["Pod", "TLSRoute"] {
        assert_eq!(
            replica.metric(&format!("sluice_controller_kind_forbidden{{kind=\"{kind}\"}}")).await,
            1.0,
            "{kind}"
        );
    }
    let mut leads = replica.leads.clone();
    leads.wait_for(|leads| *leads).await.unwrap();
    replica.stop().await;
}
