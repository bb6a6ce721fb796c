//! Guests, suspended, locked and shadow-banned accounts: what each may do, and what they are told.

use super::*;
use crate::user::{AccountSettings, Flag, General};

fn user_id(user: &User) -> ruma::OwnedUserId {
    ruma::UserId::parse(&*user.id).unwrap()
}

async fn room(home: &Home, user: &User) -> String {
    let (status, made) =
        home.post("/_matrix/client/v3/createRoom", user, json!({ "preset": "public_chat" })).await;
    assert_eq!(status, StatusCode::OK, "{made}");
    made["room_id"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_locked_account_can_only_log_out() {
    let home = Home::new(admin::with_secret()).await;
    let (root, alice) = (admin::administrator(&home).await, home.user("alice").await);
    let path = format!("/_matrix/client/v1/admin/lock/{}", alice.id);
    assert_error(home.put(&path, &alice, json!({ "locked": true })).await, 403, "M_FORBIDDEN");
    let (status, answer) = home.put(&path, &root, json!({ "locked": true })).await;
    assert_eq!((status, &answer["locked"]), (StatusCode::OK, &json!(true)), "{answer}");
    assert_eq!(home.get(&path, &root).await.1["locked"], true);

    let refused = home.get("/_matrix/client/v3/joined_rooms", &alice).await;
    assert_eq!(refused.1["soft_logout"], true, "{}", refused.1);
    assert_error(refused, 401, "M_USER_LOCKED");
    let body = json!({ "type": "m.login.password", "password": PASSWORD,
        "identifier": { "type": "m.id.user", "user": "alice" } });
    assert_error(home.call(Method::POST, "/_matrix/client/v3/login", None, body).await, 401, "M_USER_LOCKED");
    let (status, _) = home.put(&path, &root, json!({ "locked": false })).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(home.get("/_matrix/client/v3/joined_rooms", &alice).await.0, StatusCode::OK);
    home.put(&path, &root, json!({ "locked": true })).await;
    assert_eq!(home.post("/_matrix/client/v3/logout", &alice, json!({})).await.0, StatusCode::OK);

    let own = format!("/_matrix/client/v1/admin/lock/{}", root.id);
    assert_error(home.put(&own, &root, json!({ "locked": true })).await, 403, "M_FORBIDDEN");
    let nobody = "/_matrix/client/v1/admin/lock/@nobody:elsewhere.org";
    assert_error(home.get(nobody, &root).await, 400, "M_INVALID_PARAM");
}

#[tokio::test]
async fn a_suspended_account_reads_but_takes_no_part() {
    let home = Home::new(open()).await;
    let (alice, bob) = (home.user("alice").await, home.user("bob").await);
    let room = room(&home, &bob).await;
    let rooms = format!("/_matrix/client/v3/rooms/{room}");
    home.post(&format!("{rooms}/join"), &alice, json!({})).await;
    let text = json!({ "msgtype": "m.text", "body": "x" });
    let (_, own) = home.put(&format!("{rooms}/send/m.room.message/1"), &alice, text.clone()).await;
    let (_, others) = home.put(&format!("{rooms}/send/m.room.message/1"), &bob, text.clone()).await;
    home.server.users.set_flag(&user_id(&alice), Flag::Suspended, true).await.unwrap();

    for (path, body) in [
        (format!("{rooms}/send/m.room.message/2"), text.clone()),
        (format!("{rooms}/state/m.room.topic/"), json!({ "topic": "x" })),
        (format!("/_matrix/client/v3/profile/{}/displayname", alice.id), json!({ "displayname": "x" })),
        (format!("{rooms}/redact/{}/1", others["event_id"].as_str().unwrap().replace('$', "%24")), json!({})),
    ] {
        assert_error(home.put(&path, &alice, body).await, 403, "M_USER_SUSPENDED");
    }
    assert_error(
        home.post("/_matrix/client/v3/createRoom", &alice, json!({})).await,
        403,
        "M_USER_SUSPENDED",
    );
    let own = format!("{rooms}/redact/{}/2", own["event_id"].as_str().unwrap().replace('$', "%24"));
    let (status, answer) = home.put(&own, &alice, json!({})).await;
    assert_eq!(status, StatusCode::OK, "its own words it may take back: {answer}");
    assert_eq!(home.get(&format!("{rooms}/messages?dir=b"), &alice).await.0, StatusCode::OK);
    assert_eq!(home.post(&format!("{rooms}/leave"), &alice, json!({})).await.0, StatusCode::OK);
}

#[tokio::test]
async fn a_shadow_banned_account_is_told_that_all_went_well() {
    let home = Home::new(open()).await;
    let alice = home.user("alice").await;
    let room = room(&home, &alice).await;
    let rooms = format!("/_matrix/client/v3/rooms/{room}");
    home.server.users.set_flag(&user_id(&alice), Flag::ShadowBanned, true).await.unwrap();
    let text = json!({ "msgtype": "m.text", "body": "spam" });
    let (status, sent) = home.put(&format!("{rooms}/send/m.room.message/1"), &alice, text).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(sent["event_id"].as_str().unwrap().len(), 44, "{sent}");
    let (_, messages) = home.get(&format!("{rooms}/messages?dir=b"), &alice).await;
    assert!(!messages.to_string().contains("spam"));
}

#[tokio::test]
async fn guests_come_where_they_may_and_become_users() {
    let without = Home::new(open()).await;
    let register = "/_matrix/client/v3/register?kind=guest";
    let refused = without.call(Method::POST, register, None, json!({})).await;
    assert_error(refused, 403, "M_GUEST_ACCESS_FORBIDDEN");

    let accounts = AccountSettings {
        general: General { guests: true, ..General::default() },
        ..AccountSettings::default()
    };
    let home = Home::new(Settings { accounts, ..open() }).await;
    let (status, made) = home.call(Method::POST, register, None, json!({})).await;
    assert_eq!(status, StatusCode::OK, "{made}");
    let guest = User::of(&made);
    let (_, who) = home.get("/_matrix/client/v3/account/whoami", &guest).await;
    assert_eq!(who["is_guest"], true);
    assert_eq!(home.get("/_matrix/client/v3/sync", &guest).await.0, StatusCode::OK);
    for path in ["/_matrix/client/v3/createRoom", "/_matrix/client/v3/user_directory/search"] {
        let body = json!({ "search_term": "x" });
        assert_error(home.post(path, &guest, body).await, 403, "M_GUEST_ACCESS_FORBIDDEN");
    }

    // Only rooms that let guests in.
    let alice = home.user("alice").await;
    let closed = room(&home, &alice).await;
    let join = format!("/_matrix/client/v3/rooms/{closed}/join");
    assert_error(home.post(&join, &guest, json!({})).await, 403, "M_GUEST_ACCESS_FORBIDDEN");
    let rule = format!("/_matrix/client/v3/rooms/{closed}/state/m.room.guest_access/");
    home.put(&rule, &alice, json!({ "guest_access": "can_join" })).await;
    let (status, joined) = home.post(&join, &guest, json!({})).await;
    assert_eq!(status, StatusCode::OK, "{joined}");

    let name = guest.id[1..].split(':').next().unwrap();
    let body = json!({ "username": name, "password": PASSWORD, "guest_access_token": guest.token,
        "auth": { "type": "m.login.dummy" } });
    let (status, made) = home.call(Method::POST, "/_matrix/client/v3/register", None, body.clone()).await;
    assert_eq!((status, &made["user_id"]), (StatusCode::OK, &json!(guest.id)), "{made}");
    let user = User::of(&made);
    assert_eq!(home.get("/_matrix/client/v3/account/whoami", &user).await.1.get("is_guest"), None);
    assert_error(home.get("/_matrix/client/v3/account/whoami", &guest).await, 401, "M_UNKNOWN_TOKEN");
    let again = home.call(Method::POST, "/_matrix/client/v3/register", None, body).await;
    assert_eq!(again.0, StatusCode::BAD_REQUEST, "no longer a guest: {}", again.1);
}

#[tokio::test]
async fn terms_that_change_are_agreed_to_before_going_on() {
    let terms = |version: &str| crate::user::Terms {
        version: version.into(),
        name: "House <rules>".into(),
        url: "https://example.org/rules".into(),
        enforce: true,
    };
    let dir = tempfile::tempdir().unwrap();
    let before = Home::at(dir.path(), open()).await;
    let alice = before.user("alice").await;
    let room = room(&before, &alice).await;
    before.close().await;
    let accounts = AccountSettings { terms: Some(terms("2")), ..AccountSettings::default() };
    let home = Home::at(dir.path(), Settings { accounts, ..open() }).await;
    let say = format!("/_matrix/client/v3/rooms/{room}/send/m.room.message/1");
    let text = json!({ "msgtype": "m.text", "body": "x" });
    let (status, refused) = home.put(&say, &alice, text.clone()).await;
    assert_eq!((status, &refused["errcode"]), (StatusCode::FORBIDDEN, &json!("M_CONSENT_NOT_GIVEN")));
    let (status, _) = home.get(&format!("/_matrix/client/v3/rooms/{room}/messages?dir=b"), &alice).await;
    assert_eq!(status, StatusCode::OK, "what is there may be read");
    let uri = refused["consent_uri"].as_str().unwrap();
    let (_, query) = uri.split_once('?').unwrap();
    let ask = async |method: Method, path: String, body: &str| {
        let request = Request::builder().method(method).uri(path).body(Body::from(body.to_owned())).unwrap();
        let (head, html) = home.send(request).await;
        (head.status, String::from_utf8(html.to_vec()).unwrap())
    };
    let forged = query.replace("alice", "bob");
    assert_eq!(ask(Method::POST, "/_mangrove/terms".into(), &forged).await.0, StatusCode::BAD_REQUEST);
    let (status, html) = ask(Method::GET, format!("/_mangrove/terms?{query}"), "").await;
    assert!(status == StatusCode::OK && html.contains("House &lt;rules&gt;"), "{html}");
    assert_eq!(
        home.put(&say, &alice, text.clone()).await.0,
        StatusCode::FORBIDDEN,
        "looking is not agreeing"
    );
    assert_eq!(ask(Method::POST, "/_mangrove/terms".into(), query).await.0, StatusCode::OK);
    assert_eq!(home.put(&say, &alice, text).await.0, StatusCode::OK);
}
