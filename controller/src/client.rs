//! The one way to the API server: every request has a deadline, and a connection that died without a sign is noticed.

use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use http::{Method, Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use kube::client::retry::RetryPolicy;
use kube::client::{Body, ConfigExt};
use kube::{Client, Config, Error};
use tokio::time::timeout;
use tower::retry::RetryLayer;
use tower::{BoxError, Service, ServiceBuilder, ServiceExt};

use crate::metrics::Metrics;

/// How long a request may take, its response included.
#[derive(Clone, Copy, Debug)]
struct Deadlines {
    /// A read, which may be a page of a list.
    read: Duration,
    /// The beginning of a response to a watch. What follows is limited by the watch's own time and by TCP's.
    watch: Duration,
    /// Everything else.
    write: Duration,
}

const DEADLINES: Deadlines =
    Deadlines { read: Duration::from_secs(60), watch: Duration::from_secs(60), write: Duration::from_secs(30) };
/// How long a connection is silent before the peer is asked whether it is there,
const KEEPALIVE: Duration = Duration::from_secs(15);
/// how long until it is asked again,
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// and how long data or questions may remain without an acknowledgement.
const USER_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a connection, TLS included, may take to be opened.
const CONNECT: Duration = Duration::from_secs(10);

/// A request took too long.
#[derive(Debug, thiserror::Error)]
#[error("the API server did not answer within {} s", .0.as_secs_f32())]
struct Late(Duration);

/// The client for the cluster in which this process runs, or that KUBECONFIG names.
pub async fn infer(metrics: &Metrics) -> Result<Client, Error> {
    build(Config::infer().await.map_err(Error::InferConfig)?, metrics)
}

/// A client whose requests all end.
pub fn build(config: Config, metrics: &Metrics) -> Result<Client, Error> {
    within(config, DEADLINES, metrics)
}

fn within(mut config: Config, deadlines: Deadlines, metrics: &Metrics) -> Result<Client, Error> {
    // Only the first caller of a process can install it; later ones find the same.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    config.connect_timeout = Some(CONNECT);
    let namespace = config.default_namespace.clone();
    let connector = config.rustls_https_connector_with_connector(tcp())?;
    let transport = legacy::Builder::new(TokioExecutor::new()).build::<_, Body>(connector);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.default_retry.then(|| RetryLayer::new(RetryPolicy::server_retry())))
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(BoxError::from)
        .service(transport)
        .boxed();
    Ok(Client::new(Limited { inner: service, deadlines, metrics: metrics.clone() }, namespace))
}

fn tcp() -> HttpConnector {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(CONNECT));
    tcp.set_keepalive(Some(KEEPALIVE));
    tcp.set_keepalive_interval(Some(KEEPALIVE_INTERVAL));
    #[cfg(target_os = "linux")]
    tcp.set_tcp_user_timeout(Some(USER_TIMEOUT));
    tcp
}

type ResponseBody = UnsyncBoxBody<Bytes, BoxError>;

/// Requests that end at their deadline.
struct Limited<S> {
    inner: S,
    deadlines: Deadlines,
    metrics: Metrics,
}

impl<S> Service<Request<Body>> for Limited<S>
where
    S: Service<Request<Body>, Response = Response<Incoming>, Error = BoxError> + Send,
    S::Future: Send + 'static,
{
    type Response = Response<ResponseBody>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Self::Response, BoxError>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let watched = watched(&request);
        let limit = match (&watched, request.method()) {
            (Some(_), _) => self.deadlines.watch,
            (None, &Method::GET) => self.deadlines.read,
            (None, _) => self.deadlines.write,
        };
        let metrics = self.metrics.clone();
        let response = self.inner.call(request);
        Box::pin(async move {
            let work = async {
                let response = response.await?;
                let Some(resource) = watched else {
                    // Its end counts too: everything but a watch is read as a whole anyway.
                    let (head, body) = response.into_parts();
                    let body = body.collect().await?.to_bytes();
                    return Ok(Response::from_parts(head, Full::new(body).map_err(BoxError::from).boxed_unsync()));
                };
                Ok(response.map(|body| {
                    let heard = metrics.watch(&resource);
                    let body = body.map_frame(move |frame| {
                        heard.now();
                        frame
                    });
                    body.map_err(BoxError::from).boxed_unsync()
                }))
            };
            timeout(limit, work).await.unwrap_or_else(|_| Err(Late(limit).into()))
        })
    }
}

/// The resource of a request that begins a watch, as the API names it in paths.
fn watched(request: &Request<Body>) -> Option<String> {
    let watches = request.uri().query()?.split('&').any(|pair| pair == "watch=true");
    watches.then(|| request.uri().path().rsplit('/').next().unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use futures::StreamExt;
    use k8s_openapi::api::core::v1::Service as Object;
    use kube::Api;
    use kube::api::{ListParams, PostParams, WatchParams};
    use serde_json::json;

    use super::*;
    use crate::api_server;

    const SHORT: Duration = Duration::from_millis(50);

    /// How a request fails; the test hangs if it never does.
    fn reason<T>(result: Result<T, Error>) -> String {
        match result {
            Err(Error::Service(error)) => error.to_string(),
            Err(other) => panic!("{other}"),
            Ok(_) => panic!("nobody answered"),
        }
    }

    #[tokio::test]
    async fn no_request_waits_for_ever() {
        let (url, mut requests) = api_server::serve().await;
        let deadlines = Deadlines { read: SHORT, watch: SHORT, write: SHORT };
        let client = within(Config::new(url), deadlines, &Metrics::default()).unwrap();
        let api: Api<Object> = Api::namespaced(client, "shop");
        let late = Late(SHORT).to_string();
        assert_eq!(reason(api.list(&ListParams::default()).await), late, "a list");
        assert_eq!(reason(api.watch(&WatchParams::default(), "1").await), late, "the start of a watch");
        assert_eq!(reason(api.create(&PostParams::default(), &Object::default()).await), late, "a write");
        for what in ["GET", "GET", "POST"] {
            assert_eq!(requests.next().await.what, format!("{what} /api/v1/namespaces/shop/services"));
        }
    }

    #[tokio::test]
    async fn what_a_watch_hears_shows_in_the_metrics() {
        let (url, mut requests) = api_server::serve().await;
        let metrics = Metrics::default();
        let api: Api<Object> = Api::namespaced(build(Config::new(url), &metrics).unwrap(), "shop");
        let watch = tokio::spawn(async move {
            let events = api.watch(&WatchParams::default(), "1").await.unwrap();
            events.boxed().next().await.unwrap().unwrap()
        });
        let event =
            json!({"type": "ADDED", "object": {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}}});
        assert!(!metrics.text().contains("watch_heard_timestamp_seconds{"));
        requests.next().await.answer(200, &event);
        watch.await.unwrap();
        assert!(
            metrics.text().contains("watch_heard_timestamp_seconds{resource=\"services\"} 1"),
            "{}",
            metrics.text()
        );
    }
}
