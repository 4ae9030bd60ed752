//! An HTTP/1.1 client that hides nothing: one connection, its certificate, its answers.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode, header};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::{CertificateDer, ServerName};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpSocket;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

/// Longer than anything in the cluster may take: what lasts this long is a failure.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where a request goes.
#[derive(Clone)]
pub struct Target {
    pub address: SocketAddr,
    /// The Host, and over TLS the server name.
    pub host: String,
    pub path: String,
    /// Over TLS, if set.
    pub tls: Option<Arc<ClientConfig>>,
    /// The client's own address, if it must be a certain one.
    pub from: Option<IpAddr>,
}

impl Target {
    pub fn http(address: SocketAddr, host: &str, path: &str) -> Target {
        Target { address, host: host.into(), path: path.into(), tls: None, from: None }
    }

    pub fn https(address: SocketAddr, host: &str, path: &str, tls: &Arc<ClientConfig>) -> Target {
        Target { tls: Some(tls.clone()), ..Target::http(address, host, path) }
    }

    /// One request on a connection of its own.
    pub async fn get(&self) -> Result<Answer> {
        self.get_with(&[]).await
    }

    /// One request with these headers on a connection of its own.
    pub async fn get_with(&self, headers: &[(&str, &str)]) -> Result<Answer> {
        Connection::open(self).await?.get(self, headers).await
    }
}

/// A stream to a server, with or without TLS.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// Connects; over TLS the second part is the server's certificate.
pub async fn connect(target: &Target) -> Result<(Box<dyn Stream>, Option<CertificateDer<'static>>)> {
    let socket = if target.address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if let Some(address) = target.from {
        socket.bind(SocketAddr::new(address, 0))?;
    }
    let tcp = timeout(PATIENCE, socket.connect(target.address)).await.context("connect: timeout")?;
    let tcp = tcp.context("connect")?;
    tcp.set_nodelay(true)?;
    let Some(config) = &target.tls else { return Ok((Box::new(tcp), None)) };
    let name = ServerName::try_from(target.host.clone())?;
    let handshake = TlsConnector::from(config.clone()).connect(name, tcp);
    let stream = timeout(PATIENCE, handshake).await.context("TLS: timeout")?.context("TLS")?;
    let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first()).cloned();
    Ok((Box::new(stream), certificate.map(CertificateDer::into_owned)))
}

pub struct Connection {
    sender: SendRequest<Empty<Bytes>>,
    certificate: Option<CertificateDer<'static>>,
}

impl Connection {
    pub async fn open(target: &Target) -> Result<Connection> {
        let (stream, certificate) = connect(target).await?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await.context("handshake")?;
        tokio::spawn(connection);
        Ok(Connection { sender, certificate })
    }

    /// Whether the server has not closed it.
    pub async fn usable(&mut self) -> bool {
        self.sender.ready().await.is_ok()
    }

    pub async fn get(&mut self, target: &Target, headers: &[(&str, &str)]) -> Result<Answer> {
        let mut request = Request::get(&target.path).header(header::HOST, &target.host);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let exchange = async {
            let response = self.sender.send_request(request.body(Empty::new())?).await.context("request")?;
            let (head, body) = response.into_parts();
            let body = body.collect().await.context("body")?.to_bytes();
            anyhow::Ok(Answer {
                status: head.status,
                headers: head.headers,
                body,
                certificate: self.certificate.clone(),
            })
        };
        timeout(PATIENCE, exchange).await.context("request: timeout")?
    }
}

#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
    /// Of the connection that it came on.
    pub certificate: Option<CertificateDer<'static>>,
}

impl Answer {
    /// A header's value, or an empty one.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// What the echo backend says that it received.
    pub fn echo(&self) -> Result<Value> {
        ensure!(self.status == StatusCode::OK, "status {} {}", self.status.as_u16(), self.header("x-sluice-reason"));
        serde_json::from_slice(&self.body).context("the body is not the echo backend's")
    }

    /// Fails unless a pod of this Service answered, and returns the pod.
    pub fn from(&self, service: &str) -> Result<String> {
        let echo = self.echo()?;
        if echo["service"] != service {
            bail!("wrong backend: {} instead of {service}", echo["service"]);
        }
        Ok(echo["pod"].as_str().unwrap_or_default().to_owned())
    }

    /// Whether the server closes the connection after this.
    pub fn closes(&self) -> bool {
        self.header("connection").eq_ignore_ascii_case("close")
    }
}
