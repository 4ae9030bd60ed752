//! What the regular expressions of routes may cost.
//!
//! Compiling them takes time in the controller and memory in the data planes, and whoever may write a route decides how many
//! there are. So a route has a budget, and all routes of a namespace have one: beyond it routes are refused, the youngest first.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use crds::gateway::{GRPCRoute, GRPCRouteMatch, HTTPRoute, HTTPRouteMatch, HTTPValueMatch};
use snapshot::expression::{self, ExpressionError, ROUTE_SIZE};

use super::{grpc_rules, rules::Unusable};
use crate::resources::created;
use crate::{Entry, Kind, ObjectKey, Resources, Stored};

/// The memory in bytes that the expressions of a namespace's routes may take once compiled.
const NAMESPACE_SIZE: usize = 32 << 20;

/// What each expression takes: to learn it is to compile it, and most are there in the next translation too.
#[derive(Default)]
pub(crate) struct Memo {
    last: Sizes,
    now: Sizes,
}

type Sizes = HashMap<String, Result<usize, ExpressionError>>;

impl Memo {
    fn size(&mut self, text: &str) -> Result<usize, ExpressionError> {
        if let Some(known) = self.now.get(text) {
            return known.clone();
        }
        let (text, size) = match self.last.remove_entry(text) {
            Some(known) => known,
            None => (text.to_owned(), expression::size(text)),
        };
        self.now.insert(text, size.clone());
        size
    }
}

/// The budget under construction.
pub(super) struct Expressions {
    memo: RefCell<Memo>,
    /// What is left to the route that is being read, in bytes.
    room: RefCell<usize>,
    /// The routes for which their namespace has no room.
    refused: BTreeSet<(Kind, ObjectKey)>,
}

impl Expressions {
    /// Adds up what the routes of each namespace ask for, the oldest first.
    pub(super) fn new(resources: &Resources, memo: Memo) -> Self {
        let mut memo = Memo { last: memo.now, now: Sizes::new() };
        let mut routes = Vec::new();
        let mut add = |kind, key, created, texts: Vec<String>| {
            if !texts.is_empty() {
                routes.push((key, created, kind, texts));
            }
        };
        for (key, entry) in &resources.http_routes {
            add(Kind::HTTPRoute, key, created_at(entry), of_http(&entry.current));
        }
        for (key, entry) in &resources.grpc_routes {
            add(Kind::GRPCRoute, key, created_at(entry), of_grpc(&entry.current));
        }
        routes.sort_by(|one, other| (one.1, one.0, one.2).cmp(&(other.1, other.0, other.2)));
        let mut spent: BTreeMap<&str, usize> = BTreeMap::new();
        let mut refused = BTreeSet::new();
        for (key, _, kind, texts) in routes {
            let spent = spent.entry(&key.namespace).or_default();
            // Nothing more is compiled for a namespace whose budget is spent.
            if *spent < NAMESPACE_SIZE {
                *spent += cost(&mut memo, &texts);
            }
            if *spent > NAMESPACE_SIZE {
                refused.insert((kind, key.clone()));
            }
        }
        Self { memo: RefCell::new(memo), room: RefCell::new(ROUTE_SIZE), refused }
    }

    /// What the next translation begins with.
    pub(super) fn into_memo(self) -> Memo {
        self.memo.into_inner()
    }

    /// A route begins.
    pub(super) fn begin(&self) {
        self.room.replace(ROUTE_SIZE);
    }

    /// Whether the namespace of this route has no room for it.
    pub(super) fn refuse(&self, kind: Kind, key: &ObjectKey) -> bool {
        !self.refused.is_empty() && self.refused.contains(&(kind, key.clone()))
    }

    /// Whether a part of an expression is one by itself.
    pub(super) fn check_part(&self, text: &str) -> Result<(), Unusable> {
        self.size(text).map(|_| ())
    }

    /// An expression that compiles and fits into the route's budget.
    pub(super) fn check(&self, text: &str) -> Result<String, Unusable> {
        let size = self.size(text)?;
        let mut room = self.room.borrow_mut();
        match room.checked_sub(size) {
            Some(left) => {
                *room = left;
                Ok(text.into())
            }
            None => {
                *room = 0;
                let message = format!(
                    "the regular expressions of this route take more than {} MiB once compiled: use fewer or shorter ones, or \
                     spread the rules over several routes",
                    ROUTE_SIZE >> 20
                );
                Err(Unusable::new("value", message))
            }
        }
    }

    fn size(&self, text: &str) -> Result<usize, Unusable> {
        self.memo.borrow_mut().size(text).map_err(|error| {
            let reason = match error {
                ExpressionError::Syntax(reason) => format!("does not compile ({reason})"),
                ExpressionError::TooLarge => format!("cannot be used: {error}"),
            };
            Unusable::new("value", format!("the regular expression {text:?} {reason}"))
        })
    }
}

/// Why a route is refused for which its namespace has no room.
pub(super) fn no_room() -> Unusable {
    let message = format!(
        "the regular expressions of this namespace's routes take more than {} MiB once compiled, and older routes go first: \
         use fewer or shorter ones, or exact paths and prefixes",
        NAMESPACE_SIZE >> 20
    );
    Unusable::new("spec.rules", message)
}

/// What a route takes, as far as it is served: one beyond a route's own budget counts as just that.
fn cost(memo: &mut Memo, texts: &[String]) -> usize {
    let mut sum = 0;
    for text in texts {
        sum += memo.size(text).unwrap_or_default();
        if sum > ROUTE_SIZE {
            return ROUTE_SIZE;
        }
    }
    sum
}

fn created_at<T: Stored>(entry: &Entry<T>) -> i64 {
    created(entry.current.metadata())
}

fn of_http(route: &HTTPRoute) -> Vec<String> {
    let matches = route.spec.rules.iter().flatten().flat_map(|rule| rule.matches.iter().flatten());
    let of_match = |one: &HTTPRouteMatch| {
        let path = one.path.as_ref().filter(|path| is_expression(path.type_.as_ref()));
        let path = path.and_then(|path| path.value.clone());
        path.into_iter().chain(of_values(&one.headers)).chain(of_values(&one.query_params)).collect::<Vec<_>>()
    };
    matches.flat_map(of_match).collect()
}

fn of_grpc(route: &GRPCRoute) -> Vec<String> {
    let matches = route.spec.rules.iter().flatten().flat_map(|rule| rule.matches.iter().flatten());
    let of_match = |one: &GRPCRouteMatch| {
        let path = one.method.as_ref().filter(|method| is_expression(method.type_.as_ref()));
        path.map(grpc_rules::expression).into_iter().chain(of_values(&one.headers)).collect::<Vec<_>>()
    };
    matches.flat_map(of_match).collect()
}

fn of_values(conditions: &Option<Vec<HTTPValueMatch>>) -> impl Iterator<Item = String> {
    let conditions = conditions.iter().flatten().filter(|condition| is_expression(condition.type_.as_ref()));
    conditions.map(|condition| condition.value.clone())
}

fn is_expression(type_: Option<&String>) -> bool {
    type_.is_some_and(|type_| type_ == "RegularExpression")
}
