//! How many requests each client has at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::Key;
use super::table::Table;

/// The low bits of a counter hold the count, the others a part of the key's hash.
const COUNT: u64 = (1 << 20) - 1;

/// The counters of one limiter: 4 KiB, 64 KiB more once many clients have requests at the same time, and 512 KiB more for a crowd.
/// Without locks; a counter belongs to a key only while it counts something.
///
/// When even then all counters where a key may be are taken by other clients, those that have none share some and are limited
/// together: memory is bounded, and nobody passes uncounted.
#[derive(Debug, Default)]
pub struct ConnectionCounters {
    table: Table<AtomicU64>,
}

/// One counted request; it is counted until this is dropped.
#[derive(Debug)]
pub struct ConnectionGuard {
    counters: Arc<ConnectionCounters>,
    /// The counter.
    place: usize,
}

impl ConnectionCounters {
    /// Counts one more request of `key`, or returns `None` when it has `limit` of them.
    pub fn enter(self: &Arc<Self>, key: Key, limit: u32) -> Option<ConnectionGuard> {
        let tag = key.0 & !COUNT;
        let limit = u64::from(limit).min(COUNT);
        loop {
            // One look for both: two requests of a new key choose the same counter, and one of them looks again.
            let mut own = None;
            let mut unused = None;
            for (place, counter) in self.table.slots(key) {
                let value = counter.load(Relaxed);
                if value & COUNT == 0 {
                    unused = unused.or(Some((place, counter, value)));
                } else if value & !COUNT == tag {
                    own = Some((place, counter, value));
                    break;
                }
            }
            let Some((place, counter, value)) = own.or(unused) else {
                if self.table.grow() {
                    continue;
                }
                return self.share(key, limit);
            };
            if value & COUNT >= limit {
                return None;
            }
            let next = tag | ((value & COUNT) + 1);
            if counter.compare_exchange(value, next, Relaxed, Relaxed).is_ok() {
                return Some(ConnectionGuard { counters: self.clone(), place });
            }
        }
    }
}

impl ConnectionCounters {
    /// As [`Self::enter`], together with the other keys that have no counter of their own.
    fn share(self: &Arc<Self>, key: Key, limit: u64) -> Option<ConnectionGuard> {
        let (place, counter) = self.table.shared(key);
        let entered = counter.try_update(Relaxed, Relaxed, |count| (count < limit).then_some(count + 1));
        entered.ok().map(|_| ConnectionGuard { counters: self.clone(), place })
    }
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        if let Some(counter) = self.counters.table.slot(self.place) {
            counter.fetch_sub(1, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;

    fn client(number: u32) -> Key {
        Key::of_address(IpAddr::V4(Ipv4Addr::from_bits(number)))
    }

    #[test]
    fn a_client_has_at_most_its_limit_at_once() {
        let counters = Arc::new(ConnectionCounters::default());
        let first = counters.enter(client(1), 2).unwrap();
        let _second = counters.enter(client(1), 2).unwrap();
        assert!(counters.enter(client(1), 2).is_none());
        assert!(counters.enter(client(2), 2).is_some());
        drop(first);
        assert!(counters.enter(client(1), 2).is_some());
    }

    #[test]
    fn counters_of_clients_that_left_are_used_again() {
        let counters = Arc::new(ConnectionCounters::default());
        for number in 0..100_000 {
            assert!(counters.enter(client(number), 1).is_some());
        }
        assert!(counters.table.is_small());
    }

    #[test]
    fn a_crowd_gets_more_memory_and_everybody_in_it_is_counted() {
        let counters = Arc::new(ConnectionCounters::default());
        let crowd = || (1..=8192).map(|number| Key(number << COUNT.count_ones() | number));
        let enter = || crowd().filter_map(|key| counters.enter(key, 1)).collect::<Vec<_>>();
        let guards = enter();
        assert_eq!((guards.len(), enter().len()), (8192, 0));
        drop(guards);
        assert_eq!(enter().len(), 8192);
    }

    #[test]
    fn beyond_all_counters_clients_are_limited_together_and_those_that_have_one_alone() {
        let counters = Arc::new(ConnectionCounters::default());
        let crowd = 1..=200_000u64;
        let guards: Vec<_> =
            crowd.filter_map(|number| counters.enter(Key(number << COUNT.count_ones() | number), 2)).collect();
        assert!((60_000..80_000).contains(&guards.len()), "{}", guards.len());
        let first = Key(1 << COUNT.count_ones() | 1);
        assert!(counters.enter(first, 2).is_some() && counters.enter(first, 1).is_none(), "it has its own");
        drop(guards);
        assert!(counters.enter(Key(300_000 << COUNT.count_ones()), 1).is_some());
    }

    #[test]
    fn threads_together_stay_within_the_limit() {
        let counters = Arc::new(ConnectionCounters::default());
        let entered = std::thread::scope(|scope| {
            let worker = || (0..100).filter_map(|_| counters.enter(client(1), 50)).collect::<Vec<_>>();
            let workers: Vec<_> = (0..4).map(|_| scope.spawn(worker)).collect();
            workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect::<Vec<_>>()
        });
        assert_eq!(entered.len(), 50);
        drop(entered);
        assert!(counters.enter(client(1), 1).is_some());
    }
}
