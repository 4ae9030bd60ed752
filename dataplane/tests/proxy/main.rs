//! The data plane as its users meet it: real sockets on both sides.

mod backend;
mod balancing;
mod client;
mod http1;
mod rig;
