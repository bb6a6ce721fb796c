//! Owns the AEAD: ChaCha20-Poly1305 (RFC 8439) by `ring` or, without that feature, by RustCrypto. In place, without
//! allocation; both make the same bytes.
#[cfg(feature = "ring")]
mod ring;
#[cfg(any(not(feature = "ring"), test))]
mod rustcrypto;

#[cfg(feature = "ring")]
use self::ring as backend;
#[cfg(not(feature = "ring"))]
use rustcrypto as backend;

use std::fmt;

/// Bytes that sealing adds.
pub const TAG_LEN: usize = 16;

/// A key for sealing or opening. Each (key, nonce) seals once.
pub struct AeadKey(backend::Key);

impl AeadKey {
    /// From 32 secret bytes.
    pub fn new(key: &[u8; 32]) -> Self {
        Self(backend::Key::new(key))
    }

    /// Encrypts `text` in place and gives its tag, which also covers `aad`.
    pub fn seal(&self, nonce: u64, aad: &[u8], text: &mut [u8]) -> [u8; TAG_LEN] {
        self.0.seal(nonce_bytes(nonce), aad, text)
    }

    /// Decrypts `sealed`, text and tag behind it, in place and gives the text. On an error its content is unspecified.
    pub fn open<'a>(&self, nonce: u64, aad: &[u8], sealed: &'a mut [u8]) -> Result<&'a mut [u8], OpenError> {
        self.0.open(nonce_bytes(nonce), aad, sealed)
    }
}

impl fmt::Debug for AeadKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AeadKey(..)")
    }
}

/// The tag does not fit: another key, nonce, text or context.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the seal does not hold")]
pub struct OpenError;

/// Four zero bytes, then the counter, little-endian.
fn nonce_bytes(nonce: u64) -> [u8; 12] {
    let mut bytes = [0; 12];
    bytes[4..].copy_from_slice(&nonce.to_le_bytes());
    bytes
}

#[cfg(test)]
mod tests;
