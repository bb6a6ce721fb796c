//! Key backups.

use serde_json::value::{RawValue, to_raw_value};

use super::*;
use crate::e2ee::{BackupKeys, E2eeError, Selection};

fn raw(value: &Value) -> Box<RawValue> {
    to_raw_value(value).unwrap()
}

fn key(verified: bool, first: u32, forwarded: u32, data: &str) -> Value {
    json!({"first_message_index": first, "forwarded_count": forwarded, "is_verified": verified,
        "session_data": {"ciphertext": data}})
}

fn keys(session: &str, value: &Value) -> BackupKeys {
    BackupKeys::from([("!r:a".to_owned(), BTreeMap::from([(session.to_owned(), raw(value))]))])
}

#[tokio::test]
async fn the_best_copy_of_a_key_is_kept_in_the_latest_backup() {
    let world = World::new();
    let alice = world.user("alice", &["A"]).await;
    let algorithm = raw(&json!({"algorithm": "m.megolm_backup.v1", "auth_data": {"public_key": "k"}}));
    assert!(matches!(world.e2ee.backup(&alice, None).await, Err(E2eeError::NoBackup)));
    assert!(world.e2ee.create_backup(&alice, &raw(&json!({"algorithm": 1}))).await.is_err());
    for no_object in [json!(["m.megolm_backup.v1", {}]), json!("m"), json!(null)] {
        let refused = world.e2ee.create_backup(&alice, &raw(&no_object)).await;
        assert!(matches!(refused, Err(E2eeError::BadBackup(_))), "{no_object}");
    }
    let first = world.e2ee.create_backup(&alice, &algorithm).await.unwrap();
    let put = |version: &str, value: Value| {
        let (e2ee, alice, version) = (world.e2ee.clone(), alice.clone(), version.to_owned());
        async move { e2ee.put_backup_keys(&alice, &version, keys("s", &value)).await }
    };
    let row = put(&first, key(false, 5, 1, "a")).await.unwrap();
    assert_eq!((row.count, row.etag), (1, 1));
    for (value, kept) in [
        (key(false, 6, 0, "later"), "a"),
        (key(false, 4, 3, "earlier"), "earlier"),
        (key(true, 9, 9, "verified"), "verified"),
        (key(false, 0, 0, "not verified"), "verified"),
        (key(true, 9, 8, "fewer hands"), "fewer hands"),
    ] {
        put(&first, value).await.unwrap();
        let all = world.e2ee.backup_keys(&alice, &first, Selection::default()).await.unwrap();
        assert!(all["!r:a"]["s"].get().contains(kept), "{kept}");
    }
    assert!(matches!(put(&first, json!({"first_message_index": -1})).await, Err(E2eeError::BadBackup(_))));
    assert!(matches!(put(&first, json!([0, 0, true])).await, Err(E2eeError::BadBackup(_))));
    let second = world.e2ee.create_backup(&alice, &algorithm).await.unwrap();
    let refused = put(&first, key(true, 0, 0, "x")).await;
    assert!(matches!(refused, Err(E2eeError::WrongBackup { current }) if current == second));
    let other = raw(&json!({"algorithm": "other", "auth_data": {}}));
    assert!(world.e2ee.update_backup(&alice, &second, &other).await.is_err());
    world.e2ee.delete_backup(&alice, &second).await.unwrap();
    assert_eq!(world.e2ee.backup(&alice, None).await.unwrap().version.to_string(), first);
    let which = Selection { room: Some("!r:a".into()), session: Some("s".into()) };
    let row = world.e2ee.delete_backup_keys(&alice, &first, which).await.unwrap();
    assert_eq!(row.count, 0);
    // A number is never used again.
    let third = world.e2ee.create_backup(&alice, &algorithm).await.unwrap();
    assert_eq!(third, "3");
}
