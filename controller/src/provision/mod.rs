//! The data planes of Gateways: a Deployment and a Service of their own in the Gateway's namespace (GEP-1762), or those that all
//! Gateways of a class share, in the namespace of the installation.

mod apply;
mod deployments;
mod objects;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use crds::gateway::{Gateway, GatewayClass};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{DeleteParams, DynamicObject, ListParams};
use kube::{Api, Client, Resource, ResourceExt};
use serde_json::Value;
use snapshot::Hash;
use tokio::sync::watch;
use tokio::time::Instant;
use translate::{DataPlane, Infrastructure, ObjectKey, Problem, Severity};

use crate::events::{self, Report};
use crate::shutdown::Shutdown;
use crate::write::{WriteError, within};
pub use deployments::follow;
pub use objects::Template;

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
}

/// Keeps the data planes of Gateways as they should be.
pub struct Provisioner {
    /// Access to the API server.
    pub client: Client,
    /// What all data planes have in common.
    pub template: Template,
    /// The latest counts; `None` until the Gateways are known, and nothing is touched before.
    pub plan: watch::Receiver<Arc<Option<Plan>>>,
    /// The certificates that data planes trust, when they change.
    pub trusted: watch::Receiver<String>,
    /// Whether this replica writes.
    pub leader: watch::Receiver<bool>,
    /// The name of this replica in Events.
    pub instance: String,
}

/// An object's kind, namespace and name.
pub type Id = (String, ObjectKey);

impl Provisioner {
    /// Applies what differs, as leader, until `shutdown`.
    pub async fn run(mut self, mut shutdown: Shutdown) {
        let mut applied: BTreeMap<Id, Hash> = BTreeMap::new();
        let mut all_again = Instant::now();
        let (none, mut before) = (Plan::default(), Arc::<Option<Plan>>::default());
        let mut retry = RETRY;
        loop {
            let leads = *self.leader.borrow_and_update();
            let plan = self.plan.borrow_and_update().clone();
            let now = Instant::now();
            let [then, asked] = [&before, &plan].map(|plan| plan.as_ref().as_ref().unwrap_or(&none));
            // What was made for a Gateway that is no longer spared, or has moved, is known to the cluster alone.
            if !leads || all_again <= now || (&asked.spared, &asked.left) != (&then.spared, &then.left) {
                applied.clear();
                all_again = now + AGAIN;
            }
            // Somebody deleted it, and perhaps the rest of that name.
            let gone: BTreeSet<_> = asked.missing.difference(&then.missing).map(|(_, key)| key).collect();
            applied.retain(|(_, key), _| !gone.contains(key));
            before = plan.clone();
            let mut wake = all_again;
            if let (true, Some(plan)) = (leads, plan.as_ref()) {
                let mut leader = self.leader.clone();
                tokio::select! {
                    biased;
                    () = shutdown.requested() => return,
                    // Who leads now may have made what would be deleted here.
                    Ok(()) = leader.changed() => {
                        all_again = now;
                        continue;
                    }
                    complete = self.reconcile(plan, &mut applied) => {
                        let now = Instant::now();
                        if complete {
                            retry = RETRY;
                        } else {
                            wake = wake.min(now + retry);
                            retry = (retry * 2).min(AGAIN);
                        }
                        // What is made will be seen soon, unless somebody deletes it again before.
                        if plan.missing.iter().any(|id| applied.contains_key(id)) {
                            wake = wake.min(now + RETRY);
                        }
                    }
                }
            }
            tokio::select! {
                Ok(()) = self.plan.changed() => retry = RETRY,
                Ok(()) = self.trusted.changed() => self.template.ca = self.trusted.borrow().clone(),
                Ok(()) = self.leader.changed() => {}
                () = tokio::time::sleep_until(wake) => {
                    // It is still not seen.
                    let missing = before.as_ref().as_ref().unwrap_or(&none).missing.iter();
                    missing.for_each(|id| _ = applied.remove(id));
                }
                () = shutdown.requested() => return,
            }
        }
    }

