//! What is wrong is explained where its author looks, and harms nobody else.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tokio::time::sleep;

use crate::certificates::secret;
use crate::client::Target;
use crate::cluster::until;
use crate::load::Load;
use crate::manifests::{NAMESPACE, ingress, route};
use crate::suite::{DATAPLANES, GATEWAY_DATAPLANES, PATIENCE, SYSTEM, Suite};

/// A missing, a broken and a mismatched Secret, for an Ingress and for a Gateway; and a good one that turns bad.
pub async fn secrets(suite: &mut Suite) -> Result<String> {
    let cluster = &suite.cluster;
    let one = suite.authority.issue("bad.test")?;
    let two = suite.authority.issue("bad.test")?;
    cluster.apply(&secret(NAMESPACE, "broken", "no certificate", "no key")).await?;
    cluster.apply(&secret(NAMESPACE, "mismatched", &one.certificate_pem, &two.key_pem)).await?;
    for name in ["missing", "broken", "mismatched"] {
        let host = format!("{name}.bad.test");
        cluster.apply(&ingress(&format!("{name}-secret"), &host, "alpha", &[], Some(name))).await?;
        suite.event(&format!("{name}-secret"), &["Warning", "spec.tls[0].secretName", name]).await?;
        cluster.apply(&gateway(&format!("{name}-secret"), name)).await?;
        let object = format!("gateway/{name}-secret");
        until(PATIENCE, "a reason in the listener's status", async || {
            let gateway = cluster.get(NAMESPACE, &object).await?;
            let conditions = gateway["status"]["listeners"][0]["conditions"].as_array().context("no conditions")?;
            let refs =
                conditions.iter().find(|condition| condition["type"] == "ResolvedRefs").context("no ResolvedRefs")?;
            ensure!(refs["status"] == "False" && refs["reason"] == "InvalidCertificateRef", "{refs}");
            ensure!(refs["message"].as_str().is_some_and(|message| message.contains(name)), "{refs}");
            Ok(())
        })
        .await?;
        cluster.kubectl(&format!("-n {NAMESPACE} delete {object}")).await?;
    }

    // A good Secret that turns bad: the last good certificate stays.
    cluster.apply(&one.secret(NAMESPACE, "turning")).await?;
    cluster.apply(&ingress("turning", "bad.test", "alpha", &[], Some("turning"))).await?;
    let target = Target::https(suite.ingress_address(443).await?, "bad.test", "/", &suite.authority.client);
    suite.answers_everywhere(&target, "alpha").await?;
    let load = Load::of(&target, "alpha");
    cluster.apply(&secret(NAMESPACE, "turning", &one.certificate_pem, &two.key_pem)).await?;
    suite.event("turning", &["Warning", "turning"]).await?;
    let requests = load.stop().await.without_failure()?;
    let served = target.get().await?.certificate;
    ensure!(served.as_ref() == Some(&one.certificate), "the last good certificate is gone");
    Ok(format!("0 of {requests} failed while a Secret turned bad"))
}

fn gateway(name: &str, secret: &str) -> String {
    format!(
        "
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: {name}, namespace: {NAMESPACE}}}
spec:
  gatewayClassName: sluice
  listeners:
    - {{name: https, port: 443, protocol: HTTPS, tls: {{certificateRefs: [{{name: {secret}}}]}}}}
"
    )
}

pub async fn among_good_ones(suite: &mut Suite) -> Result<String> {
    let cluster = &suite.cluster;
    let address = suite.ingress_address(80).await?;
    let host = |number: usize| format!("good-{number}.test");
    let good: String =
        (0..200).map(|number| ingress(&format!("good-{number}"), &host(number), "beta", &[], None)).collect();
    cluster.apply(&good).await?;
    let targets: Vec<_> = (0..200).map(|number| Target::http(address, &host(number), "/")).collect();
    for target in &targets {
        suite.answers_everywhere(target, "beta").await?;
    }

    let load = Load::start(&targets, std::sync::Arc::new(|_, answer| answer.from("beta").map(|_| ())));
    let bad = |name: &str, service: &str, annotations: &[(&str, &str)]| {
        ingress(name, &format!("{name}.test"), service, annotations, None)
    };
    cluster.apply(&bad("bad-service", "nowhere", &[])).await?;
    suite.event("bad-service", &["Warning", "spec.rules[0].http.paths[0].backend.service", "nowhere"]).await?;
    cluster.apply(&bad("bad-value", "alpha", &[("limit-rps", "many")])).await?;
    suite.event("bad-value", &["Warning", "nginx.ingress.kubernetes.io/limit-rps", "many"]).await?;
    cluster.apply(&bad("bad-name", "alpha", &[("no-such-thing", "1")])).await?;
    suite.event("bad-name", &["Warning", "nginx.ingress.kubernetes.io/no-such-thing"]).await?;
    // The oldest keeps what two claim.
    cluster.apply(&ingress("bad-claim", &host(7), "alpha", &[], None)).await?;
    suite.event("bad-claim", &["Warning", "spec.rules[0]", "good-7"]).await?;
    cluster.apply(BAD_REGEX).await?;
    until(PATIENCE, "a status of the route with the bad regex", async || {
        let route = cluster.get(NAMESPACE, "httproute/bad-regex").await?;
        let conditions = route.pointer("/status/parents/0/conditions").context("no status")?.to_string();
        ensure!(conditions.contains("matches[0].path"), "{conditions}");
        Ok(())
    })
    .await?;
    cluster.apply(&route("bad-backend", "bad.gateway.test", "nowhere", 0)).await?;
    until(PATIENCE, "a status of the route without backend", async || {
        let route = cluster.get(NAMESPACE, "httproute/bad-backend").await?;
        let conditions = route.pointer("/status/parents/0/conditions").context("no status")?.to_string();
        ensure!(conditions.contains("BackendNotFound") && conditions.contains("nowhere"), "{conditions}");
        Ok(())
    })
    .await?;
    cluster.apply(BAD_TARGET).await?;
    suite.event("bad-target", &["Warning", "spec.targetRefs", "nowhere"]).await?;
    sleep(Duration::from_secs(1)).await;
    let requests = load.stop().await.without_failure()?;
    Ok(format!("0 of {requests} answers changed"))
}

