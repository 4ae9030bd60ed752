//! Annotations `nginx.ingress.kubernetes.io/*`, each parsed once into a closed type.
//!
//! To add one: a field of [`Annotations`], a line in [`KNOWN`], and a parser in `values` if none fits.

mod values;

use std::collections::BTreeMap;
use std::time::Duration;

use ipnet::IpNet;
use snapshot::{AffinityMode, Balancer, SameSite};

/// The prefix of the annotations that are meant for us.
pub(super) const PREFIX: &str = "nginx.ingress.kubernetes.io/";

/// What an Ingress's annotations say; `None` where they say nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Annotations {
    pub(super) ssl_redirect: Option<bool>,
    pub(super) force_ssl_redirect: Option<bool>,
    pub(super) affinity: Option<Affinity>,
    pub(super) affinity_mode: Option<AffinityMode>,
    pub(super) cookie_name: Option<String>,
    pub(super) cookie_path: Option<String>,
    pub(super) cookie_domain: Option<String>,
    /// In seconds.
    pub(super) cookie_expires: Option<i64>,
    /// In seconds.
    pub(super) cookie_max_age: Option<i64>,
    pub(super) cookie_same_site: Option<SameSite>,
    pub(super) cookie_secure: Option<bool>,
    /// 0 is no limit.
    pub(super) limit_rps: Option<u32>,
    /// 0 is no limit.
    pub(super) limit_rpm: Option<u32>,
    /// 0 is no limit.
    pub(super) limit_connections: Option<u32>,
    /// 0 is the default.
    pub(super) burst_multiplier: Option<u32>,
    pub(super) limit_allowlist: Option<Vec<IpNet>>,
    pub(super) backend_protocol: Option<Protocol>,
    /// In bytes; 0 is no limit.
    pub(super) body_size: Option<u64>,
    pub(super) connect_timeout: Option<Duration>,
    pub(super) send_timeout: Option<Duration>,
    pub(super) read_timeout: Option<Duration>,
    pub(super) load_balance: Option<Balancer>,
    pub(super) canary: Option<bool>,
    given: Vec<(&'static Known, String)>,
}

impl Annotations {
    /// Name and value of each known annotation of this scope, in the order of [`KNOWN`].
    pub(super) fn given(&self, scope: Scope) -> impl Iterator<Item = (&'static str, &str)> {
        self.given
            .iter()
            .filter(move |(known, _)| known.scope == scope)
            .map(|(known, value)| (known.name, value.as_str()))
    }
}

/// How clients stick to an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Affinity {
    /// By a cookie.
    Cookie,
}

/// What a backend speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    Http,
    Https,
    Grpc,
    Grpcs,
}

/// What an annotation is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    /// The Ingress's own rules.
    Rule,
    /// The Service behind them: the oldest Ingress that uses it decides.
    Service,
}

/// Something wrong with an annotation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    /// The annotation's name without [`PREFIX`].
    pub(super) name: String,
    /// One word in CamelCase for what is wrong.
    pub(super) reason: &'static str,
    /// What is wrong, as the beginning of a sentence.
    pub(super) message: String,
    /// What follows from it.
    pub(super) outcome: Outcome,
}

/// What follows from a fault, as in ingress-nginx. Where an earlier version of the Ingress was without fault, that one is
/// kept instead, unless it would be open where this one asks for a protection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Outcome {
    /// Nothing: the name is not known.
    Unknown,
    /// The default is used.
    Ignored,
    /// Every path of the Ingress answers 503, for it would lack its protection.
    Denied,
    /// The Ingress is not served.
    Rejected,
    /// The Ingress is not served and no earlier version of it either: it is without fault, but served like any other it
    /// would take what belongs to another Ingress.
    Withheld,
}

#[derive(Debug)]
struct Known {
    name: &'static str,
    alias: Option<&'static str>,
    scope: Scope,
    on_error: Outcome,
    set: fn(&mut Annotations, &str) -> Result<(), String>,
}

