//! Owns state resolution over numbers: what conflicts, which events matter for it, and the call into `ruma-state-res`.
//!
//! Only the conflicted part goes through the algorithm, with what it can look up: the create event, power levels, join
//! rules, and the entries that an event of the full conflicted set names. The rest of the unconflicted state is the same
//! before and after. The auth difference comes from the chain cover. `tests` compares with whole maps and whole walks.
//!
//! spec: <https://spec.matrix.org/v1.19/rooms/v12/#state-resolution>, <https://spec.matrix.org/v1.19/rooms/v2/#state-resolution>

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use ruma::{
    EventId, OwnedEventId,
    events::StateEventType,
    room_version_rules::{RoomVersionRules, StateResolutionVersion},
    state_res::{self, utils::event_id_set::EventIdSet},
};

use super::{auth, chains, owned, pdu::Pdu, resolve_v1};
use crate::store::schema::chain::{Link, Place};

/// A state: number of a (type, state key) to number of an event.
pub type NumberMap = BTreeMap<i64, i64>;

/// What resolution asks of the events that are here.
pub trait Graph {
    /// Numbers of an event's auth events; `None` if it is not here.
    fn auth(&self, event: i64) -> Option<Arc<[i64]>>;
    /// An event's fields; `None` if it is not here.
    fn pdu(&self, event: i64) -> Option<Arc<Pdu>>;
    /// Number of an event id.
    fn number(&self, id: &EventId) -> Option<i64>;
    /// The (type, state key) of a number.
    fn key(&self, skey: i64) -> Option<(String, String)>;
    /// The number of a (type, state key).
    fn skey(&self, kind: &str, key: &str) -> Option<i64>;
    /// An event's place in the chain cover; `None` if it has none.
    fn place(&self, event: i64) -> Option<Place>;
    /// Links of a chain, by the place that they start from.
    fn links(&self, chain: i64) -> Arc<[Link]>;
    /// Events of a chain in places `after < seq <= upto`.
    fn range(&self, chain: i64, after: i64, upto: i64) -> Vec<i64>;
}

/// Resolution was not possible.
#[derive(Clone, Debug, thiserror::Error)]
#[error("state resolution: {0}")]
pub struct ResolveError(pub String);

/// The resolved state of several.
pub fn resolve(
    rules: &RoomVersionRules,
    graph: &impl Graph,
    maps: &[NumberMap],
) -> Result<NumberMap, ResolveError> {
    if rules.state_res == StateResolutionVersion::V1 {
        return Ok(resolve_v1::resolve(rules, graph, maps));
    }
    let (unconflicted, conflicted) = split(maps);
    if conflicted.is_empty() {
        return Ok(unconflicted);
    }
    let state_rules = rules
        .state_res
        .v2_rules()
        .ok_or_else(|| ResolveError("this room version is not supported".into()))?;
    let seeds: BTreeSet<i64> = conflicted.values().flatten().copied().collect();
    let difference = chains::auth_difference(graph, maps, &unconflicted, &conflicted);
    let subgraph = if state_rules.consider_conflicted_state_subgraph {
        subgraph(graph, &seeds)
    } else {
        BTreeSet::new()
    };
    let full: BTreeSet<i64> = seeds.iter().chain(&difference).chain(&subgraph).copied().collect();
    let looked_up = looked_up(rules, graph, &full);

    // The same states, of the unconflicted entries only those that the rules ask for.
    let unconflicted_part: Vec<(i64, i64)> = looked_up
        .iter()
        .filter(|skey| !conflicted.contains_key(skey))
        .filter_map(|skey| unconflicted.get(skey).map(|event| (*skey, *event)))
        .collect();
    let owned = owned::is_in(rules);
    let mut small: Vec<state_res::StateMap<OwnedEventId>> = Vec::with_capacity(maps.len());
    for map in maps {
        let mut reduced = state_res::StateMap::new();
        let own = conflicted.keys().filter_map(|skey| map.get(skey).map(|event| (*skey, *event)));
        for (skey, event) in own.chain(unconflicted_part.iter().copied()) {
            let Some((kind, key)) = graph.key(skey) else { continue };
            let Some(pdu) = graph.pdu(event) else { continue };
            let key = if owned { owned::hidden_key(&kind, key) } else { key };
            reduced.insert((StateEventType::from(kind), key), pdu.event_id.clone());
        }
        small.push(reduced);
    }
    let ids = |numbers: &BTreeSet<i64>| -> EventIdSet<OwnedEventId> {
        let mut set = EventIdSet::new();
        for pdu in numbers.iter().filter_map(|number| graph.pdu(*number)) {
            set.insert(pdu.event_id.clone());
        }
        set
    };
    // Of the chains only the difference is used; against an empty chain everything differs.
    let chains = vec![ids(&difference), EventIdSet::new()];
    let fetch = |id: &EventId| {
        let pdu = graph.number(id).and_then(|number| graph.pdu(number))?;
        Some(if owned { Arc::new(owned::hide(&pdu)) } else { pdu })
    };
    let resolved = state_res::resolve(&rules.authorization, state_rules, small.iter(), chains, fetch, |_| {
        Some(ids(&subgraph))
    })
    .map_err(|error| ResolveError(error.to_string()))?;
    let mut result = unconflicted;
    for ((kind, key), id) in resolved {
        let Some(event) = graph.number(&id) else { continue };
        // By the name that the event itself has: ruma gives types with several names back under one.
        let own = graph.pdu(event).and_then(|pdu| pdu.key()).unwrap_or_else(|| (kind.to_string(), key));
        let Some(skey) = graph.skey(&own.0, &own.1) else { continue };
        result.entry(skey).or_insert(event);
    }
    Ok(result)
}

