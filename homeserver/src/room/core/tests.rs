//! Rules and resolution over rooms made in memory. Events are not hashed; their ids come from a counter.

use std::{collections::BTreeMap, sync::Arc};

use proptest::prelude::*;
use ruma::{
    EventId, OwnedEventId, OwnedRoomId, RoomId, UserId,
    events::StateEventType,
    room_version_rules::RoomVersionRules,
    state_res::{self, utils::event_id_set::EventIdSet},
};
use serde_json::{Value, json, value::to_raw_value};

use super::{
    auth,
    pdu::Pdu,
    resolve::{self, Graph, NumberMap},
    version,
};
use crate::store::schema::chain::{Link, Place};

const ALICE: &str = "@alice:a.test";
const BOB: &str = "@bob:b.test";
const CAROL: &str = "@carol:c.test";
const DAVE: &str = "@dave:d.test";

/// A room whose events are numbers.
struct Room {
    rules: RoomVersionRules,
    id: OwnedRoomId,
    events: Vec<Arc<Pdu>>,
    auth: Vec<Arc<[i64]>>,
    keys: Vec<(String, String)>,
}

impl Room {
    fn new(version: &str) -> (Self, NumberMap) {
        let rules = version::rules(version).unwrap();
        let by_hash = rules.authorization.room_create_event_id_as_room_id;
        let id = match by_hash {
            true => RoomId::parse(id(0).as_str().replace('$', "!")).unwrap(),
            false => RoomId::parse("!room:a.test").unwrap(),
        };
        let mut room = Self { rules, id, events: Vec::new(), auth: Vec::new(), keys: Vec::new() };
        let mut state = NumberMap::new();
        let mut content = json!({ "room_version": version });
        if !room.rules.authorization.use_room_create_sender {
            content["creator"] = ALICE.into();
        }
        room.must(&mut state, ALICE, "m.room.create", "", content);
        room.must(&mut state, ALICE, "m.room.member", ALICE, json!({"membership": "join"}));
        let mut users = json!({ BOB: 60, CAROL: 50 });
        if !by_hash {
            users[ALICE] = 100.into();
        }
        room.must(
            &mut state,
            ALICE,
            "m.room.power_levels",
            "",
            json!({ "users": users, "state_default": 50 }),
        );
        room.must(&mut state, ALICE, "m.room.join_rules", "", json!({ "join_rule": "public" }));
        for user in [BOB, CAROL, DAVE] {
            room.must(&mut state, user, "m.room.member", user, json!({"membership": "join"}));
        }
        (room, state)
    }

    /// The event on a state, not judged.
    fn event(&self, state: &NumberMap, sender: &str, kind: &str, key: &str, content: &Value, ts: u64) -> Pdu {
        let number = self.events.len() as u64;
        let create = kind == "m.room.create";
        let says_room = !(create && self.rules.authorization.room_create_event_id_as_room_id);
        let mut pdu = Pdu {
            event_id: id(number),
            hash: None,
            room: self.id.clone(),
            says_room,
            sender: UserId::parse(sender).unwrap(),
            ts,
            kind: kind.into(),
            type_name: kind.to_owned(),
            state_key: Some(key.to_owned()),
            content: to_raw_value(content).unwrap(),
            prev: Vec::new(),
            auth: Vec::new(),
            redacts: None,
            depth: 1,
            rejected: false,
        };
        if !create {
            pdu.prev = vec![id(number - 1)];
        }
        let needed =
            auth::needed(&self.rules, &pdu.kind, &pdu.sender, pdu.state_key.as_deref(), &pdu.content);
        for entry in needed.unwrap_or_default() {
            if auth::is_named(&self.rules, &entry)
                && let Some(number) = self.skey(&entry.0, &entry.1).and_then(|skey| state.get(&skey))
            {
                pdu.auth.push(self.events[*number as usize].event_id.clone());
            }
        }
        pdu
    }

    /// What the rules say of it.
    fn judge(&self, state: &NumberMap, pdu: &Pdu) -> Result<(), String> {
        auth::check_own(&self.rules, pdu, |id| self.pdu(self.number(id)?))?;
        auth::check_state(&self.rules, pdu, |kind, key| self.pdu(*state.get(&self.skey(kind, key)?)?))
    }

