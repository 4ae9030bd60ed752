//! What the kinds of routes have in common.

use crds::gateway::ParentReference;

use super::backends::Backends;
use super::rules::Rules;
use super::{grpc_rules, http_rules, l4_rules};
use crate::objects::{GRPCRoute, HTTPRoute, TCPRoute, TLSRoute, UDPRoute};
use crate::{ObjectKey, Stored};

/// A kind of route.
pub(super) trait RouteKind: Stored {
    /// `spec.parentRefs`.
    fn parent_refs(&self) -> &[ParentReference];
    /// Whether it attaches to default Gateways too (GEP-3793).
    fn uses_default_gateways(&self) -> bool;
    /// `spec.hostnames`; empty for kinds without.
    fn hostnames(&self) -> &[String];
    /// Its rules, each parsed by itself.
    fn rules<'a>(&self, key: &ObjectKey, backends: &Backends<'a>) -> Rules<'a>;
}

macro_rules! route_kind {
    ($kind:ident, $rules:path, |$spec:ident| $hostnames:expr) => {
        impl RouteKind for $kind {
            fn parent_refs(&self) -> &[ParentReference] {
                self.spec.parent_refs.as_deref().unwrap_or_default()
            }

            fn uses_default_gateways(&self) -> bool {
                self.spec.use_default_gateways.as_deref() == Some("All")
            }

            fn hostnames(&self) -> &[String] {
                let $spec = &self.spec;
                $hostnames
            }

            fn rules<'a>(&self, key: &ObjectKey, backends: &Backends<'a>) -> Rules<'a> {
                $rules(key, self, backends)
            }
        }
    };
}

route_kind!(HTTPRoute, http_rules::parse, |spec| spec.hostnames.as_deref().unwrap_or_default());
route_kind!(GRPCRoute, grpc_rules::parse, |spec| spec.hostnames.as_deref().unwrap_or_default());
route_kind!(TLSRoute, l4_rules::of_tls, |spec| spec.hostnames.as_deref().unwrap_or_default());
route_kind!(TCPRoute, l4_rules::of_tcp, |_spec| &[]);
route_kind!(UDPRoute, l4_rules::of_udp, |_spec| &[]);