/// Unconflicted state, and the events of each conflicted pair.
fn split(maps: &[NumberMap]) -> (NumberMap, BTreeMap<i64, BTreeSet<i64>>) {
    let (mut unconflicted, mut conflicted) = (NumberMap::new(), BTreeMap::<i64, BTreeSet<i64>>::new());
    let Some((first, others)) = maps.split_first() else { return (unconflicted, conflicted) };
    // Sorted maps side by side: whatever one of the others does not have just so is in conflict.
    for other in others {
        let (mut left, mut right) = (first.iter().peekable(), other.iter().peekable());
        loop {
            match (left.peek().copied(), right.peek().copied()) {
                (Some((a, one)), Some((b, two))) if a == b => {
                    if one != two {
                        conflicted.entry(*a).or_default().extend([*one, *two]);
                    }
                    left.next();
                    right.next();
                }
                (Some((a, one)), b) if b.is_none_or(|(b, _)| a < b) => {
                    conflicted.entry(*a).or_default().insert(*one);
                    left.next();
                }
                (_, Some((b, two))) => {
                    conflicted.entry(*b).or_default().insert(*two);
                    right.next();
                }
                (_, None) => break,
            }
        }
    }
    unconflicted.extend(first.iter().filter(|(skey, _)| !conflicted.contains_key(skey)));
    (unconflicted, conflicted)
}

/// Events on a path of the auth graph from one conflicted event to another, ends included.
fn subgraph(graph: &impl Graph, seeds: &BTreeSet<i64>) -> BTreeSet<i64> {
    let mut children: HashMap<i64, Vec<i64>> = HashMap::new();
    let mut seen: HashSet<i64> = seeds.iter().copied().collect();
    let mut open: Vec<i64> = seeds.iter().copied().collect();
    while let Some(event) = open.pop() {
        let Some(auth) = graph.auth(event) else { continue };
        for next in auth.iter().copied() {
            children.entry(next).or_default().push(event);
            if seen.insert(next) {
                open.push(next);
            }
        }
    }
    // Everything reached is below some conflicted event; what can climb from a conflicted one as well is between two.
    let mut between: BTreeSet<i64> = seeds.clone();
    let mut open: Vec<i64> = seeds.iter().copied().collect();
    while let Some(event) = open.pop() {
        for child in children.get(&event).into_iter().flatten().copied() {
            if between.insert(child) {
                open.push(child);
            }
        }
    }
    between
}

/// Entries that the rules may look up for any event of the full conflicted set, and those by which events are ordered.
fn looked_up(rules: &RoomVersionRules, graph: &impl Graph, full: &BTreeSet<i64>) -> BTreeSet<i64> {
    let always = ["m.room.create", "m.room.power_levels", "m.room.join_rules"];
    let mut skeys: BTreeSet<i64> = always.iter().filter_map(|kind| graph.skey(kind, "")).collect();
    let mut known = HashSet::new();
    for event in full {
        let Some(pdu) = graph.pdu(*event) else { continue };
        let keys = auth::needed(rules, &pdu.kind, &pdu.sender, pdu.state_key.as_deref(), &pdu.content);
        for (kind, key) in keys.unwrap_or_default() {
            if !always.contains(&kind.as_str()) && known.insert((kind.clone(), key.clone())) {
                skeys.extend(graph.skey(&kind, &key));
            }
        }
    }
    skeys
}
