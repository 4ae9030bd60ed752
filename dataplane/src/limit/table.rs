//! The memory of a limiter: little while few clients are on its mind at once, and bounded under a flood of them.

use std::sync::OnceLock;

use super::Key;

/// Slots in a set; a key may be in any of them.
const WAYS: usize = 8;
/// Slots of the first part: 512. They are there as soon as the limiter is used.
const FEW: usize = 64 * WAYS;
/// Slots of the second part: 8,192. They are there once a set of the first part was too small.
const MANY: usize = 1024 * WAYS;

/// Two parts of slots, each of which has one set for a key. Nothing moves when the second part comes, so no slot is ever
/// lost or locked by it. It stays as long as the limiter: whoever needed it once is likely to need it again.
#[derive(Debug)]
pub(super) struct Table<T> {
    few: OnceLock<Box<[T]>>,
    many: OnceLock<Box<[T]>>,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self { few: OnceLock::new(), many: OnceLock::new() }
    }
}

impl<T: Default> Table<T> {
    /// The slots where a key can be, with the index of each.
    pub(super) fn slots(&self, key: Key) -> impl Iterator<Item = (usize, &T)> {
        let few = self.few.get_or_init(|| slots(FEW));
        let many = self.many.get().map(AsRef::as_ref).unwrap_or_default();
        set(few, key, FEW, 0).chain(set(many, key, MANY, FEW))
    }

    /// The slot of this index.
    pub(super) fn slot(&self, index: usize) -> Option<&T> {
        match index.checked_sub(FEW) {
            None => self.few.get()?.get(index),
            Some(index) => self.many.get()?.get(index),
        }
    }

    /// Adds the second part. Returns whether there was none, so that a look at [`Self::slots`] shows more now.
    pub(super) fn grow(&self) -> bool {
        let small = self.is_small();
        self.many.get_or_init(|| slots(MANY));
        small
    }

    /// Whether there is the first part only.
    pub(super) fn is_small(&self) -> bool {
        self.many.get().is_none()
    }
}

fn slots<T: Default>(count: usize) -> Box<[T]> {
    std::iter::repeat_with(T::default).take(count).collect()
}

/// The key's set in a part of `count` slots or none; `offset` is the index of the first slot.
fn set<T>(part: &[T], key: Key, count: usize, offset: usize) -> impl Iterator<Item = (usize, &T)> {
    let first = key.0 as usize % (count / WAYS) * WAYS;
    (offset + first..).zip(part.get(first..first + WAYS).unwrap_or_default())
}
