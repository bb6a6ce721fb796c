//! What administrators take away: media, old messages, whole rooms.

use super::{admin::administrator, *};
use crate::store::{Kind, ReadTx, StoreError};

const V1: &str = "/_synapse/admin/v1";

async fn upload(home: &Home, user: &User, content: &str) -> String {
    let request = Request::post("/_matrix/media/v3/upload")
        .header(header::AUTHORIZATION, format!("Bearer {}", user.token))
        .header(header::CONTENT_TYPE, "text/plain")
        .body(Body::from(content.to_owned()))
        .unwrap();
    let (_, answer) = home.send(request).await;
    let answer: Value = serde_json::from_slice(&answer).unwrap();
    answer["content_uri"].as_str().unwrap().strip_prefix("mxc://").unwrap().to_owned()
}

async fn status(home: &Home, user: &User, mxc: &str) -> StatusCode {
    let request = Request::get(format!("/_matrix/client/v1/media/download/{mxc}"))
        .header(header::AUTHORIZATION, format!("Bearer {}", user.token))
        .body(Body::empty())
        .unwrap();
    home.send(request).await.0.status
}

async fn room(home: &Home, user: &User) -> String {
    let (_, made) =
        home.post("/_matrix/client/v3/createRoom", user, json!({ "preset": "public_chat" })).await;
    made["room_id"].as_str().unwrap().to_owned()
}

