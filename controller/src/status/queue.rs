//! The order in which statuses are written: kinds and namespaces take turns, and what fails is tried ever less often.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::{Fingerprint, Target, Unwritten, Write};
use crate::turns::{Lane, Turns, lane};

/// How many objects are written at once, without the slow ones.
const AT_ONCE: usize = 8;
/// How many of those that failed before, or whose lane is slow, are written at once.
const FAILING_AT_ONCE: usize = 4;
/// How many objects of one kind are written at once, with the slow ones.
const KIND_AT_ONCE: usize = 16;
/// A write that takes longer leaves its place to others: it waits for something that the API server waits for.
const SLOW: Duration = Duration::from_secs(1);
/// The pause after a write before the same object is written again: a Gateway counts its routes, and a thousand may come at once.
const PACE: Duration = Duration::from_millis(100);
/// When a status that was written but is still not observed as wanted is looked at again; twice as long after every time.
const AGAIN: Duration = Duration::from_secs(30);
/// When a failed write is tried again; twice as long after every failure.
const RETRY: Duration = Duration::from_secs(1);
/// The longest pause of both.
const LONGEST: Duration = Duration::from_secs(5 * 60);
/// The longest pause where the API server was not reached: it comes back for all at once.
const LONGEST_UNREACHED: Duration = Duration::from_secs(10);

/// How a write ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The API server took it.
    Written,
    /// The API server refused it, or did not respond in time.
    Refused,
    /// The API server was not reached.
    Unreached,
}

/// Everything that is unwritten, and what became of the attempts to write it.
#[derive(Default)]
pub struct Queue {
    items: BTreeMap<Target, Item>,
    /// What waits for a moment.
    put_off: BTreeSet<(Instant, Target)>,
    /// What waits for its first attempt.
    fresh: Turns<Target>,
    /// What waits for another attempt, and all of slow lanes.
    failing: Turns<Target>,
    /// Where the last writes were slow. A write that succeeds takes its lane out.
    slow: BTreeSet<Lane>,
    in_flight: BTreeMap<Target, Flight>,
}

#[derive(Default)]
struct Item {
    /// Nothing when the status is as it should be, and only the pause is remembered.
    write: Option<Arc<Write>>,
    tried: Option<Tried>,
    /// The moment that it is put off to.
    until: Option<Instant>,
}

/// The last attempt.
#[derive(Clone, Copy)]
struct Tried {
    fingerprint: Fingerprint,
    at: Instant,
    outcome: Outcome,
    /// How long after it the same status is written again.
    pause: Duration,
}

struct Flight {
    fingerprint: Fingerprint,
    since: Instant,
    is_slow: bool,
    is_failing: bool,
}

impl Queue {
    /// Takes over what is unwritten now.
    pub fn update(&mut self, unwritten: &Unwritten, now: Instant) {
        let gone = self.items.iter().filter(|(target, item)| item.write.is_some() && !unwritten.contains_key(*target));
        for target in gone.map(|(target, _)| target.clone()).collect::<Vec<_>>() {
            self.set(target, None, now);
        }
        for (target, write) in unwritten {
            let known = self.items.get(target).and_then(|item| item.write.as_ref());
            if known.is_none_or(|known| !Arc::ptr_eq(known, write)) {
                self.set(target.clone(), Some(write.clone()), now);
            }
        }
    }

    /// Forgets everything but what is being written.
    pub fn clear(&mut self) {
        *self = Self { in_flight: std::mem::take(&mut self.in_flight), ..Self::default() };
    }

    /// The next object to write now, if there is one and a place is free. It counts as being written until [`Self::finished`].
    pub fn next(&mut self, now: Instant) -> Option<(Target, Arc<Write>)> {
        self.note_slow(now);
        while let Some((_, target)) = self.put_off.first().filter(|(due, _)| *due <= now).cloned() {
            self.place(&target, now);
        }
        if self.in_flight.values().filter(|flight| !flight.is_slow).count() >= AT_ONCE {
            return None;
        }
        let mut of_kind = BTreeMap::new();
        self.in_flight.keys().for_each(|target| *of_kind.entry(target.kind).or_insert(0) += 1);
        let has_room = |(kind, _): &Lane| of_kind.get(kind).is_none_or(|count| *count < KIND_AT_ONCE);
        let failing: BTreeSet<_> =
            self.in_flight.iter().filter(|(_, flight)| flight.is_failing).map(|(target, _)| lane_of(target)).collect();
        // One of each lane: nobody's failures keep those of others from being tried.
        let may_fail = |lane: &Lane| failing.len() < FAILING_AT_ONCE && !failing.contains(lane) && has_room(lane);
        let (target, is_failing) = match self.fresh.take(has_room) {
            Some(target) => (target, false),
            None => (self.failing.take(may_fail)?, true),
        };
        let write = self.items.get(&target)?.write.clone()?;
        let flight = Flight { fingerprint: write.fingerprint, since: now, is_slow: false, is_failing };
        self.in_flight.insert(target.clone(), flight);
        Some((target, write))
    }

