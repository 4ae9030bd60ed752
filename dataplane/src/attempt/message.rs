//! The request as an endpoint gets it.

use std::net::SocketAddr;

use http::header::{Entry, HOST};
use http::{HeaderValue, Method, Request, Uri, Version};

use crate::body::RequestBody;
use crate::upstream::Connector;

/// Puts the request into the form that the connection's protocol wants. One without a host, as HTTP/1.0 allows, gets the
/// endpoint's: the versions that backends get must have one (RFC 9112, 3.2).
pub fn address(request: &mut Request<RequestBody>, connector: &Connector, endpoint: SocketAddr, has_host: bool) {
    if !has_host {
        name_host(request, endpoint);
    }
    if connector.speaks_http2() {
        *request.version_mut() = Version::HTTP_2;
        // Upgrades do not exist in HTTP/2 (RFC 9113, 8.6).
        request.headers_mut().remove(http::header::CONNECTION);
        request.headers_mut().remove(http::header::UPGRADE);
        let Some(host) = request.headers_mut().remove(HOST) else { return };
        let mut parts = std::mem::take(request.uri_mut()).into_parts();
        parts.scheme = Some(if connector.is_tls() { http::uri::Scheme::HTTPS } else { http::uri::Scheme::HTTP });
        parts.authority = http::uri::Authority::from_maybe_shared(bytes::Bytes::copy_from_slice(host.as_bytes())).ok();
        *request.uri_mut() = Uri::from_parts(parts).unwrap_or_default();
        return;
    }
    *request.version_mut() = Version::HTTP_11;
    request.headers_mut().remove(http::header::TE);
}

/// A second delivery changes nothing (RFC 9110, 9.2.2).
pub fn is_idempotent(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE | Method::PUT | Method::DELETE)
}

/// The same request with another body.
pub fn with_body<B, C>(request: &Request<B>, body: C) -> Request<C> {
    let mut copy = Request::new(body);
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.version_mut() = request.version();
    *copy.headers_mut() = request.headers().clone();
    copy
}

fn name_host(request: &mut Request<RequestBody>, endpoint: SocketAddr) {
    if request.uri().authority().is_none()
        && let Entry::Vacant(missing) = request.headers_mut().entry(HOST)
        && let Ok(endpoint) = HeaderValue::try_from(endpoint.to_string())
    {
        missing.insert(endpoint);
    }
}
