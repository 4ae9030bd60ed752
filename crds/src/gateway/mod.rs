//! The Gateway API, v1.6: the kinds and fields that Sluice reads. Field meanings are the specification's.
#![allow(missing_docs)] // each field is documented by the Gateway API's reference

mod gateway_class;
mod gateway_kind;
mod grant;
mod http_route;
mod shared;

pub use gateway_class::*;
pub use gateway_kind::*;
pub use grant::*;
pub use http_route::*;
pub use shared::*;

/// The API group of the Gateway API.
pub const GROUP: &str = "gateway.networking.k8s.io";
