//! Goal: one cipher, whichever crate computes it. Method: RFC 8439 vectors for both, then random texts through one and
//! back through the other.
use super::rustcrypto;
use super::*;
use proptest::prelude::*;

// RFC 8439, section 2.8.2.
const KEY: [u8; 32] = [
    0x80, 0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8a, 0x8b, 0x8c, 0x8d, 0x8e, 0x8f, 0x90,
    0x91, 0x92, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99, 0x9a, 0x9b, 0x9c, 0x9d, 0x9e, 0x9f,
];
const NONCE: [u8; 12] = [0x07, 0, 0, 0, 0x40, 0x41, 0x42, 0x43, 0x44, 0x45, 0x46, 0x47];
const AAD: [u8; 12] = [0x50, 0x51, 0x52, 0x53, 0xc0, 0xc1, 0xc2, 0xc3, 0xc4, 0xc5, 0xc6, 0xc7];
const TEXT: &[u8] = b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the \
future, sunscreen would be it.";
const SEALED: &str = "d31a8d34648e60db7b86afbc53ef7ec2a4aded51296e08fea9e2b5a736ee62d63dbea45e8ca9671282fafb69\
da92728b1a71de0a9e060b2905d6a5b67ecd3b3692ddbd7f2d778b8c9803aee328091b58fab324e4fad675945585808b4831d7bc3ff4def0\
8e4b7a9de576d26586cec64b6116";
const TAG: &str = "1ae10b594f09e26a7e902ecbd0600691";

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

macro_rules! vector_test {
    ($name:ident, $key:path) => {
        #[test]
        fn $name() {
            let key = <$key>::new(&KEY);
            let mut text = TEXT.to_vec();
            let tag = key.seal(NONCE, &AAD, &mut text);
            assert_eq!(hex(&text), SEALED);
            assert_eq!(hex(&tag), TAG);
            text.extend_from_slice(&tag);
            assert_eq!(key.open(NONCE, &AAD, &mut text.clone()).unwrap(), TEXT);
            text[3] ^= 1;
            assert_eq!(key.open(NONCE, &AAD, &mut text), Err(OpenError));
            assert_eq!(key.open(NONCE, &AAD, &mut [0; 15]), Err(OpenError));
        }
    };
}
vector_test!(rfc_8439_by_rustcrypto, rustcrypto::Key);
#[cfg(feature = "ring")]
vector_test!(rfc_8439_by_ring, ring::Key);

proptest! {
    #[test]
    fn what_one_seals_the_other_opens(
        key: [u8; 32],
        nonce: u64,
        aad in proptest::collection::vec(any::<u8>(), 0..40),
        text in proptest::collection::vec(any::<u8>(), 0..3000),
        bit in 0usize..8,
    ) {
        let (one, other) = (AeadKey::new(&key), rustcrypto::Key::new(&key));
        let mut a = text.clone();
        let mut b = text.clone();
        let tag = one.seal(nonce, &aad, &mut a);
        prop_assert_eq!(tag, other.seal(nonce_bytes(nonce), &aad, &mut b));
        prop_assert_eq!(&a, &b);
        a.extend_from_slice(&tag);
        let mut copy = a.clone();
        prop_assert_eq!(&*other.open(nonce_bytes(nonce), &aad, &mut copy).unwrap(), &text[..]);
        let mut broken = a.clone();
        let at = broken.len() / 2;
        broken[at] ^= 1 << bit;
        let mut again = broken.clone();
        prop_assert_eq!(one.open(nonce, &aad, &mut again), Err(OpenError));
        prop_assert_eq!(other.open(nonce_bytes(nonce), &aad, &mut broken), Err(OpenError));
        prop_assert_eq!(&*one.open(nonce, &aad, &mut a).unwrap(), &text[..]);
    }
}
