//! Filters of an HTTPRoute.

use crds::gateway::{
    HTTPHeader, HTTPHeaderFilter, HTTPPathModifier, HTTPRequestRedirectFilter, HTTPRouteFilter, HTTPURLRewriteFilter,
};
use http::{HeaderName, HeaderValue};
use snapshot::{
    Filter, HeaderEdit, Match, PathMatch, PathRewrite, Redirect, Rewrite, Scheme, normal_host, normal_host_without_port,
};

use super::backends::Backends;
use super::cors;
use super::external_auth::{self, ExternalAuth};
use super::mirror::{self, Mirror};
use super::rules::Unusable;
use crate::Kind;

/// A filter, complete but for what depends on the Gateway.
pub(super) enum Step<'a> {
    /// One that needs nothing else.
    Filter(Filter),
    /// One that sends copies to a backend.
    Mirror(Mirror<'a>),
    /// One that asks a backend whether requests may pass.
    ExternalAuth(ExternalAuth<'a>),
}

impl Step<'_> {
    /// Whether it answers with a redirect.
    pub fn is_redirect(&self) -> bool {
        matches!(self, Step::Filter(Filter::Redirect(_)))
    }
}

/// What filters depend on besides themselves.
#[derive(Clone, Copy)]
pub(super) struct Surroundings<'s, 'a> {
    /// The kind of the route.
    pub kind: Kind,
    /// Its namespace.
    pub namespace: &'s str,
    /// The matches of the rule.
    pub matches: &'s [Match],
    /// Where references lead.
    pub backends: &'s Backends<'a>,
}

/// The filters of a rule, in their order.
///
/// A filter that is not supported is never skipped: it makes the rule [unusable](Unusable).
pub(super) fn parse<'a>(
    filters: &[HTTPRouteFilter],
    surroundings: Surroundings<'_, 'a>,
) -> Result<Vec<Step<'a>>, Unusable> {
    let parse = |(index, filter): (usize, &HTTPRouteFilter)| {
        step(filter, surroundings).map_err(|unusable| unusable.within(format_args!("filters[{index}]")))
    };
    let (mut steps, mut unusable) = (Vec::new(), Vec::new());
    for parsed in filters.iter().enumerate().map(parse) {
        match parsed {
            Ok(step) => steps.push(step),
            Err(error) => unusable.push(error),
        }
    }
    unusable.sort_by_key(|error| !error.protects); // stable: otherwise the first one
    if let Some(error) = unusable.into_iter().next() {
        return Err(error);
    }
    let holds =
        |wanted: fn(&Filter) -> bool| steps.iter().any(|step| matches!(step, Step::Filter(filter) if wanted(filter)));
    if holds(|filter| matches!(filter, Filter::Redirect(_))) && holds(|filter| matches!(filter, Filter::Rewrite(_))) {
        let message = "RequestRedirect and URLRewrite exclude each other: remove one of the two";
        return Err(Unusable { reason: "IncompatibleFilters", ..Unusable::new("filters", message) });
    }
    Ok(steps)
}

/// The filters of a backend.
pub(super) fn of_backend<'a>(
    filters: &[HTTPRouteFilter],
    surroundings: Surroundings<'_, 'a>,
) -> Result<Vec<Step<'a>>, Unusable> {
    let filters = parse(filters, surroundings)?;
    if filters.iter().any(Step::is_redirect) {
        let message = "RequestRedirect is not supported on a backend: move it to the rule";
        return Err(Unusable::new("filters", message));
    }
    Ok(filters)
}

fn step<'a>(filter: &HTTPRouteFilter, surroundings: Surroundings<'_, 'a>) -> Result<Step<'a>, Unusable> {
    match filter.type_.as_str() {
        "RequestMirror" => {
            let field = "requestMirror";
            let value = filter.request_mirror.as_ref().ok_or_else(|| missing(filter, field))?;
            mirror::parse(value, surroundings).map(Step::Mirror).map_err(|unusable| unusable.within(field))
        }
        "ExternalAuth" => {
            let field = "externalAuth";
            let value = filter.external_auth.as_ref().ok_or_else(|| missing(filter, field).protecting())?;
            let parsed = external_auth::parse(value, surroundings).map(Step::ExternalAuth);
            parsed.map_err(|unusable| unusable.within(field).protecting())
        }
        _ => one_filter(filter, surroundings.matches).map(Step::Filter),
    }
}

