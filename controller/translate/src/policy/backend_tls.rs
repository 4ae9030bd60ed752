//! `BackendTLSPolicy` as the client's side of TLS towards a Service (GEP-1897).

use crds::gateway::{BackendTLSPolicy, BackendTLSPolicySpec, BackendTLSPolicyValidation, LocalObjectReference};
use rustls_pki_types::DnsName;
use snapshot::{Authorities, BackendTls, SubjectAltName, Verification};

use super::{BrokenReference, Invalid, Parsed, References};
use crate::authorities::{self, AuthoritiesError};
use crate::{Entry, Kind, ObjectKey, Resources};

/// What a BackendTLSPolicy means for connections to its targets. Plain text is not among it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum TlsToBackend {
    /// TLS, so; with the line that says where it comes from, for [`snapshot::Rule::origins`].
    Speak(BackendTls, String),
    /// The policy cannot be honoured, so there are none. The line says why.
    Refused(String),
}

/// What a policy says. References that lead nowhere do not make it invalid, as the authorities of the others count.
pub(super) fn parse(
    resources: &Resources,
    policy: &ObjectKey,
    spec: &BackendTLSPolicySpec,
) -> Result<Parsed<TlsToBackend>, Vec<Invalid>> {
    let validation = &spec.validation;
    let mut errors = Vec::new();
    let mut invalid = |field: &str, message: String| {
        errors.push(Invalid { field: format!("spec.validation.{field}"), message });
    };
    let hostname = server_name(&validation.hostname);
    if hostname.is_none() {
        invalid("hostname", format!("{:?} is not a host name", validation.hostname));
    }
    let mut names = Vec::new();
    for (index, name) in validation.subject_alt_names.iter().flatten().enumerate() {
        match subject_alt_name(name) {
            Ok(name) => names.push(name),
            Err((field, message)) => invalid(&format!("subjectAltNames[{index}]{field}"), message),
        }
    }
    let trust = trust(resources, policy, validation);
    if let Err((field, message)) = &trust {
        invalid(field, message.clone());
    }
    match (hostname, trust) {
        (Some(hostname), Ok((authorities, references))) if errors.is_empty() => {
            let content = match authorities {
                Some(authorities) => TlsToBackend::Speak(
                    BackendTls {
                        server_name: Some(hostname),
                        verification: Verification::Required { authorities, names },
                        client_certificate: None,
                    },
                    format!("BackendTLSPolicy {policy} spec.validation"),
                ),
                None => TlsToBackend::Refused(format!(
                    "BackendTLSPolicy {policy} refers to no certificate authority that can be used, so nothing is sent to its targets: {}",
                    references.describe()
                )),
            };
            Ok(Parsed { content, references: Some(references) })
        }
        _ => Err(errors),
    }
}

/// The objects to which a policy, as it is or was, refers for certificate authorities.
pub(crate) fn wanted<'e>(
    policy: &'e ObjectKey,
    entry: &'e Entry<BackendTLSPolicy>,
) -> impl Iterator<Item = (Kind, ObjectKey)> + 'e {
    let versions = std::iter::once(&entry.current).chain(&entry.last_good);
    let references = versions.flat_map(|version| version.spec.validation.ca_certificate_refs.iter().flatten());
    references.filter_map(|reference| {
        let kind = authorities::kind_of(&reference.group, &reference.kind).ok()?;
        Some((kind, ObjectKey::new(policy.namespace.as_str(), reference.name.as_str())))
    })
}

/// Whom to trust; nobody when no reference leads anywhere. Fails with the field that makes no sense.
fn trust(
    resources: &Resources,
    policy: &ObjectKey,
    validation: &BackendTLSPolicyValidation,
) -> Result<(Option<Authorities>, References), (&'static str, String)> {
    let references = validation.ca_certificate_refs.as_deref().unwrap_or_default();
    let well_known = validation.well_known_ca_certificates.as_deref().filter(|name| !name.is_empty());
    match (references, well_known) {
        ([], Some("System")) => Ok((Some(Authorities::WellKnown), References { broken: Vec::new(), usable: true })),
        ([], Some(other)) => Err(("wellKnownCACertificates", format!("{other:?} is not supported: use System"))),
        ([], None) => Err(("caCertificateRefs", "name a ConfigMap, or set wellKnownCACertificates to System".into())),
        (_, Some(_)) => {
            Err(("wellKnownCACertificates", "it and caCertificateRefs exclude each other: remove one".into()))
        }
        (references, None) => Ok(these(resources, policy, references)),
    }
}

fn these(
    resources: &Resources,
    policy: &ObjectKey,
    references: &[LocalObjectReference],
) -> (Option<Authorities>, References) {
    let mut certificates = Vec::new();
    let mut broken = Vec::new();
    for (index, reference) in references.iter().enumerate() {
        let key = ObjectKey::new(policy.namespace.as_str(), reference.name.as_str());
        let found = authorities::kind_of(&reference.group, &reference.kind);
        match found.and_then(|kind| authorities::load(resources, kind, &key)) {
            Ok(found) => certificates.extend(found),
            Err(error) => broken.push(BrokenReference {
                field: format!("spec.validation.caCertificateRefs[{index}]"),
                reason: match error {
                    AuthoritiesError::Kind { .. } => "InvalidKind",
                    _ => "InvalidCACertificateRef",
                },
                message: error.to_string(),
            }),
        }
    }
    let usable = !certificates.is_empty();
    (usable.then_some(Authorities::These(certificates)), References { broken, usable })
}

fn server_name(name: &str) -> Option<String> {
    let name = name.to_ascii_lowercase();
    DnsName::try_from(name.as_str()).is_ok().then_some(name)
}

fn subject_alt_name(name: &crds::gateway::SubjectAltName) -> Result<SubjectAltName, (&'static str, String)> {
    match name.type_.as_str() {
        "Hostname" => {
            let written = name.hostname.as_deref().unwrap_or_default();
            let lower = written.to_ascii_lowercase();
            match server_name(lower.strip_prefix("*.").unwrap_or(&lower)) {
                Some(_) => Ok(SubjectAltName::Hostname(lower)),
                None => Err((".hostname", format!("{written:?} is not a host name"))),
            }
        }
        "URI" => match name.uri.as_deref() {
            Some(uri) if uri.contains(':') => Ok(SubjectAltName::Uri(uri.into())),
            other => {
                Err((".uri", format!("{:?} is not a URI such as spiffe://shop.example/web", other.unwrap_or_default())))
            }
        },
        other => Err((".type", format!("{other:?} is not Hostname or URI"))),
    }
}
