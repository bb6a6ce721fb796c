//! Users and rooms to which things happen, over the API.

use std::collections::{BTreeMap, HashMap};

use http::StatusCode;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{
    super::{Doer, part},
    truth::Room,
};
use crate::api::tests::{Home, User, open};

/// How a client syncs.
#[derive(Clone, Copy, Debug)]
pub(super) enum How {
    /// As clients do.
    Once,
    /// The answer does not arrive.
    Lost,
    /// Until there is nothing more; then what it shows is compared.
    Settle,
    /// It goes back to what it knew when it last put that away, and syncs from there.
    GoBack,
}

/// What may happen next; numbers choose among users, rooms and events.
#[derive(Clone, Debug)]
pub(super) enum Op {
    Say { user: usize, room: usize, what: What },
    State { user: usize, room: usize, kind: usize },
    Join { user: usize, room: usize },
    Leave { user: usize, room: usize },
    Knock { user: usize, room: usize },
    Forget { user: usize, room: usize },
    Move { by: usize, user: usize, room: usize, verb: &'static str },
    Redact { user: usize, room: usize, event: usize },
    Read { user: usize, room: usize, event: usize, how: usize },
    Data { user: usize, room: Option<usize>, kind: usize },
    Tag { user: usize, room: usize, on: bool },
    Direct { user: usize, rooms: Vec<usize> },
    Name { user: usize },
    Create { user: usize, invite: usize },
    Sync { client: usize, how: How, to: u64, limit: u64, subscribe: Option<usize> },
    Restart,
}

/// What a message is.
#[derive(Clone, Copy, Debug)]
pub(super) enum What {
    Plain,
    Names(usize),
    InThread(usize),
    Edits(usize),
    ReactsTo(usize),
}

pub(super) const USERS: usize = 4;
const ROOMS: usize = 4;
/// Rooms that a history makes at most; indices are taken modulo what there is.
const ROOMS_MAX: usize = 7;
const VISIBILITIES: [&str; 4] = ["shared", "joined", "invited", "world_readable"];
/// See the module above: two users, each with two clients of v2 and two of sliding sync.
pub(super) const CLIENTS: usize = 8;

pub(super) fn op() -> impl Strategy<Value = Op> {
    let pair = || (0..USERS, 0..ROOMS_MAX);
    let three = || (0..USERS, 0..USERS, 0..ROOMS_MAX);
    let what = prop_oneof![
        4 => Just(What::Plain),
        1 => (0..USERS).prop_map(What::Names),
        2 => any::<usize>().prop_map(What::InThread),
        1 => any::<usize>().prop_map(What::Edits),
        1 => any::<usize>().prop_map(What::ReactsTo),
    ];
    let how = prop_oneof![
        4 => Just(How::Once), 2 => Just(How::Lost), 2 => Just(How::Settle), 1 => Just(How::GoBack)];
    prop_oneof![
        14 => (pair(), what).prop_map(|((user, room), what)| Op::Say { user, room, what }),
        3 => (pair(), 0..4usize).prop_map(|((user, room), kind)| Op::State { user, room, kind }),
        6 => pair().prop_map(|(user, room)| Op::Join { user, room }),
        2 => pair().prop_map(|(user, room)| Op::Leave { user, room }),
        1 => pair().prop_map(|(user, room)| Op::Knock { user, room }),
        1 => pair().prop_map(|(user, room)| Op::Forget { user, room }),
        4 => (three(), prop::sample::select(vec!["invite", "invite", "kick", "ban", "unban"]))
            .prop_map(|((by, user, room), verb)| Op::Move { by, user, room, verb }),
        2 => (pair(), any::<usize>()).prop_map(|((user, room), event)| Op::Redact { user, room, event }),
        4 => (pair(), any::<usize>(), 0..4usize)
            .prop_map(|((user, room), event, how)| Op::Read { user, room, event, how }),
        2 => (0..USERS, prop::option::of(0..ROOMS_MAX), 0..2usize)
            .prop_map(|(user, room, kind)| Op::Data { user, room, kind }),
        1 => (pair(), any::<bool>()).prop_map(|((user, room), on)| Op::Tag { user, room, on }),
        1 => (0..USERS, prop::collection::vec(0..ROOMS_MAX, 0..3))
            .prop_map(|(user, rooms)| Op::Direct { user, rooms }),
        1 => (0..USERS).prop_map(|user| Op::Name { user }),
        1 => (0..USERS, 0..USERS).prop_map(|(user, invite)| Op::Create { user, invite }),
        18 => (0..CLIENTS, how, 0..4u64, 0..5u64, prop::option::of(0..ROOMS_MAX))
            .prop_map(|(client, how, to, limit, subscribe)| Op::Sync { client, how, to, limit, subscribe }),
        1 => Just(Op::Restart),
    ]
}

/// See the module.
pub(super) struct World {
    dir: tempfile::TempDir,
    home: Option<Home>,
    pub(super) users: Vec<User>,
    pub(super) rooms: Vec<String>,
    /// Ids of what was said, by room.
    said: HashMap<String, Vec<String>>,
    /// Roots of the threads that events were sent into.
    pub(super) threads: HashMap<String, String>,
    /// Account data: (user, room or empty, type) -> content.
    pub(super) data: BTreeMap<(String, String, String), Value>,
    runs: u64,
}

impl World {
    pub(super) async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::at(dir.path(), open()).await;
        let mut users = Vec::new();
        for name in ["alice", "bob", "carol", "dave"] {
            users.push(home.user(name).await);
        }
        let mut rooms = Vec::new();
        for (n, visibility) in VISIBILITIES.into_iter().enumerate().take(ROOMS) {
            let rule = if n == 2 { "knock" } else { "public" };
            let state = json!([
                {"type": "m.room.history_visibility", "state_key": "", "content": {"history_visibility": visibility}},
                {"type": "m.room.join_rules", "state_key": "", "content": {"join_rule": rule}}]);
            let asked = json!({"preset": "public_chat", "initial_state": state});
            rooms.push(Doer(&home).create(&users[0], asked).await);
        }
        Self {
            dir,
            home: Some(home),
            users,
            rooms,
            said: HashMap::new(),
            threads: HashMap::new(),
            data: BTreeMap::new(),
            runs: 0,
        }
    }

