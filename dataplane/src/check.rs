//! Checks a request's head beyond its syntax, and finds out what it asks for. What is ambiguous is refused: two readers
//! of one request must not come to two results (RFC 9112, sections 3.2 and 6.3).

use std::borrow::Cow;

use http::header::{CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, Version};

use crate::normalise;
use crate::reason::Reason;

/// What a request asks for: in normal form for matching, and as it was sent for forwarding.
#[derive(Clone, Debug)]
pub struct Target {
    authority: Option<HeaderValue>,
    host: Host,
    raw: PathAndQuery,
    /// Only where it differs from `raw`.
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
        let raw = request.uri.path_and_query().cloned().ok_or(Reason::BadPath)?;
        let path = Some(normalise::path(raw.path())?).filter(|path| path != raw.path()).map(Into::into);
        Ok(Self { authority, host, raw, path })
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
        self.path.as_deref().unwrap_or(self.raw.path())
    }

    /// Whether the path was sent in normal form.
    pub fn is_normal(&self) -> bool {
        self.path.is_none()
    }

    /// Host and port as they were sent.
    pub fn authority(&self) -> Option<&HeaderValue> {
        self.authority.as_ref()
    }

    /// Path and query as they were sent.
    pub fn raw(&self) -> &PathAndQuery {
        &self.raw
    }

    /// What follows the first `matched` bytes of [`Target::path`], which end where an element does: as it was sent, where
    /// the elements before it stand in the raw path one by one, else in normal form and fit to be sent.
    pub fn rest(&self, matched: usize) -> Cow<'_, str> {
        let (prefix, rest) = self.path().split_at_checked(matched).unwrap_or_default();
        if self.is_normal() {
            return Cow::Borrowed(rest);
        }
        let raw = prefix.matches('/').fold(self.raw.path(), |raw, _| {
            let element = raw.trim_start_matches('/');
            element.find('/').and_then(|end| element.get(end..)).unwrap_or_default()
        });
        // Equal rests leave equal prefixes, and a rest that is normalised alone does not climb out of itself.
        let same = if raw.is_empty() { rest.is_empty() } else { normalise::path(raw).is_ok_and(|raw| raw == rest) };
        if same { Cow::Borrowed(raw) } else { Cow::Owned(normalise::escape(rest)) }
    }

    /// The query as it was sent.
    pub fn query(&self) -> Option<&str> {
        self.raw.query()
    }
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
    fn matching_sees_the_normal_form_and_forwarding_the_raw_one() {
        let target = target("/a%20b//c?q=%20", Version::HTTP_11, &[("host", "Shop.Example:80")]).unwrap();
        assert_eq!((target.host(), target.path(), target.query()), ("shop.example", "/a b/c", Some("q=%20")));
        assert_eq!(target.raw(), "/a%20b//c?q=%20");
        assert_eq!(target.authority().unwrap(), "Shop.Example:80");
        assert!(!target.is_normal());
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
            assert_eq!(target.raw(), "/x?q");
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
