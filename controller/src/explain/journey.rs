//! The stations of a request.

use std::collections::BTreeSet;

use dataplane::normalise;
use dataplane::route::{self, RequestView};
use serde::Serialize;
use snapshot::{
    Action, Endpoints, Filter, HostPattern, Kind, Protocol, Refusal, Resource, ResourceId, Snapshot, Target,
};
use translate::PortMap;

use super::Question;
use super::describe;
use super::filtered::{Asked, Sent};
use super::probe::{Answering, Conditions, Place, Probe, listeners};
use crate::folder::Finding;

/// How a request travels, as far as it comes.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Journey {
    /// Method and URL, with the port that was meant.
    pub request: String,
    /// Where the connection is accepted.
    pub listener: Option<ListenerStep>,
    /// The host pattern that matched.
    pub host: Option<String>,
    /// The rule that matched.
    pub rule: Option<RuleStep>,
    /// Where the rule sends requests.
    pub backends: Vec<BackendStep>,
    /// What the client gets when no backend answers.
    pub answer: Option<String>,
    /// Where the client is sent, when the rule answers with a redirect: its `Location`.
    pub location: Option<String>,
    /// Why no rule answers, and what came close.
    pub hints: Vec<String>,
    /// What is wrong with the objects involved.
    pub findings: Vec<Finding>,
}

/// Where a connection is accepted.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ListenerStep {
    /// Names of the listeners that serve this port and host as one.
    pub names: Vec<String>,
    /// The port.
    pub port: u16,
    /// The names that it answers for.
    pub hostname: String,
    /// The certificate that the client is shown; `None` on plain ports and where the handshake is refused.
    pub certificate: Option<CertificateStep>,
}

/// A certificate and why it is shown.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CertificateStep {
    /// Its name.
    pub name: String,
    /// Its names and end of life.
    pub summary: String,
    /// The server name pattern that chose it; `None` for the default certificate.
    pub chosen_by: Option<String>,
}

/// A rule that matched.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RuleStep {
    /// The route that holds the rule.
    pub route: String,
    /// The object and the place in it.
    pub name: String,
    /// The match that held.
    pub matched: String,
    /// What the request goes through.
    pub filters: Vec<Filter>,
    /// Where policies come from.
    pub origins: Vec<String>,
    /// Limits in time and size.
    pub limits: Vec<String>,
}

/// One choice among a rule's backends.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BackendStep {
    /// Its share of the requests in percent.
    pub share: f64,
    /// The cluster; `None` where the reference is broken.
    pub cluster: Option<String>,
    /// How the cluster is reached.
    pub how: Vec<String>,
    /// Its endpoints.
    pub endpoints: Vec<String>,
    /// The request as they get it; `None` where nothing is sent.
    pub sent: Option<Sent>,
    /// Filters of this backend only.
    pub filters: Vec<Filter>,
    /// What the client gets in place of an answer from the backend.
    pub refused: Option<String>,
}

impl Journey {
    /// Whether the request is answered as some rule says: by a backend with endpoints, or by a redirect.
    pub fn arrives(&self) -> bool {
        let served = self.backends.iter().any(|backend| backend.share > 0.0 && backend.refused.is_none());
        served || self.location.is_some()
    }
}

