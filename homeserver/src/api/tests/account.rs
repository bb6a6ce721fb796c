//! Registration by token and without, log-in by all forms, devices, passwords, deactivation.

use super::*;

const REGISTER: &str = "/_matrix/client/v3/register";
const LOGIN: &str = "/_matrix/client/v3/login";

async fn login(home: &Home, user: &str, password: &str) -> (StatusCode, Value) {
    let body = json!({
        "type": "m.login.password", "password": password,
        "identifier": { "type": "m.id.user", "user": user },
    });
    home.call(Method::POST, LOGIN, None, body).await
}

#[tokio::test]
async fn a_token_makes_one_account() {
    let home = Home::new(Settings { rate_limits: false, ..Settings::default() }).await;
    let body = json!({ "username": "alice", "password": PASSWORD });
    let (status, ask) = home.call(Method::POST, REGISTER, None, body.clone()).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    assert_eq!(ask["flows"], json!([{ "stages": ["m.login.registration_token"] }]));
    let session = ask["session"].as_str().unwrap();

    let with = |token: &str, name: &str| {
        json!({ "username": name, "password": PASSWORD,
            "auth": { "type": "m.login.registration_token", "token": token, "session": session } })
    };
    let (status, wrong) = home.call(Method::POST, REGISTER, None, with("nonsense", "alice")).await;
    assert_eq!((status, &wrong["errcode"]), (StatusCode::UNAUTHORIZED, &json!("M_FORBIDDEN")), "{wrong}");
    assert_eq!(wrong["session"], session);

    let token = home.server.users.welcome_token().await.unwrap();
    assert_eq!(home.server.users.welcome_token().await.unwrap(), token, "it is shown again until it is used");
    let validity = format!("/_matrix/client/v1/register/m.login.registration_token/validity?token={token}");
    let (_, valid) = home.call(Method::GET, &validity, None, Value::Null).await;
    assert_eq!(valid["valid"], true);
    let (status, made) = home.call(Method::POST, REGISTER, None, with(&token, "alice")).await;
    assert_eq!(status, StatusCode::OK, "{made}");
    let (_, valid) = home.call(Method::GET, &validity, None, Value::Null).await;
    assert_eq!(valid["valid"], false);
    let (status, again) = home.call(Method::POST, REGISTER, None, with(&token, "bob")).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED, "{again}");
    assert!(home.server.users.available("bob").await.is_ok(), "nothing was made of it");

    // A used name does not use a token up.
    let token = home.server.users.make_registration_token().await.unwrap();
    assert_error(home.call(Method::POST, REGISTER, None, with(&token, "alice")).await, 400, "M_USER_IN_USE");
    assert_eq!(home.server.users.registration_tokens().await.unwrap().len(), 1);
}

#[tokio::test]
async fn one_token_two_at_once_one_account() {
    let home = Home::new(Settings { rate_limits: false, ..Settings::default() }).await;
    let token = home.server.users.make_registration_token().await.unwrap();
    let attempt = |name: &str| {
        let body = json!({ "username": name, "password": PASSWORD,
            "auth": { "type": "m.login.registration_token", "token": token } });
        home.call(Method::POST, REGISTER, None, body)
    };
    let (one, other) = tokio::join!(attempt("alice"), attempt("bob"));
    let mut codes = [one.0.as_u16(), other.0.as_u16()];
    codes.sort_unstable();
    assert_eq!(codes, [200, 401]);
}

#[tokio::test]
async fn open_and_closed() {
    let home = Home::new(open()).await;
    let alice = home.user("alice").await;
    let (_, me) = home.get("/_matrix/client/v3/account/whoami", &alice).await;
    assert_eq!(me, json!({ "user_id": alice.id, "device_id": alice.device }));
    let (status, _) =
        home.call(Method::GET, "/_matrix/client/v3/register/available?username=bob", None, Value::Null).await;
    assert_eq!(status, StatusCode::OK);
    assert_error(
        home.call(Method::GET, "/_matrix/client/v3/register/available?username=alice", None, Value::Null)
            .await,
        400,
        "M_USER_IN_USE",
    );
    let body = json!({ "username": "bob", "password": PASSWORD, "inhibit_login": true,
        "auth": { "type": "m.login.dummy" } });
    let (status, made) = home.call(Method::POST, REGISTER, None, body.clone()).await;
    assert_eq!((status, made.get("access_token")), (StatusCode::OK, None), "{made}");

    let closed = Home::new(Settings { registration: Registration::Closed, ..Settings::default() }).await;
    assert_error(closed.call(Method::POST, REGISTER, None, body).await, 403, "M_FORBIDDEN");
    let made = closed.server.users.create_by_operator("carol", PASSWORD).await.unwrap();
    let (status, _) = login(&closed, made.as_str(), PASSWORD).await;
    assert_eq!(status, StatusCode::OK);
}

