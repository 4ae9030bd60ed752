//! What ingress-nginx does to every request of an Ingress.

use http::header::SERVER;
use http::{HeaderMap, HeaderName, StatusCode};
use snapshot::{HttpsRedirect, Scheme};

use super::redirect::{redirect_to, requested_host, status};
use super::rewrite::with_query;
use super::{Context, Outgoing};
use crate::reason::{Answer, Reason};
use crate::route::PathMatched;

const X_FORWARDED_SCHEME: HeaderName = HeaderName::from_static("x-forwarded-scheme");
const X_SCHEME: HeaderName = HeaderName::from_static("x-scheme");
const X_ORIGINAL_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-original-forwarded-for");
const X_ORIGINAL_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-original-forwarded-host");

/// Certificates must be obtainable before there is one.
const ACME: &str = "/.well-known/acme-challenge";

/// Sends plain requests to HTTPS.
pub(super) fn https_redirect(redirect: &HttpsRedirect, context: &Context<'_>) -> Result<(), Answer> {
    if context.forwarded.scheme == Scheme::Https || context.target.path().starts_with(ACME) {
        return Ok(());
    }
    let host = requested_host(context);
    if host.is_empty() {
        return Err(Answer::from(Reason::BadHost));
    }
    let status = status(redirect.status).map_err(|_| Answer::from(Reason::Internal))?;
    let target = context.target.path_and_query().as_str();
    // The end of the whole target, query included, is what loses its slash.
    let target = target.strip_suffix('/').unwrap_or(target);
    Err(redirect_to(status, Scheme::Https, host, redirect.port, target))
}

/// Sends `/a` to `/a/` on the same listener when the rule's path was written so.
pub(super) fn trailing_slash_redirect(context: &Context<'_>) -> Result<(), Answer> {
    let path = context.target.path();
    let whole = match context.matched {
        PathMatched::Prefix(length) => length == path.len(),
        PathMatched::Exact => true,
        PathMatched::Regex => false,
    };
    if !whole || path.ends_with('/') {
        return Ok(());
    }
    let path = format!("{}/", context.target.path_and_query().path());
    let target = with_query(&path, context.target.query());
    let (scheme, port) = (context.listener_scheme, context.listener_port);
    Err(redirect_to(StatusCode::MOVED_PERMANENTLY, scheme, context.target.host(), Some(port), &target))
}

/// The headers that ingress-nginx sends besides ours, without those whose name holds an underscore.
///
/// The host is the one that a trusted proxy says the client asked for.
pub(super) fn request_headers(context: &Context<'_>, request: &mut Outgoing) {
    let headers = &mut request.headers;
    let dropped: Vec<HeaderName> =
        headers.keys().filter(|name| name.as_str().as_bytes().contains(&b'_')).cloned().collect();
    for name in dropped {
        headers.remove(name);
    }
    headers.insert(X_FORWARDED_SCHEME, context.forwarded.proto.clone());
    headers.insert(X_SCHEME, context.forwarded.proto.clone());
    for (name, original) in [
        (X_ORIGINAL_FORWARDED_FOR, &context.forwarded.original_for),
        (X_ORIGINAL_FORWARDED_HOST, &context.forwarded.original_host),
    ] {
        match original {
            Some(original) => drop(headers.insert(name, original.clone())),
            None => drop(headers.remove(name)),
        }
    }
    if context.forwarded.believed_host.is_some() {
        request.host = context.forwarded.host_value.clone();
    }
}

/// Hides what the backend is.
pub(super) fn response_headers(headers: &mut HeaderMap) {
    headers.remove(SERVER);
}
