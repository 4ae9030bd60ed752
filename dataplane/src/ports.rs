//! The ports that are listened on. One that cannot be bound is tried again without a new snapshot.

use std::collections::{BTreeMap, BTreeSet};
use std::net::TcpListener;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;

use snapshot::ResourceId;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::{Notify, watch};

use crate::background::Background;
use crate::compile::Rejection;
use crate::listen;
use crate::shared::{Phase, Port, Shared};
use crate::tls::PortTls;
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

/// A port that there should be.
pub(crate) struct Wanted {
    /// The port.
    pub number: u16,
    /// How handshakes are made; `None` on plain ports.
    pub tls: Option<Arc<PortTls>>,
    /// The listeners that are rejected while it cannot be bound.
    pub listeners: Vec<ResourceId>,
}

/// Sockets that are bound and not accepted from yet, and ports to give up. Nothing else is bound meanwhile.
#[must_use]
pub(crate) struct Change<'p> {
    ports: &'p Ports,
    opened: Vec<(Arc<Port>, Vec<TcpListener>)>,
    closed: Vec<u16>,
    _state: MutexGuard<'p, State>,
}

#[derive(Default)]
struct State {
    open: BTreeMap<u16, Arc<Port>>,
    missing: BTreeMap<u16, Missing>,
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
        let numbers: BTreeSet<u16> = wanted.iter().map(|wanted| wanted.number).collect();
        let closed: Vec<u16> = state.open.keys().filter(|number| !numbers.contains(number)).copied().collect();
        state.open.retain(|number, _| numbers.contains(number));
        state.others = others;
        let before = std::mem::take(&mut state.missing);
        let mut opened = Vec::new();
        for wanted in wanted {
            if let Some(port) = state.open.get(&wanted.number) {
                let before = port.tls.swap(wanted.tls.clone());
                if let (Some(before), Some(now)) = (before, wanted.tls)
                    && now.asks_more_than(&before)
                {
                    self.tell(|| Command::Renew(wanted.number));
                }
                continue;
            }
            // Who is leaving opens nothing new.
            if self.is_draining() {
                continue;
            }
            match self.bind(&wanted) {
                Ok((port, sockets)) => {
                    state.open.insert(port.number, port.clone());
                    opened.push((port, sockets));
                }
                Err(reason) => _ = state.missing.insert(wanted.number, Missing { wanted, reason }),
            }
        }
        if state.missing.keys().any(|number| !before.contains_key(number)) {
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
        missing.retain(|number, missing| match self.bind(&missing.wanted) {
            Ok((port, sockets)) => {
                tracing::info!(port = number, "the port could be bound at last");
                open.insert(*number, port.clone());
                self.listen(&port, sockets);
                false
            }
            Err(reason) => {
                missing.reason = reason;
                true
            }
        });
        self.publish(&state);
    }

    fn bind(&self, wanted: &Wanted) -> Result<(Arc<Port>, Vec<TcpListener>), String> {
        let number = wanted.number;
        let sockets = listen::bind(self.shared.address, number, self.workers.len())
            .map_err(|error| format!("port {number} cannot be bound: {error}"))?;
        Ok((Arc::new(Port { number, tls: ArcSwapOption::from(wanted.tls.clone()) }), sockets))
    }

    fn listen(&self, port: &Arc<Port>, sockets: Vec<TcpListener>) {
        for (worker, socket) in self.workers.iter().zip(sockets) {
            let _ = worker.send(Command::Listen(port.clone(), socket)); // a worker that has ended listens on nothing
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
        for (port, sockets) in self.opened {
            self.ports.listen(&port, sockets);
        }
        for number in self.closed {
            self.ports.tell(|| Command::Unlisten(number));
        }
    }
}
