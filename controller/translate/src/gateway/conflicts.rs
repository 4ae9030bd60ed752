//! What listeners of the same data planes, of Gateways and their ListenerSets, cannot have at the same time, and where they overlap.
//!
//! There may be thousands: each looks up those that matter to it, and none is compared with all others.

use std::collections::BTreeMap;

use snapshot::HostPattern;

use super::listeners::{Listener, Owner};
use super::protocol::Protocol;
use crate::Transport;

/// How many listeners a message names.
const NAMED: usize = 8;

/// Finds what listeners, in order of precedence, cannot have at the same time. Within a Gateway nobody wins; else a listener yields to
/// all before it: those of a ListenerSet to those of their Gateway and of older sets (GEP-1713), and where Gateways share data planes,
/// those of a Gateway to those of older ones. Who yielded is in nobody's way.
pub(super) fn compare(listeners: &mut [&mut Listener]) {
    let mut rivals = Rivals::default();
    let mut next = 0;
    while let Some(first) = listeners.get(next) {
        let is_gateways = matches!(first.owner, Owner::Gateway(_));
        let of_owner = listeners.iter().skip(next).take_while(|listener| listener.owner == first.owner).count();
        let usable: Vec<_> = (next..next + of_owner).filter(|index| listeners[*index].usable()).collect();
        let mut peers = Rivals::default();
        for index in usable.iter().filter(|_| is_gateways) {
            peers.add(*index, listeners[*index]);
        }
        let mut winners = Vec::new();
        for index in usable {
            let yields = rivals.conflict(listeners, index);
            match (&yields, is_gateways) {
                (None, true) => winners.push(index),
                (None, false) => rivals.add(index, listeners[index]),
                (Some(_), _) => {}
            }
            let conflict = yields.or_else(|| peers.conflict(listeners, index));
            listeners[index].conflict = conflict;
        }
        for index in winners {
            rivals.add(index, listeners[index]);
        }
        next += of_owner;
    }
    let overlaps = overlaps(listeners);
    for (listener, overlap) in listeners.iter_mut().zip(overlaps) {
        listener.overlap = overlap;
    }
}

/// The listeners to which others have to yield, by number, each list in order.
#[derive(Default)]
struct Rivals {
    by_protocol: BTreeMap<u16, BTreeMap<Protocol, Vec<usize>>>,
    by_name: BTreeMap<(u16, Transport, HostPattern), Vec<usize>>,
}

impl Rivals {
    fn add(&mut self, index: usize, listener: &Listener) {
        if let Some(protocol) = listener.protocol {
            self.by_protocol.entry(listener.port).or_default().entry(protocol).or_default().push(index);
            let name = (listener.port, protocol.transport(), listener.hostname.clone());
            self.by_name.entry(name).or_default().push(index);
        }
    }

    /// What keeps listener `index` from being served: a reason and a sentence.
    fn conflict(&self, listeners: &[&mut Listener], index: usize) -> Option<(&'static str, String)> {
        let this = &*listeners[index];
        let protocol = this.protocol?;
        let of_port = self.by_protocol.get(&this.port).into_iter().flatten();
        let quarrelling = of_port.filter(|(other, _)| !protocol.gets_along_with(**other));
        if let Some(rival) = quarrelling.filter_map(|(_, rivals)| rivals.first()).min() {
            let rival = &*listeners[*rival];
            let message = format!(
                "port {} is asked for with protocol {} here and {} by listener {}: use another port",
                this.spec.port,
                this.spec.protocol,
                rival.spec.protocol,
                called(this, rival)
            );
            return Some(("ProtocolConflict", message));
        }
        let same = self.by_name.get(&(this.port, protocol.transport(), this.hostname.clone()))?;
        let rival = &*listeners[*same.iter().find(|rival| **rival != index)?];
        let message = format!(
            "listener {} has the same port and hostname ({} and {}): change one of the two",
            called(this, rival),
            rival.spec.port,
            rival.hostname
        );
        Some(("HostnameConflict", message))
    }
}

