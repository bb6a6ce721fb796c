//! Signed key objects (device keys, cross-signing keys, one-time keys): shape, identity and signatures, pure.
//!
//! Keys are kept as the JSON their owner signed; nothing is taken from or added to the signed part.

use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, DeviceId, SigningKeyAlgorithm, UserId,
    encryption::KeyUsage,
    serde::base64::{Base64, Standard},
    signatures::{to_canonical_json_string_for_signing, verify_canonical_json_bytes},
};
use serde_json::value::RawValue;

/// The longest device key or cross-signing key object: a device with some hundred signatures fits.
pub const KEY_OBJECT_BYTES_MAX: usize = 64 * 1024;
/// The longest one-time or fallback key: the real ones have some 250 bytes.
pub const ONE_TIME_KEY_BYTES_MAX: usize = 4 * 1024;
/// The longest key id ("algorithm:name"), device id and the like.
pub const ID_BYTES_MAX: usize = 255;

/// What is wrong with a key object, for whoever sent it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ObjectError {
    /// No JSON object that could be signed (canonical JSON).
    #[error("a key is not an object of canonical JSON: {0}")]
    NotCanonical(String),
    /// Longer than any real key.
    #[error("a key is longer than {max} bytes")]
    TooLong {
        /// The limit.
        max: usize,
    },
    /// A field is absent or of another type.
    #[error("a key has no valid `{0}`")]
    Field(&'static str),
    /// It names another user than its sender.
    #[error("a key names the user {0}, who is not its owner")]
    OtherUser(String),
    /// It names another device than its sender.
    #[error("device keys name the device {0}, which is not the one that uploads them")]
    OtherDevice(String),
    /// A cross-signing key's `usage` is not what it is uploaded as.
    #[error("a cross-signing key is not meant to be the {0} key")]
    OtherUsage(&'static str),
    /// No signature by the key that has to sign.
    #[error("the signature by {0} is missing or does not hold")]
    Signature(String),
}

/// A key object as it was signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyObject(CanonicalJsonObject);

impl KeyObject {
    /// Parses what came in, at most `max` bytes of it.
    pub fn parse(json: &str, max: usize) -> Result<Self, ObjectError> {
        if json.len() > max {
            return Err(ObjectError::TooLong { max });
        }
        serde_json::from_str(json).map(Self).map_err(|error| ObjectError::NotCanonical(error.to_string()))
    }

    /// The object as canonical JSON, the form in which it is stored.
    pub fn to_json(&self) -> String {
        serde_json::to_string(&self.0).expect("canonical JSON is a map of strings")
    }

    /// As raw JSON for a response.
    pub fn to_raw(&self) -> Box<RawValue> {
        RawValue::from_string(self.to_json()).expect("it was just serialized")
    }

    /// Everything but signatures and `unsigned`: two uploads of the same key are equal by this.
    pub fn signed_part(&self) -> String {
        to_canonical_json_string_for_signing(&self.0).unwrap_or_default()
    }

    /// The `keys` it carries.
    pub fn keys(&self) -> Option<&CanonicalJsonObject> {
        self.0.get("keys")?.as_object()
    }

    /// A string field.
    pub fn text(&self, field: &str) -> Option<&str> {
        self.0.get(field)?.as_str()
    }

    /// The one public key of a cross-signing key object, in unpadded base64.
    pub fn public_key(&self) -> Option<&str> {
        let (id, value) = self.keys()?.iter().next()?;
        let key = value.as_str()?;
        (id.strip_prefix("ed25519:")? == key).then_some(key)
    }

    /// The device's own signing key, in unpadded base64.
    pub fn device_signing_key(&self, device: &DeviceId) -> Option<&str> {
        self.keys()?.get(&format!("ed25519:{device}"))?.as_str()
    }

    /// Sets or removes `unsigned.device_display_name`.
    pub fn set_display_name(&mut self, name: Option<&str>) {
        self.0.remove("unsigned");
        if let Some(name) = name {
            let unsigned = [("device_display_name".to_owned(), CanonicalJsonValue::String(name.to_owned()))];
            self.0.insert("unsigned".into(), CanonicalJsonValue::Object(unsigned.into()));
        }
    }

    /// Removes `unsigned`, which whoever stores the object sets by itself.
    pub fn strip_unsigned(&mut self) {
        self.0.remove("unsigned");
    }

    /// All signatures: (user, key id, signature).
    pub fn signatures(&self) -> impl Iterator<Item = (&str, &str, &str)> {
        let by_user = self.0.get("signatures").and_then(CanonicalJsonValue::as_object);
        by_user.into_iter().flatten().filter_map(|(user, keys)| Some((user, keys.as_object()?))).flat_map(
            |(user, keys)| {
                keys.iter()
                    .filter_map(|(id, signature)| Some((user.as_str(), id.as_str(), signature.as_str()?)))
            },
        )
    }

    /// Adds a signature, or replaces the one by the same key.
    pub fn add_signature(&mut self, user: &str, key_id: &str, signature: &str) {
        let signatures = object_at(&mut self.0, "signatures");
        object_at(signatures, user)
            .insert(key_id.to_owned(), CanonicalJsonValue::String(signature.to_owned()));
    }

    /// Whether `signature` is by this public key (unpadded base64) over the object.
    pub fn is_signed(&self, signature: &str, public_key: &str) -> bool {
        let (Ok(signature), Ok(public_key)) =
            (Base64::<Standard>::parse(signature), Base64::<Standard>::parse(public_key))
        else {
            return false;
        };
        to_canonical_json_string_for_signing(&self.0).is_ok_and(|signed| {
            verify_canonical_json_bytes(
                &SigningKeyAlgorithm::Ed25519,
                public_key.as_bytes(),
                signature.as_bytes(),
                signed.as_bytes(),
            )
            .is_ok()
        })
    }

    /// Whether the object carries a good signature of `user` by this public key.
    pub fn is_signed_by(&self, user: &UserId, public_key: &str) -> bool {
        let key_id = format!("ed25519:{public_key}");
        self.signatures()
            .any(|(by, id, signature)| by == user && id == key_id && self.is_signed(signature, public_key))
    }

    /// Checks that these are the device keys of this very device.
    ///
    /// The signature is the business of the clients that use the keys: no server is trusted with it.
    pub fn check_device(&self, user: &UserId, device: &DeviceId) -> Result<(), ObjectError> {
        self.check_owner(user)?;
        let named = self.text("device_id").ok_or(ObjectError::Field("device_id"))?;
        if named != device {
            return Err(ObjectError::OtherDevice(named.to_owned()));
        }
        let keys = self.keys().ok_or(ObjectError::Field("keys"))?;
        if keys.is_empty() || keys.values().any(|key| key.as_str().is_none()) {
            return Err(ObjectError::Field("keys"));
        }
        let algorithms = self.0.get("algorithms").and_then(CanonicalJsonValue::as_array);
        algorithms.map(|_| ()).ok_or(ObjectError::Field("algorithms"))
    }

    /// Checks that this is a cross-signing key of the user, for this use.
    pub fn check_cross_signing(&self, user: &UserId, usage: &KeyUsage) -> Result<(), ObjectError> {
        self.check_owner(user)?;
        let named = match usage {
            KeyUsage::Master => "master",
            KeyUsage::SelfSigning => "self_signing",
            _ => "user_signing",
        };
        let usages = self.0.get("usage").and_then(CanonicalJsonValue::as_array);
        if !usages.is_some_and(|usages| usages.iter().any(|usage| usage.as_str() == Some(named))) {
            return Err(ObjectError::OtherUsage(named));
        }
        if self.keys().is_none_or(|keys| keys.len() != 1) || self.public_key().is_none() {
            return Err(ObjectError::Field("keys"));
        }
        Ok(())
    }

    fn check_owner(&self, user: &UserId) -> Result<(), ObjectError> {
        let named = self.text("user_id").ok_or(ObjectError::Field("user_id"))?;
        if named != user {
            return Err(ObjectError::OtherUser(named.to_owned()));
        }
        Ok(())
    }
}

fn object_at<'a>(object: &'a mut CanonicalJsonObject, field: &str) -> &'a mut CanonicalJsonObject {
    let slot = object
        .entry(field.to_owned())
        .or_insert_with(|| CanonicalJsonValue::Object(CanonicalJsonObject::new()));
    if slot.as_object().is_none() {
        *slot = CanonicalJsonValue::Object(CanonicalJsonObject::new());
    }
    match slot {
        CanonicalJsonValue::Object(inner) => inner,
        _ => unreachable!("it was made an object just above"),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use ed25519_dalek::{Signer as _, SigningKey};
    use ruma::{device_id, user_id};
    use serde_json::json;

    /// Unpadded base64, as Matrix has it.
    pub(crate) fn base64(bytes: &[u8]) -> String {
        Base64::<Standard, _>::new(bytes).encode()
    }

    /// The object with a signature of `user` by this key, under `ed25519:key_name`.
    pub(crate) fn signed(
        value: &serde_json::Value,
        user: &UserId,
        key_name: &str,
        key: &SigningKey,
    ) -> serde_json::Value {
        let mut object = KeyObject::parse(&value.to_string(), KEY_OBJECT_BYTES_MAX).unwrap();
        let signature = key.sign(object.signed_part().as_bytes()).to_bytes();
        object.add_signature(user.as_str(), &format!("ed25519:{key_name}"), &base64(&signature));
        serde_json::from_str(&object.to_json()).unwrap()
    }

    #[test]
    fn a_signature_holds_for_the_signed_part_alone() {
        let alice = user_id!("@alice:a");
        let key = SigningKey::from_bytes(&[7; 32]);
        let public = base64(key.verifying_key().as_bytes());
        let master =
            json!({"user_id": alice, "usage": ["master"], "keys": {format!("ed25519:{public}"): public}});
        let mut master = signed(&master, alice, &public, &key);
        let object = KeyObject::parse(&master.to_string(), KEY_OBJECT_BYTES_MAX).unwrap();
        object.check_cross_signing(alice, &KeyUsage::Master).unwrap();
        assert!(object.is_signed_by(alice, &public));
        assert_eq!(
            object.check_cross_signing(alice, &KeyUsage::SelfSigning),
            Err(ObjectError::OtherUsage("self_signing"))
        );
        master["unsigned"] = json!({"x": 1});
        let object = KeyObject::parse(&master.to_string(), KEY_OBJECT_BYTES_MAX).unwrap();
        assert!(object.is_signed_by(alice, &public));
        master["usage"] = json!(["master", "self_signing"]);
        let object = KeyObject::parse(&master.to_string(), KEY_OBJECT_BYTES_MAX).unwrap();
        assert!(!object.is_signed_by(alice, &public));
    }

    #[test]
    fn device_keys_are_of_the_device_that_sends_them() {
        let alice = user_id!("@alice:a");
        let keys = |user: &str, device: &str| {
            let json = json!({"user_id": user, "device_id": device, "algorithms": ["m.olm.v1"],
                "keys": {format!("ed25519:{device}"): "abc"}, "signatures": {}});
            KeyObject::parse(&json.to_string(), KEY_OBJECT_BYTES_MAX).unwrap()
        };
        keys("@alice:a", "D").check_device(alice, device_id!("D")).unwrap();
        let other = keys("@bob:a", "D").check_device(alice, device_id!("D"));
        assert_eq!(other, Err(ObjectError::OtherUser("@bob:a".into())));
        let other = keys("@alice:a", "E").check_device(alice, device_id!("D"));
        assert_eq!(other, Err(ObjectError::OtherDevice("E".into())));
    }

    proptest::proptest! {
        #[test]
        fn no_object_panics(json in r#"\{("(user_id|device_id|keys|usage|signatures|algorithms)":(\{"a":(1|"b"|\{\}|\{"ed25519:c":"c"\})\}|\["x"\]|"s"|1\.5|null)(,"z":1)?)?\}"#) {
            if let Ok(mut object) = KeyObject::parse(&json, 1000) {
                let alice = user_id!("@alice:a");
                let _ = object.check_device(alice, device_id!("D"));
                let _ = object.check_cross_signing(alice, &KeyUsage::Master);
                let _ = object.is_signed_by(alice, "c");
                let _ = object.signatures().count();
                object.add_signature("@alice:a", "ed25519:x", "y");
                object.set_display_name(Some("x"));
                KeyObject::parse(&object.to_json(), 10_000).unwrap();
            }
        }
    }
}
