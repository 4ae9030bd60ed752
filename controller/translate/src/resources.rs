//! The input: every object that translation reads, by kind and name.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use kube_core::ObjectMeta;

use self::objects::*;
use crate::Translation;

/// The types of every kind that translation reads.
pub mod objects {
    pub use crds::gateway::{
        BackendTLSPolicy, CustomResourceDefinition, GRPCRoute, Gateway, GatewayClass, HTTPRoute, ListenerSet,
        ReferenceGrant, TCPRoute, TLSRoute, UDPRoute,
    };
    pub use crds::policy::{BackendPolicy, GatewayConfig, TrafficPolicy};
    pub use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, Secret, Service};
    pub use k8s_openapi::api::discovery::v1::EndpointSlice;
    pub use k8s_openapi::api::networking::v1::{Ingress, IngressClass};
}

/// Namespace (empty for cluster-scoped objects) and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey {
    /// The namespace; empty for cluster-scoped objects.
    pub namespace: String,
    /// The name.
    pub name: String,
}

impl ObjectKey {
    /// A key from its two parts.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }

    /// The key of an object.
    pub fn of(metadata: &ObjectMeta) -> Self {
        Self {
            namespace: metadata.namespace.clone().unwrap_or_default(),
            name: metadata.name.clone().unwrap_or_default(),
        }
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.namespace.as_str() {
            "" => f.write_str(&self.name),
            namespace => write!(f, "{namespace}/{}", self.name),
        }
    }
}

/// When an object was created, in seconds since 1970. One without a time was made here and now, as by a dry run: it is the
/// youngest.
pub(crate) fn created(metadata: &ObjectMeta) -> i64 {
    metadata.creation_timestamp.as_ref().map_or(i64::MAX, |time| time.0.as_second())
}

/// An object with the last version of it that translation accepted.
///
/// A bad edit harms nobody: translation reports it and goes on with `last_good`.
#[derive(Debug)]
pub struct Entry<T> {
    /// The object as it is.
    pub current: Arc<T>,
    /// Its last accepted version: the same `Arc` as `current` unless `current` was rejected.
    pub last_good: Option<Arc<T>>,
}

impl<T> Clone for Entry<T> {
    fn clone(&self) -> Self {
        Self { current: self.current.clone(), last_good: self.last_good.clone() }
    }
}

/// Objects of one kind by name.
pub type Map<T> = BTreeMap<ObjectKey, Entry<T>>;

/// An object kind that translation reads.
pub trait Stored: Sized {
    /// Its kind.
    const KIND: Kind;
    /// Its metadata.
    fn metadata(&self) -> &ObjectMeta;
    /// Where it lives.
    fn map(resources: &Resources) -> &Map<Self>;
    /// Where it lives, to be changed.
    fn map_mut(resources: &mut Resources) -> &mut Map<Self>;
}

macro_rules! kinds {
    ($($kind:ident $field:ident $api:literal;)*) => {
        /// The kinds of objects that translation reads, and refers to in problems and statuses.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Kind {
            $(#[doc = concat!("`", stringify!($kind), "` of `", $api, "`.")] $kind,)*
        }

        impl Kind {
            /// Every kind.
            pub const ALL: &[Kind] = &[$(Kind::$kind),*];

            /// The kind's name as in manifests.
            pub fn name(self) -> &'static str {
                match self { $(Kind::$kind => stringify!($kind),)* }
            }

            /// The `apiVersion` in which it is read.
            pub fn api_version(self) -> &'static str {
                match self { $(Kind::$kind => $api,)* }
            }
        }

        /// Every object that translation reads.
        #[derive(Clone, Debug, Default)]
        pub struct Resources {
            $(#[doc = concat!("Every `", stringify!($kind), "`.")] pub $field: Map<$kind>,)*
            /// Secrets and ConfigMaps that exist and are not among these objects: nothing referred to them so far, or they
            /// cannot be read for now.
            pub unavailable: std::collections::BTreeSet<(Kind, ObjectKey)>,
        }

        $(impl Stored for $kind {
            const KIND: Kind = Kind::$kind;
            fn metadata(&self) -> &ObjectMeta { &self.metadata }
            fn map(resources: &Resources) -> &Map<Self> { &resources.$field }
            fn map_mut(resources: &mut Resources) -> &mut Map<Self> { &mut resources.$field }
        })*

        impl Resources {
            /// Makes the current version of every object that the translation judged and did not reject its last good one.
            pub fn accept(&mut self, translation: &Translation) {
                $(accept(&mut self.$field, Kind::$kind, translation);)*
            }
        }
    };
}

