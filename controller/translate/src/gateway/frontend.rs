//! Certificates that clients have to show to HTTPS listeners (GEP-91).

use crds::gateway::{FrontendTlsConfig, FrontendTlsValidation, Gateway, ObjectReference};
use snapshot::ClientValidation;

use super::grants::Grants;
use super::listeners::{Listener, Unresolved};
use super::protocol::Protocol;
use crate::authorities::{self, AuthoritiesError};
use crate::context::Context;
use crate::{Kind, ObjectKey};

/// Adds to the listeners of a Gateway what it asks of their clients. A listener none of whose authorities can be used is not
/// served: it would let everybody in or nobody.
pub(super) fn apply(
    context: &mut Context,
    grants: &Grants,
    key: &ObjectKey,
    gateway: &Gateway,
    listeners: &mut [Listener],
) {
    for listener in listeners {
        if !listener.usable() || listener.protocol != Some(Protocol::Https) {
            continue;
        }
        let Some((path, validation)) = validation(gateway, listener.spec.port) else { continue };
        let (certificates, unresolved) = trusted(context, grants, key, &path, validation);
        if certificates.is_empty() {
            let message = format!(
                "clients cannot be checked: correct {path}.caCertificateRefs of Gateway {key}, as ResolvedRefs tells"
            );
            listener.unusable = Some(("NoValidCACertificate", message));
        }
        listener.unresolved = unresolved.or(listener.unresolved.take());
        if let Some(tls) = &mut listener.tls {
            tls.client_validation = Some(match is_insecure(validation) {
                true => ClientValidation::Requested,
                false => ClientValidation::Required(certificates),
            });
        }
    }
}

/// Whether some listeners let in clients without a valid certificate although the Gateway asks for one.
pub(super) fn allows_insecure(gateway: &Gateway) -> bool {
    let frontend = gateway.spec.tls.as_ref().and_then(|tls| tls.frontend.as_ref());
    let configs = frontend.into_iter().flat_map(|frontend| {
        std::iter::once(&frontend.default).chain(frontend.per_port.iter().flatten().map(|port| &port.tls))
    });
    configs.filter_map(|config| config.validation.as_ref()).any(is_insecure)
}

fn is_insecure(validation: &FrontendTlsValidation) -> bool {
    validation.mode.as_deref() == Some("AllowInsecureFallback")
}

/// What holds for a port, with its path. A word on the port replaces the default, even if it asks for nothing.
fn validation(gateway: &Gateway, port: i32) -> Option<(String, &FrontendTlsValidation)> {
    let frontend = gateway.spec.tls.as_ref()?.frontend.as_ref()?;
    let mut ports = frontend.per_port.iter().flatten().enumerate();
    let (path, config): (_, &FrontendTlsConfig) = match ports.find(|(_, entry)| entry.port == port) {
        Some((index, entry)) => (format!("spec.tls.frontend.perPort[{index}].tls"), &entry.tls),
        None => ("spec.tls.frontend.default".into(), &frontend.default),
    };
    Some((format!("{path}.validation"), config.validation.as_ref()?))
}

/// The certificates (DER) of the authorities, and what is wrong with references to others.
fn trusted(
    context: &mut Context,
    grants: &Grants,
    gateway: &ObjectKey,
    path: &str,
    validation: &FrontendTlsValidation,
) -> (Vec<Vec<u8>>, Option<Unresolved>) {
    let mut certificates = Vec::new();
    let mut reason = None;
    let mut messages = Vec::new();
    for (index, reference) in validation.ca_certificate_refs.iter().enumerate() {
        match look_up(context, grants, gateway, reference) {
            Ok(found) => certificates.extend(found),
            Err((why, message)) => {
                reason = reason.or(Some(why));
                messages.push(format!("{path}.caCertificateRefs[{index}] of Gateway {gateway}: {message}"));
            }
        }
    }
    if validation.ca_certificate_refs.is_empty() {
        reason = Some("InvalidCACertificateRef");
        messages.push(format!("{path}.caCertificateRefs of Gateway {gateway} is empty: name a ConfigMap"));
    }
    let consequence = match certificates.is_empty() {
        true => "the listener is not served",
        false => "only the other authorities count",
    };
    let unresolved = reason.map(|reason| {
        let message = format!("{}; {consequence}", messages.join("; "));
        Unresolved { field: "", reason, message }
    });
    (certificates, unresolved)
}

fn look_up(
    context: &mut Context,
    grants: &Grants,
    gateway: &ObjectKey,
    reference: &ObjectReference,
) -> Result<Vec<Vec<u8>>, (&'static str, String)> {
    let invalid = |error: AuthoritiesError| match error {
        AuthoritiesError::Kind { .. } => ("InvalidCACertificateKind", error.to_string()),
        _ => ("InvalidCACertificateRef", error.to_string()),
    };
    let kind = authorities::kind_of(&reference.group, &reference.kind).map_err(invalid)?;
    let namespace = reference.namespace.as_deref().unwrap_or(&gateway.namespace);
    let key = ObjectKey::new(namespace, reference.name.as_str());
    let granted = grants.check(Kind::Gateway, &gateway.namespace, kind, &key);
    granted.map_err(|message| ("RefNotPermitted", message))?;
    context.authorities(kind, &key).map_err(invalid)
}
