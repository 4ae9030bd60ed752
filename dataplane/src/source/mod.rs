//! Where snapshots come from: a session with every controller replica, of which one feeds.
//!
//! ```text
//! discover -> addresses -> session (one task each) -> events -> run (one owner of what is held) -> apply
//!                                  ^------- orders, acks -------|
//! ```
//!
//! When the feeding session ends, another one is told to feed at once. While there is none, what is held is served on,
//! and a restarted data plane begins with what it kept on disk.

mod discover;
mod holding;
mod keep;
mod parts;
mod session;

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use snapshot::proto::{self, Ack, Hello};
use snapshot::{CAPABILITIES, MAX_HELLO, Snapshot};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::compile::Rejection;
use holding::Holding;
use keep::Keeper;
use session::{Event, Order, Session};

/// Events wait for the one owner of what is held; when so many do, sessions stop reading.
const EVENTS: usize = 16;

/// Room in bytes for what a Hello says besides what is held.
const HELLO_HEAD: usize = 4 << 10;

/// Where the controllers are and how to speak with them.
#[derive(Clone, Debug)]
pub struct Config {
    /// `NAME:PORT` (all addresses of the name are replicas) or `IP:PORT`, any number of them.
    pub controllers: Vec<String>,
    /// The ServiceAccount token, read for each connection because it rotates.
    pub token_file: PathBuf,
    /// The authority of the controllers' certificates in PEM, read for each connection.
    pub ca_file: PathBuf,
    /// Where the last good snapshot is kept. Without it a restart begins with nothing.
    pub state_dir: Option<PathBuf>,
}

/// Why there is no source.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// An entry of [`Config::controllers`] is not `NAME:PORT`.
    #[error("{0:?} is not NAME:PORT or IP:PORT")]
    Address(String),
    /// The system's resolver configuration cannot be used.
    #[error("cannot resolve names: {0}")]
    Resolver(String),
    /// The function that applies snapshots panicked.
    #[error("applying a snapshot failed")]
    Apply,
}

/// Keeps what the data plane runs up to date until dropped.
///
/// `apply` gets each new snapshot whole, on a blocking thread, never two at once. When it returns, `rejections` holds every
/// resource of this snapshot that cannot be taken, whose last good version is used instead; that may change later. The first
/// call may come from disk, before any controller was reached. `ready` and `rejections` are reported to the controllers.
pub async fn run<F>(
    config: Config,
    ready: watch::Receiver<bool>,
    rejections: watch::Receiver<Vec<Rejection>>,
    apply: F,
) -> Result<Infallible, SourceError>
where
    F: FnMut(Snapshot) + Send + 'static,
{
    let keeper = config.state_dir.as_deref().map(Keeper::new);
    let mut addresses = discover::watch(&config.controllers)?;
    let (events, mut inbox) = mpsc::channel(EVENTS);
    let mut source = Source {
        holding: Holding::default(),
        apply: Some(apply),
        acks: watch::Sender::new(Ack::default()),
        ready,
        rejections,
        keeper,
        instance: String::from_utf8_lossy(&crate::random::hex()).into_owned(),
        open: BTreeMap::new(),
        feeder: None,
    };
    source.report();
    if let Some(kept) = source.keeper.as_ref().and_then(Keeper::load) {
        source.holding = Holding::restored(kept);
        source.apply().await?;
    }
    let config = Arc::new(config);
    let mut tasks = JoinSet::new();
    let mut running = BTreeSet::new();
    loop {
        let wanted = addresses.borrow_and_update().clone();
        for address in wanted.difference(&running.clone()) {
            running.insert(*address);
            let session = Session {
                address: *address,
                config: config.clone(),
                hello: source.hello(false),
                acks: source.acks.subscribe(),
                wanted: addresses.clone(),
                events: events.clone(),
            };
            tasks.spawn(session.run());
        }
        tokio::select! {
            Some(event) = inbox.recv() => source.handle(event).await?,
            Some(ended) = tasks.join_next() => {
                if let Ok(address) = ended {
                    running.remove(&address);
                }
            }
            Ok(()) = source.ready.changed() => source.report(),
            Ok(()) = source.rejections.changed() => source.applied(),
            Ok(()) = addresses.changed() => (),
        }
    }
}

