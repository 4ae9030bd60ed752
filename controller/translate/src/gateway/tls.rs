//! Certificates that Gateways show: to the clients of listeners that terminate TLS, and to backends.

use std::rc::Rc;

use crds::gateway::{Gateway, SecretObjectReference};
use snapshot::{HostPattern, ServerCertificate, Tls};

use super::grants::Grants;
use super::hostname;
use super::listeners::{Listener, Owner, Unresolved};
use crate::certificates::{Loaded, Lookup};
use crate::context::Context;
use crate::{DataPlane, Kind, ObjectKey};

/// Finds out how a listener terminates TLS, and what is wrong with its references. The certificates go into the snapshot of `plane`,
/// where there is one.
pub(super) fn terminate(context: &mut Context, grants: &Grants, plane: Option<&DataPlane>, listener: &mut Listener) {
    let references = listener.spec.tls.as_ref().and_then(|tls| tls.certificate_refs.as_deref()).unwrap_or_default();
    let mut unresolved = None;
    let mut certificates: Vec<(String, Rc<Lookup>)> = Vec::new();
    if references.is_empty() {
        let message = "tls.certificateRefs is missing: name a Secret of type kubernetes.io/tls".into();
        unresolved = Some(LISTENER.invalid(message));
    }
    for (place, reference) in references.iter().enumerate() {
        let at = format!("listeners[{}]{}[{place}]", listener.spec.name, LISTENER.path);
        let (found, error) = look_up(context, grants, &listener.owner, LISTENER, at, reference);
        if let Some((secret, lookup)) = &found
            && let Some(loaded) = lookup.usable.as_deref().filter(|loaded| !is_for(loaded, &listener.hostname))
        {
            let message = format!(
                "the certificate in Secret {secret} ({}) is for no name that hostname {} stands for, so that clients refuse it: \
                 issue one for this name, or remove the reference",
                loaded.summary, listener.hostname
            );
            listener.strange.push((place, message));
        }
        certificates.extend(found);
        unresolved = unresolved.or(error);
    }
    let loaded: Vec<(&str, &Loaded)> =
        certificates.iter().filter_map(|(name, lookup)| Some((name.as_str(), lookup.usable.as_deref()?))).collect();
    if let Some(plane) = plane {
        for (name, loaded) in &loaded {
            context.insert_certificate(plane, name, loaded);
        }
    }
    (listener.tls, listener.unresolved) = (by_name(&listener.hostname, &loaded), unresolved);
}

/// Whether the certificate is valid for some name of the pattern; of all names it may be for those of addresses.
fn is_for(certificate: &Loaded, host: &HostPattern) -> bool {
    *host == HostPattern::Any
        || certificate.covers(host)
        || certificate.names.iter().any(|name| hostname::intersection(host, name).is_some())
}

/// The certificate that a Gateway shows to backends, by its name in the snapshot of `plane`, and what is wrong with the reference.
pub(super) fn for_backends(
    context: &mut Context,
    grants: &Grants,
    plane: Option<&DataPlane>,
    key: &ObjectKey,
    gateway: &Gateway,
) -> (Option<String>, Option<Unresolved>) {
    let Some(reference) = client_certificate_ref(gateway) else { return (None, None) };
    let owner = Owner::Gateway(key.clone());
    let (found, unresolved) = look_up(context, grants, &owner, BACKENDS, BACKENDS.path.to_owned(), reference);
    if let (Some(plane), Some((name, lookup))) = (plane, &found)
        && let Some(loaded) = &lookup.usable
    {
        context.insert_certificate(plane, name, loaded);
    }
    (found.map(|(name, _)| name), unresolved)
}

/// The field `spec.tls.backend.clientCertificateRef`.
pub(super) fn client_certificate_ref(gateway: &Gateway) -> Option<&SecretObjectReference> {
    gateway.spec.tls.as_ref()?.backend.as_ref()?.client_certificate_ref.as_ref()
}

/// A field in which certificates are named.
#[derive(Clone, Copy)]
struct Field {
    /// Its path, from the listener or the Gateway.
    path: &'static str,
    /// The reason of `ResolvedRefs` when one of them is no good.
    reason: &'static str,
}

const LISTENER: Field = Field { path: ".tls.certificateRefs", reason: "InvalidCertificateRef" };
const BACKENDS: Field = Field { path: "spec.tls.backend.clientCertificateRef", reason: "InvalidClientCertificateRef" };

impl Field {
    /// For sentences.
    fn name(self) -> &'static str {
        self.path.trim_start_matches('.')
    }

    fn invalid(self, message: String) -> Unresolved {
        Unresolved { field: self.path, reason: self.reason, message }
    }
}

/// The usable certificate that a reference leads to, by the name of its Secret, and what is wrong.
fn look_up(
    context: &mut Context,
    grants: &Grants,
    owner: &Owner,
    field: Field,
    place: String,
    reference: &SecretObjectReference,
) -> (Option<(String, Rc<Lookup>)>, Option<Unresolved>) {
    let secret = match secret(grants, owner, field, reference) {
        Ok(secret) => secret,
        Err(error) => return (None, Some(error)),
    };
    let (shown, lookup) = context.certificate_at((owner.kind(), owner.key().clone(), place), &secret);
    let error = lookup.error.as_ref().map(|error| {
        let consequence = match lookup.usable {
            Some(_) if error.is_in_secret() => "its last good version stays in use until the Secret is mended".into(),
            Some(_) => "the certificate of before stays in use".into(),
            None => format!("correct the Secret or {}", field.name()),
        };
        field.invalid(match error.is_in_secret() {
            true => format!("Secret {secret}: {error}; {consequence}"),
            false => format!("{error}; {consequence}"),
        })
    });
    let found = lookup.usable.is_some().then(|| (shown.to_string(), lookup));
    (found, error)
}

fn secret(
    grants: &Grants,
    owner: &Owner,
    field: Field,
    reference: &SecretObjectReference,
) -> Result<ObjectKey, Unresolved> {
    let namespace = &owner.key().namespace;
    let kind = reference.kind.as_deref().unwrap_or("Secret");
    let group = reference.group.as_deref().unwrap_or_default();
    let secret = ObjectKey::new(reference.namespace.as_deref().unwrap_or(namespace), &reference.name);
    if !group.is_empty() || kind != "Secret" {
        let message = format!("{} names a {kind} of group {group:?}: refer to a Secret", field.name());
        return Err(field.invalid(message));
    }
    let granted = grants.check(owner.kind(), namespace, Kind::Secret, &secret);
    granted.map_err(|message| Unresolved { field: field.path, reason: "RefNotPermitted", message })?;
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
