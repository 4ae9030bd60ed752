//! Paths, hosts and cookies in the one form in which they are matched, and paths in the form in which they are forwarded.

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

/// A path in the two forms that a request needs. Both name the same elements, so a backend reads what was matched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NormalPath<'a> {
    /// The normal form, for matching. Bytes that are not UTF-8 once decoded stay encoded.
    pub matched: Cow<'a, str>,
    /// The form that backends get. It begins with one slash and has no dot segments.
    pub forwarded: Cow<'a, str>,
}

/// Brings a path into the forms for matching and forwarding. Both are borrowed when there is nothing to do.
///
/// The normal form is the list of elements between `/`, `\`, `%2f` and `%5c`: percent-decoded, dot segments resolved, then
/// empty elements merged (RFC 3986, 5.2.4, resolves before anything else, as the URL standard does).
///
/// Without dot segments the path is forwarded as it was received, but for `\`, which becomes `/`, and for slashes at its
/// beginning, which become one: `new URL()` and `urlsplit` take what follows two slashes for a host. With dot segments the remaining
/// elements are forwarded, each as it was received.
///
/// # Errors
/// [`Reason::BadPath`] when it does not begin with a slash, holds a broken percent sequence or a control character other than
/// a line feed, climbs above the root, has dot segments beside separators other than `/`, or an element that
/// some readers take for a dot segment with a parameter (`..;a`).
pub fn path(raw: &str) -> Result<NormalPath<'_>, Reason> {
    if !raw.starts_with('/') {
        return Err(Reason::BadPath);
    }
    if is_normal(raw.as_bytes()) {
        return Ok(NormalPath { matched: Cow::Borrowed(raw), forwarded: Cow::Borrowed(raw) });
    }
    let mut elements = Vec::new();
    let (mut has_dots, mut only_slashes) = (false, true);
    let mut rest = raw;
    while !rest.is_empty() {
        let (separator, element, after) = split(rest);
        only_slashes &= separator == "/";
        let kind = Element::of(element)?;
        if kind == Element::Parent {
            elements.pop().ok_or(Reason::BadPath)?;
        }
        if kind == Element::Name {
            elements.push(element);
        } else {
            has_dots = true;
            if after.is_empty() {
                elements.push("");
            }
        }
        rest = after;
    }
    if has_dots && !only_slashes {
        return Err(Reason::BadPath);
    }
    let mut matched = String::with_capacity(raw.len());
    let mut bytes = Vec::new();
    for element in elements.iter().filter(|element| !element.is_empty()) {
        matched.push('/');
        bytes.clear();
        for byte in Decoded(element.bytes()) {
            bytes.push(byte?);
        }
        push_utf8(&bytes, &mut matched);
    }
    if ends_with_slash(&elements) {
        matched.push('/');
    }
    let forwarded = if has_dots { Cow::Owned(joined(&elements)) } else { with_slashes(raw) };
    Ok(NormalPath { matched: Cow::Owned(matched), forwarded })
}

/// The rest of a path behind its first `count` elements that are not empty.
pub fn after_elements(path: &str, count: usize) -> &str {
    let (mut rest, mut left) = (path, count);
    while left > 0 && !rest.is_empty() {
        let (_, element, after) = split(rest);
        left -= usize::from(!element.is_empty());
        rest = after;
    }
    rest
}

/// The path with one slash in place of all separators at its beginning.
pub fn with_one_slash(path: &str) -> Cow<'_, str> {
    if path.starts_with('/') && !path.starts_with("//") {
        return Cow::Borrowed(path);
    }
    let mut rest = path;
    while let Some(length) = separator(rest.as_bytes()) {
        rest = &rest[length..];
    }
    Cow::Owned(format!("/{rest}"))
}

/// The kind of an element of a path.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Element {
    /// Empty or a name.
    Name,
    /// `.`
    Same,
    /// `..`
    Parent,
}

impl Element {
    /// # Errors
    /// [`Reason::BadPath`] as [`path`].
    fn of(raw: &str) -> Result<Self, Reason> {
        let mut first = [0; 3];
        for (index, byte) in Decoded(raw.bytes()).enumerate() {
            let byte = byte?;
            if byte.is_ascii_control() && byte != b'\n' {
                return Err(Reason::BadPath);
            }
            if let Some(slot) = first.get_mut(index) {
                *slot = byte;
            }
        }
        match first {
            [b'.', 0, 0] => Ok(Self::Same),
            [b'.', b'.', 0] => Ok(Self::Parent),
            [b'.', b';', _] | [b'.', b'.', b';'] => Err(Reason::BadPath),
            _ => Ok(Self::Name),
        }
    }
}