#[tokio::test]
async fn log_in_by_every_form() {
    let home = Home::new(open()).await;
    let alice = home.user("alice").await;
    let (_, types) = home.call(Method::GET, LOGIN, None, Value::Null).await;
    let token = json!({ "type": "m.login.token", "get_login_token": true });
    assert_eq!(types["flows"], json!([{ "type": "m.login.password" }, token]));
    for name in ["alice", "Alice", &*alice.id] {
        let (status, answer) = login(&home, name, PASSWORD).await;
        assert_eq!(status, StatusCode::OK, "{name}: {answer}");
        assert_eq!(answer["user_id"], alice.id);
    }
    let old = json!({ "type": "m.login.password", "user": "alice", "password": PASSWORD });
    let (status, _) = home.call(Method::POST, LOGIN, None, old).await;
    assert_eq!(status, StatusCode::OK);
    for (name, password) in
        [("alice", "wrong"), ("nobody", PASSWORD), ("@alice:elsewhere.org", PASSWORD), ("", PASSWORD)]
    {
        assert_error(login(&home, name, password).await, 403, "M_FORBIDDEN");
    }

    // The same device again: its old token ends.
    let body = json!({ "type": "m.login.password", "password": PASSWORD, "device_id": alice.device,
        "identifier": { "type": "m.id.user", "user": "alice" } });
    let (_, again) = home.call(Method::POST, LOGIN, None, body).await;
    assert_eq!(again["device_id"], alice.device);
    assert_error(home.get("/_matrix/client/v3/account/whoami", &alice).await, 401, "M_UNKNOWN_TOKEN");
    let again = User::of(&again);
    let query = format!("/_matrix/client/v3/account/whoami?access_token={}", again.token);
    let (status, _) = home.call(Method::GET, &query, None, Value::Null).await;
    assert_eq!(status, StatusCode::OK, "old clients send the token in the query");
}

#[tokio::test]
async fn attempts_are_limited_by_user_and_page() {
    let home = Home::new(Settings { rate_limits: true, ..open() }).await;
    let mut last = StatusCode::OK;
    for _ in 0..11 {
        let (status, answer) = login(&home, "mallory", "guess").await;
        last = status;
        if status == StatusCode::TOO_MANY_REQUESTS {
            assert_eq!(answer["errcode"], "M_LIMIT_EXCEEDED");
            assert!(answer["retry_after_ms"].as_u64().is_some_and(|ms| ms > 0), "{answer}");
        }
    }
    assert_eq!(last, StatusCode::TOO_MANY_REQUESTS);
    let (status, _) = login(&home, "alice", "guess").await;
    assert_eq!(status, StatusCode::FORBIDDEN, "another user is not held up");
    let request = Request::post(LOGIN)
        .header(header::ORIGIN, "https://element.example")
        .body(Body::from(
            json!({ "type": "m.login.password", "password": "x",
                "identifier": { "type": "m.id.user", "user": "mallory" } })
            .to_string(),
        ))
        .unwrap();
    let (head, _) = home.send(request).await;
    assert_eq!(head.status, StatusCode::FORBIDDEN, "nor is the user in another page");
}

