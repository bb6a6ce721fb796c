//! Sync v2 and sliding sync side by side over one history: whatever happens, and whenever and however clients ask, both
//! know what is true in the store.

mod clients;
mod truth;
mod world;

use proptest::prelude::*;
use serde_json::{Value, json};

use self::{
    clients::{Client, Truths, View, rooms_in},
    truth::{Count, Room, whole},
    world::{CLIENTS, How, Op, World, op},
};
use super::part;

proptest! {
    // The seed is in the crate's settings of CI (PROPTEST_RNG_SEED); more histories by PROPTEST_CASES.
    #![proptest_config(ProptestConfig {
        cases: std::env::var("PROPTEST_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(16),
        max_shrink_iters: 200,
        ..ProptestConfig::default()
    })]

    #[test]
    fn both_syncs_tell_the_truth(ops in prop::collection::vec(op(), 20..160)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(run(&ops));
    }
}

/// A client: whose it is, what it speaks, what it knows, and what it knew when it last put that away.
struct Device {
    number: usize,
    now: Client,
    saved: Option<Client>,
}

impl Device {
    /// Bob's and Carol's.
    fn user(&self) -> usize {
        1 + self.number / 4
    }

    fn slides(&self) -> bool {
        self.number % 2 == 1
    }

    fn is_lazy(&self) -> bool {
        self.number % 4 >= 2
    }

    /// Threads are counted apart.
    fn knows_threads(&self) -> bool {
        self.number.is_multiple_of(4)
    }

    fn filter(&self, limit: u64) -> Value {
        json!({"room": {"timeline": {"limit": limit.max(1), "unread_thread_notifications": self.knows_threads()},
            "state": {"lazy_load_members": self.is_lazy()}}})
    }
}

/// How a client asks this time.
#[derive(Clone, Copy, Debug)]
struct Ask {
    to: u64,
    limit: u64,
    subscribe: Option<usize>,
}

async fn run(ops: &[Op]) {
    let mut world = World::new().await;
    let mut devices: Vec<Device> =
        (0..CLIENTS).map(|number| Device { number, now: Client::default(), saved: None }).collect();
    for (n, op) in ops.iter().enumerate() {
        // Shown when it fails.
        println!("{n}: {op:?}");
        match op {
            Op::Sync { client, how, to, limit, subscribe } => {
                let ask = Ask { to: *to, limit: *limit, subscribe: *subscribe };
                devices[*client].sync(&world, *how, ask).await;
            }
            op => world.apply(n, op).await,
        }
    }
    // In the end everybody looks at everything.
    for device in &mut devices {
        device.sync(&world, How::Settle, Ask { to: 99, limit: 3, subscribe: None }).await;
    }
    world.close().await;
}

impl Device {
    async fn sync(&mut self, world: &World, how: How, ask: Ask) {
        let user = &world.users[self.user()];
        let room = ask.subscribe.map(|number| world.rooms[number % world.rooms.len()].as_str());
        let body = Client::body(self.is_lazy(), self.number, ask.to, ask.limit, room);
        if let (How::GoBack, Some(saved)) = (how, &self.saved) {
            self.now = saved.clone();
        }
        let mut truths = Truths::new();
        for id in &world.rooms {
            truths.insert(id.clone(), Room::read(&world.home().server.store, id, &user.id).await);
        }
        let rounds = if matches!(how, How::Settle) { 20 } else { 1 };
        for round in 0..rounds {
            let answer = if self.slides() {
                self.now.ask_sliding(world.home(), user, &body).await
            } else {
                self.now.ask_v2(world.home(), user, &self.filter(ask.limit)).await
            };
            if matches!(how, How::Lost) {
                return;
            }
            println!("device {}: {}", self.number, answer["rooms"]);
            if self.slides() {
                self.now.keep_sliding(&answer, &user.id, &truths);
                self.check_counts(world, &truths);
            } else {
                self.now.keep_v2(&answer, &user.id, &truths);
            }
            if !matches!(how, How::Settle) {
                return;
            }
            if round > 0 && rooms_in(&answer).is_empty() {
                self.check(world, ask, &truths).await;
                self.saved = Some(self.now.clone());
                return;
            }
        }
        panic!("it tells the same again and again");
    }

