//! Why the data plane answered by itself, and that answer.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, LOCATION, RETRY_AFTER};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};

/// The header that carries the [`Reason`] of an answer of our own.
pub const REASON_HEADER: HeaderName = HeaderName::from_static("x-sluice-reason");

/// Why a request did not get a backend's answer. Closed: a label in metrics and logs, and the `x-sluice-reason` header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// No rule matches host, path and conditions.
    NoRoute,
    /// The rule's backend is missing or invalid (Gateway API: 500).
    InvalidBackend,
    /// The rule carries something that this data plane does not know.
    Unsupported,
    /// The Service does not exist or a setting of the route cannot be honoured.
    Unavailable,
    /// The backend has no endpoint to try.
    NoEndpoints,
    /// No endpoint accepted a connection.
    ConnectFailed,
    /// No endpoint accepted a connection in time.
    ConnectTimeout,
    /// Every endpoint that was tried has as many connections, or requests that wait for one, as it may.
    UpstreamOverloaded,
    /// The endpoint's TLS failed or its certificate does not count.
    UpstreamTls,
    /// The endpoint closed the connection before its answer was complete.
    UpstreamReset,
    /// The endpoint's answer is not valid HTTP.
    BadResponse,
    /// The endpoint sent nothing for too long.
    ReadTimeout,
    /// The endpoint took nothing for too long.
    SendTimeout,
    /// The exchange took longer than its rule allows.
    RequestTimeout,
    /// More requests than the rule's rate.
    RateLimited,
    /// More requests at once than the rule allows to one client.
    ConnectionLimited,
    /// The request body is larger than the rule allows.
    BodyTooLarge,
    /// The request is not valid HTTP.
    BadRequest,
    /// Plain HTTP came to a port for TLS.
    PlainHttp,
    /// The length of the request body is ambiguous.
    BadFraming,
    /// The host is missing, repeated, contradictory or not a host name.
    BadHost,
    /// The path has two readings or none: see [`crate::normalise::path`].
    BadPath,
    /// A method that a gateway does not serve (CONNECT, TRACE).
    BadMethod,
    /// The headers are too many or too large.
    HeadersTooLarge,
    /// The request's headers or body did not arrive in time.
    ClientTimeout,
    /// The host belongs to another listener than the one whose certificate was asked for.
    Misdirected,
    /// The data plane is at its limits.
    Overloaded,
    /// The client left before its answer; only logged.
    ClientGone,
    /// The client's TLS handshake failed, on a connection that carries no HTTP.
    Handshake,
    /// A tunnel carried nothing for too long.
    IdleTimeout,
    /// The data plane ends, and a tunnel with it.
    Cut,
    /// A rule redirects; nothing is wrong.
    Redirect,
    /// A preflight request is answered for the backend; nothing is wrong.
    Preflight,
    /// A preflight request comes from an origin that the rule does not allow.
    OriginRefused,
    /// The service that decides which requests may pass refuses this one, in its own words.
    AuthDenied,
    /// The service that decides which requests may pass gives no answer.
    AuthUnavailable,
    /// A defect of ours.
    Internal,
}

impl Reason {
    /// All of them, for metrics.
    pub const ALL: [Reason; 37] = [
        Reason::NoRoute,
        Reason::InvalidBackend,
        Reason::Unsupported,
        Reason::Unavailable,
        Reason::NoEndpoints,
        Reason::ConnectFailed,
        Reason::ConnectTimeout,
        Reason::UpstreamOverloaded,
        Reason::UpstreamTls,
        Reason::UpstreamReset,
        Reason::BadResponse,
        Reason::ReadTimeout,
        Reason::SendTimeout,
        Reason::RequestTimeout,
        Reason::RateLimited,
        Reason::ConnectionLimited,
        Reason::BodyTooLarge,
        Reason::BadRequest,
        Reason::PlainHttp,
        Reason::BadFraming,
        Reason::BadHost,
        Reason::BadPath,
        Reason::BadMethod,
        Reason::HeadersTooLarge,
        Reason::ClientTimeout,
        Reason::Misdirected,
        Reason::Overloaded,
        Reason::ClientGone,
        Reason::Handshake,
        Reason::IdleTimeout,
        Reason::Cut,
        Reason::Redirect,
        Reason::Preflight,
        Reason::OriginRefused,
        Reason::AuthDenied,
        Reason::AuthUnavailable,
        Reason::Internal,
    ];

