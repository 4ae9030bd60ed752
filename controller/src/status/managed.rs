//! Who wrote a status, as the API server keeps it in `metadata.managedFields`.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry;
use serde_json::Value;

/// The longest name that the API server takes.
const LONGEST: usize = 128;

/// The field manager of statuses that are applied: the name of the Gateway API's controller, the first of `controllers`. It tells
/// what one installation wrote from what another one did.
pub fn manager(controllers: &[String]) -> &str {
    let name = controllers.first().map(String::as_str).unwrap_or_default();
    &name[..name.floor_char_boundary(LONGEST)]
}

/// Whether `manager` applied the status, and nobody else said since whether the object is accepted: another controller that took
/// the object over owns that condition, or a part of it.
pub(super) fn is_own(written: &[ManagedFieldsEntry], manager: &str) -> bool {
    let mut judges = written.iter().filter(|entry| judges(entry)).peekable();
    let is_ours = |entry: &ManagedFieldsEntry| {
        entry.manager.as_deref() == Some(manager) && entry.operation.as_deref() == Some("Apply")
    };
    judges.peek().is_some() && judges.all(is_ours)
}

/// Whether some field of the condition `Accepted` is this manager's.
fn judges(entry: &ManagedFieldsEntry) -> bool {
    let fields = entry.fields_v1.as_ref().map_or(&Value::Null, |fields| &fields.0);
    fields["f:status"]["f:conditions"].get(r#"k:{"type":"Accepted"}"#).is_some()
}
