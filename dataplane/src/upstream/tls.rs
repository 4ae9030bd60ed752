//! The client's side of TLS: how handshakes with a cluster's endpoints are made.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls_pki_types::ServerName;
use snapshot::{BackendProtocol, BackendTls};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::verify::BackendVerifier;

/// The TLS settings of a cluster, compiled. Sessions are resumed among connections that share one of these.
pub struct ClientTls {
    config: Arc<ClientConfig>,
    server_name: Option<ServerName<'static>>,
}

impl ClientTls {
    /// Compiles TLS as it is spoken with the endpoints, and says which authorities cannot be used. `certificate` is shown to
    /// those that ask for one, `protocol` is what is spoken inside.
    ///
    /// # Errors
    /// The server name is none.
    pub fn new(
        tls: &BackendTls,
        protocol: &BackendProtocol,
        certificate: Option<Arc<CertifiedKey>>,
    ) -> Result<(Self, Option<String>), String> {
        let server_name = match &tls.server_name {
            Some(name) => {
                let parsed = ServerName::try_from(name.clone());
                Some(parsed.map_err(|_| format!("{name:?} is not a server name"))?)
            }
            None => None,
        };
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let (verifier, refused) = BackendVerifier::new(&tls.verification, &provider);
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let mut config = match certificate {
            Some(certificate) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(certificate))),
            None => builder.with_no_client_auth(),
        };
        config.enable_sni = server_name.is_some();
        config.alpn_protocols = match protocol {
            BackendProtocol::Https(_) => vec![b"http/1.1".to_vec()],
            BackendProtocol::Http2Tls(_) => vec![b"h2".to_vec()],
            // What is inside is between the client and the backend.
            _ => Vec::new(),
        };
        Ok((Self { config: Arc::new(config), server_name }, refused))
    }

    /// The handshake with the endpoint at `address`.
    ///
    /// # Errors
    /// The endpoint's certificate does not count, the two cannot agree, or the connection broke.
    pub async fn handshake(&self, stream: TcpStream, address: IpAddr) -> io::Result<TlsStream<TcpStream>> {
        // Without a server name the address stands in for it. It is never sent, and certificates that have to be for
        // somebody have to be for it.
        let name = self.server_name.clone().unwrap_or_else(|| ServerName::from(address));
        TlsConnector::from(self.config.clone()).connect(name, stream).await
    }
}

impl fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientTls").field("server_name", &self.server_name).finish_non_exhaustive()
    }
}