    fn try_add(
        &mut self,
        state: &mut NumberMap,
        sender: &str,
        kind: &str,
        key: &str,
        content: Value,
        ts: u64,
    ) -> Result<(), String> {
        let pdu = self.event(state, sender, kind, key, &content, ts);
        self.judge(state, &pdu)?;
        let auth = pdu.auth.iter().map(|id| self.number(id).unwrap()).collect();
        let number = self.events.len() as i64;
        self.events.push(Arc::new(pdu));
        self.auth.push(auth);
        let entry = (kind.to_owned(), key.to_owned());
        let skey = match self.keys.iter().position(|known| *known == entry) {
            Some(skey) => skey,
            None => {
                self.keys.push(entry);
                self.keys.len() - 1
            }
        };
        state.insert(skey as i64, number);
        Ok(())
    }

    fn must(&mut self, state: &mut NumberMap, sender: &str, kind: &str, key: &str, content: Value) {
        self.try_add(state, sender, kind, key, content, 1).unwrap();
    }

    /// The same question asked with everything: whole maps and whole auth chains.
    fn whole(&self, maps: &[NumberMap]) -> BTreeMap<(String, String), OwnedEventId> {
        let full: Vec<state_res::StateMap<OwnedEventId>> = maps
            .iter()
            .map(|map| {
                map.iter()
                    .map(|(skey, number)| {
                        let (kind, key) = self.keys[*skey as usize].clone();
                        ((StateEventType::from(kind), key), self.events[*number as usize].event_id.clone())
                    })
                    .collect()
            })
            .collect();
        let chains = maps
            .iter()
            .map(|map| {
                let mut set = EventIdSet::new();
                let mut open: Vec<i64> = map.values().copied().collect();
                for number in &open {
                    set.insert(self.events[*number as usize].event_id.clone());
                }
                while let Some(number) = open.pop() {
                    for auth in self.auth[number as usize].iter() {
                        if set.insert(self.events[*auth as usize].event_id.clone()) {
                            open.push(*auth);
                        }
                    }
                }
                set
            })
            .collect();
        let fetch = |id: &EventId| self.pdu(self.number(id)?);
        let subgraph = |conflicted: &state_res::StateMap<Vec<OwnedEventId>>| {
            // By the definition: on a path from one conflicted event to another, found by asking each pair.
            let seeds: Vec<i64> = conflicted.values().flatten().map(|id| self.number(id).unwrap()).collect();
            let mut set = EventIdSet::new();
            for number in 0..self.events.len() as i64 {
                let below = seeds.iter().any(|seed| self.reaches(*seed, number));
                let above = seeds.iter().any(|seed| self.reaches(number, *seed));
                if below && above {
                    set.insert(self.events[number as usize].event_id.clone());
                }
            }
            Some(set)
        };
        let rules = self.rules.state_res.v2_rules().expect("version 1 has an algorithm of its own");
        state_res::resolve(&self.rules.authorization, rules, full.iter(), chains, fetch, subgraph)
            .unwrap()
            .into_iter()
            .map(|((kind, key), id)| ((kind.to_string(), key), id))
            .collect()
    }

    fn reaches(&self, from: i64, to: i64) -> bool {
        from == to || self.auth[from as usize].iter().any(|auth| self.reaches(*auth, to))
    }

    fn named(&self, map: &NumberMap) -> BTreeMap<(String, String), OwnedEventId> {
        map.iter()
            .map(|(skey, number)| {
                (self.keys[*skey as usize].clone(), self.events[*number as usize].event_id.clone())
            })
            .collect()
    }
}

impl Graph for Room {
    fn auth(&self, event: i64) -> Option<Arc<[i64]>> {
        self.auth.get(event as usize).cloned()
    }

    fn pdu(&self, event: i64) -> Option<Arc<Pdu>> {
        self.events.get(event as usize).cloned()
    }

    fn number(&self, id: &EventId) -> Option<i64> {
        self.events.iter().position(|pdu| pdu.event_id == id).map(|number| number as i64)
    }

    fn key(&self, skey: i64) -> Option<(String, String)> {
        self.keys.get(skey as usize).cloned()
    }

    fn skey(&self, kind: &str, key: &str) -> Option<i64> {
        self.keys.iter().position(|known| known.0 == kind && known.1 == key).map(|skey| skey as i64)
    }

    // Without a cover everything is walked; `room/tests/chains.rs` compares that with the cover.
    fn place(&self, _event: i64) -> Option<Place> {
        None
    }

    fn links(&self, _chain: i64) -> Arc<[Link]> {
        Arc::new([])
    }

    fn range(&self, _chain: i64, _after: i64, _upto: i64) -> Vec<i64> {
        Vec::new()
    }
}

/// An id whose order is not the order of numbers, as with hashes.
fn id(number: u64) -> OwnedEventId {
    let hash = blake3::hash(&number.to_le_bytes());
    EventId::parse(format!("${}", data_encoding::BASE64URL_NOPAD.encode(hash.as_bytes()))).unwrap()
}

