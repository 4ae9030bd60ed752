//! The ports that are listened on. One that cannot be bound is tried again without a new snapshot.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::mem::discriminant;
use std::net::{TcpListener, UdpSocket};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;

use snapshot::{Listener, Protocol, ResourceId};
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::{Notify, watch};

use crate::background::Background;
use crate::compile::Rejection;
use crate::listen;
use crate::shared::{Greeting, Phase, Port, Shared};
use crate::worker::{Command, Handle};

/// A port that cannot be bound is mostly still held by a predecessor that is about to end.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// All ports, and what of the applied snapshot is rejected: part of that ends when a port can be bound at last.
pub(crate) struct Ports {
    shared: Arc<Shared>,
    workers: Vec<UnboundedSender<Command>>,
    state: Mutex<State>,
    rejections: watch::Sender<Vec<Rejection>>,
    newly_missing: Notify,
}

/// A port. TCP and UDP have ports of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum PortId {
    Tcp(u16),
    Udp(u16),
}

impl PortId {
    /// The port of a listener.
    pub(crate) fn of(listener: &Listener) -> Self {
        match listener.protocol {
            Protocol::Udp => Self::Udp(listener.port),
            _ => Self::Tcp(listener.port),
        }
    }
}

impl fmt::Display for PortId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(number) => write!(f, "{number}"),
            Self::Udp(number) => write!(f, "{number}/udp"),
        }
    }
}

/// A port that there should be.
pub(crate) struct Wanted {
    /// The port.
    pub id: PortId,
    /// How its connections begin.
    pub greeting: Arc<Greeting>,
    /// The listeners that are rejected while it cannot be bound.
    pub listeners: Vec<ResourceId>,
}

/// Sockets that are bound and not accepted from yet, and ports to give up. Nothing else is bound meanwhile.
#[must_use]
pub(crate) struct Change<'p> {
    ports: &'p Ports,
    opened: Vec<Opened>,
    closed: Vec<PortId>,
    _state: MutexGuard<'p, State>,
}

/// A port that was bound, with a socket for each worker.
enum Opened {
    Tcp(Arc<Port>, Vec<TcpListener>),
    Udp(u16, Vec<UdpSocket>),
}

impl Opened {
    /// What is known of the port while it is open; nothing of one for datagrams.
    fn port(&self) -> Option<Arc<Port>> {
        match self {
            Opened::Tcp(port, _) => Some(port.clone()),
            Opened::Udp(..) => None,
        }
    }
}

#[derive(Default)]
struct State {
    open: BTreeMap<PortId, Option<Arc<Port>>>,
    missing: BTreeMap<PortId, Missing>,
    /// What of the snapshot is rejected for other reasons.
    others: Vec<Rejection>,
}

/// A port that cannot be bound.
struct Missing {
    wanted: Wanted,
    reason: String,
}

impl Ports {
    /// No port yet. Those that cannot be bound are tried again on the background thread.
    pub(crate) fn start(shared: Arc<Shared>, workers: &[Handle], background: &Background) -> Arc<Self> {
        let ports = Arc::new(Self {
            shared,
            workers: workers.iter().map(Handle::commands).collect(),
            state: Mutex::default(),
            rejections: watch::Sender::new(Vec::new()),
            newly_missing: Notify::new(),
        });
        background.spawn(ports.clone().retry());
        ports
    }

