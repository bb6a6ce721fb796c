//! A database of the first schema opens, with everything in it. `first.sql` is what the first program wrote: two users, a
//! room of version 10 and one of version 12, messages, a redaction, a reaction, a receipt, one-time keys.

use ruma::{OwnedDeviceId, OwnedRoomId, OwnedTransactionId};
use serde_json::json;

use super::{Nobody, Node, crash};
use crate::{
    room::{Draft, Txn, read::MessagesQuery},
    store::{
        Kind, Options, ReadTx, StoreError,
        schema::{chain, events, state},
    },
};

use std::sync::Arc;

#[tokio::test]
async fn a_database_of_the_first_schema_has_everything_it_had() {
    let dir = tempfile::tempdir().unwrap();
    {
        let conn = rusqlite::Connection::open(dir.path().join("hs.db")).unwrap();
        conn.execute_batch(include_str!("first.sql")).unwrap();
    }
    for _ in 0..2 {
        let node = Node::named("first.test", dir.path(), Options::default(), Arc::new(Nobody));
        let alice = node.user("alice");
        let rooms: Vec<OwnedRoomId> = node.rooms.joined_rooms(&alice).await.unwrap();
        assert_eq!(rooms.len(), 2);
        node.store.read(crash::check).await.unwrap();
        for room in &rooms {
            let query = MessagesQuery {
                from: None,
                to: None,
                backwards: true,
                limit: 100,
                lazy_members: false,
                device: None,
                filter: None,
                relations: Default::default(),
            };
            let page = node.rooms.messages(&alice, room, query).await.unwrap();
            let events: Vec<serde_json::Value> =
                page.chunk.iter().map(|event| serde_json::from_str(event.get()).unwrap()).collect();
            let bodies: Vec<&str> =
                events.iter().filter_map(|event| event["content"]["body"].as_str()).collect();
            for number in [0, 1, 2, 4, 5, 6, 7] {
                assert!(bodies.contains(&format!("old {number}").as_str()), "{bodies:?}");
            }
            assert!(!bodies.contains(&"old 3"), "it was redacted");
            // What was sent once is not sent again.
            let old = events.iter().find(|event| event["content"]["body"] == "old 5").unwrap();
            let content =
                serde_json::value::to_raw_value(&json!({"msgtype": "m.text", "body": "x"})).unwrap();
            let txn = Txn { device: OwnedDeviceId::from("ALICE"), id: OwnedTransactionId::from("t5") };
            let draft = Draft::message("m.room.message", content);
            let again = node.rooms.send(&alice, room, draft, Some(txn)).await.unwrap();
            assert_eq!(again.as_str(), old["event_id"]);
            node.say(&alice, room, "new").await.unwrap();
            let id = room.clone();
            node.store
                .read(move |tx: &ReadTx<'_>| -> Result<_, StoreError> {
                    let room = tx.lookup(Kind::Room, id.as_str())?.unwrap();
                    for nid in state::current_all(tx, room)?.into_values() {
                        assert!(chain::place(tx, nid)?.is_some(), "state is covered by chains");
                        let event = events::event(tx, nid)?.unwrap();
                        assert_eq!(events::nid(tx, &events::id(tx, nid)?)?, Some(event.nid));
                        crate::room::read::pdu(tx, &event)?;
                    }
                    Ok(())
                })
                .await
                .unwrap();
        }
        node.store.close().await;
    }
}
