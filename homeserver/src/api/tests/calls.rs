//! Calls: credentials for TURN, and seats in the media server for members of a room.

use std::sync::Mutex;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

use super::*;
use crate::calls::{CallSettings, LiveKit, Turn};

type Asked = Arc<Mutex<Vec<(String, Value)>>>;

/// Who is in its calls, as a LiveKit server says it; none: it does not answer.
type There = Arc<Mutex<Option<Value>>>;

/// A LiveKit server on loopback, as far as we speak to it: what it was asked to make, and who is there.
async fn livekit() -> (String, Asked, There) {
    async fn answer(
        axum::extract::State((asked, there)): axum::extract::State<(Asked, There)>,
        request: axum::extract::Request,
    ) -> (StatusCode, String) {
        let bearer = request.headers()["authorization"].to_str().unwrap().to_owned();
        let method = request.uri().path().strip_prefix("/twirp/livekit.RoomService/").unwrap().to_owned();
        let body = request.into_body().collect().await.unwrap().to_bytes();
        if method == "ListParticipants" {
            assert_eq!(claims(&bearer)["video"]["roomAdmin"], true);
            return match &*there.lock().unwrap() {
                Some(there) => (StatusCode::OK, json!({ "participants": there }).to_string()),
                None => (StatusCode::SERVICE_UNAVAILABLE, String::new()),
            };
        }
        assert_eq!(method, "CreateRoom");
        asked.lock().unwrap().push((bearer, serde_json::from_slice(&body).unwrap()));
        (StatusCode::OK, "{}".into())
    }
    let (asked, there) = (Asked::default(), There::new(Mutex::new(Some(json!([])))));
    let app = Router::new().fallback(answer).with_state((Arc::clone(&asked), Arc::clone(&there)));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, app).await });
    (url, asked, there)
}

fn settings(api_url: String) -> Settings {
    let livekit = LiveKit {
        url: "wss://sfu.example.org".into(),
        api_key: "key".into(),
        api_secret: router::config::Secret::new("a secret of at least thirty-two bytes"),
        api_url: Some(api_url),
    };
    let calls = CallSettings { turn: None, livekit: Some(livekit) };
    Settings { calls, public_url: Some("https://chat.example.org".to_owned()), ..open() }
}

fn claims(jwt: &str) -> Value {
    let part = jwt.strip_prefix("Bearer ").unwrap_or(jwt).split('.').nth(1).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
}

#[tokio::test]
async fn turn_credentials_are_for_users_and_for_guests_if_they_may() {
    let turn = Turn {
        uris: vec!["turn:t.example.org".into()],
        shared_secret: router::config::Secret::new("secret"),
        lifetime: 600,
        guests: false,
    };
    let calls = CallSettings { turn: Some(turn), livekit: None };
    let home = Home::new(Settings { calls, ..open() }).await;
    let alice = home.user("alice").await;
    let (_, told) = home.get("/_matrix/client/v3/voip/turnServer", &alice).await;
    assert_eq!(told["uris"], json!(["turn:t.example.org"]));
    assert_eq!(told["ttl"], 600);
    assert_eq!(told["username"], format!("{}:{}", home.server.clock.now_ms() / 1000 + 600, alice.id));
    let (_, transports) =
        home.get("/_matrix/client/unstable/org.matrix.msc4143/rtc/transports", &alice).await;
    assert_eq!(transports, json!({ "rtc_transports": [] }), "there is no media server");
}

#[tokio::test]
async fn members_get_seats_in_their_rooms_calls() {
    let (api_url, asked, _) = livekit().await;
    let home = Home::new(settings(api_url)).await;
    let (alice, eve) = (home.user("alice").await, home.user("eve").await);
    let service = "https://chat.example.org/_mangrove/rtc";
    let (_, told) = home.get("/_matrix/client/unstable/org.matrix.msc4143/rtc/transports", &alice).await;
    assert_eq!(told["rtc_transports"][0]["livekit_service_url"], service, "{told}");
    let (_, told) = home.call(Method::GET, "/.well-known/matrix/client", None, Value::Null).await;
    assert_eq!(told["org.matrix.msc4143.rtc_foci"][0]["livekit_service_url"], service, "{told}");

    let (_, made) = home.post("/_matrix/client/v3/createRoom", &alice, json!({})).await;
    let room = made["room_id"].as_str().unwrap();
    let openid = async |user: &User| {
        let path = format!("/_matrix/client/v3/user/{}/openid/request_token", user.id);
        home.post(&path, user, json!({})).await.1
    };
    let (alices, eves) = (openid(&alice).await, openid(&eve).await);
    let ask = async |path: &str, body: Value| home.call(Method::POST, path, None, body).await;

    // As today's clients ask.
    let body = json!({ "room": room, "openid_token": alices, "device_id": "ADEV" });
    let (status, old) = ask("/_mangrove/rtc/sfu/get", body).await;
    assert_eq!((status, &old["url"]), (StatusCode::OK, &json!("wss://sfu.example.org")), "{old}");
    let seat = claims(old["jwt"].as_str().unwrap());
    assert_eq!(seat["sub"], format!("{}:ADEV", alice.id));
    assert_eq!((&seat["video"]["roomJoin"], &seat["video"]["roomCreate"]), (&json!(true), &json!(false)));
    {
        let asked = asked.lock().unwrap();
        let (bearer, made) = &asked[0];
        assert_eq!(made["name"], seat["video"]["room"], "the room is made before anybody is let in");
        assert_eq!(claims(bearer)["video"]["roomCreate"], true);
    }
    // As MSC4195 has it, through the service and through the client API: one call, one name.
    let member = json!({ "id": "m1", "claimed_user_id": alice.id, "claimed_device_id": alice.device });
    let body = json!({ "room_id": room, "slot_id": "m.call#ROOM", "openid_token": alices, "member": member });
    let (_, new) = ask("/_mangrove/rtc/get_token", body).await;
    let path = "/_matrix/client/unstable/io.element.msc4195/rtc/livekit/get_token";
    let body = json!({ "url": "wss://sfu.example.org", "room_id": room, "slot_id": "m.call#ROOM", "member_id": "m1" });
    let (status, direct) = home.post(path, &alice, body.clone()).await;
    assert_eq!(status, StatusCode::OK, "{direct}");
    let (new, direct) = (claims(new["jwt"].as_str().unwrap()), claims(direct["jwt"].as_str().unwrap()));
    assert_eq!(new["video"]["room"], seat["video"]["room"]);
    assert_eq!((&new["sub"], &new["video"]), (&direct["sub"], &direct["video"]));

    // Who is not in the room, comes with another's token or with none.
    let before = asked.lock().unwrap().len();
    for (path, body) in [
        ("/_mangrove/rtc/sfu/get", json!({ "room": room, "openid_token": eves, "device_id": "E" })),
        (
            "/_mangrove/rtc/get_token",
            json!({ "room_id": room, "slot_id": "x", "openid_token": eves,
                "member": { "id": "m", "claimed_user_id": alice.id, "claimed_device_id": "A" } }),
        ),
        (
            "/_mangrove/rtc/sfu/get",
            json!({ "room": room, "device_id": "E",
                "openid_token": { "access_token": "nonsense", "matrix_server_name": home.server.name } }),
        ),
    ] {
        assert_error(ask(path, body).await, 403, "M_FORBIDDEN");
    }
    assert_error(home.post(path, &eve, body).await, 403, "M_FORBIDDEN");
    assert_eq!(asked.lock().unwrap().len(), before, "no room is made for them");
}

