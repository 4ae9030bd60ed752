//! Who the client is and what it asked for, as the backend is told: `X-Forwarded-*`, `X-Real-IP`, `X-Request-ID`.
//! `Forwarded` (RFC 7239), which says the same, is never written; it passes from those who are believed.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use bytes::Bytes;
use http::header::{Entry, FORWARDED};
use http::{HeaderMap, HeaderName, HeaderValue};
use ipnet::IpNet;
use snapshot::Scheme;

use crate::limit::Key;
use crate::underscores;
use crate::{normalise, random};

/// `X-Forwarded-For`.
pub const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// `X-Request-ID`.
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");

/// The longest `X-Request-ID` that is believed.
const MAX_REQUEST_ID: usize = 128;
/// How many addresses of `X-Forwarded-For` are looked at, from the right.
const MAX_HOPS: usize = 32;
/// Stands for a client whose address a trusted proxy does not tell. It is on no list of internal networks, and all such clients
/// are limited together.
const UNKNOWN: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

/// A connection's peer, with the header values that all of its requests share. Made once per connection.
#[derive(Clone, Debug)]
pub struct Origin {
    peer: IpAddr,
    scheme: Scheme,
    port: u16,
    peer_key: Key,
    peer_value: HeaderValue,
    port_value: HeaderValue,
}

/// Where a request comes from, after believing those who are to be believed.
#[derive(Clone, Debug)]
pub struct Forwarded {
    /// The client's address.
    pub client: IpAddr,
    /// What limits count the client by.
    pub client_key: Key,
    /// The scheme that the client used.
    pub scheme: Scheme,
    /// The port that the client used.
    pub port: u16,
    /// The host, normalised, that a trusted proxy says the client asked for.
    pub believed_host: Option<String>,
    /// The scheme as it is passed on; what a trusted proxy says stays as it is.
    pub proto: HeaderValue,
    /// `X-Forwarded-For` as it came; known once [`Forwarded::write`] has replaced it.
    pub original_for: Option<HeaderValue>,
    /// `X-Forwarded-Host` as it came; known once [`Forwarded::write`] has replaced it.
    pub original_host: Option<HeaderValue>,
    /// Whether the peer is believed.
    trusted: bool,
    chain: HeaderValue,
    client_value: HeaderValue,
    /// The host as it is passed on in `X-Forwarded-Host`.
    pub host_value: Option<HeaderValue>,
    port_value: HeaderValue,
}

impl Origin {
    /// A connection from `peer`, accepted on `port`.
    pub fn new(peer: IpAddr, scheme: Scheme, port: u16) -> Self {
        let peer = peer.to_canonical();
        let (peer_key, peer_value) = (Key::of_address(peer), address_value(peer));
        Self { peer, scheme, port, peer_key, peer_value, port_value: HeaderValue::from(port) }
    }

    /// The address at the other end of the connection.
    pub fn peer(&self) -> IpAddr {
        self.peer
    }

    /// What the listener speaks.
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// The listener's port.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl Forwarded {
    /// Reads a request's headers. Only a peer within `trusted` is believed what they say about the client.
    pub fn of(origin: &Origin, headers: &HeaderMap, authority: Option<&HeaderValue>, trusted: &[IpNet]) -> Self {
        let direct = Self {
            client: origin.peer,
            client_key: origin.peer_key,
            scheme: origin.scheme,
            port: origin.port,
            believed_host: None,
            proto: scheme_value(origin.scheme),
            original_for: None,
            original_host: None,
            trusted: contains(trusted, origin.peer),
            chain: origin.peer_value.clone(),
            client_value: origin.peer_value.clone(),
            host_value: authority.cloned(),
            port_value: origin.port_value.clone(),
        };
        match direct.trusted {
            true => direct.believing(headers, trusted),
            false => direct,
        }
    }

