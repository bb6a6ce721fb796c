//! One node, several users: what the verbs do is what the reads show.

use ruma::{OwnedRoomOrAliasId, api::client::room::create_room};
use serde_json::{Value, json};

use super::{Node, message, state};
use crate::{
    room::{RoomError, Txn, read::MessagesQuery},
    store::{
        Options,
        schema::{membership::Membership, rooms::Network},
    },
};

fn back(limit: u32) -> MessagesQuery {
    MessagesQuery {
        from: None,
        to: None,
        backwards: true,
        limit,
        lazy_members: true,
        filter: None,
        relations: Default::default(),
        device: None,
    }
}

fn body(event: &serde_json::value::RawValue) -> String {
    let event: Value = serde_json::from_str(event.get()).unwrap();
    event["content"]["body"].as_str().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn chat_in_every_version() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::open(dir.path(), Options::default());
    let (alice, bob) = (node.user("alice"), node.user("bob"));
    for version in ["1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12"] {
        let room = node.room(&alice, version).await;
        assert_eq!(version == "12", !room.as_str().contains(':'), "{room}");
        assert!(matches!(node.say(&bob, &room, "not yet").await, Err(RoomError::Forbidden(_))));
        let target = OwnedRoomOrAliasId::from(room.clone());
        node.rooms.join(&bob, &target, vec![], None).await.unwrap();
        node.rooms.join(&bob, &target, vec![], None).await.unwrap();
        let mut sent = Vec::new();
        for n in 0..5 {
            sent.push(
                node.say(if n % 2 == 0 { &alice } else { &bob }, &room, &format!("m{n}")).await.unwrap(),
            );
        }
        let page = node.rooms.messages(&bob, &room, back(3)).await.unwrap();
        let bodies: Vec<String> = page.chunk.iter().map(|event| body(event)).collect();
        assert_eq!(bodies, ["m4", "m3", "m2"]);
        assert_eq!(page.state.len(), 2);
        let next = MessagesQuery { from: page.end, ..back(100) };
        let rest = node.rooms.messages(&bob, &room, next).await.unwrap();
        assert_eq!(body(&rest.chunk[0]), "m1");
        // Where the past ends shows when there is nothing more on a page.
        let past =
            node.rooms.messages(&alice, &room, MessagesQuery { from: rest.end, ..back(5) }).await.unwrap();
        assert!(past.chunk.is_empty() && past.end.is_none());
        let forwards = MessagesQuery { backwards: false, ..back(100) };
        let all = node.rooms.messages(&alice, &room, forwards).await.unwrap();
        assert_eq!(all.chunk.len(), rest.chunk.len() + 3);
        let context = node.rooms.context(&alice, &room, &sent[2], 2, true).await.unwrap();
        assert_eq!(
            (body(&context.event), body(&context.before[0]), body(&context.after[0])),
            ("m2".into(), "m1".into(), "m3".into())
        );

        node.rooms.redact(&alice, &room, &sent[1], Some("no".into()), None).await.unwrap();
        let event = node.rooms.event(&alice, &room, &sent[1]).await.unwrap();
        assert_eq!(body(&event), "");
        assert!(event.get().contains("redacted_because"));
        assert!(matches!(
            node.rooms.redact(&bob, &room, &sent[0], None, None).await,
            Err(RoomError::Forbidden(_))
        ));
        node.rooms.redact(&bob, &room, &sent[3], None, None).await.unwrap();
        assert_eq!(body(&node.rooms.event(&alice, &room, &sent[3]).await.unwrap()), "");
        let kept = node.rooms.event(&bob, &room, &sent[0]).await.unwrap();
        assert_eq!(body(&kept), "m0", "bob has no power over alice's events");

        node.rooms.send(&alice, &room, state("m.room.topic", "", json!({"topic": "t"})), None).await.unwrap();
        assert!(matches!(
            node.rooms.send(&bob, &room, state("m.room.topic", "", json!({"topic": "u"})), None).await,
            Err(RoomError::Forbidden(_))
        ));
        let topic = node.rooms.state_content(&bob, &room, "m.room.topic", "").await.unwrap();
        assert_eq!(topic.get(), r#"{"topic":"t"}"#);

        node.rooms.ban(&alice, &room, &bob, None).await.unwrap();
        assert!(matches!(node.say(&bob, &room, "banned").await, Err(RoomError::Forbidden(_))));
        assert!(node.rooms.join(&bob, &target, vec![], None).await.is_err());
        node.say(&alice, &room, "secret").await.unwrap();
        let left = node.rooms.messages(&bob, &room, back(1)).await.unwrap();
        assert!(left.chunk[0].get().contains("ban"), "{}", left.chunk[0]);
        node.rooms.unban(&alice, &room, &bob, None).await.unwrap();
        node.rooms.forget(&bob, &room).await.unwrap();
        assert!(node.rooms.messages(&bob, &room, back(1)).await.is_err());
        node.rooms.invite(&alice, &room, &bob, None).await.unwrap();
        node.rooms.leave(&bob, &room, None).await.unwrap();
        node.rooms.join(&bob, &target, vec![], None).await.unwrap();
        let members = node.rooms.members(&alice, &room, None, Some(Membership::Join), None).await.unwrap();
        assert_eq!(members.len(), 2);
        assert_eq!(node.rooms.joined_members(&bob, &room).await.unwrap().len(), 2);
    }
    assert_eq!(node.rooms.joined_rooms(&bob).await.unwrap().len(), 12);
}

#[tokio::test]
async fn one_transaction_makes_one_event() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::open(dir.path(), Options::default());
    let alice = node.user("alice");
    let room = node.room(&alice, "12").await;
    let txn = |n: usize| Some(Txn { device: "DEV".into(), id: format!("t{n}").into() });
    // Each of ten transactions eight times at once, from tasks of their own.
    let sends = (0..80).map(|n| {
        let (rooms, alice, room) = (node.rooms.clone(), alice.clone(), room.clone());
        tokio::spawn(
            async move { rooms.send(&alice, &room, message(&format!("m{}", n % 10)), txn(n % 10)).await },
        )
    });
    let mut ids = std::collections::HashMap::new();
    for (n, sent) in futures_util::future::join_all(sends).await.into_iter().enumerate() {
        let id = sent.unwrap().unwrap();
        assert_eq!(*ids.entry(n % 10).or_insert_with(|| id.clone()), id);
    }
    let page = node.rooms.messages(&alice, &room, back(1000)).await.unwrap();
    assert_eq!(page.chunk.iter().filter(|event| body(event).starts_with('m')).count(), 10);
}