#[tokio::test]
async fn devices_come_and_go() {
    let home = Home::new(open()).await;
    let alice = home.user("alice").await;
    let (_, second) = login(&home, "alice", PASSWORD).await;
    let second = User::of(&second);
    let path = format!("/_matrix/client/v3/devices/{}", second.device);
    let (status, _) = home.put(&path, &alice, json!({ "display_name": "phone" })).await;
    assert_eq!(status, StatusCode::OK);
    let (_, shown) = home.get(&path, &alice).await;
    assert_eq!(shown["display_name"], "phone");
    let (_, list) = home.get("/_matrix/client/v3/devices", &alice).await;
    assert_eq!(list["devices"].as_array().unwrap().len(), 2);
    assert_error(home.get("/_matrix/client/v3/devices/NOSUCH", &alice).await, 404, "M_NOT_FOUND");

    let (status, ask) = home.call(Method::DELETE, &path, Some(&alice.token), Value::Null).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    assert_eq!(ask["flows"], json!([{ "stages": ["m.login.password"] }]));
    let auth = |user: &str, password: &str| {
        json!({ "auth": { "type": "m.login.password", "password": password, "session": ask["session"],
            "identifier": { "type": "m.id.user", "user": user } } })
    };
    let (status, wrong) = home.call(Method::DELETE, &path, Some(&alice.token), auth("alice", "wrong")).await;
    assert_eq!((status, &wrong["errcode"]), (StatusCode::UNAUTHORIZED, &json!("M_FORBIDDEN")));
    let (status, _) = home.call(Method::DELETE, &path, Some(&alice.token), auth("alice", PASSWORD)).await;
    assert_eq!(status, StatusCode::OK);
    assert_error(home.get("/_matrix/client/v3/account/whoami", &second).await, 401, "M_UNKNOWN_TOKEN");

    let (status, _) = home.post("/_matrix/client/v3/logout", &alice, json!({})).await;
    assert_eq!(status, StatusCode::OK);
    assert_error(home.get("/_matrix/client/v3/devices", &alice).await, 401, "M_UNKNOWN_TOKEN");
}

#[tokio::test]
async fn a_password_changes_and_an_account_ends() {
    let home = Home::new(open()).await;
    let alice = home.user("alice").await;
    let (_, second) = login(&home, "alice", PASSWORD).await;
    let second = User::of(&second);
    let auth = |password: &str| {
        json!({ "type": "m.login.password", "password": password,
            "identifier": { "type": "m.id.user", "user": alice.id } })
    };
    let body = json!({ "new_password": "another password", "auth": auth(PASSWORD) });
    let (status, answer) = home.post("/_matrix/client/v3/account/password", &alice, body).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    assert_error(home.get("/_matrix/client/v3/devices", &second).await, 401, "M_UNKNOWN_TOKEN");
    let (status, _) = home.get("/_matrix/client/v3/devices", &alice).await;
    assert_eq!(status, StatusCode::OK, "the device that changed it stays");
    assert_error(login(&home, "alice", PASSWORD).await, 403, "M_FORBIDDEN");

    let reset = home.server.users.reset_password("alice", "by the operator").await.unwrap();
    assert_eq!(reset.as_str(), alice.id);
    assert_error(home.get("/_matrix/client/v3/devices", &alice).await, 401, "M_UNKNOWN_TOKEN");
    let (_, third) = login(&home, "alice", "by the operator").await;
    let third = User::of(&third);

    let body = json!({ "auth": auth("by the operator") });
    let (status, answer) = home.post("/_matrix/client/v3/account/deactivate", &third, body).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    assert_error(login(&home, "alice", "by the operator").await, 403, "M_USER_DEACTIVATED");
    assert!(home.server.users.available("alice").await.is_err(), "the name stays taken");
}

