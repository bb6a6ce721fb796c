//! Other settings while the server runs: what holds at once, what waits, and that a mistake changes nothing.

use super::*;
use crate::{
    appservice::registration::Registration as Service,
    http::limits::Class,
    user::{AccountSettings, General, Terms},
};

fn service(id: &str, token: &str) -> Arc<Service> {
    let text = format!(
        "id: {id}\nurl: null\nas_token: {token}\nhs_token: h{token}\nsender_localpart: {id}bot\n\
         namespaces:\n  users: [{{regex: '@_{id}_.*', exclusive: true}}]\n"
    );
    Arc::new(Service::parse(&text).unwrap())
}

async fn whoami(home: &Home, token: &str) -> (StatusCode, Value) {
    home.call(Method::GET, "/_matrix/client/v3/account/whoami", Some(token), Value::Null).await
}

#[tokio::test]
async fn what_can_be_applied_holds_at_once() {
    let home = Home::new(open()).await;
    home.user("alice").await;
    assert_eq!(whoami(&home, "one").await.0, StatusCode::UNAUTHORIZED);
    let general = General { password_chars_min: Some(30), ..General::default() };
    let terms =
        Terms { version: "2".into(), name: "Rules".into(), url: "https://x.org/r".into(), enforce: false };
    let fresh = Settings {
        rate_limits: true,
        appservices: vec![service("one", "one")],
        accounts: AccountSettings { general, terms: Some(terms), ..AccountSettings::default() },
        // Areas were built with these.
        presence: true,
        upload_bytes_max: 1,
        ..open()
    };
    home.server.reload(fresh).await.unwrap();
    assert_eq!(whoami(&home, "one").await.1["user_id"], "@onebot:".to_owned() + home.server.name.as_str());
    let register = json!({"username": "bob", "password": PASSWORD});
    let (_, flows) = home.call(Method::POST, "/_matrix/client/v3/register", None, register).await;
    assert!(flows.to_string().contains("m.login.terms"), "{flows}");
    assert!((0..1_000).any(|_| home.server.limits.take(Class::Write, "x").is_err()), "rates are limited now");
    assert!(!home.server.settings().presence && home.server.settings().upload_bytes_max > 1);

    // Registration closes, the service is another, and the terms are gone.
    let fresh = Settings {
        registration: Registration::Closed,
        appservices: vec![service("two", "two")],
        ..Settings::default()
    };
    home.server.reload(fresh).await.unwrap();
    assert_eq!(whoami(&home, "one").await.0, StatusCode::UNAUTHORIZED);
    assert_eq!(whoami(&home, "two").await.0, StatusCode::OK);
    let register = json!({"username": "carol", "password": PASSWORD, "auth": {"type": "m.login.dummy"}});
    let answer = home.call(Method::POST, "/_matrix/client/v3/register", None, register).await;
    assert_error(answer, 403, "M_FORBIDDEN");
}

#[tokio::test]
async fn a_mistake_changes_nothing() {
    let home = Home::new(Settings { appservices: vec![service("one", "one")], ..open() }).await;
    let twice = vec![service("two", "same"), service("three", "same")];
    let fresh = Settings { registration: Registration::Closed, appservices: twice, ..Settings::default() };
    let error = home.server.reload(fresh).await.unwrap_err().to_string();
    assert!(error.contains("as_token"), "{error}");
    home.user("alice").await;
    assert_eq!(whoami(&home, "same").await.0, StatusCode::UNAUTHORIZED);
    // It may still be on its way to having its own user.
    assert_ne!(whoami(&home, "one").await.1["errcode"], "M_UNKNOWN_TOKEN");
}
