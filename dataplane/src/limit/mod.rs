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

    /// The key of a header's value; `None` is the key of all requests without the header.
    pub fn of_value(value: Option<&[u8]>) -> Self {
        Self::of(&value)
    }

    fn of(value: &impl std::hash::Hash) -> Self {
        Self(HASHER.hash_one(value).max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv6_client_is_its_network_and_a_mapped_one_is_ipv4() {
        let key = |address: &str| Key::of_address(address.parse().unwrap());
        assert_eq!(key("2001:db8::1"), key("2001:db8::ffff:2"));
        assert_ne!(key("2001:db8::1"), key("2001:db8:0:1::1"));
        assert_eq!(key("::ffff:192.0.2.1"), key("192.0.2.1"));
        assert_ne!(key("192.0.2.1"), key("192.0.2.2"));
    }
}
