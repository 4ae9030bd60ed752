//! The ports that are listened on. One that cannot be bound is tried again without a new snapshot.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{TcpListener, UdpSocket};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;

use snapshot::{Protocol, ResourceId};
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

/// Workers close a port's sockets within microseconds, or when they get to it.
const CLOSING: Duration = Duration::from_secs(1);

/// TCP and UDP have ports of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Transport {
    /// Connections.
    Tcp,
    /// Datagrams.
    Udp,
}

impl Transport {
    /// What carries a protocol.
    pub(crate) fn of(protocol: &Protocol) -> Self {
        if *protocol == Protocol::Udp { Self::Udp } else { Self::Tcp }
    }
}

/// A port that is open or should be.
type Id = (Transport, u16);

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
    /// Whose.
    pub transport: Transport,
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
    opened: Vec<Sockets>,
    closed: Vec<Id>,
    _state: MutexGuard<'p, State>,
}

#[derive(Default)]
struct State {
    open: BTreeMap<Id, Open>,
    /// When ports were closed whose sockets workers may still hold.
    closed: BTreeMap<Id, Instant>,
    missing: BTreeMap<Id, Missing>,
    /// What of the snapshot is rejected for other reasons.
    others: Vec<Rejection>,
}

/// A port that is listened on.
enum Open {
    Tcp(Arc<Port>),
    Udp,
}

/// A port with a socket for each worker.
enum Sockets {
    Tcp(Arc<Port>, Vec<TcpListener>),
    Udp(u16, Vec<UdpSocket>),
}

/// A port that cannot be bound.
struct Missing {
    wanted: Wanted,
    reason: String,
}

impl Wanted {
    fn id(&self) -> Id {
        (self.transport, self.number)
    }
}

impl Sockets {
    fn open(&self) -> Open {
        match self {
            Self::Tcp(port, _) => Open::Tcp(port.clone()),
            Self::Udp(..) => Open::Udp,
        }
    }
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
        let ids: BTreeSet<Id> = wanted.iter().map(Wanted::id).collect();
        let closed: Vec<Id> = state.open.keys().filter(|id| !ids.contains(id)).copied().collect();
        state.open.retain(|id, _| ids.contains(id));
        state.closed.retain(|_, at| at.elapsed() < CLOSING);
        state.others = others;
        let before = std::mem::take(&mut state.missing);
        let mut opened = Vec::new();
        for wanted in wanted {
            match state.open.get(&wanted.id()) {
                Some(Open::Tcp(port)) => {
                    let before = port.tls.swap(wanted.tls.clone());
                    if let (Some(before), Some(now)) = (before, wanted.tls)
                        && now.asks_more_than(&before)
                    {
                        self.tell(|| Command::Renew(wanted.number));
                    }
                    continue;
                }
                Some(Open::Udp) => continue,
                None => {}
            }
            // Who is leaving opens nothing new.
            if self.is_draining() {
                continue;
            }
            let closed_at = state.closed.get(&wanted.id()).copied();
            match self.bind_patiently(&wanted, closed_at) {
                Ok(sockets) => {
                    state.open.insert(wanted.id(), sockets.open());
                    opened.push(sockets);
                }
                Err(error) => {
                    let reason = not_bound(&wanted, &error);
                    state.missing.insert(wanted.id(), Missing { wanted, reason });
                }
            }
        }
        state.closed.extend(closed.iter().map(|id| (*id, Instant::now())));
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
            Ok(sockets) => {
                tracing::info!(port = id.1, "the port could be bound at last");
                open.insert(*id, sockets.open());
                self.listen(sockets);
                false
            }
            Err(error) => {
                missing.reason = not_bound(&missing.wanted, &error);
                true
            }
        });
        self.publish(&state);
    }

    /// One that was closed a moment ago may still be open: it is tried again until all workers have heard of it.
    fn bind_patiently(&self, wanted: &Wanted, closed_at: Option<Instant>) -> io::Result<Sockets> {
        loop {
            match self.bind(wanted) {
                Err(error)
                    if error.kind() == io::ErrorKind::AddrInUse
                        && closed_at.is_some_and(|at| at.elapsed() < CLOSING) =>
                {
                    std::thread::sleep(Duration::from_millis(1));
                }
                bound => return bound,
            }
        }
    }

    fn bind(&self, wanted: &Wanted) -> io::Result<Sockets> {
        let (address, number, workers) = (self.shared.address, wanted.number, self.workers.len());
        Ok(match wanted.transport {
            Transport::Tcp => {
                let sockets = listen::bind(address, number, workers)?;
                Sockets::Tcp(Arc::new(Port { number, tls: ArcSwapOption::from(wanted.tls.clone()) }), sockets)
            }
            Transport::Udp => Sockets::Udp(number, listen::bind_udp(address, number, workers)?),
        })
    }

    fn listen(&self, sockets: Sockets) {
        // A worker that has ended listens on nothing.
        match sockets {
            Sockets::Tcp(port, sockets) => {
                for (worker, socket) in self.workers.iter().zip(sockets) {
                    let _ = worker.send(Command::Listen(port.clone(), socket));
                }
            }
            Sockets::Udp(port, sockets) => {
                for (worker, socket) in self.workers.iter().zip(sockets) {
                    let _ = worker.send(Command::Receive(port, socket));
                }
            }
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
        for sockets in self.opened {
            self.ports.listen(sockets);
        }
        for (transport, number) in self.closed {
            self.ports.tell(|| match transport {
                Transport::Tcp => Command::Unlisten(number),
                Transport::Udp => Command::Unreceive(number),
            });
        }
    }
}

fn not_bound(wanted: &Wanted, error: &io::Error) -> String {
    format!("port {} cannot be bound: {error}", wanted.number)
}
