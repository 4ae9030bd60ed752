//! Whether an endpoint accepts connections, as all workers have found: one that does not costs at most one request its time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::Endpoint;
use crate::tick::Tick;

/// A connect that takes longer makes its request, and those that follow, go to another endpoint.
pub const SLOW: Duration = Duration::from_millis(250);
/// How long an endpoint is passed over after a connect to it failed. Twice as long each time in a row.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// How connecting to an endpoint goes.
#[derive(Debug, Default)]
pub struct Reachability {
    /// When the probe began, in nanoseconds of a [`Tick`]; 0 when none is under way. A connect that begins while no other is
    /// the probe is the probe.
    probe: AtomicU64,
    /// Connects that failed in a row.
    failures: AtomicU32,
    /// Until when the endpoint is passed over.
    paused_until: AtomicU64,
}

/// A connect that is under way. Dropping it says nothing about the endpoint.
#[derive(Debug)]
pub struct Connecting {
    endpoint: Arc<Endpoint>,
    is_probe: bool,
}

impl Reachability {
    /// Whether a request had better go to another endpoint: the last connect failed a moment ago, or one is taking long. After a
    /// failure one connect at a time finds out whether that is over.
    pub fn is_doubtful(&self, now: Tick) -> bool {
        let (probe, failures) = (self.probe.load(Relaxed), self.failures.load(Relaxed));
        if probe == 0 && failures == 0 {
            return false;
        }
        let slow = probe != 0 && (failures > 0 || now.since(Tick::from_nanos(probe)) >= SLOW);
        slow || now.nanos() < self.paused_until.load(Relaxed)
    }

    /// How long a request may wait for this endpoint before it looks for another one.
    pub fn patience(&self, now: Tick) -> Duration {
        let waited = match self.probe.load(Relaxed) {
            0 => Duration::ZERO,
            began => now.since(Tick::from_nanos(began)),
        };
        // One that nobody could replace looks again after a while.
        SLOW.checked_sub(waited).filter(|left| !left.is_zero()).unwrap_or(SLOW)
    }

    fn failed(&self, now: Tick) {
        // What was begun before the pause says nothing new.
        if now.nanos() < self.paused_until.load(Relaxed) {
            return;
        }
        let before = self.failures.fetch_add(1, Relaxed);
        let pause = FIRST_PAUSE.saturating_mul(1u32.checked_shl(before).unwrap_or(u32::MAX)).min(LONGEST_PAUSE);
        self.paused_until.store((now + pause).nanos(), Relaxed);
    }

    fn succeeded(&self) {
        // Written only when it changes something: all workers share it.
        if self.failures.load(Relaxed) != 0 {
            self.paused_until.store(0, Relaxed);
            self.failures.store(0, Relaxed);
        }
    }
}

impl Connecting {
    /// A connect to this endpoint begins.
    pub fn begin(endpoint: &Arc<Endpoint>, now: Tick) -> Self {
        let probe = &endpoint.reachability.probe;
        let is_probe = probe.compare_exchange(0, now.nanos(), Relaxed, Relaxed).is_ok();
        Self { endpoint: endpoint.clone(), is_probe }
    }

    /// Whether others learn from this connect how long connecting takes.
    pub fn is_probe(&self) -> bool {
        self.is_probe
    }

    /// The endpoint accepted the connection.
    pub fn succeeded(self) {
        self.endpoint.reachability.succeeded();
    }

    /// It did not.
    pub fn failed(self, now: Tick) {
        self.endpoint.reachability.failed(now);
    }
}

impl Drop for Connecting {
    fn drop(&mut self) {
        if self.is_probe {
            self.endpoint.reachability.probe.store(0, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint() -> Arc<Endpoint> {
        crate::balance::renew(&[], &[([127, 0, 0, 1], 80).into()])[0].clone()
    }

    fn at(millis: u64) -> Tick {
        Tick::at(Duration::from_millis(millis))
    }

    #[test]
    fn a_connect_that_takes_long_makes_others_go_elsewhere_until_it_ends() {
        let endpoint = endpoint();
        let probe = Connecting::begin(&endpoint, at(1000));
        let other = Connecting::begin(&endpoint, at(1100));
        assert_eq!((probe.is_probe(), other.is_probe()), (true, false));
        assert!(!endpoint.reachability.is_doubtful(at(1249)));
        assert_eq!(endpoint.reachability.patience(at(1100)), Duration::from_millis(150));
        assert!(endpoint.reachability.is_doubtful(at(1250)));
        drop(other);
        assert!(endpoint.reachability.is_doubtful(at(4000)));
        probe.succeeded();
        assert!(!endpoint.reachability.is_doubtful(at(4000)));
    }

    #[test]
    fn the_pause_after_failures_doubles_from_a_second_to_thirty_and_a_success_ends_it() {
        let endpoint = endpoint();
        let mut now = at(1000);
        for seconds in [1, 2, 4, 8, 16, 30, 30, 30] {
            let (one, same) = (Connecting::begin(&endpoint, now), Connecting::begin(&endpoint, now));
            one.failed(now);
            same.failed(now);
            let end = now + Duration::from_secs(seconds);
            assert!(endpoint.reachability.is_doubtful(Tick::from_nanos(end.nanos() - 1)), "{seconds}");
            assert!(!endpoint.reachability.is_doubtful(end), "{seconds}");
            now = end;
        }
        // One at a time finds out.
        let probe = Connecting::begin(&endpoint, now);
        assert!(endpoint.reachability.is_doubtful(now));
        probe.succeeded();
        assert!(!endpoint.reachability.is_doubtful(now));
        Connecting::begin(&endpoint, now).failed(now);
        assert!(!endpoint.reachability.is_doubtful(now + FIRST_PAUSE));
    }
}
