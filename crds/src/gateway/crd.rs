use std::borrow::Cow;

use kube_core::{ClusterResourceScope, ObjectMeta, Resource};
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

/// A CustomResourceDefinition, of which nothing but the metadata is read: those of the Gateway API say there which version
/// and channel of it the cluster has.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
pub struct CustomResourceDefinition {
    pub metadata: ObjectMeta,
    #[doc(hidden)]
    #[serde(default, skip_serializing)]
    pub spec: IgnoredAny,
    #[doc(hidden)]
    #[serde(default, skip_serializing)]
    pub status: IgnoredAny,
}

impl CustomResourceDefinition {
    /// The annotation with the Gateway API's version, e.g. `v1.6.3`.
    pub const BUNDLE_VERSION: &str = "gateway.networking.k8s.io/bundle-version";
    /// The annotation with the Gateway API's channel, `standard` or `experimental`.
    pub const CHANNEL: &str = "gateway.networking.k8s.io/channel";

    /// Whether it defines a kind of the Gateway API.
    pub fn of_gateway_api(&self) -> bool {
        self.metadata
            .name
            .as_deref()
            .and_then(|name| name.split_once('.'))
            .is_some_and(|(_, group)| group == super::GROUP)
    }

    /// The value of an annotation.
    pub fn annotation(&self, name: &str) -> Option<&str> {
        self.metadata.annotations.as_ref()?.get(name).map(String::as_str)
    }
}

impl Resource for CustomResourceDefinition {
    type DynamicType = ();
    type Scope = ClusterResourceScope;

    /// Schemas are large.
    fn metadata_api() -> bool {
        true
    }

    fn kind((): &()) -> Cow<'_, str> {
        "CustomResourceDefinition".into()
    }

    fn group((): &()) -> Cow<'_, str> {
        "apiextensions.k8s.io".into()
    }

    fn version((): &()) -> Cow<'_, str> {
        "v1".into()
    }

    fn plural((): &()) -> Cow<'_, str> {
        "customresourcedefinitions".into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}
