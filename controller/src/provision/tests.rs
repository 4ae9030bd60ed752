use serde_json::json;
use tokio::task::JoinHandle;
use translate::Transport;

use super::*;
use crate::api_server::{self, Requests};
use crate::shutdown::{self, Trigger};

struct Running {
    asked: Requests,
    plan: watch::Sender<Arc<Option<Plan>>>,
    leads: watch::Sender<bool>,
    _trusted: watch::Sender<String>,
    trigger: Trigger,
    task: JoinHandle<()>,
}

impl Running {
    async fn start(plan: Plan) -> Self {
        let (client, asked) = api_server::start().await;
        let template = Template {
            image: "sluice".into(),
            pull_policy: "Never".into(),
            pull_secrets: Vec::new(),
            state_size_limit: "64Mi".into(),
            tunnel_idle_seconds: 3600,
            udp_idle_seconds: 60,
            replicas: 1,
            controllers: "controllers:1".into(),
            ca: String::new(),
            installation: "sluice".into(),
            network_policies: false,
            metrics_annotations: false,
        };
        let (plan, plan_receiver) = watch::channel(Arc::new(Some(plan)));
        let (leads, leader) = watch::channel(true);
        let (trusted, trusted_receiver) = watch::channel(String::new());
        let (trigger, shutdown) = shutdown::channel();
        let instance = "test".into();
        let provisioner =
            Provisioner { client, template, plan: plan_receiver, trusted: trusted_receiver, leader, instance };
        let task = tokio::spawn(provisioner.run(shutdown));
        Self { asked, plan, leads, _trusted: trusted, trigger, task }
    }

    async fn stop(self) {
        self.trigger.stop();
        self.task.await.unwrap();
    }
}

fn list(names: &[&str]) -> Value {
    let items: Vec<_> = names
        .iter()
        .map(|name| {
            json!({
                "apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata",
                "metadata": {"namespace": "shop", "name": name},
            })
        })
        .collect();
    json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadataList", "metadata": {}, "items": items})
}

#[tokio::test]
async fn who_no_longer_leads_deletes_nothing() {
    let mut running = Running::start(Plan::default()).await;
    let first = running.asked.next().await;
    assert_eq!(first.what, "GET /api/v1/serviceaccounts");
    running.leads.send_replace(false);
    running.leads.send_replace(true);
    first.answer(200, &list(&["made-by-another-leader"]));
    let again = running.asked.next().await;
    assert_eq!(again.what, "GET /api/v1/serviceaccounts", "it looks again");
    again.answer(200, &list(&["former"]));
    let deletion = running.asked.next().await;
    assert_eq!(deletion.what, "DELETE /api/v1/namespaces/shop/serviceaccounts/former");
    running.stop().await;
}

/// What a Gateway `shop/web` needs.
fn plan() -> Plan {
    let infrastructure = Infrastructure {
        key: ObjectKey::new("shop", "web-c"),
        class: "c".into(),
        ports: [(80, Transport::Tcp)].into(),
        labels: BTreeMap::new(),
        annotations: BTreeMap::new(),
        address: None,
        parameters: None,
    };
    let gateway = DataPlane::Gateway(ObjectKey::new("shop", "web"));
    let wanted = [(gateway, Wanted { uid: "1".into(), infrastructure })].into();
    Plan { wanted, ..Plan::default() }
}

#[tokio::test]
async fn what_somebody_deletes_comes_back_at_once() {
    let plan = plan();
    let mut running = Running::start(plan.clone()).await;
    let made = async |running: &mut Running, last: &str| {
        let mut made = Vec::new();
        loop {
            let asked = running.asked.next().await;
            let end = asked.what.ends_with(last);
            match asked.what.split_once(' ') {
                Some(("PATCH", path)) => {
                    made.push(path.rsplit('/').nth(1).unwrap().to_owned());
                    let object = asked.body.clone();
                    asked.answer(200, &object);
                }
                Some((_, path)) if path.contains("/namespaces/") => asked.not_found(),
                _ => asked.answer(200, &list(&[])),
            }
            if end {
                return made;
            }
        }
    };
    let all = ["serviceaccounts", "configmaps", "deployments", "services", "poddisruptionbudgets"];
    assert_eq!(made(&mut running, "/networkpolicies").await, all, "then it looks for what is left of others");
    let deployment = ("Deployment".to_owned(), ObjectKey::new("shop", "web-c"));
    let service = ("Service".to_owned(), deployment.1.clone());
    // With one of them the rest is made again, also when the next one goes before the first is seen again.
    for missing in [[deployment.clone()].into(), [deployment, service].into()] {
        running.plan.send_replace(Arc::new(Some(Plan { missing, ..plan.clone() })));
        assert_eq!(made(&mut running, "/poddisruptionbudgets/web-c").await, all);
    }
    assert_eq!(made(&mut running, "/services/web-c").await, ["deployments", "services"], "what is still not seen");
    running.stop().await;
}

#[tokio::test]
async fn what_is_denied_is_asked_for_ever_less_often_though_it_is_missing() {
    let missing = [("Deployment".to_owned(), ObjectKey::new("shop", "web-c"))].into();
    let mut running = Running::start(Plan { missing, ..plan() }).await;
    let mut denied = Vec::new();
    while denied.len() < 3 {
        let asked = running.asked.next().await;
        match asked.what.split_once(' ') {
            Some(("PATCH", path)) if path.contains("/deployments/") => {
                denied.push(Instant::now());
                let denial = json!({"kind": "Status", "status": "Failure", "message": "no", "code": 403});
                asked.answer(403, &denial);
            }
            Some(("PATCH" | "POST", _)) => {
                let object = asked.body.clone();
                asked.answer(200, &object);
            }
            Some((_, path)) if path.contains("/namespaces/") => asked.not_found(),
            _ => asked.answer(200, &list(&[])),
        }
    }
    assert!((denied[2] - denied[1]).as_secs_f64() > 1.5 * (denied[1] - denied[0]).as_secs_f64(), "{denied:?}");
    running.stop().await;
}
