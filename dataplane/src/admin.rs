//! Health and metrics, on a port and a thread of their own.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::background::Background;
use crate::exposition;
use crate::metrics::WorkerStats;
use crate::shared::{Phase, Shared};

/// Probes and scrapers at once; more wait.
const MAX_CONNECTIONS: usize = 64;
/// A client of this port that sends nothing for so long is closed.
const PATIENCE: Duration = Duration::from_secs(30);

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
    background.spawn(run(listener, Arc::new(sources)));
    Ok(bound)
}

async fn run(listener: TcpListener, sources: Arc<Sources>) {
    let free = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let (stream, _) = crate::listen::accept(&listener).await;
        let Ok(permit) = free.clone().acquire_owned().await else { return };
        let sources = sources.clone();
        tokio::spawn(async move {
            let service = service_fn(|request| {
                let response = answer(&request, &sources);
                async { Ok::<_, Infallible>(response) }
            });
            let mut builder = hyper::server::conn::http1::Builder::new();
            builder.timer(TokioTimer::new()).header_read_timeout(PATIENCE);
            if let Err(error) = builder.serve_connection(TokioIo::new(stream), service).await {
                tracing::debug!(%error, "a connection to the admin port ended");
            }
            drop(permit);
        });
    }
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
