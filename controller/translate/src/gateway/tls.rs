//! The certificates of listeners that terminate TLS.

use std::rc::Rc;

use crds::gateway::SecretObjectReference;
use snapshot::{HostPattern, ServerCertificate, Tls};

use super::grants::Grants;
use super::hostname;
use super::listeners::{Listener, Owner, Unresolved};
use crate::certificates::{Loaded, Lookup};
use crate::context::Context;
use crate::{DataPlane, Kind, ObjectKey};

/// How a listener terminates TLS (`None` when no certificate can be used), and what is wrong with its references. The certificates go into the snapshot of `plane`, where there is one.
pub(super) fn terminate(
    context: &mut Context,
    grants: &Grants,
    plane: Option<&DataPlane>,
    listener: &Listener,
) -> (Option<Tls>, Option<Unresolved>) {
    let references = listener.spec.tls.as_ref().and_then(|tls| tls.certificate_refs.as_deref()).unwrap_or_default();
    let mut unresolved = None;
    let mut certificates: Vec<(String, Rc<Lookup>)> = Vec::new();
    if references.is_empty() {
        let message = "tls.certificateRefs is missing: name a Secret of type kubernetes.io/tls".into();
        unresolved = Some(invalid(message));
    }
    for reference in references {
        match secret(grants, &listener.owner, reference) {
            Err(error) => unresolved = unresolved.or(Some(error)),
            Ok(secret) => {
                let lookup = context.certificate(&secret);
                if let Some(error) = &lookup.error {
                    let consequence = match lookup.usable {
                        Some(_) => "its last good version stays in use until the Secret is mended",
                        None => "correct the Secret or tls.certificateRefs",
                    };
                    let message = match error.is_in_secret() {
                        true => format!("Secret {secret}: {error}; {consequence}"),
                        false => format!("{error}; {consequence}"),
                    };
                    unresolved = unresolved.or(Some(invalid(message)));
                }
                if lookup.usable.is_some() {
                    certificates.push((secret.to_string(), lookup));
                }
            }
        }
    }
    let loaded: Vec<(&str, &Loaded)> =
        certificates.iter().filter_map(|(name, lookup)| Some((name.as_str(), lookup.usable.as_deref()?))).collect();
    if let Some(plane) = plane {
        for (name, loaded) in &loaded {
            context.insert_certificate(plane, name, loaded);
        }
    }
    (by_name(&listener.hostname, &loaded), unresolved)
}

/// The field of a listener in which certificates are named.
const FIELD: &str = ".tls.certificateRefs";

fn invalid(message: String) -> Unresolved {
    Unresolved { field: FIELD, reason: "InvalidCertificateRef", message }
}

fn secret(grants: &Grants, owner: &Owner, reference: &SecretObjectReference) -> Result<ObjectKey, Unresolved> {
    let namespace = &owner.key().namespace;
    let kind = reference.kind.as_deref().unwrap_or("Secret");
    let group = reference.group.as_deref().unwrap_or_default();
    let secret = ObjectKey::new(reference.namespace.as_deref().unwrap_or(namespace), &reference.name);
    if !group.is_empty() || kind != "Secret" {
        let message = format!("tls.certificateRefs names a {kind} of group {group:?}: refer to a Secret");
        return Err(invalid(message));
    }
    // Asked before existence, so that nobody can probe other namespaces for names.
    if !grants.allow(owner.kind(), namespace, Kind::Secret, &secret.namespace, &secret.name) {
        let message = format!(
            "no ReferenceGrant in namespace {} lets {}s of namespace {namespace} refer to Secret {}: create one",
            secret.namespace,
            owner.kind(),
            secret.name
        );
        return Err(Unresolved { field: FIELD, reason: "RefNotPermitted", message });
    }
    Ok(secret)
}

/// Each certificate for those of its names that the listener answers for. The first that is valid for the listener's own
/// name, or else the first of all, answers for the rest.
fn by_name(listener: &HostPattern, loaded: &[(&str, &Loaded)]) -> Option<Tls> {
    let (first, _) = loaded.first()?;
    let one_label = match listener {
        HostPattern::AnyLabels(suffix) => HostPattern::OneLabel(suffix.clone()),
        other => other.clone(),
    };
    let fitting = loaded.iter().find(|(_, certificate)| certificate.covers(&one_label));
    let rest = fitting.map_or(*first, |(name, _)| name);
    let mut certificates: Vec<ServerCertificate> = Vec::new();
    for (name, certificate) in loaded {
        let mut hosts = certificate.names.clone();
        hosts.retain(|host| hostname::intersection(listener, host).as_ref() == Some(host));
        if *name == rest && *listener != HostPattern::Any && !hosts.contains(listener) {
            hosts.push(listener.clone());
        }
        if !hosts.is_empty() {
            certificates.push(ServerCertificate { hosts, certificate: (*name).into() });
        }
    }
    let default_certificate = (*listener == HostPattern::Any).then(|| rest.to_owned());
    Some(Tls { certificates, default_certificate, client_validation: None })
}
