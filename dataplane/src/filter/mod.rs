//! The steps that a request and its answer go through: an enum and a `match`.

mod cors;
mod edit;
mod external_auth;
mod limits;
mod mirror;
mod nginx;
mod redirect;
mod rewrite;

use std::sync::Arc;

use http::header::{ORIGIN, STRICT_TRANSPORT_SECURITY};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method};
use snapshot::Scheme;

use crate::check::Target;
use crate::cluster::{Cluster, ClusterRegistry};
use crate::forwarded::Forwarded;
use crate::limit::{ConnectionGuard, LimiterRegistry};
use crate::reason::Answer;
use crate::route::PathMatched;
use crate::tick::Tick;

pub use cors::Cors;
pub use edit::{HeaderEdit, RequestEdit};
pub use external_auth::{AuthProtocol, ExternalAuth, GrpcAuth, HeaderChange, HttpAuth};
pub use limits::{ConnectionLimit, RateLimit};
pub use mirror::{Duplicate, Mirror};
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
    /// Sends a copy elsewhere.
    Mirror(Mirror),
    /// Answers preflight requests, and says who may read answers.
    Cors(Box<Cors>),
    /// Asks whether the request may pass.
    ExternalAuth(Box<ExternalAuth>),
}

/// What filters may know of a request.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// The request's method.
    pub method: &'a Method,
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

/// What a request's filters leave for later.
#[derive(Debug, Default)]
pub struct Effects {
    /// Count against limits until the end of the exchange.
    pub guards: Vec<ConnectionGuard>,
    /// Copies of the request that are to be sent.
    pub duplicates: Vec<Duplicate>,
    /// Where the request comes from, if some filter wants to know with the answer.
    pub origin: Option<HeaderValue>,
    /// What a service that was asked wants of the backend's answer.
    pub of_answer: Vec<HeaderChange>,
}

/// Takes a request through filters. One that asks a service is left to the caller.
///
/// # Errors
/// The answer, when a filter answers by itself.
pub fn on_request(
    filters: &[Filter],
    context: &Context<'_>,
    request: &mut Outgoing,
    effects: &mut Effects,
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
            Filter::ConnectionLimit(limit) => effects.guards.extend(limit.check(context)?),
            Filter::Mirror(mirror) => effects.duplicates.extend(mirror.copy(request)),
            Filter::Cors(cors) => {
                // A filter of the rule may have changed it since for the backend's.
                effects.origin = effects.origin.take().or_else(|| request.headers.get(ORIGIN).cloned());
                cors.preflight(context.method, &request.headers)?;
            }
            Filter::ResponseHeaders(_) | Filter::StrictTransportSecurity(_) | Filter::ExternalAuth(_) => {}
        }
    }
    Ok(())
}

/// Takes a backend's answer through filters. `https` is whether the client used HTTPS, `effects` what they left with the request.
pub fn on_response(filters: &[Filter], https: bool, effects: &Effects, headers: &mut HeaderMap) {
    for filter in filters {
        match filter {
            Filter::ResponseHeaders(edit) => edit.apply(headers),
            Filter::NginxHeaders => nginx::response_headers(headers),
            Filter::StrictTransportSecurity(value) if https => {
                headers.insert(STRICT_TRANSPORT_SECURITY, value.clone());
            }
            Filter::Cors(cors) => cors.dress(effects.origin.as_ref(), headers),
            Filter::StrictTransportSecurity(_)
            | Filter::RequestHeaders(_)
            | Filter::Redirect(_)
            | Filter::Rewrite(_)
            | Filter::HttpsRedirect(_)
            | Filter::TrailingSlashRedirect
            | Filter::RateLimit(_)
            | Filter::ConnectionLimit(_)
            | Filter::Mirror(_)
            | Filter::ExternalAuth(_) => {}
        }
    }
}

/// Takes an answer of our own through filters: what protects the client later applies to it, and who may read it.
pub fn on_answer(filters: &[Filter], https: bool, effects: &Effects, headers: &mut HeaderMap) {
    for filter in filters {
        match filter {
            Filter::StrictTransportSecurity(value) if https => {
                headers.insert(STRICT_TRANSPORT_SECURITY, value.clone());
            }
            Filter::Cors(cors) => cors.dress(effects.origin.as_ref(), headers),
            Filter::StrictTransportSecurity(_)
            | Filter::RequestHeaders(_)
            | Filter::ResponseHeaders(_)
            | Filter::Redirect(_)
            | Filter::Rewrite(_)
            | Filter::HttpsRedirect(_)
            | Filter::TrailingSlashRedirect
            | Filter::NginxHeaders
            | Filter::RateLimit(_)
            | Filter::ConnectionLimit(_)
            | Filter::Mirror(_)
            | Filter::ExternalAuth(_) => {}
        }
    }
}

impl Filter {
    /// The cluster that this filter sends to.
    pub(crate) fn cluster(&self) -> Option<&Arc<Cluster>> {
        match self {
            Filter::Mirror(mirror) => Some(mirror.cluster()),
            Filter::ExternalAuth(auth) => Some(&auth.cluster),
            Filter::RequestHeaders(_)
            | Filter::ResponseHeaders(_)
            | Filter::Redirect(_)
            | Filter::Rewrite(_)
            | Filter::HttpsRedirect(_)
            | Filter::TrailingSlashRedirect
            | Filter::NginxHeaders
            | Filter::StrictTransportSecurity(_)
            | Filter::RateLimit(_)
            | Filter::ConnectionLimit(_)
            | Filter::Cors(_) => None,
        }
    }

    /// Compiles filters; `None` when there is one that this data plane does not know.
    ///
    /// # Errors
    /// Says which value is invalid.
    pub(crate) fn compile_all(
        sources: &[snapshot::Filter],
        clusters: &ClusterRegistry,
        limiters: &mut LimiterRegistry,
    ) -> Result<Option<Box<[Filter]>>, String> {
        if sources.contains(&snapshot::Filter::Unknown) {
            return Ok(None);
        }
        let filters = sources.iter().filter_map(|source| Self::compile(source, clusters, limiters).transpose());
        let mut filters = filters.collect::<Result<Vec<_>, _>>()?;
        // First wherever it stands: a preflight carries no credentials and has to pass limits and authorization, and whoever
        // refuses the request after it is to say who may read why.
        filters.sort_by_key(|filter| !matches!(filter, Filter::Cors(_)));
        Ok(Some(filters.into()))
    }

    fn compile(
        source: &snapshot::Filter,
        clusters: &ClusterRegistry,
        limiters: &mut LimiterRegistry,
    ) -> Result<Option<Self>, String> {
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
            snapshot::Filter::Mirror(mirror) => Filter::Mirror(Mirror::compile(mirror, clusters)?),
            snapshot::Filter::Cors(cors) => Filter::Cors(Box::new(Cors::compile(cors)?)),
            snapshot::Filter::ExternalAuth(auth) => {
                Filter::ExternalAuth(Box::new(ExternalAuth::compile(auth, clusters)?))
            }
            snapshot::Filter::Unknown => return Ok(None),
        }))
    }
}

#[cfg(test)]
mod tests;
