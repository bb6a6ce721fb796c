//! Administrators' endpoints: registration by shared secret.

use super::*;

const REGISTER: &str = "/_synapse/admin/v1/register";

/// What Synapse's `register_new_matrix_user` sends.
fn signed(secret: &str, nonce: &str, user: &str, admin: bool) -> Value {
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, secret.as_bytes());
    let text = format!("{nonce}\0{user}\0{PASSWORD}\0{}", if admin { "admin" } else { "notadmin" });
    let mac = data_encoding::HEXLOWER.encode(ring::hmac::sign(&key, text.as_bytes()).as_ref());
    json!({ "nonce": nonce, "username": user, "password": PASSWORD, "admin": admin, "mac": mac })
}

async fn nonce(home: &Home) -> String {
    let (status, answer) = home.call(Method::GET, REGISTER, None, Value::Null).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    answer["nonce"].as_str().unwrap().to_owned()
}

/// Somebody who administers `home`, which has the shared secret `hush`.
pub(crate) async fn administrator(home: &Home) -> User {
    let nonce = nonce(home).await;
    let (status, made) = home.call(Method::POST, REGISTER, None, signed("hush", &nonce, "root", true)).await;
    assert_eq!(status, StatusCode::OK, "{made}");
    User::of(&made)
}

/// A node whose operator has set a shared secret.
pub(crate) fn with_secret() -> Settings {
    Settings { registration_shared_secret: Some(router::config::Secret::new("hush")), ..open() }
}

#[tokio::test]
async fn the_shared_secret_makes_accounts() {
    let home = Home::new(Settings { registration: Registration::Closed, ..with_secret() }).await;
    let first = nonce(&home).await;
    let wrong = signed("guess", &first, "alice", true);
    assert_error(home.call(Method::POST, REGISTER, None, wrong).await, 403, "M_FORBIDDEN");
    let right = signed("hush", &first, "alice", false);
    let (status, made) = home.call(Method::POST, REGISTER, None, right.clone()).await;
    assert_eq!(status, StatusCode::OK, "{made}");
    let alice = User::of(&made);
    assert_eq!(home.get("/_matrix/client/v3/account/whoami", &alice).await.1["user_id"], alice.id);
    // The nonce is used up, and one ends after a minute.
    let again = signed("hush", &first, "bob", false);
    assert_error(home.call(Method::POST, REGISTER, None, again).await, 400, "M_INVALID_PARAM");
    let late = nonce(&home).await;
    home.server.clock.advance(60_001);
    let late = signed("hush", &late, "bob", false);
    assert_error(home.call(Method::POST, REGISTER, None, late).await, 400, "M_INVALID_PARAM");
    assert_error(home.call(Method::POST, REGISTER, None, json!([])).await, 400, "M_BAD_JSON");
    // "admin" is part of what is signed.
    let fresh = nonce(&home).await;
    let mut raised = signed("hush", &fresh, "bob", false);
    raised["admin"] = true.into();
    assert_error(home.call(Method::POST, REGISTER, None, raised).await, 403, "M_FORBIDDEN");

    let without = Home::new(open()).await;
    assert_error(without.call(Method::GET, REGISTER, None, Value::Null).await, 400, "M_INVALID_PARAM");
}

const V1: &str = "/_synapse/admin/v1";
const V2: &str = "/_synapse/admin/v2";

