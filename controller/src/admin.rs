//! `/healthz`, `/readyz` and `/metrics`.

use dataplane::admin_port;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::metrics::Metrics;
use crate::shutdown::Shutdown;

/// Serves until `shutdown`. Ready means that the first full build is published, whether or not this replica leads.
pub async fn serve(listener: TcpListener, ready: watch::Receiver<bool>, metrics: Metrics, mut shutdown: Shutdown) {
    let respond = move |request: &Request<Incoming>| answer(request, *ready.borrow(), &metrics);
    tokio::select! {
        () = admin_port::serve(listener, respond) => {}
        () = shutdown.requested() => {}
    }
}

fn answer(request: &Request<Incoming>, ready: bool, metrics: &Metrics) -> Response<Full<Bytes>> {
    let (status, kind, text) = match (request.method(), request.uri().path()) {
        (&Method::GET | &Method::HEAD, "/healthz") => (StatusCode::OK, "text/plain", "ok\n".into()),
        (&Method::GET | &Method::HEAD, "/readyz") if ready => (StatusCode::OK, "text/plain", "ok\n".into()),
        (&Method::GET | &Method::HEAD, "/readyz") => {
            (StatusCode::SERVICE_UNAVAILABLE, "text/plain", "the first build is not published yet\n".into())
        }
        (&Method::GET, "/metrics") => {
            (StatusCode::OK, "application/openmetrics-text; version=1.0.0; charset=utf-8", metrics.text())
        }
        _ => (StatusCode::NOT_FOUND, "text/plain", "not found\n".into()),
    };
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    response
}
