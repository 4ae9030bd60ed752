//! Connections that carry no HTTP, step by step: route, backend, endpoint, then bytes in both directions.

mod connect;
mod session;

use std::sync::Arc;

use rustls::ServerConfig;
use tokio::net::TcpStream;
use tokio_rustls::TlsStream;

pub use session::{Protocol, Record, Session};

use crate::cluster::Cluster;
use crate::handshake::{self, Hello};
use crate::reason::Reason;
use crate::shared::Port;
use crate::transport::Transport;
use crate::tunnel::{self, FirstBytes};
use crate::watch::Watch;

/// Serves a connection of a port for bytes.
pub async fn serve(mut session: Session, stream: TcpStream) {
    match session.choose() {
        Ok(cluster) => carry(session, &cluster, Transport::Plain(stream), Vec::new()).await,
        Err(reason) => session.refuse(reason),
    }
}

/// Serves a connection whose TLS is not opened: the backend gets it from the first byte on.
pub async fn serve_passed(mut session: Session, stream: TcpStream, hello: Hello) {
    match session.choose() {
        Ok(cluster) => carry(session, &cluster, Transport::Plain(stream), hello.bytes).await,
        Err(reason) => session.refuse(reason),
    }
}

/// Serves a connection whose TLS ends here. Where it goes nowhere it is closed before the handshake: the client shall see
/// that nobody is there.
pub async fn serve_terminated(
    mut session: Session,
    stream: TcpStream,
    hello: Hello,
    config: &Arc<ServerConfig>,
    port: &Port,
) {
    let cluster = match session.choose() {
        Ok(cluster) => cluster,
        Err(reason) => return session.refuse(reason),
    };
    match handshake::finish(session.worker(), stream, hello, config, port).await {
        Some(stream) => {
            let client = Transport::Tls(Box::new(TlsStream::Server(stream)));
            carry(session, &cluster, client, Vec::new()).await;
        }
        None => session.refuse(Reason::Handshake),
    }
}

/// Connects to an endpoint and carries bytes, `first_bytes` of the client before all others, until the connection ends.
async fn carry(mut session: Session, cluster: &Cluster, mut client: Transport, first_bytes: Vec<u8>) {
    let worker = session.worker().clone();
    let watch = Arc::new(Watch::new(session.port(), false));
    watch.becomes_tunnel();
    let _registered = worker.register(&watch);
    let connected = tokio::select! {
        connected = connect::connect(&mut session, cluster) => connected,
        () = watch.cut() => Err(Reason::Cut),
    };
    let mut backend = match connected {
        Ok(backend) => backend,
        Err(reason) => return session.refuse(reason),
    };
    let first = FirstBytes { up: first_bytes, down: Vec::new() };
    let carried = tunnel::carry(&worker, &mut client, &mut backend, first, Some(worker.tunnel_timeout()), &watch).await;
    if carried.end.is_some() {
        // The end of a connection is the end of a message in many protocols: a broken one must not look like it.
        client.reset();
        backend.reset();
    }
    session.ended(&carried);
}
