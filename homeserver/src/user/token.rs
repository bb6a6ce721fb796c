//! Random names: access tokens, session names, media ids. All from the operating system's generator.

use data_encoding::BASE64URL_NOPAD;
use sha2::{Digest as _, Sha256};

/// 192 random bits in 32 characters that need no escaping anywhere.
pub fn random() -> String {
    let mut bytes = [0; 24];
    getrandom::fill(&mut bytes).expect("the operating system has a random generator");
    BASE64URL_NOPAD.encode(&bytes)
}

/// A device id as people see it: ten capital letters.
pub fn device_id() -> ruma::OwnedDeviceId {
    let mut bytes = [0; 10];
    getrandom::fill(&mut bytes).expect("the operating system has a random generator");
    let letters: String = bytes.iter().map(|byte| char::from(b'A' + byte % 26)).collect();
    letters.into()
}

/// What is stored of a token.
pub fn hash(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

/// A local part for somebody who did not choose one.
pub(super) fn localpart() -> String {
    random().to_lowercase().chars().filter(char::is_ascii_alphanumeric).take(12).collect()
}
