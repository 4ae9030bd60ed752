//! Which rule answers a request, and where connections and datagrams go.

mod build;
mod host;
mod l4;
mod listener;
mod path;
mod pattern;
mod predicate;
mod renew;
mod rule;
mod table;
#[cfg(test)]
mod tests;
mod weighted;

use std::sync::Arc;

use http::{HeaderMap, Method};

pub(crate) use build::compile;
pub(crate) use host::HostMap;

pub use l4::L4Route;
pub use listener::PortKind;
pub use rule::{Action, Backend, Backends, Rule, Target};
pub use table::RouteTable;
pub use weighted::Weighted;

/// What routing looks at.
#[derive(Clone, Copy, Debug)]
pub struct RequestView<'a> {
    /// The host as [`crate::normalise::host`] returns it; empty when the request has none.
    pub host: &'a str,
    /// The path as [`crate::normalise::path`] returns it for matching.
    pub path: &'a str,
    /// The query as it was sent.
    pub query: Option<&'a str>,
    /// The method.
    pub method: &'a Method,
    /// The headers as the client sent them.
    pub headers: &'a HeaderMap,
}

/// The rule that answers a request.
#[derive(Clone, Copy, Debug)]
pub struct Found<'t> {
    /// The rule.
    pub rule: &'t Arc<Rule>,
    /// How its path condition held.
    pub path: PathMatched,
}

/// How a path condition held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathMatched {
    /// The whole path.
    Exact,
    /// So many bytes at the beginning of the normalised path; without trailing slash, so 0 for the prefix `/`.
    Prefix(usize),
    /// A regular expression.
    Regex,
}
