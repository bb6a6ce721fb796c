//! What keeps a server out, or in bounds: rooms' access lists, the operator's own list, rates; and where its files may lead.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use axum::{Router, body::Body, response::IntoResponse as _};
use bytes::Bytes;
use ruma::api::federation::authentication::{XMatrix, XMatrixSigningInput};
use serde_json::{Value, json, value::to_raw_value};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tower::ServiceExt as _;

use super::{
    harness::{Client, Peer, until},
    hostile::{Stage, raw, stage},
    rooms::{bodies, create, join, say, sees},
};
use crate::{
    http::listen::overlay_service,
    media::MediaError,
    remote::memory::MemoryNet,
    room::{Draft, RoomError},
};

/// A request of `from`, rightly signed; the answer of `to`.
async fn asks(from: &Peer, to: &Peer, method: &str, path: &str, body: &Value) -> (u16, Value) {
    let body = if method == "GET" { Bytes::new() } else { Bytes::from(body.to_string()) };
    let mut request = http::Request::builder()
        .method(method)
        .uri(format!("https://x{path}"))
        .header("content-type", "application/json")
        .body(body)
        .unwrap();
    let key = from.server.remote.identity().signing_key();
    let input = XMatrixSigningInput::new(from.name().to_owned(), to.name().to_owned(), &key);
    let claim = XMatrix::sign_http_request(&request, input).unwrap();
    request.headers_mut().insert("authorization", http::HeaderValue::from(&claim));
    to.ask(from.node(), request).await
}

