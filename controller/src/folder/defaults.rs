//! What a cluster has by itself and a folder need not spell out: namespaces, an IngressClass when it has none, the GatewayClass that
//! comes with Sluice, and the default class in Ingresses that name none.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use crds::gateway::{GatewayClass, GatewayClassSpec};
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::api::networking::v1::{IngressClass, IngressClassSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;
use translate::{Kind, ObjectKey, Settings};

use super::object::Object;

/// The mark of the class for Ingresses that name none.
const DEFAULT_ANNOTATION: &str = "ingressclass.kubernetes.io/is-default-class";

/// The annotation that named a class before `spec.ingressClassName`.
const CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";

/// The objects to add to those that the files hold (`present`). A class that the user named is there even among others. So is the
/// GatewayClass: unlike an IngressClass it concerns nobody who does not name it.
pub(super) fn missing<'a>(
    present: impl Iterator<Item = &'a (Kind, ObjectKey)>,
    settings: &Settings,
) -> Vec<((Kind, ObjectKey), Object)> {
    let present: BTreeSet<_> = present.collect();
    let has = |kind| present.contains(&(kind, ObjectKey::new("", &settings.ingress_class)));
    let has_other = || !is_named(settings) && present.iter().any(|(kind, _)| *kind == Kind::IngressClass);
    let mut objects = Vec::new();
    if !has(Kind::IngressClass) && !has_other() {
        objects.push((Kind::IngressClass, ingress_class(settings)));
    }
    if !has(Kind::GatewayClass) {
        objects.push((Kind::GatewayClass, gateway_class(settings)));
    }
    let mut objects: Vec<_> = objects
        .into_iter()
        .map(|(kind, object)| ((kind, ObjectKey::new("", &settings.ingress_class)), object))
        .collect();
    let namespaces: BTreeSet<_> =
        present.iter().map(|(_, key)| key.namespace.as_str()).filter(|name| !name.is_empty()).collect();
    for name in namespaces {
        let id = (Kind::Namespace, ObjectKey::new("", name));
        if !present.contains(&id) {
            objects.push((id, namespace(name)));
        }
    }
    objects
}

/// The object as it counts here: the class that the user named is ours, whoever's it is in a cluster.
pub(super) fn adopted(object: &Object, settings: &Settings) -> Object {
    let mut object = object.clone();
    let named = |metadata: &ObjectMeta| is_named(settings) && metadata.name.as_ref() == Some(&settings.ingress_class);
    match &mut object {
        Object::IngressClass(class) if named(&class.metadata) => {
            class.spec.get_or_insert_default().controller = Some(settings.ingress_controller.clone());
        }
        Object::GatewayClass(class) if named(&class.metadata) => {
            class.spec.controller_name = settings.gateway_controller.clone();
        }
        _ => {}
    }
    object
}

/// The name of the default IngressClass; of several the newest, as in an API server.
pub(super) fn default_class<'a>(objects: impl Iterator<Item = &'a Object>) -> Option<String> {
    let classes = objects.filter_map(|object| match object {
        Object::IngressClass(class) => Some(&class.metadata),
        _ => None,
    });
    let is_default = |class: &&ObjectMeta| {
        let annotations = class.annotations.as_ref();
        annotations.and_then(|all| all.get(DEFAULT_ANNOTATION)).is_some_and(|value| value == "true")
    };
    // The first name among those of the same time.
    let newest = classes.filter(is_default).max_by_key(|class| (&class.creation_timestamp, Reverse(&class.name)))?;
    newest.name.clone()
}

/// Gives an Ingress that names no class the default one, as an API server does when the Ingress is made.
pub(super) fn give_class(object: &mut Object, class: &str) {
    let Object::Ingress(ingress) = object else { return };
    let is_named = ingress.metadata.annotations.as_ref().is_some_and(|all| all.contains_key(CLASS_ANNOTATION));
    let spec = ingress.spec.get_or_insert_default();
    if spec.ingress_class_name.is_none() && !is_named {
        spec.ingress_class_name = Some(class.to_owned());
    }
}

/// Whether the user named another class than the usual one.
fn is_named(settings: &Settings) -> bool {
    settings.ingress_class != Settings::default().ingress_class
}

fn metadata(name: &str) -> ObjectMeta {
    ObjectMeta {
        name: Some(name.to_owned()),
        creation_timestamp: Some(Time(Timestamp::UNIX_EPOCH)),
        generation: Some(1),
        ..ObjectMeta::default()
    }
}

/// The default class, so that Ingresses that name none are served too.
fn ingress_class(settings: &Settings) -> Object {
    let mut metadata = metadata(&settings.ingress_class);
    metadata.annotations = Some([(DEFAULT_ANNOTATION.into(), "true".into())].into());
    let spec =
        IngressClassSpec { controller: Some(settings.ingress_controller.clone()), ..IngressClassSpec::default() };
    Object::IngressClass(Box::new(IngressClass { metadata, spec: Some(spec) }))
}

fn gateway_class(settings: &Settings) -> Object {
    let spec = GatewayClassSpec { controller_name: settings.gateway_controller.clone(), ..GatewayClassSpec::default() };
    Object::GatewayClass(Box::new(GatewayClass { metadata: metadata(&settings.ingress_class), spec, status: None }))
}

fn namespace(name: &str) -> Object {
    let mut metadata = metadata(name);
    metadata.labels = Some([("kubernetes.io/metadata.name".into(), name.to_owned())].into());
    Object::Namespace(Box::new(Namespace { metadata, ..Namespace::default() }))
}