/// Follows the request through the snapshot.
pub(super) fn trace(snapshot: &Snapshot, ports: PortMap, question: &Question) -> Journey {
    let tls = question.url.scheme_str() == Some("https");
    let port = ports.bind(question.url.port_u16().unwrap_or(if tls { 443 } else { 80 }));
    let raw_host = question.url.host().unwrap_or_default();
    let target = question.url.path_and_query().map_or("/", |target| target.as_str());
    let scheme = if tls { "https" } else { "http" };
    let mut journey =
        Journey { request: format!("{} {scheme}://{raw_host}:{port}{target}", question.method), ..Journey::default() };
    let (Ok(host), Ok(path)) = (normalise::host(raw_host), normalise::path(question.url.path())) else {
        journey.answer = Some("400: the host or the path of this URL is malformed".into());
        return journey;
    };
    let request = RequestView {
        host: &host,
        path: &path,
        query: question.url.query(),
        method: &question.method,
        headers: &question.headers,
    };
    if let Err(why) = listen(&mut journey, snapshot, port, tls, &host) {
        journey.hints.extend(why);
        return journey;
    }
    let probe = Probe::new(snapshot, Conditions::All);
    journey.hints.extend(
        probe
            .rejections
            .iter()
            .map(|rejection| format!("the data plane refuses {}: {}", rejection.id, rejection.reason)),
    );
    match probe.find(port, &request) {
        Some(answering) => match Asked::new(question, port, tls) {
            Ok(asked) => follow(&mut journey, snapshot, &answering, &asked, tls),
            Err(answer) => journey.answer = Some(answer),
        },
        None => {
            journey.answer = Some("404: no rule matches".into());
            journey.hints.extend(near_misses(snapshot, &probe, port, &request));
        }
    }
    journey
}

/// The listener; otherwise, why there is none.
fn listen(journey: &mut Journey, snapshot: &Snapshot, port: u16, tls: bool, host: &str) -> Result<(), Vec<String>> {
    let on_port: Vec<_> = listeners(snapshot).filter(|(_, listener)| listener.port == port).collect();
    if on_port.is_empty() {
        journey.answer = Some(format!("connection refused: nothing listens on port {port}"));
        let ports: BTreeSet<_> = listeners(snapshot).map(|(_, listener)| listener.port).collect();
        let ports: Vec<_> = ports.iter().map(u16::to_string).collect();
        return Err(vec![match ports.as_slice() {
            [] => "there is no listener at all: no Ingress of this class has a rule, and no Gateway of this class a valid listener".into(),
            ports => format!("there are listeners on {}", ports.join(", ")),
        }]);
    }
    let speaks_tls = on_port.iter().any(|(_, listener)| matches!(listener.protocol, Protocol::Https(_)));
    if speaks_tls != tls {
        let (spoken, asked) = if tls { ("plain HTTP", "https") } else { ("HTTP over TLS", "http") };
        journey.answer = Some("connection closed: the port speaks another protocol".into());
        return Err(vec![format!("port {port} speaks {spoken}, but the URL says {asked}")]);
    }
    let best = on_port
        .iter()
        .map(|(_, listener)| &listener.hostname)
        .filter(|pattern| matches(pattern, host))
        .min_by_key(|pattern| precedence(pattern));
    let Some(hostname) = best.cloned() else {
        journey.answer = Some("404: no listener on this port is for this host".into());
        return Err(vec![known_hosts(
            on_port.iter().map(|(_, listener)| &listener.hostname),
            "listeners on this port",
        )]);
    };
    let same: Vec<_> = on_port.iter().filter(|(_, listener)| listener.hostname == hostname).collect();
    journey.listener = Some(ListenerStep {
        names: same.iter().map(|(name, _)| (*name).to_owned()).collect(),
        port,
        hostname: hostname.to_string(),
        certificate: same.iter().find_map(|(_, listener)| certificate(snapshot, listener, host)),
    });
    match &mut journey.listener {
        Some(ListenerStep { certificate: None, .. }) if tls => {
            journey.answer =
                Some("the TLS handshake is refused: there is no certificate for this host and no default".into());
            Err(Vec::new())
        }
        _ => Ok(()),
    }
}

fn certificate(snapshot: &Snapshot, listener: &snapshot::Listener, host: &str) -> Option<CertificateStep> {
    let Protocol::Https(tls) = &listener.protocol else { return None };
    let named =
        tls.certificates.iter().flat_map(|entry| entry.hosts.iter().map(move |pattern| (pattern, &entry.certificate)));
    let best = named.filter(|(pattern, _)| matches(pattern, host)).min_by_key(|(pattern, _)| precedence(pattern));
    let (chosen_by, name) = match (best, &tls.default_certificate) {
        (Some((pattern, name)), _) => (Some(pattern.to_string()), name),
        (None, Some(name)) => (None, name),
        (None, None) => return None,
    };
    let summary = match snapshot.get(&ResourceId::new(Kind::Certificate, name))?.resource().as_ref() {
        Resource::Certificate(certificate) => certificate.summary.clone(),
        _ => return None,
    };
    Some(CertificateStep { name: name.clone(), summary, chosen_by })
}

