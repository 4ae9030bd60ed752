//! The control side: starts workers, publishes snapshots to them, ends them.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use snapshot::{AccessLog, Kind, Resource, ResourceId, Snapshot};
use tokio::sync::watch;

use crate::admin::{self, Sources};
use crate::background::Background;
use crate::certificates::Certificates;
use crate::compile::{Compiler, Rejection};
use crate::dns::{LocalEndpoints, Resolution};
use crate::log::LogThread;
use crate::metrics::WorkerStats;
use crate::ports::{PortId, Ports, Wanted};
use crate::route::PortKind;
use crate::shared::{Greeting, Limits, Phase, Shared, State};
use crate::watch::ConnectionTimeouts;
use crate::worker::{Command, Handle};

/// How long connections may take to end once they are cut.
const CUTTING: Duration = Duration::from_secs(1);

/// How a data plane is set up.
#[derive(Clone, Debug)]
pub struct Options {
    /// The address on which listener ports are bound.
    pub address: IpAddr,
    /// Threads that serve requests; `None` is one per core that this process may use.
    pub workers: Option<usize>,
    /// Where health and metrics are served; `None` serves none.
    pub admin: Option<SocketAddr>,
    /// Client connections at once, over all workers.
    pub max_connections: usize,
    /// How long [`Proxy::drain`] keeps accepting, so that load balancers notice.
    pub drain_delay: Duration,
    /// How long a connection may be idle (default 75 s, as nginx).
    pub idle_timeout: Duration,
    /// How long the head of a request may take from its first byte (default 10 s).
    pub header_timeout: Duration,
    /// The same on ports that serve Ingresses (default 60 s, as ingress-nginx `client-header-timeout`).
    pub ingress_header_timeout: Duration,
    /// How long a client may take nothing of an answer, or send nothing of a body (default 60 s, as nginx).
    pub transfer_timeout: Duration,
    /// How long a UDP session may see no datagram in either direction before it ends (default 60 s, as Envoy).
    pub udp_idle_timeout: Duration,
    /// UDP sessions at once, over all workers; beyond, new ones take the place of old ones (default 16,384: each has a port
    /// of its own towards its endpoint, of the 28,000 that Linux gives out).
    pub max_udp_sessions: usize,
    /// How long a connection of a TCPRoute or TLSRoute may carry nothing in either direction (default 1 h).
    pub tunnel_timeout: Duration,
    /// Whether the names of backends may lead to this machine (default: no).
    pub local_endpoints: LocalEndpoints,
    /// The DNS server that is asked for the names of backends, over UDP and TCP; `None` asks those of the system.
    pub dns_server: Option<SocketAddr>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            address: IpAddr::from([0u16; 8]),
            workers: None,
            admin: None,
            max_connections: 65_536,
            drain_delay: Duration::from_secs(5),
            idle_timeout: Duration::from_secs(75),
            header_timeout: Duration::from_secs(10),
            ingress_header_timeout: Duration::from_secs(60),
            transfer_timeout: Duration::from_secs(60),
            udp_idle_timeout: Duration::from_secs(60),
            max_udp_sessions: 16_384,
            tunnel_timeout: Duration::from_secs(3600),
            local_endpoints: LocalEndpoints::default(),
            dns_server: None,
        }
    }
}

/// Why a data plane cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A thread or its runtime cannot be made.
    #[error("cannot start a thread: {0}")]
    Thread(io::Error),
    /// The admin address cannot be bound.
    #[error("cannot serve health and metrics on {0}: {1}")]
    Admin(SocketAddr, io::Error),
}

/// What [`Proxy::drain`] left behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drained {
    /// Connections, and UDP sessions, that were still busy at the deadline and were cut.
    pub cut: u64,
}

/// A running data plane. Dropping it ends it at once; see [`Proxy::drain`].
pub struct Proxy {
    workers: Vec<Handle>,
    /// Ends after the workers, whose last lines it writes.
    _log: LogThread,
    stats: Arc<[Arc<WorkerStats>]>,
    shared: Arc<Shared>,
    control: Mutex<Control>,
    ports: Arc<Ports>,
    resolution: Resolution,
    readiness: watch::Sender<bool>,
    admin: Option<SocketAddr>,
    drain_delay: Duration,
    /// Ends last: workers may still be looked at while they end.
    _background: Background,
}

