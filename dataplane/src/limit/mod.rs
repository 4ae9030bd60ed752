//! Limits per client. Their state lives outside the routing table, so that a push refills no bucket.

mod connections;
mod rate;
mod registry;
mod table;

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::LazyLock;

pub use connections::{ConnectionCounters, ConnectionGuard};
pub use rate::RateBuckets;
pub use registry::LimiterRegistry;
pub use table::overflowed;

/// What a limit counts by, as a hash under a key that no client knows: nobody can aim at another's bucket. Never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key(u64);

static HASHER: LazyLock<RandomState> = LazyLock::new(RandomState::new);

impl Key {
    /// The key of a client's address. IPv6 counts by /64: a client owns all of it.
    pub fn of_address(address: IpAddr) -> Self {
        Self::of(&match address.to_canonical() {
            IpAddr::V4(address) => (4, u64::from(address.to_bits())),
            IpAddr::V6(address) => (6, (address.to_bits() >> 64) as u64),
        })
    }

    /// The key of a header's value. All requests without the header have one key, and so have all that repeat it: of several values
    /// a backend may take another than we do, and with the rest of them a client would choose its key.
    pub fn of_values<'v>(mut values: impl Iterator<Item = &'v [u8]>) -> Self {
        match (values.next(), values.next()) {
            (value, None) => Self::of(&(1, value)),
            _ => Self::of(&2),
        }
    }

    fn of(value: &impl std::hash::Hash) -> Self {
        Self(HASHER.hash_one(value).max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repeated_header_is_another_key_than_its_first_value() {
        let key = |values: &[&'static str]| Key::of_values(values.iter().map(|value| value.as_bytes()));
        assert!(key(&["a", "b"]) != key(&["a"]) && key(&["a", "b"]) != key(&["b"]) && key(&[]) != key(&[""]));
        assert_eq!(key(&["a", "b"]), key(&["c", "b"]), "no junk makes it a new one");
    }

    #[test]
    fn an_ipv6_client_is_its_network_and_a_mapped_one_is_ipv4() {
        let key = |address: &str| Key::of_address(address.parse().unwrap());
        assert_eq!(key("2001:db8::1"), key("2001:db8::ffff:2"));
        assert_ne!(key("2001:db8::1"), key("2001:db8:0:1::1"));
        assert_eq!(key("::ffff:192.0.2.1"), key("192.0.2.1"));
        assert_ne!(key("192.0.2.1"), key("192.0.2.2"));
    }
}
