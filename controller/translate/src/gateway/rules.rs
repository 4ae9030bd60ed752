//! The rules of an HTTPRoute, each parsed by itself.

use std::fmt;
use std::time::Duration;

use crds::gateway::{HTTPRoute, HTTPRouteRule, HTTPRouteTimeouts};
use snapshot::{Filter, Match, Timeouts};

use super::backends::{Backend, Backends};
use super::{filters, matches};
use crate::{ObjectKey, duration};

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
    /// Never empty.
    pub matches: Vec<Match>,
    /// What it does; `None` when that is not supported, and its requests are refused.
    pub work: Option<Work<'a>>,
}

/// What a rule does.
pub(super) struct Work<'a> {
    /// Of the rule.
    pub filters: Vec<Filter>,
    /// Of the rule.
    pub timeouts: Timeouts,
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
}

impl Unusable {
    /// A value that is not supported.
    pub fn new(field: &str, message: impl Into<String>) -> Self {
        Self { field: field.into(), reason: "UnsupportedValue", message: message.into() }
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

/// Parses all rules; a route without rules has one that matches everything and has no backend.
pub(super) fn parse<'a>(key: &ObjectKey, route: &HTTPRoute, backends: &Backends<'a>) -> Rules<'a> {
    let nothing = [HTTPRouteRule::default()];
    let written = route.spec.rules.as_deref().filter(|rules| !rules.is_empty()).unwrap_or(&nothing);
    let mut rules = Rules { rules: Vec::new(), unusable: Vec::new(), good: 0 };
    for (index, rule) in written.iter().enumerate() {
        let place = format!("spec.rules[{index}]");
        let matches = match matches::parse(route, index, rule.matches.as_deref().unwrap_or_default()) {
            Ok(matches) => matches,
            Err(unusable) => {
                rules.unusable.push(unusable.within(&place));
                continue;
            }
        };
        let name = match &rule.name {
            Some(name) => format!("HTTPRoute {key} rule {name}"),
            None => format!("HTTPRoute {key} rule {index}"),
        };
        let work = match work(rule, &matches, &key.namespace, backends) {
            Ok(work) => Some(work),
            Err(unusable) => {
                rules.unusable.push(unusable.within(&place));
                None
            }
        };
        rules.good += usize::from(work.is_some());
        rules.rules.push(ParsedRule { section: rule.name.clone(), name, place, matches, work });
    }
    rules
}

fn work<'a>(
    rule: &HTTPRouteRule,
    matches: &[Match],
    namespace: &str,
    backends: &Backends<'a>,
) -> Result<Work<'a>, Unusable> {
    let filters = filters::parse(rule.filters.as_deref().unwrap_or_default(), matches)?;
    let timeouts = timeouts(rule.timeouts.as_ref()).map_err(|unusable| unusable.within("timeouts"))?;
    let parse = |(index, reference)| {
        backends
            .parse(namespace, reference, matches)
            .map_err(|unusable: Unusable| unusable.within(format_args!("backendRefs[{index}]")))
    };
    let backends = rule.backend_refs.iter().flatten().enumerate().map(parse).collect::<Result<_, _>>()?;
    Ok(Work { filters, timeouts, backends })
}

/// The timeouts of a rule that names none.
pub(super) fn no_timeouts() -> Timeouts {
    Timeouts { connect: Some(CONNECT), read: None, send: None, request: None, backend_request: None }
}

fn timeouts(timeouts: Option<&HTTPRouteTimeouts>) -> Result<Timeouts, Unusable> {
    let read = |text: Option<&String>, field: &str| match text.map(|text| (text, duration::parse(text))) {
        // GEP-1742: zero switches the timeout off.
        None | Some((_, Some(Duration::ZERO))) => Ok(None),
        Some((_, Some(time))) => Ok(Some(time)),
        Some((text, None)) => Err(Unusable::new(field, format!("{text:?} is not a duration such as 10s or 1m30s"))),
    };
    Ok(Timeouts {
        request: read(timeouts.and_then(|timeouts| timeouts.request.as_ref()), "request")?,
        backend_request: read(timeouts.and_then(|timeouts| timeouts.backend_request.as_ref()), "backendRequest")?,
        ..no_timeouts()
    })
}
