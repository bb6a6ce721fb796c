//! A purged room leaves nothing behind, also when it was cut short; messages that have grown old lose their content and
//! nothing else. Method: a whole homeserver in process, asked as clients ask, and then its tables.

use std::time::Duration;

use http::StatusCode;
use ruma::RoomId;
use serde_json::{Value, json};

use super::crash;
use crate::{
    api::tests::{Home, User, open},
    room::retention::Retention,
    store::{Kind, Nid, ReadTx, Store, StoreError, schema::purge},
};

/// A room with a bit of everything, of two local users.
async fn room(home: &Home, alice: &User, bob: &User, name: &str) -> String {
    let request = json!({ "name": name, "preset": "public_chat", "room_alias_name": name });
    let (status, made) = home.post("/_matrix/client/v3/createRoom", alice, request).await;
    assert_eq!(status, StatusCode::OK, "{made}");
    let room = made["room_id"].as_str().unwrap().to_owned();
    home.post(&format!("/_matrix/client/v3/join/{room}"), bob, json!({})).await;
    let mut ids = Vec::new();
    for index in 0..30 {
        ids.push(
            say(home, if index % 2 == 0 { alice } else { bob }, &room, &format!("{name} {index}")).await,
        );
    }
    let base = format!("/_matrix/client/v3/rooms/{room}");
    let relation = json!({ "rel_type": "m.annotation", "event_id": ids[2], "key": "x" });
    home.put(&format!("{base}/send/m.reaction/r1"), bob, json!({ "m.relates_to": relation })).await;
    let thread = json!({ "rel_type": "m.thread", "event_id": ids[3] });
    let reply = json!({ "msgtype": "m.text", "body": "in a thread", "m.relates_to": thread });
    home.put(&format!("{base}/send/m.room.message/r2"), bob, reply).await;
    home.put(&format!("{base}/redact/{}/r3", ids[4]), alice, json!({})).await;
    home.post(&format!("{base}/receipt/m.read/{}", ids[5]), alice, json!({})).await;
    let tag = format!("/_matrix/client/v3/user/{}/rooms/{room}/tags/u.x", alice.id);
    home.put(&tag, alice, json!({ "order": 0.5 })).await;
    room
}

async fn say(home: &Home, user: &User, room: &str, body: &str) -> String {
    let txn = body.replace(' ', "-");
    let path = format!("/_matrix/client/v3/rooms/{room}/send/m.room.message/{txn}");
    let (status, sent) = home.put(&path, user, json!({ "msgtype": "m.text", "body": body })).await;
    assert_eq!(status, StatusCode::OK, "{sent}");
    sent["event_id"].as_str().unwrap().to_owned()
}

/// Rows that have to do with a room, by table; and whether ids and events fit together.
async fn rows(store: &Store, room: &str) -> Vec<(String, i64)> {
    let room = room.to_owned();
    store
        .read(move |tx: &ReadTx<'_>| -> Result<_, StoreError> {
            let nid: Nid = tx.lookup(Kind::Room, &room)?.unwrap();
            let tables: Vec<String> = tx.rows(
                "SELECT m.name FROM sqlite_schema m JOIN pragma_table_info(m.name) c ON c.name = 'room' \
                 WHERE m.type = 'table' AND m.name NOT IN ('user_room', 'report', 'search')",
                [],
                |row| row.get(0),
            )?;
            assert!(tables.len() > 12, "{tables:?}");
            let mut found = Vec::new();
            for table in tables {
                let extra = if table == "stream" { "AND user IS NULL" } else { "" };
                let sql = format!("SELECT count(*) FROM {table} WHERE room = ?1 {extra}");
                let count: i64 = tx.row(&sql, [nid], |row| row.get(0))?.unwrap();
                found.push((table, count));
            }
            for (what, sql) in [
                (
                    "ids without events",
                    "SELECT count(*) FROM eid WHERE nid NOT IN (SELECT nid FROM event) \
                  AND nid NOT IN (SELECT nid FROM mention)",
                ),
                ("edges", "SELECT count(*) FROM edge WHERE child NOT IN (SELECT nid FROM event)"),
                ("relations", "SELECT count(*) FROM relation WHERE child NOT IN (SELECT nid FROM event)"),
                ("redactions", "SELECT count(*) FROM redaction WHERE nid NOT IN (SELECT nid FROM event)"),
                ("chains", "SELECT count(*) FROM chain WHERE nid NOT IN (SELECT nid FROM event)"),
                ("links", "SELECT count(*) FROM chain_link WHERE chain NOT IN (SELECT nid FROM event)"),
                ("transactions", "SELECT count(*) FROM txn_id WHERE event NOT IN (SELECT nid FROM event)"),
            ] {
                found.push((what.to_owned(), tx.row(sql, [], |row| row.get(0))?.unwrap()));
            }
            Ok(found)
        })
        .await
        .unwrap()
}

