//! Parts of a snapshot in words, for people.

use std::fmt;

use crate::{Match, PathMatch, ValueMatch, ValuePattern};

/// `path prefix /cart, method GET, header x-a = b`.
impl fmt::Display for Match {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.path {
            PathMatch::Exact(path) => write!(f, "path {path}")?,
            PathMatch::Prefix(path) => write!(f, "path prefix {path}")?,
            PathMatch::LastElement(element) => write!(f, "path ending in /{element}")?,
            PathMatch::Regex(expression) => write!(f, "path by expression {expression}")?,
        }
        if let Some(method) = &self.method {
            write!(f, ", method {method}")?;
        }
        for (what, conditions) in [("header", &self.headers), ("query parameter", &self.query)] {
            for ValueMatch { name, value } in conditions {
                match value {
                    ValuePattern::Exact(value) => write!(f, ", {what} {name} = {value}")?,
                    ValuePattern::Regex(expression) => write!(f, ", {what} {name} by expression {expression}")?,
                }
            }
        }
        Ok(())
    }
}