/// What only the control side needs.
#[derive(Default)]
struct Control {
    compiler: Compiler,
    certificates: Certificates,
    /// States that were replaced, until the last request on them is over: they are dropped here, not by a worker.
    retired: Vec<Arc<State>>,
}

impl Proxy {
    /// Starts the workers. Nothing is listened on before the first [`Proxy::apply`].
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn start(options: Options) -> Result<Self, StartError> {
        Self::start_logging_to(options, io::stdout())
    }

    /// As [`Proxy::start`], with the access log written to `output` instead of standard output, on a thread of its own.
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn start_logging_to(options: Options, output: impl io::Write + Send + 'static) -> Result<Self, StartError> {
        raise_file_limit();
        let count =
            options.workers.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from)).max(1);
        let timeouts = ConnectionTimeouts {
            idle: options.idle_timeout,
            header: options.header_timeout,
            write: options.transfer_timeout,
        };
        let shared = Arc::new(Shared {
            state: ArcSwap::default(),
            phase: AtomicU8::new(Phase::Starting as u8),
            address: options.address,
            limits: Limits {
                connections: options.max_connections.max(1),
                timeouts,
                ingress_header: options.ingress_header_timeout,
                body: options.transfer_timeout,
                sessions_per_worker: options.max_udp_sessions.div_ceil(count),
                udp_idle: options.udp_idle_timeout,
                tunnel: options.tunnel_timeout,
            },
            open: AtomicUsize::new(0),
        });
        let stats: Arc<[_]> = (0..count).map(|_| Arc::new(WorkerStats::default())).collect();
        let (log, writer) = crate::log::channel(crate::log::WAITING);
        let writing = std::thread::Builder::new()
            .name("access-log".into())
            .spawn(|| writer.run(output))
            .map_err(StartError::Thread)?;
        let workers = stats.iter().enumerate().map(|(index, stats)| {
            Handle::start(index, shared.clone(), stats.clone(), log.clone()).map_err(StartError::Thread)
        });
        let workers: Vec<_> = workers.collect::<Result<_, _>>()?;
        let background = Background::start().map_err(StartError::Thread)?;
        let admin = match options.admin {
            Some(address) => {
                let sources = Sources { shared: shared.clone(), stats: stats.clone() };
                let bound = admin::start(&background, address, sources);
                Some(bound.map_err(|error| StartError::Admin(address, error))?)
            }
            None => None,
        };
        Ok(Self {
            ports: Ports::start(shared.clone(), &workers, &background),
            workers,
            _log: LogThread(Some(writing)),
            stats,
            shared,
            control: Mutex::default(),
            resolution: Resolution::start(&background, options.local_endpoints, options.dns_server),
            readiness: watch::Sender::new(false),
            admin,
            drain_delay: options.drain_delay,
            _background: background,
        })
    }

    /// Compiles a snapshot and serves it: new requests see all of it or nothing of it. Returns what was rejected; a
    /// rejected resource keeps its last good version, where there is one. See also [`Proxy::rejections`].
    pub fn apply(&self, snapshot: Snapshot) -> Vec<Rejection> {
        let mut control = self.control();
        let (table, mut rejections) = control.compiler.compile(&snapshot);
        let Control { compiler, certificates, .. } = &mut *control;
        rejections.extend(certificates.update(&snapshot, compiler.keys()));
        let (access_log, trusted_proxies, ingress_ports) = settings(&snapshot);
        let state = Arc::new(State {
            table,
            trusted_proxies,
            ingress_ports,
            session_key: compiler.clusters().key(),
            access_log,
            version: Some(snapshot.version()),
            applied: SystemTime::now(),
        });
        let listeners = |id| listeners_of(&snapshot, id).cloned().collect();
        let greeting = |number, kind| match kind {
            PortKind::Http => Greeting::Http,
            PortKind::Tls => Greeting::Tls(control.certificates.of_port(number).unwrap_or_default()),
            PortKind::Tcp => Greeting::Tcp,
        };
        let tcp = state.table.ports().map(|(number, kind)| (PortId::Tcp(number), greeting(number, kind)));
        let udp = state.table.udp_ports().map(|number| (PortId::Udp(number), Greeting::None));
        let wanted =
            tcp.chain(udp).map(|(id, greeting)| Wanted { id, greeting: Arc::new(greeting), listeners: listeners(id) });
        let change = self.ports.prepare(wanted.collect(), rejections);
        let before = self.shared.state.swap(state);
        change.carry_out();
        control.retired.push(before);
        control.retired.retain(|state| Arc::strong_count(state) > 1);
        self.retain_metrics(&snapshot);
        self.resolution.follow(control.compiler.clusters());
        let (from, to) = (Phase::Starting as u8, Phase::Ready as u8);
        if self.shared.phase.compare_exchange(from, to, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            self.readiness.send_replace(true);
        }
        self.rejections().borrow().clone()
    }

    /// What of the applied snapshot is not in use, now and whenever that changes: a port that cannot be bound is tried again,
    /// within 10 s each time, and its listeners are rejected until then.
    pub fn rejections(&self) -> watch::Receiver<Vec<Rejection>> {
        self.ports.rejections()
    }

    /// Whether it serves a snapshot and is not draining.
    pub fn ready(&self) -> bool {
        self.shared.phase.load(Ordering::Relaxed) == Phase::Ready as u8
    }

    /// [`Proxy::ready`], and when it changes.
    pub fn readiness(&self) -> watch::Receiver<bool> {
        self.readiness.subscribe()
    }

    /// Where health and metrics are served.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin
    }

    /// Ends without failing a request, within `deadline`: says that it is not ready, keeps accepting for a while as answers
    /// ask clients to leave, stops accepting, lets what is under way finish, and cuts what is left at the deadline.
    pub async fn drain(&self, deadline: Duration) -> Drained {
        let end = tokio::time::Instant::now() + deadline;
        self.shared.phase.store(Phase::Draining as u8, Ordering::Relaxed);
        self.readiness.send_replace(false);
        self.tell(|| Command::Announce);
        // Even a short deadline leaves most of its time to requests under way.
        tokio::time::sleep(self.drain_delay.min(deadline / 3)).await;
        self.tell(|| Command::Finish);
        while self.open_connections() + self.open_sessions() > 0 && tokio::time::Instant::now() < end {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let cut = self.open_connections() + self.open_sessions();
        self.tell(|| Command::Cut);
        // What is cut is reset, counted and logged by the workers, for which they have to live.
        let end = tokio::time::Instant::now() + CUTTING;
        while self.open_connections() + self.open_sessions() > 0 && tokio::time::Instant::now() < end {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Drained { cut }
    }

    /// Client connections at present.
    pub fn open_connections(&self) -> u64 {
        self.stats.iter().map(|stats| stats.open.get()).sum()
    }

    /// UDP sessions at present.
    pub fn open_sessions(&self) -> u64 {
        self.stats.iter().map(|stats| stats.sessions_open.get()).sum()
    }

    fn control(&self) -> MutexGuard<'_, Control> {
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, command: impl Fn() -> Command) {
        self.workers.iter().for_each(|worker| worker.send(command()));
    }

    fn retain_metrics(&self, snapshot: &Snapshot) {
        let rules: BTreeSet<&str> = snapshot
            .iter()
            .filter_map(|(_, hashed)| match hashed.resource().as_ref() {
                Resource::Route(route) => Some(route.rules.iter().map(|rule| rule.name.as_str())),
                _ => None,
            })
            .flatten()
            .collect();
        let l4_routes = snapshot.iter().filter_map(|(_, hashed)| match hashed.resource().as_ref() {
            Resource::L4Route(route) => Some(route.name.as_str()),
            _ => None,
        });
        let l4_routes = l4_routes.collect();
        self.stats.iter().for_each(|stats| stats.retain(&rules, &l4_routes));
    }
}

fn listeners_of(snapshot: &Snapshot, id: PortId) -> impl Iterator<Item = &ResourceId> {
    snapshot.iter().filter_map(move |(name, hashed)| match hashed.resource().as_ref() {
        Resource::Listener(listener) if PortId::of(listener) == id => Some(name),
        _ => None,
    })
}

fn settings(snapshot: &Snapshot) -> (bool, Vec<ipnet::IpNet>, Vec<u16>) {
    let settings = snapshot.get(&ResourceId::new(Kind::Settings, "settings"));
    match settings.map(|settings| settings.resource().as_ref()) {
        Some(Resource::Settings(settings)) => {
            let logs = settings.access_log == AccessLog::Json;
            (logs, settings.trusted_proxies.clone(), settings.ingress_ports.clone())
        }
        _ => (false, Vec::new(), Vec::new()),
    }
}

/// Container runtimes start processes with 1,024 descriptors, of which a connection needs one or two, and leave it to them to
/// ask for as many as they may have.
fn raise_file_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return;
    }
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "the limit of open files stays as it is; connections beyond it are not accepted");
    }
}
