//! Sluice's own kinds: policies (GEP-713, GEP-2648), and parameters of Gateways.

mod backend;
mod gateway_config;
mod shared;
mod traffic;

pub use backend::*;
pub use gateway_config::*;
pub use shared::*;
pub use traffic::*;

/// The API group of Sluice's own kinds.
pub const GROUP: &str = "sluice.dev";
