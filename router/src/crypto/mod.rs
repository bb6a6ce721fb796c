//! Owns the primitives: a node's key and what is signed with it, Diffie-Hellman, the AEAD, hashes, randomness.
//!
//! Nothing here knows a protocol. What is secret is wiped when dropped and never shown.
pub mod aead;
pub mod hash;
pub mod keys;

pub use aead::{AeadKey, OpenError, TAG_LEN};
pub use keys::{BadKey, BadSignature, DhPublic, DhSecret, SecretKey, Shared, domain};

/// Randomness from outside: the operating system's generator in a node, a seeded one in the simulator and in tests.
pub trait Entropy: Send {
    /// Fills the whole buffer.
    fn fill(&mut self, out: &mut [u8]);
}

impl<E: Entropy + ?Sized> Entropy for Box<E> {
    fn fill(&mut self, out: &mut [u8]) {
        (**self).fill(out);
    }
}

/// An array of random bytes.
pub fn random<const N: usize>(entropy: &mut dyn Entropy) -> [u8; N] {
    let mut out = [0; N];
    entropy.fill(&mut out);
    out
}