/// One try to change the state: who, what.
#[derive(Clone, Debug)]
struct Act {
    branch: usize,
    who: usize,
    what: usize,
    whom: usize,
    level: i64,
    ts: u64,
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = (0..3_usize, 0..4_usize, 0..8_usize, 0..4_usize, 0..4_i64, 0..20_u64);
    let act = act.prop_map(|(branch, who, what, whom, level, ts)| Act { branch, who, what, whom, level, ts });
    prop::collection::vec(act, 1..25)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]
    #[test]
    fn the_reduced_question_has_the_answer_of_the_whole(version in prop::sample::select(vec!["2", "3", "6", "8", "10", "11", "12"]),
                                                        acts in acts()) {
        let users = [ALICE, BOB, CAROL, DAVE];
        let (mut room, base) = Room::new(version);
        let mut branches = [base.clone(), base.clone(), base];
        for act in acts {
            let (who, whom) = (users[act.who], users[act.whom]);
            let state = &mut branches[act.branch];
            let ts = act.ts;
            // Most tries are refused; what is allowed makes the forks.
            let _ = match act.what {
                0 => room.try_add(state, who, "m.room.topic", "", json!({"topic": ts}), ts),
                1 => room.try_add(state, who, "m.room.member", whom, json!({"membership": "ban"}), ts),
                2 => room.try_add(state, who, "m.room.member", whom, json!({"membership": "leave"}), ts),
                3 => room.try_add(state, who, "m.room.member", who, json!({"membership": "join", "n": ts}), ts),
                4 => {
                    let mut users = json!({ BOB: 60, CAROL: 50 });
                    if !room.rules.authorization.explicitly_privilege_room_creators {
                        users[ALICE] = 100.into();
                    }
                    if whom != ALICE {
                        users[whom] = (act.level * 20).into();
                    }
                    room.try_add(state, who, "m.room.power_levels", "", json!({ "users": users, "n": ts }), ts)
                }
                5 => {
                    let rule = ["public", "invite"][act.whom % 2];
                    room.try_add(state, who, "m.room.join_rules", "", json!({ "join_rule": rule }), ts)
                }
                6 => room.try_add(state, who, "m.room.member", whom, json!({"membership": "invite"}), ts),
                _ => room.try_add(state, who, "x.own", whom, json!({"n": ts}), ts),
            };
        }
        for count in [2, 3] {
            let reduced = resolve::resolve(&room.rules, &room, &branches[..count]).unwrap();
            prop_assert_eq!(room.named(&reduced), room.whole(&branches[..count]));
        }
    }
}

/// The number that a version goes by, and whether state belongs to users in it.
fn number(version: &str) -> (u32, bool) {
    let owned = version.strip_prefix("org.matrix.msc3757.");
    (owned.unwrap_or(version).parse().unwrap(), owned.is_some())
}

