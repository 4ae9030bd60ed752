//! A port for probes and scrapers: short exchanges, one a connection. Clients that send nothing cannot keep others out.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;

/// Connections at once. For one more the oldest is closed: an exchange takes milliseconds, so that the oldest is one that
/// does nothing.
const MAX_CONNECTIONS: usize = 64;
/// A request's head has to arrive in this time. Probes of Kubernetes send it at once.
const HEAD: Duration = Duration::from_secs(2);
/// A connection ends after this time in any case, also one whose client does not read.
const WHOLE: Duration = Duration::from_secs(10);

/// Serves the clients of `listener` until the future is dropped.
pub async fn serve<R>(listener: TcpListener, respond: R)
where
    R: Fn(&Request<Incoming>) -> Response<Full<Bytes>> + Send + Sync + 'static,
{
    let respond = Arc::new(respond);
    let mut open = Open(VecDeque::new());
    loop {
        let (stream, _) = crate::listen::accept(&listener).await;
        open.make_room();
        open.0.push_back(tokio::spawn(connection(stream, respond.clone())).abort_handle());
    }
}

async fn connection<R>(stream: TcpStream, respond: Arc<R>)
where
    R: Fn(&Request<Incoming>) -> Response<Full<Bytes>>,
{
    let service = service_fn(|request| {
        let response = respond(&request);
        async { Ok::<_, Infallible>(response) }
    });
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD).keep_alive(false);
    let served = tokio::time::timeout(WHOLE, builder.serve_connection(TokioIo::new(stream), service)).await;
    if let Ok(Err(error)) = served {
        tracing::debug!(%error, "a connection to the admin port ended");
    }
}

/// Connections in the order in which they came.
struct Open(VecDeque<AbortHandle>);

impl Open {
    fn make_room(&mut self) {
        if self.0.len() < MAX_CONNECTIONS {
            return;
        }
        self.0.retain(|connection| !connection.is_finished());
        while self.0.len() >= MAX_CONNECTIONS
            && let Some(oldest) = self.0.pop_front()
        {
            oldest.abort();
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.iter().for_each(AbortHandle::abort);
    }
}
