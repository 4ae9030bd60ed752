//! Rate limits and stickiness.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};

use crate::client::Target;
use crate::cluster::until;
use crate::manifests::{NAMESPACE, ingress, route};
use crate::suite::{DATAPLANES, GATEWAY_DATAPLANES, PATIENCE, SYSTEM, Suite};

/// An annotation answers 503 as ingress-nginx does, a policy 429; every data plane counts for itself.
pub async fn rate_limit(suite: &mut Suite) -> Result<String> {
    let annotations = [("limit-rpm", "1"), ("limit-burst-multiplier", "5")];
    suite.cluster.apply(&ingress("limited", "limited.test", "alpha", &annotations, None)).await?;
    let target = suite.ingress_target("limited.test").await?;
    for data_plane in suite.at_pods(&target, SYSTEM, DATAPLANES).await? {
        let (passed, limited) = burst(suite, &data_plane).await?;
        // One request and five more at once, as `burst=5 nodelay` is in nginx.
        ensure!(passed == 6, "the annotation lets {passed} requests pass instead of 6");
        ensure!(limited.status == 503, "status {}", limited.status);
        ensure!(limited.header("retry-after").parse::<u32>().is_ok(), "retry-after: {}", limited.header("retry-after"));
    }

    suite.cluster.apply(&(route("limited", "limited.gateway.test", "alpha", 0) + POLICY)).await?;
    let accepted = "/status/ancestors/0/conditions/0/status";
    suite.status("trafficpolicy/limited", accepted, "True").await?;
    let target = Target::http(suite.gateway_address(80).await?, "limited.gateway.test", "/");
    for data_plane in suite.at_pods(&target, NAMESPACE, GATEWAY_DATAPLANES).await? {
        let (passed, limited) = burst(suite, &data_plane).await?;
        ensure!(passed == 4, "the policy lets {passed} requests pass instead of 4");
        ensure!(limited.status == 429, "status {}", limited.status);
        ensure!(limited.header("retry-after").parse::<u32>().is_ok(), "retry-after: {}", limited.header("retry-after"));
    }
    Ok(String::new())
}

const POLICY: &str = "
apiVersion: sluice.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: limited, namespace: e2e}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: limited}]
  rateLimits: [{requests: 1, per: 1m, burst: 3}]
";

/// Sends until a request is refused; returns how many were not, and the refusal.
async fn burst(suite: &Suite, target: &Target) -> Result<(usize, crate::client::Answer)> {
    // The first answers, while the route is on its way, are no requests to the backend.
    let mut passed = 1;
    suite.answers(target, "alpha").await?;
    while passed < 100 {
        let answer = target.get().await?;
        if answer.status != 200 {
            return Ok((passed, answer));
        }
        passed += 1;
    }
    anyhow::bail!("{passed} requests passed")
}

/// A cookie that one data plane gave leads to the same pod through the other, whatever other pods do.
pub async fn stickiness(suite: &mut Suite) -> Result<String> {
    let annotations = [("affinity", "cookie"), ("affinity-mode", "persistent"), ("session-cookie-name", "visitor")];
    suite.cluster.apply(&ingress("sticky", "sticky.test", "sticky", &annotations, None)).await?;
    let target = suite.ingress_target("sticky.test").await?;
    suite.answers_everywhere(&target, "sticky").await?;
    let data_planes = suite.at_pods(&target, SYSTEM, DATAPLANES).await?;

    let (mut pod, mut cookie) = until(PATIENCE, "a cookie", async || visit(&data_planes[0], None).await).await?;
    let mut strangers = BTreeSet::new();
    for _ in 0..30 {
        strangers.insert(visit(&data_planes[1], None).await?.0);
    }
    ensure!(strangers.len() == 3, "without a cookie the answers come from {strangers:?}");

    stays(&data_planes, &cookie, &pod).await?;
    suite.cluster.kubectl(&format!("-n {NAMESPACE} scale deployment/sticky --replicas=6")).await?;
    suite.cluster.rolled_out(NAMESPACE, "sticky").await?;
    stays(&data_planes, &cookie, &pod).await.context("after pods came")?;
    let others = suite.cluster.pods(NAMESPACE, "app=sticky").await?;
    let other = others.iter().filter_map(|other| other.metadata.name.as_deref()).find(|name| *name != pod);
    suite.cluster.kubectl(&format!("-n {NAMESPACE} delete pod {}", other.context("no other pod")?)).await?;
    stays(&data_planes, &cookie, &pod).await.context("after another pod went")?;

    // When its own pod goes, a visitor moves once and stays.
    suite.cluster.kubectl(&format!("-n {NAMESPACE} delete --wait=false pod {pod}")).await?;
    let gone = pod.clone();
    (pod, cookie) = until(PATIENCE, "another pod and cookie", async || {
        let (pod, cookie) = visit(&data_planes[0], Some(&cookie)).await?;
        ensure!(pod != gone, "still {pod}");
        Ok((pod, cookie))
    })
    .await?;
    until(PATIENCE, "the other data plane knows the pod", async || stays(&data_planes, &cookie, &pod).await).await?;
    Ok(String::new())
}

/// The pod that answered and the cookie that it set; with a cookie, that one if no other is set.
async fn visit(target: &Target, cookie: Option<&str>) -> Result<(String, String)> {
    let headers: Vec<_> = cookie.map(|cookie| ("cookie", cookie)).into_iter().collect();
    let answer = target.get_with(&headers).await?;
    let set = answer.header("set-cookie").split(';').next().filter(|set| set.starts_with("visitor="));
    let cookie = set.or(cookie).context("no cookie was set")?.to_owned();
    Ok((answer.from("sticky")?, cookie))
}

async fn stays(data_planes: &[Target], cookie: &str, pod: &str) -> Result<()> {
    for _ in 0..20 {
        for data_plane in data_planes {
            let (answered, _) = visit(data_plane, Some(cookie)).await?;
            ensure!(answered == pod, "{answered} answered instead of {pod}");
        }
    }
    Ok(())
}
