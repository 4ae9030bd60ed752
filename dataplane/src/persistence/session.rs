//! Persistent sessions, as the Gateway API has them (GEP-1619), without state: all is in a token that the client holds.
//!
//! A token is the base64 (of URLs, without padding) of when the session began and when the token was made (milliseconds
//! since 1970, 6 bytes each), the names of its cluster and endpoint (8 bytes each, keyed hashes), and a tag of 16 bytes that
//! authenticates all of this for one rule or cluster.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use http::header::SET_COOKIE;
use http::{HeaderMap, HeaderName, HeaderValue};
use snapshot::{Carrier, CookieLifetime, SessionPersistence};

use super::{Attributes, Key, cookies};
use crate::balance::{Endpoint, Picked};
use crate::cluster::Cluster;

/// Tokens of a request that are looked at; an honest client sends one, or a few where cookies of several paths share a name.
const MOST: usize = 8;
/// A token is renewed for its idle timeout after this time, or a tenth of the timeout where that is less.
const RENEWED_AFTER: Duration = Duration::from_secs(1);

const FACTS: usize = 28;
const TAG: usize = 16;
const TOKEN: usize = FACTS + TAG;
/// The length of a token in base64.
const TEXT: usize = (TOKEN * 4).div_ceil(3);

/// The sessions of a rule or a cluster.
#[derive(Debug)]
pub(crate) struct Sessions {
    source: SessionPersistence,
    /// The header that carries tokens, unless a cookie does.
    header: Option<HeaderName>,
    /// Whose sessions they are. Tokens of others mean nothing here.
    scope: Box<str>,
}

/// The session of one request.
#[derive(Debug)]
pub(crate) struct Session {
    sessions: Arc<Sessions>,
    held: Option<Facts>,
    endpoint: Option<Arc<Endpoint>>,
}

/// What names a cluster and its endpoints in tokens.
#[derive(Debug)]
pub(crate) struct Names {
    cluster: u64,
    endpoints: HashMap<u64, Arc<Endpoint>>,
}

/// What a token says. Times are in milliseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Facts {
    began: u64,
    made: u64,
    cluster: u64,
    endpoint: u64,
}

impl Sessions {
    /// The sessions of `scope`, which names a rule or a cluster.
    ///
    /// # Errors
    /// Says that the name cannot be that of a header.
    pub(crate) fn new(source: &SessionPersistence, scope: &str) -> Result<Self, String> {
        let header = match source.carrier {
            Carrier::Cookie(_) => None,
            Carrier::Header => {
                let name = HeaderName::try_from(&source.name);
                Some(name.map_err(|_| format!("{:?} is not the name of a header", source.name))?)
            }
        };
        Ok(Self { source: source.clone(), header, scope: scope.into() })
    }

    /// The session of a request with these headers, and the one of `clusters` that it is bound to: the first session that
    /// counts and whose cluster is among them and has endpoints. Without one a session begins, which is bound to none.
    pub(crate) fn resume<'c, T>(
        self: &Arc<Self>,
        headers: &HeaderMap,
        key: &Key,
        clusters: impl Iterator<Item = (&'c Arc<Cluster>, T)> + Clone,
    ) -> (Session, Option<T>) {
        let now = unix_millis();
        for held in self.shown(headers, key).filter(|held| self.is_alive(held, now)) {
            let found = clusters.clone().find_map(|(cluster, place)| {
                let endpoint = cluster.with_names(|names| names.find(&held))?;
                Some((endpoint, place))
            });
            if let Some((endpoint, place)) = found {
                return (Session { sessions: self.clone(), held: Some(held), endpoint }, Some(place));
            }
        }
        (Session { sessions: self.clone(), held: None, endpoint: None }, None)
    }

    /// The authentic tokens among the headers.
    fn shown<'a>(&'a self, headers: &'a HeaderMap, key: &'a Key) -> impl Iterator<Item = Facts> + 'a {
        let in_cookies = self.header.is_none().then(|| cookies(headers, &self.source.name));
        let in_headers = self.header.iter().flat_map(|name| headers.get_all(name)).map(HeaderValue::as_bytes);
        let texts = in_cookies.into_iter().flatten().chain(in_headers).take(MOST);
        texts.filter_map(|text| Facts::read(text, key, &self.scope))
    }

    fn is_alive(&self, facts: &Facts, now: u64) -> bool {
        let within = |since: u64, limit: Option<Duration>| limit.is_none_or(|limit| elapsed(since, now) < limit);
        within(facts.began, self.source.absolute_timeout) && within(facts.made, self.source.idle_timeout)
    }

    /// What the client is to keep.
    fn header(&self, facts: Facts, key: &Key, matched_path: &str, https: bool) -> Option<(HeaderName, HeaderValue)> {
        let text = facts.write(key, &self.scope);
        let cookie = match (&self.header, &self.source.carrier) {
            (Some(name), _) => return Some((name.clone(), HeaderValue::try_from(text).ok()?)),
            (None, Carrier::Header) => return None,
            (None, Carrier::Cookie(cookie)) => cookie,
        };
        let left = self.source.absolute_timeout.map(|limit| limit.saturating_sub(elapsed(facts.began, facts.made)));
        let max_age = left.filter(|_| cookie.lifetime == CookieLifetime::Permanent);
        let attributes = Attributes {
            path: cookie.path.as_deref().unwrap_or(matched_path),
            domain: None,
            expires: None,
            // A cookie that is forgotten too early would end its session; one that is kept too long is refused.
            max_age: max_age.map(|left| i64::try_from(left.as_millis().div_ceil(1000)).unwrap_or(i64::MAX)),
            secure: https,
            same_site: cookie.same_site,
        };
        Some((SET_COOKIE, attributes.set_cookie(&self.source.name, &text)?))
    }
}

