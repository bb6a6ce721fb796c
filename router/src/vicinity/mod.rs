//! Owns the vicinity: the shortest ways to the 64 nearest nodes, by what peers tell of theirs (VICINITY).
//!
//! A distance vector with Babel's feasibility condition (RFC 8966, 3.5.1): of two routes to one node with the same seq only
//! one is followed that was told with less than this node has ever told itself, so no circle forms; where none is left
//! the node is out of sight until it tells a higher seq, and packets go by the trees. Whoever is in sight is reached
//! straight on, whatever the trees look like: first packets go fewer ways round, and an island behind one gateway that
//! loses its place in all trees at once still reaches its own.
//!
//! Nothing here is signed: a peer may say that it is near to anybody. So only a first packet believes it, a repetition goes
//! by the trees, and a peer that audits suspect is passed over.
mod tell;
#[cfg(test)]
mod tests;

use crate::id::{Port, Sid};
use crate::time::{Duration, Instant};
use crate::wire::control::{VICINITY_ENTRIES_MAX, VicinityEntry};
use std::collections::{BTreeMap, BTreeSet};

/// What one node knows of the nodes around it.
#[derive(Debug)]
pub struct Vicinity {
    me: Sid,
    on: bool,
    /// Ours, told with our own entry.
    seq: u32,
    /// It grew last then.
    renewed: Instant,
    /// A link is gone since: whoever saw us over it needs a higher one.
    outdated: bool,
    peers: BTreeMap<Port, Peer>,
    nodes: BTreeMap<Sid, Node>,
    /// Who is near enough to be told of.
    near: BTreeSet<Sid>,
    /// Something has changed since `near` was made.
    moved: bool,
    /// Seqs that are wished for, of whom, and of which peer: a route that it tells of is not feasible without.
    wishes: BTreeMap<(Port, Sid), u32>,
}

#[derive(Debug)]
struct Peer {
    sid: Sid,
    cost: u8,
    /// What it tells.
    heard: BTreeMap<Sid, (u16, u32)>,
    /// What it was told.
    told: BTreeMap<Sid, (u16, u32)>,
    /// It may have to hear something.
    due: bool,
    last: Option<Instant>,
    since: Instant,
}

#[derive(Clone, Copy, Debug)]
struct Node {
    /// The best that was ever told of it: seq, and cost at that seq.
    bound: Option<(u32, u16)>,
    route: Option<Route>,
    /// No route since then.
    lost: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Route {
    port: Port,
    cost: u16,
    seq: u32,
}

impl Vicinity {
    /// Nobody in sight. `seq` is above all that was told before the start; off, nothing is told or followed.
    pub fn new(me: Sid, on: bool, seq: u32, now: Instant) -> Self {
        Self {
            me,
            on,
            seq,
            renewed: now,
            outdated: false,
            peers: BTreeMap::new(),
            nodes: BTreeMap::new(),
            near: BTreeSet::new(),
            moved: false,
            wishes: BTreeMap::new(),
        }
    }

    /// A peer is up.
    pub fn on_peer_up(&mut self, port: Port, sid: Sid, cost: u8, now: Instant) {
        let (heard, told) = (BTreeMap::new(), BTreeMap::new());
        self.peers.insert(port, Peer { sid, cost, heard, told, due: true, last: None, since: now });
    }

    /// A peer is gone.
    pub fn on_peer_down(&mut self, port: Port, now: Instant) {
        let Some(peer) = self.peers.remove(&port) else { return };
        self.wishes.retain(|(of, _), _| *of != port);
        self.outdated = true;
        for sid in peer.heard.keys() {
            self.choose(*sid, now);
        }
        self.settle(now);
    }

    /// A peer's link costs something else now.
    pub fn on_peer_cost(&mut self, port: Port, cost: u8, now: Instant) {
        let Some(peer) = self.peers.get_mut(&port).filter(|peer| peer.cost != cost) else { return };
        peer.cost = cost;
        let heard: Vec<Sid> = peer.heard.keys().copied().collect();
        for sid in heard {
            self.choose(sid, now);
        }
        self.settle(now);
    }

    /// Frames to that peer may have been lost: it is told all again.
    pub fn on_peer_moved(&mut self, port: Port) {
        if let Some(peer) = self.peers.get_mut(&port) {
            peer.told.clear();
            peer.due = true;
        }
    }

    /// A VICINITY has come.
    pub fn on_frame(&mut self, port: Port, entries: &[VicinityEntry], now: Instant) {
        let Some(peer) = self.peers.get_mut(&port).filter(|_| self.on) else { return };
        let mut changed = Vec::with_capacity(entries.len());
        let mut wishes = Vec::new();
        for entry in entries {
            if entry.cost == GONE && entry.seq > 0 {
                wishes.push((entry.node, entry.seq));
            }
            if entry.node == self.me {
                continue;
            }
            if entry.cost == GONE {
                peer.heard.remove(&entry.node);
            } else if peer.heard.len() < HEARD_MAX || peer.heard.contains_key(&entry.node) {
                peer.heard.insert(entry.node, (entry.cost, entry.seq));
            }
            changed.push(entry.node);
        }
        for sid in changed {
            self.choose(sid, now);
        }
        for (sid, seq) in wishes {
            self.on_wish(port, sid, seq);
        }
        self.settle(now);
    }

