//! The power is cut between any two writes of an append. After that the store opens, everything that was acknowledged is
//! there once, nothing is half there, and what was not acknowledged can be sent again.
//!
//! Method: a prepared node is copied, one verb is run on the copy with the scissors set to the n-th write, for every n
//! until the verb succeeds uncut.

use std::{collections::HashMap, path::Path, sync::Arc};

use ruma::{OwnedEventId, OwnedRoomId, OwnedUserId};
use serde_json::json;

use super::{Node, message, state};
use crate::store::Seq;
use crate::{
    room::Txn,
    store::{
        Fault, Nid, Options, ReadTx, StoreError, Synchronous,
        schema::{events, membership, membership::Membership, rooms, state as table},
    },
};

fn copy(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            std::fs::create_dir_all(to.join(entry.file_name())).unwrap();
            copy(&entry.path(), &to.join(entry.file_name()));
        } else {
            std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}

fn options(fault: Option<Arc<Fault>>) -> Options {
    Options { synchronous: Synchronous::Normal, readers: 1, fault, ..Options::default() }
}

/// What must hold of every room at every moment.
pub(super) fn check(tx: &ReadTx<'_>) -> Result<i64, StoreError> {
    let mut placed = 0;
    let list: Vec<Nid> = tx.rows("SELECT room FROM room", [], |row| row.get(0))?;
    for room in list {
        let row = rooms::room(tx, room)?.unwrap();
        let current = table::current_all(tx, room)?;
        assert_eq!(table::full(tx, row.sid)?, current, "the snapshot is the current state");
        let mut members = HashMap::new();
        for (skey, nid) in &current {
            let text = tx.text(*skey)?;
            let event = events::event(tx, *nid)?.expect("state is here");
            assert_eq!(event.skey, Some(*skey));
            if let Some(user) = text.strip_prefix("m.room.member\0") {
                let content: serde_json::Value = serde_json::from_slice(&event.client).unwrap();
                let membership = content["content"]["membership"].as_str().unwrap();
                members.insert(user.to_owned(), (Membership::parse(membership).unwrap(), *nid));
            }
        }
        let mut seen = HashMap::new();
        for (user, membership, nid) in membership::members(tx, room)? {
            seen.insert(tx.text(user)?.to_string(), (membership, nid));
            if let Some(own) = membership::user_room(tx, user, room)? {
                assert_eq!((own.membership, own.nid), (membership, nid), "user_room follows");
            }
        }
        assert_eq!(members, seen, "members follow the resolved state");
        let joined = members.values().filter(|(is, _)| *is == Membership::Join).count() as i64;
        assert_eq!(row.joined, joined);
        let places = events::places(
            tx,
            room,
            (i64::MAX, Seq(i64::MAX)),
            (Seq(i64::MIN), Seq(i64::MAX)),
            true,
            10_000,
        )?;
        for (depth, seq, nid) in &places {
            let event = events::event(tx, *nid)?.expect("the timeline's events are here");
            assert_eq!((event.depth, event.seq), (*depth, Some(*seq)));
            assert!(event.state_before.is_some() && event.state_after.is_some());
            let shown: i64 = tx
                .row("SELECT count(*) FROM stream WHERE kind = 1 AND ref = ?1", [*nid], |row| row.get(0))?
                .unwrap();
            assert_eq!(shown, 1, "shown once");
        }
        assert_eq!(row.depth, places.first().map_or(0, |place| place.0));
        let ends = events::forward(tx, room)?;
        assert!(!ends.is_empty());
        if let [end] = ends[..] {
            assert_eq!(events::event(tx, end)?.unwrap().state_after, Some(row.sid));
        }
        let messages: i64 = tx
            .row("SELECT coalesce(max(msgs), 0) FROM stream WHERE room = ?1", [room], |row| row.get(0))?
            .unwrap();
        assert_eq!(messages, row.msgs);
        placed += places.len() as i64;
    }
    let orphans: i64 = tx
        .row(
            "SELECT count(*) FROM event WHERE seq IS NOT NULL AND nid NOT IN (SELECT nid FROM timeline)",
            [],
            |row| row.get(0),
        )?
        .unwrap();
    assert_eq!(orphans, 0);
    Ok(placed)
}

#[derive(Clone, Copy, Debug)]
enum Verb {
    Say,
    Topic,
    Ban,
    Redact,
    Create,
}

async fn run(
    node: &Node,
    verb: Verb,
    alice: &OwnedUserId,
    bob: &OwnedUserId,
    room: &OwnedRoomId,
    old: &OwnedEventId,
) -> bool {
    let txn = Some(Txn { device: "DEV".into(), id: "t1".into() });
    match verb {
        Verb::Say => node.rooms.send(alice, room, message("hello"), txn).await.is_ok(),
        Verb::Topic => {
            let topic = state("m.room.topic", "", json!({"topic": "new"}));
            node.rooms.send(alice, room, topic, None).await.is_ok()
        }
        Verb::Ban => node.rooms.ban(alice, room, bob, None).await.is_ok(),
        Verb::Redact => node.rooms.redact(alice, room, old, None, txn).await.is_ok(),
        Verb::Create => {
            node.rooms.create(alice, ruma::api::client::room::create_room::v3::Request::new()).await.is_ok()
        }
    }
}

#[tokio::test]
async fn a_cut_between_any_two_writes_leaves_all_or_nothing() {
    let base = tempfile::tempdir().unwrap();
    let node = Node::open(base.path(), options(None));
    let (alice, bob) = (node.user("alice"), node.user("bob"));
    let room = node.room(&alice, "12").await;
    node.rooms.join(&bob, (&*room).into(), vec![], None).await.unwrap();
    let old = node.say(&alice, &room, "old").await.unwrap();
    node.store.read(check).await.unwrap();
    node.store.close().await;
    drop(node);
    for verb in [Verb::Say, Verb::Topic, Verb::Ban, Verb::Redact, Verb::Create] {
        // A whole room is many writes; every seventh place is enough there.
        let step = if matches!(verb, Verb::Create) { 7 } else { 1 };
        let mut cuts = 0;
        for writes in (0..).step_by(step) {
            let dir = tempfile::tempdir().unwrap();
            copy(base.path(), dir.path());
            let fault = Fault::new();
            let node = Node::open(dir.path(), options(Some(fault.clone())));
            let before = node.store.read(check).await.unwrap();
            fault.arm(writes);
            let done = run(&node, verb, &alice, &bob, &room, &old).await;
            if !done {
                node.store.failed().await;
            }
            drop(node);
            let node = Node::open(dir.path(), options(None));
            let after = node.store.read(check).await.unwrap();
            if done {
                assert!(after > before);
                break;
            }
            cuts += 1;
            assert_eq!(after, before, "{verb:?} cut at write {writes} leaves nothing");
            // Again, and again with the same transaction: once in the room.
            assert!(run(&node, verb, &alice, &bob, &room, &old).await);
            if matches!(verb, Verb::Say | Verb::Redact) {
                assert!(run(&node, verb, &alice, &bob, &room, &old).await);
                assert_eq!(node.store.read(check).await.unwrap(), before + 1);
            } else {
                assert!(node.store.read(check).await.unwrap() > before);
            }
        }
        assert!(cuts > 8, "{verb:?} was cut {cuts} times only");
    }
}
