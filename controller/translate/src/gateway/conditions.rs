//! Conditions, with the reasons of the Gateway API.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;
use kube_core::ObjectMeta;

/// A condition on the object with this metadata. Its `lastTransitionTime` is 1970, a placeholder: translation knows no
/// clock, and the writer puts the time of the change there.
pub(crate) fn condition(
    metadata: &ObjectMeta,
    type_: &str,
    verdict: bool,
    reason: &str,
    message: impl Into<String>,
) -> Condition {
    Condition {
        type_: type_.into(),
        status: if verdict { "True" } else { "False" }.into(),
        reason: reason.into(),
        message: shorten(message.into()),
        observed_generation: Some(metadata.generation.unwrap_or_default()),
        last_transition_time: Time(Timestamp::UNIX_EPOCH),
    }
}

/// The API server takes messages of at most 32768 bytes.
fn shorten(mut message: String) -> String {
    const LONGEST: usize = 32_000;
    if message.len() > LONGEST {
        message.truncate(message.floor_char_boundary(LONGEST));
        message.push_str(" ...");
    }
    message
}
