//! Which Ingresses are ours.

use std::collections::BTreeSet;

use k8s_openapi::api::networking::v1::Ingress;

use crate::context::Context;
use crate::{Kind, ObjectKey};

/// The annotation that named a class before `spec.ingressClassName`.
const CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";

/// The classes of this controller.
pub(super) struct Classes<'a> {
    ours: BTreeSet<&'a str>,
    /// Whether the class that an operator expects to be ours exists, whoever's it is.
    usual_exists: bool,
    /// The name of that class.
    usual: &'a str,
    without_class: bool,
}

impl<'a> Classes<'a> {
    /// Reads all IngressClasses.
    pub(super) fn new(context: &mut Context<'a>) -> Self {
        let (resources, settings) = (context.resources, context.settings);
        let mut classes = Self {
            ours: BTreeSet::new(),
            usual_exists: resources.ingress_classes.contains_key(&ObjectKey::new("", settings.ingress_class.as_str())),
            usual: &settings.ingress_class,
            without_class: settings.watch_ingress_without_class,
        };
        for (key, entry) in &resources.ingress_classes {
            let spec = entry.current.spec.as_ref();
            if spec.and_then(|spec| spec.controller.as_ref()) != Some(&settings.ingress_controller) {
                continue;
            }
            classes.ours.insert(&key.name);
            if spec.is_some_and(|spec| spec.parameters.is_some()) {
                let message = "parameters of an IngressClass have no effect here: remove them";
                context.notice(Kind::IngressClass, key, "spec.parameters", "ParametersIgnored", message);
            }
        }
        classes
    }

    /// Tells an Ingress that asks for our class by name while there is no such class.
    pub(super) fn explain(&self, context: &mut Context<'_>, key: &ObjectKey, ingress: &Ingress) {
        let name = ingress.spec.as_ref().and_then(|spec| spec.ingress_class_name.as_deref());
        if !self.usual_exists && name == Some(self.usual) {
            let message =
                format!("IngressClass {} does not exist, so nobody serves this Ingress: create it", self.usual);
            context.warn(Kind::Ingress, key, "spec.ingressClassName", "IngressClassNotFound", message);
        }
    }

    /// Whether an Ingress is ours: by `ingressClassName`, else by the old annotation, else as one without class.
    ///
    /// The mark of a default class says nothing about an Ingress that names no class: the API server writes that class into Ingresses
    /// that are made while it is the default. Older ones may be served by somebody else, whose status would be overwritten.
    pub(super) fn include(&self, ingress: &Ingress) -> bool {
        let name = ingress.spec.as_ref().and_then(|spec| spec.ingress_class_name.as_deref());
        let annotation = ingress.metadata.annotations.as_ref().and_then(|all| all.get(CLASS_ANNOTATION));
        match (name, annotation) {
            (Some(name), _) => self.ours.contains(name),
            (None, Some(annotation)) => annotation == self.usual,
            (None, None) => self.without_class,
        }
    }
}
