//! What golden tests and laws share: manifests in, a translation for people out.

#![allow(dead_code)] // Each test binary uses its part.

use std::collections::BTreeSet;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use snapshot::{Kind as ResourceKind, ResourceId, Secret};
use translate::{DataPlane, Kind, ObjectKey, Parameters, Resources, Settings, Stored, Translation, Transport};

/// One edit after the other; each is a list of manifests.
pub struct Input {
    pub edits: Vec<Vec<Value>>,
    pub settings: Settings,
}

impl Input {
    /// Reads documents separated by `---`; a line `--- # edit` begins the next edit. A document of kind `Settings` holds
    /// settings, one with `deleted: true` removes the object that it names.
    pub fn parse(text: &str) -> Self {
        let mut settings = Settings { cookie_key: Secret::new(vec![7; 32]), ..Settings::default() };
        let mut edits = Vec::new();
        for part in text.split("--- # edit\n") {
            let documents = part.split("\n---\n").map(|document| {
                serde_saphyr::from_str::<Value>(document).unwrap_or_else(|error| panic!("{error}\nin\n{document}"))
            });
            let mut edit = Vec::new();
            for document in documents.filter(|document| !document.is_null()) {
                match document["kind"].as_str() {
                    Some("Settings") => configure(&mut settings, document),
                    _ => edit.push(document),
                }
            }
            edits.push(edit);
        }
        Self { edits, settings }
    }

