//! Which data planes are worked on when: side by side, each with a back-off of its own, and few Deployments rolling at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use snapshot::Hash;
use tokio::time::Instant;
use translate::DataPlane;

use super::{AGAIN, Id, Plan, RETRY, Wanted};

/// How many data planes are worked on at the same time,
const SLOTS: usize = 16;
/// how many of one namespace, where an admission policy may keep all of them waiting,
const SLOTS_PER_NAMESPACE: usize = 4;
/// and how many of those that run already may be renewed at a time: a new release of Sluice changes the pods of all Gateways.
pub(super) const ROLLS: usize = 4;

/// A piece of work: the data planes to apply.
#[derive(Debug)]
pub(super) struct Job {
    /// Whose they are.
    pub plane: DataPlane,
    /// What they should be.
    pub wanted: Arc<Wanted>,
    /// What is known to be applied.
    pub applied: BTreeMap<Id, Hash>,
    /// Whether pods that run may be renewed.
    pub may_roll: bool,
    /// Whether they are already.
    pub was_rolling: bool,
    /// What was told of the last failure.
    pub told: Option<String>,
}

/// What became of a job.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// What is applied now.
    pub applied: BTreeMap<Id, Hash>,
    /// What went wrong, in a sentence.
    pub failure: Option<String>,
    /// Whether the failure is that a name is somebody else's.
    pub taken: bool,
    /// What it means for pods that run.
    pub roll: Roll,
}

/// Whether pods that run are being renewed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Roll {
    /// They are not.
    #[default]
    None,
    /// They have to be, when it is their turn.
    Waits,
    /// They are, or may be.
    Runs,
}

/// All data planes that are wanted.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    items: BTreeMap<DataPlane, Item>,
}

#[derive(Debug)]
struct Item {
    wanted: Arc<Wanted>,
    applied: BTreeMap<Id, Hash>,
    missing: BTreeSet<Id>,
    /// When it is its turn.
    due: Instant,
    /// When all of it is applied again.
    again: Instant,
    /// How long after the next failure it is tried again.
    retry: Duration,
    failure: Option<String>,
    taken: bool,
    roll: Roll,
    busy: bool,
    /// It changed while it was worked on.
    changed: bool,
    /// What is applied was deleted, perhaps, while it was worked on.
    forget: bool,
    /// Nobody wants it any more; it goes when the work on it ends.
    gone: bool,
}

impl Item {
    fn new(wanted: Wanted, now: Instant) -> Self {
        Self {
            wanted: Arc::new(wanted),
            applied: BTreeMap::new(),
            missing: BTreeSet::new(),
            due: now,
            again: now,
            retry: RETRY,
            failure: None,
            taken: false,
            roll: Roll::None,
            busy: false,
            changed: false,
            forget: false,
            gone: false,
        }
    }

    fn hurry(&mut self, now: Instant) {
        self.due = now;
        self.retry = RETRY;
        self.changed = self.busy;
    }
}

impl Schedule {
    /// Takes a new plan.
    pub fn update(&mut self, plan: &Plan, now: Instant) {
        for (plane, wanted) in &plan.wanted {
            let item = self.items.entry(plane.clone()).or_insert_with(|| Item::new(wanted.clone(), now));
            if *item.wanted != *wanted || item.gone {
                item.wanted = Arc::new(wanted.clone());
                item.hurry(now);
            }
            item.gone = false;
            let key = &wanted.infrastructure.key;
            let missing = plan.missing.iter().filter(|(_, missing)| missing == key).cloned().collect();
            let before = std::mem::replace(&mut item.missing, missing);
            if item.missing.difference(&before).next().is_some() {
                // Somebody deleted it, and perhaps the rest of that name.
                item.applied.clear();
                item.forget = item.busy;
                if item.failure.is_none() || item.taken {
                    item.hurry(now);
                }
            }
        }
        self.items.retain(|plane, item| {
            item.gone |= !plan.wanted.contains_key(plane);
            !item.gone || item.busy
        });
    }

    /// Has everything looked at again.
    pub fn hurry(&mut self, now: Instant) {
        self.items.values_mut().for_each(|item| item.hurry(now));
    }

