//! What the rules of routes refer to.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;

use crds::gateway::{BackendObjectReference, BackendRef};
use snapshot::BackendProtocol;

use super::expressions::Expressions;
use super::filters::Step;
use super::grants::Grants;
use super::rules::Unusable;
use crate::backends::{PortRef, ServicePort, Services};
use crate::policy::{Policies, TlsToBackend};
use crate::{Kind, ObjectKey};

/// A reference to a backend.
pub(super) struct Backend<'a> {
    /// Its share of the requests.
    pub weight: u32,
    /// Of this backend only.
    pub filters: Vec<Step<'a>>,
    /// What it refers to, or why it refers to nothing.
    pub target: Result<Port<'a>, Unresolved>,
}

/// A port of a Service that exists, and what is spoken there.
#[derive(Clone, Debug)]
pub(super) struct Port<'a> {
    /// The port.
    pub port: ServicePort<'a>,
    /// What is spoken.
    pub protocol: BackendProtocol,
    /// Whether a BackendTLSPolicy asks for more than that, and what.
    pub tls: Option<Arc<TlsToBackend>>,
    /// The name of the cluster: the same port is another cluster for kinds of routes that speak something else with it.
    pub cluster: String,
}

/// A broken reference: a reason of the condition `ResolvedRefs`, and a sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unresolved {
    /// The reason.
    pub reason: &'static str,
    /// What is wrong and the remedy.
    pub message: String,
}

/// Where references lead.
pub(super) struct Backends<'a> {
    /// The Services there are.
    pub services: Rc<Services<'a>>,
    /// Who may refer to other namespaces.
    pub grants: Grants<'a>,
    /// What policies say about them.
    pub policies: Arc<Policies>,
    /// What regular expressions may cost.
    pub expressions: Expressions,
    /// See [`Self::take_asked`].
    asked: RefCell<BTreeSet<ObjectKey>>,
}

impl<'a> Backends<'a> {
    /// Nobody asked yet.
    pub fn new(
        services: Rc<Services<'a>>,
        grants: Grants<'a>,
        policies: Arc<Policies>,
        expressions: Expressions,
    ) -> Self {
        Self { services, grants, policies, expressions, asked: RefCell::default() }
    }

    /// The Services that were looked for since the last call: whoever asked depends on them, and on no others.
    pub fn take_asked(&self) -> BTreeSet<ObjectKey> {
        self.asked.take()
    }

    /// A reference with its share in a route of `kind` and `namespace`. A broken reference is a backend whose share is refused.
    pub fn parse(
        &self,
        kind: Kind,
        namespace: &str,
        reference: &BackendRef,
        filters: Vec<Step<'a>>,
    ) -> Result<Backend<'a>, Unusable> {
        let weight = u32::try_from(reference.weight.unwrap_or(1))
            .map_err(|_| Unusable::new("weight", "a weight is a number from 0 to 1000000"))?;
        Ok(Backend { weight, filters, target: self.resolve(kind, namespace, &reference.object) })
    }

    /// What a reference in a route of `kind` and `namespace` leads to.
    pub fn resolve(
        &self,
        kind: Kind,
        namespace: &str,
        reference: &BackendObjectReference,
    ) -> Result<Port<'a>, Unresolved> {
        self.resolve_for(kind, namespace, reference, kind)
    }

    /// The same where what is spoken there is what routes of the kind `spoken` speak.
    pub fn resolve_for(
        &self,
        kind: Kind,
        namespace: &str,
        reference: &BackendObjectReference,
        spoken: Kind,
    ) -> Result<Port<'a>, Unresolved> {
        let unresolved = |reason, message| Err(Unresolved { reason, message });
        let group = reference.group.as_deref().unwrap_or_default();
        let target = reference.kind.as_deref().unwrap_or("Service");
        let key = ObjectKey::new(reference.namespace.as_deref().unwrap_or(namespace), &reference.name);
        if !group.is_empty() || target != "Service" {
            let message = format!("a backend of kind {target} in group {group:?} is not supported: refer to a Service");
            return unresolved("InvalidKind", message);
        }
        if let Err(message) = self.grants.check(kind, namespace, Kind::Service, &key) {
            return unresolved("RefNotPermitted", message);
        }
        let Some(number) = reference.port else {
            return unresolved("BackendNotFound", format!("port is missing: name a port of Service {key}"));
        };
        let wanted = match spoken {
            Kind::UDPRoute => PortRef::Udp(number),
            _ => PortRef::Number(number),
        };
        self.asked.borrow_mut().insert(key.clone());
        match self.services.port(&key, wanted) {
            Ok(port) if port.is_external() => {
                let message = format!(
                    "Service {key} is of type ExternalName, which would lead past ReferenceGrants (CVE-2021-25740): refer to a \
                     Service with endpoints of its own"
                );
                unresolved("RefNotPermitted", message)
            }
            Ok(port) => {
                let tls = self.policies.tls_to(&key, port.name).filter(|_| spoken != Kind::UDPRoute);
                let protocol = protocol(spoken, &port, tls.as_deref())?;
                Ok(Port { protocol, tls, cluster: cluster(spoken, &port), port })
            }
            Err(error) => unresolved("BackendNotFound", format!("{error}: create it, or correct the reference")),
        }
    }
}

fn cluster(kind: Kind, port: &ServicePort) -> String {
    let suffix = match kind {
        Kind::GRPCRoute => "/grpc",
        Kind::TLSRoute | Kind::TCPRoute => "/tcp",
        _ => "",
    };
    format!("Service/{}{suffix}", port.id())
}

/// What is spoken, inside TLS where `tls` asks for it: GEP-1911, and the names that Services use in practice for the same. gRPC
/// is HTTP/2 whatever the Service says.
fn protocol(kind: Kind, port: &ServicePort, tls: Option<&TlsToBackend>) -> Result<BackendProtocol, Unresolved> {
    let named = port.app_protocol.unwrap_or_default();
    let lower = named.to_ascii_lowercase();
    match (kind, lower.as_str()) {
        (Kind::TLSRoute | Kind::TCPRoute, _) => Ok(BackendProtocol::Tcp),
        (Kind::UDPRoute, _) => Ok(BackendProtocol::Udp),
        (_, "https" | "kubernetes.io/wss") if tls.is_none() => Err(Unresolved {
            reason: "UnsupportedProtocol",
            message: format!(
                "port {} of Service {} has appProtocol {named:?}, but no BackendTLSPolicy says whom to trust there: create one",
                port.number, port.key
            ),
        }),
        (Kind::GRPCRoute, _) | (_, "kubernetes.io/h2c" | "h2c" | "http2" | "grpc") => Ok(BackendProtocol::Http2),
        (_, "" | "http" | "http/1.1" | "tcp" | "ws" | "kubernetes.io/ws" | "https" | "kubernetes.io/wss") => {
            Ok(BackendProtocol::Http1)
        }
        _ => Err(Unresolved {
            reason: "UnsupportedProtocol",
            message: format!(
                "port {} of Service {} has appProtocol {named:?}, which is not supported: use kubernetes.io/h2c, \
                 kubernetes.io/ws or none",
                port.number, port.key
            ),
        }),
    }
}