/// The length of the separator that a path begins with.
fn separator(path: &[u8]) -> Option<usize> {
    match path {
        [b'/' | b'\\', ..] => Some(1),
        [b'%', b'2', b'f' | b'F', ..] | [b'%', b'5', b'c' | b'C', ..] => Some(3),
        _ => None,
    }
}

/// The separator that a path begins with, the element behind it, and the rest.
fn split(path: &str) -> (&str, &str, &str) {
    let (before, path) = path.split_at(separator(path.as_bytes()).unwrap_or(0));
    let bytes = path.as_bytes();
    let end = (0..bytes.len()).find(|&at| separator(&bytes[at..]).is_some()).unwrap_or(bytes.len());
    let (element, after) = path.split_at(end);
    (before, element, after)
}

/// The path of these elements, without the empty ones but for the last.
fn joined(elements: &[&str]) -> String {
    let mut path = String::new();
    for element in elements.iter().filter(|element| !element.is_empty()) {
        path.push('/');
        path.push_str(element);
    }
    if ends_with_slash(elements) {
        path.push('/');
    }
    path
}

fn ends_with_slash(elements: &[&str]) -> bool {
    elements.last().is_none_or(|element| element.is_empty())
}

/// The path with `/` for `\`, and with one slash at its beginning.
fn with_slashes(path: &str) -> Cow<'_, str> {
    let slashed = if path.contains('\\') { Cow::Owned(path.replace('\\', "/")) } else { Cow::Borrowed(path) };
    if slashed.starts_with("//") { Cow::Owned(format!("/{}", slashed.trim_start_matches('/'))) } else { slashed }
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
    for byte in Decoded(text.bytes()) {
        bytes.push(byte.ok().filter(|byte| *byte != 0).ok_or(Reason::BadPath)?);
    }
    let mut decoded = String::with_capacity(bytes.len());
    push_utf8(&bytes, &mut decoded);
    Ok(Cow::Owned(decoded))
}

/// The bytes of a text with its percent sequences decoded; an error for a broken one.
struct Decoded<'a>(std::str::Bytes<'a>);

impl Iterator for Decoded<'_> {
    type Item = Result<u8, Reason>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.0.next()? {
            b'%' => Some(hex_digit(self.0.next()).and_then(|high| Ok(high << 4 | hex_digit(self.0.next())?))),
            other => Some(Ok(other)),
        }
    }
}

/// Appends bytes, those that are not UTF-8 percent-encoded.
fn push_utf8(bytes: &[u8], text: &mut String) {
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        for byte in chunk.invalid() {
            // Writing to a string does not fail.
            let _ = write!(text, "%{byte:02X}");
        }
    }
}

/// The host for matching: [`snapshot::normal_host`].
///
/// # Errors
/// [`Reason::BadHost`] for what is no host.
pub fn host(raw: &str) -> Result<Cow<'_, str>, Reason> {
    snapshot::normal_host(raw).ok_or(Reason::BadHost)
}

