//! What servers ask each other: spaces, events by time, others' keys; and what is answered before it is done.

use ruma::{
    OwnedRoomId,
    api::federation::{
        discovery::{get_remote_server_keys, get_remote_server_keys_batch},
        space::get_hierarchy,
    },
};
use serde_json::{Value, json, value::to_raw_value};

use super::{
    harness::{Client, Peer, signed, until},
    rooms::{bodies, create, join, say, sees, transaction},
};
use crate::{remote::memory::MemoryNet, room::Draft};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_space_is_told_with_what_may_be_seen_of_it() {
    let net = MemoryNet::new();
    let (a, b) = (Peer::start(&net, 1).await, Peer::start(&net, 2).await);
    let (alice, bob) = (Client::new(&a, "alice").await, Client::new(&b, "bob").await);
    let make = async |body: Value| -> OwnedRoomId {
        let made = alice.call("POST", "/_matrix/client/v3/createRoom", &body).await;
        made["room_id"].as_str().unwrap().try_into().unwrap()
    };
    let space = make(json!({ "preset": "public_chat", "creation_content": { "type": "m.space" } })).await;
    let open = make(json!({ "preset": "public_chat", "name": "open" })).await;
    let shut = make(json!({ "preset": "private_chat", "name": "shut" })).await;
    for child in [&open, &shut] {
        let content = to_raw_value(&json!({ "via": [a.name()] })).unwrap();
        let draft = Draft::state("m.space.child", child.as_str(), content);
        a.server.rooms.send(&alice.user, &space, draft, None).await.unwrap();
    }
    let told =
        b.server.remote.request(a.name(), get_hierarchy::v1::Request::new(space.clone())).await.unwrap();
    assert_eq!(told.room.summary.room_id, space);
    assert_eq!(told.room.children_state.len(), 2);
    let children: Vec<_> = told.children.iter().map(|child| &child.room_id).collect();
    assert_eq!(children, [&open]);
    assert_eq!(told.inaccessible_children, std::slice::from_ref(&shut));
    // As a client of b sees it, which has to join first to be sure of the way.
    let path = format!("/_matrix/client/v3/join/{space}?via={}", a.name());
    bob.call("POST", &path, &json!({})).await;
    let rooms = bob.get(&format!("/_matrix/client/v1/rooms/{space}/hierarchy")).await;
    let ids: Vec<_> = rooms["rooms"].as_array().unwrap().iter().map(|room| &room["room_id"]).collect();
    assert_eq!(ids, [space.as_str(), open.as_str()]);
    // Of a room that is not theirs to see nothing is told.
    let refused = b.server.remote.request(a.name(), get_hierarchy::v1::Request::new(shut)).await;
    assert_eq!(refused.unwrap_err().status(), Some(404));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_from_before_the_join_is_found_by_its_time() {
    let net = MemoryNet::new();
    let (a, b) = (Peer::start(&net, 1).await, Peer::start(&net, 2).await);
    let (alice, bob) = (a.user("alice").await, b.user("bob").await);
    let room = create(&a, &alice, "11", true).await;
    let at = async |ts_ms: u64, text: &str| {
        let content = to_raw_value(&json!({ "msgtype": "m.text", "body": text })).unwrap();
        let draft = Draft { ts_ms: Some(ts_ms), ..Draft::message("m.room.message", content) };
        a.server.rooms.send(&alice, &room, draft, None).await.unwrap()
    };
    let now = a.server.clock.now_ms();
    let one = at(now + 1_000, "one").await;
    let two = at(now + 2_000, "two").await;
    let three = at(now + 3_000, "three").await;
    join(&b, &bob, &room, &a).await.unwrap();
    let rooms = &b.server.rooms;
    assert_eq!(rooms.event_at(&bob, &room, now + 1_500, false).await.unwrap(), (two.clone(), now + 2_000));
    assert_eq!(rooms.event_at(&bob, &room, now + 2_500, true).await.unwrap(), (two, now + 2_000));
    assert_eq!(rooms.event_at(&bob, &room, now + 1_500, true).await.unwrap(), (one, now + 1_000));
    assert_eq!(rooms.event_at(&bob, &room, now + 9_000, true).await.unwrap(), (three, now + 3_000));
    // What was found is there, with what came before it.
    assert_eq!(bodies(&b, &bob, &room).await, ["one", "two", "three"]);
    // Who is not in the room is told nothing.
    let other = create(&a, &alice, "11", false).await;
    assert!(a.server.rooms.event_at_for_server(b.name(), &other, now, false).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_of_others_are_vouched_for() {
    let net = MemoryNet::new();
    let (a, b, c) = (Peer::start(&net, 1).await, Peer::start(&net, 2).await, Peer::start(&net, 3).await);
    let now = ruma::MilliSecondsSinceUnixEpoch::now();
    let ask = || get_remote_server_keys::v2::Request::new(a.name().to_owned(), now);
    let told = c.server.remote.request(b.name(), ask()).await.unwrap();
    let document: Value = serde_json::from_str(told.server_keys[0].json().get()).unwrap();
    assert_eq!(document["server_name"], a.name().as_str());
    for server in [&a, &b] {
        let keys = ruma::signatures::PublicKeyMap::from([(
            server.name().to_string(),
            server.server.remote.identity().public_keys(),
        )]);
        let mut one: ruma::CanonicalJsonObject = serde_json::from_value(document.clone()).unwrap();
        if let Some(ruma::CanonicalJsonValue::Object(signatures)) = one.get_mut("signatures") {
            signatures.retain(|name, _| name == server.name().as_str());
            assert_eq!(signatures.len(), 1);
        }
        ruma::signatures::verify_json(&keys, &one).unwrap();
    }
    // Also while its server is away, and many at once; of who cannot be asked nothing is said.
    net.set_away(a.node(), true);
    let wanted = [a.name().to_owned(), b.name().to_owned(), "nobody.example.org".try_into().unwrap()];
    let wanted = wanted.into_iter().map(|name| (name, Default::default())).collect();
    let told =
        c.server.remote.request(b.name(), get_remote_server_keys_batch::v2::Request::new(wanted)).await;
    assert_eq!(told.unwrap().server_keys.len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_for_its_past_is_taken_later_also_over_a_restart() {
    let net = MemoryNet::new();
    let (a, b) = (Peer::start(&net, 1).await, Peer::start(&net, 2).await);
    let (alice, bob) = (a.user("alice").await, b.user("bob").await);
    let room = create(&a, &alice, "11", true).await;
    join(&b, &bob, &room, &a).await.unwrap();
    say(&a.server.rooms, &alice, &room, "before").await;
    sees(&b, &bob, &room, "before").await;
    net.set_cut(a.node(), b.node(), true);
    for n in 0..5 {
        say(&a.server.rooms, &alice, &room, &format!("missed {n}")).await;
    }
    let last = say(&a.server.rooms, &alice, &room, "pushed").await;
    let event = a.server.rooms.event_answer(b.name(), &last).await.unwrap().0;
    // It comes some other way, while a cannot be asked for the rest: answered, and kept.
    let key = a.server.remote.identity().signing_key();
    let request = signed(transaction(&a, "t", vec![event]), a.name(), b.name(), &key);
    let (status, answer) = b.ask(a.node(), request).await;
    assert_eq!(status, 200, "{answer}");
    assert!(
        answer["pdus"].as_object().unwrap().values().all(|result| result.get("error").is_none()),
        "{answer}"
    );
    assert_eq!(bodies(&b, &bob, &room).await, ["before"]);
    let b = b.restart().await;
    net.set_cut(a.node(), b.node(), false);
    until("the gap is filled", || async {
        (bodies(&b, &bob, &room).await.last().map(String::as_str) == Some("pushed")).then_some(())
    })
    .await;
    let expected = ["before", "missed 0", "missed 1", "missed 2", "missed 3", "missed 4", "pushed"];
    assert_eq!(bodies(&b, &bob, &room).await, expected);
}
