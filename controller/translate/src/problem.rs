//! What is wrong with somebody's object.

use std::fmt;

use serde::Serialize;

use crate::{Kind, ObjectKey};

/// Something wrong with an object: which one, where in it, why, and what to do about it.
///
/// Becomes an Event on the object, a line of `sluice check`, or a line on the terminal of `sluice run`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// The object's kind.
    pub kind: Kind,
    /// The object.
    pub object: ObjectKey,
    /// The path of the field, for example `spec.rules[0].http.paths[1].backend.service.name`
    /// or `metadata.annotations[nginx.ingress.kubernetes.io/limit-rps]`; empty when the whole object is meant.
    pub field: String,
    /// One word in CamelCase, used as the Event's reason, for example `ServiceNotFound`.
    pub reason: &'static str,
    /// What is wrong, what happens instead, and the remedy, as sentences.
    pub message: String,
    /// How bad it is.
    pub severity: Severity,
}

/// How bad a problem is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Severity {
    /// Traffic is not, or not as asked for. An Event of type Warning; a finding of `sluice check`.
    Warning,
    /// Worth knowing, nothing to mend. An Event of type Normal.
    Notice,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.object)?;
        if !self.field.is_empty() {
            write!(f, ": {}", self.field)?;
        }
        write!(f, ": {} ({})", self.message, self.reason)
    }
}