fn left(rows: &[(String, i64)]) -> Vec<&(String, i64)> {
    rows.iter().filter(|(_, count)| *count != 0).collect()
}

#[tokio::test]
async fn a_purged_room_leaves_nothing_and_its_users_are_told() {
    let home = Home::new(open()).await;
    let (alice, bob) = (home.user("alice").await, home.user("bob").await);
    let (gone, kept) = (room(&home, &alice, &bob, "gone").await, room(&home, &alice, &bob, "kept").await);
    let (_, before) = home.get("/_matrix/client/v3/sync?timeout=0", &bob).await;
    let since = before["next_batch"].as_str().unwrap();
    let slide = async |pos: Option<&str>| {
        let path = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync?timeout=0".to_owned();
        let path = path + &pos.map(|pos| format!("&pos={pos}")).unwrap_or_default();
        let list =
            json!({"ranges": [[0, 9]], "timeline_limit": 1, "required_state": [["m.room.member", "$ME"]]});
        home.post(&path, &bob, json!({"conn_id": "c", "lists": {"all": list}})).await.1
    };
    let slid = slide(None).await;
    assert_eq!(slid["rooms"].as_object().unwrap().len(), 2);
    assert!(rows(&home.server.store, &gone).await.iter().filter(|(_, count)| *count > 0).count() > 12);
    home.server.rooms.purge(<&RoomId>::try_from(gone.as_str()).unwrap()).await.unwrap();
    let after = rows(&home.server.store, &gone).await;
    assert!(left(&after).is_empty(), "{:?}", left(&after));
    home.server.store.read(crash::check).await.unwrap();

    let (_, told) = home.get(&format!("/_matrix/client/v3/sync?timeout=0&since={since}"), &bob).await;
    let farewell = &told["rooms"]["leave"][&gone]["timeline"]["events"][0];
    assert_eq!(
        (&farewell["state_key"], &farewell["content"]["membership"]),
        (&json!(bob.id), &json!("leave"))
    );
    // A client of the other kind, and once.
    let told = slide(slid["pos"].as_str()).await;
    let farewell = &told["rooms"][&gone]["required_state"][0];
    assert_eq!(
        (&farewell["state_key"], &farewell["content"]["membership"]),
        (&json!(bob.id), &json!("leave"))
    );
    assert!(farewell["event_id"].is_string(), "{told}");
    assert_eq!(slide(told["pos"].as_str()).await["rooms"], json!({}));
    assert_eq!(slide(None).await["rooms"].as_object().unwrap().len(), 1);
    let (_, fresh) = home.get("/_matrix/client/v3/sync?timeout=0&full_state=true", &bob).await;
    assert!(fresh["rooms"]["join"][&gone].is_null() && fresh["rooms"]["join"][&kept].is_object());
    let (status, _) = home.get(&format!("/_matrix/client/v3/rooms/{gone}/messages?dir=b"), &alice).await;
    assert!(status.is_client_error());
    let (status, _) = home.get("/_matrix/client/v3/directory/room/%23gone:nowhere", &alice).await;
    assert!(status.is_client_error() || status.is_server_error());
    say(&home, &bob, &kept, "goes on").await;
    let unknown = home.server.rooms.purge(<&RoomId>::try_from(gone.as_str()).unwrap()).await;
    assert!(unknown.is_err(), "it is not known any more");
    // The name is free again, and another room of it works.
    room(&home, &alice, &bob, "gone").await;
}

