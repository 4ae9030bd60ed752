//! The memory of a limiter: little while few clients are on its mind at once, and bounded under a flood of them.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::Key;

/// Slots in a set; a key may be in any of them.
const WAYS: usize = 8;
/// Slots of each part, the first of which is there as soon as the limiter is used; another one comes when a set was too small.
const PARTS: [usize; 3] = [64 * WAYS, 1024 * WAYS, 8192 * WAYS];
/// Slots that keys share for which there is no other.
const SHARED: usize = 64;

/// Requests, of all limiters, that were counted together with those of other keys.
static OVERFLOWED: AtomicU64 = AtomicU64::new(0);

/// See [`Table::shared`].
pub fn overflowed() -> u64 {
    OVERFLOWED.load(Relaxed)
}

/// Parts of slots, each of which has one set for a key. Nothing moves when a part comes, so no slot is ever lost or locked by it.
/// It stays as long as the limiter: whoever needed it once is likely to need it again.
#[derive(Debug)]
pub(super) struct Table<T> {
    parts: [OnceLock<Box<[T]>>; PARTS.len()],
    shared: OnceLock<Box<[T]>>,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self { parts: Default::default(), shared: OnceLock::new() }
    }
}

impl<T: Default> Table<T> {
    /// The slots where a key can be, with the index of each.
    pub(super) fn slots(&self, key: Key) -> impl Iterator<Item = (usize, &T)> {
        self.parts[0].get_or_init(|| slots(PARTS[0]));
        let parts = self.parts.iter().enumerate().filter_map(|(part, slots)| Some((part, slots.get()?)));
        parts.flat_map(move |(part, slots)| {
            let first = key.0 as usize % (PARTS[part] / WAYS) * WAYS;
            (offset(part) + first..).zip(slots.get(first..first + WAYS).unwrap_or_default())
        })
    }

    /// The slot that a key shares with others where all of its own are in use; counts that.
    pub(super) fn shared(&self, key: Key) -> (usize, &T) {
        OVERFLOWED.fetch_add(1, Relaxed);
        let slots = self.shared.get_or_init(|| slots(SHARED));
        let index = key.0 as usize % SHARED;
        (offset(PARTS.len()) + index, &slots[index])
    }

    /// The slot of this index.
    pub(super) fn slot(&self, index: usize) -> Option<&T> {
        if let Some(index) = index.checked_sub(offset(PARTS.len())) {
            return self.shared.get()?.get(index);
        }
        let part = (0..PARTS.len()).rev().find(|part| index >= offset(*part))?;
        self.parts[part].get()?.get(index - offset(part))
    }

    /// Adds a part. Returns whether there is one more now, so that a look at [`Self::slots`] shows more.
    pub(super) fn grow(&self) -> bool {
        let mut parts = self.parts.iter().zip(PARTS);
        let Some((part, count)) = parts.find(|(part, _)| part.get().is_none()) else { return false };
        part.get_or_init(|| slots(count));
        true
    }

    /// Whether there is the first part only.
    #[cfg(test)]
    pub(super) fn is_small(&self) -> bool {
        self.parts[1].get().is_none()
    }
}

/// The index of a part's first slot.
fn offset(part: usize) -> usize {
    PARTS.iter().take(part).sum()
}

fn slots<T: Default>(count: usize) -> Box<[T]> {
    std::iter::repeat_with(T::default).take(count).collect()
}
