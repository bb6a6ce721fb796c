//! User-interactive authentication with several stages, and the pages for clients that cannot show one.

use super::*;
use crate::user::{AccountSettings, Terms};

const REGISTER: &str = "/_matrix/client/v3/register";

fn with_terms(registration: Registration) -> Settings {
    let terms = Terms {
        version: "2".into(),
        name: "House rules".into(),
        url: "https://x.org/rules".into(),
        enforce: false,
    };
    let accounts = AccountSettings { terms: Some(terms), ..AccountSettings::default() };
    Settings { registration, accounts, ..open() }
}

#[tokio::test]
async fn all_stages_of_one_flow_are_asked_for() {
    let home = Home::new(with_terms(Registration::Token)).await;
    let token = home.server.users.make_registration_token().await.unwrap();
    let body = |auth: Value| json!({ "username": "alice", "password": PASSWORD, "auth": auth });
    let (status, ask) = home.call(Method::POST, REGISTER, None, json!({ "username": "alice" })).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    assert_eq!(ask["flows"], json!([{ "stages": ["m.login.registration_token", "m.login.terms"] }]));
    assert_eq!(ask["params"]["m.login.terms"]["policies"]["terms"]["en"]["url"], "https://x.org/rules");
    let session = &ask["session"];

    let (status, half) = home
        .call(Method::POST, REGISTER, None, body(json!({ "type": "m.login.terms", "session": session })))
        .await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    assert_eq!((&half["completed"], &half["session"]), (&json!(["m.login.terms"]), session), "{half}");
    // What is not asked for proves nothing.
    let dummy = body(json!({ "type": "m.login.dummy", "session": session }));
    let (status, none) = home.call(Method::POST, REGISTER, None, dummy).await;
    assert_eq!((status, &none["completed"]), (StatusCode::UNAUTHORIZED, &json!(["m.login.terms"])));
    // Nor does another's session.
    let other = body(json!({ "type": "m.login.registration_token", "token": token, "session": "other" }));
    let (status, other) = home.call(Method::POST, REGISTER, None, other).await;
    assert_eq!(
        (status, &other["completed"]),
        (StatusCode::UNAUTHORIZED, &json!(["m.login.registration_token"]))
    );

    let whole = body(json!({ "type": "m.login.registration_token", "token": token, "session": session }));
    let (status, made) = home.call(Method::POST, REGISTER, None, whole).await;
    assert_eq!(status, StatusCode::OK, "{made}");
}

#[tokio::test]
async fn sessions_are_forgotten() {
    let home = Home::new(with_terms(Registration::Token)).await;
    let (_, ask) = home.call(Method::POST, REGISTER, None, json!({})).await;
    let body = json!({ "auth": { "type": "m.login.terms", "session": ask["session"] } });
    let (_, half) = home.call(Method::POST, REGISTER, None, body).await;
    assert_eq!(half["completed"], json!(["m.login.terms"]));
    home.server.clock.advance(31 * 60_000);
    let (_, late) =
        home.call(Method::POST, REGISTER, None, json!({ "auth": { "session": ask["session"] } })).await;
    assert_eq!(late.get("completed"), None, "{late}");
}

#[tokio::test]
async fn a_page_proves_a_stage() {
    let home = Home::new(with_terms(Registration::Open)).await;
    let (_, ask) = home.call(Method::POST, REGISTER, None, json!({})).await;
    assert_eq!(ask["flows"], json!([{ "stages": ["m.login.terms"] }]));
    let session = ask["session"].as_str().unwrap();
    let page = format!("/_matrix/client/v3/auth/m.login.terms/fallback/web?session={session}");
    let (head, html) = home.send(Request::get(&page).body(Body::empty()).unwrap()).await;
    let html = String::from_utf8_lossy(&html).into_owned();
    assert_eq!(head.status, StatusCode::OK, "{html}");
    assert!(html.contains("House rules") && html.contains(session), "{html}");
    let policy = head.headers["content-security-policy"].to_str().unwrap();
    assert!(
        policy.starts_with("default-src 'none'") && policy.contains("frame-ancestors 'none'"),
        "{policy}"
    );
    assert!(!head.headers.contains_key("access-control-allow-origin"));
    // Whatever stands in the query comes back as text.
    let evil = "/_matrix/client/v3/auth/m.login.terms/fallback/web?session=%22%3E%3Cscript%3E";
    let (_, html) = home.send(Request::get(evil).body(Body::empty()).unwrap()).await;
    assert!(!String::from_utf8_lossy(&html).contains("<script"));

    let form = Body::from(format!("session={session}"));
    let (head, _) = home.send(Request::post(&page).body(form).unwrap()).await;
    assert_eq!(head.status, StatusCode::OK);
    let body = json!({ "username": "alice", "password": PASSWORD, "auth": { "session": session } });
    let (status, made) = home.call(Method::POST, REGISTER, None, body).await;
    assert_eq!(status, StatusCode::OK, "{made}");
    let (head, _) = home.send(Request::post(&page).body(Body::from("session=chosen")).unwrap()).await;
    assert_eq!(head.status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn another_users_password_proves_nothing() {
    let home = Home::new(open()).await;
    let (alice, bob) = (home.user("alice").await, home.user("bob").await);
    let path = format!("/_matrix/client/v3/devices/{}", alice.device);
    let auth = json!({ "auth": { "type": "m.login.password", "password": PASSWORD,
        "identifier": { "type": "m.id.user", "user": bob.id } } });
    let refused = home.call(Method::DELETE, &path, Some(&alice.token), auth).await;
    assert_error(refused, 403, "M_FORBIDDEN");
    assert_eq!(home.get(&path, &alice).await.0, StatusCode::OK);
}
