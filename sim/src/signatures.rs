//! What spares a world of routers the work of their cryptography: signatures found good once need not be checked again by
//! another router, and, where a run asks for it, a keyed hash stands in for signatures and Diffie-Hellmans.

use std::{
    collections::HashSet,
    hash::{BuildHasherDefault, Hasher},
    sync::Mutex,
};

use router::{
    NodeId,
    config::{SignatureMemory, StandIn},
};

/// Signatures found good, for all routers of a world; in several parts, so that threads seldom wait for each other.
#[derive(Default)]
pub(crate) struct Checked([Mutex<Known>; PARTS]);

/// A keyed hash in the place of signatures and shared secrets: whoever has the key of the world could make any, and only this
/// module has it.
pub(crate) struct Quick([u8; 32]);

impl Quick {
    pub(crate) const fn new(key: [u8; 32]) -> Self {
        Self(key)
    }
}

impl StandIn for Quick {
    fn sign(&self, node: &NodeId, message: &[u8]) -> [u8; 64] {
        let mut sig = [0; 64];
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        hasher.update(node.as_bytes()).update(message);
        // As random as a signature: a hash of it is a hash of all of it.
        sig[..32].copy_from_slice(hasher.finalize().as_bytes());
        sig[32..].copy_from_slice(node.as_bytes());
        sig
    }

    fn agree(&self, one: &[u8; 32], other: &[u8; 32]) -> [u8; 32] {
        let (least, most) = (one.min(other), one.max(other));
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        hasher.update(b"agree").update(least).update(most);
        *hasher.finalize().as_bytes()
    }
}

impl SignatureMemory for Quick {
    fn is_known(&self, _: &[u8; 32]) -> bool {
        false
    }

    fn remember(&self, _: [u8; 32]) {}

    fn stand_in(&self) -> Option<&dyn StandIn> {
        Some(self)
    }
}

type Known = HashSet<[u8; 32], BuildHasherDefault<Prefix>>;

/// More than threads.
const PARTS: usize = 16;

impl Checked {
    fn part(&self, digest: &[u8; 32]) -> std::sync::MutexGuard<'_, Known> {
        self.0[usize::from(digest[31]) % PARTS].lock().expect("no panic under the lock")
    }
}

/// A digest is random enough to be its own hash.
#[derive(Default)]
struct Prefix(u64);

impl Hasher for Prefix {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        if let Some(head) = bytes.first_chunk::<8>() {
            self.0 ^= u64::from_le_bytes(*head);
        }
    }
}

/// More are forgotten; they are checked again then.
const CHECKED_MAX: usize = 4_000_000 / PARTS;

impl SignatureMemory for Checked {
    fn is_known(&self, digest: &[u8; 32]) -> bool {
        self.part(digest).contains(digest)
    }

    fn remember(&self, digest: [u8; 32]) {
        let mut known = self.part(&digest);
        if known.len() >= CHECKED_MAX {
            known.clear();
        }
        known.insert(digest);
    }
}