    /// Binds what is new of the ports of a snapshot, of which `others` is rejected for reasons of its own. A port that cannot
    /// be bound is rejected with each of its listeners.
    pub(crate) fn prepare(&self, wanted: Vec<Wanted>, others: Vec<Rejection>) -> Change<'_> {
        let mut state = self.state();
        let ids: BTreeSet<PortId> = wanted.iter().map(|wanted| wanted.id).collect();
        let closed: Vec<PortId> = state.open.keys().filter(|id| !ids.contains(id)).copied().collect();
        state.open.retain(|id, _| ids.contains(id));
        state.others = others;
        let before = std::mem::take(&mut state.missing);
        let mut opened = Vec::new();
        for wanted in wanted {
            if let Some(open) = state.open.get(&wanted.id) {
                let Some(port) = open else { continue };
                let before = port.greeting.swap(wanted.greeting.clone());
                let outdated = match (&*before, &*wanted.greeting) {
                    (Greeting::Tls(before), Greeting::Tls(now)) => now.asks_more_than(before),
                    (before, now) => discriminant(before) != discriminant(now),
                };
                if outdated {
                    self.tell(|| Command::Renew(port.number));
                }
                continue;
            }
            // Who is leaving opens nothing new.
            if self.is_draining() {
                continue;
            }
            match self.bind(&wanted) {
                Ok(bound) => {
                    state.open.insert(wanted.id, bound.port());
                    opened.push(bound);
                }
                Err(reason) => _ = state.missing.insert(wanted.id, Missing { wanted, reason }),
            }
        }
        if state.missing.keys().any(|id| !before.contains_key(id)) {
            self.newly_missing.notify_one();
        }
        self.publish(&state);
        Change { ports: self, opened, closed, _state: state }
    }

    /// What of the applied snapshot is rejected, now and whenever that changes.
    pub(crate) fn rejections(&self) -> watch::Receiver<Vec<Rejection>> {
        self.rejections.subscribe()
    }

    async fn retry(self: Arc<Self>) {
        let mut pause = FIRST_PAUSE;
        loop {
            let any = !self.state().missing.is_empty();
            tokio::select! {
                () = self.newly_missing.notified() => pause = FIRST_PAUSE,
                () = tokio::time::sleep(pause), if any => {
                    self.try_missing();
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }

    fn try_missing(&self) {
        let mut state = self.state();
        if self.is_draining() {
            state.missing.clear();
            return;
        }
        let State { open, missing, .. } = &mut *state;
        missing.retain(|id, missing| match self.bind(&missing.wanted) {
            Ok(opened) => {
                tracing::info!(port = %id, "the port could be bound at last");
                open.insert(*id, opened.port());
                self.listen(opened);
                false
            }
            Err(reason) => {
                missing.reason = reason;
                true
            }
        });
        self.publish(&state);
    }

    fn bind(&self, wanted: &Wanted) -> Result<Opened, String> {
        let (address, workers) = (self.shared.address, self.workers.len());
        let bound = match wanted.id {
            PortId::Tcp(number) => listen::bind(address, number, workers).map(|sockets| {
                Opened::Tcp(Arc::new(Port { number, greeting: ArcSwap::from(wanted.greeting.clone()) }), sockets)
            }),
            PortId::Udp(number) => {
                listen::bind_udp(address, number, workers).map(|sockets| Opened::Udp(number, sockets))
            }
        };
        bound.map_err(|error| format!("port {} cannot be bound: {error}", wanted.id))
    }

    fn listen(&self, opened: Opened) {
        let commands: Vec<_> = match opened {
            Opened::Tcp(port, sockets) => {
                sockets.into_iter().map(|socket| Command::Listen(port.clone(), socket)).collect()
            }
            Opened::Udp(number, sockets) => {
                sockets.into_iter().map(|socket| Command::Receive(number, socket)).collect()
            }
        };
        for (worker, command) in self.workers.iter().zip(commands) {
            let _ = worker.send(command); // a worker that has ended listens on nothing
        }
    }

    fn tell(&self, command: impl Fn() -> Command) {
        for worker in &self.workers {
            let _ = worker.send(command()); // as above
        }
    }

    fn publish(&self, state: &State) {
        let of_port = |missing: &Missing| {
            let reason = missing.reason.clone();
            missing.wanted.listeners.clone().into_iter().map(move |id| Rejection { id, reason: reason.clone() })
        };
        let all: Vec<_> = state.others.iter().cloned().chain(state.missing.values().flat_map(of_port)).collect();
        self.rejections.send_if_modified(|current| {
            let changed = *current != all;
            *current = all;
            changed
        });
    }

    fn is_draining(&self) -> bool {
        self.shared.phase.load(Ordering::Relaxed) == Phase::Draining as u8
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Change<'_> {
    /// Accepts on the new ports, and stops accepting on those that are gone.
    pub(crate) fn carry_out(self) {
        for opened in self.opened {
            self.ports.listen(opened);
        }
        for id in self.closed {
            self.ports.tell(|| match id {
                PortId::Tcp(number) => Command::Unlisten(number),
                PortId::Udp(number) => Command::Unreceive(number),
            });
        }
    }
}
