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
