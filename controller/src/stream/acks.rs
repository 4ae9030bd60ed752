//! What the connected data planes run.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use snapshot::{Hash, ResourceId};
use translate::DataPlane;

/// So many versions of one snapshot are remembered; whoever runs an older one is not up to date anyway.
const REMEMBERED_VERSIONS: usize = 256;

/// What the connected data planes run, by the group that they belong to.
///
/// Every data plane tells every replica, so this is complete whichever replica feeds it.
#[derive(Clone, Debug, Default)]
pub struct Acks {
    groups: BTreeMap<DataPlane, Group>,
    /// Counts changes of what is known of data planes.
    revision: u64,
}

#[derive(Clone, Debug, Default)]
struct Group {
    /// Versions that were published, the newest last, with the number of the last publication in which each was current.
    versions: VecDeque<(Hash, u64)>,
    /// By instance.
    connected: BTreeMap<String, Connected>,
    /// The number of the last change.
    revision: u64,
}

/// One data plane with a session here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connected {
    /// The version that it runs; `None` until it has one.
    pub version: Option<Hash>,
    /// Whether it is ready for traffic.
    pub ready: bool,
    /// Resources of this version that it does not use, with the reason; it uses their last good versions, where there are any.
    pub rejected: BTreeMap<ResourceId, String>,
    pub(crate) session: u64,
}

/// Why what was published is not served everywhere yet.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Wait {
    /// There is nobody who could serve it.
    #[error("No data plane is connected and ready.")]
    Nobody,
    /// Pods get traffic but are not connected here, so that nobody knows what they serve.
    #[error("Not every ready data plane is connected to this controller: {0}.")]
    Absent(String),
    /// Somebody does not serve it yet.
    #[error("Not every ready data plane has acknowledged this configuration yet.")]
    Behind,
}

impl Acks {
    /// The data planes of a group, by instance.
    pub fn connected(&self, data_plane: &DataPlane) -> impl Iterator<Item = (&str, &Connected)> {
        let group = self.groups.get(data_plane);
        group.into_iter().flat_map(|group| group.connected.iter().map(|(instance, state)| (instance.as_str(), state)))
    }

    /// Whether every data plane of the group that may get traffic runs what was published with this number
    /// ([`Publisher::publish`](super::Publisher::publish)) or later: the pods that the cluster holds for `ready`, whether they are
    /// connected or not, and whoever else is connected and ready.
    pub fn programmed(&self, data_plane: &DataPlane, publication: u64, ready: &BTreeSet<String>) -> Result<(), Wait> {
        let empty = Group::default();
        let group = self.groups.get(data_plane).unwrap_or(&empty);
        let absent: Vec<&str> =
            ready.iter().filter(|pod| !group.connected.contains_key(*pod)).map(String::as_str).collect();
        let counts = |(instance, state): &(&String, &Connected)| state.ready || ready.contains(*instance);
        let mut counting = group.connected.iter().filter(counts).peekable();
        if counting.peek().is_none() && absent.is_empty() {
            Err(Wait::Nobody)
        } else if !counting.all(|(_, state)| group.publication(state.version) >= Some(publication)) {
            Err(Wait::Behind)
        } else if !absent.is_empty() {
            Err(Wait::Absent(some(&absent)))
        } else {
            Ok(())
        }
    }

    /// The number of the last change of what is known of data planes.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// The groups of which something else is known since the change with this number.
    pub fn changed_since(&self, revision: u64) -> impl Iterator<Item = &DataPlane> {
        self.groups.iter().filter(move |(_, group)| group.revision > revision).map(|(plane, _)| plane)
    }

    /// Everything that some data plane of the group rejects.
    pub fn rejected(&self, data_plane: &DataPlane) -> BTreeMap<&ResourceId, &str> {
        self.connected(data_plane)
            .flat_map(|(_, state)| state.rejected.iter().map(|(id, reason)| (id, reason.as_str())))
            .collect()
    }

    /// Notes what is current, and forgets groups that are not published any more and have nobody connected.
    pub(crate) fn published<'a>(&mut self, publication: u64, current: impl Iterator<Item = (&'a DataPlane, Hash)>) {
        for (data_plane, version) in current {
            let group = self.groups.entry(data_plane.clone()).or_default();
            let versions = &mut group.versions;
            if let Some((_, last)) = versions.back_mut().filter(|(newest, _)| *newest == version) {
                *last = publication;
                continue;
            }
            self.revision += 1;
            group.revision = self.revision;
            // A version may return after others: it then counts for the newest publication.
            versions.retain(|(known, _)| *known != version);
            versions.push_back((version, publication));
            if versions.len() > REMEMBERED_VERSIONS {
                versions.pop_front();
            }
        }
        self.groups.retain(|_, group| {
            !group.connected.is_empty() || group.versions.back().is_some_and(|(_, last)| *last == publication)
        });
    }

    /// Notes what an instance runs. Its newest session counts: an older one may be a connection whose end was not noticed yet.
    pub(crate) fn heard(&mut self, data_plane: &DataPlane, instance: &str, state: Connected) {
        let group = self.groups.entry(data_plane.clone()).or_default();
        if group.connected.get(instance).is_none_or(|known| known.session <= state.session) {
            group.connected.insert(instance.to_owned(), state);
            self.revision += 1;
            group.revision = self.revision;
        }
    }

    /// Forgets an instance, unless a newer session of it came meanwhile.
    pub(crate) fn ended(&mut self, data_plane: &DataPlane, instance: &str, session: u64) {
        if let Some(group) = self.groups.get_mut(data_plane)
            && group.connected.get(instance).is_some_and(|known| known.session == session)
        {
            group.connected.remove(instance);
            self.revision += 1;
            group.revision = self.revision;
        }
    }
}