    /// The label.
    pub const fn as_str(self) -> &'static str {
        self.text().0
    }

    /// The status with which this reason is answered unless a rule names another.
    pub const fn status(self) -> StatusCode {
        match self {
            Reason::BadRequest
            | Reason::PlainHttp
            | Reason::BadFraming
            | Reason::BadHost
            | Reason::BadPath
            | Reason::Handshake => StatusCode::BAD_REQUEST,
            Reason::NoRoute => StatusCode::NOT_FOUND,
            Reason::BadMethod => StatusCode::METHOD_NOT_ALLOWED,
            Reason::ClientTimeout => StatusCode::REQUEST_TIMEOUT,
            Reason::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Reason::Misdirected => StatusCode::MISDIRECTED_REQUEST,
            Reason::RateLimited | Reason::ConnectionLimited => StatusCode::TOO_MANY_REQUESTS,
            Reason::HeadersTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Reason::ClientGone => CLIENT_GONE,
            Reason::InvalidBackend | Reason::Unsupported | Reason::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            Reason::ConnectFailed | Reason::UpstreamTls | Reason::UpstreamReset | Reason::BadResponse => {
                StatusCode::BAD_GATEWAY
            }
            Reason::Unavailable
            | Reason::NoEndpoints
            | Reason::UpstreamOverloaded
            | Reason::Overloaded
            | Reason::Cut
            | Reason::AuthUnavailable => StatusCode::SERVICE_UNAVAILABLE,
            Reason::ConnectTimeout
            | Reason::ReadTimeout
            | Reason::SendTimeout
            | Reason::RequestTimeout
            | Reason::IdleTimeout => StatusCode::GATEWAY_TIMEOUT,
            Reason::Redirect => StatusCode::FOUND,
            Reason::Preflight => StatusCode::NO_CONTENT,
            Reason::OriginRefused | Reason::AuthDenied => StatusCode::FORBIDDEN,
        }
    }

    /// The status with which a gRPC call is answered, where HTTP's own would say too little: a client of gRPC takes most of them for
    /// "unknown" (gRPC's `doc/statuscodes.md`). `None` for what is no error, and
    /// what happens outside of calls.
    pub const fn grpc_status(self) -> Option<GrpcStatus> {
        Some(match self {
            Reason::NoRoute | Reason::BadMethod => GrpcStatus::Unimplemented,
            Reason::InvalidBackend
            | Reason::Unavailable
            | Reason::NoEndpoints
            | Reason::ConnectFailed
            | Reason::ConnectTimeout
            | Reason::UpstreamOverloaded
            | Reason::UpstreamTls
            | Reason::UpstreamReset
            | Reason::BadResponse
            | Reason::Overloaded
            | Reason::Misdirected
            | Reason::AuthUnavailable => GrpcStatus::Unavailable,
            Reason::ReadTimeout | Reason::SendTimeout | Reason::RequestTimeout | Reason::ClientTimeout => {
                GrpcStatus::DeadlineExceeded
            }
            Reason::RateLimited | Reason::ConnectionLimited | Reason::BodyTooLarge | Reason::HeadersTooLarge => {
                GrpcStatus::ResourceExhausted
            }
            Reason::BadRequest | Reason::PlainHttp | Reason::BadFraming | Reason::BadHost | Reason::BadPath => {
                GrpcStatus::InvalidArgument
            }
            Reason::OriginRefused | Reason::AuthDenied => GrpcStatus::PermissionDenied,
            Reason::ClientGone => GrpcStatus::Cancelled,
            Reason::Unsupported | Reason::Internal => GrpcStatus::Internal,
            Reason::Redirect | Reason::Preflight | Reason::Handshake | Reason::IdleTimeout | Reason::Cut => {
                return None;
            }
        })
    }

    /// Whether the connection must end because what follows on it cannot be trusted.
    pub const fn closes(self) -> bool {
        matches!(
            self,
            Reason::BadRequest
                | Reason::PlainHttp
                | Reason::BadFraming
                | Reason::BadHost
                | Reason::BadPath
                | Reason::BadMethod
                | Reason::BodyTooLarge
                | Reason::HeadersTooLarge
                | Reason::ClientTimeout
                | Reason::ClientGone
        )
    }

    /// The label, and the answer's body.
    const fn text(self) -> (&'static str, &'static str) {
        match self {
            Reason::NoRoute => ("no_route", "No route matches this request.\n"),
            Reason::InvalidBackend => ("invalid_backend", "The backend of this route is invalid.\n"),
            Reason::Unsupported => ("unsupported", "This route needs something that is not supported here.\n"),
            Reason::Unavailable => ("unavailable", "The service is not available.\n"),
            Reason::NoEndpoints => ("no_endpoints", "The service has no endpoints.\n"),
            Reason::ConnectFailed => ("connect_failed", "The backend could not be reached.\n"),
            Reason::ConnectTimeout => ("connect_timeout", "The backend could not be reached in time.\n"),
            Reason::UpstreamOverloaded => ("upstream_overloaded", "The backend is too busy, try again later.\n"),
            Reason::UpstreamTls => ("upstream_tls", "The backend could not be reached securely.\n"),
            Reason::UpstreamReset => ("upstream_reset", "The backend closed the connection.\n"),
            Reason::BadResponse => ("bad_response", "The backend's answer is invalid.\n"),
            Reason::ReadTimeout => ("read_timeout", "The backend did not answer in time.\n"),
            Reason::SendTimeout => ("send_timeout", "The backend did not take the request in time.\n"),
            Reason::RequestTimeout => ("request_timeout", "The request took too long.\n"),
            Reason::RateLimited => ("rate_limited", "Too many requests.\n"),
            Reason::ConnectionLimited => ("connection_limited", "Too many requests at once.\n"),
            Reason::BodyTooLarge => ("body_too_large", "The request body is too large.\n"),
            Reason::BadRequest => ("bad_request", "The request is invalid.\n"),
            Reason::PlainHttp => ("plain_http", "The plain HTTP request was sent to an HTTPS port.\n"),
            Reason::BadFraming => ("bad_framing", "The length of the request is ambiguous.\n"),
            Reason::BadHost => ("bad_host", "The host is missing or invalid.\n"),
            Reason::BadPath => ("bad_path", "The path is invalid.\n"),
            Reason::BadMethod => ("bad_method", "The method is not supported.\n"),
            Reason::HeadersTooLarge => ("headers_too_large", "The request headers are too large.\n"),
            Reason::ClientTimeout => ("client_timeout", "The request did not arrive in time.\n"),
            Reason::Misdirected => ("misdirected", "This host is not served on this connection.\n"),
            Reason::Overloaded => ("overloaded", "Too busy, try again later.\n"),
            Reason::ClientGone => ("client_gone", ""),
            Reason::Handshake => ("handshake", ""),
            Reason::IdleTimeout => ("idle_timeout", ""),
            Reason::Cut => ("cut", ""),
            Reason::Redirect => ("redirect", ""),
            Reason::Preflight => ("preflight", ""),
            Reason::OriginRefused => ("origin_refused", "Scripts of this origin may not do this.\n"),
            Reason::AuthDenied => ("auth_denied", "You may not do this.\n"),
            Reason::AuthUnavailable => ("auth_unavailable", "Nobody can say whether you may do this.\n"),
            Reason::Internal => ("internal", "Something went wrong.\n"),
        }
    }
}

