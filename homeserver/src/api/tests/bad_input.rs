//! What strangers and broken clients send: each gets the specification's errcode, and nothing panics.

use proptest::prelude::*;

use super::*;
use crate::http::listen::overlay_service;

#[tokio::test]
async fn every_fault_has_its_errcode() {
    let home = Home::new(open()).await;
    let alice = home.user("alice").await;
    let token = Some(&*alice.token);
    // Method, path, token, body; status and errcode.
    #[allow(clippy::type_complexity, reason = "a table")]
    let rows: Vec<(Method, &str, Option<&str>, &str, u16, &str)> = vec![
        (Method::GET, "/_matrix/client/v3/account/whoami", None, "", 401, "M_MISSING_TOKEN"),
        (Method::GET, "/_matrix/client/v3/account/whoami", Some("nonsense"), "", 401, "M_UNKNOWN_TOKEN"),
        (Method::GET, "/_matrix/client/v3/nosuch", None, "", 404, "M_UNRECOGNIZED"),
        (Method::GET, "/", None, "", 404, "M_UNRECOGNIZED"),
        (Method::PATCH, "/_matrix/client/v3/login", None, "", 405, "M_UNRECOGNIZED"),
        (Method::POST, "/_matrix/client/v3/login", None, "{", 400, "M_NOT_JSON"),
        (Method::POST, "/_matrix/client/v3/login", None, "\u{7f}", 400, "M_NOT_JSON"),
        (Method::POST, "/_matrix/client/v3/login", None, "{}", 400, "M_BAD_JSON"),
        (Method::POST, "/_matrix/client/v3/login", None, "[]", 400, "M_BAD_JSON"),
        (Method::POST, "/_matrix/client/v3/login", None, r#"{"type":7}"#, 400, "M_BAD_JSON"),
        (
            Method::POST,
            "/_matrix/client/v3/login",
            None,
            r#"{"type":"m.login.token","token":"x"}"#,
            403,
            "M_FORBIDDEN",
        ),
        (
            Method::POST,
            "/_matrix/client/v3/login",
            None,
            r#"{"type":"m.login.password","password":"x"}"#,
            400,
            "M_INVALID_PARAM",
        ),
        (Method::POST, "/_matrix/client/v3/register", None, r#"{"username":7}"#, 400, "M_BAD_JSON"),
        (Method::POST, "/_matrix/client/v3/register?kind=guest", None, "{}", 403, "M_GUEST_ACCESS_FORBIDDEN"),
        (
            Method::POST,
            "/_matrix/client/v3/register",
            None,
            r#"{"username":"al ice","password":"12345678","auth":{"type":"m.login.dummy"}}"#,
            400,
            "M_INVALID_USERNAME",
        ),
        (
            Method::POST,
            "/_matrix/client/v3/register",
            None,
            r#"{"username":"bob","password":"short","auth":{"type":"m.login.dummy"}}"#,
            400,
            "M_WEAK_PASSWORD",
        ),
        (
            Method::POST,
            "/_matrix/client/v3/register",
            None,
            r#"{"username":"bob","auth":{"type":"m.login.dummy"}}"#,
            400,
            "M_MISSING_PARAM",
        ),
        (
            Method::POST,
            "/_matrix/client/v3/register",
            None,
            r#"{"username":"alice","password":"12345678","auth":{"type":"m.login.dummy"}}"#,
            400,
            "M_USER_IN_USE",
        ),
        (Method::GET, "/_matrix/client/v3/profile/notauser", token, "", 400, "M_INVALID_PARAM"),
        (Method::GET, "/_matrix/client/v3/register/available", None, "", 400, "M_MISSING_PARAM"),
        (Method::GET, "/_matrix/client/v1/media/download/x/%ff", token, "", 400, "M_INVALID_PARAM"),
        (
            Method::GET,
            "/_matrix/client/v1/media/download/x.org/nosuch?timeout_ms=abc",
            token,
            "",
            400,
            "M_INVALID_PARAM",
        ),
        (Method::PUT, "/_matrix/client/v3/user/@other:x.org/account_data/a", token, "{}", 403, "M_FORBIDDEN"),
        (Method::POST, "/_matrix/client/v3/createRoom", token, r#"{"invite":"x"}"#, 400, "M_BAD_JSON"),
    ];
    for (method, path, token, body, status, errcode) in rows {
        let mut request = Request::builder().method(method.clone()).uri(path);
        if let Some(token) = token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let (head, answer) = home.send(request.body(Body::from(body)).unwrap()).await;
        let answer: Value = serde_json::from_slice(&answer).unwrap_or_else(|_| panic!("{path}: {answer:?}"));
        assert_eq!(
            (head.status.as_u16(), answer["errcode"].as_str()),
            (status, Some(errcode)),
            "{method} {path} {body}: {answer}"
        );
        assert_eq!(head.headers["access-control-allow-origin"], "*");
        assert_eq!(head.headers["content-type"], "application/json");
    }
}

#[tokio::test]
async fn bodies_over_the_limit() {
    let home = Home::new(open()).await;
    // Said beforehand, and not said.
    for said in [true, false] {
        let body = vec![b' '; (1 << 20) + 1];
        let mut request = Request::post("/_matrix/client/v3/login");
        if said {
            request = request.header(header::CONTENT_LENGTH, body.len());
        }
        let stream = futures_util::stream::iter(
            body.chunks(1 << 16).map(|chunk| Ok::<_, std::io::Error>(chunk.to_vec())).collect::<Vec<_>>(),
        );
        let (head, answer) = home.send(request.body(Body::from_stream(stream)).unwrap()).await;
        let answer: Value = serde_json::from_slice(&answer).unwrap();
        assert_error((head.status, answer), 413, "M_TOO_LARGE");
    }
}

#[tokio::test]
async fn only_local_names_are_answered() {
    let home = Home::new(open()).await;
    for (host, status) in [
        ("localhost", 200),
        ("localhost:8008", 200),
        ("127.0.0.1:8008", 200),
        ("[::1]:8008", 200),
        ("evil.example.org", 421),
        ("192.168.0.7", 421),
        ("a b", 421),
    ] {
        for method in [Method::GET, Method::OPTIONS] {
            let request = Request::builder()
                .method(method)
                .uri("/_matrix/client/versions")
                .header(header::HOST, host)
                .body(Body::empty())
                .unwrap();
            let (head, body) = home.send(request).await;
            assert_eq!(head.status.as_u16(), status, "{host}");
            assert!(!String::from_utf8_lossy(&body).contains("mesh.alt"));
        }
    }
}

#[tokio::test]
async fn pages_may_ask_first() {
    let home = Home::new(open()).await;
    for path in ["/_matrix/client/v3/sync", "/_matrix/client/v3/nosuch", "/"] {
        let request = Request::builder().method(Method::OPTIONS).uri(path).body(Body::empty()).unwrap();
        let (head, _) = home.send(request).await;
        assert_eq!(head.status, StatusCode::OK, "{path}");
        assert!(head.headers["access-control-allow-headers"].to_str().unwrap().contains("Authorization"));
        assert!(head.headers["access-control-allow-methods"].to_str().unwrap().contains("PUT"));
    }
}

/// An overlay stranger reaches federation, keys and `/_x`, never the clients' side; and the other way round.
#[tokio::test]
async fn each_listener_has_its_groups() {
    let home = Home::new(open()).await;
    let overlay = overlay_service(Arc::clone(&home.server));
    for path in ["/_matrix/client/v3/login", "/_matrix/client/v3/register", "/_matrix/client/versions"] {
        let request = Request::post(path).body(Body::from("{}")).unwrap();
        let reply = overlay.clone().oneshot(request).await.unwrap();
        assert_eq!(reply.status(), StatusCode::NOT_FOUND, "{path}");
    }
    for path in ["/_matrix/federation/v1/version", "/_matrix/key/v2/server", "/_x/people"] {
        let (status, _) = home.call(Method::GET, path, None, Value::Null).await;
        assert_eq!(status, StatusCode::NOT_FOUND, "{path}");
    }
}

/// JSON that nobody expected.
fn anything() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
        prop::sample::select(vec![
            "m.login.password",
            "m.login.dummy",
            "m.id.user",
            "alice",
            "http",
            "12",
            "@a:b.c"
        ])
        .prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 6, |inner| {
        let key = prop::sample::select(vec![
            "type",
            "password",
            "identifier",
            "user",
            "auth",
            "session",
            "username",
            "device_id",
            "kind",
            "data",
            "pushkey",
            "app_id",
            "url",
            "search_term",
            "limit",
            "displayname",
            "order",
            "preset",
            "room_version",
            "initial_state",
            "creation_content",
            "filter",
            "new_password",
            "devices",
            "display_name",
            "presence",
        ]);
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((key, inner), 0..6)
                .prop_map(|pairs| pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()),
        ]
    })
}

