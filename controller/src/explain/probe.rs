//! Finds the rule for a request with the data plane's own routing table, so that the two can never disagree.
//!
//! The table is compiled from a copy of the snapshot in which every combination of route, listener, host, rule and match has a
//! rule of its own; which of them answers tells everything.

use std::collections::BTreeMap;
use std::sync::Arc;

use dataplane::compile::{Compiler, Rejection};
use dataplane::route::{self, PathMatched, RequestView, RouteTable};
use snapshot::{Kind, Resource, Rule, Snapshot};

/// A routing table whose answers tell where they come from.
pub(super) struct Probe<'s> {
    table: Arc<RouteTable>,
    places: Vec<Place<'s>>,
    /// What the data plane would not take.
    pub(super) rejections: Vec<Rejection>,
}

/// One way to reach a rule.
#[derive(Clone, Copy)]
pub(super) struct Place<'s> {
    /// Name of the route.
    pub(super) route: &'s str,
    /// Name of the listener.
    pub(super) listener: &'s str,
    /// The names for which it is reached: those that a host name of the route and the listener have in common.
    pub(super) host: &'s snapshot::HostPattern,
    /// The rule.
    pub(super) rule: &'s Rule,
    /// The match.
    pub(super) selector: &'s snapshot::Match,
}

/// The rule that answers a request.
pub(super) struct Answering<'t, 's> {
    /// Where it comes from.
    pub(super) place: Place<'s>,
    /// As the data plane compiled it.
    pub(super) rule: &'t route::Rule,
    /// How its path condition held.
    pub(super) matched: PathMatched,
}

/// Which conditions count.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Conditions {
    /// All of them.
    All,
    /// Only those on the path.
    Path,
}

impl<'s> Probe<'s> {
    pub(super) fn new(snapshot: &'s Snapshot, conditions: Conditions) -> Self {
        let mut copy = Snapshot::default();
        let mut places = Vec::new();
        let listeners: BTreeMap<_, _> = listeners(snapshot).collect();
        for (id, hashed) in snapshot.iter() {
            let Resource::Route(route) = hashed.resource().as_ref() else {
                copy.insert_hashed(id.clone(), hashed.clone());
                continue;
            };
            for attachment in &route.attachments {
                let listener = listeners.get(attachment.listener.as_str());
                for host in &attachment.hostnames {
                    let common = listener.map_or(host, |listener| host.narrower(&listener.hostname));
                    let first = places.len();
                    for rule in &route.rules {
                        let place = |selector| Place {
                            route: &id.name,
                            listener: &attachment.listener,
                            host: common,
                            rule,
                            selector,
                        };
                        places.extend(rule.matches.iter().map(place));
                    }
                    let rules = (first..)
                        .zip(&places[first..])
                        .map(|(number, place)| place.as_rule(number, conditions))
                        .collect();
                    let attachments = vec![snapshot::Attachment {
                        listener: attachment.listener.clone(),
                        hostnames: vec![host.clone()],
                    }];
                    // Numbers in order keep what the names' order decides.
                    copy.insert(
                        format!("{} {first:09}", id.name),
                        Resource::Route(snapshot::Route { attachments, rules }),
                    );
                }
            }
        }
        let (table, rejections) = Compiler::default().compile(&copy);
        Self { table, places, rejections }
    }

    /// The rule that answers.
    pub(super) fn find(&self, port: u16, request: &RequestView<'_>) -> Option<Answering<'_, 's>> {
        let found = self.table.find(port, request).ok()?;
        let place = *self.places.get(found.rule.name.parse::<usize>().ok()?)?;
        Some(Answering { place, rule: found.rule, matched: found.path })
    }

    /// Every way to reach a rule.
    pub(super) fn places(&self) -> &[Place<'s>] {
        &self.places
    }
}

impl Place<'_> {
    fn as_rule(&self, number: usize, conditions: Conditions) -> Rule {
        let mut selector = self.selector.clone();
        if conditions == Conditions::Path {
            selector.method = None;
            selector.headers.clear();
            selector.query.clear();
        }
        Rule { name: number.to_string(), matches: vec![selector], ..self.rule.clone() }
    }
}

/// The listeners of a snapshot by name.
pub(super) fn listeners(snapshot: &Snapshot) -> impl Iterator<Item = (&str, &snapshot::Listener)> {
    snapshot.iter().filter(|(id, _)| id.kind == Kind::Listener).filter_map(|(id, hashed)| {
        match hashed.resource().as_ref() {
            Resource::Listener(listener) => Some((id.name.as_str(), listener)),
            _ => None,
        }
    })
}
