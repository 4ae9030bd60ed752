//! The finalizer of GatewayClasses: a class is not deleted while Gateways use it (the Gateway API's SHOULD).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crds::gateway::GatewayClass;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use serde_json::json;
use tokio::sync::watch;

use crate::shutdown::Shutdown;
use crate::write::{WriteError, within};

/// The name that the specification gives it.
const FINALIZER: &str = "gateway-exists-finalizer.gateway.networking.k8s.io";
/// When all classes are looked at again, to mend what somebody else changed.
const AGAIN: Duration = Duration::from_secs(5 * 60);
/// When a failed write is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// Our GatewayClasses, each with whether there are Gateways of it.
pub type Classes = BTreeMap<String, bool>;

/// Keeps the finalizer where it belongs.
pub struct ClassGuard {
    /// Access to the API server.
    pub client: Client,
    /// The latest counts. Empty until the Gateways are known.
    pub classes: watch::Receiver<Arc<Classes>>,
    /// Whether this replica writes.
    pub leader: watch::Receiver<bool>,
}

impl ClassGuard {
    /// Writes what differs, as leader, until `shutdown`.
    pub async fn run(mut self, mut shutdown: Shutdown) {
        loop {
            let leads = *self.leader.borrow_and_update();
            let classes = self.classes.borrow_and_update().clone();
            let mut again = AGAIN;
            // Who lost the lead writes no more, not even what is left of this round.
            for (class, used) in classes.iter().take_while(|_| leads && !self.leader.has_changed().unwrap_or(false)) {
                if let Err(error) = within(set(&self.client, class, *used)).await {
                    tracing::warn!(class, %error, "the finalizer of the GatewayClass is not written; trying again");
                    again = RETRY;
                }
            }
            tokio::select! {
                Ok(()) = self.classes.changed() => {}
                Ok(()) = self.leader.changed() => {}
                () = tokio::time::sleep(again) => {}
                () = shutdown.requested() => return,
            }
        }
    }
}

async fn set(client: &Client, name: &str, used: bool) -> Result<(), WriteError> {
    let api: Api<GatewayClass> = Api::all(client.clone());
    for _ in 0..5 {
        let Some(class) = api.get_metadata_opt(name).await? else { return Ok(()) };
        let mut finalizers = class.finalizers().to_vec();
        let held = finalizers.iter().any(|finalizer| finalizer == FINALIZER);
        // What is being deleted takes no finalizer any more.
        if held == used || (used && class.metadata.deletion_timestamp.is_some()) {
            return Ok(());
        }
        match used {
            true => finalizers.push(FINALIZER.into()),
            false => finalizers.retain(|finalizer| finalizer != FINALIZER),
        }
        // The version makes a change by somebody else a conflict.
        let patch = json!({ "metadata": { "resourceVersion": class.resource_version(), "finalizers": finalizers } });
        match api.patch_metadata(name, &PatchParams::default(), &Patch::Merge(patch)).await {
            Ok(_) => return Ok(()),
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(kube::Error::Api(status)) if status.code == 404 => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
    Err(WriteError::Contended)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api_server;
    use crate::shutdown;

    #[tokio::test]
    async fn a_round_ends_with_the_lead() {
        let (client, mut asked) = api_server::start().await;
        let (_classes, classes) = watch::channel(Arc::new([("a".to_owned(), true), ("b".to_owned(), true)].into()));
        let (leads, leader) = watch::channel(true);
        let (trigger, shutdown) = shutdown::channel();
        let running = tokio::spawn(ClassGuard { client, classes, leader }.run(shutdown));
        let of = |class: &str| format!("GET /apis/gateway.networking.k8s.io/v1/gatewayclasses/{class}");
        let held = |class: &str| {
            json!({
                "apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata",
                "metadata": {"name": class, "finalizers": [FINALIZER]},
            })
        };
        let first = asked.next().await;
        assert_eq!(first.what, of("a"));
        leads.send_replace(false);
        leads.send_replace(true); // and it has it again, when others may have written meanwhile
        first.answer(200, &held("a"));
        let again = asked.next().await;
        assert_eq!(again.what, of("a"));
        again.answer(200, &held("a"));
        assert_eq!(asked.next().await.what, of("b"));
        trigger.stop();
        running.await.unwrap();
    }
}
