//! Rooms over two and three servers: invite, join, messages both ways, leaving, being thrown out, filling gaps, catching
//! up after being away, and what nobody may do.

use std::{collections::HashSet, time::Duration};

use ruma::{
    CanonicalJsonObject, OwnedEventId, OwnedRoomId, OwnedServerName, RoomId, RoomOrAliasId, RoomVersionId,
    UserId,
    api::{
        client::room::create_room,
        federation::{
            event::get_missing_events, membership::prepare_join_event, transactions::send_transaction_message,
        },
    },
};
use serde_json::{
    json,
    value::{RawValue, to_raw_value},
};

use super::harness::{Peer, signed, until};
use crate::{
    remote::memory::MemoryNet,
    room::{Draft, RoomError, Rooms, read::MessagesQuery},
    store::schema::membership::Membership,
};

const VERSIONS: [&str; 6] = ["1", "3", "5", "10", "11", "12"];

pub(super) async fn create(peer: &Peer, creator: &UserId, version: &str, public: bool) -> OwnedRoomId {
    let mut request = create_room::v3::Request::new();
    request.room_version = Some(RoomVersionId::try_from(version).unwrap());
    let preset = if public {
        create_room::v3::RoomPreset::PublicChat
    } else {
        create_room::v3::RoomPreset::PrivateChat
    };
    request.preset = Some(preset);
    peer.server.rooms.create(creator, request).await.unwrap()
}

pub(super) async fn say(rooms: &Rooms, user: &UserId, room: &RoomId, text: &str) -> OwnedEventId {
    let content = to_raw_value(&json!({ "msgtype": "m.text", "body": text })).unwrap();
    rooms.send(user, room, Draft::message("m.room.message", content), None).await.unwrap()
}

pub(super) async fn join(peer: &Peer, user: &UserId, room: &RoomId, via: &Peer) -> Result<(), RoomError> {
    let target = <&RoomOrAliasId>::from(room);
    peer.server.rooms.join(user, target, vec![via.name().to_owned()], None).await.map(drop)
}

/// Bodies of the messages that a user sees, oldest first.
pub(super) async fn bodies(peer: &Peer, user: &UserId, room: &RoomId) -> Vec<String> {
    let mut query = MessagesQuery {
        from: None,
        to: None,
        backwards: true,
        limit: 100,
        lazy_members: false,
        filter: None,
        relations: Default::default(),
        device: None,
    };
    let mut bodies = Vec::new();
    for _ in 0..20 {
        let Ok(page) = peer.server.rooms.messages(user, room, query.clone()).await else { return bodies };
        for event in page.chunk {
            let event: serde_json::Value = serde_json::from_str(event.get()).unwrap();
            if let Some(body) = event["content"]["body"].as_str() {
                bodies.push(body.to_owned());
            }
        }
        let Some(end) = page.end else { break };
        query.from = Some(end);
    }
    bodies.reverse();
    bodies
}

pub(super) async fn sees(peer: &Peer, user: &UserId, room: &RoomId, text: &str) {
    until(&format!("{user} sees {text}"), || async {
        bodies(peer, user, room).await.iter().any(|body| body == text).then_some(())
    })
    .await;
}

async fn membership(peer: &Peer, user: &UserId, room: &RoomId) -> Option<Membership> {
    use crate::store::{Kind, StoreError, schema::membership};
    let (user, room) = (user.to_owned(), room.to_owned());
    peer.server
        .store
        .read(move |tx| -> Result<_, StoreError> {
            let (Some(user), Some(room)) =
                (tx.lookup(Kind::User, user.as_str())?, tx.lookup(Kind::Room, room.as_str())?)
            else {
                return Ok(None);
            };
            Ok(membership::user_room(tx, user, room)?.map(|row| row.membership))
        })
        .await
        .unwrap()
}

