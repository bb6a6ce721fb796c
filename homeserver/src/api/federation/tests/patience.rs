//! Servers that answer slowly, endlessly or never, and those that push what nobody can use: time and memory stay bounded,
//! nothing is kept of it, and everybody else is served.

use std::time::{Duration, Instant};

use axum::{Router, body::Body};
use bytes::Bytes;
use futures_util::stream;
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, OwnedServerName, RoomOrAliasId,
    api::federation::{discovery::get_server_version, transactions::send_transaction_message},
    serde::{Base64, Raw},
    signatures::{Ed25519KeyPair, sign_json},
};
use serde_json::{Value, json, value::to_raw_value};

use super::{
    harness::{Client, Peer, signed, until},
    hostile::{Mask, integer, raw, stage},
    rooms::{bodies, create, join, say, sees, transaction},
};
use crate::{
    remote::{CarrierError, Class, Options, RemoteError, memory::MemoryNet},
    room::core::{canonical, check, version},
    store::schema::server_keys,
};

/// A server whose every answer is this body.
fn answers(net: &MemoryNet, peer: &Peer, body: impl Fn() -> Body + Clone + Send + Sync + 'static) {
    let service =
        Router::new().fallback(move || {
            let body = body.clone();
            async move {
                http::Response::builder().header("content-type", "application/json").body(body()).unwrap()
            }
        });
    net.serve(peer.node(), service);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_trickles_or_never_ends_is_given_up() {
    let net = MemoryNet::new();
    let (b, m) = (Peer::start(&net, 1).await, Peer::start(&net, 2).await);
    let bob = b.user("bob").await;
    let ask = |options: Options| {
        let (remote, name) = (b.server.remote.clone(), m.name().to_owned());
        async move { remote.request_with(&name, get_server_version::v1::Request::new(), options).await }
    };
    // The name is known before the clock runs.
    ask(Options::default()).await.unwrap();
    answers(&net, &m, || {
        Body::from_stream(stream::unfold((), |()| async {
            tokio::time::sleep(Duration::from_millis(5)).await;
            Some((Ok::<_, std::convert::Infallible>(Bytes::from_static(b" ")), ()))
        }))
    });
    let within = Duration::from_millis(200);
    let begun = Instant::now();
    let trickled = ask(Options { class: Class::Interactive, timeout: within, limit: 1 << 20 }).await;
    assert!(
        matches!(&trickled, Err(RemoteError::Unreachable { reason: CarrierError::Timeout(_), .. })),
        "{trickled:?}"
    );
    assert!(begun.elapsed() < 20 * within, "{:?}", begun.elapsed());

    answers(&net, &m, || {
        let piece = Bytes::from(vec![b' '; 64 << 10]);
        Body::from_stream(stream::repeat(Ok::<_, std::convert::Infallible>(piece)))
    });
    let endless = ask(Options { class: Class::Bulk, timeout: Duration::from_secs(20), limit: 1 << 20 }).await;
    assert!(matches!(endless, Err(RemoteError::TooLarge { limit: 1_048_576, .. })), "{endless:?}");
    // A join by way of such a server is no room.
    let room = ruma::room_id!("!room:nowhere.test");
    let joined =
        b.server.rooms.join(&bob, <&RoomOrAliasId>::from(room), vec![m.name().to_owned()], None).await;
    assert!(joined.is_err());
    assert!(!b.server.rooms.is_resident(room).await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_tells_no_gap_holds_up_nobody() {
    let stage = stage().await;
    let c = Peer::start(&stage.net, 3).await;
    let carol = c.user("carol").await;
    join(&c, &carol, &stage.room, &stage.b).await.unwrap();
    let other = create(&stage.b, &stage.bob, "11", true).await;
    join(&stage.m, &stage.mallory, &other, &stage.b).await.unwrap();
    let mask = Mask::put_on(&stage.net, &stage.m);
    mask.is_silent_on("get_missing_events");
    let mut event = stage.message("on what nobody tells").await;
    let prev = CanonicalJsonValue::from("$jV2ADeXbYnFUAzhZxcNXH2BRDTc6x8wtqTXPAjfI6BE");
    event.insert("prev_events".to_owned(), CanonicalJsonValue::Array(vec![prev]));
    let begun = Instant::now();
    let (status, answer) = stage.push("gap", vec![raw(&stage.sign(event))]).await;
    assert_eq!(status, 200, "{answer}");
    assert!(begun.elapsed() < Duration::from_secs(15), "answered after {:?}", begun.elapsed());
    until("the gap is asked for", || async { (mask.asked("get_missing_events") > 0).then_some(()) }).await;
    // The same room by another server, and another room by the same one.
    say(&c.server.rooms, &carol, &stage.room, "from carol").await;
    sees(&stage.b, &stage.bob, &stage.room, "from carol").await;
    say(&stage.m.server.rooms, &stage.mallory, &other, "elsewhere").await;
    sees(&stage.b, &stage.bob, &other, "elsewhere").await;
    say(&stage.b.server.rooms, &stage.bob, &stage.room, "from bob").await;
    let seen = bodies(&stage.b, &stage.bob, &stage.room).await;
    assert!(!seen.iter().any(|body| body.contains("nobody tells")), "{seen:?}");
    mask.speaks_truth();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gap_without_end_is_not_followed() {
    let stage = stage().await;
    let mask = Mask::put_on(&stage.net, &stage.m);
    let template = stage.message("endless").await;
    let (identity, name) = (stage.m.server.remote.identity().signing_key(), stage.m.name().to_owned());
    let make = move |prev: String, depth: i64| {
        let mut event = template.clone();
        event.insert("prev_events".to_owned(), CanonicalJsonValue::Array(vec![prev.into()]));
        event.insert("depth".to_owned(), integer(depth));
        event.remove("signatures");
        event.remove("hashes");
        let rules = version::rules("11").unwrap();
        ruma::signatures::hash_and_sign_event(name.as_str(), &*identity, &mut event, &rules.redaction)
            .unwrap();
        event
    };
    let event = make(format!("${:042}A", 1), 100);
    let rules = version::rules("11").unwrap();
    let id = check::event_id(&event, &rules).unwrap();
    let count = std::sync::Mutex::new(1_u64);
    // Each answer names more that is missing, more of them than were asked for, and state of nothing.
    mask.lies(move |path, _| {
        if path.contains("state_ids") || path.contains("event_auth") {
            return Some(b"{\"pdu_ids\":[],\"auth_chain_ids\":[],\"auth_chain\":[]}".to_vec());
        }
        if !path.contains("get_missing_events") {
            return None;
        }
        let mut count = count.lock().unwrap();
        let events: Vec<CanonicalJsonObject> = (0..600)
            .map(|n| {
                *count += 1;
                make(format!("${:042}A", *count), 99 - (n % 50))
            })
            .collect();
        Some(json!({ "events": events }).to_string().into_bytes())
    });
    let (status, _) = stage.push("endless", vec![raw(&event)]).await;
    assert_eq!(status, 200);
    until("the gap is asked for", || async { (mask.asked("get_missing_events") > 0).then_some(()) }).await;
    stage.life_goes_on("one").await;
    // One question for the event and one for each time that it is tried again; none for what the answers name.
    let asked = mask.asked("get_missing_events");
    assert!(asked <= 4, "{asked} questions");
    mask.speaks_truth();
    stage.life_goes_on("two").await;
    let seen = bodies(&stage.b, &stage.bob, &stage.room).await;
    assert!(!seen.iter().any(|body| body == "endless"), "{seen:?}");
    assert!(stage.b.server.rooms.event(&stage.bob, &stage.room, &id).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn depths_beyond_all_bounds_move_nothing() {
    let stage = stage().await;
    let mut event = stage.message("deep").await;
    event.insert("depth".to_owned(), integer((1 << 53) - 1));
    let deepest = raw(&stage.sign(event));
    // One more is no number that canonical JSON has; version 5 still takes it.
    let deeper = deepest.get().replace("9007199254740991", "9223372036854775807");
    for (version, is_event) in [("11", false), ("6", false), ("5", true)] {
        let rules = version::rules(version).unwrap();
        let object = canonical::parse(&deeper).unwrap();
        assert_eq!(check::format(object, &rules).is_ok(), is_event, "version {version}");
    }
    let (status, answer) = stage.push("deep", vec![deepest]).await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(bodies(&stage.b, &stage.bob, &stage.room).await.last().unwrap(), "deep");
    // What comes after is after it for all, and of a depth that can be said.
    stage.life_goes_on("after the deep").await;
    assert_eq!(bodies(&stage.b, &stage.bob, &stage.room).await.last().unwrap(), "after the deep");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_edus_reaches_no_client() {
    let stage = stage().await;
    let client = Client::new(&stage.b, "victim").await;
    join(&stage.b, &client.user, &stage.room, &stage.b).await.unwrap();
    let mut since = None;
    client.sync_until("the room", &mut since, |answer| answer["rooms"]["join"].as_object().map(drop)).await;
    let (room, mallory, bob) = (&stage.room, &stage.mallory, &stage.bob);
    let stranger = |n: usize| format!("@stranger{n}:{}", stage.m.name());
    let kinds: Vec<Box<dyn Fn(usize) -> Value>> = vec![
        // Of users who are not in the room, or another server's.
        Box::new(|n| {
            json!({ "edu_type": "m.typing", "content": {
            "room_id": room, "user_id": stranger(n), "typing": true } })
        }),
        Box::new(|_| {
            json!({ "edu_type": "m.typing", "content": {
            "room_id": room, "user_id": bob, "typing": true } })
        }),
        Box::new(|n| {
            json!({ "edu_type": "m.receipt", "content": { (room.as_str()): { "m.read": {
            (stranger(n)): { "event_ids": [format!("${n:043}")], "data": { "ts": 1 } } } } } })
        }),
        Box::new(|_| {
            json!({ "edu_type": "m.receipt", "content": { (room.as_str()): { "m.read": {
            (bob.as_str()): { "event_ids": ["$x"], "data": { "ts": 1 } } } } } })
        }),
        Box::new(|n| {
            json!({ "edu_type": "m.device_list_update", "content": {
            "user_id": stranger(n), "device_id": "D", "stream_id": n, "prev_id": [] } })
        }),
        Box::new(|n| {
            json!({ "edu_type": "m.device_list_update", "content": {
            "user_id": bob, "device_id": "D", "stream_id": n, "prev_id": [] } })
        }),
        Box::new(|n| {
            json!({ "edu_type": "m.direct_to_device", "content": {
            "sender": bob, "type": "m.x", "message_id": format!("{n}"),
            "messages": { (client.user.as_str()): { "*": {} } } } })
        }),
        Box::new(|n| {
            json!({ "edu_type": "m.direct_to_device", "content": {
            "sender": mallory, "type": "m.x", "message_id": format!("nobody{n}"),
            "messages": { (format!("@nobody{n}:{}", stage.b.name())): { "*": {} } } } })
        }),
        Box::new(|_| {
            json!({ "edu_type": "m.presence", "content": { "push": [
            { "user_id": bob, "presence": "online", "last_active_ago": 1 } ] } })
        }),
        Box::new(|n| json!({ "edu_type": format!("x.unknown{n}"), "content": [n] })),
        Box::new(|n| json!({ "edu_type": "m.typing", "content": [n, null, {}] })),
        Box::new(|n| json!([n])),
    ];
    for txn in 0..24 {
        let mut request: send_transaction_message::v1::Request =
            transaction(&stage.m, &format!("flood{txn}"), Vec::new());
        request.edus = (0..100)
            .map(|n| Raw::from_json(to_raw_value(&kinds[(txn + n) % kinds.len()](100 * txn + n)).unwrap()))
            .collect();
        let key = stage.m.server.remote.identity().signing_key();
        let request = signed(request, stage.m.name(), stage.b.name(), &key);
        let (status, answer) = stage.b.ask(stage.m.node(), request).await;
        assert!(status == 200 || status == 400, "{status} {answer}");
    }
    stage.life_goes_on("after the flood").await;
    client
        .sync_until("the message", &mut since, |answer| {
            let text = answer.to_string();
            for part in ["stranger", "m.x", "x.unknown", "m.typing", "m.receipt"] {
                assert!(!text.contains(part), "{part} reached a client: {text}");
            }
            text.contains("after the flood").then_some(())
        })
        .await;
}

/// A key document of a server that is gone, as it once signed it.
fn document(name: &OwnedServerName, key: &Ed25519KeyPair, until: u64) -> CanonicalJsonObject {
    let id = format!("ed25519:{}", key.version());
    let public = Base64::<ruma::serde::base64::Standard>::new(key.public_key().to_vec()).encode();
    let json = json!({ "server_name": name, "valid_until_ts": until,
        "verify_keys": { (id): { "key": public } }, "old_verify_keys": {} });
    let mut object: CanonicalJsonObject = serde_json::from_value(json).unwrap();
    sign_json(name.as_str(), key, &mut object).unwrap();
    object
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_notary_is_believed_if_both_have_signed_and_the_operator_names_it() {
    let net = MemoryNet::new();
    let (b, c, m) = (Peer::start(&net, 1).await, Peer::start(&net, 3).await, Peer::start(&net, 2).await);
    let gone = OwnedServerName::try_from("gone.example").unwrap();
    let key = Ed25519KeyPair::from_der(&Ed25519KeyPair::generate(), "old".into()).unwrap();
    let told = document(&gone, &key, 1_900_000_000_000);
    let (name, bytes) = (gone.clone(), serde_json::to_vec(&told).unwrap());
    let row = server_keys::Stored { fetched_ms: 0, log: None, keys: Vec::new(), document: Some(bytes) };
    m.server.store.write(move |tx| server_keys::save(tx, &name, &row)).await.unwrap();
    let mask = Mask::put_on(&net, &m);
    let ids = std::collections::BTreeSet::from(["ed25519:old".to_owned()]);
    for peer in [&b, &c] {
        assert!(peer.server.remote.keyring().keys(&gone, &ids).await.is_err());
    }
    b.server.remote.keyring().trust(vec![m.name().to_owned()]);
    // Not the server's own signature, not the notary's, a document of another server, none at all.
    let forged = Ed25519KeyPair::from_der(&Ed25519KeyPair::generate(), "old".into()).unwrap();
    let other = document(&OwnedServerName::try_from("other.example").unwrap(), &key, 1_900_000_000_000);
    let mut unsigned = told.clone();
    unsigned.remove("signatures");
    let mut swapped = document(&gone, &forged, 1_900_000_000_000);
    swapped.insert("signatures".to_owned(), told["signatures"].clone());
    let lies =
        [json!([told]), json!([unsigned]), json!([swapped]), json!([other]), json!([]), json!([1, null])];
    for lie in lies {
        let answer = json!({ "server_keys": lie }).to_string().into_bytes();
        mask.lies(move |path, _| path.contains("/key/v2/query").then(|| answer.clone()));
        let asked = mask.asked("/key/v2/query");
        // A server that could not be asked is left alone for a moment.
        until("the notary is asked again", || async {
            let found = b.server.remote.keyring().keys(&gone, &ids).await;
            assert!(found.is_err(), "{lie}: {found:?}");
            (mask.asked("/key/v2/query") > asked).then_some(())
        })
        .await;
    }
    mask.speaks_truth();
    let found =
        until("the truth is told", || async { b.server.remote.keyring().keys(&gone, &ids).await.ok() }).await;
    assert_eq!(found.keys["ed25519:old"].key.as_bytes(), key.public_key());
    assert!(
        c.server.remote.keyring().keys(&gone, &ids).await.is_err(),
        "whoever names no notary believes none"
    );
}
