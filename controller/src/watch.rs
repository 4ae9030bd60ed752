//! One guarded watch per kind: the API server's events, as changes of the store.
//!
//! An object that does not decode is reported and harms no other; a watch that breaks keeps its last state and is tried
//! again; a kind that the cluster does not have counts as an empty list until it appears. One that it had is gone only after
//! the API server has said so for a while: it also does when its CRDs are being replaced or it has just started. One that the
//! controller may not list from the beginning counts as an empty list too, unless it is essential.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use kube::core::DeserializeGuard;
use kube::runtime::watcher as watch;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client, Resource};
use tokio::sync::mpsc;
use tokio::time::Instant;
use translate::{Kind, ObjectKey};

use crate::kinds::{Watched, stored};
use crate::metrics::Metrics;
use crate::store::Change;
use crate::write::reason_of_watch;

/// How long a kind that was there has to be missing before its objects count as gone.
const GONE: Duration = Duration::from_secs(30);

/// How long the API server has to forbid a kind before it counts as empty: it does so too when it has just started.
const FORBIDDEN: Duration = Duration::from_secs(5);

/// How long to wait before believing that a kind is not there.
#[derive(Clone, Copy, Debug)]
struct Doubt {
    gone: Duration,
    forbidden: Duration,
}

/// Watches one kind for as long as someone takes the changes.
pub async fn run<T: Watched>(client: Client, changes: mpsc::Sender<Change>, metrics: Metrics) {
    doubting::<T>(client, changes, metrics, Doubt { gone: GONE, forbidden: FORBIDDEN }).await;
}

async fn doubting<T: Watched>(client: Client, changes: mpsc::Sender<Change>, metrics: Metrics, doubt: Doubt) {
    let mut pause = Pause::default();
    let mut listed = BTreeSet::new();
    let mut presence = Presence::Unknown;
    let mut events = events::<T>(&client);
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
                metrics.listed(T::KIND);
                metrics.forbidden(T::KIND, false);
                Change::listed::<T>(std::mem::take(&mut listed))
            }
            Ok(Event::Apply(object)) => changed(object),
            Ok(Event::Delete(object)) => Change::delete::<T>(ObjectKey::of(object.meta())),
            Err(error) if code(&error) == Some(404) => {
                let before = presence;
                if !presence.not_found(Instant::now(), doubt.gone) {
                    if before == Presence::There {
                        tracing::warn!(kind = %T::KIND, "the kind is not found; its last state stays in force for now");
                    }
                    continue;
                }
                tracing::debug!(kind = %T::KIND, "the cluster does not have this kind");
                // A watch would go on where it was and never tell what is there when the kind comes back. A list does.
                events = self::events::<T>(&client);
                Change::missing::<T>()
            }
            Err(error) if !T::ESSENTIAL && code(&error) == Some(403) && presence.never_there() => {
                let before = presence;
                if !presence.forbidden(Instant::now(), doubt.forbidden) || before == Presence::Forbidden {
                    continue;
                }
                tracing::warn!(
                    kind = %T::KIND,
                    "the controller may not list this kind, which counts as empty: nothing of it is served. Grant list and watch \
                     to its ServiceAccount (see the ClusterRole of the chart) if it should be"
                );
                metrics.forbidden(T::KIND, true);
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

/// A list and what follows it.
fn events<T: Watched>(client: &Client) -> BoxStream<'static, watcher::Result<Event<DeserializeGuard<T>>>> {
    let client = client.clone();
    let config = watcher::Config {
        field_selector: T::FIELDS.map(Into::into),
        label_selector: T::LABELS.map(Into::into),
        ..watcher::Config::default()
    };
    match T::metadata_api() {
        false => watch(Api::<DeserializeGuard<T>>::all(client), config).boxed(),
        // The guard would ask for whole objects; metadata always decodes.
        true => watch(Api::<T>::all(client), config).map_ok(guarded).boxed(),
    }
}

