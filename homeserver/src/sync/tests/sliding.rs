//! Sliding sync: by hand, and at random against what the server says when asked.

use std::path::Path;

use proptest::prelude::*;

use super::{
    histories::{CLIENTS, Op, World, op},
    *,
};
use crate::api::tests::{assert_error, open};

const PATH: &str = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync";

/// A client of sliding sync: keeps what it is told.
#[derive(Default)]
struct Slider {
    pos: Option<String>,
    rooms: BTreeMap<String, Seen>,
    counts: BTreeMap<String, u64>,
    global: BTreeMap<String, Value>,
}

/// A room as such a client knows it.
#[derive(Clone, Debug, Default)]
struct Seen {
    membership: String,
    name: Option<String>,
    state: BTreeMap<(String, String), String>,
    timeline: Vec<String>,
    prev_batch: String,
    joined: u64,
    dm: bool,
}

impl Slider {
    async fn ask(&self, home: &Home, user: &User, body: &Value) -> (StatusCode, Value) {
        let path = match &self.pos {
            Some(pos) => format!("{PATH}?timeout=0&pos={}", part(pos)),
            None => format!("{PATH}?timeout=0"),
        };
        home.post(&path, user, body.clone()).await
    }

    async fn sync(&mut self, home: &Home, user: &User, body: &Value) -> Value {
        let (status, answer) = self.ask(home, user, body).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        self.keep(&answer);
        answer
    }

    fn keep(&mut self, answer: &Value) {
        self.pos = Some(answer["pos"].as_str().unwrap().to_owned());
        for (name, list) in answer["lists"].as_object().unwrap() {
            self.counts.insert(name.clone(), list["count"].as_u64().unwrap());
        }
        for (id, told) in answer["rooms"].as_object().unwrap() {
            let initial = told["initial"] == true;
            assert!(
                initial || self.rooms.contains_key(id),
                "an increment of a room that is not known: {told}"
            );
            if initial {
                self.rooms.insert(id.clone(), Seen::default());
            }
            self.rooms.get_mut(id).unwrap().keep(told, initial);
        }
        for event in answer["extensions"]["account_data"]["global"].as_array().into_iter().flatten() {
            self.global.insert(event["type"].as_str().unwrap().to_owned(), event["content"].clone());
        }
    }
}

impl Seen {
    fn keep(&mut self, told: &Value, initial: bool) {
        self.membership = told["membership"].as_str().unwrap().to_owned();
        if initial || told.get("name").is_some() {
            self.name = told["name"].as_str().map(ToOwned::to_owned);
        }
        if let Some(count) = told["joined_count"].as_u64() {
            self.joined = count;
        }
        if let Some(dm) = told["is_dm"].as_bool() {
            self.dm = dm;
        }
        for event in told["required_state"].as_array().into_iter().flatten() {
            let text = |field: &str| event[field].as_str().unwrap().to_owned();
            let key = (text("type"), text("state_key"));
            match event["event_id"].as_str() {
                Some(id) => drop(self.state.insert(key, id.to_owned())),
                None => drop(self.state.remove(&key)),
            }
        }
        let events: Vec<String> = told["timeline"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|event| event["event_id"].as_str().unwrap().to_owned())
            .collect();
        let whole = initial || told["limited"] == true || told["unstable_expanded_timeline"] == true;
        if whole && !events.is_empty() {
            self.timeline.clear();
            self.prev_batch = told["prev_batch"].as_str().unwrap().to_owned();
        }
        for event in events {
            assert!(!self.timeline.contains(&event), "told twice: {event}");
            self.timeline.push(event);
        }
    }
}

fn all_state() -> Value {
    json!([["*", "*"]])
}

fn everything() -> Value {
    json!({"lists": {"all": {"ranges": [[0, 99]], "timeline_limit": 3, "required_state": all_state()}}})
}