impl PartialEq for Known {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

const fn known(
    name: &'static str,
    scope: Scope,
    on_error: Outcome,
    set: fn(&mut Annotations, &str) -> Result<(), String>,
) -> Known {
    Known { name, alias: None, scope, on_error, set }
}

use Outcome::{Denied, Ignored, Rejected};
use Scope::{Rule, Service};

static KNOWN: &[Known] = &[
    known("ssl-redirect", Rule, Ignored, |to, text| put(&mut to.ssl_redirect, values::boolean(text))),
    known("force-ssl-redirect", Rule, Ignored, |to, text| put(&mut to.force_ssl_redirect, values::boolean(text))),
    known("affinity", Service, Ignored, |to, text| put(&mut to.affinity, values::affinity(text))),
    known("affinity-mode", Service, Ignored, |to, text| put(&mut to.affinity_mode, values::affinity_mode(text))),
    known("session-cookie-name", Service, Ignored, |to, text| put(&mut to.cookie_name, values::basic(text))),
    known("session-cookie-path", Service, Ignored, |to, text| put(&mut to.cookie_path, values::path(text))),
    known("session-cookie-domain", Service, Ignored, |to, text| put(&mut to.cookie_domain, values::basic(text))),
    known("session-cookie-expires", Service, Ignored, |to, text| put(&mut to.cookie_expires, values::integer(text))),
    known("session-cookie-max-age", Service, Ignored, |to, text| put(&mut to.cookie_max_age, values::integer(text))),
    known("session-cookie-samesite", Service, Ignored, |to, text| {
        put(&mut to.cookie_same_site, values::same_site(text))
    }),
    known("session-cookie-secure", Service, Ignored, |to, text| put(&mut to.cookie_secure, values::boolean(text))),
    known("limit-rps", Rule, Rejected, |to, text| put(&mut to.limit_rps, values::limit(text))),
    known("limit-rpm", Rule, Rejected, |to, text| put(&mut to.limit_rpm, values::limit(text))),
    known("limit-connections", Rule, Rejected, |to, text| put(&mut to.limit_connections, values::limit(text))),
    known("limit-burst-multiplier", Rule, Rejected, |to, text| put(&mut to.burst_multiplier, values::limit(text))),
    Known {
        alias: Some("limit-whitelist"),
        ..known("limit-allowlist", Rule, Denied, |to, text| put(&mut to.limit_allowlist, values::networks(text)))
    },
    known("backend-protocol", Rule, Ignored, |to, text| put(&mut to.backend_protocol, values::protocol(text))),
    known("proxy-body-size", Rule, Ignored, |to, text| put(&mut to.body_size, values::size(text))),
    known("proxy-connect-timeout", Rule, Ignored, |to, text| put(&mut to.connect_timeout, values::seconds(text))),
    known("proxy-send-timeout", Rule, Ignored, |to, text| put(&mut to.send_timeout, values::seconds(text))),
    known("proxy-read-timeout", Rule, Ignored, |to, text| put(&mut to.read_timeout, values::seconds(text))),
    known("load-balance", Service, Ignored, |to, text| put(&mut to.load_balance, values::balancer(text))),
    known("canary", Rule, Ignored, |to, text| put(&mut to.canary, values::boolean(text))),
];

/// Names that ingress-nginx had once and dropped.
const REMOVED: &[&str] = &[
    "add-base-url",
    "base-url-scheme",
    "enable-opentracing",
    "global-rate-limit",
    "global-rate-limit-ignored-cidrs",
    "global-rate-limit-key",
    "global-rate-limit-window",
    "grpc-backend",
    "opentracing-trust-incoming-span",
    "secure-backends",
    "secure-verify-ca-secret",
    "session-cookie-hash",
];

/// What an annotation protects that is not supported yet.
enum Protects {
    /// Who may send requests.
    Access,
    /// Whether the backend is the right one.
    Backend,
    /// What requests may hold.
    Content,
}

/// What the annotation protects with this value, given the others; `None` for one that protects nothing. An Ingress is not
/// opened by moving it here, so that each of them makes it answer 503.
fn protection(name: &str, value: &str, given: &BTreeMap<&str, &str>) -> Option<Protects> {
    match name {
        "allowlist-source-range" | "whitelist-source-range" | "denylist-source-range" => Some(Protects::Access),
        "auth-type" | "auth-url" | "auth-tls-secret" => Some(Protects::Access),
        "auth-secret" => given.contains_key("auth-type").then_some(Protects::Access),
        "proxy-ssl-secret" => Some(Protects::Backend),
        "proxy-ssl-verify" => (value == "on").then_some(Protects::Backend),
        "enable-modsecurity" => values::boolean(value).unwrap_or_default().then_some(Protects::Content),
        _ => None,
    }
}

/// Whether the value is ingress-nginx's default of an annotation that protects something: it asks for nothing.
fn asks_for_nothing(name: &str, value: &str) -> bool {
    match name {
        "proxy-ssl-verify" => value == "off",
        "enable-modsecurity" => values::boolean(value) == Ok(false),
        _ => false,
    }
}

/// Parses all annotations of an Ingress. An empty value counts as absent, as in ingress-nginx.
pub(super) fn parse(annotations: &BTreeMap<String, String>) -> (Annotations, Vec<Fault>) {
    let ours = || annotations.iter().filter_map(|(name, value)| Some((name.strip_prefix(PREFIX)?, value.trim())));
    let given: BTreeMap<&str, &str> = ours().filter(|(_, value)| !value.is_empty()).collect();
    let mut parsed = Annotations::default();
    let mut faults = Vec::new();
    for known in KNOWN {
        let alias = || known.alias.and_then(|alias| Some((alias, *given.get(alias)?)));
        let Some((name, value)) = given.get(known.name).map(|value| (known.name, *value)).or_else(alias) else {
            continue;
        };
        match (known.set)(&mut parsed, value) {
            Ok(()) => parsed.given.push((known, value.to_owned())),
            Err(expected) => faults.push(Fault {
                name: name.to_owned(),
                reason: "InvalidAnnotation",
                message: format!("{value:?} is not {expected}"),
                outcome: known.on_error,
            }),
        }
    }
    faults.extend(given.iter().filter_map(|(name, value)| unsupported(name, value, &given)));
    if parsed.canary == Some(true) {
        faults.push(Fault {
            name: "canary".into(),
            reason: "UnsupportedAnnotation",
            message: "canaries are not supported yet".into(),
            outcome: Outcome::Withheld,
        });
    }
    (parsed, faults)
}

fn put<T>(field: &mut Option<T>, parsed: Result<T, String>) -> Result<(), String> {
    *field = Some(parsed?);
    Ok(())
}

fn is_known(name: &str) -> bool {
    KNOWN.iter().any(|known| known.name == name || known.alias == Some(name))
}

/// What follows from a name that is not in [`KNOWN`].
fn unsupported(name: &str, value: &str, given: &BTreeMap<&str, &str>) -> Option<Fault> {
    if is_known(name) || asks_for_nothing(name, value) {
        return None;
    }
    let (reason, message, outcome) = match protection(name, value, given) {
        Some(Protects::Access) => {
            ("UnsupportedAnnotation", "this annotation restricts access, which is not supported yet", Outcome::Denied)
        }
        Some(Protects::Backend) => {
            let message = "this annotation has the backend's certificate verified, which is not supported yet";
            ("UnsupportedAnnotation", message, Outcome::Denied)
        }
        Some(Protects::Content) => {
            let message = "this annotation has requests inspected by ModSecurity, which is not supported";
            ("UnsupportedAnnotation", message, Outcome::Denied)
        }
        None if name == "auth-secret" => {
            ("UnknownAnnotation", "without auth-type this annotation has no effect: remove it", Outcome::Unknown)
        }
        None if REMOVED.contains(&name) || name.starts_with("lua-resty-waf") => {
            let message = "this annotation was removed from ingress-nginx and has no effect: remove it";
            ("UnknownAnnotation", message, Outcome::Unknown)
        }
        None => {
            let message = "this annotation is not supported and has no effect: remove it, or check its spelling";
            ("UnknownAnnotation", message, Outcome::Unknown)
        }
    };
    Some(Fault { name: name.to_owned(), reason, message: message.into(), outcome })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(annotations: &[(&str, &str)]) -> (Annotations, Vec<Fault>) {
        parse(&annotations.iter().map(|(name, value)| (format!("{PREFIX}{name}"), value.to_string())).collect())
    }

    #[test]
    fn the_older_name_counts_where_the_newer_is_absent() {
        let list = |annotations: &[(&str, &str)]| parsed(annotations).0.limit_allowlist.unwrap()[0].to_string();
        assert_eq!(list(&[("limit-whitelist", "10.0.0.1")]), "10.0.0.1/32");
        assert_eq!(list(&[("limit-whitelist", "10.0.0.1"), ("limit-allowlist", "10.0.0.2")]), "10.0.0.2/32");
    }

    #[test]
    fn names_of_others_are_left_alone_and_empty_values_are_absent() {
        let others = [("cert-manager.io/issuer", "a"), ("kubernetes.io/tls-acme", "true")];
        let (annotations, faults) = parse(&others.map(|(name, value)| (name.to_owned(), value.to_owned())).into());
        assert_eq!((annotations, faults), (Annotations::default(), vec![]));
        assert_eq!(parsed(&[("limit-rps", "")]), (Annotations::default(), vec![]));
    }

    #[test]
    fn each_fault_has_its_outcome() {
        let outcome = |name, value| {
            let (_, faults) = parsed(&[(name, value)]);
            faults.into_iter().map(|fault| (fault.name, fault.outcome)).collect::<Vec<_>>()
        };
        for (name, value, expected) in [
            ("ssl-redirect", "yes", Outcome::Ignored),
            ("limit-allowlist", "10.0.0.0/33", Outcome::Denied),
            ("limit-rps", "many", Outcome::Rejected),
            ("limit-connections", "1.5", Outcome::Rejected),
            ("proxy-body-size", "-1", Outcome::Ignored),
            ("proxy-read-timeout", "-1", Outcome::Ignored),
            ("limit-rsp", "10", Outcome::Unknown),
            ("secure-backends", "true", Outcome::Unknown),
            ("whitelist-source-range", "10.0.0.0/8", Outcome::Denied),
            ("canary", "on", Outcome::Ignored),
            ("canary", "true", Outcome::Withheld),
            ("proxy-ssl-verify", "on", Outcome::Denied),
            ("proxy-ssl-secret", "shop/backend", Outcome::Denied),
            ("enable-modsecurity", "true", Outcome::Denied),
            ("auth-type", "basic", Outcome::Denied),
            ("auth-secret", "users", Outcome::Unknown),
        ] {
            assert_eq!(outcome(name, value), [(name.to_owned(), expected)]);
        }
    }

    #[test]
    fn what_asks_for_no_protection_closes_nothing() {
        for (name, value) in [
            ("whitelist-source-range", ""),
            ("auth-url", " "),
            ("proxy-ssl-verify", "off"),
            ("enable-modsecurity", "false"),
        ] {
            assert_eq!(parsed(&[(name, value)]), (Annotations::default(), vec![]), "{name}={value:?}");
        }
        let (_, faults) = parsed(&[("auth-secret", "users"), ("auth-type", "basic")]);
        assert!(faults.iter().all(|fault| fault.outcome == Outcome::Denied), "{faults:?}");
    }
}
