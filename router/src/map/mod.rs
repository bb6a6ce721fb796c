//! Owns the verified map: who links to whom, asked of the nodes themselves, towards one node that packets do not reach.
//!
//! A sender whose first packets and ways all fail asks nodes for their links (MAP_GET), nearest to the destination first,
//! by ways along which the answers have already come. What two nodes both say of a link, each with its signature, is
//! believed; a question that is not answered speaks against the links on its way, and the search widens around them. The
//! links found go into the views of [`crate::route`], which makes diverse ways of them.
//!
//! ```text
//!   want ──> ask 2 to 8 at once ──(answer: nearer ones come into sight)──> the destination is told of ──> Found
//!                 └──(none: its way is suspected; by another way, or others)
//! ```
mod answer;
mod crawl;
#[cfg(test)]
mod tests;

use crate::audit::locate::Blame;
use crate::crypto::{Entropy, SecretKey, random};
use crate::id::{NodeId, Port, Sid};
use crate::lookup::Locator;
use crate::rate::Rate;
use crate::route::view::{Neighbours, SeenLink};
use crate::time::{Duration, Instant};
use crate::wire::FrameError;
use crate::wire::body::map::{MapGet, MapLink, MapPage};
use crate::wire::body::{self, Body, Outbound};
use crate::wire::record::Span;
use bytes::Bytes;
use crawl::Explored;
use std::collections::{BTreeMap, VecDeque};

/// What one node knows of others' links.
pub struct Map {
    secret: SecretKey,
    me: Sid,
    on: bool,
    own: Locator,
    neighbours: Neighbours,
    /// Of our own pages.
    seq: u64,
    /// Signed already, by the number of links before them.
    pages: BTreeMap<u8, Bytes>,
    budgets: BTreeMap<Port, Rate>,
    known: BTreeMap<Sid, Place>,
    /// Questions that were not answered.
    failed: BTreeMap<Sid, (u32, Instant)>,
    asks: BTreeMap<u64, Ask>,
    goals: Vec<Goal>,
    /// Links that swallowed questions.
    doubts: Blame,
    rate: Rate,
    out: VecDeque<Outbound>,
    found: VecDeque<(NodeId, Vec<SeenLink>)>,
    stats: MapStats,
}

/// Counters of the map.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MapStats {
    /// Nodes that were looked for.
    pub searches: u64,
    /// Of these, such that a link to them was found.
    pub found: u64,
    /// Questions sent.
    pub questions: u64,
    /// Questions of others answered.
    pub answers: u64,
    /// Answers that could not be read, or answer nothing that was asked.
    pub dropped_body: u64,
}

/// What a node has told of itself.
#[derive(Clone, Debug)]
struct Place {
    seq: u64,
    links: Vec<MapLink>,
    locator: Locator,
    heard: Instant,
}

/// A question under way.
#[derive(Debug)]
struct Ask {
    /// For whom.
    whom: NodeId,
    /// Who is asked.
    node: Sid,
    skip: u8,
    /// Who is on the way, this node first.
    nodes: Vec<Sid>,
    ports: Bytes,
    due: Instant,
    patience: Duration,
}

/// A node that is looked for.
#[derive(Debug)]
struct Goal {
    node: NodeId,
    there: Sid,
    locator: Locator,
    until: Instant,
    asked: usize,
    /// Of these not answered.
    silent: usize,
    /// Questions that had been asked when a link to it was found first.
    found_at: Option<usize>,
    /// Nodes known to have a link to it.
    ends: usize,
    /// Over since then; nothing is asked for it for a while.
    over: Option<Instant>,
}

impl Map {
    /// Nothing known. `seq` is below that of our first page; off, others are answered all the same.
    pub fn new(secret: &SecretKey, on: bool, seq: u64, now: Instant) -> Self {
        Self {
            secret: secret.clone(),
            me: secret.id().sid(),
            on,
            own: Locator::default(),
            neighbours: Neighbours::new(),
            seq,
            pages: BTreeMap::new(),
            budgets: BTreeMap::new(),
            known: BTreeMap::new(),
            failed: BTreeMap::new(),
            asks: BTreeMap::new(),
            goals: Vec::new(),
            doubts: Blame::default(),
            rate: Rate::new(QUESTIONS_BURST, QUESTIONS_PER_SECOND, now),
            out: VecDeque::new(),
            found: VecDeque::new(),
            stats: MapStats::default(),
        }
    }

    /// A peer's link is this one now.
    pub fn handle_link(&mut self, sid: Sid, port: Port, span: Span) {
        if self.neighbours.insert(sid, (port, span)) != Some((port, span)) {
            self.on_changed();
        }
    }

    /// A peer is gone.
    pub fn handle_link_lost(&mut self, sid: &Sid) {
        if self.neighbours.remove(sid).is_some() {
            self.on_changed();
        }
    }

    /// This node is there now.
    pub fn handle_own(&mut self, own: Locator) {
        self.own = own;
        self.on_changed();
    }

