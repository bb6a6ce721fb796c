//! A room with a policy server: nothing is said without its word, whoever says it, and nobody waits for it for long.

use std::sync::{Arc, Mutex};

use axum::{Router, body::Body, response::IntoResponse as _};
use http_body_util::BodyExt as _;
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, RoomId, UserId,
    events::room::policy::POLICY_SERVER_ED25519_SIGNING_KEY_ID as KEY_ID,
    serde::Base64,
    signatures::{Ed25519KeyPair, hash_and_sign_event},
};
use serde_json::{json, value::to_raw_value};
use tower::ServiceExt as _;

use super::{
    harness::Peer,
    hostile::{Stage, raw, stage},
    rooms::{bodies, join, say, sees},
};
use crate::{
    http::listen::overlay_service,
    room::{Draft, RoomError, Rooms, core::version},
};

/// What the policy server does when it is asked.
#[derive(Clone, Copy, PartialEq)]
enum Mood {
    /// Signs what does not speak of spam.
    Judges,
    /// Signs everything, with a key that the room does not name.
    Cheats,
    /// Never answers.
    Sleeps,
}

struct Police {
    peer: Peer,
    mood: Arc<Mutex<Mood>>,
    asked: Arc<Mutex<Vec<String>>>,
    public: Base64,
}

impl Police {
    async fn start(stage: &Stage) -> Self {
        let peer = Peer::start(&stage.net, 3).await;
        let make =
            || Ed25519KeyPair::from_der(&Ed25519KeyPair::generate(), "policy_server".to_owned()).unwrap();
        let (key, other) = (make(), Arc::new(make()));
        let public = Base64::new(key.public_key().to_vec());
        let key = Arc::new(key);
        let (mood, asked) = (Arc::new(Mutex::new(Mood::Judges)), Arc::new(Mutex::new(Vec::new())));
        let (real, name) = (overlay_service(Arc::clone(&peer.server)), peer.name().to_owned());
        let (mood_now, heard) = (mood.clone(), asked.clone());
        let service = Router::new().fallback(move |request: http::Request<Body>| {
            let (real, name, mood, heard) = (real.clone(), name.clone(), mood_now.clone(), heard.clone());
            let (key, other) = (key.clone(), other.clone());
            async move {
                if request.uri().path() != "/_matrix/policy/v1/sign" {
                    return real.oneshot(request).await.unwrap();
                }
                assert!(request.headers().contains_key("authorization"), "it is told who asks");
                let body = request.into_body().collect().await.unwrap().to_bytes();
                let mut event: CanonicalJsonObject = serde_json::from_slice(&body).unwrap();
                heard.lock().unwrap().push(String::from_utf8(body.to_vec()).unwrap());
                let mood = *mood.lock().unwrap();
                if mood == Mood::Sleeps {
                    std::future::pending::<()>().await;
                }
                if mood == Mood::Judges && String::from_utf8_lossy(&body).contains("spam") {
                    let no = json!({ "errcode": "M_FORBIDDEN", "error": "we know this kind" }).to_string();
                    return (http::StatusCode::BAD_REQUEST, no).into_response();
                }
                let key = if mood == Mood::Cheats { other } else { key };
                let rules = version::rules("11").unwrap();
                hash_and_sign_event(name.as_str(), &*key, &mut event, &rules.redaction).unwrap();
                let CanonicalJsonValue::Object(mut all) = event.remove("signatures").unwrap() else {
                    unreachable!()
                };
                let own = all.remove(name.as_str()).unwrap();
                let answer = CanonicalJsonObject::from([(name.to_string(), own)]);
                serde_json::to_string(&answer).unwrap().into_response()
            }
        });
        stage.net.serve(peer.node(), service);
        Self { peer, mood, asked, public }
    }

    fn is(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
    }

    fn asked(&self) -> usize {
        self.asked.lock().unwrap().len()
    }

    /// Makes it the room's, by a member of whom it is.
    async fn begin(&self, stage: &Stage) -> ruma::OwnedUserId {
        let pat = self.peer.user("pat").await;
        join(&self.peer, &pat, &stage.room, &stage.b).await.unwrap();
        let content = json!({ "via": self.peer.name(), "public_keys": { "ed25519": self.public } });
        set(&stage.b.server.rooms, &stage.bob, &stage.room, content).await;
        pat
    }
}

async fn set(rooms: &Rooms, user: &UserId, room: &RoomId, content: serde_json::Value) {
    let draft = Draft::state("m.room.policy", "", to_raw_value(&content).unwrap());
    rooms.send(user, room, draft, None).await.unwrap();
}

