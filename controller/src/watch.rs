//! One guarded watch per kind: the API server's events, as changes of the store.
//!
//! An object that does not decode is reported and harms no other; a watch that breaks keeps its last state and is tried
//! again; a kind that the cluster does not have counts as an empty list until it appears. One that it had is gone only after
//! the API server has said so for a while: it also does when its CRDs are being replaced or it has just started.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use kube::core::DeserializeGuard;
use kube::runtime::watcher as watch;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client, Resource};
use tokio::sync::mpsc;
use tokio::time::Instant;
use translate::{Kind, ObjectKey};

use crate::kinds::{Watched, stored};
use crate::store::Change;
use crate::write::reason_of_watch;

/// How long a kind that was there has to be missing before its objects count as gone.
const GONE: Duration = Duration::from_secs(30);

/// Watches one kind for as long as someone takes the changes.
pub async fn run<T: Watched>(client: Client, changes: mpsc::Sender<Change>) {
    let config = watcher::Config {
        field_selector: T::FIELDS.map(Into::into),
        label_selector: T::LABELS.map(Into::into),
        ..watcher::Config::default()
    };
    let mut events = match T::metadata_api() {
        false => watch(Api::<DeserializeGuard<T>>::all(client), config).boxed(),
        // The guard would ask for whole objects; metadata always decodes.
        true => watch(Api::<T>::all(client), config).map_ok(guarded).boxed(),
    };
    let mut pause = Pause::default();
    let mut listed = BTreeSet::new();
    let mut presence = Presence::Unknown;
    while let Some(event) = events.next().await {
        match &event {
            Err(_) => pause.wait().await,
            // A list that merely begins may fail again.
            Ok(Event::Init) => {}
            Ok(_) => pause = Pause::default(),
        }
        let change = match event {
            Ok(Event::Init) => {
                listed.clear();
                continue;
            }
            Ok(Event::InitApply(object)) => {
                listed.insert(ObjectKey::of(object.meta()));
                changed(object)
            }
            Ok(Event::InitDone) => {
                presence = Presence::There;
                Change::listed::<T>(std::mem::take(&mut listed))
            }
            Ok(Event::Apply(object)) => changed(object),
            Ok(Event::Delete(object)) => Change::delete::<T>(ObjectKey::of(object.meta())),
            Err(watcher::Error::InitialListFailed(kube::Error::Api(status))) if status.code == 404 => {
                let before = presence;
                if !presence.not_found(Instant::now()) {
                    if before == Presence::There {
                        tracing::warn!(kind = %T::KIND, "the kind is not found; its last state stays in force for now");
                    }
                    continue;
                }
                tracing::debug!(kind = %T::KIND, "the cluster does not have this kind");
                Change::missing::<T>()
            }
            Err(error) => {
                presence.interrupted();
                let error = match T::KIND {
                    Kind::Secret => reason_of_watch(&error), // the text could quote the content
                    _ => error.to_string(),
                };
                tracing::warn!(kind = %T::KIND, error, "the watch is interrupted; its last state stays in force");
                continue;
            }
        };
        if changes.send(change).await.is_err() {
            return;
        }
    }
}

/// Whether the cluster has a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Presence {
    /// It was never listed.
    Unknown,
    /// It was listed.
    There,
    /// It was listed, and since then nothing but "not found" was heard.
    Missing(Instant),
}

impl Presence {
    /// The API server says that there is no such kind. Returns whether to believe it.
    fn not_found(&mut self, now: Instant) -> bool {
        match *self {
            Self::Unknown => return true,
            Self::There => *self = Self::Missing(now),
            Self::Missing(since) if now.duration_since(since) >= GONE => *self = Self::Unknown,
            Self::Missing(_) => {}
        }
        *self == Self::Unknown
    }

    /// Another failure says nothing about the kind: what is missing has to be so without a break.
    fn interrupted(&mut self) {
        if let Self::Missing(_) = self {
            *self = Self::There;
        }
    }
}

fn guarded<T>(event: Event<T>) -> Event<DeserializeGuard<T>> {
    let guarded = |object| DeserializeGuard(Ok(object));
    match event {
        Event::Init => Event::Init,
        Event::InitApply(object) => Event::InitApply(guarded(object)),
        Event::InitDone => Event::InitDone,
        Event::Apply(object) => Event::Apply(guarded(object)),
        Event::Delete(object) => Event::Delete(guarded(object)),
    }
}

fn changed<T: Watched>(object: DeserializeGuard<T>) -> Change {
    match object.0 {
        Ok(object) => Change::apply(stored(object)),
        Err(invalid) => Change::undecodable::<T>(ObjectKey::of(&invalid.metadata), &invalid.error),
    }
}

/// Waits twice as long after every failure: soon enough to notice a kind that was just installed, seldom enough for an API
/// server in trouble.
pub(crate) struct Pause(Duration);

impl Pause {
    const FIRST: Duration = Duration::from_millis(250);
    const LONGEST: Duration = Duration::from_secs(10);

    pub(crate) async fn wait(&mut self) {
        tokio::time::sleep(self.next()).await;
    }

    fn next(&mut self) -> Duration {
        let now = self.0;
        self.0 = (now * 2).min(Self::LONGEST);
        now
    }
}

impl Default for Pause {
    fn default() -> Self {
        Self(Self::FIRST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_that_was_never_there_is_missing_at_once() {
        assert!(Presence::Unknown.not_found(Instant::now()));
    }

    #[test]
    fn a_kind_that_was_there_is_gone_only_after_a_while_of_nothing_else() {
        let start = Instant::now();
        let mut presence = Presence::There;
        assert!(!presence.not_found(start), "one answer deletes nothing");
        assert!(!presence.not_found(start + GONE / 2));
        presence.interrupted();
        assert!(!presence.not_found(start + GONE), "counted anew");
        assert!(!presence.not_found(start + GONE + GONE / 2));
        assert!(presence.not_found(start + GONE * 2));
        assert!(presence.not_found(start + GONE * 2), "and stays so");
    }

    #[test]
    fn waits_longer_up_to_a_bound() {
        let mut pause = Pause::default();
        let waits: Vec<_> = (0..8).map(|_| pause.next().as_millis()).collect();
        assert_eq!(waits, [250, 500, 1000, 2000, 4000, 8000, 10000, 10000]);
    }
}
