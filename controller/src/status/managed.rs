//! Who wrote a status, as the API server keeps it in `metadata.managedFields`.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry;
use serde_json::Value;
use translate::{Kind, Settings};

/// The longest name that the API server takes.
const LONGEST: usize = 128;

/// The names under which an installation writes statuses: entries are found by those of its controllers, `spec.controllerName` of
/// GatewayClasses first. The last name is for Ingresses. It has the class too, since installations may differ in that alone.
pub fn controllers(settings: &Settings) -> Vec<String> {
    let Settings { gateway_controller, ingress_controller, ingress_class, .. } = settings;
    vec![gateway_controller.clone(), ingress_controller.clone(), format!("{ingress_controller}:{ingress_class}")]
}

/// The field manager of statuses that are applied, one of [`controllers`]. It tells what one installation wrote from what another one
/// did.
pub fn manager(kind: Kind, controllers: &[String]) -> &str {
    let name = match kind {
        Kind::Ingress => controllers.last(),
        _ => controllers.first(),
    };
    let name = name.map(String::as_str).unwrap_or_default();
    &name[..name.floor_char_boundary(LONGEST)]
}

/// Whether this installation applied the status of an object of such a kind, and nobody else judged the object since: said whether it
/// is accepted, or where an Ingress is served. Another controller that took the object over owns that, or a part of it.
pub(super) fn is_own(kind: Kind, written: &[ManagedFieldsEntry], controllers: &[String]) -> bool {
    let manager = manager(kind, controllers);
    let mut judges = written.iter().filter(|entry| judges(kind, entry)).peekable();
    let is_ours = |entry: &ManagedFieldsEntry| {
        entry.manager.as_deref() == Some(manager) && entry.operation.as_deref() == Some("Apply")
    };
    judges.peek().is_some() && judges.all(is_ours)
}

/// Whether some part of the verdict is this manager's.
fn judges(kind: Kind, entry: &ManagedFieldsEntry) -> bool {
    let fields = entry.fields_v1.as_ref().map_or(&Value::Null, |fields| &fields.0);
    let status = &fields["f:status"];
    match kind {
        Kind::Ingress => status["f:loadBalancer"].get("f:ingress").is_some(),
        _ => status["f:conditions"].get(r#"k:{"type":"Accepted"}"#).is_some(),
    }
}
