//! Web push without a gateway: messages sealed for one browser (RFC 8291), signed by this server (RFC 8292). Pure.

use aes_gcm::{Aes128Gcm, KeyInit as _, Nonce, aead::Aead as _};
use data_encoding::BASE64URL_NOPAD;
use hkdf::Hkdf;
use p256::{
    PublicKey, SecretKey,
    ecdh::diffie_hellman,
    ecdsa::{Signature, SigningKey, signature::Signer as _},
};
use sha2::Sha256;

/// Record size: one record holds the whole message.
const RECORD: u32 = 4096;
/// The longest message that fits: a record without header, tag and delimiter, as push services take it.
pub const PLAINTEXT_BYTES_MAX: usize = 4096 - 86 - 17;
/// How long a signature counts: RFC 8292 allows a day.
const SIGNED_FOR_S: u64 = 12 * 60 * 60;

/// Why a message was not sealed.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// The browser's key or secret is none.
    #[error("the pushkey is no P-256 key, or auth is no 16 bytes, in base64url")]
    Key,
    /// More than a push service takes.
    #[error("the message is too long for web push")]
    TooLong,
}

/// A message for the browser with this key and secret (both base64url, as browsers give them).
pub fn seal(key: &str, auth: &str, plaintext: &[u8]) -> Result<Vec<u8>, SealError> {
    let own = loop {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes).map_err(|_| SealError::Key)?;
        // All but one in 2^32 are keys.
        if let Ok(own) = SecretKey::from_slice(&bytes) {
            break own;
        }
    };
    let mut salt = [0; 16];
    getrandom::fill(&mut salt).map_err(|_| SealError::Key)?;
    seal_with(key, auth, plaintext, &own, salt)
}

fn seal_with(
    key: &str,
    auth: &str,
    plaintext: &[u8],
    own: &SecretKey,
    salt: [u8; 16],
) -> Result<Vec<u8>, SealError> {
    if plaintext.len() > PLAINTEXT_BYTES_MAX {
        return Err(SealError::TooLong);
    }
    let decode = |text: &str| {
        BASE64URL_NOPAD.decode(text.trim_end_matches('=').as_bytes()).map_err(|_| SealError::Key)
    };
    let (their_bytes, auth) = (decode(key)?, decode(auth)?);
    let their = PublicKey::from_sec1_bytes(&their_bytes).map_err(|_| SealError::Key)?;
    if their_bytes.len() != 65 || auth.len() != 16 {
        return Err(SealError::Key);
    }
    let own_bytes = own.public_key().to_sec1_bytes();
    let shared = diffie_hellman(own.to_nonzero_scalar(), their.as_affine());
    let mut info = b"WebPush: info\0".to_vec();
    info.extend_from_slice(&their_bytes);
    info.extend_from_slice(&own_bytes);
    let expand = |salt: &[u8], key: &[u8], info: &[u8], out: &mut [u8]| {
        Hkdf::<Sha256>::new(Some(salt), key).expand(info, out).map_err(|_| SealError::Key)
    };
    let mut secret = [0; 32];
    expand(&auth, shared.raw_secret_bytes(), &info, &mut secret)?;
    let (mut content_key, mut nonce) = ([0; 16], [0; 12]);
    expand(&salt, &secret, b"Content-Encoding: aes128gcm\0", &mut content_key)?;
    expand(&salt, &secret, b"Content-Encoding: nonce\0", &mut nonce)?;
    // 2: the last record.
    let mut padded = plaintext.to_vec();
    padded.push(2);
    let sealed = Aes128Gcm::new_from_slice(&content_key)
        .map_err(|_| SealError::Key)?
        .encrypt(&Nonce::from(nonce), padded.as_slice())
        .map_err(|_| SealError::TooLong)?;
    let mut body = salt.to_vec();
    body.extend_from_slice(&RECORD.to_be_bytes());
    body.push(own_bytes.len() as u8);
    body.extend_from_slice(&own_bytes);
    body.extend_from_slice(&sealed);
    Ok(body)
}

