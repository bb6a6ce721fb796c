//! A clock that jumps, back by a year and forth by ten: what is said keeps its order, nothing is lost, nobody is locked out.

use super::*;

const YEAR_MS: u64 = 365 * 24 * 3_600_000;

#[tokio::test]
async fn a_jumping_clock_loses_nothing_and_locks_nobody_out() {
    // With rate limits, which count by time.
    let home = Home::new(Settings { rate_limits: true, ..open() }).await;
    let (alice, bob) = (home.user("alice").await, home.user("bob").await);
    let (_, made) =
        home.post("/_matrix/client/v3/createRoom", &alice, json!({ "preset": "public_chat" })).await;
    let room = format!("/_matrix/client/v3/rooms/{}", made["room_id"].as_str().unwrap());
    assert_eq!(home.post(&format!("{room}/join"), &bob, json!({})).await.0, StatusCode::OK);
    let (_, first) = home.get("/_matrix/client/v3/sync?timeout=0", &bob).await;
    let mut since = first["next_batch"].as_str().unwrap().to_owned();
    let body = json!({ "type": "m.login.password", "password": PASSWORD, "refresh_token": true,
        "identifier": { "type": "m.id.user", "user": "alice" } });
    let (_, session) = home.call(Method::POST, "/_matrix/client/v3/login", None, body.clone()).await;
    let mut refresh = session["refresh_token"].as_str().unwrap().to_owned();

    let start = home.server.clock.now_ms();
    let mut expected = Vec::new();
    for (n, at) in
        [start, start - YEAR_MS, start + 10 * YEAR_MS, 0, start - 1, start + 1].into_iter().enumerate()
    {
        home.server.clock.set(at);
        for m in 0..3 {
            let text = json!({ "msgtype": "m.text", "body": format!("{n} {m}") });
            let path = format!("{room}/send/m.room.message/{n}-{m}");
            let (status, sent) = home.put(&path, &alice, text.clone()).await;
            assert_eq!(status, StatusCode::OK, "{n} {m}: {sent}");
            assert_eq!(home.put(&path, &alice, text).await.1, sent, "the same transaction, the same event");
            expected.push(sent["event_id"].clone());
        }
        // Only what came since, once, in order.
        let (_, told) = home.get(&format!("/_matrix/client/v3/sync?timeout=0&since={since}"), &bob).await;
        let joined = told["rooms"]["join"].as_object().unwrap().values().next().unwrap();
        let ids: Vec<Value> = joined["timeline"]["events"]
            .as_array()
            .unwrap()
            .iter()
            .map(|event| event["event_id"].clone())
            .collect();
        assert_eq!(ids, expected[n * 3..]);
        since = told["next_batch"].as_str().unwrap().to_owned();
        // Log-ins, refreshes, receipts and typing go on.
        let (status, session) = home.call(Method::POST, "/_matrix/client/v3/login", None, body.clone()).await;
        assert_eq!(status, StatusCode::OK, "{session}");
        let old = json!({ "refresh_token": refresh });
        let (status, fresh) = home.call(Method::POST, "/_matrix/client/v3/refresh", None, old).await;
        assert_eq!(status, StatusCode::OK, "{n}: {fresh}");
        refresh = fresh["refresh_token"].as_str().unwrap().to_owned();
        let token = fresh["access_token"].as_str().unwrap();
        let (status, me) =
            home.call(Method::GET, "/_matrix/client/v3/account/whoami", Some(token), Value::Null).await;
        assert_eq!((status, &me["user_id"]), (StatusCode::OK, &json!(alice.id)));
        let last = expected.last().unwrap().as_str().unwrap().replace('$', "%24");
        assert_eq!(
            home.post(&format!("{room}/receipt/m.read/{last}"), &bob, json!({})).await.0,
            StatusCode::OK
        );
        let typing = json!({ "typing": true, "timeout": 1000 });
        assert_eq!(home.put(&format!("{room}/typing/{}", bob.id), &bob, typing).await.0, StatusCode::OK);
    }
    let (_, page) = home.get(&format!("{room}/messages?dir=b&limit=100"), &bob).await;
    let mut ids: Vec<Value> = page["chunk"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|event| event["type"] == "m.room.message")
        .map(|event| event["event_id"].clone())
        .collect();
    ids.reverse();
    assert_eq!(ids, expected);
}

#[tokio::test]
async fn limits_that_were_reached_before_a_jump_back_fill_again() {
    let home = Home::new(Settings { rate_limits: true, ..open() }).await;
    let mut refused = 0;
    let wrong = json!({ "type": "m.login.password", "password": "wrong password",
        "identifier": { "type": "m.id.user", "user": "nobody" } });
    for _ in 0..12 {
        let (status, _) = home.call(Method::POST, "/_matrix/client/v3/login", None, wrong.clone()).await;
        refused += u32::from(status == StatusCode::TOO_MANY_REQUESTS);
    }
    assert!(refused >= 2);
    home.server.clock.set(home.server.clock.now_ms() - YEAR_MS);
    home.call(Method::POST, "/_matrix/client/v3/login", None, wrong.clone()).await;
    home.server.clock.advance(60_000);
    let (status, _) = home.call(Method::POST, "/_matrix/client/v3/login", None, wrong).await;
    assert_eq!(status, StatusCode::FORBIDDEN, "a minute later it is asked again, not a year later");
}
