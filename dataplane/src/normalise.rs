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

/// The host for matching: [`snapshot::normal_host`].
///
/// # Errors
/// [`Reason::BadHost`] for what is no host.
pub fn host(raw: &str) -> Result<Cow<'_, str>, Reason> {
    snapshot::normal_host(raw).ok_or(Reason::BadHost)
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
    fn nothing_is_allocated_for_plain_paths() {
        assert!(matches!(path("/shop/cart.html"), Ok(Cow::Borrowed(_))));
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
