//! The kinds of the Gateway API beside Gateways and HTTPRoutes.

use super::*;
use cluster::gateway_api;

/// The addresses of listeners, a set of more, and a route of every kind that attaches to one of both.
fn everything(namespace: &str) -> String {
    let route = |kind: &str, parent: &str, section: &str, rules: &str| {
        format!(
            "
---
apiVersion: {GATEWAY_API}
kind: {kind}
metadata: {{name: web, namespace: {namespace}}}
spec:
  parentRefs: [{{kind: {parent}, name: web, sectionName: {section}}}]
  {rules}
"
        )
    };
    let backend = "rules: [{backendRefs: [{name: echo, port: 80}]}]";
    let named = "hostnames: [tls.example]\n  rules: [{backendRefs: [{name: echo, port: 80}]}]";
    format!(
        "
apiVersion: {GATEWAY_API}
kind: Gateway
metadata: {{name: web, namespace: {namespace}}}
spec:
  gatewayClassName: {namespace}
  allowedListeners: {{namespaces: {{from: Same}}}}
  listeners: [{{name: http, port: 80, protocol: HTTP}}, {{name: tcp, port: 9000, protocol: TCP}}]
---
apiVersion: {GATEWAY_API}
kind: ListenerSet
metadata: {{name: web, namespace: {namespace}}}
spec:
  parentRef: {{name: web}}
  listeners:
    - {{name: grpc, port: 8080, protocol: HTTP}}
    - {{name: tls, port: 443, protocol: TLS, tls: {{mode: Passthrough}}}}
{}{}{}{}",
        route("HTTPRoute", "Gateway", "http", backend),
        route("GRPCRoute", "ListenerSet", "grpc", backend),
        route("TLSRoute", "ListenerSet", "tls", named),
        route("TCPRoute", "Gateway", "tcp", backend),
    )
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs etcd and kube-apiserver; make test runs it"]
async fn listener_sets_and_routes_of_every_kind_have_statuses() {
    let namespace = "every-kind";
    let cluster = prepare(namespace).await;
    cluster.apply(&everything(namespace)).await;
    let replica = Replica::start(&cluster, namespace, "one").await;
    let name = format!("web-{namespace}");
    eventually("the Gateway has a Service", || cluster.get("v1", "Service", namespace, &name)).await;
    assign_address(&cluster, namespace, &name, "192.0.2.8").await;

    let status = |kind: &'static str| {
        let cluster = &cluster;
        async move { cluster.get(GATEWAY_API, kind, namespace, "web").await.unwrap()["status"].take() }
    };
    let programmed = |reason: &'static str| async move {
        let status = status("ListenerSet").await;
        let listeners = [&status["listeners"][0], &status["listeners"][1]].map(|listener| &listener["conditions"]);
        let all = [&status["conditions"], listeners[0], listeners[1]];
        let same = all.into_iter().all(|conditions| condition(conditions, "Programmed")["reason"] == reason);
        same.then_some(status)
    };
    let waiting = eventually("the set waits for the data planes", || programmed("Pending")).await;
    assert_eq!(condition(&waiting["conditions"], "Accepted")["status"], "True");

    let mut data_plane = replica.connect(&cluster, namespace, (namespace, &name)).await;
    data_plane.batch().await;
    data_plane.acknowledge().await;
    let done = eventually("the set is programmed", || programmed("Programmed")).await;
    let attached = [0, 1].map(|index| done["listeners"][index]["attachedRoutes"].clone());
    assert_eq!(attached, [1, 1]);
    for kind in ["HTTPRoute", "GRPCRoute", "TLSRoute", "TCPRoute"] {
        let accepted = || async {
            let status = status(kind).await;
            let accepted = condition(&status["parents"][0]["conditions"], "Accepted");
            (accepted["status"] == "True").then_some(())
        };
        eventually(kind, accepted).await;
    }

    // A data plane that cannot bind the set's port says so there.
    let id = format!("ListenerSet/{namespace}/web/grpc");
    data_plane.reject(snapshot::proto::Kind::Listener, &id, "the port is taken").await;
    let refused = || async {
        let status = status("ListenerSet").await;
        let of_listener = condition(&status["listeners"][0]["conditions"], "Programmed");
        let of_set = condition(&status["conditions"], "Programmed");
        [&of_listener, &of_set].iter().all(|condition| condition["reason"] == "Invalid").then_some(of_listener)
    };
    let listener = eventually("the set is not programmed", refused).await;
    assert!(listener["message"].as_str().unwrap().contains("the port is taken"), "{listener}");
    replica.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs etcd and kube-apiserver; make test runs it"]
