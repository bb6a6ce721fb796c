//! The chain cover against walks over the same auth graph.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
};

use proptest::prelude::*;
use ruma::EventId;

use crate::{
    notify::Notify,
    room::{
        core::{
            chains,
            pdu::Pdu,
            resolve::{Graph, NumberMap},
        },
        ingest::load::StoredGraph,
    },
    store::{
        Nid, Options, ReadTx, Store, StoreError, Synchronous, WriteTx,
        schema::{
            chain::{Link, Place},
            events::{self, EventRow, REJECTED},
        },
    },
};

/// An event of the graph: its state key, which earlier ones it builds on (steps back), whether it is rejected.
type Node = (i64, Vec<usize>, bool);

fn row(nid: i64, skey: i64, auth: &[i64], flags: i64) -> EventRow {
    EventRow {
        nid: Nid(nid),
        room: Nid(1),
        kind: Nid(1),
        skey: Some(Nid(skey)),
        sender: Nid(1),
        ts: 0,
        depth: 0,
        seq: None,
        flags,
        state_before: None,
        state_after: None,
        redacted_by: None,
        sent: None,
        key: events::Key::Hash(blake3::hash(&nid.to_le_bytes()).into()),
        prev: Vec::new(),
        auth: auth.iter().copied().map(Nid).collect(),
        client: b"{}".to_vec(),
        rest: b"{}".to_vec(),
    }
}

/// The graph's auth lists, by number from 1. What builds on a rejected event is rejected.
fn auths(nodes: &[Node]) -> Vec<(i64, Vec<i64>, i64)> {
    let mut list: Vec<(i64, Vec<i64>, i64)> = Vec::new();
    for (index, (skey, back, rejected)) in nodes.iter().enumerate() {
        let auth: BTreeSet<i64> =
            back.iter().filter(|back| **back < index).map(|back| (index - back) as i64).collect();
        let builds_on_rejected = auth.iter().any(|auth| list[*auth as usize - 1].2 != 0);
        let flags = if *rejected || builds_on_rejected { REJECTED } else { 0 };
        list.push((*skey, auth.into_iter().collect(), flags));
    }
    list
}

/// The same graph, walked.
struct Walked<'a>(&'a [(i64, Vec<i64>, i64)]);

impl Graph for Walked<'_> {
    fn auth(&self, event: i64) -> Option<Arc<[i64]>> {
        self.0.get(event as usize - 1).map(|(_, auth, _)| auth.clone().into())
    }
    fn pdu(&self, _: i64) -> Option<Arc<Pdu>> {
        None
    }
    fn number(&self, _: &EventId) -> Option<i64> {
        None
    }
    fn key(&self, _: i64) -> Option<(String, String)> {
        None
    }
    fn skey(&self, _: &str, _: &str) -> Option<i64> {
        None
    }
    fn place(&self, _: i64) -> Option<Place> {
        None
    }
    fn links(&self, _: i64) -> Arc<[Link]> {
        Arc::new([])
    }
    fn range(&self, _: i64, _: i64, _: i64) -> Vec<i64> {
        Vec::new()
    }
}

/// By the definition: the full auth chain of each state, its own events included, and what is not in all of them; without
/// what is in conflict itself, which counts in any case.
fn by_definition(list: &[(i64, Vec<i64>, i64)], maps: &[NumberMap]) -> BTreeSet<i64> {
    let chains: Vec<HashSet<i64>> = maps
        .iter()
        .map(|map| {
            let mut open: Vec<i64> = map.values().copied().collect();
            let mut seen: HashSet<i64> = open.iter().copied().collect();
            while let Some(event) = open.pop() {
                for auth in &list[event as usize - 1].1 {
                    if seen.insert(*auth) {
                        open.push(*auth);
                    }
                }
            }
            seen
        })
        .collect();
    let all: BTreeSet<i64> = chains.iter().flatten().copied().collect();
    all.into_iter().filter(|event| !chains.iter().all(|chain| chain.contains(event))).collect()
}

