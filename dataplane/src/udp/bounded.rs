//! A map of limited size. Where it is full, a new entry takes the place of an old one that was not used lately (second
//! chance): what is used again and again stays, whatever a flood of keys that are used once brings.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

/// The map.
#[derive(Debug)]
pub struct Bounded<K, V> {
    entries: HashMap<K, Entry<V>>,
    /// Keys by age, each with its entry's number. What it names may be gone.
    order: VecDeque<(K, u64)>,
    most: usize,
    next: u64,
}

#[derive(Debug)]
struct Entry<V> {
    value: V,
    number: u64,
    used: bool,
}

/// Names of entries that are gone which [`Bounded::order`] may hold beyond as many as there are entries.
const SLACK: usize = 64;

impl<K: Copy + Eq + Hash, V> Bounded<K, V> {
    /// An empty map for at most so many entries, but at least one.
    pub fn new(most: usize) -> Self {
        Self { entries: HashMap::new(), order: VecDeque::new(), most: most.max(1), next: 0 }
    }

    /// The value of this key, which counts as used.
    pub fn get(&mut self, key: &K) -> Option<&V> {
        self.entries.get_mut(key).map(|entry| {
            entry.used = true;
            &entry.value
        })
    }

    /// Adds a value, which counts as not used yet. Returns what has to leave for it: the value that the key had, or where
    /// there are too many an old one.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        let held = self.entries.remove(&key).map(|entry| entry.value);
        let out = if self.entries.len() >= self.most { self.evict() } else { None };
        self.entries.insert(key, Entry { value, number: self.next, used: false });
        self.order.push_back((key, self.next));
        self.next += 1;
        if self.order.len() > 2 * self.entries.len() + SLACK {
            let entries = &self.entries;
            self.order.retain(|(key, number)| entries.get(key).is_some_and(|entry| entry.number == *number));
        }
        held.or(out)
    }

    /// Takes out the values for which `gone` holds.
    pub fn take(&mut self, mut gone: impl FnMut(&K, &V) -> bool) -> Vec<V> {
        self.entries.extract_if(|key, entry| gone(key, &entry.value)).map(|(_, entry)| entry.value).collect()
    }

    /// Takes out the value of this key if `gone` holds for it.
    pub fn take_one(&mut self, key: &K, gone: impl FnOnce(&V) -> bool) -> Option<V> {
        self.entries.get(key).filter(|entry| gone(&entry.value))?;
        self.entries.remove(key).map(|entry| entry.value)
    }

    /// The oldest of those that were not used since it was their turn last. All of them get another turn, so two rounds
    /// find one.
    fn evict(&mut self) -> Option<V> {
        while let Some((key, number)) = self.order.pop_front() {
            let Some(entry) = self.entries.get_mut(&key).filter(|entry| entry.number == number) else { continue };
            if !std::mem::take(&mut entry.used) {
                return self.entries.remove(&key).map(|entry| entry.value);
            }
            self.order.push_back((key, number));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_used_outlives_a_flood_of_what_is_not() {
        let mut map = Bounded::new(8);
        for key in 0..4 {
            assert_eq!(map.insert(key, key), None);
        }
        for key in 100..10_000 {
            map.insert(key, key);
            assert!(map.entries.len() <= 8);
            assert!((0..4).all(|key| map.get(&key) == Some(&key)));
        }
        assert!(map.order.len() <= 2 * 8 + SLACK);
    }

    #[test]
    fn the_oldest_leaves_where_all_are_used() {
        let mut map = Bounded::new(3);
        (0..3).for_each(|key| _ = map.insert(key, key));
        (0..3).for_each(|key| _ = map.get(&key));
        assert_eq!(map.insert(3, 3), Some(0));
        assert_eq!(map.insert(1, 10), Some(1));
        assert_eq!(map.entries.len(), 3);
    }

    #[test]
    fn what_was_taken_out_leaves_nothing_behind() {
        let mut map = Bounded::new(4);
        for round in 0..1000 {
            map.insert(round, round);
            assert_eq!(map.take_one(&round, |_| false), None);
            assert_eq!(map.take_one(&round, |value| *value == round), Some(round));
            assert!(map.order.len() <= SLACK + 2);
        }
        (0..4).for_each(|key| _ = map.insert(key, key));
        assert_eq!(map.take(|_, value| *value < 2).len(), 2);
        assert_eq!(map.entries.len(), 2);
    }
}
