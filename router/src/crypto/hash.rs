//! Owns hashes and message authentication codes: BLAKE3 under names of their own.
use zeroize::Zeroizing;

/// A short authenticator under a key that only we know (cookies, store tokens). Compare with [`equal`].
pub fn mac(key: &[u8; 32], purpose: &str, parts: &[&[u8]]) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new_keyed(key);
    hasher.update(&(purpose.len() as u64).to_le_bytes()).update(purpose.as_bytes());
    for part in parts {
        hasher.update(&(part.len() as u64).to_le_bytes()).update(part);
    }
    let mut out = [0; 16];
    hasher.finalize_xof().fill(&mut out);
    out
}

/// Equality in constant time.
pub fn equal<const N: usize>(a: &[u8; N], b: &[u8; N]) -> bool {
    a.iter().zip(b).fold(0, |difference, (x, y)| difference | (x ^ y)) == 0
}

/// Two keys from a chaining key and fresh key material.
pub fn split(chain: &[u8; 32], material: &[u8]) -> (Zeroizing<[u8; 32]>, Zeroizing<[u8; 32]>) {
    let mut out = Zeroizing::new([0; 64]);
    blake3::Hasher::new_keyed(chain).update(material).finalize_xof().fill(&mut *out);
    let (mut first, mut second) = (Zeroizing::new([0; 32]), Zeroizing::new([0; 32]));
    first.copy_from_slice(&out[..32]);
    second.copy_from_slice(&out[32..]);
    (first, second)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mac_depends_on_key_purpose_and_the_cut_between_parts() {
        let made = mac(&[1; 32], "cookie", &[b"ab", b"c"]);
        assert_eq!(made, mac(&[1; 32], "cookie", &[b"ab", b"c"]));
        assert_ne!(made, mac(&[2; 32], "cookie", &[b"ab", b"c"]));
        assert_ne!(made, mac(&[1; 32], "token", &[b"ab", b"c"]));
        assert_ne!(made, mac(&[1; 32], "cookie", &[b"a", b"bc"]));
        assert!(equal(&made, &made.clone()));
        assert!(!equal(&made, &[0; 16]));
    }

    #[test]
    fn split_gives_two_different_keys() {
        let (a, b) = split(&[7; 32], b"material");
        assert_ne!(*a, *b);
        assert_ne!(*a, *split(&[7; 32], b"other").0);
    }
}
