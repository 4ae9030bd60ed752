//! One document of a manifest as a typed object.

use std::cell::RefCell;
use std::path::Path;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;
use serde::de::DeserializeOwned;
use translate::objects::*;
use translate::{Kind, ObjectKey, Resources, Stored};

use super::finding::Finding;
use super::yaml::{Content, Node, Position};
use super::{refuse, typed};

macro_rules! objects {
    ($($kind:ident)*) => {
        /// An object of a kind that translation reads.
        #[derive(Clone, PartialEq)]
        pub(super) enum Object {
            $($kind(Box<$kind>),)*
        }

        impl Object {
            fn read(kind: Kind, node: &Node, unknown: &RefCell<Vec<Position>>) -> Result<Self, typed::Misfit> {
                Ok(match kind {
                    $(Kind::$kind => Object::$kind(Box::new(read::<$kind>(node, unknown)?)),)*
                })
            }

            /// Adds the object or replaces its current version.
            pub(super) fn insert_into(&self, resources: &mut Resources) {
                match self {
                    $(Object::$kind(object) => resources.insert($kind::clone(object)),)*
                }
            }
        }

        /// Removes an object, its last good version included.
        pub(super) fn remove_from(resources: &mut Resources, kind: Kind, key: &ObjectKey) {
            match kind {
                $(Kind::$kind => drop(resources.remove::<$kind>(key)),)*
            }
        }
    };
}

translate::every_kind!(objects);

/// An object as a file holds it.
#[derive(Clone)]
pub(super) struct Manifest {
    pub(super) kind: Kind,
    pub(super) key: ObjectKey,
    pub(super) object: Object,
    /// Where the object and its fields stand.
    pub(super) node: Arc<Node>,
}

/// Reads the objects of one document: one, or those of a `List`.
pub(super) fn read_document(file: &Path, node: Node, manifests: &mut Vec<Manifest>, findings: &mut Vec<Finding>) {
    let kind = node.get("kind").and_then(Node::text).unwrap_or_default();
    if !kind.ends_with("List") {
        return read_object(file, node, manifests, findings);
    }
    let items = match node.content {
        Content::Map(members) => members.into_iter().find(|member| member.key == "items").map(|member| member.value),
        _ => None,
    };
    match items.map(|items| (items.position, items.content)) {
        Some((_, Content::List(items))) => {
            items.into_iter().for_each(|item| read_object(file, item, manifests, findings));
        }
        Some((_, Content::Null)) | None => {}
        Some((position, _)) => findings.push(
            Finding::new(
                file,
                position,
                "InvalidField",
                "expected a list of objects; write each as an item that begins with `-`",
            )
            .field("items"),
        ),
    }
}

fn read_object(file: &Path, node: Node, manifests: &mut Vec<Manifest>, findings: &mut Vec<Finding>) {
    let (Some(api_version), Some(name)) =
        (node.get("apiVersion").and_then(Node::text), node.get("kind").and_then(Node::text))
    else {
        let message = "this is no Kubernetes object: it lacks `apiVersion` or `kind`; add them, or move the file out of the folder";
        findings.push(Finding::new(file, node.position, "NotAnObject", message));
        return;
    };
    let kind = match known(api_version, name) {
        Known::Read(kind) => kind,
        Known::Ignored => {
            let message = format!("{name} ({api_version}) is not read by Sluice");
            findings.push(Finding::new(file, node.position, "NotRead", message).notice());
            return;
        }
        Known::Unknown(remedy) => {
            let message = format!("{name} ({api_version}) is not a kind that Sluice knows; {remedy}");
            findings.push(Finding::new(file, node.position, "UnknownKind", message));
            return;
        }
    };
    let key = key_of(kind, &node);
    if key.name.is_empty() {
        let message = format!("this {kind} has no name; add `metadata.name`");
        findings.push(Finding::new(file, node.position, "MissingName", message).field("metadata.name"));
        return;
    }
    let unknown = RefCell::default();
    match Object::read(kind, &node, &unknown) {
        Ok(object) => {
            for position in unknown.into_inner() {
                let Some(field) = node.path_of(position).filter(|field| field != "apiVersion" && field != "kind")
                else {
                    continue;
                };
                let message =
                    "Sluice knows no such field, so it has no effect; check its spelling and indentation, or remove it";
                findings
                    .push(Finding::new(file, node.locate(&field), "UnknownField", message).of(kind, &key).field(field));
            }
            let refusals = refuse::refusals(&key, &object);
            for (field, message) in &refusals {
                let finding = Finding::new(file, node.locate(field), "InvalidField", message.as_str());
                findings.push(finding.of(kind, &key).field(field));
            }
            if refusals.is_empty() {
                manifests.push(Manifest { kind, key, object, node: node.into() });
            }
        }
        Err(misfit) => {
            let field = node.path_of(misfit.position).unwrap_or_default();
            // What a Secret holds is never repeated, not even where it is malformed.
            let what = match kind {
                Kind::Secret => {
                    "a value is not of the expected type (`data` holds base64 text, `stringData` plain text)".into()
                }
                _ => misfit.message,
            };
            findings.push(Finding::new(file, misfit.position, "InvalidField", what).of(kind, &key).field(field));
        }
    }
}

