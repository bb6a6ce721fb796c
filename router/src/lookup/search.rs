//! Owns one search through the network: up to four disjoint paths, each asking one node after the other, nearer and
//! nearer to a place. No node is asked by two paths, so liars on one do not spoil the others.
use super::kademlia::{BUCKET, distance};
use super::record::AccountRecord;
use super::{Place, Position};
use crate::id::NodeId;
use crate::time::{Duration, Instant};
use crate::wire::body::find::{Contact, What};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

/// What a search is after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Goal {
    /// A record; of a node, one with at least that seq.
    Value(u64),
    /// The nodes that are nearest to the place.
    Nearest,
}

pub(super) struct Search {
    pub(super) what: What,
    pub(super) place: Place,
    pub(super) goal: Goal,
    paths: Vec<Path>,
    /// By distance from the place, so nearest first.
    candidates: BTreeMap<Place, Candidate>,
    /// Records of an account found so far.
    pub(super) accounts: BTreeMap<NodeId, AccountRecord>,
    /// After the first record of an account others may come until then.
    gather_until: Option<Instant>,
    /// How many of the nearest of each path must have been asked before the path ends.
    width: usize,
    guided: usize,
    /// And how many before it gives up.
    width_max: usize,
    /// Must all of the nearest have been asked, whichever path they belong to?
    all_nearest: bool,
}

#[derive(Default)]
struct Path {
    queries: usize,
    /// Nodes that were dealt to it, or that its answers brought.
    candidates: usize,
}

struct Candidate {
    node: NodeId,
    position: Position,
    path: usize,
    first: bool,
    state: State,
    /// Names the question, and its repetition.
    nonce: Option<u64>,
    tries: u32,
    asked_at: Instant,
    /// Values to skip in the next question.
    skip: u8,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    Asked { until: Instant },
    Answered { token: [u8; 16] },
    Failed,
}

/// A question to be sent.
pub(super) struct Ask {
    pub(super) node: NodeId,
    pub(super) position: Position,
    pub(super) nonce: u64,
    pub(super) skip: u8,
    /// It was asked before, without an answer.
    pub(super) again: bool,
}

/// A node that answered, with what it takes to store a record with it.
#[derive(Clone, Debug)]
pub(super) struct Replica {
    pub(super) node: NodeId,
    pub(super) position: Position,
    pub(super) token: [u8; 16],
}

impl Search {
    /// Begins at the nearest contacts, which are dealt out to the paths.
    pub(super) fn new(what: What, place: Place, goal: Goal, start: Vec<(NodeId, Position)>) -> Self {
        let mut search = Self {
            what,
            place,
            goal,
            paths: Vec::new(),
            candidates: BTreeMap::new(),
            accounts: BTreeMap::new(),
            gather_until: None,
            width: 0,
            guided: 0,
            width_max: WIDTH_MAX,
            all_nearest: false,
        };
        for (at, (node, position)) in start.into_iter().enumerate() {
            let path = at % PATHS;
            if search.paths.len() <= path {
                search.paths.push(Path::default());
            }
            search.add(node, position, path);
        }
        search.width = BUCKET.div_ceil(search.paths.len().max(1)) + 1;
        search
    }

    /// Asks this node before all others, however far from the place it is.
    pub(super) fn ask_first(&mut self, node: NodeId, position: Position) {
        let path = self.guided % self.paths.len().max(1);
        self.guided += 1;
        let key = distance(&self.place, &node.hash());
        self.add(node, position, path);
        if let Some(candidate) = self.candidates.get_mut(&key) {
            candidate.first = true;
        }
    }

    /// The same, but patient from the start: it follows an earlier one that found nothing.
    pub(super) fn broad(mut self) -> Self {
        self.width = self.width_max;
        self
    }

    /// The same, but content with less.
    pub(super) fn narrow(mut self) -> Self {
        self.width_max = self.width;
        self
    }

    /// The same, but no path asks more than it must, as long as all of the nearest have been asked at the end.
    pub(super) fn thorough(mut self) -> Self {
        self.all_nearest = true;
        self.narrow()
    }

