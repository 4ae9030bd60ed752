//! Counters. Each worker writes its own, without locks or shared cache lines; a scrape adds them up.
//!
//! Labels come from the configuration and from closed enums only, so nothing a client sends can add a series.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::StatusCode;

use crate::reason::Reason;

/// Upper bounds of the duration histogram in seconds.
pub const BUCKETS: [f64; 12] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0];

const REASONS: usize = Reason::ALL.len();

/// A number that one thread writes and others read.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds; only its own thread may.
    pub fn add(&self, amount: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(amount), Relaxed);
    }

    /// Subtracts; only its own thread may.
    pub fn sub(&self, amount: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_sub(amount), Relaxed);
    }

    /// The value.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// What one worker counts.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct WorkerStats {
    /// Connections accepted.
    pub accepted: Counter,
    /// Connections open.
    pub open: Counter,
    /// Pauses in accepting, because all workers together serve as many connections as they may.
    pub accept_pauses: Counter,
    /// Connections closed for exceeding a time limit.
    pub overdue: Counter,
    /// HTTP/2 connections that ended because their clients cancelled too many requests.
    pub cancelling: Counter,
    /// TLS handshakes that failed.
    pub handshake_failures: Counter,
    /// Connections that carry bytes: upgrades, and connections without HTTP.
    pub tunnels: Counter,
    /// Requests that are being served.
    pub in_flight: Counter,
    /// Attempts beyond the first.
    pub retries: Counter,
    /// Retries that the budget refused.
    pub retries_refused: Counter,
    /// Attempts that were refused because their endpoint has as many connections or waiting requests as it may.
    pub upstream_full: Counter,
    /// UDP sessions begun.
    pub sessions_opened: Counter,
    /// UDP sessions at present.
    pub sessions_open: Counter,
    /// UDP sessions that ended before their time, to make room for others.
    pub sessions_evicted: Counter,
    /// Datagrams that were lost here, in both directions.
    pub datagrams_dropped: Counter,
    /// Copies of requests that were answered.
    pub mirrors: Counter,
    /// Copies of requests that were not: the target cannot be reached, the body is too large, or too many are under way.
    pub mirrors_dropped: Counter,
    /// Lines of the access log that were dropped because nobody took them in time.
    pub log_dropped: Counter,
    /// Requests that match no rule, or were refused before routing.
    pub unrouted: RuleStats,
    rules: Mutex<BTreeMap<Arc<str>, Arc<RuleStats>>>,
    l4_routes: Mutex<BTreeMap<Arc<str>, Arc<L4Stats>>>,
}

/// A counter for each of [`Reason::ALL`].
#[derive(Debug)]
struct ByReason([Counter; REASONS]);

impl Default for ByReason {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Counter::default()))
    }
}

/// What one worker counts of one rule.
#[derive(Debug, Default)]
pub struct RuleStats {
    classes: [Counter; 5],
    reasons: ByReason,
    buckets: [Counter; BUCKETS.len() + 1],
    micros: Counter,
    bytes_in: Counter,
    bytes_out: Counter,
}

impl WorkerStats {
    /// A request begins.
    pub fn request_begins(&self) {
        self.in_flight.add(1);
    }

    /// The counters of the rule of this name; they survive as long as some rule has the name.
    pub fn rule(&self, name: &Arc<str>) -> Arc<RuleStats> {
        self.rules.lock().unwrap_or_else(PoisonError::into_inner).entry(name.clone()).or_default().clone()
    }

    /// The counters of the route of connections of this name; those of no route have the empty name.
    pub fn l4_route(&self, name: &Arc<str>) -> Arc<L4Stats> {
        self.l4_routes.lock().unwrap_or_else(PoisonError::into_inner).entry(name.clone()).or_default().clone()
    }

    /// Forgets rules and routes that are no longer configured.
    pub fn retain(&self, rules: &BTreeSet<&str>, l4_routes: &BTreeSet<&str>) {
        self.rules.lock().unwrap_or_else(PoisonError::into_inner).retain(|name, _| rules.contains(name.as_ref()));
        let mut held = self.l4_routes.lock().unwrap_or_else(PoisonError::into_inner);
        held.retain(|name, _| name.is_empty() || l4_routes.contains(name.as_ref()));
    }
}

/// What one worker counts of one route of connections.
#[derive(Debug, Default)]
pub struct L4Stats {
    connections: Counter,
    reasons: ByReason,
    bytes_in: Counter,
    bytes_out: Counter,
}

impl L4Stats {
    /// A connection is over.
    pub fn count(&self, reason: Option<Reason>, bytes_in: u64, bytes_out: u64) {
        self.connections.add(1);
        if let Some(reason) = reason {
            self.reasons.0[reason as usize].add(1);
        }
        self.bytes_in.add(bytes_in);
        self.bytes_out.add(bytes_out);
    }
}

/// The sum over workers.
#[derive(Debug, Default)]
pub struct L4Totals {
    /// Connections that are over.
    pub connections: u64,
    /// Those that were refused or ended early, by reason, in the order of [`Reason::ALL`].
    pub reasons: Vec<u64>,
    /// Bytes from clients.
    pub bytes_in: u64,
    /// Bytes to clients.
    pub bytes_out: u64,
}