    /// The lists' counts say how many rooms there are.
    fn check_counts(&self, world: &World, truths: &Truths) {
        let user = &world.users[self.user()].id;
        let data = |room: &str, kind: &str| {
            world.data.get(&(user.clone(), room.to_owned(), kind.to_owned())).cloned().unwrap_or_default()
        };
        let direct = data("", "m.direct").to_string();
        let is_direct = |id: &str| direct.contains(id);
        let is_favourite = |id: &str| data(id, "m.tag")["tags"]["m.favourite"].is_object();
        let is_invite = |id: &str| truths[id].membership() == "invite";
        type Filter<'a> = &'a dyn Fn(&str) -> bool;
        let filters: [(&str, Filter<'_>); 4] = [
            ("all", &|_| true),
            ("direct", &is_direct),
            ("favourite", &is_favourite),
            ("invites", &is_invite),
        ];
        for (list, filter) in filters {
            let of = |here: bool| {
                let is_here = |room: &Room| matches!(room.membership(), "join" | "invite" | "knock");
                let rooms = truths.iter().filter(|(id, room)| is_here(room) == here && filter(id));
                rooms.filter(|(_, room)| here || room.mine.is_some()).count() as u64
            };
            // Rooms that the user is out of are shown to whom they were shown before, or who was thrown out.
            let (least, most) = (of(true), of(true) + of(false));
            let count = self.now.counts[list];
            assert!((least..=most).contains(&count), "list {list}: {count}, not {least} to {most}");
        }
    }

    /// Compares what it knows with what is true.
    async fn check(&self, world: &World, ask: Ask, truths: &Truths) {
        let user = &world.users[self.user()];
        for (id, truth) in truths {
            let view = self.now.rooms.get(id);
            let shown = !self.slides() || self.has_to_show(id, ask, truths, world);
            let here = matches!(truth.membership(), "join" | "invite" | "knock");
            if !shown {
                continue;
            }
            let known = view.map_or("leave", |view| &*view.membership);
            let known_here = matches!(known, "join" | "invite" | "knock");
            assert_eq!(
                (known_here, if here { known } else { "" }),
                (here, if here { truth.membership() } else { "" }),
                "device {}: membership of {id}, known as {known}: {:?}",
                self.number,
                truth.mine
            );
            if let (true, Some(view)) = (truth.is_joined(), view) {
                self.check_room(world, id, view, truth).await;
            }
        }
        let of_user = world.data.iter().filter(|((of, room, _), _)| *of == user.id && room.is_empty());
        for ((_, _, kind), content) in of_user {
            assert_eq!(self.now.data.get(kind), Some(content), "account data {kind}");
        }
    }

    /// Whether the first window, or the subscription, shows a room for certain.
    fn has_to_show(&self, id: &str, ask: Ask, truths: &Truths, world: &World) -> bool {
        let subscribed = ask.subscribe.map(|number| &world.rooms[number % world.rooms.len()]);
        let order = |room: &Room| {
            let since = room.mine.as_ref().map_or(0, |(_, since, _)| *since);
            if room.is_joined() { room.last() } else { since }
        };
        let above = truths.values().filter(|other| order(other) > order(&truths[id])).count() as u64;
        above <= ask.to || subscribed.is_some_and(|room| room == id)
    }

    async fn check_room(&self, world: &World, id: &str, view: &View, truth: &Room) {
        let user = &world.users[self.user()];
        let device = format!("device {}, {id}", self.number);
        // State.
        for (key, event) in &truth.state {
            match view.state.get(key) {
                Some(known) => assert_eq!(known, event, "{device}: {key:?}"),
                None => assert!(self.is_lazy() && key.0 == "m.room.member", "{device}: {key:?} is not known"),
            }
        }
        assert!(view.state.keys().all(|key| truth.state.contains_key(key)), "{device}: {:?}", view.state);
        let is_member = |pair: &&(String, String)| pair.0 == "m.room.member";
        let members = truth.state.keys().filter(is_member).filter(|pair| {
            let event = truth.events.iter().find(|event| event.id == truth.state[*pair]).unwrap();
            event.content["membership"] == "join"
        });
        if self.slides() {
            assert_eq!(view.joined, members.count() as u64, "{device}");
            let name = truth.state.get(&("m.room.name".to_owned(), String::new()));
            let name = name.and_then(|name| truth.events.iter().find(|event| event.id == *name));
            let name = name.and_then(|event| event.content["name"].as_str()).filter(|name| !name.is_empty());
            assert_eq!(view.name.as_deref(), name, "{device}");
        }
        // What it has and what it can page back to is the whole timeline, once and in order.
        let mut all = view.timeline.clone();
        let mut from = Some(view.prev_batch.clone());
        while let Some(token) = from {
            let path =
                format!("/_matrix/client/v3/rooms/{}/messages?dir=b&limit=7&from={}", part(id), part(&token));
            let (status, page) = world.home().get(&path, user).await;
            assert_eq!(status.as_u16(), 200, "{device}: {page}");
            for event in page["chunk"].as_array().unwrap() {
                all.insert(0, event["event_id"].as_str().unwrap().to_owned());
            }
            from = page["end"].as_str().map(ToOwned::to_owned);
        }
        assert_eq!(all, truth.visible(&user.id), "{device}: timeline");
        // What is unread.
        let mut unread = truth.unread(&user.id, &world.threads);
        if !self.knows_threads() {
            unread = [("main".to_owned(), whole(&unread))].into();
        }
        let mut known = view.unread.clone();
        for counts in [&mut unread, &mut known] {
            counts.retain(|_, count| *count != Count::default());
        }
        assert_eq!(known, unread, "{device}: unread");
        // Receipts: one's own all, of others none that is old.
        let without_thread = |of: &String, private: bool| {
            truth
                .receipts
                .iter()
                .any(|(other, thread, _, is)| other == of && thread.is_empty() && *is == private)
        };
        for (of, thread, event, private) in &truth.receipts {
            // An event's receipts have room for one of each user: one of no thread stands for that of a thread (MSC4102).
            if !thread.is_empty() && without_thread(of, *private) {
                continue;
            }
            match view.receipts.get(&(of.clone(), thread.clone(), *private)) {
                Some(known) => assert_eq!(known, event, "{device}: receipt of {of} in {thread:?}"),
                None => {
                    assert!(*of != user.id && self.slides(), "{device}: no receipt of {of} in {thread:?}")
                }
            }
        }
        for ((of, room, kind), content) in &world.data {
            if *of == user.id && room == id {
                assert_eq!(view.data.get(kind), Some(content), "{device}: account data {kind}");
            }
        }
    }
}
