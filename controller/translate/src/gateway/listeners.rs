//! The listeners of one Gateway, each judged by itself and beside the others.

use std::collections::BTreeMap;

use crds::gateway::{self, GROUP, Gateway, RouteGroupKind};
use kube_core::{Selector, SelectorExt};
use snapshot::{HostPattern, Tls};

use super::hostname;
use crate::{Kind, PortMap};

/// A listener as far as the Gateway alone tells.
pub(super) struct Listener<'a> {
    /// As written.
    pub spec: &'a gateway::Listener,
    /// The port to bind; 0 when `spec.port` is none.
    pub port: u16,
    /// The names that it answers for.
    pub hostname: HostPattern,
    /// What it speaks; `None` when that is not supported.
    pub protocol: Option<Protocol>,
    /// The kinds of routes that may attach.
    pub kinds: Vec<RouteGroupKind>,
    /// Kinds that it allows but that cannot attach: a sentence.
    pub invalid_kinds: Option<String>,
    /// The namespaces whose routes may attach.
    pub namespaces: AllowedNamespaces,
    /// Why it cannot be used: a reason and a sentence.
    pub unusable: Option<(&'static str, String)>,
    /// With which others it competes for a port: a reason and a sentence.
    pub conflict: Option<(&'static str, String)>,
    /// Other HTTPS listeners that answer for some of its names: a sentence.
    pub overlap: Option<String>,
    /// How TLS is terminated; `None` for plain listeners, and where no certificate can be used.
    pub tls: Option<Tls>,
    /// Why certificates cannot be used: a reason and a sentence.
    pub unresolved: Option<(&'static str, String)>,
    /// How many routes are attached.
    pub attached: i32,
}

impl Listener<'_> {
    /// What data planes are told to speak; `None` when they do not hear of this listener.
    pub fn serves(&self) -> Option<snapshot::Protocol> {
        match (self.unusable.is_some() || self.conflict.is_some(), self.protocol?) {
            (true, _) => None,
            (false, Protocol::Http) => Some(snapshot::Protocol::Http),
            (false, Protocol::Https) => self.tls.clone().map(snapshot::Protocol::Https),
        }
    }
}

/// The supported protocols.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    /// Plain.
    Http,
    /// Over TLS, terminated here.
    Https,
}

/// The namespaces whose routes may attach to a listener.
#[derive(Debug)]
pub(super) enum AllowedNamespaces {
    /// Every one.
    All,
    /// That of the Gateway.
    Same,
    /// Those with matching labels.
    Selected(Selector),
    /// What is written means none.
    Nobody,
}

impl AllowedNamespaces {
    /// Whether a route of a namespace with these labels may attach under a Gateway of `gateway`.
    pub fn allow(&self, gateway: &str, namespace: &str, labels: &BTreeMap<String, String>) -> bool {
        match self {
            Self::All => true,
            Self::Same => gateway == namespace,
            Self::Selected(selector) => selector.matches(labels),
            Self::Nobody => false,
        }
    }
}

/// Judges the listeners of a Gateway, in its order.
pub(super) fn judge(gateway: &Gateway, ports: PortMap) -> Vec<Listener<'_>> {
    let mut listeners: Vec<_> = gateway.spec.listeners.iter().map(|spec| alone(spec, ports)).collect();
    let beside: Vec<_> =
        (0..listeners.len()).map(|index| (conflict(&listeners, index), overlap(&listeners, index))).collect();
    for (listener, (conflict, overlap)) in listeners.iter_mut().zip(beside) {
        listener.conflict = conflict;
        listener.overlap = overlap;
    }
    listeners
}

fn alone(spec: &gateway::Listener, ports: PortMap) -> Listener<'_> {
    let protocol = match spec.protocol.as_str() {
        "HTTP" => Some(Protocol::Http),
        "HTTPS" => Some(Protocol::Https),
        _ => None,
    };
    let (namespaces, unreadable) = namespaces(spec);
    let port = u16::try_from(spec.port).unwrap_or_default();
    let unusable = if protocol.is_none() {
        let message = format!("protocol {:?} is not supported: use HTTP or HTTPS", spec.protocol);
        Some(("UnsupportedProtocol", message))
    } else if spec.tls.as_ref().is_some_and(|tls| tls.mode.as_deref() == Some("Passthrough")) {
        Some(("UnsupportedValue", "tls.mode Passthrough is not supported here: use Terminate".into()))
    } else if port == 0 {
        Some(("PortUnavailable", format!("{} is not a port: choose one from 1 to 65535", spec.port)))
    } else {
        unreadable.map(|message| ("Invalid", message))
    };
    let (kinds, invalid_kinds) = kinds(spec, protocol);
    Listener {
        spec,
        port: ports.bind(port),
        hostname: hostname::pattern(spec.hostname.as_deref()),
        protocol,
        kinds,
        invalid_kinds,
        namespaces,
        unusable,
        conflict: None,
        overlap: None,
        tls: None,
        unresolved: None,
        attached: 0,
    }
}

