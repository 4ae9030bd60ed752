//! The values of annotations. An error says what was expected, to follow "is not".

use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use snapshot::{AffinityMode, Balancer, SameSite};

use super::{Affinity, Protocol};

/// As Go's `strconv.ParseBool`.
pub(super) fn boolean(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok(false),
        _ => Err("true or false".into()),
    }
}

/// A whole number.
pub(super) fn integer(text: &str) -> Result<i64, String> {
    text.parse().map_err(|_| "a whole number".into())
}

/// A limit; 0 is none. ingress-nginx takes what is negative as none, too: its template asks for limits above 0.
pub(super) fn limit(text: &str) -> Result<u32, String> {
    let number = integer(text)?.max(0);
    u32::try_from(number).map_err(|_| format!("a whole number of at most {}", u32::MAX))
}

/// A time in seconds.
pub(super) fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse::<u32>() {
        Ok(seconds) if seconds > 0 => Ok(Duration::from_secs(seconds.into())),
        _ => Err("a number of seconds, at least 1 and without a unit".into()),
    }
}

/// A size in bytes, as nginx writes it: `8m`, `512k`, `0`.
pub(super) fn size(text: &str) -> Result<u64, String> {
    let expected = || "a size such as 512k, 8m or 1g".to_owned();
    let lower = text.to_ascii_lowercase();
    let (digits, unit) = match lower.char_indices().last() {
        Some((at, 'b')) => (&lower[..at], 1),
        Some((at, 'k')) => (&lower[..at], 1 << 10),
        Some((at, 'm')) => (&lower[..at], 1 << 20),
        Some((at, 'g')) => (&lower[..at], 1 << 30),
        _ => (lower.as_str(), 1),
    };
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(expected());
    }
    digits.parse::<u64>().ok().and_then(|number| number.checked_mul(unit)).ok_or_else(expected)
}

/// Networks or addresses, separated by commas.
pub(super) fn networks(text: &str) -> Result<Vec<IpNet>, String> {
    let network = |part: &str| {
        let part = part.trim();
        part.parse::<IpNet>().or_else(|_| part.parse::<IpAddr>().map(IpNet::from)).ok()
    };
    let networks: Option<Vec<_>> = text.split(',').map(network).collect();
    let mut networks = networks.ok_or("a list of networks such as 10.0.0.0/8,192.0.2.1")?;
    networks.sort();
    networks.dedup();
    Ok(networks)
}

pub(super) fn affinity(text: &str) -> Result<Affinity, String> {
    match text {
        "cookie" => Ok(Affinity::Cookie),
        _ => Err("cookie, the only kind of affinity".into()),
    }
}

pub(super) fn affinity_mode(text: &str) -> Result<AffinityMode, String> {
    match text {
        "balanced" => Ok(AffinityMode::Balanced),
        "persistent" => Ok(AffinityMode::Persistent),
        _ => Err("balanced or persistent".into()),
    }
}

pub(super) fn same_site(text: &str) -> Result<SameSite, String> {
    match text.to_ascii_lowercase().as_str() {
        "none" => Ok(SameSite::None),
        "lax" => Ok(SameSite::Lax),
        "strict" => Ok(SameSite::Strict),
        _ => Err("None, Lax or Strict".into()),
    }
}

pub(super) fn protocol(text: &str) -> Result<Protocol, String> {
    match text.to_ascii_uppercase().as_str() {
        "HTTP" => Ok(Protocol::Http),
        "HTTPS" => Ok(Protocol::Https),
        "GRPC" => Ok(Protocol::Grpc),
        "GRPCS" => Ok(Protocol::Grpcs),
        _ => Err("HTTP, HTTPS, GRPC or GRPCS; others are not supported".into()),
    }
}

pub(super) fn balancer(text: &str) -> Result<Balancer, String> {
    match text {
        "round_robin" => Ok(Balancer::RoundRobin),
        "ewma" => Ok(Balancer::PeakEwma),
        _ => Err("round_robin or ewma; others are not supported".into()),
    }
}

/// A text of the characters that ingress-nginx allows in names of cookies and domains.
pub(super) fn basic(text: &str) -> Result<String, String> {
    match text.chars().all(is_basic) {
        true => Ok(text.to_owned()),
        false => Err("made of letters, digits and -._~/: only".into()),
    }
}

/// The path of a cookie.
pub(super) fn path(text: &str) -> Result<String, String> {
    match text.chars().all(|character| is_basic(character) || ",?&=".contains(character)) {
        true => Ok(text.to_owned()),
        false => Err("made of letters, digits and -._~/:,?&= only".into()),
    }
}

fn is_basic(character: char) -> bool {
    character.is_ascii_alphanumeric() || "-._~/:".contains(character)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, bytes) in [("0", 0), ("10", 10), ("10B", 10), ("8k", 8192), ("1M", 1 << 20), ("2g", 2 << 30)] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for text in ["", "m", "1t", "-1", "1.5m", "1 m", "99999999999999999999", "99999999999999g", "µ"] {
            assert!(size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn booleans_are_those_of_go() {
        assert_eq!(["1", "t", "TRUE", "0", "f", "False"].map(boolean), [true, true, true, false, false, false].map(Ok));
        assert!(["yes", "on", "tRUE", ""].into_iter().all(|text| boolean(text).is_err()));
    }

    #[test]
    fn numbers() {
        assert_eq!(["10", "0", "-1"].map(limit), [Ok(10), Ok(0), Ok(0)]);
        assert!(["4294967296", "1e3", "10r/s"].into_iter().all(|text| limit(text).is_err()));
        assert_eq!(seconds("60"), Ok(Duration::from_secs(60)));
        assert!(["0", "-1", "60s", ""].into_iter().all(|text| seconds(text).is_err()));
    }

    #[test]
    fn what_could_end_a_header_is_refused() {
        for text in ["a b", "a;Path=/", "a\r\nb", "a,b", "ü"] {
            assert!(basic(text).is_err(), "{text}");
        }
        assert!(path("/;Secure").is_err());
    }
}