    /// The next piece of work, if some is due and there is room: from the namespace with the least in hand, and what did not fail first.
    pub fn next(&mut self, now: Instant) -> Option<Job> {
        let mut busy: BTreeMap<String, usize> = BTreeMap::new();
        for (_, item) in self.items.iter().filter(|(_, item)| item.busy) {
            *busy.entry(item.wanted.infrastructure.key.namespace.clone()).or_default() += 1;
        }
        let rolling = self.items.values().filter(|item| item.roll == Roll::Runs).count();
        if busy.values().sum::<usize>() >= SLOTS {
            return None;
        }
        let load = |item: &Item| busy.get(&item.wanted.infrastructure.key.namespace).copied().unwrap_or_default();
        let ready = self.items.iter().filter(|(_, item)| {
            let turn = item.roll != Roll::Waits || rolling < ROLLS;
            !item.busy && !item.gone && item.due <= now && turn && load(item) < SLOTS_PER_NAMESPACE
        });
        let (plane, _) = ready.min_by_key(|(_, item)| (load(item), item.failure.is_some(), item.due))?;
        let plane = plane.clone();
        let item = self.items.get_mut(&plane)?;
        if item.again <= now {
            item.applied.clear();
            item.again = now + AGAIN + spread(&plane);
        }
        // What is made and still not seen is made again.
        item.missing.iter().for_each(|id| _ = item.applied.remove(id));
        let was_rolling = item.roll == Roll::Runs;
        if item.roll == Roll::Waits {
            item.roll = Roll::Runs;
        }
        (item.busy, item.changed) = (true, false);
        Some(Job {
            plane,
            wanted: item.wanted.clone(),
            applied: item.applied.clone(),
            may_roll: item.roll == Roll::Runs,
            was_rolling,
            told: item.failure.clone(),
        })
    }

    /// Takes what became of a job. Returns whether its pods began to be renewed, the end of which [`Self::rolled`] wants to know.
    pub fn finished(&mut self, plane: &DataPlane, outcome: Outcome, was_rolling: bool, now: Instant) -> bool {
        let Some(item) = self.items.get_mut(plane) else { return false };
        item.busy = false;
        if item.gone {
            self.items.remove(plane);
            return false;
        }
        item.applied = if std::mem::take(&mut item.forget) { BTreeMap::new() } else { outcome.applied };
        item.taken = outcome.taken;
        let began = outcome.roll == Roll::Runs && !was_rolling;
        if !was_rolling {
            item.roll = outcome.roll;
        }
        match outcome.failure {
            Some(_) => {
                item.due = now + item.retry;
                item.retry = (item.retry * 2).min(AGAIN);
            }
            None => {
                item.due = if item.missing.is_empty() { item.again } else { now + RETRY };
                item.retry = RETRY;
            }
        }
        item.failure = outcome.failure;
        if item.changed {
            item.hurry(now);
        } else if item.roll == Roll::Waits && item.failure.is_none() {
            item.due = now;
        }
        began
    }

    /// The pods of these data planes are renewed, or nobody waits for that any longer.
    pub fn rolled(&mut self, plane: &DataPlane) {
        if let Some(item) = self.items.get_mut(plane) {
            item.roll = Roll::None;
        }
    }

    /// When something becomes due. What is due already waits for work that ends.
    pub fn wake(&self, now: Instant) -> Option<Instant> {
        self.items.values().filter(|item| !item.busy && item.due > now).map(|item| item.due).min()
    }

    /// The data planes whose names are somebody else's, with a sentence.
    pub fn taken(&self) -> BTreeMap<DataPlane, String> {
        let taken = self.items.iter().filter(|(_, item)| item.taken && !item.gone);
        taken.filter_map(|(plane, item)| Some((plane.clone(), item.failure.clone()?))).collect()
    }
}

/// Keeps what was first applied at the same moment from being applied again at the same moment.
fn spread(plane: &DataPlane) -> Duration {
    let hash = Hash::of(plane.to_string().as_bytes()).to_string();
    let part = hash.get(..2).and_then(|digits| u32::from_str_radix(digits, 16).ok()).unwrap_or_default();
    AGAIN / 5 * part / 256
}

