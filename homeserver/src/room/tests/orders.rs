//! The same history in many orders: whoever has all of it has the same state, the same ends and the same verdicts,
//! however it came.
//!
//! Three nodes live through fights over power, bans, kicks, joins (restricted ones too) and changes of state, each hearing
//! of the others late and in pieces, so that the graph forks all the time; a fourth has joined before and hears nothing.
//! Then its directory is copied, and each copy is fed everything in an order of its own; some hear the last things first,
//! and ask for what is missing. Among it are events that the rules forbid at their place, one that builds on such, and what
//! was allowed where it was said and not where it arrives.
//!
//! What has to be equal: of each event the state before it, and whether it is rejected; these follow from what it builds
//! on alone. And, once an event builds on all ends, the present state. Which events fail softly depends on what a node knew
//! when they came, and differs. A server whose last user is thrown out hears nothing more of a room, so one user of each
//! keeps out of the fights.
//!
//! `ORDERS` says how many orders are tried of each history, `SEEDS` how many histories of each version are. Keys and ids are
//! random: a history that fails is printed whole.

use std::{collections::HashMap, path::Path, sync::Arc};

use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, OwnedEventId, OwnedRoomId, OwnedServerName, OwnedUserId, RoomId,
};
use serde_json::{Value, json};

use super::{
    Node,
    federation::{Asks, Net, resolved, sign},
    state,
};
use crate::{
    room::{
        Draft, PduJson,
        core::{canonical, check, pdu::named, version},
    },
    store::{
        Kind, Options, StoreError, Synchronous,
        schema::{
            events::{self, OUTLIER, REJECTED},
            state as table,
        },
    },
};

/// Steps of a history.
const STEPS: u64 = 40;
const OBSERVER: &str = "fourth.example";

/// SplitMix64: the same numbers everywhere.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) % sides as u64) as usize
    }
}

struct Item {
    origin: OwnedServerName,
    pdu: PduJson,
    id: OwnedEventId,
    prev: Vec<OwnedEventId>,
}

/// What was said, and the directory of a node that was there at the beginning.
struct History {
    net: Net,
    room: OwnedRoomId,
    items: Vec<Item>,
    base: tempfile::TempDir,
    last: OwnedEventId,
    _nodes: Vec<(tempfile::TempDir, Node)>,
}

/// What a node comes to.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    state: Vec<(String, OwnedEventId)>,
    ends: Vec<OwnedEventId>,
    verdicts: Vec<Verdict>,
}

/// What a node says of an event.
#[derive(Debug, PartialEq, Eq)]
struct Verdict {
    id: OwnedEventId,
    rejected: bool,
    /// The state before it.
    before: Vec<(String, OwnedEventId)>,
}

/// A node and those of its users who act.
struct Actor {
    node: usize,
    user: OwnedUserId,
}

/// Somebody does something.
fn action(dice: &mut Dice, version: &str, actors: &[Actor]) -> (usize, Draft) {
    let who = dice.roll(actors.len());
    let target = &actors[1 + dice.roll(actors.len() - 1)].user;
    let number = dice.roll(1000);
    let member =
        |membership: &str| state("m.room.member", target.as_str(), json!({"membership": membership}));
    let (alice, bob, carol) = (&actors[0].user, &actors[1].user, &actors[2].user);
    let draft = match dice.roll(13) {
        0 | 1 => {
            let (high, low) = ([40, 60, 80][dice.roll(3)], [0, 50][dice.roll(2)]);
            let mut users = json!({ bob.as_str(): high, carol.as_str(): low });
            if version != "12" {
                users[alice.as_str()] = 100.into();
            }
            state(
                "m.room.power_levels",
                "",
                json!({ "users": users, "state_default": 50, "invite": 0, "n": number }),
            )
        }
        2 | 3 => state("m.room.topic", "", json!({ "topic": number })),
        4 => state("m.room.name", "", json!({ "name": format!("{number}") })),
        5 | 6 => member("ban"),
        7 => member("leave"),
        8 | 9 => {
            let user = &actors[who].user;
            state("m.room.member", user.as_str(), json!({ "membership": "join", "n": number }))
        }
        10 => {
            let rule = ["public", "invite", "public"][dice.roll(3)];
            state("m.room.join_rules", "", json!({ "join_rule": rule, "n": number }))
        }
        _ => super::message(&format!("{number}")),
    };
    (who, draft)
}