#[tokio::test]
async fn a_leave_that_is_handed_over_goes_out_when_its_sender_is_gone_from_the_call() {
    let (api_url, _, there) = livekit().await;
    let home = Home::new(settings(api_url)).await;
    let (alice, eve) = (home.user("alice").await, home.user("eve").await);
    let (_, made) = home.post("/_matrix/client/v3/createRoom", &alice, json!({})).await;
    let room = made["room_id"].as_str().unwrap();
    let clock = &home.server.clock;
    let watch = home.server.watch.as_ref().unwrap();
    let later = async |txn: &str| {
        let path = format!(
            "/_matrix/client/v3/rooms/{room}/send/org.matrix.msc4143.rtc.member/{txn}?org.matrix.msc4140.delay=20000"
        );
        let (status, answer) = home.put(&path, &alice, json!({})).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        answer["delay_id"].as_str().unwrap().to_owned()
    };
    let base = "/_matrix/client/unstable/io.element.msc4195/rtc/livekit";
    let call = json!({ "url": "wss://sfu.example.org", "room_id": room, "slot_id": "m.call#ROOM", "member_id": "m1" });
    let (_, token) = home.post(&format!("{base}/get_token"), &alice, call.clone()).await;
    let me = json!([{ "identity": claims(token["jwt"].as_str().unwrap())["sub"], "state": "ACTIVE" }]);
    let hand_over = async |user: &User, id: &str| {
        let mut body = call.clone();
        body["delay_id"] = id.into();
        home.post(&format!("{base}/delegate_delayed_leave"), user, body).await
    };
    let sent = async |id: &str| {
        let path = format!("/_matrix/client/unstable/org.matrix.msc4140/delayed_events/{id}");
        home.server.delayed.send_due().await.unwrap();
        let (_, told) = home.get(&path, &alice).await;
        told["event_id"].is_string()
    };
    let wait = async |seconds: u64| {
        for _ in 0..seconds {
            clock.advance(1_000);
            watch.look().await.unwrap();
        }
    };
    let leave = later("t1").await;
    assert_error(hand_over(&eve, &leave).await, 404, "M_NOT_FOUND");
    assert_error(hand_over(&alice, "nonsense").await, 404, "M_NOT_FOUND");
    assert_eq!(hand_over(&alice, &leave).await.0, StatusCode::OK);
    // She takes her time to connect, and is there for long: it waits. It goes out once she is gone.
    wait(30).await;
    assert!(!sent(&leave).await, "she may still come");
    *there.lock().unwrap() = Some(me.clone());
    wait(120).await;
    assert!(!sent(&leave).await, "she is there");
    *there.lock().unwrap() = Some(json!([]));
    wait(1).await;
    assert!(sent(&leave).await, "she is gone");
    // Who never comes is let go after a minute; the event goes out when its own time is over.
    let leave = later("t2").await;
    assert_eq!(hand_over(&alice, &leave).await.0, StatusCode::OK);
    wait(70).await;
    assert!(!sent(&leave).await);
    wait(21).await;
    assert!(sent(&leave).await);
    // While the media server does not answer, nothing is put off.
    let leave = later("t3").await;
    *there.lock().unwrap() = Some(me);
    assert_eq!(hand_over(&alice, &leave).await.0, StatusCode::OK);
    wait(30).await;
    *there.lock().unwrap() = None;
    wait(10).await;
    assert!(!sent(&leave).await);
    wait(15).await;
    assert!(sent(&leave).await);
    assert_eq!(hand_over(&alice, &leave).await.0, StatusCode::CONFLICT);
}
