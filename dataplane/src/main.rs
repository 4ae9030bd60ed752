//! `sluice-dataplane`: the proxy as a process of its own, fed by the controllers.

use std::io::IsTerminal;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use dataplane::source::{self, Config};
use dataplane::{Options, Proxy, diagnostics};
use tokio::signal::unix::{Signal, SignalKind, signal};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Serves the traffic of one or more gateways, as the Sluice controllers say.
///
/// It needs no access to the Kubernetes API. While no controller can be reached it serves on; after a restart it begins
/// with the last good snapshot of --state-dir.
#[derive(Debug, Parser)]
#[command(name = "sluice-dataplane", version, after_help = EXAMPLES)]
struct Arguments {
    /// Controllers to hear: NAME:PORT (all addresses of the name are replicas) or IP:PORT. May be repeated.
    #[arg(long, env = "SLUICE_CONTROLLERS", value_name = "NAME:PORT", required = true, value_delimiter = ',')]
    controllers: Vec<String>,
    /// The authority of the controllers' certificates, in PEM.
    #[arg(long, env = "SLUICE_CA", value_name = "FILE", default_value = "/var/run/sluice/ca/ca.crt")]
    ca: PathBuf,
    /// The ServiceAccount token that proves who this data plane is. Read anew for each connection.
    #[arg(long, env = "SLUICE_TOKEN", value_name = "FILE", default_value = "/var/run/sluice/token/token")]
    token: PathBuf,
    /// Where the last good snapshot is kept; a memory-backed volume, because it holds private keys.
    #[arg(long, env = "SLUICE_STATE_DIR", value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// The address on which listener ports are bound. The default serves IPv4 and IPv6.
    #[arg(long, env = "SLUICE_ADDRESS", default_value = "::")]
    address: IpAddr,
    /// Where /healthz, /readyz and /metrics are served.
    #[arg(long, env = "SLUICE_ADMIN_ADDRESS", default_value = "0.0.0.0:10254")]
    admin_address: SocketAddr,
    /// Threads that serve requests. Default: one per core that this process may use.
    #[arg(long, env = "SLUICE_WORKERS", value_parser = clap::value_parser!(u16).range(1..))]
    workers: Option<u16>,
    /// Client connections that are served at once, by all workers together. More wait until others end.
    #[arg(long, env = "SLUICE_MAX_CONNECTIONS", default_value_t = 65_536, value_parser = clap::value_parser!(u32).range(1..))]
    max_connections: u32,
    /// On SIGTERM requests under way may take so long to finish.
    #[arg(long, env = "SLUICE_DRAIN_SECONDS", default_value_t = 30)]
    drain_seconds: u64,
    /// A connection of a TCPRoute or TLSRoute ends when it carries nothing in either direction for so long.
    #[arg(long, env = "SLUICE_TUNNEL_IDLE_SECONDS", default_value_t = 3600, value_parser = clap::value_parser!(u64).range(1..=31_536_000))]
    tunnel_idle_seconds: u64,
    /// A UDP session ends when it sees no datagram in either direction for so long.
    #[arg(long, env = "SLUICE_UDP_IDLE_SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=31_536_000))]
    udp_idle_seconds: u64,
}

impl Arguments {
    fn options(&self) -> Options {
        Options {
            address: self.address,
            workers: self.workers.map(usize::from),
            admin: Some(self.admin_address),
            max_connections: usize::try_from(self.max_connections).unwrap_or(usize::MAX),
            tunnel_timeout: Duration::from_secs(self.tunnel_idle_seconds),
            udp_idle_timeout: Duration::from_secs(self.udp_idle_seconds),
            ..Options::default()
        }
    }
}

const EXAMPLES: &str = "Examples:
  sluice-dataplane --controllers sluice-controller.sluice-system.svc:15010 --state-dir /run/sluice
  sluice-dataplane --controllers 127.0.0.1:15010 --ca ca.pem --token token --address 127.0.0.1 --workers 1";

fn main() -> anyhow::Result<()> {
    // The control side; requests run on the proxy's own threads.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    // Before anything else: as the first process of a container it has no signal but those that it handles.
    let signals = runtime.block_on(async { Signals::new() })?;
    let arguments = Arguments::parse();
    let _log = log()?;
    runtime.block_on(run(arguments, signals))
}

/// The requests to stop, also those that came early.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn received(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// Logs to standard error as RUST_LOG selects: text on a terminal, else JSON.
fn log() -> std::io::Result<diagnostics::Writing> {
    let (lines, writing) = diagnostics::start(std::io::stderr())?;
    let builder = tracing_subscriber::fmt().with_env_filter(diagnostics::filter()).with_writer(lines);
    if std::io::stderr().is_terminal() {
        builder.init()
    } else {
        builder.json().init()
    }
    Ok(writing)
}

async fn run(arguments: Arguments, mut signals: Signals) -> anyhow::Result<()> {
    let proxy = Arc::new(Proxy::start(arguments.options())?);
    let config = Config {
        controllers: arguments.controllers,
        token_file: arguments.token,
        ca_file: arguments.ca,
        state_dir: arguments.state_dir,
    };
    let applying = proxy.clone();
    let apply = move |snapshot| drop(applying.apply(snapshot));
    // Goes on while draining: requests under way still follow endpoints, and controllers hear that it is not ready.
    let mut source = std::pin::pin!(source::run(config, proxy.readiness(), proxy.rejections(), apply));
    let signalled = tokio::select! {
        ended = &mut source => match ended.context("the source of snapshots ended")? {},
        signalled = signals.received() => signalled,
    };
    tracing::info!(signal = signalled, connections = proxy.open_connections(), "draining");
    let drained = tokio::select! {
        ended = &mut source => match ended.context("the source of snapshots ended")? {},
        drained = proxy.drain(Duration::from_secs(arguments.drain_seconds)) => drained,
    };
    tracing::info!(cut = drained.cut, "drained");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(more: &[&str]) -> Result<Options, clap::Error> {
        let arguments = ["sluice-dataplane", "--controllers=localhost:15010"].iter().chain(more);
        Ok(Arguments::try_parse_from(arguments)?.options())
    }

    #[test]
    fn limits_are_those_of_the_library_unless_flags_say_others() {
        let (ours, librarys) = (options(&[]).unwrap(), Options::default());
        assert_eq!(ours.tunnel_timeout, librarys.tunnel_timeout);
        assert_eq!(ours.udp_idle_timeout, librarys.udp_idle_timeout);
        let asked = options(&["--tunnel-idle-seconds=7200", "--udp-idle-seconds=5"]).unwrap();
        assert_eq!(asked.tunnel_timeout, Duration::from_secs(7200));
        assert_eq!(asked.udp_idle_timeout, Duration::from_secs(5));
        assert_eq!(ours.max_connections, librarys.max_connections);
        assert_eq!(options(&["--max-connections=100"]).unwrap().max_connections, 100);
        assert!(options(&["--max-connections=0"]).is_err());
        assert!(options(&["--tunnel-idle-seconds=0"]).is_err() && options(&["--udp-idle-seconds=0"]).is_err());
    }
}
