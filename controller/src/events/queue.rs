//! The order in which Events are written: what is new and grave first, then what is new, then what was known before.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use translate::{Kind, ObjectKey, Severity};

use super::Report;
use crate::turns::{Lane, Turns, lane};

/// An Event that is still true is told again before the API server's default of an hour makes it vanish.
const AGAIN: Duration = Duration::from_secs(50 * 60);
/// When an Event that could not be written is tried again; twice as long after every failure,
const RETRY: Duration = Duration::from_secs(1);
/// up to this.
const LONGEST_RETRY: Duration = Duration::from_secs(5 * 60);
/// How many Events are written at once; at most one in each namespace, so that one that hangs holds up no other.
const AT_ONCE: usize = 8;
/// How many Events one object gets, the graver ones: who has more to mend sees the others then.
const OF_OBJECT: usize = 16;

/// All reports, and what became of telling them.
#[derive(Default)]
pub struct Queue {
    items: BTreeMap<Arc<Report>, Item>,
    /// What was not told yet and is a warning, what was not told yet, and the rest.
    waiting: [Turns<Waiting>; 3],
    /// What waits for a moment.
    put_off: BTreeSet<(Instant, Arc<Report>)>,
    in_flight: BTreeMap<Arc<Report>, String>,
    /// Counts changes of the reports.
    age: u64,
    left_out: usize,
}

/// The graver before the others, the newer before the older.
type Waiting = (Severity, Reverse<u64>, Arc<Report>);

struct Item {
    /// The number of the change with which it came.
    age: u64,
    /// Whether it may have been told by who led before.
    is_inherited: bool,
    tried: Option<Tried>,
}

#[derive(Clone, Copy)]
struct Tried {
    again: Instant,
    /// How long the next failure puts it off.
    retry: Duration,
}

impl Queue {
    /// Takes over these reports, sorted. Those that are new to this replica may have been told if it has just taken the lead.
    pub fn update(&mut self, reports: &[Report], taking_over: bool) {
        self.age += 1;
        let kept = kept(reports);
        self.left_out = reports.len() - kept.len();
        let gone: Vec<_> = self.items.keys().filter(|report| !kept.contains(report.as_ref())).cloned().collect();
        for report in gone {
            self.take_out(&report);
            self.items.remove(&report);
        }
        for report in kept {
            if !self.items.contains_key(report) {
                let report = Arc::new(report.clone());
                let item = Item { age: self.age, is_inherited: taking_over, tried: None };
                self.items.insert(report.clone(), item);
                if !self.in_flight.contains_key(&report) {
                    self.put_in(&report);
                }
            }
        }
    }

    /// Forgets everything but what is being written.
    pub fn clear(&mut self) {
        *self = Self { in_flight: std::mem::take(&mut self.in_flight), ..Self::default() };
    }

    /// The next report to tell now, and whether it counts as a repetition where the Event is there. It counts as being written until
    /// [`Self::finished`].
    pub fn next(&mut self, now: Instant) -> Option<(Arc<Report>, bool)> {
        while let Some((due, report)) = self.put_off.first().filter(|(due, _)| *due <= now).cloned() {
            self.put_off.remove(&(due, report.clone()));
            self.put_in(&report);
        }
        if self.in_flight.len() >= AT_ONCE {
            return None;
        }
        let busy: BTreeSet<&str> = self.in_flight.values().map(String::as_str).collect();
        let is_free = |(_, namespace): &Lane| !busy.contains(namespace.as_str());
        let (_, _, report) = self.waiting.iter_mut().find_map(|turns| turns.take(is_free))?;
        let item = self.items.get(&report)?;
        let repeat = item.tried.is_some() || !item.is_inherited;
        self.in_flight.insert(report.clone(), report.problem.object.namespace.clone());
        Some((report, repeat))
    }

