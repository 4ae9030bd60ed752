//! The function itself.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use crds::policy::ComputeResources;
use snapshot::{Hashed, Resource, ResourceId, Snapshot};

use crate::backends;
use crate::{Kind, Memo, ObjectKey, Problem, Resources, Settings, Statuses};

/// Who gets a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DataPlane {
    /// The data planes that all Ingresses share.
    Shared,
    /// The data planes that all Gateways of a GatewayClass share.
    Class(String),
    /// The data planes of one Gateway.
    Gateway(ObjectKey),
}

impl DataPlane {
    /// The object that they are for; `None` for those of all Ingresses.
    pub fn owner(&self) -> Option<(Kind, ObjectKey)> {
        match self {
            DataPlane::Shared => None,
            DataPlane::Class(name) => Some((Kind::GatewayClass, ObjectKey::new("", name.as_str()))),
            DataPlane::Gateway(key) => Some((Kind::Gateway, key.clone())),
        }
    }
}

impl fmt::Display for DataPlane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DataPlane::Shared => f.write_str("shared"),
            DataPlane::Class(name) => write!(f, "GatewayClass {name}"),
            DataPlane::Gateway(key) => write!(f, "Gateway {key}"),
        }
    }
}

/// What a port number belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Transport {
    /// Connections.
    Tcp,
    /// Datagrams.
    Udp,
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Transport::Tcp => "TCP",
            Transport::Udp => "UDP",
        })
    }
}

/// What the Deployment and Service of a Gateway (GEP-1762), or those that the Gateways of a class share, need to look like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Infrastructure {
    /// The namespace and the name of everything that is made.
    pub key: ObjectKey,
    /// Name of the GatewayClass.
    pub class: String,
    /// The ports of all listeners, as written.
    pub ports: BTreeSet<(u16, Transport)>,
    /// `spec.infrastructure.labels` of the Gateway; none where several share.
    pub labels: BTreeMap<String, String>,
    /// `spec.infrastructure.annotations` of the Gateway; none where several share.
    pub annotations: BTreeMap<String, String>,
    /// The address to ask the load balancer for.
    pub address: Option<IpAddr>,
    /// What GatewayConfigs say; `None` when one that is referred to cannot be used, so that what is there has to stay as it is.
    pub parameters: Option<Parameters>,
}

/// What the GatewayConfigs of a class and of a Gateway say together; the Gateway's goes before the class's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parameters {
    /// How many pods; `None` is what the installation says.
    pub replicas: Option<u32>,
    /// Requests and limits of each; `None` is the default.
    pub resources: Option<ComputeResources>,
    /// The type of the Service.
    pub service_type: ServiceType,
    /// Annotations of the Service alone.
    pub service_annotations: BTreeMap<String, String>,
    /// Further fields of the Service's spec, those for load balancers only where its type is that.
    pub service_fields: BTreeMap<&'static str, serde_json::Value>,
    /// Further fields of the pods' spec, for scheduling.
    pub pod_fields: BTreeMap<&'static str, serde_json::Value>,
    /// Further labels of the pods.
    pub pod_labels: BTreeMap<String, String>,
    /// What the pods log.
    pub log_level: Option<String>,
    /// How many seconds pods have to finish connections.
    pub grace_seconds: Option<u32>,
}

/// The type of the Service in front of data planes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ServiceType {
    /// Has the address that a load balancer gives it.
    #[default]
    LoadBalancer,
    /// As `ClusterIP`, and under a port of every node.
    NodePort,
    /// Reached from inside the cluster.
    ClusterIP,
}

impl fmt::Display for ServiceType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

/// What translation says.
#[derive(Clone, Debug, Default)]
pub struct Translation {
    /// What each group of data planes needs. `Shared` is always there.
    pub snapshots: BTreeMap<DataPlane, Snapshot>,
    /// What each object's status should be.
    pub statuses: Statuses,
    /// What is wrong with whose objects, sorted.
    pub problems: Vec<Problem>,
    /// Objects whose current version was not used; for [`Resources::accept`].
    pub rejected: BTreeSet<(Kind, ObjectKey)>,
    /// Objects of other controllers: nobody here can say whether their current version is good.
    pub unjudged: BTreeSet<(Kind, ObjectKey)>,
    /// The data planes that Gateways of ours need.
    pub infrastructure: BTreeMap<DataPlane, Infrastructure>,
    /// The Secrets and ConfigMaps that some object of ours refers to (whether they exist or not); others need not be kept.
    pub wanted: BTreeSet<(Kind, ObjectKey)>,
}

/// Translates everything. Never fails: what is wrong with one object is in `problems` and harms no other. Who translates again
/// and again keeps a [`Memo`].
pub fn translate(resources: &Resources, settings: &Settings) -> Translation {
    Memo::default().translate(resources, settings)
}

/// The fast path for changes of EndpointSlices: the `Endpoints` resources that `snapshot` holds of the Service `service`,
/// as they are now. Replacing them gives what [`translate`] would give, without looking at any route.
pub fn endpoints(
    resources: &Resources,
    settings: &Settings,
    service: &ObjectKey,
    snapshot: &Snapshot,
) -> Vec<(ResourceId, Hashed)> {
    let endpoints = backends::refresh(resources, settings, service, snapshot);
    endpoints.into_iter().map(|(id, endpoints)| (id, Hashed::new(Resource::Endpoints(endpoints)))).collect()
}