    pub(super) fn home(&self) -> &Home {
        self.home.as_ref().unwrap()
    }

    /// The node ends and starts again, a while later.
    async fn restart(&mut self) {
        self.home.take().unwrap().close().await;
        self.runs += 1;
        let home = Home::at(self.dir.path(), open()).await;
        home.server.clock.advance(self.runs * 60_000);
        self.home = Some(home);
    }

    pub(super) async fn close(mut self) {
        self.home.take().unwrap().close().await;
    }

    fn room(&self, number: usize) -> String {
        self.rooms[number % self.rooms.len()].clone()
    }

    fn said_in(&self, room: &str, number: usize) -> Option<String> {
        let said = self.said.get(room).filter(|said| !said.is_empty())?;
        Some(said[number % said.len()].clone())
    }

    /// Does the `n`-th thing. Much is refused, as the rules have it; that is fine here.
    pub(super) async fn apply(&mut self, n: usize, op: &Op) {
        // Nothing happens in the same millisecond as something else.
        self.home().server.clock.advance(1);
        match op {
            Op::Sync { .. } => {}
            Op::Restart => self.restart().await,
            Op::Say { user, room, what } => self.say(n, *user, *room, *what).await,
            Op::Read { user, room, event, how } => self.read(*user, *room, *event, *how).await,
            Op::Create { user, invite } => {
                if self.rooms.len() < ROOMS_MAX {
                    let (by, other) = (&self.users[*user], &self.users[*invite]);
                    let invited = if user == invite { json!([]) } else { json!([other.id]) };
                    let asked = json!({"preset": "private_chat", "invite": invited, "is_direct": n.is_multiple_of(2)});
                    let made = Doer(self.home()).create(by, asked).await;
                    self.rooms.push(made);
                }
            }
            Op::Data { user, room, kind } => {
                let kind = format!("x.{kind}");
                let room = room.map(|room| self.room(room)).unwrap_or_default();
                self.put_data(*user, &room, &kind, json!({"n": n})).await;
            }
            Op::Tag { user, room, on } => {
                let tags = if *on { json!({"m.favourite": {"order": 0.5}}) } else { json!({}) };
                let room = self.room(*room);
                self.put_data(*user, &room, "m.tag", json!({"tags": tags})).await;
            }
            Op::Direct { user, rooms } => {
                let rooms: Vec<String> = rooms.iter().map(|room| self.room(*room)).collect();
                self.put_data(*user, "", "m.direct", json!({"@whoever:x": rooms})).await;
            }
            op => self.do_in_room(n, op).await,
        }
    }

