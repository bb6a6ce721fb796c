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

#[tokio::test]
async fn an_upgrade_takes_everything_along() {
    let home = Home::new(open()).await;
    let (alice, bob, eve) = (home.user("alice").await, home.user("bob").await, home.user("eve").await);
    let body = json!({
        "preset": "public_chat", "visibility": "public", "name": "old", "room_alias_name": "here", "room_version": "10",
        "power_level_content_override": { "users": { &alice.id: 100, &bob.id: 50 } },
    });
    let old = room(&home, &alice, body).await;
    let path = |room: &str, rest: &str| format!("/_matrix/client/v3/rooms/{room}/{rest}");
    home.post(&format!("/_matrix/client/v3/join/{old}"), &bob, json!({})).await;
    home.post(&path(&old, "ban"), &alice, json!({ "user_id": eve.id, "reason": "noise" })).await;
    let rule = format!("/_matrix/client/v3/pushrules/global/room/{old}");
    let (status, answer) = home.put(&rule, &bob, json!({ "actions": [] })).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let tag = format!("/_matrix/client/v3/user/{}/rooms/{old}/tags/m.favourite", bob.id);
    home.put(&tag, &bob, json!({ "order": 0.5 })).await;
    assert_error(
        home.post(&path(&old, "upgrade"), &bob, json!({ "new_version": "12" })).await,
        403,
        "M_FORBIDDEN",
    );
    assert_error(
        home.post(&path(&old, "upgrade"), &alice, json!({ "new_version": "nosuch" })).await,
        400,
        "M_UNSUPPORTED_ROOM_VERSION",
    );
    let (status, made) = home.post(&path(&old, "upgrade"), &alice, json!({ "new_version": "12" })).await;
    assert_eq!(status, StatusCode::OK, "{made}");
    let new = made["replacement_room"].as_str().unwrap();
    let (_, tombstone) = home.get(&path(&old, "state/m.room.tombstone"), &bob).await;
    assert_eq!(tombstone["replacement_room"], new);
    let (_, alias) = home
        .get("/_matrix/client/v3/directory/room/%23here:X".replace('X', host(&alice)).as_str(), &bob)
        .await;
    assert_eq!(alias["room_id"], new, "{alias}");
    for (room, listed) in [(&*old, "private"), (new, "public")] {
        let (_, answer) = home.get(&format!("/_matrix/client/v3/directory/list/room/{room}"), &bob).await;
        assert_eq!(answer["visibility"], listed, "{room}");
    }
    let (_, create) = home.get(&path(new, "state/m.room.create"), &alice).await;
    assert_eq!(create["predecessor"]["room_id"], old, "{create}");
    let (_, levels) = home.get(&path(new, "state/m.room.power_levels"), &alice).await;
    assert_eq!(
        (&levels["users"][&bob.id], &levels["users"][&alice.id]),
        (&json!(50), &Value::Null),
        "{levels}"
    );
    let (_, member) = home.get(&path(new, &format!("state/m.room.member/{}", eve.id)), &alice).await;
    assert_eq!((&member["membership"], &member["reason"]), (&json!("ban"), &json!("noise")), "{member}");
    let (_, old_levels) = home.get(&path(&old, "state/m.room.power_levels"), &bob).await;
    assert_eq!(old_levels["events_default"], 50, "{old_levels}");
    home.post(&format!("/_matrix/client/v3/join/{new}"), &bob, json!({})).await;
    let (_, rules) = home.get("/_matrix/client/v3/pushrules/", &bob).await;
    let ids: Vec<&Value> =
        rules["global"]["room"].as_array().unwrap().iter().map(|rule| &rule["rule_id"]).collect();
    assert!(ids.contains(&&json!(new)) && ids.contains(&&json!(old)), "{rules}");
    let (_, tags) = home.get(&format!("/_matrix/client/v3/user/{}/rooms/{new}/tags", bob.id), &bob).await;
    assert_eq!(tags["tags"]["m.favourite"]["order"], 0.5, "{tags}");
    // And down again: the maker of a room of version 12 has a level in one of version 11.
    let (status, made) = home.post(&path(new, "upgrade"), &alice, json!({ "new_version": "11" })).await;
    assert_eq!(status, StatusCode::OK, "{made}");
    let last = made["replacement_room"].as_str().unwrap();
    let (_, levels) = home.get(&path(last, "state/m.room.power_levels"), &alice).await;
    assert_eq!(levels["users"][&alice.id], 100, "{levels}");
}

