//! What clients use before it is in the specification: delayed and sticky events, threads that are followed, account data
//! taken away, state that belongs to users.

use super::*;

const SLIDING: &str = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync";
const DELAYED: &str = "/_matrix/client/unstable/org.matrix.msc4140/delayed_events";

async fn room(home: &Home, user: &User, body: Value) -> String {
    home.server.clock.advance(1);
    let (status, made) = home.post("/_matrix/client/v3/createRoom", user, body).await;
    assert_eq!(status, StatusCode::OK, "{made}");
    made["room_id"].as_str().unwrap().to_owned()
}

/// A public room of two.
async fn shared(home: &Home, alice: &User, bob: &User) -> String {
    let room = room(home, alice, json!({ "preset": "public_chat" })).await;
    let (status, _) = home.post(&format!("/_matrix/client/v3/join/{room}"), bob, json!({})).await;
    assert_eq!(status, StatusCode::OK);
    room
}

async fn say(home: &Home, user: &User, room: &str, txn: &str, content: Value) -> String {
    let path = format!("/_matrix/client/v3/rooms/{room}/send/m.room.message/{txn}");
    let (status, sent) = home.put(&path, user, content).await;
    assert_eq!(status, StatusCode::OK, "{sent}");
    sent["event_id"].as_str().unwrap().to_owned()
}

fn reply(root: &str, body: &str) -> Value {
    json!({ "msgtype": "m.text", "body": body, "m.relates_to": { "rel_type": "m.thread", "event_id": root } })
}

async fn waiting(home: &Home, user: &User) -> usize {
    home.get(DELAYED, user).await.1["delayed_events"].as_array().unwrap().len()
}

#[tokio::test]
async fn a_delayed_event_goes_out_in_time_once_also_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let home = Home::at(dir.path(), open()).await;
    let (alice, bob) = (home.user("alice").await, home.user("bob").await);
    let room = room(&home, &alice, json!({ "preset": "public_chat" })).await;
    let path = format!("/_matrix/client/v3/rooms/{room}");
    let send = format!("{path}/send/m.x/t1?org.matrix.msc4140.delay=60000");
    let (status, first) = home.put(&send, &alice, json!({ "n": 1 })).await;
    assert_eq!(status, StatusCode::OK, "{first}");
    assert_eq!(home.put(&send, &alice, json!({ "n": 1 })).await.1, first, "one transaction, one event");
    let state = format!("{path}/state/x.call/key?org.matrix.msc4140.delay=120000");
    let (_, second) = home.put(&state, &alice, json!({ "left": true })).await;
    assert_eq!((waiting(&home, &alice).await, waiting(&home, &bob).await), (2, 0));
    assert_error(home.put(&send, &bob, json!({})).await, 403, "M_FORBIDDEN");
    let (status, told) = home
        .put(&format!("{path}/send/m.x/t2?org.matrix.msc4140.delay=99999999999"), &alice, json!({}))
        .await;
    assert_eq!(
        (status.as_u16(), &told["org.matrix.msc4140.errcode"]),
        (400, &json!("M_MAX_DELAY_EXCEEDED")),
        "{told}"
    );
    assert_error(
        home.put(&format!("{path}/send/m.x/t3?org.matrix.msc4140.delay=0"), &alice, json!({})).await,
        400,
        "M_INVALID_PARAM",
    );
    // The call's client says that it is there: the state event waits on.
    home.server.clock.advance(61_000);
    let change =
        |id: &Value, action: &str| format!("{DELAYED}/{}/{action}", id["delay_id"].as_str().unwrap());
    let (status, told) = home.call(Method::POST, &change(&second, "restart"), None, json!({})).await;
    assert_eq!(status, StatusCode::OK, "{told}");
    home.server.delayed.send_due().await.unwrap();
    assert_eq!(waiting(&home, &alice).await, 1);
    let (_, done) = home.get(&format!("{DELAYED}?status=finalised"), &alice).await;
    let event = done["delayed_events"][0]["event_id"].as_str().unwrap().to_owned();
    let (_, shown) = home.get(&format!("{path}/event/{event}"), &alice).await;
    assert_eq!(shown["content"], json!({ "n": 1 }));
    assert_eq!(shown["unsigned"]["org.matrix.msc4140.delay_id"], first["delay_id"], "{shown}");
    let (status, _) = home.call(Method::POST, &change(&first, "send"), None, json!({})).await;
    assert_eq!(status, StatusCode::OK, "it is sent already");
    let over = home.call(Method::POST, &change(&first, "cancel"), None, json!({})).await;
    assert_error(over, 409, "M_UNKNOWN");
    assert_error(home.get(&format!("{path}/state/x.call/key"), &alice).await, 404, "M_NOT_FOUND");
    // The node is away when the time comes.
    home.close().await;
    let home = Home::at(dir.path(), open()).await;
    assert_eq!(waiting(&home, &alice).await, 1);
    home.server.clock.advance(600_000);
    home.server.delayed.send_due().await.unwrap();
    home.server.delayed.send_due().await.unwrap();
    assert_eq!(home.get(&format!("{path}/state/x.call/key"), &alice).await.1, json!({ "left": true }));
    assert_eq!(waiting(&home, &alice).await, 0);
}