    /// The next question, if a path is free to ask one; a first one is named `nonce`, a repetition as before.
    /// `patience` is how long its first answer may take. O(candidates).
    pub(super) fn next(&mut self, nonce: u64, patience: Duration, now: Instant) -> Option<Ask> {
        let found = self.next_free().or_else(|| {
            // All that are near have been asked, in vain so far. While a network starts, or where it is long and thin,
            // the way to the nearest leads over nodes that are not near.
            (self.asked_now() == 0 && self.width < self.width_max && self.gather_until.is_none())
                .then(|| self.width = self.width_max)
                .and_then(|()| self.next_free())
        });
        let (key, path) = found?;
        self.paths[path].queries += 1;
        let candidate = self.candidates.get_mut(&key)?;
        let patience = if candidate.tries == 0 { patience } else { (patience * 4).min(AGAIN_WITHIN) };
        if candidate.tries == 0 {
            candidate.asked_at = now;
        }
        candidate.tries += 1;
        candidate.state = State::Asked { until: now + patience };
        let nonce = *candidate.nonce.get_or_insert(nonce);
        let (node, position) = (candidate.node, candidate.position.clone());
        Some(Ask { node, position, nonce, skip: candidate.skip, again: candidate.tries > 1 })
    }

    /// The node that a question was put to, if it has not answered, and when for the first time. A late answer is as good as any.
    pub(super) fn asked(&self, nonce: u64) -> Option<(NodeId, Instant)> {
        let asked = |candidate: &&Candidate| {
            candidate.nonce == Some(nonce) && !matches!(candidate.state, State::Answered { .. })
        };
        self.candidates.values().find(asked).map(|candidate| (candidate.node, candidate.asked_at))
    }

    /// A question was answered: these may be asked next.
    pub(super) fn on_answer(&mut self, node: &NodeId, token: [u8; 16], contacts: Vec<Contact>, me: &NodeId) {
        let key = distance(&self.place, &node.hash());
        let Some(candidate) = self.candidates.get_mut(&key) else { return };
        candidate.state = State::Answered { token };
        let path = candidate.path;
        for Contact { node, locator } in contacts {
            if node != *me && !locator.is_empty() && self.paths[path].candidates < CANDIDATES_MAX {
                self.add(node, Position { seq: 0, locator }, path);
            }
        }
    }

    /// The node has told its own position.
    pub(super) fn on_position(&mut self, node: &NodeId, position: Position) {
        if let Some(candidate) = self.candidates.get_mut(&distance(&self.place, &node.hash())) {
            candidate.position = position;
        }
    }

    /// The node has more values than fitted: it is asked again.
    pub(super) fn on_more(&mut self, node: &NodeId, count: usize) {
        if let Some(candidate) = self.candidates.get_mut(&distance(&self.place, &node.hash())) {
            let skip = usize::from(candidate.skip) + count;
            if count > 0 && skip < super::store::ACCOUNT_NODES_MAX {
                candidate.skip = skip as u8;
                candidate.tries = 0;
                candidate.nonce = None;
                candidate.state = State::Open;
            }
        }
    }

    /// Records of the account have come: others may follow, but not for long.
    pub(super) fn on_account(&mut self, record: AccountRecord, now: Instant) {
        self.gather_until.get_or_insert(now + GATHER);
        let known = self.accounts.get(&record.node).is_some_and(|known| known.seq >= record.seq);
        if !known
            && (self.accounts.len() < super::store::ACCOUNT_NODES_MAX
                || self.accounts.contains_key(&record.node))
        {
            self.accounts.insert(record.node, record);
        }
    }

    /// The question cannot have arrived. Given back if that was the last try.
    pub(super) fn on_lost(&mut self, nonce: u64) -> Vec<NodeId> {
        self.expire(|own, _| own == Some(nonce))
    }

    /// Gives up questions that were not answered in time; those that went unanswered too often are given back.
    pub(super) fn on_time(&mut self, now: Instant) -> Vec<NodeId> {
        self.expire(|_, until| until <= now)
    }

