//! Writes statuses: only differences, only as leader, at most one write in flight per object.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use kube::api::{DynamicObject, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::Instant;

use super::{Fingerprint, Target, Unwritten, Write, entries_field, managed, manager, merge};
use crate::kinds::api_resource;
use crate::metrics::Metrics;
use crate::shutdown::Shutdown;
use crate::write::{WriteError, within};

/// The field manager of everything that the controller writes, but for statuses that it applies: see [`manager`].
pub const MANAGER: &str = "sluice";

/// How many objects are written at once.
const AT_ONCE: usize = 8;
/// The pause after a write before the same object is written again: a Gateway counts its routes, and a thousand may come at once.
const PACE: Duration = Duration::from_millis(100);
/// When a status that was written but is still not observed as wanted is looked at again.
const AGAIN: Duration = Duration::from_secs(30);
/// When a failed write is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// The one writer of statuses.
pub struct Writer {
    /// Access to the API server.
    pub client: Client,
    /// The controller names whose entries are the controller's own.
    pub controllers: Vec<String>,
    /// What is to be written; the latest set counts.
    pub unwritten: watch::Receiver<Arc<Unwritten>>,
    /// Whether this replica writes.
    pub leader: watch::Receiver<bool>,
    /// Counts writes.
    pub metrics: Metrics,
}

impl Writer {
    /// Writes until `shutdown`, then finishes what is in flight.
    pub async fn run(mut self, mut shutdown: Shutdown) {
        let mut done: BTreeMap<Target, Done> = BTreeMap::new();
        let mut in_flight = FuturesUnordered::new();
        let mut writing: BTreeMap<Target, Fingerprint> = BTreeMap::new();
        loop {
            let leads = *self.leader.borrow_and_update();
            let unwritten = self.unwritten.borrow_and_update().clone();
            if !leads {
                done.clear();
            }
            let now = Instant::now();
            done.retain(|target, done| unwritten.contains_key(target) || done.at + PACE > now);
            let mut wake = now + AGAIN;
            for (target, write) in unwritten.iter().filter(|_| leads) {
                if writing.len() >= AT_ONCE {
                    break;
                }
                if writing.contains_key(target) {
                    continue;
                }
                match done.get(target).map(|done| done.due(write)).filter(|due| *due > now) {
                    Some(due) => wake = wake.min(due),
                    None => {
                        writing.insert(target.clone(), write.fingerprint);
                        in_flight.push(self.write(target.clone(), write.clone()));
                    }
                }
            }
            tokio::select! {
                Some((target, result)) = in_flight.next(), if !in_flight.is_empty() => {
                    let fingerprint = writing.remove(&target);
                    let again = match result {
                        Ok(()) => AGAIN,
                        Err(error) => {
                            tracing::warn!(kind = %target.kind, object = %target.object, %error, "the status is not written; trying again");
                            RETRY
                        }
                    };
                    if let Some(fingerprint) = fingerprint {
                        done.insert(target, Done { fingerprint, at: Instant::now(), again });
                    }
                }
                Ok(()) = self.unwritten.changed() => {}
                Ok(()) = self.leader.changed() => {}
                () = tokio::time::sleep_until(wake) => {}
                () = shutdown.requested() => break,
            }
        }
        while in_flight.next().await.is_some() {}
    }

    /// One write. It borrows nothing, so that the loop may look at new work meanwhile.
    fn write(
        &self,
        target: Target,
        write: Arc<Write>,
    ) -> impl Future<Output = (Target, Result<(), WriteError>)> + use<> {
        let (client, controllers, metrics) = (self.client.clone(), self.controllers.clone(), self.metrics.clone());
        async move {
            let result = within(put(client, &controllers, &target, &write)).await;
            metrics.status_written(target.kind, result.is_ok());
            (target, result)
        }
    }
}

/// What was written or tried.
struct Done {
    fingerprint: Fingerprint,
    at: Instant,
    /// How long after it is looked at again, unless the API server shows it by then.
    again: Duration,
}

impl Done {
    /// When the object may be written the next time.
    fn due(&self, write: &Write) -> Instant {
        self.at + if self.fingerprint == write.fingerprint { self.again } else { PACE }
    }
}

async fn put(client: Client, controllers: &[String], target: &Target, write: &Write) -> Result<(), WriteError> {
    let resource = api_resource(target.kind);
    let api: Api<DynamicObject> = match target.object.namespace.as_str() {
        "" => Api::all_with(client, &resource),
        namespace => Api::namespaced_with(client, namespace, &resource),
    };
    let name = &target.object.name;
    for _ in 0..5 {
        let Some(mut object) = api.get_opt(name).await? else { return Ok(()) };
        let stored = object.data.get("status").cloned().unwrap_or(Value::Null);
        let mut status = write.status.clone();
        merge::stamp(&mut status, &stored, &now());
        let result = match entries_field(target.kind) {
            Some(field) => {
                let wanted = status[field].as_array().cloned().unwrap_or_default();
                let limit = if field == "parents" { 32 } else { 16 };
                let merged = Value::Array(merge::entries(&stored[field], wanted, controllers, limit));
                if stored[field] == merged || (stored[field].is_null() && merged == json!([])) {
                    return Ok(());
                }
                if !object.data["status"].is_object() {
                    object.data["status"] = json!({});
                }
                object.data["status"][field] = merged;
                let parameters = PostParams { field_manager: Some(MANAGER.into()), ..PostParams::default() };
                api.replace_status(name, &parameters, &object).await
            }
            None => {
                let manager = manager(controllers);
                let mut patch = json!({
                    "apiVersion": resource.api_version,
                    "kind": resource.kind,
                    // The uid makes a namesake that was created meanwhile a conflict.
                    "metadata": { "name": name, "uid": object.metadata.uid },
                });
                match status.is_null() {
                    // What is applied no more goes, unless it is somebody else's too. Who comes meanwhile is a conflict.
                    true if managed::is_own(object.managed_fields(), manager) => {
                        patch["metadata"]["resourceVersion"] = json!(object.metadata.resource_version);
                    }
                    true => return Ok(()),
                    false => patch["status"] = status,
                }
                api.patch_status(name, &PatchParams::apply(manager).force(), &Patch::Apply(patch)).await
            }
        };
        match result {
            Ok(_) => return Ok(()),
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(kube::Error::Api(status)) if status.code == 404 => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
    Err(WriteError::Contended)
}

/// The time as Kubernetes writes it in conditions: to the second.
fn now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
