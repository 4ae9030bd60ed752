//! The proxy: takes a [`snapshot::Snapshot`] and serves it. It knows the snapshot and nothing of Kubernetes.
//!
//! [`Proxy::start`] starts one worker per core, [`Proxy::apply`] publishes a snapshot, [`Proxy::drain`] ends without
//! failing a request.

mod admin;
pub mod admin_port;
mod arriving;
mod attempt;
mod authorities;
mod authorize;
mod background;
pub mod balance;
mod body;
mod certificates;
pub mod check;
mod client_certificates;
mod clock;
pub mod cluster;
pub mod compile;
mod connection;
pub mod diagnostics;
mod dns;
mod exchange;
mod exposition;
pub mod filter;
pub mod forwarded;
mod handshake;
pub mod hello;
pub mod hop_by_hop;
mod http;
mod http1;
mod keys;
mod l4;
pub mod limit;
mod listen;
mod local;
mod log;
mod metrics;
mod mirror;
pub mod normalise;
mod persistence;
mod ports;
mod proxy;
pub mod random;
pub mod reason;
mod replay;
pub mod route;
mod shared;
pub mod source;
mod subrequest;
pub mod tick;
mod tickets;
mod tls;
mod transport;
mod tunnel;
mod udp;
mod underscores;
mod upstream;
mod watch;
mod worker;

pub use compile::Rejection;
pub use dns::LocalEndpoints;
pub use proxy::{Drained, Options, Proxy, StartError};
pub use reason::Reason;
#[doc(hidden)]
pub use upstream::fuzzing;