    /// Replaces the headers of a request by what is known.
    pub fn write(&mut self, headers: &mut HeaderMap) {
        self.original_for = headers.insert(X_FORWARDED_FOR, self.chain.clone());
        headers.insert(X_REAL_IP, self.client_value.clone());
        headers.insert(X_FORWARDED_PROTO, self.proto.clone());
        headers.insert(X_FORWARDED_PORT, self.port_value.clone());
        self.original_host = match &self.host_value {
            Some(host) => headers.insert(X_FORWARDED_HOST, host.clone()),
            None => headers.remove(X_FORWARDED_HOST),
        };
        if !self.trusted {
            headers.remove(FORWARDED);
        }
        underscores::remove(headers, is_ours);
    }

    fn believing(mut self, headers: &HeaderMap, trusted: &[IpNet]) -> Self {
        let lines = || headers.get_all(X_FORWARDED_FOR).iter().map(HeaderValue::as_bytes);
        if let Some(client) = client_of(lines(), trusted) {
            self.client = client;
            self.client_key = Key::of_address(self.client);
            self.client_value = address_value(self.client);
            self.chain = chain(lines(), &self.chain);
        }
        if let Some(proto) = headers.get(X_FORWARDED_PROTO) {
            self.proto = proto.clone();
            let first = proto.as_bytes().split(|&byte| byte == b',').next().unwrap_or_default().trim_ascii();
            self.scheme = if first.eq_ignore_ascii_case(b"https") { Scheme::Https } else { Scheme::Http };
        }
        let port = headers.get(X_FORWARDED_PORT).and_then(|value| value.to_str().ok()?.parse().ok());
        let well_known = match self.scheme {
            Scheme::Https => 443,
            Scheme::Http => 80,
        };
        if port.is_some() || headers.contains_key(X_FORWARDED_PROTO) {
            self.port = port.unwrap_or(well_known);
            self.port_value = HeaderValue::from(self.port);
        }
        let first = headers.get(X_FORWARDED_HOST).and_then(|value| value.to_str().ok()?.split(',').next());
        if let Some(host) = first.map(str::trim)
            && let Ok(normal) = normalise::host(host)
        {
            self.host_value = HeaderValue::from_str(host).ok();
            self.believed_host = Some(normal.into_owned());
        }
        self
    }
}

/// Keeps a request's identifier when it is sane (visible ASCII, at most 128 bytes, given once), replaces it otherwise,
/// and returns it.
pub fn request_id(headers: &mut HeaderMap) -> HeaderValue {
    let new = || HeaderValue::from_bytes(&random::hex()).unwrap_or(HeaderValue::from_static("0"));
    match headers.entry(X_REQUEST_ID) {
        Entry::Occupied(mut given) => {
            if given.iter().count() > 1 || !is_sane(given.get()) {
                given.insert_mult(new());
            }
            given.get().clone()
        }
        Entry::Vacant(none) => none.insert(new()).clone(),
    }
}

fn is_sane(id: &HeaderValue) -> bool {
    !id.is_empty() && id.len() <= MAX_REQUEST_ID && id.as_bytes().iter().all(u8::is_ascii_graphic)
}

/// Whether a header of this name says where a request comes from: only we and trusted proxies do.
fn is_ours(name: &str) -> bool {
    name.starts_with("x-forwarded-") || ["x-real-ip", "x-request-id", "forwarded"].contains(&name)
}

/// The client's address by the lines of `X-Forwarded-For` that a trusted proxy sent; `None` when they have no entry.
///
/// That is the rightmost address that is not a trusted proxy's, else the leftmost one. An entry that is no address was written by a
/// trusted proxy in place of the client's: what is left of it is anybody's claim, and what is right of it is not the client, so that the
/// address is unspecified then (`0.0.0.0`).
pub fn client_of<'a>(lines: impl DoubleEndedIterator<Item = &'a [u8]>, trusted: &[IpNet]) -> Option<IpAddr> {
    let entries = lines.rev().flat_map(|line| line.rsplit(|&byte| byte == b',')).map(<[u8]>::trim_ascii);
    let mut client = None;
    for entry in entries.filter(|entry| !entry.is_empty()).take(MAX_HOPS) {
        let address = address(entry).unwrap_or(UNKNOWN);
        client = Some(address);
        if address == UNKNOWN || !contains(trusted, address) {
            break;
        }
    }
    client
}