#[tokio::test]
async fn a_room_is_told_once_and_then_what_is_new() {
    let home = Home::new(open()).await;
    let (alice, bob) = (home.user("alice").await, home.user("bob").await);
    let doer = Doer(&home);
    let room = doer.create(&alice, json!({"preset": "public_chat", "name": "Tea"})).await;
    doer.done(&bob, &room, "join", json!({})).await;
    let said = doer.say(&alice, &room, "one").await;
    let mut client = Slider::default();
    let first = client.sync(&home, &bob, &everything()).await;
    let told = &first["rooms"][&room];
    assert_eq!(first["lists"]["all"]["count"], 1);
    assert_eq!((told["initial"].as_bool(), told["name"].as_str()), (Some(true), Some("Tea")));
    assert_eq!((told["joined_count"].as_i64(), told["num_live"].as_i64()), (Some(2), Some(0)));
    assert_eq!(told["timeline"].as_array().unwrap().last().unwrap()["event_id"], json!(said));
    assert!(told["limited"] == true && told["bump_stamp"].as_i64().unwrap() > 0);
    assert_eq!(told["notification_count"], 1);
    // The same again, as if the answer was lost: the same, but the position.
    let (_, lost) = Slider::default().ask(&home, &bob, &everything()).await;
    assert_eq!(lost["rooms"][&room]["timeline"].as_array().map(Vec::len), Some(3));

    let mut client = Slider::default();
    client.sync(&home, &bob, &everything()).await;
    let quiet = client.sync(&home, &bob, &everything()).await;
    assert_eq!(quiet["rooms"], json!({}));
    let two = doer.say(&alice, &room, "two").await;
    doer.state(&alice, &room, "m.room.name", json!({"name": "Coffee"})).await;
    let (_, first) = client.ask(&home, &bob, &everything()).await;
    let next = client.sync(&home, &bob, &everything()).await;
    assert_eq!(first["rooms"], next["rooms"], "a retry says the same");
    let told = &next["rooms"][&room];
    assert_eq!((told["initial"].as_bool(), told["name"].as_str()), (None, Some("Coffee")));
    assert_eq!(told["timeline"][0]["event_id"], json!(two));
    assert_eq!(told["num_live"], 2);
    assert_eq!(told["required_state"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn windows_grow_and_shrink_and_no_room_is_lost() {
    let home = Home::new(open()).await;
    let alice = home.user("alice").await;
    let doer = Doer(&home);
    let mut rooms = Vec::new();
    for n in 0..6 {
        rooms.push(doer.create(&alice, json!({"name": format!("room {n}")})).await);
    }
    let window = |to: u64, limit: u64| {
        json!({"lists": {"a": {"ranges": [[0, to]], "timeline_limit": limit,
            "required_state": [["m.room.name", ""]]}}})
    };
    let mut client = Slider::default();
    let first = client.sync(&home, &alice, &window(1, 1)).await;
    assert_eq!(first["lists"]["a"]["count"], 6);
    let told: Vec<_> = first["rooms"].as_object().unwrap().keys().cloned().collect();
    assert_eq!(told.len(), 2);
    assert!(told.contains(&rooms[5]) && told.contains(&rooms[4]));
    // A room outside speaks: it comes in by itself; then four others push it out while more happens in it.
    doer.say(&alice, &rooms[0], "hello").await;
    client.sync(&home, &alice, &window(1, 1)).await;
    assert_eq!(client.rooms[&rooms[0]].timeline.len(), 1);
    let missed = doer.say(&alice, &rooms[0], "while in view").await;
    for room in &rooms[1..4] {
        doer.say(&alice, room, "x").await;
    }
    client.sync(&home, &alice, &window(1, 1)).await;
    assert!(!client.rooms[&rooms[0]].timeline.contains(&missed), "it is out of the window");
    client.sync(&home, &alice, &window(1, 1)).await;
    // The window grows: the room comes from where it was, the limit grows with it.
    let grown = client.sync(&home, &alice, &window(9, 4)).await;
    assert_eq!(client.rooms.len(), 6);
    assert!(client.rooms[&rooms[0]].timeline.contains(&missed));
    assert_eq!(grown["rooms"][&rooms[0]]["unstable_expanded_timeline"], true);
    assert!(client.rooms.values().all(|room| room.timeline.len() == 4), "{:?}", client.rooms);
    assert_eq!(client.sync(&home, &alice, &window(9, 4)).await["rooms"], json!({}));
    // A smaller limit and the greater one again sends nothing twice.
    assert_eq!(client.sync(&home, &alice, &window(9, 1)).await["rooms"], json!({}));
    assert_eq!(client.sync(&home, &alice, &window(9, 4)).await["rooms"], json!({}));
    // More state is asked for: it comes, and only it.
    let more = json!({"lists": {"a": {"ranges": [[0, 9]], "timeline_limit": 4,
        "required_state": [["m.room.name", ""], ["m.room.create", ""]]}}});
    let answer = client.sync(&home, &alice, &more).await;
    for room in &rooms {
        let state = answer["rooms"][room]["required_state"].as_array().unwrap();
        assert_eq!((state.len(), state[0]["type"].as_str()), (1, Some("m.room.create")));
    }
}

#[tokio::test]
async fn filters_choose() {
    let home = Home::new(open()).await;
    let (alice, bob) = (home.user("alice").await, home.user("bob").await);
    let doer = Doer(&home);
    let space = doer.create(&alice, json!({"creation_content": {"type": "m.space"}, "name": "Space"})).await;
    let dm = doer.create(&alice, json!({"name": "Direct", "is_direct": true})).await;
    let secret = doer
        .create(
            &alice,
            json!({"name": "Secret", "initial_state": [{"type": "m.room.encryption", "state_key": "",
            "content": {"algorithm": "m.megolm.v1.aes-sha2"}}]}),
        )
        .await;
    let invited = doer.create(&bob, json!({"name": "From Bob", "invite": [alice.id]})).await;
    let path = format!("/_matrix/client/v3/rooms/{}/state/m.space.child/{}", part(&space), part(&secret));
    assert_eq!(home.put(&path, &alice, json!({"via": ["x"]})).await.0, StatusCode::OK);
    let own = |kind: &str| format!("/_matrix/client/v3/user/{}/account_data/{kind}", part(&alice.id));
    home.put(&own("m.direct"), &alice, json!({&bob.id: [dm]})).await;
    let tags =
        format!("/_matrix/client/v3/user/{}/rooms/{}/tags/m.favourite", part(&alice.id), part(&secret));
    assert_eq!(home.put(&tags, &alice, json!({"order": 0.1})).await.0, StatusCode::OK);
    let filters = [
        (json!({}), vec![&space, &dm, &secret, &invited]),
        (json!({"is_dm": true}), vec![&dm]),
        (json!({"is_dm": false, "is_invite": false}), vec![&space, &secret]),
        (json!({"is_encrypted": true}), vec![&secret]),
        (json!({"is_invite": true}), vec![&invited]),
        (json!({"is_invited": true}), vec![&invited]),
        (json!({"room_types": ["m.space"]}), vec![&space]),
        (json!({"not_room_types": ["m.space"]}), vec![&dm, &secret, &invited]),
        (json!({"room_types": [null]}), vec![&dm, &secret, &invited]),
        (json!({"tags": ["m.favourite"]}), vec![&secret]),
        (json!({"not_tags": ["m.favourite"]}), vec![&space, &dm, &invited]),
        (json!({"spaces": [space]}), vec![&secret]),
        (json!({"spaces": [dm]}), vec![]),
        (json!({"room_name_like": "IREC"}), vec![&dm]),
    ];
    for (filter, expected) in filters {
        let body = json!({"conn_id": "f", "lists": {"f": {"ranges": [[0, 9]], "timeline_limit": 1, "filters": filter}}});
        let mut client = Slider::default();
        let answer = client.sync(&home, &alice, &body).await;
        let told: HashSet<&String> = answer["rooms"].as_object().unwrap().keys().collect();
        assert_eq!(told, expected.iter().copied().collect(), "{filter}");
        assert_eq!(client.counts["f"], expected.len() as u64, "{filter}");
    }
}

#[tokio::test]
async fn memberships_come_and_go() {
    let home = Home::new(open()).await;
    let (alice, bob) = (home.user("alice").await, home.user("bob").await);
    let doer = Doer(&home);
    let room = doer.create(&alice, json!({"name": "Tea"})).await;
    let mut client = Slider::default();
    client.sync(&home, &bob, &everything()).await;
    doer.done(&alice, &room, "invite", json!({"user_id": bob.id})).await;
    let told = client.sync(&home, &bob, &everything()).await["rooms"][&room].clone();
    assert!(told["invite_state"].as_array().is_some_and(|state| !state.is_empty()), "{told}");
    assert_eq!(told["membership"], "invite");
    doer.done(&bob, &room, "join", json!({})).await;
    let told = client.sync(&home, &bob, &everything()).await["rooms"][&room].clone();
    assert_eq!((told["initial"].as_bool(), told["membership"].as_str()), (Some(true), Some("join")));
    let last = doer.say(&alice, &room, "bye").await;
    doer.done(&alice, &room, "kick", json!({"user_id": bob.id})).await;
    doer.say(&alice, &room, "without him").await;
    let told = client.sync(&home, &bob, &everything()).await["rooms"][&room].clone();
    assert_eq!(told["membership"], "leave");
    let events: Vec<_> =
        told["timeline"].as_array().unwrap().iter().map(|event| event["event_id"].clone()).collect();
    assert!(events.contains(&json!(last)) && events.len() == 2, "{told}");
    assert_eq!(client.sync(&home, &bob, &everything()).await["rooms"], json!({}));
    // A new connection: a kick is shown, a leave of one's own is not.
    let mut other = Slider::default();
    let body = json!({"conn_id": "other", "lists": everything()["lists"]});
    assert_eq!(other.sync(&home, &bob, &body).await["rooms"][&room]["membership"], "leave");
    doer.done(&alice, &room, "invite", json!({"user_id": bob.id})).await;
    doer.done(&bob, &room, "leave", json!({})).await;
    let told = client.sync(&home, &bob, &everything()).await["rooms"][&room].clone();
    assert_eq!(told["membership"], "leave");
    let body = json!({"conn_id": "third", "lists": everything()["lists"]});
    let answer = Slider::default().sync(&home, &bob, &body).await;
    assert_eq!((&answer["rooms"], &answer["lists"]["all"]["count"]), (&json!({}), &json!(0)));
    // Nobody sees a room by asking for it.
    let body = json!({"conn_id": "fourth", "room_subscriptions": {&room: {"timeline_limit": 5}}});
    let carol = home.user("carol").await;
    assert_eq!(Slider::default().sync(&home, &carol, &body).await["rooms"], json!({}));
}

#[tokio::test]
async fn members_are_loaded_lazily_and_once() {
    let home = Home::new(open()).await;
    let (alice, bob, carol) = (home.user("alice").await, home.user("bob").await, home.user("carol").await);
    let doer = Doer(&home);
    let room = doer.room(&alice).await;
    for user in [&bob, &carol] {
        doer.done(user, &room, "join", json!({})).await;
    }
    doer.say(&alice, &room, "one").await;
    let body = json!({"lists": {"a": {"ranges": [[0, 9]], "timeline_limit": 1,
        "required_state": [["m.room.member", "$LAZY"], ["m.room.member", "$ME"], ["*", "*"]]}}});
    let members = |told: &Value| -> HashSet<String> {
        let state = told["required_state"].as_array().cloned().unwrap_or_default();
        let members = state.iter().filter(|event| event["type"] == "m.room.member");
        members.map(|event| event["state_key"].as_str().unwrap().to_owned()).collect()
    };
    let mut client = Slider::default();
    let first = client.sync(&home, &bob, &body).await;
    assert_eq!(members(&first["rooms"][&room]), HashSet::from([alice.id.clone(), bob.id.clone()]));
    doer.say(&alice, &room, "two").await;
    let next = client.sync(&home, &bob, &body).await;
    assert_eq!(members(&next["rooms"][&room]), HashSet::new(), "alice is known");
    doer.say(&carol, &room, "three").await;
    let next = client.sync(&home, &bob, &body).await;
    assert_eq!(members(&next["rooms"][&room]), HashSet::from([carol.id.clone()]));
}

#[tokio::test]
async fn extensions_tell_what_is_new_and_each_thing_once() {
    let home = Home::new(open()).await;
    let (alice, bob) = (home.user("alice").await, home.user("bob").await);
    let doer = Doer(&home);
    let room = doer.room(&alice).await;
    doer.done(&bob, &room, "join", json!({})).await;
    let said = doer.say(&alice, &room, "one").await;
    let own = format!("/_matrix/client/v3/user/{}", part(&bob.id));
    home.put(&format!("{own}/account_data/x.one"), &bob, json!({"a": 1})).await;
    home.put(&format!("{own}/rooms/{}/account_data/x.room", part(&room)), &bob, json!({"b": 1})).await;
    let with = |since: Option<&Value>| {
        let mut body = everything();
        body["extensions"] = json!({"to_device": {"enabled": true, "limit": 2}, "e2ee": {"enabled": true},
            "account_data": {"enabled": true}, "receipts": {"enabled": true}, "typing": {"enabled": true}});
        if let Some(since) = since {
            body["extensions"]["to_device"]["since"] = since.clone();
        }
        body
    };
    let mut client = Slider::default();
    let first = client.sync(&home, &bob, &with(None)).await;
    let told = &first["extensions"];
    assert!(client.global.contains_key("x.one") && client.global.contains_key("m.push_rules"));
    assert_eq!(told["account_data"]["rooms"][&room][0]["type"], "x.room");
    assert!(told["e2ee"]["device_one_time_keys_count"].is_object());
    let since = told["to_device"]["next_batch"].clone();
    assert!(since.is_string());
    let quiet = client.sync(&home, &bob, &with(Some(&since))).await;
    let none = |answer: &Value, name: &str| assert!(answer["extensions"].get(name).is_none(), "{answer}");
    for name in ["account_data", "receipts", "typing", "to_device"] {
        none(&quiet, name);
    }
    // Something of everything.
    let receipt = format!("/_matrix/client/v3/rooms/{}/receipt/m.read/{}", part(&room), part(&said));
    assert_eq!(home.post(&receipt, &bob, json!({})).await.0, StatusCode::OK);
    let typing = format!("/_matrix/client/v3/rooms/{}/typing/{}", part(&room), part(&alice.id));
    home.put(&typing, &alice, json!({"typing": true, "timeout": 30_000})).await;
    home.put(&format!("{own}/account_data/x.two"), &bob, json!({})).await;
    for n in 0..3 {
        let path = format!("/_matrix/client/v3/sendToDevice/x.msg/t{n}");
        let body = json!({"messages": {&bob.id: {"*": {"n": n}}}});
        assert_eq!(home.put(&path, &alice, body).await.0, StatusCode::OK);
    }
    let next = client.sync(&home, &bob, &with(Some(&since))).await;
    let told = &next["extensions"];
    assert_eq!(told["typing"]["rooms"][&room]["content"]["user_ids"], json!([alice.id]));
    assert!(told["receipts"]["rooms"][&room]["content"][&said]["m.read"][&bob.id].is_object(), "{told}");
    assert_eq!(told["account_data"]["global"][0]["type"], "x.two");
    assert_eq!(told["to_device"]["events"].as_array().unwrap().len(), 2);
    assert_eq!(next["rooms"][&room]["notification_count"], 0, "what is read is counted anew");
    // Not acknowledged: they come again. Acknowledged: the rest.
    let again = client.sync(&home, &bob, &with(Some(&since))).await;
    assert_eq!(again["extensions"]["to_device"]["events"].as_array().unwrap().len(), 2);
    let since = again["extensions"]["to_device"]["next_batch"].clone();
    let rest = client.sync(&home, &bob, &with(Some(&since))).await;
    assert_eq!(rest["extensions"]["to_device"]["events"][0]["content"]["n"], 2);
    none(&rest, "typing");
    none(&rest, "receipts");
}

#[tokio::test]
async fn a_connection_outlives_a_restart_and_others_are_unknown() {
    let dir = tempfile::tempdir().unwrap();
    let (bob, room, pos);
    {
        let home = Home::at(dir.path(), open()).await;
        let alice = home.user("alice").await;
        bob = home.user("bob").await;
        let doer = Doer(&home);
        room = doer.room(&alice).await;
        doer.done(&bob, &room, "join", json!({})).await;
        let mut client = Slider::default();
        client.sync(&home, &bob, &everything()).await;
        doer.say(&alice, &room, "one").await;
        client.sync(&home, &bob, &everything()).await;
        pos = client.pos.clone();
        doer.say(&alice, &room, "two").await;
        home.close().await;
    }
    let home = Home::at(dir.path(), open()).await;
    let client = Slider { pos: pos.clone(), ..Slider::default() };
    let (status, answer) = client.ask(&home, &bob, &everything()).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let told = &answer["rooms"][&room];
    assert_eq!((told["initial"].as_bool(), told["timeline"].as_array().unwrap().len()), (None, 1), "{told}");
    // A connection of the same name ends the one before; what is made up is unknown.
    Slider::default().sync(&home, &bob, &everything()).await;
    for text in [pos.unwrap(), "x".into(), "1.0/s1_1_1_1_1_0".into()] {
        let client = Slider { pos: Some(text), ..Slider::default() };
        assert_error(client.ask(&home, &bob, &everything()).await, 400, "M_UNKNOWN_POS");
    }
    home.close().await;
    assert!(Path::new(dir.path()).join("cache.db").exists());
}

#[tokio::test]
async fn the_stable_spelling_is_spoken_on_its_path() {
    let home = Home::new(open()).await;
    let (alice, bob) = (home.user("alice").await, home.user("bob").await);
    let doer = Doer(&home);
    let room = doer.create(&alice, json!({"invite": [bob.id]})).await;
    let body = json!({"lists": {"a": {"range": [0, 9], "timeline_limit": 2,
        "required_state": {"include": [{"type": "m.room.create"}], "lazy_members": true}}}});
    let (_, answer) = home.post("/_matrix/client/v4/sync", &bob, body.clone()).await;
    assert!(answer["rooms"][&room]["stripped_state"].is_array(), "{answer}");
    doer.done(&bob, &room, "join", json!({})).await;
    let mut next = body.clone();
    next["pos"] = answer["pos"].clone();
    let (_, answer) = home.post("/_matrix/client/v4/sync", &bob, next).await;
    let told = &answer["rooms"][&room];
    assert_eq!(told["timeline_events"].as_array().unwrap().len(), 2, "{told}");
    assert_eq!(told["lists"], json!(["a"]));
    assert!(told["required_state"].as_array().unwrap().iter().any(|event| event["type"] == "m.room.create"));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, max_shrink_iters: 40, ..ProptestConfig::default() })]

    #[test]
    fn a_client_that_slides_knows_the_truth(
        ops in prop::collection::vec(op(), 10..70),
        windows in prop::collection::vec((0..3u64, 1..4u64, any::<bool>()), 8),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(run(&ops, &windows));
    }
}

