//! Rate and connection limits.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderName, StatusCode};
use ipnet::IpNet;
use snapshot::LimitKey;

use super::Context;
use crate::forwarded::contains;
use crate::limit::{ConnectionCounters, ConnectionGuard, Key, LimiterRegistry, RateBuckets};
use crate::reason::{Answer, Reason};

/// A compiled [`snapshot::RateLimit`].
#[derive(Debug)]
pub struct RateLimit {
    buckets: Arc<RateBuckets>,
    /// `None` is the client's address.
    header: Option<HeaderName>,
    burst: u32,
    refusal: Refusal,
}

/// A compiled [`snapshot::ConnectionLimit`].
#[derive(Debug)]
pub struct ConnectionLimit {
    counters: Arc<ConnectionCounters>,
    connections: u32,
    refusal: Refusal,
}

/// How a limit refuses, and whom it never refuses.
#[derive(Debug)]
struct Refusal {
    status: StatusCode,
    exempt: Box<[IpNet]>,
}

impl RateLimit {
    pub(super) fn compile(source: &snapshot::RateLimit, limiters: &mut LimiterRegistry) -> Result<Self, String> {
        let header = match &source.key {
            LimitKey::ClientIp => None,
            LimitKey::Header(name) => {
                let parsed = HeaderName::from_bytes(name.as_bytes());
                Some(parsed.map_err(|_| format!("invalid header name {name:?}"))?)
            }
        };
        Ok(Self {
            buckets: limiters.rate(&source.id, source.requests, source.per),
            header,
            burst: source.burst,
            refusal: Refusal::compile(source.status, &source.exempt)?,
        })
    }

    pub(super) fn check(&self, context: &Context<'_>, headers: &HeaderMap) -> Result<(), Answer> {
        let client = context.forwarded.client;
        if self.refusal.exempts(client) {
            return Ok(());
        }
        let key = match &self.header {
            None => context.forwarded.client_key,
            Some(name) => Key::of_values(headers.get_all(name).iter().map(|value| value.as_bytes())),
        };
        let taken = self.buckets.take(key, self.burst, context.now);
        taken.map_err(|wait| Answer {
            retry_after: Some(whole_seconds(wait)),
            ..self.refusal.answer(Reason::RateLimited)
        })
    }
}

impl ConnectionLimit {
    pub(super) fn compile(source: &snapshot::ConnectionLimit, limiters: &mut LimiterRegistry) -> Result<Self, String> {
        Ok(Self {
            counters: limiters.connections(&source.id),
            connections: source.connections,
            refusal: Refusal::compile(source.status, &source.exempt)?,
        })
    }

    /// The guard that counts this request; `None` for clients that are exempt.
    pub(super) fn check(&self, context: &Context<'_>) -> Result<Option<ConnectionGuard>, Answer> {
        let client = context.forwarded.client;
        if self.refusal.exempts(client) {
            return Ok(None);
        }
        let entered = self.counters.enter(context.forwarded.client_key, self.connections);
        entered.map(Some).ok_or_else(|| self.refusal.answer(Reason::ConnectionLimited))
    }
}

impl Refusal {
    fn compile(status: u16, exempt: &[IpNet]) -> Result<Self, String> {
        let parsed = StatusCode::from_u16(status).ok().filter(|status| status.as_u16() >= 400);
        let status = parsed.ok_or_else(|| format!("a limit cannot answer with status {status}"))?;
        Ok(Self { status, exempt: exempt.into() })
    }

    fn exempts(&self, client: IpAddr) -> bool {
        contains(&self.exempt, client)
    }

    fn answer(&self, reason: Reason) -> Answer {
        Answer { status: self.status, ..Answer::from(reason) }
    }
}

/// `Retry-After` knows whole seconds only; too early would be refused again.
fn whole_seconds(wait: Duration) -> u32 {
    let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
    u32::try_from(seconds).unwrap_or(u32::MAX).max(1)
}
