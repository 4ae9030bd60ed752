//! The rules of a GRPCRoute: those of HTTP requests whose path is `/service/method`.

use crds::gateway::{
    FilteredBackendRef, GRPCMethodMatch, GRPCRoute, GRPCRouteFilter, GRPCRouteMatch, GRPCRouteRule, HTTPRouteFilter,
};
use snapshot::{Match, PathMatch};

use super::backends::Backends;
use super::expressions::Expressions;
use super::filters::{self, Surroundings};
use super::matches;
use super::rules::{self, Rules, Unusable, Work, no_timeouts, rank};
use crate::{Kind, ObjectKey};

/// Parses all rules; a route without rules has one that matches everything and has no backend.
pub(super) fn parse<'a>(key: &ObjectKey, route: &GRPCRoute, backends: &Backends<'a>) -> Rules<'a> {
    backends.expressions.begin();
    let nothing = [GRPCRouteRule::default()];
    let written = route.spec.rules.as_deref().filter(|rules| !rules.is_empty()).unwrap_or(&nothing);
    rules::parse::<GRPCRoute, _>(
        key,
        written,
        |rule| rule.name.as_ref(),
        |index, rule| matches::each(rule.matches.as_deref(), |one| one_match(route, index, one, &backends.expressions)),
        |rule, matches| work(rule, matches, &key.namespace, backends),
    )
}

fn work<'a>(
    rule: &GRPCRouteRule,
    matches: &[Match],
    namespace: &str,
    backends: &Backends<'a>,
) -> Result<Work<'a>, Unusable> {
    let surroundings = Surroundings { kind: Kind::GRPCRoute, namespace, matches, backends };
    let filters = filters::parse(&as_http(rule.filters.as_deref().unwrap_or_default()), surroundings)?;
    let parse = |(index, reference): (usize, &FilteredBackendRef<GRPCRouteFilter>)| {
        filters::of_backend(&as_http(reference.filters.as_deref().unwrap_or_default()), surroundings)
            .and_then(|filters| backends.parse(Kind::GRPCRoute, namespace, &reference.backend, filters))
            .map_err(|unusable: Unusable| unusable.within(format_args!("backendRefs[{index}]")))
    };
    let backends = rule.backend_refs.iter().flatten().enumerate().map(parse).collect::<Result<_, _>>()?;
    let persistence = rules::sessions(rule.session_persistence.as_ref())?;
    Ok(Work { filters, timeouts: no_timeouts(), retry: None, persistence, backends })
}

/// The filters of a GRPCRoute are some of those of an HTTPRoute.
fn as_http(filters: &[GRPCRouteFilter]) -> Vec<HTTPRouteFilter> {
    let convert = |filter: &GRPCRouteFilter| HTTPRouteFilter {
        type_: filter.type_.clone(),
        request_header_modifier: filter.request_header_modifier.clone(),
        response_header_modifier: filter.response_header_modifier.clone(),
        request_mirror: filter.request_mirror.clone(),
        extension_ref: filter.extension_ref.clone(),
        ..HTTPRouteFilter::default()
    };
    filters.iter().map(convert).collect()
}

fn one_match(
    route: &GRPCRoute,
    rule: usize,
    one: &GRPCRouteMatch,
    expressions: &Expressions,
) -> Result<Match, Unusable> {
    let headers = matches::headers(one.headers.as_deref().unwrap_or_default(), expressions)
        .map_err(|unusable| unusable.within("headers"))?;
    let path = path(one.method.as_ref(), expressions).map_err(|unusable| unusable.within("method"))?;
    let length =
        |part: fn(&GRPCMethodMatch) -> Option<&String>| one.method.as_ref().and_then(part).map_or(0, String::len);
    let service = length(|method| method.service.as_ref());
    let method = length(|method| method.method.as_ref());
    let rank = rank(route, rule, specificity(service, method, headers.len()));
    Ok(Match { path, method: None, headers, query: Vec::new(), rank })
}

/// Most characters in the service, then in the method, then most headers; smaller is more specific.
fn specificity(service: usize, method: usize, headers: usize) -> u32 {
    let fewer = |count: usize, most: u32| most - u32::try_from(count).unwrap_or(most).min(most);
    fewer(service, 0x7ff) << 16 | fewer(method, 0x7ff) << 5 | fewer(headers, 0x1f)
}

fn path(method: Option<&GRPCMethodMatch>, expressions: &Expressions) -> Result<PathMatch, Unusable> {
    let Some(condition) = method else { return Ok(PathMatch::Prefix("/".into())) };
    let part = |value: &Option<String>, field: &'static str| match value.as_deref().filter(|value| !value.is_empty()) {
        Some(value) if value.contains('/') => Err(Unusable::new(field, format!("{value:?} contains a slash"))),
        value => Ok(value.map(str::to_owned)),
    };
    match condition.type_.as_deref().unwrap_or("Exact") {
        "Exact" => match (part(&condition.service, "service")?, part(&condition.method, "method")?) {
            (Some(service), Some(method)) => Ok(PathMatch::Exact(format!("/{service}/{method}"))),
            (Some(service), None) => Ok(PathMatch::Prefix(format!("/{service}"))),
            (None, Some(method)) => Ok(PathMatch::LastElement(method)),
            (None, None) => Err(Unusable::new("", "name a service or a method")),
        },
        "RegularExpression" => {
            for (part, field) in [(&condition.service, "service"), (&condition.method, "method")] {
                let checked = part.as_ref().map_or(Ok(()), |part| expressions.check_part(part));
                checked.map_err(|unusable| Unusable { field: field.into(), ..unusable })?;
            }
            expressions.check(&expression(condition)).map(PathMatch::Regex)
        }
        other => Err(Unusable::new("type", format!("{other:?} is not supported: use Exact or RegularExpression"))),
    }
}

/// The expression for the path of a condition whose type is `RegularExpression`.
pub(super) fn expression(condition: &GRPCMethodMatch) -> String {
    let part = |part: &Option<String>| part.clone().unwrap_or_else(|| "[^/]+".into());
    format!("/(?:{})/(?:{})", part(&condition.service), part(&condition.method))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_service_outranks_the_method_and_the_method_outranks_headers() {
        let order = [(9, 3, 1), (9, 3, 0), (9, 0, 16), (8, 900, 16), (0, 12, 0), (0, 11, 16), (0, 0, 1), (0, 0, 0)];
        let ranks: Vec<_> =
            order.iter().map(|(service, method, headers)| specificity(*service, *method, *headers)).collect();
        assert!(ranks.is_sorted(), "{ranks:?}");
    }
}
