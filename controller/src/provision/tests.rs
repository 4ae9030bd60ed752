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
    taken: watch::Receiver<Arc<Taken>>,
    trigger: Trigger,
    task: JoinHandle<()>,
}

fn installation() -> Installation {
    Installation::new("sluice", "sluice", "sluice.dev/gateway-controller")
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
            user: Some(65532),
            controllers: "controllers:1".into(),
            ca: String::new(),
            installation: installation(),
            network_policies: false,
            metrics_annotations: false,
        };
        let (plan, plan_receiver) = watch::channel(Arc::new(Some(plan)));
        let (leads, leader) = watch::channel(true);
        let (trusted, trusted_receiver) = watch::channel(String::new());
        let (trigger, shutdown) = shutdown::channel();
        let instance = "test".into();
        let (taken_sender, taken) = watch::channel(Arc::default());
        let provisioner = Provisioner {
            client,
            template,
            plan: plan_receiver,
            taken: taken_sender,
            trusted: trusted_receiver,
            leader,
            instance,
        };
        let task = tokio::spawn(provisioner.run(shutdown));
        Self { asked, plan, leads, _trusted: trusted, taken, trigger, task }
    }

    async fn stop(self) {
        self.trigger.stop();
        self.task.await.unwrap();
    }
}

fn metadata(label: &str, owner: &str, name: &str) -> Value {
    let owner = json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway", "name": owner, "uid": "1", "controller": true,
    });
    json!({
        "namespace": "shop", "name": name, "uid": format!("uid-of-{name}"),
        "labels": {"sluice.dev/installation": label}, "ownerReferences": [owner],
    })
}

fn list(items: &[Value]) -> Value {
    let item = |metadata: &Value| json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": metadata});
    let items: Vec<_> = items.iter().map(item).collect();
    json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadataList", "metadata": {}, "items": items})
}

#[tokio::test]
async fn who_no_longer_leads_deletes_nothing() {
    let mut running = Running::start(Plan::default()).await;
    let first = running.asked.next().await;
    assert_eq!(first.what, "GET /api/v1/serviceaccounts");
    running.leads.send_replace(false);
    running.leads.send_replace(true);
    first.answer(200, &list(&[metadata(installation().label(), "web", "made-by-another-leader")]));
    let again = running.asked.next().await;
    assert_eq!(again.what, "GET /api/v1/serviceaccounts", "it looks again");
    let other = Installation::new("sluice", "other", "c");
    again.answer(
        200,
        &list(&[
            metadata(other.label(), "web", "of-another-release"),
            metadata("sluice", "web", "perhaps-of-another-release"),
            metadata(installation().label(), "web", "former"),
        ]),
    );
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
            let end = asked.what.starts_with("PATCH") && asked.what.ends_with(last);
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
    assert_eq!(made(&mut running, "/poddisruptionbudgets/web-c").await, all);
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

/// Answers like an API server that holds nothing but these metadata by name, and takes everything, until a request ends like this.
/// Returns the kinds that were applied or deleted.
async fn serve(running: &mut Running, held: &[Value], last: &str) -> Vec<String> {
    let mut changed = Vec::new();
    loop {
        let asked = running.asked.next().await;
        let end = asked.what.ends_with(last);
        let (verb, path) = asked.what.split_once(' ').unwrap();
        let name = path.rsplit('/').next().unwrap();
        let object = held.iter().find(|metadata| metadata["name"] == name && path.contains("/services/"));
        match (verb, object) {
            ("PATCH" | "DELETE" | "POST", _) => {
                changed.push(format!("{verb} {}", path.rsplit('/').nth(1).unwrap()));
                let object = asked.body.clone();
                asked.answer(200, &object);
            }
            ("GET", Some(metadata)) => asked.answer(
                200,
                &json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": metadata}),
            ),
            ("GET", None) if path.contains("/namespaces/") => asked.not_found(),
            _ => asked.answer(200, &list(&[])),
        }
        if end {
            return changed;
        }
    }
}

#[tokio::test]
async fn nothing_is_applied_where_a_name_is_somebody_elses() {
    let mut running = Running::start(plan()).await;
    let billing = json!({"namespace": "shop", "name": "web-c", "uid": "9", "labels": {"app": "billing"}});
    // The Event comes after the decision.
    let changed = serve(&mut running, &[billing], "/namespaces/shop/events").await;
    assert_eq!(changed, ["POST shop"], "an Event, and nothing else");
    running.taken.changed().await.unwrap();
    let taken = running.taken.borrow().clone();
    let message = taken.get(&DataPlane::Gateway(ObjectKey::new("shop", "web"))).unwrap();
    assert!(message.contains("Service shop/web-c") && message.contains("another name for the Gateway"), "{message}");
    running.stop().await;
}

#[tokio::test]
async fn what_a_former_version_made_is_adopted() {
    let mut running = Running::start(plan()).await;
    let former = metadata("sluice", "web", "web-c");
    let changed =
        serve(&mut running, &[former], "PATCH /apis/policy/v1/namespaces/shop/poddisruptionbudgets/web-c").await;
    let applied = changed.iter().filter(|change| change.starts_with("PATCH")).count();
    assert_eq!((applied, changed.len()), (5, 5), "{changed:?}");
    running.stop().await;
}

#[tokio::test]
async fn a_gateway_whose_requests_hang_keeps_no_other_waiting() {
    let mut wanted = plan().wanted;
    let mut running = Running::start(Plan { wanted: wanted.clone(), ..Plan::default() }).await;
    let mut hanging = Vec::new();
    loop {
        let asked = running.asked.next().await;
        if asked.what.contains("/namespaces/shop/") {
            hanging.push(asked);
            break;
        }
        asked.answer(200, &list(&[]));
    }
    let infrastructure = Infrastructure {
        key: ObjectKey::new("other", "late-c"),
        ..wanted.values().next().unwrap().infrastructure.clone()
    };
    let late = DataPlane::Gateway(ObjectKey::new("other", "late"));
    wanted.insert(late, Wanted { uid: "2".into(), infrastructure });
    running.plan.send_replace(Arc::new(Some(Plan { wanted, ..Plan::default() })));
    serve(&mut running, &[], "PATCH /apis/apps/v1/namespaces/other/deployments/late-c").await;
    assert_eq!(hanging.len(), 1, "the first one still waits");
    running.stop().await;
}
