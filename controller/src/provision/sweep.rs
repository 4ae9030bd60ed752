//! What this installation once made and nobody wants now.

use std::sync::Arc;

use kube::api::{ApiResource, DeleteParams, DynamicObject, ListParams, Preconditions};
use kube::core::PartialObjectMeta;
use kube::{Api, Client, ResourceExt};
use tokio::sync::watch;
use translate::ObjectKey;

use super::owner::made_for;
use super::{Plan, Template, objects};
use crate::write::{WriteError, within};

/// How many objects one request lists.
const PAGE: u32 = 500;

/// Deletes it, as the latest plan says. Whoever no longer leads has dropped this before.
pub(super) async fn sweep(
    client: Client,
    template: Arc<Template>,
    plan: watch::Receiver<Arc<Option<Plan>>>,
) -> Result<(), WriteError> {
    for resource in objects::kinds() {
        for object in list(&client, &template, &resource).await? {
            let latest = plan.borrow().clone();
            let Some(latest) = latest.as_ref() else { return Ok(()) };
            let key = ObjectKey::new(object.namespace().unwrap_or_default(), object.name_any());
            if is_wanted(latest, &template, &resource.kind, &key)
                || is_spared(latest, &object, &key)
                || !template.installation.may_delete(&object.metadata, |uid| latest.owners.contains(uid))
            {
                continue;
            }
            tracing::info!(kind = resource.kind, object = %key, "deleting an object of a former Gateway");
            let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), &key.namespace, &resource);
            // What has the name now may be another object.
            let preconditions = Preconditions { uid: object.uid(), resource_version: None };
            let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::background() };
            within(async {
                match api.delete(&key.name, &params).await {
                    Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
                    other => Ok(other.map(drop)?),
                }
            })
            .await?;
        }
    }
    Ok(())
}

async fn list(
    client: &Client,
    template: &Template,
    resource: &ApiResource,
) -> Result<Vec<PartialObjectMeta<DynamicObject>>, WriteError> {
    let api: Api<DynamicObject> = Api::all_with(client.clone(), resource);
    let mut params = ListParams::default().labels(&template.installation.selector()).limit(PAGE);
    let mut found = Vec::new();
    loop {
        let page = within(async { Ok(api.list_metadata(&params).await?) }).await?;
        found.extend(page.items);
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => return Ok(found),
        }
    }
}

fn is_wanted(plan: &Plan, template: &Template, kind: &str, key: &ObjectKey) -> bool {
    template.makes(kind) && plan.wanted.values().any(|wanted| wanted.infrastructure.key == *key)
}

fn is_spared(plan: &Plan, object: &PartialObjectMeta<DynamicObject>, key: &ObjectKey) -> bool {
    // Labels could be shortened names.
    let mut planes = object.owner_references().iter().filter_map(|owner| made_for(owner, &key.namespace));
    plan.left.contains(key) || planes.any(|plane| plan.spared.contains(&plane))
}
