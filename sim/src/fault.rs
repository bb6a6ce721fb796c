//! What goes wrong on purpose: nodes that crash and come back, links that are cut, a network torn in two.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    time::Duration,
};

use rand_chacha::ChaCha8Rng;
use router::Instant;

use crate::{
    World,
    link::{below, unit},
    world::End,
};

/// Kinds of trouble.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
#[value(rename_all = "kebab-case")]
pub enum Fault {
    /// Nodes crash and come back, links are cut and mended, all the time.
    Churn,
    /// All links between two halves are cut at once, for 20 s.
    Partition,
}

impl Fault {
    /// The name as on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Churn => "churn",
            Self::Partition => "partition",
        }
    }
}

/// Trouble under way.
#[derive(Debug)]
pub struct Trouble {
    kind: Fault,
    until: Instant,
    next: Instant,
    /// Nodes that are down, and when they come back.
    down: BTreeMap<usize, Instant>,
    /// Links that are cut, and until when.
    cut: BTreeMap<usize, Instant>,
    /// Crashes and cuts so far.
    pub faults: usize,
}

/// Between two faults of a network of a hundred nodes; more nodes, more faults.
const PAUSE: Duration = Duration::from_secs(2);
/// What is broken is mended within.
const MENDED_MAX: Duration = Duration::from_secs(10);
const PARTITION: Duration = Duration::from_secs(20);

impl Trouble {
    /// Begins now, makes nothing new after `until`.
    pub fn new(kind: Fault, now: Instant, until: Instant) -> Self {
        Self { kind, until, next: now, down: BTreeMap::new(), cut: BTreeMap::new(), faults: 0 }
    }

    /// Does what is due. Says whether something changed.
    pub fn handle(&mut self, world: &mut World, rng: &mut ChaCha8Rng) -> bool {
        let now = world.now();
        let before = self.faults;
        if now >= self.next && now < self.until {
            match self.kind {
                Fault::Churn => {
                    self.churn(world, rng);
                    let pause = PAUSE.mul_f64(100.0 / (world.len() as f64).max(20.0) * 2.0 * unit(rng));
                    self.next = now + pause;
                }
                Fault::Partition => {
                    self.tear(world);
                    self.next = self.until;
                }
            }
        }
        self.mend(world) || self.faults > before
    }

    fn churn(&mut self, world: &mut World, rng: &mut ChaCha8Rng) {
        let back = world.now() + MENDED_MAX.mul_f64(unit(rng));
        if unit(rng) < 0.5 {
            let node = below(rng, world.len());
            let end = if unit(rng) < 0.5 { End::Killed } else { End::Silent };
            // Some are always left.
            if self.down.len() * 4 < world.len() && !self.down.contains_key(&node) {
                world.crash(node, end);
                self.down.insert(node, back);
                self.faults += 1;
            }
        } else if world.edges() > 0 {
            let edge = below(rng, world.edges());
            if let Entry::Vacant(cut) = self.cut.entry(edge) {
                world.set_link(edge, false);
                cut.insert(back);
                self.faults += 1;
            }
        }
    }

    fn tear(&mut self, world: &mut World) {
        let half = world.len() / 2;
        for edge in 0..world.edges() {
            let [a, b] = world.ends(edge);
            if (a < half) != (b < half) {
                world.set_link(edge, false);
                self.cut.insert(edge, world.now() + PARTITION);
                self.faults += 1;
            }
        }
    }

    fn mend(&mut self, world: &mut World) -> bool {
        let now = world.now();
        let due = |(&which, &at): (&usize, &Instant)| (at <= now).then_some(which);
        let nodes: Vec<usize> = self.down.iter().filter_map(due).collect();
        let edges: Vec<usize> = self.cut.iter().filter_map(due).collect();
        for node in &nodes {
            self.down.remove(node);
            world.start(*node);
        }
        for edge in &edges {
            self.cut.remove(edge);
            world.set_link(*edge, true);
        }
        !nodes.is_empty() || !edges.is_empty()
    }

    /// Whether all is mended and nothing new comes.
    pub fn is_over(&self, now: Instant) -> bool {
        let made_all = match self.kind {
            Fault::Churn => now >= self.until,
            Fault::Partition => self.faults > 0,
        };
        made_all && self.down.is_empty() && self.cut.is_empty()
    }
}
