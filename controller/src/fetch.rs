//! Secrets and ConfigMaps that come into use: fetched beside the build loop, which waits for them only a moment.
//!
//! One that the API server does not give out holds up nobody else: what refers to it goes on with what it had, and it is tried
//! again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::core::NamespaceResourceScope;
use kube::{Api, Client, Resource};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};
use translate::{Kind, ObjectKey};

use crate::kinds::{self, Watched};
use crate::store::Change;
use crate::wait::until;

/// So many are fetched at once.
const AT_ONCE: usize = 16;
/// How long fetching one may take.
const DEADLINE: Duration = Duration::from_secs(5);
/// When one that could not be fetched is tried again; twice as long after each failure,
const RETRY: Duration = Duration::from_secs(2);
/// up to this.
const LONGEST_RETRY: Duration = Duration::from_secs(60);

/// How long the build loop waits for what it needs.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Until the next one has come,
    each: Duration,
    /// and for all of them.
    all: Duration,
}

impl Patience {
    /// While the controller serves: an edit that needs a Secret is published with it, and a slow API server delays nobody.
    pub const SERVING: Self = Self { each: Duration::from_millis(500), all: Duration::from_secs(5) };
    /// Before the first publication: what would be missing is served by data planes, or by other replicas.
    pub const STARTING: Self = Self { each: Duration::from_secs(6), all: Duration::from_secs(60) };
}

/// An object of a kind that is kept on demand.
pub type Object = (Kind, ObjectKey);

/// Fetches objects, and tries again those that could not be fetched.
pub struct Fetcher {
    client: Client,
    turns: Arc<Semaphore>,
    /// Each returns its object, and the change or why there is none.
    tasks: JoinSet<(Object, Result<Change, &'static str>)>,
    /// Under way for the first time.
    fresh: BTreeSet<Object>,
    failed: BTreeMap<Object, Failed>,
}

/// An object that could not be fetched.
struct Failed {
    why: &'static str,
    pause: Duration,
    /// When it is tried again; `None` while it is.
    next: Option<Instant>,
}

impl Fetcher {
    /// Fetches nothing yet.
    pub fn new(client: Client) -> Self {
        let turns = Arc::new(Semaphore::new(AT_ONCE));
        Self { client, turns, tasks: JoinSet::new(), fresh: BTreeSet::new(), failed: BTreeMap::new() }
    }

    /// Sees to it that exactly the `missing` objects are being fetched, and returns what comes of those that were not tried
    /// before within a moment. The others come from [`Self::next`].
    pub async fn fetch(&mut self, missing: &[Object], patience: Patience) -> Vec<(Object, Change)> {
        let missing: BTreeSet<&Object> = missing.iter().collect();
        self.failed.retain(|object, _| missing.contains(object));
        for object in missing {
            if !self.failed.contains_key(object) && self.fresh.insert(object.clone()) {
                self.spawn(object.clone());
            }
        }
        let end = Instant::now() + patience.all;
        let mut changes = Vec::new();
        while !self.fresh.is_empty() {
            match timeout_at(end.min(Instant::now() + patience.each), self.tasks.join_next()).await {
                Ok(Some(Ok((object, result)))) => changes.extend(self.settle(object, result)),
                Ok(Some(Err(_))) => {} // a task neither panics nor is aborted
                Ok(None) => self.fresh.clear(),
                Err(_) => break,
            }
        }
        // What takes longer is in nobody's way.
        for object in std::mem::take(&mut self.fresh) {
            self.failed.insert(object, Failed { why: "the API server does not answer", pause: RETRY, next: None });
        }
        changes
    }

    /// The next object that could not be fetched before and now could. Loses nothing when dropped and called again.
    pub async fn next(&mut self) -> (Object, Change) {
        loop {
            let due = self.failed.values().filter_map(|failed| failed.next).min();
            tokio::select! {
                Some(Ok((object, result))) = self.tasks.join_next(), if !self.tasks.is_empty() => {
                    if let Some(fetched) = self.settle(object, result) {
                        return fetched;
                    }
                }
                () = until(due) => self.try_again(),
            }
        }
    }

    /// How many objects exist and could not be fetched.
    pub fn failed(&self) -> usize {
        self.failed.len()
    }

    fn try_again(&mut self) {
        let now = Instant::now();
        let mut due = Vec::new();
        for (object, failed) in &mut self.failed {
            if failed.next.take_if(|next| *next <= now).is_some() {
                due.push(object.clone());
            }
        }
        due.into_iter().for_each(|object| self.spawn(object));
    }

    /// Notes how a try ended.
    fn settle(&mut self, object: Object, result: Result<Change, &'static str>) -> Option<(Object, Change)> {
        let fresh = self.fresh.remove(&object);
        let why = match result {
            Ok(change) => {
                self.failed.remove(&object);
                return Some((object, change));
            }
            Err(why) => why,
        };
        let pause = match self.failed.get(&object) {
            Some(before) => (before.pause * 2).min(LONGEST_RETRY),
            None if fresh => RETRY,
            None => return None,
        };
        let before = self.failed.insert(object.clone(), Failed { why, pause, next: Some(Instant::now() + pause) });
        if before.is_none_or(|before| before.why != why) {
            let (kind, object) = object;
            tracing::warn!(%kind, %object, reason = why, "cannot be fetched; trying again");
        }
        None
    }

    fn spawn(&mut self, object: Object) {
        let (client, turns) = (self.client.clone(), self.turns.clone());
        self.tasks.spawn(async move {
            let _turn = turns.acquire().await;
            let result = timeout(DEADLINE, get(client, &object)).await.unwrap_or(Err("the API server does not answer"));
            (object, result)
        });
    }
}

/// The object as it is now, or why it cannot be had; not the error's text, which could quote the content.
async fn get(client: Client, (kind, key): &Object) -> Result<Change, &'static str> {
    let change = match kind {
        Kind::ConfigMap => get_of::<ConfigMap>(client, key).await,
        _ => get_of::<Secret>(client, key).await, // no third kind is kept on demand
    };
    change.map_err(|error| match error {
        kube::Error::Api(status) if status.code == 403 => "the controller may not read it",
        kube::Error::Api(_) => "the API server refuses it",
        _ => "the API server cannot be reached, or its response not be read",
    })
}

async fn get_of<T>(client: Client, key: &ObjectKey) -> Result<Change, kube::Error>
where
    T: Watched + Resource<Scope = NamespaceResourceScope>,
{
    let object = Api::<T>::namespaced(client, &key.namespace).get_opt(&key.name).await?;
    Ok(match object {
        Some(object) => Change::apply(kinds::stored(object)),
        None => Change::delete::<T>(key.clone()),
    })
}
