//! Random histories: whatever happens, a client that syncs now and then ends up with the truth.

use proptest::prelude::*;

use super::*;
use crate::api::tests::open;

/// What may happen next; numbers choose among users and rooms.
#[derive(Clone, Debug)]
pub(super) enum Op {
    Say { user: usize, room: usize },
    Topic { user: usize, room: usize },
    Name { user: usize, room: usize },
    Join { user: usize, room: usize },
    Leave { user: usize, room: usize },
    Invite { by: usize, user: usize, room: usize },
    Kick { by: usize, user: usize, room: usize },
    Ban { by: usize, user: usize, room: usize },
    Unban { by: usize, user: usize, room: usize },
    Redact { user: usize, room: usize },
    Sync { client: usize, lost: bool },
}

const USERS: usize = 3;
const ROOMS: usize = 3;
pub(super) const CLIENTS: usize = 3;

pub(super) fn op() -> impl Strategy<Value = Op> {
    let pair = || (0..USERS, 0..ROOMS);
    let three = || (0..USERS, 0..USERS, 0..ROOMS);
    prop_oneof![
        8 => pair().prop_map(|(user, room)| Op::Say { user, room }),
        2 => pair().prop_map(|(user, room)| Op::Topic { user, room }),
        1 => pair().prop_map(|(user, room)| Op::Name { user, room }),
        3 => pair().prop_map(|(user, room)| Op::Join { user, room }),
        2 => pair().prop_map(|(user, room)| Op::Leave { user, room }),
        1 => three().prop_map(|(by, user, room)| Op::Invite { by, user, room }),
        1 => three().prop_map(|(by, user, room)| Op::Kick { by, user, room }),
        1 => three().prop_map(|(by, user, room)| Op::Ban { by, user, room }),
        1 => three().prop_map(|(by, user, room)| Op::Unban { by, user, room }),
        1 => pair().prop_map(|(user, room)| Op::Redact { user, room }),
        6 => (0..CLIENTS, any::<bool>()).prop_map(|(client, lost)| Op::Sync { client, lost }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, max_shrink_iters: 40, ..ProptestConfig::default() })]

    #[test]
    fn a_client_that_syncs_knows_the_truth(ops in prop::collection::vec(op(), 10..70)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(run(&ops));
    }
}

/// Users and rooms to which things happen.
pub(super) struct World {
    pub(super) home: Home,
    pub(super) users: Vec<User>,
    pub(super) rooms: Vec<String>,
    sent: Vec<Vec<String>>,
}

impl World {
    pub(super) async fn new() -> Self {
        let home = Home::new(open()).await;
        let mut users = Vec::new();
        for name in ["alice", "bob", "carol"] {
            users.push(home.user(name).await);
        }
        let mut rooms = Vec::new();
        for _ in 0..ROOMS {
            rooms.push(Doer(&home).room(&users[0]).await);
        }
        Self { home, users, rooms, sent: vec![Vec::new(); ROOMS] }
    }

    /// Does the `n`-th thing. Much is refused, as the rules have it; that is fine here.
    pub(super) async fn apply(&mut self, n: usize, op: &Op) {
        let Self { home, users, rooms, sent } = self;
        let doer = Doer(home);
        match op {
            Op::Say { user, room } => {
                let content = json!({"msgtype": "m.text", "body": format!("{n}")});
                let (_, answer) = doer.send(&users[*user], &rooms[*room], &format!("t{n}"), content).await;
                sent[*room].extend(answer["event_id"].as_str().map(ToOwned::to_owned));
            }
            Op::Topic { user, room } => {
                doer.state(&users[*user], &rooms[*room], "m.room.topic", json!({"topic": n.to_string()}))
                    .await;
            }
            Op::Name { user, room } => {
                doer.state(&users[*user], &rooms[*room], "m.room.name", json!({"name": n.to_string()})).await;
            }
            Op::Join { user, room } => drop(doer.post(&users[*user], &rooms[*room], "join", json!({})).await),
            Op::Leave { user, room } => {
                // The room stays resident: alice stays.
                if *user != 0 {
                    doer.post(&users[*user], &rooms[*room], "leave", json!({})).await;
                }
            }
            Op::Invite { by, user, room } => by_on(&doer, users, rooms, *by, *user, *room, "invite").await,
            Op::Kick { by, user, room } => by_on(&doer, users, rooms, *by, *user, *room, "kick").await,
            Op::Ban { by, user, room } => by_on(&doer, users, rooms, *by, *user, *room, "ban").await,
            Op::Unban { by, user, room } => by_on(&doer, users, rooms, *by, *user, *room, "unban").await,
            Op::Redact { user, room } => {
                if let Some(event) = sent[*room].get(n % sent[*room].len().max(1)) {
                    let path = format!(
                        "/_matrix/client/v3/rooms/{}/redact/{}/r{n}",
                        part(&rooms[*room]),
                        part(event)
                    );
                    home.put(&path, &users[*user], json!({})).await;
                }
            }
            Op::Sync { .. } => {}
        }
    }
}

