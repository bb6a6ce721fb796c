//! A server that signs whatever it wants: what it says is refused or changes nothing, and what it answers is not believed.

use std::sync::{Arc, Mutex};

use axum::{Router, body::Body};
use http_body_util::BodyExt as _;
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, OwnedRoomId, OwnedUserId, RoomOrAliasId,
    api::federation::transactions::send_transaction_message, serde::Raw, signatures::hash_and_sign_event,
};
use serde_json::{
    Value, json,
    value::{RawValue, to_raw_value},
};
use tower::ServiceExt as _;

use super::{
    harness::{Peer, signed, until},
    rooms::{bodies, create, join, say, sees, transaction},
};
use crate::{
    http::listen::overlay_service,
    remote::memory::MemoryNet,
    room::{Draft, RoomError, core::version},
};

/// What a masked server does with an answer of its own: (path, answer) to other bytes.
type Lie = Box<dyn Fn(&str, Value) -> Option<Vec<u8>> + Send>;

/// A server whose answers a test can change. Everything else it does as it should.
pub(super) struct Mask {
    lie: Arc<Mutex<Option<Lie>>>,
    /// Part of a path that is never answered.
    silent: Arc<Mutex<Option<&'static str>>>,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Mask {
    pub(super) fn put_on(net: &MemoryNet, peer: &Peer) -> Self {
        let lie: Arc<Mutex<Option<Lie>>> = Arc::default();
        let silent: Arc<Mutex<Option<&'static str>>> = Arc::default();
        let mute = silent.clone();
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let (real, hold, heard) = (overlay_service(Arc::clone(&peer.server)), lie.clone(), asked.clone());
        let service = Router::new().fallback(move |request: http::Request<Body>| {
            let (real, hold, heard, mute) = (real.clone(), hold.clone(), heard.clone(), mute.clone());
            async move {
                let path = request.uri().path().to_owned();
                heard.lock().unwrap().push(path.clone());
                let never = mute.lock().unwrap().is_some_and(|part| path.contains(part));
                if never {
                    std::future::pending::<()>().await;
                }
                let answer = real.oneshot(request).await.unwrap();
                let (mut parts, body) = answer.into_parts();
                let bytes = body.collect().await.unwrap().to_bytes();
                let value: Value = serde_json::from_slice(&bytes).unwrap_or_default();
                let told = hold.lock().unwrap().as_ref().and_then(|lie| lie(&path, value));
                if told.is_some() {
                    parts.status = http::StatusCode::OK;
                    parts.headers.remove("content-length");
                }
                http::Response::from_parts(parts, Body::from(told.unwrap_or_else(|| bytes.to_vec())))
            }
        });
        net.serve(peer.node(), service);
        Self { lie, silent, asked }
    }

    pub(super) fn is_silent_on(&self, part: &'static str) {
        *self.silent.lock().unwrap() = Some(part);
    }

    pub(super) fn lies(&self, lie: impl Fn(&str, Value) -> Option<Vec<u8>> + Send + 'static) {
        *self.lie.lock().unwrap() = Some(Box::new(lie));
    }

    pub(super) fn speaks_truth(&self) {
        *self.silent.lock().unwrap() = None;
        *self.lie.lock().unwrap() = None;
    }

    pub(super) fn asked(&self, part: &str) -> usize {
        self.asked.lock().unwrap().iter().filter(|path| path.contains(part)).count()
    }
}

/// Bob's server and a hostile one, with a room on the first that mallory has joined.
pub(super) struct Stage {
    pub(super) net: MemoryNet,
    pub(super) b: Peer,
    pub(super) m: Peer,
    pub(super) bob: OwnedUserId,
    pub(super) mallory: OwnedUserId,
    pub(super) room: OwnedRoomId,
}

pub(super) async fn stage() -> Stage {
    let net = MemoryNet::new();
    let (b, m) = (Peer::start(&net, 1).await, Peer::start(&net, 2).await);
    let (bob, mallory) = (b.user("bob").await, m.user("mallory").await);
    let room = create(&b, &bob, "11", true).await;
    join(&m, &mallory, &room, &b).await.unwrap();
    Stage { net, b, m, bob, mallory, room }
}

