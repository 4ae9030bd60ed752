//! Token buckets by key (GCRA) in memory that a flood of keys cannot grow.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::Key;
use super::table::Table;
use crate::tick::Tick;

/// How often a key looks for a place.
const ATTEMPTS: usize = 8;

/// The buckets of one limiter: 8 KiB, 128 KiB more once many clients press against it at the same time, and 1 MiB more for a crowd.
///
/// A bucket is the key's hash and the theoretical arrival time (GCRA): the moment when the bucket is full again. A key
/// takes the place of a bucket that is full, for that is as good as none; no other bucket ever gives way, so that a flood of
/// keys frees nobody who is limited. Where no bucket is full, memory grows, twice; then keys that have no bucket yet share some,
/// and are limited together.
///
/// Without locks. Two threads that put a key in the same place at the same moment can lose one request of a count,
/// never more.
#[derive(Debug)]
pub struct RateBuckets {
    interval: u64,
    table: Table<Bucket>,
}

#[derive(Debug, Default)]
struct Bucket {
    /// 0 when the bucket was never used.
    key: AtomicU64,
    full_at: AtomicU64,
}

impl RateBuckets {
    /// Buckets that are filled with `requests` in `per`.
    pub fn new(requests: u32, per: Duration) -> Self {
        let per = u64::try_from(per.as_nanos()).unwrap_or(u64::MAX);
        Self { interval: (per / u64::from(requests.max(1))).max(1), table: Table::default() }
    }

    /// Takes one request from the bucket of `key`, which may be `burst` requests ahead of the rate.
    ///
    /// # Errors
    /// How long until the next request would pass. Nothing was taken.
    pub fn take(&self, key: Key, burst: u32, now: Tick) -> Result<(), Duration> {
        let now = now.nanos();
        let tolerance = self.interval.saturating_mul(u64::from(burst));
        let bucket = self.bucket(key, now);
        let taken = bucket.full_at.try_update(Relaxed, Relaxed, |full_at| {
            let full_at = full_at.max(now);
            (full_at - now <= tolerance).then(|| full_at.saturating_add(self.interval))
        });
        taken.map(drop).map_err(|full_at| Duration::from_nanos(full_at.saturating_sub(tolerance).saturating_sub(now)))
    }

    fn bucket(&self, key: Key, now: u64) -> &Bucket {
        // Whoever loses a race for a place looks again; after a few losses a shared one will do.
        for _ in 0..ATTEMPTS {
            let slots = || self.table.slots(key).map(|(_, bucket)| bucket);
            if let Some(own) = slots().find(|bucket| bucket.key.load(Relaxed) == key.0) {
                return own;
            }
            let Some(full) = slots().find(|bucket| bucket.full_at.load(Relaxed) <= now) else {
                if self.table.grow() {
                    continue;
                }
                break;
            };
            let before = full.key.load(Relaxed);
            if full.key.compare_exchange(before, key.0, Relaxed, Relaxed).is_ok() {
                full.full_at.store(0, Relaxed);
                return full;
            }
        }
        self.table.shared(key).1
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::super::table::overflowed;
    use super::*;

    fn client(number: u32) -> Key {
        Key::of_address(IpAddr::V4(Ipv4Addr::from_bits(number)))
    }

    fn at(millis: u64) -> Tick {
        Tick::at(Duration::from_millis(millis))
    }

    #[test]
    fn an_idle_key_may_send_its_burst_and_one_more() {
        let buckets = RateBuckets::new(1, Duration::from_secs(1));
        let passed = (0..10).filter(|_| buckets.take(client(1), 5, at(10_000)).is_ok()).count();
        assert_eq!(passed, 6);
        assert_eq!(buckets.take(client(1), 5, at(10_400)), Err(Duration::from_millis(600)));
        assert_eq!(buckets.take(client(1), 5, at(11_000)), Ok(()));
        assert_eq!(buckets.take(client(2), 5, at(11_000)), Ok(()), "another client has its own bucket");
    }

    #[test]
    fn over_time_the_rate_holds() {
        let buckets = RateBuckets::new(100, Duration::from_secs(1));
        let passed = (0..10_000).filter(|&millis| buckets.take(client(1), 0, at(1000 + millis)).is_ok()).count();
        assert_eq!(passed, 1000);
    }

    #[test]
    fn a_flood_of_keys_frees_nobody_who_is_limited() {
        let buckets = RateBuckets::new(1, Duration::from_secs(60));
        while buckets.take(client(0), 3, at(1000)).is_ok() {}
        for number in 1..200_000 {
            let _ = buckets.take(client(number), 3, at(1001));
        }
        assert!(buckets.take(client(0), 3, at(1002)).is_err());
    }

    #[test]
    fn without_a_burst_a_flood_of_keys_frees_nobody_and_those_without_a_bucket_share_some() {
        let buckets = RateBuckets::new(1, Duration::from_secs(60));
        let before = overflowed();
        let passed: Vec<_> = (0..300_000).filter(|number| buckets.take(client(*number), 0, at(1000)).is_ok()).collect();
        assert!((60_000..80_000).contains(&passed.len()), "{}", passed.len());
        assert!(
            passed.iter().all(|number| buckets.take(client(*number), 0, at(1001)).is_err()),
            "all are limited still"
        );
        assert!(overflowed() - before > 200_000);
        // A bucket that is full again is free for others.
        assert!(buckets.take(client(400_000), 0, at(61_001)).is_ok());
    }

    #[test]
    fn clients_that_come_and_go_need_little_memory() {
        let buckets = RateBuckets::new(1, Duration::from_secs(1));
        for number in 1..10_000 {
            assert!(buckets.take(client(number), 0, at(u64::from(number) * 1000)).is_ok());
        }
        assert!(buckets.table.is_small());
    }

    #[test]
    fn a_crowd_gets_more_memory_and_nobody_in_it_is_forgotten() {
        let buckets = RateBuckets::new(1, Duration::from_secs(3600));
        let take = |range: std::ops::RangeInclusive<u64>| {
            range.filter(|number| buckets.take(Key(*number), 0, at(1000)).is_ok()).count()
        };
        assert_eq!(take(1..=512), 512);
        assert!(buckets.table.is_small(), "every set is full, and none overflows");
        assert_eq!(take(513..=8192), 8192 - 512);
        assert!(!buckets.table.is_small());
        assert_eq!(take(1..=8192), 0);
    }

    #[test]
    fn threads_together_take_no_more_than_the_burst() {
        let buckets = RateBuckets::new(1, Duration::from_secs(3600));
        let key = client(7);
        buckets.take(key, 99, at(1000)).unwrap();
        let passed: usize = std::thread::scope(|scope| {
            let worker = || (0..1000).filter(|_| buckets.take(key, 99, at(1000)).is_ok()).count();
            let workers: Vec<_> = (0..4).map(|_| scope.spawn(worker)).collect();
            workers.into_iter().map(|worker| worker.join().unwrap()).sum()
        });
        assert_eq!(passed, 99);
    }
}
