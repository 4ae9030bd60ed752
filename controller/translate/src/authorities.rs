//! Certificate authorities in ConfigMaps and Secrets.

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::objects::{ConfigMap, Secret};
use crate::{Kind, ObjectKey, Resources};

/// The entry that holds the certificates, in PEM.
const ENTRY: &str = "ca.crt";

/// Why a reference leads to no certificate authorities. Each says what is wrong and the remedy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AuthoritiesError {
    #[error("{kind} of group {group:?} holds no certificate authorities: refer to a ConfigMap with the key `ca.crt`")]
    Kind { group: String, kind: String },
    #[error("{0} {1} does not exist: create it, or correct the reference")]
    NotFound(Kind, ObjectKey),
    #[error("the API server does not give out {0} {1}, which exists (it is tried again)")]
    Unavailable(Kind, ObjectKey),
    #[error("{0} {1} has no key `ca.crt`: put the certificates of the authorities there, in PEM")]
    MissingKey(Kind, ObjectKey),
    #[error("`ca.crt` of {0} {1} is not a list of certificates in PEM ({2}): correct it")]
    Content(Kind, ObjectKey, String),
}

/// The kind that a reference names; fails when it is one that holds no certificate authorities. A ConfigMap is what the Gateway
/// API asks for; a Secret is ours.
pub(crate) fn kind_of(group: &str, kind: &str) -> Result<Kind, AuthoritiesError> {
    match (group, kind) {
        ("", "ConfigMap") => Ok(Kind::ConfigMap),
        ("", "Secret") => Ok(Kind::Secret),
        _ => Err(AuthoritiesError::Kind { group: group.into(), kind: kind.into() }),
    }
}

/// The certificates (DER) in a ConfigMap or a Secret, one at least. There is no last good version of them: who is taken out is
/// trusted no longer.
pub(crate) fn load(resources: &Resources, kind: Kind, key: &ObjectKey) -> Result<Vec<Vec<u8>>, AuthoritiesError> {
    let not_found = || match resources.unavailable.contains(&(kind, key.clone())) {
        true => AuthoritiesError::Unavailable(kind, key.clone()),
        false => AuthoritiesError::NotFound(kind, key.clone()),
    };
    let text = match kind {
        Kind::Secret => secret_entry(resources.get::<Secret>(&key.namespace, &key.name).ok_or_else(not_found)?),
        _ => config_map_entry(resources.get::<ConfigMap>(&key.namespace, &key.name).ok_or_else(not_found)?),
    };
    let text = text.ok_or_else(|| AuthoritiesError::MissingKey(kind, key.clone()))?;
    parse(text).map_err(|why| AuthoritiesError::Content(kind, key.clone(), why))
}

fn config_map_entry(config_map: &ConfigMap) -> Option<&[u8]> {
    Some(config_map.data.as_ref()?.get(ENTRY)?.as_bytes())
}

fn secret_entry(secret: &Secret) -> Option<&[u8]> {
    // `stringData` is for manifests in a folder; the API server turns it into `data`.
    let text = secret.string_data.as_ref().and_then(|data| data.get(ENTRY)).map(String::as_bytes);
    text.or(secret.data.as_ref().and_then(|data| data.get(ENTRY)).map(|bytes| bytes.0.as_slice()))
}

fn parse(text: &[u8]) -> Result<Vec<Vec<u8>>, String> {
    let certificates = CertificateDer::pem_slice_iter(text).collect::<Result<Vec<_>, _>>();
    let certificates = certificates.map_err(|error| error.to_string())?;
    if certificates.is_empty() {
        return Err("no section BEGIN CERTIFICATE".into());
    }
    for certificate in &certificates {
        X509Certificate::from_der(certificate).map_err(|error| error.to_string())?;
    }
    Ok(certificates.iter().map(|certificate| certificate.to_vec()).collect())
}