    /// Translates after each edit, accepting what was not rejected in between, and returns the last translation.
    pub fn translate(&self) -> Translation {
        let mut resources = Resources::default();
        let mut last = Translation::default();
        for edit in &self.edits {
            edit.iter().for_each(|document| apply(&mut resources, document));
            last = translate::translate(&resources, &self.settings);
            resources.accept(&last);
        }
        last
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct SettingsDocument {
    #[serde(rename = "kind")]
    _kind: String,
    http_port: Option<u16>,
    https_port: Option<u16>,
    watch_ingress_without_class: Option<bool>,
    allow_loopback_endpoints: Option<bool>,
    external_names: Option<bool>,
    external_name_allow: Option<Vec<String>>,
    default_certificate: Option<String>,
    default_backend: Option<String>,
    publish_service: Option<String>,
    fallback_certificate: Option<String>,
    fallback_key: Option<String>,
}

fn configure(settings: &mut Settings, document: Value) {
    let document: SettingsDocument = typed(document);
    let key = |name: String| {
        let (namespace, name) = name.split_once('/').expect("namespace/name");
        ObjectKey::new(namespace, name)
    };
    settings.ports.http = document.http_port.unwrap_or(settings.ports.http);
    settings.ports.https = document.https_port.unwrap_or(settings.ports.https);
    settings.watch_ingress_without_class = document.watch_ingress_without_class.unwrap_or_default();
    settings.allow_loopback_endpoints = document.allow_loopback_endpoints.unwrap_or_default();
    settings.external_names.enabled = document.external_names.unwrap_or(true);
    settings.external_names.allowed = document.external_name_allow.unwrap_or_default();
    settings.default_certificate = document.default_certificate.map(key);
    settings.default_backend = document.default_backend.map(key);
    settings.publish_service = document.publish_service.map(key);
    if let (Some(chain), Some(key)) = (document.fallback_certificate, document.fallback_key) {
        settings.fallback_certificate = Some((chain.into_bytes(), Secret::new(key.into_bytes())));
    }
}

macro_rules! by_kind {
    ($($kind:ident)*) => {
        /// Adds, replaces or removes the object of a manifest.
        pub fn apply(resources: &mut Resources, document: &Value) {
            match document["kind"].as_str() {
                $(Some(stringify!($kind)) => put::<translate::objects::$kind>(resources, document),)*
                other => panic!("no such kind: {other:?}"),
            }
        }

        /// Adds or replaces the object of a manifest if it can be read.
        pub fn try_apply(resources: &mut Resources, document: &Value) {
            match document["kind"].as_str() {
                $(Some(stringify!($kind)) => {
                    let object = serde_json::from_value::<translate::objects::$kind>(document.clone());
                    object.into_iter().for_each(|object| resources.insert(object));
                })*
                other => panic!("no such kind: {other:?}"),
            }
        }

        /// Removes the object of a manifest if it is there.
        pub fn delete(resources: &mut Resources, document: &Value) {
            match document["kind"].as_str() {
                $(Some(stringify!($kind)) => _ = resources.remove::<translate::objects::$kind>(&key(document)),)*
                other => panic!("no such kind: {other:?}"),
            }
        }
    };
}

translate::every_kind!(by_kind);

fn put<T: Stored + DeserializeOwned>(resources: &mut Resources, document: &Value) {
    if document["deleted"] == Value::Bool(true) {
        resources.remove::<T>(&key(document)).expect("the object to delete");
    } else {
        resources.insert(typed::<T>(document.clone()));
    }
}

fn key(document: &Value) -> ObjectKey {
    let text = |field: &str| document["metadata"][field].as_str().unwrap_or_default();
    ObjectKey::new(text("namespace"), text("name"))
}

fn typed<T: DeserializeOwned>(document: Value) -> T {
    serde_json::from_value(document.clone()).unwrap_or_else(|error| panic!("{error}\nin\n{document:#}"))
}

/// The translation in YAML, without what is the same everywhere (settings) or empty.
pub fn render(translation: &Translation) -> String {
    let mut view = Map::new();
    for (plane, snapshot) in &translation.snapshots {
        let mut snapshot = snapshot.clone();
        snapshot.remove(&ResourceId::new(ResourceKind::Settings, "settings")).expect("settings in every snapshot");
        view.insert(format!("snapshot of {plane}"), value(&snapshot));
    }
    let statuses = &translation.statuses;
    for (key, status) in &statuses.gateway_classes {
        view.insert(format!("status of GatewayClass {key}"), value(status));
    }
    for (key, status) in &statuses.gateways {
        view.insert(format!("status of Gateway {key}"), value(status));
    }
    for (key, status) in &statuses.listener_sets {
        view.insert(format!("status of ListenerSet {key}"), value(status));
    }
    for ((kind, key), status) in &statuses.routes {
        view.insert(format!("status of {kind} {key}"), value(&status.as_ref()));
    }
    for ((kind, key), status) in &statuses.policies {
        view.insert(format!("status of {kind} {key}"), value(status));
    }
    for (key, status) in &statuses.ingresses {
        view.insert(format!("status of Ingress {key}"), value(status));
    }
    for (plane, infrastructure) in &translation.infrastructure {
        let ports = infrastructure.ports.iter().map(|(number, transport)| match transport {
            Transport::Tcp => Value::from(*number),
            Transport::Udp => Value::from(format!("{number}/udp")),
        });
        let ports = Value::Array(ports.collect());
        let fields = [("class", value(&infrastructure.class)), ("ports", ports)];
        let labels = [("labels", &infrastructure.labels), ("annotations", &infrastructure.annotations)];
        let labels = labels.into_iter().filter(|(_, map)| !map.is_empty()).map(|(name, map)| (name, value(map)));
        let address = infrastructure.address.map(|address| ("address", value(&address)));
        let parameters = match &infrastructure.parameters {
            Some(parameters) if *parameters == Parameters::default() => None,
            parameters => Some(("parameters", self::parameters(parameters.as_ref()))),
        };
        let shared = matches!(plane, DataPlane::Class(_)).then(|| ("objects", value(&infrastructure.key.to_string())));
        let fields = fields
            .into_iter()
            .chain(shared)
            .chain(labels)
            .chain(address)
            .chain(parameters)
            .map(|(name, value)| (name.to_owned(), value))
            .collect();
        view.insert(format!("infrastructure of {plane}"), Value::Object(fields));
    }
    let problems: Vec<_> =
        translation.problems.iter().map(|problem| format!("{:?}: {problem}", problem.severity)).collect();
    view.insert("problems".into(), value(&problems));
    view.insert("rejected".into(), value(&names(&translation.rejected)));
    let mut view = Value::Object(view);
    prune(&mut view);
    let options = serde_saphyr::ser_options! { prefer_block_scalars: false, compact_list_indent: true };
    serde_saphyr::to_string_with_options(&view, options).expect("YAML")
}

fn parameters(parameters: Option<&Parameters>) -> Value {
    let Some(parameters) = parameters else { return "not to be used".into() };
    serde_json::json!({
        "replicas": parameters.replicas,
        "resources": parameters.resources,
        "service": { "type": parameters.service_type.to_string(), "annotations": parameters.service_annotations },
    })
}

fn names(objects: &BTreeSet<(Kind, ObjectKey)>) -> Vec<String> {
    objects.iter().map(|(kind, key)| format!("{kind} {key}")).collect()
}

fn value(value: &impl serde::Serialize) -> Value {
    serde_json::to_value(value).expect("JSON")
}

/// Leaves out what says nothing (null, lists that are usually empty, the list of features) and puts each condition on a line.
fn prune(value: &mut Value) {
    const USUALLY_EMPTY: &[&str] =
        &["filters", "headers", "query", "origins", "exempt", "add", "set", "remove", "rejected"];
    match value {
        Value::Object(fields) if fields.contains_key("lastTransitionTime") => {
            let text = |name: &str| fields[name].as_str().unwrap_or_default();
            let (kind, status, reason) = (text("type"), text("status"), text("reason"));
            let line = format!("{kind}={status} {reason} at {}: {}", fields["observedGeneration"], text("message"));
            *value = Value::String(line);
        }
        Value::Object(fields) => {
            fields.remove("supportedFeatures");
            fields.retain(|name, value| {
                let empty = value.as_array().is_some_and(Vec::is_empty) && USUALLY_EMPTY.contains(&name.as_str());
                !value.is_null() && !empty
            });
            fields.values_mut().for_each(prune);
        }
        Value::Array(items) => items.iter_mut().for_each(prune),
        _ => {}
    }
}
