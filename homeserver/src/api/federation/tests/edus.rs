//! What is no event: typing, receipts, devices and their keys, messages to devices, media, profiles, directories.

use ruma::{CanonicalJsonObject, OwnedRoomId, signatures::Ed25519KeyPair};
use serde_json::{Value, json};

use super::harness::{Client, Peer};
use crate::remote::memory::MemoryNet;

struct Two {
    net: MemoryNet,
    a: Peer,
    b: Peer,
    alice: Client,
    bob: Client,
    room: OwnedRoomId,
}

/// Alice on a, bob on b, both in a room.
async fn two() -> Two {
    let net = MemoryNet::new();
    let (a, b) = (Peer::start(&net, 1).await, Peer::start(&net, 2).await);
    let (alice, bob) = (Client::new(&a, "alice").await, Client::new(&b, "bob").await);
    let room = alice
        .call(
            "POST",
            "/_matrix/client/v3/createRoom",
            &json!({ "preset": "public_chat", "visibility": "public", "room_alias_name": "hall", "name": "The hall" }),
        )
        .await;
    let room: OwnedRoomId = room["room_id"].as_str().unwrap().try_into().unwrap();
    let join = format!("/_matrix/client/v3/join/%23hall:{}", a.name());
    assert_eq!(bob.call("POST", &join, &json!({})).await["room_id"], room.as_str(), "by its alias");
    Two { net, a, b, alice, bob, room }
}

fn ephemeral<'a>(answer: &'a Value, room: &str, kind: &str) -> Option<&'a Value> {
    let events = answer["rooms"]["join"][room]["ephemeral"]["events"].as_array()?;
    events.iter().find(|event| event["type"] == kind).map(|event| &event["content"])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn typing_and_receipts_are_seen_over_there() {
    let Two { net: _net, a: _a, b: _b, alice, bob, room } = two().await;
    let mut since = None;
    bob.sync_until("a first answer", &mut since, |_| Some(())).await;
    let typing = format!("/_matrix/client/v3/rooms/{room}/typing/{}", alice.user);
    alice.call("PUT", &typing, &json!({ "typing": true, "timeout": 20000 })).await;
    let alice_id = alice.user.to_string();
    bob.sync_until("typing", &mut since, |answer| {
        let typing = ephemeral(answer, room.as_str(), "m.typing")?;
        typing["user_ids"].as_array()?.iter().any(|user| *user == alice_id).then_some(())
    })
    .await;
    alice.call("PUT", &typing, &json!({ "typing": false })).await;
    bob.sync_until("no typing", &mut since, |answer| {
        let typing = ephemeral(answer, room.as_str(), "m.typing")?;
        typing["user_ids"].as_array()?.is_empty().then_some(())
    })
    .await;
    let send = format!("/_matrix/client/v3/rooms/{room}/send/m.room.message/t1");
    let said = bob.call("PUT", &send, &json!({ "msgtype": "m.text", "body": "read me" })).await;
    let event = said["event_id"].as_str().unwrap().to_owned();
    let mut alices = None;
    alice
        .sync_until("the message", &mut alices, |answer| {
            let events = answer["rooms"]["join"][room.as_str()]["timeline"]["events"].as_array()?;
            events.iter().any(|seen| seen["event_id"] == event.as_str()).then_some(())
        })
        .await;
    alice.call("POST", &format!("/_matrix/client/v3/rooms/{room}/receipt/m.read/{event}"), &json!({})).await;
    bob.sync_until("the receipt", &mut since, |answer| {
        let receipts = ephemeral(answer, room.as_str(), "m.receipt")?;
        receipts[&event]["m.read"].get(&alice_id).map(|_| ())
    })
    .await;
}

