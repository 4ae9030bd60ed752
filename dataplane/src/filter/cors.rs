//! Cross-origin requests (GEP-1767; the Fetch standard, 3.2 and 4.8).

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
    ACCESS_CONTROL_REQUEST_METHOD, ORIGIN, SET_COOKIE, VARY,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use snapshot::{AllowList, OriginPattern};

use crate::reason::{Answer, Reason};

/// A compiled [`snapshot::Cors`].
#[derive(Debug)]
pub struct Cors {
    origins: Box<[OriginPattern]>,
    /// Every origin, and none with credentials: then one answer fits all.
    public: bool,
    credentials: bool,
    methods: List,
    headers: List,
    expose: List,
    max_age: HeaderValue,
}

/// A compiled [`AllowList`].
#[derive(Debug)]
enum List {
    Any,
    /// Joined with commas; `None` when there is none.
    These(Option<HeaderValue>),
}

impl Cors {
    pub(super) fn compile(source: &snapshot::Cors) -> Result<Self, String> {
        let any = source.allow_origins.contains(&OriginPattern::Any);
        Ok(Self {
            origins: source.allow_origins.as_slice().into(),
            public: any && !source.allow_credentials,
            credentials: source.allow_credentials,
            methods: List::compile(&source.allow_methods)?,
            headers: List::compile(&source.allow_headers)?,
            expose: List::compile(&source.expose_headers)?,
            max_age: HeaderValue::from(source.max_age),
        })
    }

    /// Answers a preflight request; others go on.
    pub(super) fn preflight(&self, method: &Method, request: &HeaderMap) -> Result<(), Answer> {
        let (Some(origin), Some(wanted)) = (request.get(ORIGIN), request.get(ACCESS_CONTROL_REQUEST_METHOD)) else {
            return Ok(());
        };
        if method != Method::OPTIONS {
            return Ok(());
        }
        if !self.allows(origin) {
            return Err(Reason::OriginRefused.into());
        }
        let mut headers = HeaderMap::new();
        // A `*` would not cover `Authorization`, and not count with credentials; what was asked for always does.
        let lists = [
            (ACCESS_CONTROL_ALLOW_METHODS, &self.methods, Some(wanted)),
            (ACCESS_CONTROL_ALLOW_HEADERS, &self.headers, request.get(ACCESS_CONTROL_REQUEST_HEADERS)),
        ];
        for (name, list, wanted) in lists {
            let value = match list {
                List::Any => wanted,
                List::These(these) => these.as_ref(),
            };
            if let Some(value) = value {
                headers.insert(name, value.clone());
            }
        }
        headers.insert(ACCESS_CONTROL_MAX_AGE, self.max_age.clone());
        self.dress(Some(origin), &mut headers);
        Err(Answer { headers: Some(Box::new(headers)), ..Answer::from(Reason::Preflight) })
    }

    /// Says in an answer who may read it, in place of what the backend said. `origin` is the request's.
    pub(super) fn dress(&self, origin: Option<&HeaderValue>, headers: &mut HeaderMap) {
        for name in [ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_EXPOSE_HEADERS] {
            headers.remove(name);
        }
        if self.public {
            headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
            self.expose(headers);
            return;
        }
        // Also where nothing is allowed: a cache must not give this answer to another origin.
        vary_by_origin(headers);
        let Some(origin) = origin.filter(|origin| self.allows(origin)) else { return };
        self.expose(headers);
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        if self.credentials {
            headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        }
    }

    fn expose(&self, headers: &mut HeaderMap) {
        let value = match &self.expose {
            List::These(these) => these.clone(),
            List::Any if self.credentials => names_of(headers),
            List::Any => Some(HeaderValue::from_static("*")),
        };
        if let Some(value) = value {
            headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, value);
        }
    }

    fn allows(&self, origin: &HeaderValue) -> bool {
        let Ok(origin) = origin.to_str() else { return false };
        self.origins.iter().any(|pattern| matches(pattern, origin))
    }
}

