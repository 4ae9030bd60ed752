//! What clients have to show on listeners that ask for certificates (GEP-91).

use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, SignatureScheme};
use rustls_pki_types::{CertificateDer, UnixTime};
use snapshot::ClientValidation;

use crate::authorities::Trust;

/// What checks clients' certificates as asked for, `None` where nobody could pass; and which authorities cannot be used.
pub fn verifier(
    validation: &ClientValidation,
    provider: &Arc<CryptoProvider>,
) -> (Option<Arc<dyn ClientCertVerifier>>, Option<String>) {
    match validation {
        ClientValidation::Required(authorities) => {
            let (trust, refused) = Trust::in_these(authorities);
            let built = WebPkiClientVerifier::builder_with_provider(trust.roots().clone(), provider.clone()).build();
            match built {
                Ok(webpki) => (Some(Arc::new(Required { trust, webpki })), refused),
                Err(error) => (None, refused.or_else(|| Some(error.to_string()))),
            }
        }
        ClientValidation::Requested => (Some(Arc::new(Requested(provider.signature_verification_algorithms))), None),
    }
}

/// No handshake without a certificate that counts.
#[derive(Debug)]
struct Required {
    trust: Trust,
    webpki: Arc<dyn ClientCertVerifier>,
}

impl ClientCertVerifier for Required {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.webpki.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        if self.trust.holds_authority(end_entity, now) {
            return Ok(ClientCertVerified::assertion());
        }
        self.webpki.verify_client_cert(end_entity, intermediates, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.webpki.verify_tls12_signature(message, cert, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.webpki.verify_tls13_signature(message, cert, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.webpki.supported_verify_schemes()
    }
}

/// A certificate is asked for and its key must be the client's; who signed it is nobody's concern.
#[derive(Debug)]
struct Requested(WebPkiSupportedAlgorithms);

impl ClientCertVerifier for Requested {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, signature, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, signature, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}
