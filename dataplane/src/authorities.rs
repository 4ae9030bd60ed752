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
    /// In these (DER), be they authorities or the peers' certificates themselves, and in nobody where there are none. Also says
    /// which of them cannot be used, by place and subject: the others are trusted all the same, because those of before may
    /// be trusted no longer, and bundles hold odd certificates.
    pub fn in_these(authorities: &[Vec<u8>]) -> (Self, Option<String>) {
        let mut roots = RootCertStore::empty();
        let mut given = Vec::with_capacity(authorities.len());
        let mut refused = Vec::new();
        for (index, der) in authorities.iter().enumerate() {
            let der = CertificateDer::from(der.clone());
            match roots.add(der.clone()) {
                Ok(()) => given.push(der),
                Err(error) => {
                    let place = format!("{} of {}", index + 1, authorities.len());
                    refused.push(format!("the certificate authority {place}{} cannot be used: {error}", subject(&der)));
                }
            }
        }
        (Self { roots: Arc::new(roots), given }, (!refused.is_empty()).then(|| refused.join("; ")))
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
    fn a_broken_authority_is_named_and_the_others_are_trusted() {
        let good = rcgen::generate_simple_self_signed(vec!["a.example".into()]).unwrap().cert.der().to_vec();
        assert_eq!(Trust::in_these(std::slice::from_ref(&good)).1, None);
        let (trust, refused) = Trust::in_these(&[vec![1, 2, 3], good]);
        let refused = refused.unwrap();
        assert!(refused.starts_with("the certificate authority 1 of 2 cannot be used: "), "{refused}");
        assert_eq!(trust.roots().len(), 1);
    }

    #[test]
    fn browsers_trust_somebody() {
        assert!(Trust::in_well_known().roots().len() > 50);
    }
}
