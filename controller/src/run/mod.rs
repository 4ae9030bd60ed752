//! `sluice run DIR`: controller and data plane in one process, over a folder of manifests instead of a cluster.

mod curl;
mod terminal;
mod told;

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use dataplane::compile::Rejection;
use dataplane::{LocalEndpoints, Options, Proxy, StartError};
use snapshot::{Resource, Snapshot};
use tokio::sync::watch;
use translate::{Memo, Settings};

use crate::ca::CaError;
use crate::echo::Echoes;
use crate::folder::{Change, Edits, Folder, Watcher};
use crate::options::AccessLog;
use crate::standalone::{self, Source};
use terminal::Terminal;
use told::Told;

/// How long an editor may take between removing a file and writing it anew.
const EDITORS_GAP: Duration = Duration::from_millis(40);

/// How many commands are offered to try.
const TRIED: usize = 24;

/// How long requests that have begun may take once the command was asked to stop.
const DRAIN: Duration = Duration::from_secs(10);

/// Serves a folder of manifests from this process, and follows every edit of its files.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Examples:
  sluice run deploy/quickstart --echo
  sluice run manifests/ --class nginx --http-port 80 --https-port 443 --address 0.0.0.0")]
pub struct Args {
    #[command(flatten)]
    source: Source,
    /// The address on which every port is bound
    #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    address: IpAddr,
    /// Where /healthz, /readyz and /metrics are served
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:10280")]
    admin_address: SocketAddr,
    /// Start a small server, which answers with what it received, on each loopback endpoint that nobody listens on
    #[arg(long)]
    echo: bool,
    /// The format of the access log, on standard output. With json everything else goes to standard error
    #[arg(long, value_enum, default_value_t = AccessLog::Off)]
    access_log: AccessLog,
}

