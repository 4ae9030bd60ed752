//! The rules of an HTTPRoute.

use std::time::Duration;

use crds::gateway::{FilteredBackendRef, HTTPRoute, HTTPRouteFilter, HTTPRouteRetry, HTTPRouteRule, HTTPRouteTimeouts};
use snapshot::{Match, Retry, Timeouts};

use super::backends::Backends;
use super::filters::{self, Surroundings};
use super::matches;
use super::rules::{self, Rules, Unusable, Work, no_timeouts};
use crate::{Kind, ObjectKey, duration};

/// Parses all rules; a route without rules has one that matches everything and has no backend.
pub(super) fn parse<'a>(key: &ObjectKey, route: &HTTPRoute, backends: &Backends<'a>) -> Rules<'a> {
    backends.expressions.begin();
    let nothing = [HTTPRouteRule::default()];
    let written = route.spec.rules.as_deref().filter(|rules| !rules.is_empty()).unwrap_or(&nothing);
    rules::parse::<HTTPRoute, _>(
        key,
        written,
        |rule| rule.name.as_ref(),
        |index, rule| {
            matches::each(rule.matches.as_deref(), |one| matches::parse(route, index, one, &backends.expressions))
        },
        |rule, matches| work(rule, matches, &key.namespace, backends),
    )
}

fn work<'a>(
    rule: &HTTPRouteRule,
    matches: &[Match],
    namespace: &str,
    backends: &Backends<'a>,
) -> Result<Work<'a>, Unusable> {
    let surroundings = Surroundings { kind: Kind::HTTPRoute, namespace, matches, backends };
    let filters = filters::parse(rule.filters.as_deref().unwrap_or_default(), surroundings)?;
    let timeouts = timeouts(rule.timeouts.as_ref()).map_err(|unusable| unusable.within("timeouts"))?;
    let parse = |(index, reference): (usize, &FilteredBackendRef<HTTPRouteFilter>)| {
        filters::of_backend(reference.filters.as_deref().unwrap_or_default(), surroundings)
            .and_then(|filters| backends.parse(Kind::HTTPRoute, namespace, &reference.backend, filters))
            .map_err(|unusable: Unusable| unusable.within(format_args!("backendRefs[{index}]")))
    };
    let backends = rule.backend_refs.iter().flatten().enumerate().map(parse).collect::<Result<_, _>>()?;
    let retry = rule.retry.as_ref().map(retry).transpose().map_err(|unusable| unusable.within("retry"))?.flatten();
    let persistence = rules::sessions(rule.session_persistence.as_ref())?;
    Ok(Work { filters, timeouts, retry, persistence, backends })
}

/// How often a rule with `retry` tries again unless it says so, and how long it waits before the first time.
const ATTEMPTS: i32 = 2;
const BACKOFF: Duration = Duration::from_millis(25);

/// GEP-1731; no attempts switch it off.
fn retry(retry: &HTTPRouteRetry) -> Result<Option<Retry>, Unusable> {
    let status = |(index, code): (usize, &i32)| match u16::try_from(*code) {
        Ok(status @ 400..=599) => Ok(status),
        _ => Err(Unusable::new(&format!("codes[{index}]"), format!("{code} is not a status from 400 to 599"))),
    };
    let statuses = retry.codes.iter().flatten().enumerate().map(status).collect::<Result<_, _>>()?;
    let backoff = match retry.backoff.as_deref().map(|text| (text, duration::parse(text))) {
        None => BACKOFF,
        Some((_, Some(backoff))) => backoff,
        Some((text, None)) => {
            return Err(Unusable::new("backoff", format!("{text:?} is not a duration such as 10ms or 1s")));
        }
    };
    let attempts = retry.attempts.unwrap_or(ATTEMPTS);
    let attempts = match u32::try_from(attempts) {
        Ok(attempts @ ..=Retry::MOST_ATTEMPTS) => attempts,
        Ok(_) => {
            let most = Retry::MOST_ATTEMPTS;
            return Err(Unusable::new("attempts", format!("{attempts} is too many: ask for at most {most}")));
        }
        Err(_) => return Err(Unusable::new("attempts", format!("{attempts} is negative: use 0 to try only once"))),
    };
    Ok((attempts > 0).then_some(Retry { attempts, statuses, backoff }))
}

fn timeouts(timeouts: Option<&HTTPRouteTimeouts>) -> Result<Timeouts, Unusable> {
    let read = |text: Option<&String>, field: &str| match text.map(|text| (text, duration::parse(text))) {
        // GEP-1742: zero switches the timeout off.
        None | Some((_, Some(Duration::ZERO))) => Ok(None),
        Some((_, Some(time))) => Ok(Some(time)),
        Some((text, None)) => Err(Unusable::new(field, format!("{text:?} is not a duration such as 10s or 1m30s"))),
    };
    Ok(Timeouts {
        request: read(timeouts.and_then(|timeouts| timeouts.request.as_ref()), "request")?,
        backend_request: read(timeouts.and_then(|timeouts| timeouts.backend_request.as_ref()), "backendRequest")?,
        ..no_timeouts()
    })
}
