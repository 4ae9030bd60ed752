//! The Gateway API, v1.6: the kinds and fields that Sluice reads. Field meanings are the specification's.
#![allow(missing_docs)] // each field is documented by the Gateway API's reference

mod backend_ref;
mod backend_tls_policy;
mod crd;
mod gateway_class;
mod gateway_kind;
mod grant;
mod grpc_route;
mod http_route;
mod l4_route;
mod listener_set;
mod shared;

pub use backend_ref::*;
pub use backend_tls_policy::*;
pub use crd::*;
pub use gateway_class::*;
pub use gateway_kind::*;
pub use grant::*;
pub use grpc_route::*;
pub use http_route::*;
pub use l4_route::*;
pub use listener_set::*;
pub use shared::*;

/// The API group of the Gateway API.
pub const GROUP: &str = "gateway.networking.k8s.io";
