//! Load that counts: every request is answered as expected or is a failure with its reason.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::client::{Answer, Connection, Target};

/// Clients that keep their connections, and clients that open one for every request.
const KEEPING: usize = 6;
const OPENING: usize = 2;
/// Between two requests of one client: load enough to notice a gap of milliseconds, and cores left for the cluster.
const PAUSE: Duration = Duration::from_millis(20);
/// No load outlives this, whatever its scenario does.
const LONGEST: Duration = Duration::from_secs(240);

/// Says what is wrong with an answer.
pub type Check = Arc<dyn Fn(&Target, &Answer) -> Result<()> + Send + Sync>;

/// Load that runs until it is stopped.
pub struct Load {
    stop: watch::Sender<bool>,
    clients: JoinSet<Report>,
}

#[derive(Default)]
pub struct Report {
    pub answered: u64,
    pub failures: BTreeMap<String, u64>,
}

#[derive(Clone, Copy)]
enum Mode {
    Keeping,
    Opening,
}

impl Load {
    /// Each client goes through the targets in turn, each from another start.
    pub fn start(targets: &[Target], check: Check) -> Load {
        let (stop, stopped) = watch::channel(false);
        let mut clients = JoinSet::new();
        let modes = [Mode::Keeping; KEEPING].into_iter().chain([Mode::Opening; OPENING]);
        for (number, mode) in modes.enumerate() {
            let mut targets = targets.to_vec();
            let start = number * targets.len() / (KEEPING + OPENING);
            targets.rotate_left(start);
            clients.spawn(client(targets, mode, check.clone(), stopped.clone()));
        }
        Load { stop, clients }
    }

    /// Load that expects this Service's answer.
    pub fn of(target: &Target, service: &'static str) -> Load {
        Load::start(std::slice::from_ref(target), Arc::new(move |_, answer| answer.from(service).map(|_| ())))
    }

    pub async fn stop(self) -> Report {
        self.stop.send_replace(true);
        let mut total = Report::default();
        for report in self.clients.join_all().await {
            total.answered += report.answered;
            for (reason, count) in report.failures {
                *total.failures.entry(reason).or_default() += count;
            }
        }
        total
    }
}

impl Report {
    /// The count of requests, or an error that lists the failures.
    pub fn without_failure(self) -> Result<u64> {
        let failed: u64 = self.failures.values().sum();
        if failed > 0 || self.answered == 0 {
            bail!("{failed} failed and {} answered: {:#?}", self.answered, self.failures);
        }
        Ok(self.answered)
    }
}

async fn client(targets: Vec<Target>, mode: Mode, check: Check, stopped: watch::Receiver<bool>) -> Report {
    let mut report = Report::default();
    let mut kept = BTreeMap::new();
    let began = Instant::now();
    for target in targets.iter().cycle() {
        if *stopped.borrow() {
            break;
        }
        if began.elapsed() > LONGEST {
            // What came after was not under load.
            report.failures.insert(format!("the load ended after {LONGEST:?}, before its scenario"), 1);
            break;
        }
        // Connections differ in address and server name; several hosts share one without TLS.
        let key = (target.address, target.tls.as_ref().map(|_| target.host.clone()));
        match exchange(target, kept.remove(&key)).await {
            Ok((answer, connection)) => {
                match check(target, &answer) {
                    Ok(()) => report.answered += 1,
                    Err(error) => *report.failures.entry(format!("{error:#}")).or_default() += 1,
                }
                if matches!(mode, Mode::Keeping) && !answer.closes() {
                    kept.insert(key, connection);
                }
            }
            Err(error) => *report.failures.entry(format!("{error:#}")).or_default() += 1,
        }
        sleep(PAUSE).await;
    }
    report
}

/// A connection that the server closed while it was idle is replaced: that is every client's duty and no failure.
async fn exchange(target: &Target, kept: Option<Connection>) -> Result<(Answer, Connection)> {
    let mut usable = None;
    if let Some(mut connection) = kept {
        usable = connection.usable().await.then_some(connection);
    }
    let mut connection = match usable {
        Some(connection) => connection,
        None => Connection::open(target).await?,
    };
    let answer = connection.get(target, &[]).await?;
    Ok((answer, connection))
}