/// Clients with windows that jump about; in the end each looks at everything, and has to know what is true.
async fn run(ops: &[Op], windows: &[(u64, u64, bool)]) {
    let mut world = World::new().await;
    let mut clients: Vec<Slider> = (0..CLIENTS).map(|_| Slider::default()).collect();
    let body = |client: usize, window: Option<(u64, u64, bool)>, rooms: &[String]| {
        let state = if client == 1 { json!([["m.room.member", "$LAZY"], ["*", "*"]]) } else { all_state() };
        let (to, limit, subscribe) = window.unwrap_or((99, 3, false));
        let mut body = json!({"conn_id": format!("c{client}"), "lists": {"a": {
            "ranges": [[0, to]], "timeline_limit": limit, "required_state": state}}});
        if subscribe {
            body["room_subscriptions"] = json!({&rooms[0]: {"timeline_limit": 4, "required_state": state}});
        }
        body
    };
    for (n, op) in ops.iter().enumerate() {
        let Op::Sync { client, lost } = op else {
            world.apply(n, op).await;
            continue;
        };
        let asked = body(*client, Some(windows[n % windows.len()]), &world.rooms);
        let slider = &mut clients[*client];
        if *lost {
            slider.ask(&world.home, &world.users[1], &asked).await;
        } else {
            slider.sync(&world.home, &world.users[1], &asked).await;
        }
    }
    for (number, client) in clients.iter_mut().enumerate() {
        let asked = body(number, None, &world.rooms);
        client.sync(&world.home, &world.users[1], &asked).await;
        let again = client.sync(&world.home, &world.users[1], &asked).await;
        assert_eq!(again["rooms"], json!({}), "everything was told");
        for room in &world.rooms {
            check(&world, client, room, number == 1).await;
        }
    }
}

