//! Server-side apply of the objects of some data planes: never over what is somebody else's.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams};
use kube::core::PartialObjectMeta;
use kube::{Api, Client, Resource, ResourceExt};
use serde_json::Value;
use snapshot::Hash;
use translate::DataPlane;

use super::schedule::{Job, Outcome, Roll};
use super::{Id, Template, id};
use crate::status::MANAGER;
use crate::write::{WriteError, within};

/// The annotation of a Deployment by which is seen whether applying it would renew its pods.
const PODS: &str = "sluice.dev/pod-template";

/// An object that is to be applied.
struct Pending {
    object: Value,
    id: Id,
    hash: Hash,
    existing: Option<PartialObjectMeta<DynamicObject>>,
}

/// Applies what the job's `applied` does not hold yet.
pub(super) async fn apply(client: &Client, template: &Template, job: &Job) -> Outcome {
    let mut outcome = Outcome { applied: job.applied.clone(), ..Outcome::default() };
    let mut pending = Vec::new();
    for object in template.objects(&job.plane, &job.wanted) {
        let (id, hash) = (id(&object), Hash::of(object.to_string().as_bytes()));
        if job.applied.get(&id) == Some(&hash) {
            continue;
        }
        // First all are looked at: nothing is done by halves where a name is taken.
        let api = api(client, &object, &id);
        match within(async { Ok(api.get_metadata_opt(&id.1.name).await?) }).await {
            Ok(existing) => pending.push(Pending { object, id, hash, existing }),
            Err(error) => {
                outcome.failure = Some(failed(&job.plane, &id.0, &error));
                return outcome;
            }
        }
    }
    let is_foreign = |one: &&Pending| {
        let existing = one.existing.as_ref();
        existing.is_some_and(|found| !template.installation.may_change(&found.metadata, &job.plane, &job.wanted))
    };
    let foreign: Vec<_> = pending.iter().filter(is_foreign).map(|one| format!("{} {}", one.id.0, one.id.1)).collect();
    if !foreign.is_empty() {
        outcome.failure = Some(taken(&job.plane, &foreign));
        outcome.taken = true;
        return outcome;
    }
    let mut failures: BTreeMap<bool, String> = BTreeMap::new();
    for one in pending {
        let rolls = prepare_roll(&one);
        if let (true, false) = (rolls, job.may_roll) {
            outcome.roll = Roll::Waits;
            continue;
        }
        match within(put(client, &one)).await {
            Ok(()) => {
                outcome.applied.insert(one.id, one.hash);
                if rolls {
                    outcome.roll = Roll::Runs;
                }
            }
            Err(error) => {
                // Without rights every object fails alike: the first one says it all.
                let denied = refusal(&error).is_some();
                failures.entry(denied).or_insert_with(|| failed(&job.plane, &one.id.0, &error));
                // Where the API server does not respond the others would wait for it, too.
                if !matches!(error, WriteError::Api(kube::Error::Api(_))) {
                    break;
                }
            }
        }
    }
    outcome.failure = failures.into_values().next();
    outcome
}

/// Whether applying it renews pods that run.
fn prepare_roll(one: &Pending) -> bool {
    let existing = one.existing.as_ref().filter(|_| one.id.0 == Deployment::kind(&()));
    existing.is_some_and(|existing| existing.annotations().get(PODS) != Some(&pods(&one.object)))
}

/// A hash of the pods of a Deployment.
fn pods(deployment: &Value) -> String {
    Hash::of(deployment["spec"]["template"].to_string().as_bytes()).to_string()
}

fn api(client: &Client, object: &Value, (kind, key): &Id) -> Api<DynamicObject> {
    let api_version = object["apiVersion"].as_str().unwrap_or_default();
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
    Api::namespaced_with(client.clone(), &key.namespace, &resource)
}

/// Applies the object as it should be, except for a count of replicas that somebody else has set.
async fn put(client: &Client, one: &Pending) -> Result<(), WriteError> {
    let mut object = one.object.clone();
    let mut params = PatchParams::apply(MANAGER);
    if one.id.0 == Deployment::kind(&()) {
        object["metadata"]["annotations"][PODS] = pods(&object).into();
    }
    if let Some(existing) = &one.existing {
        // It has been looked at; another object of this name has not. One that came in the meantime is a conflict.
        object["metadata"]["uid"] = existing.uid().into();
        params = params.force();
        if existing.managed_fields().iter().any(scales)
            && let Some(spec) = object["spec"].as_object_mut()
        {
            spec.remove("replicas");
        }
    }
    api(client, &object, &one.id).patch(&one.id.1.name, &params, &Patch::Apply(object)).await?;
    Ok(())
}

/// Whether this is another manager that owns `spec.replicas`: an autoscaler, or a person with `kubectl scale`. Applying the
/// field would take it back from them, and two would fight over it.
fn scales(entry: &ManagedFieldsEntry) -> bool {
    let ours = entry.manager.as_deref() == Some(MANAGER) && entry.operation.as_deref() == Some("Apply");
    let owns = entry.fields_v1.as_ref().is_some_and(|fields| fields.0["f:spec"].get("f:replicas").is_some());
    owns && !ours
}

/// What the API server says when it denies a request: for want of rights, or by a quota or an admission policy.
pub(super) fn refusal(error: &WriteError) -> Option<&str> {
    match error {
        WriteError::Api(kube::Error::Api(status)) if status.code == 403 => Some(status.message.trim_end_matches('.')),
        _ => None,
    }
}

fn failed(plane: &DataPlane, kind: &str, error: &WriteError) -> String {
    match refusal(error) {
        Some(refusal) => format!(
            "The API server denies the {kind} of the data planes of {plane}: {refusal}. If Sluice lacks the right, let \
             the chart grant it (controller.gatewayClassResource.enabled). Until then there are no data planes, \
             or they stay as they are."
        ),
        None => format!("The {kind} of the data planes of {plane} is not applied and will be tried again: {error}."),
    }
}

fn taken(plane: &DataPlane, foreign: &[String]) -> String {
    let names = foreign.join(" and ");
    let remedy = match plane {
        DataPlane::Class(_) => "delete it, or use another name for the GatewayClass",
        DataPlane::Gateway(_) | DataPlane::Shared => "delete it, or use another name for the Gateway",
    };
    format!(
        "The data planes of {plane} need the name of {names}, which Sluice did not make for them and does not change: {remedy}."
    )
}
