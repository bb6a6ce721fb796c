//! A client that only syncs knows what is true. Method: a whole homeserver in process, clients that keep what they are
//! told as real ones do, histories by hand and at random.

mod both;
mod histories;
mod messages;
mod receipts;
mod rooms;
mod sliding;

use std::collections::{BTreeMap, HashSet};

use http::StatusCode;
use serde_json::{Value, json};

use crate::api::tests::{Home, User};

/// Percent-encodes what stands in a path.
pub(super) fn part(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                char::from(byte).to_string()
            }
            other => format!("%{other:02X}"),
        })
        .collect()
}

/// A client: what it was told, kept as a client keeps it.
pub(super) struct Client<'a> {
    pub(super) home: &'a Home,
    pub(super) user: &'a User,
    pub(super) filter: Value,
    pub(super) since: Option<String>,
    pub(super) rooms: BTreeMap<String, RoomView>,
    pub(super) left: HashSet<String>,
    pub(super) invites: BTreeMap<String, Value>,
    /// The last response.
    pub(super) last: Value,
}

/// A room as a client knows it.
#[derive(Default)]
pub(super) struct RoomView {
    /// (type, state key) -> event id.
    pub(super) state: BTreeMap<(String, String), String>,
    /// Event ids since the last gap, oldest first.
    pub(super) timeline: Vec<String>,
    /// Where to page back from.
    pub(super) prev_batch: String,
    pub(super) seen: HashSet<String>,
    pub(super) unread: (i64, i64),
}

/// What a client knows, without the server it knows it of.
#[derive(Default)]
pub(super) struct Memory {
    since: Option<String>,
    rooms: BTreeMap<String, RoomView>,
    left: HashSet<String>,
    invites: BTreeMap<String, Value>,
}

impl<'a> Client<'a> {
    /// A client that goes on from what it knows.
    pub(super) fn recall(home: &'a Home, user: &'a User, filter: Value, memory: Memory) -> Self {
        let Memory { since, rooms, left, invites } = memory;
        Self { home, user, filter, since, rooms, left, invites, last: Value::Null }
    }

    pub(super) fn remember(self) -> Memory {
        let Self { since, rooms, left, invites, .. } = self;
        Memory { since, rooms, left, invites }
    }

    pub(super) fn new(home: &'a Home, user: &'a User, filter: Value) -> Self {
        Self {
            home,
            user,
            filter,
            since: None,
            rooms: BTreeMap::new(),
            left: HashSet::new(),
            invites: BTreeMap::new(),
            last: Value::Null,
        }
    }

    /// Asks, and forgets the answer: it was lost on the way.
    pub(super) async fn ask(&self, timeout_ms: u64) -> Value {
        let mut path = format!("/_matrix/client/v3/sync?timeout={timeout_ms}");
        if let Some(since) = &self.since {
            path += &format!("&since={since}");
        }
        if !self.filter.is_null() {
            path += &format!("&filter={}", part(&self.filter.to_string()));
        }
        let (status, answer) = self.home.get(&path, self.user).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        answer
    }

    /// Syncs and keeps what is told.
    pub(super) async fn sync(&mut self) -> &Value {
        let answer = self.ask(0).await;
        self.keep(&answer);
        self.last = answer;
        &self.last
    }

    fn keep(&mut self, answer: &Value) {
        let first = self.since.is_none();
        self.since = Some(answer["next_batch"].as_str().unwrap().to_owned());
        let rooms = |part: &str| answer["rooms"][part].as_object().cloned().unwrap_or_default();
        for (id, told) in rooms("invite") {
            assert!(told["invite_state"]["events"].is_array());
            // Whoever is invited is not in the room (any more).
            self.rooms.remove(&id);
            self.invites.insert(id, told);
        }
        for (id, told) in rooms("leave") {
            self.invites.remove(&id);
            if let Some(view) = self.rooms.get_mut(&id) {
                view.keep(&told, false);
            }
            self.left.insert(id);
        }
        for (id, told) in rooms("join") {
            self.invites.remove(&id);
            if self.left.remove(&id) {
                self.rooms.remove(&id);
            }
            let new = first || !self.rooms.contains_key(&id);
            self.rooms.entry(id).or_default().keep(&told, new);
        }
    }
}

impl RoomView {
    fn keep(&mut self, told: &Value, new: bool) {
        let limited = told["timeline"]["limited"].as_bool().unwrap();
        if limited || new {
            self.timeline.clear();
            self.prev_batch = told["timeline"]["prev_batch"].as_str().unwrap().to_owned();
        }
        for event in told["state"]["events"].as_array().unwrap() {
            self.set(event);
        }
        for event in told["timeline"]["events"].as_array().unwrap() {
            let id = event["event_id"].as_str().unwrap().to_owned();
            assert!(self.seen.insert(id.clone()) || new, "told twice: {event}");
            assert!(event["sender"].is_string() && event["content"].is_object() && event["type"].is_string());
            self.timeline.push(id);
            if event["state_key"].is_string() {
                self.set(event);
            }
        }
        if let Some(counts) = told["unread_notifications"].as_object() {
            let count = |name: &str| counts[name].as_i64().unwrap();
            self.unread = (count("notification_count"), count("highlight_count"));
        }
    }

    fn set(&mut self, event: &Value) {
        let text = |field: &str| event[field].as_str().unwrap().to_owned();
        self.state.insert((text("type"), text("state_key")), text("event_id"));
    }
}

/// What a user does over the API; panics if it is refused.
pub(super) struct Doer<'a>(pub(super) &'a Home);

impl Doer<'_> {
    pub(super) async fn create(&self, user: &User, request: Value) -> String {
        // Two rooms made alike in the same moment are one.
        self.0.server.clock.advance(1);
        let (status, answer) = self.0.post("/_matrix/client/v3/createRoom", user, request).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        answer["room_id"].as_str().unwrap().to_owned()
    }

    pub(super) async fn room(&self, user: &User) -> String {
        self.create(user, json!({"preset": "public_chat"})).await
    }

    pub(super) async fn post(&self, user: &User, room: &str, verb: &str, body: Value) -> (StatusCode, Value) {
        self.0.post(&format!("/_matrix/client/v3/rooms/{}/{verb}", part(room)), user, body).await
    }

    pub(super) async fn done(&self, user: &User, room: &str, verb: &str, body: Value) {
        let (status, answer) = self.post(user, room, verb, body).await;
        assert_eq!(status, StatusCode::OK, "{verb}: {answer}");
    }

    pub(super) async fn send(
        &self,
        user: &User,
        room: &str,
        txn: &str,
        content: Value,
    ) -> (StatusCode, Value) {
        let path = format!("/_matrix/client/v3/rooms/{}/send/m.room.message/{txn}", part(room));
        self.0.put(&path, user, content).await
    }

    pub(super) async fn say(&self, user: &User, room: &str, body: &str) -> String {
        let content = json!({"msgtype": "m.text", "body": body});
        let (status, answer) = self.send(user, room, &part(body), content).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        answer["event_id"].as_str().unwrap().to_owned()
    }

    pub(super) async fn state(
        &self,
        user: &User,
        room: &str,
        kind: &str,
        content: Value,
    ) -> (StatusCode, Value) {
        let path = format!("/_matrix/client/v3/rooms/{}/state/{kind}/", part(room));
        self.0.put(&path, user, content).await
    }
}
