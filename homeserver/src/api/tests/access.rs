//! Who reaches which endpoint: every one of the client side is asked with no token, with a wrong one, and in another
//! user's name.

use super::*;
use crate::api::routes::{Group, Table};

/// Endpoints that answer without a token: logging in, discovery, and what a link in a mail or a browser opens.
const OPEN: &[&str] = &[
    "/versions",
    "/login",
    "/register",
    "/refresh",
    "requestToken",
    "/oauth2/",
    "/auth_metadata",
    "/auth_issuer",
    "/auth/",
    "/fallback/",
    "/terms",
    "/rendezvous",
    "/sso/",
    "/validate",
    "/submit",
    "/submit_token",
    "/account/password",
    "/account/deactivate",
    "/register/available",
    "/_synapse/admin/v1/register",
    "/.well-known/",
    "/health",
    "/metrics",
    "/_mangrove/",
    "/thirdparty/",
];

fn filled(path: &str, user: &str) -> String {
    let parts = path.split('/').map(|part| match part {
        "{user_id}" => user.to_owned(),
        "{room_id}" => "!room:mesh.alt".to_owned(),
        "{room_id_or_alias}" | "{room_alias}" => "%23alias:mesh.alt".to_owned(),
        "{event_id}" => format!("$%41{}", "A".repeat(42)),
        "{server_name}" => "mesh.alt".to_owned(),
        part if part.starts_with('{') => "x".to_owned(),
        part => part.to_owned(),
    });
    let path = parts.collect::<Vec<_>>().join("/");
    format!("{path}?dir=f&ts=1&url=http://x&timeout=0")
}

/// The client side's endpoints that want a token.
fn closed() -> Vec<(Method, &'static str)> {
    let endpoints = Table::whole().endpoints();
    let closed = endpoints.into_iter().filter(|(group, _, path)| {
        // Old media paths are open by their nature; the test of media looks at them.
        let media =
            path.starts_with("/_matrix/media/") && !path.contains("upload") && !path.contains("create");
        *group == Group::Client && !media && !OPEN.iter().any(|open| path.contains(open))
    });
    closed.map(|(_, method, path)| (method, path)).collect()
}

async fn status_of(home: &Home, method: Method, path: &str, token: Option<&str>) -> (StatusCode, String) {
    let mut request = Request::builder().method(method.clone()).uri(path);
    if let Some(token) = token {
        request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
    }
    let body = if method == Method::GET { Body::empty() } else { Body::from("{}") };
    let (head, body) = home.send(request.body(body).unwrap()).await;
    let answer: Value = serde_json::from_slice(&body).unwrap_or_default();
    (head.status, answer["errcode"].as_str().unwrap_or_default().to_owned())
}

#[tokio::test]
async fn nothing_is_told_or_done_without_a_token() {
    let home = Home::new(open()).await;
    let closed = closed();
    assert!(closed.len() > 150, "the table has lost endpoints: {}", closed.len());
    let mut wrong = Vec::new();
    for (method, path) in closed {
        let uri = filled(path, "@alice:mesh.alt");
        for (token, errcode) in [(None, "M_MISSING_TOKEN"), (Some("nonsense"), "M_UNKNOWN_TOKEN")] {
            let (status, said) = status_of(&home, method.clone(), &uri, token).await;
            if status != StatusCode::UNAUTHORIZED || said != errcode {
                wrong.push(format!("{method} {path} with {token:?}: {status} {said}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[tokio::test]
async fn nobody_acts_in_anothers_name() {
    let home = Home::new(open()).await;
    let (alice, bob) = (home.user("alice").await, home.user("bob").await);
    let mut wrong = Vec::new();
    for (method, path) in closed() {
        let own = path.contains("/user/{user_id}/")
            || path.contains("/profile/{user_id}") && method != Method::GET
            || path.contains("/presence/{user_id}") && method == Method::PUT;
        if !own || path.contains("/report") {
            continue;
        }
        let uri = filled(path, &alice.id);
        let (status, said) = status_of(&home, method.clone(), &uri, Some(&bob.token)).await;
        // A body or parameter that does not fit may be found first; it must never be taken.
        if status.is_success() || status == StatusCode::NOT_FOUND {
            wrong.push(format!("{method} {path}: {status} {said}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