    /// Packets to that node, which is said to be there, do not arrive: ways to it are looked for. Asking again changes
    /// nothing until the search is over, and a while longer.
    pub fn want(
        &mut self,
        node: NodeId,
        locator: Locator,
        blame: &Blame,
        entropy: &mut dyn Entropy,
        now: Instant,
    ) {
        self.goals.retain(|goal| goal.over.is_none_or(|over| now - over < REST));
        if !self.on || self.goals.iter().any(|goal| goal.node == node) || self.goals.len() >= GOALS_MAX {
            return;
        }
        self.stats.searches += 1;
        let there = node.sid();
        let until = now + GOAL_WITHIN;
        let goal =
            Goal { node, there, locator, until, asked: 0, silent: 0, found_at: None, ends: 0, over: None };
        self.goals.push(goal);
        self.advance(blame, entropy, now);
    }

    /// A packet for this node of kind MAP_GET or MAP.
    pub fn handle_packet(
        &mut self,
        ingress: Port,
        way: &[u8],
        packet: &[u8],
        blame: &Blame,
        entropy: &mut dyn Entropy,
        now: Instant,
    ) {
        let read: Result<(), FrameError> = match packet.first() {
            Some(&body::MAP_GET) => MapGet::decode(packet).map(|get| self.on_get(get, ingress, way, now)),
            // Who was not asked costs no check of a signature.
            Some(_) if packet.get(1..9).is_some_and(|nonce| self.is_asked(nonce)) => {
                MapPage::decode(packet, self.secret.stand_in()).map(|(nonce, page)| {
                    self.on_page(nonce, page, blame, entropy, now);
                })
            }
            _ => Err(FrameError::Value),
        };
        self.stats.dropped_body += u64::from(read.is_err());
    }

    /// A packet of ours, named by its last 8 bytes, was not passed on. True if it was a question.
    pub fn handle_notice(
        &mut self,
        tail: &[u8; 8],
        blame: &Blame,
        entropy: &mut dyn Entropy,
        now: Instant,
    ) -> bool {
        let nonce = u64::from_be_bytes(*tail);
        let Some(ask) = self.asks.remove(&nonce) else { return false };
        self.on_silence(&ask, now);
        self.advance(blame, entropy, now);
        true
    }

    /// Does all that is due.
    pub fn handle_timeout(&mut self, blame: &Blame, entropy: &mut dyn Entropy, now: Instant) {
        let late: Vec<u64> = self.asks.iter().filter(|(_, ask)| ask.due <= now).map(|(&n, _)| n).collect();
        let over = self.goals.iter().any(|goal| goal.over.is_none() && goal.until <= now);
        if late.is_empty() && !over {
            return;
        }
        for nonce in late {
            if let Some(ask) = self.asks.remove(&nonce) {
                self.on_silence(&ask, now);
            }
        }
        self.advance(blame, entropy, now);
    }

