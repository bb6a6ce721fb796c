//! A service of our own: what it may do, what it is told, and that it is told all of it.

use std::sync::{Arc, atomic::AtomicUsize};

use axum::{
    Router,
    extract::{Request, State},
};
use http::{Method, StatusCode};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::registration::Registration;
use crate::{
    api::tests::{Home, User, assert_error, open},
    server::Settings,
};

/// A service on loopback: hands on what it is asked; fails its first `fail` transactions.
struct Service {
    url: String,
    asked: mpsc::UnboundedReceiver<(String, Value)>,
}

type Shared = (mpsc::UnboundedSender<(String, Value)>, Arc<AtomicUsize>);

async fn answer(State((sender, left)): State<Shared>, request: Request) -> (StatusCode, String) {
    let path = request.uri().path().strip_prefix("/_matrix/app/v1/").unwrap().to_owned();
    if request.headers()["authorization"] != "Bearer hs" {
        return (StatusCode::FORBIDDEN, "{}".into());
    }
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    let order = std::sync::atomic::Ordering::SeqCst;
    if path.starts_with("transactions/")
        && left.fetch_update(order, order, |left| left.checked_sub(1)).is_ok()
    {
        sender.send((format!("failed {path}"), body)).unwrap();
        return (StatusCode::INTERNAL_SERVER_ERROR, "{}".into());
    }
    let answer = match &*path {
        "thirdparty/protocol/irc" => {
            json!({"user_fields": ["nick"], "instances": [{"network_id": "oftc", "desc": "OFTC"}]})
        }
        "thirdparty/user/irc" => json!([{"userid": "@as_x:a", "protocol": "irc", "fields": {}}]),
        _ => json!({}),
    };
    sender.send((path, body)).unwrap();
    (StatusCode::OK, answer.to_string())
}

impl Service {
    async fn new(fail: usize) -> Self {
        let (sender, asked) = mpsc::unbounded_channel();
        let app = Router::new().fallback(answer).with_state((sender, Arc::new(AtomicUsize::new(fail))));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, app).await });
        Self { url, asked }
    }

    fn registration(&self) -> Arc<Registration> {
        let text = format!(
            "id: test\nurl: {}\nas_token: as\nhs_token: hs\nsender_localpart: bot\nprotocols: [irc]\n\
             namespaces:\n  users:\n  - regex: '@as_.*'\n    exclusive: true\n  aliases:\n  - regex: '#as_.*'\n    exclusive: true\n\
             receive_ephemeral: true\norg.matrix.msc3202: true\n",
            self.url
        );
        Arc::new(Registration::parse(&text).unwrap())
    }

    async fn next(&mut self) -> (String, Value) {
        let next = tokio::time::timeout(std::time::Duration::from_secs(20), self.asked.recv());
        next.await.expect("a question in time").unwrap()
    }

    /// The next event of this type that it is told.
    async fn event(&mut self, kind: &str) -> Value {
        loop {
            let (_, body) = self.next().await;
            let found = body["events"].as_array().into_iter().flatten().find(|event| event["type"] == kind);
            if let Some(found) = found {
                return found.clone();
            }
        }
    }
}

async fn home(service: &Service) -> Home {
    let home = Home::new(Settings { appservices: vec![service.registration()], ..open() }).await;
    // Its own user is made beside the start.
    let until = tokio::time::Instant::now() + std::time::Duration::from_secs(20);
    while whoami(&home, "").await.0 != StatusCode::OK {
        assert!(tokio::time::Instant::now() < until, "the service's user is made");
        tokio::task::yield_now().await;
    }
    home
}

async fn whoami(home: &Home, query: &str) -> (StatusCode, Value) {
    let path = format!("/_matrix/client/v3/account/whoami{query}");
    home.call(Method::GET, &path, Some("as"), Value::Null).await
}

fn as_user(home: &Home, name: &str) -> User {
    User { id: format!("@{name}:{}", home.server.name), token: "as".into(), device: String::new() }
}

async fn register(home: &Home, name: &str) -> (StatusCode, Value) {
    let body = json!({"type": "m.login.application_service", "username": name, "inhibit_login": true});
    home.call(Method::POST, "/_matrix/client/v3/register", Some("as"), body).await
}

