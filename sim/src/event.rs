//! What goes wrong on purpose: roots and hubs that crash, a network torn and joined, nodes that come and go, attackers.

use std::{collections::BTreeMap, time::Duration};

use rand_chacha::ChaCha8Rng;
use rand_core::Rng;
use router::{Instant, NodeId, SecretKey};
use serde::Deserialize;

use crate::{
    World,
    adversary::{DropperKind, Malice},
    link::{Shape, below, unit},
    world::End,
};

/// Kinds of trouble.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Deserialize, serde::Serialize)]
#[value(rename_all = "kebab-case")]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// The root of a tree loses power, and stays away.
    RootCrash,
    /// The root of a tree loses power, and is back after `for`.
    RootRejoin,
    /// The roots of all trees lose power, `every` after one another.
    RootsCrash,
    /// The node with the most links loses power, and stays away.
    HubCrash,
    /// All links between two halves are cut at once, for `for`.
    Partition,
    /// A mesh of `size` nodes of its own is joined to the network.
    Merge,
    /// `share` of the nodes leave each minute and come back, for `for`.
    Churn,
    /// Links are cut and mended, `share` of them each minute, for `for`.
    LinkChurn,
    /// The root of a tree goes and comes back every `every`, for `for`.
    Flap,
    /// `count` keys, ground to beat every root, come and go every `every` at `places` nodes, for `for`.
    Grind,
    /// `count` nodes claim places next to a root that they no longer have: everything but announcements is dropped.
    PlaceTheft,
}

impl Kind {
    /// The name as on the command line and in scenarios.
    pub fn name(self) -> &'static str {
        match self {
            Self::RootCrash => "root-crash",
            Self::RootRejoin => "root-rejoin",
            Self::RootsCrash => "roots-crash",
            Self::HubCrash => "hub-crash",
            Self::Partition => "partition",
            Self::Merge => "merge",
            Self::Churn => "churn",
            Self::LinkChurn => "link-churn",
            Self::Flap => "flap",
            Self::Grind => "grind",
            Self::PlaceTheft => "place-theft",
        }
    }
}

/// One trouble of a scenario.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Event {
    /// Which.
    pub kind: Kind,
    /// Virtual seconds from the start; by default when the network has settled and traffic flows.
    #[serde(default)]
    pub at_s: Option<f64>,
    /// How long it goes on, in seconds.
    #[serde(default)]
    pub for_s: Option<f64>,
    /// Between two repetitions, in seconds.
    #[serde(default)]
    pub every_s: Option<f64>,
    /// Which tree's root.
    #[serde(default)]
    pub tree: usize,
    /// Attackers.
    #[serde(default = "one")]
    pub count: usize,
    /// Nodes that attackers come to.
    #[serde(default = "one")]
    pub places: usize,
    /// Nodes of a mesh that merges.
    #[serde(default = "mesh")]
    pub size: usize,
    /// Of all nodes or links, a minute.
    #[serde(default)]
    pub share: Option<f64>,
}

const fn one() -> usize {
    1
}

const fn mesh() -> usize {
    200
}

impl Event {
    /// With everything at its default.
    pub fn new(kind: Kind) -> Self {
        Self {
            kind,
            at_s: None,
            for_s: None,
            every_s: None,
            tree: 0,
            count: 1,
            places: 1,
            size: mesh(),
            share: None,
        }
    }

    /// How long it goes on by itself.
    pub fn lasts(&self) -> Duration {
        let default = match self.kind {
            Kind::RootCrash | Kind::HubCrash | Kind::Merge => 0.0,
            Kind::RootRejoin | Kind::Partition => 20.0,
            Kind::RootsCrash => self.every().as_secs_f64() * 8.0,
            Kind::Churn | Kind::LinkChurn | Kind::Flap | Kind::Grind | Kind::PlaceTheft => 120.0,
        };
        seconds(self.for_s.unwrap_or(default))
    }