#[tokio::test]
async fn a_busy_room_pipelines_and_keeps_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::open(dir.path(), Options::default());
    let alice = node.user("alice");
    let room = node.room(&alice, "12").await;
    let started = std::time::Instant::now();
    let senders = (0..8).map(|n| {
        let (rooms, alice, room) = (node.rooms.clone(), alice.clone(), room.clone());
        tokio::spawn(async move {
            for m in 0..50 {
                rooms.send(&alice, &room, message(&format!("m{n}-{m}")), None).await.unwrap();
            }
        })
    });
    futures_util::future::join_all(senders).await.into_iter().for_each(|sent| sent.unwrap());
    eprintln!("400 events by 8 senders: {:?}", started.elapsed());
    let room_id = room.clone();
    let (ends, forks) = node
        .store
        .read(move |tx| -> Result<_, crate::store::StoreError> {
            let room = tx.lookup(crate::store::Kind::Room, room_id.as_str())?.unwrap();
            let ends = crate::store::schema::events::forward(tx, room)?.len();
            let forks: i64 = tx
                .row(
                    "SELECT count(*) FROM (SELECT prev FROM edge GROUP BY prev HAVING count(*) > 1)",
                    [],
                    |row| row.get(0),
                )?
                .unwrap();
            Ok((ends, forks))
        })
        .await
        .unwrap();
    assert_eq!((ends, forks), (1, 0));
    let page = node.rooms.messages(&alice, &room, back(1000)).await.unwrap();
    let bodies: Vec<String> =
        page.chunk.iter().rev().map(|event| body(event)).filter(|body| !body.is_empty()).collect();
    assert_eq!(bodies.len(), 400);
    for n in 0..8 {
        let own: Vec<&String> = bodies.iter().filter(|body| body.starts_with(&format!("m{n}-"))).collect();
        assert!(own.iter().enumerate().all(|(m, body)| **body == format!("m{n}-{m}")), "each sender's order");
    }
}

#[tokio::test]
async fn rooms_are_whole_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::open(dir.path(), Options::default());
    let alice = node.user("alice");
    let mut request = create_room::v3::Request::new();
    request.room_alias_name = Some("tea".into());
    request.name = Some("Tea".into());
    request.visibility = ruma::api::client::room::Visibility::Public;
    request.invite = vec![node.user("bob")];
    let room = node.rooms.create(&alice, request.clone()).await.unwrap();
    assert!(matches!(node.rooms.create(&alice, request).await, Err(RoomError::AliasInUse(_))));
    assert_eq!(node.rooms.joined_rooms(&alice).await.unwrap(), std::slice::from_ref(&room));
    let listed = node.rooms.directory(Network::Matrix, Some("te".into()), 10, None).await.unwrap();
    assert_eq!((listed.total, listed.chunk.len()), (1, 1));
    assert!(listed.chunk[0].get().contains(r#""name":"Tea""#), "{}", listed.chunk[0]);
    let alias = ruma::RoomAliasId::parse(format!("#tea:{}", node.rooms.server_name())).unwrap();
    let bob = node.user("bob");
    let joined = node.rooms.join(&bob, (&*alias).into(), vec![], None).await.unwrap();
    assert_eq!(joined, room);
}
