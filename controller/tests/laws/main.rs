//! Laws over both halves: what holds from the objects that a user writes to what the data plane does.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // Helpers of tests may stop at the first surprise, too.

mod precedence;
mod scale;

use serde::de::DeserializeOwned;
use serde_json::Value;

/// The object of a manifest.
fn object<T: DeserializeOwned>(manifest: Value) -> T {
    serde_json::from_value(manifest).unwrap()
}
