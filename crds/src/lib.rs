//! The custom resources that Sluice reads: its own policies, and the Gateway API's kinds.
//!
//! Types are for reading: unknown fields are ignored, and values from an open set of names stay strings here; `translate`
//! parses them into closed types and answers an unknown one with a condition instead of failing the whole object.

pub mod gateway;
pub mod policy;
