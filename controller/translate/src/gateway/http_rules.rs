//! The rules of an HTTPRoute.

use std::time::Duration;

use crds::gateway::{HTTPRoute, HTTPRouteRule, HTTPRouteTimeouts};
use snapshot::{Match, Timeouts};

use super::backends::Backends;
use super::rules::{self, Rules, Unusable, Work, no_timeouts};
use super::{filters, matches};
use crate::{Kind, ObjectKey, duration};

/// Parses all rules; a route without rules has one that matches everything and has no backend.
pub(super) fn parse<'a>(key: &ObjectKey, route: &HTTPRoute, backends: &Backends<'a>) -> Rules<'a> {
    let nothing = [HTTPRouteRule::default()];
    let written = route.spec.rules.as_deref().filter(|rules| !rules.is_empty()).unwrap_or(&nothing);
    rules::parse::<HTTPRoute, _>(
        key,
        written,
        |rule| rule.name.as_ref(),
        |index, rule| matches::parse(route, index, rule.matches.as_deref().unwrap_or_default()),
        |rule, matches| work(rule, matches, &key.namespace, backends),
    )
}

fn work<'a>(
    rule: &HTTPRouteRule,
    matches: &[Match],
    namespace: &str,
    backends: &Backends<'a>,
) -> Result<Work<'a>, Unusable> {
    let filters = filters::parse(rule.filters.as_deref().unwrap_or_default(), matches)?;
    let timeouts = timeouts(rule.timeouts.as_ref()).map_err(|unusable| unusable.within("timeouts"))?;
    let parse = |(index, reference): (usize, &crds::gateway::HTTPBackendRef)| {
        filters::of_backend(reference.filters.as_deref().unwrap_or_default(), matches)
            .and_then(|filters| backends.parse(Kind::HTTPRoute, namespace, &reference.backend, filters))
            .map_err(|unusable: Unusable| unusable.within(format_args!("backendRefs[{index}]")))
    };
    let backends = rule.backend_refs.iter().flatten().enumerate().map(parse).collect::<Result<_, _>>()?;
    Ok(Work { filters, timeouts, retry: None, backends })
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
