//! What would take a request if it were served: routes that are refused, and listeners.

use std::collections::BTreeSet;

use crds::gateway::{HTTPPathMatch, HTTPRoute, Listener, ListenerStatus, ParentReference};
use dataplane::normalise;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use translate::{Kind, ObjectKey, PortMap, Resources, Stored, Translation};

use super::Question;
use super::spoken::Spoken;
use crate::folder::Folder;

/// An object that is not served as written.
pub(super) struct Refused {
    /// Kind and name, for example `HTTPRoute shop/cart`.
    pub(super) object: String,
    /// The end of a sentence that begins with the object.
    pub(super) why: String,
}

/// What a question is about.
struct Asked {
    spoken: Spoken,
    host: String,
    path: String,
    port: u16,
    ports: PortMap,
}

/// The routes and listeners that are for this request and refused; those of another host, path or port are left out.
pub(super) fn concerning(
    folder: &Folder,
    translation: &Translation,
    ports: PortMap,
    question: &Question,
) -> Vec<Refused> {
    let spoken = Spoken::of(&question.url);
    let port = ports.bind(question.url.port_u16().or(spoken.default_port()).unwrap_or_default());
    let host = question.url.host().and_then(|host| normalise::host(host).ok()).unwrap_or_default().into_owned();
    let path = normalise::path(question.url.path()).map_or_else(|_| String::new(), |path| path.matched.into_owned());
    let asked = Asked { spoken, host, path, port, ports };
    let resources = folder.resources();
    let mut found = listeners(resources, translation, &asked);
    for ((kind, key), parents) in &translation.statuses.routes {
        if !asked.is_for(resources, *kind, key) {
            continue;
        }
        let bad = |type_: &str, status: &str| -> BTreeSet<String> {
            let conditions = parents.iter().flat_map(|parent| &parent.conditions);
            conditions.filter(|one| one.type_ == type_ && one.status == status).map(said).collect()
        };
        let mut reasons = bad("Accepted", "False");
        if reasons.is_empty() {
            reasons = bad("PartiallyInvalid", "True");
            reasons.append(&mut bad("ResolvedRefs", "False"));
        }
        if parents.is_empty() {
            reasons.insert("none of its parentRefs is a Gateway of this class in this folder (NoParent)".into());
        }
        let object = format!("{kind} {key}");
        found.extend(
            reasons
                .into_iter()
                .map(|why| Refused { object: object.clone(), why: format!("would be for this, but: {why}") }),
        );
    }
    found
}

fn said(condition: &Condition) -> String {
    format!("{} ({})", condition.message.trim_end_matches('.'), condition.reason)
}

/// Listeners for the port and host that are not served.
fn listeners(resources: &Resources, translation: &Translation, asked: &Asked) -> Vec<Refused> {
    let statuses = &translation.statuses;
    let gateways = resources.gateways.iter().filter_map(|(key, entry)| {
        let status = statuses.gateways.get(key)?;
        Some((format!("Gateway {key}"), &entry.current.spec.listeners, &status.listeners, &status.conditions))
    });
    let sets = resources.listener_sets.iter().filter_map(|(key, entry)| {
        let status = statuses.listener_sets.get(key)?;
        Some((format!("ListenerSet {key}"), &entry.current.spec.listeners, &status.listeners, &status.conditions))
    });
    let mut found = Vec::new();
    for (object, listeners, judged, conditions) in gateways.chain(sets) {
        let mut of_this: Vec<_> = listeners.iter().filter(|listener| asked.is_listened(listener)).collect();
        of_this.dedup_by(|one, other| one.name == other.name);
        let refused = conditions.iter().flatten().find(|one| one.type_ == "Accepted" && one.status == "False");
        if let (Some(condition), false) = (refused, of_this.is_empty()) {
            found.push(Refused {
                object: object.clone(),
                why: format!("is not served as written: {}", said(condition)),
            });
        }
        for listener in of_this {
            let of_listener = |status: &&ListenerStatus| status.name == listener.name;
            let conditions = judged.iter().flatten().filter(of_listener).flat_map(|status| &status.conditions);
            let bad =
                |one: &&Condition| matches!(one.type_.as_str(), "Accepted" | "ResolvedRefs") && one.status == "False";
            let reasons: BTreeSet<_> = conditions.filter(bad).map(said).collect();
            found.extend(reasons.into_iter().map(|why| {
                let why = format!("has listener {} for this, but: {why}", listener.name);
                Refused { object: object.clone(), why }
            }));
        }
    }
    found
}