impl Session {
    /// The endpoint that it is bound to, while it is there.
    pub(crate) fn endpoint(&self) -> Option<&Arc<Endpoint>> {
        self.endpoint.as_ref()
    }

    /// The header with a new token, where the client needs one: its session begins, or begins anew because another endpoint
    /// than its own has answered, or would be taken for idle soon. `matched_path` is the path of a cookie that has none.
    pub(crate) fn answered(
        &self,
        cluster: &Cluster,
        by: &Picked,
        key: &Key,
        matched_path: &str,
        https: bool,
    ) -> Option<(HeaderName, HeaderValue)> {
        let now = unix_millis();
        let address = by.endpoint().address();
        let own = self.endpoint.as_ref().filter(|own| own.address() == address);
        let facts = match (self.held, own) {
            (Some(held), Some(_)) => {
                let renewed_after = (self.sessions.source.idle_timeout? / 10).min(RENEWED_AFTER);
                if elapsed(held.made, now) < renewed_after {
                    return None;
                }
                Facts { made: now, ..held }
            }
            _ => Facts {
                began: now,
                made: now,
                cluster: cluster.with_names(|names| names.cluster),
                endpoint: Names::endpoint(key, cluster.name(), by.endpoint()),
            },
        };
        self.sessions.header(facts, key, matched_path, https)
    }
}

impl Names {
    /// The names of a cluster and its endpoints.
    pub(crate) fn new(key: &Key, cluster: &str, endpoints: &[Arc<Endpoint>]) -> Self {
        let named = |endpoint: &Arc<Endpoint>| (Self::endpoint(key, cluster, endpoint), endpoint.clone());
        let endpoints = endpoints.iter().map(named).collect();
        Self { cluster: u64::from_be_bytes(key.hash([b"cluster ".as_slice(), cluster.as_bytes()])), endpoints }
    }

    fn endpoint(key: &Key, cluster: &str, endpoint: &Endpoint) -> u64 {
        let address = endpoint.address().to_string();
        u64::from_be_bytes(key.hash([b"endpoint ".as_slice(), address.as_bytes(), b" ", cluster.as_bytes()]))
    }

    /// The endpoint of this session, if it still exists; `None` where the session is not bound to this cluster, or the cluster
    /// has no endpoints.
    fn find(&self, session: &Facts) -> Option<Option<Arc<Endpoint>>> {
        let ours = self.cluster == session.cluster && !self.endpoints.is_empty();
        ours.then(|| self.endpoints.get(&session.endpoint).cloned())
    }
}

impl Facts {
    fn bytes(&self) -> [u8; FACTS] {
        let mut bytes = [0; FACTS];
        bytes[..6].copy_from_slice(&self.began.to_be_bytes()[2..]);
        bytes[6..12].copy_from_slice(&self.made.to_be_bytes()[2..]);
        bytes[12..20].copy_from_slice(&self.cluster.to_be_bytes());
        bytes[20..].copy_from_slice(&self.endpoint.to_be_bytes());
        bytes
    }

    fn of(bytes: &[u8; FACTS]) -> Self {
        let number = |bytes: &[u8]| bytes.iter().fold(0, |number, &byte| number << 8 | u64::from(byte));
        Self {
            began: number(&bytes[..6]),
            made: number(&bytes[6..12]),
            cluster: number(&bytes[12..20]),
            endpoint: number(&bytes[20..]),
        }
    }

    fn tag(bytes: &[u8; FACTS], key: &Key, scope: &str) -> [u8; TAG] {
        key.hash([b"session ".as_slice(), bytes, scope.as_bytes()])
    }

    fn write(&self, key: &Key, scope: &str) -> String {
        let facts = self.bytes();
        let mut token = [0; TOKEN];
        token[..FACTS].copy_from_slice(&facts);
        token[FACTS..].copy_from_slice(&Self::tag(&facts, key, scope));
        BASE64_URL_SAFE_NO_PAD.encode(token)
    }

