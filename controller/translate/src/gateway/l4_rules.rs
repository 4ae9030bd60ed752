//! The rules of TLSRoutes, TCPRoutes and UDPRoutes: backends by weight.

use crds::gateway::{BackendRef, L4RouteRule, TCPRoute, TLSRoute, UDPRoute};

use super::backends::Backends;
use super::rules::{self, Rules, Unusable, Work, no_timeouts};
use crate::{ObjectKey, Stored};

/// Of a TLSRoute.
pub(super) fn of_tls<'a>(key: &ObjectKey, route: &TLSRoute, backends: &Backends<'a>) -> Rules<'a> {
    parse::<TLSRoute>(key, route.spec.rules.as_deref(), backends)
}

/// Of a TCPRoute.
pub(super) fn of_tcp<'a>(key: &ObjectKey, route: &TCPRoute, backends: &Backends<'a>) -> Rules<'a> {
    parse::<TCPRoute>(key, route.spec.rules.as_deref(), backends)
}

/// Of a UDPRoute.
pub(super) fn of_udp<'a>(key: &ObjectKey, route: &UDPRoute, backends: &Backends<'a>) -> Rules<'a> {
    parse::<UDPRoute>(key, route.spec.rules.as_deref(), backends)
}

/// Such a route has one rule, as the specification demands: nothing would tell further ones apart.
fn parse<'a, Route: Stored>(key: &ObjectKey, written: Option<&[L4RouteRule]>, backends: &Backends<'a>) -> Rules<'a> {
    let written = written.unwrap_or_default();
    let mut rules = rules::parse::<Route, _>(
        key,
        written.get(..1).unwrap_or_default(),
        |rule| rule.name.as_ref(),
        |_, _| Ok(Vec::new()),
        |rule, _| {
            let parse = |(index, reference): (usize, &BackendRef)| {
                backends
                    .parse(Route::KIND, &key.namespace, reference, Vec::new())
                    .map_err(|unusable: Unusable| unusable.within(format_args!("backendRefs[{index}]")))
            };
            let backends = rule.backend_refs.iter().flatten().enumerate().map(parse).collect::<Result<_, _>>()?;
            Ok(Work { filters: Vec::new(), timeouts: no_timeouts(), retry: None, persistence: None, backends })
        },
    );
    if written.len() != 1 {
        let message = format!("a {} has exactly one rule: leave one here", Route::KIND);
        rules.unusable.push(Unusable::new("spec.rules", message));
    }
    rules
}
