//! When the pods of a Deployment are renewed.

use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use kube::{Api, Client};
use tokio::time::{sleep, timeout};
use translate::ObjectKey;

use crate::write::within;

/// How often the Deployment is looked at.
const PAUSE: Duration = Duration::from_secs(1);
/// How long others wait for it: pods that never become ready must not hold up a release for everybody.
const PATIENCE: Duration = Duration::from_secs(120);

/// Returns once all pods of the Deployment are new and available, it is gone, or others waited long enough.
pub(super) async fn ended(client: Client, key: ObjectKey) {
    let api: Api<Deployment> = Api::namespaced(client, &key.namespace);
    let renewed = async {
        loop {
            match within(async { Ok(api.get_opt(&key.name).await?) }).await {
                Ok(Some(deployment)) if !is_renewed(&deployment) => {}
                Err(error) => tracing::debug!(%error, deployment = %key, "the Deployment cannot be read"),
                Ok(_) => return,
            }
            sleep(PAUSE).await;
        }
    };
    if timeout(PATIENCE, renewed).await.is_err() {
        tracing::warn!(deployment = %key, "pods are not renewed after {} s; the next ones are", PATIENCE.as_secs());
    }
}

fn is_renewed(deployment: &Deployment) -> bool {
    let replicas = deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
    deployment.status.as_ref().is_some_and(|status| {
        status.observed_generation >= deployment.metadata.generation
            && status.updated_replicas.unwrap_or_default() >= replicas
            && status.available_replicas.unwrap_or_default() >= replicas
            && status.replicas == status.updated_replicas
    }) || replicas == 0
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn pods_are_renewed_when_all_are_new_and_available() {
        let renewed = |observed: i64, updated: i32, available: i32, all: i32| {
            let status = json!({
                "observedGeneration": observed, "updatedReplicas": updated, "availableReplicas": available, "replicas": all,
            });
            let spec = json!({"replicas": 2, "selector": {}, "template": {}});
            let deployment = json!({"metadata": {"generation": 2}, "spec": spec, "status": status});
            is_renewed(&serde_json::from_value(deployment).unwrap())
        };
        assert!(renewed(2, 2, 2, 2));
        assert!(!renewed(1, 2, 2, 2), "of the version before");
        assert!(!renewed(2, 1, 2, 3) && !renewed(2, 2, 1, 2) && !renewed(2, 2, 2, 3));
    }
}