/// What a spammer said is taken away, by himself or by the administrator, and what could not be is told.
#[tokio::test]
async fn a_users_messages_are_taken_away() {
    let home = Home::new(with_secret()).await;
    let (root, spammer) = (administrator(&home).await, home.user("spammer").await);
    let request = json!({ "preset": "public_chat" });
    let (_, made) = home.post("/_matrix/client/v3/createRoom", &root, request).await;
    let room = made["room_id"].as_str().unwrap().to_owned();
    home.post(&format!("/_matrix/client/v3/join/{room}"), &spammer, json!({})).await;
    let path = |n: usize| format!("/_matrix/client/v3/rooms/{room}/send/m.room.message/{n}");
    for n in 0..12 {
        let sent = home.put(&path(n), &spammer, json!({ "msgtype": "m.text", "body": "buy" })).await;
        assert_eq!(sent.0, StatusCode::OK);
    }
    home.put(&path(99), &root, json!({ "msgtype": "m.text", "body": "please stop" })).await;
    let bodies = async || {
        let path = format!("/_matrix/client/v3/rooms/{room}/messages?dir=b&limit=100");
        let (_, page) = home.get(&path, &root).await;
        let events = page["chunk"].as_array().unwrap().clone();
        events
            .iter()
            .filter_map(|event| event["content"]["body"].as_str().map(str::to_owned))
            .collect::<Vec<_>>()
    };
    let order = async |body: Value| {
        let (status, begun) = home.post(&format!("{V1}/user/{}/redact", spammer.id), &root, body).await;
        assert_eq!(status, StatusCode::OK, "{begun}");
        let path = format!("{V1}/user/redact_status/{}", begun["redact_id"].as_str().unwrap());
        let until = tokio::time::Instant::now() + std::time::Duration::from_secs(20);
        loop {
            let (_, told) = home.get(&path, &root).await;
            if told["status"] != "active" {
                return told;
            }
            assert!(tokio::time::Instant::now() < until, "{told}");
            tokio::task::yield_now().await;
        }
    };
    let told = order(json!({ "rooms": [room], "limit": 2, "reason": "spam", "use_admin": true })).await;
    assert_eq!(told, json!({ "status": "complete", "failed_redactions": {} }));
    assert_eq!(bodies().await.len(), 11);
    order(json!({ "rooms": [] })).await;
    assert_eq!(bodies().await, ["please stop"]);
    // Who is not in a room cannot speak there.
    home.put(&path(100), &spammer, json!({ "msgtype": "m.text", "body": "buy again" })).await;
    home.post(&format!("/_matrix/client/v3/rooms/{room}/leave"), &root, json!({})).await;
    let told = order(json!({ "use_admin": true })).await;
    assert_eq!(told["failed_redactions"].as_object().unwrap().len(), 1, "{told}");
    assert_error(home.get(&format!("{V1}/user/redact_status/none"), &root).await, 404, "M_NOT_FOUND");
    let (_, pushers) = home.get(&format!("{V1}/users/{}/pushers", spammer.id), &root).await;
    assert_eq!(pushers, json!({ "total": 0, "pushers": [] }));
}

