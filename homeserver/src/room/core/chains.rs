//! Owns reckoning with auth chains: the auth difference of several states from the chain cover, without walking.
//!
//! What a state's events build on is, for each chain, a place up to which everything belongs to it ([`Reach`]). Events
//! without a place (rejected ones, mostly) are walked one by one.
//!
//! spec: <https://spec.matrix.org/v1.19/rooms/v2/#definitions>, "auth difference"

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::resolve::{Graph, NumberMap};

/// Events that are in the full auth chain of some of the states but not of all. Unconflicted events and what they build on
/// are in all chains (other servers count a state's events to its chain), so only what conflicted events reach beyond that
/// is compared.
pub fn auth_difference(
    graph: &impl Graph,
    maps: &[NumberMap],
    unconflicted: &NumberMap,
    conflicted: &BTreeMap<i64, BTreeSet<i64>>,
) -> BTreeSet<i64> {
    let none = Reach::default();
    let mut common = Reached::beyond(&none);
    for event in unconflicted.values() {
        common.add(graph, *event);
    }
    let common = common.own;
    let mut chains: BTreeSet<i64> = BTreeSet::new();
    let mut loose: HashMap<i64, usize> = HashMap::new();
    let mut reaches = Vec::with_capacity(maps.len());
    for map in maps {
        let mut reached = Reached::beyond(&common);
        for event in conflicted.keys().filter_map(|skey| map.get(skey)) {
            reached.seed(graph, *event);
        }
        chains.extend(reached.own.chains.keys());
        for event in &reached.own.loose {
            *loose.entry(*event).or_default() += 1;
        }
        reaches.push(reached.own);
    }
    let mut difference: BTreeSet<i64> =
        loose.into_iter().filter(|(_, count)| *count < maps.len()).map(|(event, _)| event).collect();
    for chain in chains {
        let base = common.upto(chain);
        let upto = reaches.iter().map(|reach| reach.upto(chain).max(base));
        let (least, most) = upto.fold((i64::MAX, base), |(least, most), at| (least.min(at), most.max(at)));
        if least < most {
            difference.extend(graph.range(chain, least, most));
        }
    }
    difference
}

/// What some events build on.
#[derive(Debug, Default)]
struct Reach {
    /// Up to which place of a chain.
    chains: HashMap<i64, i64>,
    /// Events without a place.
    loose: HashSet<i64>,
}

impl Reach {
    fn upto(&self, chain: i64) -> i64 {
        self.chains.get(&chain).copied().unwrap_or(0)
    }
}

/// A reach that grows beyond another.
struct Reached<'a> {
    base: &'a Reach,
    own: Reach,
    /// Places still to be followed.
    open: Vec<(i64, i64)>,
    /// Events without a place still to be followed.
    walk: Vec<i64>,
}

impl<'a> Reached<'a> {
    fn beyond(base: &'a Reach) -> Self {
        Self { base, own: Reach::default(), open: Vec::new(), walk: Vec::new() }
    }

    /// Adds an event and what it builds on.
    fn add(&mut self, graph: &impl Graph, event: i64) {
        self.walk.push(event);
        self.follow(graph);
    }

    /// Adds what an event builds on (not the event).
    fn seed(&mut self, graph: &impl Graph, event: i64) {
        match graph.place(event) {
            Some(place) => {
                // What is before it in its chain, and where its own links lead.
                self.open.push((place.chain, place.seq - 1));
                for link in graph.links(place.chain).iter().filter(|link| link.seq == place.seq) {
                    self.open.push((link.target.chain, link.target.seq));
                }
            }
            None => self.walk.extend(graph.auth(event).iter().flat_map(|auth| auth.iter())),
        }
        self.follow(graph);
    }

    fn follow(&mut self, graph: &impl Graph) {
        loop {
            if let Some((chain, upto)) = self.open.pop() {
                let known = self.own.upto(chain).max(self.base.upto(chain));
                if upto <= known {
                    continue;
                }
                self.own.chains.insert(chain, upto);
                for link in graph.links(chain).iter() {
                    if link.seq > known && link.seq <= upto {
                        self.open.push((link.target.chain, link.target.seq));
                    }
                }
            } else if let Some(event) = self.walk.pop() {
                match graph.place(event) {
                    Some(place) => self.open.push((place.chain, place.seq)),
                    None => {
                        if !self.base.loose.contains(&event) && self.own.loose.insert(event) {
                            self.walk.extend(graph.auth(event).iter().flat_map(|auth| auth.iter()));
                        }
                    }
                }
            } else {
                return;
            }
        }
    }
}
