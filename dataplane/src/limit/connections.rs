//! How many requests each client has at once.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

use super::Key;

/// Counters in a set; a key may be in any of them.
const WAYS: usize = 8;
/// Sets: 8,192 counters of 8 bytes, 64 KiB for a limiter once it is used.
const SETS: usize = 1024;
/// The low bits of a counter hold the count, the others a part of the key's hash.
const COUNT: u64 = (1 << 20) - 1;

/// The counters of one limiter. Without locks; a counter belongs to a key only while it counts something.
///
/// When all counters of a key's set are taken by other clients the request passes uncounted: memory is bounded, and
/// what bounds a crowd that large is the data plane's own limit.
#[derive(Debug, Default)]
pub struct ConnectionCounters {
    sets: OnceLock<Box<[[AtomicU64; WAYS]]>>,
}

/// One counted request; it is counted until this is dropped.
#[derive(Debug)]
pub struct ConnectionGuard {
    counters: Arc<ConnectionCounters>,
    /// `None` when it was let through uncounted.
    place: Option<(usize, usize)>,
}

impl ConnectionCounters {
    /// Counts one more request of `key`, or returns `None` when it has `limit` of them.
    pub fn enter(self: &Arc<Self>, key: Key, limit: u32) -> Option<ConnectionGuard> {
        let tag = key.0 & !COUNT;
        let limit = u64::from(limit).min(COUNT);
        let set_index = (key.0 & COUNT) as usize % SETS;
        let set = self.sets().get(set_index)?;
        loop {
            let of_key = |counter: &AtomicU64| {
                let value = counter.load(Relaxed);
                (value & COUNT > 0 && value & !COUNT == tag).then_some(value)
            };
            let own = set.iter().enumerate().find_map(|(way, counter)| Some((way, of_key(counter)?)));
            let unused = || {
                let values = set.iter().map(|counter| counter.load(Relaxed)).enumerate();
                values.into_iter().find(|(_, value)| value & COUNT == 0)
            };
            let Some((way, value)) = own.or_else(unused) else {
                return Some(ConnectionGuard { counters: self.clone(), place: None });
            };
            if value & COUNT >= limit {
                return None;
            }
            let next = tag | ((value & COUNT) + 1);
            if set[way].compare_exchange(value, next, Relaxed, Relaxed).is_ok() {
                return Some(ConnectionGuard { counters: self.clone(), place: Some((set_index, way)) });
            }
        }
    }

    fn sets(&self) -> &[[AtomicU64; WAYS]] {
        self.sets.get_or_init(|| std::iter::repeat_with(Default::default).take(SETS).collect())
    }
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        if let Some((set, way)) = self.place {
            self.counters.sets()[set][way].fetch_sub(1, Relaxed);
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
            let guard = counters.enter(client(number), 1).unwrap();
            assert!(guard.place.is_some());
        }
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