    /// When [`Self::on_time`] is wanted.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let asked = self.candidates.values().filter_map(|candidate| match candidate.state {
            State::Asked { until } => Some(until),
            _ => None,
        });
        asked.chain(self.gather_until).min()
    }

    /// Is nobody left to ask or to wait for?
    pub(super) fn is_over(&self, now: Instant) -> bool {
        self.gather_until.is_some_and(|until| until <= now)
            || self.asked_now() == 0 && (0..self.paths.len()).all(|path| self.next_of(path).is_none())
    }

    /// Those who answered, nearest first, of which not more than two share the way from a root: a place in the tree
    /// is harder to choose than a key. Only where there are not enough others do more of them follow.
    pub(super) fn replicas(&self) -> Vec<Replica> {
        let answered: Vec<Replica> = self
            .candidates
            .values()
            .filter_map(|candidate| match candidate.state {
                State::Answered { token } => {
                    Some(Replica { node: candidate.node, position: candidate.position.clone(), token })
                }
                _ => None,
            })
            .collect();
        let mut below: BTreeMap<Vec<u8>, usize> = BTreeMap::new();
        let (mut chosen, mut rest) = (Vec::new(), Vec::new());
        for replica in answered {
            let crowded = prefix(&replica.position).is_some_and(|prefix| {
                let count = below.entry(prefix).or_default();
                *count += 1;
                *count > SAME_PREFIX_MAX
            });
            if crowded { rest.push(replica) } else { chosen.push(replica) }
        }
        chosen.extend(rest);
        chosen.truncate(BUCKET);
        chosen
    }

    fn add(&mut self, node: NodeId, position: Position, path: usize) {
        let Entry::Vacant(vacant) = self.candidates.entry(distance(&self.place, &node.hash())) else {
            return;
        };
        vacant.insert(Candidate {
            node,
            position,
            path,
            first: false,
            state: State::Open,
            nonce: None,
            tries: 0,
            asked_at: Instant::ZERO,
            skip: 0,
        });
        if let Some(path) = self.paths.get_mut(path) {
            path.candidates += 1;
        }
    }

    fn next_free(&self) -> Option<(Place, usize)> {
        (0..self.paths.len()).find_map(|path| Some((self.next_of(path)?, path)))
    }

    /// The candidate that a path asks next: the nearest open one, as long as it is among the nearest that live.
    fn next_of(&self, path: usize) -> Option<Place> {
        if self.waits(path) || self.paths[path].queries >= QUERIES_MAX {
            return None;
        }
        let open = |candidate: &Candidate| candidate.path == path && candidate.state == State::Open;
        if self.guided > 0
            && let Some((key, _)) = self.candidates.iter().find(|(_, c)| c.first && open(c) && c.tries == 0)
        {
            return Some(*key);
        }
        let live = || self.candidates.iter().filter(|(_, candidate)| candidate.state != State::Failed);
        let own = live().filter(|(_, candidate)| candidate.path == path).take(self.width);
        let all = live().take(if self.all_nearest { BUCKET } else { 0 });
        own.chain(all.filter(|(_, candidate)| candidate.path == path))
            .find(|(_, candidate)| candidate.state == State::Open)
            .map(|(key, _)| *key)
    }

    /// Does the path wait for an answer? Not for one that is late already: that node is asked again, but others too.
    fn waits(&self, path: usize) -> bool {
        self.candidates.values().any(|candidate| {
            candidate.path == path
                && candidate.tries < TRIES
                && matches!(candidate.state, State::Asked { .. })
        })
    }

    fn asked_now(&self) -> usize {
        self.candidates.values().filter(|candidate| matches!(candidate.state, State::Asked { .. })).count()
    }

    fn expire(&mut self, over: impl Fn(Option<u64>, Instant) -> bool) -> Vec<NodeId> {
        let mut failed = Vec::new();
        for candidate in self.candidates.values_mut() {
            if let State::Asked { until } = candidate.state
                && over(candidate.nonce, until)
            {
                candidate.state = if candidate.tries < TRIES { State::Open } else { State::Failed };
                if candidate.state == State::Failed {
                    failed.push(candidate.node);
                }
            }
        }
        failed
    }
}

/// The first two steps of a position's deepest tree.
pub(super) fn prefix(position: &Position) -> Option<Vec<u8>> {
    let (tree, coords) = position.locator.iter().find(|(_, coords)| coords.depth() > 2)?;
    let mut prefix = vec![tree];
    prefix.extend_from_slice(coords.root.as_bytes());
    for hop in coords.hops().take(2) {
        prefix.extend_from_slice(&hop.port.0.to_be_bytes());
    }
    Some(prefix)
}

