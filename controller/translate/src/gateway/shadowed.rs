//! What routes never get because another route has the same match on the same listener and host name, and goes first.
//!
//! The specification accepts both routes and lets the oldest win; who loses learns it from one problem of the route.

use std::collections::{BTreeMap, HashMap};

use snapshot::{HostPattern, Match, PathMatch, Rank, Resource, ResourceId, Snapshot, ValueMatch};

use crate::context::Context;
use crate::{Kind, ObjectKey, origin};

/// Tells every route that loses something: the first match, from whom it gets nothing, and how many more there are.
pub(super) fn report(context: &mut Context) {
    let mut losers: BTreeMap<(Kind, ObjectKey), Vec<Loss>> = BTreeMap::new();
    for snapshot in context.snapshots_of_gateways() {
        for (loser, loss) in losses(snapshot) {
            losers.entry(loser).or_default().push(loss);
        }
    }
    for ((kind, route), losses) in losers {
        let Some(Loss { field, what, listener, winner }) = losses.first() else { continue };
        let more = match losses.len() - 1 {
            0 => String::new(),
            more => format!(", nor of {more} more of its matches that others have"),
        };
        let message = format!(
            "{what} on listener {listener} belongs to {winner}, which goes first; nothing of it comes here{more}: change or \
             remove one of the two"
        );
        context.warn(kind, &route, field, "RouteConflict", message);
    }
}

/// What a route does not get.
struct Loss {
    field: String,
    what: String,
    listener: String,
    winner: String,
}

/// What only one route can get.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Claim<'s> {
    listener: &'s str,
    hostname: &'s HostPattern,
    selector: Option<Selector<'s>>,
}

/// The conditions of a match, whatever the order in which they are written.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Selector<'s> {
    path: &'s PathMatch,
    method: Option<&'s str>,
    headers: Vec<&'s ValueMatch>,
    query: Vec<&'s ValueMatch>,
}

impl<'s> Selector<'s> {
    fn of(one: &'s Match) -> Self {
        let sorted = |conditions: &'s [ValueMatch]| {
            let mut sorted: Vec<_> = conditions.iter().collect();
            sorted.sort();
            sorted
        };
        Self {
            path: &one.path,
            method: one.method.as_deref(),
            headers: sorted(&one.headers),
            query: sorted(&one.query),
        }
    }
}

fn losses(snapshot: &Snapshot) -> Vec<((Kind, ObjectKey), Loss)> {
    let mut winners: HashMap<Claim, (&Rank, &ResourceId)> = HashMap::new();
    for_each(snapshot, |claim, _, rank, id| {
        // Of equal ranks, which two kinds of routes may have, the data plane takes the first by name.
        let best = winners.entry(claim).or_insert((rank, id));
        *best = (*best).min((rank, id));
    });
    let mut losses = Vec::new();
    for_each(snapshot, |claim, selector, rank, id| {
        let Some(&(_, winner)) = winners.get(&claim).filter(|(_, winner)| *winner != id) else { return };
        let (Some(loser), Some(winner)) = (origin::object(id), origin::object(winner)) else { return };
        // A route may have several parts, for listeners with policies of their own.
        if loser == winner {
            return;
        }
        let (field, what) = match selector {
            Some(selector) => {
                let of = match claim.hostname {
                    HostPattern::Any => "every host".to_owned(),
                    hostname => format!("host {hostname}"),
                };
                (format!("spec.rules[{}]", rank.rule), format!("{selector} of {of}"))
            }
            None if *claim.hostname == HostPattern::Any => ("spec.parentRefs".to_owned(), "all that comes".to_owned()),
            None => ("spec.hostnames".to_owned(), format!("server name {}", claim.hostname)),
        };
        let winner = format!("{} {}", winner.0, winner.1);
        losses.push((loser, Loss { field, what, listener: claim.listener.to_owned(), winner }));
    });
    losses
}

/// Every claim of every route, with its match if it has one.
fn for_each<'s>(snapshot: &'s Snapshot, mut visit: impl FnMut(Claim<'s>, Option<&'s Match>, &'s Rank, &'s ResourceId)) {
    for (id, hashed) in snapshot.iter() {
        let (attachments, matches, rank) = match hashed.resource().as_ref() {
            Resource::Route(route) => (&route.attachments, Some(&route.rules), None),
            Resource::L4Route(route) => (&route.attachments, None, Some(&route.rank)),
            _ => continue,
        };
        for attachment in attachments {
            for hostname in &attachment.hostnames {
                let claim = |selector| Claim { listener: &attachment.listener, hostname, selector };
                for one in matches.into_iter().flatten().flat_map(|rule| &rule.matches) {
                    visit(claim(Some(Selector::of(one))), Some(one), &one.rank, id);
                }
                if let Some(rank) = rank {
                    visit(claim(None), None, rank, id);
                }
            }
        }
    }
}