#[tokio::test]
async fn delayed_events_are_cancelled_bounded_and_fail_in_words() {
    let home = Home::new(open()).await;
    let (alice, bob) = (home.user("alice").await, home.user("bob").await);
    let room = shared(&home, &alice, &bob).await;
    let path = format!("/_matrix/client/unstable/org.matrix.msc4140/rooms/{room}/delayed_event");
    let body = |delay: u64| json!({ "delay": delay, "content": { "a": 1 } });
    let (_, gone) = home.put(&format!("{path}/m.x/1"), &alice, body(5_000)).await;
    let id = gone["delay_id"].as_str().unwrap();
    let (status, _) = home.call(Method::POST, &format!("{DELAYED}/{id}/cancel"), None, json!({})).await;
    assert_eq!(status, StatusCode::OK);
    assert_error(
        home.call(Method::POST, &format!("{DELAYED}/{id}"), None, json!({ "action": "restart" })).await,
        409,
        "M_UNKNOWN",
    );
    assert_error(home.get(&format!("{DELAYED}/{id}"), &bob).await, 404, "M_NOT_FOUND");
    let (status, told) = home.put(&format!("{path}/m.x/2"), &bob, body(5_000)).await;
    assert_eq!(status, StatusCode::OK, "{told}");
    home.post(&format!("/_matrix/client/v3/rooms/{room}/leave"), &bob, json!({})).await;
    home.server.clock.advance(10_000);
    home.server.delayed.send_due().await.unwrap();
    let (_, one) = home.get(&format!("{DELAYED}/{}", told["delay_id"].as_str().unwrap()), &bob).await;
    assert_eq!(one["error"]["errcode"], "M_FORBIDDEN", "{one}");
    for number in 0..crate::room::delayed::SCHEDULED_MAX {
        let (status, told) = home.put(&format!("{path}/m.x/many{number}"), &alice, body(60_000)).await;
        assert_eq!(status, StatusCode::OK, "{told}");
    }
    assert_error(home.put(&format!("{path}/m.x/more"), &alice, body(60_000)).await, 429, "M_LIMIT_EXCEEDED");
}

