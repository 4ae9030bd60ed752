//! Which endpoint is asked.

use std::rc::Rc;
use std::sync::Arc;

use super::{Connector, Entry, Pool};
use crate::balance::Picked;
use crate::cluster::{Cluster, Selection};

/// Endpoints that failed a moment ago are passed over so often.
const PASSED_OVER: usize = 4;

impl Pool {
    /// An endpoint that was not tried, and rather one that did not fail a moment ago, with the connections to it.
    pub fn choose(
        &self,
        cluster: &Cluster,
        connector: &Arc<Connector>,
        selection: Selection<'_>,
    ) -> Option<(Picked, Rc<Entry>)> {
        let pick = |selection: &Selection<'_>| {
            let picked = cluster.pick(selection)?;
            let entry = self.entry(picked.endpoint(), connector);
            Some((picked, entry))
        };
        let first = pick(&selection)?;
        if !first.1.is_cooling_down() {
            return Some(first);
        }
        let mut skipped = selection.tried.to_vec();
        skipped.push(first.0.endpoint().address());
        for _ in 0..PASSED_OVER {
            match pick(&Selection { tried: &skipped, ..selection }) {
                Some(other) if !other.1.is_cooling_down() => return Some(other),
                Some(other) => skipped.push(other.0.endpoint().address()),
                None => break,
            }
        }
        Some(first)
    }
}