    /// Notes how telling it ended.
    pub fn finished(&mut self, report: &Arc<Report>, success: bool, now: Instant) {
        self.in_flight.remove(report);
        let Some(item) = self.items.get_mut(report) else { return };
        let retry = item.tried.map_or(RETRY, |tried| tried.retry);
        let tried = match success {
            true => Tried { again: now + AGAIN, retry: RETRY },
            false => Tried { again: now + retry, retry: (retry * 2).min(LONGEST_RETRY) },
        };
        item.tried = Some(tried);
        self.put_off.insert((tried.again, report.clone()));
    }

    /// When something is due that is not now.
    pub fn wake(&self, now: Instant) -> Instant {
        self.put_off.first().map_or(now + AGAIN, |(due, _)| *due)
    }

    /// How many reports get no Event, since their objects have so many.
    pub fn left_out(&self) -> usize {
        self.left_out
    }

    /// Where a report waits, and as what. It must be known.
    fn place(&self, report: &Arc<Report>) -> Option<(usize, Lane, Waiting)> {
        let item = self.items.get(report)?;
        let severity = report.problem.severity;
        let turns = match (item.is_inherited || item.tried.is_some(), severity) {
            (false, Severity::Warning) => 0,
            (false, Severity::Notice) => 1,
            (true, _) => 2,
        };
        let lane = lane(report.problem.kind, &report.problem.object);
        Some((turns, lane, (severity, Reverse(item.age), report.clone())))
    }

    fn put_in(&mut self, report: &Arc<Report>) {
        if let Some((turns, lane, waiting)) = self.place(report) {
            self.waiting[turns].add(lane, waiting);
        }
    }

    fn take_out(&mut self, report: &Arc<Report>) {
        if let Some((turns, lane, waiting)) = self.place(report) {
            self.waiting[turns].remove(&lane, &waiting);
        }
        if let Some(tried) = self.items.get(report).and_then(|item| item.tried) {
            self.put_off.remove(&(tried.again, report.clone()));
        }
    }
}

