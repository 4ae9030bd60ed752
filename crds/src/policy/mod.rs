//! Sluice's own policies (GEP-713, GEP-2648).

mod backend;
mod shared;
mod traffic;

pub use backend::*;
pub use shared::*;
pub use traffic::*;

/// The API group of Sluice's own kinds.
pub const GROUP: &str = "sluice.dev";
