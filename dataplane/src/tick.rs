//! Time as a number, so that what depends on it can be tested without waiting.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// A moment in nanoseconds since shortly after the process began. Never 0, so that 0 can stand for "never" in atomics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tick(u64);

impl Tick {
    /// The present.
    pub fn now() -> Self {
        Self::at(START.elapsed())
    }

    /// The moment so long after the beginning.
    pub fn at(since_start: Duration) -> Self {
        Self(u64::try_from(since_start.as_nanos()).unwrap_or(u64::MAX).max(1))
    }

    /// A moment from [`Tick::nanos`].
    pub(crate) fn from_nanos(nanos: u64) -> Self {
        Self(nanos.max(1))
    }

    /// Nanoseconds since the beginning.
    pub fn nanos(self) -> u64 {
        self.0
    }

    /// How long ago `earlier` was; zero when it is not in the past.
    pub fn since(self, earlier: Tick) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl std::ops::Add<Duration> for Tick {
    type Output = Tick;

    fn add(self, duration: Duration) -> Tick {
        Tick(self.0.saturating_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)))
    }
}