async fn history(version: &str, seed: u64) -> History {
    let net = Net::default();
    let mut nodes =
        vec![net.node("one.test"), net.node("two.testing"), net.node("three.example"), net.node(OBSERVER)];
    let user = |node: usize, name: &str| nodes[node].1.user(name);
    let (alice, bob, carol, dora) = (user(0, "alice"), user(1, "bob"), user(2, "carol"), user(3, "dora"));
    let (dave, erin) = (user(2, "dave"), user(1, "erin"));
    // They keep out of everything.
    let (wes, wim) = (user(1, "wes"), user(2, "wim"));
    let room = nodes[0].1.room(&alice, version).await;
    for (node, user) in [(1, &wes), (2, &wim), (1, &bob), (2, &carol), (3, &dora)] {
        net.join(&nodes[node].1, user, &nodes[0].1, &room).await.unwrap();
        net.deliver(&nodes[0].1).await;
    }
    let (base, observer) = nodes.pop().unwrap();
    net.remove(observer.rooms.server_name());
    observer.store.close().await;
    drop(observer);

    let actors = [
        Actor { node: 0, user: alice.clone() },
        Actor { node: 1, user: bob },
        Actor { node: 2, user: carol },
        Actor { node: 2, user: dave.clone() },
        Actor { node: 1, user: erin.clone() },
    ];
    let mut dice = Dice(seed);
    let mut items: Vec<Item> = Vec::new();
    // What each node has not heard yet.
    let mut unheard: Vec<Vec<usize>> = vec![Vec::new(); 3];
    let begun = 4_000_000_000_000;
    for step in 0..STEPS {
        let (who, mut draft) = action(&mut dice, version, &actors);
        draft.ts_ms = Some(begun + step * 1000);
        let actor = &actors[who];
        // What one may not do is not done.
        let _ = nodes[actor.node].1.rooms.send(&actor.user, &room, draft, None).await;
        if step == STEPS / 2 {
            let forged = forged(&nodes[2].1, &room, &dave, version, begun + step * 1000 + 1).await;
            // What they build on comes before them.
            collect(&net, &nodes, version, &mut items, &mut unheard).await;
            for forged in forged {
                for list in &mut unheard {
                    list.push(items.len());
                }
                items.push(forged);
            }
            restricted(&nodes, &room, [&alice, &erin], version, begun + step * 1000 + 3).await;
        }
        collect(&net, &nodes, version, &mut items, &mut unheard).await;
        if dice.roll(3) == 0 {
            let to = dice.roll(3);
            let heard: Vec<usize> = unheard[to].drain(..).collect();
            hear(&nodes[to].1, &items, heard).await;
        }
    }
    for to in 0..3 {
        let heard: Vec<usize> = unheard[to].drain(..).collect();
        hear(&nodes[to].1, &items, heard).await;
    }
    let last = closing(&nodes[0].1, &room, &alice, version, &items, begun + STEPS * 1000).await;
    let id = last.id.clone();
    for (_, node) in &nodes {
        node.rooms.receive(&last.origin, vec![last.pdu.clone()]).await;
    }
    items.push(last);
    History { net, room, items, base, last: id, _nodes: nodes }
}

/// What the nodes have said since the last time.
async fn collect(
    net: &Net,
    nodes: &[(tempfile::TempDir, Node)],
    version: &str,
    items: &mut Vec<Item>,
    unheard: &mut [Vec<usize>],
) {
    for (at, (_, node)) in nodes.iter().enumerate() {
        for (pdu, _) in net.outbox(node).await {
            for (other, list) in unheard.iter_mut().enumerate() {
                if other != at {
                    list.push(items.len());
                }
            }
            items.push(item(node, pdu, version));
        }
    }
}

async fn hear(node: &Node, items: &[Item], heard: Vec<usize>) {
    for at in heard {
        // What does not hold is not taken; the outcome is compared.
        node.rooms.receive(&items[at].origin, vec![items[at].pdu.clone()]).await;
    }
}

