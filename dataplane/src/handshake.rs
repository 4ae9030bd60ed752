//! The beginning of a connection on a port for TLS: what the client asks for, and the handshake where we are to open it.

use std::sync::Arc;
use std::time::Duration;

use rustls::server::Acceptor;
use rustls::{ServerConfig, ServerConnection};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::clock::within;
use crate::hello::{NoHello, Scan};
use crate::shared::Port;
use crate::worker::Worker;

/// A TLS handshake takes a few milliseconds; this is for slow links.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// What is read of a client at once. A ClientHello is smaller, most of them.
const READ: usize = 4096;

/// What a client on a port for TLS begins with.
pub enum Begun {
    /// A handshake.
    Tls(Hello),
    /// Something that is no handshake: all bytes that it has sent so far.
    Other(Vec<u8>),
}

/// The beginning of a handshake.
pub struct Hello {
    /// The name that the client asks for, in lower case; empty when it names none.
    pub server_name: Box<str>,
    /// All bytes that it has sent so far.
    pub bytes: Vec<u8>,
    deadline: Instant,
}

/// Reads what a client sends first; `None` when it sends nothing, not enough or not in time, which is counted.
pub async fn begin(worker: &Worker, stream: &mut TcpStream) -> Option<Begun> {
    let deadline = Instant::now() + HANDSHAKE;
    let begun = within(Some(deadline), read(stream, deadline)).await;
    let begun = begun.unwrap_or_else(|| Err(std::io::ErrorKind::TimedOut.into()));
    begun.map_err(|error| failed(worker, &error)).ok()
}

async fn read(stream: &mut TcpStream, deadline: Instant) -> std::io::Result<Begun> {
    // Nothing is set up for a client that sends nothing.
    stream.readable().await?;
    let mut bytes = Vec::with_capacity(READ);
    let mut scan = Scan::default();
    loop {
        if stream.read_buf(&mut bytes).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        match scan.server_name(&bytes) {
            Ok(Some(server_name)) => return Ok(Begun::Tls(Hello { server_name, bytes, deadline })),
            Ok(None) => bytes.reserve(READ),
            Err(NoHello) => return Ok(Begun::Other(bytes)),
        }
    }
}

/// Ends a connection that begins with no handshake; `with_alert` says to the client what is wrong.
pub async fn refuse(worker: &Worker, mut stream: TcpStream, mut bytes: &[u8], with_alert: bool) {
    worker.stats.handshake_failures.add(1);
    let mut acceptor = Acceptor::default();
    while !bytes.is_empty() && acceptor.read_tls(&mut bytes).is_ok() {}
    if let Err((error, mut alert)) = acceptor.accept()
        && with_alert
    {
        tracing::debug!(%error, "a TLS handshake failed");
        let mut sent = Vec::new();
        // Whoever does not take it needs it no more.
        let _ = alert.write_all(&mut sent);
        let _ = stream.try_write(&sent);
        let _ = stream.shutdown().await;
    }
}

/// Finishes a handshake with the configuration that `port` has for its name; `None` when it fails, which is counted.
pub async fn finish(
    worker: &Worker,
    stream: TcpStream,
    hello: Hello,
    config: &Arc<ServerConfig>,
    port: &Port,
) -> Option<TlsStream<TcpStream>> {
    let acceptor = TlsAcceptor::from(config.clone());
    let accept = acceptor.accept_with(stream, |session| give(session, &hello.bytes));
    let shaken = within(Some(hello.deadline), accept).await;
    let stream = shaken.unwrap_or_else(|| Err(std::io::ErrorKind::TimedOut.into()));
    let stream = stream.map_err(|error| failed(worker, &error)).ok()?;
    // The configuration was chosen by the name that we read: nobody may make the handshake read another one.
    if server_name(&stream) != hello.server_name {
        failed(worker, &std::io::ErrorKind::InvalidData.into());
        return None;
    }
    // Who was let in on terms of the past is not among the connections that had to leave when they changed.
    if !port.makes(&hello.server_name, config) {
        failed(worker, &std::io::Error::other("what is asked of clients has just changed"));
        return None;
    }
    Some(stream)
}

fn server_name(stream: &TlsStream<TcpStream>) -> Box<str> {
    let name = stream.get_ref().1.server_name().unwrap_or_default();
    name.trim_end_matches('.').to_ascii_lowercase().into()
}

/// Hands bytes to a session that were read for it. What is wrong with them it says when the handshake goes on.
fn give(session: &mut ServerConnection, mut bytes: &[u8]) {
    while !bytes.is_empty() && session.read_tls(&mut bytes).is_ok() && session.process_new_packets().is_ok() {}
}

fn failed(worker: &Worker, error: &std::io::Error) {
    tracing::debug!(%error, "a TLS handshake failed");
    worker.stats.handshake_failures.add(1);
}
