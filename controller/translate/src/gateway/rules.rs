//! The rules of a route, each parsed by itself.

use std::fmt;
use std::time::Duration;

use crds::gateway::SessionPersistence;
use snapshot::{Match, Rank, Retry, Timeouts};

use super::backends::Backend;
use super::filters::Step;
use crate::resources::created;
use crate::sessions::{Sessions, Written, WrittenCookie};
use crate::{ObjectKey, Stored};

/// How long a connection to a backend may take to be established; the Gateway API leaves it to implementations.
const CONNECT: Duration = Duration::from_secs(5);

/// A rule, complete but for what depends on the Gateway.
pub(super) struct ParsedRule<'a> {
    /// `spec.rules[].name`.
    pub section: Option<String>,
    /// For people: the route and the place in it.
    pub name: String,
    /// The path of the field.
    pub place: String,
    /// Which requests it is for; empty for kinds of routes that know no requests.
    pub matches: Vec<Match>,
    /// What it does; `None` when that is not supported, and its requests are refused.
    pub work: Option<Work<'a>>,
}

/// What a rule does.
pub(super) struct Work<'a> {
    /// Of the rule.
    pub filters: Vec<Step<'a>>,
    /// Of the rule.
    pub timeouts: Timeouts,
    /// Of the rule.
    pub retry: Option<Retry>,
    /// Of the rule.
    pub persistence: Option<Sessions>,
    /// Where requests go; may be empty.
    pub backends: Vec<Backend<'a>>,
}

/// The rules of a route.
pub(super) struct Rules<'a> {
    /// Those whose requests can be told apart.
    pub rules: Vec<ParsedRule<'a>>,
    /// What cannot be used; empty for a good route.
    pub unusable: Vec<Unusable>,
    /// How many rules are good.
    pub good: usize,
}

/// A part of a route that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unusable {
    /// The path of the field.
    pub field: String,
    /// A reason of the condition `Accepted`.
    pub reason: &'static str,
    /// What is wrong and the remedy.
    pub message: String,
    /// Whether it is, or may be, about a protection: then no earlier version is served instead.
    pub protects: bool,
}

impl Unusable {
    /// A value that is not supported.
    pub fn new(field: &str, message: impl Into<String>) -> Self {
        Self { field: field.into(), reason: "UnsupportedValue", message: message.into(), protects: false }
    }

    /// The same, about a protection.
    pub fn protecting(self) -> Self {
        Self { protects: true, ..self }
    }

    /// The same, seen from the field's parent.
    pub fn within(self, parent: impl fmt::Display) -> Self {
        let separator = if self.field.is_empty() || self.field.starts_with('[') { "" } else { "." };
        Self { field: format!("{parent}{separator}{}", self.field), ..self }
    }
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.message)
    }
}

impl Rules<'_> {
    /// No rule.
    pub fn none() -> Self {
        Self { rules: Vec::new(), unusable: Vec::new(), good: 0 }
    }
}

/// Parses the rules of the route `key`, one at a time: its `matches`, and what it does for them. A rule whose matches cannot
/// be used is dropped; one whose work cannot be done refuses its requests.
pub(super) fn parse<'a, Route: Stored, Rule>(
    key: &ObjectKey,
    written: &[Rule],
    name: impl Fn(&Rule) -> Option<&String>,
    matches: impl Fn(usize, &Rule) -> Result<Vec<Match>, Unusable>,
    work: impl Fn(&Rule, &[Match]) -> Result<Work<'a>, Unusable>,
) -> Rules<'a> {
    let mut rules = Rules::none();
    for (index, rule) in written.iter().enumerate() {
        let place = format!("spec.rules[{index}]");
        let matches = match matches(index, rule) {
            Ok(matches) => matches,
            Err(unusable) => {
                rules.unusable.push(unusable.within(&place));
                continue;
            }
        };
        let section = name(rule).cloned();
        let kind = Route::KIND;
        let name = match &section {
            Some(name) => format!("{kind} {key} rule {name}"),
            None => format!("{kind} {key} rule {index}"),
        };
        let work = match work(rule, &matches) {
            Ok(work) => Some(work),
            Err(unusable) => {
                rules.unusable.push(unusable.within(&place));
                None
            }
        };
        rules.good += usize::from(work.is_some());
        rules.rules.push(ParsedRule { section, name, place, matches, work });
    }
    rules
}

/// The field `sessionPersistence` of a rule.
pub(super) fn sessions(written: Option<&SessionPersistence>) -> Result<Option<Sessions>, Unusable> {
    let parse = |written: &SessionPersistence| {
        Sessions::parse(&Written {
            name: written.session_name.as_deref(),
            type_: written.type_.as_deref(),
            absolute_timeout: written.absolute_timeout.as_deref(),
            idle_timeout: None,
            cookie: written
                .cookie_config
                .as_ref()
                .map(|config| WrittenCookie { lifetime: config.lifetime_type.as_deref(), ..WrittenCookie::default() }),
        })
    };
    let sessions = written.map(parse).transpose();
    sessions.map_err(|(field, message)| Unusable::new(field, message).within("sessionPersistence"))
}

/// The place of a rule among all: after how specific it is, the oldest route counts, then the first by name, then the first rule.
pub(super) fn rank(route: &impl Stored, rule: usize, specificity: u32) -> Rank {
    let metadata = route.metadata();
    Rank {
        specificity,
        created: created(metadata),
        object: ObjectKey::of(metadata).to_string(),
        rule: u32::try_from(rule).unwrap_or(u32::MAX),
    }
}

/// The timeouts of a rule that names none.
pub(super) fn no_timeouts() -> Timeouts {
    Timeouts { connect: Some(CONNECT), read: None, send: None, request: None, backend_request: None }
}
