//! The I/O shell around translation: the controller, and the commands that work without a cluster.

pub mod admin;
#[cfg(test)]
mod api_server;
pub mod bootstrap;
pub mod build;
pub mod ca;
pub mod check;
pub mod class_guard;
pub mod client;
pub mod cluster;
pub mod echo;
pub mod events;
pub mod explain;
pub mod fetch;
pub mod folder;
pub mod keys;
pub mod kinds;
pub mod last_good;
pub mod leader;
pub mod log;
pub mod metrics;
pub mod options;
pub mod provision;
pub mod run;
pub mod shutdown;
pub mod standalone;
pub mod status;
pub mod store;
pub mod stream;
mod turns;
pub mod uninstall;
mod wait;
pub mod watch;
pub mod write;
