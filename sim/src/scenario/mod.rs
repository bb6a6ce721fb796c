//! What to run: a network, its links, its traffic, what goes wrong, and what is expected of it.

mod file;
mod measure;
mod run;

use std::time::Duration;

use router::{Config, Instant, LinkKind};

pub use file::{Bound, Expectation, ScenarioFile};
pub use run::run;

use crate::{
    Shape, Topology,
    adversary::{DropperKind, DropperPlace},
    event::Event,
    workload::{Load, LoadKind},
};

/// One run.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// Kind of network.
    pub topology: Topology,
    /// How many nodes. A file says itself.
    pub nodes: usize,
    /// Decides all that chance decides.
    pub seed: u64,
    /// Virtual time in all.
    pub duration: Duration,
    /// What links are like that the topology says nothing about.
    pub link: Links,
    /// Packets between random pairs that have not talked before.
    pub probes: usize,
    /// Lookups of random nodes.
    pub lookups: usize,
    /// When traffic begins; by default halfway.
    pub traffic_at: Option<Duration>,
    /// Traffic that goes on.
    pub loads: Vec<Load>,
    /// What goes wrong.
    pub events: Vec<Event>,
    /// Nodes that drop what is not theirs.
    pub droppers: Option<Droppers>,
    /// Settings of all routers.
    pub config: Config,
    /// A keyed hash stands in for signatures and Diffie-Hellmans.
    pub quick_keys: bool,
    /// Threads that compute it. The run is the same with any number.
    pub threads: usize,
    /// Something that no router does: for tests of the oracles.
    pub fault: Option<Fault>,
}

/// What a broken router would do, done in its place once traffic goes: each has an oracle that must see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Packets of the application are delivered to nobody.
    Swallow,
    /// Each is delivered twice.
    Twice,
    /// Each is delivered as from another key.
    WrongKey,
    /// A table grows beyond its bound: the bound is taken to be nothing.
    Oversized,
    /// Two networks are taken for one: each has a root of its own in every tree.
    TwoRoots,
}

/// Defaults of links.
#[derive(Debug, Clone, Copy)]
pub struct Links {
    /// One way, instead of the topology's own.
    pub latency: Option<Duration>,
    /// Up to so much on top; by default a tenth of the latency.
    pub jitter: Option<Duration>,
    /// Frames lost, 0..1.
    pub loss: f64,
    /// Bytes in a second.
    pub rate: u64,
    /// Stream or datagrams.
    pub kind: LinkKind,
}

/// Nodes that drop what is not theirs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Droppers {
    /// Of all nodes.
    pub share: f64,
    /// Which packets.
    pub kind: DropperKind,
    /// Where they are.
    pub place: DropperPlace,
    /// They also lie to whoever looks something up.
    pub lie: bool,
}

impl Default for Links {
    fn default() -> Self {
        Self { latency: None, jitter: None, loss: 0.0, rate: Shape::default().rate, kind: LinkKind::Stream }
    }
}

impl Scenario {
    /// Two minutes of a network without loss.
    pub fn new(topology: Topology, nodes: usize, seed: u64) -> Self {
        Self {
            topology,
            nodes,
            seed,
            duration: Duration::from_secs(120),
            link: Links::default(),
            probes: (2 * nodes).clamp(50, 2000),
            lookups: (nodes / 2).clamp(12, 500),
            traffic_at: None,
            loads: Vec::new(),
            events: Vec::new(),
            droppers: None,
            config: Config::default(),
            quick_keys: false,
            threads: 1,
            fault: None,
        }
    }

    /// What the routers do beyond their trees, so that a table can show what it gains.
    pub fn switch(&mut self, source_routes: bool, audit: bool) {
        self.config.source_routes = source_routes;
        self.config.audit = audit;
    }

    /// Pairs that send each other a packet a second, whose delivery is watched second by second.
    pub fn watch(&mut self, pairs: usize) {
        self.loads.push(Load {
            kind: LoadKind::Pairs,
            count: pairs,
            members: 0,
            every_ms: 1000.0,
            bytes: 64,
        });
    }
}

/// What must not happen, when it did.
#[derive(Debug, Clone, thiserror::Error)]
#[error("seed {seed}, {at:?} of virtual time: {what}")]
pub struct Violation {
    /// The seed that shows it again.
    pub seed: u64,
    /// When.
    pub at: Instant,
    /// What.
    pub what: String,
}
