//! Small servers that stand in for the backends of a folder of manifests: each answers with what it received, and sends the
//! messages of a WebSocket back.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures::{SinkExt, StreamExt};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use translate::Resources;

/// How a client of HTTP/2 without TLS begins (RFC 9113, section 3.4).
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n";
/// Time to send the first bytes and the request's head.
const PATIENCE: Duration = Duration::from_secs(10);
/// The longest WebSocket message that is sent back, in bytes.
const MAX_MESSAGE: usize = 1 << 20;

/// The echo servers that are running. They end when this is dropped.
#[derive(Default)]
pub struct Echoes {
    known: BTreeSet<SocketAddr>,
    servers: JoinSet<()>,
}

/// What became of one address.
#[derive(Debug)]
pub struct Started {
    /// The address.
    pub address: SocketAddr,
    /// The Service that it belongs to, as `namespace/name`.
    pub service: String,
    /// Whether a server was started; not if somebody listens there already.
    pub outcome: io::Result<()>,
}

impl Echoes {
    /// Starts a server on each loopback address of the EndpointSlices that has not been looked at before.
    pub async fn start(&mut self, resources: &Resources) -> Vec<Started> {
        let mut started = Vec::new();
        for (address, service) in loopback_endpoints(resources) {
            if self.known.insert(address) {
                let outcome = self.serve(address, &service).await;
                started.push(Started { address, service, outcome });
            }
        }
        started
    }

    async fn serve(&mut self, address: SocketAddr, service: &str) -> io::Result<()> {
        let listener = TcpListener::bind(address).await?;
        let identity = Arc::new(Identity { service: service.to_owned(), endpoint: address });
        self.servers.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                match listener.accept().await {
                    Ok((stream, _)) => drop(connections.spawn(converse(stream, identity.clone()))),
                    // Out of file descriptors, most likely: some connection has to end first.
                    Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                }
                while connections.try_join_next().is_some() {}
            }
        });
        Ok(())
    }
}

struct Identity {
    service: String,
    endpoint: SocketAddr,
}

/// The loopback addresses of all EndpointSlices, with the Service of each.
fn loopback_endpoints(resources: &Resources) -> BTreeMap<SocketAddr, String> {
    let mut found = BTreeMap::new();
    for (key, slice) in &resources.endpoint_slices {
        let slice = &slice.current;
        let Some(service) = translate::service_of(&slice.metadata) else { continue };
        let ports = slice.ports.iter().flatten().filter_map(|port| u16::try_from(port.port?).ok());
        for port in ports {
            let addresses = slice.endpoints.iter().flat_map(|endpoint| &endpoint.addresses);
            for ip in addresses.filter_map(|address| address.parse::<IpAddr>().ok()).filter(IpAddr::is_loopback) {
                found.insert(SocketAddr::new(ip, port), format!("{}/{service}", key.namespace));
            }
        }
    }
    found
}

async fn converse(stream: TcpStream, identity: Arc<Identity>) {
    // A connection that leaves HTTP goes on here rather than in a task of its own, so that it ends with the server.
    let (leaves, mut left) = mpsc::channel(1);
    let service = service_fn(move |request| answer(request, identity.clone(), leaves.clone()));
    let Ok(Ok(http2)) = tokio::time::timeout(PATIENCE, begins_with_http2(&stream)).await else { return };
    let _ = stream.set_nodelay(true);
    let io = TokioIo::new(stream);
    // Whatever ends the connection is the client's business.
    let _ = if http2 {
        hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .serve_connection(io, service)
            .await
    } else {
        let mut http1 = hyper::server::conn::http1::Builder::new();
        http1.timer(TokioTimer::new()).header_read_timeout(PATIENCE);
        http1.serve_connection(io, service).with_upgrades().await
    };
    if let Some(upgrade) = left.recv().await
        && let Ok(upgraded) = upgrade.await
    {
        send_back(upgraded).await;
    }
}

async fn begins_with_http2(stream: &TcpStream) -> io::Result<bool> {
    let mut start = [0; HTTP2_PREFACE.len()];
    let length = stream.peek(&mut start).await?;
    // Four bytes tell: no method of HTTP/1 begins so.
    Ok(length >= 4 && HTTP2_PREFACE.starts_with(&start[..length]))
}

async fn answer(
    mut request: Request<Incoming>,
    identity: Arc<Identity>,
    leaves: mpsc::Sender<OnUpgrade>,
) -> Result<Response<Full<Bytes>>, hyper::Error> {
    if let Some(response) = websocket(request.headers()) {
        // A connection leaves HTTP once: there is room.
        let _ = leaves.try_send(hyper::upgrade::on(&mut request));
        return Ok(response);
    }
    let (head, mut body) = request.into_parts();
    let mut length = 0;
    while let Some(frame) = body.frame().await {
        length += frame?.data_ref().map_or(0, Bytes::len);
    }
    let host = head.uri.authority().map(|authority| authority.as_str().to_owned());
    let host = host.or_else(|| Some(head.headers.get(header::HOST)?.to_str().ok()?.to_owned()));
    let text = json!({
        "service": identity.service,
        "endpoint": identity.endpoint,
        "method": head.method.as_str(),
        "host": host,
        "path": head.uri.path(),
        "query": head.uri.query(),
        "protocol": format!("{:?}", head.version),
        "headers": headers(&head.headers),
        "bodyBytes": length,
    });
    let mut response = Response::new(Full::from(format!("{text:#}\n")));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

/// The answer to a request for a WebSocket (RFC 6455, section 4.2.2); `None` for any other request.
fn websocket(request: &HeaderMap) -> Option<Response<Full<Bytes>>> {
    let asked = request.get(header::UPGRADE).is_some_and(|name| name.as_bytes().eq_ignore_ascii_case(b"websocket"));
    let key = request.get(header::SEC_WEBSOCKET_KEY).filter(|_| asked)?;
    let accept = HeaderValue::try_from(derive_accept_key(key.as_bytes())).ok()?;
    let mut response = Response::default();
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    Some(response)
}

/// Sends every message back until the client closes.
async fn send_back(upgraded: Upgraded) {
    let limits = WebSocketConfig::default().max_message_size(Some(MAX_MESSAGE)).max_frame_size(Some(MAX_MESSAGE));
    let mut socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, Some(limits)).await;
    while let Some(Ok(message)) = socket.next().await {
        if (message.is_text() || message.is_binary()) && socket.send(message).await.is_err() {
            return;
        }
    }
}

/// Values of a repeated header are joined, as RFC 9110, section 5.3 allows.
fn headers(headers: &HeaderMap) -> Value {
    let value = |name| {
        headers
            .get_all(name)
            .iter()
            .map(|value| String::from_utf8_lossy(value.as_bytes()))
            .collect::<Vec<_>>()
            .join(", ")
    };
    headers
        .keys()
        .map(|name| (name.as_str().to_owned(), Value::from(value(name))))
        .collect::<serde_json::Map<_, _>>()
        .into()
}
