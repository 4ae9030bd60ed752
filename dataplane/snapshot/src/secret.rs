use std::fmt;

use serde::{Serialize, Serializer};

/// Bytes that must never be shown: private keys, cookie and ticket keys.
///
/// `Debug` and `Serialize` print a placeholder, so a dump, a log line or a golden file cannot leak them.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Secret(Vec<u8>);

impl Secret {
    /// Wraps the bytes.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// A key for `holder` alone, from which neither this one nor anybody else's can be told. An empty one stays empty.
    #[must_use]
    pub fn derive(&self, holder: &str) -> Self {
        if self.0.is_empty() {
            return Self::default();
        }
        let key = blake3::derive_key("sluice 2026 key of a group of data planes", &self.0);
        Self(blake3::keyed_hash(&key, holder.as_bytes()).as_bytes().to_vec())
    }

    /// The bytes themselves, for the one place that needs them.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("(secret)")
    }
}