#[tokio::test]
async fn administrators_look_after_users() {
    let home = Home::new(with_secret()).await;
    let (root, alice) = (administrator(&home).await, home.user("alice").await);
    assert_error(home.get(&format!("{V2}/users"), &alice).await, 403, "M_FORBIDDEN");
    assert_error(
        home.call(Method::GET, &format!("{V2}/users"), None, Value::Null).await,
        401,
        "M_MISSING_TOKEN",
    );
    let (_, list) = home.get(&format!("{V2}/users?from=0&limit=1&guests=false"), &root).await;
    assert_eq!((&list["total"], &list["next_token"]), (&json!(2), &json!("1")), "{list}");
    assert_eq!(list["users"][0]["name"], alice.id);
    let (_, found) = home.get(&format!("{V2}/users?name=ROO"), &root).await;
    assert_eq!((&found["total"], &found["users"][0]["admin"]), (&json!(1), &json!(true)), "{found}");

    // Made, changed, seen.
    let bob = format!("@bob:{}", home.server.name);
    let body = json!({ "password": PASSWORD, "displayname": "Bob", "user_type": "bot",
        "threepids": [{ "medium": "email", "address": "bob@example.org" }] });
    let (status, made) = home.put(&format!("{V2}/users/{bob}"), &root, body).await;
    assert_eq!((status, &made["displayname"]), (StatusCode::CREATED, &json!("Bob")), "{made}");
    assert_eq!(
        (&made["user_type"], &made["threepids"][0]["address"]),
        (&json!("bot"), &json!("bob@example.org"))
    );
    let (status, changed) = home.put(&format!("{V2}/users/{bob}"), &root, json!({ "locked": true })).await;
    assert_eq!((status, &changed["locked"]), (StatusCode::OK, &json!(true)));
    let (status, _) = home.post(&format!("{V1}/deactivate/{bob}"), &root, json!({ "erase": true })).await;
    assert_eq!(status, StatusCode::OK);
    let (_, ended) = home.get(&format!("{V2}/users/{bob}"), &root).await;
    assert_eq!((&ended["deactivated"], &ended["erased"]), (&json!(true), &json!(true)), "{ended}");
    let back = json!({ "deactivated": false, "password": "another password" });
    let (_, back) = home.put(&format!("{V2}/users/{bob}"), &root, back).await;
    assert_eq!(back["deactivated"], false, "{back}");

    let (_, devices) = home.get(&format!("{V2}/users/{}/devices", alice.id), &root).await;
    assert_eq!(devices["devices"][0]["device_id"], alice.device);
    let (_, as_alice) = home.post(&format!("{V1}/users/{}/login", alice.id), &root, json!({})).await;
    let token = as_alice["access_token"].as_str().unwrap();
    let (_, who) =
        home.call(Method::GET, "/_matrix/client/v3/account/whoami", Some(token), Value::Null).await;
    assert_eq!(who["user_id"], alice.id);
    let reset = json!({ "new_password": "by root alone", "logout_devices": true });
    home.post(&format!("{V1}/reset_password/{}", alice.id), &root, reset).await;
    assert_error(home.get("/_matrix/client/v3/account/whoami", &alice).await, 401, "M_UNKNOWN_TOKEN");
    let (_, whois) = home.get(&format!("/_matrix/client/v3/admin/whois/{}", alice.id), &root).await;
    assert_eq!(whois["user_id"], alice.id);
    assert_error(
        home.put(&format!("{V1}/users/{}/admin", root.id), &root, json!({ "admin": false })).await,
        400,
        "M_INVALID_PARAM",
    );
    let elsewhere = home.get(&format!("{V2}/users/@x:elsewhere.org"), &root).await;
    assert_error(elsewhere, 400, "M_INVALID_PARAM");
    assert_error(
        home.get(&format!("{V1}/username_available?username=alice"), &root).await,
        400,
        "M_USER_IN_USE",
    );
}

#[tokio::test]
async fn administrators_look_after_rooms() {
    let home = Home::new(with_secret()).await;
    let (root, alice) = (administrator(&home).await, home.user("alice").await);
    let body = json!({ "preset": "public_chat", "name": "Garden", "room_alias_name": "garden" });
    let (_, made) = home.post("/_matrix/client/v3/createRoom", &alice, body).await;
    let room = made["room_id"].as_str().unwrap();
    let (_, list) = home.get(&format!("{V1}/rooms?search_term=gard&order_by=joined_members"), &root).await;
    assert_eq!((&list["total_rooms"], &list["rooms"][0]["room_id"]), (&json!(1), &json!(room)), "{list}");
    let (_, detail) = home.get(&format!("{V1}/rooms/{room}"), &root).await;
    assert_eq!((&detail["name"], &detail["joined_local_members"]), (&json!("Garden"), &json!(1)), "{detail}");
    let (_, members) = home.get(&format!("{V1}/rooms/{room}/members"), &root).await;
    assert_eq!(members["members"], json!([alice.id]));
    let (_, state) = home.get(&format!("{V1}/rooms/{room}/state"), &root).await;
    assert!(state["state"].as_array().unwrap().iter().any(|event| event["type"] == "m.room.name"), "{state}");

    let (status, answer) = home.post(&format!("{V1}/rooms/{room}/make_room_admin"), &root, json!({})).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let (status, _) = home.post(&format!("{V1}/join/{room}"), &root, json!({ "user_id": root.id })).await;
    assert_eq!(status, StatusCode::OK);
    let topic = format!("/_matrix/client/v3/rooms/{room}/state/m.room.topic/");
    let (status, answer) = home.put(&topic, &root, json!({ "topic": "mine now" })).await;
    assert_eq!(status, StatusCode::OK, "{answer}");

    // A report reaches them.
    let event = answer["event_id"].as_str().unwrap().replace('$', "%24");
    let path = format!("/_matrix/client/v3/rooms/{room}/report/{event}");
    assert_eq!(home.post(&path, &alice, json!({ "reason": "rude", "score": -50 })).await.0, StatusCode::OK);
    let bob = home.user("bob").await;
    assert_ne!(home.post(&path, &bob, json!({})).await.0, StatusCode::OK, "bob cannot see it");
    let (_, reports) = home.get(&format!("{V1}/event_reports"), &root).await;
    assert_eq!(
        (&reports["total"], &reports["event_reports"][0]["reason"]),
        (&json!(1), &json!("rude")),
        "{reports}"
    );

    let path = format!("{V1}/rooms/{room}");
    let (status, gone) = home.call(Method::DELETE, &path, Some(&root.token), json!({ "block": true })).await;
    assert_eq!((status, gone["kicked_users"].as_array().unwrap().len()), (StatusCode::OK, 2), "{gone}");
    let refused = home.post(&format!("/_matrix/client/v3/rooms/{room}/join"), &alice, json!({})).await;
    assert_error(refused, 403, "M_FORBIDDEN");
    let (_, blocked) = home.get(&format!("{V1}/rooms/{room}/block"), &root).await;
    assert_eq!(blocked, json!({ "block": true, "user_id": root.id }));
    assert_error(home.get(&format!("{V1}/rooms/!nosuch:x.org"), &root).await, 404, "M_NOT_FOUND");
}

