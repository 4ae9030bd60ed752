//! The stations of a request.

use std::collections::BTreeSet;

use dataplane::normalise;
use dataplane::route::{self, RequestView};
use serde::Serialize;
use snapshot::{Action, Endpoints, Filter, HostPattern, Kind, Refusal, Resource, ResourceId, Snapshot, Target};
use translate::PortMap;

use super::Question;
use super::connection;
use super::describe;
use super::filtered::{Asked, Sent};
use super::listen::{self, Carries, matches};
use super::probe::{Answering, Conditions, Place, Probe};
use super::spoken::Spoken;
use crate::folder::Finding;

/// How a request travels, as far as it comes.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Journey {
    /// Method and URL, with the port that was meant.
    pub request: String,
    /// What is distributed among backends.
    pub traffic: Traffic,
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
    /// Whether the rule itself answers as it is meant to: with a redirect, or a preflight request of a browser.
    pub answered_by_rule: bool,
    /// What is otherwise in a cluster.
    pub note: Option<String>,
    /// Why no rule answers, and what came close.
    pub hints: Vec<String>,
    /// What is wrong with the objects involved.
    pub findings: Vec<Finding>,
}

/// What is distributed among backends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Traffic {
    /// Each request by itself.
    #[default]
    Requests,
    /// Connections that carry no HTTP, or are not opened here.
    Connections,
    /// Datagrams, each client's as one.
    Datagrams,
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
    /// The certificate that the client is shown; `None` where TLS does not end here, and where the handshake is refused.
    pub certificate: Option<CertificateStep>,
    /// What clients have to show; `None` where nothing is asked for.
    pub clients: Option<String>,
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

/// A rule that matched, or a route of connections or datagrams.
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
    /// Whether the request is answered as some rule says: by a backend with endpoints, or by the rule itself.
    pub fn arrives(&self) -> bool {
        let served = self.backends.iter().any(|backend| backend.share > 0.0 && backend.refused.is_none());
        served || self.answered_by_rule
    }
}

/// Follows the request, or the connection, through the snapshot.
pub(super) fn trace(snapshot: &Snapshot, ports: PortMap, question: &Question) -> Journey {
    let spoken = Spoken::of(&question.url);
    let port = ports.bind(question.url.port_u16().or(spoken.default_port()).unwrap_or_default());
    let raw_host = question.url.host().unwrap_or_default();
    let target = question.url.path_and_query().map_or("/", |target| target.as_str());
    let asked = match spoken.is_http() {
        true => format!("{} {}://{raw_host}:{port}{target}", question.method, spoken.scheme()),
        false => format!("{}://{raw_host}:{port}", spoken.scheme()),
    };
    let mut journey = Journey { request: asked, ..Journey::default() };
    let (Ok(host), Ok(path)) = (normalise::host(raw_host), normalise::path(question.url.path())) else {
        journey.answer = Some("400: the host or the path of this URL is malformed".into());
        return journey;
    };
    match listen::listen(&mut journey, snapshot, port, spoken, &host) {
        Err(why) => {
            journey.hints.extend(why);
            return journey;
        }
        Ok(Carries::Connections { server_name }) => {
            connection::follow(&mut journey, snapshot, port, spoken, server_name);
            return journey;
        }
        Ok(Carries::Requests) => {}
    }
    let request = RequestView {
        host: &host,
        path: &path.matched,
        query: question.url.query(),
        method: &question.method,
        headers: &question.headers,
    };
    let probe = Probe::new(snapshot, Conditions::All);
    journey.hints.extend(
        probe
            .rejections
            .iter()
            .map(|rejection| format!("the data plane refuses {}: {}", rejection.id, rejection.reason)),
    );
    let tls = spoken == Spoken::Https;
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
            journey.answered_by_rule = answered.is_meant;
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
    let of_request = |backend: &snapshot::Backend| {
        let step = step(snapshot, &backend.target, backend.weight, sum, describe::refusal);
        BackendStep { filters: backend.filters.clone(), ..step }
    };
    journey.backends = backends.iter().map(of_request).collect();
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

/// One choice among backends, whose weights come to `sum`. `refusal` says what a client gets where the choice is no good.
pub(super) fn step(
    snapshot: &Snapshot,
    target: &Target,
    weight: u32,
    sum: f64,
    refusal: fn(Refusal) -> &'static str,
) -> BackendStep {
    let refuse = |reason: Refusal| Some(refusal(reason).to_owned());
    let mut step = BackendStep {
        share: if sum > 0.0 { f64::from(weight) / sum * 100.0 } else { 0.0 },
        cluster: None,
        how: Vec::new(),
        endpoints: Vec::new(),
        sent: None,
        filters: Vec::new(),
        refused: None,
    };
    let name = match target {
        Target::Cluster(name) => name,
        Target::Refuse(reason) => return BackendStep { refused: refuse(*reason), ..step },
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
        step.refused = Some(describe::no_endpoint(&cluster.protocol).into());
    }
    step
}

/// The resource of this kind and name.
pub(super) fn resource<'s>(snapshot: &'s Snapshot, kind: Kind, name: &str) -> Option<&'s Resource> {
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

pub(super) fn known_hosts<'a>(patterns: impl Iterator<Item = &'a HostPattern>, whose: &str) -> String {
    let hosts: BTreeSet<_> = patterns.map(ToString::to_string).collect();
    let dots = if hosts.len() > ENOUGH { ", ..." } else { "" };
    match hosts.is_empty() {
        true => format!("there are no {whose}"),
        false => format!("the {whose} are for {}{dots}", hosts.into_iter().take(ENOUGH).collect::<Vec<_>>().join(", ")),
    }
}

/// The findings about objects that the journey names; where it comes to no rule those about what is refused and would take the
/// request, or else all of them.
pub(super) fn concerning(journey: &Journey, refused: &BTreeSet<String>, findings: Vec<Finding>) -> Vec<Finding> {
    let Some(rule) = &journey.rule else {
        // What cannot be read, and Ingresses, may be for this too.
        let about = |finding: &Finding| {
            finding.object.is_empty() || finding.object.starts_with("Ingress ") || refused.contains(&finding.object)
        };
        return findings.into_iter().filter(|finding| refused.is_empty() || about(finding)).collect();
    };
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
