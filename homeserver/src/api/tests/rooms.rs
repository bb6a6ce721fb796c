//! Rooms as clients use them: making, joining, talking, looking back.

use super::*;

async fn room(home: &Home, user: &User, body: Value) -> String {
    let (status, made) = home.post("/_matrix/client/v3/createRoom", user, body).await;
    assert_eq!(status, StatusCode::OK, "{made}");
    made["room_id"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn first_chat() {
    let home = Home::new(open()).await;
    let (alice, bob) = (home.user("alice").await, home.user("bob").await);
    let room = room(&home, &alice, json!({ "preset": "public_chat", "name": "bench" })).await;
    let (status, joined) = home.post(&format!("/_matrix/client/v3/join/{room}"), &bob, json!({})).await;
    assert_eq!((status, &joined["room_id"]), (StatusCode::OK, &json!(room)), "{joined}");
    let path = format!("/_matrix/client/v3/rooms/{room}");
    let send = format!("{path}/send/m.room.message/t1");
    let message = json!({ "msgtype": "m.text", "body": "hello" });
    let (status, sent) = home.put(&send, &bob, message.clone()).await;
    assert_eq!(status, StatusCode::OK, "{sent}");
    let (_, again) = home.put(&send, &bob, message.clone()).await;
    assert_eq!(again, sent, "the same transaction makes one event");
    let (_, page) = home.get(&format!("{path}/messages?dir=b&limit=10"), &alice).await;
    assert_eq!(page["chunk"][0]["content"], message, "{page}");
    assert_eq!(page["chunk"][0]["sender"], bob.id);
    let (_, rooms) = home.get("/_matrix/client/v3/joined_rooms", &bob).await;
    assert_eq!(rooms["joined_rooms"], json!([room]));
    let (_, members) = home.get(&format!("{path}/joined_members"), &alice).await;
    assert_eq!(members["joined"][&bob.id]["display_name"], "bob");
    let (_, members) = home.get(&format!("{path}/members?membership=join"), &alice).await;
    assert_eq!(members["chunk"].as_array().unwrap().len(), 2);
    let event = sent["event_id"].as_str().unwrap();
    let (_, shown) = home.get(&format!("{path}/event/{event}"), &alice).await;
    assert_eq!(shown["event_id"], event);
    let (_, context) = home.get(&format!("{path}/context/{event}?limit=4"), &alice).await;
    assert_eq!(context["event"]["event_id"], event);
    assert!(!context["events_before"].as_array().unwrap().is_empty());
}

#[tokio::test]
async fn state_with_and_without_a_key() {
    let home = Home::new(open()).await;
    let alice = home.user("alice").await;
    let room = room(&home, &alice, json!({ "topic": "mud" })).await;
    let path = format!("/_matrix/client/v3/rooms/{room}/state");
    for spelling in ["m.room.topic", "m.room.topic/"] {
        let (_, topic) = home.get(&format!("{path}/{spelling}"), &alice).await;
        assert_eq!(topic["topic"], "mud", "{spelling}");
        let (status, _) = home.put(&format!("{path}/{spelling}"), &alice, json!({ "topic": "mud" })).await;
        assert_eq!(status, StatusCode::OK);
    }
    let (_, whole) = home.get(&format!("{path}/m.room.topic?format=event"), &alice).await;
    assert_eq!(whole["type"], "m.room.topic");
    let (status, sent) = home.put(&format!("{path}/x.thing/key%2Fslash"), &alice, json!({ "a": 1 })).await;
    assert_eq!(status, StatusCode::OK, "{sent}");
    let (_, thing) = home.get(&format!("{path}/x.thing/key%2Fslash"), &alice).await;
    assert_eq!(thing, json!({ "a": 1 }));
    assert_error(home.get(&format!("{path}/x.nosuch"), &alice).await, 404, "M_NOT_FOUND");
    let (_, all) = home.get(&path, &alice).await;
    assert!(all.as_array().unwrap().len() >= 7, "{all}");
}

#[tokio::test]
async fn who_may_what() {
    let home = Home::new(open()).await;
    let (alice, bob) = (home.user("alice").await, home.user("bob").await);
    assert_error(
        home.post("/_matrix/client/v3/createRoom", &alice, json!({ "room_version": "nosuch" })).await,
        400,
        "M_UNSUPPORTED_ROOM_VERSION",
    );
    let room = room(&home, &alice, json!({ "preset": "private_chat" })).await;
    let path = format!("/_matrix/client/v3/rooms/{room}");
    assert_error(home.post(&format!("{path}/join"), &bob, json!({})).await, 403, "M_FORBIDDEN");
    assert_error(home.get(&format!("{path}/messages?dir=b"), &bob).await, 403, "M_FORBIDDEN");
    let message = json!({ "msgtype": "m.text", "body": "x" });
    assert_error(
        home.put(&format!("{path}/send/m.room.message/1"), &bob, message.clone()).await,
        403,
        "M_FORBIDDEN",
    );
    let long = json!({ "msgtype": "m.text", "body": "x".repeat(70_000) });
    assert_error(home.put(&format!("{path}/send/m.room.message/2"), &alice, long).await, 413, "M_TOO_LARGE");
    let (status, answer) = home.post(&format!("{path}/invite"), &alice, json!({ "user_id": bob.id })).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let (status, _) = home.post(&format!("{path}/join"), &bob, Value::Null).await;
    assert_eq!(status, StatusCode::OK, "an empty body is fine");
    let (status, _) = home.post(&format!("{path}/kick"), &alice, json!({ "user_id": bob.id })).await;
    assert_eq!(status, StatusCode::OK);
    assert_error(home.put(&format!("{path}/send/m.room.message/3"), &bob, message).await, 403, "M_FORBIDDEN");
    let (status, _) = home.post(&format!("{path}/leave"), &alice, json!({})).await;
    assert_eq!(status, StatusCode::OK);
    let (status, _) = home.post(&format!("{path}/forget"), &alice, json!({})).await;
    assert_eq!(status, StatusCode::OK);
}

#[tokio::test]
async fn aliases_and_the_directory() {
    let home = Home::new(open()).await;
    let (alice, bob) = (home.user("alice").await, home.user("bob").await);
    let body = json!({ "preset": "public_chat", "visibility": "public", "room_alias_name": "mud", "name": "Mudflat" });
    let room = room(&home, &alice, body.clone()).await;
    assert_error(home.post("/_matrix/client/v3/createRoom", &alice, body).await, 409, "M_ROOM_IN_USE");
    let alias = format!("%23mud:{}", home.server.name);
    let (_, found) = home.get(&format!("/_matrix/client/v3/directory/room/{alias}"), &bob).await;
    assert_eq!(found["room_id"], room);
    let (status, _) = home.post(&format!("/_matrix/client/v3/join/{alias}"), &bob, json!({})).await;
    assert_eq!(status, StatusCode::OK);
    let (_, page) = home.get("/_matrix/client/v3/publicRooms", &bob).await;
    assert_eq!(
        (&page["chunk"][0]["room_id"], &page["chunk"][0]["name"]),
        (&json!(room), &json!("Mudflat")),
        "{page}"
    );
    let (status, _) = home.call(Method::GET, "/_matrix/client/v3/publicRooms", None, Value::Null).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED, "no room is named without a token");
    let search = json!({ "filter": { "generic_search_term": "nothing like it" } });
    let (_, page) = home.post("/_matrix/client/v3/publicRooms", &bob, search).await;
    assert_eq!(page["chunk"], json!([]));
}

/// A user's new name and picture reach the rooms it is in.
#[tokio::test]
async fn a_profile_reaches_the_rooms() {
    let home = Home::new(open()).await;
    let (alice, bob) = (home.user("alice").await, home.user("bob").await);
    let mut rooms = Vec::new();
    for name in ["one", "two"] {
        let room = room(&home, &alice, json!({ "preset": "public_chat", "name": name })).await;
        home.post(&format!("/_matrix/client/v3/join/{room}"), &bob, json!({})).await;
        rooms.push(room);
    }
    let profile = format!("/_matrix/client/v3/profile/{}", bob.id);
    let (status, answer) =
        home.put(&format!("{profile}/displayname"), &bob, json!({ "displayname": "Robert" })).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    for room in &rooms {
        let path = format!("/_matrix/client/v3/rooms/{room}/joined_members");
        while home.get(&path, &alice).await.1["joined"][&bob.id]["display_name"] != "Robert" {
            assert!(std::time::Instant::now() < deadline, "{room} still has the old name");
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    }
    let (_, mutual) = home.get(&format!("/_matrix/client/v1/mutual_rooms?user_id={}", bob.id), &alice).await;
    assert_eq!(mutual["count"], 2, "{mutual}");
    let found = home
        .post("/_matrix/client/v3/user_directory/search", &alice, json!({ "search_term": "ROBERT" }))
        .await
        .1;
    assert_eq!(found["results"][0]["display_name"], "Robert");

    // A deactivated user is in no room and in no search.
    let auth = json!({ "auth": { "type": "m.login.password", "password": PASSWORD,
        "identifier": { "type": "m.id.user", "user": bob.id } } });
    let (status, answer) = home.post("/_matrix/client/v3/account/deactivate", &bob, auth).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let (_, members) =
        home.get(&format!("/_matrix/client/v3/rooms/{}/joined_members", rooms[0]), &alice).await;
    assert_eq!(members["joined"].as_object().unwrap().len(), 1, "{members}");
}