enum Known {
    Read(Kind),
    Ignored,
    Unknown(String),
}

fn known(api_version: &str, name: &str) -> Known {
    let group = api_version.rsplit_once('/').map_or("", |(group, _)| group);
    // Nothing runs in a folder, so that pods say nothing there.
    let mut read = Kind::ALL.iter().copied().filter(|kind| *kind != Kind::Pod);
    let Some(kind) = read.find(|kind| kind.name() == name && kind.group() == group) else {
        let of_group: Vec<_> = Kind::ALL.iter().filter(|kind| kind.group() == group).map(|kind| kind.name()).collect();
        return match group {
            crds::gateway::GROUP | crds::policy::GROUP => {
                Known::Unknown(format!("of this group it reads {}", of_group.join(", ")))
            }
            _ => Known::Ignored,
        };
    };
    // The Gateway API serves the same objects as v1 and v1beta1.
    let same = api_version == kind.api_version()
        || (group == crds::gateway::GROUP && ["/v1", "/v1beta1"].iter().any(|v| api_version.ends_with(v)));
    if same { Known::Read(kind) } else { Known::Unknown(format!("write `apiVersion: {}`", kind.api_version())) }
}

fn key_of(kind: Kind, node: &Node) -> ObjectKey {
    let text =
        |field| node.get("metadata").and_then(|metadata| metadata.get(field)).and_then(Node::text).unwrap_or_default();
    let namespace = match (namespaced(kind), text("namespace")) {
        (false, _) => "",
        (true, "") => "default",
        (true, namespace) => namespace,
    };
    ObjectKey::new(namespace, text("name"))
}

fn namespaced(kind: Kind) -> bool {
    !matches!(kind, Kind::IngressClass | Kind::GatewayClass | Kind::Namespace | Kind::CustomResourceDefinition)
}

fn read<T: DeserializeOwned + Stored + Complete>(
    node: &Node,
    unknown: &RefCell<Vec<Position>>,
) -> Result<T, typed::Misfit> {
    let mut object: T = typed::read(node, unknown)?;
    let key = key_of(T::KIND, node);
    let metadata = object.metadata_mut();
    metadata.namespace = Some(key.namespace).filter(|namespace| !namespace.is_empty());
    // What the API server would have filled in. One age for all: precedence then follows the names.
    metadata.creation_timestamp.get_or_insert(Time(Timestamp::UNIX_EPOCH));
    metadata.generation.get_or_insert(1);
    object.complete();
    Ok(object)
}

/// What the API server does when it stores an object.
trait Complete {
    fn metadata_mut(&mut self) -> &mut ObjectMeta;

    fn complete(&mut self) {}
}

macro_rules! complete {
    ($($kind:ident),* $(,)?) => {
        $(impl Complete for $kind {
            fn metadata_mut(&mut self) -> &mut ObjectMeta { &mut self.metadata }
        })*
    };
}

complete! {
    IngressClass, Ingress, GatewayClass, Gateway, ListenerSet, HTTPRoute, GRPCRoute, TLSRoute, TCPRoute, UDPRoute,
    BackendTLSPolicy, ReferenceGrant, Service, EndpointSlice, ConfigMap, TrafficPolicy, BackendPolicy, GatewayConfig, Pod,
    CustomResourceDefinition,
}

impl Complete for Secret {
    fn metadata_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }

    fn complete(&mut self) {
        let texts = self.string_data.take().unwrap_or_default();
        let data = self.data.get_or_insert_default();
        data.extend(texts.into_iter().map(|(name, text)| (name, k8s_openapi::ByteString(text.into_bytes()))));
    }
}

impl Complete for Namespace {
    fn metadata_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }

    fn complete(&mut self) {
        let name = self.metadata.name.clone().unwrap_or_default();
        self.metadata.labels.get_or_insert_default().insert("kubernetes.io/metadata.name".into(), name);
    }
}