impl List {
    fn compile(source: &AllowList) -> Result<Self, String> {
        match source {
            AllowList::Any => Ok(List::Any),
            AllowList::These(names) if names.is_empty() => Ok(List::These(None)),
            AllowList::These(names) => match HeaderValue::try_from(names.join(", ")) {
                Ok(value) => Ok(List::These(Some(value))),
                Err(_) => Err(format!("invalid list {names:?}")),
            },
        }
    }
}

fn matches(pattern: &OriginPattern, origin: &str) -> bool {
    match pattern {
        OriginPattern::Any => true,
        OriginPattern::Exact(exact) => origin.eq_ignore_ascii_case(exact),
        OriginPattern::Subdomains { scheme, suffix, port } => {
            let Some((of, host)) = origin.split_once("://").filter(|(of, _)| of.eq_ignore_ascii_case(scheme)) else {
                return false;
            };
            // Browsers leave out the scheme's own port, and so does the pattern.
            let own = if of.eq_ignore_ascii_case("https") { 443 } else { 80 };
            let (host, of_origin) = match host.rsplit_once(':') {
                Some((host, number)) => (host, number.parse().unwrap_or(0)),
                None => (host, own),
            };
            let Some((labels, end)) = host.len().checked_sub(suffix.len()).and_then(|at| host.split_at_checked(at))
            else {
                return false;
            };
            of_origin == port.unwrap_or(own)
                && end.eq_ignore_ascii_case(suffix)
                && if suffix.is_empty() { Some(labels) } else { labels.strip_suffix('.') }
                    .is_some_and(|labels| !labels.is_empty())
        }
    }
}

fn vary_by_origin(headers: &mut HeaderMap) {
    let items = headers.get_all(VARY).into_iter().flat_map(|value| value.as_bytes().split(|&byte| byte == b','));
    let mut items = items.map(<[u8]>::trim_ascii);
    if !items.any(|item| item == b"*" || item.eq_ignore_ascii_case(b"origin")) {
        headers.append(VARY, HeaderValue::from_static("Origin"));
    }
}

/// What `*` stands for where it does not count. Scripts never see cookies.
fn names_of(headers: &HeaderMap) -> Option<HeaderValue> {
    let names: Vec<&str> = headers.keys().filter(|name| **name != SET_COOKIE).map(HeaderName::as_str).collect();
    HeaderValue::try_from(names.join(", ")).ok().filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_match_by_scheme_host_and_port() {
        let everywhere = OriginPattern::Subdomains { scheme: "https".into(), suffix: String::new(), port: None };
        let below = |port| OriginPattern::Subdomains { scheme: "https".into(), suffix: "bar.com".into(), port };
        for (pattern, origin, expected) in [
            (OriginPattern::Any, "null", true),
            (OriginPattern::Exact("https://a.example".into()), "https://A.example", true),
            (OriginPattern::Exact("https://a.example".into()), "https://a.example:8443", false),
            (OriginPattern::Exact("https://a.example".into()), "http://a.example", false),
            (below(None), "https://www.bar.com", true),
            (everywhere.clone(), "https://a.example", true),
            (everywhere.clone(), "https://a.example:8443", false),
            (everywhere, "http://a.example", false),
            (below(None), "https://x.www.BAR.com", true),
            (below(None), "https://www.bar.com:443", true),
            (below(None), "https://www.bar.com:8443", false),
            (below(None), "https://www.bar.com:x", false),
            (below(None), "https://bar.com", false),
            (below(None), "https://.bar.com", false),
            (below(None), "https://foobar.com", false),
            (below(None), "https://www.bar.com.evil.example", false),
            (below(None), "http://www.bar.com", false),
            (below(None), "https://é.bar.com", true),
            (below(Some(8443)), "https://www.bar.com:8443", true),
            (below(Some(8443)), "https://www.bar.com", false),
        ] {
            assert_eq!(matches(&pattern, origin), expected, "{pattern:?} {origin}");
        }
    }
}
