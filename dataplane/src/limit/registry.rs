//! Which limiters there are.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use super::{ConnectionCounters, RateBuckets};

/// The limiters by id. A limiter lives as long as a routing table uses it, so an edit that keeps it keeps its state.
#[derive(Debug, Default)]
pub struct LimiterRegistry {
    rates: HashMap<(String, u32, Duration), Weak<RateBuckets>>,
    connections: HashMap<String, Weak<ConnectionCounters>>,
}

impl LimiterRegistry {
    /// The buckets of this id, rate and period.
    pub(crate) fn rate(&mut self, id: &str, requests: u32, per: Duration) -> Arc<RateBuckets> {
        let held = self.rates.entry((id.to_owned(), requests, per)).or_default();
        held.upgrade().unwrap_or_else(|| {
            let new = Arc::new(RateBuckets::new(requests, per));
            *held = Arc::downgrade(&new);
            new
        })
    }

    /// The counters of this id.
    pub(crate) fn connections(&mut self, id: &str) -> Arc<ConnectionCounters> {
        let held = self.connections.entry(id.to_owned()).or_default();
        held.upgrade().unwrap_or_else(|| {
            let new = Arc::new(ConnectionCounters::default());
            *held = Arc::downgrade(&new);
            new
        })
    }

    /// Forgets the limiters that nothing uses any more.
    pub(crate) fn forget_unused(&mut self) {
        self.rates.retain(|_, held| held.strong_count() > 0);
        self.connections.retain(|_, held| held.strong_count() > 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn state_survives_while_it_is_used() {
        let mut registry = LimiterRegistry::default();
        let second = Duration::from_secs(1);
        let first = registry.rate("a", 1, second);
        assert!(Arc::ptr_eq(&first, &registry.rate("a", 1, second)));
        assert!(!Arc::ptr_eq(&first, &registry.rate("a", 2, second)));
        registry.forget_unused();
        assert_eq!(registry.rates.len(), 1);
        drop(first);
        registry.forget_unused();
        assert!(registry.rates.is_empty());
    }
}
