//! The snapshot's certificates with their keys, ready to sign handshakes on either side.

use std::collections::HashMap;
use std::sync::Arc;

use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use snapshot::{Certificate, Hash, Kind, Resource, ResourceId, Snapshot};

use crate::compile::Rejection;

/// The certificates by name, kept from one snapshot to the next.
#[derive(Debug, Default)]
pub struct Keys {
    /// The last good version of each, with its hash.
    keys: HashMap<String, (Hash, Arc<CertifiedKey>)>,
}

impl Keys {
    /// Makes them those of the snapshot. One that cannot be used is rejected and its last good version stays.
    pub(crate) fn update(&mut self, snapshot: &Snapshot) -> Vec<Rejection> {
        let mut rejections = Vec::new();
        for (id, hashed) in snapshot.iter() {
            let Resource::Certificate(certificate) = hashed.resource().as_ref() else { continue };
            if self.keys.get(&id.name).is_some_and(|(hash, _)| *hash == hashed.hash()) {
                continue;
            }
            match certified_key(certificate) {
                Ok(key) => _ = self.keys.insert(id.name.clone(), (hashed.hash(), Arc::new(key))),
                Err(error) => rejections.push(Rejection { id: id.clone(), reason: error.to_string() }),
            }
        }
        self.keys.retain(|name, _| snapshot.get(&ResourceId::new(Kind::Certificate, name)).is_some());
        rejections
    }

    /// The certificate of this name.
    pub fn get(&self, name: &str) -> Option<&Arc<CertifiedKey>> {
        self.keys.get(name).map(|(_, key)| key)
    }
}

/// Why a certificate cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// The key is in none of the known formats.
    #[error("the private key is neither PKCS#8 nor PKCS#1 nor SEC1")]
    KeyFormat,
    /// The provider refuses the key or the chain.
    #[error("the certificate cannot be used: {0}")]
    Unusable(#[from] rustls::Error),
}

/// A certificate and its key, ready to sign handshakes.
///
/// # Errors
/// See [`CertificateError`].
pub fn certified_key(certificate: &Certificate) -> Result<CertifiedKey, CertificateError> {
    let chain = certificate.chain.iter().map(|der| CertificateDer::from(der.clone())).collect();
    let key = PrivateKeyDer::try_from(certificate.key.expose().to_vec()).map_err(|_| CertificateError::KeyFormat)?;
    Ok(CertifiedKey::from_der(chain, key, &rustls::crypto::aws_lc_rs::default_provider())?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use snapshot::Secret;

    #[test]
    fn a_key_that_is_not_one_is_refused() {
        let certificate = Certificate { chain: vec![], key: Secret::new(vec![1, 2, 3]), summary: String::new() };
        assert!(matches!(certified_key(&certificate), Err(CertificateError::KeyFormat)));
    }
}
