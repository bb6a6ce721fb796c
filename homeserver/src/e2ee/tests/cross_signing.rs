//! Cross-signing.

use ed25519_dalek::SigningKey;
use ruma::user_id;
use serde_json::value::to_raw_value;

use super::*;
use crate::e2ee::{
    E2eeError, SignedObjects, SigningKeys, Wanted,
    object::{
        ObjectError,
        tests::{base64, signed},
    },
};

struct Keys {
    master: SigningKey,
    self_signing: SigningKey,
    user_signing: SigningKey,
}

impl Keys {
    fn new(seed: u8) -> Self {
        let key = |n: u8| SigningKey::from_bytes(&[seed * 3 + n; 32]);
        Self { master: key(0), self_signing: key(1), user_signing: key(2) }
    }

    fn upload(&self, user: &UserId) -> SigningKeys {
        let key = |usage: &str, key: &SigningKey| {
            let json = object(user, usage, key);
            let json = signed(&json, user, &public(&self.master), &self.master);
            Some(Raw::from_json_string(json.to_string()).unwrap())
        };
        SigningKeys {
            master: key("master", &self.master),
            self_signing: key("self_signing", &self.self_signing),
            user_signing: key("user_signing", &self.user_signing),
        }
    }
}

fn public(key: &SigningKey) -> String {
    base64(key.verifying_key().as_bytes())
}

fn object(user: &UserId, usage: &str, key: &SigningKey) -> Value {
    json!({"user_id": user, "usage": [usage], "keys": {format!("ed25519:{}", public(key)): public(key)}})
}

fn objects(user: &UserId, key: &str, value: &Value) -> SignedObjects {
    let inner = BTreeMap::from([(key.to_owned(), to_raw_value(value).unwrap())]);
    SignedObjects::from([(user.to_owned(), inner)])
}

async fn query(world: &World, asker: &UserId, user: &UserId) -> Value {
    let wanted = Wanted::from([(user.to_owned(), vec![])]);
    let answer = world.e2ee.query(asker, wanted, Duration::from_secs(1)).await.unwrap();
    json!({"device_keys": answer.device_keys, "master_keys": answer.master_keys,
        "self_signing_keys": answer.self_signing_keys, "user_signing_keys": answer.user_signing_keys})
}

#[tokio::test]
async fn the_first_keys_need_no_password_and_others_do() {
    let world = World::new();
    let alice = world.user("alice", &["A"]).await;
    let keys = Keys::new(1);
    let upload = keys.upload(&alice);
    assert!(!world.e2ee.signing_keys_need_proof(&alice, &upload).await.unwrap());
    world.e2ee.upload_signing_keys(&alice, &upload).await.unwrap();
    assert!(!world.e2ee.signing_keys_need_proof(&alice, &upload).await.unwrap());
    assert!(world.e2ee.signing_keys_need_proof(&alice, &Keys::new(2).upload(&alice)).await.unwrap());
    let bob = world.user("bob", &["B"]).await;
    let seen = query(&world, &bob, &alice).await;
    assert!(
        seen["master_keys"][alice.as_str()].is_object()
            && seen["self_signing_keys"][alice.as_str()].is_object()
    );
    assert!(seen["user_signing_keys"].as_object().unwrap().is_empty(), "for its owner only");
    let own = query(&world, &alice, &alice).await;
    assert!(own["user_signing_keys"][alice.as_str()].is_object());
}

