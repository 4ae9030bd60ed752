//! The data planes of Gateways: a Deployment and a Service of their own in the Gateway's namespace (GEP-1762), or those that all
//! Gateways of a class share, in the namespace of the installation.

mod apply;
mod deployments;
mod objects;
mod owner;
mod roll;
mod schedule;
mod sweep;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use kube::Client;
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::Instant;
use translate::{DataPlane, Infrastructure, ObjectKey, Problem, Severity};

use crate::events::{self, Report};
use crate::shutdown::Shutdown;
use crate::write::{WriteError, within};
pub use deployments::follow;
pub use objects::Template;
pub use owner::Installation;
use schedule::{Job, Outcome, Schedule};

/// When everything is applied again, to mend what somebody else changed or deleted.
const AGAIN: Duration = Duration::from_secs(5 * 60);
/// When a failed write is tried again; twice as long after every failure, up to [`AGAIN`].
const RETRY: Duration = Duration::from_secs(5);

/// What a Gateway, or a class, asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The `uid` of the Gateway or GatewayClass: the objects belong to it and go with it.
    pub uid: String,
    /// What translation says.
    pub infrastructure: Infrastructure,
}

/// What there should be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// What Gateways and classes ask for.
    pub wanted: BTreeMap<DataPlane, Wanted>,
    /// Data planes of Gateways that are there but cannot be followed as they are: what was made for them stays as it is.
    pub spared: BTreeSet<DataPlane>,
    /// The names of what was made for Gateways that have not moved away yet: it stays, too.
    pub left: BTreeSet<ObjectKey>,
    /// The Services and Deployments of wanted data planes that are not there.
    pub missing: BTreeSet<Id>,
    /// The `uid` of each Gateway and GatewayClass of ours.
    pub owners: BTreeSet<String>,
}

/// Data planes whose names are somebody else's, each with a sentence.
pub type Taken = BTreeMap<DataPlane, String>;

/// Keeps the data planes of Gateways as they should be.
pub struct Provisioner {
    /// Access to the API server.
    pub client: Client,
    /// What all data planes have in common.
    pub template: Template,
    /// The latest counts; `None` until the Gateways are known, and nothing is touched before.
    pub plan: watch::Receiver<Arc<Option<Plan>>>,
    /// Where it is told which names are somebody else's.
    pub taken: watch::Sender<Arc<Taken>>,
    /// The certificates that data planes trust, when they change.
    pub trusted: watch::Receiver<String>,
    /// Whether this replica writes.
    pub leader: watch::Receiver<bool>,
    /// The name of this replica in Events.
    pub instance: String,
}

/// An object's kind, namespace and name.
pub type Id = (String, ObjectKey);

/// What ended.
enum Done {
    /// Work on some data planes, which were being renewed or not.
    Applied { plane: DataPlane, outcome: Outcome, was_rolling: bool },
    /// The wait for pods that are renewed.
    Rolled(DataPlane),
    /// Looking for what nobody wants.
    Swept(Result<(), WriteError>),
}

/// What a leader has in hand. Whoever no longer leads drops it: who leads now may have made what would be deleted here.
struct Work {
    schedule: Schedule,
    running: FuturesUnordered<BoxFuture<'static, Done>>,
    sweep: Sweep,
    plan: Arc<Option<Plan>>,
}

/// When to look for what nobody wants.
struct Sweep {
    due: Instant,
    retry: Duration,
    busy: bool,
}

impl Work {
    fn new(now: Instant) -> Self {
        let sweep = Sweep { due: now, retry: RETRY, busy: false };
        Self { schedule: Schedule::default(), running: FuturesUnordered::new(), sweep, plan: Arc::default() }
    }

    /// Takes the latest plan.
    fn update(&mut self, plan: &Arc<Option<Plan>>, now: Instant) {
        let Some(next) = plan.as_ref() else { return };
        let keys = |plan: &Plan| -> BTreeSet<ObjectKey> {
            plan.wanted.values().map(|wanted| wanted.infrastructure.key.clone()).collect()
        };
        if let Some(before) = self.plan.as_ref() {
            let unwanted = keys(before).difference(&keys(next)).next().is_some();
            if unwanted || (&before.spared, &before.left) != (&next.spared, &next.left) {
                self.sweep.due = now;
                self.sweep.retry = RETRY;
            }
        }
        self.schedule.update(next, now);
        self.plan = plan.clone();
    }
}

