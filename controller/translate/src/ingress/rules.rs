//! From a claimed path to a rule.

use std::time::Duration;

use k8s_openapi::api::networking::v1::{IngressBackend, IngressServiceBackend};
use snapshot::{
    Action, Backend, ConnectionLimit, Filter, HostPattern, HttpsRedirect, LimitKey, Match, PathMatch, Rank, RateLimit,
    Refusal, Rule, Target, Timeouts,
};

use super::annotations::Scope;
use super::clusters::Clusters;
use super::hosts::{Claim, Host, Path, Place};
use super::version::Served;
use crate::backends::{BackendError, PortRef, ServicePort};
use crate::context::Context;
use crate::policy::Traffic;
use crate::{Kind, ObjectKey, Settings};

/// ingress-nginx `proxy-body-size`.
const MAX_BODY: u64 = 1 << 20;

/// ingress-nginx `limit-burst-multiplier`.
const BURST_MULTIPLIER: u32 = 5;

/// ingress-nginx `limit-req-status-code` and `limit-conn-status-code`.
const LIMITED: u16 = 503;

/// ingress-nginx `http-redirect-code`.
const REDIRECT: u16 = 308;

/// ingress-nginx `hsts`, `hsts-max-age`, `hsts-include-subdomains`.
const STRICT_TRANSPORT_SECURITY: &str = "max-age=31536000; includeSubDomains";

/// What rules are built from.
pub(super) struct Rules {
    /// The clusters so far.
    pub(super) clusters: Clusters,
    /// What answers where nothing is claimed.
    pub(super) fallback: (Action, Vec<String>),
}

impl Rules {
    /// No rule yet. Resolves the default backend of the settings.
    pub(super) fn new(context: &mut Context<'_>) -> Self {
        let fallback = match context.settings.default_backend.clone() {
            Some(service) => default_backend(context, &service),
            None => (Action::Refuse(Refusal::NotFound), Vec::new()),
        };
        Self { clusters: Clusters::default(), fallback }
    }

