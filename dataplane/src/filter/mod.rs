//! The steps that a request and its answer go through: an enum and a `match`.

mod edit;
mod limits;
mod nginx;
mod redirect;
mod rewrite;

use http::header::STRICT_TRANSPORT_SECURITY;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue};
use snapshot::Scheme;

use crate::check::Target;
use crate::forwarded::Forwarded;
use crate::limit::{ConnectionGuard, LimiterRegistry};
use crate::reason::Answer;
use crate::route::PathMatched;
use crate::tick::Tick;

pub use edit::{HeaderEdit, RequestEdit};
pub use limits::{ConnectionLimit, RateLimit};
pub use redirect::Redirect;
pub use rewrite::Rewrite;

/// A compiled [`snapshot::Filter`].
#[derive(Debug)]
pub enum Filter {
    /// Changes the request's headers.
    RequestHeaders(RequestEdit),
    /// Changes the response's headers.
    ResponseHeaders(HeaderEdit),
    /// Answers with a redirect.
    Redirect(Redirect),
    /// Changes host and path of the request.
    Rewrite(Rewrite),
    /// See [`snapshot::Filter::HttpsRedirect`].
    HttpsRedirect(snapshot::HttpsRedirect),
    /// See [`snapshot::Filter::TrailingSlashRedirect`].
    TrailingSlashRedirect,
    /// See [`snapshot::Filter::NginxHeaders`].
    NginxHeaders,
    /// See [`snapshot::Filter::StrictTransportSecurity`].
    StrictTransportSecurity(HeaderValue),
    /// At most so many requests in a time.
    RateLimit(RateLimit),
    /// At most so many requests at once.
    ConnectionLimit(ConnectionLimit),
}

/// What filters may know of a request.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// What was asked for.
    pub target: &'a Target,
    /// By whom.
    pub forwarded: &'a Forwarded,
    /// What the listener speaks.
    pub listener_scheme: Scheme,
    /// Where it listens.
    pub listener_port: u16,
    /// How the rule's path condition held.
    pub matched: PathMatched,
    /// The present.
    pub now: Tick,
}

/// The request as it will be sent to the backend.
#[derive(Clone, Debug)]
pub struct Outgoing {
    /// Its headers; what they say of `Host` does not count.
    pub headers: HeaderMap,
    /// Its path and query.
    pub path: PathAndQuery,
    /// Its `Host` or `:authority`.
    pub host: Option<HeaderValue>,
}

/// Takes a request through filters. What the answer must outlive is put into `guards`.
///
/// # Errors
/// The answer, when a filter answers by itself.
pub fn on_request(
    filters: &[Filter],
    context: &Context<'_>,
    request: &mut Outgoing,
    guards: &mut Vec<ConnectionGuard>,
) -> Result<(), Answer> {
    for filter in filters {
        match filter {
            Filter::RequestHeaders(edit) => edit.apply(request),
            Filter::Redirect(redirect) => return Err(redirect.answer(context)),
            Filter::Rewrite(rewrite) => rewrite.apply(context, request),
            Filter::HttpsRedirect(redirect) => nginx::https_redirect(redirect, context)?,
            Filter::TrailingSlashRedirect => nginx::trailing_slash_redirect(context)?,
            Filter::NginxHeaders => nginx::request_headers(context, request),
            Filter::RateLimit(limit) => limit.check(context, &request.headers)?,
            Filter::ConnectionLimit(limit) => guards.extend(limit.check(context)?),
            Filter::ResponseHeaders(_) | Filter::StrictTransportSecurity(_) => {}
        }
    }
    Ok(())
}

/// Takes a backend's answer through filters. `https` is whether the client used HTTPS.
pub fn on_response(filters: &[Filter], https: bool, headers: &mut HeaderMap) {
    for filter in filters {
        match filter {
            Filter::ResponseHeaders(edit) => edit.apply(headers),
            Filter::NginxHeaders => nginx::response_headers(headers),
            Filter::StrictTransportSecurity(value) if https => {
                headers.insert(STRICT_TRANSPORT_SECURITY, value.clone());
            }
            _ => {}
        }
    }
}

/// Takes an answer of our own through filters: only what protects the client later applies to it.
pub fn on_answer(filters: &[Filter], https: bool, headers: &mut HeaderMap) {
    for filter in filters {
        if let (Filter::StrictTransportSecurity(value), true) = (filter, https) {
            headers.insert(STRICT_TRANSPORT_SECURITY, value.clone());
        }
    }
}

impl Filter {
    /// Compiles filters; `None` when there is one that this data plane does not know.
    ///
    /// # Errors
    /// Says which value is invalid.
    pub(crate) fn compile_all(
        sources: &[snapshot::Filter],
        limiters: &mut LimiterRegistry,
    ) -> Result<Option<Box<[Filter]>>, String> {
        if sources.contains(&snapshot::Filter::Unknown) {
            return Ok(None);
        }
        sources
            .iter()
            .filter_map(|source| Self::compile(source, limiters).transpose())
            .collect::<Result<_, _>>()
            .map(Some)
    }

    fn compile(source: &snapshot::Filter, limiters: &mut LimiterRegistry) -> Result<Option<Self>, String> {
        Ok(Some(match source {
            snapshot::Filter::RequestHeaders(edit) => Filter::RequestHeaders(RequestEdit::compile(edit)?),
            snapshot::Filter::ResponseHeaders(edit) => Filter::ResponseHeaders(HeaderEdit::compile(edit)?),
            snapshot::Filter::Redirect(redirect) => Filter::Redirect(Redirect::compile(redirect)?),
            snapshot::Filter::Rewrite(rewrite) => Filter::Rewrite(Rewrite::compile(rewrite)?),
            snapshot::Filter::HttpsRedirect(redirect) => {
                redirect::status(redirect.status)?;
                Filter::HttpsRedirect(redirect.clone())
            }
            snapshot::Filter::TrailingSlashRedirect => Filter::TrailingSlashRedirect,
            snapshot::Filter::NginxHeaders => Filter::NginxHeaders,
            snapshot::Filter::StrictTransportSecurity(value) => {
                let value = HeaderValue::from_str(value);
                Filter::StrictTransportSecurity(value.map_err(|_| "invalid Strict-Transport-Security".to_owned())?)
            }
            snapshot::Filter::RateLimit(limit) => Filter::RateLimit(RateLimit::compile(limit, limiters)?),
            snapshot::Filter::ConnectionLimit(limit) => {
                Filter::ConnectionLimit(ConnectionLimit::compile(limit, limiters)?)
            }
            snapshot::Filter::Mirror(_) | snapshot::Filter::Cors(_) => return Err("is not supported yet".into()),
            snapshot::Filter::Unknown => return Ok(None),
        }))
    }
}

#[cfg(test)]
mod tests;
