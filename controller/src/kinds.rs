//! What the controller watches of each kind, and what it forgets before storing.

use std::fmt::Debug;

use k8s_openapi::api::core::v1::{ContainerStatus, ObjectReference, PodStatus};
use k8s_openapi::api::discovery::v1::Endpoint;
use kube::Resource;
use kube::api::ApiResource;
use kube::core::ObjectMeta;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use translate::objects::*;
use translate::{CLASS_NAME, GATEWAY_NAME, Kind, ObjectKey, Resources, SERVICE_NAME, Stored};

/// A kind that is watched.
pub trait Watched:
    Stored + Resource<DynamicType = ()> + DeserializeOwned + Serialize + Clone + Debug + PartialEq + Send + Sync + 'static
{
    /// The objects that are of interest, as a field selector.
    const FIELDS: Option<&'static str> = None;

    /// The same, as a label selector.
    const LABELS: Option<&'static str> = None;

    /// Whether only those objects are kept that some object of ours refers to.
    const ON_DEMAND: bool = false;

    /// Whether nothing is served before the objects of this kind are known: without them traffic would go to nowhere, or would pass
    /// without what protects it. Any other kind that the controller may not list counts as empty.
    const ESSENTIAL: bool = false;

    /// Takes out the status that the controller itself writes, so that its own writes change nothing that is stored.
    fn take_status(&mut self) -> Option<Value> {
        None
    }

    /// Forgets what nobody reads, but for what [`stored`] forgets of every kind.
    fn strip(&mut self) {}
}

macro_rules! status_is_ours {
    ($($kind:ident: $essential:literal)*) => {
        $(impl Watched for $kind {
            const ESSENTIAL: bool = $essential;

            fn take_status(&mut self) -> Option<Value> {
                self.status.take().and_then(|status| serde_json::to_value(status).ok())
            }
        })*
    };
}

status_is_ours! {
    Ingress: false
    GatewayClass: false
    Gateway: false
    ListenerSet: false
    HTTPRoute: false
    GRPCRoute: false
    TLSRoute: false
    TCPRoute: false
    UDPRoute: false
    BackendTLSPolicy: true
    TrafficPolicy: true
    BackendPolicy: true
}

impl Watched for IngressClass {}

impl Watched for ReferenceGrant {}

impl Watched for GatewayConfig {}

impl Watched for CustomResourceDefinition {}

impl Watched for Service {
    const ESSENTIAL: bool = true;

    fn strip(&mut self) {
        if let Some(spec) = &mut self.spec {
            spec.selector = None;
        }
        if let Some(status) = &mut self.status {
            status.conditions = None;
        }
    }
}

impl Watched for EndpointSlice {
    const ESSENTIAL: bool = true;

    fn strip(&mut self) {
        for endpoint in &mut self.endpoints {
            // The names of pods tell which data planes get traffic.
            let pod = endpoint.target_ref.take().filter(|target| target.kind.as_deref() == Some("Pod"));
            *endpoint = Endpoint {
                addresses: std::mem::take(&mut endpoint.addresses),
                conditions: endpoint.conditions.take(),
                target_ref: pod.map(|pod| ObjectReference { name: pod.name, ..ObjectReference::default() }),
                ..Endpoint::default()
            };
        }
    }
}

impl Watched for Secret {
    /// Releases of Helm, tokens and registry passwords are most of the bytes of all Secrets, and nothing here refers to them.
    const FIELDS: Option<&'static str> = Some(
        "type!=helm.sh/release.v1,type!=kubernetes.io/service-account-token,type!=kubernetes.io/dockerconfigjson,\
         type!=kubernetes.io/dockercfg,type!=bootstrap.kubernetes.io/token",
    );
    const ON_DEMAND: bool = true;
}

impl Watched for ConfigMap {
    const ON_DEMAND: bool = true;

    fn strip(&mut self) {
        self.binary_data = None;
    }
}

impl Watched for Pod {
    const LABELS: Option<&'static str> = Some(CLASS_NAME);

    /// Keeps what tells why a pod does not start. One that runs, or is about to, is like any other.
    fn strip(&mut self) {
        self.spec = None;
        self.status = self.status.take().map(|status| PodStatus {
            conditions: status.conditions.map(|mut conditions| {
                conditions.retain(|condition| condition.type_ == "PodScheduled" && condition.status == "False");
                for condition in &mut conditions {
                    (condition.last_probe_time, condition.last_transition_time) = (None, None);
                    condition.observed_generation = None;
                }
                conditions
            }),
            container_statuses: status.container_statuses.map(|mut containers| {
                containers.retain(|container| waiting(container).is_some_and(|reason| !STARTING.contains(&reason)));
                let kept = |container: ContainerStatus| ContainerStatus {
                    name: container.name,
                    state: container.state,
                    ..ContainerStatus::default()
                };
                containers.into_iter().map(kept).collect()
            }),
            ..PodStatus::default()
        });
    }
}

/// Why containers wait that are about to start.
const STARTING: [&str; 2] = ["ContainerCreating", "PodInitializing"];

fn waiting(container: &ContainerStatus) -> Option<&str> {
    container.state.as_ref()?.waiting.as_ref()?.reason.as_deref()
}

impl Watched for Namespace {
    fn strip(&mut self) {
        self.spec = None;
        self.status = None;
    }
}

/// What is stored of an object: what translation and the writers read. At 5,000 routes the objects are most of the
/// controller's memory.
pub fn stored<T: Watched>(mut object: T) -> T {
    strip(T::KIND, object.meta_mut());
    object.strip();
    object
}