/// The first few names, and how many there are besides.
fn some(names: &[&str]) -> String {
    const NAMED: usize = 3;
    match names.len().checked_sub(NAMED) {
        None | Some(0) => names.join(", "),
        Some(more) => format!("{} and {more} more", names[..NAMED].join(", ")),
    }
}

impl Group {
    fn publication(&self, version: Option<Hash>) -> Option<u64> {
        self.versions.iter().find(|(known, _)| Some(*known) == version).map(|(_, publication)| *publication)
    }
}

impl Connected {
    pub(crate) fn new(session: u64) -> Self {
        Self { version: None, ready: false, rejected: BTreeMap::new(), session }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: Hash = Hash([1; 16]);
    const NEW: Hash = Hash([2; 16]);

    fn running(version: Hash, ready: bool, session: u64) -> Connected {
        Connected { version: Some(version), ready, ..Connected::new(session) }
    }

    fn publish(acks: &mut Acks, publication: u64, version: Hash) {
        acks.published(publication, [(&DataPlane::Shared, version)].into_iter());
    }

    fn programmed(acks: &Acks, publication: u64) -> bool {
        acks.programmed(&DataPlane::Shared, publication, &BTreeSet::new()).is_ok()
    }

    #[test]
    fn programmed_when_every_ready_data_plane_runs_it() {
        let mut acks = Acks::default();
        publish(&mut acks, 1, OLD);
        publish(&mut acks, 2, NEW);
        assert!(!programmed(&acks, 1), "nobody runs anything");
        acks.heard(&DataPlane::Shared, "a", running(NEW, true, 1));
        assert!(programmed(&acks, 2));
        acks.heard(&DataPlane::Shared, "b", running(OLD, false, 2));
        assert!(programmed(&acks, 2), "one that is not ready does not count");
        acks.heard(&DataPlane::Shared, "b", running(OLD, true, 2));
        assert!(!programmed(&acks, 2));
        assert!(programmed(&acks, 1));
        acks.ended(&DataPlane::Shared, "b", 2);
        assert!(programmed(&acks, 2));
    }

    #[test]
    fn pods_that_get_traffic_count_whatever_they_say_and_are_named_when_they_say_nothing() {
        let mut acks = Acks::default();
        publish(&mut acks, 1, OLD);
        publish(&mut acks, 2, NEW);
        let pods = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
        let wait = |acks: &Acks, ready: &[&str]| acks.programmed(&DataPlane::Shared, 2, &pods(ready)).unwrap_err();
        assert_eq!(wait(&acks, &[]), Wait::Nobody);
        assert_eq!(wait(&acks, &["a"]), Wait::Absent("a".into()));
        acks.heard(&DataPlane::Shared, "a", running(NEW, true, 1));
        assert_eq!(wait(&acks, &["a", "b", "c", "d", "e"]), Wait::Absent("b, c, d and 1 more".into()));
        acks.heard(&DataPlane::Shared, "b", running(OLD, false, 2));
        assert_eq!(wait(&acks, &["a", "b"]), Wait::Behind, "it ends but requests still come to it");
        assert_eq!(acks.programmed(&DataPlane::Shared, 2, &pods(&["a"])), Ok(()));
        acks.heard(&DataPlane::Shared, "c", running(OLD, true, 3));
        assert_eq!(wait(&acks, &["a"]), Wait::Behind, "it is about to get requests");
    }

    #[test]
    fn what_did_not_change_is_programmed_at_once() {
        let mut acks = Acks::default();
        publish(&mut acks, 1, OLD);
        acks.heard(&DataPlane::Shared, "a", running(OLD, true, 1));
        publish(&mut acks, 2, OLD);
        assert!(programmed(&acks, 2));
        publish(&mut acks, 3, NEW);
        assert!(!programmed(&acks, 3));
        publish(&mut acks, 4, OLD);
        assert!(programmed(&acks, 4), "a version that returns");
    }

    #[test]
    fn a_late_end_of_an_older_session_changes_nothing() {
        let mut acks = Acks::default();
        acks.heard(&DataPlane::Shared, "a", running(NEW, true, 2));
        acks.heard(&DataPlane::Shared, "a", running(OLD, true, 1));
        acks.ended(&DataPlane::Shared, "a", 1);
        let connected: Vec<_> = acks.connected(&DataPlane::Shared).collect();
        assert_eq!(connected, [("a", &running(NEW, true, 2))]);
    }
}