impl Provisioner {
    /// Applies what differs, as leader, until `shutdown`.
    pub async fn run(mut self, mut shutdown: Shutdown) {
        let mut template = Arc::new(self.template.clone());
        let mut work = Work::new(Instant::now());
        loop {
            let now = Instant::now();
            let leads = *self.leader.borrow_and_update();
            let plan = self.plan.borrow_and_update().clone();
            let mut wake = now + AGAIN;
            if leads && plan.is_some() {
                if !Arc::ptr_eq(&work.plan, &plan) {
                    work.update(&plan, now);
                }
                self.begin(&mut work, &template, now);
                if !work.sweep.busy {
                    wake = wake.min(work.sweep.due);
                }
                wake = work.schedule.wake(now).map_or(wake, |due| wake.min(due));
            }
            let taken = work.schedule.taken();
            self.taken.send_if_modified(|told| {
                let new = **told != taken;
                if new {
                    *told = Arc::new(taken);
                }
                new
            });
            tokio::select! {
                biased;
                () = shutdown.requested() => return,
                Ok(()) = self.leader.changed() => work = Work::new(now),
                Some(done) = work.running.next(), if !work.running.is_empty() => self.note(&mut work, done),
                Ok(()) = self.plan.changed() => {}
                Ok(()) = self.trusted.changed() => {
                    Arc::make_mut(&mut template).ca = self.trusted.borrow().clone();
                    work.schedule.hurry(now);
                }
                () = tokio::time::sleep_until(wake) => {}
            }
        }
    }

    /// Begins what is due, as far as there is room.
    fn begin(&self, work: &mut Work, template: &Arc<Template>, now: Instant) {
        while let Some(job) = work.schedule.next(now) {
            let (client, template, instance) = (self.client.clone(), template.clone(), self.instance.clone());
            work.running.push(Box::pin(async move {
                let outcome = apply::apply(&client, &template, &job).await;
                if let Some(message) = outcome.failure.as_ref().filter(|message| job.told.as_ref() != Some(message)) {
                    tell(&client, &instance, &job, outcome.taken, message).await;
                }
                Done::Applied { plane: job.plane, outcome, was_rolling: job.was_rolling }
            }));
        }
        if !work.sweep.busy && work.sweep.due <= now {
            work.sweep.busy = true;
            work.sweep.due = now + AGAIN;
            let sweep = sweep::sweep(self.client.clone(), template.clone(), self.plan.clone());
            work.running.push(Box::pin(async move { Done::Swept(sweep.await) }));
        }
    }

    fn note(&self, work: &mut Work, done: Done) {
        let now = Instant::now();
        match done {
            Done::Applied { plane, outcome, was_rolling } => {
                let key = work.plan.as_ref().as_ref().and_then(|plan| plan.wanted.get(&plane));
                let key = key.map(|wanted| wanted.infrastructure.key.clone());
                if let (true, Some(key)) = (work.schedule.finished(&plane, outcome, was_rolling, now), key) {
                    let ended = roll::ended(self.client.clone(), key);
                    work.running.push(Box::pin(async move {
                        ended.await;
                        Done::Rolled(plane)
                    }));
                }
            }
            Done::Rolled(plane) => work.schedule.rolled(&plane),
            Done::Swept(result) => {
                work.sweep.busy = false;
                match result {
                    Ok(()) => work.sweep.retry = RETRY,
                    // An installation that provisions nothing has no such right, and needs none.
                    Err(error) if apply::refusal(&error).is_some() => {
                        let reason = apply::refusal(&error).unwrap_or_default();
                        tracing::info!(reason, "objects of former Gateways, if there are any, are not deleted");
                    }
                    Err(error) => {
                        work.sweep.due = work.sweep.due.min(now + work.sweep.retry);
                        work.sweep.retry = (work.sweep.retry * 2).min(AGAIN);
                        tracing::warn!(%error, "objects of former Gateways are not deleted; trying again");
                    }
                }
            }
        }
    }
}

/// Says why data planes lack an object: in the log, and in an Event of the Gateway or the class.
async fn tell(client: &Client, instance: &str, job: &Job, taken: bool, message: &str) {
    let plane = &job.plane;
    tracing::warn!(%plane, "{message}");
    let Some((kind, object)) = plane.owner() else { return };
    let reason = if taken { "NameTaken" } else { "ProvisioningFailed" };
    let (field, message) = (String::new(), message.to_owned());
    let problem = Problem { kind, object, field, reason, message, severity: Severity::Warning };
    let report = Report { problem, uid: Some(job.wanted.uid.clone()) };
    if let Err(error) = within(events::tell(client, instance, &report, false)).await {
        tracing::warn!(%plane, %error, "the Event is not written");
    }
}

fn id(object: &Value) -> Id {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let metadata = &object["metadata"];
    (text(&object["kind"]), ObjectKey::new(text(&metadata["namespace"]), text(&metadata["name"])))
}

#[cfg(test)]
mod tests;