    /// Applies what `applied` does not hold yet and deletes what is not wanted. Returns whether everything went well.
    async fn reconcile(&self, plan: &Plan, applied: &mut BTreeMap<Id, Hash>) -> bool {
        let mut complete = true;
        let mut keep = BTreeSet::new();
        let first = applied.is_empty();
        for (plane, wanted) in &plan.wanted {
            let mut denied = false;
            for object in self.template.objects(plane, wanted) {
                let id = id(&object);
                let hash = Hash::of(object.to_string().as_bytes());
                keep.insert(id.clone());
                if applied.get(&id) == Some(&hash) {
                    continue;
                }
                match within(apply::apply(&self.client, &object, &id)).await {
                    Ok(()) => {
                        applied.insert(id, hash);
                    }
                    Err(error) => {
                        complete = false;
                        // Without rights every object fails alike: the first one says it all.
                        if refusal(&error).is_none() || !std::mem::replace(&mut denied, true) {
                            self.tell(plane, wanted, &id.0, &error).await;
                        }
                    }
                }
            }
        }
        if first || applied.keys().any(|id| !keep.contains(id)) {
            match self.sweep(&keep, plan).await {
                Ok(()) => applied.retain(|id, _| keep.contains(id)),
                // An installation that provisions nothing has no such right, and needs none.
                Err(error) if refusal(&error).is_some() => {
                    let reason = refusal(&error).unwrap_or_default();
                    tracing::info!(reason, "objects of former Gateways, if there are any, are not deleted");
                }
                Err(error) => {
                    complete = false;
                    tracing::warn!(%error, "objects of former Gateways are not deleted; trying again");
                }
            }
        }
        complete
    }

    /// Says why data planes lack an object: in the log, and in an Event of the Gateway or the class.
    async fn tell(&self, plane: &DataPlane, wanted: &Wanted, kind: &str, error: &WriteError) {
        let message = match refusal(error) {
            Some(refusal) => format!(
                "The API server denies the {kind} of the data planes of {plane}: {refusal}. If Sluice lacks the right, let \
                 the chart grant it (controller.gatewayClassResource.enabled). Until then there are no data planes, \
                 or they stay as they are."
            ),
            None => {
                format!("The {kind} of the data planes of {plane} is not applied and will be tried again: {error}.")
            }
        };
        tracing::warn!(%plane, "{message}");
        let Some((kind, object)) = plane.owner() else { return };
        let problem = Problem {
            kind,
            object,
            field: String::new(),
            reason: "ProvisioningFailed",
            message,
            severity: Severity::Warning,
        };
        let report = Report { problem, uid: Some(wanted.uid.clone()) };
        if let Err(error) = within(events::tell(&self.client, &self.instance, &report, false)).await {
            tracing::warn!(%plane, %error, "the Event is not written");
        }
    }

    /// Deletes what this installation once made and nobody wants now.
    async fn sweep(&self, keep: &BTreeSet<Id>, plan: &Plan) -> Result<(), WriteError> {
        let ours = ListParams::default().labels(&objects::made_by(&self.template.installation));
        for resource in objects::kinds() {
            let listed = within(async {
                Ok(Api::<DynamicObject>::all_with(self.client.clone(), &resource).list_metadata(&ours).await?)
            });
            for object in listed.await? {
                let namespace = object.namespace().unwrap_or_default();
                let name = object.name_any();
                let key = ObjectKey::new(&namespace, &name);
                // Labels could be shortened names.
                let mut planes = object.owner_references().iter().filter_map(|owner| made_for(owner, &namespace));
                let is_spared = plan.left.contains(&key) || planes.any(|plane| plan.spared.contains(&plane));
                if is_spared || keep.contains(&(resource.kind.clone(), key)) {
                    continue;
                }
                tracing::info!(kind = resource.kind, namespace, name, "deleting an object of a former Gateway");
                let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), &namespace, &resource);
                within(async {
                    match api.delete(&name, &DeleteParams::background()).await {
                        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
                        other => Ok(other.map(drop)?),
                    }
                })
                .await?;
            }
        }
        Ok(())
    }
}

/// The data planes that an object in this namespace is for.
fn made_for(owner: &OwnerReference, namespace: &str) -> Option<DataPlane> {
    match owner.kind.as_str() {
        kind if kind == Gateway::kind(&()) => Some(DataPlane::Gateway(ObjectKey::new(namespace, &owner.name))),
        kind if kind == GatewayClass::kind(&()) => Some(DataPlane::Class(owner.name.clone())),
        _ => None,
    }
}

/// What the API server says when it denies a write: for want of rights, or by a quota or an admission policy.
fn refusal(error: &WriteError) -> Option<&str> {
    match error {
        WriteError::Api(kube::Error::Api(status)) if status.code == 403 => Some(status.message.trim_end_matches('.')),
        _ => None,
    }
}

fn id(object: &Value) -> Id {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let metadata = &object["metadata"];
    (text(&object["kind"]), ObjectKey::new(text(&metadata["namespace"]), text(&metadata["name"])))
}

#[cfg(test)]
mod tests;
