//! Which replica writes: the holder of a Lease.
//!
//! The rules are client-go's. Another's Lease has ended when it did not change for its duration on the own monotonic clock,
//! so that clocks of nodes need not agree. Every write names the version that was read: of two replicas that try at once, one
//! is refused. Whoever leads ceases to before others may begin, whatever its requests do.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout, timeout_at};

use crate::metrics::Metrics;
use crate::shutdown::Shutdown;
use crate::write::reason_of_client;

/// How long the Lease is valid after its last renewal, in seconds: what a crashed leader costs.
const DURATION: i32 = 15;
/// How long this replica leads after the beginning of its last renewal that succeeded. Less than the Lease's duration: writes
/// in flight end meanwhile.
const LEADS: Duration = Duration::from_secs(10);
/// Between attempts to take the Lease or to renew it.
const RETRY: Duration = Duration::from_secs(2);
/// How long one attempt may take.
const ATTEMPT: Duration = Duration::from_secs(5);
/// How long releasing the Lease may hold up the end of the process.
const RELEASE: Duration = Duration::from_secs(3);

/// Competes for the Lease `name` in `namespace`.
#[derive(Clone)]
pub struct Election {
    /// Access to the API server.
    pub client: Client,
    /// Where the Lease is.
    pub namespace: String,
    /// The name of the Lease.
    pub name: String,
    /// The name of this replica.
    pub identity: String,
    /// Whether this replica knows enough to write. Only then it competes.
    pub ready: watch::Receiver<bool>,
    /// Tells who leads.
    pub metrics: Metrics,
}

/// Why the Lease is neither taken nor renewed.
#[derive(Debug, thiserror::Error)]
enum AttemptError {
    #[error("{}", reason_of_client(.0))]
    Api(#[from] kube::Error),
    #[error("the API server did not answer within {} s", ATTEMPT.as_secs())]
    Late,
}

/// What another replica's Lease said when it was last seen to change.
#[derive(Default)]
struct Seen(Option<(LeaseSpec, Instant)>);

impl Seen {
    /// Whether the Lease has not changed for as long as it says that it is valid.
    fn ended(&mut self, spec: &LeaseSpec, now: Instant) -> bool {
        match &self.0 {
            Some((seen, since)) if seen == spec => {
                let duration = spec.lease_duration_seconds.and_then(|seconds| u64::try_from(seconds).ok());
                now.duration_since(*since) >= Duration::from_secs(duration.unwrap_or_default())
            }
            _ => {
                self.0 = Some((spec.clone(), now));
                false
            }
        }
    }
}

impl Election {
    /// Competes until `shutdown` and tells `leads` each change. Then [`Self::release`] frees the Lease.
    pub async fn run(self, leads: watch::Sender<bool>, mut shutdown: Shutdown) {
        tokio::select! {
            () = self.compete(&leads) => {}
            () = shutdown.requested() => {}
        }
    }

    async fn compete(&self, leads: &watch::Sender<bool>) {
        let mut ready = self.ready.clone();
        loop {
            if ready.wait_for(|ready| *ready).await.is_err() {
                return; // nobody builds any more
            }
            let until = tokio::select! {
                until = self.take() => until,
                _ = ready.wait_for(|ready| !*ready) => continue,
            };
            self.tell(leads, true);
            let unready = tokio::select! {
                () = self.keep(until) => false,
                _ = ready.wait_for(|ready| !*ready) => true,
            };
            self.tell(leads, false);
            if unready {
                tracing::warn!("not ready any more: another replica may lead");
                self.release().await;
            }
        }
    }

    fn tell(&self, leads: &watch::Sender<bool>, leading: bool) {
        tracing::info!(leader = leading, identity = self.identity, "leadership changed");
        self.metrics.leader(leading);
        leads.send_replace(leading);
    }

