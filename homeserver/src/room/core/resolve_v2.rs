//! Owns how the events of the full conflicted set are put in order and judged one after the other: state resolution 2, and
//! 2.1, which begins with nothing.
//!
//! Works on numbers, and asks our own rules ([`auth::check_state`]), so that what they say of an event at its place and in
//! a resolution is the same. `tests` compares with `ruma-state-res`, `tests/system/test_resolution.py` with Synapse.
//!
//! spec: <https://spec.matrix.org/v1.19/rooms/v2/#state-resolution>, <https://spec.matrix.org/v1.19/rooms/v12/#state-resolution>

use std::{
    cmp::Reverse,
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use ruma::{
    EventId, OwnedEventId, OwnedUserId, events::room::power_levels::UserPowerLevel,
    room_version_rules::RoomVersionRules, state_res::events::RoomPowerLevelsEvent,
};

use super::{
    auth,
    pdu::{CREATE, MEMBER, Pdu},
    resolve::{Graph, NumberMap},
};

const LEVELS: &str = "m.room.power_levels";

/// (type, state key).
type Key = (String, String);

/// Where an event comes among those that may come next: power downwards, then time, then id.
type Rank = (Reverse<UserPowerLevel>, u64, OwnedEventId, i64);

/// What the events of the full conflicted set come to. `base`: the state that they are judged by at first.
pub(super) fn resolve(
    rules: &RoomVersionRules,
    graph: &impl Graph,
    base: Option<&NumberMap>,
    full: &BTreeSet<i64>,
) -> HashMap<Key, i64> {
    let full: BTreeSet<i64> = full.iter().copied().filter(|event| graph.pdu(*event).is_some()).collect();
    let mut run = Run { rules, graph, base, resolved: HashMap::new(), creation: None };
    let powerful = run.by_power(&full);
    run.judge(&powerful);
    let done: HashSet<i64> = powerful.into_iter().collect();
    let rest: Vec<i64> = full.into_iter().filter(|event| !done.contains(event)).collect();
    let rest = run.by_mainline(rest);
    run.judge(&rest);
    run.resolved
}

struct Run<'a, G> {
    rules: &'a RoomVersionRules,
    graph: &'a G,
    base: Option<&'a NumberMap>,
    resolved: HashMap<Key, i64>,
    /// The create event and who made the room by it.
    creation: Option<(Arc<Pdu>, Vec<OwnedUserId>)>,
}

