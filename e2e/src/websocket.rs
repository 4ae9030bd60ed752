//! WebSockets that are opened once and asked again and again.

use anyhow::{Context as _, Result, ensure};
use futures::{SinkExt, StreamExt};
use std::time::Duration;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{WebSocketStream, client_async};

use crate::client::{Stream, Target, connect};

pub struct WebSocket(WebSocketStream<Box<dyn Stream>>);

impl WebSocket {
    pub async fn open(target: &Target) -> Result<WebSocket> {
        let (stream, _) = connect(target).await?;
        let (socket, _) = client_async(format!("ws://{}{}", target.host, target.path), stream).await?;
        Ok(WebSocket(socket))
    }

    /// Sends a message and fails unless it comes back.
    pub async fn echo(&mut self, text: &str) -> Result<()> {
        let exchange = async {
            self.0.send(Message::text(text)).await?;
            anyhow::Ok(self.0.next().await.context("closed")??)
        };
        let answer = timeout(Duration::from_secs(10), exchange).await.context("timeout")??;
        ensure!(answer == Message::text(text), "another message came back");
        Ok(())
    }
}