async fn say(home: &Home, user: &User, room: &str, txn: &str, content: Value) -> String {
    let path = format!("/_matrix/client/v3/rooms/{room}/send/m.room.message/{txn}");
    home.put(&path, user, content).await.1["event_id"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn media_are_listed_taken_out_of_sight_and_deleted() {
    let home = Home::new(admin::with_secret()).await;
    let (root, alice) = (administrator(&home).await, home.user("alice").await);
    let mut uploads = Vec::new();
    for content in ["one", "two", "three"] {
        uploads.push(upload(&home, &alice, content).await);
    }
    let id = |mxc: &str| mxc.split_once('/').unwrap().1.to_owned();
    let list = format!("{V1}/users/{}/media", alice.id);
    assert_error(home.get(&list, &alice).await, 403, "M_FORBIDDEN");
    let (_, told) = home.get(&format!("{list}?limit=2"), &root).await;
    assert_eq!(
        (&told["total"], &told["next_token"], told["media"].as_array().unwrap().len()),
        (&json!(3), &json!(2), 2)
    );

    // By id: the same content under another id is out of sight too.
    let twin = upload(&home, &alice, "one").await;
    let quarantine = |mxc: &str| format!("{V1}/media/quarantine/{mxc}");
    assert_eq!(home.post(&quarantine(&uploads[0]), &root, json!({})).await.0, StatusCode::OK);
    for mxc in [&uploads[0], &twin] {
        assert_eq!(status(&home, &alice, mxc).await, StatusCode::NOT_FOUND);
    }
    let (_, told) = home.get(&format!("{V1}/media/{twin}"), &root).await;
    assert_eq!(told["media_info"]["quarantined_by"], root.id, "{told}");
    home.post(&format!("{V1}/media/unquarantine/{}", uploads[0]), &root, json!({})).await;
    assert_eq!(status(&home, &alice, &twin).await, StatusCode::OK);

    // By room, but for what is protected.
    let room = room(&home, &alice).await;
    for (n, mxc) in uploads.iter().enumerate() {
        let content = json!({ "msgtype": "m.file", "body": "f", "url": format!("mxc://{mxc}") });
        say(&home, &alice, &room, &n.to_string(), content).await;
    }
    let (_, told) = home.get(&format!("{V1}/room/{room}/media"), &root).await;
    assert_eq!((told["local"].as_array().unwrap().len(), &told["remote"]), (3, &json!([])), "{told}");
    home.post(&format!("{V1}/media/protect/{}", id(&uploads[1])), &root, json!({})).await;
    let (_, told) = home.post(&format!("{V1}/room/{room}/media/quarantine"), &root, json!({})).await;
    assert_eq!(told, json!({ "num_quarantined": 2 }));
    assert_eq!(status(&home, &alice, &uploads[1]).await, StatusCode::OK);
    assert_eq!(status(&home, &alice, &uploads[2]).await, StatusCode::NOT_FOUND);

    // Deleted, by id, by age, by user.
    let (_, told) = home
        .call(Method::DELETE, &format!("{V1}/media/{}", uploads[2]), Some(&root.token), Value::Null)
        .await;
    assert_eq!(told, json!({ "total": 1, "deleted_media": [id(&uploads[2])] }));
    home.server.clock.advance(1_000);
    let now = home.server.clock.now_ms();
    let (_, told) =
        home.post(&format!("{V1}/media/delete?before_ts={now}&size_gt=100"), &root, json!({})).await;
    assert_eq!(told["total"], 0, "none is so large");
    let (_, told) = home.call(Method::DELETE, &list, Some(&root.token), Value::Null).await;
    assert_eq!(told["total"], 3, "{told}");
    assert_eq!(status(&home, &alice, &uploads[1]).await, StatusCode::NOT_FOUND);
    let (_, told) = home.post(&format!("{V1}/purge_media_cache?before_ts={now}"), &root, json!({})).await;
    assert_eq!(told, json!({ "deleted": 0 }));
}

#[tokio::test]
async fn old_messages_go_and_what_came_since_stays() {
    let home = Home::new(admin::with_secret()).await;
    let (root, alice) = (administrator(&home).await, home.user("alice").await);
    let room = room(&home, &alice).await;
    let mut ids = Vec::new();
    for n in 0..10 {
        home.server.clock.advance(1_000);
        let content = json!({ "msgtype": "m.text", "body": format!("body {n}") });
        ids.push(say(&home, &alice, &room, &n.to_string(), content).await);
    }
    let history = async || {
        let (_, page) =
            home.get(&format!("/_matrix/client/v3/rooms/{room}/messages?dir=f&limit=100"), &alice).await;
        let chunk = page["chunk"].as_array().unwrap().clone();
        chunk
            .iter()
            .filter_map(|event| event["content"]["body"].as_str().map(str::to_owned))
            .collect::<Vec<_>>()
    };
    let purge = async |path: String, body: Value| {
        let (status, begun) = home.post(&path, &root, body).await;
        assert_eq!(status, StatusCode::OK, "{begun}");
        let status = format!("{V1}/purge_history_status/{}", begun["purge_id"].as_str().unwrap());
        loop {
            let (_, told) = home.get(&status, &root).await;
            if told["status"] != "active" {
                return told["status"].clone();
            }
            tokio::task::yield_now().await;
        }
    };
    let to = ids[4].replace('$', "%24");
    // They are our own: without leave they stay.
    assert_eq!(purge(format!("{V1}/purge_history/{room}/{to}"), json!({})).await, "complete");
    assert_eq!(history().await.len(), 10);
    let ours = json!({ "delete_local_events": true });
    assert_eq!(purge(format!("{V1}/purge_history/{room}/{to}"), ours).await, "complete");
    assert_eq!(history().await, ["body 4", "body 5", "body 6", "body 7", "body 8", "body 9"]);
    let (_, seventh) = home
        .get(&format!("/_matrix/client/v3/rooms/{room}/event/{}", ids[7].replace('$', "%24")), &alice)
        .await;
    let body = json!({ "delete_local_events": true, "purge_up_to_ts": seventh["origin_server_ts"] });
    assert_eq!(purge(format!("{V1}/purge_history/{room}"), body).await, "complete");
    assert_eq!(history().await, ["body 7", "body 8", "body 9"]);
    // The room goes on.
    say(&home, &alice, &room, "on", json!({ "msgtype": "m.text", "body": "on" })).await;
    assert_eq!(history().await.len(), 4);
    let (status, _) = home.get(&format!("/_matrix/client/v3/rooms/{room}/state"), &alice).await;
    assert_eq!(status, StatusCode::OK);
    assert_error(
        home.post(&format!("{V1}/purge_history/{room}"), &root, json!({})).await,
        400,
        "M_INVALID_PARAM",
    );
}

#[tokio::test]
async fn a_deleted_room_is_gone_from_the_disk() {
    let home = Home::new(admin::with_secret()).await;
    let (root, alice) = (administrator(&home).await, home.user("alice").await);
    let events = async |room: &str| -> i64 {
        let room = room.to_owned();
        home.server
            .store
            .read(move |tx: &ReadTx<'_>| {
                let nid = tx.lookup(Kind::Room, &room)?;
                tx.row("SELECT count(*) FROM event WHERE room = ?1", [nid], |row| row.get(0))
            })
            .await
            .map_err(|error: StoreError| error)
            .unwrap()
            .unwrap()
    };
    let (first, second) = (room(&home, &alice).await, room(&home, &alice).await);
    assert!(events(&first).await >= 5);
    let path = format!("{V1}/rooms/{first}");
    let (status, told) = home.call(Method::DELETE, &path, Some(&root.token), json!({ "block": true })).await;
    assert_eq!((status, &told["kicked_users"]), (StatusCode::OK, &json!([alice.id])), "{told}");
    assert_eq!(events(&first).await, 0);
    assert_error(home.get(&path, &root).await, 404, "M_NOT_FOUND");
    let (_, blocked) = home.get(&format!("{path}/block"), &root).await;
    assert_eq!(blocked["block"], true);

    let later = format!("/_synapse/admin/v2/rooms/{second}");
    let (_, begun) = home.call(Method::DELETE, &later, Some(&root.token), json!({})).await;
    let by_id = format!("/_synapse/admin/v2/rooms/delete_status/{}", begun["delete_id"].as_str().unwrap());
    loop {
        let (status, told) = home.get(&by_id, &root).await;
        assert_eq!(status, StatusCode::OK, "{told}");
        if told["status"] == "complete" {
            assert_eq!(told["shutdown_room"]["kicked_users"], json!([alice.id]));
            break;
        }
        assert_eq!(told["status"], "purging", "{told}");
        tokio::task::yield_now().await;
    }
    assert_eq!(events(&second).await, 0);
    let (_, all) = home.get(&format!("{later}/delete_status"), &root).await;
    assert_eq!(all["results"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn another_room_takes_the_place_of_a_deleted_one() {
    let home = Home::new(admin::with_secret()).await;
    let (root, alice) = (administrator(&home).await, home.user("alice").await);
    let old = room(&home, &alice).await;
    let path = format!("{V1}/rooms/{old}");
    let asked = json!({ "new_room_user_id": "@nobody:elsewhere", "block": true });
    assert_error(home.call(Method::DELETE, &path, Some(&root.token), asked).await, 400, "M_INVALID_PARAM");
    let alias = format!("/_matrix/client/v3/directory/room/%23square:{}", home.server.name);
    assert_eq!(home.put(&alias, &alice, json!({ "room_id": old })).await.0, StatusCode::OK);
    let asked =
        json!({ "new_room_user_id": root.id, "room_name": "Closed", "message": "it was not nice here" });
    let (status, told) = home.call(Method::DELETE, &path, Some(&root.token), asked).await;
    assert_eq!(status, StatusCode::OK, "{told}");
    let place = told["new_room_id"].as_str().unwrap();
    let (_, joined) = home.get("/_matrix/client/v3/joined_rooms", &alice).await;
    assert_eq!(joined["joined_rooms"], json!([place]));
    let (_, messages) =
        home.get(&format!("/_matrix/client/v3/rooms/{place}/messages?dir=b&limit=10"), &alice).await;
    let said = |event: &Value| event["content"]["body"] == "it was not nice here";
    assert!(messages["chunk"].as_array().unwrap().iter().any(said), "{messages}");
    let (_, named) = home.get(&alias, &alice).await;
    assert_eq!(named["room_id"], place, "the alias leads there");
    // Only who closed the room speaks.
    let send = format!("/_matrix/client/v3/rooms/{place}/send/m.room.message/t");
    assert_error(
        home.put(&send, &alice, json!({ "body": "x", "msgtype": "m.text" })).await,
        403,
        "M_FORBIDDEN",
    );
}