#[tokio::test]
async fn keys_that_do_not_hold_are_refused() {
    let world = World::new();
    let alice = world.user("alice", &["A"]).await;
    let keys = Keys::new(1).upload(&alice);
    let alone = SigningKeys { self_signing: keys.self_signing.clone(), ..SigningKeys::default() };
    let refused = world.e2ee.upload_signing_keys(&alice, &alone).await;
    assert!(matches!(refused, Err(E2eeError::NoMasterKey)));
    // Signed by another master.
    let mixed = SigningKeys { self_signing: Keys::new(2).upload(&alice).self_signing, ..keys.clone() };
    let refused = world.e2ee.upload_signing_keys(&alice, &mixed).await;
    assert!(matches!(refused, Err(E2eeError::Object(ObjectError::Signature(_)))));
    // As what it is not.
    let swapped = SigningKeys { user_signing: keys.self_signing.clone(), ..keys.clone() };
    assert!(world.e2ee.upload_signing_keys(&alice, &swapped).await.is_err());
    // Of somebody else.
    let refused = world.e2ee.upload_signing_keys(user_id!("@bob:ours.test"), &keys).await;
    assert!(matches!(refused, Err(E2eeError::Object(ObjectError::OtherUser(_)))));
    world.e2ee.upload_signing_keys(&alice, &keys).await.unwrap();
}

#[tokio::test]
async fn signatures_are_checked_and_shown_to_whom_they_concern() {
    let world = World::new();
    let (alice, bob) = (world.user("alice", &["A"]).await, world.user("bob", &["B"]).await);
    let (alices, bobs) = (Keys::new(1), Keys::new(2));
    world.e2ee.upload_signing_keys(&alice, &alices.upload(&alice)).await.unwrap();
    world.e2ee.upload_signing_keys(&bob, &bobs.upload(&bob)).await.unwrap();
    world.upload_identity(&alice, "A").await;

    // Her own device, signed by her self-signing key: everybody sees it.
    let device_object = device_keys(&alice, "A");
    let self_public = public(&alices.self_signing);
    let good = signed(&device_object, &alice, &self_public, &alices.self_signing);
    let failures = world.e2ee.upload_signatures(&alice, objects(&alice, "A", &good)).await.unwrap();
    assert!(failures.is_empty(), "{failures:?}");
    let key_id = format!("ed25519:{self_public}");
    let seen = query(&world, &bob, &alice).await;
    assert!(seen["device_keys"][alice.as_str()]["A"]["signatures"][alice.as_str()][&key_id].is_string());

    // A forged one, one over another object, one of an unknown key.
    let forged = signed(&device_object, &alice, &self_public, &bobs.self_signing);
    let mut changed = good.clone();
    changed["algorithms"] = json!(["other"]);
    for (key, object, errcode) in [
        ("A", &forged, "M_INVALID_SIGNATURE"),
        ("A", &changed, "M_INVALID_PARAM"),
        ("NONE", &good, "M_NOT_FOUND"),
        ("A", &json!([1]), "M_INVALID_PARAM"),
    ] {
        let failures = world.e2ee.upload_signatures(&alice, objects(&alice, key, object)).await.unwrap();
        assert_eq!(failures[&alice][key].0, errcode);
    }

    // Bob's master key, signed by alice: she sees it, he does not.
    let master = object(&bob, "master", &bobs.master);
    let master = signed(&master, &bob, &public(&bobs.master), &bobs.master);
    let user_public = public(&alices.user_signing);
    let good = signed(&master, &alice, &user_public, &alices.user_signing);
    let bob_public = public(&bobs.master);
    let failures = world.e2ee.upload_signatures(&alice, objects(&bob, &bob_public, &good)).await.unwrap();
    assert!(failures.is_empty(), "{failures:?}");
    let key_id = format!("ed25519:{user_public}");
    let seen = query(&world, &alice, &bob).await;
    assert!(seen["master_keys"][bob.as_str()]["signatures"][alice.as_str()][&key_id].is_string());
    let seen = query(&world, &bob, &bob).await;
    assert!(seen["master_keys"][bob.as_str()]["signatures"][alice.as_str()].is_null());
    // With a key that is not her user-signing key.
    let bad = signed(&master, &alice, &self_public, &alices.self_signing);
    let failures = world.e2ee.upload_signatures(&alice, objects(&bob, &bob_public, &bad)).await.unwrap();
    assert_eq!(failures[&bob][&bob_public].0, "M_INVALID_SIGNATURE");
}
