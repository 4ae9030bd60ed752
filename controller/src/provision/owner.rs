//! Whose an object is: this installation's, or somebody else's.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::core::ObjectMeta;
use snapshot::Hash;
use translate::{DataPlane, Kind, ObjectKey};

use super::Wanted;

/// The label that names the installation which made an object.
pub(super) const INSTALLATION: &str = "sluice.dev/installation";

/// The longest part of a release's name in the label: with a hash it fits into 63 characters.
const LONGEST: usize = 50;
/// How many digits of a hash stand in the label.
const HASH: usize = 8;

/// A release in a namespace with its controller name: what tells the objects of one installation from those of another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Installation {
    label: String,
    /// The value of the label in former versions, which did not tell apart the releases of a namespace.
    former: String,
}

impl Installation {
    /// The installation of `release` in `namespace`, which serves the GatewayClasses of `controller`.
    pub fn new(namespace: &str, release: &str, controller: &str) -> Self {
        let hash = Hash::of(format!("{namespace} {release} {controller}").as_bytes()).to_string();
        let clean = release.chars().filter(|letter| letter.is_ascii_alphanumeric() || *letter == '-');
        let start: String = clean.take(LONGEST).collect();
        let label = format!("{}-{}", start.trim_matches('-'), hash.chars().take(HASH).collect::<String>());
        Self { label: label.trim_start_matches('-').to_owned(), former: namespace.to_owned() }
    }

    /// The value of the label.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// Selects what this installation made. What bears the label of former versions may be another's.
    pub(super) fn selector(&self) -> String {
        format!("{INSTALLATION} in ({},{})", self.label, self.former)
    }

    /// Whether an object that is there may be changed to be part of these data planes: an installation made it, for the same owner.
    /// An owner that was deleted and created again has another `uid`: then the label decides.
    pub(super) fn may_change(&self, metadata: &ObjectMeta, plane: &DataPlane, wanted: &Wanted) -> bool {
        let (Some(label), Some(owner)) = (installation(metadata), controller(metadata)) else { return false };
        let namespace = metadata.namespace.as_deref().unwrap_or_default();
        let same = made_for(owner, namespace).as_ref() == Some(plane);
        same && (owner.uid == wanted.uid || label == self.label || label == self.former)
    }

    /// Whether an object that nobody wants may be deleted: this installation made it for a Gateway or a GatewayClass. With the label of
    /// former versions only where the owner is `known` as one of ours, by its `uid`.
    pub(super) fn may_delete(&self, metadata: &ObjectMeta, known: impl Fn(&str) -> bool) -> bool {
        let (Some(label), Some(owner)) = (installation(metadata), controller(metadata)) else { return false };
        let namespace = metadata.namespace.as_deref().unwrap_or_default();
        made_for(owner, namespace).is_some() && (label == self.label || label == self.former && known(&owner.uid))
    }
}

fn installation(metadata: &ObjectMeta) -> Option<&str> {
    metadata.labels.as_ref()?.get(INSTALLATION).map(String::as_str)
}

fn controller(metadata: &ObjectMeta) -> Option<&OwnerReference> {
    metadata.owner_references.iter().flatten().find(|owner| owner.controller == Some(true))
}

/// The data planes that an object in this namespace is for.
pub(super) fn made_for(owner: &OwnerReference, namespace: &str) -> Option<DataPlane> {
    let is = |kind: Kind| {
        let group = owner.api_version.split_once('/').map_or("", |(group, _)| group);
        owner.kind == kind.name() && group == kind.group()
    };
    if is(Kind::Gateway) {
        Some(DataPlane::Gateway(ObjectKey::new(namespace, &owner.name)))
    } else if is(Kind::GatewayClass) {
        Some(DataPlane::Class(owner.name.clone()))
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn metadata(label: &str, owner: &Value) -> ObjectMeta {
        let value =
            json!({"namespace": "shop", "name": "web-c", "labels": {INSTALLATION: label}, "ownerReferences": [owner]});
        serde_json::from_value(value).unwrap()
    }

    fn owner(name: &str, uid: &str) -> Value {
        json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway", "name": name, "uid": uid, "controller": true})
    }

    #[test]
    fn releases_and_controllers_of_a_namespace_have_labels_of_their_own() {
        let long = "a".repeat(253);
        let labels = [
            ("system", "a", "c"),
            ("system", "b", "c"),
            ("system", "a", "d"),
            ("other", "a", "c"),
            ("system", &long, "c"),
        ]
        .map(|(namespace, release, controller)| Installation::new(namespace, release, controller).label);
        for (index, label) in labels.iter().enumerate() {
            assert!(!labels[..index].contains(label) && label.len() <= 63, "{labels:?}");
        }
    }

    #[test]
    fn what_another_release_of_the_namespace_made_is_not_deleted() {
        let (one, other) = (Installation::new("system", "a", "c"), Installation::new("system", "b", "d"));
        let own = metadata(one.label(), &owner("web", "1"));
        assert!(one.may_delete(&own, |_| false), "also when its Gateway is another's now");
        assert!(!other.may_delete(&own, |_| true));
        // Both may have made what bears the former label.
        let former = metadata("system", &owner("web", "1"));
        assert!(one.may_delete(&former, |uid| uid == "1"));
        assert!(!other.may_delete(&former, |uid| uid == "2"), "its Gateway is not ours");
        let without = ObjectMeta { owner_references: None, ..own.clone() };
        assert!(!one.may_delete(&without, |_| true), "it has lost its owner");
        let deployment =
            json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "web", "uid": "1", "controller": true});
        assert!(!one.may_delete(&metadata(one.label(), &deployment), |_| true));
    }

    #[test]
    fn what_is_not_of_the_same_gateway_and_of_an_installation_is_not_changed() {
        let installation = Installation::new("system", "a", "c");
        let plane = DataPlane::Gateway(ObjectKey::new("shop", "web"));
        let infrastructure = super::super::objects::tests::infrastructure();
        let wanted = Wanted { uid: "1".into(), infrastructure };
        let may = |metadata: &ObjectMeta| installation.may_change(metadata, &plane, &wanted);
        assert!(may(&metadata(installation.label(), &owner("web", "1"))));
        assert!(may(&metadata("system", &owner("web", "1"))), "as former versions made it");
        assert!(may(&metadata(installation.label(), &owner("web", "0"))), "its Gateway was created again");
        assert!(may(&metadata("b-12345678", &owner("web", "1"))), "the release was installed again by another name");
        assert!(!may(&metadata("b-12345678", &owner("web", "0"))));
        assert!(!may(&metadata(installation.label(), &owner("other", "1"))));
        let own = metadata(installation.label(), &owner("web", "1"));
        assert!(!may(&ObjectMeta { owner_references: None, ..own.clone() }));
        assert!(!may(&ObjectMeta { labels: None, ..own }));
    }
}
