//! Time without a timer per request.
//!
//! [`Coarse`] is a per-worker tick for limits of many seconds, read by a sweep over connections. [`Alarm`] is for limits
//! that need milliseconds: it borrows a tokio timer from a per-worker pool and moves it only when it fires too early.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

/// How often a worker's tick advances.
pub const TICK: Duration = Duration::from_millis(500);

/// Timers that are kept for reuse; more than that were needed only in a burst.
const SPARE_TIMERS: usize = 256;

thread_local! {
    static TICKS: Cell<u32> = const { Cell::new(1) };
    static SPARE: RefCell<Vec<Pin<Box<Sleep>>>> = const { RefCell::new(Vec::new()) };
}

/// A point in time in ticks of this worker; comparable only on the worker that made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Coarse(pub u32);

impl Coarse {
    /// The present tick. Never 0, so that 0 can mean "not set".
    pub fn now() -> Self {
        Coarse(TICKS.get())
    }

    /// Advances this worker's tick; called once per [`TICK`] by the worker.
    pub fn advance() {
        TICKS.set(TICKS.get().wrapping_add(1).max(1));
    }

    /// Whether at least `limit` has passed since.
    pub fn older_than(self, limit: Duration) -> bool {
        let passed = Self::now().0.wrapping_sub(self.0);
        TICK * passed >= limit
    }
}

/// A deadline that is cheap to set and to move.
#[derive(Debug, Default)]
pub struct Alarm {
    deadline: Option<Instant>,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Alarm {
    /// An alarm that rings at `deadline`, or never.
    pub fn new(deadline: Option<Instant>) -> Self {
        Self { deadline, sleep: None }
    }

    /// Moves the deadline.
    pub fn set(&mut self, deadline: Option<Instant>) {
        self.deadline = deadline;
    }

    /// Ready once the deadline has passed.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(deadline) = self.deadline else { return Poll::Pending };
        let sleep = self
            .sleep
            .get_or_insert_with(|| SPARE.with_borrow_mut(Vec::pop).unwrap_or_else(|| Box::pin(sleep_until(deadline))));
        if sleep.deadline() > deadline {
            sleep.as_mut().reset(deadline);
        }
        while sleep.as_mut().poll(cx).is_ready() {
            if Instant::now() >= deadline {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(deadline);
        }
        Poll::Pending
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        let Some(sleep) = self.sleep.take() else { return };
        // The worker's thread may be ending, and its pool with it.
        let _ = SPARE.try_with(|spare| {
            let mut spare = spare.borrow_mut();
            if spare.len() < SPARE_TIMERS {
                spare.push(sleep);
            }
        });
    }
}

/// Runs `future` until `deadline`; `None` when it came too late.
pub async fn within<F: Future>(deadline: Option<Instant>, future: F) -> Option<F::Output> {
    let mut future = std::pin::pin!(future);
    let mut alarm = Alarm::new(deadline);
    std::future::poll_fn(|cx| {
        if let Poll::Ready(output) = future.as_mut().poll(cx) {
            return Poll::Ready(Some(output));
        }
        alarm.poll(cx).map(|()| None)
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_alarm_with_a_reused_timer_never_rings_before_its_own_deadline() {
        for millis in [40, 5, 30] {
            let deadline = Instant::now() + Duration::from_millis(millis);
            assert!(within(Some(deadline), std::future::pending::<()>()).await.is_none());
            assert!(Instant::now() >= deadline);
        }
    }

    #[tokio::test]
    async fn a_future_in_time_is_passed_through() {
        let deadline = Instant::now() + Duration::from_secs(60);
        assert_eq!(within(Some(deadline), async { 7 }).await, Some(7));
        assert_eq!(within(None, async { 8 }).await, Some(8));
    }
}