async fn a_kind_of_route_that_is_installed_later_is_noticed() {
    let namespace = "later-route";
    let cluster = prepare(namespace).await;
    cluster.apply(&gateway(namespace).replace("protocol: HTTP", "protocol: UDP")).await;
    let replica = Replica::start(&cluster, namespace, "one").await;
    eventually("it is ready without UDPRoutes", || async { (replica.get("/readyz").await.0 == 200).then_some(()) })
        .await;
    cluster.install_crds(&gateway_api(), |_| true).await;
    cluster.apply(&route(namespace).replace("HTTPRoute", "UDPRoute").replace("hostnames: [web.example]", "")).await;
    let accepted = || async {
        let route = cluster.get(GATEWAY_API, "UDPRoute", namespace, "web").await?;
        (condition(&route["status"]["parents"][0]["conditions"], "Accepted")["status"] == "True").then_some(())
    };
    eventually("the route is accepted", accepted).await;
    replica.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs etcd and kube-apiserver; make test runs it"]
async fn a_class_says_what_works_with_the_crds_that_are_there() {
    let namespace = "version";
    let cluster = prepare(namespace).await;
    let replica = Replica::start(&cluster, namespace, "one").await;
    let status = || async {
        let status = cluster.get(GATEWAY_API, "GatewayClass", "", namespace).await?["status"].take();
        (condition(&status["conditions"], "SupportedVersion")["status"] == "True").then_some(status)
    };
    let status = eventually("the version is supported", status).await;
    let features = status["supportedFeatures"].as_array().unwrap();
    let has = |name: &str| features.iter().any(|feature| feature["name"] == name);
    assert!(has("HTTPRouteCORS"), "{features:?}");
    assert!(!has("HTTPRouteRetry"), "the standard channel has no such field: {features:?}");
    replica.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs etcd and kube-apiserver; make test runs it"]
async fn a_class_is_deleted_after_its_gateways() {
    let namespace = "class";
    let cluster = prepare(namespace).await;
    cluster.apply(&gateway(namespace)).await;
    let replica = Replica::start(&cluster, namespace, "one").await;
    let class = || cluster.get(GATEWAY_API, "GatewayClass", "", namespace);
    let held = || async {
        let finalizers = class().await?["metadata"]["finalizers"].take();
        (finalizers == json!(["gateway-exists-finalizer.gateway.networking.k8s.io"])).then_some(())
    };
    eventually("the class that is in use has the finalizer", held).await;
    let body = json!({"apiVersion": GATEWAY_API, "kind": "GatewayClass", "metadata": {}});
    cluster.api(&body).delete(namespace, &Default::default()).await.unwrap();
    assert!(class().await.unwrap()["metadata"]["deletionTimestamp"].is_string());

    let body = json!({"apiVersion": GATEWAY_API, "kind": "Gateway", "metadata": {"namespace": namespace}});
    cluster.api(&body).delete("web", &Default::default()).await.unwrap();
    eventually("the class is gone", || async { class().await.is_none().then_some(()) }).await;
    replica.stop().await;
}

/// A ListenerSet, and a Gateway, that nobody serves any more are as they were before anybody did; what another controller says of one
/// that it took over stays.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs etcd and kube-apiserver; make test runs it"]
async fn what_was_said_of_a_listener_set_goes_with_its_gateway() {
    let namespace = "orphans";
    let cluster = prepare(namespace).await;
    cluster
        .apply(&format!(
            "
apiVersion: {GATEWAY_API}
kind: GatewayClass
metadata: {{name: {namespace}-other}}
spec: {{controllerName: example.com/other}}
---
apiVersion: {GATEWAY_API}
kind: ListenerSet
metadata: {{name: web, namespace: {namespace}}}
spec: {{parentRef: {{name: web}}, listeners: [{{name: more, port: 8080, protocol: HTTP}}]}}
"
        ))
        .await;
    let status = async |kind: &str| {
        let object = cluster.get(GATEWAY_API, kind, namespace, "web").await.unwrap();
        object["status"].clone()
    };
    let untouched = status("ListenerSet").await;
    assert_eq!(condition(&untouched["conditions"], "Accepted")["status"], "Unknown");
    let accepted = |kind: &'static str| async move {
        let status = status(kind).await;
        (condition(&status["conditions"], "Accepted")["status"] == "True").then_some(status)
    };
    let is_untouched = |kind: &'static str| {
        let (untouched, status) = (&untouched, &status);
        async move { (status(kind).await == *untouched).then_some(()) }
    };
    let ours = gateway(namespace).replace("listeners:", "allowedListeners: {namespaces: {from: Same}}\n  listeners:");
    let body = |kind: &str| json!({"apiVersion": GATEWAY_API, "kind": kind, "metadata": {"namespace": namespace}});

    let replica = Replica::start(&cluster, namespace, "one").await;
    cluster.apply(&ours).await;
    eventually("the set is accepted", || accepted("ListenerSet")).await;
    cluster.api(&body("Gateway")).delete("web", &Default::default()).await.unwrap();
    eventually("the Gateway is gone", || is_untouched("ListenerSet")).await;

    cluster.apply(&ours).await;
    eventually("the set is accepted again", || accepted("ListenerSet")).await;
    eventually("the Gateway too", || accepted("Gateway")).await;
    replica.stop().await;
    let theirs =
        ours.replace(&format!("gatewayClassName: {namespace}"), &format!("gatewayClassName: {namespace}-other"));
    cluster.apply(&theirs).await;
    let replica = Replica::start(&cluster, namespace, "two").await;
    eventually("the set is nobody's", || is_untouched("ListenerSet")).await;
    eventually("the Gateway is nobody's", || is_untouched("Gateway")).await;

    // The other controller agrees with what was said in everything but the message.
    cluster.apply(&ours).await;
    let mut said = eventually("the set is accepted once more", || accepted("ListenerSet")).await;
    replica.stop().await;
    cluster.apply(&theirs).await;
    for said in said["conditions"].as_array_mut().unwrap() {
        said["message"] = "elsewhere".into();
    }
    let patch = Patch::Merge(json!({"status": said}));
    cluster.api(&body("ListenerSet")).patch_status("web", &PatchParams::default(), &patch).await.unwrap();
    let replica = Replica::start(&cluster, namespace, "three").await;
    eventually("the Gateway is nobody's again", || is_untouched("Gateway")).await;
    assert_eq!(status("ListenerSet").await, said);
    let writes = "sluice_controller_status_writes_total{kind=\"ListenerSet\"";
    assert_eq!(replica.metric(writes).await, 0.0);
    replica.stop().await;
}
