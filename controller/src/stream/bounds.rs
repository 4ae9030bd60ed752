//! How many sessions there may be.
//!
//! Whoever may make tokens for a data plane's ServiceAccount can open sessions, and so can the owner of a namespace with a
//! Gateway. Their number is bounded, so that they take neither the memory nor the connections of others.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prometheus_client::metrics::counter::Counter;
use tonic::Status;

use super::{Identity, ServiceAccount};

/// A pod has one, and while it reconnects another one whose end was not noticed yet.
const PER_POD: usize = 4;
/// With tokens that belong to no pod; kubelets make none.
const UNBOUND: usize = 8;
/// Of the data planes of one Gateway.
const PER_ACCOUNT: usize = 256;

/// The sessions that there are. Cheap to clone; all clones are one.
#[derive(Clone, Debug, Default)]
pub(super) struct Bounds {
    sessions: Arc<Mutex<HashMap<Holder, usize>>>,
    /// Counts sessions that were refused.
    refused: Counter,
}

/// What a bound is for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Holder {
    Account(ServiceAccount),
    Pod(ServiceAccount, String),
    Unbound(ServiceAccount),
}

/// A session's place; it is free again when dropped.
pub(super) struct Place {
    bounds: Bounds,
    holders: Vec<Holder>,
}

impl Bounds {
    /// No sessions yet.
    pub(super) fn new(refused: Counter) -> Self {
        Self { sessions: Arc::default(), refused }
    }

    /// Takes a place for a session. `shared` says that the account is one of the installation's own, which has as many data
    /// planes as the operator wants.
    ///
    /// # Errors
    /// `RESOURCE_EXHAUSTED` where there are as many sessions as there may be.
    pub(super) fn enter(&self, identity: &Identity, shared: bool) -> Result<Place, Status> {
        let account = || identity.account.clone();
        let own = match &identity.pod {
            Some(pod) => (Holder::Pod(account(), pod.clone()), PER_POD),
            None => (Holder::Unbound(account()), UNBOUND),
        };
        let of_account = (!shared).then(|| (Holder::Account(account()), PER_ACCOUNT));
        let mut place = Place { bounds: self.clone(), holders: Vec::new() };
        for (holder, most) in std::iter::once(own).chain(of_account) {
            if !self.take(&holder, most) {
                self.refused.inc();
                let of = match &holder {
                    Holder::Account(account) => format!("the ServiceAccount {account}"),
                    Holder::Pod(_, pod) => format!("the pod {pod}"),
                    Holder::Unbound(account) => format!("tokens of {account} that belong to no pod"),
                };
                return Err(Status::resource_exhausted(format!(
                    "there are {most} sessions of {of}, and no more may be"
                )));
            }
            place.holders.push(holder);
        }
        Ok(place)
    }

    fn take(&self, holder: &Holder, most: usize) -> bool {
        let mut sessions = self.lock();
        match sessions.get_mut(holder) {
            Some(count) if *count >= most => false,
            Some(count) => {
                *count += 1;
                true
            }
            None => {
                sessions.insert(holder.clone(), 1);
                true
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Holder, usize>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner) // counts are whole at any time
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut sessions = self.bounds.lock();
        for holder in self.holders.drain(..) {
            if let Entry::Occupied(mut count) = sessions.entry(holder) {
                *count.get_mut() -= 1;
                if *count.get() == 0 {
                    count.remove();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(pod: Option<String>) -> Identity {
        let account = ServiceAccount { namespace: "shop".into(), name: "edge-sluice".into() };
        Identity { account, pod, expires: None }
    }

    #[test]
    fn sessions_are_bounded_per_pod_per_account_and_without_a_pod() {
        let bounds = Bounds::default();
        let pod = |number: usize| identity(Some(format!("pod-{number}")));
        let enter = |identity: &Identity| bounds.enter(identity, false).ok();
        let of_one: Vec<_> = (0..PER_POD + 3).filter_map(|_| enter(&pod(0))).collect();
        assert_eq!(of_one.len(), PER_POD);
        let unbound: Vec<_> = (0..UNBOUND + 3).filter_map(|_| enter(&identity(None))).collect();
        assert_eq!(unbound.len(), UNBOUND);
        let others: Vec<_> = (1..2 * PER_ACCOUNT).filter_map(|number| enter(&pod(number))).collect();
        assert_eq!(of_one.len() + unbound.len() + others.len(), PER_ACCOUNT);
        assert!(bounds.refused.get() > 0);
        drop(of_one);
        assert!(enter(&pod(0)).is_some(), "places are free again");
        drop((unbound, others));
        assert!(bounds.lock().is_empty());
    }

    #[test]
    fn the_operators_own_data_planes_are_as_many_as_they_are() {
        let bounds = Bounds::default();
        let places: Vec<_> = (0..PER_ACCOUNT + 1)
            .filter_map(|number| bounds.enter(&identity(Some(number.to_string())), true).ok())
            .collect();
        assert_eq!(places.len(), PER_ACCOUNT + 1);
    }
}