/// An address, in brackets or not, with a port or without.
fn address(entry: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(entry).ok()?;
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let address = bare.parse().or_else(|_| text.parse().map(|address: SocketAddr| address.ip()));
    address.ok().map(|address: IpAddr| address.to_canonical())
}

/// `X-Forwarded-For` as it is passed on: all lines as they came, in one, and the peer behind them.
fn chain<'a>(lines: impl Iterator<Item = &'a [u8]>, peer: &HeaderValue) -> HeaderValue {
    let mut chain = Vec::new();
    for line in lines.filter(|line| !line.is_empty()) {
        chain.extend_from_slice(line);
        chain.extend_from_slice(b", ");
    }
    chain.extend_from_slice(peer.as_bytes());
    // Values of headers, joined, are one.
    HeaderValue::from_maybe_shared(Bytes::from(chain)).unwrap_or_else(|_| peer.clone())
}

/// Whether one of the networks holds this address.
pub(crate) fn contains(networks: &[IpNet], address: IpAddr) -> bool {
    networks.iter().any(|network| network.contains(&address))
}

fn address_value(address: IpAddr) -> HeaderValue {
    HeaderValue::from_str(&address.to_string()).unwrap_or(HeaderValue::from_static("unknown"))
}

fn scheme_value(scheme: Scheme) -> HeaderValue {
    HeaderValue::from_static(match scheme {
        Scheme::Http => "http",
        Scheme::Https => "https",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|&(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
    }

    fn origin() -> Origin {
        Origin::new("10.0.0.9".parse().unwrap(), Scheme::Http, 8080)
    }

    const CLAIMS: &[(&str, &str)] = &[
        ("x-forwarded-for", "1.1.1.1, 2.2.2.2, 10.0.0.8"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "Shop.Example, inner"),
        ("x-real-ip", "3.3.3.3"),
        ("forwarded", "for=1.1.1.1;proto=https"),
    ];

    #[test]
    fn a_stranger_is_not_believed() {
        let mut headers = headers(CLAIMS);
        let host = HeaderValue::from_static("a.example:8080");
        let mut forwarded = Forwarded::of(&origin(), &headers, Some(&host), &["192.168.0.0/16".parse().unwrap()]);
        assert_eq!(
            (forwarded.client.to_string().as_str(), forwarded.scheme, forwarded.port),
            ("10.0.0.9", Scheme::Http, 8080)
        );
        forwarded.write(&mut headers);
        assert_eq!(headers["x-forwarded-for"], "10.0.0.9");
        assert_eq!(headers["x-real-ip"], "10.0.0.9");
        assert_eq!(headers["x-forwarded-proto"], "http");
        assert_eq!(headers["x-forwarded-host"], "a.example:8080");
        assert_eq!(headers["x-forwarded-port"], "8080");
        assert_eq!(headers.get("forwarded"), None);
        assert_eq!(forwarded.original_for.unwrap(), "1.1.1.1, 2.2.2.2, 10.0.0.8");
    }

    #[test]
    fn a_trusted_proxy_is_believed_up_to_the_first_stranger() {
        let mut headers = headers(CLAIMS);
        let mut forwarded = Forwarded::of(&origin(), &headers, None, &["10.0.0.0/8".parse().unwrap()]);
        assert_eq!(
            (forwarded.client.to_string().as_str(), forwarded.scheme, forwarded.port),
            ("2.2.2.2", Scheme::Https, 443)
        );
        assert_eq!(forwarded.believed_host.as_deref(), Some("shop.example"));
        forwarded.write(&mut headers);
        assert_eq!(headers["x-forwarded-for"], "1.1.1.1, 2.2.2.2, 10.0.0.8, 10.0.0.9");
        assert_eq!(headers["x-real-ip"], "2.2.2.2");
        assert_eq!(headers["x-forwarded-proto"], "https");
        assert_eq!(headers["x-forwarded-host"], "Shop.Example");
        assert_eq!(headers["x-forwarded-port"], "443");
        assert_eq!(headers["forwarded"], "for=1.1.1.1;proto=https");
    }

    #[test]
    fn the_client_is_the_rightmost_stranger_in_whatever_bytes() {
        let trusted = ["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()];
        let client = |lines: &[&[u8]]| client_of(lines.iter().copied(), &trusted).map(|client| client.to_string());
        for (lines, expected) in [
            (&[&b"1.1.1.1, 203.0.113.7"[..]][..], Some("203.0.113.7")),
            (&[b"\xff, 203.0.113.7"], Some("203.0.113.7")),
            (&[b"\xff", b"203.0.113.7, 10.0.0.7"], Some("203.0.113.7")),
            (&[b"203.0.113.7", b"10.0.0.7\t,\t10.0.0.8"], Some("203.0.113.7")),
            (&[b"10.0.0.1, 10.0.0.2"], Some("10.0.0.1")),
            (&[b"203.0.113.10:50123, 10.0.0.7:1"], Some("203.0.113.10")),
            (&[b"x, [2001:db8::7]:443,[fd00::1]"], Some("2001:db8::7")),
            (&[b"2001:db8::7, ::ffff:10.0.0.7"], Some("2001:db8::7")),
            (&[b"203.0.113.7,, ,", b""], Some("203.0.113.7")),
            (&[b"", b" , "], None),
            (&[], None),
        ] {
            assert_eq!(client(lines).as_deref(), expected, "{lines:?}");
        }
    }

    #[test]
    fn a_client_that_a_proxy_hides_is_no_proxy() {
        let trusted = ["10.0.0.0/8".parse().unwrap()];
        for line in [
            "unknown",
            "1.1.1.1, _hidden, 10.0.0.7",
            "1.1.1.1, 10.0.0.7:x",
            "1.1.1.1:99999",
            "0.0.0.0",
            "1.1.1.1, \u{e9}",
        ] {
            assert_eq!(client_of([line.as_bytes()].into_iter(), &trusted), Some(UNKNOWN), "{line}");
        }
        let mut headers = HeaderMap::new();
        headers.append(X_FORWARDED_FOR, HeaderValue::from_bytes(b"1.1.1.1, \xff").unwrap());
        headers.append(X_FORWARDED_FOR, HeaderValue::from_static("10.0.0.8"));
        let mut forwarded = Forwarded::of(&origin(), &headers, None, &trusted);
        forwarded.write(&mut headers);
        assert_eq!(headers["x-real-ip"], "0.0.0.0");
        assert_eq!(headers["x-forwarded-for"].as_bytes(), b"1.1.1.1, \xff, 10.0.0.8, 10.0.0.9");
    }

    #[test]
    fn the_scheme_is_that_of_the_first_proxy() {
        let trusted = ["10.0.0.0/8".parse().unwrap()];
        for (proto, scheme) in
            [("https", Scheme::Https), ("HTTPS , http", Scheme::Https), ("http, https", Scheme::Http)]
        {
            let headers = headers(&[("x-forwarded-proto", proto)]);
            assert_eq!(Forwarded::of(&origin(), &headers, None, &trusted).scheme, scheme, "{proto}");
        }
    }

    #[test]
    fn sane_identifiers_stay_and_others_are_replaced() {
        let mut sane = headers(&[("x-request-id", "abc-123")]);
        assert_eq!(request_id(&mut sane), "abc-123");
        for nonsense in ["", "a b", &"x".repeat(129)] {
            let mut headers = HeaderMap::new();
            headers.insert(X_REQUEST_ID, nonsense.parse().unwrap());
            let id = request_id(&mut headers);
            assert_eq!(id.len(), 32);
            assert_eq!(headers[X_REQUEST_ID], id);
        }
        assert_ne!(request_id(&mut HeaderMap::new()), request_id(&mut HeaderMap::new()));
    }
}
