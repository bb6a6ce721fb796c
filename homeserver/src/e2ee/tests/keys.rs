//! Identity and one-time keys.

use std::{collections::HashSet, time::Instant};

use ruma::{OneTimeKeyAlgorithm, OwnedUserId, user_id};

use super::*;
use crate::e2ee::{Claims, E2eeError, object::ObjectError};

fn claims(user: &UserId, device: &str) -> Claims {
    let devices = BTreeMap::from([(device.into(), OneTimeKeyAlgorithm::SignedCurve25519)]);
    Claims::from([(user.to_owned(), devices)])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_one_time_key_is_handed_out_once() {
    let world = World::new();
    let alice = world.user("alice", &["A"]).await;
    let names = || (0..50).map(|n| format!("k{n:02}"));
    let counts = world.e2ee.upload(&alice, device("A"), one_time(names())).await.unwrap();
    assert_eq!(counts, [("signed_curve25519".to_owned(), 50)]);

    let tasks = (0..80).map(|_| {
        let (e2ee, alice) = (world.e2ee.clone(), alice.clone());
        tokio::spawn(async move { e2ee.claim(claims(&alice, "A"), Duration::from_secs(1)).await.unwrap() })
    });
    let mut seen = HashSet::new();
    let mut empty = 0;
    for answer in futures_util::future::join_all(tasks).await {
        match answer.unwrap().one_time_keys.get(&alice) {
            Some(devices) => {
                let id = devices.values().flat_map(|keys| keys.keys()).next().unwrap().to_string();
                assert!(seen.insert(id), "handed out twice");
            }
            None => empty += 1,
        }
    }
    assert_eq!((seen.len(), empty), (50, 30));

    // The upload repeated (its answer was lost) does not bring claimed keys back.
    let counts = world.e2ee.upload(&alice, device("A"), one_time(names())).await.unwrap();
    assert_eq!(counts, [("signed_curve25519".to_owned(), 0)]);
    // New ones are taken, also beside old ones.
    let more = (40..60).map(|n| format!("k{n:02}"));
    let counts = world.e2ee.upload(&alice, device("A"), one_time(more)).await.unwrap();
    assert_eq!(counts, [("signed_curve25519".to_owned(), 10)]);
}

#[tokio::test]
async fn a_fallback_key_is_handed_out_again_and_again() {
    let world = World::new();
    let alice = world.user("alice", &["A"]).await;
    let Upload { one_time_keys, .. } = one_time(["f".to_owned()]);
    let upload = Upload { fallback_keys: one_time_keys, ..Upload::default() };
    world.e2ee.upload(&alice, device("A"), upload).await.unwrap();
    let unused = || async {
        let alice = alice.clone();
        world
            .store
            .read(move |tx| {
                let nid = tx.lookup(Kind::User, alice.as_str())?.unwrap();
                crate::store::schema::e2ee::unused_fallback_keys(tx, nid, "A")
            })
            .await
            .unwrap()
    };
    assert_eq!(unused().await, ["signed_curve25519"]);
    for _ in 0..3 {
        let answer = world.e2ee.claim(claims(&alice, "A"), Duration::from_secs(1)).await.unwrap();
        assert_eq!(answer.one_time_keys.len(), 1);
    }
    assert!(unused().await.is_empty());
}

#[tokio::test]
async fn uploads_that_do_not_hold_are_refused_and_change_nothing() {
    let world = World::new();
    let alice = world.user("alice", &["A", "B"]).await;
    world.upload_identity(&alice, "A").await;
    let upload = |keys: Value| {
        let keys = Raw::from_json_string(keys.to_string()).unwrap();
        world.e2ee.upload(&alice, device("A"), Upload { device_keys: Some(keys), ..Upload::default() })
    };
    let other_device = upload(device_keys(&alice, "B")).await;
    assert!(matches!(other_device, Err(E2eeError::Object(ObjectError::OtherDevice(_)))));
    let other_user = upload(device_keys(user_id!("@bob:ours.test"), "A")).await;
    assert!(matches!(other_user, Err(E2eeError::Object(ObjectError::OtherUser(_)))));
    for bad in
        [json!({"user_id": 1}), json!([]), json!({"user_id": alice, "device_id": "A", "keys": {"a": 1}})]
    {
        assert!(upload(bad).await.is_err());
    }
    // An empty object means nothing new; the same keys again do not count as a change.
    upload(json!({})).await.unwrap();
    let before = world.store.position();
    upload(device_keys(&alice, "A")).await.unwrap();
    assert_eq!(world.store.position(), before);

    world.e2ee.upload(&alice, device("A"), one_time(["x".to_owned()])).await.unwrap();
    let mut taken = one_time(["x".to_owned(), "y".to_owned()]);
    let other = Raw::from_json_string(json!({"key": "another"}).to_string()).unwrap();
    taken.one_time_keys.insert("signed_curve25519:x".try_into().unwrap(), other);
    let refused = world.e2ee.upload(&alice, device("A"), taken).await;
    assert!(matches!(refused, Err(E2eeError::OneTimeKeyTaken(_))));
    let counts = world.e2ee.upload(&alice, device("A"), Upload::default()).await.unwrap();
    assert_eq!(counts, [("signed_curve25519".to_owned(), 1)]);
    // Other identity keys: the device begins anew.
    let mut changed = device_keys(&alice, "A");
    changed["keys"]["ed25519:A"] = "another".into();
    upload(changed).await.unwrap();
    let counts = world.e2ee.upload(&alice, device("A"), Upload::default()).await.unwrap();
    assert!(counts.iter().all(|(_, count)| *count == 0), "{counts:?}");
    let too_many = one_time((0..1_001).map(|n| format!("n{n}")));
    let refused = world.e2ee.upload(&alice, device("A"), too_many).await;
    assert!(matches!(refused, Err(E2eeError::TooMany { .. })));
}

#[tokio::test]
async fn a_query_waits_for_no_server_longer_than_it_says() {
    let world = World::new();
    let alice = world.user("alice", &["A"]).await;
    world.upload_identity(&alice, "A").await;
    let bob = user_id!("@bob:away.test");
    world.servers.set(bob, 1, &["B"]);
    world.servers.silent.store(true, Ordering::Relaxed);
    let begun = Instant::now();
    let wanted = BTreeMap::from([(alice.clone(), vec![]), (OwnedUserId::from(bob), vec![])]);
    let answer = world.e2ee.query(&alice, wanted.clone(), Duration::from_millis(100)).await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(2));
    assert_eq!(answer.failures["away.test"]["errcode"], "M_UNREACHABLE");
    let keys = answer.device_keys[&alice].values().next().unwrap();
    assert_eq!(keys.deserialize().unwrap().unsigned.device_display_name.as_deref(), Some("a device"));
    assert!(!answer.device_keys.contains_key(bob));

    world.servers.silent.store(false, Ordering::Relaxed);
    let answer = world.e2ee.query(&alice, wanted, Duration::from_secs(5)).await.unwrap();
    assert!(answer.failures.is_empty());
    assert_eq!(answer.device_keys[bob].len(), 1);
    let answer = world.e2ee.claim(claims(bob, "B"), Duration::from_secs(5)).await.unwrap();
    assert_eq!(answer.one_time_keys.keys().collect::<Vec<_>>(), [bob]);
}