impl<G: Graph> Run<'_, G> {
    /// Events that give or take power, and of what they build on all that is in conflict, too: what is built on first,
    /// then by the power of the sender.
    fn by_power(&mut self, full: &BTreeSet<i64>) -> Vec<i64> {
        let mut below: HashMap<i64, HashSet<i64>> = HashMap::new();
        let mut above: HashMap<i64, Vec<i64>> = HashMap::new();
        let mut open: Vec<i64> = full
            .iter()
            .copied()
            .filter(|event| self.graph.pdu(*event).is_some_and(|pdu| is_powerful(&pdu)))
            .collect();
        while let Some(event) = open.pop() {
            if below.contains_key(&event) {
                continue;
            }
            let auth: HashSet<i64> = self.auth(event).filter(|auth| full.contains(auth)).collect();
            for auth in &auth {
                above.entry(*auth).or_default().push(event);
                open.push(*auth);
            }
            below.insert(event, auth);
        }
        let free: Vec<i64> =
            below.iter().filter(|(_, auth)| auth.is_empty()).map(|(event, _)| *event).collect();
        let mut next: BTreeSet<Rank> = free.into_iter().filter_map(|event| self.rank(event)).collect();
        let mut order = Vec::with_capacity(below.len());
        while let Some((.., event)) = next.pop_first() {
            order.push(event);
            for child in above.remove(&event).unwrap_or_default() {
                let Some(left) = below.get_mut(&child) else { continue };
                left.remove(&event);
                if left.is_empty() {
                    next.extend(self.rank(child));
                }
            }
        }
        order
    }

    fn rank(&mut self, event: i64) -> Option<Rank> {
        let pdu = self.graph.pdu(event)?;
        Some((Reverse(self.power(event, &pdu)), pdu.ts, pdu.event_id.clone(), event))
    }

    /// The power of an event's sender by what it builds on.
    fn power(&mut self, event: i64, pdu: &Pdu) -> UserPowerLevel {
        let levels = self.levels_of(event).and_then(|levels| self.graph.pdu(levels));
        let creators = self.creators(event, pdu);
        let made_it = creators.contains(&pdu.sender);
        let rules = &self.rules.authorization;
        if made_it && rules.explicitly_privilege_room_creators {
            return UserPowerLevel::Infinite;
        }
        match levels {
            // What cannot be read gives nobody power.
            Some(levels) => RoomPowerLevelsEvent::new(levels)
                .user_power_level(&pdu.sender, rules)
                .map_or_else(|_| ruma::Int::from(0).into(), Into::into),
            None => ruma::Int::from(if made_it { 100 } else { 0 }).into(),
        }
    }

    /// Who made the room, by the create event that an event names or, where its id is the room's, that one.
    fn creators(&mut self, event: i64, pdu: &Pdu) -> Vec<OwnedUserId> {
        if self.creation.is_none() {
            let named = self.auth(event).filter_map(|auth| self.graph.pdu(auth));
            let create = named.chain(self.create(pdu)).find(|auth| auth.is_state(CREATE, ""));
            self.creation = create.map(|create| (create.clone(), auth::creators(self.rules, &create)));
        }
        self.creation.as_ref().map(|(_, creators)| creators.clone()).unwrap_or_default()
    }

    /// The create event, in versions in which events do not name it.
    fn create(&self, pdu: &Pdu) -> Option<Arc<Pdu>> {
        if !self.rules.authorization.room_create_event_id_as_room_id || pdu.is_state(CREATE, "") {
            return None;
        }
        let id = EventId::parse(format!("${}", pdu.room.as_str().strip_prefix('!')?)).ok()?;
        self.graph.pdu(self.graph.number(&id)?)
    }

    fn auth(&self, event: i64) -> impl Iterator<Item = i64> + use<G> {
        let auth = self.graph.auth(event).unwrap_or_default();
        (0..auth.len()).filter_map(move |at| auth.get(at).copied())
    }

    /// The power levels that an event builds on.
    fn levels_of(&self, event: i64) -> Option<i64> {
        self.auth(event).find(|auth| self.graph.pdu(*auth).is_some_and(|pdu| pdu.is_state(LEVELS, "")))
    }

    /// Judges events one after the other by what those before came to, and else by what they build on themselves.
    fn judge(&mut self, list: &[i64]) {
        for event in list {
            let Some(pdu) = self.graph.pdu(*event).filter(|pdu| !pdu.rejected) else { continue };
            let Some(key) = pdu.key() else { continue };
            let needed =
                auth::needed(self.rules, &pdu.kind, &pdu.sender, pdu.state_key.as_deref(), &pdu.content);
            // What cannot be read is not allowed.
            let Ok(needed) = needed else { continue };
            let mut entries: HashMap<Key, Arc<Pdu>> = HashMap::new();
            let own = self.auth(*event).filter_map(|auth| self.graph.pdu(auth)).chain(self.create(&pdu));
            for auth in own.filter(|auth| !auth.rejected) {
                if let Some(key) = auth.key() {
                    entries.insert(key, auth);
                }
            }
            for key in needed {
                if let Some(entry) = self.entry(&key).filter(|entry| !entry.rejected) {
                    entries.insert(key, entry);
                }
            }
            let allowed = auth::check_state(self.rules, &pdu, |kind, key| {
                entries.get(&(kind.to_owned(), key.to_owned())).cloned()
            });
            if allowed.is_ok() {
                self.resolved.insert(key, *event);
            }
        }
    }

    fn entry(&self, key: &Key) -> Option<Arc<Pdu>> {
        let event = match self.resolved.get(key) {
            Some(event) => *event,
            None => *self.base?.get(&self.graph.skey(&key.0, &key.1)?)?,
        };
        self.graph.pdu(event)
    }

    /// Events by the nearest power levels before them that lead to those resolved, then time, then id.
    fn by_mainline(&self, list: Vec<i64>) -> Vec<i64> {
        let levels = (LEVELS.to_owned(), String::new());
        let mut line = Vec::new();
        let mut next = self.entry(&levels).and_then(|pdu| self.graph.number(&pdu.event_id));
        while let Some(event) = next
            && !line.contains(&event)
        {
            line.push(event);
            next = self.levels_of(event);
        }
        // The oldest is 1; 0 is who has none.
        let mut places: HashMap<i64, usize> =
            line.iter().rev().enumerate().map(|(at, event)| (*event, at + 1)).collect();
        let mut ranked: Vec<(usize, u64, OwnedEventId, i64)> = Vec::with_capacity(list.len());
        for event in list {
            let Some(pdu) = self.graph.pdu(event) else { continue };
            ranked.push((self.mainline(event, &mut places), pdu.ts, pdu.event_id.clone(), event));
        }
        ranked.sort_unstable();
        ranked.into_iter().map(|(.., event)| event).collect()
    }

    fn mainline(&self, event: i64, places: &mut HashMap<i64, usize>) -> usize {
        let (mut way, mut at) = (Vec::new(), Some(event));
        let mut place = 0;
        while let Some(event) = at {
            if let Some(known) = places.get(&event) {
                place = *known;
                break;
            }
            way.push(event);
            // Should it come back to itself (versions 1 and 2 choose their ids), it leads nowhere.
            places.insert(event, 0);
            at = self.levels_of(event);
        }
        for event in way {
            places.insert(event, place);
        }
        place
    }
}

/// Whether an event gives or takes power.
fn is_powerful(pdu: &Pdu) -> bool {
    let named = [LEVELS, "m.room.join_rules", CREATE].iter().any(|kind| pdu.is_state(kind, ""));
    named
        || pdu.type_name == MEMBER
            && pdu.state_key.as_deref() != Some(pdu.sender.as_str())
            && matches!(pdu.membership().as_deref(), Some("leave" | "ban"))
}