impl Stage {
    /// A message of mallory's on the room's present end, not sent.
    pub(super) async fn message(&self, text: &str) -> CanonicalJsonObject {
        let content = to_raw_value(&json!({ "msgtype": "m.text", "body": text })).unwrap();
        let draft = Draft::message("m.room.message", content);
        self.m.server.rooms.build(&self.room, &self.mallory, draft).await.unwrap()
    }

    /// Signed by mallory's server as it is now.
    pub(super) fn sign(&self, mut event: CanonicalJsonObject) -> CanonicalJsonObject {
        event.remove("signatures");
        event.remove("hashes");
        let rules = version::rules("11").unwrap();
        let identity = self.m.server.remote.identity();
        hash_and_sign_event(self.m.name().as_str(), &*identity.signing_key(), &mut event, &rules.redaction)
            .unwrap();
        event
    }

    /// Sends PDUs as they are; the status and the answer.
    pub(super) async fn push(&self, txn: &str, pdus: Vec<Box<RawValue>>) -> (u16, Value) {
        let key = self.m.server.remote.identity().signing_key();
        let request = signed(transaction(&self.m, txn, pdus), self.m.name(), self.b.name(), &key);
        self.b.ask(self.m.node(), request).await
    }

    pub(super) async fn life_goes_on(&self, text: &str) {
        say(&self.b.server.rooms, &self.bob, &self.room, text).await;
        sees(&self.m, &self.mallory, &self.room, text).await;
    }
}

pub(super) fn raw(event: &CanonicalJsonObject) -> Box<RawValue> {
    to_raw_value(event).unwrap()
}

