//! What data planes do not take, as statuses tell it.

use std::collections::BTreeMap;

use crds::gateway::RouteParentStatus;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use snapshot::{Protocol, Resource, ResourceId, Snapshot, Tls};
use translate::{DataPlane, Kind, ObjectKey, Statuses};

use super::Target;
use super::programmed::{Listening, unset};

/// What some data plane of a group does not take.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Refused {
    /// What is not taken of each listener and why, by the listener's name in the snapshot.
    listeners: BTreeMap<String, String>,
    /// Why a route is not taken under a Gateway.
    routes: BTreeMap<(Kind, ObjectKey, ObjectKey), String>,
}

impl Refused {
    /// Reads what is `rejected` of `snapshot`.
    pub fn new(snapshot: &Snapshot, rejected: &BTreeMap<&ResourceId, &str>) -> Self {
        let mut refused = Self::default();
        if rejected.is_empty() {
            return refused;
        }
        for (id, resource) in snapshot.iter() {
            let Resource::Listener(listener) = resource.resource().as_ref() else { continue };
            let why = match (rejected.get(id), &listener.protocol) {
                (Some(why), _) => Some(format!("the listener: {why}.")),
                (None, Protocol::Https(tls) | Protocol::TlsTerminate(tls)) => certificates(tls).find_map(|name| {
                    let why = rejected.get(&ResourceId::new(snapshot::Kind::Certificate, name))?;
                    let kept = "Its last good version stays in use, if there was one.";
                    Some(format!("the certificate of Secret {name}: {why}. {kept}"))
                }),
                (None, Protocol::Http | Protocol::TlsPassthrough | Protocol::Tcp | Protocol::Udp) => None,
            };
            if let Some(why) = why {
                refused.listeners.insert(id.name.clone(), why);
            }
        }
        let routes =
            rejected.iter().filter(|(id, _)| matches!(id.kind, snapshot::Kind::Route | snapshot::Kind::L4Route));
        let routes = routes.filter_map(|(id, why)| {
            let (kind, route) = translate::object(id)?;
            Some(((kind, route, gateway(id)?), (*why).to_owned()))
        });
        refused.routes = routes.collect();
        refused
    }

    /// The routes that are not taken.
    pub fn routes(&self) -> impl Iterator<Item = Target> {
        self.routes.keys().map(|(kind, object, _)| Target { kind: *kind, object: object.clone() })
    }

    /// The status of a Gateway or a ListenerSet, `Programmed` false with reason `Invalid` where data planes do not take what
    /// the status claims to be served.
    pub(super) fn listeners<T: Listening>(&self, status: &T, kind: Kind, object: &ObjectKey) -> T {
        let mut status = status.clone();
        let (conditions, listeners) = status.parts_mut();
        let mut names = Vec::new();
        for listener in listeners {
            if let Some(why) = self.listeners.get(&Statuses::listener(kind, object, &listener.name)) {
                unset(&mut listener.conditions, "Invalid", &format!("The data planes do not take {why}"));
                names.push(listener.name.as_str());
            }
        }
        if !names.is_empty() {
            let message =
                format!("The data planes do not take all of listener {}: see its conditions.", names.join(", "));
            unset(conditions, "Invalid", &message);
        }
        status
    }
}

/// The parents of a route, with `PartiallyInvalid` where data planes do not take the route; `None` when all take it.
///
/// `Accepted` stays: the Gateway accepts the route, and its last good version is served (the specification's "Fall Back").
pub(super) fn route(
    kind: Kind,
    route: &ObjectKey,
    parents: &[RouteParentStatus],
    statuses: &Statuses,
    refused: &BTreeMap<DataPlane, Refused>,
) -> Option<Vec<RouteParentStatus>> {
    let mut changed = false;
    let mut parents = parents.to_vec();
    for parent in &mut parents {
        let gateway = statuses.gateway_of(&parent.parent_ref, &route.namespace);
        let why = gateway.and_then(|gateway| {
            let refused = refused.get(&statuses.data_plane(&gateway))?;
            refused.routes.get(&(kind, route.clone(), gateway))
        });
        let accepted =
            parent.conditions.iter().find(|condition| condition.type_ == "Accepted" && condition.status == "True");
        let told = parent.conditions.iter().any(|condition| condition.type_ == "PartiallyInvalid");
        if let (Some(why), Some(accepted), false) = (why, accepted, told) {
            let condition = Condition {
                type_: "PartiallyInvalid".into(),
                reason: "UnsupportedValue".into(),
                message: format!(
                    "Fall Back: the data planes do not take the route as it is ({why}). They serve its last good version, if there was one."
                ),
                ..accepted.clone()
            };
            parent.conditions.push(condition);
            changed = true;
        }
    }
    changed.then_some(parents)
}

/// The Gateway that a route is served for, read from its name: `HTTPRoute/shop/web@gateways/public/...`.
fn gateway(id: &ResourceId) -> Option<ObjectKey> {
    let mut parts = id.name.split_once('@')?.1.split('/');
    Some(ObjectKey::new(parts.next()?, parts.next()?))
}

fn certificates(tls: &Tls) -> impl Iterator<Item = &str> {
    let by_name = tls.certificates.iter().map(|certificate| certificate.certificate.as_str());
    by_name.chain(tls.default_certificate.as_deref())
}
