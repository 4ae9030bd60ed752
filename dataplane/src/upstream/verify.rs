//! Whether a backend's certificate counts.

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use snapshot::{Authorities, SubjectAltName, Verification};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::authorities::Trust;

/// Checks backends' certificates as a cluster asks for. In any case the backend has to hold its certificate's key.
#[derive(Debug)]
pub struct BackendVerifier {
    /// `None` accepts every certificate, as ingress-nginx does unless told otherwise.
    required: Option<Required>,
    algorithms: WebPkiSupportedAlgorithms,
}

#[derive(Debug)]
struct Required {
    trust: Trust,
    /// Empty: the server name.
    names: Vec<SubjectAltName>,
}

impl BackendVerifier {
    /// Compiles what is asked for, and says which authorities cannot be used.
    pub fn new(verification: &Verification, provider: &CryptoProvider) -> (Self, Option<String>) {
        let (required, refused) = match verification {
            Verification::None => (None, None),
            Verification::Required { authorities, names } => {
                let (trust, refused) = match authorities {
                    Authorities::WellKnown => (Trust::in_well_known(), None),
                    Authorities::These(authorities) => Trust::in_these(authorities),
                };
                (Some(Required { trust, names: names.clone() }), refused)
            }
        };
        (Self { required, algorithms: provider.signature_verification_algorithms }, refused)
    }
}

impl Required {
    fn check(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        now: UnixTime,
        algorithms: WebPkiSupportedAlgorithms,
    ) -> Result<(), rustls::Error> {
        let parsed = ParsedCertificate::try_from(certificate)?;
        if !self.trust.holds_authority(certificate, now) {
            let roots = self.trust.roots();
            verify_server_cert_signed_by_trust_anchor(&parsed, roots, intermediates, now, algorithms.all)?;
        }
        // Given names are the only ones that count (GEP-1897): the server name is for choosing the certificate then.
        if self.names.is_empty() {
            verify_server_name(&parsed, server_name)
        } else if holds_one(certificate, &self.names) {
            Ok(())
        } else {
            Err(CertificateError::NotValidForName.into())
        }
    }
}

/// Whether one of these names is among the certificate's subject alternative names.
fn holds_one(certificate: &CertificateDer<'_>, names: &[SubjectAltName]) -> bool {
    let Ok((_, certificate)) = X509Certificate::from_der(certificate) else { return false };
    let Ok(Some(held)) = certificate.subject_alternative_name() else { return false };
    held.value.general_names.iter().any(|held| {
        names.iter().any(|wanted| match (wanted, held) {
            (SubjectAltName::Hostname(wanted), GeneralName::DNSName(held)) => same_host(wanted, held),
            (SubjectAltName::Uri(wanted), GeneralName::URI(held)) => wanted == held,
            _ => false,
        })
    })
}

/// Whether both are the same name, or one of them a wildcard for the other's first label (RFC 9525, 6.3).
fn same_host(wanted: &str, held: &str) -> bool {
    wanted.eq_ignore_ascii_case(held) || is_below(wanted, held) || is_below(held, wanted)
}

fn is_below(name: &str, wildcard: &str) -> bool {
    let (Some(suffix), Some((label, parent))) = (wildcard.strip_prefix("*."), name.split_once('.')) else {
        return false;
    };
    !label.is_empty() && label != "*" && parent.eq_ignore_ascii_case(suffix)
}

impl ServerCertVerifier for BackendVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if let Some(required) = &self.required {
            required.check(end_entity, intermediates, server_name, now, self.algorithms)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_names_are_the_same_or_one_is_a_wildcard_for_one_label() {
        for (wanted, held, same) in [
            ("a.example", "A.Example", true),
            ("a.example", "b.example", false),
            ("a.b.example", "*.b.example", true),
            ("*.b.example", "a.b.example", true),
            ("*.b.example", "*.b.example", true),
            ("a.a.b.example", "*.b.example", false),
            ("*.b.example", "b.example", false),
            ("*.b.example", ".b.example", false),
            ("*.a.b.example", "*.b.example", false),
        ] {
            assert_eq!(same_host(wanted, held), same, "{wanted} and {held}");
        }
    }
}
