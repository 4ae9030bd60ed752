//! A new connection to an endpoint: TCP, then TLS where the cluster asks for it.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use rustls_pki_types::ServerName;
use snapshot::BackendProtocol;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::{TlsConnector, TlsStream};

use super::tls;
use crate::clock::within;
use crate::reason::Reason;
use crate::transport::Transport;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The endpoint refused, or there is no way to it.
    #[error("cannot connect: {0}")]
    Failed(#[from] io::Error),
    /// It took longer than allowed.
    #[error("connecting took too long")]
    TimedOut,
    /// It failed for another request that this one waited for.
    #[error("connecting has just failed")]
    FailedBefore,
    /// The TLS handshake failed.
    #[error("the TLS handshake failed: {0}")]
    Tls(io::Error),
    /// The HTTP/2 handshake failed.
    #[error("the HTTP handshake failed: {0}")]
    Http(hyper::Error),
}

impl ConnectError {
    /// The reason to answer with.
    pub fn reason(&self) -> Reason {
        match self {
            ConnectError::Failed(_) | ConnectError::FailedBefore | ConnectError::Http(_) => Reason::ConnectFailed,
            ConnectError::TimedOut => Reason::ConnectTimeout,
            ConnectError::Tls(_) => Reason::UpstreamTls,
        }
    }
}

/// How the endpoints of a cluster are connected to.
pub struct Connector {
    http2: bool,
    tls: Option<(TlsConnector, Option<ServerName<'static>>)>,
}

impl Connector {
    /// HTTP/1.1 without TLS.
    pub fn http1() -> Self {
        Self { http2: false, tls: None }
    }

    /// HTTP/2 without TLS.
    pub fn http2() -> Self {
        Self { http2: true, tls: None }
    }

    /// Compiles what is spoken with the endpoints.
    ///
    /// # Errors
    /// Says which authority or name is invalid.
    pub fn new(protocol: &BackendProtocol) -> Result<Self, String> {
        let http2 = super::is_http2(protocol);
        let tls = match protocol {
            BackendProtocol::Http1 | BackendProtocol::Http2 => None,
            BackendProtocol::Https(tls) | BackendProtocol::Http2Tls(tls) => {
                let name = match &tls.server_name {
                    Some(name) => {
                        let parsed = ServerName::try_from(name.clone());
                        Some(parsed.map_err(|_| format!("{name:?} is not a server name"))?)
                    }
                    None => None,
                };
                Some((TlsConnector::from(Arc::new(tls::client_config(tls, http2)?)), name))
            }
            BackendProtocol::Tcp | BackendProtocol::Tls(_) | BackendProtocol::Udp => {
                return Err("its protocol carries no HTTP requests".into());
            }
        };
        Ok(Self { http2, tls })
    }

    /// Whether requests share connections.
    pub fn speaks_http2(&self) -> bool {
        self.http2
    }

    /// Whether TLS is spoken.
    pub fn is_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// A connection to this address by `deadline`, TLS included.
    pub(super) async fn connect(
        &self,
        address: SocketAddr,
        deadline: Option<Instant>,
    ) -> Result<Transport, ConnectError> {
        within(deadline, self.connect_unlimited(address)).await.unwrap_or(Err(ConnectError::TimedOut))
    }

    async fn connect_unlimited(&self, address: SocketAddr) -> Result<Transport, ConnectError> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let Some((connector, name)) = &self.tls else { return Ok(Transport::Plain(stream)) };
        // Without a server name the address stands in for it: it is never sent, and nothing is checked against it.
        let name = name.clone().unwrap_or_else(|| ServerName::from(address.ip()));
        let stream = connector.connect(name, stream).await.map_err(ConnectError::Tls)?;
        Ok(Transport::Tls(Box::new(TlsStream::Client(stream))))
    }
}

impl std::fmt::Debug for Connector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connector").field("http2", &self.http2).field("tls", &self.tls.is_some()).finish()
    }
}
