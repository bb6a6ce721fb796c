//! Owns state resolution as rooms of version 1 have it: by type, by depth, and by the SHA-1 of event ids.
//!
//! An entry that only some of the states have is not in conflict, other than in later versions. Levels, join rules and
//! memberships begin with the shallowest event and go on as long as each is allowed after the one before; of all else the
//! deepest that is allowed counts.
//!
//! spec: <https://spec.matrix.org/v1.19/rooms/v1/#state-resolution>

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use ruma::room_version_rules::RoomVersionRules;

use super::{
    auth,
    pdu::{MEMBER, Pdu},
    resolve::{Graph, NumberMap},
};

/// (type, state key) to event.
type Entries = HashMap<(String, String), Arc<Pdu>>;

/// The resolved state of several.
pub(super) fn resolve(rules: &RoomVersionRules, graph: &impl Graph, maps: &[NumberMap]) -> NumberMap {
    let (mut resolved, conflicted) = split(maps);
    let mut known: Entries = HashMap::new();
    let mut open: BTreeMap<i64, Vec<(i64, Arc<Pdu>)>> = BTreeMap::new();
    for (skey, events) in &conflicted {
        let mut list: Vec<(i64, Arc<Pdu>)> =
            events.iter().filter_map(|event| Some((*event, graph.pdu(*event)?))).collect();
        for (_, pdu) in &list {
            let keys = auth::needed(rules, &pdu.kind, &pdu.sender, pdu.state_key.as_deref(), &pdu.content);
            for key in keys.unwrap_or_default() {
                let unconflicted = graph.skey(&key.0, &key.1).and_then(|skey| resolved.get(&skey));
                if let Some(found) = unconflicted.and_then(|event| graph.pdu(*event)) {
                    known.entry(key).or_insert(found);
                }
            }
        }
        list.sort_by_cached_key(|(_, pdu)| order(pdu));
        open.insert(*skey, list);
    }
    let kind_of = |list: &[(i64, Arc<Pdu>)]| list.first().map(|(_, pdu)| pdu.clone());
    let passes: [fn(&Pdu) -> bool; 3] = [
        |pdu| pdu.is_state("m.room.power_levels", ""),
        |pdu| pdu.type_name == "m.room.join_rules",
        |pdu| pdu.type_name == MEMBER,
    ];
    for pass in passes {
        let skeys: Vec<i64> = open
            .iter()
            .filter(|(_, list)| kind_of(list).is_some_and(|pdu| pass(&pdu)))
            .map(|(skey, _)| *skey)
            .collect();
        // What a pass decides counts for the next one.
        let mut decided = Vec::new();
        for skey in skeys {
            let Some(list) = open.remove(&skey) else { continue };
            if let Some((event, pdu)) = last_allowed(rules, &list, &known) {
                resolved.insert(skey, event);
                decided.extend(pdu.key().map(|key| (key, pdu)));
            }
        }
        known.extend(decided);
    }
    for (skey, list) in open {
        let allowed = list.iter().find(|(_, pdu)| is_allowed(rules, pdu, &known));
        // If none is allowed, the shallowest.
        if let Some((event, _)) = allowed.or_else(|| list.last()) {
            resolved.insert(skey, *event);
        }
    }
    resolved
}

/// Deepest first; of the same depth the one whose id has the lesser hash.
fn order(pdu: &Pdu) -> (std::cmp::Reverse<i64>, Vec<u8>) {
    let hash = digest(&SHA1_FOR_LEGACY_USE_ONLY, pdu.event_id.as_str().as_bytes());
    (std::cmp::Reverse(pdu.depth), hash.as_ref().to_vec())
}

/// From the shallowest on, the last event before one that is not allowed after it.
fn last_allowed(
    rules: &RoomVersionRules,
    list: &[(i64, Arc<Pdu>)],
    known: &Entries,
) -> Option<(i64, Arc<Pdu>)> {
    let mut shallow = list.iter().rev();
    let mut last = shallow.next()?.clone();
    // Each looks only at what one of its own key may look at.
    let mut entries = known.clone();
    for next in shallow {
        if let Some(key) = last.1.key() {
            entries.insert(key, last.1.clone());
        }
        if !is_allowed(rules, &next.1, &entries) {
            break;
        }
        last = next.clone();
    }
    Some(last)
}

fn is_allowed(rules: &RoomVersionRules, pdu: &Pdu, entries: &Entries) -> bool {
    !pdu.rejected
        && auth::check_state(rules, pdu, |kind, key| entries.get(&(kind.to_owned(), key.to_owned())).cloned())
            .is_ok()
}

/// What all states that have an entry agree on, and the events of the others.
fn split(maps: &[NumberMap]) -> (NumberMap, BTreeMap<i64, BTreeSet<i64>>) {
    let (mut agreed, mut conflicted) = (NumberMap::new(), BTreeMap::<i64, BTreeSet<i64>>::new());
    for (skey, event) in maps.iter().flatten() {
        if let Some(events) = conflicted.get_mut(skey) {
            events.insert(*event);
            continue;
        }
        match agreed.get(skey) {
            None => {
                agreed.insert(*skey, *event);
            }
            Some(other) if other != event => {
                conflicted.insert(*skey, [*other, *event].into());
                agreed.remove(skey);
            }
            Some(_) => {}
        }
    }
    (agreed, conflicted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_entries_with_two_events_are_in_conflict() {
        let maps = [
            NumberMap::from([(1, 10), (2, 20)]),
            NumberMap::from([(1, 10), (3, 30)]),
            NumberMap::from([(2, 21), (3, 30)]),
        ];
        let (agreed, conflicted) = split(&maps);
        assert_eq!(agreed, NumberMap::from([(1, 10), (3, 30)]));
        assert_eq!(conflicted, BTreeMap::from([(2, [20, 21].into())]));
    }
}
