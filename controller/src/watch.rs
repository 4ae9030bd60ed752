//! One guarded watch per kind: the API server's events, as changes of the store.
//!
//! An object that does not decode is reported and harms no other; a watch that breaks keeps its last state and is tried
//! again; a kind that the cluster does not have counts as an empty list until it appears.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::StreamExt;
use kube::core::DeserializeGuard;
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher as watch};
use kube::{Api, Client, Resource};
use tokio::sync::mpsc;
use translate::ObjectKey;

use crate::kinds::{Watched, strip};
use crate::store::Change;

/// Watches one kind for as long as someone takes the changes.
pub async fn run<T: Watched>(client: Client, changes: mpsc::Sender<Change>) {
    let api: Api<DeserializeGuard<T>> = Api::all(client);
    let config = watcher::Config { field_selector: T::FIELDS.map(Into::into), ..watcher::Config::default() };
    let mut events = watch(api, config).backoff(Doubling::default()).boxed();
    let mut listed = BTreeSet::new();
    while let Some(event) = events.next().await {
        let change = match event {
            Ok(Event::Init) => {
                listed.clear();
                continue;
            }
            Ok(Event::InitApply(object)) => {
                listed.insert(ObjectKey::of(object.meta()));
                changed(object)
            }
            Ok(Event::InitDone) => Change::listed::<T>(std::mem::take(&mut listed)),
            Ok(Event::Apply(object)) => changed(object),
            Ok(Event::Delete(object)) => Change::delete::<T>(ObjectKey::of(object.meta())),
            Err(watcher::Error::InitialListFailed(kube::Error::Api(status))) if status.code == 404 => {
                tracing::debug!(kind = %T::KIND, "the cluster does not have this kind");
                Change::listed::<T>(BTreeSet::new())
            }
            Err(error) => {
                tracing::warn!(kind = %T::KIND, %error, "the watch is interrupted; its last state stays in force");
                continue;
            }
        };
        if changes.send(change).await.is_err() {
            return;
        }
    }
}

fn changed<T: Watched>(object: DeserializeGuard<T>) -> Change {
    match object.0 {
        Ok(mut object) => {
            strip(object.meta_mut());
            object.strip();
            Change::apply(object)
        }
        Err(invalid) => Change::undecodable::<T>(ObjectKey::of(&invalid.metadata), &invalid.error),
    }
}

/// Waits twice as long after every failure: soon enough to notice a kind that was just installed, seldom enough for an API
/// server in trouble.
struct Doubling(Duration);

impl Doubling {
    const FIRST: Duration = Duration::from_millis(250);
    const LONGEST: Duration = Duration::from_secs(10);
}

impl Default for Doubling {
    fn default() -> Self {
        Self(Self::FIRST)
    }
}

impl Iterator for Doubling {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let now = self.0;
        self.0 = (now * 2).min(Self::LONGEST);
        Some(now)
    }
}

impl Backoff for Doubling {
    fn reset(&mut self) {
        self.0 = Self::FIRST;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_longer_up_to_a_bound_and_starts_over() {
        let mut backoff = Doubling::default();
        let waits: Vec<_> = backoff.by_ref().take(8).map(|wait| wait.as_millis()).collect();
        assert_eq!(waits, [250, 500, 1000, 2000, 4000, 8000, 10000, 10000]);
        backoff.reset();
        assert_eq!(backoff.next(), Some(Doubling::FIRST));
    }
}