const TARGETS: [(&str, &str); 15] = [
    ("POST", "/_matrix/client/v3/login"),
    ("POST", "/_matrix/client/v3/register"),
    ("POST", "/_matrix/client/v3/createRoom"),
    ("POST", "/_matrix/client/v3/pushers/set"),
    ("POST", "/_matrix/client/v3/delete_devices"),
    ("POST", "/_matrix/client/v3/account/password"),
    ("POST", "/_matrix/client/v3/account/deactivate"),
    ("POST", "/_matrix/client/v3/user_directory/search"),
    ("POST", "/_matrix/client/v3/publicRooms"),
    ("PUT", "/_matrix/client/v3/profile/USER/displayname"),
    ("PUT", "/_matrix/client/v3/profile/USER/other"),
    ("PUT", "/_matrix/client/v3/presence/USER/status"),
    ("PUT", "/_matrix/client/v3/user/USER/account_data/a"),
    ("PUT", "/_matrix/client/v3/user/USER/rooms/!r:x/tags/t"),
    ("PUT", "/_matrix/client/v3/devices/D"),
];

#[test]
fn no_body_makes_a_panic() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (home, alice) = runtime.block_on(async {
        let home = Home::new(open()).await;
        let alice = home.user("alice").await;
        (home, alice)
    });
    let config = ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(at in 0..TARGETS.len(), body in anything(), cut in 0..200_usize)| {
        let (method, path) = TARGETS[at];
        let mut bytes = body.to_string().into_bytes();
        if cut < 20 {
            bytes.truncate(cut);
        }
        let path = path.replace("USER", &alice.id);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::AUTHORIZATION, format!("Bearer {}", alice.token))
            .body(Body::from(bytes))
            .unwrap();
        let (head, answer) = runtime.block_on(home.send(request));
        prop_assert_ne!(head.status, StatusCode::INTERNAL_SERVER_ERROR, "{} {:?}", body, answer);
        prop_assert!(serde_json::from_slice::<Value>(&answer).is_ok());
    });
}