fn kinds(spec: &gateway::Listener, protocol: Option<Protocol>) -> (Vec<RouteGroupKind>, Option<String>) {
    let asked = spec.allowed_routes.as_ref().and_then(|allowed| allowed.kinds.as_deref()).unwrap_or_default();
    if protocol.is_none() {
        return (Vec::new(), None);
    }
    let http_route = RouteGroupKind { group: Some(GROUP.into()), kind: Kind::HTTPRoute.name().into() };
    if asked.is_empty() {
        return (vec![http_route], None);
    }
    let is_http_route =
        |kind: &&RouteGroupKind| kind.kind == http_route.kind && kind.group.as_deref().unwrap_or(GROUP) == GROUP;
    let wrong: Vec<_> = asked.iter().filter(|kind| !is_http_route(kind)).map(|kind| kind.kind.as_str()).collect();
    let kinds = if asked.iter().any(|kind| is_http_route(&kind)) { vec![http_route] } else { Vec::new() };
    let message = format!(
        "routes of kind {} cannot attach to a listener of protocol {}: name HTTPRoute in allowedRoutes.kinds",
        wrong.join(", "),
        spec.protocol
    );
    (kinds, (!wrong.is_empty()).then_some(message))
}

fn namespaces(spec: &gateway::Listener) -> (AllowedNamespaces, Option<String>) {
    let allowed = spec.allowed_routes.as_ref().and_then(|allowed| allowed.namespaces.as_ref());
    let selector = allowed.and_then(|allowed| allowed.selector.clone()).unwrap_or_default();
    match allowed.and_then(|allowed| allowed.from.as_deref()).unwrap_or("Same") {
        "All" => (AllowedNamespaces::All, None),
        "Same" => (AllowedNamespaces::Same, None),
        "None" => (AllowedNamespaces::Nobody, None),
        "Selector" => match Selector::try_from(selector) {
            Ok(selector) => (AllowedNamespaces::Selected(selector), None),
            Err(error) => {
                let message = format!("allowedRoutes.namespaces.selector cannot be read ({error}): correct it");
                (AllowedNamespaces::Nobody, Some(message))
            }
        },
        other => {
            let message = format!("allowedRoutes.namespaces.from is {other:?}: use All, Same or Selector");
            (AllowedNamespaces::Nobody, Some(message))
        }
    }
}

/// Inside one Gateway nobody wins: all listeners that claim the same are in conflict.
fn conflict(listeners: &[Listener], index: usize) -> Option<(&'static str, String)> {
    let this = listeners.get(index)?;
    let usable = |listener: &Listener| listener.unusable.is_none();
    let rivals = || {
        let others = listeners.iter().enumerate().filter(|(other, _)| *other != index).map(|(_, other)| other);
        others.filter(|other| usable(other) && other.port == this.port)
    };
    if !usable(this) {
        None
    } else if let Some(rival) = rivals().find(|rival| rival.protocol != this.protocol) {
        let message = format!(
            "port {} is asked for with protocol {} here and {} by listener {}: use another port",
            this.spec.port, this.spec.protocol, rival.spec.protocol, rival.spec.name
        );
        Some(("ProtocolConflict", message))
    } else {
        rivals().find(|rival| rival.hostname == this.hostname).map(|rival| {
            let message = format!(
                "listener {} has the same port and hostname ({} and {}): change one of the two",
                rival.spec.name, rival.spec.port, rival.hostname
            );
            ("HostnameConflict", message)
        })
    }
}

/// A connection that a client opened for one of two overlapping listeners may be used for the other's names (RFC 9110, 7.4).
fn overlap(listeners: &[Listener], index: usize) -> Option<String> {
    let this = listeners.get(index)?;
    let https = |listener: &Listener| listener.protocol == Some(Protocol::Https) && listener.unusable.is_none();
    let others = listeners.iter().enumerate().filter(|(other, _)| *other != index).map(|(_, other)| other);
    let overlapping = others.filter(|other| {
        https(other) && other.port == this.port && hostname::intersection(&other.hostname, &this.hostname).is_some()
    });
    let names: Vec<_> = overlapping.map(|other| other.spec.name.as_str()).collect();
    (https(this) && !names.is_empty())
        .then(|| format!("listener {} on the same port answers for some of the same names", names.join(", ")))
}
