//! Signatures found good once need not be checked again by another router of the same world.

use std::{
    collections::HashSet,
    hash::{BuildHasherDefault, Hasher},
    sync::Mutex,
};

/// Signatures found good, for all routers of a world.
#[derive(Default)]
pub(crate) struct Checked(Mutex<HashSet<[u8; 32], BuildHasherDefault<Prefix>>>);

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
const CHECKED_MAX: usize = 2_000_000;

impl router::config::SignatureMemory for Checked {
    fn is_known(&self, digest: &[u8; 32]) -> bool {
        self.0.lock().expect("no panic under the lock").contains(digest)
    }

    fn remember(&self, digest: [u8; 32]) {
        let mut known = self.0.lock().expect("no panic under the lock");
        if known.len() >= CHECKED_MAX {
            known.clear();
        }
        known.insert(digest);
    }
}
