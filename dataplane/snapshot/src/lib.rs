//! The contract between controller and data plane.
//!
//! A [`Snapshot`] is everything one data plane needs to serve: listeners, routes, clusters, endpoints, certificates
//! and settings, each a [`Resource`] under a stable [`ResourceId`]. Resources are as fine as the objects a user
//! edits, children name their parent, and each travels by the [`Hash`] of its content, so an edit moves only what
//! it changed ([`diff`]).
//!
//! The data plane owns this crate. It knows nothing of Kubernetes.

mod address;
mod convert;
mod delta;
pub mod expression;
mod host;
mod model;
pub mod proto;
mod secret;
mod stream;
mod words;

pub use address::is_local;
pub use convert::DecodeError;
pub use delta::{Batch, Hash, Hashed, Snapshot, diff, version};
pub use host::{normal_host, normal_host_without_port};
pub use model::*;
pub use secret::Secret;
pub use stream::{CAPABILITIES, MAX_BATCH, MAX_HELLO, MAX_MESSAGE, SERVER_NAME};