fn split(maps: &[NumberMap]) -> (NumberMap, BTreeMap<i64, BTreeSet<i64>>) {
    let keys: BTreeSet<i64> = maps.iter().flat_map(|map| map.keys()).copied().collect();
    let (mut same, mut conflicted) = (NumberMap::new(), BTreeMap::<i64, BTreeSet<i64>>::new());
    for key in keys {
        let found: BTreeSet<Option<i64>> = maps.iter().map(|map| map.get(&key).copied()).collect();
        match found.iter().next() {
            Some(Some(event)) if found.len() == 1 => {
                same.insert(key, *event);
            }
            _ => {
                conflicted.insert(key, found.into_iter().flatten().collect());
            }
        }
    }
    (same, conflicted)
}

fn nodes() -> impl Strategy<Value = Vec<Node>> {
    let node = (1..8_i64, prop::collection::vec(1..12_usize, 0..4), prop::bool::weighted(0.05));
    prop::collection::vec(node, 2..60)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]
    #[test]
    fn the_cover_says_what_a_walk_finds(
        nodes in nodes(),
        picks in prop::collection::vec(prop::collection::vec((any::<prop::sample::Index>(), any::<bool>()), 1..8), 2..5),
        shuffled in any::<bool>(),
    ) {
        let list = auths(&nodes);
        let good: Vec<i64> = (1..=list.len() as i64).filter(|event| list[*event as usize - 1].2 == 0).collect();
        prop_assume!(!good.is_empty());
        let maps: Vec<NumberMap> = picks
            .iter()
            .map(|picks| picks.iter().map(|(pick, _)| {
                let event = good[pick.index(good.len())];
                (list[event as usize - 1].0, event)
            }).collect())
            .collect();
        let dir = tempfile::tempdir().unwrap();
        let options = Options { synchronous: Synchronous::Normal, ..Options::default() };
        let store = Store::open(dir.path(), options, Notify::default()).unwrap();
        let rows: Vec<EventRow> = list
            .iter()
            .enumerate()
            .map(|(index, (skey, auth, flags))| row(index as i64 + 1, *skey, auth, *flags))
            .collect();
        if shuffled {
            // As a file from before there were chains: stored without, filled in afterwards in any order of numbers.
            store.write_blocking(move |tx: &mut WriteTx<'_>| -> Result<(), StoreError> {
                for row in &rows {
                    events::put(tx, row)?;
                }
                tx.execute("DELETE FROM chain", [])?;
                tx.execute("DELETE FROM chain_link", [])?;
                tx.execute("DELETE FROM migration WHERE name = 'chain_fill'", [])?;
                Ok(())
            }).unwrap();
            drop(store);
        } else {
            store.write_blocking(move |tx: &mut WriteTx<'_>| -> Result<(), StoreError> {
                rows.iter().try_for_each(|row| events::put(tx, row))
            }).unwrap();
            drop(store);
        }
        let options = Options { synchronous: Synchronous::Normal, ..Options::default() };
        let store = Store::open(dir.path(), options, Notify::default()).unwrap();
        let (same, conflicted) = split(&maps);
        let own: BTreeSet<i64> = conflicted.values().flatten().copied().collect();
        let expected = &by_definition(&list, &maps) - &own;
        let walked = &chains::auth_difference(&Walked(&list), &maps, &same, &conflicted) - &own;
        prop_assert_eq!(&walked, &expected);
        let (covered, placed) = store.read_blocking(move |tx: &ReadTx<'_>| -> Result<_, StoreError> {
            let graph = StoredGraph::new(tx);
            let found = chains::auth_difference(&graph, &maps, &same, &conflicted);
            let placed = good.iter().all(|event| graph.place(*event).is_some());
            graph.finish()?;
            Ok((&found - &own, placed))
        }).unwrap();
        prop_assert!(placed, "every event that is not rejected has a place");
        prop_assert_eq!(covered, expected);
    }
}