#[test]
fn rules_by_version() {
    // (from version, who, type, key, content): refused before it, allowed from it.
    for version in version::SUPPORTED {
        let (number, owned) = number(version.id);
        let (mut room, state) = Room::new(version.id);
        let mut closed = state.clone();
        room.must(&mut closed, BOB, "m.room.join_rules", "", json!({ "join_rule": "invite" }));
        let ask = |state: &NumberMap, sender: &str, kind: &str, key: &str, content: Value| {
            let pdu = room.event(state, sender, kind, key, &content, 2);
            room.judge(state, &pdu).is_ok()
        };
        let eve = "@eve:e.test";
        let join = json!({"membership": "join"});
        assert!(ask(&state, eve, "m.room.member", eve, join.clone()), "public rooms let all in");
        assert!(!ask(&closed, eve, "m.room.member", eve, join.clone()));
        assert!(!ask(&closed, eve, "m.room.topic", "", json!({})));
        assert!(!ask(&state, DAVE, "m.room.topic", "", json!({})), "state needs 50");
        assert!(ask(&state, CAROL, "m.room.topic", "", json!({})));
        assert!(!ask(&state, CAROL, "x.own", BOB, json!({})), "another's key");
        assert_eq!(ask(&state, BOB, "x.own", CAROL, json!({})), owned, "of one who stands below");
        assert_eq!(
            ask(&state, CAROL, "x.own", &format!("{CAROL}_a"), json!({})),
            owned,
            "one's own and more"
        );
        assert!(
            !ask(&state, CAROL, "m.room.member", BOB, json!({"membership": "ban"})),
            "bob stands above carol"
        );
        assert!(ask(&state, BOB, "m.room.member", CAROL, json!({"membership": "ban"})));
        // Levels as strings were allowed until 9.
        let strings = json!({ "users": { BOB: "60", CAROL: 50, ALICE: 100 }, "state_default": 50 });
        if number < 12 {
            assert_eq!(
                ask(&state, ALICE, "m.room.power_levels", "", strings),
                number < 10,
                "version {number}"
            );
        }
        // Creators are not listed from 12 on, and stand above all.
        let listed = json!({ "users": { ALICE: 100, BOB: 60, CAROL: 50 }, "state_default": 50 });
        assert_eq!(ask(&state, ALICE, "m.room.power_levels", "", listed), number < 12, "version {number}");
        let high = json!({ "users": { BOB: 60, CAROL: 50 }, "events": { "x.own": 1000 } });
        let high = if number < 12 { None } else { Some(high) };
        if let Some(high) = high {
            assert!(ask(&state, ALICE, "m.room.power_levels", "", high));
        }
        // A create event has no previous ones, and from 12 on no room id.
        let mut create =
            room.event(&NumberMap::new(), ALICE, "m.room.create", "", &json!({"creator": ALICE}), 1);
        create.prev.clear();
        create.says_room = number < 12;
        assert!(auth::check_own(&room.rules, &create, |_| None).is_ok());
        create.says_room = number >= 12;
        if number >= 12 {
            assert!(auth::check_own(&room.rules, &create, |_| None).is_err());
        }
        create.prev = vec![id(3)];
        assert!(auth::check_own(&room.rules, &create, |_| None).is_err());
    }
}

#[test]
fn join_rules_by_version() {
    for version in version::SUPPORTED {
        let (number, _) = number(version.id);
        let (mut room, state) = Room::new(version.id);
        let eve = "@eve:e.test";
        let mut knock = state.clone();
        if room.try_add(&mut knock, BOB, "m.room.join_rules", "", json!({ "join_rule": "knock" }), 2).is_ok()
        {
            let pdu = room.event(&knock, eve, "m.room.member", eve, &json!({"membership": "knock"}), 3);
            assert_eq!(room.judge(&knock, &pdu).is_ok(), number >= 7, "version {number}");
        }
        let mut restricted = state.clone();
        room.must(
            &mut restricted,
            BOB,
            "m.room.join_rules",
            "",
            json!({ "join_rule": "restricted", "allow": [] }),
        );
        let content = json!({"membership": "join", "join_authorised_via_users_server": BOB});
        let pdu = room.event(&restricted, eve, "m.room.member", eve, &content, 3);
        assert_eq!(room.judge(&restricted, &pdu).is_ok(), number >= 8, "version {number}");
        let content = json!({"membership": "join", "join_authorised_via_users_server": "@nobody:b.test"});
        let pdu = room.event(&restricted, eve, "m.room.member", eve, &content, 3);
        assert!(room.judge(&restricted, &pdu).is_err());
    }
}

#[test]
fn a_ban_wins_over_what_the_banned_did_meanwhile() {
    for version in ["2", "6", "10", "12"] {
        let (mut room, base) = Room::new(version);
        let (mut one, mut other) = (base.clone(), base);
        room.try_add(&mut one, ALICE, "m.room.member", CAROL, json!({"membership": "ban"}), 5).unwrap();
        // Carol has power in the other fork, and an earlier clock.
        room.try_add(&mut other, CAROL, "m.room.topic", "", json!({"topic": "mine"}), 2).unwrap();
        room.try_add(&mut other, CAROL, "m.room.member", CAROL, json!({"membership": "join", "n": 1}), 2)
            .unwrap();
        let resolved = resolve::resolve(&room.rules, &room, &[one.clone(), other]).unwrap();
        let member = room.skey("m.room.member", CAROL).unwrap();
        assert_eq!(resolved[&member], one[&member], "version {version}");
        let topic = room.skey("m.room.topic", "").unwrap();
        assert!(!resolved.contains_key(&topic), "the topic was not carol's to set any more");
    }
}

/// Resolves in both orders, which has to come to the same.
fn both_ways(room: &Room, one: &NumberMap, other: &NumberMap) -> NumberMap {
    let resolved = resolve::resolve(&room.rules, room, &[one.clone(), other.clone()]).unwrap();
    assert_eq!(resolved, resolve::resolve(&room.rules, room, &[other.clone(), one.clone()]).unwrap());
    resolved
}

