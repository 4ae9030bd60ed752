//! What routes never get because another route has the same match on the same listener and host name, and goes first.
//!
//! The specification accepts both routes and lets the oldest win; who loses learns it from one problem of the route.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, HashMap};
use std::hash::{Hash, Hasher};

use snapshot::{HostPattern, Match, PathMatch, Rank, Resource, ResourceId, ValueMatch};

use super::Memo;
use crate::context::Context;
use crate::{Kind, ObjectKey, origin};

/// Tells every route that loses something: the first match, from whom it gets nothing, and how many more there are.
pub(super) fn report(context: &mut Context) {
    let mut losers: BTreeMap<(Kind, ObjectKey), Vec<Loss>> = BTreeMap::new();
    for (loser, loss) in losses(&contested(&context.memo.routes)) {
        losers.entry(loser).or_default().push(loss);
    }
    for ((kind, route), losses) in losers {
        let Some(Loss { field, what, listener, winner }) = losses.first() else { continue };
        let more = match losses.len() - 1 {
            0 => String::new(),
            more => format!(", nor of {more} more of its matches"),
        };
        let message = format!(
            "{what} on listener {listener} belongs to {winner}, which goes first; nothing of it comes here{more}: change or \
             remove one of the two"
        );
        context.warn(kind, &route, field, "RouteConflict", message);
    }
}

/// The hashes of what a resource claims. They tell cheaply which of thousands are to be compared.
pub(super) fn claims(resource: &Resource) -> Vec<u64> {
    let mut hashes = Vec::new();
    for_each(resource, |claim, _, _| {
        let mut hasher = DefaultHasher::new();
        claim.hash(&mut hasher);
        hashes.push(hasher.finish());
    });
    hashes
}

/// What those routes came to that claim something which is claimed twice, and perhaps others by chance.
fn contested(routes: &Memo) -> Vec<(&ResourceId, &Resource)> {
    let mut claims: Vec<u64> = routes.parts().flat_map(|part| part.claims.iter().copied()).collect();
    claims.sort_unstable();
    let mut twice: Vec<u64> = claims.windows(2).filter(|pair| pair[0] == pair[1]).map(|pair| pair[0]).collect();
    twice.dedup();
    let is_contested = |claim: &u64| twice.binary_search(claim).is_ok();
    let parts = routes.parts().filter(|part| !twice.is_empty() && part.claims.iter().any(is_contested));
    parts.flat_map(|part| part.resources()).collect()
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

fn losses(routes: &[(&ResourceId, &Resource)]) -> Vec<((Kind, ObjectKey), Loss)> {
    let mut winners: HashMap<Claim, (&Rank, &ResourceId)> = HashMap::new();
    for (id, resource) in routes {
        for_each(resource, |claim, _, rank| {
            // Of equal ranks, which two kinds of routes may have, the data plane takes the first by name.
            let best = winners.entry(claim).or_insert((rank, id));
            *best = (*best).min((rank, id));
        });
    }
    let mut losses = Vec::new();
    for (id, resource) in routes {
        for_each(resource, |claim, selector, rank| {
            let Some((best, winner)) = winners.get(&claim) else { return };
            let (Some(loser), Some(winner)) = (origin::object(id), origin::object(winner)) else { return };
            let winner = match (loser == winner, best.rule == rank.rule) {
                (true, true) => return,
                (true, false) => format!("spec.rules[{}]", best.rule),
                (false, _) => format!("{} {}", winner.0, winner.1),
            };
            let (field, what) = match selector {
                Some(selector) => {
                    let of = match claim.hostname {
                        HostPattern::Any => "every host".to_owned(),
                        hostname => format!("host {hostname}"),
                    };
                    (format!("spec.rules[{}]", rank.rule), format!("{selector} of {of}"))
                }
                None if *claim.hostname == HostPattern::Any => {
                    ("spec.parentRefs".to_owned(), "all that comes".to_owned())
                }
                None => ("spec.hostnames".to_owned(), format!("server name {}", claim.hostname)),
            };
            losses.push((loser, Loss { field, what, listener: claim.listener.to_owned(), winner }));
        });
    }
    losses
}

/// Every claim of a route, with its match if it has one.
fn for_each<'s>(resource: &'s Resource, mut visit: impl FnMut(Claim<'s>, Option<&'s Match>, &'s Rank)) {
    let (attachments, matches, rank) = match resource {
        Resource::Route(route) => (&route.attachments, Some(&route.rules), None),
        Resource::L4Route(route) => (&route.attachments, None, Some(&route.rank)),
        _ => return,
    };
    for attachment in attachments {
        for hostname in &attachment.hostnames {
            let claim = |selector| Claim { listener: &attachment.listener, hostname, selector };
            for one in matches.into_iter().flatten().flat_map(|rule| &rule.matches) {
                visit(claim(Some(Selector::of(one))), Some(one), &one.rank);
            }
            if let Some(rank) = rank {
                visit(claim(None), None, rank);
            }
        }
    }
}
