//! Headers that are for the next hop only (RFC 9110, section 7.6.1).

use http::header::{
    CONNECTION, CONTENT_LENGTH, HOST, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, HeaderName, HeaderValue};

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
/// CGI programs take it for their proxy setting (httpoxy).
const PROXY: HeaderName = HeaderName::from_static("proxy");

/// Removes the headers that must not be passed on, those that `Connection` names among them. `TE` stays when it allows
/// trailers, which gRPC needs. Whoever passes an upgrade on reads `Upgrade` before.
///
/// To be called before we add headers of our own: a client could name these in `Connection`.
pub fn strip(headers: &mut HeaderMap) {
    if headers.contains_key(CONNECTION) {
        for name in named_by_connection(headers) {
            headers.remove(name);
        }
        headers.remove(CONNECTION);
    }
    for name in
        [KEEP_ALIVE, PROXY_CONNECTION, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, PROXY, TRANSFER_ENCODING, UPGRADE]
    {
        headers.remove(name);
    }
    if headers.contains_key(TE) {
        let trailers = headers.get_all(TE).iter().any(allows_trailers);
        headers.remove(TE);
        if trailers {
            headers.insert(TE, HeaderValue::from_static("trailers"));
        }
    }
}

/// The names in `Connection`, but those whose loss would change the request's meaning.
fn named_by_connection(headers: &HeaderMap) -> Vec<HeaderName> {
    let tokens = headers.get_all(CONNECTION).into_iter().flat_map(|value| value.as_bytes().split(|&byte| byte == b','));
    let options = |token: &&[u8]| !token.eq_ignore_ascii_case(b"close") && !token.eq_ignore_ascii_case(b"keep-alive");
    tokens
        .map(<[u8]>::trim_ascii)
        .filter(options)
        .filter_map(|token| HeaderName::from_bytes(token).ok())
        .filter(|name| ![HOST, CONTENT_LENGTH, TE].contains(name))
        .collect()
}

fn allows_trailers(value: &HeaderValue) -> bool {
    let mut codings = value.as_bytes().split(|&byte| byte == b',' || byte == b';');
    codings.any(|coding| coding.trim_ascii().eq_ignore_ascii_case(b"trailers"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stripped(headers: &[(&'static str, &'static str)]) -> Vec<String> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, HeaderValue::from_static(value));
        }
        strip(&mut map);
        let mut left: Vec<_> = map.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
        left.sort();
        left
    }

    #[test]
    fn what_is_for_this_hop_goes() {
        let left = stripped(&[
            ("connection", "close, X-Secret"),
            ("connection", "upgrade"),
            ("x-secret", "1"),
            ("keep-alive", "timeout=5"),
            ("upgrade", "websocket"),
            ("transfer-encoding", "chunked"),
            ("proxy-authorization", "x"),
            ("proxy", "http://evil"),
            ("te", "gzip, trailers"),
            ("accept", "*/*"),
        ]);
        assert_eq!(left, ["accept: */*", "te: trailers"]);
    }

    #[test]
    fn connection_cannot_remove_what_the_request_is() {
        let left =
            stripped(&[("connection", "host, content-length"), ("host", "a"), ("content-length", "1"), ("te", "gzip")]);
        assert_eq!(left, ["content-length: 1", "host: a"]);
    }
}
