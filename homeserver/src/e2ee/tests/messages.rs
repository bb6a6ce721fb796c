//! Messages to devices.

use ruma::{
    api::federation::transactions::edu::{DirectDeviceContent, DirectDeviceMessages},
    to_device::DeviceIdOrAllDevices,
    user_id,
};

use super::*;
use crate::e2ee::{E2eeError, to_device, waiting};

fn messages(user: &UserId, target: DeviceIdOrAllDevices, body: &str) -> DirectDeviceMessages {
    let content = Raw::from_json_string(json!({ "body": body }).to_string()).unwrap();
    DirectDeviceMessages::from([(user.to_owned(), BTreeMap::from([(target, content)]))])
}

fn to(id: &str) -> DeviceIdOrAllDevices {
    DeviceIdOrAllDevices::DeviceId(id.into())
}

async fn bodies(world: &World, user: &UserId, id: &'static str) -> Vec<String> {
    let user = user.to_owned();
    let rows = world
        .store
        .read(move |tx| {
            let nid = tx.lookup(Kind::User, user.as_str())?.unwrap();
            waiting(tx, nid, device(id), Seq(0), Seq(i64::MAX), 1000)
        })
        .await
        .unwrap();
    rows.iter()
        .map(|(_, json)| {
            let message: Value = serde_json::from_str(json).unwrap();
            assert_eq!(message["type"], "m.test");
            assert!(message["sender"].is_string());
            message["content"]["body"].as_str().unwrap().to_owned()
        })
        .collect()
}

#[tokio::test]
async fn a_message_reaches_the_devices_it_is_for_once() {
    let world = World::new();
    let alice = world.user("alice", &["A", "B"]).await;
    let bob = world.user("bob", &["C"]).await;
    let send = |txn: &'static str, messages| {
        let (e2ee, bob) = (world.e2ee.clone(), bob.clone());
        async move { e2ee.send_to_device(&bob, device("C"), "m.test", txn.into(), messages).await }
    };
    send("1", messages(&alice, to("A"), "one")).await.unwrap();
    send("1", messages(&alice, to("A"), "one")).await.unwrap();
    send("2", messages(&alice, DeviceIdOrAllDevices::AllDevices, "all")).await.unwrap();
    send("3", messages(&alice, to("NONE"), "lost")).await.unwrap();
    send("4", messages(user_id!("@ghost:ours.test"), to("A"), "lost")).await.unwrap();
    assert_eq!(bodies(&world, &alice, "A").await, ["one", "all"]);
    assert_eq!(bodies(&world, &alice, "B").await, ["all"]);
    // To another server: one EDU, to that server.
    send("5", messages(user_id!("@dora:theirs.test"), to("D"), "far")).await.unwrap();
    send("5", messages(user_id!("@dora:theirs.test"), to("D"), "far")).await.unwrap();
    let out = world.outbox().await;
    assert_eq!(out.len(), 1);
    assert_eq!(out[0].0, ["theirs.test"]);
    assert_eq!(out[0].1["content"]["messages"]["@dora:theirs.test"]["D"]["body"], "far");
    // What is too much is refused whole.
    let long = "x".repeat(to_device::CONTENT_BYTES_MAX);
    let refused = send("6", messages(&alice, to("A"), &long)).await;
    assert!(matches!(refused, Err(E2eeError::TooMany { .. })));
}

#[tokio::test]
async fn a_repeated_transaction_of_another_server_delivers_once() {
    let world = World::new();
    let alice = world.user("alice", &["A"]).await;
    let bob = user_id!("@bob:theirs.test");
    let content = |id: &str, body: &str| {
        let mut content = DirectDeviceContent::new(bob.to_owned(), "m.test".into(), id.into());
        content.messages = messages(&alice, to("A"), body);
        content.messages.extend(messages(user_id!("@eve:third.test"), to("E"), "not ours"));
        content
    };
    for (id, body) in [("m1", "one"), ("m1", "one"), ("m2", "two"), ("m1", "one")] {
        world.e2ee.receive_to_device(bob.server_name(), content(id, body)).await.unwrap();
    }
    assert_eq!(bodies(&world, &alice, "A").await, ["one", "two"]);
    let forged = world.e2ee.receive_to_device(&world.name, content("m3", "forged")).await;
    assert!(matches!(forged, Err(E2eeError::ForeignUser(_))));
}