    /// When [`Self::handle_timeout`] is wanted.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let goals = self.goals.iter().filter(|goal| goal.over.is_none()).map(|goal| goal.until);
        self.asks.values().map(|ask| ask.due).chain(goals).min()
    }

    /// The next packet to send. O(1).
    pub fn poll_packet(&mut self) -> Option<Outbound> {
        self.out.pop_front()
    }

    /// Links by which the node can be reached, perhaps. O(1).
    pub fn poll_found(&mut self) -> Option<(NodeId, Vec<SeenLink>)> {
        self.found.pop_front()
    }

    /// Counters since the start.
    pub const fn stats(&self) -> MapStats {
        self.stats
    }

    fn is_asked(&self, nonce: &[u8]) -> bool {
        let nonce = nonce.try_into().map(u64::from_be_bytes);
        nonce.is_ok_and(|nonce| self.asks.contains_key(&nonce))
    }

    fn on_page(&mut self, nonce: u64, page: MapPage, blame: &Blame, entropy: &mut dyn Entropy, now: Instant) {
        let sid = page.node.sid();
        let Some(ask) = self.asks.remove(&nonce) else { return };
        if sid != ask.node || page.skip != ask.skip {
            // Somebody on the way answers for another.
            self.on_silence(&ask, now);
            return self.advance(blame, entropy, now);
        }
        self.doubts.answered(&ask.nodes, now);
        self.failed.remove(&sid);
        let (total, count) = (usize::from(page.total), page.links.len());
        let known = self.known.get(&sid);
        if known.is_none_or(|known| page.seq >= known.seq) {
            self.make_room(now);
            let locator = page.locator;
            let place = self.known.entry(sid).or_insert_with(|| Place {
                seq: page.seq,
                links: Vec::new(),
                locator: locator.clone(),
                heard: now,
            });
            if page.skip == 0 || place.seq != page.seq {
                place.links.clear();
            }
            (place.seq, place.locator, place.heard) = (page.seq, locator, now);
            place.links.extend(page.links);
            place.links.truncate(answer::LINKS_TOLD_MAX);
        }
        let told = usize::from(ask.skip) + count;
        if count > 0 && told < total.min(answer::LINKS_TOLD_MAX) && self.rate.take(now) {
            self.send(Ask { skip: told as u8, due: now + ask.patience, ..ask }, entropy);
        }
        self.advance(blame, entropy, now);
    }

    /// A question was not answered.
    fn on_silence(&mut self, ask: &Ask, now: Instant) {
        self.doubts.failed(&ask.nodes, now);
        if let Some(goal) = self.goals.iter_mut().find(|goal| goal.node == ask.whom) {
            goal.silent += 1;
        }
        if self.failed.len() >= KNOWN_MAX {
            self.failed.retain(|_, (_, at)| now - *at < FAILED_FOR);
        }
        if self.failed.len() < KNOWN_MAX || self.failed.contains_key(&ask.node) {
            let failed = self.failed.entry(ask.node).or_insert((0, now));
            *failed = (failed.0 + 1, now);
        }
    }

    fn make_room(&mut self, now: Instant) {
        if self.known.len() < KNOWN_MAX {
            return;
        }
        self.known.retain(|_, place| now - place.heard < FRESH);
        while self.known.len() >= KNOWN_MAX {
            let oldest = self.known.iter().min_by_key(|(_, place)| place.heard).map(|(&sid, _)| sid);
            oldest.map(|sid| self.known.remove(&sid));
        }
    }

    /// Asks whom it is worth to ask next, for each goal; ends those that are over.
    fn advance(&mut self, blame: &Blame, entropy: &mut dyn Entropy, now: Instant) {
        for at in 0..self.goals.len() {
            if self.goals[at].over.is_some() {
                continue;
            }
            // As long as all answer one way on is enough.
            let goal = &self.goals[at];
            let under_way = self.asks.values().filter(|ask| ask.whom == goal.node).count();
            let room = (PARALLEL_FIRST + goal.silent).min(PARALLEL).saturating_sub(under_way);
            let Explored { frontier, ends, links } = self.explore(&self.goals[at], room, blame, now);
            let goal = &mut self.goals[at];
            let news = ends > goal.ends;
            goal.ends = goal.ends.max(ends);
            if ends > 0 {
                goal.found_at.get_or_insert(goal.asked);
            }
            let (node, mut over) = (goal.node, now >= goal.until || ends >= ENDS_WANTED);
            over |= goal.asked >= ASKED_MAX || goal.found_at.is_some_and(|at| goal.asked >= at + ASKED_MORE);
            over |= frontier.is_empty() && under_way == 0;
            if (news || over && ends > 0) && self.found.iter().all(|(known, _)| *known != node) {
                self.found.push_back((node, links));
            }
            if over {
                self.goals[at].over = Some(now);
                self.stats.found += u64::from(ends > 0);
                continue;
            }
            for ask in frontier {
                if !self.rate.take(now) {
                    break;
                }
                self.goals[at].asked += 1;
                self.send(ask, entropy);
            }
        }
    }

    fn send(&mut self, ask: Ask, entropy: &mut dyn Entropy) {
        let nonce = u64::from_be_bytes(random(entropy));
        let mut body = Body::with_capacity(body::map::MAP_GET_LEN);
        MapGet { nonce, skip: ask.skip }.encode(&mut body);
        self.out.push_back(Outbound { to: body::Destination::Back(ask.ports.clone()), index: 0, body });
        self.stats.questions += 1;
        self.asks.insert(nonce, ask);
    }
}

/// Nodes whose links are kept, of some 300 bytes each, and as many that did not answer.
const KNOWN_MAX: usize = 512;
/// What a node told is believed for so long.
const FRESH: Duration = Duration::from_secs(120);
/// Who did not answer by [`crawl::TRIES`] ways is not asked again for so long.
const FAILED_FOR: Duration = Duration::from_secs(60);
/// Nodes that are looked for at once.
const GOALS_MAX: usize = 16;
/// Questions of one search under way at first; one more for each that was not answered,
const PARALLEL_FIRST: usize = 2;
/// up to so many.
const PARALLEL: usize = 8;
/// Questions of one search; one that needs more is led astray, or the node is not there.
const ASKED_MAX: usize = 192;
/// And so many once a link to the node is known: others may be better.
const ASKED_MORE: usize = 24;
/// Nodes with a link to the one that is looked for: more diverse ends than that no sender uses.
const ENDS_WANTED: usize = 4;
/// A search takes no longer.
const GOAL_WITHIN: Duration = Duration::from_secs(8);
/// And is not begun again before.
const REST: Duration = Duration::from_secs(20);
/// Questions of all searches at once,
const QUESTIONS_BURST: u32 = 768;
/// and per second: whoever talks to nodes that are not there spends 2 kB a second on it at most.
const QUESTIONS_PER_SECOND: u32 = 4;
