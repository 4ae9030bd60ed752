//! Choosing an endpoint.

mod endpoint;
mod health;
mod picker;
mod reach;
#[cfg(test)]
mod tests;

pub(crate) use endpoint::renew;
pub use endpoint::{Endpoint, Outcome, Picked};
pub(crate) use health::judge;
pub(crate) use picker::{Usable, pick};
pub(crate) use reach::Connecting;