    fn every(&self) -> Duration {
        seconds(self.every_s.unwrap_or(30.0)).max(Duration::from_millis(100))
    }
}

/// Seconds from a scenario file, which may say anything.
pub fn seconds(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds.clamp(0.0, 1e9))
}

/// What a scenario's network was built with for its events.
#[derive(Debug, Default, Clone)]
pub struct Prepared {
    /// Links that join a mesh, cut until it merges.
    pub joints: Vec<usize>,
    /// The nodes of the mesh.
    pub mesh: Option<std::ops::Range<usize>>,
}

/// An event under way.
#[derive(Debug)]
pub struct Trouble {
    /// What was asked for.
    pub event: Event,
    /// When it began.
    pub began: Instant,
    ends: Instant,
    next: Instant,
    /// Nodes that are down, and when they come back.
    down: BTreeMap<usize, Instant>,
    /// Links that are cut, and until when.
    cut: BTreeMap<usize, Instant>,
    /// Nodes that were brought in, up or down.
    attackers: Vec<usize>,
    round: usize,
    rest: f64,
    done: bool,
    /// Crashes, cuts and attacks so far.
    pub faults: usize,
    /// Who crashed, if it was one.
    pub victim: Option<usize>,
}

/// Ground keys are looked for among so many: enough for some that beat every root of 10 000 nodes.
const GRIND_MAX: usize = 4_000_000;
/// Nodes that left come back within.
const AWAY: (f64, f64) = (5.0, 60.0);
/// Links that were cut are mended within.
const CUT: (f64, f64) = (0.5, 10.0);

impl Trouble {
    /// Begins now.
    pub fn new(event: Event, now: Instant) -> Self {
        let ends = now + event.lasts();
        Self {
            event,
            began: now,
            ends,
            next: now,
            down: BTreeMap::new(),
            cut: BTreeMap::new(),
            attackers: Vec::new(),
            round: 0,
            rest: 0.0,
            done: false,
            faults: 0,
            victim: None,
        }
    }

    /// Does what is due.
    pub fn handle(&mut self, world: &mut World, prepared: &Prepared, rng: &mut ChaCha8Rng) {
        let now = world.now();
        if !self.done && now >= self.next {
            self.act(world, prepared, rng);
            self.round += 1;
        }
        let due = |(&which, &at): (&usize, &Instant)| (at <= now).then_some(which);
        let nodes: Vec<usize> = self.down.iter().filter_map(due).collect();
        let edges: Vec<usize> = self.cut.iter().filter_map(due).collect();
        for node in nodes {
            self.down.remove(&node);
            world.start(node);
        }
        for edge in edges {
            self.cut.remove(&edge);
            world.set_link(edge, true);
        }
    }

    fn act(&mut self, world: &mut World, prepared: &Prepared, rng: &mut ChaCha8Rng) {
        let now = world.now();
        let every = self.event.every();
        match self.event.kind {
            Kind::RootCrash => {
                self.victim = root(world, self.event.tree);
                self.crash(world, End::Silent);
                self.done = true;
            }
            Kind::RootRejoin => {
                self.victim = root(world, self.event.tree);
                self.crash(world, End::Silent);
                self.down.extend(self.victim.map(|node| (node, self.ends)));
                self.done = true;
            }
            Kind::RootsCrash => {
                let trees = world.routers().next().map_or(1, |(_, router)| router.tree_count());
                self.victim = root(world, self.round % trees);
                self.crash(world, End::Silent);
                self.next = now + every;
                self.done = now + every > self.ends;
            }
            Kind::HubCrash => {
                let alive = |node: &usize| world.up_since(*node).is_some() && world.is_honest(*node);
                self.victim = (0..world.len())
                    .filter(alive)
                    .max_by_key(|&node| (world.degree(node), std::cmp::Reverse(node)));
                self.crash(world, End::Silent);
                self.done = true;
            }
            Kind::Partition => {
                let side = half(world, rng);
                for edge in 0..world.edges() {
                    let [a, b] = world.ends(edge);
                    if side[a] != side[b] && world.has_link(edge) {
                        world.set_link(edge, false);
                        self.cut.insert(edge, self.ends);
                        self.faults += 1;
                    }
                }
                self.done = true;
            }
            Kind::Merge => {
                for &edge in &prepared.joints {
                    world.set_link(edge, true);
                    self.faults += 1;
                }
                self.done = true;
            }
            Kind::Churn | Kind::LinkChurn => self.churn(world, rng),
            Kind::Flap => {
                // Away for half of the time.
                self.victim = self.victim.or_else(|| root(world, self.event.tree));
                self.crash(world, End::Silent);
                self.down.extend(self.victim.map(|node| (node, now + every / 2)));
                self.next = now + every;
                self.done = self.next >= self.ends;
            }
            Kind::Grind => self.grind(world, rng),
            Kind::PlaceTheft => self.steal(world, rng),
        }
    }