#[tokio::test]
async fn a_service_acts_as_its_users_and_as_nobody_else() {
    let service = Service::new(0).await;
    let home = home(&service).await;
    let alice = home.user("alice").await;
    let (_, who) = whoami(&home, "").await;
    assert_eq!((&who["user_id"], who.get("device_id")), (&json!(format!("@bot:{}", home.server.name)), None));
    assert_eq!(register(&home, "as_x").await.0, StatusCode::OK);
    assert_error(register(&home, "other").await, 400, "M_EXCLUSIVE");
    let ghost = as_user(&home, "as_x");
    let (_, who) = whoami(&home, &format!("?user_id={}", ghost.id)).await;
    assert_eq!(who["user_id"], json!(ghost.id));
    assert_error(whoami(&home, &format!("?user_id={}", alice.id)).await, 403, "M_FORBIDDEN");
    assert_error(whoami(&home, &format!("?user_id=@as_new:{}", home.server.name)).await, 403, "M_FORBIDDEN");
    // Nobody else takes its names.
    let body =
        json!({"username": "as_y", "password": "correct horse battery", "auth": {"type": "m.login.dummy"}});
    assert_error(
        home.call(Method::POST, "/_matrix/client/v3/register", None, body).await,
        400,
        "M_EXCLUSIVE",
    );
    let (_, made) = home.post("/_matrix/client/v3/createRoom", &alice, json!({})).await;
    let alias = format!("/_matrix/client/v3/directory/room/%23as_r%3A{}", home.server.name);
    assert_error(home.put(&alias, &alice, json!({"room_id": made["room_id"]})).await, 400, "M_EXCLUSIVE");
    // Devices without a log-in, and with one.
    let device = format!("/_matrix/client/v3/devices/D1?user_id={}", ghost.id);
    assert_eq!(home.put(&device, &ghost, json!({"display_name": "x"})).await.0, StatusCode::CREATED);
    let (_, who) = whoami(&home, &format!("?user_id={}&device_id=D1", ghost.id)).await;
    assert_eq!(who["device_id"], "D1");
    assert_error(
        whoami(&home, &format!("?user_id={}&device_id=D2", ghost.id)).await,
        400,
        "M_UNKNOWN_DEVICE",
    );
    let (status, _) = home.call(Method::DELETE, &device, Some("as"), json!({})).await;
    assert_eq!(status, StatusCode::OK, "no proof is asked of a service");
    let login =
        json!({"type": "m.login.application_service", "identifier": {"type": "m.id.user", "user": ghost.id}});
    let (status, session) =
        home.call(Method::POST, "/_matrix/client/v3/login", Some("as"), login.clone()).await;
    assert_eq!((status, &session["user_id"]), (StatusCode::OK, &json!(ghost.id)));
    assert_error(
        home.call(Method::POST, "/_matrix/client/v3/login", None, login).await,
        401,
        "M_MISSING_TOKEN",
    );
}

#[tokio::test]
async fn a_service_is_told_in_order_and_again_until_it_takes_it() {
    let mut service = Service::new(2).await;
    let home = home(&service).await;
    let alice = home.user("alice").await;
    register(&home, "as_x").await;
    let ghost = as_user(&home, "as_x");
    let (_, made) =
        home.post("/_matrix/client/v3/createRoom", &alice, json!({"preset": "public_chat"})).await;
    let room = made["room_id"].as_str().unwrap().to_owned();
    let invite = json!({"user_id": ghost.id});
    home.post(&format!("/_matrix/client/v3/rooms/{room}/invite"), &alice, invite).await;
    // It fails twice: the same transaction, by the same id.
    let (first, body) = service.next().await;
    let (second, again) = service.next().await;
    assert!(first.starts_with("failed transactions/"), "{first}");
    assert_eq!((&second, &again["events"]), (&first, &body["events"]));
    let told = service.event("m.room.member").await;
    assert_eq!((&told["state_key"], &told["room_id"]), (&json!(ghost.id), &json!(room)));
    let join = format!("/_matrix/client/v3/join/{room}?user_id={}", ghost.id);
    assert_eq!(home.post(&join, &ghost, json!({})).await.0, StatusCode::OK);
    let say = format!("/_matrix/client/v3/rooms/{room}/send/m.room.message/t1");
    let (_, sent) = home.put(&say, &alice, json!({"msgtype": "m.text", "body": "hello"})).await;
    let told = service.event("m.room.message").await;
    assert_eq!((&told["event_id"], &told["content"]["body"]), (&sent["event_id"], &json!("hello")));
    // Who types, who has read.
    let typing = format!("/_matrix/client/v3/rooms/{room}/typing/{}", alice.id);
    home.put(&typing, &alice, json!({"typing": true, "timeout": 30_000})).await;
    let ephemeral = loop {
        let (_, body) = service.next().await;
        if let Some(first) = body["ephemeral"].as_array().and_then(|list| list.first()) {
            break first.clone();
        }
    };
    assert_eq!(
        (&ephemeral["type"], &ephemeral["content"]["user_ids"]),
        (&json!("m.typing"), &json!([alice.id]))
    );
    // A message to a device that has no other way.
    let device = format!("/_matrix/client/v3/devices/D1?user_id={}", ghost.id);
    home.put(&device, &ghost, json!({})).await;
    let message = json!({"messages": {&ghost.id: {"D1": {"n": 1}}}});
    home.put("/_matrix/client/v3/sendToDevice/x.msg/t1", &alice, message).await;
    let told = loop {
        let (_, body) = service.next().await;
        if let Some(first) = body["to_device"].as_array().and_then(|list| list.first()) {
            break first.clone();
        }
    };
    assert_eq!(
        (&told["to_user_id"], &told["to_device_id"], &told["content"]["n"]),
        (&json!(ghost.id), &json!("D1"), &json!(1))
    );
}