async fn becomes(peer: &Peer, user: &UserId, room: &RoomId, wanted: Membership) {
    until(&format!("{user} becomes {wanted:?}"), || async {
        (membership(peer, user, room).await == Some(wanted)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invite_join_and_talk_in_every_version() {
    for version in VERSIONS {
        let net = MemoryNet::new();
        let (a, b) = (Peer::start(&net, 1).await, Peer::start(&net, 2).await);
        let (alice, bob) = (a.user("alice").await, b.user("bob").await);
        let room = create(&a, &alice, version, false).await;
        say(&a.server.rooms, &alice, &room, "before").await;
        a.server.rooms.invite(&alice, &room, &bob, None).await.unwrap();
        becomes(&b, &bob, &room, Membership::Invite).await;
        // The invite alone is enough to find the way.
        b.server.rooms.join(&bob, <&RoomOrAliasId>::from(&*room), Vec::new(), None).await.unwrap();
        say(&b.server.rooms, &bob, &room, "hello from b").await;
        sees(&a, &alice, &room, "hello from b").await;
        say(&a.server.rooms, &alice, &room, "hello from a").await;
        sees(&b, &bob, &room, "hello from a").await;
        assert_eq!(bodies(&b, &bob, &room).await.last().unwrap(), "hello from a", "{version}");
        // Leaving is seen over there.
        b.server.rooms.leave(&bob, &room, None).await.unwrap();
        until("a sees b leave", || async {
            (!a.server.rooms.is_joined(&bob, &room).await.unwrap()).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_invite_can_be_declined_and_taken_back() {
    let net = MemoryNet::new();
    let (a, b) = (Peer::start(&net, 1).await, Peer::start(&net, 2).await);
    let (alice, bob) = (a.user("alice").await, b.user("bob").await);
    let room = create(&a, &alice, "12", false).await;
    a.server.rooms.invite(&alice, &room, &bob, None).await.unwrap();
    becomes(&b, &bob, &room, Membership::Invite).await;
    b.server.rooms.leave(&bob, &room, None).await.unwrap();
    becomes(&b, &bob, &room, Membership::Leave).await;
    // Again, and this time alice thinks better of it.
    a.server.rooms.invite(&alice, &room, &bob, None).await.unwrap();
    becomes(&b, &bob, &room, Membership::Invite).await;
    a.server.rooms.kick(&alice, &room, &bob, None).await.unwrap();
    becomes(&b, &bob, &room, Membership::Leave).await;
    // Once more; now her server is gone, and bob must not be haunted.
    a.server.rooms.invite(&alice, &room, &bob, None).await.unwrap();
    becomes(&b, &bob, &room, Membership::Invite).await;
    net.set_away(a.node(), true);
    b.server.rooms.leave(&bob, &room, None).await.unwrap();
    assert_eq!(membership(&b, &bob, &room).await, Some(Membership::Leave));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kick_reaches_the_kicked_and_a_ban_keeps_him_out() {
    let net = MemoryNet::new();
    let (a, b) = (Peer::start(&net, 1).await, Peer::start(&net, 2).await);
    let (alice, bob) = (a.user("alice").await, b.user("bob").await);
    let room = create(&a, &alice, "11", true).await;
    join(&b, &bob, &room, &a).await.unwrap();
    a.server.rooms.kick(&alice, &room, &bob, Some("out".to_owned())).await.unwrap();
    becomes(&b, &bob, &room, Membership::Leave).await;
    join(&b, &bob, &room, &a).await.unwrap();
    a.server.rooms.ban(&alice, &room, &bob, None).await.unwrap();
    becomes(&b, &bob, &room, Membership::Ban).await;
    let error = join(&b, &bob, &room, &a).await.unwrap_err();
    assert!(matches!(error, RoomError::Forbidden(_)), "{error:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_joins_late_reads_what_was_said_before() {
    let net = MemoryNet::new();
    let (a, b) = (Peer::start(&net, 1).await, Peer::start(&net, 2).await);
    let (alice, bob) = (a.user("alice").await, b.user("bob").await);
    let room = create(&a, &alice, "12", true).await;
    for n in 0..60 {
        say(&a.server.rooms, &alice, &room, &format!("old {n}")).await;
    }
    join(&b, &bob, &room, &a).await.unwrap();
    let seen = bodies(&b, &bob, &room).await;
    let all: Vec<String> = (0..60).map(|n| format!("old {n}")).collect();
    assert_eq!(seen, all);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_who_was_away_gets_a_hundred_messages_once_and_in_order() {
    let net = MemoryNet::new();
    let (a, b) = (Peer::start(&net, 1).await, Peer::start(&net, 2).await);
    let (alice, bob) = (a.user("alice").await, b.user("bob").await);
    let room = create(&a, &alice, "12", true).await;
    join(&b, &bob, &room, &a).await.unwrap();
    net.set_away(b.node(), true);
    for n in 0..100 {
        say(&a.server.rooms, &alice, &room, &format!("m{n}")).await;
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    net.set_away(b.node(), false);
    a.server.remote.network_changed();
    let start = std::time::Instant::now();
    sees(&b, &bob, &room, "m99").await;
    let took = start.elapsed();
    let all: Vec<String> = (0..100).map(|n| format!("m{n}")).collect();
    assert_eq!(bodies(&b, &bob, &room).await, all);
    assert!(took < Duration::from_secs(10), "{took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_on_either_side_loses_and_doubles_nothing() {
    let net = MemoryNet::new();
    let (a, b) = (Peer::start(&net, 1).await, Peer::start(&net, 2).await);
    let (alice, bob) = (a.user("alice").await, b.user("bob").await);
    let room = create(&a, &alice, "10", true).await;
    join(&b, &bob, &room, &a).await.unwrap();
    // b is gone; a sends, is stopped amid its attempts, and comes back before b does.
    let b = b.stop().await;
    for n in 0..20 {
        say(&a.server.rooms, &alice, &room, &format!("m{n}")).await;
    }
    let a = a.restart().await;
    say(&a.server.rooms, &alice, &room, "m20").await;
    // b greets when it starts, and a answers with all it kept.
    let start = std::time::Instant::now();
    let b = b.start().await;
    sees(&b, &bob, &room, "m20").await;
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    let all: Vec<String> = (0..21).map(|n| format!("m{n}")).collect();
    assert_eq!(bodies(&b, &bob, &room).await, all);
    say(&b.server.rooms, &bob, &room, "thanks").await;
    sees(&a, &alice, &room, "thanks").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_servers_fill_each_others_gaps() {
    let net = MemoryNet::new();
    let (a, b, c) = (Peer::start(&net, 1).await, Peer::start(&net, 2).await, Peer::start(&net, 3).await);
    let (alice, bob, carol) = (a.user("alice").await, b.user("bob").await, c.user("carol").await);
    let room = create(&a, &alice, "12", true).await;
    join(&b, &bob, &room, &a).await.unwrap();
    join(&c, &carol, &room, &b).await.unwrap();
    for peer in [&a, &b, &c] {
        for user in [&alice, &bob, &carol] {
            until("all know all", || async {
                peer.server.rooms.is_joined(user, &room).await.unwrap().then_some(())
            })
            .await;
        }
    }
    // a and c cannot reach each other; what a says reaches c as history of what b says after it.
    net.set_cut(a.node(), c.node(), true);
    for n in 0..5 {
        say(&a.server.rooms, &alice, &room, &format!("a{n}")).await;
    }
    sees(&b, &bob, &room, "a4").await;
    say(&b.server.rooms, &bob, &room, "b after a").await;
    sees(&c, &carol, &room, "b after a").await;
    for n in 0..5 {
        sees(&c, &carol, &room, &format!("a{n}")).await;
    }
    // Both sides talk at once, and agree in the end.
    say(&a.server.rooms, &alice, &room, "left").await;
    say(&c.server.rooms, &carol, &room, "right").await;
    net.set_cut(a.node(), c.node(), false);
    for peer in [&a, &c] {
        peer.server.remote.network_changed();
    }
    let mut all = Vec::new();
    for (peer, user) in [(&a, &alice), (&b, &bob), (&c, &carol)] {
        sees(peer, user, &room, "left").await;
        sees(peer, user, &room, "right").await;
        let set: HashSet<String> = bodies(peer, user, &room).await.into_iter().collect();
        all.push(set);
    }
    assert_eq!(all[0], all[1]);
    assert_eq!(all[1], all[2]);
}

pub(super) fn transaction(
    peer: &Peer,
    txn: &str,
    pdus: Vec<Box<RawValue>>,
) -> send_transaction_message::v1::Request {
    let mut request = send_transaction_message::v1::Request::new(
        txn.into(),
        peer.name().to_owned(),
        ruma::MilliSecondsSinceUnixEpoch::now(),
    );
    request.pdus = pdus;
    request
}

/// The events of a room that `to` would be sent, as PDUs, by asking for what lies before the newest.
async fn pdus(asker: &Peer, holder: &Peer, room: &RoomId, latest: OwnedEventId) -> Vec<Box<RawValue>> {
    let mut request = get_missing_events::v1::Request::new(room.to_owned(), Vec::new(), vec![latest]);
    request.limit = 10u8.into();
    asker.server.remote.request(holder.name(), request).await.unwrap().events
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeated_transaction_does_nothing_and_a_forged_event_is_refused() {
    let net = MemoryNet::new();
    let (a, b) = (Peer::start(&net, 1).await, Peer::start(&net, 2).await);
    let (alice, bob) = (a.user("alice").await, b.user("bob").await);
    let room = create(&a, &alice, "12", true).await;
    join(&b, &bob, &room, &a).await.unwrap();
    say(&a.server.rooms, &alice, &room, "one").await;
    let last = say(&a.server.rooms, &alice, &room, "two").await;
    sees(&b, &bob, &room, "two").await;
    let known = pdus(&b, &a, &room, last).await;
    let one = known.iter().find(|pdu| pdu.get().contains("\"one\"")).unwrap().clone();
    let key = a.server.remote.identity().signing_key();
    // The same event again, under another transaction id, and the same transaction twice.
    for txn in ["again", "again", "and again"] {
        let request = signed(transaction(&a, txn, vec![one.clone()]), a.name(), b.name(), &key);
        let (status, body) = b.ask(a.node(), request).await;
        assert_eq!(status, 200);
        for (_, result) in body["pdus"].as_object().unwrap() {
            assert!(result.get("error").is_none(), "{body}");
        }
    }
    assert_eq!(bodies(&b, &bob, &room).await, ["one", "two"]);
    // Changed content: the hash does not hold, so nobody sees the new words.
    let bent = RawValue::from_string(one.get().replace("\"one\"", "\"fake\"")).unwrap();
    // Changed sender: the signature does not hold.
    let mut event: CanonicalJsonObject = serde_json::from_str(one.get()).unwrap();
    event.insert("sender".to_owned(), bob.as_str().into());
    let stolen = to_raw_value(&event).unwrap();
    // No event at all.
    let rubbish = RawValue::from_string("{\"room_id\":7}".to_owned()).unwrap();
    let request = signed(transaction(&a, "bad", vec![bent, stolen, rubbish]), a.name(), b.name(), &key);
    let (status, _) = b.ask(a.node(), request).await;
    assert_eq!(status, 200, "a transaction with bad events is answered all the same");
    say(&a.server.rooms, &alice, &room, "three").await;
    sees(&b, &bob, &room, "three").await;
    assert!(!bodies(&b, &bob, &room).await.iter().any(|body| body == "fake"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handshakes_refuse_what_is_not_theirs() {
    let net = MemoryNet::new();
    let (a, b) = (Peer::start(&net, 1).await, Peer::start(&net, 2).await);
    let (alice, bob) = (a.user("alice").await, b.user("bob").await);
    let room = create(&a, &alice, "12", false).await;
    // Not invited.
    let error = join(&b, &bob, &room, &a).await.unwrap_err();
    assert!(matches!(error, RoomError::Forbidden(_)), "{error:?}");
    // Another server's user.
    let request = prepare_join_event::v1::Request::new(room.clone(), alice.clone());
    let error = b.server.remote.request(a.name(), request).await.unwrap_err();
    assert_eq!(error.status(), Some(403), "{error}");
    // A version that b does not speak.
    let mut request = prepare_join_event::v1::Request::new(room.clone(), bob.clone());
    request.ver = vec![RoomVersionId::V10];
    let error = b.server.remote.request(a.name(), request).await.unwrap_err();
    assert_eq!(error.errcode(), Some("M_INCOMPATIBLE_ROOM_VERSION"), "{error}");
    // A room that is not there.
    let nowhere = RoomId::parse("!nowhere:example.org").unwrap();
    let request = prepare_join_event::v1::Request::new(nowhere, bob.clone());
    let error = b.server.remote.request(a.name(), request).await.unwrap_err();
    assert_eq!(error.status(), Some(404), "{error}");
    // An ordinary server and the overlay do not mix, both ways.
    let ordinary = UserId::parse("@eve:example.org").unwrap();
    let error = a.server.rooms.invite(&alice, &room, &ordinary, None).await.unwrap_err();
    assert!(matches!(error, RoomError::Mixture(_)), "{error:?}");
    assert!(error.to_string().contains("gateway zone"), "{error}");
    let there: OwnedServerName = "example.org".try_into().unwrap();
    let elsewhere = RoomId::parse("!room:example.org").unwrap();
    let target = <&RoomOrAliasId>::from(&*elsewhere);
    let error = b.server.rooms.join(&bob, target, vec![there], None).await.unwrap_err();
    assert!(matches!(error, RoomError::Mixture(_)), "{error:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restricted_room_lets_members_of_another_in() {
    let net = MemoryNet::new();
    let (a, b) = (Peer::start(&net, 1).await, Peer::start(&net, 2).await);
    let (alice, bob) = (a.user("alice").await, b.user("bob").await);
    let club = create(&a, &alice, "12", true).await;
    let mut request = create_room::v3::Request::new();
    request.room_version = Some(RoomVersionId::V12);
    let room = a.server.rooms.create(&alice, request).await.unwrap();
    let rule =
        json!({ "join_rule": "restricted", "allow": [{ "type": "m.room_membership", "room_id": club }] });
    let rule = Draft::state("m.room.join_rules", "", to_raw_value(&rule).unwrap());
    a.server.rooms.send(&alice, &room, rule, None).await.unwrap();
    let error = join(&b, &bob, &room, &a).await.unwrap_err();
    assert!(matches!(error, RoomError::Forbidden(_)), "{error:?}");
    join(&b, &bob, &club, &a).await.unwrap();
    until("bob is let in", || async { join(&b, &bob, &room, &a).await.ok() }).await;
    say(&b.server.rooms, &bob, &room, "let in").await;
    sees(&a, &alice, &room, "let in").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_takes_its_way_at_once() {
    let net = MemoryNet::new();
    let (a, b) = (Peer::start(&net, 1).await, Peer::start(&net, 2).await);
    let (alice, bob) = (a.user("alice").await, b.user("bob").await);
    let room = create(&a, &alice, "12", true).await;
    join(&b, &bob, &room, &a).await.unwrap();
    let mut position = b.server.store.notify().position();
    let mut times = Vec::new();
    for n in 0..20 {
        tokio::time::sleep(Duration::from_millis(20)).await;
        position.borrow_and_update();
        let start = std::time::Instant::now();
        say(&a.server.rooms, &alice, &room, &format!("m{n}")).await;
        // The next commit over there is this event's.
        tokio::time::timeout(Duration::from_secs(5), position.changed()).await.unwrap().unwrap();
        times.push(start.elapsed());
    }
    times.sort_unstable();
    println!("send on a to commit on b: p50 {:?}, max {:?}", times[10], times[19]);
    // Generous: test machines are busy, and this is not optimized. A poll or a back-off would show.
    assert!(times[10] < Duration::from_millis(200), "{times:?}");
}