/// The status code that the API server responded with.
fn code(error: &watcher::Error) -> Option<u16> {
    use watcher::Error::{InitialListFailed, NoResourceVersion, WatchError, WatchFailed, WatchStartFailed};
    match error {
        InitialListFailed(kube::Error::Api(status))
        | WatchStartFailed(kube::Error::Api(status))
        | WatchFailed(kube::Error::Api(status))
        | WatchError(status) => Some(status.code),
        InitialListFailed(_) | WatchStartFailed(_) | WatchFailed(_) | NoResourceVersion => None,
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
    /// It was never listed, and nothing but "forbidden" was heard for a while,
    Denied(Instant),
    /// and then for so long that it counts as empty.
    Forbidden,
}

impl Presence {
    /// The API server says that there is no such kind. Returns whether to believe it.
    fn not_found(&mut self, now: Instant, doubt: Duration) -> bool {
        match *self {
            Self::There => *self = Self::Missing(now),
            Self::Missing(since) if now.duration_since(since) < doubt => {}
            Self::Unknown | Self::Denied(_) | Self::Forbidden | Self::Missing(_) => *self = Self::Unknown,
        }
        *self == Self::Unknown
    }

    /// The API server does not let the controller list the kind. Returns whether to believe that this stays so.
    fn forbidden(&mut self, now: Instant, doubt: Duration) -> bool {
        match *self {
            Self::Unknown => *self = Self::Denied(now),
            Self::Denied(since) if now.duration_since(since) >= doubt => *self = Self::Forbidden,
            Self::Denied(_) | Self::Forbidden | Self::There | Self::Missing(_) => {}
        }
        *self == Self::Forbidden
    }

    /// Whether the kind was never listed, or is gone since.
    fn never_there(self) -> bool {
        matches!(self, Self::Unknown | Self::Denied(_) | Self::Forbidden)
    }

    /// Another failure says nothing about the kind: what is missing has to be so without a break.
    fn interrupted(&mut self) {
        match self {
            Self::Missing(_) => *self = Self::There,
            Self::Denied(_) => *self = Self::Unknown,
            Self::Unknown | Self::There | Self::Forbidden => {}
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
    use serde_json::{Value, json};
    use translate::objects::{Gateway, Pod, TrafficPolicy};

    use super::*;
    use crate::api_server::{self, Requests};
    use crate::store::Store;

    const NO_DOUBT: Doubt = Doubt { gone: Duration::ZERO, forbidden: Duration::ZERO };

    fn status(code: u16) -> Value {
        json!({"kind": "Status", "status": "Failure", "message": "", "reason": "", "code": code})
    }

    /// Answers lists with `list`, and watches with 404, until there is a change.
    async fn change(
        requests: &mut Requests,
        changes: &mut mpsc::Receiver<Change>,
        list: impl Fn() -> (u16, Value),
    ) -> Change {
        loop {
            tokio::select! {
                change = changes.recv() => return change.unwrap(),
                asked = requests.next() => match asked.query.contains("watch=true") {
                    true => asked.answer(404, &status(404)),
                    false => {
                        let (code, body) = list();
                        asked.answer(code, &body);
                    }
                },
            }
        }
    }

    fn gateways() -> (u16, Value) {
        let gateway = json!({
            "metadata": {"namespace": "shop", "name": "web"},
            "spec": {"gatewayClassName": "c", "listeners": [{"name": "http", "port": 80, "protocol": "HTTP"}]},
        });
        let list = json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "GatewayList", "metadata": {"resourceVersion": "1"}, "items": [gateway],
        });
        (200, list)
    }

    #[tokio::test]
    async fn a_kind_that_goes_while_it_is_watched_is_gone_and_comes_back() {
        let (client, mut requests) = api_server::start().await;
        let (sender, mut changes) = mpsc::channel(16);
        tokio::spawn(doubting::<Gateway>(client, sender, Metrics::default(), NO_DOUBT));
        let mut store = Store::new([Kind::Gateway], Vec::new());
        let mut count = async |wanted: usize| {
            while store.resources.gateways.len() != wanted {
                store.change(change(&mut requests, &mut changes, gateways).await);
            }
        };
        count(1).await;
        count(0).await;
        count(1).await;
    }

    #[tokio::test]
    async fn a_kind_that_may_not_be_listed_is_empty_and_reported() {
        let (client, mut requests) = api_server::start().await;
        let (sender, mut changes) = mpsc::channel(16);
        let metrics = Metrics::default();
        tokio::spawn(doubting::<Pod>(client, sender, metrics.clone(), NO_DOUBT));
        let mut store = Store::new([Kind::Pod], Vec::new());
        assert!(!store.listed_all());
        store.change(change(&mut requests, &mut changes, || (403, status(403))).await);
        assert!(store.listed_all());
        assert!(metrics.text().contains("kind_forbidden{kind=\"Pod\"} 1"), "{}", metrics.text());
    }

    #[tokio::test]
    async fn nothing_is_served_without_the_kinds_that_protect() {
        let (client, mut requests) = api_server::start().await;
        let (sender, mut changes) = mpsc::channel(16);
        tokio::spawn(doubting::<TrafficPolicy>(client, sender, Metrics::default(), NO_DOUBT));
        for _ in 0..4 {
            requests.next().await.answer(403, &status(403));
        }
        assert!(changes.try_recv().is_err(), "it goes on asking");
    }

    #[test]
    fn a_kind_that_was_never_there_is_missing_at_once() {
        assert!(Presence::Unknown.not_found(Instant::now(), GONE));
    }

    #[test]
    fn a_kind_that_was_there_is_gone_only_after_a_while_of_nothing_else() {
        let start = Instant::now();
        let mut presence = Presence::There;
        assert!(!presence.not_found(start, GONE), "one answer deletes nothing");
        assert!(!presence.not_found(start + GONE / 2, GONE));
        presence.interrupted();
        assert!(!presence.not_found(start + GONE, GONE), "counted anew");
        assert!(!presence.not_found(start + GONE + GONE / 2, GONE));
        assert!(presence.not_found(start + GONE * 2, GONE));
        assert!(presence.not_found(start + GONE * 2, GONE), "and stays so");
    }

    #[test]
    fn a_kind_is_forbidden_only_after_a_while_of_nothing_else() {
        let start = Instant::now();
        let mut presence = Presence::Unknown;
        assert!(!presence.forbidden(start, FORBIDDEN), "an API server that starts forbids everything");
        presence.interrupted();
        assert!(!presence.forbidden(start + FORBIDDEN, FORBIDDEN), "counted anew");
        assert!(presence.forbidden(start + FORBIDDEN * 2, FORBIDDEN));
        assert!(!Presence::There.never_there(), "what was listed stays as it was");
    }

    #[test]
    fn waits_longer_up_to_a_bound() {
        let mut pause = Pause::default();
        let waits: Vec<_> = (0..8).map(|_| pause.next().as_millis()).collect();
        assert_eq!(waits, [250, 500, 1000, 2000, 4000, 8000, 10000, 10000]);
    }
}
