//! The gRPC server: TLS, HTTP/2, authentication, and one [`Session`] per call.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use dataplane::diagnostics::Seldom;
use futures::Stream;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use snapshot::proto::{ClientMessage, ServerMessage};
use snapshot::{MAX_HELLO, MAX_MESSAGE};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tonic::codegen::Service as _;
use tonic::{Request, Response, Status, Streaming};
use translate::DataPlane;

use super::bounds::{Bounds, Place};
use super::parts::Limits;
use super::session::{Session, not_mapped};
use super::{Authenticator, Publisher};
use crate::ca::KeyPairPem;

mod wire {
    #![allow(missing_docs, clippy::all)]
    tonic::include_proto!("sluice.v1");
}

use wire::stream_server::{Stream as StreamApi, StreamServer};

/// So many connections are served at once; more wait unaccepted.
const MAX_CONNECTIONS: usize = 1024;

/// A data plane opens one.
const MAX_STREAMS: u32 = 4;

/// A peer that is silent for so long is asked, and given up without an answer: it is noticed within 8 s.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(3);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);

const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// What strangers can bring about again and again is logged once in this time.
static ACCEPT_FAILED: Seldom = Seldom::new(Duration::from_secs(10));

/// A server that cannot start.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Certificate or key are not PEM.
    #[error("the stream's certificate cannot be read: {0}")]
    Pem(#[from] rustls::pki_types::pem::Error),
    /// Certificate and key do not fit.
    #[error("the stream's certificate cannot be used: {0}")]
    Tls(#[from] rustls::Error),
}

/// Serves the stream on `listener` until dropped, which ends all sessions; returns only when it cannot start.
///
/// New connections see the newest usable `identity`; sessions stay.
pub async fn serve(
    listener: TcpListener,
    identity: watch::Receiver<KeyPairPem>,
    authenticator: Authenticator,
    publisher: Publisher,
) -> Result<std::convert::Infallible, ServeError> {
    serve_within(Limits::default(), listener, identity, authenticator, publisher).await
}

/// As [`serve`] with other limits.
pub(super) async fn serve_within(
    limits: Limits,
    listener: TcpListener,
    mut identity: watch::Receiver<KeyPairPem>,
    authenticator: Authenticator,
    publisher: Publisher,
) -> Result<std::convert::Infallible, ServeError> {
    let mut acceptor = acceptor_for(&identity.borrow_and_update())?;
    let service = StreamServer::new(Service { authenticator, bounds: publisher.bounds().clone(), publisher, limits })
        .max_decoding_message_size(MAX_HELLO)
        .max_encoding_message_size(MAX_MESSAGE);
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let Ok(permit) = permits.clone().acquire_owned().await else { continue };
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((socket, _)) => {
                    connections.spawn(connection(socket, acceptor.clone(), service.clone(), limits, permit));
                }
                Err(error) => {
                    if ACCEPT_FAILED.is_due() {
                        tracing::warn!(%error, "cannot accept a data plane's connection");
                    }
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
            Some(_) = connections.join_next() => (),
            Ok(()) = identity.changed() => match acceptor_for(&identity.borrow_and_update()) {
                Ok(new) => acceptor = new,
                Err(error) => tracing::error!(%error, "the former certificate stays"),
            },
        }
    }
}

fn acceptor_for(identity: &KeyPairPem) -> Result<TlsAcceptor, ServeError> {
    let chain = CertificateDer::pem_slice_iter(identity.certificate.as_bytes()).collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_slice(identity.key.expose())?;
    let mut config = rustls::ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

async fn connection(
    socket: TcpStream,
    acceptor: TlsAcceptor,
    service: StreamServer<Service>,
    limits: Limits,
    _permit: OwnedSemaphorePermit,
) {
    let _ = socket.set_nodelay(true); // without it an ack may wait 40 ms; a broken socket fails below
    let Ok(Ok(tls)) = tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(socket)).await else { return };
    let callers = Callers::default();
    let unused = unused(callers.0.subscribe(), limits.unused);
    let served = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .max_concurrent_streams(MAX_STREAMS)
        .serve_connection(
            TokioIo::new(tls),
            hyper::service::service_fn(move |mut request: http::Request<_>| {
                request.extensions_mut().insert(callers.clone());
                service.clone().call(request)
            }),
        );
    tokio::select! {
        ended = served => if let Err(error) = ended {
            tracing::debug!(%error, "a data plane's connection ended");
        },
        () = unused => tracing::debug!("a connection without a session is closed"),
    }
}

/// How many callers of a connection are let in: those that have or await a session.
#[derive(Clone, Default)]
struct Callers(watch::Sender<usize>);

impl Callers {
    fn enter(self) -> Caller {
        self.0.send_modify(|count| *count += 1);
        Caller(self.0)
    }
}

/// One of them; it leaves when dropped.
struct Caller(watch::Sender<usize>);

impl Drop for Caller {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

/// Returns once there was no caller for so long.
async fn unused(mut callers: watch::Receiver<usize>, limit: Duration) {
    loop {
        let _ = callers.wait_for(|count| *count == 0).await; // fails only when the connection has ended
        if tokio::time::timeout(limit, callers.wait_for(|count| *count > 0)).await.is_err() {
            return;
        }
    }
}

/// The implementation of the service.
struct Service {
    authenticator: Authenticator,
    bounds: Bounds,
    publisher: Publisher,
    limits: Limits,
}

#[tonic::async_trait]
impl StreamApi for Service {
    type SubscribeStream = Pin<Box<dyn Stream<Item = Result<ServerMessage, Status>> + Send>>;

    /// Answers only when something is published: a data plane chooses its feeder among those that answered.
    async fn subscribe(
        &self,
        request: Request<Streaming<ClientMessage>>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let identity = self.authenticator.identity(request.metadata()).await?;
        let caller = request.extensions().get::<Callers>().cloned().map(Callers::enter);
        let mut published = self.publisher.watch();
        let data_plane = match published.wait_for(Option::is_some).await {
            Ok(published) => published.as_ref().and_then(|published| published.data_plane(&identity.account).cloned()),
            Err(_) => return Err(Status::unavailable("the controller stops")),
        };
        let data_plane = data_plane.ok_or_else(|| not_mapped(&identity.account))?;
        let place = self.bounds.enter(&identity, !matches!(data_plane, DataPlane::Gateway(_)))?;
        let session =
            Session::begin(identity, data_plane, self.publisher.clone(), request.into_inner(), self.limits).await?;
        let messages = futures::stream::unfold(Some((session, caller, place)), |session| async {
            let (mut session, caller, place): (Session, Option<Caller>, Place) = session?;
            let message = session.next().await?;
            let next = message.is_ok().then_some((session, caller, place)); // an error is the last message
            Some((message, next))
        });
        Ok(Response::new(Box::pin(messages)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_connection_is_unused_a_while_after_its_last_caller_has_left() {
        const LIMIT: Duration = Duration::from_millis(20);
        let callers = Callers::default();
        let (one, other) = (callers.clone().enter(), callers.clone().enter());
        let mut ended = std::pin::pin!(unused(callers.0.subscribe(), LIMIT));
        assert!(tokio::time::timeout(LIMIT * 5, &mut ended).await.is_err(), "two are there");
        drop(one);
        assert!(tokio::time::timeout(LIMIT * 5, &mut ended).await.is_err(), "one is there");
        drop(other);
        tokio::time::timeout(Duration::from_secs(30), ended).await.unwrap();
    }
}
