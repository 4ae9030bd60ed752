//! `TrafficPolicy` as filters.

use std::time::Duration;

use crds::policy::{LocalRateLimit, TrafficPolicySpec};
use ipnet::IpNet;
use snapshot::{Filter, LimitKey, RateLimit};

use super::Invalid;
use crate::{ObjectKey, duration};

const LONGEST_PERIOD: Duration = Duration::from_secs(24 * 3600);

/// What a TrafficPolicy does with each rule that it reaches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Traffic {
    /// Requests pass these filters first; with each the line that says where it comes from, for [`snapshot::Rule::origins`].
    Limited(Vec<(Filter, String)>),
    /// The policy cannot be honoured, so no request passes. The line says why.
    Refused(String),
}

impl Traffic {
    /// Whether the policy says nothing.
    pub fn is_empty(&self) -> bool {
        matches!(self, Traffic::Limited(filters) if filters.is_empty())
    }
}

/// The filters of a policy. Buckets are named after the policy and the limit's position, so everything that one policy
/// reaches in a data plane shares them.
pub(super) fn parse(policy: &ObjectKey, spec: &TrafficPolicySpec) -> Result<Traffic, Vec<Invalid>> {
    let mut filters = Vec::new();
    let mut errors = Vec::new();
    for (index, limit) in spec.rate_limits.iter().enumerate() {
        match rate_limit(format!("TrafficPolicy/{}/{}/{index}", policy.namespace, policy.name), limit) {
            Ok(filter) => {
                let key =
                    limit.header.as_ref().map_or("client address".into(), |name| format!("value of header {name}"));
                let origin = format!(
                    "TrafficPolicy {policy} spec.rateLimits[{index}]: {} requests per {} and {key}",
                    limit.requests, limit.per
                );
                filters.push((Filter::RateLimit(filter), origin));
            }
            Err((field, message)) => {
                errors.push(Invalid { field: format!("spec.rateLimits[{index}].{field}"), message });
            }
        }
    }
    if errors.is_empty() { Ok(Traffic::Limited(filters)) } else { Err(errors) }
}

fn rate_limit(id: String, limit: &LocalRateLimit) -> Result<RateLimit, (String, String)> {
    let requests = bounded(limit.requests, 1).map_err(|message| ("requests".to_owned(), message))?;
    let burst = bounded(limit.burst.unwrap_or_default(), 0).map_err(|message| ("burst".to_owned(), message))?;
    let per = duration::parse(&limit.per).filter(|per| !per.is_zero() && *per <= LONGEST_PERIOD).ok_or_else(|| {
        ("per".into(), format!("{:?} is not a duration above 0s and up to 24h such as 1s or 1m", limit.per))
    })?;
    let key = match &limit.header {
        None => LimitKey::ClientIp,
        Some(name) => match http::HeaderName::try_from(name) {
            Ok(name) => LimitKey::Header(name.as_str().into()),
            Err(_) => return Err(("header".into(), format!("{name:?} is not the name of a header"))),
        },
    };
    let mut exempt = Vec::new();
    for (index, network) in limit.exempt.iter().enumerate() {
        match network.parse::<IpNet>() {
            Ok(network) => exempt.push(network),
            Err(_) => {
                return Err((format!("exempt[{index}]"), format!("{network:?} is not a network such as 10.0.0.0/8")));
            }
        }
    }
    Ok(RateLimit { id, key, requests, per, burst, status: 429, exempt })
}

fn bounded(value: i64, least: u32) -> Result<u32, String> {
    const MOST: u32 = 1_000_000;
    match u32::try_from(value) {
        Ok(value) if (least..=MOST).contains(&value) => Ok(value),
        _ => Err(format!("{value} is not between {least} and {MOST}")),
    }
}