    /// Notes how a write ended.
    pub fn finished(&mut self, target: &Target, outcome: Outcome, now: Instant) {
        let Some(flight) = self.in_flight.remove(target) else { return };
        if outcome == Outcome::Written {
            let lane = lane_of(target);
            if self.slow.remove(&lane) {
                for target in self.failing.clear(&lane) {
                    self.place(&target, now);
                }
            }
        }
        let Some(item) = self.items.get_mut(target) else { return };
        let (first, longest) = match outcome {
            Outcome::Written => (AGAIN, LONGEST),
            Outcome::Refused => (RETRY, LONGEST),
            Outcome::Unreached => (RETRY, LONGEST_UNREACHED),
        };
        let is_written = |outcome| outcome == Outcome::Written;
        // What was written is looked at ever less often only as long as it is the same.
        let before = item.tried.filter(|tried| {
            is_written(tried.outcome) == is_written(outcome)
                && (!is_written(outcome) || tried.fingerprint == flight.fingerprint)
        });
        let pause = before.map_or(first, |tried| tried.pause * 2).min(longest);
        item.tried = Some(Tried { fingerprint: flight.fingerprint, at: now, outcome, pause });
        self.place(target, now);
    }

    /// When [`Self::next`] may have something that it has not now, unless a write ends before.
    pub fn wake(&self, now: Instant) -> Instant {
        let due = self.put_off.first().map(|(due, _)| *due);
        let slow = self.in_flight.values().filter(|flight| !flight.is_slow).map(|flight| flight.since + SLOW);
        due.into_iter().chain(slow).min().unwrap_or(now + AGAIN)
    }

    fn set(&mut self, target: Target, write: Option<Arc<Write>>, now: Instant) {
        self.items.entry(target.clone()).or_default().write = write;
        self.place(&target, now);
    }

    /// Puts an object where it belongs now.
    fn place(&mut self, target: &Target, now: Instant) {
        let lane = lane_of(target);
        self.fresh.remove(&lane, target);
        self.failing.remove(&lane, target);
        let Some(item) = self.items.get_mut(target) else { return };
        if let Some(until) = item.until.take() {
            self.put_off.remove(&(until, target.clone()));
        }
        if self.in_flight.contains_key(target) {
            return; // until that ends
        }
        let due = item.due();
        match due.filter(|due| *due > now) {
            Some(due) => {
                item.until = Some(due);
                self.put_off.insert((due, target.clone()));
            }
            None if item.write.is_none() => _ = self.items.remove(target),
            None if item.has_failed() || self.slow.contains(&lane) => self.failing.add(lane, target.clone()),
            None => self.fresh.add(lane, target.clone()),
        }
    }

    fn note_slow(&mut self, now: Instant) {
        let slow = self.in_flight.iter_mut().filter(|(_, flight)| !flight.is_slow && flight.since + SLOW <= now);
        let lanes: Vec<_> = slow
            .map(|(target, flight)| {
                flight.is_slow = true;
                lane_of(target)
            })
            .collect();
        for lane in lanes {
            for target in self.fresh.clear(&lane) {
                self.failing.add(lane.clone(), target);
            }
            self.slow.insert(lane);
        }
    }
}

fn lane_of(target: &Target) -> Lane {
    lane(target.kind, &target.object)
}

impl Item {
    fn has_failed(&self) -> bool {
        self.tried.is_some_and(|tried| tried.outcome != Outcome::Written)
    }

    /// When it may be written, or forgotten where there is nothing to write. A failure is remembered for as long as it puts off, so
    /// that a status that comes and goes is not new each time.
    fn due(&self) -> Option<Instant> {
        let tried = self.tried?;
        let pause = match &self.write {
            Some(write) if write.fingerprint != tried.fingerprint => PACE,
            None if tried.outcome == Outcome::Written => PACE,
            _ => tried.pause,
        };
        Some(tried.at + pause)
    }
}

#[cfg(test)]
mod tests;
