//! Owns state resolution over numbers: what conflicts, and which events matter for it. How those are ordered and judged:
//! `resolve_v1`, `resolve_v2`.
//!
//! Only the conflicted part is looked at; the rest of the unconflicted state is the same before and after. The auth
//! difference comes from the chain cover. `tests` compares with `ruma-state-res` over whole maps and whole walks.
//!
//! spec: <https://spec.matrix.org/v1.19/rooms/v12/#state-resolution>, <https://spec.matrix.org/v1.19/rooms/v2/#state-resolution>

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use ruma::{
    EventId,
    room_version_rules::{RoomVersionRules, StateResolutionVersion},
};

use super::{chains, pdu::Pdu, resolve_v1, resolve_v2};
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
    let base = (!state_rules.begin_iterative_auth_checks_with_empty_state_map).then_some(&unconflicted);
    let resolved = resolve_v2::resolve(rules, graph, base, &full);
    let mut result = unconflicted;
    for ((kind, key), event) in resolved {
        let Some(skey) = graph.skey(&kind, &key) else { continue };
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
