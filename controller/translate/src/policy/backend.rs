//! `BackendPolicy` as the parts of a cluster.

use std::collections::BTreeMap;
use std::time::Duration;

use crds::policy::{BackendPolicySpec, BackendSessionPersistence, PassiveHealthCheck};
use snapshot::{Balancer, PassiveHealth, SessionPersistence};

use super::Invalid;
use crate::sessions::{Sessions, Written, WrittenCookie};
use crate::{ObjectKey, duration};

const LONGEST_EJECTION: Duration = Duration::from_secs(3600);

/// What BackendPolicies say about a Service's port. What is `None` they leave open.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct BackendSettings {
    /// How an endpoint is chosen.
    pub balancer: Option<Balancer>,
    /// How a client stays on one.
    pub persistence: Option<Sessions>,
    /// When one is left out.
    pub passive_health: Option<PassiveHealth>,
    /// Where each of these comes from, by field of the policy; for [`snapshot::Rule::origins`].
    pub origins: BTreeMap<&'static str, String>,
}

impl BackendSettings {
    /// The sessions of a Service with these settings.
    pub fn sessions(&self, service: &ObjectKey) -> Option<SessionPersistence> {
        self.persistence.as_ref().map(|sessions| sessions.named(&format!("Service {service}")))
    }

    /// These settings, with those of `other` where these say nothing.
    pub fn or(&self, other: &Self) -> Self {
        Self {
            balancer: self.balancer.or(other.balancer),
            persistence: self.persistence.clone().or_else(|| other.persistence.clone()),
            passive_health: self.passive_health.clone().or_else(|| other.passive_health.clone()),
            origins: other.origins.clone().into_iter().chain(self.origins.clone()).collect(),
        }
    }
}

/// The settings of a policy.
pub(super) fn parse(policy: &ObjectKey, spec: &BackendPolicySpec) -> Result<BackendSettings, Vec<Invalid>> {
    let mut errors = Vec::new();
    let mut settings = BackendSettings::default();
    if let Some(name) = spec.load_balancer.as_deref() {
        settings.balancer = take(balancer(name), "spec", &mut errors);
    }
    if let Some(written) = &spec.session_persistence {
        settings.persistence = take(sessions(written), "spec.sessionPersistence", &mut errors);
    }
    if let Some(check) = &spec.passive_health {
        settings.passive_health = take(passive_health(check), "spec.passiveHealth", &mut errors);
    }
    let given = [
        ("loadBalancer", settings.balancer.is_some()),
        ("sessionPersistence", settings.persistence.is_some()),
        ("passiveHealth", settings.passive_health.is_some()),
    ];
    let given = given.into_iter().filter(|(_, given)| *given);
    settings.origins = given.map(|(field, _)| (field, format!("BackendPolicy {policy} spec.{field}"))).collect();
    if errors.is_empty() { Ok(settings) } else { Err(errors) }
}

fn take<T>(parsed: Result<T, (&str, String)>, parent: &str, errors: &mut Vec<Invalid>) -> Option<T> {
    let invalid = |(field, message)| Invalid { field: format!("{parent}.{field}"), message };
    parsed.map_err(|error| errors.push(invalid(error))).ok()
}

fn balancer(name: &str) -> Result<Balancer, (&'static str, String)> {
    match name {
        "RoundRobin" => Ok(Balancer::RoundRobin),
        "LeastRequest" => Ok(Balancer::LeastRequest),
        "PeakEWMA" => Ok(Balancer::PeakEwma),
        other => Err(("loadBalancer", format!("{other:?} is not RoundRobin, LeastRequest or PeakEWMA"))),
    }
}

fn sessions(written: &BackendSessionPersistence) -> Result<Sessions, (&'static str, String)> {
    Sessions::parse(&Written {
        name: written.session_name.as_deref(),
        type_: written.type_.as_deref(),
        absolute_timeout: written.absolute_timeout.as_deref(),
        idle_timeout: written.idle_timeout.as_deref(),
        cookie: written.cookie_config.as_ref().map(|config| WrittenCookie {
            lifetime: config.lifetime_type.as_deref(),
            path: config.path.as_deref(),
            same_site: config.same_site.as_deref(),
        }),
    })
}

fn passive_health(check: &PassiveHealthCheck) -> Result<PassiveHealth, (&'static str, String)> {
    let within = |value: i64, most: u32| match u32::try_from(value) {
        Ok(value) if (1..=most).contains(&value) => Ok(value),
        _ => Err(format!("{value} is not between 1 and {most}")),
    };
    let failures = within(check.consecutive_failures.unwrap_or(5), 1000);
    let percent = within(check.max_ejected_percent.unwrap_or(50), 100);
    let time = check.ejection_time.as_deref().unwrap_or("10s");
    let ejection_time = duration::parse(time)
        .filter(|time| !time.is_zero() && *time <= LONGEST_EJECTION)
        .ok_or_else(|| ("ejectionTime", format!("{time:?} is not a duration above 0s and up to 1h such as 30s")))?;
    Ok(PassiveHealth {
        consecutive_failures: failures.map_err(|message| ("consecutiveFailures", message))?,
        ejection_time,
        max_ejected_percent: percent.map_err(|message| ("maxEjectedPercent", message))?,
    })
}