    /// `None` for what was not written with this key for this scope.
    fn read(text: &[u8], key: &Key, scope: &str) -> Option<Self> {
        // The decoder wants room for whole groups of three.
        let mut token = [0; TEXT.div_ceil(4) * 3];
        let length = BASE64_URL_SAFE_NO_PAD.decode_slice(text, &mut token).ok()?;
        let (facts, tag) = token.get(..length)?.split_first_chunk::<FACTS>()?;
        verify_slices_are_equal(tag, &Self::tag(facts, key, scope)).ok()?;
        Some(Self::of(facts))
    }
}

fn unix_millis() -> u64 {
    u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or_default()
}

/// Clocks of replicas differ: what comes from the future has just happened.
fn elapsed(since: u64, now: u64) -> Duration {
    Duration::from_millis(now.saturating_sub(since))
}

#[cfg(test)]
mod tests {
    use snapshot::SessionCookie;

    use super::*;

    const FACTS: Facts = Facts { began: 1_767_225_600_000, made: 1_767_225_601_500, cluster: 1 << 63 | 5, endpoint: 7 };

    fn key() -> Key {
        Key::new(b"the same on every replica")
    }

    fn sessions(absolute: Option<u64>, idle: Option<u64>, lifetime: CookieLifetime) -> Sessions {
        let source = SessionPersistence {
            name: "stay".into(),
            carrier: Carrier::Cookie(SessionCookie { path: None, lifetime, same_site: None }),
            absolute_timeout: absolute.map(Duration::from_millis),
            idle_timeout: idle.map(Duration::from_millis),
        };
        Sessions::new(&source, "rule 0").unwrap()
    }

    #[test]
    fn a_token_is_read_as_written_by_the_same_key_and_scope_only() {
        let text = FACTS.write(&key(), "rule 0");
        assert_eq!(text.len(), TEXT);
        assert_eq!(Facts::read(text.as_bytes(), &key(), "rule 0"), Some(FACTS));
        assert_eq!(Facts::read(text.as_bytes(), &key(), "rule 1"), None);
        assert_eq!(Facts::read(text.as_bytes(), &Key::new(b"another"), "rule 0"), None);
    }

    #[test]
    fn a_token_that_is_changed_anywhere_is_forged() {
        let text = FACTS.write(&key(), "rule 0");
        for place in 0..text.len() {
            let mut forged = text.clone().into_bytes();
            forged[place] = if forged[place] == b'A' { b'B' } else { b'A' };
            assert_eq!(Facts::read(&forged, &key(), "rule 0"), None, "{place}");
        }
        for nonsense in ["", "A", &text[..text.len() - 1], &format!("{text}A"), &"A".repeat(1 << 16), "a b"] {
            assert_eq!(Facts::read(nonsense.as_bytes(), &key(), "rule 0"), None, "{nonsense:?}");
        }
    }

    #[test]
    fn a_session_ends_after_both_timeouts() {
        let Facts { began, made, .. } = FACTS;
        let alive = |absolute, idle, now| sessions(absolute, idle, CookieLifetime::Session).is_alive(&FACTS, now);
        assert!(alive(None, None, u64::MAX));
        assert!(alive(Some(5_000), None, began + 4_999) && !alive(Some(5_000), None, began + 5_000));
        assert!(alive(None, Some(5_000), made + 4_999) && !alive(None, Some(5_000), made + 5_000));
        assert!(!alive(Some(5_000), Some(60_000), began + 5_000));
        assert!(alive(Some(1), Some(1), began - 1), "another replica's clock is ahead");
    }

    #[test]
    fn a_permanent_cookie_lives_as_long_as_its_session_still_may() {
        let cookie = |lifetime| {
            let sessions = sessions(Some(60_000), None, lifetime);
            sessions.header(FACTS, &key(), "/shop", true).unwrap().1.to_str().unwrap().to_owned()
        };
        let attributes = |cookie: String| cookie.split_once("; ").unwrap().1.to_owned();
        assert_eq!(attributes(cookie(CookieLifetime::Permanent)), "Path=/shop; Max-Age=59; Secure; HttpOnly");
        assert_eq!(attributes(cookie(CookieLifetime::Session)), "Path=/shop; Secure; HttpOnly");
    }

    #[test]
    fn only_so_many_tokens_of_a_request_are_looked_at() {
        let sessions = sessions(None, None, CookieLifetime::Session);
        let good = FACTS.write(&key(), "rule 0");
        let cookies = |before: usize| {
            let cookie = format!("{}other=1; stay={good}", "stay=x; ".repeat(before));
            [(http::header::COOKIE, cookie.parse().unwrap())].into_iter().collect::<HeaderMap>()
        };
        assert_eq!(sessions.shown(&cookies(MOST - 1), &key()).collect::<Vec<_>>(), [FACTS]);
        assert_eq!(sessions.shown(&cookies(MOST), &key()).count(), 0);
    }
}