#[tokio::test]
async fn profiles_and_account_data() {
    let home = Home::new(open()).await;
    let (alice, bob) = (home.user("alice").await, home.user("bob").await);
    let profile = format!("/_matrix/client/v3/profile/{}", alice.id);
    let (_, shown) = home.get(&profile, &bob).await;
    assert_eq!(shown, json!({ "displayname": "alice" }));
    assert_error(home.call(Method::GET, &profile, None, Value::Null).await, 401, "M_MISSING_TOKEN");
    let field = format!("{profile}/m.tz");
    let (status, answer) = home.put(&field, &alice, json!({ "m.tz": "Europe/Berlin" })).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let (_, shown) = home.get(&field, &bob).await;
    assert_eq!(shown, json!({ "m.tz": "Europe/Berlin" }));
    assert_error(home.put(&field, &bob, json!({ "m.tz": "UTC" })).await, 403, "M_FORBIDDEN");
    let avatar = format!("{profile}/avatar_url");
    assert_error(
        home.put(&avatar, &alice, json!({ "avatar_url": "m".repeat(1_001) })).await,
        413,
        "M_TOO_LARGE",
    );
    let (_, none) = home.get(&avatar, &bob).await;
    assert_eq!(none, json!({}));

    let data = format!("/_matrix/client/v3/user/{}/account_data/m.direct", alice.id);
    assert_error(home.get(&data, &alice).await, 404, "M_NOT_FOUND");
    let content = json!({ "@bob:x": ["!room:x"], "number": 1.5 });
    let (status, _) = home.put(&data, &alice, content.clone()).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(home.get(&data, &alice).await.1, content);
    assert_error(home.get(&data, &bob).await, 403, "M_FORBIDDEN");
    assert_error(home.put(&data, &alice, json!([1])).await, 400, "M_BAD_JSON");

    let tags = format!("/_matrix/client/v3/user/{}/rooms/!r:x/tags", alice.id);
    home.put(&format!("{tags}/m.favourite"), &alice, json!({ "order": 0.5 })).await;
    home.put(&format!("{tags}/u.work"), &alice, json!({})).await;
    home.call(Method::DELETE, &format!("{tags}/u.work"), Some(&alice.token), Value::Null).await;
    let (_, shown) = home.get(&tags, &alice).await;
    assert_eq!(shown, json!({ "tags": { "m.favourite": { "order": 0.5 } } }));

    let found =
        home.post("/_matrix/client/v3/user_directory/search", &alice, json!({ "search_term": "BO" })).await.1;
    assert_eq!(found["results"][0]["user_id"], bob.id);
    assert_eq!(found["results"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn small_things_clients_ask() {
    let home = Home::new(open()).await;
    let (_, versions) = home.call(Method::GET, "/_matrix/client/versions", None, Value::Null).await;
    assert!(versions["versions"].as_array().unwrap().contains(&json!("v1.11")));
    assert!(!versions.to_string().contains("mesh.alt"), "nobody is named without a token");
    let alice = home.user("alice").await;
    let (_, capabilities) = home.get("/_matrix/client/v3/capabilities", &alice).await;
    assert_eq!(capabilities["capabilities"]["m.room_versions"]["default"], "12");
    for (path, expected) in [
        ("/_matrix/client/v3/thirdparty/protocols", json!({})),
        ("/_matrix/client/v3/voip/turnServer", json!({})),
        ("/_matrix/client/v3/pushers", json!({ "pushers": [] })),
        ("/_matrix/client/v3/account/3pid", json!({ "threepids": [] })),
        ("/_matrix/media/v3/config", json!({ "m.upload.size": 50 << 20 })),
        ("/_matrix/client/v1/media/config", json!({ "m.upload.size": 50 << 20 })),
    ] {
        assert_eq!(home.get(path, &alice).await.1, expected, "{path}");
    }
    let pusher = json!({ "kind": "http", "app_id": "app", "pushkey": "key", "app_display_name": "App",
        "device_display_name": "phone", "lang": "en", "data": { "url": "https://push.example/_matrix/push/v1/notify" } });
    let (status, answer) = home.post("/_matrix/client/v3/pushers/set", &alice, pusher).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let (_, pushers) = home.get("/_matrix/client/v3/pushers", &alice).await;
    assert_eq!(pushers["pushers"][0]["pushkey"], "key");
    let gone = json!({ "kind": null, "app_id": "app", "pushkey": "key" });
    home.post("/_matrix/client/v3/pushers/set", &alice, gone).await;
    assert_eq!(home.get("/_matrix/client/v3/pushers", &alice).await.1["pushers"], json!([]));

    let path = format!("/_matrix/client/v3/user/{}/openid/request_token", alice.id);
    let (_, openid) = home.post(&path, &alice, json!({})).await;
    let token = openid["access_token"].as_str().unwrap();
    let known = home.server.users.by_openid_token(token).await.unwrap();
    assert_eq!(known.unwrap().as_str(), alice.id);
    home.server.clock.advance(3_600_001);
    assert!(home.server.users.by_openid_token(token).await.unwrap().is_none());

    let request = Request::get("/.well-known/matrix/client").header(header::HOST, "localhost:8008");
    let (_, body) = home.send(request.body(Body::empty()).unwrap()).await;
    let known: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(known["m.homeserver"]["base_url"], "http://localhost:8008");
}