impl L4Totals {
    fn add(&mut self, stats: &L4Stats) {
        self.reasons.resize(REASONS, 0);
        self.reasons.iter_mut().zip(&stats.reasons.0).for_each(|(sum, counter)| *sum += counter.get());
        self.connections += stats.connections.get();
        self.bytes_in += stats.bytes_in.get();
        self.bytes_out += stats.bytes_out.get();
    }
}

/// All routes' sums by name; connections without a route under the empty name.
pub fn l4_totals(workers: &[Arc<WorkerStats>]) -> BTreeMap<Arc<str>, L4Totals> {
    let mut totals: BTreeMap<Arc<str>, L4Totals> = BTreeMap::new();
    for worker in workers {
        for (name, stats) in &*worker.l4_routes.lock().unwrap_or_else(PoisonError::into_inner) {
            totals.entry(name.clone()).or_default().add(stats);
        }
    }
    totals
}

impl RuleStats {
    /// A request is over.
    pub fn count(&self, status: StatusCode, reason: Option<Reason>, took: Duration, bytes_in: u64, bytes_out: u64) {
        let class = usize::from(status.as_u16() / 100).clamp(1, 5) - 1;
        self.classes[class].add(1);
        if let Some(reason) = reason {
            self.reasons.0[reason as usize].add(1);
        }
        let seconds = took.as_secs_f64();
        self.buckets[BUCKETS.iter().position(|bound| seconds <= *bound).unwrap_or(BUCKETS.len())].add(1);
        self.micros.add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
        self.bytes_in.add(bytes_in);
        self.bytes_out.add(bytes_out);
    }
}

/// The sum over workers.
#[derive(Debug, Default)]
pub struct RuleTotals {
    /// Requests by class of status, 1xx first.
    pub classes: [u64; 5],
    /// Requests by reason, in the order of [`Reason::ALL`].
    pub reasons: Vec<u64>,
    /// Requests by duration, not cumulative; the last is beyond every bound.
    pub buckets: [u64; BUCKETS.len() + 1],
    /// Sum of the durations in seconds.
    pub seconds: f64,
    /// Bytes of request bodies.
    pub bytes_in: u64,
    /// Bytes of response bodies.
    pub bytes_out: u64,
}

impl RuleTotals {
    fn add(&mut self, stats: &RuleStats) {
        self.reasons.resize(REASONS, 0);
        let pairs = self.classes.iter_mut().zip(&stats.classes);
        let pairs = pairs.chain(self.reasons.iter_mut().zip(&stats.reasons.0));
        pairs.chain(self.buckets.iter_mut().zip(&stats.buckets)).for_each(|(sum, counter)| *sum += counter.get());
        self.seconds += stats.micros.get() as f64 / 1e6;
        self.bytes_in += stats.bytes_in.get();
        self.bytes_out += stats.bytes_out.get();
    }
}

/// All rules' sums by name; requests without a rule under the empty name.
pub fn rule_totals(workers: &[Arc<WorkerStats>]) -> BTreeMap<Arc<str>, RuleTotals> {
    let mut totals: BTreeMap<Arc<str>, RuleTotals> = BTreeMap::new();
    for worker in workers {
        totals.entry("".into()).or_default().add(&worker.unrouted);
        for (name, stats) in &*worker.rules.lock().unwrap_or_else(PoisonError::into_inner) {
            totals.entry(name.clone()).or_default().add(stats);
        }
    }
    totals
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_are_added_up_and_gone_rules_forgotten() {
        let workers = [Arc::new(WorkerStats::default()), Arc::new(WorkerStats::default())];
        for worker in &workers {
            let rule = worker.rule(&"r".into());
            rule.count(StatusCode::OK, None, Duration::from_millis(3), 1, 2);
            rule.count(StatusCode::BAD_GATEWAY, Some(Reason::ConnectFailed), Duration::from_secs(60), 0, 0);
        }
        let totals = rule_totals(&workers);
        let rule = &totals["r"];
        assert_eq!(rule.classes, [0, 2, 0, 0, 2]);
        assert_eq!(rule.reasons[Reason::ConnectFailed as usize], 2);
        assert_eq!((rule.buckets[2], rule.buckets[BUCKETS.len()]), (2, 2));
        assert_eq!((rule.bytes_in, rule.bytes_out), (2, 4));
        workers.iter().for_each(|worker| worker.retain(&BTreeSet::new(), &BTreeSet::new()));
        assert!(!rule_totals(&workers).contains_key("r"));
    }

    #[test]
    fn connections_are_added_up_and_gone_routes_forgotten() {
        let workers = [Arc::new(WorkerStats::default()), Arc::new(WorkerStats::default())];
        for worker in &workers {
            worker.l4_route(&"r".into()).count(None, 1, 2);
            worker.l4_route(&"".into()).count(Some(Reason::NoRoute), 0, 0);
        }
        let totals = l4_totals(&workers);
        assert_eq!((totals["r"].connections, totals["r"].bytes_in, totals["r"].bytes_out), (2, 2, 4));
        assert_eq!(totals[""].reasons[Reason::NoRoute as usize], 2);
        workers.iter().for_each(|worker| worker.retain(&BTreeSet::new(), &BTreeSet::new()));
        assert_eq!(l4_totals(&workers).keys().map(|name| &**name).collect::<Vec<_>>(), [""]);
    }
}
