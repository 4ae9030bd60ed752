//! Who the client is, where the cluster leaves its address on the connection.

use anyhow::{Result, ensure};

use super::REPOSITORY;
use crate::client::Target;
use crate::cluster::until;
use crate::manifests::ingress;
use crate::suite::{PATIENCE, SYSTEM, Suite};

/// The addresses of the client's namespace, see `up.sh`.
const CLIENTS: [&str; 2] = ["10.200.0.100", "10.200.0.101"];

/// With `externalTrafficPolicy: Local` backends are told each client's own address, and limits count for it.
pub async fn kept(suite: &mut Suite) -> Result<String> {
    let limits = [("limit-rpm", "1"), ("limit-burst-multiplier", "3")];
    // Whoever serves the second one has heard of the first one, which must not be asked yet: its limits count.
    suite.cluster.apply(&ingress("address-limited", "limited.address.test", "alpha", &limits, None)).await?;
    suite.cluster.apply(&ingress("address", "address.test", "alpha", &[], None)).await?;
    suite.answers_everywhere(&suite.ingress_target("address.test").await?, "alpha").await?;
    traffic_policy(suite, "Local").await?;
    let outcome = each_client_is_itself(suite).await;
    // The other scenarios want both data planes, wherever they run.
    traffic_policy(suite, "Cluster").await?;
    outcome
}

async fn traffic_policy(suite: &Suite, policy: &str) -> Result<()> {
    let chart = format!("{REPOSITORY}/helm/sluice");
    let value = format!("controller.service.externalTrafficPolicy={policy}");
    let upgrade = ["upgrade", "sluice", &chart, "--namespace", SYSTEM, "--reuse-values", "--set", &value];
    suite.cluster.helm(&upgrade).await.map(|_| ())
}

async fn each_client_is_itself(suite: &Suite) -> Result<String> {
    let target = suite.ingress_target("address.test").await?;
    let limited = suite.ingress_target("limited.address.test").await?;
    let from = |target: &Target, client: &str| anyhow::Ok(Target { from: Some(client.parse()?), ..target.clone() });
    for client in CLIENTS {
        let target = from(&target, client)?;
        until(PATIENCE, "the client's address arrives", async || {
            let echo =
                target.get_with(&[("x-forwarded-for", "192.0.2.1"), ("x-real-ip", "192.0.2.1")]).await?.echo()?;
            for header in ["x-forwarded-for", "x-real-ip"] {
                let value = &echo["headers"][header];
                ensure!(*value == serde_json::json!([client]), "{header}: {value} instead of {client}");
            }
            Ok(())
        })
        .await?;
    }
    // One request and three more at once for each client, at the one data plane of the node that the load balancer chose.
    for client in CLIENTS {
        let limited = from(&limited, client)?;
        for number in 1..=4 {
            let status = limited.get().await?.status;
            ensure!(status == 200, "request {number} of {client} is answered with {status}");
        }
        let status = limited.get().await?.status;
        ensure!(status == 503, "request 5 of {client} is answered with {status}");
    }
    Ok(String::new())
}
