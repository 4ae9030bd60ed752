//! Paths, hosts and cookies in the one form in which they are matched. The paths and hosts that are forwarded stay as the
//! client wrote them.

use std::borrow::Cow;
use std::fmt::Write;

use http::header::COOKIE;
use http::{HeaderMap, HeaderValue};

use crate::reason::Reason;

/// Joins the cookies that HTTP/2 allows in several fields into the one field of HTTP/1.1 (RFC 9113, 8.2.3).
pub fn cookies(headers: &mut HeaderMap) {
    let mut fields = headers.get_all(COOKIE).iter();
    let (Some(first), Some(second)) = (fields.next(), fields.next()) else { return };
    let mut joined = [first.as_bytes(), second.as_bytes()].join(&b"; "[..]);
    for field in fields {
        joined.extend_from_slice(b"; ");
        joined.extend_from_slice(field.as_bytes());
    }
    if let Ok(joined) = HeaderValue::from_maybe_shared(bytes::Bytes::from(joined)) {
        headers.insert(COOKIE, joined);
    }
}

/// The path for matching, by nginx's rules: percent-decoded, `.` and `..` resolved, slashes merged.
///
/// Bytes that are not UTF-8 once decoded stay encoded. Borrowed when there is nothing to do.
///
/// # Errors
/// [`Reason::BadPath`] when it does not begin with a slash, holds a broken percent sequence or a NUL, or climbs above
/// the root.
pub fn path(raw: &str) -> Result<Cow<'_, str>, Reason> {
    if !raw.starts_with('/') {
        return Err(Reason::BadPath);
    }
    if is_normal(raw.as_bytes()) {
        return Ok(Cow::Borrowed(raw));
    }
    let decoded = percent_decode(raw)?;
    let mut normal = String::with_capacity(decoded.len());
    let mut segments = decoded.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        match segment {
            "" | "." => {}
            ".." => {
                let parent = normal.rfind('/').ok_or(Reason::BadPath)?;
                normal.truncate(parent);
            }
            name => {
                normal.push('/');
                normal.push_str(name);
                continue;
            }
        }
        if last {
            normal.push('/');
        }
    }
    Ok(Cow::Owned(normal))
}

/// Decodes percent sequences. Bytes that are not UTF-8 once decoded stay encoded.
///
/// # Errors
/// [`Reason::BadPath`] for a broken sequence and for NUL.
pub fn percent_decode(text: &str) -> Result<Cow<'_, str>, Reason> {
    if !text.contains(['%', '\0']) {
        return Ok(Cow::Borrowed(text));
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let byte = match byte {
            b'%' => hex_digit(rest.next())? << 4 | hex_digit(rest.next())?,
            other => other,
        };
        if byte == 0 {
            return Err(Reason::BadPath);
        }
        bytes.push(byte);
    }
    Ok(Cow::Owned(bytes.utf8_chunks().fold(String::with_capacity(bytes.len()), |mut decoded, chunk| {
        decoded.push_str(chunk.valid());
        for byte in chunk.invalid() {
            decoded.push_str(&format!("%{byte:02X}"));
        }
        decoded
    })))
}

/// Percent-encodes what cannot stand in a path (RFC 3986 `pchar` and the slash can).
pub fn escape(path: &str) -> String {
    let mut escaped = String::with_capacity(path.len() + 8);
    for byte in path.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            // Writing to a string does not fail.
            let _ = write!(escaped, "%{byte:02X}");
        }
    }
    escaped
}

/// The host for matching: lower case, without port and trailing dot. Borrowed when there is nothing to do.
///
/// Accepts names of letters, digits, `-` and `_`, IPv4 addresses and IPv6 addresses in brackets, each with an optional port.
///
/// # Errors
/// [`Reason::BadHost`] for anything else.
pub fn host(raw: &str) -> Result<Cow<'_, str>, Reason> {
    let (name, port) = split_port(raw).ok_or(Reason::BadHost)?;
    if !port.is_empty() && port.parse::<u16>().is_err() {
        return Err(Reason::BadHost);
    }
    if name.starts_with('[') {
        let address = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).ok_or(Reason::BadHost)?;
        address.parse::<std::net::Ipv6Addr>().map_err(|_| Reason::BadHost)?;
        return Ok(lower(name));
    }
    let name = name.strip_suffix('.').unwrap_or(name);
    // A dot at the beginning, at the end or after another one is an empty label.
    let mut before = b'.';
    for byte in name.bytes() {
        let valid = byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_') || (byte == b'.' && before != b'.');
        if !valid {
            return Err(Reason::BadHost);
        }
        before = byte;
    }
    if before == b'.' || name.len() > 253 {
        return Err(Reason::BadHost);
    }
    Ok(lower(name))
}