impl Asked {
    fn is_listened(&self, listener: &Listener) -> bool {
        let port = u16::try_from(listener.port).unwrap_or_default();
        let datagrams = listener.protocol == "UDP";
        let named = listener.hostname.iter().filter(|_| !matches!(listener.protocol.as_str(), "TCP" | "UDP"));
        self.ports.bind(port) == self.port
            && datagrams == (self.spoken == Spoken::Udp)
            && self.is_named(named.map(String::as_str))
    }

    /// Whether the host is one of these; none stand for all.
    fn is_named<'a>(&self, names: impl Iterator<Item = &'a str>) -> bool {
        let mut names = names.filter(|name| !name.is_empty()).peekable();
        let is = |name: &str| match name.strip_prefix('*') {
            Some(suffix) => self.host.strip_suffix(suffix).is_some_and(|labels| !labels.is_empty()),
            None => self.host == name,
        };
        names.peek().is_none() || names.any(is)
    }

    /// Whether a route is written for this, as far as its host names, its paths or its parents' ports tell.
    fn is_for(&self, resources: &Resources, kind: Kind, key: &ObjectKey) -> bool {
        let named = |hostnames: &Option<Vec<String>>| self.is_named(hostnames.iter().flatten().map(String::as_str));
        let with_tls = self.spoken.is_tls();
        let connections = self.spoken != Spoken::Udp;
        match kind {
            Kind::HTTPRoute if self.spoken.is_http() => {
                let route = current::<HTTPRoute>(resources, key);
                route.is_some_and(|route| named(&route.spec.hostnames) && self.is_path_of(route))
            }
            Kind::GRPCRoute if self.spoken.is_http() => {
                current::<crds::gateway::GRPCRoute>(resources, key).is_some_and(|route| named(&route.spec.hostnames))
            }
            Kind::TLSRoute if with_tls => {
                current::<crds::gateway::TLSRoute>(resources, key).is_some_and(|route| named(&route.spec.hostnames))
            }
            Kind::TCPRoute if connections => current::<crds::gateway::TCPRoute>(resources, key)
                .is_some_and(|route| self.is_at(resources, key, &route.spec.parent_refs)),
            Kind::UDPRoute if !connections => current::<crds::gateway::UDPRoute>(resources, key)
                .is_some_and(|route| self.is_at(resources, key, &route.spec.parent_refs)),
            _ => false,
        }
    }

    /// Whether some rule takes the path. A regular expression may.
    fn is_path_of(&self, route: &HTTPRoute) -> bool {
        let takes = |path: &HTTPPathMatch| {
            let value = path.value.as_deref().unwrap_or("/");
            match path.type_.as_deref() {
                Some("Exact") => self.path == value,
                Some("RegularExpression") => true,
                _ => {
                    let rest = self.path.strip_prefix(value.trim_end_matches('/'));
                    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
                }
            }
        };
        let rules = route.spec.rules.as_deref().unwrap_or_default();
        let takes_any = |rule: &crds::gateway::HTTPRouteRule| {
            let matches = rule.matches.as_deref().unwrap_or_default();
            matches.is_empty() || matches.iter().any(|one| one.path.as_ref().is_none_or(takes))
        };
        rules.is_empty() || rules.iter().any(takes_any)
    }

    /// Whether a parent that a route names has a listener on the port.
    fn is_at(&self, resources: &Resources, key: &ObjectKey, parents: &Option<Vec<ParentReference>>) -> bool {
        let on_port = |parent: &ParentReference| {
            let owner = ObjectKey::new(parent.namespace.as_deref().unwrap_or(&key.namespace), &parent.name);
            let listeners = match parent.kind.as_deref() {
                Some("ListenerSet") => resources.listener_sets.get(&owner).map(|set| &set.current.spec.listeners),
                _ => resources.gateways.get(&owner).map(|gateway| &gateway.current.spec.listeners),
            };
            listeners.into_iter().flatten().any(|listener| {
                parent.section_name.as_ref().is_none_or(|name| *name == listener.name)
                    && parent.port.is_none_or(|port| port == listener.port)
                    && self.ports.bind(u16::try_from(listener.port).unwrap_or_default()) == self.port
            })
        };
        parents.iter().flatten().any(on_port)
    }
}

fn current<'r, T: Stored>(resources: &'r Resources, key: &ObjectKey) -> Option<&'r T> {
    T::map(resources).get(key).map(|entry| &*entry.current)
}