fn item(node: &Node, pdu: PduJson, version: &str) -> Item {
    let rules = version::rules(version).unwrap();
    let object = check::parse(&pdu).unwrap();
    let id = check::event_id(&object, &rules).unwrap();
    let prev = object["prev_events"].as_array().unwrap().iter();
    let prev = prev.map(|item| OwnedEventId::try_from(named(item).unwrap()).unwrap()).collect();
    Item { origin: node.rooms.server_name().to_owned(), pdu, id, prev }
}

fn finished(node: &Node, version: &str, mut event: CanonicalJsonObject) -> Item {
    event.remove("signatures");
    event.remove("hashes");
    let event = sign(node, version, event);
    item(node, serde_json::value::to_raw_value(&event).unwrap(), version)
}

/// How an event names another. (Nobody looks at the hashes of versions 1 and 2.)
fn reference(id: &OwnedEventId) -> CanonicalJsonValue {
    match id.server_name() {
        Some(_) => CanonicalJsonValue::Array(vec![id.as_str().into(), CanonicalJsonObject::new().into()]),
        None => id.as_str().into(),
    }
}

/// A topic by somebody who may not set it, and a message on top of that. Nothing, if that user cannot speak just now.
async fn forged(node: &Node, room: &RoomId, user: &OwnedUserId, version: &str, ts: u64) -> Vec<Item> {
    let mut draft = super::message("x");
    draft.ts_ms = Some(ts);
    let _ = node
        .rooms
        .send(user, room, state("m.room.member", user.as_str(), json!({"membership": "join"})), None)
        .await;
    let Ok(mut event) = node.rooms.build(room, user, draft.clone()).await else { return Vec::new() };
    let Ok(mut on_it) = node.rooms.build(room, user, draft).await else { return Vec::new() };
    event.insert("type".into(), "m.room.topic".into());
    event.insert("state_key".into(), "".into());
    event.insert("content".into(), CanonicalJsonObject::from([("topic".into(), "forged".into())]).into());
    let forged = finished(node, version, event);
    let prev = vec![reference(&forged.id)];
    on_it.insert("prev_events".into(), prev.into());
    on_it.insert(
        "origin_server_ts".into(),
        CanonicalJsonValue::Integer(ruma::Int::new_saturating(ts as i64 + 1)),
    );
    vec![forged, finished(node, version, on_it)]
}

/// Alice makes the room restricted, and lets erin of another server in.
async fn restricted(
    nodes: &[(tempfile::TempDir, Node)],
    room: &OwnedRoomId,
    [alice, erin]: [&OwnedUserId; 2],
    version: &str,
    ts: u64,
) {
    let (a, b) = (&nodes[0].1, &nodes[1].1);
    let rule = json!({ "join_rule": "restricted",
        "allow": [{ "type": "m.room_membership", "room_id": "!club:one.test" }] });
    let mut draft = state("m.room.join_rules", "", rule);
    draft.ts_ms = Some(ts);
    if a.rooms.send(alice, room, draft, None).await.is_err() {
        return;
    }
    let content = json!({ "membership": "join", "join_authorised_via_users_server": alice });
    let mut draft = state("m.room.member", erin.as_str(), content);
    draft.ts_ms = Some(ts + 1);
    // Before version 8 nobody can be let in so.
    let Ok(template) = a.rooms.template(room, erin, draft).await else { return };
    let mut event = sign(b, version, template.event);
    let signer = a.rooms.signer();
    let rules = version::rules(version).unwrap();
    canonical::sign_event(signer.name.as_str(), &*signer.key, &mut event, &rules).unwrap();
    // Alice's server tells the others.
    a.rooms.receive_handshake(b.rooms.server_name(), room, event).await.unwrap();
}

/// A message on everything that nothing builds on yet.
async fn closing(
    node: &Node,
    room: &RoomId,
    alice: &OwnedUserId,
    version: &str,
    items: &[Item],
    ts: u64,
) -> Item {
    let mut draft = super::message("the end");
    draft.ts_ms = Some(ts);
    let mut event = node.rooms.build(room, alice, draft).await.unwrap();
    let built_on = |id: &OwnedEventId| items.iter().any(|item| item.prev.contains(id));
    let leaves: Vec<CanonicalJsonValue> =
        items.iter().filter(|item| !built_on(&item.id)).map(|item| reference(&item.id)).collect();
    assert!(!leaves.is_empty() && leaves.len() <= 20, "{} ends", leaves.len());
    event.insert("prev_events".into(), leaves.into());
    finished(node, version, event)
}

