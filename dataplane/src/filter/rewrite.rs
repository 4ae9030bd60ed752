//! Changes of path and host.

use std::borrow::Cow;

use http::HeaderValue;
use http::uri::PathAndQuery;
use snapshot::PathRewrite;

use super::{Context, Outgoing};
use crate::normalise;
use crate::route::PathMatched;

/// A compiled [`snapshot::Rewrite`].
#[derive(Debug)]
pub struct Rewrite {
    host: Option<HeaderValue>,
    path: Option<PathRewrite>,
}

impl Rewrite {
    pub(super) fn compile(source: &snapshot::Rewrite) -> Result<Self, String> {
        let invalid = |name: &str| format!("invalid host {name:?}");
        let host = source.hostname.as_deref().map(|name| match snapshot::normal_host_without_port(name) {
            Some(_) => HeaderValue::from_str(name).map_err(|_| invalid(name)),
            None => Err(invalid(name)),
        });
        Ok(Self { host: host.transpose()?, path: source.path.as_ref().map(valid).transpose()? })
    }

    pub(super) fn apply(&self, context: &Context<'_>, request: &mut Outgoing) {
        if let Some(host) = &self.host {
            request.host = Some(host.clone());
        }
        let path = self.path.as_ref().map(|rewrite| with_query(&rewritten(rewrite, context), request.path.query()));
        // A path that was checked when it was compiled, beside one that came with the request: always valid.
        if let Some(path) = path.and_then(|path| PathAndQuery::from_maybe_shared(bytes::Bytes::from(path)).ok()) {
            request.path = path;
        }
    }
}

/// The rewrite, checked to give valid paths.
pub(super) fn valid(rewrite: &PathRewrite) -> Result<PathRewrite, String> {
    let (PathRewrite::Full(path) | PathRewrite::Prefix(path)) = rewrite;
    let begins = path.starts_with('/') || (path.is_empty() && matches!(rewrite, PathRewrite::Prefix(_)));
    let parsed = PathAndQuery::try_from(if path.is_empty() { "/" } else { path });
    match parsed {
        Ok(parsed) if begins && parsed.query().is_none() => Ok(rewrite.clone()),
        _ => Err(format!("invalid path {path:?}")),
    }
}

/// The path as the rewrite makes it, without query.
pub(super) fn rewritten<'a>(rewrite: &'a PathRewrite, context: &Context<'a>) -> Cow<'a, str> {
    let replacement = match rewrite {
        PathRewrite::Full(path) => return Cow::Borrowed(path),
        PathRewrite::Prefix(replacement) => replacement,
    };
    let matched = match context.matched {
        PathMatched::Prefix(length) => length,
        PathMatched::Exact => context.target.path().len(),
        // The specification knows no prefix of an expression.
        PathMatched::Regex => return Cow::Borrowed(context.target.path_and_query().path()),
    };
    let rest = context.target.rest(matched);
    match (replacement.trim_end_matches('/'), rest) {
        ("", rest) => match rest {
            // Two slashes at the beginning would be read as those before a host.
            Cow::Borrowed(rest) => normalise::with_one_slash(rest),
            Cow::Owned(rest) => Cow::Owned(rest),
        },
        (_, rest) if rest.is_empty() => Cow::Borrowed(replacement),
        (replacement, rest) => Cow::Owned(format!("{replacement}{rest}")),
    }
}

/// Path and query together.
pub(super) fn with_query(path: &str, query: Option<&str>) -> String {
    match query {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    }
}
