//! References to backends.

use serde::{Deserialize, Serialize};

/// Refers to a backend: a Service by default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct BackendObjectReference {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    pub name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<i32>,
}

/// A backend with its share.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(from = "WrittenRef")]
pub struct BackendRef {
    #[serde(flatten)]
    pub object: BackendObjectReference,
    /// Default 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight: Option<i32>,
}

/// A backend with its share and filters of its own, of the kind that its route has.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(from = "WrittenFilteredRef<Filter>", bound(deserialize = "Filter: Deserialize<'de>"))]
pub struct FilteredBackendRef<Filter> {
    #[serde(flatten)]
    pub backend: BackendRef,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filters: Option<Vec<Filter>>,
}

/// The fields of a [`BackendRef`], side by side: read through `#[serde(flatten)]`, unknown ones among them could not be told.
#[derive(Deserialize)]
struct WrittenRef {
    group: Option<String>,
    kind: Option<String>,
    name: String,
    namespace: Option<String>,
    port: Option<i32>,
    weight: Option<i32>,
}

impl From<WrittenRef> for BackendRef {
    fn from(WrittenRef { group, kind, name, namespace, port, weight }: WrittenRef) -> Self {
        Self { object: BackendObjectReference { group, kind, name, namespace, port }, weight }
    }
}

/// As [`WrittenRef`].
#[derive(Deserialize)]
struct WrittenFilteredRef<Filter> {
    group: Option<String>,
    kind: Option<String>,
    name: String,
    namespace: Option<String>,
    port: Option<i32>,
    weight: Option<i32>,
    filters: Option<Vec<Filter>>,
}

impl<Filter> From<WrittenFilteredRef<Filter>> for FilteredBackendRef<Filter> {
    fn from(written: WrittenFilteredRef<Filter>) -> Self {
        let WrittenFilteredRef { group, kind, name, namespace, port, weight, filters } = written;
        Self { backend: WrittenRef { group, kind, name, namespace, port, weight }.into(), filters }
    }
}