#[tokio::test]
async fn a_purge_that_was_cut_short_is_taken_up_at_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    let home = Home::at(dir.path(), open()).await;
    let (alice, bob) = (home.user("alice").await, home.user("bob").await);
    let gone = room(&home, &alice, &bob, "gone").await;
    let id = <&RoomId>::try_from(gone.as_str()).unwrap();
    let nid = home.server.rooms.begin_purge(id).await.unwrap();
    let more = home
        .server
        .store
        .write(move |tx| -> Result<bool, StoreError> { purge::step(tx, nid) })
        .await
        .unwrap();
    assert!(more, "there is more than one step");
    let (status, _) = home.get(&format!("/_matrix/client/v3/rooms/{gone}/messages?dir=b"), &alice).await;
    assert!(status.is_client_error(), "nobody reads it any more");
    home.close().await;
    let home = Home::at(dir.path(), open()).await;
    home.server.rooms.finish_purges().await.unwrap();
    let after = rows(&home.server.store, &gone).await;
    assert!(left(&after).is_empty(), "{:?}", left(&after));
}

#[tokio::test]
async fn old_messages_lose_their_content_and_nothing_else() {
    let home = Home::new(open()).await;
    let (alice, bob) = (home.user("alice").await, home.user("bob").await);
    let day = Duration::from_secs(24 * 60 * 60);
    let (short, long) = (room(&home, &alice, &bob, "short").await, room(&home, &alice, &bob, "long").await);
    let policy = json!({ "max_lifetime": 3 * day.as_millis() as u64 });
    let path = format!("/_matrix/client/v3/rooms/{short}/state/m.room.retention");
    let (status, answer) = home.put(&path, &alice, policy).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let old = say(&home, &alice, &short, "old one").await;
    home.server.clock.advance(2 * day.as_millis() as u64);
    let mut retention = Retention::new(None);
    assert_eq!(home.server.rooms.expire(&mut retention).await.unwrap(), 0, "nothing is old yet");
    let new = say(&home, &bob, &short, "new one").await;
    home.server.clock.advance(2 * day.as_millis() as u64);
    let count = home.server.rooms.expire(&mut retention).await.unwrap();
    assert!(count >= 30, "{count}");
    assert_eq!(home.server.rooms.expire(&mut retention).await.unwrap(), 0);
    let messages = |room: String| {
        let (home, alice) = (&home, &alice);
        async move {
            let path = format!("/_matrix/client/v3/rooms/{room}/messages?dir=b&limit=200");
            let (status, page) = home.get(&path, alice).await;
            assert_eq!(status, StatusCode::OK, "{page}");
            let list = page["chunk"].as_array().unwrap().clone();
            list.iter()
                .filter_map(|event| Some(event["content"]["body"].as_str()?.to_owned()))
                .collect::<Vec<_>>()
        }
    };
    assert_eq!(messages(short.clone()).await, ["new one"]);
    assert!(messages(long.clone()).await.len() > 25, "the other room keeps its own");
    let (status, _) = home.get(&format!("/_matrix/client/v3/rooms/{short}/event/{old}"), &alice).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    let (status, _) = home.get(&format!("/_matrix/client/v3/rooms/{short}/event/{new}"), &alice).await;
    assert_eq!(status, StatusCode::OK);
    let content = home
        .server
        .store
        .read(|tx: &ReadTx<'_>| -> Result<_, StoreError> {
            let sql = "SELECT group_concat(CAST(client AS TEXT)) FROM event WHERE flags & 128";
            let text: Option<String> = tx.row(sql, [], |row| row.get(0))?.flatten();
            Ok(text.unwrap_or_default())
        })
        .await
        .unwrap();
    assert!(
        !content.contains("old one") && !content.contains("short 7"),
        "the words are gone from the disk's rows"
    );
    // State is whole, and the room goes on, also with a default for rooms that do not say.
    let (_, name) = home.get(&format!("/_matrix/client/v3/rooms/{short}/state/m.room.name"), &alice).await;
    assert_eq!(name["name"], "short");
    home.server.clock.advance(20 * day.as_millis() as u64);
    let mut with_default = Retention::new(Some(10 * day));
    assert!(home.server.rooms.expire(&mut with_default).await.unwrap() > 25);
    say(&home, &alice, &long, "goes on").await;
    say(&home, &alice, &short, "goes on").await;
    let (_, synced) = home.get("/_matrix/client/v3/sync?timeout=0", &bob).await;
    let last = |room: &str| -> Value {
        let events = synced["rooms"]["join"][room]["timeline"]["events"].as_array().unwrap();
        events.last().unwrap()["content"]["body"].clone()
    };
    assert_eq!((last(&long), last(&short)), (json!("goes on"), json!("goes on")));
}
