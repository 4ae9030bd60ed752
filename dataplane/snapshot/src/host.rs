//! What counts as a host, on both sides of the contract: what the controller lets through the data plane takes.

use std::borrow::Cow;

/// A host in the form in which hosts are compared: lower case, without port and trailing dot. Borrowed when there is nothing to
/// do, `None` when it is none.
///
/// Names of letters, digits, `-` and `_`, IPv4 addresses and IPv6 addresses in brackets count, each with an optional port.
pub fn normal_host(raw: &str) -> Option<Cow<'_, str>> {
    let (name, port) = split_port(raw)?;
    if !port.is_empty() && port.parse::<u16>().is_err() {
        return None;
    }
    if name.starts_with('[') {
        let address = name.strip_prefix('[').and_then(|name| name.strip_suffix(']'))?;
        return address.parse::<std::net::Ipv6Addr>().ok().map(|_| lower(name));
    }
    let name = name.strip_suffix('.').unwrap_or(name);
    // A dot at the beginning, at the end or after another one is an empty label.
    let mut before = b'.';
    for byte in name.bytes() {
        let valid = byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_') || (byte == b'.' && before != b'.');
        if !valid {
            return None;
        }
        before = byte;
    }
    (before != b'.' && name.len() <= 253).then(|| lower(name))
}

/// [`normal_host`] of a host that stands alone, where a port has a place of its own: `None` when it brings one.
pub fn normal_host_without_port(raw: &str) -> Option<Cow<'_, str>> {
    let (name, _) = split_port(raw)?;
    normal_host(raw).filter(|_| name == raw)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_allocated_for_plain_hosts() {
        assert!(matches!(normal_host("shop.example:8080"), Some(Cow::Borrowed("shop.example"))));
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
            assert_eq!(normal_host(raw).unwrap(), normal, "{raw}");
        }
    }

    #[test]
    fn nonsense_is_no_host() {
        let too_long = format!("{}.example", "a".repeat(250));
        for raw in [
            "", ".", ":80", "a b", "a/b", "a..b", ".a", "a..", "a:b", "a:+1", "a:99999", "a:1:2", "[::1", "[x]",
            "[::1]x", "u@a", "*.a", &too_long,
        ] {
            assert_eq!(normal_host(raw), None, "{raw}");
            assert_eq!(normal_host_without_port(raw), None, "{raw}");
        }
    }

    #[test]
    fn a_port_is_told_apart_where_it_has_no_place() {
        for raw in ["a:80", "a:", "10.0.0.1:80", "[::1]:80", "[::1]:"] {
            assert!(normal_host(raw).is_some(), "{raw}");
            assert_eq!(normal_host_without_port(raw), None, "{raw}");
        }
        for (raw, normal) in [("Shop.Example.", "shop.example"), ("[::1]", "[::1]"), ("10.0.0.1", "10.0.0.1")] {
            assert_eq!(normal_host_without_port(raw).unwrap(), normal, "{raw}");
        }
    }
}
