//! References into other namespaces.

use std::collections::BTreeMap;

use crds::gateway::{GROUP, ReferenceGrantSpec};

use crate::{Kind, ObjectKey, Resources};

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

    /// Fails unless an object of `from`, a kind of the Gateway API, in `namespace` may refer to `target`, a Service, Secret or ConfigMap
    /// as `to` says: within a namespace always; else a grant there must name the origin and the target. The error is the message of
    /// `RefNotPermitted`.
    ///
    /// To be asked before it is looked whether the target exists, so that nobody can probe other namespaces for names.
    pub fn check(&self, from: Kind, namespace: &str, to: Kind, target: &ObjectKey) -> Result<(), String> {
        if namespace == target.namespace || self.granted(from, namespace, to, target) {
            return Ok(());
        }
        Err(format!(
            "no ReferenceGrant in namespace {} lets {from}s of namespace {namespace} refer to {to} {}: create one",
            target.namespace, target.name
        ))
    }

    fn granted(&self, from: Kind, namespace: &str, to: Kind, target: &ObjectKey) -> bool {
        let mut grants = self.by_namespace.get(target.namespace.as_str()).into_iter().flatten();
        grants.any(|grant| {
            let from_here = |origin: &crds::gateway::ReferenceGrantFrom| {
                origin.group == GROUP && origin.kind == from.name() && origin.namespace == namespace
            };
            let to_there = |aim: &crds::gateway::ReferenceGrantTo| {
                let named = aim.name.as_deref().is_none_or(|wanted| wanted.is_empty() || wanted == target.name);
                aim.group.is_empty() && aim.kind == to.name() && named
            };
            grant.from.iter().any(from_here) && grant.to.iter().any(to_there)
        })
    }
}
