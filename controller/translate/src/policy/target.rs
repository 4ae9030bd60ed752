//! What policies can be attached to.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use crds::gateway::ParentReference;
use crds::policy::PolicyTargetReference;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::networking::v1::Ingress;

use crate::{Kind, ObjectKey, Resources};

/// An object, or a part of one, that a policy applies to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Target {
    /// `Gateway`, `HTTPRoute`, `Ingress` or `Service`.
    pub kind: Kind,
    /// The object.
    pub object: ObjectKey,
    /// The listener, rule or port, by name.
    pub section: Option<String>,
}

impl Target {
    /// The target of a reference in a policy of `namespace` that may apply to `kinds`. It need not exist.
    pub fn of(reference: &PolicyTargetReference, namespace: &str, kinds: &[Kind]) -> Result<Self, String> {
        let kind = kinds.iter().find(|kind| kind.name() == reference.kind && kind.group() == reference.group);
        let Some(&kind) = kind else {
            let names: Vec<_> = kinds.iter().map(|kind| format!("{kind} of group {:?}", kind.group())).collect();
            return Err(format!(
                "a policy of this kind does not apply to {} of group {:?}: name a {}",
                reference.kind,
                reference.group,
                names.join(" or ")
            ));
        };
        if kind == Kind::Ingress && reference.section_name.is_some() {
            return Err("an Ingress has no sections: leave out sectionName".into());
        }
        let object = ObjectKey::new(namespace, &reference.name);
        Ok(Self { kind, object, section: reference.section_name.clone() })
    }

    /// Whether the target is there; fails with the field of the reference that is wrong, and the remedy.
    pub fn find(&self, resources: &Resources) -> Result<(), (&'static str, String)> {
        let ObjectKey { namespace, name } = &self.object;
        let sections: Option<Vec<String>> = match self.kind {
            Kind::Gateway => resources
                .get::<crds::gateway::Gateway>(namespace, name)
                .map(|gateway| gateway.spec.listeners.iter().map(|listener| listener.name.clone()).collect()),
            Kind::HTTPRoute => resources
                .get::<crds::gateway::HTTPRoute>(namespace, name)
                .map(|route| route.spec.rules.iter().flatten().filter_map(|rule| rule.name.clone()).collect()),
            Kind::Ingress => resources.get::<Ingress>(namespace, name).map(|_| Vec::new()),
            _ => resources.get::<Service>(namespace, name).map(|service| {
                let ports = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
                ports.filter_map(|port| port.name.clone()).collect()
            }),
        };
        match (&self.section, sections) {
            (_, None) => {
                let message =
                    format!("there is no {} {}: create it, or correct spec.targetRefs", self.kind, self.object);
                Err(("name", message))
            }
            (Some(section), Some(sections)) if !sections.contains(section) => {
                let (kind, object, word) = (self.kind, &self.object, section_word(self.kind));
                let message =
                    format!("{kind} {object} has no {word} named {section}: correct sectionName in spec.targetRefs");
                Err(("sectionName", message))
            }
            _ => Ok(()),
        }
    }

    /// The reference to the target itself, for statuses of policies whose target belongs to nobody.
    pub fn reference(&self) -> ParentReference {
        ParentReference {
            group: Some(self.kind.group().into()),
            kind: Some(self.kind.name().into()),
            namespace: Some(self.object.namespace.clone()),
            name: self.object.name.clone(),
            section_name: self.section.clone(),
            port: None,
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.object)?;
        match &self.section {
            Some(section) => write!(f, " {} {section}", section_word(self.kind)),
            None => Ok(()),
        }
    }
}

/// Who has which target: the oldest policy, then the one whose name is first (GEP-713).
#[derive(PartialEq)]
pub(super) struct Claims<T> {
    holders: BTreeMap<Target, (ObjectKey, Arc<T>)>,
}

impl<T> Default for Claims<T> {
    fn default() -> Self {
        Self { holders: BTreeMap::new() }
    }
}

impl<T> Claims<T> {
    /// Claims a target; fails with the name of the policy that has it. To be called with the oldest policy first.
    pub fn claim(&mut self, target: Target, policy: &ObjectKey, content: &Arc<T>) -> Result<(), ObjectKey> {
        match self.holders.get(&target) {
            Some((holder, _)) if holder != policy => Err(holder.clone()),
            _ => {
                self.holders.insert(target, (policy.clone(), content.clone()));
                Ok(())
            }
        }
    }

    /// What holds for exactly this target.
    pub fn get(&self, kind: Kind, object: &ObjectKey, section: Option<&str>) -> Option<&Arc<T>> {
        let target = Target { kind, object: object.clone(), section: section.map(str::to_owned) };
        self.holders.get(&target).map(|(_, content)| content)
    }
}

fn section_word(kind: Kind) -> &'static str {
    match kind {
        Kind::Gateway => "listener",
        Kind::HTTPRoute => "rule",
        _ => "port",
    }
}
