//! The listeners of one Gateway and its ListenerSets, each judged by itself.

use std::fmt;

use crds::gateway::{self, GROUP, RouteGroupKind};
use snapshot::{HostPattern, Tls};

use super::allowed::AllowedNamespaces;
use super::hostname;
use super::protocol::{Protocol, passes_through};
use crate::{Kind, ObjectKey, PortMap, Statuses};

/// A listener as far as its Gateway and its siblings tell.
pub(super) struct Listener<'a> {
    /// Whose it is.
    pub owner: Owner,
    /// The Gateway that it is part of.
    pub gateway: ObjectKey,
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
    /// Other listeners with TLS that answer for some of its names: a sentence.
    pub overlap: Option<String>,
    /// How TLS is terminated; `None` for listeners that do not, and where no certificate can be used.
    pub tls: Option<Tls>,
    /// Why what it refers to cannot be used: the field, a reason and a sentence.
    pub unresolved: Option<Unresolved>,
    /// Certificates that are good for none of its names, by their place in the list: sentences.
    pub strange: Vec<(usize, String)>,
    /// How many routes are attached.
    pub attached: i32,
}

/// The object that holds a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    /// The Gateway itself.
    Gateway(ObjectKey),
    /// A ListenerSet that is attached to it.
    ListenerSet(ObjectKey),
}

impl Owner {
    /// Its name.
    pub fn key(&self) -> &ObjectKey {
        match self {
            Self::Gateway(key) | Self::ListenerSet(key) => key,
        }
    }

    /// Its kind.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Gateway(_) => Kind::Gateway,
            Self::ListenerSet(_) => Kind::ListenerSet,
        }
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind(), self.key())
    }
}

/// A reference of a listener, or of a Gateway for all of its listeners or backends, that leads nowhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unresolved {
    /// The field, below the listener or the Gateway; empty where the message tells.
    pub field: &'static str,
    /// A reason of the condition `ResolvedRefs`.
    pub reason: &'static str,
    /// What is wrong and the remedy.
    pub message: String,
}

impl Listener<'_> {
    /// What data planes are told to speak; `None` when they do not hear of this listener.
    pub fn serves(&self) -> Option<snapshot::Protocol> {
        match self.protocol.filter(|_| self.is_served())? {
            Protocol::Http => Some(snapshot::Protocol::Http),
            Protocol::Https => self.tls.clone().map(snapshot::Protocol::Https),
            Protocol::TlsPassthrough => Some(snapshot::Protocol::TlsPassthrough),
            Protocol::TlsTerminate => self.tls.clone().map(snapshot::Protocol::TlsTerminate),
            Protocol::Tcp => Some(snapshot::Protocol::Tcp),
            Protocol::Udp => Some(snapshot::Protocol::Udp),
        }
    }

    /// Whether data planes hear of this listener.
    pub fn is_served(&self) -> bool {
        let lacks_certificates = self.terminates_tls() && self.tls.is_none();
        self.usable() && self.protocol.is_some() && self.conflict.is_none() && !lacks_certificates
    }

    /// The name in snapshots.
    pub fn id(&self) -> String {
        Statuses::listener(self.owner.kind(), self.owner.key(), &self.spec.name)
    }

    /// Whether it can be used by itself.
    pub fn usable(&self) -> bool {
        self.unusable.is_none()
    }

    /// Whether it can be used and TLS ends at it.
    pub fn terminates_tls(&self) -> bool {
        self.usable() && self.protocol.is_some_and(Protocol::terminates_tls)
    }
}

/// Judges a listener by itself.
pub(super) fn judge<'a>(
    gateway: &ObjectKey,
    owner: &Owner,
    spec: &'a gateway::Listener,
    ports: PortMap,
) -> Listener<'a> {
    let protocol = Protocol::of(spec);
    let allowed = spec.allowed_routes.as_ref().and_then(|allowed| allowed.namespaces.as_ref());
    let (namespaces, unreadable) = AllowedNamespaces::read(allowed, "Same");
    let port = u16::try_from(spec.port).unwrap_or_default();
    let unusable = match protocol {
        None => {
            let message = format!("protocol {:?} is not supported: use HTTP, HTTPS, TLS, TCP or UDP", spec.protocol);
            Some(("UnsupportedProtocol", message))
        }
        Some(Protocol::Https) if passes_through(spec) => {
            Some(("UnsupportedValue", "tls.mode Passthrough needs protocol TLS: change one of the two".into()))
        }
        _ if port == 0 => Some(("PortUnavailable", format!("{} is not a port: choose one from 1 to 65535", spec.port))),
        _ => unreadable.map(|message| ("Invalid", format!("allowedRoutes.namespaces{message}"))),
    };
    let (kinds, invalid_kinds) = kinds(spec, protocol);
    let hostname = spec.hostname.as_deref().filter(|_| protocol.is_none_or(Protocol::has_hostname));
    Listener {
        owner: owner.clone(),
        gateway: gateway.clone(),
        spec,
        port: ports.bind(port),
        hostname: hostname::pattern(hostname),
        protocol,
        kinds,
        invalid_kinds,
        namespaces,
        unusable,
        conflict: None,
        overlap: None,
        tls: None,
        unresolved: None,
        strange: Vec::new(),
        attached: 0,
    }
}

fn kinds(spec: &gateway::Listener, protocol: Option<Protocol>) -> (Vec<RouteGroupKind>, Option<String>) {
    let possible = protocol.map(Protocol::kinds).unwrap_or_default();
    let kind = |kind: &Kind| RouteGroupKind { group: Some(GROUP.into()), kind: kind.name().into() };
    let asked = spec.allowed_routes.as_ref().and_then(|allowed| allowed.kinds.as_deref()).unwrap_or_default();
    if asked.is_empty() || possible.is_empty() {
        return (possible.iter().map(kind).collect(), None);
    }
    let is_asked = |possible: &Kind| {
        asked.iter().any(|kind| kind.kind == possible.name() && kind.group.as_deref().unwrap_or(GROUP) == GROUP)
    };
    let is_possible = |asked: &&RouteGroupKind| {
        possible.iter().any(|kind| kind.name() == asked.kind) && asked.group.as_deref().unwrap_or(GROUP) == GROUP
    };
    let wrong: Vec<_> = asked.iter().filter(|kind| !is_possible(kind)).map(|kind| kind.kind.as_str()).collect();
    let names: Vec<_> = possible.iter().map(|kind| kind.name()).collect();
    let message = format!(
        "routes of kind {} cannot attach to a listener of protocol {}: name {} in allowedRoutes.kinds",
        wrong.join(", "),
        spec.protocol,
        names.join(" or ")
    );
    let kinds = possible.iter().filter(|kind| is_asked(kind)).map(kind).collect();
    (kinds, (!wrong.is_empty()).then_some(message))
}
