//! The generated protobuf messages (`proto/snapshot.proto`). Only the stream's two ends deal in them.

#![allow(missing_docs)]

use std::fmt;

include!(concat!(env!("OUT_DIR"), "/sluice.v1.rs"));

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate").field("summary", &self.summary).finish_non_exhaustive()
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings").field("trusted_proxies", &self.trusted_proxies).finish_non_exhaustive()
    }
}

impl fmt::Debug for Upsert {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upsert").field("name", &self.name).field("bytes", &self.resource.len()).finish_non_exhaustive()
    }
}
