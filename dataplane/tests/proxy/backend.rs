//! The peers: small backends of hyper's servers.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

pub type Body = UnsyncBoxBody<Bytes, hyper::Error>;

/// A backend; ends with its connections when dropped.
pub struct Backend {
    pub address: SocketAddr,
    pub connections: Arc<AtomicUsize>,
    accepting: JoinHandle<()>,
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Backend {
    /// Answers HTTP/1.1 with `answer`.
    pub async fn http1<F, A>(answer: F) -> Self
    where
        F: Fn(Request<Incoming>) -> A + Clone + Send + Sync + 'static,
        A: Future<Output = Response<Body>> + Send + 'static,
    {
        Self::start(answer, |stream, answer| async move {
            let service = service_fn(move |request| {
                let answer = answer(request);
                async move { Ok::<_, Infallible>(answer.await) }
            });
            let builder = hyper::server::conn::http1::Builder::new();
            let _ = builder.serve_connection(TokioIo::new(stream), service).with_upgrades().await;
        })
        .await
    }

    /// Answers HTTP/2 (prior knowledge) with `answer`.
    pub async fn http2<F, A>(answer: F) -> Self
    where
        F: Fn(Request<Incoming>) -> A + Clone + Send + Sync + 'static,
        A: Future<Output = Response<Body>> + Send + 'static,
    {
        Self::http2_with_streams(200, answer).await
    }

    /// The same, with at most so many requests at once on a connection.
    pub async fn http2_with_streams<F, A>(streams: u32, answer: F) -> Self
    where
        F: Fn(Request<Incoming>) -> A + Clone + Send + Sync + 'static,
        A: Future<Output = Response<Body>> + Send + 'static,
    {
        Self::start(answer, move |stream, answer| async move {
            let service = service_fn(move |request| {
                let answer = answer(request);
                async move { Ok::<_, Infallible>(answer.await) }
            });
            let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            let _ = builder.max_concurrent_streams(streams).serve_connection(TokioIo::new(stream), service).await;
        })
        .await
    }

    /// Answers HTTP/1.1 with what it saw, under this name.
    pub async fn echo(name: &'static str) -> Self {
        Self::http1(move |request| echo(name, request)).await
    }

    /// The same at this address.
    pub async fn echo_at(name: &'static str, address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let answer = move |request| echo(name, request);
        Self::accept(listener, answer, |stream, answer| async move {
            let service = service_fn(move |request| {
                let answer = answer(request);
                async move { Ok::<_, Infallible>(answer.await) }
            });
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        })
    }

    async fn start<F, A, S>(answer: F, serve: impl Fn(TcpStream, F) -> S + Send + 'static) -> Self
    where
        F: Fn(Request<Incoming>) -> A + Clone + Send + Sync + 'static,
        S: Future<Output = ()> + Send + 'static,
        A: Send,
    {
        Self::accept(TcpListener::bind(("127.0.0.1", 0)).await.unwrap(), answer, serve)
    }

    fn accept<F, A, S>(listener: TcpListener, answer: F, serve: impl Fn(TcpStream, F) -> S + Send + 'static) -> Self
    where
        F: Fn(Request<Incoming>) -> A + Clone + Send + Sync + 'static,
        S: Future<Output = ()> + Send + 'static,
        A: Send,
    {
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let counted = connections.clone();
        let accepting = tokio::spawn(async move {
            let mut serving = tokio::task::JoinSet::new();
            loop {
                let Ok((stream, _)) = listener.accept().await else { return };
                counted.fetch_add(1, Ordering::SeqCst);
                serving.spawn(serve(stream, answer.clone()));
                while serving.try_join_next().is_some() {}
            }
        });
        Self { address, connections, accepting }
    }
}

/// The request as text: request line, headers, empty line, body.
pub async fn echo(name: &'static str, request: Request<Incoming>) -> Response<Body> {
    let (head, body) = request.into_parts();
    let mut text = format!("{} {}\n", head.method, head.uri);
    for (key, value) in &head.headers {
        text += &format!("{key}: {}\n", String::from_utf8_lossy(value.as_bytes()));
    }
    text += "\n";
    let body = match body.collect().await {
        Ok(body) => body.to_bytes(),
        Err(_) => return full("broken body"),
    };
    text += &String::from_utf8_lossy(&body);
    let mut response = full(text);
    response.headers_mut().insert("x-backend", name.parse().unwrap());
    response
}

pub fn full(text: impl Into<Bytes>) -> Response<Body> {
    Response::new(Full::new(text.into()).map_err(|never: Infallible| match never {}).boxed_unsync())
}

/// A body of `frames`, then trailers.
pub fn frames(frames: Vec<Bytes>, trailers: Option<HeaderMap>) -> Body {
    let frames = frames.into_iter().map(Frame::data).chain(trailers.map(Frame::trailers)).map(Ok);
    http_body_util::StreamBody::new(futures::stream::iter(frames)).boxed_unsync()
}
