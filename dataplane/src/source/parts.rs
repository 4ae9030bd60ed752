//! A batch, put together from its messages.

use prost::Message as _;
use snapshot::MAX_BATCH;
use snapshot::proto::Batch;

/// What has come of a batch so far.
#[derive(Debug)]
pub(super) struct Parts {
    collected: Option<Batch>,
    /// The largest batch that is taken, in bytes.
    limit: usize,
}

/// Parts that make no batch.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum PartError {
    #[error("a batch takes more than {0} bytes")]
    TooLarge(usize),
    #[error("a part of a batch is of another version than the one before")]
    Version,
}

impl Default for Parts {
    fn default() -> Self {
        Self { collected: None, limit: MAX_BATCH }
    }
}

impl Parts {
    /// Adds a part. Returns the batch when it is the last.
    ///
    /// # Errors
    /// The batch becomes too large, or the part belongs to another one.
    pub(super) fn add(&mut self, part: Batch) -> Result<Option<Batch>, PartError> {
        let more = part.more;
        let batch = match self.collected.take() {
            None => Batch { more: false, ..part },
            Some(batch) if batch.version != part.version => return Err(PartError::Version),
            Some(mut batch) => {
                batch.upserts.extend(part.upserts);
                batch.removals.extend(part.removals);
                batch
            }
        };
        if batch.encoded_len() > self.limit {
            return Err(PartError::TooLarge(self.limit));
        }
        if more {
            self.collected = Some(batch);
            return Ok(None);
        }
        Ok(Some(batch))
    }
}

#[cfg(test)]
mod tests {
    use snapshot::proto::{ResourceName, Upsert};

    use super::*;

    fn part(version: u8, name: &str, more: bool) -> Batch {
        let name = ResourceName { kind: 1, name: name.to_owned() };
        let upsert = Upsert { name: Some(name.clone()), resource: vec![7; 20] };
        Batch { version: vec![version; 16], upserts: vec![upsert], removals: vec![name], more }
    }

    #[test]
    fn parts_become_one_batch_and_the_next_begins_anew() {
        let mut parts = Parts::default();
        assert_eq!(parts.add(part(1, "a", true)), Ok(None));
        assert_eq!(parts.add(part(1, "b", true)), Ok(None));
        let batch = parts.add(part(1, "c", false)).unwrap().unwrap();
        assert!(!batch.more);
        let removed: Vec<_> = batch.removals.iter().map(|name| name.name.as_str()).collect();
        assert_eq!((removed, batch.upserts.len()), (vec!["a", "b", "c"], 3));
        assert_eq!(parts.add(part(2, "d", false)), Ok(Some(part(2, "d", false))));
    }

    #[test]
    fn what_grows_too_large_or_does_not_belong_together_is_refused() {
        let limit = part(1, "a", false).encoded_len();
        let mut parts = Parts { limit, ..Parts::default() };
        assert_eq!(parts.add(part(1, "a", true)), Ok(None));
        assert_eq!(parts.add(part(1, "b", true)), Err(PartError::TooLarge(limit)));

        let mut parts = Parts::default();
        assert_eq!(parts.add(part(1, "a", true)), Ok(None));
        assert_eq!(parts.add(part(2, "b", false)), Err(PartError::Version));
    }
}