/// Disjoint paths of a search.
pub(super) const PATHS: usize = 4;
/// Questions on one path; a search that needs more is led astray.
const QUERIES_MAX: usize = 40;
/// Nodes that one path remembers: what all its questions could bring, in a network that does not lie. Counted apart, so that
/// who makes nodes up on one path takes no room from the others.
const CANDIDATES_MAX: usize = QUERIES_MAX * 2;
/// Of each path's nearest so many are asked before a search ends without what it is after.
const WIDTH_MAX: usize = BUCKET;
/// Patience with a second question, four times that of the first, at most: the other end of a large wireless mesh is a second away.
const AGAIN_WITHIN: Duration = Duration::from_secs(3);
/// How often one node is asked.
const TRIES: u32 = 2;
/// From the first record of an account to the end of its search: time for the records of its other nodes.
const GATHER: Duration = Duration::from_millis(150);
/// Replicas below one depth-2 prefix of coordinates.
pub(super) const SAME_PREFIX_MAX: usize = 2;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::SecretKey;
    use crate::id::Port;
    use crate::lookup::{Coords, Hop, Locator};

    const PATIENCE: Duration = Duration::from_millis(300);

    fn node(seed: u8) -> NodeId {
        SecretKey::from_seed([seed; 32]).id()
    }

    fn position(first: u16, second: u16) -> Position {
        let hop = |port| Hop { port: Port(port), cost: 1 };
        let coords = Coords { root: node(0).sid(), hops: vec![hop(first), hop(second), hop(9)] };
        Position { seq: 1, locator: Locator::of([(0, &coords)]) }
    }

    fn nearest(start: Vec<(NodeId, Position)>) -> Search {
        Search::new(What::Node, [0; 32], Goal::Nearest, start)
    }

    #[test]
    fn a_node_is_asked_twice_then_given_up() {
        let mut search = nearest(vec![(node(1), position(1, 1))]);
        let mut now = Instant::ZERO;
        for try_ in 0..TRIES {
            assert_eq!(search.next(try_.into(), PATIENCE, now).unwrap().node, node(1));
            assert!(search.next(99, PATIENCE, now).is_none(), "one question at a time");
            assert!(!search.is_over(now));
            now = search.deadline().unwrap();
            let failed = search.on_time(now);
            assert_eq!(failed.len(), usize::from(try_ + 1 == TRIES));
        }
        assert!(search.is_over(now));
        assert!(search.replicas().is_empty());
    }

    #[test]
    fn paths_are_disjoint_and_bounded() {
        let start = (1..=4).map(|seed| (node(seed), position(1, 1))).collect();
        let mut search = nearest(start);
        let mut asked = std::collections::BTreeSet::new();
        let mut fresh = 5u32;
        let mut nonce = 0;
        while !search.is_over(Instant::ZERO) {
            while let Some(ask) = search.next(nonce, PATIENCE, Instant::ZERO) {
                assert!(asked.insert(ask.node), "asked twice");
                nonce += 1;
                // A liar's answer: endless new contacts, each made up to be nearer.
                let contacts = (0..8)
                    .map(|_| {
                        fresh += 1;
                        let mut bytes = [0; 32];
                        bytes[..4].copy_from_slice(&fresh.to_le_bytes());
                        Contact { node: NodeId::from_bytes(bytes), locator: position(1, 1).locator }
                    })
                    .collect();
                search.on_answer(&ask.node, [0; 16], contacts, &node(200));
            }
        }
        assert!(asked.len() <= PATHS * QUERIES_MAX);
        assert!(search.candidates.len() <= PATHS * (CANDIDATES_MAX + 8));
    }

    #[test]
    fn replicas_do_not_all_hang_on_one_branch() {
        let start = (1..=20).map(|seed| (node(seed), position(u16::from(seed > 12) + 1, 1))).collect();
        let mut search = nearest(start);
        for seed in 1..=20 {
            search.on_answer(&node(seed), [seed; 16], Vec::new(), &node(200));
        }
        let replicas = search.replicas();
        assert_eq!(replicas.len(), BUCKET);
        let branches: Vec<_> = replicas.iter().take(4).map(|replica| prefix(&replica.position)).collect();
        assert_eq!(branches.iter().filter(|branch| **branch == branches[0]).count(), 2);
    }
}
