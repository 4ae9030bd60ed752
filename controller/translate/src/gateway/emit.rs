//! Routes as parts of a Gateway's snapshot.

use std::collections::BTreeMap;

use snapshot::{
    Action, Attachment, BackendProtocol, BackendTls, Cluster, Filter, HostPattern, L4Backend, L4Route, Persistence,
    Refusal, Resource, Route, Rule, Target,
};

use super::View;
use super::backends::{Backend, Port};
use super::filters::Step;
use super::listeners::Owner;
use super::outcome::Part;
use super::protocol::Protocol;
use super::route_kind::RouteKind;
use super::rules::{self, ParsedRule, Rules, Work};
use crate::context::Context;
use crate::policy::{TlsToBackend, Traffic};
use crate::{Kind, ObjectKey};

/// Puts a route into a Gateway's snapshot: `HTTPRoute/ns/name@ns/gateway`, and once more with `/listener` for each
/// listener that has a policy of its own.
pub(super) fn route<R: RouteKind>(
    context: &Context,
    part: &mut Part,
    view: &View,
    route: &R,
    rules: &Rules,
    listeners: BTreeMap<usize, Vec<HostPattern>>,
) {
    let key = ObjectKey::of(route.metadata());
    let served = listeners.into_iter().filter_map(|(index, hostnames)| {
        let listener = view.listeners.get(index).filter(|listener| listener.is_served())?;
        Some((listener, Attachment { listener: listener.id(), hostnames }))
    });
    match R::KIND {
        Kind::HTTPRoute | Kind::GRPCRoute => {
            let mut groups: BTreeMap<Option<&str>, Vec<Attachment>> = BTreeMap::new();
            for (listener, attachment) in served {
                let name = listener.spec.name.as_str();
                let own = matches!(listener.owner, Owner::Gateway(_));
                let group = (own && context.policies.singles_out(&view.key, name)).then_some(name);
                groups.entry(group).or_default().push(attachment);
            }
            for (listener, attachments) in groups {
                http::<R>(context, part, view, &key, rules, listener, attachments);
            }
        }
        _ => {
            let mut groups: BTreeMap<Encryption, Vec<Attachment>> = BTreeMap::new();
            for (listener, attachment) in served {
                let group = match listener.protocol {
                    Some(Protocol::TlsPassthrough) => Encryption::EndToEnd,
                    _ => Encryption::ByPolicy,
                };
                groups.entry(group).or_default().push(attachment);
            }
            for (encryption, attachments) in groups {
                l4(context, part, Place { view, encryption }, route, &key, rules, attachments);
            }
        }
    }
}

/// Where the resources of a route go.
#[derive(Clone, Copy)]
struct Place<'p> {
    view: &'p View<'p>,
    encryption: Encryption,
}

/// Who decides whether connections to backends are encrypted.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Encryption {
    /// BackendTLSPolicies.
    ByPolicy,
    /// The client, whose TLS is passed on as it is.
    EndToEnd,
}

fn http<R: RouteKind>(
    context: &Context,
    part: &mut Part,
    view: &View,
    key: &ObjectKey,
    rules: &Rules,
    listener: Option<&str>,
    attachments: Vec<Attachment>,
) {
    let place = Place { view, encryption: Encryption::ByPolicy };
    let policies = &context.policies;
    let build = |rule: &ParsedRule| {
        let mut filters = Vec::new();
        let mut origins = Vec::new();
        let traffic = policies.for_rule(&view.key, listener, R::KIND, key, rule.section.as_deref());
        if let Some(Traffic::Limited(limits)) = traffic {
            (filters, origins) = limits.iter().cloned().unzip();
        }
        let refuse = |refusal| (Action::Refuse(refusal), rules::no_timeouts(), None, None);
        let (action, timeouts, retry, persistence) = match (&rule.work, traffic) {
            (None, _) => refuse(Refusal::Unsupported),
            (Some(_), Some(Traffic::Refused(why))) => {
                origins.push(why.clone());
                refuse(Refusal::Unavailable)
            }
            (Some(work), _) => match steps(context, part, place, &work.filters, &mut origins) {
                Err(refusal) => refuse(refusal),
                Ok(steps) => {
                    filters.extend(steps);
                    let persistence = work.persistence.as_ref().map(|sessions| sessions.named(&rule.name));
                    let action = action(context, part, place, work, &mut origins);
                    (action, work.timeouts.clone(), work.retry.clone(), persistence)
                }
            },
        };
        Rule {
            name: rule.name.clone(),
            matches: rule.matches.clone(),
            filters,
            action,
            timeouts,
            retry,
            persistence,
            max_body: None,
            origins,
        }
    };
    let rules = rules.rules.iter().map(build).collect();
    let suffix = listener.map(|name| format!("/{name}")).unwrap_or_default();
    let route = Resource::Route(Route { attachments, rules });
    part.insert(format!("{}/{key}@{}{suffix}", R::KIND, view.key), route);
}