async fn check(world: &World, client: &Slider, room: &str, lazy: bool) {
    let (home, bob) = (&world.home, &world.users[1]);
    let (_, joined) = home.get("/_matrix/client/v3/joined_rooms", bob).await;
    let joined = joined["joined_rooms"].as_array().unwrap().contains(&json!(room));
    let seen = client.rooms.get(room);
    assert_eq!(seen.is_some_and(|seen| seen.membership == "join"), joined, "whether the user is in {room}");
    let Some(seen) = seen.filter(|_| joined) else { return };
    let path = format!("/_matrix/client/v3/rooms/{}", part(room));
    let (_, state) = home.get(&format!("{path}/state"), bob).await;
    let state = state.as_array().unwrap();
    for event in state {
        let text = |field: &str| event[field].as_str().unwrap().to_owned();
        let key = (text("type"), text("state_key"));
        match seen.state.get(&key) {
            Some(known) => assert_eq!(known, &text("event_id"), "{key:?}"),
            None => assert!(lazy && key.0 == "m.room.member", "{key:?} is not known"),
        }
    }
    let name = state.iter().find(|event| event["type"] == "m.room.name");
    assert_eq!(seen.name.as_deref(), name.and_then(|event| event["content"]["name"].as_str()));
    let members = state.iter().filter(|event| event["content"]["membership"] == "join").count();
    assert_eq!(seen.joined, members as u64);
    // What it has and what it can page back to is the whole timeline, once and in order.
    let mut whole = seen.timeline.clone();
    let mut from = Some(seen.prev_batch.clone());
    while let Some(token) = from {
        let page = format!("{path}/messages?dir=b&limit=7&from={}", part(&token));
        let (status, page) = home.get(&page, bob).await;
        assert_eq!(status, StatusCode::OK, "{page}");
        for event in page["chunk"].as_array().unwrap() {
            whole.insert(0, event["event_id"].as_str().unwrap().to_owned());
        }
        from = page["end"].as_str().map(ToOwned::to_owned);
    }
    let (_, all) = home.get(&format!("{path}/messages?dir=b&limit=1000"), bob).await;
    let mut truth: Vec<_> = all["chunk"]
        .as_array()
        .unwrap()
        .iter()
        .map(|event| event["event_id"].as_str().unwrap().to_owned())
        .collect();
    truth.reverse();
    assert_eq!(whole, truth, "timeline of {room}");
}
