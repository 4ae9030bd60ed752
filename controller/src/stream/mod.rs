//! The stream's server: hands each data plane its snapshot, in differences, and hears what it runs.
//!
//! [`Publisher::publish`] offers new snapshots; each [session](session) takes the current one whenever its data plane has
//! acknowledged what it got before. There is no queue: what lies between is skipped. A batch that does not fit into a message
//! goes in parts.

mod acks;
mod authenticate;
mod bounds;
mod held;
mod parts;
mod publisher;
mod server;
mod session;
#[cfg(test)]
mod tests;

pub use acks::{Acks, Connected, Wait};
pub use authenticate::{Authenticator, Identity, ServiceAccount, TOKEN_AUDIENCE};
pub use publisher::Publisher;
pub use server::{ServeError, serve};
