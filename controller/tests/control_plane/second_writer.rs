//! Another controller that writes to the statuses to which this one writes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kube::api::{DynamicObject, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::cluster::{Cluster, eventually};
use crate::{GATEWAY_API, Replica, condition, gateway, prepare, route};

/// How often each of the two objects is edited.
const EDITS: usize = 15;
/// How long nothing may change once all is quiet.
const STILL: Duration = Duration::from_secs(3);

/// What the other controller says of the object, for the `count`th time.
fn theirs(reference: &str, count: usize) -> Value {
    json!({
        reference: {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "elsewhere"},
        "controllerName": "example.com/other",
        "conditions": [{
            "type": "Accepted", "status": if count.is_multiple_of(2) { "True" } else { "False" }, "reason": "Accepted",
            "message": format!("  as it\nis, {count} "), "observedGeneration": 1, "lastTransitionTime": "2024-01-02T03:04:05Z",
        }],
    })
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs etcd and kube-apiserver; make test runs it"]
async fn another_controllers_entries_in_a_route_status_keep_every_byte() {
    let namespace = "foreign";
    let cluster = prepare(namespace).await;
    cluster.apply(&gateway(namespace)).await;
    cluster.apply(&route(namespace)).await;
    let theirs = theirs("parentRef", 0);
    let body = json!({"apiVersion": GATEWAY_API, "kind": "HTTPRoute", "metadata": {"namespace": namespace}});
    let patch = json!({"status": {"parents": [theirs]}});
    cluster.api(&body).patch_status("web", &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();

    let replica = Replica::start(&cluster, namespace, "one").await;
    let parents = eventually("the route has our entry", || async {
        let route = cluster.get(GATEWAY_API, "HTTPRoute", namespace, "web").await?;
        let parents = route["status"]["parents"].as_array()?.clone();
        (parents.len() == 2).then_some(parents)
    })
    .await;
    assert_eq!(parents[0], theirs);
    assert_eq!(parents[1]["controllerName"], format!("test/{namespace}-gateway"));
    assert_eq!(condition(&parents[1]["conditions"], "Accepted")["status"], "True");
    let time = condition(&parents[1]["conditions"], "Accepted")["lastTransitionTime"].clone();
    assert!(time.as_str().unwrap() > "2025", "{time}");
    replica.stop().await;
}

/// An object whose status both write to: kind, name, the list in its status, what its entries refer to by which name.
#[derive(Clone, Copy)]
struct Shared {
    kind: &'static str,
    name: &'static str,
    list: &'static str,
    reference: &'static str,
}

const ROUTE: Shared = Shared { kind: "HTTPRoute", name: "web", list: "parents", reference: "parentRef" };
const POLICY: Shared = Shared { kind: "BackendTLSPolicy", name: "echo", list: "ancestors", reference: "ancestorRef" };

impl Shared {
    fn body(self, namespace: &str) -> Value {
        json!({"apiVersion": GATEWAY_API, "kind": self.kind, "metadata": {"namespace": namespace}})
    }

    async fn get(self, cluster: &Cluster, namespace: &str) -> Value {
        cluster.get(GATEWAY_API, self.kind, namespace, self.name).await.unwrap()
    }

    fn entry(self, object: &Value, controller: &str) -> Option<Value> {
        let entries = object["status"][self.list].as_array()?;
        let mut own = entries.iter().filter(|entry| entry["controllerName"] == controller);
        let entry = own.next().cloned();
        assert!(own.next().is_none(), "one entry of {controller}: {entries:#?}");
        entry
    }

    /// Writes the other controller's entry over and over, as a good controller does: it reads, replaces what is its own, and reads
    /// again when somebody was faster. Returns what it wrote last, and how often it wrote.
    fn write_until(
        self,
        cluster: Arc<Cluster>,
        namespace: &'static str,
        enough: Arc<AtomicBool>,
    ) -> JoinHandle<(Value, usize)> {
        tokio::spawn(async move {
            let api = cluster.api(&self.body(namespace));
            let mut written = 0;
            loop {
                let last = enough.load(Ordering::Relaxed);
                let theirs = theirs(self.reference, written);
                loop {
                    let mut object: DynamicObject = api.get(self.name).await.unwrap();
                    let mut entries = object.data["status"][self.list].as_array().cloned().unwrap_or_default();
                    match entries.iter_mut().find(|entry| entry["controllerName"] == theirs["controllerName"]) {
                        Some(entry) => *entry = theirs.clone(),
                        None => entries.push(theirs.clone()),
                    }
                    object.data["status"] = json!({ self.list: entries });
                    match api.replace_status(self.name, &PostParams::default(), &object).await {
                        Ok(_) => break,
                        Err(kube::Error::Api(status)) if status.code == 409 => {}
                        Err(error) => panic!("{error}"),
                    }
                }
                written += 1;
                if last {
                    return (theirs, written);
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs etcd and kube-apiserver; make test runs it"]
async fn two_controllers_write_to_the_same_statuses_and_do_not_fight() {
    let namespace = "two-writers";
    let cluster = prepare(namespace).await;
    let authority = rcgen::generate_simple_self_signed(vec!["authority.example".to_owned()]).unwrap();
    for object in [
        json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "authority", "namespace": namespace},
            "data": {"ca.crt": authority.cert.pem()},
        }),
        json!({
            "apiVersion": GATEWAY_API, "kind": "BackendTLSPolicy", "metadata": {"name": "echo", "namespace": namespace},
            "spec": {
                "targetRefs": [{"group": "", "kind": "Service", "name": "echo"}],
                "validation": {
                    "hostname": "echo.example",
                    "caCertificateRefs": [{"group": "", "kind": "ConfigMap", "name": "authority"}],
                },
            },
        }),
    ] {
        cluster.apply(&object.to_string()).await;
    }
    cluster.apply(&gateway(namespace)).await;
    cluster.apply(&route(namespace)).await;
    let replica = Replica::start(&cluster, namespace, "one").await;
    let ours = format!("test/{namespace}-gateway");
    let is_current = async |shared: Shared| {
        let object = shared.get(&cluster, namespace).await;
        let accepted = condition(&shared.entry(&object, &ours)?["conditions"], "Accepted");
        let current =
            accepted["status"] == "True" && accepted["observedGeneration"] == object["metadata"]["generation"];
        current.then_some(object)
    };
    for shared in [ROUTE, POLICY] {
        eventually("our entry is there", || is_current(shared)).await;
    }
    let writes = async |shared: Shared| {
        replica.metric(&format!("sluice_controller_status_writes_total{{kind=\"{}\"", shared.kind)).await
    };
    let before = [writes(ROUTE).await, writes(POLICY).await];

    let enough = Arc::new(AtomicBool::new(false));
    let others = [ROUTE, POLICY].map(|shared| shared.write_until(cluster.clone(), namespace, enough.clone()));
    for edit in 0..EDITS {
        let label = json!({"metadata": {"labels": {"edit": edit.to_string()}}});
        let hostname = format!("{edit}.example");
        let specs =
            [json!({"spec": {"hostnames": [hostname]}}), json!({"spec": {"validation": {"hostname": hostname}}})];
        for (shared, spec) in [ROUTE, POLICY].into_iter().zip(specs) {
            let api = cluster.api(&shared.body(namespace));
            for patch in [&spec, &label] {
                api.patch(shared.name, &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
                tokio::time::sleep(Duration::from_millis(30)).await;
            }
        }
    }
    enough.store(true, Ordering::Relaxed);
    let [route, policy] = others;
    let (others, mut versions) = ([route.await.unwrap(), policy.await.unwrap()], Vec::new());
    for (shared, (theirs, _)) in [ROUTE, POLICY].into_iter().zip(&others) {
        let object = eventually("our entry is current", || is_current(shared)).await;
        assert_eq!(object["metadata"]["generation"], 1 + EDITS, "{}", shared.kind);
        assert_eq!(shared.entry(&object, "example.com/other").as_ref(), Some(theirs));
        versions.push(object["metadata"]["resourceVersion"].clone());
    }
    let after = [writes(ROUTE).await, writes(POLICY).await];
    for (((shared, before), after), (_, others)) in [ROUTE, POLICY].into_iter().zip(before).zip(after).zip(&others) {
        let ours = after - before;
        println!("{}: {EDITS} edits, {others} writes of the other controller, {ours} of ours", shared.kind);
        // An edit needs one write; one more where the other controller was faster five times in a row.
        assert!(ours >= 1.0 && ours <= 2.0 * EDITS as f64, "{ours} writes of {}", shared.kind);
        assert!(*others > EDITS, "the other controller wrote meanwhile");
    }
    // Long enough for a fight to show.
    tokio::time::sleep(STILL).await;
    for (shared, version) in [ROUTE, POLICY].into_iter().zip(versions) {
        assert_eq!(shared.get(&cluster, namespace).await["metadata"]["resourceVersion"], version, "{}", shared.kind);
    }
    assert_eq!([writes(ROUTE).await, writes(POLICY).await], after);

    // One that knows only itself takes our entry away; it comes back, and the other's stays.
    let alone = json!({"status": {"parents": [theirs("parentRef", 0)]}});
    let api = cluster.api(&ROUTE.body(namespace));
    api.patch_status("web", &PatchParams::default(), &Patch::Merge(&alone)).await.unwrap();
    let object = eventually("our entry is back", || is_current(ROUTE)).await;
    assert_eq!(ROUTE.entry(&object, "example.com/other"), Some(theirs("parentRef", 0)));
    replica.stop().await;
}