/// Users' levels; alice has all power in every version.
fn levels(room: &Room, bob: i64, carol: i64) -> Value {
    let mut users = json!({ BOB: bob, CAROL: carol });
    if !room.rules.authorization.explicitly_privilege_room_creators {
        users[ALICE] = 100.into();
    }
    json!({ "users": users, "state_default": 50 })
}

const RESETS: [&str; 5] = ["2", "6", "10", "11", "12"];

#[test]
fn forked_power_levels_end_with_the_more_powerful_and_are_not_reset_by_what_comes_late() {
    for version in RESETS {
        let (mut room, base) = Room::new(version);
        let (mut one, mut other) = (base.clone(), base);
        let (down, up) = (levels(&room, 0, 50), levels(&room, 60, 0));
        // Bob was earlier, alice has more power.
        room.try_add(&mut one, ALICE, "m.room.power_levels", "", down, 5).unwrap();
        room.try_add(&mut other, BOB, "m.room.power_levels", "", up, 3).unwrap();
        let mut merged = both_ways(&room, &one, &other);
        let key = room.skey("m.room.power_levels", "").unwrap();
        assert_eq!(merged[&key], one[&key], "version {version}");
        // The room goes on; then something turns up that bob did in his fork.
        room.try_add(&mut merged, CAROL, "m.room.topic", "", json!({"topic": "carol's"}), 7).unwrap();
        room.try_add(&mut other, BOB, "m.room.name", "", json!({"name": "bob's"}), 4).unwrap();
        let late = both_ways(&room, &merged, &other);
        assert_eq!(late, merged, "version {version}");
    }
}

#[test]
fn a_late_join_resets_nothing() {
    for version in RESETS {
        let (mut room, base) = Room::new(version);
        let (mut one, mut other) = (base.clone(), base);
        let raised = levels(&room, 80, 50);
        room.try_add(&mut one, ALICE, "m.room.power_levels", "", raised, 2).unwrap();
        room.try_add(&mut one, BOB, "m.room.topic", "", json!({"topic": "new"}), 3).unwrap();
        room.try_add(&mut one, BOB, "m.room.member", DAVE, json!({"membership": "ban"}), 4).unwrap();
        let eve = "@eve:e.test";
        room.try_add(&mut other, eve, "m.room.member", eve, json!({"membership": "join"}), 9).unwrap();
        let mut expected = one.clone();
        let member = room.skey("m.room.member", eve).unwrap();
        expected.insert(member, other[&member]);
        assert_eq!(both_ways(&room, &one, &other), expected, "version {version}");
    }
}

#[test]
fn a_ban_is_not_reset_by_what_builds_on_a_softly_failed_event() {
    for version in RESETS {
        let (mut room, base) = Room::new(version);
        let (mut one, mut other) = (base.clone(), base);
        room.try_add(&mut one, ALICE, "m.room.member", CAROL, json!({"membership": "ban"}), 2).unwrap();
        // Said after the ban by a server that pretends not to know of it; bob's has not heard, and builds on it.
        room.try_add(&mut other, CAROL, "m.room.name", "", json!({"name": "carol's"}), 3).unwrap();
        room.try_add(&mut other, BOB, "m.room.topic", "", json!({"topic": "bob's"}), 4).unwrap();
        let mut expected = one.clone();
        let topic = room.skey("m.room.topic", "").unwrap();
        expected.insert(topic, other[&topic]);
        let merged = both_ways(&room, &one, &other);
        assert_eq!(merged, expected, "version {version}");
        // Once more, over what has come of it.
        assert_eq!(both_ways(&room, &merged, &other), expected, "version {version}");
    }
}

/// MSC3757: whose a state is counts in a resolution as it does at an event's place.
#[test]
fn state_of_others_falls_with_the_power_over_them() {
    let (mut room, base) = Room::new("org.matrix.msc3757.11");
    let (mut lowered, mut written) = (base.clone(), base);
    // Enough for state events, and no more than carol's own.
    let levels = json!({ "users": { ALICE: 100, BOB: 50, CAROL: 50 }, "state_default": 50 });
    room.must(&mut lowered, ALICE, "m.room.power_levels", "", levels);
    let (of_carol, of_bob) = (format!("{CAROL}_place"), format!("{BOB}_place"));
    for key in [&of_carol, &of_bob] {
        room.must(&mut written, BOB, "x.place", key, json!({}));
    }
    let resolved = resolve::resolve(&room.rules, &room, &[lowered, written]).unwrap();
    let entry = |key: &str| room.skey("x.place", key).and_then(|skey| resolved.get(&skey));
    assert!(entry(&of_carol).is_none());
    assert!(entry(&of_bob).is_some());
}