#[tokio::test]
async fn followed_threads_are_told_and_decide_what_notifies() {
    let home = Home::new(open()).await;
    let (alice, bob) = (home.user("alice").await, home.user("bob").await);
    let room = shared(&home, &alice, &bob).await;
    let root = say(&home, &alice, &room, "r", json!({ "msgtype": "m.text", "body": "root" })).await;
    let other = say(&home, &alice, &room, "o", json!({ "msgtype": "m.text", "body": "other" })).await;
    let sub = |root: &str| {
        format!("/_matrix/client/unstable/io.element.msc4306/rooms/{room}/thread/{root}/subscription")
    };
    let ask = json!({ "extensions": {
        "io.element.msc4308.thread_subscriptions": { "enabled": true }, "io.element.msc4360.threads": { "enabled": true } } });
    let (_, first) = home.post(SLIDING, &bob, ask.clone()).await;
    let followed = |answer: &Value| answer["extensions"]["io.element.msc4308.thread_subscriptions"].clone();
    assert_eq!(followed(&first), Value::Null, "{first}");
    let (status, answer) = home.put(&sub(&root), &bob, json!({})).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let next = |answer: &Value| format!("{SLIDING}?timeout=0&pos={}", answer["pos"].as_str().unwrap());
    let (_, second) = home.post(&next(&first), &bob, ask.clone()).await;
    assert_eq!(followed(&second)["subscribed"][&room][&root]["automatic"], false, "{second}");
    // The thread that is followed notifies, the other one does not, for whoever follows any.
    say(&home, &alice, &room, "1", reply(&root, "in")).await;
    say(&home, &alice, &room, "2", reply(&other, "out")).await;
    let filter = "%7B%22room%22%3A%7B%22timeline%22%3A%7B%22unread_thread_notifications%22%3Atrue%7D%7D%7D";
    let (_, synced) = home.get(&format!("/_matrix/client/v3/sync?filter={filter}"), &bob).await;
    let threads = &synced["rooms"]["join"][&room]["unread_thread_notifications"];
    assert_eq!(threads[&root]["notification_count"], 1, "{threads}");
    assert_eq!(threads.get(&other), None, "{threads}");
    let (_, third) = home.post(&next(&second), &bob, ask.clone()).await;
    let updates = third["extensions"]["io.element.msc4360.threads"]["updates"][&room].clone();
    assert_eq!(updates.as_object().map(|threads| threads.len()), Some(2), "{third}");
    let path = "/_matrix/client/unstable/io.element.msc4360/thread_updates?dir=b&limit=1";
    let (status, page) = home.get(path, &bob).await;
    assert_eq!(status, StatusCode::OK, "{page}");
    assert!(page["chunk"][&room][&other]["thread_root"]["event_id"].is_string(), "{page}");
    let (_, page) = home.get(&format!("{path}&from={}", page["next_batch"].as_str().unwrap()), &bob).await;
    assert!(page["chunk"][&room][&root].is_object() && page.get("next_batch").is_none(), "{page}");
    home.call(Method::DELETE, &sub(&root), Some(&bob.token), Value::Null).await;
    assert_error(home.get(&sub(&root), &bob).await, 404, "M_NOT_FOUND");
    let (_, fourth) = home.post(&next(&third), &bob, ask).await;
    assert!(followed(&fourth)["unsubscribed"][&room][&root]["bump_stamp"].is_number(), "{fourth}");
    let (_, list) =
        home.get("/_matrix/client/unstable/io.element.msc4308/thread_subscriptions?dir=b", &bob).await;
    assert!(list["unsubscribed"][&room][&root].is_object(), "{list}");
}

