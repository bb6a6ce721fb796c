//! Recovery words: the rank-0 keys of an account, present and next, derived by index.

use bip39::Mnemonic;
use ed25519_dalek::SigningKey;
use zeroize::Zeroizing;

use super::entry::{SignPub, Tagged};

/// 128 bits: twelve words.
const ENTROPY_LEN: usize = 16;
/// Context of the derivation; never changes, or old words stop working.
const CONTEXT: &str = "mangrove 2026-01 account recovery key";

/// The words. Whoever has them can overrule every other key of the account.
pub struct RecoveryWords(Mnemonic);

impl RecoveryWords {
    /// New words from the operating system's generator.
    pub fn generate() -> Result<Self, RecoveryError> {
        let mut entropy = Zeroizing::new([0; ENTROPY_LEN]);
        getrandom::fill(&mut *entropy).map_err(|_| RecoveryError::Random)?;
        Mnemonic::from_entropy(&*entropy).map(Self).map_err(|_| RecoveryError::Words)
    }

    /// Reads words that somebody typed: any case, any white space between them.
    pub fn parse(text: &str) -> Result<Self, RecoveryError> {
        let text = Zeroizing::new(text.split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase());
        Mnemonic::parse_normalized(&text).map(Self).map_err(|_| RecoveryError::Words)
    }

    /// The words, separated by blanks.
    pub fn text(&self) -> Zeroizing<String> {
        Zeroizing::new(self.0.words().collect::<Vec<_>>().join(" "))
    }

    /// The rank-0 key number `index`: 0 signs the inception, 1 is promised there, and so on.
    pub fn key(&self, index: u32) -> SigningKey {
        let seed = Zeroizing::new(self.0.to_seed_normalized(""));
        let mut material = Zeroizing::new([0; 68]);
        material[..64].copy_from_slice(&*seed);
        material[64..].copy_from_slice(&index.to_le_bytes());
        SigningKey::from_bytes(&Zeroizing::new(blake3::derive_key(CONTEXT, &*material)))
    }

    /// Public part of [`Self::key`].
    pub fn public(&self, index: u32) -> SignPub {
        Tagged(self.key(index).verifying_key().to_bytes())
    }
}

/// Why there are no recovery words.
#[derive(Debug, Clone, Copy, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum RecoveryError {
    /// The operating system gave no randomness.
    #[error("the operating system's random generator does not answer")]
    Random,
    /// Not words of the list, or their check sum is wrong.
    #[error("these are not recovery words: twelve words of the English BIP 39 list, in order")]
    Words,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_give_the_same_keys_for_ever() {
        let words = RecoveryWords::parse(
            "Abandon abandon abandon  abandon abandon abandon abandon abandon abandon abandon abandon about",
        )
        .unwrap();
        assert_eq!(words.text().split(' ').count(), 12);
        // A stored form: if this changes, people's words no longer open their accounts.
        assert_eq!(words.public(0).to_string(), "ed25519:17SXP9la9EK2TmPE40+aI/RqG+q3f5PnZH58drwYhyY");
        assert_ne!(words.public(0), words.public(1));
        let again = RecoveryWords::parse(&words.text()).unwrap();
        assert_eq!(again.public(7), words.public(7));
    }

    #[test]
    fn wrong_words_are_refused() {
        assert!(RecoveryWords::parse("abandon ability").is_err());
        assert!(RecoveryWords::parse("").is_err());
    }
}
