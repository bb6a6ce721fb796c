//! Lists of devices: ours told to others, theirs followed.

use ruma::{api::federation::transactions::edu::DeviceListUpdateContent, user_id};

use super::*;
use crate::e2ee::{E2eeError, Wanted, device_lists};

const ROOM: &str = "!room:ours.test";

fn update(user: &UserId, device: &str, stream_id: u32, prev: &[u32]) -> DeviceListUpdateContent {
    let mut content = DeviceListUpdateContent::new(user.to_owned(), device.into(), stream_id.into());
    content.prev_id = prev.iter().map(|prev| (*prev).into()).collect();
    content.keys = Some(Raw::from_json_string(device_keys(user, device).to_string()).unwrap());
    content
}

async fn devices_of(world: &World, asker: &UserId, user: &UserId) -> Vec<String> {
    let wanted = Wanted::from([(user.to_owned(), vec![])]);
    let answer = world.e2ee.query(asker, wanted, Duration::from_secs(5)).await.unwrap();
    assert!(answer.failures.is_empty(), "{:?}", answer.failures);
    answer.device_keys.get(user).into_iter().flatten().map(|(device, _)| device.to_string()).collect()
}

#[tokio::test]
async fn servers_that_share_a_room_are_told_in_a_chain() {
    let world = World::new();
    let alice = world.user("alice", &["A", "B"]).await;
    world.upload_identity(&alice, "A").await;
    assert!(world.outbox().await.is_empty(), "nobody shares a room");
    world.set_member(ROOM, &alice, true).await;
    world.set_member(ROOM, user_id!("@bob:theirs.test"), true).await;
    world.set_member("!other:x", user_id!("@carol:elsewhere.test"), true).await;
    world.upload_identity(&alice, "B").await;
    let user = alice.clone();
    world.write(move |tx| device_lists::device_changed(tx, &user, device("B"))).await;
    let user = alice.clone();
    world.write(move |tx| device_lists::device_deleted(tx, &user, device("A"))).await;
    let told = world.outbox().await;
    assert_eq!(told.len(), 3);
    for (servers, edu) in &told {
        assert_eq!(servers, &["theirs.test"]);
        assert_eq!(edu["edu_type"], "m.device_list_update");
    }
    let content = |at: usize| &told[at].1["content"];
    assert_eq!(content(0)["keys"]["keys"]["ed25519:B"], "ed of B");
    assert_eq!(content(1)["device_display_name"], "a device");
    assert_eq!(content(1)["prev_id"], json!([content(0)["stream_id"]]));
    assert_eq!(content(2)["prev_id"], json!([content(1)["stream_id"]]));
    assert_eq!(content(2)["deleted"], true);
    // Who asks for the whole list can go on from the last update.
    let whole = world.e2ee.user_devices(&alice).await.unwrap();
    assert_eq!(json!(whole.stream_id), content(2)["stream_id"]);
    assert_eq!(whole.devices.len(), 1);
    let unknown = world.e2ee.user_devices(user_id!("@nobody:ours.test")).await;
    assert!(matches!(unknown, Err(E2eeError::UnknownUser(_))));
}

#[tokio::test]
async fn their_list_is_followed_and_fetched_anew_after_a_gap() {
    let world = World::new();
    let alice = world.user("alice", &["A"]).await;
    let bob = user_id!("@bob:theirs.test");
    world.set_member(ROOM, &alice, true).await;
    world.set_member(ROOM, bob, true).await;
    world.servers.set(bob, 5, &["B"]);
    let origin = bob.server_name();
    // The first query fetches; then the answer is kept.
    assert_eq!(devices_of(&world, &alice, bob).await, ["B"]);
    assert_eq!(devices_of(&world, &alice, bob).await, ["B"]);
    assert_eq!(world.servers.query_asked.load(Ordering::Relaxed), 1);
    // The first update does not join on to what was queried: the whole is fetched, with an id.
    world.servers.set(bob, 6, &["B", "C"]);
    world.e2ee.receive_device_list_update(origin, update(bob, "C", 6, &[5])).await.unwrap();
    wait_until(|| world.servers.devices_asked.load(Ordering::Relaxed) == 1).await;
    assert_eq!(devices_of(&world, &alice, bob).await, ["B", "C"]);
    // Updates in order are applied without asking.
    let asked = || {
        (
            world.servers.devices_asked.load(Ordering::Relaxed),
            world.servers.query_asked.load(Ordering::Relaxed),
        )
    };
    settle(&world, bob).await;
    let before = asked();
    world.e2ee.receive_device_list_update(origin, update(bob, "D", 7, &[6])).await.unwrap();
    world.e2ee.receive_device_list_update(origin, update(bob, "D", 7, &[6])).await.unwrap();
    let mut gone = update(bob, "B", 8, &[7]);
    (gone.keys, gone.deleted) = (None, Some(true));
    world.e2ee.receive_device_list_update(origin, gone).await.unwrap();
    assert_eq!(devices_of(&world, &alice, bob).await, ["C", "D"]);
    assert_eq!(asked(), before);
    // A gap: asked whole.
    world.servers.set(bob, 12, &["C", "D", "E"]);
    world.e2ee.receive_device_list_update(origin, update(bob, "E", 12, &[11])).await.unwrap();
    wait_until(|| asked().0 == before.0 + 1).await;
    assert_eq!(devices_of(&world, &alice, bob).await, ["C", "D", "E"]);
    // Another server cannot speak for bob; keys of another user are no keys of his.
    let other = world.e2ee.receive_device_list_update(&world.name, update(bob, "F", 13, &[12])).await;
    assert!(matches!(other, Err(E2eeError::ForeignUser(_))));
}

#[tokio::test]
async fn a_list_is_not_trusted_after_nothing_was_shared() {
    let world = World::new();
    let alice = world.user("alice", &["A"]).await;
    let bob = user_id!("@bob:theirs.test");
    world.set_member(ROOM, &alice, true).await;
    world.set_member(ROOM, bob, true).await;
    world.servers.set(bob, 1, &["B"]);
    assert_eq!(devices_of(&world, &alice, bob).await, ["B"]);
    world.set_member(ROOM, bob, false).await;
    world.servers.set(bob, 2, &["B", "C"]);
    world.set_member(ROOM, bob, true).await;
    assert_eq!(devices_of(&world, &alice, bob).await, ["B", "C"]);
    // The same when it is us who were away.
    world.set_member(ROOM, &alice, false).await;
    world.servers.set(bob, 3, &["D"]);
    world.set_member(ROOM, &alice, true).await;
    assert_eq!(devices_of(&world, &alice, bob).await, ["D"]);
}

async fn wait_until(done: impl Fn() -> bool) {
    for _ in 0..500 {
        if done() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("it did not happen within 5 s");
}

/// Waits until what was fetched is kept.
async fn settle(world: &World, user: &UserId) {
    for _ in 0..500 {
        let user = user.to_owned();
        let stale = world.store.read(move |tx| {
            let nid = tx.lookup(Kind::User, user.as_str())?.unwrap();
            crate::store::schema::e2ee::remote_list(tx, nid)
        });
        if matches!(stale.await.unwrap(), Some((_, false))) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the list stayed stale");
}
