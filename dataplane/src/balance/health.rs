//! Passive health: leaving out endpoints that fail.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use http::StatusCode;
use snapshot::PassiveHealth;

use super::{Endpoint, Outcome};
use crate::tick::Tick;

/// A longer row of ejections does not make them longer.
const LONGEST_ROW: u32 = 10;

/// Counts an outcome and ejects the endpoint when it failed too often in a row, as far as the share that may be out and
/// the last endpoint allow it.
pub(crate) fn judge(endpoint: &Endpoint, outcome: Outcome, health: &PassiveHealth, all: &[Arc<Endpoint>], now: Tick) {
    // What still comes from attempts before the ejection says nothing new.
    if endpoint.is_ejected(now) {
        return;
    }
    if !failed(outcome) {
        // Written only when it changes something: the endpoint is shared by all workers.
        if endpoint.failures.load(Relaxed) != 0 || endpoint.ejections.load(Relaxed) != 0 {
            endpoint.failures.store(0, Relaxed);
            endpoint.ejections.store(0, Relaxed);
        }
        return;
    }
    let failures = endpoint.failures.fetch_add(1, Relaxed).saturating_add(1);
    if failures < health.consecutive_failures || !may_leave(health, all, now) {
        return;
    }
    let before = endpoint.ejected_until.load(Relaxed);
    let row = endpoint.ejections.load(Relaxed).saturating_add(1);
    let until = (now + health.ejection_time * row.min(LONGEST_ROW)).nanos();
    // Of two threads one ejects.
    if endpoint.ejected_until.compare_exchange(before, until, Relaxed, Relaxed).is_ok() {
        endpoint.ejections.store(row, Relaxed);
        endpoint.failures.store(0, Relaxed);
    }
}

/// Connection failures and gateway errors count.
fn failed(outcome: Outcome) -> bool {
    match outcome {
        Outcome::Failed => true,
        Outcome::Connected(_) => false,
        Outcome::Answered(status, _) => {
            matches!(status, StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT)
        }
    }
}

/// Whether one more endpoint may be out.
fn may_leave(health: &PassiveHealth, all: &[Arc<Endpoint>], now: Tick) -> bool {
    let out = all.iter().filter(|endpoint| endpoint.is_ejected(now)).count() + 1;
    out < all.len() && out * 100 <= all.len() * health.max_ejected_percent as usize
}