fn follow(journey: &mut Journey, snapshot: &Snapshot, answering: &Answering<'_, '_>, asked: &Asked, tls: bool) {
    let place = &answering.place;
    let rule = place.rule;
    journey.host = Some(place.host.to_string());
    journey.rule = Some(RuleStep {
        route: place.route.to_owned(),
        name: rule.name.clone(),
        matched: place.selector.to_string(),
        filters: rule.filters.iter().filter(|filter| acts(filter, tls)).cloned().collect(),
        origins: rule.origins.clone(),
        limits: describe::limits(rule),
    });
    let outgoing = match asked.through(&answering.rule.filters, answering.matched, asked.outgoing()) {
        Ok(outgoing) => outgoing,
        Err(answered) => {
            (journey.answer, journey.location) = (Some(answered.text), answered.location);
            return;
        }
    };
    let backends = match &rule.action {
        Action::Refuse(refusal) => {
            journey.answer = Some(describe::refusal(*refusal).to_owned());
            return;
        }
        Action::Forward(backends) => backends,
    };
    let sum: f64 = backends.iter().map(|backend| f64::from(backend.weight)).sum();
    if sum == 0.0 {
        journey.answer = Some("500: the weights of all backends are 0".into());
    }
    journey.backends = backends.iter().map(|backend| step(snapshot, backend, sum)).collect();
    let route::Action::Forward(compiled) = &answering.rule.action else { return };
    for (step, backend) in journey.backends.iter_mut().zip(compiled.iter()).filter(|(step, _)| step.refused.is_none()) {
        match asked.through(&backend.filters, answering.matched, outgoing.clone()) {
            Ok(outgoing) => step.sent = Some(Sent::of(&outgoing)),
            Err(answered) => step.refused = Some(answered.text),
        }
    }
}

/// Whether a filter does anything on such a connection.
fn acts(filter: &Filter, tls: bool) -> bool {
    match filter {
        Filter::StrictTransportSecurity(_) => tls,
        Filter::HttpsRedirect(_) => !tls,
        _ => true,
    }
}

fn step(snapshot: &Snapshot, backend: &snapshot::Backend, sum: f64) -> BackendStep {
    let share = if sum > 0.0 { f64::from(backend.weight) / sum * 100.0 } else { 0.0 };
    let filters = backend.filters.clone();
    let refuse = |refusal: Refusal| Some(describe::refusal(refusal).to_owned());
    let mut step = BackendStep {
        share,
        cluster: None,
        how: Vec::new(),
        endpoints: Vec::new(),
        sent: None,
        filters,
        refused: None,
    };
    let name = match &backend.target {
        Target::Cluster(name) => name,
        Target::Refuse(refusal) => return BackendStep { refused: refuse(*refusal), ..step },
    };
    step.cluster = Some(name.clone());
    let Some(Resource::Cluster(cluster)) = resource(snapshot, Kind::Cluster, name) else {
        return BackendStep { refused: refuse(Refusal::Unavailable), ..step };
    };
    step.how = describe::cluster(cluster);
    match resource(snapshot, Kind::Endpoints, &cluster.endpoints) {
        Some(Resource::Endpoints(Endpoints::Addresses(addresses))) => {
            step.endpoints = addresses.iter().map(|endpoint| endpoint.address.to_string()).collect();
        }
        Some(Resource::Endpoints(Endpoints::Dns { name, port })) => {
            step.endpoints = vec![format!("{name}:{port} (resolved by DNS)")]
        }
        _ => {}
    }
    if step.endpoints.is_empty() {
        step.refused = Some("503: the Service has no ready endpoint".into());
    }
    step
}