#[tokio::test]
async fn a_service_is_asked() {
    let mut service = Service::new(0).await;
    let home = home(&service).await;
    let alice = home.user("alice").await;
    let alias = format!("/_matrix/client/v3/directory/room/%23as_r%3A{}", home.server.name);
    let (status, _) = home.get(&alias, &alice).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    assert!(service.next().await.0.starts_with("rooms/%23as"));
    let (_, all) = home.get("/_matrix/client/v3/thirdparty/protocols", &alice).await;
    assert_eq!(all["irc"]["user_fields"], json!(["nick"]));
    assert_eq!(all["irc"]["instances"][0]["instance_id"], "test|oftc");
    let (_, users) = home.get("/_matrix/client/v3/thirdparty/user/irc?nick=x", &alice).await;
    assert_eq!(users[0]["userid"], "@as_x:a");
    assert_error(home.get("/_matrix/client/v3/thirdparty/protocol/xmpp", &alice).await, 404, "M_NOT_FOUND");
    let ping = "/_matrix/client/v1/appservice/test/ping";
    let (status, took) = home.call(Method::POST, ping, Some("as"), json!({"transaction_id": "t"})).await;
    assert_eq!(status, StatusCode::OK);
    assert!(took["duration_ms"].is_u64());
    assert_error(home.post(ping, &alice, json!({})).await, 401, "M_UNKNOWN_TOKEN");
    let other =
        home.call(Method::POST, "/_matrix/client/v1/appservice/other/ping", Some("as"), json!({})).await;
    assert_error(other, 403, "M_FORBIDDEN");
}

#[tokio::test]
async fn a_service_lists_rooms_in_the_directory_of_its_network() {
    let service = Service::new(0).await;
    let home = home(&service).await;
    let alice = home.user("alice").await;
    let (_, made) = home.post("/_matrix/client/v3/createRoom", &alice, json!({"name": "bridged"})).await;
    let room = made["room_id"].as_str().unwrap();
    let path = format!("/_matrix/client/v3/directory/list/appservice/oftc/{room}");
    let list = async |visibility: &str, token: &str| {
        home.call(Method::PUT, &path, Some(token), json!({ "visibility": visibility })).await
    };
    assert_eq!(list("public", &alice.token).await.0, StatusCode::UNAUTHORIZED);
    assert_eq!(list("public", "as").await.0, StatusCode::OK);
    let rooms = async |asked: Value| {
        let (status, told) = home.post("/_matrix/client/v3/publicRooms", &alice, asked).await;
        assert_eq!(status, StatusCode::OK, "{told}");
        let ids = told["chunk"].as_array().unwrap().iter().map(|room| room["room_id"].clone());
        ids.collect::<Vec<_>>()
    };
    assert_eq!(rooms(json!({})).await, [] as [Value; 0], "it is in no list of ours");
    assert_eq!(rooms(json!({"third_party_instance_id": "test|oftc"})).await, [json!(room)]);
    assert_eq!(rooms(json!({"third_party_instance_id": "test|other"})).await, [] as [Value; 0]);
    assert_eq!(rooms(json!({"include_all_networks": true})).await, [json!(room)]);
    assert_eq!(list("private", "as").await.0, StatusCode::OK);
    assert_eq!(rooms(json!({"third_party_instance_id": "test|oftc"})).await, [] as [Value; 0]);
}

/// A service whose file changes (another address) is told at the new one, from where it was; the old one hears no more.
#[tokio::test]
async fn a_changed_file_moves_the_telling_without_a_gap() {
    let mut before = Service::new(0).await;
    let home = home(&before).await;
    let bot = as_user(&home, "bot");
    let (_, room) = home.post("/_matrix/client/v3/createRoom", &bot, json!({})).await;
    let room = room["room_id"].as_str().unwrap().to_owned();
    before.event("m.room.create").await;
    // The old address takes nothing any more, then the file names another.
    let mut after = Service::new(0).await;
    let send = async |n: u32| {
        let path = format!("/_matrix/client/v3/rooms/{room}/send/m.n/{n}");
        let (status, answer) = home.put(&path, &bot, json!({"n": n})).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
    };
    send(1).await;
    assert_eq!(before.event("m.n").await["content"]["n"], 1);
    home.server.reload(Settings { appservices: vec![after.registration()], ..open() }).await.unwrap();
    send(2).await;
    // A transaction whose answer was on its way may come again: that is what its id is for.
    while after.event("m.n").await["content"]["n"] != 2 {}
    // Services that are as they were go on undisturbed.
    home.server.reload(Settings { appservices: vec![after.registration()], ..open() }).await.unwrap();
    send(3).await;
    assert_eq!(after.event("m.n").await["content"]["n"], 3);
    assert!(before.asked.try_recv().is_err(), "the old address hears no more");
}
