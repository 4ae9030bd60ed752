//! Lookup by path within one host: exact, then regular expressions by rank, then the longest prefix.

use std::collections::HashMap;
use std::sync::Arc;

use regex::RegexSet;
use snapshot::{PathMatch, Rank};

use super::predicate::Predicate;
use super::rule::Rule;
use super::{Found, PathMatched, RequestView, pattern};
use crate::normalise::percent_decode;

/// The longest prefix in elements. Only what no real path reaches is refused.
const MAX_DEPTH: usize = 256;

/// One compiled match of a rule.
#[derive(Debug)]
pub(crate) struct Candidate {
    rank: Rank,
    path: Path,
    predicate: Predicate,
    rule: Arc<Rule>,
}

/// A path condition in the form in which requests are matched: decoded.
#[derive(Clone, Debug)]
enum Path {
    Exact(Box<str>),
    /// Without trailing slash; empty for `/`.
    Prefix(Box<str>),
    /// With the memory that it takes once compiled, in bytes.
    Regex(Box<str>, usize),
}

/// The candidates of a host, indexed by path.
#[derive(Debug, Default)]
pub(crate) struct PathMap {
    exact: HashMap<Box<str>, Leaf>,
    expressions: Option<Expressions>,
    prefixes: PrefixTree,
}

/// Candidates for one path, the most specific first.
type Leaf = Vec<Arc<Candidate>>;

/// Expressions in order of rank; the candidate of the i-th one is at `i`.
#[derive(Debug)]
struct Expressions {
    set: RegexSet,
    candidates: Leaf,
}

impl Candidate {
    /// Compiles one match of `rule`.
    ///
    /// # Errors
    /// Says what is invalid.
    pub(crate) fn compile(source: &snapshot::Match, rule: Arc<Rule>) -> Result<Self, String> {
        let path = match &source.path {
            PathMatch::Exact(path) => Path::Exact(decoded(path)?.into()),
            PathMatch::Prefix(prefix) => {
                let prefix = decoded(prefix)?;
                let prefix = prefix.trim_end_matches('/');
                if prefix.matches('/').count() > MAX_DEPTH {
                    return Err(format!("a path prefix of more than {MAX_DEPTH} elements"));
                }
                Path::Prefix(prefix.into())
            }
            PathMatch::LastElement(_) => Path::Prefix("".into()),
            PathMatch::Regex(expression) => Path::Regex(expression.as_str().into(), pattern::size(expression)?),
        };
        Ok(Self { rank: source.rank.clone(), path, predicate: Predicate::compile(source)?, rule })
    }

    /// Its place among others.
    pub(crate) fn rank(&self) -> &Rank {
        &self.rank
    }

    /// The memory in bytes that its regular expression takes once compiled; 0 without one.
    pub(crate) fn expression_size(&self) -> usize {
        match self.path {
            Path::Regex(_, size) => size,
            Path::Exact(_) | Path::Prefix(_) => 0,
        }
    }
}

fn decoded(path: &str) -> Result<String, String> {
    if !path.starts_with('/') {
        return Err(format!("the path {path:?} does not begin with a slash"));
    }
    let decoded = percent_decode(path).map_err(|_| format!("the path {path:?} holds a broken percent sequence"))?;
    // No element of a request's path has a backslash either.
    Ok(decoded.replace('\\', "/"))
}

impl PathMap {
    /// Indexes the candidates; among equal ranks the earlier one goes first.
    ///
    /// # Errors
    /// When the expressions, each of them valid, do not fit together.
    pub(crate) fn new(mut candidates: Vec<Arc<Candidate>>) -> Result<Self, String> {
        candidates.sort_by(|one, other| one.rank.cmp(&other.rank));
        let mut map = Self::default();
        let mut expressions = Vec::new();
        for candidate in candidates {
            match &candidate.path {
                Path::Exact(path) => map.exact.entry(path.clone()).or_default().push(candidate),
                Path::Prefix(prefix) => map.prefixes.leaf(&prefix.clone()).push(candidate),
                Path::Regex(..) => expressions.push(candidate),
            }
        }
        if !expressions.is_empty() {
            let sources = expressions.iter().map(|candidate| match &candidate.path {
                Path::Regex(expression, _) | Path::Exact(expression) | Path::Prefix(expression) => &**expression,
            });
            map.expressions = Some(Expressions { set: pattern::set(sources)?, candidates: expressions });
        }
        Ok(map)
    }

    /// The most specific candidate whose path and conditions hold.
    pub(crate) fn find<'t>(&'t self, request: &RequestView<'_>) -> Option<Found<'t>> {
        self.exact(request).or_else(|| self.expressions(request)).or_else(|| self.prefixes.find(request))
    }

    fn exact<'t>(&'t self, request: &RequestView<'_>) -> Option<Found<'t>> {
        first(self.exact.get(request.path)?, request, PathMatched::Exact)
    }

    fn expressions<'t>(&'t self, request: &RequestView<'_>) -> Option<Found<'t>> {
        let expressions = self.expressions.as_ref()?;
        let matching = expressions.set.matches(request.path);
        let candidates = matching.iter().filter_map(|index| expressions.candidates.get(index));
        first(candidates, request, PathMatched::Regex)
    }
}

fn first<'t>(
    candidates: impl IntoIterator<Item = &'t Arc<Candidate>>,
    request: &RequestView<'_>,
    path: PathMatched,
) -> Option<Found<'t>> {
    let candidate = candidates.into_iter().find(|candidate| candidate.predicate.holds(request))?;
    Some(Found { rule: &candidate.rule, path })
}

/// Prefixes by path element. Nodes know their parent, so that a search goes down once and then up, without recursion.
#[derive(Debug)]
struct PrefixTree {
    nodes: Vec<Node>,
}

#[derive(Debug, Default)]
struct Node {
    parent: Option<usize>,
    /// Bytes of the path from the root to here: `/a/b` has 4, the root 0.
    length: usize,
    leaf: Leaf,
    children: HashMap<Box<str>, usize>,
}

impl Default for PrefixTree {
    fn default() -> Self {
        Self { nodes: vec![Node::default()] }
    }
}

impl PrefixTree {
    /// The candidates at this prefix, for adding to them.
    fn leaf(&mut self, prefix: &str) -> &mut Leaf {
        let mut at = 0;
        for element in prefix.split('/').skip(1) {
            let next = self.nodes.len();
            let length = self.nodes[at].length + 1 + element.len();
            let child = *self.nodes[at].children.entry(element.into()).or_insert(next);
            if child == next {
                self.nodes.push(Node { parent: Some(at), length, ..Node::default() });
            }
            at = child;
        }
        &mut self.nodes[at].leaf
    }

    fn find<'t>(&'t self, request: &RequestView<'_>) -> Option<Found<'t>> {
        let mut node = self.deepest(request.path);
        loop {
            if let Some(found) = first(&node.leaf, request, PathMatched::Prefix(node.length)) {
                return Some(found);
            }
            node = &self.nodes[node.parent?];
        }
    }

    fn deepest(&self, path: &str) -> &Node {
        let mut node = &self.nodes[0];
        for element in path.split('/').skip(1) {
            match node.children.get(element) {
                Some(&child) => node = &self.nodes[child],
                None => break,
            }
        }
        node
    }
}
