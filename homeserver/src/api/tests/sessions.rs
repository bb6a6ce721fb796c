//! Log-ins that go on: refresh tokens, soft logout, log-in tokens, imported passwords.

use super::*;

const LOGIN: &str = "/_matrix/client/v3/login";
const REFRESH: &str = "/_matrix/client/v3/refresh";
const WHOAMI: &str = "/_matrix/client/v3/account/whoami";

async fn login(home: &Home, password: &str, refresh: bool) -> (StatusCode, Value) {
    let body = json!({ "type": "m.login.password", "password": password, "refresh_token": refresh,
        "identifier": { "type": "m.id.user", "user": "alice" } });
    home.call(Method::POST, LOGIN, None, body).await
}

async fn whoami(home: &Home, token: &str) -> (StatusCode, Value) {
    home.call(Method::GET, WHOAMI, Some(token), Value::Null).await
}

async fn refresh(home: &Home, token: &Value) -> (StatusCode, Value) {
    home.call(Method::POST, REFRESH, None, json!({ "refresh_token": token })).await
}

#[tokio::test]
async fn access_tokens_end_and_are_refreshed() {
    let home = Home::new(open()).await;
    home.user("alice").await;
    let (_, first) = login(&home, PASSWORD, true).await;
    assert_eq!(first["expires_in_ms"], 300_000, "{first}");
    let access = first["access_token"].as_str().unwrap();
    assert_eq!(whoami(&home, access).await.0, StatusCode::OK);
    home.server.clock.advance(300_001);
    let (status, answer) = whoami(&home, access).await;
    assert_eq!((status, &answer["errcode"]), (StatusCode::UNAUTHORIZED, &json!("M_UNKNOWN_TOKEN")));
    assert_eq!(answer["soft_logout"], true, "{answer}");

    // An answer that was lost: the same refresh token works again, and what was lost ends.
    let (status, lost) = refresh(&home, &first["refresh_token"]).await;
    assert_eq!(status, StatusCode::OK, "{lost}");
    let (_, second) = refresh(&home, &first["refresh_token"]).await;
    assert_error(whoami(&home, lost["access_token"].as_str().unwrap()).await, 401, "M_UNKNOWN_TOKEN");
    assert_error(refresh(&home, &lost["refresh_token"]).await, 401, "M_UNKNOWN_TOKEN");

    // The first use of the new token ends the old refresh token.
    let (status, who) = whoami(&home, second["access_token"].as_str().unwrap()).await;
    assert_eq!((status, &who["device_id"]), (StatusCode::OK, &first["device_id"]));
    assert_error(refresh(&home, &first["refresh_token"]).await, 401, "M_UNKNOWN_TOKEN");

    // So does the use of the new refresh token, without a use of the access token between.
    let (_, third) = refresh(&home, &second["refresh_token"]).await;
    let (status, fourth) = refresh(&home, &third["refresh_token"]).await;
    assert_eq!(status, StatusCode::OK, "{fourth}");
    assert_error(refresh(&home, &second["refresh_token"]).await, 401, "M_UNKNOWN_TOKEN");

    let token = fourth["access_token"].as_str().unwrap();
    home.call(Method::POST, "/_matrix/client/v3/logout", Some(token), json!({})).await;
    assert_error(refresh(&home, &fourth["refresh_token"]).await, 401, "M_UNKNOWN_TOKEN");
    assert_error(refresh(&home, &json!("")).await, 401, "M_UNKNOWN_TOKEN");
}

#[tokio::test]
async fn a_token_without_refresh_does_not_end() {
    let home = Home::new(open()).await;
    let alice = home.user("alice").await;
    home.server.clock.advance(365 * 86_400_000);
    assert_eq!(home.get(WHOAMI, &alice).await.0, StatusCode::OK);
}

#[tokio::test]
async fn one_device_lets_another_in() {
    let home = Home::new(open()).await;
    let alice = home.user("alice").await;
    let path = "/_matrix/client/v1/login/get_token";
    let (status, ask) = home.post(path, &alice, json!({})).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED, "{ask}");
    let auth = json!({ "auth": { "type": "m.login.password", "password": PASSWORD,
        "session": ask["session"], "identifier": { "type": "m.id.user", "user": "alice" } } });
    let (_, given) = home.post(path, &alice, auth.clone()).await;
    assert_eq!(given["expires_in_ms"], 120_000, "{given}");
    let body = json!({ "type": "m.login.token", "token": given["login_token"] });
    let (status, made) = home.call(Method::POST, LOGIN, None, body.clone()).await;
    assert_eq!(status, StatusCode::OK, "{made}");
    assert_eq!(made["user_id"], alice.id);
    assert_error(home.call(Method::POST, LOGIN, None, body).await, 403, "M_FORBIDDEN");
    let (_, late) = home.post(path, &alice, auth).await;
    home.server.clock.advance(120_001);
    let body = json!({ "type": "m.login.token", "token": late["login_token"] });
    assert_error(home.call(Method::POST, LOGIN, None, body).await, 403, "M_FORBIDDEN");
}

#[tokio::test]
async fn a_password_from_synapse_is_taken_over() {
    let home = Home::new(open()).await;
    let alice = home.user("alice").await;
    let user = ruma::UserId::parse(&*alice.id).unwrap();
    let hash = bcrypt::hash("old one", 4).unwrap();
    home.server.users.import_password(&user, &hash).await.unwrap();
    assert_error(login(&home, PASSWORD, false).await, 403, "M_FORBIDDEN");
    for _ in 0..2 {
        // The second time against our own hash.
        assert_eq!(login(&home, "old one", false).await.0, StatusCode::OK);
    }
    assert!(home.server.users.import_password(&user, "$2b$31$rubbish").await.is_err());
}

#[tokio::test]
async fn names_are_taken_in_lower_case() {
    let home = Home::new(open()).await;
    let body = json!({ "username": "AlIcE", "password": PASSWORD, "auth": { "type": "m.login.dummy" } });
    let (status, made) = home.call(Method::POST, "/_matrix/client/v3/register", None, body.clone()).await;
    assert_eq!((status, made["user_id"].as_str().unwrap().starts_with("@alice:")), (StatusCode::OK, true));
    assert_error(
        home.call(Method::POST, "/_matrix/client/v3/register", None, body).await,
        400,
        "M_USER_IN_USE",
    );
}
