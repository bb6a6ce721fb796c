//! Calls: credentials for TURN, and seats in the media server for members of a room.

use std::sync::Mutex;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

use super::*;
use crate::calls::{CallSettings, LiveKit, Turn};

type Asked = Arc<Mutex<Vec<(String, Value)>>>;

/// A LiveKit server on loopback, as far as we speak to it: what it was asked to make.
async fn livekit() -> (String, Asked) {
    async fn answer(
        axum::extract::State(asked): axum::extract::State<Asked>,
        request: axum::extract::Request,
    ) -> String {
        assert_eq!(request.uri().path(), "/twirp/livekit.RoomService/CreateRoom");
        let bearer = request.headers()["authorization"].to_str().unwrap().to_owned();
        let body = request.into_body().collect().await.unwrap().to_bytes();
        asked.lock().unwrap().push((bearer, serde_json::from_slice(&body).unwrap()));
        "{}".into()
    }
    let asked = Asked::default();
    let app = Router::new().fallback(answer).with_state(Arc::clone(&asked));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, app).await });
    (url, asked)
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
    let (api_url, asked) = livekit().await;
    let livekit = LiveKit {
        url: "wss://sfu.example.org".into(),
        api_key: "key".into(),
        api_secret: router::config::Secret::new("a secret of at least thirty-two bytes"),
        api_url: Some(api_url),
    };
    let calls = CallSettings { turn: None, livekit: Some(livekit) };
    let public_url = Some("https://chat.example.org".to_owned());
    let home = Home::new(Settings { calls, public_url, ..open() }).await;
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
