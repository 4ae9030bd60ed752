//! References into other namespaces.

use std::collections::BTreeMap;

use crds::gateway::{GROUP, ReferenceGrantSpec};

use crate::{Kind, Resources};

/// All ReferenceGrants, by the namespace they open.
#[derive(Default)]
pub(super) struct Grants<'a> {
    by_namespace: BTreeMap<&'a str, Vec<&'a ReferenceGrantSpec>>,
}

impl<'a> Grants<'a> {
    /// Reads them once.
    pub fn new(resources: &'a Resources) -> Self {
        let mut grants = Self::default();
        for (key, entry) in &resources.reference_grants {
            grants.by_namespace.entry(&key.namespace).or_default().push(&entry.current.spec);
        }
        grants
    }

    /// Whether an object of `from`, a kind of the Gateway API, in `namespace` may refer to the Service, Secret or
    /// ConfigMap `name` of `target_namespace`. Within a namespace always; else a grant there must name the origin and the target.
    pub fn allow(&self, from: Kind, namespace: &str, to: Kind, target_namespace: &str, name: &str) -> bool {
        let mut grants = self.by_namespace.get(target_namespace).into_iter().flatten().copied();
        let allows = |grant: &ReferenceGrantSpec| {
            let origin = |origin: &crds::gateway::ReferenceGrantFrom| {
                origin.group == GROUP && origin.kind == from.name() && origin.namespace == namespace
            };
            let target = |target: &crds::gateway::ReferenceGrantTo| {
                let named = target.name.as_deref().is_none_or(|wanted| wanted.is_empty() || wanted == name);
                target.group.is_empty() && target.kind == to.name() && named
            };
            grant.from.iter().any(origin) && grant.to.iter().any(target)
        };
        namespace == target_namespace || grants.any(allows)
    }
}
