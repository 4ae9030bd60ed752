//! Whether the data planes run what a status is about to claim.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;
use translate::{DataPlane, Kind, Statuses};

use super::{Fingerprint, Target};
use crate::stream::{Acks, Wait};

/// How long a status that has no words for waiting is held back for a data plane that does not answer: a node that lost the
/// controllers must not keep everything that is new without a status for ever. A Gateway's `Programmed` waits without end.
const PATIENCE: Duration = Duration::from_secs(30);

/// Remembers which publication each status waits for.
#[derive(Clone, Debug, Default)]
pub struct Gate {
    current: u64,
    /// The pods that get traffic, where that is known.
    ready: BTreeMap<DataPlane, BTreeSet<String>>,
    /// What is missing, in words, where data planes lack an object without which they serve nobody.
    lacking: BTreeMap<DataPlane, String>,
    waiting: BTreeMap<Target, Waiting>,
    wake: Option<Instant>,
}

/// What a status is about to claim, and what is known of data planes now.
#[derive(Clone, Copy)]
pub(super) struct Claim<'a> {
    /// Whose status it is.
    pub target: &'a Target,
    /// Changes with what is claimed.
    pub token: Fingerprint,
    /// What data planes acknowledged.
    pub acks: &'a Acks,
    /// When this is asked.
    pub now: Instant,
}

#[derive(Clone, Copy, Debug)]
struct Waiting {
    token: Fingerprint,
    publication: u64,
    since: Instant,
}

impl Gate {
    /// Notes the number of the newest publication.
    pub fn published(&mut self, publication: u64) {
        self.current = publication;
    }

    /// Notes which pods of each group the cluster holds for ready. A controller that just started has heard of few. Returns the groups
    /// of which it held others.
    pub fn expect(&mut self, ready: BTreeMap<DataPlane, BTreeSet<String>>) -> BTreeSet<DataPlane> {
        let changed = differing(&self.ready, &ready);
        self.ready = ready;
        changed
    }

    /// Notes which data planes lack an object without which they serve nobody, and why. Returns those of which something else was
    /// known.
    pub fn lack(&mut self, lacking: BTreeMap<DataPlane, String>) -> BTreeSet<DataPlane> {
        let changed = differing(&self.lacking, &lacking);
        self.lacking = lacking;
        changed
    }

    /// What these data planes lack.
    pub(super) fn lacking(&self, plane: &DataPlane) -> Option<&str> {
        self.lacking.get(plane).map(String::as_str)
    }

    /// Whether the cluster holds a pod of the group for ready.
    pub fn is_ready(&self, plane: &DataPlane) -> bool {
        self.ready.get(plane).is_some_and(|pods| !pods.is_empty())
    }

    /// Whether every ready data plane runs a publication as new as the one that was current when the claim's token last changed;
    /// otherwise why not.
    pub(super) fn check(&mut self, claim: &Claim, plane: &DataPlane) -> Result<(), Wait> {
        let waiting = self.waiting(claim);
        let none = BTreeSet::new();
        claim.acks.programmed(plane, waiting.publication, self.ready.get(plane).unwrap_or(&none))
    }

    /// As [`Self::check`], where nobody can be told to wait: waiting ends after a while.
    pub(super) fn check_patiently(&mut self, claim: &Claim, plane: &DataPlane) -> Result<(), Wait> {
        let wait = match self.check(claim, plane) {
            Err(wait @ (Wait::Absent(_) | Wait::Behind)) => wait,
            other => return other,
        };
        let end = self.waiting(claim).since + PATIENCE;
        if end <= claim.now {
            return Ok(());
        }
        self.wake = Some(self.wake.map_or(end, |wake| wake.min(end)));
        Err(wait)
    }

    /// When the patience with some data plane ends.
    pub fn wake(&self) -> Option<Instant> {
        self.wake
    }

    /// The same; asking forgets it, until those that wait are asked for again.
    pub fn take_wake(&mut self) -> Option<Instant> {
        self.wake.take()
    }

    /// The status is what it should be: it waits for nothing.
    pub(super) fn settled(&mut self, target: &Target) {
        self.waiting.remove(target);
    }

    /// Forgets objects that have no status any more.
    pub fn forget_except(&mut self, statuses: &Statuses) {
        self.waiting.retain(|target, _| match target.kind {
            Kind::Gateway => statuses.gateways.contains_key(&target.object),
            Kind::ListenerSet => statuses.listener_sets.contains_key(&target.object),
            kind if kind.is_route() => statuses.routes.contains_key(&(target.kind, target.object.clone())),
            kind if kind.is_policy() => statuses.policies.contains_key(&(target.kind, target.object.clone())),
            _ => statuses.ingresses.contains_key(&target.object),
        });
    }

    fn waiting(&mut self, claim: &Claim) -> Waiting {
        let fresh = Waiting { token: claim.token, publication: self.current, since: claim.now };
        match self.waiting.get(claim.target) {
            Some(waiting) if waiting.token == claim.token => *waiting,
            _ => {
                self.waiting.insert(claim.target.clone(), fresh);
                fresh
            }
        }
    }
}

/// The keys whose values are not the same in both.
fn differing<V: PartialEq>(one: &BTreeMap<DataPlane, V>, other: &BTreeMap<DataPlane, V>) -> BTreeSet<DataPlane> {
    super::changes(one, other, PartialEq::eq).into_iter().map(|(plane, _)| plane.clone()).collect()
}
