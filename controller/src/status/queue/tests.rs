use serde_json::{Value, json};
use translate::{Kind, ObjectKey};

use super::*;

const MILLISECOND: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
/// As long as a write may take.
const HANGS: Duration = Duration::from_secs(10);

fn target(kind: Kind, namespace: &str, name: &str) -> Target {
    Target { kind, object: ObjectKey::new(namespace, name) }
}

fn many(kind: Kind, namespace: &str, count: usize) -> impl Iterator<Item = Target> + use<> {
    let namespace = namespace.to_owned();
    (0..count).map(move |number| target(kind, &namespace, &format!("{number:04}")))
}

fn write(status: Value) -> Arc<Write> {
    Arc::new(Write { fingerprint: Fingerprint::of(&status), status })
}

fn unwritten(targets: impl IntoIterator<Item = Target>) -> Unwritten {
    let same = write(json!({}));
    targets.into_iter().map(|target| (target, same.clone())).collect()
}

/// A writer on a clock of its own, with an API server that takes as long and responds as a test says.
struct Rig {
    queue: Queue,
    unwritten: Unwritten,
    start: Instant,
    now: Instant,
    ends: BTreeSet<(Instant, Target)>,
    /// Each attempt: when it ended, and whose it was.
    attempts: Vec<(Duration, Target)>,
}

impl Rig {
    fn new(unwritten: Unwritten) -> Self {
        let now = Instant::now();
        let mut queue = Queue::default();
        queue.update(&unwritten, now);
        Self { queue, unwritten, start: now, now, ends: BTreeSet::new(), attempts: Vec::new() }
    }

    /// Writes for so long. What is written is observed at once.
    fn run(&mut self, time: Duration, respond: impl Fn(&Target) -> (Duration, Outcome)) {
        let end = self.now + time;
        loop {
            while let Some((target, _)) = self.queue.next(self.now) {
                self.ends.insert((self.now + respond(&target).0, target));
            }
            let wake = self.queue.wake(self.now);
            let next = self.ends.first().map_or(wake, |(next, _)| wake.min(*next));
            assert!(next > self.now, "time goes on");
            self.now = next.min(end);
            while let Some((_, target)) = self.ends.pop_first_if_due(self.now) {
                let (_, outcome) = respond(&target);
                self.attempts.push((self.now - self.start, target.clone()));
                self.queue.finished(&target, outcome, self.now);
                if outcome == Outcome::Written {
                    self.unwritten.remove(&target);
                    self.queue.update(&self.unwritten, self.now);
                }
            }
            if self.now >= end {
                return;
            }
        }
    }

    fn add(&mut self, target: Target) {
        self.unwritten.extend(unwritten([target]));
        self.queue.update(&self.unwritten, self.now);
    }
}

trait PopFirstIfDue {
    fn pop_first_if_due(&mut self, now: Instant) -> Option<(Instant, Target)>;
}

impl PopFirstIfDue for BTreeSet<(Instant, Target)> {
    fn pop_first_if_due(&mut self, now: Instant) -> Option<(Instant, Target)> {
        if self.first().is_some_and(|(end, _)| *end <= now) { self.pop_first() } else { None }
    }
}

fn refuses_ingresses(target: &Target) -> (Duration, Outcome) {
    let outcome = if target.kind == Kind::Ingress { Outcome::Refused } else { Outcome::Written };
    (MILLISECOND, outcome)
}

#[test]
fn statuses_that_are_refused_are_tried_ever_less_often_and_keep_nobody_waiting() {
    let mut rig = Rig::new(unwritten(many(Kind::Ingress, "shop", 2000)));
    rig.run(SECOND, refuses_ingresses);
    for target in [target(Kind::Gateway, "shop", "new"), target(Kind::HTTPRoute, "shop", "new")] {
        rig.add(target);
    }
    rig.run(MILLISECOND * 10, refuses_ingresses);
    assert_eq!(rig.unwritten.len(), 2000, "what can be written is written at once");
    rig.run(Duration::from_secs(3600), refuses_ingresses);
    let last: Vec<_> = rig.attempts.iter().filter(|(at, _)| *at > Duration::from_secs(3000)).collect();
    // Once in five minutes each.
    assert!(last.len() <= 2000 * 3, "{} attempts in ten minutes", last.len());
    let attempts = |target: &Target| rig.attempts.iter().filter(|(_, other)| other == target).count();
    for target in rig.unwritten.keys() {
        assert!((12..=24).contains(&attempts(target)), "{} attempts for {target:?}", attempts(target));
    }
}

#[test]
fn writes_that_hang_hold_up_neither_other_namespaces_nor_other_kinds() {
    let hanging = ["a", "b"].into_iter().flat_map(|namespace| many(Kind::Ingress, namespace, 10));
    let others = many(Kind::Ingress, "c", 240).chain(many(Kind::Ingress, "d", 240));
    let routes = many(Kind::HTTPRoute, "a", 100).chain(many(Kind::Gateway, "b", 1));
    let mut rig = Rig::new(unwritten(hanging.chain(others).chain(routes)));
    let respond = |target: &Target| match (target.kind, target.object.namespace.as_str()) {
        (Kind::Ingress, "a" | "b") => (HANGS, Outcome::Refused),
        _ => (MILLISECOND, Outcome::Written),
    };
    rig.run(SECOND * 3, respond);
    assert_eq!(rig.unwritten.len(), 20, "all but those that hang");
    // Those that hang already leave their places to whoever comes.
    for _ in 0..100 {
        rig.add(target(Kind::Ingress, "c", "late"));
        rig.run(SECOND, respond);
        assert_eq!(rig.unwritten.len(), 20);
    }
}

