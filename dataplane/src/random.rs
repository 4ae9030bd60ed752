//! Cheap random numbers for balancing, weights and identifiers. Not for secrets.

use std::cell::Cell;
use std::hash::{BuildHasher, RandomState};

thread_local! {
    // The standard library seeds its hasher from the operating system once per thread; one hash of it is our seed.
    static STATE: Cell<u64> = Cell::new(RandomState::new().hash_one(std::thread::current().id()));
}

/// 64 random bits (SplitMix64, one state per thread).
pub fn bits() -> u64 {
    STATE.with(|state| {
        let next = state.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        state.set(next);
        mix(next)
    })
}

/// A number below `bound`, or 0 when `bound` is 0.
pub fn below(bound: u64) -> u64 {
    scale(bits(), bound)
}

/// What 64 random bits become as a number below `bound`, or 0 when `bound` is 0.
pub(crate) fn scale(bits: u64, bound: u64) -> u64 {
    // The high half of the product is uniform up to bound / 2^64, far below what a balancer can notice.
    ((u128::from(bits) * u128::from(bound)) >> 64) as u64
}

/// 32 hexadecimal digits.
pub fn hex() -> [u8; 32] {
    to_hex((u128::from(bits()) << 64 | u128::from(bits())).to_be_bytes())
}

/// The bytes as lower-case hexadecimal digits.
pub(crate) fn to_hex(bytes: [u8; 16]) -> [u8; 32] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut hex = [0; 32];
    for (pair, byte) in hex.chunks_exact_mut(2).zip(bytes) {
        pair[0] = DIGITS[usize::from(byte >> 4)];
        pair[1] = DIGITS[usize::from(byte & 15)];
    }
    hex
}

/// Spreads every bit of `value` over the whole result.
pub(crate) fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn below_stays_below_and_reaches_everything() {
        let mut seen = [0; 5];
        for _ in 0..1000 {
            seen[below(5) as usize] += 1;
        }
        assert!(seen.iter().all(|&count| count > 100), "{seen:?}");
        assert_eq!(below(0), 0);
    }

    #[test]
    fn hex_is_hex_and_new_each_time() {
        let (one, other) = (hex(), hex());
        assert!(one.iter().all(u8::is_ascii_hexdigit));
        assert_ne!(one, other);
    }
}
