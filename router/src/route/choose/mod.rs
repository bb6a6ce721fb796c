//! Owns the ways to one correspondent: which there are, which of them a packet takes, and what happens when none answers.
//!
//! ```text
//!   view ── paths ──> fresh ── PONG ──> live ── no answer, notice ──> failed ── PONG ──> live
//! ```
//! Packets of a flow stay on one way. If it fails they take the next live one; if there is none the trees, all together
//! and then each alone; and the ways are looked for anew.
//!
//! [`way`] is one of them, [`learn`] what comes in, [`pick`] the choice, [`fate`] life and death of ways, [`make`] where they
//! come from, [`tend`] what time brings.
mod fate;
mod learn;
mod make;
mod pick;
mod tend;
mod way;

use super::gauge::Gauge;
use super::view::{Neighbours, Path, View};
use crate::audit::locate::{Blame, Search};
use crate::config::MTU_MIN;
use crate::id::{Port, Sid};
use crate::time::{Duration, Instant};
use bytes::Bytes;
use way::{State, Way, count};

/// What ways need from their node, for the length of one call.
pub struct Env<'a> {
    /// The node's peers.
    pub neighbours: &'a Neighbours,
    /// Changes whenever these do.
    pub epoch: u64,
    /// What is suspected of links.
    pub blame: &'a mut Blame,
    /// Trees that the other end's place has coordinates in.
    pub trees: u8,
    /// Now.
    pub now: Instant,
}

/// All ways to one node.
#[derive(Debug)]
pub struct Routes {
    me: Sid,
    there: Sid,
    view: Option<Box<View>>,
    ways: Vec<Way>,
    /// Number 0.
    trees: Gauge,
    flows: [Flow; FLOWS],
    asks: Vec<Ask>,
    /// The turn of what worked last: others begin with it.
    turn: u8,
    /// Which trees packets use that no way takes: all, or one alone.
    rung: u8,
    next_id: u8,
    /// Failures on the way to this node only.
    blame: Blame,
    epoch: u64,
    rebuild: bool,
    /// Packets of the application sent.
    used: u64,
    used_at: Instant,
    refreshed_at: Option<Instant>,
    search_after: Instant,
    searches: u32,
    moved_at: Instant,
    /// Where did the latest failure happen?
    search: Option<Box<Search>>,
    todo: Vec<Todo>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Flow {
    way: u8,
    known: bool,
}

/// A question under way.
#[derive(Debug)]
struct Ask {
    token: [u8; 8],
    way: u8,
    sent_at: Instant,
    sent_then: u32,
}

/// What a packet takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pick {
    /// A way: its number and ports.
    Way(u8, Bytes),
    /// Trees, one bit each.
    Trees(u8),
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Todo {
    /// Send a packet along these ports that ends at a hop, and tell [`Routes::on_probe`] its tail.
    Probe(Bytes),
    /// Ask by that way (0: by the trees) whether it works.
    Ask(u8),
    /// What went by that way (0: by the trees) and was not answered goes once more, by what is chosen now.
    Again(u8),
    /// Send a packet by these trees whose hops write themselves down.
    Record(u8),
    /// A way that began at that port fell silent: the peer behind it may be the one that drops.
    Doubt(Port),
    /// So did packets by these trees.
    DoubtTrees(u8),
    /// Neither ways nor trees lead there: the map is asked for others.
    Map,
    /// Streams go another way than before.
    Moved,
    /// What the ways take has changed.
    Mtu,
}

/// A way, for people to read.
#[derive(Clone, Debug, PartialEq)]
pub struct RouteInfo {
    /// Its number in sealed headers; 0 is the trees.
    pub id: u8,
    /// Who is on it, the destination last; empty if unknown.
    pub hops: Vec<Sid>,
    /// How many hops it has; `None` by the trees.
    pub length: Option<usize>,
    /// Milliseconds one way, as announced.
    pub cost: u32,
    /// Largest payload.
    pub mtu: usize,
    /// Smoothed round-trip time, once measured.
    pub rtt: Option<Duration>,
    /// Share of packets that do not arrive.
    pub loss: f32,
    /// Highest queue level met lately, 0..=255.
    pub load: u8,
    /// `fresh`, `live`, `failed` or `trees`.
    pub state: &'static str,
    /// Packets of streams take it now.
    pub used: bool,
    /// Packets sent by it, low 32 bits.
    pub sent: u32,
}

impl Routes {
    /// None known.
    pub fn new(me: Sid, there: Sid) -> Self {
        Self {
            me,
            there,
            view: None,
            ways: Vec::new(),
            trees: Gauge::default(),
            flows: [Flow::default(); FLOWS],
            asks: Vec::new(),
            turn: 0,
            rung: 0,
            next_id: 0,
            blame: Blame::default(),
            epoch: 0,
            rebuild: false,
            used: 0,
            used_at: Instant::ZERO,
            refreshed_at: None,
            search_after: Instant::ZERO,
            searches: 0,
            moved_at: Instant::ZERO,
            search: None,
            todo: Vec::new(),
        }
    }

    /// Ways as people want to see them, the trees first.
    pub fn infos(&self) -> Vec<RouteInfo> {
        let info = |id, path: Option<&Path>, mtu, state, gauge: &Gauge| RouteInfo {
            id,
            hops: path.map(|path| path.nodes.clone()).unwrap_or_default(),
            length: path.map(|path| count(&path.ports)),
            cost: path.map_or(0, |path| path.cost),
            mtu,
            rtt: gauge.srtt(),
            loss: gauge.loss(),
            load: gauge.load(),
            state,
            used: self.flows[0].way == id,
            sent: gauge.sent(),
        };
        let trees = info(0, None, MTU_MIN, "trees", &self.trees);
        let ways = self.ways.iter().map(|way| {
            let state = match way.state {
                State::Fresh => "fresh",
                State::Live => "live",
                State::Failed { .. } => "failed",
            };
            info(way.id, Some(&way.path), way.mtu, state, &way.gauge)
        });
        std::iter::once(trees).chain(ways).collect()
    }

    fn way(&self, id: u8) -> Option<&Way> {
        self.ways.iter().find(|way| way.id == id)
    }

    fn gauge(&mut self, id: u8) -> Option<&mut Gauge> {
        match id {
            0 => Some(&mut self.trees),
            id => self.ways.iter_mut().find(|way| way.id == id).map(|way| &mut way.gauge),
        }
    }

    fn carries(&self, id: u8) -> bool {
        self.flows.iter().any(|flow| flow.known && flow.way == id)
    }

    /// Until when ways are watched: while packets go.
    fn is_active_until(&self) -> Instant {
        self.used_at + ACTIVE
    }

    /// The round trip of a way that was not measured: that of another.
    fn guess(&self) -> Duration {
        let known = self.ways.iter().filter_map(|way| way.gauge.srtt()).max();
        known.or_else(|| self.trees.srtt()).unwrap_or(RTT_GUESS)
    }
}

/// Flows of one session that are told apart: streams are one, packets of the TUN are spread over the rest.
pub const FLOWS: usize = 16;
/// Before anything was measured.
const RTT_GUESS: Duration = Duration::from_millis(100);
/// Nothing is measured without packets of the application for so long.
const ACTIVE: Duration = Duration::from_secs(10);
/// Ways are looked for anew while they are used.
const REFRESH: Duration = Duration::from_secs(120);