async fn try_to_say(peer: &Peer, user: &UserId, room: &RoomId, text: &str) -> Result<(), RoomError> {
    let content = to_raw_value(&json!({ "msgtype": "m.text", "body": text })).unwrap();
    peer.server.rooms.send(user, room, Draft::message("m.room.message", content), None).await.map(drop)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_said_without_the_policy_servers_word() {
    let stage = stage().await;
    let Stage { b, m, bob, mallory, room, .. } = &stage;
    let police = Police::start(&stage).await;
    police.begin(&stage).await;
    assert_eq!(police.asked(), 0, "the event that names it needs no word of it");

    // What is let through reaches everybody, and is asked about once: whoever gets it checks the signature.
    say(&b.server.rooms, bob, room, "good morning").await;
    sees(m, mallory, room, "good morning").await;
    assert_eq!(police.asked(), 1);
    assert!(!police.asked.lock().unwrap()[0].contains("unsigned"));
    // The other server has learnt of the policy with the state.
    say(&m.server.rooms, mallory, room, "good morning, too").await;
    sees(b, bob, room, "good morning, too").await;
    assert_eq!(police.asked(), 2);

    // What is not let through is refused, with what the policy server says of it, and leaves no trace.
    let error = try_to_say(b, bob, room, "buy spam").await.unwrap_err();
    assert!(matches!(error, RoomError::Forbidden(_)), "{error:?}");
    assert!(error.to_string().contains("we know this kind"), "{error}");
    say(&b.server.rooms, bob, room, "sorry").await;
    sees(m, mallory, room, "sorry").await;
    assert!(!bodies(b, bob, room).await.contains(&"buy spam".to_owned()));

    // A server that does not ask: we do, and what gets no signature is kept from everybody.
    let asked = police.asked();
    let good = stage.message("harmless, unsigned").await;
    let (status, answer) = stage.push("1", vec![raw(&good)]).await;
    assert_eq!(status, 200, "{answer}");
    sees(b, bob, room, "harmless, unsigned").await;
    let bad = stage.message("smuggled spam").await;
    let mut forged = stage.message("smuggled spam with a signature").await;
    let Some(CanonicalJsonValue::Object(signatures)) = forged.get_mut("signatures") else { unreachable!() };
    let own = CanonicalJsonObject::from([(KEY_ID.to_owned(), "A".repeat(86).into())]);
    signatures.insert(police.peer.name().to_string(), own.into());
    let (status, answer) = stage.push("2", vec![raw(&bad), raw(&forged)]).await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(police.asked(), asked + 3);
    say(&b.server.rooms, bob, room, "still here").await;
    sees(m, mallory, room, "still here").await;
    let seen = bodies(b, bob, room).await;
    assert!(!seen.iter().any(|body| body.contains("smuggled")), "{seen:?}");

    // A signature by another key than the room names is none.
    police.is(Mood::Cheats);
    let error = try_to_say(b, bob, room, "signed by somebody").await.unwrap_err();
    assert!(error.to_string().contains("not by the key"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_server_that_sleeps_or_left_holds_nobody_up() {
    let stage = stage().await;
    let Stage { b, m, bob, mallory, room, .. } = &stage;
    let police = Police::start(&stage).await;
    let pat = police.begin(&stage).await;
    police.is(Mood::Sleeps);
    let begun = std::time::Instant::now();
    let error = try_to_say(b, bob, room, "is anybody there").await.unwrap_err();
    assert!(matches!(error, RoomError::Unreachable(_)), "{error:?}");
    let asked = police.asked();
    for _ in 0..20 {
        let error = try_to_say(b, bob, room, "and now").await.unwrap_err();
        assert!(error.to_string().contains("did not answer lately"), "{error}");
    }
    assert_eq!(police.asked(), asked, "it is left alone for a while");
    let unheard = stage.message("nobody could be asked").await;
    stage.push("1", vec![raw(&unheard)]).await;
    assert!(begun.elapsed() < std::time::Duration::from_secs(10), "{:?}", begun.elapsed());
    // Whoever leaves needs nobody's leave, and the room can be rid of it.
    let carl = b.user("carl").await;
    set(&b.server.rooms, bob, room, json!({})).await;
    say(&b.server.rooms, bob, room, "free").await;
    sees(m, mallory, room, "free").await;
    assert!(!bodies(b, bob, room).await.contains(&"nobody could be asked".to_owned()));
    b.server.rooms.join(&carl, (&**room).into(), Vec::new(), None).await.unwrap();
    let content = json!({ "via": police.peer.name(), "public_keys": { "ed25519": police.public } });
    set(&b.server.rooms, bob, room, content.clone()).await;
    b.server.rooms.leave(&carl, room, None).await.unwrap();
    // One of whom nobody is in the room has no say.
    b.server.rooms.kick(bob, room, &pat, None).await.unwrap_err();
    set(&b.server.rooms, bob, room, json!({})).await;
    b.server.rooms.kick(bob, room, &pat, None).await.unwrap();
    set(&b.server.rooms, bob, room, content).await;
    say(&b.server.rooms, bob, room, "without it").await;
    sees(m, mallory, room, "without it").await;
}
