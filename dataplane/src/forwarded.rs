//! Who the client is and what it asked for, as the backend is told: `X-Forwarded-*`, `X-Real-IP`, `X-Request-ID`.
//! `Forwarded` (RFC 7239), which says the same, is never written; it passes from those who are believed.

use std::net::IpAddr;

use http::header::{Entry, FORWARDED};
use http::{HeaderMap, HeaderName, HeaderValue};
use ipnet::IpNet;
use snapshot::Scheme;

use crate::limit::Key;
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
    }

    fn believing(mut self, headers: &HeaderMap, trusted: &[IpNet]) -> Self {
        let hops: Vec<&str> = headers.get_all(X_FORWARDED_FOR).iter().filter_map(|value| value.to_str().ok()).collect();
        if !hops.is_empty() {
            let hops = hops.join(", ");
            self.client = client_of(&hops, self.client, trusted);
            self.client_key = Key::of_address(self.client);
            self.client_value = address_value(self.client);
            let chain = format!("{hops}, {}", self.chain.to_str().unwrap_or_default());
            self.chain = HeaderValue::from_str(&chain).unwrap_or(self.chain);
        }
        if let Some(proto) = headers.get(X_FORWARDED_PROTO) {
            self.proto = proto.clone();
            self.scheme = if proto.as_bytes().eq_ignore_ascii_case(b"https") { Scheme::Https } else { Scheme::Http };
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

/// The rightmost address that is not a trusted proxy's, else the leftmost that is an address at all. What is right of
/// nonsense is still true, what is left of it is not.
fn client_of(hops: &str, peer: IpAddr, trusted: &[IpNet]) -> IpAddr {
    let mut client = peer;
    for hop in hops.rsplit(',').take(MAX_HOPS) {
        let Ok(address) = hop.trim().parse::<IpAddr>() else { break };
        client = address.to_canonical();
        if !contains(trusted, client) {
            break;
        }
    }
    client
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
    fn nonsense_in_the_chain_ends_the_search() {
        let trusted = ["10.0.0.0/8".parse().unwrap()];
        let peer = "10.0.0.9".parse().unwrap();
        assert_eq!(client_of("1.1.1.1, x, 10.0.0.7", peer, &trusted).to_string(), "10.0.0.7");
        assert_eq!(client_of("x", peer, &trusted), peer);
        assert_eq!(client_of("10.0.0.1, 10.0.0.2", peer, &trusted).to_string(), "10.0.0.1");
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
