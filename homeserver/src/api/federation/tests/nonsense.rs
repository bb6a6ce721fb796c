//! Rightly signed nonsense: whatever another server says, it gets an answer that blames it, and we go on.

use bytes::Bytes;
use proptest::{prelude::*, strategy::ValueTree as _, test_runner::TestRunner};
use ruma::api::federation::authentication::{XMatrix, XMatrixSigningInput};
use serde_json::{Value, json};

use super::harness::{Client, Peer};
use crate::remote::memory::MemoryNet;

/// Requests that are tried.
const ROUNDS: usize = 1500;

/// Words that mean something somewhere, so that nonsense comes far.
const WORDS: [&str; 40] = [
    "type",
    "m.room.member",
    "m.room.create",
    "content",
    "membership",
    "join",
    "invite",
    "leave",
    "knock",
    "sender",
    "state_key",
    "room_id",
    "event_id",
    "prev_events",
    "auth_events",
    "depth",
    "origin",
    "origin_server_ts",
    "hashes",
    "sha256",
    "signatures",
    "pdus",
    "edus",
    "edu_type",
    "m.typing",
    "m.receipt",
    "m.direct_to_device",
    "m.device_list_update",
    "m.signing_key_update",
    "room_version",
    "event",
    "invite_room_state",
    "user_id",
    "device_keys",
    "one_time_keys",
    "earliest_events",
    "latest_events",
    "limit",
    "transaction_id",
    "messages",
];

fn value(known: Vec<String>) -> impl Strategy<Value = Value> {
    let mut words: Vec<String> = WORDS.iter().map(|word| (*word).to_owned()).collect();
    words.extend(known);
    let keys = prop::sample::select(words.clone());
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        prop_oneof![Just(0i64), Just(-1), Just(i64::MAX), Just((1 << 53) - 1), -5i64..1000]
            .prop_map(Value::from),
        any::<f64>().prop_map(|number| json!(number)),
        prop::sample::select(words).prop_map(Value::from),
        "\\PC{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 48, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::vec((keys.clone(), inner), 0..8)
                .prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
        ]
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn signed_nonsense_is_refused_and_breaks_nothing() {
    let net = MemoryNet::new();
    let (a, b) = (Peer::start(&net, 1).await, Peer::start(&net, 2).await);
    let (alice, bob) = (Client::new(&a, "alice").await, Client::new(&b, "bob").await);
    let room = bob
        .call(
            "POST",
            "/_matrix/client/v3/createRoom",
            &json!({ "preset": "public_chat", "room_version": "11" }),
        )
        .await;
    let room = room["room_id"].as_str().unwrap().to_owned();
    let join = format!("/_matrix/client/v3/join/{room}?via={}", b.name());
    alice.call("POST", &join, &json!({})).await;
    let send = format!("/_matrix/client/v3/rooms/{room}/send/m.room.message/t1");
    let event = bob.call("PUT", &send, &json!({ "body": "x", "msgtype": "m.text" })).await;
    let event = event["event_id"].as_str().unwrap().to_owned();

    let known = [room.as_str(), event.as_str(), alice.user.as_str(), bob.user.as_str(), a.name().as_str()];
    let known: Vec<String> = known.iter().map(|known| (*known).to_owned()).collect();
    let ids = prop_oneof![prop::sample::select(known.clone()), "[!$@#]?[a-z:%.]{0,9}"];
    let paths = [
        ("PUT", "/_matrix/federation/v1/send/{}"),
        ("PUT", "/_matrix/federation/v2/send_join/{}/{}"),
        ("PUT", "/_matrix/federation/v2/send_leave/{}/{}"),
        ("PUT", "/_matrix/federation/v1/send_knock/{}/{}"),
        ("PUT", "/_matrix/federation/v2/invite/{}/{}"),
        ("PUT", "/_matrix/federation/v1/invite/{}/{}"),
        ("POST", "/_matrix/federation/v1/get_missing_events/{}"),
        ("POST", "/_matrix/federation/v1/user/keys/query"),
        ("POST", "/_matrix/federation/v1/user/keys/claim"),
        ("POST", "/_matrix/federation/v1/publicRooms"),
        ("POST", "/_matrix/key/v2/query"),
        ("GET", "/_matrix/federation/v1/make_join/{}/{}?ver=11"),
        ("GET", "/_matrix/federation/v1/make_leave/{}/{}"),
        ("GET", "/_matrix/federation/v1/make_knock/{}/{}?ver=11"),
        ("GET", "/_matrix/federation/v1/state/{}?event_id={}"),
        ("GET", "/_matrix/federation/v1/state_ids/{}?event_id={}"),
        ("GET", "/_matrix/federation/v1/event/{}"),
        ("GET", "/_matrix/federation/v1/event_auth/{}/{}"),
        ("GET", "/_matrix/federation/v1/backfill/{}?v={}&limit=10"),
        ("GET", "/_matrix/federation/v1/user/devices/{}"),
        ("GET", "/_matrix/federation/v1/query/profile?user_id={}"),
        ("GET", "/_matrix/federation/v1/query/directory?room_alias={}"),
        ("GET", "/_matrix/federation/v1/media/download/{}"),
        ("GET", "/_matrix/federation/v1/media/thumbnail/{}?width=1&height=99999999"),
    ];
    let strategy = (prop::sample::select(paths.to_vec()), ids.clone(), ids, value(known));
    let mut runner = TestRunner::deterministic();
    let key = a.server.remote.identity().signing_key();
    let mut believed = 0;
    for _ in 0..ROUNDS {
        let ((method, path), one, two, mut body) = strategy.new_tree(&mut runner).unwrap().current();
        if path.ends_with("/send/{}") {
            // A frame that lets the inside through.
            let inside = vec![body.clone(); 2];
            body = json!({ "origin": a.name(), "origin_server_ts": 1, "pdus": inside, "edus": [body] });
        }
        let encode = |text: &str| text.bytes().map(|byte| format!("%{byte:02X}")).collect::<String>();
        let path = path.replacen("{}", &encode(&one), 1).replacen("{}", &encode(&two), 1);
        let body = if method == "GET" { Bytes::new() } else { Bytes::from(body.to_string()) };
        let request = http::Request::builder()
            .method(method)
            .uri(format!("https://x{path}"))
            .header("content-type", "application/json")
            .body(body)
            .unwrap();
        let input = XMatrixSigningInput::new(a.name().to_owned(), b.name().to_owned(), &key);
        // Floats cannot be signed: that request could not be sent by anybody.
        let Ok(claim) = XMatrix::sign_http_request(&request, input) else { continue };
        let mut request = request;
        request.headers_mut().insert("authorization", http::HeaderValue::from(&claim));
        let text = format!("{method} {path} {:?}", request.body());
        let (status, answer) = b.ask(a.node(), request).await;
        believed += usize::from(status != 401);
        assert!(status < 500 || status == 502 || status == 504, "{status} {answer} for {text}");
    }
    assert!(believed > ROUNDS / 2, "only {believed} requests came past their signature");
    // Life goes on.
    let said = bob.call("PUT", &send.replace("t1", "t2"), &json!({ "body": "y", "msgtype": "m.text" })).await;
    let said = said["event_id"].as_str().unwrap().to_owned();
    let mut since = None;
    alice
        .sync_until("the message", &mut since, |answer| {
            let events = answer["rooms"]["join"][&room]["timeline"]["events"].as_array()?;
            events.iter().any(|event| event["event_id"] == said.as_str()).then_some(())
        })
        .await;
}