/// Statuses of gRPC, by their numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "gRPC's own names")]
pub enum GrpcStatus {
    Cancelled = 1,
    InvalidArgument = 3,
    DeadlineExceeded = 4,
    PermissionDenied = 7,
    ResourceExhausted = 8,
    Unimplemented = 12,
    Internal = 13,
    Unavailable = 14,
}

/// nginx's 499, which logs and dashboards know.
const CLIENT_GONE: StatusCode = match StatusCode::from_u16(499) {
    Ok(status) => status,
    Err(_) => StatusCode::BAD_REQUEST,
};

/// An answer of the data plane itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Why.
    pub reason: Reason,
    /// The status, as the reason or the rule has it.
    pub status: StatusCode,
    /// `Retry-After` in seconds.
    pub retry_after: Option<u32>,
    /// `Location` of a redirect.
    pub location: Option<HeaderValue>,
    /// Further headers.
    pub headers: Option<Box<HeaderMap>>,
}

impl Answer {
    /// A redirect with this status.
    pub fn redirect(status: StatusCode, location: HeaderValue) -> Self {
        Self { reason: Reason::Redirect, status, retry_after: None, location: Some(location), headers: None }
    }

    /// The response: a short plain body, and for errors the reason in a header.
    pub fn into_response(self) -> Response<Bytes> {
        let (label, text) = self.reason.text();
        let further = self.headers.map(|headers| *headers).unwrap_or_default();
        let mut response = Response::new(Bytes::from_static(text.as_bytes()));
        *response.status_mut() = self.status;
        *response.headers_mut() = further;
        let headers = response.headers_mut();
        if !text.is_empty() {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        }
        if !matches!(self.reason, Reason::Redirect | Reason::Preflight) {
            headers.insert(REASON_HEADER, HeaderValue::from_static(label));
        }
        if let Some(seconds) = self.retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if let Some(location) = self.location {
            headers.insert(LOCATION, location);
        }
        response
    }

