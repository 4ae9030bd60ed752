//! One address of a cluster, and what is known about it.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use http::StatusCode;

use super::reach::Reachability;
use crate::tick::Tick;

/// The time after which an old latency counts for 1/e (ingress-nginx `ewma`: 10 s).
const DECAY_SECONDS: f64 = 10.0;
/// What a failed attempt counts as, so that an endpoint that fails fast does not look fast.
const FAILURE_SECONDS: f64 = 1.0;
/// Of endpoints that never answered the one with fewer requests in flight wins.
const UNKNOWN_SECONDS: f64 = 1e-6;

/// One address of a cluster, and what is known about it. The fields are independent numbers; races between them cost
/// precision, nothing else.
#[derive(Debug)]
pub struct Endpoint {
    address: SocketAddr,
    in_flight: AtomicU32,
    /// Average latency in seconds, as the bits of an `f64`.
    latency: AtomicU64,
    /// When `latency` was last updated.
    observed: AtomicU64,
    pub(super) failures: AtomicU32,
    /// How often in a row it was ejected.
    pub(super) ejections: AtomicU32,
    /// When it may be used again; 0 when it was never ejected.
    pub(super) ejected_until: AtomicU64,
    /// Workers' pools that hold it.
    pools: AtomicUsize,
    /// How connecting to it goes.
    pub(crate) reachability: Reachability,
}

/// How an attempt at an endpoint ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It answered with this status, its head so long after the attempt began.
    Answered(StatusCode, Duration),
    /// It accepted a connection that carries no HTTP, so long after the attempt began.
    Connected(Duration),
    /// No connection, or no valid answer, in time.
    Failed,
}

/// An endpoint chosen for an attempt, counted as in flight until this is dropped.
#[derive(Debug)]
pub struct Picked {
    endpoint: Arc<Endpoint>,
    cookie: Option<String>,
}

impl Endpoint {
    /// An endpoint of which nothing is known, beside others whose average latency is `latency` (in seconds).
    fn new(address: SocketAddr, latency: f64) -> Self {
        Self {
            address,
            in_flight: AtomicU32::new(0),
            latency: AtomicU64::new(latency.to_bits()),
            observed: AtomicU64::new(Tick::now().nanos()),
            failures: AtomicU32::new(0),
            ejections: AtomicU32::new(0),
            ejected_until: AtomicU64::new(0),
            pools: AtomicUsize::new(0),
            reachability: Reachability::default(),
        }
    }

    /// Address and port.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A pool holds it from here on.
    pub(crate) fn pooled(&self) {
        self.pools.fetch_add(1, Relaxed);
    }

    /// A pool holds it no more.
    pub(crate) fn unpooled(&self) {
        self.pools.fetch_sub(1, Relaxed);
    }

    /// Whether only pools still hold it: it belongs to no cluster, and no request uses it.
    pub(crate) fn is_removed(self: &Arc<Self>) -> bool {
        Arc::strong_count(self) <= self.pools.load(Relaxed)
    }

    /// How many attempts are under way.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Relaxed)
    }

    /// Whether it is left out for failing.
    pub fn is_ejected(&self, now: Tick) -> bool {
        let until = self.ejected_until.load(Relaxed);
        until != 0 && now.nanos() < until
    }

    /// What one more request is expected to cost: the decayed peak-sensitive latency times the queue.
    pub(super) fn cost(&self, now: Tick) -> f64 {
        self.latency(now).max(UNKNOWN_SECONDS) * (f64::from(self.in_flight()) + 1.0)
    }

    fn latency(&self, now: Tick) -> f64 {
        f64::from_bits(self.latency.load(Relaxed)) * self.decay(now)
    }

    fn decay(&self, now: Tick) -> f64 {
        (-now.since(Tick::from_nanos(self.observed.load(Relaxed))).as_secs_f64() / DECAY_SECONDS).exp()
    }

    /// Peak EWMA: a slower answer counts in full at once, a faster one bit by bit.
    pub(crate) fn observe(&self, outcome: Outcome, now: Tick) {
        let seconds = match outcome {
            Outcome::Answered(_, latency) | Outcome::Connected(latency) => latency.as_secs_f64(),
            Outcome::Failed => FAILURE_SECONDS,
        };
        let (average, decay) = (f64::from_bits(self.latency.load(Relaxed)), self.decay(now));
        let updated = if seconds > average { seconds } else { average * decay + seconds * (1.0 - decay) };
        self.latency.store(updated.to_bits(), Relaxed);
        self.observed.store(now.nanos(), Relaxed);
    }
}

impl Picked {
    pub(crate) fn new(endpoint: Arc<Endpoint>) -> Self {
        endpoint.in_flight.fetch_add(1, Relaxed);
        Self { endpoint, cookie: None }
    }

    /// With a new value for the client's persistence cookie.
    pub(crate) fn with_cookie(mut self, cookie: Option<String>) -> Self {
        self.cookie = cookie;
        self
    }

    /// The endpoint.
    pub fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }

    /// The value of the cookie that the client is to get, if it needs one.
    pub fn cookie(&self) -> Option<&str> {
        self.cookie.as_deref()
    }
}

impl Drop for Picked {
    fn drop(&mut self) {
        self.endpoint.in_flight.fetch_sub(1, Relaxed);
    }
}

/// Endpoints for these addresses: those that stay are the same objects. New ones begin with the average latency of the
/// others, so that they are neither flooded nor starved.
pub(crate) fn renew(before: &[Arc<Endpoint>], addresses: &[SocketAddr]) -> Arc<[Arc<Endpoint>]> {
    let now = Tick::now();
    let average = before.iter().map(|endpoint| endpoint.latency(now)).sum::<f64>() / before.len().max(1) as f64;
    let held: HashMap<_, _> = before.iter().map(|endpoint| (endpoint.address, endpoint)).collect();
    let endpoint = |address: &SocketAddr| match held.get(address) {
        Some(&same) => same.clone(),
        None => Arc::new(Endpoint::new(*address, average)),
    };
    addresses.iter().map(endpoint).collect()
}