#[tokio::test]
async fn tokens_notices_and_what_tools_ask_first() {
    let home = Home::new(with_secret()).await;
    let (root, alice) = (administrator(&home).await, home.user("alice").await);
    let new = format!("{V1}/registration_tokens/new");
    let (_, made) = home.post(&new, &root, json!({ "token": "welcome", "uses_allowed": 2 })).await;
    assert_eq!(
        (&made["token"], &made["uses_allowed"], &made["completed"]),
        (&json!("welcome"), &json!(2), &json!(0))
    );
    assert_error(home.post(&new, &root, json!({ "token": "welcome" })).await, 400, "M_INVALID_PARAM");
    let one = format!("{V1}/registration_tokens/welcome");
    let (_, changed) = home.put(&one, &root, json!({ "uses_allowed": null })).await;
    assert_eq!(changed["uses_allowed"], Value::Null);
    let (_, all) = home.get(&format!("{V1}/registration_tokens?valid=true"), &root).await;
    assert_eq!(all["registration_tokens"].as_array().unwrap().len(), 1, "{all}");
    assert_eq!(home.call(Method::DELETE, &one, Some(&root.token), Value::Null).await.0, StatusCode::OK);
    assert_error(home.get(&one, &root).await, 404, "M_NOT_FOUND");

    let body =
        json!({ "user_id": alice.id, "content": { "msgtype": "m.text", "body": "we move on Sunday" } });
    for _ in 0..2 {
        let (status, sent) = home.post(&format!("{V1}/send_server_notice"), &root, body.clone()).await;
        assert_eq!(status, StatusCode::OK, "{sent}");
    }
    let (_, sync) = home.get("/_matrix/client/v3/sync", &alice).await;
    assert_eq!(sync["rooms"]["invite"].as_object().unwrap().len(), 1, "both are in one room: {sync}");

    let (_, version) = home.call(Method::GET, &format!("{V1}/server_version"), None, Value::Null).await;
    assert!(version["server_version"].as_str().unwrap().starts_with("Mangrove"));
    let (head, body) = home.send(Request::get("/health").body(Body::empty()).unwrap()).await;
    assert_eq!((head.status, &body[..]), (StatusCode::OK, &b"OK"[..]));
    for path in
        ["statistics/users/media", "federation/destinations", "background_updates/status", "user_reports"]
    {
        assert_eq!(home.get(&format!("{V1}/{path}"), &root).await.0, StatusCode::OK, "{path}");
    }
}
