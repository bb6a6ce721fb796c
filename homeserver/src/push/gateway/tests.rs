//! A gateway of our own: what it is told, how often, and when not.

use std::sync::atomic::AtomicUsize;

use axum::{Router, extract::State, routing::post};
use bytes::Bytes;
use http::StatusCode;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::{
    api::tests::{Home, User, open},
    server::Settings,
};

/// A push gateway on loopback: fails the first `fail` requests, and rejects keys that begin with "gone".
struct Gateway {
    url: String,
    told: mpsc::UnboundedReceiver<Value>,
}

impl Gateway {
    async fn new(fail: usize) -> Self {
        let (sender, told) = mpsc::unbounded_channel();
        let left = std::sync::Arc::new(AtomicUsize::new(fail));
        type Shared = (mpsc::UnboundedSender<Value>, std::sync::Arc<AtomicUsize>);
        async fn notify(State((sender, left)): State<Shared>, body: Bytes) -> Result<String, StatusCode> {
            let body: Value = serde_json::from_slice(&body).unwrap();
            let failing = left.fetch_update(
                std::sync::atomic::Ordering::SeqCst,
                std::sync::atomic::Ordering::SeqCst,
                |left| left.checked_sub(1),
            );
            if failing.is_ok() {
                return Err(StatusCode::BAD_GATEWAY);
            }
            let devices = body["notification"]["devices"].as_array().unwrap();
            let gone: Vec<_> = devices
                .iter()
                .map(|device| &device["pushkey"])
                .filter(|key| key.as_str().unwrap().starts_with("gone"))
                .collect();
            let answer = json!({"rejected": gone});
            sender.send(body).unwrap();
            Ok(answer.to_string())
        }
        let app = Router::new().route("/_matrix/push/v1/notify", post(notify)).with_state((sender, left));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/_matrix/push/v1/notify", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, app).await });
        Self { url, told }
    }

    async fn next(&mut self) -> Value {
        let next = tokio::time::timeout(std::time::Duration::from_secs(20), self.told.recv());
        next.await.expect("a push in time").unwrap()["notification"].clone()
    }
}

async fn home() -> (Home, User, User, String) {
    let home = Home::new(Settings { push_private_addresses: true, ..open() }).await;
    let (alice, bob) = (home.user("alice").await, home.user("bob").await);
    let (_, made) = home
        .post("/_matrix/client/v3/createRoom", &alice, json!({"preset": "public_chat", "name": "Tea"}))
        .await;
    let room = made["room_id"].as_str().unwrap().to_owned();
    home.post(&format!("/_matrix/client/v3/join/{room}"), &bob, json!({})).await;
    (home, alice, bob, room)
}

async fn set(home: &Home, user: &User, url: &str, key: &str, format: Option<&str>) {
    let mut data = json!({"url": url, "own": "field"});
    if let Some(format) = format {
        data["format"] = format.into();
    }
    let pusher = json!({"app_id": "app", "pushkey": key, "kind": "http", "app_display_name": "A",
        "device_display_name": "D", "lang": "en", "data": data});
    let (status, answer) = home.post("/_matrix/client/v3/pushers/set", user, pusher).await;
    assert_eq!(status, 200, "{answer}");
}