/// A listener as its neighbour calls it: by name within an object, with the object else, and with the Gateway that the object is
/// attached to where that is another one. Of a ListenerSet in another namespace nothing more is told.
fn called(this: &Listener, other: &Listener) -> String {
    let name = &other.spec.name;
    match &other.owner {
        owner if this.owner == *owner => name.clone(),
        Owner::ListenerSet(set) if set.namespace != this.owner.key().namespace => {
            format!("of a ListenerSet at Gateway {}", other.gateway)
        }
        Owner::ListenerSet(_) if this.gateway != other.gateway => {
            format!("{name} of {} at Gateway {}", other.owner, other.gateway)
        }
        owner => format!("{name} of {owner}"),
    }
}

/// Which other listeners answer for some of a listener's names, for each: a sentence. A connection that a client opened for one of
/// them may be used for the other's names (RFC 9110, 7.4).
fn overlaps(listeners: &[&mut Listener]) -> Vec<Option<String>> {
    let with_tls = || listeners.iter().enumerate().filter(|(_, listener)| listener.terminates_tls());
    let mut same: BTreeMap<(u16, HostPattern), Vec<usize>> = BTreeMap::new();
    for (index, listener) in with_tls() {
        same.entry((listener.port, listener.hostname.clone())).or_default().push(index);
    }
    let mut narrower: BTreeMap<(u16, HostPattern), Vec<usize>> = BTreeMap::new();
    for (index, listener) in with_tls() {
        for place in wider(listener).filter(|place| same.contains_key(place)) {
            narrower.entry(place).or_default().push(index);
        }
    }
    let overlap = |(index, this): (usize, &Listener)| {
        let place = (this.port, this.hostname.clone());
        let wider = wider(this);
        let lists = [same.get(&place), narrower.get(&place)].into_iter().flatten();
        let lists: Vec<_> = lists.chain(wider.filter_map(|place| same.get(&place))).collect();
        // Its own number is in one of them.
        let others = lists.iter().map(|list| list.len()).sum::<usize>() - 1;
        let first = lists.iter().flat_map(|list| list.iter().take(NAMED + 1));
        let mut first: Vec<_> = first.filter(|other| **other != index).collect();
        first.sort();
        first.truncate(NAMED);
        let mut names = first.iter().map(|other| called(this, listeners[**other])).collect::<Vec<_>>().join(", ");
        if others > first.len() {
            names.push_str(&format!(" and {} more", others - first.len()));
        }
        (others > 0).then(|| format!("listener {names} on the same port answers for some of the same names"))
    };
    let numbered = listeners.iter().map(|listener| &**listener).enumerate();
    numbered.map(|(index, this)| this.terminates_tls().then(|| overlap((index, this))).flatten()).collect()
}

