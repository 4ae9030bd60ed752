//! What is wrong with a manifest, and where.

use std::fmt;
use std::path::PathBuf;

use serde::Serialize;
use translate::{Kind, ObjectKey, Severity};

use super::yaml::Position;

/// Something wrong in a folder of manifests: where, with which object, why, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Finding {
    /// The file, below the folder as it was named; empty for objects that no file holds.
    pub file: PathBuf,
    /// The line, counted from 1.
    pub line: u32,
    /// The column in characters, counted from 1.
    pub column: u32,
    /// Kind and name of the object, for example `Ingress shop/web`; empty where the file is no object.
    pub object: String,
    /// The path of the field; empty when the whole object is meant.
    pub field: String,
    /// What is wrong, and the remedy.
    pub message: String,
    /// One word in CamelCase.
    pub reason: String,
    /// How bad it is.
    pub severity: Severity,
}

impl Finding {
    /// Whether a part of the file cannot be used as an object: a running command goes on with what it held before.
    pub fn unusable(&self) -> bool {
        matches!(
            self.reason.as_str(),
            "InvalidYaml" | "UnreadableFile" | "NotAnObject" | "UnknownKind" | "MissingName" | "InvalidField"
        )
    }

    /// A problem of the whole folder.
    pub fn of_folder(reason: &str, message: impl Into<String>) -> Self {
        Self::new(PathBuf::new(), Position::START, reason, message)
    }

    pub(super) fn new(file: impl Into<PathBuf>, position: Position, reason: &str, message: impl Into<String>) -> Self {
        Self {
            file: file.into(),
            line: position.line,
            column: position.column,
            object: String::new(),
            field: String::new(),
            message: message.into(),
            reason: reason.to_owned(),
            severity: Severity::Warning,
        }
    }

    pub(super) fn of(mut self, kind: Kind, key: &ObjectKey) -> Self {
        self.object = format!("{kind} {key}");
        self
    }

    pub(super) fn field(mut self, field: impl Into<String>) -> Self {
        self.field = field.into();
        self
    }

    pub(super) fn notice(mut self) -> Self {
        self.severity = Severity::Notice;
        self
    }
}

/// `file:line:column: Kind namespace/name: field: message (Reason)`, without what is not known.
impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.file.as_os_str().is_empty() {
            write!(f, "{}:{}:{}: ", self.file.display(), self.line, self.column)?;
        }
        for part in [&self.object, &self.field] {
            if !part.is_empty() {
                write!(f, "{part}: ")?;
            }
        }
        write!(f, "{} ({})", self.message, self.reason)
    }
}