async fn say(home: &Home, user: &User, room: &str, body: &str) -> String {
    let path = format!("/_matrix/client/v3/rooms/{room}/send/m.room.message/{}", body.replace(' ', ""));
    let (status, answer) = home.put(&path, user, json!({"msgtype": "m.text", "body": body})).await;
    assert_eq!(status, 200, "{answer}");
    answer["event_id"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_message_is_pushed_once_whole_and_counted() {
    let (home, alice, bob, room) = home().await;
    let mut gateway = Gateway::new(0).await;
    say(&home, &alice, &room, "before").await;
    set(&home, &bob, &gateway.url, "key", None).await;
    let one = say(&home, &alice, &room, "one").await;
    say(&home, &bob, &room, "my own").await;
    let told = gateway.next().await;
    assert_eq!((&told["event_id"], &told["room_id"]), (&json!(one), &json!(room)));
    assert_eq!((&told["content"]["body"], &told["sender"]), (&json!("one"), &json!(alice.id)));
    assert_eq!((&told["room_name"], &told["type"]), (&json!("Tea"), &json!("m.room.message")));
    assert_eq!(told["devices"][0]["data"], json!({"own": "field"}));
    let two = say(&home, &alice, &room, "hello bob").await;
    let mut told = gateway.next().await;
    if told.get("event_id").is_none() {
        // Who writes has read what stands before: the badge went down.
        assert_eq!(told["counts"]["unread"], 0);
        told = gateway.next().await;
    }
    assert_eq!(told["event_id"], json!(two), "what one writes oneself is not pushed");
    assert_eq!((&told["devices"][0]["tweaks"]["highlight"], &told["prio"]), (&json!(true), &json!("high")));
    assert_eq!(told["counts"]["unread"], 1);
    // Read: the badge goes down.
    let path = format!("/_matrix/client/v3/rooms/{room}/receipt/m.read/{two}");
    home.post(&path, &bob, json!({})).await;
    let told = gateway.next().await;
    assert_eq!((&told["counts"]["unread"], told.get("event_id")), (&json!(0), None));
}

#[tokio::test]
async fn a_failing_gateway_is_tried_again_and_a_rejected_key_is_removed() {
    let (home, alice, bob, room) = home().await;
    let mut gateway = Gateway::new(1).await;
    set(&home, &bob, &gateway.url, "gone-key", Some("event_id_only")).await;
    let one = say(&home, &alice, &room, "one").await;
    let told = gateway.next().await;
    assert_eq!(told["event_id"], json!(one));
    assert!(told.get("content").is_none() && told.get("sender").is_none());
    assert_eq!(told["devices"][0]["data"]["format"], "event_id_only");
    let until = tokio::time::Instant::now() + std::time::Duration::from_secs(20);
    loop {
        let (_, left) = home.get("/_matrix/client/v3/pushers", &bob).await;
        if left["pushers"] == json!([]) {
            break;
        }
        assert!(tokio::time::Instant::now() < until, "the pusher goes");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn an_invite_is_pushed() {
    let (home, alice, bob, _) = home().await;
    let mut gateway = Gateway::new(0).await;
    set(&home, &bob, &gateway.url, "key", None).await;
    let (_, made) = home.post("/_matrix/client/v3/createRoom", &alice, json!({"invite": [bob.id]})).await;
    let told = gateway.next().await;
    assert_eq!((&told["room_id"], &told["user_is_target"]), (&made["room_id"], &json!(true)));
}

#[tokio::test]
async fn notifications_are_listed_backwards() {
    let (home, alice, bob, room) = home().await;
    let one = say(&home, &alice, &room, "one").await;
    let two = say(&home, &alice, &room, "two for bob").await;
    let three = say(&home, &alice, &room, "three").await;
    let ids = |answer: &Value| -> Vec<String> {
        let list = answer["notifications"].as_array().unwrap();
        list.iter().map(|told| told["event"]["event_id"].as_str().unwrap().to_owned()).collect()
    };
    let (_, first) = home.get("/_matrix/client/v3/notifications?limit=2", &bob).await;
    assert_eq!(ids(&first), [three.clone(), two.clone()]);
    assert_eq!(
        (&first["notifications"][0]["read"], &first["notifications"][0]["room_id"]),
        (&json!(false), &json!(room))
    );
    let next = first["next_token"].as_str().unwrap();
    let (_, rest) = home.get(&format!("/_matrix/client/v3/notifications?from={next}"), &bob).await;
    assert_eq!(ids(&rest), std::slice::from_ref(&one));
    assert!(rest.get("next_token").is_none());
    let (_, loud) = home.get("/_matrix/client/v3/notifications?only=highlight", &bob).await;
    assert_eq!(ids(&loud), [two]);
}
