//! Certificates for tests, and those who sign them.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, Certificate as Issued, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType, SerialNumber,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use snapshot::{Certificate, Secret};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// A certificate authority. All have the same name and serial number, as those of the Gateway API's suite do.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub der: Vec<u8>,
}

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "authority");
        params.serial_number = Some(SerialNumber::from(2024));
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().unwrap();
        let der = params.self_signed(&key).unwrap().der().to_vec();
        Self { issuer: Issuer::new(params, key), der }
    }

    /// A certificate for a server of these names: host names, or URIs where there is a scheme.
    pub fn server(&self, names: &[&str]) -> Certificate {
        let key = KeyPair::generate().unwrap();
        certificate(&server_params(names).signed_by(&key, &self.issuer).unwrap(), &key)
    }

    /// A certificate for a client, without any name but its subject.
    pub fn client(&self) -> Certificate {
        self.client_of(CertificateParams::default())
    }

    /// The same, which expires so soon.
    pub fn client_for(&self, life: Duration) -> Certificate {
        let mut params = CertificateParams::default();
        params.not_after = (SystemTime::now() + life).into();
        self.client_of(params)
    }

    fn client_of(&self, mut params: CertificateParams) -> Certificate {
        let key = KeyPair::generate().unwrap();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        certificate(&params.signed_by(&key, &self.issuer).unwrap(), &key)
    }
}

/// A certificate for whatever purpose that nobody but itself vouches for, and which calls itself an authority or not.
pub fn self_signed(names: &[&str], is_ca: IsCa) -> Certificate {
    let key = KeyPair::generate().unwrap();
    let mut params = server_params(names);
    params.extended_key_usages.clear();
    params.is_ca = is_ca;
    certificate(&params.self_signed(&key).unwrap(), &key)
}

fn server_params(names: &[&str]) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.subject_alt_names = names
        .iter()
        .map(|name| match name.contains("://") {
            true => SanType::URI((*name).try_into().unwrap()),
            false => SanType::DnsName((*name).try_into().unwrap()),
        })
        .collect();
    params
}

fn certificate(issued: &Issued, key: &KeyPair) -> Certificate {
    let summary = "made for a test".into();
    Certificate { chain: vec![issued.der().to_vec()], key: Secret::new(key.serialize_der()), summary }
}

/// What rustls takes of a certificate.
pub fn parts(certificate: &Certificate) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
    let chain = certificate.chain.iter().map(|der| CertificateDer::from(der.clone())).collect();
    (chain, PrivateKeyDer::try_from(certificate.key.expose().to_vec()).unwrap())
}

/// A client that trusts what these authorities sign, and shows `certificate` to those who ask.
pub fn trusting(authorities: &[&Authority], certificate: Option<&Certificate>) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    for authority in authorities {
        roots.add(authority.der.clone().into()).unwrap();
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    match certificate {
        Some(certificate) => {
            let (chain, key) = parts(certificate);
            builder.with_client_auth_cert(chain, key).unwrap()
        }
        None => builder.with_no_client_auth(),
    }
}

/// A connection to the server of this name.
pub async fn connect(
    mut config: ClientConfig,
    alpn: &[&[u8]],
    address: SocketAddr,
    server_name: &str,
) -> io::Result<TlsStream<TcpStream>> {
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    connect_again(&Arc::new(config), address, server_name).await
}

/// The same, with the sessions that this configuration has kept.
pub async fn connect_again(
    config: &Arc<ClientConfig>,
    address: SocketAddr,
    server_name: &str,
) -> io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await?;
    TlsConnector::from(config.clone()).connect(ServerName::try_from(server_name.to_owned()).unwrap(), stream).await
}
