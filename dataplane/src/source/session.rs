//! A session with one controller replica, begun again whenever it ends.

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use snapshot::proto::{Ack, Batch, ClientMessage, Hello, client_message, server_message};
use snapshot::{MAX_HELLO, MAX_MESSAGE, SERVER_NAME};
use tokio::sync::{mpsc, watch};
use tonic::Request;
use tonic::metadata::MetadataValue;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint};

use super::Config;
use super::parts::{PartError, Parts};

mod wire {
    #![allow(missing_docs, clippy::all)]
    tonic::include_proto!("sluice.v1");
}

use wire::stream_client::StreamClient;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// A controller that is silent for so long is asked, and given up without an answer: it is noticed within 8 s.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(3);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// A session that lived so long was a good one: the next may begin at once.
const GOOD_SESSION: Duration = Duration::from_secs(10);

/// What a session tells.
pub(super) enum Event {
    /// The controller has something to send; it waits for orders, and ends when their sender is dropped.
    Opened(SocketAddr, mpsc::Sender<Order>),
    Batch(SocketAddr, Batch),
    /// An opened session ended.
    Closed(SocketAddr),
}

/// What a session is told.
pub(super) enum Order {
    /// To ask for batches.
    Feed(Hello),
}

pub(super) struct Session {
    pub(super) address: SocketAddr,
    pub(super) config: Arc<Config>,
    /// Asks for nothing.
    pub(super) hello: Hello,
    pub(super) acks: watch::Receiver<Ack>,
    pub(super) wanted: watch::Receiver<BTreeSet<SocketAddr>>,
    pub(super) events: mpsc::Sender<Event>,
}

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
enum SessionError {
    #[error("cannot read {0}: {1}")]
    File(String, io::Error),
    #[error("the token is not one line of text")]
    Token,
    #[error("cannot connect: {0}")]
    Connect(String),
    #[error("{}: {}", .0.code(), .0.message())]
    Status(#[from] tonic::Status),
    #[error(transparent)]
    Parts(#[from] PartError),
}

impl Session {
    /// Keeps a session for as long as the address is wanted; returns the address.
    pub(super) async fn run(mut self) -> SocketAddr {
        let mut pause = FIRST_PAUSE;
        while self.wanted.borrow().contains(&self.address) {
            let begun = Instant::now();
            let mut opened = false;
            let ended = self.once(&mut opened).await;
            match &ended {
                Ok(()) => tracing::info!(controller = %self.address, "the session ended"),
                Err(error) => tracing::warn!(controller = %self.address, %error, "no session"),
            }
            if opened && self.events.send(Event::Closed(self.address)).await.is_err() {
                break;
            }
            pause = if begun.elapsed() >= GOOD_SESSION { FIRST_PAUSE } else { (pause * 2).min(LONGEST_PAUSE) };
            tokio::time::sleep(jittered(pause)).await;
        }
        self.address
    }

    async fn once(&mut self, opened: &mut bool) -> Result<(), SessionError> {
        let mut client = self.connect().await?;
        // Two suffice: one message under way while the next is made.
        let (outbound, outbox) = mpsc::channel(2);
        send(&outbound, client_message::Message::Hello(self.hello.clone())).await;
        let messages = futures::stream::unfold(outbox, |mut outbox| async { Some((outbox.recv().await?, outbox)) });
        let mut request = Request::new(messages);
        request.metadata_mut().insert("authorization", self.token()?);
        let mut inbound = client.subscribe(request).await?.into_inner();

        let ack = self.acks.borrow_and_update().clone();
        send(&outbound, client_message::Message::Ack(ack)).await;
        let (orders, mut order) = mpsc::channel(1);
        let mut parts = Parts::default();
        *opened = true;
        if self.events.send(Event::Opened(self.address, orders)).await.is_err() {
            return Ok(());
        }
        loop {
            tokio::select! {
                message = inbound.message() => {
                    let Some(message) = message? else { return Ok(()) };
                    // Anything else is from a newer controller, which must do without an answer.
                    if let Some(server_message::Message::Batch(part)) = message.message
                        && let Some(batch) = parts.add(part)?
                        && self.events.send(Event::Batch(self.address, batch)).await.is_err()
                    {
                        return Ok(());
                    }
                }
                order = order.recv() => match order {
                    Some(Order::Feed(hello)) => send(&outbound, client_message::Message::Hello(hello)).await,
                    None => return Ok(()),
                },
                changed = self.acks.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                    let ack = self.acks.borrow_and_update().clone();
                    send(&outbound, client_message::Message::Ack(ack)).await;
                }
            }
        }
    }

    async fn connect(&self) -> Result<StreamClient<tonic::transport::Channel>, SessionError> {
        let authority = Certificate::from_pem(read(&self.config.ca_file)?);
        let tls = ClientTlsConfig::new().ca_certificate(authority).domain_name(SERVER_NAME).timeout(CONNECT_TIMEOUT);
        let connect = |error: tonic::transport::Error| SessionError::Connect(chain(&error));
        let channel = Endpoint::from_shared(format!("https://{}", self.address))
            .and_then(|endpoint| endpoint.tls_config(tls))
            .map_err(connect)?
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .keep_alive_while_idle(true)
            .connect()
            .await
            .map_err(connect)?;
        Ok(StreamClient::new(channel).max_decoding_message_size(MAX_MESSAGE).max_encoding_message_size(MAX_HELLO))
    }

    fn token(&self) -> Result<MetadataValue<tonic::metadata::Ascii>, SessionError> {
        let token = String::from_utf8(read(&self.config.token_file)?).map_err(|_| SessionError::Token)?;
        let mut value: MetadataValue<_> =
            format!("Bearer {}", token.trim()).parse().map_err(|_| SessionError::Token)?;
        value.set_sensitive(true);
        Ok(value)
    }
}

/// A receiver that is gone means that the session ends, which its other half reports.
async fn send(outbound: &mpsc::Sender<ClientMessage>, message: client_message::Message) {
    let _ = outbound.send(ClientMessage { message: Some(message) }).await;
}

fn read(path: &std::path::Path) -> Result<Vec<u8>, SessionError> {
    std::fs::read(path).map_err(|error| SessionError::File(path.display().to_string(), error))
}

/// An error with all that lies behind it; tonic's own text says only that the transport failed.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

/// Between half of the pause and all of it, so that data planes do not come all at once.
fn jittered(pause: Duration) -> Duration {
    pause / 2 + pause.mul_f64(crate::random::below(1000) as f64 / 2000.0)
}