/// The host without its port, and the port (empty when there is none); `None` when brackets do not close.
fn split_port(raw: &str) -> Option<(&str, &str)> {
    if raw.starts_with('[') {
        let (address, rest) = raw.split_at(raw.find(']')? + 1);
        return match rest.strip_prefix(':') {
            Some(port) => Some((address, digits(port)?)),
            None => rest.is_empty().then_some((address, "")),
        };
    }
    match raw.split_once(':') {
        Some((name, port)) => Some((name, digits(port)?)),
        None => Some((raw, "")),
    }
}

/// `parse` would take a sign.
fn digits(port: &str) -> Option<&str> {
    port.bytes().all(|byte| byte.is_ascii_digit()).then_some(port)
}

fn lower(name: &str) -> Cow<'_, str> {
    match name.bytes().any(|byte| byte.is_ascii_uppercase()) {
        true => Cow::Owned(name.to_ascii_lowercase()),
        false => Cow::Borrowed(name),
    }
}

/// Whether a path has no percent sequence, no NUL, no empty segment and no segment that begins with a dot. Segments
/// such as `.git` take the long way; they are rare.
fn is_normal(path: &[u8]) -> bool {
    let mut previous = 0;
    for &byte in path {
        match byte {
            b'%' | 0 => return false,
            b'/' | b'.' if previous == b'/' => return false,
            _ => previous = byte,
        }
    }
    true
}

fn hex_digit(byte: Option<u8>) -> Result<u8, Reason> {
    match byte {
        Some(digit @ b'0'..=b'9') => Ok(digit - b'0'),
        Some(digit @ b'a'..=b'f') => Ok(digit - b'a' + 10),
        Some(digit @ b'A'..=b'F') => Ok(digit - b'A' + 10),
        _ => Err(Reason::BadPath),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn paths_are_normalised_as_nginx_does() {
        for (raw, normal) in [
            ("/", "/"),
            ("/a/b", "/a/b"),
            ("/a/", "/a/"),
            ("//a///b", "/a/b"),
            ("/a//", "/a/"),
            ("/a/./b", "/a/b"),
            ("/a/.", "/a/"),
            ("/a/b/../c", "/a/c"),
            ("/a/..", "/"),
            ("/a/b/%2e%2E/c", "/a/c"),
            ("/a%2Fb", "/a/b"),
            ("/caf%C3%A9", "/café"),
            ("/a%20b", "/a b"),
            ("/a%25b", "/a%b"),
            ("/%ff", "/%FF"),
            ("/.git", "/.git"),
            ("/a/..b/...", "/a/..b/..."),
        ] {
            assert_eq!(path(raw).unwrap(), normal, "{raw}");
        }
    }

    #[test]
    fn impossible_paths_are_refused() {
        for raw in ["", "*", "a", "/..", "/a/../..", "/%2e%2e/", "/%", "/%2", "/%zz", "/%00"] {
            assert_eq!(path(raw), Err(Reason::BadPath), "{raw}");
        }
    }

    #[test]
    fn nothing_is_allocated_for_plain_paths_and_hosts() {
        assert!(matches!(path("/shop/cart.html"), Ok(Cow::Borrowed(_))));
        assert!(matches!(host("shop.example:8080"), Ok(Cow::Borrowed("shop.example"))));
    }

    #[test]
    fn hosts_lose_case_port_and_dot() {
        for (raw, normal) in [
            ("Shop.Example", "shop.example"),
            ("shop.example.:80", "shop.example"),
            ("shop.example:", "shop.example"),
            ("a_b.example", "a_b.example"),
            ("10.0.0.1:80", "10.0.0.1"),
            ("[::1]:80", "[::1]"),
            ("[2001:DB8::1]", "[2001:db8::1]"),
        ] {
            assert_eq!(host(raw).unwrap(), normal, "{raw}");
        }
    }

    #[test]
    fn nonsense_hosts_are_refused() {
        for raw in [
            "", ".", ":80", "a b", "a/b", "a..b", ".a", "a:b", "a:+1", "a:99999", "a:1:2", "[::1", "[x]", "[::1]x",
            "u@a",
        ] {
            assert_eq!(host(raw), Err(Reason::BadHost), "{raw}");
        }
    }

    proptest! {
        #[test]
        fn a_normal_path_has_no_dots_and_no_double_slashes(raw in "/[a./%2eF]{0,12}") {
            if let Ok(normal) = path(&raw) {
                prop_assert!(normal.starts_with('/'));
                prop_assert!(!normal.contains("//"));
                prop_assert!(!normal.split('/').any(|segment| segment == "." || segment == ".."));
                if !raw.contains('%') {
                    prop_assert_eq!(path(&normal), Ok(Cow::Borrowed(&*normal)));
                }
            }
        }
    }
}
