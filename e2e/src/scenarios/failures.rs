//! Parts that die or are replaced under load.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use tokio::time::sleep;

use crate::client::Target;
use crate::cluster::{pod_address, until};
use crate::load::Load;
use crate::manifests::{NAMESPACE, ingress, route};
use crate::suite::{GATEWAY_DATAPLANES, PATIENCE, SYSTEM, Suite, kill};

pub async fn controllers_killed(suite: &mut Suite) -> Result<String> {
    suite.cluster.apply(&ingress("killed", "killed.test", "alpha", &[], None)).await?;
    suite.cluster.apply(&route("killed", "killed.gateway.test", "alpha", 0)).await?;
    let at_gateway = Target::http(suite.gateway_address(80).await?, "killed.gateway.test", "/");
    let target = suite.ingress_target("killed.test").await?;
    suite.answers_everywhere(&target, "alpha").await?;
    suite.answers(&at_gateway, "alpha").await?;

    let load = Load::start(&[target, at_gateway], std::sync::Arc::new(|_, answer| answer.from("alpha").map(|_| ())));
    let killed = suite.kill_controllers().await;
    sleep(Duration::from_secs(5)).await; // load without any controller
    suite.restore_controllers().await?;
    killed?;
    // The new ones are in command: an edit takes effect.
    suite.cluster.apply(&ingress("killed-later", "killed-later.test", "beta", &[], None)).await?;
    let later = suite.ingress_target("killed-later.test").await?;
    suite.answers_everywhere(&later, "beta").await?;
    let requests = load.stop().await.without_failure()?;
    Ok(format!("0 of {requests} failed"))
}

/// A data plane of the Gateway, because the WebSockets of the suite go through the shared ones.
pub async fn dataplane_restarted(suite: &mut Suite) -> Result<String> {
    suite.cluster.apply(&route("restarted", "restarted.gateway.test", "alpha", 0)).await?;
    let pods = suite.cluster.pods(NAMESPACE, GATEWAY_DATAPLANES).await?;
    let pod = pods.first().context("the Gateway has no data plane")?;
    let target = Target::http(pod_address(pod, 80)?, "restarted.gateway.test", "/");
    suite.answers(&target, "alpha").await?;
    let killed = suite.kill_controllers().await;
    let restarted = restart(suite, pod, &target).await;
    suite.restore_controllers().await?;
    killed?;
    let delay = restarted?;
    ensure!(delay <= Duration::from_secs(2), "it served {delay:?} after its start");
    Ok(format!("served {} ms after its start", delay.as_millis()))
}

/// Ends the pod's process; returns how long after the start of the next one that one answered.
async fn restart(suite: &Suite, pod: &Pod, target: &Target) -> Result<Duration> {
    let old = suite.cluster.process(pod).await?;
    kill(old).await?;
    until(PATIENCE, "the restarted data plane answers", async || {
        target.get().await?.from("alpha")?;
        let answered = Instant::now();
        let new = suite.cluster.process(pod).await?;
        ensure!(new != old, "it was not restarted");
        Ok(age(new)?.saturating_sub(answered.elapsed()))
    })
    .await
}

/// How long ago a process was started.
fn age(process: u32) -> Result<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat"))?;
    // The name in brackets may hold anything; the start is the 20th field after it, in hundredths of a second of uptime.
    let fields = stat.rsplit_once(')').context("no name")?.1;
    let start: f64 = fields.split_whitespace().nth(19).context("no start")?.parse()?;
    let uptime = std::fs::read_to_string("/proc/uptime")?;
    let uptime: f64 = uptime.split_whitespace().next().context("no uptime")?.parse()?;
    Ok(Duration::from_secs_f64((uptime - start / 100.0).max(0.0)))
}

pub async fn dataplanes_rolled(suite: &mut Suite) -> Result<String> {
    let issued = suite.authority.issue("over.test")?;
    suite.cluster.apply(&issued.secret(NAMESPACE, "over")).await?;
    suite.cluster.apply(&ingress("over", "over.test", "alpha", &[], Some("over"))).await?;
    suite.cluster.apply(&ingress("over-plain", "over-plain.test", "alpha", &[], None)).await?;
    let plain = suite.ingress_target("over-plain.test").await?;
    let tls = Target::https(suite.ingress_address(443).await?, "over.test", "/", &suite.authority.client);
    suite.answers_everywhere(&plain, "alpha").await?;
    suite.answers_everywhere(&tls, "alpha").await?;

    let load = Load::start(&[plain, tls], std::sync::Arc::new(|_, answer| answer.from("alpha").map(|_| ())));
    suite.cluster.kubectl(&format!("-n {SYSTEM} rollout restart deployment/sluice-dataplane")).await?;
    suite.cluster.rolled_out(SYSTEM, "sluice-dataplane").await?;
    sleep(Duration::from_secs(5)).await; // the old ones drain
    let requests = load.stop().await.without_failure()?;
    Ok(format!("0 of {requests} failed"))
}
