//! Writes statuses: only differences, only as leader, at most one write in flight per object.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use kube::api::{DynamicObject, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::Instant;

use super::managed::{self, manager};
use super::queue::{Outcome, Queue};
use super::{Fingerprint, Target, Unwritten, Write, entries_field, longest, merge};
use crate::kinds::api_resource;
use crate::metrics::Metrics;
use crate::shutdown::Shutdown;
use crate::write::{WriteError, reason, within};

/// The field manager of everything that the controller writes, but for statuses that it applies: see [`manager`].
pub const MANAGER: &str = "sluice";

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
        let mut queue = Queue::default();
        let mut known: Arc<Unwritten> = Arc::default();
        let mut in_flight = FuturesUnordered::new();
        // Why writing these failed the last time.
        let mut failing: BTreeMap<Target, String> = BTreeMap::new();
        loop {
            let leads = *self.leader.borrow_and_update();
            let unwritten = self.unwritten.borrow_and_update().clone();
            let now = Instant::now();
            if !leads {
                queue.clear();
                failing.clear();
                known = Arc::default();
            } else if !Arc::ptr_eq(&known, &unwritten) {
                queue.update(&unwritten, now);
                failing.retain(|target, _| unwritten.contains_key(target));
                known = unwritten;
            }
            while let Some((target, write)) = queue.next(now) {
                in_flight.push(self.write(target, write));
            }
            self.metrics.statuses_failing(failing.len());
            tokio::select! {
                Some((target, result)) = in_flight.next(), if !in_flight.is_empty() => {
                    queue.finished(&target, outcome(&result), Instant::now());
                    note(&mut failing, target, result);
                }
                Ok(()) = self.unwritten.changed() => {}
                Ok(()) = self.leader.changed() => {}
                () = tokio::time::sleep_until(queue.wake(now)) => {}
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

fn outcome(result: &Result<(), WriteError>) -> Outcome {
    match result {
        Ok(()) => Outcome::Written,
        Err(WriteError::Api(kube::Error::Api(_)) | WriteError::Deadline | WriteError::Contended) => Outcome::Refused,
        Err(WriteError::Api(_)) => Outcome::Unreached,
    }
}

/// Logs that writing begins to fail, fails for another reason, or succeeds again: not each attempt.
fn note(failing: &mut BTreeMap<Target, String>, target: Target, result: Result<(), WriteError>) {
    let (kind, object) = (target.kind, target.object.clone());
    match result {
        Ok(()) => {
            if failing.remove(&target).is_some() {
                tracing::info!(%kind, %object, "the status is written again");
            }
        }
        Err(error) => {
            let reason = reason(&error);
            if failing.insert(target, reason.clone()) != Some(reason) {
                tracing::warn!(%kind, %object, %error, "the status is not written; trying again, ever less often");
            }
        }
    }
}

/// Takes away what was written of a status under these names (see [`super::controllers`]).
pub async fn clear(client: Client, controllers: &[String], target: &Target) -> Result<(), WriteError> {
    let status = entries_field(target.kind).map_or(Value::Null, |field| json!({ field: [] }));
    put(client, controllers, target, &Write { fingerprint: Fingerprint::of(&status), status }).await
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
                let merged = Value::Array(merge::entries(&stored[field], wanted, controllers, longest(field)));
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
                let manager = manager(target.kind, controllers);
                let mut patch = json!({
                    "apiVersion": resource.api_version,
                    "kind": resource.kind,
                    // The uid makes a namesake that was created meanwhile a conflict.
                    "metadata": { "name": name, "uid": object.metadata.uid },
                });
                match status.is_null() {
                    // What is applied no more goes, unless it is somebody else's too. Who comes meanwhile is a conflict.
                    true if managed::is_own(target.kind, object.managed_fields(), controllers) => {
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

#[cfg(test)]
mod tests {
    use kube::core::Status;
    use translate::{Kind, ObjectKey};

    use super::*;
    use crate::log::tests::Lines;

    #[test]
    fn a_failure_is_logged_once_until_it_changes() {
        let lines = Lines::default();
        let _logging = lines.start("info");
        let mut failing = BTreeMap::new();
        let mut logged = |name: &str, result: Result<(), &str>| {
            let before = lines.text().lines().count();
            let target = Target { kind: Kind::Ingress, object: ObjectKey::new("shop", name) };
            let refused = |reason: &str| kube::Error::Api(Status::failure("", reason).with_code(403).boxed());
            note(&mut failing, target, result.map_err(|reason| refused(reason).into()));
            lines.text().lines().count() - before
        };
        assert_eq!(logged("a", Ok(())), 0);
        assert_eq!([(); 3].map(|()| logged("a", Err("Forbidden"))), [1, 0, 0]);
        assert_eq!(logged("b", Err("Forbidden")), 1);
        assert_eq!([(); 2].map(|()| logged("a", Err("Invalid"))), [1, 0]);
        assert_eq!([(); 2].map(|()| logged("a", Ok(()))), [1, 0]);
        assert_eq!(logged("a", Err("Invalid")), 1);
    }
}