/// The resource version goes too: two objects are equal when translation sees no difference.
fn strip(kind: Kind, metadata: &mut ObjectMeta) {
    metadata.managed_fields.take_if(|_| !matches!(kind, Kind::Gateway | Kind::ListenerSet | Kind::Ingress));
    metadata.resource_version = None;
    metadata.owner_references = None;
    metadata.finalizers = None;
    metadata.labels = metadata.labels.take().and_then(|mut labels| {
        match kind {
            Kind::Namespace => {}
            Kind::EndpointSlice => labels.retain(|name, _| name == SERVICE_NAME),
            Kind::Service | Kind::Pod => labels.retain(|name, _| name == GATEWAY_NAME || name == CLASS_NAME),
            _ => labels.clear(),
        }
        (!labels.is_empty()).then_some(labels)
    });
    match (kind, &mut metadata.annotations) {
        (Kind::Ingress | Kind::IngressClass, Some(annotations)) => {
            annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
        }
        (Kind::CustomResourceDefinition, Some(annotations)) => annotations.retain(|name, _| {
            [CustomResourceDefinition::BUNDLE_VERSION, CustomResourceDefinition::CHANNEL].contains(&name.as_str())
        }),
        (_, annotations) => *annotations = None,
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_stored_is_what_is_read() {
        let metadata = |labels: Value| {
            json!({
                "namespace": "shop", "name": "web", "uid": "1", "generation": 2, "resourceVersion": "3", "labels": labels,
                "annotations": {"a": "b"}, "managedFields": [{"manager": "m"}],
            })
        };
        let slice: EndpointSlice = serde_json::from_value(json!({
            "metadata": metadata(json!({"app": "web", SERVICE_NAME: "web"})),
            "addressType": "IPv4",
            "ports": [{"name": "http", "port": 80}],
            "endpoints": [{
                "addresses": ["10.0.0.1"], "conditions": {"ready": true}, "nodeName": "n", "zone": "z",
                "targetRef": {"kind": "Pod", "name": "p"},
            }],
        }))
        .unwrap();
        let expected: EndpointSlice = serde_json::from_value(json!({
            "metadata": {
                "namespace": "shop", "name": "web", "uid": "1", "generation": 2, "labels": {SERVICE_NAME: "web"},
            },
            "addressType": "IPv4",
            "ports": [{"name": "http", "port": 80}],
            "endpoints": [{"addresses": ["10.0.0.1"], "conditions": {"ready": true}, "targetRef": {"name": "p"}}],
        }))
        .unwrap();
        assert_eq!(stored(slice), expected);

        let service: Service = serde_json::from_value(json!({
            "metadata": metadata(json!({"app": "web", GATEWAY_NAME: "public", CLASS_NAME: "c"})), "spec": {"selector": {"app": "web"}},
        }))
        .unwrap();
        let expected: Service = serde_json::from_value(json!({
            "metadata": {
                "namespace": "shop", "name": "web", "uid": "1", "generation": 2, "labels": {GATEWAY_NAME: "public", CLASS_NAME: "c"},
            },
            "spec": {},
        }))
        .unwrap();
        assert_eq!(stored(service), expected);

        let pod = |status: Value| -> Pod {
            let labels = json!({"app": "web", GATEWAY_NAME: "public"});
            let pod = json!({"metadata": metadata(labels), "spec": {"containers": []}, "status": status});
            stored(serde_json::from_value(pod).unwrap())
        };
        let container = |state: Value| {
            json!({
                "name": "c", "image": "i", "imageID": "x", "ready": false, "restartCount": 3, "containerID": "y", "state": state,
            })
        };
        let fine = pod(json!({
            "phase": "Running", "podIP": "10.0.0.1", "conditions": [{"type": "PodScheduled", "status": "True"}],
            "containerStatuses": [container(json!({"waiting": {"reason": "ContainerCreating"}}))],
        }));
        assert_eq!(fine.metadata.labels, Some([(GATEWAY_NAME.to_owned(), "public".to_owned())].into()));
        let running = json!({"running": {"startedAt": "2026-01-01T00:00:00Z"}});
        assert_eq!(
            fine,
            pod(json!({
                "conditions": [{"type": "PodScheduled", "status": "True"}, {"type": "Ready", "status": "True"}],
                "containerStatuses": [container(running)],
            })),
            "a pod that runs, or is about to, is like any other"
        );
        let unscheduled = json!({"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "m"});
        let crash = container(json!({"waiting": {"reason": "CrashLoopBackOff"}}));
        let stuck = pod(json!({"conditions": [unscheduled], "containerStatuses": [crash]})).status.unwrap();
        assert_eq!(stuck.conditions.unwrap()[0].message.as_deref(), Some("m"));
        assert_eq!(waiting(&stuck.container_statuses.unwrap()[0]), Some("CrashLoopBackOff"));

        let ingress: Ingress = serde_json::from_value(json!({ "metadata": metadata(json!({"app": "web"})) })).unwrap();
        let ingress = stored(ingress).metadata;
        assert_eq!((ingress.labels, ingress.annotations), (None, Some([("a".to_owned(), "b".to_owned())].into())));
        let namespace: Namespace =
            serde_json::from_value(json!({ "metadata": metadata(json!({"team": "shop"})) })).unwrap();
        assert_eq!(stored(namespace).metadata.labels, Some([("team".to_owned(), "shop".to_owned())].into()));
    }
}