#[tokio::test]
async fn what_sticks_is_told_whatever_the_timeline_shows() {
    let home = Home::new(open()).await;
    let (alice, bob) = (home.user("alice").await, home.user("bob").await);
    let room = room(&home, &alice, json!({ "preset": "public_chat",
        "initial_state": [{ "type": "m.room.history_visibility", "content": { "history_visibility": "joined" } }] }))
    .await;
    let path = format!("/_matrix/client/v3/rooms/{room}");
    let sticky = |txn: &str, ms: u64| {
        format!("{path}/send/m.rtc.member/{txn}?org.matrix.msc4354.sticky_duration_ms={ms}")
    };
    let (status, sent) = home.put(&sticky("1", 60_000), &alice, json!({ "sticky_key": "a" })).await;
    assert_eq!(status, StatusCode::OK, "{sent}");
    let (_, redacted) = home.put(&sticky("2", 60_000), &alice, json!({ "sticky_key": "b" })).await;
    let id = redacted["event_id"].as_str().unwrap();
    home.put(&format!("{path}/redact/{id}/3"), &alice, json!({})).await;
    let (_, refused) = home.put(&sticky("4", 3_600_001), &alice, json!({})).await;
    assert_eq!(refused["errcode"], "M_INVALID_PARAM", "{refused}");
    for number in 0..12 {
        say(&home, &alice, &room, &format!("n{number}"), json!({ "msgtype": "m.text", "body": "x" })).await;
    }
    home.post(&format!("/_matrix/client/v3/join/{room}"), &bob, json!({})).await;
    let (_, synced) = home.get("/_matrix/client/v3/sync", &bob).await;
    let told = &synced["rooms"]["join"][&room]["msc4354_sticky"]["events"];
    assert_eq!(told.as_array().map(Vec::len), Some(1), "{synced}");
    assert_eq!(
        (&told[0]["event_id"], &told[0]["msc4354_sticky"]["duration_ms"]),
        (&sent["event_id"], &json!(60_000))
    );
    let left = told[0]["unsigned"]["msc4354_sticky_duration_ttl_ms"].as_i64().unwrap();
    assert!((1..=60_000).contains(&left), "{left}");
    let ask = json!({ "lists": { "a": { "ranges": [[0, 9]], "timeline_limit": 1, "required_state": [] } },
        "extensions": { "org.matrix.msc4354.sticky_events": { "enabled": true } } });
    let (_, first) = home.post(SLIDING, &bob, ask.clone()).await;
    let part = &first["extensions"]["org.matrix.msc4354.sticky_events"];
    assert_eq!(part["rooms"][&room]["events"][0]["event_id"], sent["event_id"], "{first}");
    let next_of = |answer: &Value| format!("{SLIDING}?timeout=0&pos={}", answer["pos"].as_str().unwrap());
    let again_from = |ask: &Value, part: &Value| {
        let mut again = ask.clone();
        again["extensions"]["org.matrix.msc4354.sticky_events"]["since"] = part["next_batch"].clone();
        again
    };
    let (_, second) = home.post(&next_of(&first), &bob, again_from(&ask, part)).await;
    assert_eq!(second["extensions"].get("org.matrix.msc4354.sticky_events"), None, "{second}");
    // What the timeline has shown does not come again beside it.
    let mut since = again_from(&ask, part);
    let (_, shown) = home.put(&sticky("5", 60_000), &alice, json!({ "sticky_key": "c" })).await;
    let (_, next) = home.post(&next_of(&second), &bob, since.clone()).await;
    let timeline = &next["rooms"][&room]["timeline"];
    assert_eq!(timeline[0]["event_id"], shown["event_id"], "{next}");
    let told = &next["extensions"]["org.matrix.msc4354.sticky_events"];
    assert_eq!(told["rooms"], json!({}), "{next}");
    since = again_from(&ask, told);
    let (_, last) = home.post(&next_of(&next), &bob, since).await;
    assert_eq!(last["extensions"].get("org.matrix.msc4354.sticky_events"), None, "{last}");
    home.server.clock.advance(61_000);
    let (_, third) = home.post(SLIDING, &bob, ask).await;
    assert_eq!(third["extensions"]["org.matrix.msc4354.sticky_events"]["rooms"], json!({}), "{third}");
    let (_, late) = home.get("/_matrix/client/v3/sync", &bob).await;
    assert_eq!(late["rooms"]["join"][&room].get("msc4354_sticky"), None, "{late}");
}

