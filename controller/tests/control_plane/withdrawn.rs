//! What Sluice wrote to objects of users, and takes back.

use controller::status::controllers;
use controller::uninstall::{Cleared, clear_status};
use translate::{Kind, Settings};

use super::*;

const INGRESS_API: &str = "networking.k8s.io/v1";

async fn address(cluster: &Cluster, namespace: &str) -> Option<String> {
    let ingress = cluster.get(INGRESS_API, "Ingress", namespace, "web").await.unwrap();
    ingress["status"]["loadBalancer"]["ingress"][0]["ip"].as_str().map(str::to_owned)
}

/// A replica that serves an Ingress with the address 192.0.2.1.
async fn serve(cluster: &Cluster, namespace: &str) -> Replica {
    cluster.apply(&ingress(namespace, "web", "web.example")).await;
    let published = format!("metadata: {{name: published, namespace: {namespace}}}");
    cluster
        .apply(&format!(
            "apiVersion: v1\nkind: Service\n{published}\nspec: {{type: LoadBalancer, ports: [{{port: 80}}]}}"
        ))
        .await;
    assign_address(cluster, namespace, "published", "192.0.2.1").await;
    let replica = Replica::start(cluster, namespace, "one").await;
    let mut data_plane = replica.connect(cluster, namespace, (namespace, "dataplane")).await;
    data_plane.until(b"web.example").await;
    data_plane.acknowledge().await;
    eventually("the Ingress has its address", || address(cluster, namespace)).await;
    replica
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs etcd and kube-apiserver; make test runs it"]
async fn an_ingress_that_leaves_the_class_loses_its_address_and_keeps_that_of_its_next_controller() {
    let namespace = "leaves";
    let cluster = prepare(namespace).await;
    let replica = serve(&cluster, namespace).await;
    let class = format!("ingressClassName: {namespace}");
    cluster.apply(&ingress(namespace, "web", "web.example").replace(&class, "ingressClassName: other")).await;
    eventually("the address goes", || async { address(&cluster, namespace).await.is_none().then_some(()) }).await;

    let body = json!({"apiVersion": INGRESS_API, "kind": "Ingress", "metadata": {"namespace": namespace}});
    let status = json!({"status": {"loadBalancer": {"ingress": [{"ip": "203.0.113.9"}]}}});
    cluster.api(&body).patch_status("web", &PatchParams::default(), &Patch::Merge(&status)).await.unwrap();
    // Written after the other one's, so that nothing is on its way any more.
    cluster.apply(&gateway(namespace)).await;
    eventually("the Gateway has a status", || async {
        let gateway = cluster.get(GATEWAY_API, "Gateway", namespace, "web").await?;
        (condition(&gateway["status"]["conditions"], "Accepted")["status"] == "True").then_some(())
    })
    .await;
    assert_eq!(address(&cluster, namespace).await.as_deref(), Some("203.0.113.9"));
    replica.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs etcd and kube-apiserver; make test runs it"]
async fn uninstall_clears_the_statuses_of_this_installation_and_nothing_else() {
    let namespace = "uninstall";
    let cluster = prepare(namespace).await;
    cluster.apply(&gateway(namespace)).await;
    cluster.apply(&route(namespace)).await;
    let theirs = json!({
        "parentRef": {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "elsewhere"},
        "controllerName": "example.com/other",
        "conditions": [{
            "type": "Accepted", "status": "True", "reason": "Accepted", "message": "", "observedGeneration": 1,
            "lastTransitionTime": "2024-01-02T03:04:05Z",
        }],
    });
    let body = json!({"apiVersion": GATEWAY_API, "kind": "HTTPRoute", "metadata": {"namespace": namespace}});
    let patch = json!({"status": {"parents": [theirs]}});
    cluster.api(&body).patch_status("web", &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
    let replica = serve(&cluster, namespace).await;
    let of = |kind: &'static str, namespace: &'static str, name: &'static str| {
        let cluster = cluster.clone();
        async move { cluster.get(GATEWAY_API, kind, namespace, name).await.unwrap()["status"].take() }
    };
    eventually("all have statuses", || async {
        let class = of("GatewayClass", "", namespace).await;
        let (gateway, route) = (of("Gateway", namespace, "web").await, of("HTTPRoute", namespace, "web").await);
        let accepted = |status: &Value| condition(&status["conditions"], "Accepted")["status"] == "True";
        (accepted(&class) && accepted(&gateway) && route["parents"].as_array()?.len() == 2).then_some(())
    })
    .await;
    replica.stop().await;

    let settings = Settings {
        ingress_controller: format!("test/{namespace}-ingress"),
        ingress_class: namespace.into(),
        gateway_controller: format!("test/{namespace}-gateway"),
        ..Settings::default()
    };
    let (client, names) = (cluster.client(), controllers(&settings));
    let of_others = Settings { ingress_class: "other".into(), gateway_controller: "test/other".into(), ..settings };
    let ours = [Kind::Ingress, Kind::GatewayClass, Kind::Gateway, Kind::HTTPRoute].map(|kind| (kind, 1));
    let all = Cleared { objects: ours.into(), failures: Vec::new() };
    assert_eq!(clear_status(&client, &controllers(&of_others), false).await, Cleared::default());
    assert_eq!(clear_status(&client, &names, true).await, all);
    assert_eq!(address(&cluster, namespace).await.as_deref(), Some("192.0.2.1"), "nothing was written");
    assert_eq!(clear_status(&client, &names, false).await, all);
    assert_eq!(address(&cluster, namespace).await, None);
    assert_eq!(of("HTTPRoute", namespace, "web").await["parents"], json!([theirs]));
    for status in [of("GatewayClass", "", namespace).await, of("Gateway", namespace, "web").await] {
        let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
        assert!(conditions.iter().all(|condition| condition["status"] != "True"), "{conditions:?}");
        assert!(status["listeners"].as_array().is_none_or(Vec::is_empty), "{status}");
    }
    assert_eq!(clear_status(&client, &names, false).await, Cleared::default());
}
