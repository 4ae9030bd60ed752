//! Cookies that keep a client on its endpoint, as ingress-nginx does it.

use std::collections::HashMap;
use std::sync::Arc;

use http::{HeaderMap, HeaderValue};
use snapshot::{AffinityCookie, AffinityMode, CookieSecure};

use super::{Attributes, Key, cookies};
use crate::balance::{Endpoint, Picked, Usable};
use crate::random;

/// A cookie's value: 32 hexadecimal digits.
type Value = [u8; 32];

/// What a cluster's cookies stand for.
#[derive(Debug)]
pub(crate) struct Cookies {
    name: String,
    values: Values,
}

#[derive(Debug)]
enum Values {
    /// The endpoint of each value.
    Persistent(HashMap<Value, Arc<Endpoint>>),
    /// A seed for each endpoint (at the same place as in the cluster's list), the same on every replica.
    Balanced(Vec<u64>),
}

impl Cookies {
    /// The cookies of a cluster with these endpoints.
    pub(crate) fn new(persistence: &AffinityCookie, key: &Key, endpoints: &[Arc<Endpoint>]) -> Self {
        let value = |endpoint: &Arc<Endpoint>| (random::to_hex(key.endpoint(endpoint)), endpoint.clone());
        let seed = |endpoint: &Arc<Endpoint>| (u128::from_be_bytes(key.endpoint(endpoint)) >> 64) as u64;
        let values = match persistence.mode {
            AffinityMode::Persistent => Values::Persistent(endpoints.iter().map(value).collect()),
            AffinityMode::Balanced => Values::Balanced(endpoints.iter().map(seed).collect()),
        };
        Self { name: persistence.cookie.clone(), values }
    }

    /// The endpoint for a request with these headers. `balanced` is asked where no cookie decides.
    pub(crate) fn pick(
        &self,
        headers: &HeaderMap,
        usable: &Usable<'_>,
        balanced: impl FnOnce() -> Option<Arc<Endpoint>>,
    ) -> Option<Picked> {
        match &self.values {
            Values::Persistent(endpoints) => {
                let own = values(headers, &self.name).find_map(|value| endpoints.get(&value));
                if let Some(own) = own.filter(|own| usable.admits(own)) {
                    return Some(Picked::new(own.clone()));
                }
                let other = balanced()?;
                // The client's endpoint still exists: this request goes elsewhere, the next one may go back.
                let cookie = match own {
                    Some(_) => None,
                    None => endpoints
                        .iter()
                        .find(|(_, endpoint)| Arc::ptr_eq(endpoint, &other))
                        .map(|(value, _)| text(value)),
                };
                Some(Picked::new(other).with_cookie(cookie))
            }
            Values::Balanced(seeds) => {
                let held = values(headers, &self.name).next();
                let value = held.unwrap_or_else(random::hex);
                let chosen = rendezvous(&value, seeds, usable).or_else(balanced)?;
                Some(Picked::new(chosen).with_cookie(held.is_none().then(|| text(&value))))
            }
        }
    }
}

/// The endpoint with the highest score for this value (rendezvous hashing): when one leaves, only its clients move.
fn rendezvous(value: &Value, seeds: &[u64], usable: &Usable<'_>) -> Option<Arc<Endpoint>> {
    let key = value
        .chunks_exact(8)
        .fold(0, |key, chunk| random::mix(key ^ chunk.iter().fold(0, |word, &byte| word << 8 | u64::from(byte))));
    let scored = usable.endpoints.iter().zip(seeds).filter(|(endpoint, _)| usable.admits(endpoint));
    scored.max_by_key(|&(_, seed)| random::mix(key ^ seed)).map(|(endpoint, _)| endpoint.clone())
}

/// The values of all cookies of this name that could be ours.
fn values<'a>(headers: &'a HeaderMap, name: &'a str) -> impl Iterator<Item = Value> {
    cookies(headers, name).filter_map(|value| {
        let value = Value::try_from(value).ok()?;
        value.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')).then_some(value)
    })
}

fn text(value: &Value) -> String {
    String::from_utf8_lossy(value).into_owned()
}