#[tokio::test]
async fn profiles_come_with_the_room_and_change_with_their_owners() {
    let home = Home::new(open()).await;
    let (alice, bob) = (home.user("alice").await, home.user("bob").await);
    let room = shared(&home, &alice, &bob).await;
    let ask = json!({ "lists": { "a": { "ranges": [[0, 9]], "timeline_limit": 1, "required_state": [] } },
        "extensions": { "org.matrix.msc4262.profiles": { "enabled": true, "fields": ["displayname", "org.x.lang"] } } });
    let (_, first) = home.post(SLIDING, &bob, ask.clone()).await;
    let people = |answer: &Value| answer["extensions"]["org.matrix.msc4262.profiles"]["users"].clone();
    assert_eq!(people(&first)[&alice.id]["updated"]["displayname"], "alice", "{first}");
    let next = |answer: &Value| format!("{SLIDING}?timeout=0&pos={}", answer["pos"].as_str().unwrap());
    let field = |name: &str| format!("/_matrix/client/v3/profile/{}/{name}", alice.id);
    home.put(&field("org.x.lang"), &alice, json!({ "org.x.lang": "en" })).await;
    home.put(&field("org.x.other"), &alice, json!({ "org.x.other": 1 })).await;
    let (_, second) = home.post(&next(&first), &bob, ask.clone()).await;
    assert_eq!(people(&second), json!({ &alice.id: { "updated": { "org.x.lang": "en" } } }), "{second}");
    home.call(Method::DELETE, &field("org.x.lang"), Some(&alice.token), Value::Null).await;
    let (_, third) = home.post(&next(&second), &bob, ask.clone()).await;
    assert_eq!(people(&third)[&alice.id], json!({ "removed": ["org.x.lang"] }), "{third}");
    home.post(&format!("/_matrix/client/v3/rooms/{room}/leave"), &alice, json!({})).await;
    let (_, fourth) = home.post(&next(&third), &bob, ask).await;
    assert!(people(&fourth).as_object().unwrap()[&alice.id].is_null(), "{fourth}");
}

#[tokio::test]
async fn account_data_that_is_taken_away_is_gone() {
    let home = Home::new(open()).await;
    let alice = home.user("alice").await;
    let path = format!("/_matrix/client/v3/user/{}/account_data/x.y", alice.id);
    for by_put in [true, false] {
        home.put(&path, &alice, json!({ "a": 1 })).await;
        let (_, before) = home.get("/_matrix/client/v3/sync", &alice).await;
        let (status, _) = match by_put {
            true => home.put(&path, &alice, json!({})).await,
            false => home.call(Method::DELETE, &path, Some(&alice.token), Value::Null).await,
        };
        assert_eq!(status, StatusCode::OK);
        assert_error(home.get(&path, &alice).await, 404, "M_NOT_FOUND");
        let since = before["next_batch"].as_str().unwrap();
        let (_, after) = home.get(&format!("/_matrix/client/v3/sync?since={since}"), &alice).await;
        assert_eq!(after["account_data"]["events"], json!([{ "type": "x.y", "content": {} }]), "{after}");
        let (_, whole) = home.get("/_matrix/client/v3/sync", &alice).await;
        assert!(!whole["account_data"].to_string().contains("x.y"), "{whole}");
    }
}

#[tokio::test]
async fn types_are_kept_as_they_are_written() {
    let home = Home::new(open()).await;
    let alice = home.user("alice").await;
    let room = room(&home, &alice, json!({})).await;
    let path = format!("/_matrix/client/v3/rooms/{room}/state");
    let (status, _) =
        home.put(&format!("{path}/m.room.retention"), &alice, json!({ "max_lifetime": 1 })).await;
    assert_eq!(status, StatusCode::OK);
    let (_, whole) = home.get(&format!("{path}/m.room.retention?format=event"), &alice).await;
    assert_eq!(whole["type"], "m.room.retention", "{whole}");
    assert_error(home.get(&format!("{path}/org.matrix.msc1763.retention"), &alice).await, 404, "M_NOT_FOUND");
}

