//! Sockets that accept clients: one per worker and port, sharing the port through `SO_REUSEPORT`. TCP and UDP each have
//! all the ports.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};

use crate::diagnostics::Seldom;
use crate::transport::KEEP_ALIVE;

/// Datagrams that the kernel keeps while a worker is busy, in bytes; it may allow less (`net.core.rmem_max`).
const DATAGRAMS: usize = 1024 * 1024;

/// Connections that the kernel completes while a worker is busy.
const BACKLOG: i32 = 4096;

/// How long accepting pauses after an error that will not pass by itself at once (no file descriptors, no memory).
const PAUSE: Duration = Duration::from_millis(50);

/// Clients can bring about that this fails, and go on with it.
static ACCEPT_FAILED: Seldom = Seldom::new(Duration::from_secs(10));

/// Binds `port` once for each of `workers`. Either all sockets are bound or none.
pub fn bind(address: IpAddr, port: u16, workers: usize) -> io::Result<Vec<std::net::TcpListener>> {
    let address = SocketAddr::new(address, port);
    let new = || {
        let socket = socket(address, Type::STREAM, Protocol::TCP)?;
        // Connections of the past that linger do not keep the port.
        socket.set_reuse_address(true)?;
        // Its connections inherit this.
        socket.set_tcp_keepalive(&KEEP_ALIVE)?;
        Ok(socket)
    };
    let listening = |socket: Socket| {
        socket.listen(BACKLOG)?;
        Ok(socket.into())
    };
    bind_shared(address, workers, new)?.into_iter().map(listening).collect()
}

/// As [`bind`], for datagrams. The kernel gives all datagrams of one client to the same socket.
pub fn bind_udp(address: IpAddr, port: u16, workers: usize) -> io::Result<Vec<std::net::UdpSocket>> {
    let address = SocketAddr::new(address, port);
    let new = || {
        let socket = socket(address, Type::DGRAM, Protocol::UDP)?;
        socket.set_recv_buffer_size(DATAGRAMS)?;
        Ok(socket)
    };
    Ok(bind_shared(address, workers, new)?.into_iter().map(Socket::into).collect())
}

fn bind_shared(address: SocketAddr, count: usize, new: impl Fn() -> io::Result<Socket>) -> io::Result<Vec<Socket>> {
    // A port that another process shares with everybody would be shared with us too, and half of the clients lost to it.
    new()?.bind(&address.into())?;
    let shared = |_| {
        let socket = new()?;
        socket.set_reuse_port(true)?;
        socket.bind(&address.into())?;
        Ok(socket)
    };
    (0..count).map(shared).collect()
}

fn socket(address: SocketAddr, kind: Type, protocol: Protocol) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
    if address.ip() == IpAddr::from([0u16; 8]) {
        // The unspecified IPv6 address serves IPv4 as well.
        socket.set_only_v6(false)?;
    }
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// The next client. Errors of one connection are skipped; when the process has run out of something, it waits a little
/// and tries again, because giving up would end the port for good.
pub async fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                // Answers leave in one write; Nagle would only delay those that do not.
                let _ = stream.set_nodelay(true);
                return (stream, SocketAddr::new(peer.ip().to_canonical(), peer.port()));
            }
            Err(error) if concerns_one_connection(&error) => {}
            Err(error) => {
                if ACCEPT_FAILED.is_due() {
                    tracing::warn!(%error, "cannot accept connections for the moment");
                }
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

fn concerns_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
            // What befell a connection before it was accepted (accept(2)).
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::NetworkDown
            | io::ErrorKind::TimedOut
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_share_a_port_and_a_stranger_does_not_get_it() {
        let loopback = IpAddr::from([127, 0, 0, 1]);
        let stranger = std::net::TcpListener::bind((loopback, 0)).unwrap();
        assert!(bind(loopback, stranger.local_addr().unwrap().port(), 2).is_err());
        let port = stranger.local_addr().unwrap().port();
        drop(stranger);
        let ours = bind(loopback, port, 3).unwrap();
        assert_eq!(ours.len(), 3);
        assert!(bind(loopback, port, 1).is_err());
    }

    #[test]
    fn accepted_connections_are_asked_whether_their_peer_lives() {
        let listener = bind(IpAddr::from([127, 0, 0, 1]), 0, 1).unwrap().remove(0);
        listener.set_nonblocking(false).unwrap();
        let _client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let accepted = Socket::from(listener.accept().unwrap().0);
        assert!(accepted.keepalive().unwrap());
        assert_eq!(accepted.tcp_keepalive_time().unwrap(), Duration::from_secs(60));
        assert_eq!(accepted.tcp_keepalive_interval().unwrap(), Duration::from_secs(10));
        assert_eq!(accepted.tcp_keepalive_retries().unwrap(), 3);
    }

    #[test]
    fn datagrams_have_ports_of_their_own() {
        let loopback = IpAddr::from([127, 0, 0, 1]);
        let stranger = std::net::UdpSocket::bind((loopback, 0)).unwrap();
        let port = stranger.local_addr().unwrap().port();
        assert!(bind_udp(loopback, port, 2).is_err());
        drop(stranger);
        let ours = bind_udp(loopback, port, 3).unwrap();
        assert_eq!(ours.len(), 3);
        assert!(bind_udp(loopback, port, 1).is_err());
        drop(ours);
        let _tcp = std::net::TcpListener::bind((loopback, port)).unwrap();
        assert!(bind_udp(loopback, port, 1).is_ok());
    }
}
