//! One worker: a thread with its own runtime, sockets, pools and counters. Requests never leave it.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::FutureExt;
use hyper_util::rt::TokioTimer;
use snapshot::BackendProtocol;
use tokio::net::{TcpListener, UdpSocket};
use tokio::runtime::LocalOptions;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;

use crate::clock::{Coarse, TICK};
use crate::cluster::Cluster;
use crate::connection;
use crate::exchange::Record;
use crate::l4;
use crate::listen;
use crate::local::LocalExec;
use crate::log::AccessLog;
use crate::metrics::{RuleStats, WorkerStats};
use crate::reason::Reason;
use crate::route::Rule;
use crate::shared::{Phase, Port, Shared, State};
use crate::udp;
use crate::upstream::{ByAddress, Connector, Pool, RetryBudget};
use crate::watch::{ConnectionTimeouts, Signal, Watch};

/// Most header lines of a request: what hyper's parser of HTTP/1 has room for on its stack unless it is told otherwise.
pub(crate) const MAX_HEADERS: usize = 100;
/// Largest head of a request: what nginx takes with its four large buffers.
const MAX_HEAD: usize = 32 * 1024;
/// HTTP/1: most that is buffered of one connection in each direction. hyper's parser needs room for the largest head.
const MAX_HTTP1_BUFFER: usize = 40 * 1024;
/// HTTP/2: what a client may have open at once, and what of it is buffered.
pub(crate) const MAX_STREAMS: u32 = 100;
/// HTTP/2: what is buffered of each response, so that a client that does not read holds little; a piece of up to 64 KiB may come on top.
const SEND_BUFFER: usize = 16 * 1024;
const STREAM_WINDOW: u32 = 64 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// HTTP/2: resets that may wait to be noticed (CVE-2023-44487), and those that our own errors may cause (CVE-2025-8671).
const MAX_PENDING_RESETS: usize = 64;
const MAX_ERROR_RESETS: usize = 128;
/// HTTP/2: a client that does not answer a ping for so long is gone.
const PING_EVERY: Duration = Duration::from_secs(30);
const PING_WITHIN: Duration = Duration::from_secs(20);

/// The state as requests hold it: counted per worker, because counting them all in the `Arc` would bounce its cache line
/// between the workers' cores.
pub type Current = Rc<Arc<State>>;

/// What the control thread asks of a worker.
pub enum Command {
    /// Accept on this socket.
    Listen(Arc<Port>, std::net::TcpListener),
    /// Stop accepting on this port and let its connections finish.
    Unlisten(u16),
    /// Let this port's connections finish: more is asked of clients now than was of theirs, or they begin in another way.
    Renew(u16),
    /// Receive datagrams of this port on this socket.
    Receive(u16, std::net::UdpSocket),
    /// Close this port for datagrams.
    Unreceive(u16),
    /// Let connections of HTTP/2 finish; those of HTTP/1.1 are told with their next answer.
    Announce,
    /// Stop accepting on all ports and let all connections finish.
    Finish,
    /// End what is left.
    Cut,
    /// End the thread.
    Stop,
}

/// A worker's own state.
pub struct Worker {
    shared: Arc<Shared>,
    /// What it counts.
    pub stats: Arc<WorkerStats>,
    /// Its connections to backends.
    pub pool: Pool,
    /// Its retries.
    pub retries: RetryBudget,
    /// Its clients' datagrams.
    pub udp: udp::Sessions,
    /// Copies of requests that are under way.
    pub mirrors: Cell<usize>,
    /// How it serves HTTP/1.1.
    pub http1: hyper::server::conn::http1::Builder,
    /// How it serves HTTP/2.
    pub http2: hyper::server::conn::http2::Builder<LocalExec>,
    /// Without TLS all clusters of a protocol are connected to in the same way.
    plain: (Arc<Connector>, Arc<Connector>),
    /// By address of the TLS settings, which each entry keeps alive.
    connectors: RefCell<ByAddress<usize, Arc<Connector>>>,
    log: AccessLog,
    state: RefCell<Current>,
    /// The counters of the rules of `state`, by the rule's address.
    rules: RefCell<ByAddress<usize, Arc<RuleStats>>>,
    connections: RefCell<HashMap<u64, Arc<Watch>>>,
    /// Whether connections that appear only now have to finish as well.
    finishing: Cell<bool>,
    next_connection: Cell<u64>,
}

/// The control thread's end of a worker.
pub struct Handle {
    commands: UnboundedSender<Command>,
    thread: Option<std::thread::JoinHandle<()>>,
}

