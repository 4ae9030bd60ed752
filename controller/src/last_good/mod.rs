//! Last good versions that outlive the controllers: the leader keeps those of broken objects in one Secret, every replica
//! reads it before its first build and follows it. [`Record`] is its content and says what follows from it.

mod record;

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{ObjectMeta, PostParams};
use kube::runtime::watcher::watch_object;
use kube::{Api, Client};
use tokio::sync::{mpsc, watch};
use translate::ObjectKey;

use crate::shutdown::Shutdown;
use crate::store::Change;
use crate::watch::Pause;
use crate::write::{WriteError, reason, within};
pub use record::{Next, Record};

/// The entry of the Secret.
const ENTRY: &str = "objects.json";
/// The type of the Secret.
const TYPE: &str = "sluice.dev/last-good";
/// When a failed write is tried again; twice as long after every failure,
const RETRY: Duration = Duration::from_millis(250);
/// up to this.
const LONGEST_RETRY: Duration = Duration::from_secs(60);

/// Tells the store what the Secret `place` holds, for as long as someone takes the changes.
pub async fn follow(client: Client, place: ObjectKey, changes: mpsc::Sender<Change>) {
    let api: Api<Secret> = Api::namespaced(client, &place.namespace);
    let mut events = pin!(watch_object(api, &place.name));
    let mut pause = Pause::default();
    while let Some(event) = events.next().await {
        let Ok(secret) = event else {
            // Not the error's text: it could quote the content. The watch of all Secrets tells why.
            tracing::warn!(secret = %place, "the record of last good versions cannot be watched; trying again");
            pause.wait().await;
            continue;
        };
        pause = Pause::default();
        let record = secret.map_or_else(Record::default, |secret| {
            let bytes = secret.data.and_then(|mut data| data.remove(ENTRY)).unwrap_or_default().0;
            Record::read(secret.metadata.resource_version.unwrap_or_default(), bytes)
        });
        if changes.send(Change::recorded(record)).await.is_err() {
            return;
        }
    }
}

/// What the Secret should hold and does not.
#[derive(Clone, PartialEq, Eq)]
pub struct Unrecorded {
    /// The version of the Secret that this follows from; `None` when there was no Secret.
    pub version: Option<String>,
    /// The content.
    pub text: String,
}

/// Writes the Secret.
pub struct Recorder {
    /// Access to the API server.
    pub client: Client,
    /// The Secret.
    pub place: ObjectKey,
    /// What is to be written; the latest counts, `None` is nothing.
    pub unrecorded: watch::Receiver<Arc<Option<Unrecorded>>>,
    /// Whether this replica writes.
    pub leader: watch::Receiver<bool>,
}

impl Recorder {
    /// Writes as leader until `shutdown`.
    pub async fn run(mut self, mut shutdown: Shutdown) {
        let mut retry = RETRY;
        loop {
            let leads = *self.leader.borrow_and_update();
            let unrecorded = self.unrecorded.borrow_and_update().clone();
            let written = match unrecorded.as_ref() {
                Some(unrecorded) if leads => within(self.write(unrecorded)).await,
                _ => Ok(()),
            };
            match &written {
                Ok(()) => retry = RETRY,
                Err(error) => {
                    let reason = reason(error);
                    tracing::warn!(secret = %self.place, reason, "last good versions are not recorded; trying again");
                    retry = (retry * 2).min(LONGEST_RETRY);
                }
            }
            tokio::select! {
                biased; // what was to be recorded before the end is recorded
                Ok(()) = self.unrecorded.changed() => {}
                Ok(()) = self.leader.changed() => {}
                () = shutdown.requested() => return,
                () = tokio::time::sleep(retry), if written.is_err() => {}
            }
        }
    }

    /// Fails when the Secret is no longer the version that was read: whoever writes next has to know what it holds.
    async fn write(&self, unrecorded: &Unrecorded) -> Result<(), WriteError> {
        let api: Api<Secret> = Api::namespaced(self.client.clone(), &self.place.namespace);
        let secret = Secret {
            metadata: ObjectMeta {
                name: Some(self.place.name.clone()),
                resource_version: unrecorded.version.clone(),
                ..ObjectMeta::default()
            },
            type_: Some(TYPE.into()),
            data: Some(BTreeMap::from([(ENTRY.into(), ByteString(unrecorded.text.clone().into_bytes()))])),
            ..Secret::default()
        };
        match unrecorded.version {
            None => api.create(&PostParams::default(), &secret).await?,
            Some(_) => api.replace(&self.place.name, &PostParams::default(), &secret).await?,
        };
        Ok(())
    }
}

#[cfg(test)]
mod tests;
