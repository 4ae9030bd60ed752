//! Health and metrics, on a port and a thread of their own.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use tokio::net::TcpListener;

use crate::background::Background;
use crate::exposition;
use crate::metrics::WorkerStats;
use crate::shared::{Phase, Shared};

/// What the answers are made of.
pub struct Sources {
    /// The workers' common state.
    pub shared: Arc<Shared>,
    /// The workers' counters.
    pub stats: Arc<[Arc<WorkerStats>]>,
}

/// Serves `/healthz`, `/readyz` and `/metrics`. Returns the address that it is bound to.
///
/// # Errors
/// The address cannot be bound.
pub fn start(background: &Background, address: SocketAddr, sources: Sources) -> io::Result<SocketAddr> {
    let socket = std::net::TcpListener::bind(address)?;
    socket.set_nonblocking(true)?;
    let bound = socket.local_addr()?;
    let listener = {
        let _runtime = background.enter();
        TcpListener::from_std(socket)?
    };
    background.spawn(crate::admin_port::serve(listener, move |request| answer(request, &sources)));
    Ok(bound)
}

fn answer(request: &Request<Incoming>, sources: &Sources) -> Response<Full<Bytes>> {
    let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
    match request.uri().path() {
        _ if !is_read => text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n"),
        "/healthz" => text(StatusCode::OK, "ok\n"),
        "/readyz" => match sources.shared.phase.load(Ordering::Relaxed) {
            phase if phase == Phase::Ready as u8 => text(StatusCode::OK, "ok\n"),
            phase if phase == Phase::Starting as u8 => text(StatusCode::SERVICE_UNAVAILABLE, "no snapshot yet\n"),
            _ => text(StatusCode::SERVICE_UNAVAILABLE, "draining\n"),
        },
        "/metrics" => metrics(sources),
        _ => text(StatusCode::NOT_FOUND, "there are /healthz, /readyz and /metrics\n"),
    }
}

fn metrics(sources: &Sources) -> Response<Full<Bytes>> {
    match exposition::text(&sources.shared, &sources.stats) {
        Ok(page) => {
            let mut response = Response::new(Full::from(page));
            let kind = HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
            response.headers_mut().insert(CONTENT_TYPE, kind);
            response
        }
        Err(_) => text(StatusCode::INTERNAL_SERVER_ERROR, "the metrics cannot be written\n"),
    }
}

fn text(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}