struct Source<F> {
    holding: Holding,
    /// Away only while it runs.
    apply: Option<F>,
    acks: watch::Sender<Ack>,
    ready: watch::Receiver<bool>,
    rejections: watch::Receiver<Vec<Rejection>>,
    keeper: Option<Keeper>,
    instance: String,
    /// Sessions that a controller answered.
    open: BTreeMap<SocketAddr, mpsc::Sender<Order>>,
    feeder: Option<SocketAddr>,
}

impl<F> Source<F>
where
    F: FnMut(Snapshot) + Send + 'static,
{
    async fn handle(&mut self, event: Event) -> Result<(), SourceError> {
        match event {
            Event::Opened(address, orders) => {
                self.open.insert(address, orders);
                self.choose_feeder();
            }
            Event::Closed(address) => {
                self.open.remove(&address);
                if self.feeder == Some(address) {
                    self.feeder = None;
                    self.choose_feeder();
                }
            }
            Event::Batch(address, batch) if self.feeder == Some(address) => self.receive(address, batch).await?,
            // From a session that was told to feed and then lost that: its batch is not against what is held now.
            Event::Batch(..) => (),
        }
        Ok(())
    }

    async fn receive(&mut self, feeder: SocketAddr, batch: proto::Batch) -> Result<(), SourceError> {
        match self.holding.receive(batch) {
            Ok(()) => self.apply().await,
            Err(error) => {
                tracing::warn!(%error, controller = %feeder, "starts over: everything will be sent again");
                self.open.remove(&feeder); // its session ends without orders, and begins anew
                self.feeder = None;
                self.choose_feeder();
                Ok(())
            }
        }
    }

    /// Hands over what is held.
    async fn apply(&mut self) -> Result<(), SourceError> {
        let mut apply = self.apply.take().ok_or(SourceError::Apply)?;
        let snapshot = self.holding.snapshot().clone();
        let applied = tokio::task::spawn_blocking(move || {
            apply(snapshot);
            apply
        });
        self.apply = Some(applied.await.map_err(|_| SourceError::Apply)?);
        self.applied();
        Ok(())
    }

    /// Notes what of that was taken, reports it and keeps it.
    fn applied(&mut self) {
        let rejections = self.rejections.borrow_and_update();
        self.holding
            .applied(rejections.iter().map(|rejected| (rejected.id.clone(), rejected.reason.clone())).collect());
        drop(rejections);
        self.report();
        if let Some(keeper) = &self.keeper {
            keeper.keep(self.holding.good());
        }
    }

    /// Tells every controller what is run.
    fn report(&mut self) {
        let ready = *self.ready.borrow_and_update();
        self.acks.send_replace(Ack {
            version: self.holding.version().map(Into::into).unwrap_or_default(),
            rejected: self.holding.rejected(),
            ready,
        });
    }

    fn choose_feeder(&mut self) {
        while self.feeder.is_none() && !self.open.is_empty() {
            // At random, so that the data planes spread over the replicas.
            let index = crate::random::below(self.open.len() as u64) as usize;
            let Some((address, orders)) = self.open.iter().nth(index).map(|(address, orders)| (*address, orders))
            else {
                return;
            };
            match orders.try_send(Order::Feed(self.hello(true))) {
                Ok(()) => {
                    tracing::info!(controller = %address, "feeds");
                    self.feeder = Some(address);
                }
                // Closed: its `Closed` is on the way.
                Err(_) => drop(self.open.remove(&address)),
            }
        }
    }

    fn hello(&self, feed: bool) -> Hello {
        Hello {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            instance: self.instance.clone(),
            capabilities: CAPABILITIES.iter().map(ToString::to_string).collect(),
            held: if feed { self.holding.held(MAX_HELLO - HELLO_HEAD) } else { Vec::new() },
            feed,
        }
    }
}
