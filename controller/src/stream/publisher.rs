//! What is offered to data planes, and what they acknowledge.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::metrics::counter::Counter;
use snapshot::{Hash, Snapshot};
use tokio::sync::watch;
use translate::DataPlane;

use super::bounds::Bounds;
use super::{Acks, ServiceAccount};

/// Where snapshots are published and acknowledgements are read. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub struct Publisher {
    published: Arc<watch::Sender<Option<Arc<Published>>>>,
    acks: Arc<watch::Sender<Acks>>,
    sessions: Arc<AtomicU64>,
    bounds: Bounds,
}

/// One state of everything that is offered.
#[derive(Debug)]
pub(super) struct Published {
    number: u64,
    offers: BTreeMap<DataPlane, Offer>,
    identities: BTreeMap<ServiceAccount, DataPlane>,
}

/// A snapshot with its version.
#[derive(Clone, Debug)]
pub(super) struct Offer {
    pub(super) snapshot: Arc<Snapshot>,
    pub(super) version: Hash,
}

impl Published {
    /// The data plane that an account speaks for.
    pub(super) fn data_plane(&self, account: &ServiceAccount) -> Option<&DataPlane> {
        self.identities.get(account)
    }

    pub(super) fn offer(&self, data_plane: &DataPlane) -> Option<&Offer> {
        self.offers.get(data_plane)
    }
}

impl Publisher {
    /// Nothing is published yet, and data planes wait. Counts sessions that are `refused` because there are too many.
    pub fn new(refused: Counter) -> Self {
        Self {
            published: Arc::new(watch::Sender::new(None)),
            acks: Arc::new(watch::Sender::new(Acks::default())),
            sessions: Arc::default(),
            bounds: Bounds::new(refused),
        }
    }

    /// Offers these snapshots, each to the data planes whose account is mapped to it. Sessions whose snapshot has the version
    /// that it had send nothing; sessions of accounts that are no longer mapped to the same data plane end.
    ///
    /// Returns the publication's number, for [`Acks::programmed`]; each is larger than all before.
    pub fn publish(
        &self,
        snapshots: BTreeMap<DataPlane, Arc<Snapshot>>,
        identities: BTreeMap<ServiceAccount, DataPlane>,
    ) -> u64 {
        let mut published = None;
        self.published.send_modify(|current| {
            let number = current.as_ref().map_or(1, |before| before.number + 1);
            let offers = snapshots
                .into_iter()
                .map(|(data_plane, snapshot)| {
                    let before = current.as_ref().and_then(|before| before.offer(&data_plane));
                    let offer = match before.filter(|before| Arc::ptr_eq(&before.snapshot, &snapshot)) {
                        Some(before) => before.clone(),
                        None => Offer { version: snapshot.version(), snapshot },
                    };
                    (data_plane, offer)
                })
                .collect();
            let next = Arc::new(Published { number, offers, identities });
            // Noted before any session can send it, so that no ack is of a version that is not known here.
            let versions = next.offers.iter().map(|(data_plane, offer)| (data_plane, offer.version));
            self.acks.send_modify(|acks| acks.published(number, versions));
            published = Some(number);
            *current = Some(next);
        });
        published.unwrap_or_default()
    }

    /// What the connected data planes run, now and whenever it changes.
    pub fn acks(&self) -> watch::Receiver<Acks> {
        self.acks.subscribe()
    }

    pub(super) fn bounds(&self) -> &Bounds {
        &self.bounds
    }

    pub(super) fn watch(&self) -> watch::Receiver<Option<Arc<Published>>> {
        self.published.subscribe()
    }

    pub(super) fn update_acks(&self, update: impl FnOnce(&mut Acks)) {
        self.acks.send_modify(update);
    }

    /// Numbers sessions in the order in which they began.
    pub(super) fn next_session(&self) -> u64 {
        self.sessions.fetch_add(1, Ordering::Relaxed)
    }
}
