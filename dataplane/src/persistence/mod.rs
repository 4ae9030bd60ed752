//! What keeps a client on its endpoint.

mod affinity;
mod session;

use std::fmt;

use http::header::COOKIE;
use http::{HeaderMap, HeaderValue};
use snapshot::SameSite;

use crate::balance::Endpoint;

pub(crate) use affinity::{Cookies, set_cookie};
pub(crate) use session::{Names, Session, Sessions};

/// The key of the hashes in cookies and tokens, the same on every replica.
#[derive(PartialEq, Eq)]
pub(crate) struct Key([u8; 32]);

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

impl Default for Key {
    fn default() -> Self {
        Self::new(&[])
    }
}

impl Key {
    /// A key from [`snapshot::Settings::cookie_key`].
    pub(crate) fn new(secret: &[u8]) -> Self {
        Self(blake3::derive_key("sluice 2026 persistence cookie", secret))
    }

    fn endpoint(&self, endpoint: &Endpoint) -> [u8; 16] {
        self.hash([endpoint.address().to_string().as_bytes()])
    }

    /// Of all parts, one after the other.
    fn hash<'a, const LENGTH: usize>(&self, parts: impl IntoIterator<Item = &'a [u8]>) -> [u8; LENGTH] {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        for part in parts {
            hasher.update(part);
        }
        let mut hash = [0; LENGTH];
        hasher.finalize_xof().fill(&mut hash);
        hash
    }
}

/// The values of all cookies of this name.
fn cookies<'a>(headers: &'a HeaderMap, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
    let cookies = headers.get_all(COOKIE).into_iter().flat_map(|header| header.as_bytes().split(|&byte| byte == b';'));
    cookies.filter_map(move |cookie| cookie.trim_ascii().strip_prefix(name.as_bytes())?.strip_prefix(b"="))
}

/// The attributes of a cookie, besides `HttpOnly`.
struct Attributes<'a> {
    /// `/` takes its place where it could end the attribute, or no header can hold it.
    path: &'a str,
    domain: Option<&'a str>,
    /// In seconds since 1970.
    expires: Option<i64>,
    /// In seconds.
    max_age: Option<i64>,
    secure: bool,
    same_site: Option<SameSite>,
}

impl Attributes<'_> {
    /// The `Set-Cookie` header; `None` where an attribute cannot stand in one.
    fn set_cookie(&self, name: &str, value: &str) -> Option<HeaderValue> {
        let path = self.path;
        let fits = path.starts_with('/') && path.bytes().all(|byte| matches!(byte, b' '..=b'~') && byte != b';');
        let mut cookie = format!("{name}={value}; Path={}", if fits { path } else { "/" });
        if let Some(domain) = self.domain {
            cookie.push_str(&format!("; Domain={domain}"));
        }
        if let Some(date) = self.expires.and_then(http_date) {
            cookie.push_str(&format!("; Expires={date}"));
        }
        if let Some(seconds) = self.max_age {
            cookie.push_str(&format!("; Max-Age={seconds}"));
        }
        if self.secure {
            cookie.push_str("; Secure");
        }
        cookie.push_str("; HttpOnly");
        cookie.push_str(match self.same_site {
            Some(SameSite::None) => "; SameSite=None",
            Some(SameSite::Lax) => "; SameSite=Lax",
            Some(SameSite::Strict) => "; SameSite=Strict",
            None => "",
        });
        HeaderValue::from_maybe_shared(bytes::Bytes::from(cookie)).ok()
    }
}

/// A date as RFC 9110 writes it; `None` beyond the years it can write.
fn http_date(unix: i64) -> Option<String> {
    let date = jiff::Timestamp::from_second(unix).ok()?;
    Some(date.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_shows_in_nothing() {
        assert_eq!(format!("{:?}", Key::new(b"x")), "(secret)");
    }
}