/// Whether a path has no percent sequence, no backslash, no control character, no empty segment and no segment that begins with a
/// dot. Segments such as `.git` take the long way; they are rare.
fn is_normal(path: &[u8]) -> bool {
    let mut previous = 0;
    for &byte in path {
        match byte {
            b'%' | b'\\' | 0..0x20 | 0x7f => return false,
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

    fn forms(raw: &str) -> (String, String) {
        let normal = path(raw).unwrap();
        (normal.matched.into_owned(), normal.forwarded.into_owned())
    }

    #[test]
    fn a_path_without_dot_segments_is_forwarded_as_received() {
        for (raw, matched, forwarded) in [
            ("/", "/", "/"),
            ("/a/b", "/a/b", "/a/b"),
            ("/a/", "/a/", "/a/"),
            ("/a//b", "/a/b", "/a//b"),
            ("/a//", "/a/", "/a//"),
            ("/a%2Fb", "/a/b", "/a%2Fb"),
            ("/a%5cb", "/a/b", "/a%5cb"),
            ("/a%2f%2Fb%5C", "/a/b/", "/a%2f%2Fb%5C"),
            ("/a\\b\\", "/a/b/", "/a/b/"),
            ("/caf%C3%A9", "/café", "/caf%C3%A9"),
            ("/a%20b", "/a b", "/a%20b"),
            ("/a%25b", "/a%b", "/a%25b"),
            ("/a%252e%252e/b", "/a%2e%2e/b", "/a%252e%252e/b"),
            ("/%ff", "/%FF", "/%ff"),
            ("/%0A", "/\n", "/%0A"),
            ("/.git", "/.git", "/.git"),
            ("/a/..b/...", "/a/..b/...", "/a/..b/..."),
            ("/a;b/c", "/a;b/c", "/a;b/c"),
            ("//a///b", "/a/b", "/a///b"),
            ("//", "/", "/"),
            ("/\\\\a", "/a", "/a"),
        ] {
            assert_eq!(forms(raw), (matched.into(), forwarded.into()), "{raw}");
        }
    }

    #[test]
    fn a_path_with_dot_segments_is_forwarded_without_them() {
        for (raw, matched, forwarded) in [
            ("/a/./b", "/a/b", "/a/b"),
            ("/a/.", "/a/", "/a/"),
            ("/a/b/../c", "/a/c", "/a/c"),
            ("/a/..", "/", "/"),
            ("/a/b/%2e%2E/c", "/a/c", "/a/c"),
            ("/a/.%2e/b", "/b", "/b"),
            ("/admin//../users", "/admin/users", "/admin/users"),
            ("/a//b/./c//", "/a/b/c/", "/a/b/c/"),
            ("//..", "/", "/"),
            ("/x/../%41%ff%3b%25", "/A%FF;%", "/%41%ff%3b%25"),
        ] {
            assert_eq!(forms(raw), (matched.into(), forwarded.into()), "{raw}");
        }
    }

    #[test]
    fn paths_that_two_readers_read_in_two_ways_are_refused() {
        for raw in [
            "/x/a%2fb/../../admin/users",
            "/x\\..\\admin/users",
            "/x%2f../admin",
            "/x/..%5cadmin",
            "/a%5c./b",
            "/a/..;/b",
            "/a/..;x=1",
            "/a/.;/b",
            "/a/%2e%2e%3b/b",
            "/a\\.",
        ] {
            assert_eq!(path(raw), Err(Reason::BadPath), "{raw}");
        }
    }

    #[test]
    fn impossible_paths_are_refused() {
        let refused =
            ["", "*", "a", "?x", "/..", "/a/../..", "/%2e%2e/", "/%", "/%2", "/%zz", "/%zz/..", "/%00", "/%0d", "/%7F"];
        for raw in refused {
            assert_eq!(path(raw), Err(Reason::BadPath), "{raw}");
        }
    }

    #[test]
    fn nothing_is_allocated_for_plain_paths() {
        let plain = path("/shop/cart.html").unwrap();
        assert!(matches!(plain, NormalPath { matched: Cow::Borrowed(_), forwarded: Cow::Borrowed(_) }));
    }

    #[test]
    fn the_rest_of_a_path_follows_its_elements() {
        for (path, count, rest) in [
            ("/a/b/c", 0, "/a/b/c"),
            ("/a/b/c", 2, "/c"),
            ("/a//b//c", 2, "//c"),
            ("/a%2fb%5Cc", 1, "%2fb%5Cc"),
            ("/a/", 1, "/"),
            ("/a", 1, ""),
            ("/a", 2, ""),
        ] {
            assert_eq!(after_elements(path, count), rest, "{path} {count}");
        }
    }

    proptest! {
        #[test]
        fn both_forms_name_the_same_elements(raw in "/([a.;/\\\\]|%2[eEfF5]|%5[cC]|%[fc][f3]|%0[aA]){0,12}") {
            let Ok(normal) = path(&raw) else { return Ok(()) };
            prop_assert!(normal.matched.starts_with('/') && normal.forwarded.starts_with('/'));
            prop_assert!(!normal.matched.contains("//") && !normal.matched.contains('\\'));
            prop_assert!(!normal.matched.split('/').any(|segment| segment == "." || segment == ".."));
            prop_assert!(!normal.forwarded.starts_with("//") && !normal.forwarded.contains('\\'));
            // What was forwarded is matched, and forwarded, in the same way by another instance behind this one.
            let again = path(&normal.forwarded).unwrap();
            prop_assert_eq!(&again.matched, &normal.matched);
            prop_assert_eq!(&again.forwarded, &normal.forwarded);
        }
    }
}
