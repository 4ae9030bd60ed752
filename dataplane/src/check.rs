//! Checks a request's head beyond its syntax, and finds out what it asks for. What is ambiguous is refused: two readers
//! of one request must not come to two results (RFC 9112, sections 3.2 and 6.3).

use std::borrow::Cow;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, Version};

use crate::normalise;
use crate::reason::Reason;

/// What a request asks for, in the form for matching and in the form for forwarding.
#[derive(Clone, Debug)]
pub struct Target {
    authority: Option<HeaderValue>,
    host: Host,
    /// As it is forwarded.
    path_and_query: PathAndQuery,
    /// In normal form. Only where it differs from the path that is forwarded.
    path: Option<Box<str>>,
}

/// The normalised host.
#[derive(Clone, Debug)]
enum Host {
    None,
    /// The first so many bytes of the authority.
    Prefix(usize),
    Other(Box<str>),
}

impl Target {
    /// Checks the head of a request and returns what it asks for.
    ///
    /// # Errors
    /// [`Reason::BadMethod`] for CONNECT and TRACE, [`Reason::BadFraming`] for an ambiguous length, [`Reason::BadHost`] for a host
    /// that is missing (but in HTTP/1.0), repeated, contradictory or no host name, [`Reason::BadPath`] as
    /// [`normalise::path`].
    pub fn of(request: &Parts) -> Result<Self, Reason> {
        if matches!(request.method, Method::CONNECT | Method::TRACE) {
            return Err(Reason::BadMethod);
        }
        check_framing(&request.headers)?;
        let authority = authority(request)?;
        let host = match &authority {
            Some(value) => {
                let value = value.to_str().map_err(|_| Reason::BadHost)?;
                let host = normalise::host(value)?;
                if value.starts_with(&*host) { Host::Prefix(host.len()) } else { Host::Other(host.into()) }
            }
            None => Host::None,
        };
        let received = path_and_query(request)?;
        let normal = normalise::path(received.path())?;
        let path = match normal.matched {
            Cow::Owned(matched) if matched != normal.forwarded => Some(matched.into()),
            Cow::Owned(_) | Cow::Borrowed(_) => None,
        };
        let forwarded = match normal.forwarded {
            Cow::Owned(forwarded) => Some(joined(&forwarded, received.query())?),
            Cow::Borrowed(_) => None,
        };
        let path_and_query = forwarded.unwrap_or(received);
        Ok(Self { authority, host, path_and_query, path })
    }

    /// The host in normal form; empty when the request has none (HTTP/1.0).
    pub fn host(&self) -> &str {
        match (&self.host, &self.authority) {
            (Host::Prefix(length), Some(authority)) => {
                authority.to_str().ok().and_then(|host| host.get(..*length)).unwrap_or_default()
            }
            (Host::Other(host), _) => host,
            _ => "",
        }
    }

    /// The path in normal form.
    pub fn path(&self) -> &str {
        self.path.as_deref().unwrap_or(self.path_and_query.path())
    }

    /// Host and port as they were sent.
    pub fn authority(&self) -> Option<&HeaderValue> {
        self.authority.as_ref()
    }

    /// Path and query as they are forwarded.
    pub fn path_and_query(&self) -> &PathAndQuery {
        &self.path_and_query
    }

    /// What follows the first `matched` bytes of [`Target::path`], which end where an element does: empty, or the path that is
    /// forwarded without its first elements. It begins with a slash then.
    pub fn rest(&self, matched: usize) -> Cow<'_, str> {
        let (prefix, rest) = self.path().split_at_checked(matched).unwrap_or_default();
        if self.path.is_none() || rest.is_empty() {
            return Cow::Borrowed(rest);
        }
        // Neither form has dot segments, so that their elements are the same ones.
        let rest = normalise::after_elements(self.path_and_query.path(), prefix.matches('/').count());
        if rest.starts_with('/') { Cow::Borrowed(rest) } else { normalise::with_one_slash(rest) }
    }

    /// The query as it was sent.
    pub fn query(&self) -> Option<&str> {
        self.path_and_query.query()
    }
}

