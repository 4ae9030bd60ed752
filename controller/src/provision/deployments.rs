//! Which Deployments of data planes there are: one that somebody deletes has to be noticed.

use std::collections::BTreeSet;

use futures::StreamExt;
use k8s_openapi::api::apps::v1::Deployment;
use kube::core::PartialObjectMeta;
use kube::runtime::watcher::{self, Config, Event, watcher};
use kube::{Api, Client};
use tokio::sync::mpsc;
use translate::ObjectKey;

use super::objects;
use crate::store::Change;
use crate::watch::Pause;

/// Tells the store the names of the Deployments that `installation` made, for as long as someone takes the changes. Without the right
/// to watch them nothing is told.
pub async fn follow(client: Client, installation: String, changes: mpsc::Sender<Change>) {
    let config = Config::default().labels(&objects::made_by(&installation));
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
                // An installation that provisions nothing has no such right, and needs none.
                match &error {
                    watcher::Error::InitialListFailed(kube::Error::Api(status)) if status.code == 403 => {
                        if !std::mem::replace(&mut told, true) {
                            let reason = &status.message;
                            tracing::info!(
                                reason,
                                "Deployments of data planes that somebody deletes come back after minutes"
                            );
                        }
                    }
                    _ => {
                        tracing::warn!(%error, "the watch of Deployments is interrupted; its last state stays in force")
                    }
                }
                pause.wait().await;
                continue;
            }
        };
        pause = Pause::default();
        if changed && changes.send(Change::deployments(known.clone())).await.is_err() {
            return;
        }
    }
}
