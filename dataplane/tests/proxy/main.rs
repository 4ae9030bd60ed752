//! The data plane as its users meet it: real sockets on both sides.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests may stop at the first surprise")]

mod answers;
mod authority;
mod backend;
mod backend_tls;
mod balancing;
mod bodies;
mod churn;
mod client;
mod client_certificates;
mod drain;
mod hostile_backend;
mod http1;
mod limits;
mod malformed;
mod misdirected;
mod names;
mod operations;
mod protocols;
mod rig;
mod timeouts;
mod tls;
mod upgrades;