#[tokio::test]
async fn a_space_shows_the_rooms_that_one_may_know() {
    let home = Home::new(open()).await;
    let (alice, bob) = (home.user("alice").await, home.user("bob").await);
    let space =
        room(&home, &alice, json!({ "preset": "public_chat", "creation_content": { "type": "m.space" } }))
            .await;
    let open = room(&home, &alice, json!({ "preset": "public_chat", "name": "open" })).await;
    let secret = room(&home, &alice, json!({ "preset": "private_chat" })).await;
    for (child, order) in [(&open, "b"), (&secret, "a")] {
        let path = format!("/_matrix/client/v3/rooms/{space}/state/m.space.child/{child}");
        let content = json!({ "via": [host(&alice)], "order": order, "suggested": order == "b" });
        assert_eq!(home.put(&path, &alice, content).await.0, StatusCode::OK);
    }
    let walk = format!("/_matrix/client/v1/rooms/{space}/hierarchy");
    let ids = |answer: &Value| -> Vec<String> {
        answer["rooms"]
            .as_array()
            .unwrap()
            .iter()
            .map(|room| room["room_id"].as_str().unwrap().to_owned())
            .collect()
    };
    let (_, all) = home.get(&walk, &alice).await;
    assert_eq!(ids(&all), [&*space, &*secret, &*open], "{all}");
    assert_eq!(all["rooms"][0]["children_state"][0]["state_key"], secret);
    let (_, some) = home.get(&walk, &bob).await;
    assert_eq!(ids(&some), [&*space, &*open], "{some}");
    let (_, suggested) = home.get(&format!("{walk}?suggested_only=true&max_depth=1"), &alice).await;
    assert_eq!(ids(&suggested), [&*space, &*open]);
    let (_, first) = home.get(&format!("{walk}?limit=2"), &alice).await;
    let next = first["next_batch"].as_str().unwrap();
    let (_, second) = home.get(&format!("{walk}?limit=2&from={next}"), &alice).await;
    assert_eq!((ids(&first).len(), ids(&second)), (2, vec![open.clone()]));
    assert!(second.get("next_batch").is_none());
    assert_error(home.get(&format!("{walk}?max_depth=1&from={next}"), &alice).await, 400, "M_INVALID_PARAM");
    assert_error(
        home.get(&format!("/_matrix/client/v1/rooms/{secret}/hierarchy"), &bob).await,
        403,
        "M_FORBIDDEN",
    );
    let (_, summary) = home.get(&format!("/_matrix/client/v1/room_summary/{open}"), &bob).await;
    assert_eq!((&summary["name"], &summary["join_rule"]), (&json!("open"), &json!("public")), "{summary}");
    assert!(summary.get("membership").is_none());
    assert_error(
        home.get(&format!("/_matrix/client/v1/room_summary/{secret}"), &bob).await,
        404,
        "M_NOT_FOUND",
    );
    let summary = format!("/_matrix/client/v1/room_summary/{open}");
    assert_error(home.call(Method::GET, &summary, None, Value::Null).await, 401, "M_MISSING_TOKEN");
}

#[tokio::test]
async fn words_are_found_where_one_may_read() {
    let home = Home::new(open()).await;
    let (alice, bob) = (home.user("alice").await, home.user("bob").await);
    let ours = room(&home, &alice, json!({ "preset": "private_chat" })).await;
    let mut sent = Vec::new();
    for (n, text) in ["the Äpfel are red", "apples are green", "quiet \" OR words"].iter().enumerate() {
        let path = format!("/_matrix/client/v3/rooms/{ours}/send/m.room.message/t{n}");
        let (_, event) = home.put(&path, &alice, json!({ "msgtype": "m.text", "body": text })).await;
        sent.push(event["event_id"].as_str().unwrap().to_owned());
    }
    let found = async |user: &User, term: &str| -> Vec<String> {
        let body =
            json!({ "search_categories": { "room_events": { "search_term": term, "order_by": "recent" } } });
        let (status, answer) = home.post("/_matrix/client/v3/search", user, body).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        let results = answer["search_categories"]["room_events"]["results"].as_array().unwrap().clone();
        results.iter().map(|hit| hit["result"]["event_id"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(found(&alice, "ARE").await, [&*sent[1], &*sent[0]]);
    assert_eq!(found(&alice, "apfel").await, [&*sent[0]]);
    assert_eq!(found(&alice, "\"words\" OR quiet*").await, [&*sent[2]]);
    assert!(found(&bob, "are").await.is_empty());
    let redact = format!("/_matrix/client/v3/rooms/{ours}/redact/{}/r", sent[0]);
    home.put(&redact, &alice, json!({})).await;
    assert_eq!(found(&alice, "are").await, [&*sent[1]]);
    let body = json!({ "search_categories": { "room_events": { "search_term": " - " } } });
    assert_error(home.post("/_matrix/client/v3/search", &alice, body).await, 400, "M_INVALID_PARAM");
}

/// The server's name in a user's id.
fn host(user: &User) -> &str {
    user.id.split_once(':').unwrap().1
}