pub(super) fn integer(value: i64) -> CanonicalJsonValue {
    CanonicalJsonValue::Integer(ruma::Int::new_saturating(value))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_that_do_not_hold_are_shown_to_nobody() {
    let stage = stage().await;
    let mask = Mask::put_on(&stage.net, &stage.m);
    // It knows nothing of what it refers to.
    mask.lies(|path, _| path.contains("get_missing_events").then(|| b"{\"events\":[]}".to_vec()));
    let good = stage.message("evil").await;
    let with = |key: &str, value: CanonicalJsonValue| {
        let mut event = good.clone();
        event.insert(key.to_owned(), value);
        stage.sign(event)
    };
    let id = "$jV2ADeXbYnFUAzhZxcNXH2BRDTc6x8wtqTXPAjfI6BE";
    let ids = |ids: &[&str]| CanonicalJsonValue::Array(ids.iter().map(|id| (*id).into()).collect());
    let mut unsigned = good.clone();
    unsigned.remove("signatures");
    let mut bent = good.clone();
    bent.insert("depth".to_owned(), integer(77));
    let many: Vec<String> = (0..21).map(|n| format!("${n:043}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let text = |event: &CanonicalJsonObject, from: &str, to: &str| {
        let text = raw(event).get().to_owned();
        assert!(text.contains(from), "{text}");
        RawValue::from_string(text.replacen(from, to, 1)).unwrap()
    };
    let cases: Vec<(&str, Box<RawValue>)> = vec![
        ("unsigned", raw(&unsigned)),
        ("changed after it was signed", raw(&bent)),
        ("too large", text(&good, "\"evil\"", &format!("\"{}\"", "evil".repeat(20_000)))),
        ("of negative depth", raw(&with("depth", integer(-1)))),
        ("building on what nobody has", raw(&with("prev_events", ids(&[id])))),
        ("building on too much", raw(&with("prev_events", ids(&many)))),
        ("building on nothing", raw(&with("prev_events", ids(&[])))),
        ("allowed by what nobody has", raw(&with("auth_events", ids(&[id])))),
        ("allowed by nothing", raw(&with("auth_events", ids(&[])))),
        ("another server's", raw(&with("sender", stage.bob.as_str().into()))),
        ("a user's who is not there", raw(&with("sender", format!("@nobody:{}", stage.m.name()).into()))),
        ("another room's", raw(&with("room_id", "!elsewhere:x".into()))),
    ];
    for (number, (what, pdu)) in cases.into_iter().enumerate() {
        let (status, answer) = stage.push(&format!("t{number}"), vec![pdu]).await;
        assert_eq!(status, 200, "{what}: a bad event is no bad transaction: {answer}");
        let seen = bodies(&stage.b, &stage.bob, &stage.room).await;
        assert!(!seen.iter().any(|body| body.contains("evil")), "{what} was shown: {seen:?}");
        let topic = stage.b.server.rooms.state_one(&stage.bob, &stage.room, "m.room.topic", "").await;
        assert!(topic.is_err(), "{what}");
    }
    mask.speaks_truth();
    stage.life_goes_on("after it all").await;
    assert_eq!(bodies(&stage.b, &stage.bob, &stage.room).await.last().unwrap(), "after it all");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transactions_beyond_the_limits_are_refused_whole() {
    let stage = stage().await;
    let one = raw(&stage.message("one of many").await);
    let (status, answer) = stage.push("many", vec![one; 51]).await;
    assert_eq!((status, &answer["errcode"]), (400, &"M_BAD_JSON".into()));
    let edu = json!({ "edu_type": "m.typing", "content": {
        "room_id": stage.room, "user_id": stage.mallory, "typing": true } });
    let mut request: send_transaction_message::v1::Request = transaction(&stage.m, "edus", Vec::new());
    request.edus = (0..101).map(|_| Raw::from_json(to_raw_value(&edu).unwrap())).collect();
    let key = stage.m.server.remote.identity().signing_key();
    let request = signed(request, stage.m.name(), stage.b.name(), &key);
    assert_eq!(stage.b.ask(stage.m.node(), request).await.0, 400);
    // Longer than 50 events can be.
    let long = RawValue::from_string(format!("{{\"a\":\"{}\"}}", "x".repeat(17 << 20))).unwrap();
    let (status, _) = stage.push("long", vec![long]).await;
    assert_eq!(status, 413);
    assert!(!bodies(&stage.b, &stage.bob, &stage.room).await.iter().any(|body| body == "one of many"));
    stage.life_goes_on("after the flood").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn state_that_is_made_up_for_a_gap_gives_no_power() {
    let stage = stage().await;
    let mask = Mask::put_on(&stage.net, &stage.m);
    // A history in which mallory was given all power: levels of its own making, a message on them that nobody has, one
    // on that. Only the last is pushed.
    let mut levels = stage.message("x").await;
    levels.insert("type".to_owned(), "m.room.power_levels".into());
    levels.insert("state_key".to_owned(), "".into());
    let users = CanonicalJsonObject::from([(stage.mallory.to_string(), integer(100))]);
    let content = CanonicalJsonObject::from([("users".to_owned(), users.into())]);
    levels.insert("content".to_owned(), content.into());
    let levels = stage.sign(levels);
    let rules = version::rules("11").unwrap();
    let id = |event: &CanonicalJsonObject| crate::room::core::check::event_id(event, &rules).unwrap();
    let on = |event: CanonicalJsonObject, prev: &CanonicalJsonObject| {
        let mut event = event;
        event.insert("prev_events".to_owned(), CanonicalJsonValue::Array(vec![id(prev).as_str().into()]));
        stage.sign(event)
    };
    let lost = on(stage.message("lost").await, &levels);
    let middle = on(stage.message("middle").await, &lost);
    let mut topic = stage.message("x").await;
    topic.insert("type".to_owned(), "m.room.topic".into());
    topic.insert("state_key".to_owned(), "".into());
    topic.insert(
        "content".to_owned(),
        CanonicalJsonObject::from([("topic".to_owned(), "mine".into())]).into(),
    );
    let mut auth: Vec<CanonicalJsonValue> = topic["auth_events"].as_array().unwrap().to_vec();
    auth.push(id(&levels).as_str().into());
    topic.insert("auth_events".to_owned(), CanonicalJsonValue::Array(auth));
    let topic = on(topic, &middle);
    let state: Vec<Value> = vec![json!(id(&levels))];
    let (gap, told) =
        (json!({ "events": [middle.clone()] }), json!({ "pdu_ids": state, "auth_chain_ids": [] }));
    let whole = json!({ "pdus": [levels.clone()], "auth_chain": [] });
    let event = json!({ "origin": stage.m.name(), "origin_server_ts": 1, "pdus": [levels.clone()] });
    mask.lies(move |path, _| {
        let answer = match path {
            path if path.contains("get_missing_events") => &gap,
            path if path.contains("state_ids") => &told,
            path if path.contains("/state/") => &whole,
            path if path.contains("/event/") => &event,
            _ => return None,
        };
        Some(answer.to_string().into_bytes())
    });
    let (status, _) = stage.push("t", vec![raw(&topic)]).await;
    assert_eq!(status, 200);
    until("the gap is looked into", || async { (mask.asked("state_ids") > 0).then_some(()) }).await;
    mask.speaks_truth();
    stage.life_goes_on("nothing has happened").await;
    let topic = stage.b.server.rooms.state_one(&stage.bob, &stage.room, "m.room.topic", "").await;
    assert!(topic.is_err(), "{topic:?}");
    let seen = bodies(&stage.b, &stage.bob, &stage.room).await;
    assert!(!seen.iter().any(|body| body == "lost"), "{seen:?}");
    let levels =
        stage.b.server.rooms.state_one(&stage.bob, &stage.room, "m.room.power_levels", "").await.unwrap();
    let levels: Value = serde_json::from_str(levels.get()).unwrap();
    assert!(levels["content"]["users"].get(stage.mallory.as_str()).is_none(), "{levels}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_join_through_a_server_that_lies_makes_no_room() {
    let net = MemoryNet::new();
    let (b, m) = (Peer::start(&net, 1).await, Peer::start(&net, 2).await);
    let (bob, mallory) = (b.user("bob").await, m.user("mallory").await);
    let mask = Mask::put_on(&net, &m);
    let other = create(&m, &mallory, "11", true).await;
    let other = m.server.rooms.state_one(&mallory, &other, "m.room.create", "").await.unwrap();
    let other: Value = serde_json::from_str(other.get()).unwrap();
    let of = |value: &Value, kind: &str| {
        let state = value["state"].as_array().cloned().unwrap_or_default();
        state.into_iter().filter(|event| event["type"] != kind).collect::<Vec<_>>()
    };
    let lies: Vec<(&str, Lie)> = vec![
        ("nothing", Box::new(|_, _| Some(b"{}".to_vec()))),
        ("no JSON", Box::new(|_, _| Some(b"<html>".to_vec()))),
        (
            "cut off",
            Box::new(|_, value| {
                let text = value.to_string();
                Some(text.as_bytes()[..text.len() / 2].to_vec())
            }),
        ),
        (
            "no state",
            Box::new(|_, mut value| {
                value["state"] = json!([]);
                Some(value.to_string().into_bytes())
            }),
        ),
        (
            "no create event",
            Box::new(move |_, mut value| {
                value["state"] = of(&value, "m.room.create").into();
                Some(value.to_string().into_bytes())
            }),
        ),
        (
            "another room's create event",
            Box::new(move |_, mut value| {
                let mut state = of(&value, "m.room.create");
                state.push(other.clone());
                value["state"] = state.into();
                Some(value.to_string().into_bytes())
            }),
        ),
        (
            "no signatures",
            Box::new(|_, mut value| {
                for list in ["state", "auth_chain"] {
                    for event in value[list].as_array_mut().into_iter().flatten() {
                        event["signatures"] = json!({});
                    }
                }
                Some(value.to_string().into_bytes())
            }),
        ),
        (
            "a state that does not let us in",
            Box::new(move |_, mut value| {
                value["state"] = of(&value, "m.room.join_rules").into();
                Some(value.to_string().into_bytes())
            }),
        ),
        (
            "numbers",
            Box::new(|_, mut value| {
                value["state"] = json!([1, 2.5, null, [], {}]);
                Some(value.to_string().into_bytes())
            }),
        ),
    ];
    for (what, lie) in lies {
        let room = create(&m, &mallory, "11", true).await;
        *mask.lie.lock().unwrap() =
            Some(Box::new(
                move |path, value| {
                    if path.contains("send_join") { lie(path, value) } else { None }
                },
            ));
        let target = <&RoomOrAliasId>::from(&*room);
        let joined = b.server.rooms.join(&bob, target, vec![m.name().to_owned()], None).await;
        assert!(joined.is_err(), "{what}: {joined:?}");
        assert!(!matches!(joined, Err(RoomError::Store(_))), "{what}: {joined:?}");
        assert!(!b.server.rooms.is_resident(&room).await.unwrap(), "{what} made a room");
        mask.speaks_truth();
        // The same room, told as it is: nothing is left of the lie.
        b.server.rooms.join(&bob, target, vec![m.name().to_owned()], None).await.unwrap();
        say(&m.server.rooms, &mallory, &room, "welcome").await;
        sees(&b, &bob, &room, "welcome").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn history_without_end_is_asked_for_a_page_at_a_time() {
    let stage = stage().await;
    // A room of mallory's, with a past that leads ever further.
    let room = create(&stage.m, &stage.mallory, "11", true).await;
    for n in 0..5 {
        say(&stage.m.server.rooms, &stage.mallory, &room, &format!("old {n}")).await;
    }
    let mask = Mask::put_on(&stage.net, &stage.m);
    join(&stage.b, &stage.bob, &room, &stage.m).await.unwrap();
    let content = to_raw_value(&json!({ "msgtype": "m.text", "body": "endless" })).unwrap();
    let draft = Draft::message("m.room.message", content);
    let template = stage.m.server.rooms.build(&room, &stage.mallory, draft).await.unwrap();
    let (key, name) = (stage.m.server.remote.identity().signing_key(), stage.m.name().to_owned());
    let count = Arc::new(Mutex::new(0_u64));
    mask.lies(move |path, _| {
        if !path.contains("/backfill/") {
            return None;
        }
        let rules = version::rules("11").unwrap();
        let mut count = count.lock().unwrap();
        let pdus: Vec<CanonicalJsonObject> = (0..100)
            .map(|_| {
                *count += 1;
                let mut event = template.clone();
                let prev = format!("${:042}A", *count);
                event.insert("prev_events".to_owned(), CanonicalJsonValue::Array(vec![prev.into()]));
                event.insert("depth".to_owned(), integer(1));
                event.remove("signatures");
                event.remove("hashes");
                hash_and_sign_event(name.as_str(), &*key, &mut event, &rules.redaction).unwrap();
                event
            })
            .collect();
        let answer = json!({ "origin": name, "origin_server_ts": 1, "pdus": pdus });
        Some(answer.to_string().into_bytes())
    });
    for page in 1..=3 {
        bodies_page(&stage, &room).await;
        assert!(mask.asked("/backfill/") <= 3 * page, "{} questions", mask.asked("/backfill/"));
    }
    mask.speaks_truth();
    say(&stage.m.server.rooms, &stage.mallory, &room, "the present").await;
    sees(&stage.b, &stage.bob, &room, "the present").await;
}

/// One page of history, as a client asks for it.
async fn bodies_page(stage: &Stage, room: &OwnedRoomId) {
    let query = crate::room::read::MessagesQuery {
        from: None,
        to: None,
        backwards: true,
        limit: 1000,
        lazy_members: false,
        filter: None,
        relations: Default::default(),
        device: None,
    };
    stage.b.server.rooms.messages(&stage.bob, room, query).await.unwrap();
}