    /// The rules of one Ingress for one host. `tls` says whether the host has TLS.
    pub(super) fn build(
        &mut self,
        context: &mut Context<'_>,
        ingress: &Served<'_>,
        pattern: &HostPattern,
        (host, tls): (&Host<'_>, bool),
        claims: &[(&Path, &Claim<'_>)],
    ) -> Vec<Rule> {
        let mut rules = Vec::new();
        for (path, claim) in claims {
            let (filters, mut origins) = filters(context, ingress, claim.place, tls && *pattern != HostPattern::Any);
            let (action, more) = self.action(context, ingress, claim);
            origins.extend(more);
            if let Some(bare) = without_slash(path, claim, host) {
                rules.push(trailing_slash(ingress, claim.place, bare, &filters, rules.len()));
            }
            rules.push(Rule {
                name: format!("Ingress {} {}", ingress.key, claim.place),
                matches: vec![matching(path, rank(ingress.created, ingress.key, rules.len()))],
                filters,
                action,
                timeouts: timeouts(ingress),
                retry: None,
                persistence: None,
                max_body: max_body(ingress),
                origins,
            });
        }
        rules
    }

    fn action(&mut self, context: &mut Context<'_>, ingress: &Served<'_>, claim: &Claim<'_>) -> (Action, Vec<String>) {
        let refuse = |refusal| (Action::Refuse(refusal), Vec::new());
        if ingress.denied {
            return refuse(Refusal::Unavailable);
        }
        if let Some(Traffic::Refused(why)) = context.policies.for_ingress(ingress.key) {
            return (Action::Refuse(Refusal::Unavailable), vec![why.clone()]);
        }
        match claim.backend {
            None => self.fallback.clone(),
            Some(IngressBackend { service: Some(service), .. }) => match port(context, ingress.key, service) {
                Ok(port) => {
                    let (cluster, origins) = self.clusters.of_ingress(context, ingress, &port);
                    (forward(cluster), origins)
                }
                Err(error) => {
                    let part = match error {
                        BackendError::ServiceNotFound(_) => "name",
                        BackendError::PortNotFound { .. } => "port",
                    };
                    let field = format!("{}.service.{part}", claim.place.field());
                    let message = format!("{error}; requests answer 503: create it, or correct the reference");
                    context.warn(Kind::Ingress, ingress.key, field, error.reason(), message);
                    refuse(Refusal::Unavailable)
                }
            },
            Some(_) => {
                let field = format!("{}.resource", claim.place.field());
                let message = "a backend must be a Service; requests answer 404: name a Service";
                context.warn(Kind::Ingress, ingress.key, field, "UnsupportedBackend", message);
                refuse(Refusal::NotFound)
            }
        }
    }
}

/// The rule for every request that no Ingress has a rule for.
pub(super) fn fallback_rule(settings: &Settings, (action, origins): (Action, Vec<String>)) -> Option<Rule> {
    let service = settings.default_backend.as_ref()?;
    Some(Rule {
        name: format!("default backend {service}"),
        matches: vec![matching(&Path::root(), rank(i64::MAX, service, 0))],
        filters: vec![Filter::NginxHeaders, Filter::StrictTransportSecurity(STRICT_TRANSPORT_SECURITY.into())],
        action,
        timeouts: default_timeouts(),
        retry: None,
        persistence: None,
        max_body: Some(MAX_BODY),
        origins,
    })
}

/// The first port of the Service, as ingress-nginx `--default-backend-service` means it.
fn default_backend(context: &mut Context<'_>, service: &ObjectKey) -> (Action, Vec<String>) {
    match context.services.first_port(service) {
        Ok(port) => {
            let (cluster, mut origins) = Clusters::of_default_backend(context, &port);
            origins.push(format!("default backend {service} from the settings"));
            (forward(cluster), origins)
        }
        Err(error) => {
            let message = format!("{error}; requests that no rule matches answer 503: create the default backend");
            context.warn(Kind::Service, service, "", error.reason(), message);
            (Action::Refuse(Refusal::Unavailable), Vec::new())
        }
    }
}

fn port<'a>(
    context: &Context<'a>,
    ingress: &ObjectKey,
    backend: &IngressServiceBackend,
) -> Result<ServicePort<'a>, BackendError> {
    let service = ObjectKey::new(ingress.namespace.as_str(), backend.name.as_str());
    let port = backend.port.as_ref();
    let wanted = match port.and_then(|port| port.name.as_deref()).filter(|name| !name.is_empty()) {
        Some(name) => PortRef::Name(name),
        None => PortRef::NumberOrTarget(port.and_then(|port| port.number).unwrap_or_default()),
    };
    context.services.port(&service, wanted)
}

fn forward(cluster: String) -> Action {
    Action::Forward(vec![Backend { weight: 1, target: Target::Cluster(cluster), filters: Vec::new() }])
}

fn matching(path: &Path, rank: Rank) -> Match {
    let path = match path {
        Path::Exact(path) => PathMatch::Exact(path.clone()),
        Path::Prefix(path) => PathMatch::Prefix(path.clone()),
    };
    Match { path, method: None, headers: Vec::new(), query: Vec::new(), rank }
}

fn rank(created: i64, object: &ObjectKey, rule: usize) -> Rank {
    Rank { specificity: 0, created, object: object.to_string(), rule: u32::try_from(rule).unwrap_or(u32::MAX) }
}

/// The path that is redirected to the claimed one, unless somebody claims it: nginx does so for every path that ends in `/`.
fn without_slash(path: &Path, claim: &Claim<'_>, host: &Host<'_>) -> Option<Path> {
    let (Path::Exact(text) | Path::Prefix(text)) = path;
    let bare = text.trim_end_matches('/');
    let exact = Path::Exact(bare.to_owned());
    let covered = matches!(path, Path::Exact(_)) && host.paths.contains_key(&Path::Prefix(bare.to_owned()));
    (claim.slash && !covered && !host.paths.contains_key(&exact)).then_some(exact)
}

fn trailing_slash(ingress: &Served<'_>, place: Place, path: Path, filters: &[Filter], rule: usize) -> Rule {
    let redirect = filters.iter().filter(|filter| matches!(filter, Filter::HttpsRedirect(_))).cloned();
    let security = filters.iter().filter(|filter| matches!(filter, Filter::StrictTransportSecurity(_))).cloned();
    Rule {
        name: format!("Ingress {} {place} without its trailing slash", ingress.key),
        matches: vec![matching(&path, rank(ingress.created, ingress.key, rule))],
        filters: redirect.chain([Filter::TrailingSlashRedirect]).chain(security).collect(),
        action: Action::Refuse(Refusal::NotFound),
        timeouts: timeouts(ingress),
        retry: None,
        persistence: None,
        max_body: max_body(ingress),
        origins: vec!["redirect to the path with its trailing slash (default)".into()],
    }
}

/// The filters of a rule in their order, and where they come from.
fn filters(context: &Context<'_>, ingress: &Served<'_>, place: Place, tls: bool) -> (Vec<Filter>, Vec<String>) {
    let annotations = &ingress.annotations;
    let mut filters = Vec::new();
    let mut origins = Vec::new();
    // ingress-nginx redirects nothing on the way to a catch-all.
    let catch_all = place == Place::CatchAll;
    let by_default = tls && annotations.ssl_redirect.unwrap_or(true);
    if !catch_all && (by_default || annotations.force_ssl_redirect == Some(true)) {
        let https = context.settings.ports.https;
        filters.push(Filter::HttpsRedirect(HttpsRedirect { port: (https != 443).then_some(https), status: REDIRECT }));
        if by_default && annotations.ssl_redirect.is_none() {
            origins.push("ssl-redirect (default, host has TLS)".to_owned());
        }
    }
    filters.push(Filter::NginxHeaders);
    filters.push(Filter::StrictTransportSecurity(STRICT_TRANSPORT_SECURITY.into()));
    filters.extend(limits(ingress));
    let applies = |name: &str| !(catch_all && name.ends_with("ssl-redirect"));
    let given = annotations.given(Scope::Rule).filter(|(name, _)| applies(name));
    origins.extend(given.map(|(name, value)| format!("{name}={value} from annotation on Ingress {}", ingress.key)));
    if annotations.body_size.is_none() {
        origins.push("proxy-body-size=1m (default)".into());
    }
    if let Some(Traffic::Limited(limits)) = context.policies.for_ingress(ingress.key) {
        filters.extend(limits.iter().map(|(filter, _)| filter.clone()));
        origins.extend(limits.iter().map(|(_, origin)| origin.clone()));
    }
    (filters, origins)
}

fn limits(ingress: &Served<'_>) -> impl Iterator<Item = Filter> {
    let annotations = &ingress.annotations;
    let exempt = annotations.limit_allowlist.clone().unwrap_or_default();
    let id = |name| format!("Ingress/{}/{name}", ingress.key);
    let set = |limit: Option<u32>| limit.filter(|limit| *limit > 0);
    let multiplier = set(annotations.burst_multiplier).unwrap_or(BURST_MULTIPLIER);
    let connections = set(annotations.limit_connections).map(|connections| {
        let id = id("limit-connections");
        Filter::ConnectionLimit(ConnectionLimit { id, connections, status: LIMITED, exempt: exempt.clone() })
    });
    let rate = |name, limit, seconds| {
        set(limit).map(|requests| {
            Filter::RateLimit(RateLimit {
                id: id(name),
                key: LimitKey::ClientIp,
                requests,
                per: Duration::from_secs(seconds),
                burst: requests.saturating_mul(multiplier),
                status: LIMITED,
                exempt: exempt.clone(),
            })
        })
    };
    let per_second = rate("limit-rps", annotations.limit_rps, 1);
    let per_minute = rate("limit-rpm", annotations.limit_rpm, 60);
    [connections, per_second, per_minute].into_iter().flatten()
}

fn max_body(ingress: &Served<'_>) -> Option<u64> {
    Some(ingress.annotations.body_size.unwrap_or(MAX_BODY)).filter(|bytes| *bytes > 0)
}

fn timeouts(ingress: &Served<'_>) -> Timeouts {
    let (annotations, default) = (&ingress.annotations, default_timeouts());
    Timeouts {
        connect: annotations.connect_timeout.or(default.connect),
        read: annotations.read_timeout.or(default.read),
        send: annotations.send_timeout.or(default.send),
        ..default
    }
}

/// ingress-nginx `proxy-connect-timeout`, `proxy-read-timeout`, `proxy-send-timeout`.
fn default_timeouts() -> Timeouts {
    Timeouts {
        connect: Some(Duration::from_secs(5)),
        read: Some(Duration::from_secs(60)),
        send: Some(Duration::from_secs(60)),
        request: None,
        backend_request: None,
    }
}
