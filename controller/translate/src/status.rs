//! The statuses that objects should have.

use std::collections::BTreeMap;

use crds::gateway::{GatewayClassStatus, GatewayStatus, ListenerSetStatus, RouteParentStatus};
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
    /// Of ListenerSets whose Gateway is ours.
    pub listener_sets: BTreeMap<ObjectKey, ListenerSetStatus>,
    /// Our entries of `status.parents`, by kind and name of the route.
    pub routes: BTreeMap<(Kind, ObjectKey), Vec<RouteParentStatus>>,
    /// Our entries of `status.ancestors`, by kind and name of the policy.
    pub policies: BTreeMap<(Kind, ObjectKey), Vec<PolicyAncestorStatus>>,
    /// `status.loadBalancer.ingress` of Ingresses of our classes.
    pub ingresses: BTreeMap<ObjectKey, Vec<IngressLoadBalancerIngress>>,
}

impl Statuses {
    /// The status of a Gateway while some of its ready data planes do not run the newest snapshot yet:
    /// `Programmed` is false with reason `Pending` on the Gateway and its listeners.
    pub fn pending(status: &GatewayStatus, why: &str) -> GatewayStatus {
        let mut status = status.clone();
        let listeners = status.listeners.iter_mut().flatten().flat_map(|listener| listener.conditions.iter_mut());
        for condition in status.conditions.iter_mut().flatten().chain(listeners) {
            if condition.type_ == "Programmed" && condition.status == "True" {
                condition.status = "False".into();
                condition.reason = "Pending".into();
                condition.message = why.into();
            }
        }
        status
    }

    /// The data plane whose acknowledgement decides about a Gateway's status.
    pub fn data_plane(gateway: &ObjectKey) -> DataPlane {
        DataPlane::Gateway(gateway.clone())
    }
}
