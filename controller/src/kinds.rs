//! What the controller watches of each kind, and what it forgets before storing.

use std::fmt::Debug;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Resource;
use kube::api::ApiResource;
use kube::core::ObjectMeta;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use translate::objects::*;
use translate::{Kind, ObjectKey, Resources, Stored};

/// A kind that is watched.
pub trait Watched:
    Stored + Resource<DynamicType = ()> + DeserializeOwned + Serialize + Clone + Debug + PartialEq + Send + Sync + 'static
{
    /// The objects that are of interest, as a field selector.
    const FIELDS: Option<&'static str> = None;

    /// Takes out the status that the controller itself writes, so that its own writes change nothing that is stored.
    fn take_status(&mut self) -> Option<Value> {
        None
    }

    /// Forgets what translation never reads.
    fn strip(&mut self) {}
}

macro_rules! status_is_ours {
    ($($kind:ident)*) => {
        $(impl Watched for $kind {
            fn take_status(&mut self) -> Option<Value> {
                self.status.take().and_then(|status| serde_json::to_value(status).ok())
            }
        })*
    };
}

status_is_ours! {
    Ingress GatewayClass Gateway ListenerSet HTTPRoute GRPCRoute TLSRoute TCPRoute UDPRoute BackendTLSPolicy TrafficPolicy
    BackendPolicy
}

impl Watched for IngressClass {}

impl Watched for ReferenceGrant {}

impl Watched for GatewayConfig {}

impl Watched for Service {
    fn strip(&mut self) {
        if let Some(status) = &mut self.status {
            status.conditions = None;
        }
    }
}

impl Watched for EndpointSlice {
    fn strip(&mut self) {
        for endpoint in &mut self.endpoints {
            // The names of pods tell which data planes get traffic.
            let pod = endpoint.target_ref.take().filter(|target| target.kind.as_deref() == Some("Pod"));
            endpoint.target_ref = pod.map(|pod| ObjectReference { name: pod.name, ..ObjectReference::default() });
            endpoint.deprecated_topology = None;
        }
    }
}

impl Watched for Secret {
    /// Releases of Helm, tokens and registry passwords are most of the bytes of all Secrets, and nothing here refers to them.
    const FIELDS: Option<&'static str> = Some(
        "type!=helm.sh/release.v1,type!=kubernetes.io/service-account-token,type!=kubernetes.io/dockerconfigjson,\
         type!=kubernetes.io/dockercfg,type!=bootstrap.kubernetes.io/token",
    );
}

impl Watched for Namespace {
    fn strip(&mut self) {
        self.metadata.annotations = None;
        self.spec = None;
        self.status = None;
    }
}

/// Forgets what no kind needs. The resource version goes too: two objects are equal when translation sees no difference.
pub fn strip(metadata: &mut ObjectMeta) {
    metadata.managed_fields = None;
    metadata.resource_version = None;
    metadata.owner_references = None;
    metadata.finalizers = None;
    if let Some(annotations) = &mut metadata.annotations {
        annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
    }
}

/// Calls a function that is generic over [`Watched`] for the type of a [`Kind`].
macro_rules! of_kind {
    ($kind:expr, $function:ident $arguments:tt) => {
        translate::every_kind!(crate::kinds::match_kind, $kind, $function $arguments)
    };
}
macro_rules! match_kind {
    ($kind:expr, $function:ident $arguments:tt; $($each:ident)*) => {
        match $kind { $(translate::Kind::$each => $function::<translate::objects::$each> $arguments,)* }
    };
}
pub(crate) use {match_kind, of_kind};

/// How the API names a kind, for writing objects whose unknown fields have to survive.
pub fn api_resource(kind: Kind) -> ApiResource {
    fn erase<T: Watched>() -> ApiResource {
        ApiResource::erase::<T>(&())
    }
    of_kind!(kind, erase())
}

/// The `uid` of a stored object, which ties Events and owner references to this very object and not to a namesake.
pub fn uid(resources: &Resources, kind: Kind, key: &ObjectKey) -> Option<String> {
    fn of<T: Watched>(resources: &Resources, key: &ObjectKey) -> Option<String> {
        T::map(resources).get(key)?.current.metadata().uid.clone()
    }
    of_kind!(kind, of(resources, key))
}
