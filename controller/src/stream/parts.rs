//! A batch, cut into messages.

use std::collections::VecDeque;
use std::time::Duration;

use prost::Message as _;
use snapshot::{Batch, MAX_BATCH, MAX_MESSAGE, ResourceId, proto};

/// Room in bytes for what a message holds beside upserts and removals, and for the tag and length of each of these.
const HEAD: usize = 64;
const ITEM_HEAD: usize = 8;

/// A connection without a caller that is let in is closed after so long: anybody who reaches the port may open one.
const UNUSED: Duration = Duration::from_secs(10);

/// How much may be sent, in bytes, and how long a connection may be of no use.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// In one message.
    pub(super) message: usize,
    /// In all messages of a batch.
    pub(super) batch: usize,
    /// Without a caller that is let in.
    pub(super) unused: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { message: MAX_MESSAGE, batch: MAX_BATCH, unused: UNUSED }
    }
}

/// A batch that cannot be sent.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum TooLarge {
    #[error("it takes {size} bytes, and a data plane takes {limit} at once")]
    Batch { size: usize, limit: usize },
    #[error("{id} alone takes {size} bytes, and a message has room for {limit}")]
    Resource { id: ResourceId, size: usize, limit: usize },
}

/// The messages of a batch, in order; at least one.
///
/// # Errors
/// The batch or one of its resources is too large.
pub(super) fn cut(batch: &Batch, limits: Limits) -> Result<VecDeque<proto::Batch>, TooLarge> {
    let whole = proto::Batch::from(batch);
    let size = whole.encoded_len();
    if size > limits.batch {
        return Err(TooLarge::Batch { size, limit: limits.batch });
    }
    let mut parts = Parts::new(whole.version, limits.message);
    for (name, id) in whole.removals.into_iter().zip(&batch.removals) {
        parts.with_room(name.encoded_len(), id)?.removals.push(name);
    }
    for (upsert, (id, _)) in whole.upserts.into_iter().zip(&batch.upserts) {
        parts.with_room(upsert.encoded_len(), id)?.upserts.push(upsert);
    }
    parts.full.push_back(parts.last);
    Ok(parts.full)
}

struct Parts {
    full: VecDeque<proto::Batch>,
    last: proto::Batch,
    /// Of a message, and what is left of it in the last one.
    capacity: usize,
    room: usize,
}

impl Parts {
    fn new(version: Vec<u8>, message: usize) -> Self {
        let capacity = message.saturating_sub(HEAD);
        let last = proto::Batch { version, ..proto::Batch::default() };
        Self { full: VecDeque::new(), last, capacity, room: capacity }
    }

    /// The part that an item of this size, in bytes, goes to.
    fn with_room(&mut self, size: usize, id: &ResourceId) -> Result<&mut proto::Batch, TooLarge> {
        let taken = size + ITEM_HEAD;
        if taken > self.capacity {
            return Err(TooLarge::Resource { id: id.clone(), size, limit: self.capacity });
        }
        if taken > self.room {
            let next = proto::Batch { version: self.last.version.clone(), ..proto::Batch::default() };
            self.full.push_back(proto::Batch { more: true, ..std::mem::replace(&mut self.last, next) });
            self.room = self.capacity;
        }
        self.room -= taken;
        Ok(&mut self.last)
    }
}

#[cfg(test)]
mod tests {
    use snapshot::proto::server_message;
    use snapshot::{Endpoints, Kind, Resource, Snapshot, diff};

    use super::*;

    const LIMITS: Limits = Limits { message: 400, batch: 4000, unused: UNUSED };

    fn snapshot(names: std::ops::Range<u16>) -> Snapshot {
        let mut snapshot = Snapshot::default();
        for number in names {
            let endpoints = Endpoints::Dns { name: "shop.example".into(), port: number };
            snapshot.insert(format!("shop-{number:04}"), Resource::Endpoints(endpoints));
        }
        snapshot
    }

    #[test]
    fn the_parts_are_the_batch_and_each_fits_into_a_message() {
        let (old, new) = (snapshot(0..40), snapshot(30..60));
        let batch = diff(old.held(), &new);
        let parts = cut(&batch, LIMITS).unwrap();
        assert!(parts.len() > 3, "{}", parts.len());
        let more: Vec<bool> = parts.iter().map(|part| part.more).collect();
        assert!(more[..more.len() - 1].iter().all(|more| *more) && !more[more.len() - 1], "{more:?}");
        let mut whole = proto::Batch { version: batch.version.into(), ..Default::default() };
        for part in parts {
            assert_eq!(part.version, whole.version);
            let message = server_message::Message::Batch(part.clone());
            let size = proto::ServerMessage { message: Some(message) }.encoded_len();
            assert!(size <= LIMITS.message, "{size}");
            whole.removals.extend(part.removals);
            whole.upserts.extend(part.upserts);
        }
        assert_eq!(whole, proto::Batch::from(&batch));
    }

    #[test]
    fn a_batch_that_fits_is_one_message_even_when_it_is_empty() {
        for new in [snapshot(0..3), Snapshot::default()] {
            let batch = diff(std::iter::empty(), &new);
            assert_eq!(cut(&batch, LIMITS).unwrap(), [proto::Batch::from(&batch)]);
        }
    }

    #[test]
    fn what_is_too_large_is_said_with_its_size() {
        let large = diff(std::iter::empty(), &snapshot(0..500));
        let size = proto::Batch::from(&large).encoded_len();
        assert_eq!(cut(&large, LIMITS), Err(TooLarge::Batch { size, limit: LIMITS.batch }));

        let mut snapshot = snapshot(0..3);
        snapshot.insert("long", Resource::Endpoints(Endpoints::Dns { name: "a".repeat(500), port: 1 }));
        match cut(&diff(std::iter::empty(), &snapshot), LIMITS) {
            Err(TooLarge::Resource { id, size, .. }) => {
                assert_eq!(id, ResourceId::new(Kind::Endpoints, "long"));
                assert!(size > 500);
            }
            other => panic!("{other:?}"),
        }
    }
}
