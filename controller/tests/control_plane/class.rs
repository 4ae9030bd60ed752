//! Gateways that share the data planes of their class.

use super::*;

/// A class whose Gateways have these data planes, with an annotation on the Services.
async fn class(cluster: &Cluster, namespace: &str, data_planes: &str, pool: &str) {
    cluster
        .apply(&format!(
            "
apiVersion: sluice.dev/v1alpha1
kind: GatewayConfig
metadata: {{name: all, namespace: {namespace}}}
spec: {{dataPlanes: {data_planes}, service: {{annotations: {{example.com/pool: {pool}}}}}}}
---
apiVersion: {GATEWAY_API}
kind: GatewayClass
metadata: {{name: {namespace}}}
spec:
  controllerName: test/{namespace}-gateway
  parametersRef: {{group: sluice.dev, kind: GatewayConfig, namespace: {namespace}, name: all}}
"
        ))
        .await;
}

async fn prepare_class(namespace: &str, data_planes: &str) -> Arc<Cluster> {
    let cluster = prepare(namespace).await;
    let crds = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crds/yaml");
    cluster.install_crds(&crds, |name| name == "gatewayconfigs.sluice.dev").await;
    class(&cluster, namespace, data_planes, "blue").await;
    cluster
}

/// What a controller of endpoints would say of a Service with one pod.
async fn pod_is_ready(cluster: &Cluster, namespace: &str, service: &str) {
    cluster
        .apply(&format!(
            "
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: {service}-1, namespace: {namespace}, labels: {{kubernetes.io/service-name: {service}}}}}
addressType: IPv4
endpoints: [{{addresses: [10.1.2.4], conditions: {{ready: true}}, targetRef: {{kind: Pod, name: {service}-0}}}}]
ports: [{{name: p-80, port: 80, protocol: TCP}}]
"
        ))
        .await;
}