impl History {
    /// An order in which each event comes after those that it builds on: another one would be made such a one by asking
    /// for what is missing.
    fn forwards(&self, dice: &mut Dice) -> Vec<usize> {
        let at: HashMap<&OwnedEventId, usize> =
            self.items.iter().enumerate().map(|(at, item)| (&item.id, at)).collect();
        let mut order: Vec<usize> = Vec::new();
        let mut left: Vec<usize> = (0..self.items.len()).collect();
        while !left.is_empty() {
            let ready = |item: &usize| {
                self.items[*item].prev.iter().all(|prev| at.get(prev).is_none_or(|prev| order.contains(prev)))
            };
            let open: Vec<usize> = left.iter().copied().filter(ready).collect();
            let next = open[dice.roll(open.len())];
            left.retain(|item| *item != next);
            order.push(next);
        }
        order
    }

    /// Any order: what is missing is asked for.
    fn shuffled(&self, dice: &mut Dice) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.items.len()).collect();
        for at in (1..order.len()).rev() {
            order.swap(at, dice.roll(at + 1));
        }
        order
    }

    /// What a fresh node makes of an order.
    async fn fed(&self, order: &[usize]) -> Outcome {
        let dir = tempfile::tempdir().unwrap();
        copy(self.base.path(), dir.path());
        let fetch = Arc::new(Asks::new(&self.net, OBSERVER));
        let options = Options { synchronous: Synchronous::Normal, ..Options::default() };
        let node = Node::named(OBSERVER, dir.path(), options, fetch);
        for at in order {
            hear(&node, &self.items, vec![*at]).await;
        }
        let begun = std::time::Instant::now();
        loop {
            let outcome = self.outcome(&node).await;
            if outcome.verdicts.len() == self.items.len() && outcome.ends.contains(&self.last) {
                node.store.close().await;
                return outcome;
            }
            let missing: Vec<usize> = (0..self.items.len())
                .filter(|at| !outcome.verdicts.iter().any(|verdict| verdict.id == self.items[*at].id))
                .collect();
            assert!(
                begun.elapsed() < std::time::Duration::from_secs(60),
                "{missing:?} of {order:?} did not come"
            );
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    }

    async fn outcome(&self, node: &Node) -> Outcome {
        let state = resolved(node, &self.room).await;
        let (room, ids) =
            (self.room.clone(), self.items.iter().map(|item| item.id.clone()).collect::<Vec<_>>());
        let (ends, verdicts) = node
            .store
            .read(move |tx| -> Result<_, StoreError> {
                let room = tx.lookup(Kind::Room, room.as_str())?.unwrap();
                let mut ends = Vec::new();
                for nid in events::forward(tx, room)? {
                    ends.push(events::id(tx, nid)?);
                }
                ends.sort();
                let mut verdicts = Vec::new();
                for id in ids {
                    if let Some(event) =
                        events::event_by_id(tx, &id)?.filter(|event| event.flags & OUTLIER == 0)
                    {
                        let mut before = Vec::new();
                        for (skey, nid) in table::full(tx, event.state_before.unwrap())? {
                            before.push((tx.text(skey)?.to_string(), events::id(tx, nid)?));
                        }
                        before.sort();
                        verdicts.push(Verdict { id, rejected: event.flags & REJECTED != 0, before });
                    }
                }
                Ok((ends, verdicts))
            })
            .await
            .unwrap();
        Outcome { state, ends, verdicts }
    }

    /// The state by content, without what two versions say differently of who made the room.
    async fn told(&self) -> Vec<(String, Value)> {
        let node = &self._nodes[0].1;
        let alice = node.user("alice");
        let mut list = Vec::new();
        for (key, _) in resolved(node, &self.room).await {
            let (kind, state_key) = crate::store::ids::skey_split(&key);
            if !["m.room.create", "m.room.power_levels"].contains(&kind) {
                let event = node.rooms.state_one(&alice, &self.room, kind, state_key).await.unwrap();
                let event: Value = serde_json::from_str(event.get()).unwrap();
                list.push((key.clone(), event["content"].clone()));
            }
        }
        list
    }
}