fn missing(filter: &HTTPRouteFilter, field: &str) -> Unusable {
    Unusable::new(field, format!("type {} needs this field", filter.type_))
}

fn one_filter(filter: &HTTPRouteFilter, matches: &[Match]) -> Result<Filter, Unusable> {
    let missing = |field: &'static str| missing(filter, field);
    match filter.type_.as_str() {
        "RequestHeaderModifier" => {
            let field = "requestHeaderModifier";
            let edit = filter.request_header_modifier.as_ref().ok_or_else(|| missing(field))?;
            header_edit(edit, true).map(Filter::RequestHeaders).map_err(|unusable| unusable.within(field))
        }
        "ResponseHeaderModifier" => {
            let field = "responseHeaderModifier";
            let edit = filter.response_header_modifier.as_ref().ok_or_else(|| missing(field))?;
            header_edit(edit, false).map(Filter::ResponseHeaders).map_err(|unusable| unusable.within(field))
        }
        "RequestRedirect" => {
            let field = "requestRedirect";
            let value = filter.request_redirect.as_ref().ok_or_else(|| missing(field))?;
            redirect(value, matches).map(Filter::Redirect).map_err(|unusable| unusable.within(field))
        }
        "URLRewrite" => {
            let field = "urlRewrite";
            let value = filter.url_rewrite.as_ref().ok_or_else(|| missing(field))?;
            rewrite(value, matches).map(Filter::Rewrite).map_err(|unusable| unusable.within(field))
        }
        "CORS" => {
            let value = filter.cors.as_ref().ok_or_else(|| missing("cors"))?;
            cors::parse(value).map(Filter::Cors).map_err(|unusable| unusable.within("cors"))
        }
        other => Err(Unusable::new("type", format!("filter {other:?} is not supported: remove it")).protecting()),
    }
}

/// An edit of requests (`host` is true) or of responses. A request's host may be set, not added or removed.
fn header_edit(filter: &HTTPHeaderFilter, host: bool) -> Result<HeaderEdit, Unusable> {
    let headers = |headers: &Option<Vec<HTTPHeader>>, field: &'static str| {
        let parse = |(index, header): (usize, &HTTPHeader)| {
            let name = name(&header.name, host && field == "set");
            // The value stays out of the message: it may be a credential.
            let value = HeaderValue::from_str(&header.value)
                .map_err(|_| Unusable::new("value", "a header's value holds no control characters such as line ends"));
            let pair = name.and_then(|name| value.map(|_| (name, header.value.clone())));
            let pair = pair.and_then(|(name, value)| match name == "host" && normal_host(&value).is_none() {
                true => Err(Unusable::new("value", format!("{value:?} is not a host"))),
                false => Ok((name, value)),
            });
            pair.map_err(|unusable| unusable.within(format_args!("{field}[{index}]")))
        };
        let mut edits: Vec<(String, String)> = Vec::new();
        for edit in headers.iter().flatten().enumerate().map(parse) {
            let (name, value) = edit?;
            // Of equal names the first counts; the CRD tells names apart by case.
            if !edits.iter().any(|(known, _)| *known == name) {
                edits.push((name, value));
            }
        }
        Ok(edits)
    };
    let remove = |(index, header): (usize, &String)| {
        name(header, false).map_err(|unusable| unusable.within(format_args!("remove[{index}]")))
    };
    Ok(HeaderEdit {
        set: headers(&filter.set, "set")?,
        add: headers(&filter.add, "add")?,
        remove: filter.remove.iter().flatten().enumerate().map(remove).collect::<Result<_, _>>()?,
    })
}

