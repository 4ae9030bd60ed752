//! The backend of the tests: answers every request with what it received, as JSON, and sends WebSocket messages back. The header
//! `x-answer-status` asks for another status than 200.
//!
//! `echo serve` is the server; `echo pause` does nothing until it is told to end, which is all that the first container
//! of every pod has to do.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use http::{HeaderValue, Request, Response, StatusCode, Version, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

/// How a client of HTTP/2 without TLS begins (RFC 9113, section 3.4).
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0";
/// For so long new connections are taken after the signal to end: nodes hear of it one after another.
const LINGER: Duration = Duration::from_secs(6);
/// For so long open connections may go on after that.
const DRAIN: Duration = Duration::from_secs(10);

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let mode = std::env::args().nth(1);
    let outcome = match mode.as_deref() {
        Some("serve") => serve(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 8080))).await,
        Some("pause") => terminated().await,
        _ => Err(anyhow::anyhow!("usage: echo serve|pause")),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn terminated() -> anyhow::Result<()> {
    signal(SignalKind::terminate())?.recv().await;
    Ok(())
}

async fn serve(address: SocketAddr) -> anyhow::Result<()> {
    let listener = TcpListener::bind(address).await.context("listening")?;
    // `ending` turns true at the signal; a receiver that still exists is a connection that still exists.
    let (ending, _) = watch::channel(false);
    let stopped = async {
        terminated().await.ok();
        ending.send_replace(true);
        sleep(LINGER).await;
    };
    tokio::pin!(stopped);
    loop {
        tokio::select! {
            () = &mut stopped => break,
            accepted = listener.accept() => {
                if let Ok((stream, _)) = accepted {
                    tokio::spawn(connection(stream, ending.subscribe()));
                }
            }
        }
    }
    drop(listener);
    timeout(DRAIN, ending.closed()).await.ok();
    Ok(())
}

async fn connection(stream: TcpStream, ending: watch::Receiver<bool>) {
    let mut start = [0; HTTP2_PREFACE.len()];
    let http2 = matches!(stream.peek(&mut start).await, Ok(n) if n > 0 && HTTP2_PREFACE.starts_with(&start[..n]));
    let service = service_fn(move |request| answer(request, ending.clone()));
    // A client that goes away is no news.
    if http2 {
        hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .serve_connection(TokioIo::new(stream), service)
            .await
            .ok();
    } else {
        hyper::server::conn::http1::Builder::new()
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades()
            .await
            .ok();
    }
}

async fn answer(
    mut request: Request<Incoming>,
    ending: watch::Receiver<bool>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    if request.headers().contains_key(header::SEC_WEBSOCKET_KEY) {
        return Ok(websocket(&mut request, ending));
    }
    let (head, body) = request.into_parts();
    let Ok(body) = body.collect().await else {
        return Ok(status(StatusCode::BAD_REQUEST));
    };
    let mut headers = BTreeMap::<_, Vec<_>>::new();
    for (name, value) in &head.headers {
        headers.entry(name.as_str()).or_default().push(String::from_utf8_lossy(value.as_bytes()));
    }
    let variable = |name| std::env::var(name).unwrap_or_default();
    let answer = json!({
        "service": variable("SERVICE"),
        "pod": variable("POD"),
        "method": head.method.as_str(),
        "path": head.uri.path_and_query().map(|path| path.as_str()),
        "headers": headers,
        "body_bytes": body.to_bytes().len(),
    });
    let mut response = Response::new(Full::from(answer.to_string()));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Some(asked) =
        head.headers.get("x-answer-status").and_then(|code| StatusCode::from_bytes(code.as_bytes()).ok())
    {
        *response.status_mut() = asked;
    }
    if *ending.borrow() && head.version < Version::HTTP_2 {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    Ok(response)
}

/// Takes the upgrade; the messages are sent back by a task that outlives the request.
fn websocket(request: &mut Request<Incoming>, ending: watch::Receiver<bool>) -> Response<Full<Bytes>> {
    let accept = request.headers().get(header::SEC_WEBSOCKET_KEY).map(|key| derive_accept_key(key.as_bytes()));
    let Some(accept) = accept.and_then(|key| HeaderValue::try_from(key).ok()) else {
        return status(StatusCode::BAD_REQUEST);
    };
    let upgrade = hyper::upgrade::on(request);
    tokio::spawn(async move {
        let _open = ending;
        let Ok(upgraded) = upgrade.await else { return };
        let mut socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, None).await;
        while let Some(Ok(message)) = socket.next().await {
            if (message.is_text() || message.is_binary()) && socket.send(message).await.is_err() {
                return;
            }
        }
    });
    let mut response = status(StatusCode::SWITCHING_PROTOCOLS);
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    response.headers_mut().insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    response.headers_mut().insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    response
}

fn status(status: StatusCode) -> Response<Full<Bytes>> {
    let mut response = Response::default();
    *response.status_mut() = status;
    response
}