/// The path and query that a request was sent with. A target with a host may have no path (`GET http://a?x`, RFC 9112, 3.2.2);
/// in HTTP/2 a path is never left out (RFC 9113, 8.3.1).
fn path_and_query(request: &Parts) -> Result<PathAndQuery, Reason> {
    let sent = request.uri.path_and_query().ok_or(Reason::BadPath)?;
    let has_no_path = sent.as_str().starts_with('?');
    if has_no_path && request.version < Version::HTTP_2 && request.uri.authority().is_some() {
        return joined("/", sent.query());
    }
    if has_no_path { Err(Reason::BadPath) } else { Ok(sent.clone()) }
}

fn joined(path: &str, query: Option<&str>) -> Result<PathAndQuery, Reason> {
    let text = match query {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    };
    PathAndQuery::from_maybe_shared(Bytes::from(text)).map_err(|_| Reason::BadPath)
}

/// What the parser lets pass: repeated lengths, a length beside an encoding, encodings other than `chunked`.
fn check_framing(headers: &HeaderMap) -> Result<(), Reason> {
    let mut framings = 0;
    for (name, value) in headers {
        let value = value.as_bytes();
        let clear = if name == CONTENT_LENGTH {
            !value.is_empty() && value.iter().all(u8::is_ascii_digit)
        } else if name == TRANSFER_ENCODING {
            value.eq_ignore_ascii_case(b"chunked")
        } else {
            continue;
        };
        framings += 1;
        if !clear || framings > 1 {
            return Err(Reason::BadFraming);
        }
    }
    Ok(())
}

