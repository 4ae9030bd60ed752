//! An API server of which a test gives every answer.

use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use kube::Client;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};

use crate::client;
use crate::metrics::Metrics;

/// Far longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// The requests that come, in order.
pub struct Requests(mpsc::UnboundedReceiver<Asked>);

/// A request that waits for its answer.
pub struct Asked {
    /// Its method and path.
    pub what: String,
    /// Its query.
    pub query: String,
    /// Its body; null without one.
    pub body: Value,
    answer: oneshot::Sender<(u16, String)>,
}

impl Requests {
    /// The next one.
    pub async fn next(&mut self) -> Asked {
        tokio::time::timeout(PATIENCE, self.0.recv()).await.expect("a request comes").expect("the server runs")
    }

    /// Whether nothing was asked so far.
    pub fn none_yet(&mut self) -> bool {
        self.0.try_recv().is_err()
    }
}

impl Asked {
    /// Answers; whoever asked may have gone.
    pub fn answer(self, status: u16, body: &Value) {
        let _ = self.answer.send((status, body.to_string()));
    }

    /// Answers that there is no such object.
    pub fn not_found(self) {
        self.answer(
            404,
            &json!({"kind": "Status", "status": "Failure", "message": "", "reason": "NotFound", "code": 404}),
        );
    }
}

/// Starts one on loopback. Returns its client, and what is asked of it.
pub async fn start() -> (Client, Requests) {
    let (url, requests) = serve().await;
    (client::build(kube::Config::new(url), &Metrics::default()).unwrap(), requests)
}

/// Starts one on loopback. Returns its address, and what is asked of it.
pub async fn serve() -> (http::Uri, Requests) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (sender, requests) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let sender = sender.clone();
            let service = service_fn(move |request: Request<Incoming>| {
                let sender = sender.clone();
                async move {
                    let what = format!("{} {}", request.method(), request.uri().path());
                    let query = request.uri().query().unwrap_or_default().to_owned();
                    let body = request.into_body().collect().await?.to_bytes();
                    let body = serde_json::from_slice(&body).unwrap_or_default();
                    let (answer, answered) = oneshot::channel();
                    let _ = sender.send(Asked { what, query, body, answer });
                    let (status, body) = answered.await.unwrap_or((500, String::new()));
                    let response = Response::builder().status(status).body(Full::new(Bytes::from(body)));
                    Ok::<_, hyper::Error>(response.unwrap())
                }
            });
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    });
    (url.parse().unwrap(), Requests(requests))
}
