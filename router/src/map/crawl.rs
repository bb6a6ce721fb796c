//! Owns the choice of whom to ask next: the best way from here over links that both ends told, on towards where the
//! destination is said to be. What is known of nobody yet lies at the edge; what is nearest to the destination there is
//! asked first.
use super::{Ask, FAILED_FOR, FRESH, Goal, Map, Place};
use crate::audit::locate::Blame;
use crate::id::{Port, Sid};
use crate::lookup::Locator;
use crate::route::view::SeenLink;
use crate::time::{Duration, Instant};
use crate::wire::Writer;
use crate::wire::record::{HOPS_MAX, Span};
use bytes::Bytes;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

/// What one look at the map gives.
pub(super) struct Explored {
    /// Whom to ask, the best first.
    pub(super) frontier: Vec<Ask>,
    /// Nodes that can be reached and have a link to the destination.
    pub(super) ends: usize,
    /// All links between those on the way, and to the destination.
    pub(super) links: Vec<SeenLink>,
}

/// How a node is reached.
#[derive(Clone, Copy)]
struct Step {
    total: u32,
    from: Sid,
    port: Port,
    cost: u32,
    hops: usize,
    /// What seems to be left from there.
    left: u32,
}

impl Map {
    /// Walks over what is known, the least of (way so far + what seems to be left) first, until `room` nodes at the edge have
    /// been met. O(links x log links).
    pub(super) fn explore(&self, goal: &Goal, room: usize, blame: &Blame, now: Instant) -> Explored {
        let mut explored = Explored { frontier: Vec::new(), ends: 0, links: Vec::new() };
        let mut best: BTreeMap<Sid, Step> = BTreeMap::new();
        let mut queue = BinaryHeap::new();
        let mut done: BTreeMap<Sid, ()> = BTreeMap::new();
        let weigh = |from: &Sid, to: &Sid, span: Span| {
            let guilt = blame.of(from, to, now).max(self.doubts.of(from, to, now));
            let weight = f32::from(span.cost) * WEIGHT * Blame::dear(guilt);
            weight.clamp(1.0, WEIGHT_MAX) as u32
        };
        let left_here = distance(&self.own, &goal.locator).unwrap_or(0).saturating_mul(LEFT);
        for (&peer, &(port, span)) in self.neighbours.iter().filter(|(peer, _)| **peer != goal.there) {
            let left = left_here.saturating_sub(u32::from(span.cost) * LEFT);
            let total = weigh(&self.me, &peer, span);
            best.insert(peer, Step { total, from: self.me, port, cost: span.cost.into(), hops: 1, left });
            queue.push(Reverse((total.saturating_add(left), left, peer)));
        }
        while let Some(Reverse((_, _, at))) = queue.pop() {
            let Some(&step) = best.get(&at) else { continue };
            if done.insert(at, ()).is_some() || step.hops >= HOPS_MAX {
                continue;
            }
            let Some(place) = self.tells(&at, now) else {
                if self.may_ask(&at, now) {
                    if explored.frontier.len() >= room {
                        break;
                    }
                    explored.frontier.push(Self::ask(goal, at, &best, now));
                }
                continue;
            };
            let left =
                distance(&place.locator, &goal.locator).map_or(step.left, |left| left.saturating_mul(LEFT));
            for link in &place.links {
                if link.to == goal.there {
                    explored.ends += 1;
                    let (from, to, port, span) = (at, link.to, link.port, link.span);
                    explored.links.push(SeenLink { from, to, port, span });
                    continue;
                }
                if link.to == self.me || !self.agrees(&link.to, &at, now) {
                    continue;
                }
                if explored.links.len() < LINKS_MAX && self.tells(&link.to, now).is_some() {
                    let (from, to, port, span) = (at, link.to, link.port, link.span);
                    explored.links.push(SeenLink { from, to, port, span });
                }
                let total = step.total.saturating_add(weigh(&at, &link.to, link.span));
                if best.get(&link.to).is_some_and(|known| known.total <= total) {
                    continue;
                }
                let left = left.saturating_sub(u32::from(link.span.cost) * LEFT);
                let cost = step.cost + u32::from(link.span.cost);
                let hops = step.hops + 1;
                best.insert(link.to, Step { total, from: at, port: link.port, cost, hops, left });
                queue.push(Reverse((total.saturating_add(left), left, link.to)));
            }
        }
        explored
    }

    /// Does that node say of the link what the other end says? Who was not asked yet may.
    fn agrees(&self, node: &Sid, other: &Sid, now: Instant) -> bool {
        self.tells(node, now).is_none_or(|place| place.links.iter().any(|link| link.to == *other))
    }

    /// What a node has told lately.
    fn tells(&self, node: &Sid, now: Instant) -> Option<&Place> {
        self.known.get(node).filter(|place| now - place.heard < FRESH)
    }

    fn may_ask(&self, node: &Sid, now: Instant) -> bool {
        let failed = self.failed.get(node);
        failed.is_none_or(|&(times, at)| times < TRIES || now - at >= FAILED_FOR)
            && self.asks.values().all(|ask| ask.node != *node)
    }

    fn ask(goal: &Goal, node: Sid, best: &BTreeMap<Sid, Step>, now: Instant) -> Ask {
        let (mut nodes, mut ports) = (vec![node], Vec::new());
        let mut at = node;
        while let Some(step) = best.get(&at).filter(|_| nodes.len() <= HOPS_MAX) {
            ports.push(step.port);
            nodes.push(step.from);
            at = step.from;
        }
        nodes.reverse();
        let mut encoded = Vec::with_capacity(ports.len() + 4);
        ports.iter().rev().for_each(|&port| encoded.put_port(port));
        let cost = best.get(&node).map_or(0, |step| step.cost);
        let patience = PATIENCE_MIN.max(Duration::from_millis(6 * u64::from(cost))).min(PATIENCE_MAX);
        let whom = goal.node;
        Ask { whom, node, skip: 0, nodes, ports: Bytes::from(encoded), due: now + patience, patience }
    }
}

/// Least distance over the trees that both are in, in milliseconds one way; `None` without any.
fn distance(a: &Locator, b: &Locator) -> Option<u32> {
    let both = a.iter().filter_map(|(tree, a)| Some((a, b.get(tree.into())?)));
    let of_one = both.filter(|(a, b)| a.root == b.root).map(|(a, b)| {
        let common = a.hops().zip(b.hops()).take_while(|(a, b)| a.port == b.port).count();
        let below = a.hops().skip(common).chain(b.hops().skip(common));
        below.map(|hop| u32::from(hop.cost)).sum::<u32>()
    });
    of_one.min()
}

/// Ways on which one node is asked, before it counts as not there.
pub(super) const TRIES: u32 = 3;
/// Weights are whole numbers: so many for a millisecond.
const WEIGHT: f32 = 16.0;
/// And for one of what seems to be left: as if nothing were known of its links, so that it goes straight on as long as
/// there are answers.
const LEFT: u32 = 33;
/// A link that is as good as dead.
const WEIGHT_MAX: f32 = 1_000_000.0;
/// Links that are told to a view, which holds no more nodes.
const LINKS_MAX: usize = 4096;
/// A question is given up after three round trips as announced, and
const PATIENCE_MIN: Duration = Duration::from_millis(250);
/// at most that.
const PATIENCE_MAX: Duration = Duration::from_millis(1500);
