//! What the connected data planes run.

use std::collections::{BTreeMap, VecDeque};

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
}

#[derive(Clone, Debug, Default)]
struct Group {
    /// Versions that were published, the newest last, with the number of the last publication in which each was current.
    versions: VecDeque<(Hash, u64)>,
    /// By instance.
    connected: BTreeMap<String, Connected>,
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

impl Acks {
    /// The data planes of a group, by instance.
    pub fn connected(&self, data_plane: &DataPlane) -> impl Iterator<Item = (&str, &Connected)> {
        let group = self.groups.get(data_plane);
        group.into_iter().flat_map(|group| group.connected.iter().map(|(instance, state)| (instance.as_str(), state)))
    }

    /// Whether there are ready data planes in the group and all of them run what was published with this number
    /// ([`Publisher::publish`](super::Publisher::publish)) or later.
    pub fn programmed(&self, data_plane: &DataPlane, publication: u64) -> bool {
        let Some(group) = self.groups.get(data_plane) else { return false };
        let mut ready = group.connected.values().filter(|state| state.ready).peekable();
        ready.peek().is_some() && ready.all(|state| group.publication(state.version) >= Some(publication))
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
            let versions = &mut self.groups.entry(data_plane.clone()).or_default().versions;
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
        let connected = &mut self.groups.entry(data_plane.clone()).or_default().connected;
        if connected.get(instance).is_none_or(|known| known.session <= state.session) {
            connected.insert(instance.to_owned(), state);
        }
    }

    /// Forgets an instance, unless a newer session of it came meanwhile.
    pub(crate) fn ended(&mut self, data_plane: &DataPlane, instance: &str, session: u64) {
        if let Some(group) = self.groups.get_mut(data_plane)
            && group.connected.get(instance).is_some_and(|known| known.session == session)
        {
            group.connected.remove(instance);
        }
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

    #[test]
    fn programmed_when_every_ready_data_plane_runs_it() {
        let mut acks = Acks::default();
        publish(&mut acks, 1, OLD);
        publish(&mut acks, 2, NEW);
        assert!(!acks.programmed(&DataPlane::Shared, 1), "nobody runs anything");
        acks.heard(&DataPlane::Shared, "a", running(NEW, true, 1));
        assert!(acks.programmed(&DataPlane::Shared, 2));
        acks.heard(&DataPlane::Shared, "b", running(OLD, false, 2));
        assert!(acks.programmed(&DataPlane::Shared, 2), "one that is not ready does not count");
        acks.heard(&DataPlane::Shared, "b", running(OLD, true, 2));
        assert!(!acks.programmed(&DataPlane::Shared, 2));
        assert!(acks.programmed(&DataPlane::Shared, 1));
        acks.ended(&DataPlane::Shared, "b", 2);
        assert!(acks.programmed(&DataPlane::Shared, 2));
    }

    #[test]
    fn what_did_not_change_is_programmed_at_once() {
        let mut acks = Acks::default();
        publish(&mut acks, 1, OLD);
        acks.heard(&DataPlane::Shared, "a", running(OLD, true, 1));
        publish(&mut acks, 2, OLD);
        assert!(acks.programmed(&DataPlane::Shared, 2));
        publish(&mut acks, 3, NEW);
        assert!(!acks.programmed(&DataPlane::Shared, 3));
        publish(&mut acks, 4, OLD);
        assert!(acks.programmed(&DataPlane::Shared, 4), "a version that returns");
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