/// The places of listeners that answer for all names of this one and others.
fn wider(listener: &Listener) -> impl Iterator<Item = (u16, HostPattern)> {
    let name = match &listener.hostname {
        HostPattern::Exact(name) | HostPattern::OneLabel(name) | HostPattern::AnyLabels(name) => name.as_str(),
        HostPattern::Any => "",
    };
    let suffixes = name.match_indices('.').map(|(dot, _)| HostPattern::AnyLabels(name[dot + 1..].to_owned()));
    let any = (listener.hostname != HostPattern::Any).then_some(HostPattern::Any);
    suffixes.chain(any).map(|hostname| (listener.port, hostname))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::gateway::{hostname, listeners};
    use crate::{ObjectKey, PortMap};

    /// The place of the owner, and a listener.
    fn spec() -> impl Strategy<Value = (usize, crds::gateway::Listener)> {
        let protocol = prop::sample::select(vec!["HTTP", "HTTPS", "HTTPS", "TLS", "TCP", "UDP", "SCTP"]);
        let hostname =
            prop::sample::select(vec!["", "a.example", "b.example", "*.example", "*.a.example", "x.a.example"]);
        (0..4_usize, 80..82, protocol, hostname).prop_map(|(owner, port, protocol, hostname)| {
            let spec = json!({"name": "", "port": port, "protocol": protocol, "hostname": hostname});
            (owner, serde_json::from_value(spec).unwrap())
        })
    }

    /// Why a listener and one of the others cannot both be served.
    fn quarrel(this: &Listener, rivals: &[&Listener]) -> Option<&'static str> {
        let both = |rival: &Listener| this.protocol.zip(rival.protocol).filter(|_| rival.port == this.port);
        let protocol = |rival: &&Listener| both(rival).is_some_and(|(one, other)| !one.gets_along_with(other));
        let name = |rival: &&Listener| {
            both(rival).is_some_and(|(one, other)| one.transport() == other.transport())
                && rival.hostname == this.hostname
        };
        match () {
            () if rivals.iter().any(protocol) => Some("ProtocolConflict"),
            () if rivals.iter().any(name) => Some("HostnameConflict"),
            () => None,
        }
    }

    /// The rules as they are said: everybody is compared with everybody.
    fn said(listeners: &[Listener]) -> (Vec<Option<&'static str>>, Vec<Option<String>>) {
        let mut conflicts: Vec<Option<&str>> = Vec::new();
        let mut holds = Vec::new();
        for (index, this) in listeners.iter().enumerate() {
            let is_gateways = matches!(this.owner, Owner::Gateway(_));
            let is_peer = |other: usize| other != index && is_gateways && listeners[other].owner == this.owner;
            let before = (0..index).filter(|other| holds[*other] && !is_peer(*other));
            let before: Vec<_> = before.map(|other| &listeners[other]).collect();
            let peers = (0..listeners.len()).filter(|other| is_peer(*other) && listeners[*other].usable());
            let peers: Vec<_> = peers.map(|other| &listeners[other]).collect();
            let yields = quarrel(this, &before);
            conflicts.push(yields.or_else(|| quarrel(this, &peers)).filter(|_| this.usable()));
            holds.push(this.usable() && yields.is_none());
        }
        let overlap = |(index, this): (usize, &Listener)| {
            let with = |&(other, rival): &(usize, &Listener)| {
                let common = hostname::intersection(&this.hostname, &rival.hostname).is_some();
                other != index && rival.terminates_tls() && rival.port == this.port && common
            };
            let others: Vec<_> =
                listeners.iter().enumerate().filter(with).map(|(_, other)| called(this, other)).collect();
            let more = others.len().saturating_sub(NAMED);
            let names = others[..others.len() - more].join(", ");
            let names = if more > 0 { format!("{names} and {more} more") } else { names };
            let message = format!("listener {names} on the same port answers for some of the same names");
            (this.terminates_tls() && !others.is_empty()).then_some(message)
        };
        let overlaps = listeners.iter().enumerate().map(overlap).collect();
        (conflicts, overlaps)
    }

    proptest! {
        #[test]
        fn looking_up_finds_what_comparing_all_would(mut specs in prop::collection::vec(spec(), 1..24)) {
            specs.sort_by_key(|(owner, _)| *owner);
            (0..).zip(&mut specs).for_each(|(index, (_, spec)): (usize, _)| spec.name = format!("l{index}"));
            // The older Gateway with a set, then the younger one with another.
            let (older, younger) = (ObjectKey::new("b", "older"), ObjectKey::new("a", "younger"));
            let owners = [
                (&older, Owner::Gateway(older.clone())),
                (&older, Owner::ListenerSet(ObjectKey::new("b", "more"))),
                (&younger, Owner::Gateway(younger.clone())),
                (&younger, Owner::ListenerSet(ObjectKey::new("a", "more"))),
            ];
            let judged = specs.iter().map(|(owner, spec)| {
                let (gateway, owner) = &owners[*owner];
                listeners::judge(gateway, owner, spec, PortMap::default())
            });
            let mut listeners: Vec<_> = judged.collect();
            let (conflicts, overlaps) = said(&listeners);
            compare(&mut listeners.iter_mut().collect::<Vec<_>>());
            let found: Vec<_> = listeners.iter().map(|one| one.conflict.as_ref().map(|(reason, _)| *reason)).collect();
            prop_assert_eq!(found, conflicts);
            let found: Vec<_> = listeners.iter().map(|one| one.overlap.clone()).collect();
            prop_assert_eq!(found, overlaps);
        }
    }
}
