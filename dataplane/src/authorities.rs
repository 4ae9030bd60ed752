//! Whom the certificates of peers, backends and clients, have to lead to.

use std::fmt;
use std::sync::{Arc, LazyLock};

use rustls::RootCertStore;
use rustls_pki_types::{CertificateDer, UnixTime};
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::time::ASN1Time;

/// The certificates that a peer's own has to lead to.
pub struct Trust {
    roots: Arc<RootCertStore>,
    /// The same as they were given; none of the well-known ones.
    given: Vec<CertificateDer<'static>>,
}

static WELL_KNOWN: LazyLock<Arc<RootCertStore>> =
    LazyLock::new(|| Arc::new(RootCertStore::from_iter(webpki_roots::TLS_SERVER_ROOTS.iter().cloned())));

impl Trust {
    /// In these (DER), be they authorities or the peers' certificates themselves.
    ///
    /// # Errors
    /// Says which of them cannot be used, by its place and its subject.
    pub fn in_these(authorities: &[Vec<u8>]) -> Result<Self, String> {
        let mut roots = RootCertStore::empty();
        let mut given = Vec::with_capacity(authorities.len());
        for (index, der) in authorities.iter().enumerate() {
            let der = CertificateDer::from(der.clone());
            roots.add(der.clone()).map_err(|error| {
                let place = format!("{} of {}", index + 1, authorities.len());
                format!("the certificate authority {place}{} cannot be used: {error}", subject(&der))
            })?;
            given.push(der);
        }
        Ok(Self { roots: Arc::new(roots), given })
    }

    /// In the authorities that Mozilla's browsers trust.
    pub fn in_well_known() -> Self {
        Self { roots: WELL_KNOWN.clone(), given: Vec::new() }
    }

    /// What chains have to end in.
    pub fn roots(&self) -> &Arc<RootCertStore> {
        &self.roots
    }

    /// Whether this is one of the given certificates itself, an authority by its own words, and valid now.
    ///
    /// `openssl req -x509` makes such certificates for servers, and who trusts exactly this one need not care that it might
    /// sign others; webpki lets no authority stand for a server or a client. Others are for webpki to judge.
    pub fn holds_authority(&self, certificate: &CertificateDer<'_>, now: UnixTime) -> bool {
        if !self.given.iter().any(|given| given == certificate) {
            return false;
        }
        let Ok((_, parsed)) = X509Certificate::from_der(certificate) else { return false };
        let now = i64::try_from(now.as_secs()).ok().and_then(|now| ASN1Time::from_timestamp(now).ok());
        parsed.is_ca() && now.is_some_and(|now| parsed.validity().is_valid_at(now))
    }
}

fn subject(der: &CertificateDer<'_>) -> String {
    match X509Certificate::from_der(der) {
        Ok((_, certificate)) => format!(" ({})", certificate.subject()),
        Err(_) => String::new(),
    }
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Trust({})", self.roots.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_authority_is_named() {
        let good = rcgen::generate_simple_self_signed(vec!["a.example".into()]).unwrap().cert.der().to_vec();
        assert!(Trust::in_these(std::slice::from_ref(&good)).is_ok());
        let error = Trust::in_these(&[good, vec![1, 2, 3]]).unwrap_err();
        assert!(error.starts_with("the certificate authority 2 of 2 cannot be used: "), "{error}");
    }

    #[test]
    fn browsers_trust_somebody() {
        assert!(Trust::in_well_known().roots().len() > 50);
    }
}