/// The key that names this server to push services.
#[derive(Clone)]
pub struct Vapid(SigningKey);

impl Vapid {
    /// From 32 secret bytes; `None` for the few that are no key.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        SigningKey::from_slice(bytes).ok().map(Self)
    }

    /// The public key, as browsers want it when they subscribe: base64url of the uncompressed point.
    pub fn public(&self) -> String {
        BASE64URL_NOPAD.encode(&self.0.verifying_key().to_sec1_point(false).to_bytes())
    }

    /// The value of `Authorization` for a push service. `origin` is the scheme and authority of its address; `contact`
    /// where the service's people reach ours.
    pub fn authorization(&self, origin: &str, contact: &str, now_s: u64) -> String {
        let part = |value: serde_json::Value| BASE64URL_NOPAD.encode(value.to_string().as_bytes());
        let header = part(serde_json::json!({"typ": "JWT", "alg": "ES256"}));
        let claims = part(serde_json::json!({"aud": origin, "exp": now_s + SIGNED_FOR_S, "sub": contact}));
        let signed = format!("{header}.{claims}");
        let signature: Signature = self.0.sign(signed.as_bytes());
        format!("vapid t={signed}.{}, k={}", BASE64URL_NOPAD.encode(&signature.to_bytes()), self.public())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use p256::ecdsa::{VerifyingKey, signature::Verifier as _};

    fn bytes(text: &str) -> Vec<u8> {
        BASE64URL_NOPAD.decode(text.as_bytes()).unwrap()
    }

    #[test]
    fn the_example_of_the_rfc() {
        // RFC 8291, appendix A.
        let own = SecretKey::from_slice(&bytes("yfWPiYE-n46HLnH0KqZOF1fJJU3MYrct3AELtAQ-oRw")).unwrap();
        let salt = bytes("DGv6ra1nlYgDCS1FRnbzlw").try_into().unwrap();
        let key = "BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4";
        let sealed = seal_with(
            key,
            "BTBZMqHH6r4Tts7J_aSIgg",
            b"When I grow up, I want to be a watermelon",
            &own,
            salt,
        )
        .unwrap();
        let expected = "DGv6ra1nlYgDCS1FRnbzlwAAEABBBP4z9KsN6nGRTbVYI_c7VJSPQTBtkgcy27mlmlMoZIIgDll6e3vCYLocInmYWAmS6\
                        TlzAC8wEqKK6PBru3jl7A_yl95bQpu6cVPTpK4Mqgkf1CXztLVBSt2Ks3oZwbuwXPXLWyouBWLVWGNWQexSgSxsj_Qulcy4a-fN";
        assert_eq!(BASE64URL_NOPAD.encode(&sealed), expected);
    }

    #[test]
    fn what_is_no_key_is_refused() {
        for (key, auth) in [("", ""), ("AAAA", "BTBZMqHH6r4Tts7J_aSIgg"), ("*", "*")] {
            assert!(matches!(seal(key, auth, b"x"), Err(SealError::Key)));
        }
    }

    #[test]
    fn a_push_service_believes_the_signature() {
        let vapid = Vapid::from_bytes(&[7; 32]).unwrap();
        let header = vapid.authorization("https://push.example", "mailto:a@b", 1_700_000_000);
        let (token, key) = header.strip_prefix("vapid t=").unwrap().split_once(", k=").unwrap();
        let (signed, signature) = token.rsplit_once('.').unwrap();
        let key = VerifyingKey::from_sec1_bytes(&bytes(key)).unwrap();
        key.verify(signed.as_bytes(), &Signature::from_slice(&bytes(signature)).unwrap()).unwrap();
        let claims: serde_json::Value =
            serde_json::from_slice(&bytes(signed.split_once('.').unwrap().1)).unwrap();
        assert_eq!(
            (claims["aud"].as_str(), claims["exp"].as_u64()),
            (Some("https://push.example"), Some(1_700_043_200))
        );
    }
}
