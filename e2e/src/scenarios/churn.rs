//! Changes under load: not one request may fail or go wrong.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use kube::api::{Api, ApiResource, DynamicObject, Patch, PatchParams};
use kube::core::GroupVersionKind;

use crate::client::{Answer, Connection, Target};
use crate::cluster::until;
use crate::load::Load;
use crate::manifests::{NAMESPACE, ingress, route};
use crate::suite::{DATAPLANES, GATEWAY_DATAPLANES, PATIENCE, SYSTEM, Suite};

/// Each new certificate is served by both data planes within a second of the API server's answer.
pub async fn secret_rotated(suite: &mut Suite) -> Result<String> {
    let host = "rotated.test";
    suite.cluster.apply(&suite.authority.issue(host)?.secret(NAMESPACE, "rotated")).await?;
    suite.cluster.apply(&ingress("rotated", host, "alpha", &[], Some("rotated"))).await?;
    let target = Target::https(suite.ingress_address(443).await?, host, "/", &suite.authority.client);
    suite.answers_everywhere(&target, "alpha").await?;
    let data_planes = suite.at_pods(&target, SYSTEM, DATAPLANES).await?;

    let load = Load::of(&target, "alpha");
    let mut delays = Vec::new();
    for _ in 0..50 {
        let issued = suite.authority.issue(host)?;
        suite.edit("v1", "Secret", &issued.secret(NAMESPACE, "rotated")).await?;
        let edited = Instant::now();
        for data_plane in &data_planes {
            until(Duration::from_secs(1), "the new certificate is served", async || {
                let served = data_plane.get().await?.certificate;
                ensure!(served.as_ref() == Some(&issued.certificate), "the old one is served");
                Ok(())
            })
            .await?;
        }
        delays.push(edited.elapsed());
    }
    let requests = load.stop().await.without_failure()?;
    Ok(format!("0 of {requests} failed; new certificate on both data planes {}", quantiles(delays)))
}

pub async fn deployment_rolled(suite: &mut Suite) -> Result<String> {
    suite.cluster.apply(&ingress("rolled", "rolled.test", "rolled", &[], None)).await?;
    let target = suite.ingress_target("rolled.test").await?;
    suite.answers_everywhere(&target, "rolled").await?;
    let load = Load::of(&target, "rolled");
    suite.cluster.kubectl(&format!("-n {NAMESPACE} rollout restart deployment/rolled")).await?;
    suite.cluster.rolled_out(NAMESPACE, "rolled").await?;
    // The last old pod is still on its way out; the rollout does not wait for it.
    until(PATIENCE, "three pods", async || {
        let pods = suite.cluster.kubectl(&format!("-n {NAMESPACE} get pods -l app=rolled -o name")).await?;
        ensure!(pods.lines().count() == 3, "{pods}");
        Ok(())
    })
    .await?;
    let requests = load.stop().await.without_failure()?;
    Ok(format!("0 of {requests} failed"))
}

/// The number of an edit is in a header of the answer, and its parity says which backend must have answered.
pub async fn route_edits(suite: &mut Suite) -> Result<String> {
    let host = "edited.gateway.test";
    let backend = |edit: usize| if edit.is_multiple_of(2) { "alpha" } else { "beta" };
    suite.cluster.apply(&route("edited", host, backend(0), 0)).await?;
    let target = Target::http(suite.gateway_address(80).await?, host, "/");
    let data_planes = suite.at_pods(&target, NAMESPACE, GATEWAY_DATAPLANES).await?;
    for data_plane in &data_planes {
        suite.answers(data_plane, backend(0)).await?;
    }

    let right = move |_: &Target, answer: &Answer| {
        let edit = answer.header("x-edit").parse::<usize>().context("no number of an edit")?;
        answer.from(backend(edit)).map(|_| ())
    };
    let load = Load::start(std::slice::from_ref(&target), Arc::new(right));
    let mut delays = Vec::new();
    for edit in 1..=200 {
        suite.edit("gateway.networking.k8s.io/v1", "HTTPRoute", &route("edited", host, backend(edit), edit)).await?;
        let edited = Instant::now();
        let first_answers = data_planes.iter().map(|data_plane| first_answer(data_plane, edit, edited));
        delays.extend(futures::future::try_join_all(first_answers).await?);
    }
    let requests = load.stop().await.without_failure()?;
    Ok(format!("0 of {requests} failed or went to a wrong backend; edit-to-first-answer {}", quantiles(delays)))
}

/// Asks on one connection until the answer is that of the edit; returns the time since then.
async fn first_answer(target: &Target, edit: usize, edited: Instant) -> Result<Duration> {
    let mut connection = Connection::open(target).await?;
    while edited.elapsed() < PATIENCE {
        let answer = connection.get(target, &[]).await?;
        if answer.header("x-edit").parse() == Ok(edit) {
            return Ok(edited.elapsed());
        }
        if answer.closes() {
            connection = Connection::open(target).await?;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    anyhow::bail!("edit {edit} has no effect after {PATIENCE:?}")
}

impl Suite {
    /// Server-side apply of one manifest in this process: a kubectl would add its own start to what is measured.
    async fn edit(&self, api_version: &str, kind: &str, manifest: &str) -> Result<()> {
        let object: DynamicObject = serde_saphyr::from_str(manifest.trim_end_matches('-'))?;
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
        let api = Api::<DynamicObject>::namespaced_with(self.cluster.client.clone(), NAMESPACE, &resource);
        let name = object.metadata.name.clone().context("no name")?;
        api.patch(&name, &PatchParams::apply("e2e").force(), &Patch::Apply(&object)).await?;
        Ok(())
    }
}

fn quantiles(mut delays: Vec<Duration>) -> String {
    delays.sort();
    let at = |share: usize| delays[(delays.len() * share / 100).min(delays.len() - 1)].as_secs_f32() * 1000.0;
    format!("p50 {:.1} ms, p99 {:.1} ms, longest {:.1} ms ({} samples)", at(50), at(99), at(100), delays.len())
}