    /// The same for a client of gRPC: the status as headers, which are trailers where there is no body.
    pub fn into_grpc(self, status: GrpcStatus) -> Response<Bytes> {
        let (label, text) = self.reason.text();
        let mut response = Response::new(Bytes::new());
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert("grpc-status", HeaderValue::from(status as u16));
        headers.insert("grpc-message", HeaderValue::from_static(text.trim_ascii_end()));
        headers.insert(REASON_HEADER, HeaderValue::from_static(label));
        response
    }
}

impl From<Reason> for Answer {
    fn from(reason: Reason) -> Self {
        Self { reason, status: reason.status(), retry_after: None, location: None, headers: None }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn labels_are_distinct_and_every_reason_is_listed_once() {
        let labels: BTreeSet<_> = Reason::ALL.iter().map(|reason| reason.as_str()).collect();
        assert_eq!(labels.len(), Reason::ALL.len());
        assert_eq!(Reason::ALL.len(), Reason::Internal as usize + 1);
    }

    #[test]
    fn an_answer_carries_status_reason_and_retry_after() {
        let answer = Answer {
            status: StatusCode::SERVICE_UNAVAILABLE,
            retry_after: Some(3),
            ..Answer::from(Reason::RateLimited)
        };
        let response = answer.into_response();
        assert_eq!(response.status(), 503);
        assert_eq!(response.headers()[REASON_HEADER], "rate_limited");
        assert_eq!(response.headers()[RETRY_AFTER], "3");
        assert_eq!(response.body(), "Too many requests.\n");
    }

    #[test]
    fn a_redirect_is_no_error() {
        let response = Answer::redirect(StatusCode::FOUND, HeaderValue::from_static("/x")).into_response();
        assert_eq!(response.headers()[LOCATION], "/x");
        assert!(!response.headers().contains_key(REASON_HEADER));
        assert_eq!(Reason::ClientGone.status().as_u16(), 499);
    }
}
