//! What the controller watches of each kind, and what it forgets before storing.

use std::fmt::Debug;

use kube::Resource;
use kube::api::ApiResource;
use kube::core::ObjectMeta;
use serde::de::DeserializeOwned;
use serde_json::Value;
use translate::objects::*;
use translate::{Kind, ObjectKey, Resources, Stored, objects};

/// A kind that is watched.
pub trait Watched:
    Stored + Resource<DynamicType = ()> + DeserializeOwned + Clone + Debug + PartialEq + Send + Sync + 'static
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
            endpoint.target_ref = None;
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

macro_rules! by_kind {
    ($($kind:ident)*) => {
        /// How the API names a kind, for writing objects whose unknown fields have to survive.
        pub fn api_resource(kind: Kind) -> ApiResource {
            match kind { $(Kind::$kind => ApiResource::erase::<objects::$kind>(&()),)* }
        }

        /// The `uid` of a stored object, which ties Events and owner references to this very object and not to a namesake.
        pub fn uid(resources: &Resources, kind: Kind, key: &ObjectKey) -> Option<String> {
            match kind { $(Kind::$kind => uid_of::<objects::$kind>(resources, key),)* }
        }
    };
}
translate::every_kind!(by_kind);

fn uid_of<T: Stored>(resources: &Resources, key: &ObjectKey) -> Option<String> {
    T::map(resources).get(key)?.current.metadata().uid.clone()
}