#[tokio::test]
async fn what_is_redacted_is_not_unread() {
    let home = Home::new(open()).await;
    let (alice, bob) = (home.user("alice").await, home.user("bob").await);
    let room = shared(&home, &alice, &bob).await;
    let body = json!({ "msgtype": "m.text", "body": "hi bob", "m.mentions": { "user_ids": [bob.id] } });
    let first = say(&home, &alice, &room, "1", body).await;
    let second = say(&home, &alice, &room, "2", reply(&first, "in a thread")).await;
    say(&home, &alice, &room, "3", json!({ "msgtype": "m.text", "body": "plain" })).await;
    let counts = async || {
        let (_, synced) = home.get("/_matrix/client/v3/sync", &bob).await;
        let counts = &synced["rooms"]["join"][&room]["unread_notifications"];
        (counts["notification_count"].as_i64().unwrap(), counts["highlight_count"].as_i64().unwrap())
    };
    assert_eq!(counts().await, (3, 1));
    for (event, left) in [(&first, (2, 0)), (&second, (1, 0))] {
        let path = format!("/_matrix/client/v3/rooms/{room}/redact/{event}/{}", left.0);
        assert_eq!(home.put(&path, &alice, json!({})).await.0, StatusCode::OK);
        assert_eq!(counts().await, left);
    }
}

#[tokio::test]
async fn owned_state_is_its_owners_and_of_whoever_stands_above() {
    let home = Home::new(open()).await;
    let (alice, bob, carol) = (home.user("alice").await, home.user("bob").await, home.user("carol").await);
    for (version, owned) in [("org.matrix.msc3757.11", true), ("11", false)] {
        let body = json!({ "preset": "public_chat", "room_version": version,
            "power_level_content_override": { "events": { "x.own": 0 } } });
        let room = room(&home, &alice, body).await;
        for user in [&bob, &carol] {
            home.post(&format!("/_matrix/client/v3/join/{room}"), user, json!({})).await;
        }
        let put = async |user: &User, key: String| {
            let path = format!("/_matrix/client/v3/rooms/{room}/state/x.own/{key}");
            home.put(&path, user, json!({ "by": user.id })).await.0.as_u16()
        };
        let allowed = if owned { 200 } else { 403 };
        assert_eq!(put(&bob, bob.id.clone()).await, 200);
        let same = format!("/_matrix/client/v3/rooms/{room}/state/x.own/{}", bob.id);
        let (status, _) = home.put(&same, &carol, json!({ "by": bob.id })).await;
        assert_eq!(status, 403, "also not what is said already");
        assert_eq!(put(&bob, format!("{}_a", bob.id)).await, allowed, "{version}");
        assert_eq!(put(&alice, format!("{}_a", bob.id)).await, allowed, "{version}");
        assert_eq!(put(&carol, format!("{}_a", bob.id)).await, 403, "{version}");
        assert_eq!(put(&alice, "@oops".into()).await, if owned { 400 } else { 403 }, "{version}");
    }
}

#[tokio::test]
async fn who_goes_is_told() {
    let home = Home::new(Settings { presence: true, ..open() }).await;
    let (alice, bob) = (home.user("alice").await, home.user("bob").await);
    shared(&home, &alice, &bob).await;
    home.put(
        &format!("/_matrix/client/v3/presence/{}/status", bob.id),
        &bob,
        json!({ "presence": "online" }),
    )
    .await;
    let state = async |since: Option<&Value>| {
        let since = since.map_or(String::new(), |since| format!("&since={}", since.as_str().unwrap()));
        let (_, synced) =
            home.get(&format!("/_matrix/client/v3/sync?set_presence=offline{since}"), &alice).await;
        let events = synced["presence"]["events"].as_array().unwrap().clone();
        let bobs = events.into_iter().find(|event| event["sender"] == bob.id);
        (synced["next_batch"].clone(), bobs.map(|event| event["content"]["presence"].clone()))
    };
    let (since, presence) = state(None).await;
    assert_eq!(presence, Some(json!("online")));
    assert_eq!(home.server.users.announce_gone().await.unwrap(), 0);
    home.server.clock.advance(121_000);
    assert_eq!(home.server.users.announce_gone().await.unwrap(), 1);
    assert_eq!(home.server.users.announce_gone().await.unwrap(), 0, "once is enough");
    assert_eq!(state(Some(&since)).await.1, Some(json!("offline")));
}
