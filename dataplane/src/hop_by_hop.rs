//! Headers that are for the next hop only (RFC 9110, section 7.6.1).

use http::header::{
    AUTHORIZATION, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, COOKIE, EXPECT,
    FORWARDED, HOST, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, SET_COOKIE, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, HeaderName, HeaderValue};

/// What is for one hop only, and what must not reach a backend.
static STRIPPED: [HeaderName; 11] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    // CGI programs take it for their proxy setting (httpoxy).
    HeaderName::from_static("proxy"),
    TRANSFER_ENCODING,
    UPGRADE,
    // The other half of an upgrade to HTTP/2 (RFC 7540, 3.2.1), which is never passed on.
    HeaderName::from_static("http2-settings"),
    TE,
    // Whoever expects a go-ahead gets it from here, when the backend takes the body.
    EXPECT,
];

/// What may only stand before a body, besides the headers of one hop (RFC 9110, 6.5.1).
static NO_TRAILERS: [HeaderName; 11] = [
    AUTHORIZATION,
    CONTENT_ENCODING,
    CONTENT_LENGTH,
    CONTENT_RANGE,
    CONTENT_TYPE,
    COOKIE,
    FORWARDED,
    HOST,
    SET_COOKIE,
    TRAILER,
    HeaderName::from_static("x-real-ip"),
];

/// Removes the headers that must not be passed on, those that `Connection` names among them. `TE` stays when it allows
/// trailers, which gRPC needs. Whoever passes an upgrade on reads `Upgrade` before.
///
/// To be called before we add headers of our own: a client could name these in `Connection`.
pub fn strip(headers: &mut HeaderMap) {
    let mut trailers = false;
    // A look at each name that is there, not a lookup of each of ours: most heads hold none or one of them.
    while let Some(name) = headers.keys().find(|name| STRIPPED.contains(name)).cloned() {
        if name == CONNECTION {
            for named in named_by_connection(headers) {
                headers.remove(named);
            }
        } else if name == TE {
            trailers = headers.get_all(TE).iter().any(allows_trailers);
        }
        headers.remove(name);
    }
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
}

/// Removes from trailers what says where a message ends or goes, or from whom it is: a receiver that adds trailers to the
/// headers would believe it.
pub fn strip_trailers(trailers: &mut HeaderMap) {
    let is_no_trailer = |name: &&HeaderName| {
        STRIPPED.contains(name) || NO_TRAILERS.contains(name) || name.as_str().starts_with("x-forwarded-")
    };
    while let Some(name) = trailers.keys().find(is_no_trailer).cloned() {
        trailers.remove(name);
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
            ("http2-settings", "AAMAAABkAAQAAP__"),
            ("transfer-encoding", "chunked"),
            ("proxy-authorization", "x"),
            ("proxy", "http://evil"),
            ("te", "gzip, trailers"),
            ("expect", "100-continue"),
            ("accept", "*/*"),
        ]);
        assert_eq!(left, ["accept: */*", "te: trailers"]);
    }

    #[test]
    fn trailers_do_not_say_from_whom_a_message_is() {
        let names = ["forwarded", "x-forwarded-for", "x-real-ip", "cookie", "grpc-status"];
        let mut trailers: HeaderMap =
            names.iter().map(|name| (HeaderName::from_static(name), HeaderValue::from_static("1"))).collect();
        strip_trailers(&mut trailers);
        assert_eq!(trailers.keys().collect::<Vec<_>>(), ["grpc-status"]);
    }

    #[test]
    fn connection_cannot_remove_what_the_request_is() {
        let left =
            stripped(&[("connection", "host, content-length"), ("host", "a"), ("content-length", "1"), ("te", "gzip")]);
        assert_eq!(left, ["content-length: 1", "host: a"]);
    }
}
