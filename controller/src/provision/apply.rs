//! Server-side apply of one object of a Gateway.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams};
use kube::{Api, Client, Resource, ResourceExt};
use serde_json::Value;

use super::Id;
use crate::status::MANAGER;
use crate::write::WriteError;

/// Applies the object as it should be, except for a count of replicas that somebody else has set.
pub(super) async fn apply(client: &Client, object: &Value, (kind, key): &Id) -> Result<(), WriteError> {
    let api_version = object["apiVersion"].as_str().unwrap_or_default();
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), &key.namespace, &resource);
    let mut object = object.clone();
    if *kind == Deployment::kind(&()) {
        let existing = api.get_metadata_opt(&key.name).await?;
        if existing.is_some_and(|existing| existing.managed_fields().iter().any(scales))
            && let Some(spec) = object["spec"].as_object_mut()
        {
            spec.remove("replicas");
        }
    }
    api.patch(&key.name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(object)).await?;
    Ok(())
}

/// Whether this is another manager that owns `spec.replicas`: an autoscaler, or a person with `kubectl scale`. Applying the
/// field would take it back from them, and two would fight over it.
fn scales(entry: &ManagedFieldsEntry) -> bool {
    let ours = entry.manager.as_deref() == Some(MANAGER) && entry.operation.as_deref() == Some("Apply");
    let owns = entry.fields_v1.as_ref().is_some_and(|fields| fields.0["f:spec"].get("f:replicas").is_some());
    owns && !ours
}