#[cfg(test)]
mod tests {
    use translate::ObjectKey;

    use super::*;
    use crate::provision::objects::tests::infrastructure;

    fn plan(gateways: &[(&str, usize)]) -> Plan {
        let names =
            gateways.iter().flat_map(|(namespace, count)| (0..*count).map(move |n| (*namespace, format!("g{n}"))));
        let wanted = names.map(|(namespace, name)| {
            let key = ObjectKey::new(namespace, &name);
            let infrastructure =
                translate::Infrastructure { key: ObjectKey::new(namespace, format!("{name}-c")), ..infrastructure() };
            (DataPlane::Gateway(key), Wanted { uid: name, infrastructure })
        });
        Plan { wanted: wanted.collect(), ..Plan::default() }
    }

    fn all(schedule: &mut Schedule, now: Instant) -> Vec<Job> {
        std::iter::from_fn(|| schedule.next(now)).collect()
    }

    #[test]
    fn a_namespace_whose_requests_hang_leaves_room_for_others() {
        let (mut schedule, now) = (Schedule::default(), Instant::now());
        schedule.update(&plan(&[("a", 50)]), now);
        assert_eq!(all(&mut schedule, now).len(), SLOTS_PER_NAMESPACE);
        let plan = plan(&[("a", 50), ("b", 1)]);
        schedule.update(&plan, now);
        let next = all(&mut schedule, now);
        assert_eq!(next.len(), 1, "{next:?}");
        assert_eq!(next[0].wanted.infrastructure.key.namespace, "b");
    }

    #[test]
    fn who_fails_waits_ever_longer_and_nobody_else_does() {
        let (mut schedule, mut now) = (Schedule::default(), Instant::now());
        schedule.update(&plan(&[("a", 1), ("b", 1)]), now);
        let mut pauses = Vec::new();
        for _ in 0..5 {
            for job in all(&mut schedule, now) {
                let failure = (job.wanted.infrastructure.key.namespace == "a").then(|| "no".to_owned());
                schedule.finished(&job.plane, Outcome { failure, ..Outcome::default() }, false, now);
            }
            let wake = schedule.wake(now).unwrap();
            pauses.push((wake - now).as_secs());
            now = wake;
        }
        assert_eq!(pauses[..5], [5, 10, 20, 40, 80], "{pauses:?}");
    }

    #[test]
    fn what_changes_during_the_work_on_it_is_worked_on_again() {
        let (mut schedule, now) = (Schedule::default(), Instant::now());
        let mut plan = plan(&[("a", 1)]);
        schedule.update(&plan, now);
        let job = schedule.next(now).unwrap();
        plan.wanted.values_mut().for_each(|wanted| wanted.infrastructure.class = "other".into());
        schedule.update(&plan, now);
        assert!(schedule.next(now).is_none(), "not twice at a time");
        schedule.finished(&job.plane, Outcome::default(), false, now);
        assert_eq!(schedule.next(now).unwrap().wanted.infrastructure.class, "other");
    }

    #[test]
    fn few_deployments_roll_at_a_time() {
        let (mut schedule, now) = (Schedule::default(), Instant::now());
        let names: Vec<_> = (0..40).map(|n| format!("n{n}")).collect();
        schedule.update(&plan(&names.iter().map(|name| (name.as_str(), 1)).collect::<Vec<_>>()), now);
        let (mut rolling, mut rolled) = (Vec::new(), 0);
        while rolled < 40 {
            let jobs = all(&mut schedule, now);
            for job in &jobs {
                let roll = if job.may_roll { Roll::Runs } else { Roll::Waits };
                if schedule.finished(&job.plane, Outcome { roll, ..Outcome::default() }, false, now) {
                    rolling.push(job.plane.clone());
                }
            }
            assert!(rolling.len() <= ROLLS, "{rolling:?}");
            if jobs.is_empty() {
                schedule.rolled(&rolling.remove(0));
                rolled += 1;
            }
        }
        assert!(rolling.is_empty());
    }
}
