//! Matches of an HTTPRoute, with their precedence.

use crds::gateway::{HTTPRoute, HTTPRouteMatch, HTTPValueMatch};
use snapshot::{Match, PathMatch, ValueMatch, ValuePattern};

use super::expressions::Expressions;
use super::rules::{Unusable, rank};

/// Each of a rule's `matches`; without any, the one that says nothing and so matches everything.
pub(super) fn each<T: Default>(
    written: Option<&[T]>,
    parse: impl Fn(&T) -> Result<Match, Unusable>,
) -> Result<Vec<Match>, Unusable> {
    let everything = [T::default()];
    let written = written.filter(|matches| !matches.is_empty()).unwrap_or(&everything);
    let parse = |(index, one)| parse(one).map_err(|unusable| unusable.within(format_args!("matches[{index}]")));
    written.iter().enumerate().map(parse).collect()
}

/// A match of rule `rule`.
pub(super) fn parse(
    route: &HTTPRoute,
    rule: usize,
    one: &HTTPRouteMatch,
    expressions: &Expressions,
) -> Result<Match, Unusable> {
    let path = path(one, expressions).map_err(|unusable| unusable.within("path"))?;
    let headers = headers(one.headers.as_deref().unwrap_or_default(), expressions)
        .map_err(|unusable| unusable.within("headers"))?;
    let query = values(one.query_params.as_deref().unwrap_or_default(), Name::Query, expressions)
        .map_err(|unusable| unusable.within("queryParams"))?;
    let rank = rank(route, rule, specificity(one.method.is_some(), headers.len(), query.len()));
    Ok(Match { path, method: one.method.clone(), headers, query, rank })
}

/// A method goes first, then most headers, then most query parameters; smaller is more specific.
fn specificity(method: bool, headers: usize, query: usize) -> u32 {
    let fewer = |count: usize| 255 - u32::try_from(count).unwrap_or(255).min(255);
    u32::from(!method) << 16 | fewer(headers) << 8 | fewer(query)
}

fn path(one: &HTTPRouteMatch, expressions: &Expressions) -> Result<PathMatch, Unusable> {
    let path = one.path.as_ref();
    let value = path.and_then(|path| path.value.as_deref()).unwrap_or("/");
    let absolute = || match value.starts_with('/') {
        true => Ok(value),
        false => Err(Unusable::new("value", format!("{value:?} does not start with /"))),
    };
    match path.and_then(|path| path.type_.as_deref()).unwrap_or("PathPrefix") {
        "Exact" => Ok(PathMatch::Exact(absolute()?.into())),
        "PathPrefix" => match absolute()?.trim_end_matches('/') {
            "" => Ok(PathMatch::Prefix("/".into())),
            prefix => Ok(PathMatch::Prefix(prefix.into())),
        },
        "RegularExpression" => Ok(PathMatch::Regex(expressions.check(value)?)),
        other => Err(Unusable::new(
            "type",
            format!("{other:?} is not supported: use Exact, PathPrefix or RegularExpression"),
        )),
    }
}

/// Conditions on headers.
pub(super) fn headers(conditions: &[HTTPValueMatch], expressions: &Expressions) -> Result<Vec<ValueMatch>, Unusable> {
    values(conditions, Name::Header, expressions)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Name {
    Header,
    Query,
}

/// Of several conditions on the same name the first counts; header names are compared without case.
fn values(conditions: &[HTTPValueMatch], kind: Name, expressions: &Expressions) -> Result<Vec<ValueMatch>, Unusable> {
    let mut values: Vec<ValueMatch> = Vec::new();
    for (index, condition) in conditions.iter().enumerate() {
        let value =
            value(condition, kind, expressions).map_err(|unusable| unusable.within(format_args!("[{index}]")))?;
        if values.iter().all(|earlier| earlier.name != value.name) {
            values.push(value);
        }
    }
    Ok(values)
}

fn value(condition: &HTTPValueMatch, kind: Name, expressions: &Expressions) -> Result<ValueMatch, Unusable> {
    let name = match (kind, http::HeaderName::try_from(&condition.name)) {
        (Name::Query, _) => condition.name.clone(),
        (Name::Header, Ok(name)) => name.as_str().into(),
        (Name::Header, Err(_)) => {
            return Err(Unusable::new("name", format!("{:?} is not the name of a header", condition.name)));
        }
    };
    let value = match condition.type_.as_deref().unwrap_or("Exact") {
        "Exact" => ValuePattern::Exact(condition.value.clone()),
        "RegularExpression" => ValuePattern::Regex(expressions.check(&condition.value)?),
        other => {
            return Err(Unusable::new("type", format!("{other:?} is not supported: use Exact or RegularExpression")));
        }
    };
    Ok(ValueMatch { name, value })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_method_outranks_headers_and_headers_outrank_parameters() {
        let order =
            [(true, 1, 0), (true, 0, 16), (false, 2, 0), (false, 1, 16), (false, 1, 0), (false, 0, 1), (false, 0, 0)];
        let ranks: Vec<_> =
            order.iter().map(|(method, headers, query)| specificity(*method, *headers, *query)).collect();
        assert!(ranks.is_sorted(), "{ranks:?}");
    }
}
