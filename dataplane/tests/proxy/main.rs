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
mod cors;
mod drain;
mod endings;
mod external_auth;
mod external_auth_grpc;
mod forwarded;
mod grpc;
mod holes;
mod hostile_backend;
mod http1;
mod l4;
mod limits;
mod malformed;
mod mirrors;
mod misdirected;
mod names;
mod operations;
mod paths;
mod protocols;
mod rest;
mod retries;
mod rig;
mod sessions;
mod timeouts;
mod tls;
mod udp;
mod upgrades;