#[test]
fn what_hangs_takes_few_places_of_its_kind_and_recovers() {
    let hanging =
        (0..200).flat_map(|number| many(Kind::Ingress, &format!("hangs-{number:03}"), 10)).collect::<Vec<_>>();
    let mut rig = Rig::new(unwritten(hanging));
    let hangs = |target: &Target| match target.object.namespace.starts_with("hangs") {
        true => (HANGS, Outcome::Refused),
        false => (MILLISECOND, Outcome::Written),
    };
    rig.run(SECOND * 300, hangs);
    assert!(rig.ends.len() <= KIND_AT_ONCE, "{}", rig.ends.len());
    for number in 0..20 {
        rig.add(target(Kind::Ingress, "works", &number.to_string()));
        rig.add(target(Kind::Gateway, "works", &number.to_string()));
    }
    rig.run(SECOND * 2, hangs);
    assert_eq!(rig.unwritten.len(), 2000);
    rig.run(SECOND * 600, |_| (MILLISECOND, Outcome::Written));
    assert_eq!(rig.unwritten.len(), 0);
}

#[test]
fn kinds_and_namespaces_take_turns() {
    let noisy = many(Kind::Ingress, "a", 100).chain(many(Kind::HTTPRoute, "a", 100));
    let others = [target(Kind::Ingress, "b", "x"), target(Kind::HTTPRoute, "b", "x"), target(Kind::UDPRoute, "z", "x")];
    let mut queue = Queue::default();
    let now = Instant::now();
    queue.update(&unwritten(noisy.chain(others.clone())), now);
    let first: Vec<_> = (0..AT_ONCE).filter_map(|_| queue.next(now)).map(|(target, _)| target).collect();
    assert_eq!(first.len(), AT_ONCE);
    assert!(others.iter().all(|other| first.contains(other)), "{first:?}");
    assert_eq!(queue.next(now), None);
}

#[test]
fn the_first_attempt_comes_before_another_one() {
    let [failed, fresh] = ["a", "b"].map(|name| target(Kind::Ingress, "shop", name));
    let mut queue = Queue::default();
    let now = Instant::now();
    queue.update(&unwritten([failed.clone()]), now);
    assert!(queue.next(now).is_some());
    queue.finished(&failed, Outcome::Refused, now);
    assert_eq!(queue.next(now), None);
    assert_eq!(queue.wake(now), now + RETRY);
    queue.update(&unwritten([failed.clone(), fresh.clone()]), now);
    let order: Vec<_> = std::iter::from_fn(|| queue.next(now + RETRY)).map(|(target, _)| target).collect();
    assert_eq!(order, [fresh, failed]);
}

#[test]
fn another_status_of_a_failing_object_is_tried_soon_and_its_failures_count_on() {
    let object = target(Kind::Ingress, "shop", "web");
    let mut queue = Queue::default();
    let mut now = Instant::now();
    let mut pauses = Vec::new();
    for number in 0..12 {
        // It is as it should be now and then.
        queue.update(&Unwritten::new(), now);
        queue.update(&[(object.clone(), write(json!(number)))].into(), now);
        now += PACE;
        assert!(queue.next(now).is_some(), "{number}");
        queue.finished(&object, Outcome::Refused, now);
        pauses.push(queue.wake(now) - now);
    }
    assert_eq!(pauses[..4], [RETRY, RETRY * 2, RETRY * 4, RETRY * 8]);
    assert_eq!(pauses.last(), Some(&LONGEST));
}

#[test]
fn an_api_server_that_comes_back_does_not_wait_for_minutes() {
    let mut rig = Rig::new(unwritten(many(Kind::Ingress, "shop", 100)));
    rig.run(SECOND * 600, |_| (MILLISECOND, Outcome::Unreached));
    rig.run(LONGEST_UNREACHED + SECOND, |_| (MILLISECOND, Outcome::Written));
    assert_eq!(rig.unwritten.len(), 0);
}

#[test]
fn what_is_written_and_never_observed_is_looked_at_ever_less_often() {
    let object = target(Kind::HTTPRoute, "shop", "web");
    let mut queue = Queue::default();
    let now = Instant::now();
    queue.update(&unwritten([object.clone()]), now);
    let mut due = now;
    let mut pauses = Vec::new();
    for _ in 0..6 {
        assert!(queue.next(due).is_some());
        queue.finished(&object, Outcome::Written, due);
        pauses.push((queue.wake(due) - due).as_secs());
        due = queue.wake(due);
    }
    assert_eq!(pauses, [30, 60, 120, 240, 300, 300]);
}

#[test]
fn nothing_is_remembered_of_what_is_done() {
    let mut rig = Rig::new(unwritten(many(Kind::Ingress, "shop", 10)));
    rig.run(SECOND, |_| (MILLISECOND, Outcome::Written));
    let queue = &rig.queue;
    assert!(queue.items.is_empty() && queue.put_off.is_empty() && queue.in_flight.is_empty());
}