/// What may stand in a path or a query: right, nearly right, and nonsense.
fn piece() -> impl Strategy<Value = String> {
    prop_oneof![
        prop::sample::select(vec![
            "@alice:x.org",
            "!r:x.org",
            "%23a:x.org",
            "$e",
            "m.room.message",
            "%F0%28",
            "%00",
            "%2F",
            "x.org:99999",
            "alice",
            "1",
            "-1",
            "18446744073709551616",
            "t1_1",
            "s1_0_0_0_0_0",
            "n5",
            "b",
            "true",
            "%7B%7D",
            "null",
        ])
        .prop_map(str::to_owned),
        "[a-zA-Z0-9@!$:._~-]{0,20}",
        "(%[0-9a-f]{2}){0,6}",
    ]
}

#[test]
fn no_path_or_query_makes_a_panic() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (home, alice) = runtime.block_on(async {
        let home = Home::new(open()).await;
        let alice = home.user("alice").await;
        (home, alice)
    });
    let overlay = overlay_service(Arc::clone(&home.server));
    let endpoints = crate::api::routes::Table::whole().endpoints();
    let config = ProptestConfig {
        cases: std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(512),
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    let names = prop::sample::select(vec![
        "from",
        "to",
        "dir",
        "limit",
        "filter",
        "since",
        "timeout",
        "at",
        "membership",
        "via",
        "server_name",
        "kind",
        "width",
        "height",
        "method",
        "ver",
        "v",
        "min_depth",
        "event_id",
        "user_id",
        "room_alias",
        "field",
        "server",
    ]);
    let query = prop::collection::vec((names, piece()), 0..4);
    proptest!(config, |(at in 0..endpoints.len(), pieces in prop::collection::vec(piece(), 5), query in query, body in anything())| {
        let (_, method, path) = &endpoints[at];
        // Log-outs and deactivation end the test's own session.
        prop_assume!(!path.contains("logout") && !path.contains("deactivate") && !path.ends_with("/sync"));
        let mut pieces = pieces.iter();
        let filled: Vec<String> = path
            .split('/')
            .map(|part| if part.starts_with('{') { pieces.next().cloned().unwrap_or_default() } else { part.to_owned() })
            .collect();
        let query: Vec<String> = query.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let uri = format!("{}?timeout_ms=1&timeout=0&{}", filled.join("/"), query.join("&"));
        let request = Request::builder()
            .method(method.clone())
            .uri(&uri)
            .header(header::AUTHORIZATION, format!("Bearer {}", alice.token))
            .body(if *method == Method::GET { Body::empty() } else { Body::from(body.to_string()) });
        // What is no URI does not get as far as us.
        let Ok(request) = request else { return Ok(()) };
        let overlay = overlay.clone();
        let (head, answer) = runtime.block_on(async {
            if uri.starts_with("/_matrix/federation") || uri.starts_with("/_x") || uri.starts_with("/_matrix/key") {
                let (head, body) = overlay.oneshot(request).await.unwrap().into_parts();
                (head, body.collect().await.unwrap().to_bytes())
            } else {
                home.send(request).await
            }
        });
        prop_assert_ne!(head.status, StatusCode::INTERNAL_SERVER_ERROR, "{} {} {} {:?}", method, uri, body, answer);
    });
}