async fn run(ops: &[Op]) {
    let mut world = World::new().await;
    // A client with everything, one with small timelines, one that loads members lazily.
    let filters = [
        Value::Null,
        json!({"room": {"timeline": {"limit": 2}}}),
        json!({"room": {"timeline": {"limit": 3}, "state": {"lazy_load_members": true}}}),
    ];
    let mut memories: Vec<_> = filters.into_iter().map(|filter| (filter, Memory::default())).collect();
    for (n, op) in ops.iter().enumerate() {
        if let Op::Sync { client, lost } = op {
            let (filter, memory) = &mut memories[*client];
            let mut client =
                Client::recall(&world.home, &world.users[1], filter.clone(), std::mem::take(memory));
            if *lost {
                client.ask(0).await;
            } else {
                client.sync().await;
            }
            *memory = client.remember();
        } else {
            world.apply(n, op).await;
        }
    }
    for (filter, memory) in memories {
        let mut client = Client::recall(&world.home, &world.users[1], filter, memory);
        client.sync().await;
        let again = client.sync().await;
        assert_eq!(again["rooms"], json!({}));
        for room in &world.rooms {
            check(&world.home, &client, room).await;
        }
    }
}

async fn by_on(
    doer: &Doer<'_>,
    users: &[User],
    rooms: &[String],
    by: usize,
    user: usize,
    room: usize,
    verb: &str,
) {
    // Alice never goes: somebody has to have the power.
    if user != 0 {
        doer.post(&users[by], &rooms[room], verb, json!({"user_id": users[user].id})).await;
    }
}

/// Compares what a client knows of a room with what the server says when asked.
async fn check(home: &Home, client: &Client<'_>, room: &str) {
    let (_, joined) = home.get("/_matrix/client/v3/joined_rooms", client.user).await;
    let joined = joined["joined_rooms"].as_array().unwrap().contains(&json!(room));
    let thinks = client.rooms.contains_key(room) && !client.left.contains(room);
    assert_eq!(thinks, joined, "whether the user is in the room");
    if !joined {
        return;
    }
    let view = &client.rooms[room];
    let path = format!("/_matrix/client/v3/rooms/{}", part(room));
    let (_, state) = home.get(&format!("{path}/state"), client.user).await;
    let lazy = client.filter.to_string().contains("lazy");
    for event in state.as_array().unwrap() {
        let text = |field: &str| event[field].as_str().unwrap().to_owned();
        let key = (text("type"), text("state_key"));
        match view.state.get(&key) {
            Some(known) => assert_eq!(known, &text("event_id"), "{key:?}"),
            None => assert!(lazy && key.0 == "m.room.member", "{key:?} is not known"),
        }
    }
    // What it has and what it can page back to is the whole timeline, once and in order.
    let mut whole = view.timeline.clone();
    let mut from = Some(view.prev_batch.clone());
    while let Some(token) = from {
        let page = format!("{path}/messages?dir=b&limit=7&from={}", part(&token));
        let (status, page) = home.get(&page, client.user).await;
        assert_eq!(status, StatusCode::OK, "{page}");
        for event in page["chunk"].as_array().unwrap() {
            whole.insert(0, event["event_id"].as_str().unwrap().to_owned());
        }
        from = page["end"].as_str().map(ToOwned::to_owned);
    }
    let (_, all) = home.get(&format!("{path}/messages?dir=b&limit=1000"), client.user).await;
    let mut truth: Vec<_> = all["chunk"]
        .as_array()
        .unwrap()
        .iter()
        .map(|event| event["event_id"].as_str().unwrap().to_owned())
        .collect();
    truth.reverse();
    assert_eq!(whole, truth, "timeline of {room}");
}
