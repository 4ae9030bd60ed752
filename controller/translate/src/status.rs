//! The statuses that objects should have.

use std::collections::BTreeMap;
use std::sync::Arc;

use crds::gateway::{GatewayClassStatus, GatewayStatus, ListenerSetStatus, ParentReference, RouteParentStatus};
use crds::policy::PolicyAncestorStatus;
use k8s_openapi::api::networking::v1::IngressLoadBalancerIngress;

use crate::{DataPlane, Kind, ObjectKey};

/// The statuses that objects of ours should have, as if every data plane had acknowledged the snapshot.
///
/// The transition time of every condition is 1970, a placeholder: the writer keeps the stored time of a condition whose
/// status did not change, and puts the current time elsewhere.
/// An object that is ours but absent here needs nothing written; an empty list removes our entries.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Statuses {
    /// Of GatewayClasses with our controller name.
    pub gateway_classes: BTreeMap<ObjectKey, GatewayClassStatus>,
    /// Of Gateways of our classes.
    pub gateways: BTreeMap<ObjectKey, GatewayStatus>,
    /// The data planes of Gateways that have any.
    pub data_planes: BTreeMap<ObjectKey, DataPlane>,
    /// Of ListenerSets whose Gateway is ours.
    pub listener_sets: BTreeMap<ObjectKey, ListenerSetStatus>,
    /// The Gateway that each of these ListenerSets names.
    pub listener_set_gateways: BTreeMap<ObjectKey, ObjectKey>,
    /// Our entries of `status.parents`, by kind and name of the route.
    pub routes: BTreeMap<(Kind, ObjectKey), Parents>,
    /// Our entries of `status.ancestors`, by kind and name of the policy.
    pub policies: BTreeMap<(Kind, ObjectKey), Vec<PolicyAncestorStatus>>,
    /// `status.loadBalancer.ingress` of Ingresses of our classes.
    pub ingresses: BTreeMap<ObjectKey, Vec<IngressLoadBalancerIngress>>,
}

/// Our entries of a route's `status.parents`. Shared: of a route that did not change they are those of the last translation.
pub type Parents = Arc<[RouteParentStatus]>;

impl Statuses {
    /// The data plane whose acknowledgement decides about a Gateway's status.
    pub fn data_plane(&self, gateway: &ObjectKey) -> DataPlane {
        self.data_planes.get(gateway).cloned().unwrap_or_else(|| DataPlane::Gateway(gateway.clone()))
    }

    /// The Gateway that serves what is attached to a parent; `namespace` is that of the object which names the parent.
    /// `None` for a ListenerSet that is not ours.
    pub fn gateway_of(&self, parent: &ParentReference, namespace: &str) -> Option<ObjectKey> {
        let key = ObjectKey::new(parent.namespace.as_deref().unwrap_or(namespace), &parent.name);
        match parent.kind.as_deref() {
            Some("ListenerSet") => self.listener_set_gateways.get(&key).cloned(),
            _ => Some(key),
        }
    }

    /// The name in snapshots of a listener of a Gateway, `namespace/gateway/listener`, or of a ListenerSet,
    /// `ListenerSet/namespace/set/listener`.
    pub fn listener(kind: Kind, owner: &ObjectKey, name: &str) -> String {
        match kind {
            Kind::ListenerSet => format!("{kind}/{owner}/{name}"),
            _ => format!("{owner}/{name}"),
        }
    }
}