    fn crash(&mut self, world: &mut World, end: End) {
        if let Some(node) = self.victim {
            world.crash(node, end);
            self.faults += 1;
        }
    }

    /// Each tick so many that a minute makes the share.
    fn churn(&mut self, world: &mut World, rng: &mut ChaCha8Rng) {
        let now = world.now();
        let tick = Duration::from_millis(100);
        self.next = now + tick;
        self.done = self.next >= self.ends;
        let share = self.event.share.unwrap_or(0.05);
        let nodes = self.event.kind == Kind::Churn;
        let all = if nodes { world.len() } else { world.edges() };
        self.rest += share * all as f64 * tick.as_secs_f64() / 60.0;
        while self.rest >= 1.0 {
            self.rest -= 1.0;
            let away = |(least, most): (f64, f64), rng: &mut ChaCha8Rng| {
                now + Duration::from_secs_f64(least + (most - least) * unit(rng))
            };
            if nodes {
                let node = below(rng, all);
                let end = if unit(rng) < 0.5 { End::Killed } else { End::Silent };
                let back = away(AWAY, rng);
                // Some are always left.
                if self.down.len() * 4 < all && world.up_since(node).is_some() && world.is_honest(node) {
                    world.crash(node, end);
                    self.down.insert(node, back);
                    self.faults += 1;
                }
            } else {
                let edge = below(rng, all);
                let mended = away(CUT, rng);
                if world.has_link(edge) {
                    world.set_link(edge, false);
                    self.cut.insert(edge, mended);
                    self.faults += 1;
                }
            }
        }
    }

    /// All attackers come, or go.
    fn grind(&mut self, world: &mut World, rng: &mut ChaCha8Rng) {
        let now = world.now();
        let come = self.round.is_multiple_of(2);
        self.next = now + self.event.every();
        self.done = self.next >= self.ends && !come;
        if !come {
            for &node in &self.attackers {
                world.crash(node, End::Killed);
            }
            return;
        }
        // Fresh keys each time: a key that was followed once has tenure.
        self.attackers.clear();
        let places = places(world, self.event.places, rng);
        let Some(&first) = places.first() else { return };
        let trees = world.router(first).map_or(1, |router| router.tree_count());
        for number in 0..self.event.count {
            let tree = number % trees;
            let Some(secret) = ground(world, tree, rng) else { continue };
            let node = world.add(secret);
            let key = world.key(node);
            world.corrupt(node, Malice::new(DropperKind::Silent, key));
            world.link(places[number % places.len()], node, Shape::default());
            world.start(node);
            self.attackers.push(node);
            self.faults += 1;
        }
    }

