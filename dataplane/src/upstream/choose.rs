//! Which endpoint is asked.

use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::{ConnectError, Connection, Connector, Entry, Pool};
use crate::balance::Picked;
use crate::clock::within;
use crate::cluster::{Cluster, Selection};
use crate::tick::Tick;

/// Endpoints that are hard to reach are passed over so often.
const PASSED_OVER: usize = 16;

/// What an endpoint is chosen by.
pub struct Choice<'a> {
    /// The endpoints.
    pub cluster: &'a Cluster,
    /// How they are connected to.
    pub connector: &'a Arc<Connector>,
    /// What the choice depends on.
    pub selection: Selection<'a>,
}

impl Pool {
    /// An endpoint that was not tried, and rather one that is not hard to reach, with the connections to it.
    pub fn choose(&self, choice: &Choice<'_>) -> Option<(Picked, Rc<Entry>)> {
        let Choice { cluster, connector, selection } = choice;
        let pick = |selection: &Selection<'_>| {
            let picked = cluster.pick(selection)?;
            let entry = self.entry(picked.endpoint(), connector);
            Some((picked, entry))
        };
        let first = pick(selection)?;
        if !first.1.is_doubtful(selection.now) {
            return Some(first);
        }
        let mut skipped = selection.tried.to_vec();
        skipped.push(first.0.endpoint().address());
        for _ in 0..PASSED_OVER {
            match pick(&Selection { tried: &skipped, ..*selection }) {
                Some(other) if !other.1.is_doubtful(selection.now) => return Some(other),
                Some(other) => skipped.push(other.0.endpoint().address()),
                None => break,
            }
        }
        Some(first)
    }

    /// A connection for a request: to the endpoint that was chosen, or to another one where connecting takes long. Returns the
    /// endpoint with it.
    pub async fn checkout(
        &self,
        choice: &Choice<'_>,
        chosen: (Picked, Rc<Entry>),
        connect: Option<Duration>,
    ) -> (Picked, Rc<Entry>, Result<Connection, ConnectError>) {
        if let Some(connection) = chosen.1.reuse() {
            return (chosen.0, chosen.1, Ok(connection));
        }
        // Few requests connect, so the others do not carry the room for it.
        Box::pin(self.reach(choice, chosen, async |entry| entry.checkout(connect).await)).await
    }

    fn counted<T>(&self, opened: Result<T, ConnectError>) -> Result<T, ConnectError> {
        self.stats.upstream_full.add(u64::from(matches!(opened, Err(ConnectError::Full))));
        opened
    }

    /// What `open` makes of the endpoint that was chosen, or of another one where that takes long and there is one. `open` goes
    /// on by itself where others learn from it how the endpoint is.
    pub async fn reach<T>(
        &self,
        choice: &Choice<'_>,
        chosen: (Picked, Rc<Entry>),
        open: impl AsyncFn(Rc<Entry>) -> Result<T, ConnectError>,
    ) -> (Picked, Rc<Entry>, Result<T, ConnectError>) {
        let (mut picked, mut entry) = chosen;
        let mut passed = choice.selection.tried.to_vec();
        loop {
            passed.push(picked.endpoint().address());
            let pending = match entry.wait() {
                Ok(pending) => pending,
                Err(full) => return (picked, entry, self.counted(Err(full))),
            };
            let mut opening = pin!(open(entry.clone()));
            (picked, entry) = loop {
                let patience = entry.endpoint.reachability.patience(Tick::now());
                if let Some(opened) = within(Some(Instant::now() + patience), opening.as_mut()).await {
                    drop(pending);
                    return (picked, entry, self.counted(opened));
                }
                let selection = Selection { tried: &passed, now: Tick::now(), ..choice.selection };
                match self.choose(&Choice { selection, ..*choice }) {
                    Some(other) if !other.1.is_doubtful(selection.now) => break other,
                    _ => {}
                }
            };
        }
    }
}