/// The one host that the request names, in its target or its header. Where they differ the target's counts in HTTP/1
/// (RFC 9112, 3.2.2), and the request is malformed in HTTP/2 (RFC 9113, 8.3.1).
fn authority(request: &Parts) -> Result<Option<HeaderValue>, Reason> {
    let mut hosts = request.headers.get_all(HOST).iter();
    let header = hosts.next();
    if hosts.next().is_some() {
        return Err(Reason::BadHost);
    }
    match (request.uri.authority(), header) {
        (Some(target), header) => {
            let http1 = request.version < Version::HTTP_2;
            match header {
                Some(header) if header.as_bytes().eq_ignore_ascii_case(target.as_str().as_bytes()) => {
                    return Ok(Some(header.clone()));
                }
                // What does not count must still be a host (RFC 9112, 3.2).
                Some(header) if http1 => drop(normalise::host(header.to_str().map_err(|_| Reason::BadHost)?)?),
                Some(_) => return Err(Reason::BadHost),
                None if request.version == Version::HTTP_11 => return Err(Reason::BadHost),
                None => {}
            }
            HeaderValue::from_str(target.as_str()).map(Some).map_err(|_| Reason::BadHost)
        }
        (None, Some(header)) => Ok(Some(header.clone())),
        (None, None) if request.version <= Version::HTTP_10 => Ok(None),
        (None, None) => Err(Reason::BadHost),
    }
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn target(uri: &str, version: Version, headers: &[(&str, &str)]) -> Result<Target, Reason> {
        let mut request = Request::builder().uri(uri).version(version);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        Target::of(&request.body(()).unwrap().into_parts().0)
    }

    #[test]
    fn matching_sees_the_normal_form_and_forwarding_the_same_elements() {
        let at_shop = |uri| target(uri, Version::HTTP_11, &[("host", "Shop.Example:80")]).unwrap();
        let target = at_shop("/a%20b//c?q=%20");
        assert_eq!((target.host(), target.path(), target.query()), ("shop.example", "/a b/c", Some("q=%20")));
        assert_eq!(target.path_and_query(), "/a%20b//c?q=%20");
        assert_eq!(target.authority().unwrap(), "Shop.Example:80");
        let target = at_shop("/admin//../a%20b?q=/../%2e");
        assert_eq!((target.path(), target.path_and_query().as_str()), ("/admin/a b", "/admin/a%20b?q=/../%2e"));
    }

    #[test]
    fn a_path_that_is_missing_is_the_root_where_the_target_has_a_host() {
        let host = [("host", "a")];
        assert_eq!(target("http://a?x", Version::HTTP_11, &host).unwrap().path_and_query(), "/?x");
        assert_eq!(target("http://a", Version::HTTP_11, &host).unwrap().path_and_query(), "/");
        let mut request = Request::builder().version(Version::HTTP_2).body(()).unwrap().into_parts().0;
        let mut uri = http::uri::Parts::default();
        uri.scheme = Some(http::uri::Scheme::HTTP);
        uri.authority = Some("a".parse().unwrap());
        uri.path_and_query = Some("?x".parse().unwrap());
        request.uri = http::Uri::from_parts(uri).unwrap();
        assert_eq!(Target::of(&request).err(), Some(Reason::BadPath));
    }

    #[test]
    fn http2_has_its_host_in_the_target() {
        let target = target("http://a.example:8080/x", Version::HTTP_2, &[]).unwrap();
        assert_eq!((target.host(), target.path()), ("a.example", "/x"));
        assert_eq!(target.authority().unwrap(), "a.example:8080");
    }

    #[test]
    fn the_host_in_the_target_wins_in_http1() {
        for version in [Version::HTTP_10, Version::HTTP_11] {
            let target = target("http://a.example:8080/x?q", version, &[("host", "b.example")]).unwrap();
            assert_eq!((target.host(), target.path()), ("a.example", "/x"));
            assert_eq!(target.authority().unwrap(), "a.example:8080");
            assert_eq!(target.path_and_query(), "/x?q");
        }
    }

    #[test]
    fn ambiguous_hosts_are_refused() {
        let http11 = |uri, headers: &[_]| target(uri, Version::HTTP_11, headers).err();
        assert_eq!(http11("/", &[]), Some(Reason::BadHost));
        assert_eq!(http11("/", &[("host", "")]), Some(Reason::BadHost));
        assert_eq!(http11("/", &[("host", "a b")]), Some(Reason::BadHost));
        assert_eq!(http11("/", &[("host", "a"), ("host", "a")]), Some(Reason::BadHost));
        assert_eq!(http11("http://a/", &[]), Some(Reason::BadHost));
        assert_eq!(http11("http://a/", &[("host", "b c")]), Some(Reason::BadHost));
        assert_eq!(http11("http://a/", &[("host", "A")]), None);
        assert_eq!(http11("http://u@a/", &[("host", "u@a")]), Some(Reason::BadHost));
        assert_eq!(target("https://a/", Version::HTTP_2, &[("host", "b")]).err(), Some(Reason::BadHost));
        assert_eq!(target("/", Version::HTTP_10, &[]).unwrap().host(), "");
    }

    #[test]
    fn ambiguous_lengths_are_refused() {
        let framing = |headers: &[(&str, &str)]| {
            let headers: Vec<_> = headers.iter().copied().chain([("host", "a")]).collect();
            target("/", Version::HTTP_11, &headers).err()
        };
        for refused in [
            &[("content-length", "1"), ("transfer-encoding", "chunked")][..],
            &[("content-length", "1"), ("content-length", "1")],
            &[("content-length", "1, 1")],
            &[("content-length", "+1")],
            &[("content-length", "")],
            &[("transfer-encoding", "gzip, chunked")],
            &[("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")],
        ] {
            assert_eq!(framing(refused), Some(Reason::BadFraming), "{refused:?}");
        }
        assert_eq!(framing(&[("content-length", "1")]), None);
        assert_eq!(framing(&[("transfer-encoding", "Chunked")]), None);
    }

    #[test]
    fn connect_trace_and_asterisk_are_refused() {
        let trace = Request::builder().method("TRACE").uri("/").header("host", "a").body(()).unwrap();
        assert_eq!(Target::of(&trace.into_parts().0).err(), Some(Reason::BadMethod));
        let connect = Request::builder().method("CONNECT").uri("a:443").header("host", "a:443").body(()).unwrap();
        assert_eq!(Target::of(&connect.into_parts().0).err(), Some(Reason::BadMethod));
        assert_eq!(target("*", Version::HTTP_11, &[("host", "a")]).err(), Some(Reason::BadPath));
    }
}
