//! Which Deployments of data planes there are: one that somebody deletes has to be noticed.

use std::collections::BTreeSet;

use futures::StreamExt;
use k8s_openapi::api::apps::v1::Deployment;
use kube::core::PartialObjectMeta;
use kube::runtime::watcher::{self, Config, Event, watcher};
use kube::{Api, Client};
use tokio::sync::mpsc;
use translate::ObjectKey;

use super::Installation;
use crate::store::Change;
use crate::watch::Pause;

/// What the API server says when it denies the list or the watch.
fn denial(error: &watcher::Error) -> Option<&str> {
    use watcher::Error::{InitialListFailed, WatchError, WatchStartFailed};
    let status = match error {
        InitialListFailed(kube::Error::Api(status)) | WatchStartFailed(kube::Error::Api(status)) => status,
        WatchError(status) => status,
        _ => return None,
    };
    (status.code == 403).then_some(status.message.as_str())
}

/// Tells the store the names of the Deployments that `installation` made, for as long as someone takes the changes. Without the right
/// to watch them nothing is told.
pub async fn follow(client: Client, installation: Installation, changes: mpsc::Sender<Change>) {
    let config = Config::default().labels(&installation.selector());
    let mut events = watcher(Api::<PartialObjectMeta<Deployment>>::all(client), config).boxed();
    let mut pause = Pause::default();
    let mut known = BTreeSet::new();
    let mut listed = None;
    let mut told = false;
    while let Some(event) = events.next().await {
        let changed = match event {
            // A list that merely begins may fail again.
            Ok(Event::Init) => {
                listed = Some(BTreeSet::new());
                continue;
            }
            Ok(Event::InitApply(object)) => {
                listed.get_or_insert_default().insert(ObjectKey::of(&object.metadata));
                continue;
            }
            Ok(Event::InitDone) => {
                known = listed.take().unwrap_or_default();
                true
            }
            Ok(Event::Apply(object)) => known.insert(ObjectKey::of(&object.metadata)),
            Ok(Event::Delete(object)) => known.remove(&ObjectKey::of(&object.metadata)),
            Err(error) => {
                match denial(&error) {
                    // An installation that provisions nothing has no such right, and needs none.
                    Some(reason) => {
                        if !std::mem::replace(&mut told, true) {
                            tracing::info!(
                                reason,
                                "Deployments of data planes that somebody deletes come back after minutes"
                            );
                        }
                        // Whoever may list but not watch would never hear of the next one.
                        if changes.send(Change::deployments(None)).await.is_err() {
                            return;
                        }
                    }
                    None => {
                        tracing::warn!(%error, "the watch of Deployments is interrupted; its last state stays in force")
                    }
                }
                pause.wait().await;
                continue;
            }
        };
        pause = Pause::default();
        if changed && changes.send(Change::deployments(Some(known.clone()))).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::api_server;
    use crate::store::Store;

    #[tokio::test]
    async fn who_may_list_but_not_watch_knows_nothing() {
        let (client, mut asked) = api_server::start().await;
        let (sender, mut changes) = mpsc::channel(8);
        let following = tokio::spawn(follow(client, Installation::new("sluice", "sluice", "c"), sender));
        let mut store = Store::new(Vec::new(), Vec::new());

        let listed = asked.next().await;
        let item = json!({
            "apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": {"namespace": "shop", "name": "web"},
        });
        let list = json!({
            "apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadataList",
            "metadata": {"resourceVersion": "1"}, "items": [item],
        });
        listed.answer(200, &list);
        store.change(changes.recv().await.unwrap());
        assert_eq!(store.deployments, Some([ObjectKey::new("shop", "web")].into()));

        let denial = json!({
            "apiVersion": "v1", "kind": "Status", "status": "Failure", "code": 403, "reason": "Forbidden", "message": "no",
        });
        asked.next().await.answer(403, &denial);
        store.change(changes.recv().await.unwrap());
        assert_eq!(store.deployments, None);
        following.abort();
    }
}