/// Puts something before a server's answers: what `first` answers to a method and path counts, else the server's own.
fn put_before(
    net: &MemoryNet,
    peer: &Peer,
    first: impl Fn(&str, &str) -> Option<http::Response<Body>> + Clone + Send + Sync + 'static,
) {
    let real = overlay_service(Arc::clone(&peer.server));
    let service = Router::new().fallback(move |request: http::Request<Body>| {
        let (real, first) = (real.clone(), first.clone());
        async move {
            match first(request.method().as_str(), request.uri().path()) {
                Some(answer) => answer,
                None => real.oneshot(request).await.unwrap(),
            }
        }
    });
    net.serve(peer.node(), service);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_a_room_denies_is_refused_on_every_path() {
    let stage = stage().await;
    let Stage { b, m, bob, mallory, room, .. } = &stage;
    let ann = Client::new(b, "ann").await;
    b.server.rooms.join(&ann.user, (&**room).into(), Vec::new(), None).await.unwrap();
    let event = say(&b.server.rooms, bob, room, "before").await;
    sees(m, mallory, room, "before").await;
    let smuggled = stage.message("smuggled").await;
    let invite_to_ann = json!({
        "room_version": "11", "invite_room_state": [],
        "event": { "type": "m.room.member", "state_key": ann.user, "sender": mallory, "room_id": room },
    });
    let paths = [
        ("GET", format!("/_matrix/federation/v1/make_join/{room}/{mallory}?ver=11")),
        ("PUT", format!("/_matrix/federation/v1/send_join/{room}/{event}")),
        ("PUT", format!("/_matrix/federation/v2/send_join/{room}/{event}")),
        ("GET", format!("/_matrix/federation/v1/make_leave/{room}/{mallory}")),
        ("PUT", format!("/_matrix/federation/v1/send_leave/{room}/{event}")),
        ("PUT", format!("/_matrix/federation/v2/send_leave/{room}/{event}")),
        ("GET", format!("/_matrix/federation/v1/make_knock/{room}/{mallory}?ver=11")),
        ("PUT", format!("/_matrix/federation/v1/send_knock/{room}/{event}")),
        ("PUT", format!("/_matrix/federation/v1/invite/{room}/{event}")),
        ("PUT", format!("/_matrix/federation/v2/invite/{room}/{event}")),
        ("GET", format!("/_matrix/federation/v1/state/{room}?event_id={event}")),
        ("GET", format!("/_matrix/federation/v1/state_ids/{room}?event_id={event}")),
        ("GET", format!("/_matrix/federation/v1/event/{event}")),
        ("GET", format!("/_matrix/federation/v1/event_auth/{room}/{event}")),
        ("GET", format!("/_matrix/federation/v1/backfill/{room}?v={event}&limit=10")),
        ("POST", format!("/_matrix/federation/v1/get_missing_events/{room}")),
        ("GET", format!("/_matrix/federation/v1/timestamp_to_event/{room}?ts=1&dir=f")),
        ("GET", format!("/_matrix/federation/v1/hierarchy/{room}?suggested_only=false")),
    ];
    let member = json!({ "type": "m.room.member", "state_key": mallory, "sender": mallory, "room_id": room });
    let body_of = |path: &str| match path {
        path if path.contains("/v2/invite/") => invite_to_ann.clone(),
        path if path.contains("/v1/invite/") => invite_to_ann["event"].clone(),
        path if path.contains("get_missing") => json!({ "earliest_events": [], "latest_events": [event] }),
        _ => member.clone(),
    };
    // Before the list there is one, none of them is refused for that reason.
    for (method, path) in &paths {
        let (_, answer) = asks(m, b, method, path, &body_of(path)).await;
        let why = answer["error"].as_str().unwrap_or_default();
        assert!(!why.contains("access list"), "{path}: {why}");
    }
    let acl = json!({ "allow": ["*"], "deny": [m.name()], "allow_ip_literals": true });
    let draft = Draft::state("m.room.server_acl", "", to_raw_value(&acl).unwrap());
    b.server.rooms.send(bob, room, draft, None).await.unwrap();
    for (method, path) in &paths {
        let (status, answer) = asks(m, b, method, path, &body_of(path)).await;
        assert_eq!(status, 403, "{path}: {answer}");
        assert!(answer["error"].as_str().unwrap().contains("access list"), "{path}: {answer}");
    }
    // In a transaction it is event by event, and EDU by EDU.
    let typing =
        json!({ "edu_type": "m.typing", "content": { "room_id": room, "user_id": mallory, "typing": true } });
    let receipt = json!({ "edu_type": "m.receipt", "content": { room.as_str(): { "m.read": {
        mallory.as_str(): { "data": { "ts": 1 }, "event_ids": [event] },
    } } } });
    let body = json!({
        "origin": m.name(), "origin_server_ts": 1, "pdus": [raw(&smuggled)], "edus": [typing, receipt],
    });
    let (status, answer) = asks(m, b, "PUT", "/_matrix/federation/v1/send/denied", &body).await;
    assert_eq!(status, 200, "{answer}");
    let results = answer["pdus"].as_object().unwrap();
    assert!(results.values().all(|result| result["error"].is_string()) && results.len() == 1, "{answer}");
    say(&b.server.rooms, bob, room, "after").await;
    let answer = ann.get("/_matrix/client/v3/sync").await.to_string();
    assert!(answer.contains("after") && !answer.contains("smuggled"), "{answer}");
    assert!(!answer.contains("m.typing\",\"content\":{\"user_ids\":[\"@mallory"), "{answer}");
    assert!(!answer.contains("m.receipt"), "{answer}");
    // What the room's people do still reaches the denied one: it is in the room's state.
    assert!(!bodies(b, bob, room).await.contains(&"smuggled".to_owned()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blocked_server_is_neither_answered_nor_asked() {
    let stage = stage().await;
    let Stage { b, m, bob, mallory, room, .. } = &stage;
    say(&b.server.rooms, bob, room, "before").await;
    sees(m, mallory, room, "before").await;
    let (label, _) = m.name().as_str().split_once('.').unwrap();
    b.server.remote.block(&[format!("{}*", &label[..20])]);
    for (method, path) in [
        ("GET", "/_matrix/federation/v1/publicRooms".to_owned()),
        ("GET", format!("/_matrix/federation/v1/query/profile?user_id={bob}")),
        ("PUT", "/_matrix/federation/v1/send/blocked".to_owned()),
        ("GET", format!("/_matrix/federation/v1/make_join/{room}/{mallory}?ver=11")),
    ] {
        let body = json!({ "origin": m.name(), "origin_server_ts": 1, "pdus": [], "edus": [] });
        let (status, answer) = asks(m, b, method, &path, &body).await;
        assert_eq!((status, &answer["errcode"]), (403, &json!("M_FORBIDDEN")), "{path}: {answer}");
    }
    let before = stage.net.requests().len();
    let other = create(b, bob, "11", false).await;
    let error = b.server.rooms.invite(bob, &other, mallory, None).await.unwrap_err();
    assert!(matches!(&error, RoomError::Forbidden(why) if why.contains("blocked")), "{error:?}");
    say(&b.server.rooms, bob, room, "not for them").await;
    until("nothing is owed", || async {
        let list = b.server.remote.destinations().await.unwrap();
        list.iter().all(|dest| dest.queued == 0 && !dest.under_way && dest.failures == 0).then_some(())
    })
    .await;
    let asked = stage.net.requests().split_off(before);
    assert!(asked.iter().all(|(from, _, _)| *from != b.node()), "{asked:?}");
    // Let in again, it hears of what it missed by the gap, as ever.
    b.server.remote.block(&[]);
    say(&b.server.rooms, bob, room, "welcome back").await;
    sees(m, mallory, room, "welcome back").await;
    sees(m, mallory, room, "not for them").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_asks_too_often_is_told_when_to_come_again() {
    let net = MemoryNet::new();
    let (a, b, c) = (Peer::start(&net, 1).await, Peer::start(&net, 2).await, Peer::start(&net, 3).await);
    b.server.limits.set_on(true);
    b.server.limits.set_origin_rate(3);
    let path = "/_matrix/federation/v1/publicRooms";
    let mut told = None;
    for _ in 0..20 {
        let (status, answer) = asks(&a, &b, "GET", path, &Value::Null).await;
        if status == 429 {
            assert_eq!(answer["errcode"], "M_LIMIT_EXCEEDED");
            told = answer["retry_after_ms"].as_u64();
            break;
        }
        assert_eq!(status, 200, "{answer}");
    }
    assert!(told.is_some_and(|ms| (1..=334).contains(&ms)), "{told:?}");
    let (status, _) = asks(&c, &b, "GET", path, &Value::Null).await;
    assert_eq!(status, 200, "others are not held up");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_of_rules_is_a_room_like_any_other() {
    let net = MemoryNet::new();
    let (a, b) = (Peer::start(&net, 1).await, Peer::start(&net, 2).await);
    let (alice, bob) = (Client::new(&a, "alice").await, Client::new(&b, "bob").await);
    let room = create(&a, &alice.user, "12", true).await;
    let rule = |what: &str| json!({ "entity": what, "recommendation": "m.ban", "reason": "spam" });
    let set = |kind: &str, what: &str| {
        let draft = Draft::state(kind, format!("rule:{what}"), to_raw_value(&rule(what)).unwrap());
        let (a, user, room) = (a.server.clone(), alice.user.clone(), room.clone());
        async move { a.rooms.send(&user, &room, draft, None).await.unwrap() }
    };
    set("m.policy.rule.server", "evil.example").await;
    set("m.policy.rule.user", "@spam:*").await;
    join(&b, &bob.user, &room, &a).await.unwrap();
    set("m.policy.rule.room", "!bad:example.org").await;
    for (kind, what) in [
        ("m.policy.rule.server", "evil.example"),
        ("m.policy.rule.user", "@spam:*"),
        ("m.policy.rule.room", "!bad:example.org"),
    ] {
        let key = format!("rule:{what}");
        let key = percent_encoding::utf8_percent_encode(&key, percent_encoding::NON_ALPHANUMERIC);
        let path = format!("/_matrix/client/v3/rooms/{room}/state/{kind}/{key}");
        until(&format!("the rule about {what}"), || async {
            let (status, body) = bob.raw("GET", &path, Bytes::new(), "application/json").await;
            (status == 200).then(|| assert_eq!(serde_json::from_slice::<Value>(&body).unwrap(), rule(what)))
        })
        .await;
    }
}

/// A file store on this machine: what it answers to each path, and how often it was asked.
async fn file_store(answer: impl Fn(&str, u16) -> String + Send + 'static) -> (u16, Arc<AtomicUsize>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            count.fetch_add(1, Ordering::SeqCst);
            let mut head = vec![0; 4096];
            let read = stream.read(&mut head).await.unwrap_or(0);
            let text = String::from_utf8_lossy(&head[..read]).into_owned();
            assert!(!text.to_lowercase().contains("authorization"), "nobody says who asks");
            let path = text.split(' ').nth(1).unwrap_or_default().to_owned();
            let _ = stream.write_all(answer(&path, port).as_bytes()).await;
            let _ = stream.shutdown().await;
        }
    });
    (port, asked)
}

fn points_to(location: &str) -> http::Response<Body> {
    let body = format!(
        "--b\r\nContent-Type: application/json\r\n\r\n{{}}\r\n--b\r\nLocation: {location}\r\n\r\n\r\n--b--\r\n"
    );
    ([("content-type", "multipart/mixed; boundary=b")], body).into_response()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_is_fetched_from_where_its_server_points_to_but_never_from_our_own_network() {
    let (port, asked) = file_store(|path, port| match path {
        "/file" => "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nhello".to_owned(),
        "/on" => format!(
            "HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:{port}/file\r\nContent-Length: 0\r\n\r\n"
        ),
        "/round" => {
            format!(
                "HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:{port}/round\r\nContent-Length: 0\r\n\r\n"
            )
        }
        _ => "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_owned(),
    })
    .await;
    let net = MemoryNet::new();
    let (a, careful, m) =
        (Peer::start(&net, 1).await, Peer::start(&net, 2).await, Peer::start(&net, 3).await);
    put_before(&net, &m, move |_, path| {
        let id = path.strip_prefix("/_matrix/federation/v1/media/download/")?;
        Some(points_to(&match id {
            "https" => format!("https://127.0.0.1:{port}/file"),
            "name" => format!("http://localhost:{port}/file"),
            "other" => "file:///etc/passwd".to_owned(),
            "relative" => "/file".to_owned(),
            id => format!("http://127.0.0.1:{port}/{id}"),
        }))
    });
    // The one that runs as it comes reaches into no private network, and speaks no plain HTTP.
    for id in ["file", "on", "https", "name", "other", "relative"] {
        let error = careful.server.media.get(m.name(), id, std::time::Duration::from_secs(5), true).await;
        assert!(matches!(error, Err(MediaError::Unreachable(_))), "{id}");
    }
    assert_eq!(asked.load(Ordering::SeqCst), 0, "nobody has knocked");
    // One whose operator allows private addresses.
    a.server.remote.allow_private_files();
    for (id, there) in [("file", true), ("on", true), ("round", false), ("gone", false), ("other", false)] {
        let answer = a.server.media.get(m.name(), id, std::time::Duration::from_secs(5), true).await;
        assert_eq!(answer.is_ok(), there, "{id}");
        if let Ok(opened) = answer {
            assert_eq!((opened.size, opened.content_type.as_deref()), (5, Some("text/plain")));
        }
    }
    assert_eq!(asked.load(Ordering::SeqCst), 1 + 2 + 4 + 1, "three times on at most");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_knows_the_first_form_of_invites_alone_gets_that() {
    let net = MemoryNet::new();
    let (a, b) = (Peer::start(&net, 1).await, Peer::start(&net, 2).await);
    let (alice, bob) = (a.user("alice").await, b.user("bob").await);
    put_before(&net, &b, |_, path| {
        let unknown = json!({ "errcode": "M_UNRECOGNIZED", "error": "Unrecognized request" }).to_string();
        path.contains("/v2/invite/").then(|| (http::StatusCode::NOT_FOUND, unknown).into_response())
    });
    for version in ["1", "2"] {
        let room = create(&a, &alice, version, false).await;
        a.server.rooms.invite(&alice, &room, &bob, None).await.unwrap();
        b.server.rooms.join(&bob, (&*room).into(), vec![a.name().to_owned()], None).await.unwrap();
        say(&b.server.rooms, &bob, &room, "thank you").await;
        sees(&a, &alice, &room, "thank you").await;
    }
    // Newer rooms' invites do not fit into it.
    let room = create(&a, &alice, "11", false).await;
    assert!(a.server.rooms.invite(&alice, &room, &bob, None).await.is_err());
}