/// Uploads device keys and one one-time key for a client.
async fn upload_keys(client: &Client) {
    let seed: [u8; 32] = *blake3::hash(client.user.as_bytes()).as_bytes();
    let der = [&[0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20][..], &seed].concat();
    let pair = Ed25519KeyPair::from_der(&der, client.device.clone()).unwrap();
    let public = data_encoding::BASE64_NOPAD.encode(&pair.public_key());
    let sign = |object: Value| {
        let mut object: CanonicalJsonObject = serde_json::from_value(object).unwrap();
        ruma::signatures::sign_json(client.user.as_str(), &pair, &mut object).unwrap();
        serde_json::to_value(object).unwrap()
    };
    let device = &client.device;
    let keys = sign(json!({
        "user_id": client.user, "device_id": device,
        "algorithms": ["m.olm.v1.curve25519-aes-sha2", "m.megolm.v1.aes-sha2"],
        "keys": { format!("ed25519:{device}"): public, format!("curve25519:{device}"): public },
    }));
    let once = sign(json!({ "key": public }));
    client
        .call(
            "POST",
            "/_matrix/client/v3/keys/upload",
            &json!({ "device_keys": keys, "one_time_keys": { "signed_curve25519:AAAA": once } }),
        )
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn devices_are_known_keys_claimed_once_and_messages_arrive_once() {
    let Two { net, a, b, alice, bob, room: _room } = two().await;
    let mut bobs = None;
    bob.sync_until("a first answer", &mut bobs, |_| Some(())).await;
    upload_keys(&alice).await;
    let alice_id = alice.user.to_string();
    bob.sync_until("alice's new device", &mut bobs, |answer| {
        answer["device_lists"]["changed"].as_array()?.iter().any(|user| *user == alice_id).then_some(())
    })
    .await;
    let query = json!({ "device_keys": { &alice_id: [] } });
    let known = bob.call("POST", "/_matrix/client/v3/keys/query", &query).await;
    assert!(known["device_keys"][&alice_id][&alice.device].is_object(), "{known}");
    let claim = json!({ "one_time_keys": { &alice_id: { &alice.device: "signed_curve25519" } } });
    let first = bob.call("POST", "/_matrix/client/v3/keys/claim", &claim).await;
    assert!(first["one_time_keys"][&alice_id][&alice.device].is_object(), "{first}");
    let second = bob.call("POST", "/_matrix/client/v3/keys/claim", &claim).await;
    let left = second["one_time_keys"][&alice_id][&alice.device].as_object();
    assert!(left.is_none_or(serde_json::Map::is_empty), "a one-time key came twice: {second}");

    // While a is away, bob's device writes to alice's. It arrives once, whatever is repeated.
    net.set_away(a.node(), true);
    let message = json!({ "messages": { &alice_id: { &alice.device: { "hello": 1 } } } });
    bob.call("PUT", "/_matrix/client/v3/sendToDevice/m.test/t1", &message).await;
    bob.call("PUT", "/_matrix/client/v3/sendToDevice/m.test/t1", &message).await;
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    net.set_away(a.node(), false);
    b.server.remote.network_changed();
    let mut alices = None;
    alice
        .sync_until("the message", &mut alices, |answer| {
            let events = answer["to_device"]["events"].as_array()?;
            (events.len() == 1 && events[0]["content"]["hello"] == 1).then_some(())
        })
        .await;
    let more = alice.get(&format!("/_matrix/client/v3/sync?timeout=0&since={}", alices.unwrap())).await;
    assert!(more["to_device"]["events"].as_array().is_none_or(Vec::is_empty), "{more}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn media_profiles_and_directories_come_from_the_other_server() {
    let Two { net, a, b: _b, alice, bob, room } = two().await;
    let content = bytes::Bytes::from(vec![7u8; 300_000]);
    let (status, body) = alice
        .raw("POST", "/_matrix/media/v3/upload?filename=seven.bin", content.clone(), "application/x-seven")
        .await;
    assert_eq!(status, 200);
    let uri: Value = serde_json::from_slice(&body).unwrap();
    let path = uri["content_uri"].as_str().unwrap().strip_prefix("mxc://").unwrap().to_owned();
    let download = format!("/_matrix/client/v1/media/download/{path}");
    let (status, body) = bob.raw("GET", &download, bytes::Bytes::new(), "").await;
    assert_eq!((status, body.len()), (200, content.len()));
    assert_eq!(body, content);
    let (status, _) = bob.raw("GET", &format!("{download}x"), bytes::Bytes::new(), "").await;
    assert_eq!(status, 404);

    let profile = format!("/_matrix/client/v3/profile/{}", alice.user);
    alice.call("PUT", &format!("{profile}/displayname"), &json!({ "displayname": "Alice A." })).await;
    assert_eq!(bob.get(&profile).await["displayname"], "Alice A.");

    let rooms = bob.get(&format!("/_matrix/client/v3/publicRooms?server={}", a.name())).await;
    assert_eq!(rooms["chunk"][0]["room_id"], room.as_str(), "{rooms}");
    let alias = format!("/_matrix/client/v3/directory/room/%23hall:{}", a.name());
    assert_eq!(bob.get(&alias).await["room_id"], room.as_str());
    let none = format!("/_matrix/client/v3/directory/room/%23none:{}", a.name());
    assert_eq!(bob.raw("GET", &none, bytes::Bytes::new(), "").await.0, 404);
    // What was fetched stays when its server is gone.
    net.set_away(a.node(), true);
    assert_eq!(bob.raw("GET", &download, bytes::Bytes::new(), "").await.0, 200);
}