/// The `Set-Cookie` header; `None` when the domain cannot stand in one. The path is `/` where the matched one cannot.
pub(crate) fn set_cookie(
    persistence: &AffinityCookie,
    value: &str,
    matched_path: &str,
    https: bool,
    unix_now: i64,
) -> Option<HeaderValue> {
    let attributes = Attributes {
        path: persistence.path.as_deref().unwrap_or(matched_path),
        domain: persistence.domain.as_deref(),
        expires: persistence.expires.map(|seconds| unix_now.saturating_add(seconds)),
        max_age: persistence.max_age,
        secure: https || persistence.secure == CookieSecure::Always,
        same_site: persistence.same_site,
    };
    attributes.set_cookie(&persistence.cookie, value)
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use http::header::COOKIE;
    use snapshot::SameSite;

    use super::*;
    use crate::balance::{Outcome, judge, renew};
    use crate::tick::Tick;

    fn persistence(mode: AffinityMode) -> AffinityCookie {
        AffinityCookie {
            cookie: "stick".into(),
            mode,
            path: None,
            domain: None,
            expires: None,
            max_age: None,
            same_site: None,
            secure: CookieSecure::OnHttps,
        }
    }

    fn endpoints(ports: impl Iterator<Item = u16>) -> Arc<[Arc<Endpoint>]> {
        renew(&[], &ports.map(|port| SocketAddr::from(([10, 0, 0, 1], port))).collect::<Vec<_>>())
    }

    fn replica(mode: AffinityMode, endpoints: &[Arc<Endpoint>]) -> Cookies {
        Cookies::new(&persistence(mode), &Key::new(b"the same on every replica"), endpoints)
    }

    fn with_cookie(value: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(COOKIE, format!("theme=dark; stick={value}; stick=x").parse().unwrap());
        headers
    }

    fn pick(cookies: &Cookies, headers: &HeaderMap, endpoints: &[Arc<Endpoint>], tried: &[SocketAddr]) -> Picked {
        let usable = Usable { endpoints, tried, now: Tick::now() };
        cookies.pick(headers, &usable, || endpoints.iter().find(|e| usable.admits(e)).cloned()).unwrap()
    }

    #[test]
    fn a_client_stays_on_every_replica_and_while_others_come_and_go() {
        for mode in [AffinityMode::Persistent, AffinityMode::Balanced] {
            let (here, there) = (endpoints(1..9), endpoints(1..9));
            let first = pick(&replica(mode, &here), &HeaderMap::new(), &here, &[]);
            let headers = with_cookie(first.cookie().unwrap());
            let second = pick(&replica(mode, &there), &headers, &there, &[]);
            assert_eq!(second.endpoint().address(), first.endpoint().address());
            assert_eq!(second.cookie(), None);
            let own = first.endpoint().address().port();
            let fewer = endpoints((1..9).filter(|port| *port == own || port % 2 == 0));
            let third = pick(&replica(mode, &fewer), &headers, &fewer, &[]);
            assert_eq!(third.endpoint().address(), first.endpoint().address());
        }
    }

    #[test]
    fn an_ejected_or_tried_endpoint_costs_the_client_nothing() {
        let health = snapshot::PassiveHealth {
            consecutive_failures: 1,
            ejection_time: std::time::Duration::from_secs(60),
            max_ejected_percent: 50,
        };
        for mode in [AffinityMode::Persistent, AffinityMode::Balanced] {
            let all = endpoints(1..5);
            let cookies = replica(mode, &all);
            let first = pick(&cookies, &HeaderMap::new(), &all, &[]);
            let (own, headers) = (first.endpoint(), with_cookie(first.cookie().unwrap()));
            let retried = pick(&cookies, &headers, &all, &[own.address()]);
            assert_ne!(retried.endpoint().address(), own.address());
            assert_eq!(retried.cookie(), None);
            judge(own, Outcome::Failed, &health, &all, Tick::now());
            let elsewhere = pick(&cookies, &headers, &all, &[]);
            assert_ne!(elsewhere.endpoint().address(), own.address());
            assert_eq!(elsewhere.cookie(), None);
        }
    }

    #[test]
    fn a_client_whose_endpoint_is_gone_gets_a_new_cookie() {
        let all = endpoints(1..4);
        let first = pick(&replica(AffinityMode::Persistent, &all), &HeaderMap::new(), &all, &[]);
        let gone = first.endpoint().address().port();
        let rest = endpoints((1..4).filter(|&port| port != gone));
        let next = pick(&replica(AffinityMode::Persistent, &rest), &with_cookie(first.cookie().unwrap()), &rest, &[]);
        assert!(next.cookie().is_some_and(|value| Some(value) != first.cookie()));
    }

    #[test]
    fn balanced_keys_spread_over_the_endpoints() {
        let all = endpoints(1..5);
        let cookies = replica(AffinityMode::Balanced, &all);
        let mut counts = HashMap::new();
        for _ in 0..4000 {
            let picked = pick(&cookies, &HeaderMap::new(), &all, &[]);
            *counts.entry(picked.endpoint().address()).or_insert(0) += 1;
        }
        assert!(counts.len() == 4 && counts.values().all(|count| (700..1300).contains(count)), "{counts:?}");
    }

    #[test]
    fn another_key_makes_other_values() {
        let all = endpoints(1..2);
        let one = pick(&replica(AffinityMode::Persistent, &all), &HeaderMap::new(), &all, &[]);
        let other = Cookies::new(&persistence(AffinityMode::Persistent), &Key::new(b"another"), &all);
        assert_ne!(pick(&other, &HeaderMap::new(), &all, &[]).cookie(), one.cookie());
    }

    #[test]
    fn set_cookie_says_what_is_configured() {
        let plain = set_cookie(&persistence(AffinityMode::Balanced), "v", "/shop", false, 0).unwrap();
        assert_eq!(plain, "stick=v; Path=/shop; HttpOnly");
        let full = AffinityCookie {
            path: Some("/".into()),
            domain: Some("shop.example".into()),
            expires: Some(86_400),
            max_age: Some(-1),
            same_site: Some(SameSite::Lax),
            secure: CookieSecure::Always,
            ..persistence(AffinityMode::Balanced)
        };
        let full = set_cookie(&full, "v", "/shop", false, 784_111_777).unwrap();
        assert_eq!(
            full,
            "stick=v; Path=/; Domain=shop.example; Expires=Mon, 07 Nov 1994 08:49:37 GMT; Max-Age=-1; Secure; HttpOnly; \
             SameSite=Lax"
        );
        let secure = set_cookie(&persistence(AffinityMode::Balanced), "v", "", true, 0).unwrap();
        assert_eq!(secure, "stick=v; Path=/; Secure; HttpOnly");
        let forged = set_cookie(&persistence(AffinityMode::Balanced), "v", "/a; Domain=example", true, 0).unwrap();
        assert_eq!(forged, "stick=v; Path=/; Secure; HttpOnly");
    }
}
