//! Installation, and the first answers.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::REPOSITORY;
use crate::client::Target;
use crate::cluster::until;
use crate::manifests::{GATEWAY, NAMESPACE, echo, ingress, restricted_namespace, route};
use crate::suite::{GATEWAY_DATAPLANES, SYSTEM, Suite};

/// Gateway API, then the chart as a user installs it, then the backends of all scenarios.
pub async fn helm_install(suite: &mut Suite) -> Result<String> {
    let cluster = &suite.cluster;
    let crds = cluster.programs.join("gateway-api-experimental");
    cluster.kubectl(&format!("apply --server-side -f {}", crds.display())).await?;
    cluster.kubectl("wait --for=condition=Established crd --all --timeout=60s").await?;
    cluster.kubectl("-n kube-system rollout status deployment/coredns --timeout=60s").await?;
    let chart = format!("{REPOSITORY}/helm/sluice");
    cluster.apply(&restricted_namespace(SYSTEM)).await?;
    let began = Instant::now();
    cluster
        .helm(&[
            "install",
            "sluice",
            &chart,
            "--namespace",
            SYSTEM,
            "--set-string",
            "image.repository=docker.io/local/sluice,image.tag=1,image.pullPolicy=Never",
            "--wait",
            "--timeout=60s",
        ])
        .await?;
    let ready = began.elapsed().as_secs_f32();
    suite.ingress_address(80).await?;

    cluster.apply(&restricted_namespace(NAMESPACE)).await?;
    let backends = [("alpha", 2), ("beta", 2), ("chat", 2), ("rolled", 3), ("sticky", 3)];
    cluster.apply(&backends.map(|(name, replicas)| echo(name, replicas)).concat()).await?;
    cluster.apply(&suite.authority.issue("*.gateway.test")?.secret(NAMESPACE, "gateway-tls")).await?;
    cluster.apply(GATEWAY).await?;
    for (name, _) in backends {
        cluster.rolled_out(NAMESPACE, name).await?;
    }
    Ok(format!("every pod Ready {ready:.1} s after helm install"))
}

pub async fn ingress_answers(suite: &mut Suite) -> Result<String> {
    suite.cluster.apply(&ingress("plain", "plain.test", "alpha", &[], None)).await?;
    let target = suite.ingress_target("plain.test").await?;
    suite.answers_everywhere(&target, "alpha").await?;

    let mut pods = BTreeSet::new();
    for _ in 0..40 {
        pods.insert(target.get().await?.from("alpha")?);
    }
    ensure!(pods.len() == 2, "the answers came from {pods:?} alone");
    let echo = target.get_with(&[("x-forwarded-for", "192.0.2.1")]).await?.echo()?;
    let headers = &echo["headers"];
    ensure!(headers["x-forwarded-host"][0] == "plain.test", "x-forwarded-host: {}", headers["x-forwarded-host"]);
    ensure!(headers["x-forwarded-proto"][0] == "http", "x-forwarded-proto: {}", headers["x-forwarded-proto"]);
    ensure!(headers["x-forwarded-for"][0] != "192.0.2.1", "a client's X-Forwarded-For is believed");
    let unknown = suite.ingress_target("unknown.test").await?.get().await?;
    ensure!(unknown.status == 404, "an unknown host answers {}", unknown.status);
    let address = target.address.ip().to_string();
    suite.status("ingress/plain", "/status/loadBalancer/ingress/0/ip", &address).await?;
    Ok(String::new())
}

pub async fn httproute_answers(suite: &mut Suite) -> Result<String> {
    suite.cluster.apply(&route("plain", "plain.gateway.test", "beta", 0)).await?;
    suite.cluster.kubectl(&format!("-n {NAMESPACE} wait --for=condition=Programmed gateway/web --timeout=60s")).await?;
    let address = suite.gateway_address(80).await?;
    suite.status("gateway/web", "/status/addresses/0/value", &address.ip().to_string()).await?;
    let http = Target::http(address, "plain.gateway.test", "/path?query");
    for target in suite.at_pods(&http, NAMESPACE, GATEWAY_DATAPLANES).await? {
        suite.answers(&target, "beta").await?;
    }

    let answer = http.get().await?;
    ensure!(answer.header("x-edit") == "0", "the filter of the route did not act");
    ensure!(answer.echo()?["path"] == "/path?query", "the path arrived as {}", answer.echo()?["path"]);
    let https = suite.gateway_address(443).await?;
    Target::https(https, "plain.gateway.test", "/", &suite.authority.client).get().await?.from("beta")?;
    let other = Target::http(address, "other.gateway.test", "/").get().await?;
    ensure!(other.status == 404, "a host without a route answers {}", other.status);
    suite.status("httproute/plain", "/status/parents/0/conditions/0/status", "True").await?;
    Ok(String::new())
}

pub async fn certificate_per_name(suite: &mut Suite) -> Result<String> {
    let address = suite.ingress_address(443).await?;
    let mut served = Vec::new();
    for (name, service) in [("one", "alpha"), ("two", "beta")] {
        let host = format!("{name}.tls.test");
        let issued = suite.authority.issue(&host)?;
        suite.cluster.apply(&issued.secret(NAMESPACE, &format!("tls-{name}"))).await?;
        suite.cluster.apply(&ingress(name, &host, service, &[], Some(&format!("tls-{name}")))).await?;
        served.push((Target::https(address, &host, "/", &suite.authority.client), service, issued));
    }
    for (target, service, issued) in &served {
        suite.answers_everywhere(target, service).await?;
        let certificate = target.get().await?.certificate;
        ensure!(certificate.as_ref() == Some(&issued.certificate), "{} got another's certificate", target.host);
    }
    // Nobody's name gets the default certificate, which our authority did not issue.
    let unknown = Target::https(address, "three.tls.test", "/", &suite.authority.client).get().await;
    ensure!(
        unknown.is_err_and(|error| format!("{error:#}").contains("certificate")),
        "an unknown name got a certificate"
    );
    // As in ingress-nginx: a host with TLS sends plain requests there.
    let plain = suite.ingress_target("one.tls.test").await?;
    until(Duration::from_secs(5), "a redirect", async || {
        let answer = plain.get().await?;
        ensure!(answer.status == 308, "status {}", answer.status);
        ensure!(answer.header("location").starts_with("https://one.tls.test"), "to {}", answer.header("location"));
        Ok(())
    })
    .await?;
    Ok(String::new())
}