/// The reports that get an Event.
fn kept(reports: &[Report]) -> BTreeSet<&Report> {
    let object = |report: &Report| -> (Kind, ObjectKey) { (report.problem.kind, report.problem.object.clone()) };
    let same = |one: &Report, other: &Report| object(one) == object(other);
    reports
        .chunk_by(same)
        .flat_map(|of_object| {
            let mut of_object: Vec<_> = of_object.iter().collect();
            of_object.sort_by_key(|report| report.problem.severity);
            of_object.truncate(OF_OBJECT);
            of_object
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use translate::Problem;

    fn report(kind: Kind, object: &str, message: &str, severity: Severity) -> Report {
        let (namespace, name) = object.split_once('/').unwrap();
        let object = ObjectKey::new(namespace, name);
        let problem =
            Problem { kind, object, field: String::new(), reason: "Broken", message: message.into(), severity };
        Report { problem, uid: None }
    }

    fn noisy(count: usize, severity: Severity) -> Vec<Report> {
        (0..count).map(|number| report(Kind::Ingress, &format!("shop/{number:04}"), "", severity)).collect()
    }

    fn sorted(mut reports: Vec<Report>) -> Vec<Report> {
        reports.sort();
        reports
    }

    /// Tells so many, one after the other. Returns what was told.
    fn tell(queue: &mut Queue, count: usize, now: Instant) -> Vec<Report> {
        let told = std::iter::from_fn(|| {
            let (report, _) = queue.next(now)?;
            queue.finished(&report, true, now);
            Some(Report::clone(&report))
        });
        told.take(count).collect()
    }

    #[test]
    fn what_is_new_and_grave_is_told_before_thousands_that_wait() {
        let now = Instant::now();
        let mut queue = Queue::default();
        let mut reports = noisy(5000, Severity::Warning);
        queue.update(&reports, false);
        assert_eq!(tell(&mut queue, 100, now).len(), 100);
        let gateway = report(Kind::Gateway, "shop/public", "", Severity::Warning);
        let ingress = report(Kind::Ingress, "shop/9999", "", Severity::Warning);
        let elsewhere = report(Kind::Ingress, "other/0000", "", Severity::Warning);
        let notice = report(Kind::Ingress, "shop/0000", "", Severity::Notice);
        let news = [gateway, ingress, elsewhere];
        reports.extend(news.clone());
        reports.push(notice.clone());
        let reports = sorted(reports);
        queue.update(&reports, false);
        let next = tell(&mut queue, 3, now);
        assert!(news.iter().all(|report| next.contains(report)), "{next:?}");
        let others = tell(&mut queue, 10_000, now);
        assert_eq!((others.len(), others.last()), (4901, Some(&notice)));
    }

    #[test]
    fn a_new_leader_tells_what_is_new_before_what_it_inherits() {
        let now = Instant::now();
        let mut queue = Queue::default();
        let inherited = noisy(5000, Severity::Warning);
        queue.update(&inherited, true);
        let (first, repeat) = queue.next(now).unwrap();
        assert!(!repeat, "who led before may have told it");
        queue.finished(&first, true, now);
        let new = report(Kind::Ingress, "shop/9999", "", Severity::Notice);
        queue.update(&[inherited, vec![new.clone()]].concat(), false);
        assert_eq!(tell(&mut queue, 1, now), [new]);
        assert_eq!(tell(&mut queue, 10_000, now).len(), 4999);
    }

    #[test]
    fn what_is_true_for_long_is_told_again_after_what_is_new() {
        let now = Instant::now();
        let mut queue = Queue::default();
        let mut reports = noisy(10, Severity::Warning);
        queue.update(&reports, false);
        assert_eq!(tell(&mut queue, 100, now).len(), 10);
        assert_eq!(queue.wake(now), now + AGAIN);
        let new = report(Kind::Ingress, "shop/9999", "", Severity::Notice);
        reports.push(new.clone());
        queue.update(&reports, false);
        let again = tell(&mut queue, 100, now + AGAIN);
        assert_eq!((again.len(), &again[0]), (11, &new));
    }

    #[test]
    fn one_that_hangs_holds_up_no_other_namespace_and_failures_come_last() {
        let now = Instant::now();
        let mut queue = Queue::default();
        let hangs = noisy(100, Severity::Warning);
        let other = report(Kind::Ingress, "other/0000", "", Severity::Warning);
        let reports = sorted([hangs, vec![other.clone()]].concat());
        queue.update(&reports, false);
        let started: Vec<_> = std::iter::from_fn(|| queue.next(now)).map(|(report, _)| report).collect();
        assert_eq!(started.len(), 2, "one of each namespace");
        assert!(started.iter().any(|report| **report == other));
        let failed = started.iter().find(|report| ***report != other).unwrap();
        queue.finished(failed, false, now);
        assert_eq!(queue.wake(now), now + RETRY);
        let next = tell(&mut queue, 200, now + RETRY);
        assert_eq!((next.len(), next.last()), (100, Some(&**failed)));
    }

    #[test]
    fn an_object_has_a_bounded_number_of_events_the_graver_ones() {
        let notices =
            (0..100).map(|number| report(Kind::Ingress, "shop/web", &format!("{number:03}"), Severity::Notice));
        let warning = report(Kind::Ingress, "shop/web", "999", Severity::Warning);
        let reports = sorted(notices.chain([warning.clone()]).collect());
        let mut queue = Queue::default();
        queue.update(&reports, false);
        assert_eq!(queue.left_out(), 101 - OF_OBJECT);
        let told = tell(&mut queue, 1000, Instant::now());
        assert_eq!((told.len(), &told[0]), (OF_OBJECT, &warning));
        queue.update(&[], false);
        assert_eq!((queue.left_out(), tell(&mut queue, 1, Instant::now() + AGAIN)), (0, vec![]));
    }
}