/// What bad edits broke is served as it was by data planes that start after all controllers were replaced.
pub async fn last_good_survives(suite: &mut Suite) -> Result<String> {
    let cluster = &suite.cluster;
    let one = suite.authority.issue("kept.test")?;
    let two = suite.authority.issue("kept.test")?;
    cluster.apply(&one.secret(NAMESPACE, "kept")).await?;
    // A broken limit keeps the last good version only where that has one, too.
    cluster.apply(&ingress("kept", "kept.test", "alpha", &[("limit-rps", "1000")], Some("kept"))).await?;
    cluster.apply(&route("kept", "kept.gateway.test", "alpha", 0)).await?;
    let at_ingress = Target::https(suite.ingress_address(443).await?, "kept.test", "/", &suite.authority.client);
    let at_gateway = Target::http(suite.gateway_address(80).await?, "kept.gateway.test", "/");
    suite.answers_everywhere(&at_ingress, "alpha").await?;
    suite.answers(&at_gateway, "alpha").await?;

    cluster.apply(&secret(NAMESPACE, "kept", &one.certificate_pem, &two.key_pem)).await?;
    cluster.apply(&ingress("kept", "moved.test", "beta", &[("limit-rps", "many")], Some("kept"))).await?;
    suite.event("kept", &["Warning", "nginx.ingress.kubernetes.io/limit-rps", "many"]).await?;
    cluster.apply(&BAD_REGEX.replace("bad-regex", "kept").replace("alpha", "beta")).await?;
    until(PATIENCE, "a record of what was good", async || {
        let record = cluster.get(SYSTEM, "secret/sluice-last-good").await?;
        let record: k8s_openapi::api::core::v1::Secret = serde_json::from_value(record)?;
        let record = record.data.context("it is empty")?;
        let objects: Vec<serde_json::Value> =
            serde_json::from_slice(&record.get("objects.json").context("it has no objects")?.0)?;
        for kind in ["Ingress", "HTTPRoute", "Secret"] {
            let kept = objects
                .iter()
                .any(|object| object["kind"] == kind && object["name"] == "kept" && object["good"].is_object());
            ensure!(kept, "it has no {kind}");
        }
        Ok(())
    })
    .await?;

    let killed = suite.kill_controllers().await;
    suite.restore_controllers().await?;
    killed?;
    // New pods hold nothing: all that they serve comes from the new controllers.
    for (namespace, dataplane) in [(SYSTEM, "sluice-dataplane"), (NAMESPACE, "web-sluice")] {
        cluster.kubectl(&format!("-n {namespace} rollout restart deployment/{dataplane}")).await?;
        cluster.rolled_out(namespace, dataplane).await?;
    }
    for target in suite.at_pods(&at_ingress, SYSTEM, DATAPLANES).await? {
        suite.answers(&target, "alpha").await?;
        let served = target.get().await?.certificate;
        ensure!(served.as_ref() == Some(&one.certificate), "the last good certificate is gone");
    }
    for target in suite.at_pods(&at_gateway, NAMESPACE, GATEWAY_DATAPLANES).await? {
        suite.answers(&target, "alpha").await?;
    }

    // What is mended is served as it is, and no longer recorded.
    cluster.apply(&one.secret(NAMESPACE, "kept")).await?;
    cluster.apply(&ingress("kept", "kept.test", "beta", &[], Some("kept"))).await?;
    suite.answers_everywhere(&at_ingress, "beta").await?;
    Ok("Ingress, HTTPRoute and Secret are served as before their bad edits".into())
}

const BAD_REGEX: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: bad-regex, namespace: e2e}
spec:
  parentRefs: [{name: web}]
  hostnames: [bad-regex.gateway.test]
  rules:
    - matches: [{path: {type: RegularExpression, value: '/(unclosed'}}]
      backendRefs: [{name: alpha, port: 80}]
";

const BAD_TARGET: &str = "
apiVersion: sluice.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: bad-target, namespace: e2e}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: nowhere}]
  rateLimits: [{requests: 1, per: 1m}]
";