fn resource<'s>(snapshot: &'s Snapshot, kind: Kind, name: &str) -> Option<&'s Resource> {
    snapshot.get(&ResourceId::new(kind, name)).map(|held| held.resource().as_ref())
}

/// How many rules or hosts a hint names.
const ENOUGH: usize = 8;

fn near_misses(snapshot: &Snapshot, probe: &Probe<'_>, port: u16, request: &RequestView<'_>) -> Vec<String> {
    if let Some(Answering { place, .. }) = Probe::new(snapshot, Conditions::Path).find(port, request) {
        let condition = place.selector;
        return vec![format!("{} comes closest: its path fits, but it asks for {condition}", place.rule.name)];
    }
    let on_port = |place: &&Place<'_>| match resource(snapshot, Kind::Listener, place.listener) {
        Some(Resource::Listener(listener)) => listener.port == port,
        _ => false,
    };
    let places: Vec<_> = probe.places().iter().filter(on_port).collect();
    let here: BTreeSet<_> = places
        .iter()
        .filter(|place| matches(place.host, request.host))
        .map(|place| format!("{} for {}", place.selector, place.rule.name))
        .collect();
    if here.is_empty() {
        return vec![known_hosts(places.iter().map(|place| place.host), "rules on this port")];
    }
    let more = here.len().saturating_sub(ENOUGH);
    let mut hints: Vec<_> = here.into_iter().take(ENOUGH).map(|known| format!("the host has {known}")).collect();
    if more > 0 {
        hints.push(format!("and {more} more"));
    }
    hints
}

fn known_hosts<'a>(patterns: impl Iterator<Item = &'a HostPattern>, whose: &str) -> String {
    let hosts: BTreeSet<_> = patterns.map(ToString::to_string).collect();
    let dots = if hosts.len() > ENOUGH { ", ..." } else { "" };
    match hosts.is_empty() {
        true => format!("there are no {whose}"),
        false => format!("the {whose} are for {}{dots}", hosts.into_iter().take(ENOUGH).collect::<Vec<_>>().join(", ")),
    }
}

fn matches(pattern: &HostPattern, host: &str) -> bool {
    let labels = |suffix: &str| host.strip_suffix(suffix)?.strip_suffix('.').filter(|labels| !labels.is_empty());
    match pattern {
        HostPattern::Exact(name) => name == host,
        HostPattern::OneLabel(suffix) => labels(suffix).is_some_and(|labels| !labels.contains('.')),
        HostPattern::AnyLabels(suffix) => labels(suffix).is_some(),
        HostPattern::Any => true,
    }
}

/// Smaller is more specific: exact, then the longest wildcard, then any.
fn precedence(pattern: &HostPattern) -> (u8, usize) {
    match pattern {
        HostPattern::Exact(_) => (0, 0),
        HostPattern::OneLabel(suffix) | HostPattern::AnyLabels(suffix) => (1, usize::MAX - suffix.len()),
        HostPattern::Any => (2, 0),
    }
}

/// The findings about objects that the journey names; all of them when it comes to no rule.
pub(super) fn concerning(journey: &Journey, findings: Vec<Finding>) -> Vec<Finding> {
    let Some(rule) = &journey.rule else { return findings };
    let clusters = journey.backends.iter().filter_map(|backend| backend.cluster.as_deref());
    let named = |object: &str| {
        // A cluster is named after its Service and port: `Service/shop/cart:80`.
        let service = object.replacen(' ', "/", 1) + ":";
        let of_rule = rule.name.strip_prefix(object).is_some_and(|rest| rest.is_empty() || rest.starts_with(' '));
        of_rule
            || clusters.clone().any(|cluster| cluster.starts_with(&service))
            || rule.origins.iter().any(|origin| origin.contains(object))
    };
    findings.into_iter().filter(|finding| !finding.object.is_empty() && named(&finding.object)).collect()
}