fn copy(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            std::fs::create_dir_all(&target).unwrap();
            copy(&entry.path(), &target);
        } else if entry.file_type().unwrap().is_file() {
            std::fs::copy(entry.path(), &target).unwrap();
        }
    }
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

impl Outcome {
    /// Fails with everything that is needed to see why, if another node came to something else.
    fn assert_same(&self, other: &Self, history: &History, who: &str) {
        if self == other {
            return;
        }
        let mut told = String::new();
        for (at, item) in history.items.iter().enumerate() {
            told += &format!("{at}: {} by {} on {:?}\n  {}\n", item.id, item.origin, item.prev, item.pdu);
            let find = |outcome: &Self| outcome.verdicts.iter().position(|verdict| verdict.id == item.id);
            match (find(self), find(other)) {
                (Some(a), Some(b)) => {
                    let (a, b) = (&self.verdicts[a], &other.verdicts[b]);
                    if a.rejected != b.rejected {
                        told += &format!("  !! rejected: {} here, {} there\n", a.rejected, b.rejected);
                    }
                    let here: Vec<_> = a.before.iter().filter(|entry| !b.before.contains(entry)).collect();
                    let there: Vec<_> = b.before.iter().filter(|entry| !a.before.contains(entry)).collect();
                    if !here.is_empty() || !there.is_empty() {
                        told += &format!("  !! before: {here:?} here, {there:?} there\n");
                    }
                }
                (a, b) => told += &format!("  !! is here: {}, is there: {}\n", a.is_some(), b.is_some()),
            }
        }
        panic!("{who} came to another state\nends {:?} here, {:?} there\n{told}", self.ends, other.ends);
    }
}

/// Histories of a version, each in many orders.
async fn in_any_order(version: &str) {
    let orders = setting("ORDERS", 25);
    let mut rejected = 0;
    for seed in 0..setting("SEEDS", 5) {
        let history = history(version, seed).await;
        let mut dice = Dice(seed + 100);
        // Those who lived through it.
        let mut expected: Option<Outcome> = None;
        for (_, node) in &history._nodes {
            let lived = history.outcome(node).await;
            assert_eq!(lived.ends, std::slice::from_ref(&history.last), "version {version}, seed {seed}");
            let who = format!("version {version}, seed {seed}, {}", node.rooms.server_name());
            match &expected {
                Some(expected) => expected.assert_same(&lived, &history, &who),
                None => expected = Some(lived),
            }
        }
        let expected = expected.unwrap();
        for number in 0..orders {
            let order = match number % 5 {
                4 => history.shuffled(&mut dice),
                _ => history.forwards(&mut dice),
            };
            let outcome = history.fed(&order).await;
            let who = format!("version {version}, seed {seed}, order {order:?}");
            expected.assert_same(&outcome, &history, &who);
        }
        rejected += expected.verdicts.iter().filter(|verdict| verdict.rejected).count();
    }
    assert!(rejected > 0, "version {version}: nothing was rejected");
}

macro_rules! in_any_order {
    ($($name:ident $version:literal,)*) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            in_any_order($version).await;
        }
    )*};
}

// State resolution 1, 2 with the event formats of versions 2, 3, 6 and 10, and 2.1.
in_any_order! {
    any_order_of_a_history_of_version_1_ends_in_the_same_state "1",
    any_order_of_a_history_of_version_2_ends_in_the_same_state "2",
    any_order_of_a_history_of_version_3_ends_in_the_same_state "3",
    any_order_of_a_history_of_version_6_ends_in_the_same_state "6",
    any_order_of_a_history_of_version_8_ends_in_the_same_state "8",
    any_order_of_a_history_of_version_10_ends_in_the_same_state "10",
    any_order_of_a_history_of_version_11_ends_in_the_same_state "11",
    any_order_of_a_history_of_version_12_ends_in_the_same_state "12",
}

/// Where nobody tries to make use of what 2.1 mends, both algorithms say the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn resolution_2_and_2_1_agree_on_ordinary_fights() {
    for seed in [11, 12, 13, 14] {
        let (two, two_one) = (history("11", seed).await, history("12", seed).await);
        assert_eq!(two.told().await, two_one.told().await, "seed {seed}");
    }
}