/// `Kind/ns/name@ns/gateway`, with `/passthrough` for listeners that leave TLS closed.
fn l4<R: RouteKind>(
    context: &Context,
    part: &mut Part,
    place: Place,
    route: &R,
    key: &ObjectKey,
    rules: &Rules,
    attachments: Vec<Attachment>,
) {
    let mut origins = Vec::new();
    let work = rules.rules.iter().find_map(|rule| rule.work.as_ref());
    let backends = work.map(|work| work.backends.as_slice()).unwrap_or_default();
    let backend = |backend: &Backend| L4Backend {
        weight: backend.weight,
        target: target(context, part, place, backend, &mut origins),
    };
    let route = L4Route {
        name: format!("{} {key}", R::KIND),
        attachments,
        rank: rules::rank(route, 0, 0),
        backends: backends.iter().map(backend).collect(),
    };
    let suffix = match place.encryption {
        Encryption::ByPolicy => "",
        Encryption::EndToEnd => "/passthrough",
    };
    let name = format!("{}/{key}@{}{suffix}", R::KIND, place.view.key);
    part.insert(name, Resource::L4Route(route));
}

fn action(context: &Context, part: &mut Part, place: Place, work: &Work, origins: &mut Vec<String>) -> Action {
    let redirects = work.filters.iter().any(Step::is_redirect);
    if work.backends.is_empty() || redirects {
        return Action::Refuse(Refusal::InvalidBackend);
    }
    let backend = |backend: &Backend| {
        let weight = backend.weight;
        match steps(context, part, place, &backend.filters, origins) {
            Ok(filters) => {
                snapshot::Backend { weight, target: target(context, part, place, backend, origins), filters }
            }
            Err(refusal) => snapshot::Backend { weight, target: Target::Refuse(refusal), filters: Vec::new() },
        }
    };
    Action::Forward(work.backends.iter().map(backend).collect())
}

/// The filters of a rule or a backend. A mirror that leads nowhere is left out: it protects nothing. Where nobody can be asked
/// whether requests may pass, they are refused.
fn steps(
    context: &Context,
    part: &mut Part,
    place: Place,
    steps: &[Step],
    origins: &mut Vec<String>,
) -> Result<Vec<Filter>, Refusal> {
    let mut filter = |step: &Step| match step {
        Step::Filter(filter) => Ok(Some(filter.clone())),
        Step::Mirror(mirror) => {
            let (numerator, denominator) = (mirror.numerator, mirror.denominator);
            let port = mirror.target.as_ref().ok();
            let cluster = port.and_then(|port| cluster(context, part, place, port, origins));
            Ok(cluster.map(|cluster| Filter::Mirror(snapshot::Mirror { cluster, numerator, denominator })))
        }
        Step::ExternalAuth(auth) => {
            let port = auth.target.as_ref().map_err(|_| Refusal::InvalidBackend)?;
            let cluster = cluster(context, part, place, port, origins).ok_or(Refusal::Unavailable)?;
            let (protocol, max_body) = (auth.protocol.clone(), auth.max_body);
            Ok(Some(Filter::ExternalAuth(snapshot::ExternalAuth { cluster, protocol, max_body })))
        }
    };
    steps.iter().filter_map(|step| filter(step).transpose()).collect()
}

fn target(context: &Context, part: &mut Part, place: Place, backend: &Backend, origins: &mut Vec<String>) -> Target {
    match &backend.target {
        Ok(port) => match cluster(context, part, place, port, origins) {
            Some(cluster) => Target::Cluster(cluster),
            None => Target::Refuse(Refusal::Unavailable),
        },
        Err(_) => Target::Refuse(Refusal::InvalidBackend),
    }
}

/// The cluster of a port; `None` where a policy forbids to send it anything.
fn cluster(
    context: &Context,
    part: &mut Part,
    place: Place,
    backend: &Port,
    origins: &mut Vec<String>,
) -> Option<String> {
    let port = &backend.port;
    let tls = backend.tls.as_deref().filter(|_| place.encryption == Encryption::ByPolicy);
    let (name, protocol) = match tls {
        None => (backend.cluster.clone(), backend.protocol.clone()),
        Some(TlsToBackend::Refused(why)) => {
            origins.push(why.clone());
            return None;
        }
        Some(TlsToBackend::Speak(tls, origin)) => {
            origins.push(format!("Service {}: {origin}", port.id()));
            encrypted(backend, BackendTls { client_certificate: place.view.client_certificate.clone(), ..tls.clone() })
        }
    };
    let settings = context.policies.for_service(&port.key, port.name);
    origins.extend(settings.origins.values().map(|origin| format!("Service {}: {origin}", port.id())));
    part.insert_cluster(context, name.clone(), port, |endpoints| Cluster {
        endpoints,
        protocol,
        balancer: settings.balancer.unwrap_or(snapshot::Balancer::RoundRobin),
        persistence: settings.sessions(&port.key).map(Persistence::Session),
        passive_health: settings.passive_health,
    });
    Some(name)
}

/// What is spoken with a port, over TLS, and the name of the cluster that does. A TLSRoute may reach the same port with and without, and
/// Gateways that share data planes may show it different certificates.
fn encrypted(backend: &Port, tls: BackendTls) -> (String, BackendProtocol) {
    let shown = tls.client_certificate.as_ref().map(|certificate| format!("@{certificate}")).unwrap_or_default();
    let name = format!("{}{shown}", backend.cluster);
    match &backend.protocol {
        BackendProtocol::Http1 => (name, BackendProtocol::Https(tls)),
        BackendProtocol::Http2 => (name, BackendProtocol::Http2Tls(tls)),
        BackendProtocol::Tcp => (format!("Service/{}/tls{shown}", backend.port.id()), BackendProtocol::Tls(tls)),
        other => (backend.cluster.clone(), other.clone()),
    }
}
