//! TLS session tickets that every replica can open: AES-256-GCM under keys from the snapshot.
//!
//! A ticket is `key name (8) | salt (32) | sealed session`. The session is bound to what was asked of the client: a ticket
//! from where nothing was asked opens nowhere else. Each ticket is sealed under a key of its own, derived from
//! the shared key and the salt, so that replicas that never speak with each other cannot repeat a nonce.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use aws_lc_rs::aead;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::server::ProducesTickets;
use snapshot::{ClientValidation, Secret};

const NAME: usize = 8;
const SALT: usize = 32;

/// How long a client may keep a ticket, in seconds. The controller makes a new key every 12 h and keeps one for 36 h, so that each
/// outlives its last ticket.
const LIFETIME: u32 = 12 * 60 * 60;

/// The present ticket keys, newest first.
#[derive(Default)]
pub struct TicketKeys(ArcSwap<Vec<Key>>);

struct Key {
    name: [u8; NAME],
    secret: [u8; 32],
}

impl TicketKeys {
    /// Replaces the keys; those that stay keep opening their tickets.
    pub fn store(&self, keys: &[Secret]) {
        self.0.store(Arc::new(keys.iter().map(Key::new).collect()));
    }
}

impl Key {
    fn new(secret: &Secret) -> Self {
        let mut name = [0; NAME];
        name.copy_from_slice(&blake3::derive_key("sluice 2026 ticket key name", secret.expose())[..NAME]);
        Self { name, secret: blake3::derive_key("sluice 2026 ticket key", secret.expose()) }
    }

    fn sealing(&self, salt: &[u8]) -> Option<aead::LessSafeKey> {
        let derived = blake3::keyed_hash(&self.secret, salt);
        aead::UnboundKey::new(&aead::AES_256_GCM, derived.as_bytes()).ok().map(aead::LessSafeKey::new)
    }
}

impl fmt::Debug for TicketKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TicketKeys({})", self.0.load().len())
    }
}

/// What is asked of clients in a handshake, as a hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Scope([u8; 32]);

impl Scope {
    /// That of a listener's setting.
    pub fn of(validation: Option<&ClientValidation>) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("sluice 2026 ticket scope");
        match validation {
            None => _ = hasher.update(&[0]),
            Some(ClientValidation::Requested) => _ = hasher.update(&[1]),
            Some(ClientValidation::Required(authorities)) => {
                hasher.update(&[2]);
                for authority in authorities {
                    hasher.update(&(authority.len() as u64).to_be_bytes());
                    hasher.update(authority);
                }
            }
        }
        Self(hasher.finalize().into())
    }
}

/// Tickets for the sessions of one scope.
pub struct Tickets {
    keys: Arc<TicketKeys>,
    scope: Scope,
}

impl Tickets {
    /// Under the present keys.
    pub fn new(keys: Arc<TicketKeys>, scope: Scope) -> Self {
        Self { keys, scope }
    }

    fn bound_to(&self, key: &Key) -> aead::Aad<[u8; NAME + 32]> {
        let mut bound = [0; NAME + 32];
        bound[..NAME].copy_from_slice(&key.name);
        bound[NAME..].copy_from_slice(&self.scope.0);
        aead::Aad::from(bound)
    }
}

impl fmt::Debug for Tickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.keys.fmt(f)
    }
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        !self.keys.0.load().is_empty()
    }

    fn lifetime(&self) -> u32 {
        LIFETIME
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let keys = self.keys.0.load();
        let key = keys.first()?;
        let mut salt = [0; SALT];
        default_provider().secure_random.fill(&mut salt).ok()?;
        let mut sealed = plain.to_vec();
        // A zero nonce is safe: no two tickets share a derived key.
        let nonce = aead::Nonce::assume_unique_for_key([0; aead::NONCE_LEN]);
        key.sealing(&salt)?.seal_in_place_append_tag(nonce, self.bound_to(key), &mut sealed).ok()?;
        let mut ticket = Vec::with_capacity(NAME + SALT + sealed.len());
        ticket.extend_from_slice(&key.name);
        ticket.extend_from_slice(&salt);
        ticket.extend_from_slice(&sealed);
        Some(ticket)
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        let (name, rest) = ticket.split_at_checked(NAME)?;
        let (salt, sealed) = rest.split_at_checked(SALT)?;
        let keys = self.keys.0.load();
        let key = keys.iter().find(|key| key.name == name)?;
        let mut plain = sealed.to_vec();
        let nonce = aead::Nonce::assume_unique_for_key([0; aead::NONCE_LEN]);
        let length = key.sealing(salt)?.open_in_place(nonce, self.bound_to(key), &mut plain).ok()?.len();
        plain.truncate(length);
        Some(plain)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(secrets: &[u8]) -> Tickets {
        scoped(secrets, None)
    }

    fn scoped(secrets: &[u8], validation: Option<&ClientValidation>) -> Tickets {
        let keys = TicketKeys::default();
        keys.store(&secrets.iter().map(|byte| Secret::new(vec![*byte; 32])).collect::<Vec<_>>());
        Tickets::new(Arc::new(keys), Scope::of(validation))
    }

    #[test]
    fn a_ticket_opens_only_where_the_same_is_asked_of_clients() {
        let asked = [
            None,
            Some(ClientValidation::Requested),
            Some(ClientValidation::Required(vec![vec![1], vec![2]])),
            Some(ClientValidation::Required(vec![vec![1, 2]])),
            Some(ClientValidation::Required(vec![vec![1]])),
        ];
        for (here, one) in asked.iter().enumerate() {
            let ticket = scoped(&[1], one.as_ref()).encrypt(b"session").unwrap();
            for (there, other) in asked.iter().enumerate() {
                assert_eq!(
                    scoped(&[1], other.as_ref()).decrypt(&ticket).is_some(),
                    here == there,
                    "{one:?}, {other:?}"
                );
            }
        }
    }

    #[test]
    fn a_replica_with_the_same_keys_opens_a_ticket_even_after_a_rotation() {
        let ticket = keys(&[1]).encrypt(b"session").unwrap();
        assert_eq!(keys(&[1]).decrypt(&ticket).unwrap(), b"session");
        assert_eq!(keys(&[2, 1]).decrypt(&ticket).unwrap(), b"session");
        assert_eq!(keys(&[2]).decrypt(&ticket), None);
    }

    #[test]
    fn a_ticket_that_was_touched_is_refused() {
        let keys = keys(&[1]);
        let ticket = keys.encrypt(b"session").unwrap();
        for at in 0..ticket.len() {
            let mut touched = ticket.clone();
            touched[at] ^= 1;
            assert_eq!(keys.decrypt(&touched), None, "byte {at}");
        }
        assert_eq!(keys.decrypt(b"short"), None);
    }

    #[test]
    fn without_keys_there_are_no_tickets() {
        assert!(!keys(&[]).enabled());
        assert_eq!(keys(&[]).encrypt(b"session"), None);
    }
}