async fn delete_gateway(cluster: &Cluster, namespace: &str, name: &str) {
    let body = json!({"apiVersion": GATEWAY_API, "kind": "Gateway", "metadata": {"namespace": namespace}});
    cluster.api(&body).delete(name, &Default::default()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs etcd and kube-apiserver; make test runs it"]
async fn gateways_of_a_class_share_data_planes_that_go_with_the_last() {
    let (namespace, second) = ("shared", "shared-too");
    let cluster = prepare_class(namespace, "PerClass").await;
    cluster.namespace(second).await;
    cluster.apply(&gateway(namespace)).await;
    let other = gateway(namespace).replace(&format!("namespace: {namespace}"), &format!("namespace: {second}"));
    cluster.apply(&other.replace("port: 80", "port: 8080")).await;
    let name = format!("all-gateways-{namespace}");
    let replica = Replica::start(&cluster, namespace, "one").await;

    let ports = || async {
        let service = cluster.get("v1", "Service", namespace, &name).await?;
        let ports: Vec<_> =
            service["spec"]["ports"].as_array()?.iter().filter_map(|port| port["port"].as_i64()).collect();
        Some((ports, service))
    };
    let (both, service) = eventually("the class has a Service", ports).await;
    assert_eq!(both, [80, 8080]);
    assert_eq!(service["metadata"]["annotations"]["example.com/pool"], "blue");
    let budget = || cluster.get("policy/v1", "PodDisruptionBudget", namespace, &name);
    let owner = eventually("the class has everything", budget).await["metadata"]["ownerReferences"][0].take();
    assert_eq!((&owner["kind"], &owner["name"]), (&json!("GatewayClass"), &json!(namespace)));
    for own in [namespace, second] {
        assert!(cluster.get("apps/v1", "Deployment", own, &format!("web-{namespace}")).await.is_none());
    }

    assign_address(&cluster, namespace, &name, "192.0.2.9").await;
    let mut data_plane = replica.connect(&cluster, namespace, (namespace, &name)).await;
    let batch = data_plane.batch().await;
    for own in [namespace, second] {
        let id = format!("{own}/web/http");
        assert!(batch.upserts.iter().any(|upsert| format!("{upsert:?}").contains(&id)), "{id}");
    }
    data_plane.acknowledge().await;
    for own in [namespace, second] {
        eventually("the Gateway is programmed at the class's address", || async {
            let gateway = cluster.get(GATEWAY_API, "Gateway", own, "web").await?;
            let programmed = condition(&gateway["status"]["conditions"], "Programmed")["status"] == "True";
            (programmed && gateway["status"]["addresses"][0]["value"] == "192.0.2.9").then_some(())
        })
        .await;
    }

    delete_gateway(&cluster, namespace, "web").await;
    let rest = || async { ports().await.filter(|(ports, _)| *ports == [8080]) };
    eventually("the other Gateway's port is left", rest).await;
    delete_gateway(&cluster, second, "web").await;
    for (api_version, kind) in [
        ("apps/v1", "Deployment"),
        ("v1", "Service"),
        ("v1", "ServiceAccount"),
        ("v1", "ConfigMap"),
        ("policy/v1", "PodDisruptionBudget"),
    ] {
        let gone = || async { cluster.get(api_version, kind, namespace, &name).await.is_none().then_some(()) };
        eventually(&format!("the {kind} is gone"), gone).await;
    }
    replica.stop().await;
}

/// What Gateways leave stays until a pod is ready where they go.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs etcd and kube-apiserver; make test runs it"]
async fn gateways_move_to_the_data_planes_of_their_class_and_back() {
    let namespace = "moving";
    let cluster = prepare_class(namespace, "PerGateway").await;
    cluster.apply(&gateway(namespace)).await;
    let (own, shared) = (format!("web-{namespace}"), format!("all-gateways-{namespace}"));
    let replica = Replica::start(&cluster, namespace, "one").await;
    let deployment = |name: &str| {
        let (cluster, name) = (cluster.clone(), name.to_owned());
        async move { cluster.get("apps/v1", "Deployment", namespace, &name).await }
    };
    let gone = async |name: &str| {
        eventually("what was left is gone", || async { deployment(name).await.is_none().then_some(()) }).await;
    };
    // A second edit is followed after the look for what is left over from the first.
    let moved = async |name: &str, data_planes: &str| {
        for pool in ["red", "blue"] {
            class(&cluster, namespace, data_planes, pool).await;
            eventually("the edit is followed", || async {
                let service = cluster.get("v1", "Service", namespace, name).await?;
                (service["metadata"]["annotations"]["example.com/pool"] == pool).then_some(())
            })
            .await;
        }
    };
    eventually("the Gateway has data planes", || deployment(&own)).await;

    moved(&shared, "PerClass").await;
    assert!(deployment(&own).await.is_some(), "no pod is ready where the Gateway goes");
    pod_is_ready(&cluster, namespace, &shared).await;
    gone(&own).await;
    assert!(deployment(&shared).await.is_some());

    moved(&own, "PerGateway").await;
    assert!(deployment(&shared).await.is_some(), "no pod is ready where the Gateway goes");
    pod_is_ready(&cluster, namespace, &own).await;
    gone(&shared).await;
    assert!(deployment(&own).await.is_some());
    replica.stop().await;
}

/// The same where a Gateway goes to another class, whichever of the two shares its data planes.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs etcd and kube-apiserver; make test runs it"]
async fn a_gateway_keeps_what_serves_it_until_a_pod_is_ready_in_its_next_class() {
    let namespace = "classes";
    let cluster = prepare_class(namespace, "PerClass").await;
    for class in ["one", "two"] {
        let manifest = format!(
            "apiVersion: {GATEWAY_API}\nkind: GatewayClass\nmetadata: {{name: {namespace}-{class}}}\nspec: {{controllerName: test/{namespace}-gateway}}"
        );
        cluster.apply(&manifest).await;
    }
    let replica = Replica::start(&cluster, namespace, "one").await;
    let deployment = async |name: &str| cluster.get("apps/v1", "Deployment", namespace, name).await;
    let mut left: Option<String> = None;
    for (class, name) in [
        ("classes-one", "web-classes-one"),
        ("classes-two", "web-classes-two"),
        ("classes", "all-gateways-classes"),
        ("classes-one", "web-classes-one"),
    ] {
        // The port of the second edit is seen after the look for what is left over from the first.
        for port in [80, 8080] {
            let manifest = gateway(namespace)
                .replace(&format!("gatewayClassName: {namespace}"), &format!("gatewayClassName: {class}"))
                .replace("port: 80", &format!("port: {port}"));
            cluster.apply(&manifest).await;
            eventually("the edit is followed", || async {
                let service = cluster.get("v1", "Service", namespace, name).await?;
                (service["spec"]["ports"][0]["port"] == port).then_some(())
            })
            .await;
        }
        eventually("there are data planes", || deployment(name)).await;
        if let Some(left) = &left {
            assert!(deployment(left).await.is_some(), "{left} goes before a pod of {name} is ready");
        }
        pod_is_ready(&cluster, namespace, name).await;
        if let Some(left) = &left {
            eventually("what was left is gone", || async { deployment(left).await.is_none().then_some(()) }).await;
            let slice = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": {"namespace": namespace}});
            cluster.api(&slice).delete(&format!("{left}-1"), &Default::default()).await.unwrap();
        }
        left = Some(name.to_owned());
    }
    replica.stop().await;
}