    async fn do_in_room(&self, n: usize, op: &Op) {
        let (home, doer) = (self.home(), Doer(self.home()));
        let post = async |user: usize, room: usize, verb: &str, body: Value| {
            doer.post(&self.users[user], &self.room(room), verb, body).await;
        };
        match op {
            Op::State { user, room, kind } => {
                let content = [
                    ("m.room.topic", json!({"topic": n.to_string()})),
                    (
                        "m.room.name",
                        json!({"name": if n.is_multiple_of(5) { String::new() } else { n.to_string() }}),
                    ),
                    ("m.room.history_visibility", json!({"history_visibility": VISIBILITIES[n % 4]})),
                    ("x.state", json!({"n": n})),
                ];
                let (kind, content) = content[*kind].clone();
                // Visibility is the first user's to change.
                let user = if kind == "m.room.history_visibility" { 0 } else { *user };
                doer.state(&self.users[user], &self.room(*room), kind, content).await;
            }
            Op::Join { user, room } => post(*user, *room, "join", json!({})).await,
            // Alice never goes: somebody has to have the power.
            Op::Leave { user, room } if *user != 0 => post(*user, *room, "leave", json!({})).await,
            Op::Forget { user, room } => post(*user, *room, "forget", json!({})).await,
            Op::Knock { user, room } => {
                let path = format!("/_matrix/client/v3/knock/{}", part(&self.room(*room)));
                home.post(&path, &self.users[*user], json!({})).await;
            }
            Op::Move { by, user, room, verb } if *user != 0 => {
                post(*by, *room, verb, json!({"user_id": self.users[*user].id})).await;
            }
            Op::Redact { user, room, event } => {
                let room = self.room(*room);
                if let Some(event) = self.said_in(&room, *event) {
                    let path =
                        format!("/_matrix/client/v3/rooms/{}/redact/{}/r{n}", part(&room), part(&event));
                    home.put(&path, &self.users[*user], json!({})).await;
                }
            }
            Op::Name { user } => {
                let user = &self.users[*user];
                let path = format!("/_matrix/client/v3/profile/{}/displayname", part(&user.id));
                let name = format!("name {n}");
                home.put(&path, user, json!({"displayname": name})).await;
                self.wait_name(&user.id, &name).await;
            }
            _ => {}
        }
    }

    /// Rooms are told of a new name after the answer: waits until all are.
    async fn wait_name(&self, user: &str, name: &str) {
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
        for id in &self.rooms {
            loop {
                let room = Room::read(&self.home().server.store, id, user).await;
                let own = room.state.get(&("m.room.member".to_owned(), user.to_owned()));
                let own = own.and_then(|own| room.events.iter().find(|event| event.id == *own));
                if !room.is_joined() || own.is_some_and(|own| own.content["displayname"] == name) {
                    break;
                }
                assert!(std::time::Instant::now() < deadline, "{id} is not told of {name}");
                tokio::task::yield_now().await;
            }
        }
    }

    async fn say(&mut self, n: usize, user: usize, room: usize, what: What) {
        let room = self.room(room);
        let mut content = json!({"msgtype": "m.text", "body": n.to_string()});
        let mut kind = "m.room.message";
        let mut thread = None;
        match what {
            What::Plain => {}
            What::Names(other) => content["m.mentions"] = json!({"user_ids": [self.users[other].id]}),
            What::InThread(root) => {
                // What is in a thread is no root.
                thread =
                    self.said_in(&room, root).map(|root| self.threads.get(&root).cloned().unwrap_or(root));
                if let Some(root) = &thread {
                    content["m.relates_to"] = json!({"rel_type": "m.thread", "event_id": root});
                }
            }
            What::Edits(target) => {
                if let Some(target) = self.said_in(&room, target) {
                    content["m.new_content"] = json!({"msgtype": "m.text", "body": "edited"});
                    content["m.relates_to"] = json!({"rel_type": "m.replace", "event_id": target});
                }
            }
            What::ReactsTo(target) => {
                if let Some(target) = self.said_in(&room, target) {
                    kind = "m.reaction";
                    content = json!({"m.relates_to":
                        {"rel_type": "m.annotation", "event_id": target, "key": n.to_string()}});
                }
            }
        }
        let plain = kind == "m.room.message" && content["m.relates_to"]["rel_type"] != "m.replace";
        let path = format!("/_matrix/client/v3/rooms/{}/send/{kind}/t{n}", part(&room));
        let (status, answer) = self.home().put(&path, &self.users[user], content).await;
        if status == StatusCode::OK {
            let id = answer["event_id"].as_str().unwrap().to_owned();
            if let Some(root) = thread {
                self.threads.insert(id.clone(), root);
            }
            if plain {
                self.said.entry(room).or_default().push(id);
            }
        }
    }

    async fn read(&self, user: usize, room: usize, event: usize, how: usize) {
        let room = self.room(room);
        let Some(event) = self.said_in(&room, event) else { return };
        let thread = self.threads.get(&event);
        let (kind, body) = match (how, thread) {
            (0, _) => ("m.read", json!({})),
            (1, _) => ("m.read.private", json!({})),
            (2, _) => ("m.fully_read", json!({})),
            (_, None) => ("m.read", json!({"thread_id": "main"})),
            (_, Some(root)) => ("m.read.private", json!({"thread_id": root})),
        };
        let path = format!("/_matrix/client/v3/rooms/{}/receipt/{kind}/{}", part(&room), part(&event));
        self.home().post(&path, &self.users[user], body).await;
    }

    async fn put_data(&mut self, user: usize, room: &str, kind: &str, content: Value) {
        let user = &self.users[user];
        let of = if room.is_empty() { String::new() } else { format!("/rooms/{}", part(room)) };
        let path = format!("/_matrix/client/v3/user/{}{of}/account_data/{kind}", part(&user.id));
        let (status, _) = self.home().put(&path, user, content.clone()).await;
        if status == StatusCode::OK {
            self.data.insert((user.id.clone(), room.to_owned(), kind.to_owned()), content);
        }
    }
}