kinds! {
    IngressClass ingress_classes "networking.k8s.io/v1";
    Ingress ingresses "networking.k8s.io/v1";
    GatewayClass gateway_classes "gateway.networking.k8s.io/v1";
    Gateway gateways "gateway.networking.k8s.io/v1";
    ListenerSet listener_sets "gateway.networking.k8s.io/v1";
    HTTPRoute http_routes "gateway.networking.k8s.io/v1";
    GRPCRoute grpc_routes "gateway.networking.k8s.io/v1";
    TLSRoute tls_routes "gateway.networking.k8s.io/v1";
    TCPRoute tcp_routes "gateway.networking.k8s.io/v1";
    UDPRoute udp_routes "gateway.networking.k8s.io/v1";
    BackendTLSPolicy backend_tls_policies "gateway.networking.k8s.io/v1";
    ReferenceGrant reference_grants "gateway.networking.k8s.io/v1beta1";
    Service services "v1";
    EndpointSlice endpoint_slices "discovery.k8s.io/v1";
    Secret secrets "v1";
    ConfigMap config_maps "v1";
    Namespace namespaces "v1";
    Pod pods "v1";
    TrafficPolicy traffic_policies "sluice.dev/v1alpha1";
    BackendPolicy backend_policies "sluice.dev/v1alpha1";
    GatewayConfig gateway_configs "sluice.dev/v1alpha1";
    CustomResourceDefinition custom_resource_definitions "apiextensions.k8s.io/v1";
}

/// Calls a macro with the name of every kind, after `more;` where there is more; `$crate::objects` holds their types.
///
/// What has to be done for each kind is written once in this way, and holds for a kind that is added later.
#[macro_export]
macro_rules! every_kind {
    ($($callback:ident)::+ $(, $($more:tt)+)?) => {
        $($callback)::+! {
            $($($more)+;)?
            IngressClass Ingress GatewayClass Gateway ListenerSet HTTPRoute GRPCRoute TLSRoute TCPRoute UDPRoute
            BackendTLSPolicy ReferenceGrant Service EndpointSlice Secret ConfigMap Namespace Pod TrafficPolicy
            BackendPolicy GatewayConfig CustomResourceDefinition
        }
    };
}

impl Kind {
    /// The API group; empty for the core group.
    pub fn group(self) -> &'static str {
        self.api_version().rsplit_once('/').map_or("", |(group, _)| group)
    }

    /// The kind that a reference names, whose `group` and `kind` are each those of `default` where they are left out. `None`
    /// for one that translation does not read.
    pub fn named(group: Option<&str>, kind: Option<&str>, default: Kind) -> Option<Kind> {
        let (group, name) = (group.unwrap_or(default.group()), kind.unwrap_or(default.name()));
        Kind::ALL.iter().copied().find(|kind| kind.name() == name && kind.group() == group)
    }

    /// Whether it is a kind of route: `status.parents` has an entry for each parent and controller.
    pub fn is_route(self) -> bool {
        matches!(self, Self::HTTPRoute | Self::GRPCRoute | Self::TLSRoute | Self::TCPRoute | Self::UDPRoute)
    }

    /// Whether it is a kind of policy (GEP-713): `status.ancestors` has an entry for each ancestor and controller.
    pub fn is_policy(self) -> bool {
        matches!(self, Self::TrafficPolicy | Self::BackendPolicy | Self::BackendTLSPolicy)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Resources {
    /// Adds an object or replaces its current version.
    pub fn insert<T: Stored>(&mut self, object: T) {
        let key = ObjectKey::of(object.metadata());
        let current = Arc::new(object);
        match T::map_mut(self).get_mut(&key) {
            Some(entry) => entry.current = current,
            None => {
                T::map_mut(self).insert(key, Entry { current, last_good: None });
            }
        }
    }

    /// Removes an object, its last good version included: deleted is not broken.
    pub fn remove<T: Stored>(&mut self, key: &ObjectKey) -> Option<Entry<T>> {
        T::map_mut(self).remove(key)
    }

    /// The current version of an object.
    pub fn get<T: Stored>(&self, namespace: &str, name: &str) -> Option<&Arc<T>> {
        T::map(self).get(&ObjectKey::new(namespace, name)).map(|entry| &entry.current)
    }
}

fn accept<T>(map: &mut Map<T>, kind: Kind, translation: &Translation) {
    for (key, entry) in map {
        let accepted = entry.last_good.as_ref().is_some_and(|good| Arc::ptr_eq(good, &entry.current));
        if accepted {
            continue;
        }
        let object = (kind, key.clone());
        if !translation.rejected.contains(&object) && !translation.unjudged.contains(&object) {
            entry.last_good = Some(entry.current.clone());
        }
    }
}
