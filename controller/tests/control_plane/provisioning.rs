//! Whose the objects of data planes are.

use std::collections::BTreeMap;
use std::sync::Arc;

use controller::provision::{Installation, Plan, Provisioner, Template, Wanted};
use controller::shutdown::{self, Trigger};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use translate::{DataPlane, Infrastructure, ObjectKey, Parameters};

use crate::cluster::{Cluster, eventually};
use crate::{GATEWAY_API, Replica, condition, gateway, prepare, template};

/// The provisioner of a release.
struct Running {
    plan: watch::Sender<Arc<Option<Plan>>>,
    _leads: watch::Sender<bool>,
    _trusted: watch::Sender<String>,
    trigger: Trigger,
    task: JoinHandle<()>,
}

impl Running {
    fn start(cluster: &Cluster, namespace: &str, release: &str, plan: Plan) -> Self {
        let (plan, plan_receiver) = watch::channel(Arc::new(Some(plan)));
        let (leads, leader) = watch::channel(true);
        let (trusted, trusted_receiver) = watch::channel(String::new());
        let (trigger, shutdown) = shutdown::channel();
        let installation = Installation::new(namespace, release, &format!("test/{release}"));
        let provisioner = Provisioner {
            client: cluster.client(),
            template: Template { installation, ..template(namespace) },
            plan: plan_receiver,
            taken: watch::Sender::default(),
            trusted: trusted_receiver,
            leader,
            instance: release.into(),
        };
        let task = tokio::spawn(provisioner.run(shutdown));
        Self { plan, _leads: leads, _trusted: trusted, trigger, task }
    }

    async fn stop(self) {
        self.trigger.stop();
        self.task.await.unwrap();
    }
}

fn plan(namespace: &str, gateway: &str) -> Plan {
    let infrastructure = Infrastructure {
        key: ObjectKey::new(namespace, format!("{gateway}-c")),
        class: "c".into(),
        ports: [(80, translate::Transport::Tcp)].into(),
        labels: BTreeMap::new(),
        annotations: BTreeMap::new(),
        address: None,
        parameters: Some(Parameters::default()),
    };
    let plane = DataPlane::Gateway(ObjectKey::new(namespace, gateway));
    let wanted = Wanted { uid: format!("uid-of-{gateway}"), infrastructure };
    Plan { wanted: [(plane, wanted)].into(), ..Plan::default() }
}

/// The `uid` of the last object of data planes that is made, once it is there.
async fn made(cluster: &Cluster, namespace: &str, name: &str) -> Value {
    eventually("all is made", || async {
        let budget = cluster.get("policy/v1", "PodDisruptionBudget", namespace, name).await?;
        Some(budget["metadata"]["uid"].clone())
    })
    .await
}

/// Also where both came from a version that labelled what they made with the namespace alone.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs etcd and kube-apiserver; make test runs it"]
async fn releases_in_one_namespace_leave_each_others_data_planes() {
    let namespace = "releases";
    let cluster = prepare(namespace).await;
    let first = Running::start(&cluster, namespace, "public", plan(namespace, "web"));
    let uid = made(&cluster, namespace, "web-c").await;
    // As a former version made it, for a Gateway of yet another release.
    let former = format!(
        "
apiVersion: v1
kind: ConfigMap
metadata:
  name: former
  namespace: {namespace}
  labels: {{sluice.dev/installation: {namespace}}}
  ownerReferences: [{{apiVersion: {GATEWAY_API}, kind: Gateway, name: theirs, uid: uid-of-theirs, controller: true}}]
"
    );
    cluster.apply(&former).await;

    let second = Running::start(&cluster, namespace, "internal", plan(namespace, "office"));
    made(&cluster, namespace, "office-c").await;
    second.plan.send_replace(Arc::new(Some(Plan::default())));
    eventually("its own are deleted", || async {
        // Of all kinds these are the last that are looked for.
        cluster.get("networking.k8s.io/v1", "NetworkPolicy", namespace, "office-c").await.is_none().then_some(())
    })
    .await;
    assert_eq!(made(&cluster, namespace, "web-c").await, uid);
    for (api_version, kind) in [("v1", "Service"), ("apps/v1", "Deployment"), ("v1", "ServiceAccount")] {
        assert!(cluster.get(api_version, kind, namespace, "web-c").await.is_some(), "{kind}");
    }
    assert!(cluster.get("v1", "ConfigMap", namespace, "former").await.is_some());
    first.stop().await;
    second.stop().await;
}

/// The upgrade from a version that labelled what it made with the namespace.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs etcd and kube-apiserver; make test runs it"]
async fn what_a_former_version_made_goes_on_under_the_new_label() {
    let namespace = "adopted";
    let cluster = prepare(namespace).await;
    let former = Running::start(&cluster, namespace, "sluice", plan(namespace, "web"));
    let uid = made(&cluster, namespace, "web-c").await;
    former.stop().await;
    let label = json!({"metadata": {"labels": {"sluice.dev/installation": namespace}}});
    let body = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"namespace": namespace}});
    let (api, merge) = (cluster.api(&body), kube::api::Patch::Merge(&label));
    let before = api.patch("web-c", &Default::default(), &merge).await.unwrap();

    let next = Running::start(&cluster, namespace, "sluice", plan(namespace, "web"));
    let after = eventually("it has the new label", || async {
        let deployment = api.get("web-c").await.unwrap();
        let label = deployment.metadata.labels.as_ref()?.get("sluice.dev/installation")?;
        (label != namespace).then_some(deployment)
    })
    .await;
    assert_eq!(after.metadata.uid, before.metadata.uid);
    assert_eq!(made(&cluster, namespace, "web-c").await, uid);
    next.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs etcd and kube-apiserver; make test runs it"]
async fn a_gateway_whose_name_is_taken_changes_nothing_and_says_so() {
    let namespace = "taken";
    let cluster = prepare(namespace).await;
    let name = format!("web-{namespace}");
    let billing = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": name, "namespace": namespace, "labels": {"app": "billing"}},
        "spec": {"selector": {"app": "billing"}, "ports": [{"name": "sql", "port": 5432}]},
    });
    cluster.apply(&billing.to_string()).await;
    let before = cluster.get("v1", "Service", namespace, &name).await.unwrap();
    cluster.apply(&gateway(namespace)).await;
    let replica = Replica::start(&cluster, namespace, "one").await;
    let told = eventually("the Gateway says so", || async {
        let gateway = cluster.get(GATEWAY_API, "Gateway", namespace, "web").await?;
        let programmed = condition(&gateway["status"]["conditions"], "Programmed");
        let message = programmed["message"].as_str()?.to_owned();
        (programmed["status"] == "False" && message.contains("did not make")).then_some(message)
    })
    .await;
    assert!(told.contains(&format!("Service {namespace}/{name}")), "{told}");
    let events = json!({"apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"namespace": namespace}});
    eventually("it has an Event", || async {
        let events = cluster.api(&events).list(&Default::default()).await.unwrap().items;
        events.iter().any(|event| event.data["reason"] == "NameTaken").then_some(())
    })
    .await;
    assert_eq!(cluster.get("v1", "Service", namespace, &name).await.unwrap(), before);
    assert!(cluster.get("apps/v1", "Deployment", namespace, &name).await.is_none());

    cluster.api(&billing).delete(&name, &Default::default()).await.unwrap();
    eventually("it gets its data planes", || cluster.get("apps/v1", "Deployment", namespace, &name)).await;
    replica.stop().await;
}