/// Keeps a connection in its worker's list.
pub struct Registered<'w> {
    worker: &'w Worker,
    id: u64,
}

impl Handle {
    /// Starts a worker.
    ///
    /// # Errors
    /// The thread or its runtime cannot be made.
    pub fn start(
        index: usize,
        shared: Arc<Shared>,
        stats: Arc<WorkerStats>,
        log: crate::log::LogSender,
    ) -> std::io::Result<Self> {
        let (commands, received) = unbounded_channel();
        let (started, result) = std::sync::mpsc::sync_channel(1);
        let thread = std::thread::Builder::new().name(format!("worker-{index}")).spawn(move || {
            match tokio::runtime::Builder::new_current_thread().enable_all().build_local(LocalOptions::default()) {
                Ok(runtime) => {
                    let _ = started.send(Ok(()));
                    runtime.block_on(run(Rc::new(Worker::new(shared, stats, log)), received));
                }
                Err(error) => _ = started.send(Err(error)),
            }
        })?;
        result.recv().map_err(std::io::Error::other)??;
        Ok(Self { commands, thread: Some(thread) })
    }

    /// Where [`Handle::send`] sends to.
    pub fn commands(&self) -> UnboundedSender<Command> {
        self.commands.clone()
    }

    /// Asks something of the worker; a worker that has ended ignores it.
    pub fn send(&self, command: Command) {
        let _ = self.commands.send(command);
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.send(Command::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn run(worker: Rc<Worker>, mut commands: UnboundedReceiver<Command>) {
    // A port is closed by dropping its end.
    let mut listeners: HashMap<u16, oneshot::Sender<()>> = HashMap::new();
    let mut receivers: HashMap<u16, oneshot::Sender<()>> = HashMap::new();
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            command = commands.recv() => match command {
                Some(Command::Listen(port, socket)) => match TcpListener::from_std(socket) {
                    Ok(listener) => {
                        let (open, closed) = oneshot::channel();
                        listeners.insert(port.number, open);
                        tokio::task::spawn_local(accept(worker.clone(), port, listener, closed));
                    }
                    Err(error) => tracing::error!(port = port.number, %error, "cannot accept on a bound port"),
                },
                Some(Command::Unlisten(port)) => {
                    listeners.remove(&port);
                    worker.signal(Signal::Finish, |watch| watch.port == port);
                }
                Some(Command::Renew(port)) => _ = worker.signal(Signal::Finish, |watch| watch.port == port),
                Some(Command::Receive(port, socket)) => match UdpSocket::from_std(socket) {
                    Ok(listener) => {
                        let (open, closed) = oneshot::channel();
                        receivers.insert(port, open);
                        tokio::task::spawn_local(udp::receive(worker.clone(), port, listener, closed));
                    }
                    Err(error) => tracing::error!(port, %error, "cannot receive on a bound port"),
                },
                Some(Command::Unreceive(port)) => _ = receivers.remove(&port),
                Some(Command::Announce) => _ = worker.signal(Signal::Finish, Watch::is_multiplexed),
                Some(Command::Finish) => {
                    listeners.clear();
                    worker.finishing.set(true);
                    worker.signal(Signal::Finish, |_| true);
                }
                Some(Command::Cut) => {
                    worker.signal(Signal::Cut, |_| true);
                    worker.udp.cut(&worker);
                }
                Some(Command::Stop) | None => break,
            },
            _ = ticks.tick() => worker.tick(),
        }
    }
}

/// Accepts until `closed`, and then still those that the kernel has accepted for us.
async fn accept(worker: Rc<Worker>, port: Arc<Port>, listener: TcpListener, mut closed: oneshot::Receiver<()>) {
    let mut closing = false;
    loop {
        let accepted = tokio::select! {
            accepted = listen::accept(&listener), if !closing => Some(accepted),
            _ = &mut closed, if !closing => {
                closing = true;
                continue;
            }
            else => listen::accept(&listener).now_or_never(),
        };
        let Some((stream, peer)) = accepted else { return };
        worker.stats.accepted.add(1);
        worker.shared.open.fetch_add(1, Ordering::Relaxed);
        worker.stats.open.add(1);
        let serving = worker.clone();
        let port = port.clone();
        tokio::task::spawn_local(async move {
            connection::serve(serving.clone(), stream, peer, port).await;
            serving.stats.open.sub(1);
            serving.shared.open.fetch_sub(1, Ordering::Relaxed);
        });
        // The kernel chooses the worker of a connection, so none refuses what another would have room for.
        if worker.is_full() {
            worker.stats.accept_pauses.add(1);
        }
        while worker.is_full() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Worker {
    fn new(shared: Arc<Shared>, stats: Arc<WorkerStats>, log: crate::log::LogSender) -> Self {
        let mut http1 = hyper::server::conn::http1::Builder::new();
        // One contiguous write per answer. hyper's `pipeline_flush` would give the same, but it also lifts the bound on what
        // is buffered for a client that does not read, and loses answers to requests that it cannot parse.
        http1.max_header_size(MAX_HEAD).max_buf_size(MAX_HTTP1_BUFFER).writev(false);
        let mut http2 = hyper::server::conn::http2::Builder::new(LocalExec);
        http2
            .timer(TokioTimer::new())
            .max_concurrent_streams(MAX_STREAMS)
            .max_header_list_size(MAX_HEAD as u32)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_send_buf_size(SEND_BUFFER)
            .max_pending_accept_reset_streams(MAX_PENDING_RESETS)
            .max_local_error_reset_streams(MAX_ERROR_RESETS)
            .keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_WITHIN);
        Self {
            state: RefCell::new(Rc::new(shared.state.load_full())),
            udp: udp::Sessions::new(shared.limits.sessions_per_worker, shared.limits.udp_idle),
            shared,
            pool: Pool::new(stats.clone()),
            stats,
            retries: RetryBudget::default(),
            mirrors: Cell::new(0),
            http1,
            http2,
            plain: (Arc::new(Connector::new(false, None)), Arc::new(Connector::new(true, None))),
            connectors: RefCell::default(),
            log: AccessLog::new(log),
            rules: RefCell::default(),
            connections: RefCell::default(),
            finishing: Cell::new(false),
            next_connection: Cell::new(0),
        }
    }

    /// What is served now. A request asks once and lives on the answer.
    pub fn state(&self) -> Current {
        let current = self.shared.state.load();
        let mut held = self.state.borrow_mut();
        if !Arc::ptr_eq(&current, &held) {
            *held = Rc::new(Arc::clone(&current));
            self.rules.borrow_mut().clear();
        }
        held.clone()
    }

    /// Whether the workers together serve as many connections as they may.
    fn is_full(&self) -> bool {
        self.shared.open.load(Ordering::Relaxed) >= self.shared.limits.connections
    }

    /// Whether answers ask the client to leave.
    pub fn is_draining(&self) -> bool {
        self.shared.phase.load(Ordering::Relaxed) >= Phase::Draining as u8
    }

    /// Whether what is not under way yet has to go elsewhere.
    pub fn is_finishing(&self) -> bool {
        self.finishing.get()
    }

    /// How long a client may send nothing of a body.
    pub fn body_timeout(&self) -> Duration {
        self.shared.limits.body
    }

    /// How long a connection without HTTP may carry nothing.
    pub fn tunnel_timeout(&self) -> Duration {
        self.shared.limits.tunnel
    }

    /// How this cluster's endpoints are connected to.
    ///
    /// # Errors
    /// [`Reason::UpstreamTls`] when its TLS settings cannot be used, as the rejection of the cluster said.
    pub fn connector(&self, cluster: &Cluster) -> Result<Arc<Connector>, Reason> {
        cluster.with_config(|config| {
            let http2 = match &config.cluster.protocol {
                BackendProtocol::Http1 | BackendProtocol::Tcp => return Ok(self.plain.0.clone()),
                BackendProtocol::Http2 => return Ok(self.plain.1.clone()),
                BackendProtocol::Https(_) | BackendProtocol::Tls(_) => false,
                BackendProtocol::Http2Tls(_) => true,
                // Datagrams need no connection: nobody asks.
                BackendProtocol::Udp => return Err(Reason::Internal),
            };
            let tls = config.tls.as_ref().ok_or(Reason::UpstreamTls)?;
            let mut connectors = self.connectors.borrow_mut();
            let key = Arc::as_ptr(tls).addr();
            if let Some(connector) = connectors.get(&key) {
                return Ok(connector.clone());
            }
            // What no pooled connection uses any more belongs to a configuration of the past.
            connectors.retain(|_, connector| Arc::strong_count(connector) > 1);
            let connector = Arc::new(Connector::new(http2, Some(tls.clone())));
            connectors.insert(key, connector.clone());
            Ok(connector)
        })
    }

    /// Adds a connection to the list that the sweep looks at.
    pub fn register(&self, watch: &Arc<Watch>) -> Registered<'_> {
        let id = self.next_connection.get();
        self.next_connection.set(id + 1);
        self.connections.borrow_mut().insert(id, watch.clone());
        if self.finishing.get() {
            watch.signal(Signal::Finish);
        }
        Registered { worker: self, id }
    }

    /// Counts and logs an exchange that is over.
    pub fn finished(&self, record: &Record, took: Duration) {
        self.stats.in_flight.sub(1);
        let status = record.status.unwrap_or_default();
        let bytes_in = record.upload.as_ref().map_or(0, |upload| upload.bytes());
        let count = |stats: &RuleStats| stats.count(status, record.reason, took, bytes_in, record.bytes_out);
        match &record.rule {
            Some(rule) => self.with_rule_stats(rule, count),
            None => count(&self.stats.unrouted),
        }
        if self.state.borrow().access_log {
            self.log.line(record, took, &self.stats);
        }
    }

    /// Counts and logs a request that the parser of HTTP/1.1 refused: nothing is known of it but its client.
    pub fn parser_refused(&self, client: IpAddr, reason: Reason) {
        self.stats.unrouted.count(reason.status(), Some(reason), Duration::ZERO, 0, 0);
        // It may be the first that this worker sees of a snapshot.
        if self.state().access_log {
            self.log.parser_refused(client, reason, &self.stats);
        }
    }

    /// Counts a request that its client cancelled before it had a status. A client that does little else gets no more.
    pub fn cancelled(&self, watch: &Watch) {
        watch.request_cancelled();
        if watch.cancels_too_much() && watch.signal(Signal::Finish) {
            self.stats.cancelling.add(1);
        }
    }

    /// Counts and logs a UDP session that is over.
    pub fn session_over(&self, session: &udp::Session, reason: Option<Reason>) {
        let (up, down) = (session.up.bytes.get(), session.down.bytes.get());
        self.stats.l4_route(&session.route()).count(reason, up, down);
        if self.state.borrow().access_log {
            self.log.session(session, reason, &self.stats);
        }
    }

    /// Counts and logs a connection without HTTP that is over.
    pub fn connection_finished(&self, record: &l4::Record, took: Duration) {
        let route = record.route.as_ref().map_or_else(|| "".into(), |route| route.name.clone());
        self.stats.l4_route(&route).count(record.reason, record.bytes_in, record.bytes_out);
        // What is refused at once may be the first that this worker sees of a snapshot.
        if self.state().access_log {
            self.log.connection(record, took, &self.stats);
        }
    }

    fn with_rule_stats(&self, rule: &Arc<Rule>, count: impl FnOnce(&RuleStats)) {
        // The address identifies the rule because `state` keeps it alive; a rule of an older state is looked up by name.
        let mut rules = self.rules.borrow_mut();
        let key = Arc::as_ptr(rule).addr();
        match rules.get(&key) {
            Some(stats) => count(stats),
            None => {
                let stats = self.stats.rule(&rule.name);
                count(&stats);
                rules.insert(key, stats);
            }
        }
    }

    fn tick(&self) {
        Coarse::advance();
        self.state();
        self.retries.tick();
        self.pool.sweep();
        self.udp.sweep(self);
        self.log.flush(&self.stats);
        let timeouts = self.shared.limits.timeouts;
        for watch in self.connections.borrow().values() {
            if watch.may_rest() {
                watch.ask_to_rest();
            } else {
                watch.look_after_client();
            }
        }
        self.signal(Signal::Finish, |watch| watch.is_stalled(&timeouts));
        let idle = self.signal(Signal::Finish, |watch| watch.is_idle(&timeouts));
        let of_ingresses = ConnectionTimeouts { header: self.shared.limits.ingress_header, ..timeouts };
        let state = self.state();
        let overdue = self.signal(Signal::Cut, |watch| match state.ingress_ports.contains(&watch.port) {
            false => watch.is_overdue(&timeouts),
            true => watch.is_overdue(&of_ingresses),
        });
        self.stats.overdue.add(idle + overdue);
    }

    /// Asks for it and gives the number of those of which it was not asked before.
    fn signal(&self, signal: Signal, concerns: impl Fn(&Watch) -> bool) -> u64 {
        let mut count = 0;
        for watch in self.connections.borrow().values().filter(|watch| concerns(watch)) {
            count += u64::from(watch.signal(signal));
        }
        count
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // The last of its connections is gone now, and has written its line.
        self.log.flush(&self.stats);
    }
}

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        self.worker.connections.borrow_mut().remove(&self.id);
    }
}