    /// Returns once this replica holds the Lease, and until when it leads unless it renews it.
    async fn take(&self) -> Instant {
        let mut seen = Seen::default();
        let mut failure = String::new();
        loop {
            let start = Instant::now();
            match within(ATTEMPT, self.attempt(&mut seen)).await {
                Ok(true) => return start + LEADS,
                Ok(false) => failure.clear(),
                Err(error) => {
                    let error = error.to_string();
                    if error != failure {
                        tracing::warn!(error, lease = self.name, "the Lease cannot be read or taken");
                    }
                    failure = error;
                }
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Renews the Lease. Returns when this replica does not lead any more: another has the Lease, or it could not be renewed
    /// in time.
    async fn keep(&self, mut until: Instant) {
        let mut ticks = interval(RETRY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks.reset();
        let mut seen = Seen::default();
        loop {
            let start = Instant::now();
            let attempt = async {
                ticks.tick().await;
                let start = Instant::now();
                (start, within(ATTEMPT, self.attempt(&mut seen)).await)
            };
            match timeout_at(until, attempt).await {
                Ok((start, Ok(true))) => until = start + LEADS,
                Ok((_, Ok(false))) => return,
                Ok((_, Err(error))) => tracing::warn!(%error, lease = self.name, "the Lease is not renewed yet"),
                Err(_) => {
                    let waited = start.elapsed().as_secs();
                    tracing::warn!(
                        lease = self.name,
                        waited,
                        "the Lease could not be renewed in time; not leading meanwhile"
                    );
                    return;
                }
            }
        }
    }

    /// Takes the Lease where it is free, ended or ours. Returns whether this replica holds it now.
    async fn attempt(&self, seen: &mut Seen) -> Result<bool, AttemptError> {
        let api = self.api();
        let Some(lease) = api.get_opt(&self.name).await? else {
            let metadata = ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() };
            let lease = Lease { metadata, spec: Some(self.held(&LeaseSpec::default())) };
            return won(api.create(&PostParams::default(), &lease).await);
        };
        let spec = lease.spec.clone().unwrap_or_default();
        if let Some(holder) = holder(&spec)
            && *holder != self.identity
            && !seen.ended(&spec, Instant::now())
        {
            return Ok(false);
        }
        let lease = Lease { spec: Some(self.held(&spec)), ..lease };
        won(api.replace(&self.name, &PostParams::default(), &lease).await)
    }

    /// The Lease when this replica takes or renews it.
    fn held(&self, before: &LeaseSpec) -> LeaseSpec {
        let now = Some(MicroTime(Timestamp::now()));
        let renewed = LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: Some(DURATION),
            renew_time: now.clone(),
            ..before.clone()
        };
        if holder(before) == Some(&self.identity) {
            return renewed;
        }
        let transitions = before.lease_transitions.unwrap_or_default().saturating_add(1);
        LeaseSpec { acquire_time: now, lease_transitions: Some(transitions), ..renewed }
    }

    /// Frees the Lease if this replica holds it, so that another takes over at once.
    pub async fn release(&self) {
        let release = async {
            let api = self.api();
            let Some(lease) = api.get_opt(&self.name).await? else { return Ok(()) };
            let spec = lease.spec.clone().unwrap_or_default();
            if holder(&spec) != Some(&self.identity) {
                return Ok(());
            }
            let spec = LeaseSpec { lease_transitions: spec.lease_transitions, ..LeaseSpec::default() };
            won(api.replace(&self.name, &PostParams::default(), &Lease { spec: Some(spec), ..lease }).await).map(drop)
        };
        if let Err(error) = within(RELEASE, release).await {
            tracing::warn!(%error, "the Lease is not released; it ends by itself");
        }
    }

    fn api(&self) -> Api<Lease> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }
}

/// The replica that holds the Lease.
fn holder(spec: &LeaseSpec) -> Option<&String> {
    spec.holder_identity.as_ref().filter(|holder| !holder.is_empty())
}

/// Whether a write came through. A conflict means that somebody else's came first.
fn won(written: kube::Result<Lease>) -> Result<bool, AttemptError> {
    match written {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
        Err(error) => Err(error.into()),
    }
}

async fn within<T>(limit: Duration, work: impl Future<Output = Result<T, AttemptError>>) -> Result<T, AttemptError> {
    timeout(limit, work).await.unwrap_or(Err(AttemptError::Late))
}

#[cfg(test)]
mod tests;
