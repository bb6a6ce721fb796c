//! Owns state resolution over numbers: what conflicts, which events matter for it, and the call into `ruma-state-res`.
//!
//! Only the conflicted part goes through the algorithm, with what it can look up: all unconflicted state but members, and
//! of the members those that an event of the full conflicted set names. The rest of the unconflicted state is the same
//! before and after. `tests` compares with whole maps.
//!
//! spec: <https://spec.matrix.org/v1.19/rooms/v12/#state-resolution>, <https://spec.matrix.org/v1.19/rooms/v2/#state-resolution>

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use ruma::{
    EventId, OwnedEventId,
    events::StateEventType,
    room_version_rules::RoomVersionRules,
    state_res::{self, utils::event_id_set::EventIdSet},
};

use super::{
    auth,
    pdu::{MEMBER, Pdu},
};

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
    let (unconflicted, conflicted) = split(maps);
    if conflicted.is_empty() {
        return Ok(unconflicted);
    }
    let state_rules = rules
        .state_res
        .v2_rules()
        .ok_or_else(|| ResolveError("this room version is not supported".into()))?;
    let seeds: BTreeSet<i64> = conflicted.values().flatten().copied().collect();
    let difference = auth_difference(graph, maps, &unconflicted, &conflicted);
    let subgraph = if state_rules.consider_conflicted_state_subgraph {
        subgraph(graph, &seeds)
    } else {
        BTreeSet::new()
    };
    let full: BTreeSet<i64> = seeds.iter().chain(&difference).chain(&subgraph).copied().collect();
    let named = named_members(rules, graph, &full);

    // The same states, without the unconflicted members that nobody asks for.
    let mut small: Vec<state_res::StateMap<OwnedEventId>> = Vec::with_capacity(maps.len());
    for map in maps {
        let mut reduced = state_res::StateMap::new();
        for (skey, event) in map {
            let keep = conflicted.contains_key(skey) || named.contains(skey) || !is_member(graph, *skey);
            if keep {
                let Some((kind, key)) = graph.key(*skey) else { continue };
                let Some(pdu) = graph.pdu(*event) else { continue };
                reduced.insert((StateEventType::from(kind), key), pdu.event_id.clone());
            }
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
    let fetch = |id: &EventId| graph.number(id).and_then(|number| graph.pdu(number));
    let resolved = state_res::resolve(&rules.authorization, state_rules, small.iter(), chains, fetch, |_| {
        Some(ids(&subgraph))
    })
    .map_err(|error| ResolveError(error.to_string()))?;
    let mut result = unconflicted;
    for ((kind, key), id) in resolved {
        let (Some(skey), Some(event)) = (graph.skey(&kind.to_string(), &key), graph.number(&id)) else {
            continue;
        };
        result.entry(skey).or_insert(event);
    }
    Ok(result)
}

/// Unconflicted state, and the events of each conflicted pair.
fn split(maps: &[NumberMap]) -> (NumberMap, BTreeMap<i64, BTreeSet<i64>>) {
    let mut seen: BTreeMap<i64, HashMap<i64, usize>> = BTreeMap::new();
    for map in maps {
        for (skey, event) in map {
            *seen.entry(*skey).or_default().entry(*event).or_default() += 1;
        }
    }
    let (mut unconflicted, mut conflicted) = (NumberMap::new(), BTreeMap::new());
    for (skey, events) in seen {
        match events.iter().next() {
            Some((event, count)) if events.len() == 1 && *count == maps.len() => {
                unconflicted.insert(skey, *event);
            }
            _ => {
                conflicted.insert(skey, events.into_keys().collect());
            }
        }
    }
    (unconflicted, conflicted)
}

/// Events that are in the full auth chain of some of the states but not of all. What unconflicted events build on is in
/// all chains, so only the chains of conflicted events beyond that are compared.
fn auth_difference(
    graph: &impl Graph,
    maps: &[NumberMap],
    unconflicted: &NumberMap,
    conflicted: &BTreeMap<i64, BTreeSet<i64>>,
) -> BTreeSet<i64> {
    let common = closure(graph, unconflicted.values().copied(), &HashSet::new());
    let mut counts: HashMap<i64, usize> = HashMap::new();
    for map in maps {
        let seeds = conflicted.keys().filter_map(|skey| map.get(skey)).copied();
        for event in closure(graph, seeds, &common) {
            *counts.entry(event).or_default() += 1;
        }
    }
    counts.into_iter().filter(|(_, count)| *count < maps.len()).map(|(event, _)| event).collect()
}

/// The auth chains of `seeds` (without the seeds, unless one is in another's chain), not entering `known`.
fn closure(graph: &impl Graph, seeds: impl Iterator<Item = i64>, known: &HashSet<i64>) -> HashSet<i64> {
    let mut seen = HashSet::new();
    let mut open: Vec<i64> = seeds.collect();
    while let Some(event) = open.pop() {
        let Some(auth) = graph.auth(event) else { continue };
        for next in auth.iter().copied() {
            if !known.contains(&next) && seen.insert(next) {
                open.push(next);
            }
        }
    }
    seen
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

/// Member entries that the rules may look up for any event of the full conflicted set.
fn named_members(rules: &RoomVersionRules, graph: &impl Graph, full: &BTreeSet<i64>) -> HashSet<i64> {
    let mut named = HashSet::new();
    for event in full {
        let Some(pdu) = graph.pdu(*event) else { continue };
        let keys = auth::needed(rules, &pdu.kind, &pdu.sender, pdu.state_key.as_deref(), &pdu.content);
        for (kind, key) in keys.unwrap_or_default() {
            if kind == MEMBER {
                named.extend(graph.skey(&kind, &key));
            }
        }
        if let Some(key) = &pdu.state_key {
            named.extend(graph.skey(MEMBER, key));
        }
    }
    named
}

fn is_member(graph: &impl Graph, skey: i64) -> bool {
    graph.key(skey).is_some_and(|(kind, _)| kind == MEMBER)
}