/// Why the command ends early.
#[derive(Debug, thiserror::Error)]
enum RunError {
    /// The folder cannot be listed.
    #[error("the folder {0} cannot be read: {1}")]
    Folder(String, io::Error),
    /// The folder cannot be watched.
    #[error("the folder {0} cannot be watched: {1}")]
    Watch(String, notify::Error),
    /// No keys could be made.
    #[error(transparent)]
    Keys(#[from] CaError),
    /// Another process has the admin address, or it is not this machine's.
    #[error("cannot serve /healthz, /readyz and /metrics on {0}: {1}; choose another address with --admin-address")]
    Admin(SocketAddr, io::Error),
    /// The proxy does not start.
    #[error("the proxy does not start: {0}")]
    Proxy(StartError),
    /// The process may not have threads, sockets or signals.
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// The command; returns when it was asked to stop and all requests are answered.
pub fn main(args: &Args) -> ExitCode {
    if let Err(error) = args.source.validate() {
        eprintln!("{error}");
        return ExitCode::from(2);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    match runtime.map_err(RunError::from).and_then(|runtime| runtime.block_on(run(args))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: &Args) -> Result<(), RunError> {
    let dir = args.source.dir.display().to_string();
    let mut settings = args.source.settings()?;
    settings.access_log = args.access_log.into();
    // Watched before it is read, so that no edit falls in between.
    let mut watcher = Watcher::new(&args.source.dir).map_err(|error| RunError::Watch(dir.clone(), error))?;
    let folder = Folder::open(&args.source.dir, &settings).map_err(|error| RunError::Folder(dir.clone(), error))?;
    let proxy = Proxy::start(Options {
        address: args.address,
        admin: Some(args.admin_address),
        // No load balancer stands in front that would have to notice.
        drain_delay: Duration::ZERO,
        local_endpoints: LocalEndpoints::Allowed,
        ..Options::default()
    })
    .map_err(|error| match error {
        StartError::Admin(address, error) => RunError::Admin(address, error),
        error => RunError::Proxy(error),
    })?;
    let echoes = args.echo.then(Echoes::default);
    let rejections = proxy.rejections();
    let (told, rejected) = (Told::default(), Vec::new());
    let terminal = match args.access_log {
        AccessLog::Json => Terminal::Stderr,
        _ => Terminal::Stdout,
    };
    let mut session = Session {
        terminal,
        folder,
        settings,
        memo: Memo::default(),
        proxy,
        rejections,
        rejected,
        told,
        sharing: None,
        unreadable: None,
        echoes,
    };
    session.start_echoes().await;
    let served = session.publish();
    greet(args, terminal, &session.folder, &served);
    let mut stop = std::pin::pin!(stop_requested());
    loop {
        tokio::select! {
            requested = &mut stop => break requested?,
            Some((began, edits)) = watcher.changed() => session.follow(began, &edits).await,
            () = tokio::time::sleep(EDITORS_GAP), if session.folder.is_doubted() => session.follow(Instant::now(), &Edits::default()).await,
            Ok(()) = session.rejections.changed() => session.tell_rejections(),
        }
    }
    terminal.say("stopping: answering what has begun (again to stop at once)");
    tokio::select! {
        _ = session.proxy.drain(DRAIN) => Ok(()),
        again = stop_requested() => Ok(again?),
    }
}

/// Everything that lives while the command runs.
struct Session {
    terminal: Terminal,
    folder: Folder,
    settings: Settings,
    memo: Memo,
    proxy: Proxy,
    rejections: watch::Receiver<Vec<Rejection>>,
    /// What of them was told last.
    rejected: Vec<Rejection>,
    told: Told,
    /// What was told of ports that several data planes have here.
    sharing: Option<String>,
    /// Why the folder cannot be read, while it cannot.
    unreadable: Option<String>,
    echoes: Option<Echoes>,
}

impl Session {
    /// Follows an edit that began at this time.
    async fn follow(&mut self, began: Instant, edits: &Edits) {
        if self.folder.mid_edit() {
            tokio::time::sleep(EDITORS_GAP).await;
        }
        let reloaded = self.folder.reload_after(edits);
        let unreadable = reloaded.as_ref().err().map(ToString::to_string);
        if self.unreadable != unreadable {
            match &unreadable {
                Some(error) => {
                    self.terminal.say(format_args!("the folder cannot be read: {error}; everything stays as it is"));
                }
                None => self.terminal.say("the folder can be read again"),
            }
            self.unreadable = unreadable;
        }
        match reloaded {
            Err(_) => {}
            Ok(change) if !change.files => {}
            Ok(change) => {
                self.start_echoes().await;
                self.publish();
                let took = began.elapsed().as_secs_f64() * 1000.0;
                self.terminal.say(format_args!("{} ({took:.1} ms)", summary(&change)));
            }
        }
    }

    /// Translates the folder, hands the result to the proxy and tells what is wrong. Gives what the proxy took.
    fn publish(&mut self) -> Snapshot {
        let translation = self.memo.translate(self.folder.resources(), &self.settings);
        self.folder.accept(&translation);
        let snapshot = standalone::merged(&translation);
        self.proxy.apply(snapshot.clone());
        let mut findings = self.folder.findings();
        findings.extend(translation.problems.iter().map(|problem| self.folder.place(problem)));
        findings.retain(|finding| finding.severity == translate::Severity::Warning);
        for finding in findings.iter_mut().filter(|finding| finding.unusable()) {
            finding.message.push_str("; what this part of the file held before stays in use");
        }
        findings.extend(self.folder.unserved(&translation));
        for line in self.told.update(findings) {
            self.terminal.say(line);
        }
        let sharing = standalone::shared_ports(&translation, None);
        if let Some(sentence) = sharing.as_ref().filter(|_| sharing != self.sharing) {
            self.terminal.say(format_args!("note: {sentence}"));
        }
        self.sharing = sharing;
        self.tell_rejections();
        let rejected: BTreeSet<_> = self.rejected.iter().map(|rejection| &rejection.id).collect();
        let mut served = Snapshot::default();
        for (id, resource) in snapshot.iter().filter(|(id, _)| !rejected.contains(id)) {
            served.insert_hashed(id.clone(), resource.clone());
        }
        served
    }

    /// Tells what the proxy rejects, or takes at last, since this was told.
    fn tell_rejections(&mut self) {
        let rejections = self.rejections.borrow_and_update().clone();
        for Rejection { id, reason } in rejections.iter().filter(|rejection| !self.rejected.contains(rejection)) {
            self.terminal.say(format_args!("not served: {id}: {reason}"));
        }
        let ids: BTreeSet<_> = rejections.iter().map(|rejection| &rejection.id).collect();
        for Rejection { id, .. } in self.rejected.iter().filter(|rejection| !ids.contains(&rejection.id)) {
            self.terminal.say(format_args!("no longer rejected: {id}"));
        }
        self.rejected = rejections;
    }

    async fn start_echoes(&mut self) {
        let Some(echoes) = &mut self.echoes else { return };
        for started in echoes.start(self.folder.resources()).await {
            let (service, address) = (started.service, started.address);
            match started.outcome {
                Ok(()) => self.terminal.say(format_args!("echo server for {service} on {address}")),
                Err(error) => self.terminal.say(format_args!("no echo server for {service} on {address}: {error}")),
            }
        }
    }
}

fn greet(args: &Args, terminal: Terminal, folder: &Folder, served: &Snapshot) {
    let mut commands = curl::commands(served, args.address);
    let more = commands.len().saturating_sub(TRIED);
    commands.truncate(TRIED);
    // Only of the echo servers it is known that they speak it.
    commands.extend(curl::websocket(served, args.address).filter(|_| args.echo));
    if !commands.is_empty() {
        terminal.say("try:");
    }
    for command in commands {
        terminal.say(format_args!("  {command}"));
    }
    if more > 0 {
        terminal.say(format_args!("  and {more} more; `sluice explain` tells of any URL"));
    }
    let ports: BTreeSet<_> = served
        .iter()
        .filter_map(|(_, hashed)| match hashed.resource().as_ref() {
            Resource::Listener(listener) => Some(listener.port),
            _ => None,
        })
        .collect();
    let ports: Vec<_> = ports.iter().map(u16::to_string).collect();
    let ports = match ports.as_slice() {
        [] => "no port".to_owned(),
        [one] => format!("port {one}"),
        [many @ .., last] => format!("ports {} and {last}", many.join(", ")),
    };
    terminal.say(format_args!(
        "serving {} objects in {} files of {} on {}, {ports}; edit them and the next request sees it",
        folder.len(),
        folder.files(),
        args.source.dir.display(),
        args.address
    ));
}

fn summary(change: &Change) -> String {
    const ENOUGH: usize = 4;
    let named: Vec<_> = change.objects.iter().take(ENOUGH).map(String::as_str).collect();
    match change.objects.len() {
        0 => "no object changed".to_owned(),
        many if many > ENOUGH => format!("changed: {} and {} more", named.join(", "), many - ENOUGH),
        _ => format!("changed: {}", named.join(", ")),
    }
}

/// Returns when the process is asked to stop, by Ctrl-C or SIGTERM.
async fn stop_requested() -> io::Result<()> {
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted,
        _ = terminate.recv() => Ok(()),
    }
}