    /// A peer has lost a node, and would see it again with that seq: the wish goes on to the node itself.
    fn on_wish(&mut self, from: Port, sid: Sid, seq: u32) {
        if sid == self.me {
            // Whatever number is wished for, ours grows by one.
            self.outdated |= seq > self.seq;
            return;
        }
        let route = self.nodes.get(&sid).and_then(|node| node.route);
        if let Some(route) = route.filter(|route| route.port != from && route.seq < seq) {
            self.wish(route.port, sid, seq);
        }
    }

    fn wish(&mut self, port: Port, sid: Sid, seq: u32) {
        if self.wishes.len() < WISHES_MAX
            && let Some(peer) = self.peers.get_mut(&port)
        {
            self.wishes.insert((port, sid), seq);
            peer.due = true;
        }
    }

    /// The next hop to a node in sight, and what the way there costs. O(log nodes).
    pub fn route(&self, to: &Sid) -> Option<(Port, u32)> {
        let route = self.nodes.get(to)?.route?;
        Some((route.port, route.cost.into()))
    }

    /// Nodes in sight.
    pub fn len(&self) -> usize {
        self.near.len()
    }

    /// Is nobody in sight?
    pub fn is_empty(&self) -> bool {
        self.near.is_empty()
    }

    /// Takes the best feasible route to a node.
    fn choose(&mut self, sid: Sid, now: Instant) {
        let known = self.nodes.get(&sid);
        let bound = known.and_then(|node| node.bound);
        let feasible =
            |cost: u16, seq: u32| bound.is_none_or(|(of, least)| seq > of || seq == of && cost < least);
        let routes = self.peers.iter().filter_map(|(&port, peer)| {
            let &(cost, seq) = peer.heard.get(&sid)?;
            let total = cost.saturating_add(peer.cost.into());
            (feasible(cost, seq) && total < GONE).then_some(Route { port, cost: total, seq })
        });
        // The one in use stays among equals.
        let used = known.and_then(|node| node.route).map(|route| route.port);
        let best = routes.min_by_key(|route| (route.cost, Some(route.port) != used, route.port));
        if let Some((seq, _)) = bound {
            // Something that may not be followed would be better by a quarter: it may with a new seq.
            let told = self.peers.iter().filter_map(|(&port, peer)| {
                Some((u32::from(peer.heard.get(&sid)?.0) + u32::from(peer.cost), port))
            });
            let better = |total: u32| best.is_none_or(|best| total * 4 < u32::from(best.cost) * 3);
            if let Some((_, port)) = told.min().filter(|&(total, _)| better(total)) {
                self.wish(port, sid, seq.saturating_add(1));
            }
        }
        match (self.nodes.get_mut(&sid), best) {
            (None, None) => return,
            (None, Some(_)) => {
                self.nodes.insert(sid, Node { bound: None, route: best, lost: now });
            }
            (Some(node), _) => {
                if node.route == best {
                    return;
                }
                node.route = best;
                node.lost = now;
            }
        }
        self.moved = true;
    }

    /// Who is near now, and what do peers have to hear of it?
    fn settle(&mut self, now: Instant) {
        if !std::mem::take(&mut self.moved) {
            return;
        }
        self.nodes.retain(|_, node| node.route.is_some() || now - node.lost < BOUND_KEPT);
        let reached = self.nodes.iter().filter_map(|(&sid, node)| Some((node.route?.cost, sid)));
        let mut order: Vec<(u16, Sid)> = reached.collect();
        order.sort_unstable();
        // Who was near stays so until it is clearly farther than the others: no coming and going at the edge.
        let edge = order.get(NEAR - 1).map_or(GONE, |&(cost, _)| cost.saturating_add(cost / 4));
        let mut near: BTreeSet<Sid> = order.iter().take(NEAR).map(|&(_, sid)| sid).collect();
        for &(cost, sid) in order.iter().skip(NEAR) {
            if cost <= edge && near.len() < NEAR + NEAR_SPARE && self.near.contains(&sid) {
                near.insert(sid);
            }
        }
        self.near = near;
        self.peers.values_mut().for_each(|peer| peer.due = true);
    }
}

/// Nodes that are told of.
const NEAR: usize = 64;
/// And those that were and are hardly farther.
const NEAR_SPARE: usize = 16;
/// Entries of one peer that are kept: what an honest one tells.
const HEARD_MAX: usize = NEAR + NEAR_SPARE + 1;
/// Cost of a node that is out of sight.
pub const GONE: u16 = u16::MAX;
/// What was told of a node counts for so long after it went out of sight: until then no old word of it is alive.
const BOUND_KEPT: Duration = Duration::from_secs(120);
/// Our seq grows that often, whatever happens.
const RENEW: Duration = Duration::from_secs(4 * 60 * 60);
/// After a link of ours is gone, or somebody who has lost us wishes for a new one, it grows soon, but not more often than that.
const RENEW_REST: Duration = Duration::from_secs(30);
/// Wishes that wait to be told: one for each node in sight.
const WISHES_MAX: usize = NEAR + NEAR_SPARE;
/// What happens together is told together.
const TELL_EVERY: Duration = Duration::from_secs(1);
/// Entries fit into one frame of any link.
const _: () = assert!(VICINITY_ENTRIES_MAX >= 64);
