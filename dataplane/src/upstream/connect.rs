//! A new connection to an endpoint: TCP, then TLS where the cluster asks for it.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use socket2::SockRef;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsStream;

use super::tls::ClientTls;
use crate::clock::within;
use crate::reason::Reason;
use crate::transport::{KEEP_ALIVE, Transport};

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
    /// The endpoint has as many connections, or requests that wait for one, as this worker gives it.
    #[error("too many connections, or requests that wait for one")]
    Full,
    /// The HTTP/2 handshake failed.
    #[error("the HTTP handshake failed: {0}")]
    Http(hyper::Error),
}

impl ConnectError {
    /// The reason to answer with.
    pub fn reason(&self) -> Reason {
        match self {
            ConnectError::Failed(_) | ConnectError::FailedBefore | ConnectError::Http(_) => Reason::ConnectFailed,
            ConnectError::Full => Reason::UpstreamOverloaded,
            ConnectError::TimedOut => Reason::ConnectTimeout,
            ConnectError::Tls(_) => Reason::UpstreamTls,
        }
    }
}

/// How the endpoints of a cluster are connected to.
#[derive(Debug)]
pub struct Connector {
    http2: bool,
    tls: Option<Arc<ClientTls>>,
}

impl Connector {
    /// HTTP/1.1 or HTTP/2, over TLS or not.
    pub fn new(http2: bool, tls: Option<Arc<ClientTls>>) -> Self {
        Self { http2, tls }
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
        SockRef::from(&stream).set_tcp_keepalive(&KEEP_ALIVE)?;
        let Some(tls) = &self.tls else { return Ok(Transport::Plain(stream)) };
        let stream = tls.handshake(stream, address.ip()).await.map_err(ConnectError::Tls)?;
        Ok(Transport::Tls(Box::new(TlsStream::Client(stream))))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn endpoints_are_asked_whether_they_live() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let connected = Connector::new(false, None).connect(listener.local_addr().unwrap(), None).await.unwrap();
        let Transport::Plain(stream) = connected else { panic!("no TLS was asked for") };
        let socket = SockRef::from(&stream);
        assert!(socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(60));
    }
}
