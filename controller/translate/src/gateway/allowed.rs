//! Which namespaces' objects may attach to a listener or a Gateway.

use std::borrow::Cow;
use std::collections::BTreeMap;

use crds::gateway::FromNamespaces;
use k8s_openapi::api::core::v1::Namespace;
use kube_core::{Selector, SelectorExt};

use crate::Resources;

/// The label that every namespace has (well-known labels of Kubernetes).
const NAMESPACE_NAME: &str = "kubernetes.io/metadata.name";

/// The namespaces whose objects may attach.
#[derive(Debug)]
pub(super) enum AllowedNamespaces {
    /// Every one.
    All,
    /// That of the object with the permission.
    Same,
    /// Those with matching labels.
    Selected(Selector),
    /// None.
    Nobody,
}

impl AllowedNamespaces {
    /// What is written, `default` where nothing is; and what is wrong with it, for which nobody is allowed: the path of the
    /// field from here on, and the remedy.
    pub fn read(allowed: Option<&FromNamespaces>, default: &str) -> (Self, Option<String>) {
        match allowed.and_then(|allowed| allowed.from.as_deref()).unwrap_or(default) {
            "All" => (Self::All, None),
            "Same" => (Self::Same, None),
            "None" => (Self::Nobody, None),
            "Selector" => match allowed.and_then(|allowed| allowed.selector.clone()).map(Selector::try_from) {
                Some(Ok(selector)) => (Self::Selected(selector), None),
                Some(Err(error)) => (Self::Nobody, Some(format!(".selector cannot be read ({error}): correct it"))),
                None => (Self::Nobody, Some(".selector is missing, which .from asks for: add it".into())),
            },
            other => (Self::Nobody, Some(format!(".from is {other:?}: use All, Same or Selector"))),
        }
    }

    /// Whether an object of `namespace` may attach to one of the namespace `own`.
    pub fn allow(&self, resources: &Resources, own: &str, namespace: &str) -> bool {
        match self {
            Self::All => true,
            Self::Same => own == namespace,
            Self::Selected(selector) => selector.matches(&labels(resources, namespace)),
            Self::Nobody => false,
        }
    }
}

/// The labels of a namespace. A folder of manifests need not hold its namespaces.
fn labels<'r>(resources: &'r Resources, namespace: &str) -> Cow<'r, BTreeMap<String, String>> {
    let object = resources.get::<Namespace>("", namespace);
    match object.and_then(|object| object.metadata.labels.as_ref()) {
        Some(labels) if labels.contains_key(NAMESPACE_NAME) => Cow::Borrowed(labels),
        labels => {
            let mut labels = labels.cloned().unwrap_or_default();
            labels.insert(NAMESPACE_NAME.into(), namespace.into());
            Cow::Owned(labels)
        }
    }
}
