//! A hundred WebSockets that are open while everything else happens.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::manifests::ingress;
use crate::suite::Suite;
use crate::websocket::WebSocket;

const COUNT: usize = 100;
/// Between two messages; much less than the read timeout, at which a proxy may end a silent tunnel.
const PAUSE: Duration = Duration::from_secs(5);

pub async fn open(suite: &mut Suite) -> Result<String> {
    suite.cluster.apply(&ingress("chat", "chat.test", "chat", &[], None)).await?;
    let target = suite.ingress_target("chat.test").await?;
    suite.answers_everywhere(&target, "chat").await?;
    let (end, ended) = watch::channel(());
    let mut sockets = JoinSet::new();
    for number in 0..COUNT {
        let mut socket = WebSocket::open(&target).await.with_context(|| format!("socket {number}"))?;
        socket.echo("hello").await?;
        let mut ended = ended.clone();
        sockets.spawn(async move {
            let mut messages = 1;
            // Until the channel is closed.
            while timeout(PAUSE, ended.changed()).await.is_err() {
                socket.echo(&format!("{number} {messages}")).await?;
                messages += 1;
            }
            socket.echo("goodbye").await?;
            Ok(messages + 1)
        });
    }
    suite.sockets = Some((end, sockets));
    Ok(format!("{COUNT} open"))
}

pub async fn alive(suite: &mut Suite) -> Result<String> {
    if suite.sockets.is_none() {
        open(suite).await?;
    }
    let (end, sockets) = suite.sockets.take().context("no sockets")?;
    drop(end);
    let (mut messages, mut dead) = (0, Vec::new());
    for outcome in sockets.join_all().await {
        match outcome {
            Ok(count) => messages += count,
            Err(error) => dead.push(format!("{error:#}")),
        }
    }
    if !dead.is_empty() {
        bail!("{} of {COUNT} died: {dead:?}", dead.len());
    }
    Ok(format!("all {COUNT} live after {messages} messages"))
}