fn name(name: &str, host: bool) -> Result<String, Unusable> {
    let name = HeaderName::try_from(name)
        .map_err(|_| Unusable::new("name", format!("{name:?} is not the name of a header")))?;
    match name.as_str() {
        "host" if host => {}
        "host" => {
            let message = "\"host\" can only be set, and only on requests: use set, or URLRewrite with hostname";
            return Err(Unusable::new("name", message));
        }
        fixed if HeaderEdit::FIXED.contains(&fixed) => {
            let message = format!("{fixed:?} belongs to the connection, not to the message: remove it from the filter");
            return Err(Unusable::new("name", message));
        }
        _ => {}
    }
    Ok(name.as_str().into())
}

fn redirect(filter: &HTTPRequestRedirectFilter, matches: &[Match]) -> Result<Redirect, Unusable> {
    let scheme = match filter.scheme.as_deref() {
        None => None,
        Some("http") => Some(Scheme::Http),
        Some("https") => Some(Scheme::Https),
        Some(other) => return Err(Unusable::new("scheme", format!("{other:?} is not supported: use http or https"))),
    };
    let port = match filter.port.map(u16::try_from) {
        None => None,
        Some(Ok(port)) if port > 0 => Some(port),
        Some(_) => return Err(Unusable::new("port", "a port is a number from 1 to 65535")),
    };
    let status = match filter.status_code.unwrap_or(302) {
        status @ (301 | 302 | 303 | 307 | 308) => status as u16,
        other => return Err(Unusable::new("statusCode", format!("{other} is not 301, 302, 303, 307 or 308"))),
    };
    let hostname = host(filter.hostname.as_deref())?;
    Ok(Redirect { scheme, hostname, port, path: path(filter.path.as_ref(), matches)?, status })
}

fn rewrite(filter: &HTTPURLRewriteFilter, matches: &[Match]) -> Result<Rewrite, Unusable> {
    Ok(Rewrite { hostname: host(filter.hostname.as_deref())?, path: path(filter.path.as_ref(), matches)? })
}

fn host(hostname: Option<&str>) -> Result<Option<String>, Unusable> {
    let host = |name: &str| match normal_host_without_port(name) {
        Some(normal) => Ok(normal.into_owned()),
        None => {
            let message = format!("{name:?} is not a host name without wildcard and port");
            Err(Unusable::new("hostname", message))
        }
    };
    hostname.map(host).transpose()
}

fn path(modifier: Option<&HTTPPathModifier>, matches: &[Match]) -> Result<Option<PathRewrite>, Unusable> {
    let Some(modifier) = modifier else { return Ok(None) };
    let text = |value: &Option<String>, field: &'static str| {
        let value = value.as_deref().unwrap_or_default();
        match value.bytes().all(|byte| byte.is_ascii_graphic() && !b"?#".contains(&byte)) {
            true => Ok(value.to_owned()),
            false => Err(Unusable::new(field, format!("{value:?} is not a path")).within("path")),
        }
    };
    match modifier.type_.as_str() {
        "ReplaceFullPath" => match text(&modifier.replace_full_path, "replaceFullPath")? {
            full if full.starts_with('/') => Ok(Some(PathRewrite::Full(full))),
            relative => Ok(Some(PathRewrite::Full(format!("/{relative}")))),
        },
        "ReplacePrefixMatch" if matches.iter().all(|one| matches!(one.path, PathMatch::Prefix(_))) => {
            Ok(Some(PathRewrite::Prefix(text(&modifier.replace_prefix_match, "replacePrefixMatch")?)))
        }
        "ReplacePrefixMatch" => {
            let message =
                "ReplacePrefixMatch needs matches of type PathPrefix: change the matches, or use ReplaceFullPath";
            Err(Unusable::new("path.type", message))
        }
        other => {
            let message = format!("{other:?} is not supported: use ReplaceFullPath or ReplacePrefixMatch");
            Err(Unusable::new("path.type", message))
        }
    }
}
