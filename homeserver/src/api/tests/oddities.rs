//! JSON that is none, or nearly none, at every endpoint that takes a body: an error of the specification's form, never a panic,
//! and nothing that is stored and cannot be read again.

use super::*;
use crate::api::routes::{Group, Table};

/// Values that some parsers take and others do not.
fn oddities() -> Vec<(&'static str, String)> {
    let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    let objects = |depth: usize| format!("{}1{}", r#"{"a":"#.repeat(depth), "}".repeat(depth));
    vec![
        ("not a number", "NaN".into()),
        ("infinity", "Infinity".into()),
        ("a huge integer", "123456789012345678901234567890".into()),
        ("a float too large", "1e400".into()),
        ("minus zero", "-0".into()),
        ("beyond what floats tell apart", "9007199254740993".into()),
        ("a lone surrogate", r#""\ud800""#.into()),
        ("surrogates the wrong way round", r#""\udc00\ud800""#.into()),
        ("a zero byte", r#""\u0000""#.into()),
        ("a control character", "\"\u{1}\"".into()),
        ("a comment", "/* x */ 1".into()),
        ("a comma too many", "[1,]".into()),
        ("single quotes", "'x'".into()),
        ("duplicate keys", r#"{"a":1,"a":{"b":2},"type":"x","type":"y"}"#.into()),
        ("nested 100 deep", nested(100)),
        ("nested 2 000 deep", nested(2_000)),
        ("objects nested 2 000 deep", objects(2_000)),
        ("nested 100 000 deep", nested(100_000)),
        ("a list", "[]".into()),
        ("null", "null".into()),
        ("a long key", format!("{{\"{}\":1}}", "k".repeat(10_000))),
    ]
}

/// Names of fields that endpoints read.
const FIELDS: [&str; 40] = [
    "type",
    "content",
    "auth",
    "session",
    "user_id",
    "identifier",
    "password",
    "username",
    "device_id",
    "messages",
    "device_keys",
    "one_time_keys",
    "fallback_keys",
    "master_key",
    "rooms",
    "events",
    "filter",
    "room",
    "presence",
    "search_categories",
    "search_term",
    "invite",
    "initial_state",
    "creation_content",
    "power_level_content_override",
    "preset",
    "reason",
    "displayname",
    "avatar_url",
    "data",
    "kind",
    "app_id",
    "pushkey",
    "pattern",
    "conditions",
    "actions",
    "device_data",
    "first",
    "extensions",
    "lists",
];

fn filled(path: &str, user: &User, room: &str) -> String {
    let parts = path.split('/').map(|part| match part {
        "{user_id}" => user.id.clone(),
        "{room_id}" | "{room_id_or_alias}" => room.to_owned(),
        "{room_alias}" => "%23alias:mesh.alt".to_owned(),
        "{event_id}" => format!("$%41{}", "A".repeat(42)),
        "{server_name}" => "mesh.alt".to_owned(),
        "{event_type}" => "m.room.message".to_owned(),
        "{txn_id}" => "t1".to_owned(),
        "{device_id}" => user.device.clone(),
        part if part.starts_with('{') => "x".to_owned(),
        part => part.to_owned(),
    });
    format!("{}?timeout=0&dir=f", parts.collect::<Vec<_>>().join("/"))
}

#[tokio::test]
async fn every_endpoint_that_takes_a_body_bears_what_is_nearly_json() {
    let home = Home::new(open()).await;
    let alice = home.user("alice").await;
    let (_, made) = home.post("/_matrix/client/v3/createRoom", &alice, json!({})).await;
    let room = made["room_id"].as_str().unwrap();
    let mut wrong = Vec::new();
    let endpoints: Vec<_> = Table::whole()
        .endpoints()
        .into_iter()
        .filter(|(group, method, path)| {
            let takes_a_body = matches!(*method, Method::POST | Method::PUT | Method::DELETE);
            let ends_the_test = ["logout", "deactivate", "/leave", "/forget", "upload", "/upgrade"];
            let client = matches!(group, Group::Client | Group::Admin | Group::Pages);
            client
                && takes_a_body
                && !ends_the_test.iter().any(|end| path.contains(end))
                && !(*method == Method::DELETE && path.contains("devices"))
        })
        .collect();
    assert!(endpoints.len() > 100, "{}", endpoints.len());
    for (what, odd) in oddities() {
        let everywhere: Vec<String> = FIELDS.iter().map(|field| format!("\"{field}\":{odd}")).collect();
        for body in [
            odd.clone(),
            format!("{{{}}}", everywhere.join(",")),
            format!("{{\"msgtype\":\"m.text\",\"body\":\"b\",\"x\":{odd}}}"),
        ] {
            if body.len() > 1 << 20 {
                continue;
            }
            for (_, method, path) in &endpoints {
                let request = Request::builder()
                    .method(method.clone())
                    .uri(filled(path, &alice, room))
                    .header(header::AUTHORIZATION, format!("Bearer {}", alice.token))
                    .body(Body::from(body.clone()))
                    .unwrap();
                let (head, answer) = home.send(request).await;
                let text = String::from_utf8_lossy(&answer).into_owned();
                let page = head
                    .headers
                    .get(header::CONTENT_TYPE)
                    .is_some_and(|kind| kind.to_str().is_ok_and(|kind| kind.starts_with("text/")));
                let known = page
                    || answer.is_empty()
                    || serde_json::from_slice::<Value>(&answer).is_ok_and(|answer| {
                        head.status.is_success()
                            || answer["errcode"].is_string()
                            || answer["error"].is_string()
                            || answer["flows"].is_array()
                    });
                if head.status.is_server_error() && head.status != StatusCode::BAD_GATEWAY || !known {
                    wrong.push(format!(
                        "{method} {path}, {what}: {} {}",
                        head.status,
                        &text[..text.len().min(150)]
                    ));
                }
            }
        }
    }
    wrong.sort();
    wrong.dedup();
    assert!(wrong.is_empty(), "{} {wrong:#?}", wrong.len());
    // What was taken can be read again, by every way.
    for path in [
        "/_matrix/client/v3/sync?timeout=0".to_owned(),
        format!("/_matrix/client/v3/rooms/{room}/messages?dir=b&limit=1000"),
        format!("/_matrix/client/v3/rooms/{room}/state"),
        format!("/_matrix/client/v3/profile/{}", alice.id),
        "/_matrix/client/v3/pushrules/".to_owned(),
        "/_matrix/client/v3/pushers".to_owned(),
        "/_matrix/client/v3/devices".to_owned(),
        "/_matrix/client/v3/room_keys/version".to_owned(),
    ] {
        let (status, answer) = home.get(&path, &alice).await;
        assert!(status == StatusCode::OK || status == StatusCode::NOT_FOUND, "{path}: {answer}");
    }
    let sliding = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync?timeout=0";
    let body = json!({ "lists": { "all": { "ranges": [[0, 99]], "timeline_limit": 100, "required_state": [["*", "*"]] } },
        "extensions": { "account_data": { "enabled": true }, "to_device": { "enabled": true } } });
    assert_eq!(home.post(sliding, &alice, body).await.0, StatusCode::OK);
}

/// Events whose content only some parsers can read: refused, or told as they were.
#[tokio::test]
async fn what_is_kept_is_told_again_as_it_was() {
    let home = Home::new(open()).await;
    let alice = home.user("alice").await;
    let (_, made) = home.post("/_matrix/client/v3/createRoom", &alice, json!({})).await;
    let room = format!("/_matrix/client/v3/rooms/{}", made["room_id"].as_str().unwrap());
    let mut kept = 0;
    for (n, (what, odd)) in oddities().into_iter().enumerate() {
        let body = format!("{{\"msgtype\":\"m.text\",\"body\":\"b\",\"odd\":{odd}}}");
        let send = async |path: String| {
            let request = Request::put(path)
                .header(header::AUTHORIZATION, format!("Bearer {}", alice.token))
                .body(Body::from(body.clone()))
                .unwrap();
            let (head, answer) = home.send(request).await;
            (head.status, serde_json::from_slice::<Value>(&answer).unwrap())
        };
        let (status, sent) = send(format!("{room}/send/m.room.message/{n}")).await;
        if status == StatusCode::OK {
            kept += 1;
            let event = sent["event_id"].as_str().unwrap().replace('$', "%24");
            let (status, told) = home.get(&format!("{room}/event/{event}"), &alice).await;
            assert_eq!(status, StatusCode::OK, "{what}: {told}");
            let (status, _) = home.get(&format!("{room}/context/{event}"), &alice).await;
            assert_eq!(status, StatusCode::OK, "{what}");
            let (status, gone) = home.put(&format!("{room}/redact/{event}/r{n}"), &alice, json!({})).await;
            assert_eq!(status, StatusCode::OK, "{what}: {gone}");
        } else {
            assert!(
                matches!(sent["errcode"].as_str(), Some("M_BAD_JSON" | "M_NOT_JSON" | "M_TOO_LARGE")),
                "{what}: {sent}"
            );
        }
        let (status, _) = send(format!("{room}/state/org.test.odd/{n}")).await;
        assert!(!status.is_server_error(), "{what}");
        let data = format!("/_matrix/client/v3/user/{}/account_data/org.test.odd{n}", alice.id);
        let (status, _) = send(data.clone()).await;
        if status == StatusCode::OK {
            let (status, told) = home.get(&data, &alice).await;
            assert_eq!((status, &told["msgtype"]), (StatusCode::OK, &json!("m.text")), "{what}");
        }
    }
    assert!(kept >= 3, "{kept}");
    let (status, _) = home.get("/_matrix/client/v3/sync?timeout=0", &alice).await;
    assert_eq!(status, StatusCode::OK);
}