    /// Each attacker has a tunnel to a root that carries what the root said, and nothing else, and sits elsewhere.
    fn steal(&mut self, world: &mut World, rng: &mut ChaCha8Rng) {
        self.next = self.ends;
        let come = self.round == 0;
        self.done = !come;
        if !come {
            for &node in &self.attackers {
                world.crash(node, End::Killed);
            }
            return;
        }
        let trees = world.routers().next().map_or(1, |(_, router)| router.tree_count());
        let places = places(world, self.event.places.max(self.event.count), rng);
        for number in 0..self.event.count {
            let Some(root) = root(world, number % trees) else { continue };
            let mut secret = [0; 32];
            rng.fill_bytes(&mut secret);
            let node = world.add(secret);
            let key = world.key(node);
            world.corrupt(node, Malice::new(DropperKind::Silent, key));
            let near =
                Shape { latency: Duration::from_micros(500), jitter: Duration::ZERO, ..Shape::default() };
            world.link(root, node, near);
            for &place in places.iter().skip(number).step_by(self.event.count.max(1)) {
                if place != root {
                    world.link(place, node, near);
                }
            }
            world.start(node);
            self.attackers.push(node);
            self.faults += 1;
        }
    }

    /// Whether all is mended and nothing new comes.
    pub fn is_over(&self) -> bool {
        self.done && self.down.is_empty() && self.cut.is_empty()
    }

    /// When its last act was due.
    pub fn over_since(&self) -> Instant {
        match self.event.kind {
            Kind::RootCrash | Kind::HubCrash | Kind::Merge => self.began,
            _ => self.ends,
        }
    }
}

/// The root of a tree in the largest part of the network, if it is up.
fn root(world: &World, tree: usize) -> Option<usize> {
    let mut votes: BTreeMap<NodeId, usize> = BTreeMap::new();
    for (node, router) in world.routers().filter(|&(node, _)| world.is_honest(node)).take(4096) {
        let _ = node;
        if let Some(root) = router.root(tree) {
            *votes.entry(root).or_default() += 1;
        }
    }
    let (root, _) = votes.into_iter().max_by_key(|&(_, votes)| votes)?;
    world.node(&root).filter(|&node| world.router(node).is_some())
}

/// Random honest nodes that are up.
fn places(world: &World, count: usize, rng: &mut ChaCha8Rng) -> Vec<usize> {
    let mut places = Vec::new();
    for _ in 0..count * 64 {
        let node = below(rng, world.len());
        if places.len() < count
            && world.is_honest(node)
            && world.up_since(node).is_some()
            && !places.contains(&node)
        {
            places.push(node);
        }
    }
    places
}

/// A key that beats every honest one as the root of a tree.
fn ground(world: &World, tree: usize, rng: &mut ChaCha8Rng) -> Option<[u8; 32]> {
    let rank = |key: &NodeId| {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"tree").update(&[tree as u8]).update(key.as_bytes());
        *hasher.finalize().as_bytes()
    };
    let least = world
        .routers()
        .filter(|&(node, _)| world.is_honest(node))
        .map(|(_, router)| rank(&router.id()))
        .min()?;
    for _ in 0..GRIND_MAX {
        let mut secret = [0; 32];
        rng.fill_bytes(&mut secret);
        if rank(&SecretKey::from_seed(secret).id()) < least {
            return Some(secret);
        }
    }
    None
}

/// Half of the nodes, connected as long as the network is: the nearest to a random one.
fn half(world: &World, rng: &mut ChaCha8Rng) -> Vec<bool> {
    let mut side = vec![false; world.len()];
    let Some(&start) = places(world, 1, rng).first() else { return side };
    let graph = world.graph();
    let mut open = std::collections::VecDeque::from([start]);
    let mut taken = 0;
    side[start] = true;
    while let Some(node) = open.pop_front() {
        taken += 1;
        if taken * 2 >= world.len() {
            break;
        }
        for &(next, _) in graph.neighbours(node) {
            if !side[next as usize] {
                side[next as usize] = true;
                open.push_back(next as usize);
            }
        }
    }
    for node in open {
        side[node] = false;
    }
    side
}
