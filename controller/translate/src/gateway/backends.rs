//! What the rules of an HTTPRoute send requests to.

use std::rc::Rc;

use crds::gateway::HTTPBackendRef;
use snapshot::{BackendProtocol, Filter, Match};

use super::filters;
use super::grants::Grants;
use super::rules::Unusable;
use crate::backends::{PortRef, ServicePort, Services};
use crate::{Kind, ObjectKey};

/// A reference to a backend.
pub(super) struct Backend<'a> {
    /// Its share of the requests.
    pub weight: u32,
    /// Of this backend only.
    pub filters: Vec<Filter>,
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
}

impl<'a> Backends<'a> {
    /// A reference in an HTTPRoute of `namespace`, in a rule with `matches`. A broken reference is a backend whose share is
    /// refused; an unusable filter makes the whole rule unusable.
    pub fn parse(
        &self,
        namespace: &str,
        reference: &HTTPBackendRef,
        matches: &[Match],
    ) -> Result<Backend<'a>, Unusable> {
        let filters = filters::parse(reference.filters.as_deref().unwrap_or_default(), matches)?;
        if filters.iter().any(|filter| matches!(filter, Filter::Redirect(_))) {
            let message = "RequestRedirect is not supported on a backend: move it to the rule";
            return Err(Unusable::new("filters", message));
        }
        let weight = u32::try_from(reference.backend.weight.unwrap_or(1))
            .map_err(|_| Unusable::new("weight", "a weight is a number from 0 to 1000000"))?;
        Ok(Backend { weight, filters, target: self.resolve(namespace, reference) })
    }

    fn resolve(&self, namespace: &str, reference: &HTTPBackendRef) -> Result<Port<'a>, Unresolved> {
        let unresolved = |reason, message| Err(Unresolved { reason, message });
        let reference = &reference.backend.object;
        let group = reference.group.as_deref().unwrap_or_default();
        let kind = reference.kind.as_deref().unwrap_or("Service");
        let key = ObjectKey::new(reference.namespace.as_deref().unwrap_or(namespace), &reference.name);
        if !group.is_empty() || kind != "Service" {
            let message = format!("a backend of kind {kind} in group {group:?} is not supported: refer to a Service");
            return unresolved("InvalidKind", message);
        }
        // Asked before existence, so that nobody can probe other namespaces for names.
        if !self.grants.allow(Kind::HTTPRoute, namespace, Kind::Service, &key.namespace, &key.name) {
            let message = format!(
                "no ReferenceGrant in namespace {} lets HTTPRoutes of namespace {namespace} refer to Service {}: create one",
                key.namespace, key.name
            );
            return unresolved("RefNotPermitted", message);
        }
        let Some(number) = reference.port else {
            return unresolved("BackendNotFound", format!("port is missing: name a port of Service {key}"));
        };
        match self.services.port(&key, PortRef::Number(number)) {
            Ok(port) => Ok(Port { protocol: protocol(&port)?, port }),
            Err(error) => unresolved("BackendNotFound", format!("{error}: create it, or correct the reference")),
        }
    }
}

/// GEP-1911, and the names that Services use in practice for the same.
fn protocol(port: &ServicePort) -> Result<BackendProtocol, Unresolved> {
    match port.app_protocol {
        None | Some("" | "http" | "http/1.1" | "tcp" | "ws" | "kubernetes.io/ws") => Ok(BackendProtocol::Http1),
        Some("kubernetes.io/h2c" | "h2c" | "http2" | "grpc") => Ok(BackendProtocol::Http2),
        Some(other) => Err(Unresolved {
            reason: "UnsupportedProtocol",
            message: format!(
                "port {} of Service {} has appProtocol {other:?}, which is not supported: use kubernetes.io/h2c, \
                 kubernetes.io/ws or none",
                port.number, port.key
            ),
        }),
    }
}
