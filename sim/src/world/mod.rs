//! `World`: nodes, links and what is due when, and the same in every run.
//!
//! No frame takes less time than the quickest link. So what happens within one such time, a window, at one node cannot
//! reach any other before the window ends: nodes are dealt out to shards, the shards of a window are computed beside each other by as
//! many threads, and what they have for each other is handed over when the window is done. Every node draws its own chance and
//! numbers what it causes itself, so the run is the same however many threads compute it.
//!
//! `shard.rs` has what happens to nodes, `node.rs` one node, `due.rs` the order of events, `queue.rs` those to come, `views.rs` what can be asked of
//! a world.

mod due;
mod node;
mod queue;
mod shard;
mod views;

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
    sync::Arc,
    thread,
    time::Duration,
};

use bytes::Bytes;
use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};
use router::{Command, Config, Instant, LinkSpec, NodeId, Role, SecretKey};

use crate::{
    link::{Edge, Lane, Shape},
    signatures::{Checked, Quick},
    trace::{Traces, Way},
};
use due::{Due, What};
use node::{Half, Node};
use shard::{Entry, Ground, REDIAL, Shard, Told};

/// A network of routers.
pub struct World {
    now: Instant,
    shards: Vec<Shard>,
    ground: Ground,
    /// Connections to be made.
    connects: BinaryHeap<Reverse<(Instant, u64, u32)>>,
    /// How much was caused from outside.
    caused: u32,
    len: usize,
    numbers: HashMap<NodeId, u32>,
    edges_of: Vec<Vec<u32>>,
    rng: ChaCha8Rng,
    seed: u64,
    config: Config,
    traces: Traces,
    happened: Vec<Happened>,
    /// The latency of the quickest link.
    window: Duration,
    /// Events of the last window.
    busy: u64,
    /// Rises with every change of who is up and linked.
    version: u64,
    log: Vec<Entry>,
}

/// What happened that a workload wants to know.
#[derive(Debug, Clone)]
pub enum Happened {
    /// A packet of an application came.
    Received {
        /// The node it came to.
        at: usize,
        /// When.
        when: Instant,
        /// Who sent it, as the router says.
        from: NodeId,
        /// The packet.
        payload: Bytes,
        /// How it came, if the packet that came last brought it.
        way: Option<Way>,
    },
    /// A lookup ended.
    LookupDone {
        /// The node that asked.
        at: usize,
        /// Which lookup.
        id: u64,
        /// The key found.
        result: Option<NodeId>,
    },
}

/// How a node ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The process: its host closes the connections.
    Killed,
    /// The power: nobody is told.
    Silent,
}

impl World {
    /// Nodes without links, computed by one thread. The seed decides keys, chance and order.
    pub fn new(nodes: usize, seed: u64, config: Config) -> Self {
        Self::with_threads(nodes, seed, config, 1)
    }

    /// The same, computed by so many threads at once: another time on the clock on the wall, the same run.
    pub fn with_threads(nodes: usize, seed: u64, mut config: Config, threads: usize) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        // Signatures are made and sent as always; what one router found good another need not check again.
        if config.checked.is_none() {
            config.checked = Some(Arc::<Checked>::default());
        }
        config.arena_bytes = 0;
        let threads = threads.max(1);
        let mut world = Self {
            now: Instant::ZERO,
            shards: (0..threads).map(|index| Shard::new(index, threads)).collect(),
            ground: Ground { shards: threads, ..Ground::default() },
            connects: BinaryHeap::new(),
            caused: 0,
            len: 0,
            numbers: HashMap::new(),
            edges_of: Vec::new(),
            rng: ChaCha8Rng::seed_from_u64(rng.next_u64()),
            seed,
            config,
            traces: Traces::default(),
            happened: Vec::new(),
            window: WINDOW_MAX,
            busy: 0,
            version: 0,
            log: Vec::new(),
        };
        for node in 0..nodes {
            let mut secret = [0; 32];
            rng.fill_bytes(&mut secret);
            world.add(secret);
            world.start(node);
        }
        world
    }

    /// Routers' settings for a world in which a keyed hash stands in for signatures and Diffie-Hellmans. What is sent is as
    /// long, and forged as little; it is only made more quickly.
    pub fn quick(mut config: Config, seed: u64) -> Config {
        let mut key = [0; 32];
        ChaCha8Rng::seed_from_u64(seed ^ 0x91c4).fill_bytes(&mut key);
        config.checked = Some(Arc::new(Quick::new(key)));
        config
    }

    /// One more node, which is down and has no links.
    pub fn add(&mut self, secret: [u8; 32]) -> usize {
        let key = SecretKey::from_seed(secret).id();
        let number = self.len;
        self.len += 1;
        self.numbers.insert(key, number as u32);
        self.edges_of.push(Vec::new());
        self.ground.villains.push(false);
        let shard = &mut self.shards[number % self.ground.shards];
        shard.nodes.push(Node::new(number as u32, key, secret, self.seed));
        number
    }

    /// Adds a link; its connection is made at once, by the first of the two.
    pub fn link(&mut self, a: usize, b: usize, mut shape: Shape) -> usize {
        shape.latency = shape.latency.max(LATENCY_MIN);
        self.window = self.window.min(shape.latency);
        let edge = self.ground.edges.len();
        let slots = [(a, 0), (b, 1)].map(|(node, end)| {
            let now = self.now;
            let halves = &mut self.node_mut(node).halves;
            let link = Edge::link(edge, 0, usize::from(end));
            halves.push(Half { edge: edge as u32, end, link, open: false, lane: Lane::new(now) });
            halves.len() as u32 - 1
        });
        self.ground.edges.push(Edge { ends: [a, b], slots, shape, exists: true, epoch: 0 });
        self.edges_of[a].push(edge as u32);
        self.edges_of[b].push(edge as u32);
        self.connect_at(self.now, edge);
        self.version += 1;
        edge
    }

    /// Starts a node that is down, with its key and what it stored.
    pub fn start(&mut self, node: usize) {
        if self.node_at(node).router.is_some() {
            return;
        }
        self.version += 1;
        let (seed, config, now) = (self.seed, self.config.clone(), self.now);
        self.node_mut(node).start(seed, config, now);
        for edge in self.edges_of[node].clone() {
            self.connect_at(now + REDIAL, edge as usize);
        }
        self.drain(node);
    }

    /// Ends a node in the middle of whatever it does.
    pub fn crash(&mut self, node: usize, end: End) {
        if !self.node_mut(node).stop() {
            return;
        }
        self.version += 1;
        for edge in self.edges_of[node].clone() {
            self.disconnect(edge as usize, Some(node), end == End::Killed);
        }
    }

    /// Takes a link away or puts it back. Silent: both ends have to notice.
    pub fn set_link(&mut self, edge: usize, exists: bool) {
        self.version += 1;
        self.ground.edges[edge].exists = exists;
        if exists {
            // A connection that nobody gave up meanwhile has lost frames that a stream must not lose.
            self.disconnect(edge, None, true);
            self.connect_at(self.now, edge);
            return;
        }
        // What is under way is lost; the connection stays until the routers give it up.
        self.ground.edges[edge].epoch += 1;
        for end in [0, 1] {
            self.half_mut(edge, end).lane.waiting = false;
        }
    }

    /// The application of a node wants something, now.
    pub fn command(&mut self, node: usize, command: Command) {
        let (shards, now) = (self.ground.shards, self.now);
        let shard = &mut self.shards[node % shards];
        shard.now = now;
        shard.command(node / shards, command, &self.ground);
        self.collect();
    }

    /// The application of a node will want something.
    pub fn command_at(&mut self, at: Instant, node: usize, command: Command) {
        let order = self.order();
        let due =
            Due { at: at.max(self.now), order, node: node as u32, what: What::Command(Box::new(command)) };
        self.shards[node % self.ground.shards].due.push(due);
    }

    /// Lets everything happen that is due until then.
    pub fn run_until(&mut self, until: Instant) {
        loop {
            let first = self.shards.iter_mut().filter_map(|shard| Some(shard.due.peek()?.at)).min();
            let connect = self.connects.peek().map(|Reverse((at, ..))| *at);
            let Some(begin) = first.into_iter().chain(connect).min().filter(|at| *at <= until) else { break };
            if connect == Some(begin) {
                self.now = begin;
                if let Some(Reverse((.., edge))) = self.connects.pop() {
                    self.connect(edge as usize);
                    self.collect();
                }
                continue;
            }
            let end = (begin + self.window).min(until + TICK);
            self.now = begin;
            self.run_window(connect.map_or(end, |connect| end.min(connect)));
            self.collect();
        }
        self.now = until;
    }

    fn run_window(&mut self, end: Instant) {
        let ground = &self.ground;
        let events = |shards: &[Shard]| shards.iter().map(|shard| shard.events).sum::<u64>();
        let before = events(&self.shards);
        // To wake a thread for a handful of events takes longer than they do.
        if self.busy >= PARALLEL_LEAST
            && let [first, rest @ ..] = &mut self.shards[..]
        {
            thread::scope(|scope| {
                for shard in rest {
                    scope.spawn(|| shard.run(end, ground));
                }
                first.run(end, ground);
            });
        } else {
            self.shards.iter_mut().for_each(|shard| shard.run(end, ground));
        }
        self.busy = events(&self.shards) - before;
    }

    /// Hands over what the shards have for each other and for the world.
    fn collect(&mut self) {
        for from in 0..self.shards.len() {
            for to in (0..self.shards.len()).filter(|&to| to != from) {
                let mut moved = std::mem::take(&mut self.shards[from].out[to]);
                moved.drain(..).for_each(|due| self.shards[to].due.push(due));
                self.shards[from].out[to] = moved;
            }
            self.connects.extend(self.shards[from].connects.drain(..).map(Reverse));
            self.log.append(&mut self.shards[from].log);
        }
        let mut log = std::mem::take(&mut self.log);
        log.sort_unstable_by_key(|entry| (entry.at, entry.node, entry.number));
        let mut last = (u32::MAX, 0, None);
        for Entry { at, node, number, what } in log.drain(..) {
            match what {
                Told::Arrival(arrival) => last = (node, number, self.traces.arrived(&arrival, at)),
                Told::Happened(mut happened, arrival) => {
                    if let Happened::Received { way, .. } = &mut *happened
                        && (last.0, Some(last.1)) == (node, arrival)
                    {
                        *way = last.2.clone();
                    }
                    self.happened.push(*happened);
                }
            }
        }
        self.log = log;
    }

    fn connect(&mut self, number: usize) {
        let now = self.now;
        let edge = &self.ground.edges[number];
        let ends = edge.ends;
        let alive = ends.iter().all(|&node| self.node_at(node).router.is_some());
        let stands = [0, 1].iter().all(|&end| self.half(number, end).open);
        if stands || !edge.exists || !alive {
            return;
        }
        let edge = &mut self.ground.edges[number];
        edge.epoch += 1;
        let (epoch, kind) = (edge.epoch, edge.shape.kind);
        for end in [0, 1] {
            let link = Edge::link(number, epoch, end);
            let half = self.half_mut(number, end);
            (half.link, half.open, half.lane) = (link, true, Lane::new(now));
        }
        for end in [0, 1] {
            let role = if end == 0 { Role::Dialer } else { Role::Acceptor };
            let spec = LinkSpec::new(kind, role);
            if let Some(router) = &mut self.node_mut(ends[end]).router {
                router.handle_link(Edge::link(number, epoch, end), spec, now);
                self.drain(ends[end]);
            }
        }
    }

    /// The connection of an edge ends. Who is named knows it already.
    fn disconnect(&mut self, number: usize, by: Option<usize>, tell: bool) {
        let now = self.now;
        let Edge { ends, slots, shape, .. } = &self.ground.edges[number];
        let (ends, slots, latency) = (*ends, *slots, shape.latency);
        let stood = [0, 1].map(|end| std::mem::take(&mut self.half_mut(number, end).open));
        if stood == [false, false] {
            return;
        }
        self.ground.edges[number].epoch += 1;
        for end in [0, 1] {
            if stood[end] && tell && by != Some(ends[end]) {
                let link = self.half(number, end).link;
                let (order, node) = (self.order(), ends[end] as u32);
                let what = What::Lost { slot: slots[end], link };
                let due = Due { at: now + latency, order, node, what };
                self.shards[ends[end] % self.ground.shards].due.push(due);
            }
        }
        self.connect_at(now + REDIAL, number);
    }

    fn drain(&mut self, node: usize) {
        let (shards, now) = (self.ground.shards, self.now);
        let shard = &mut self.shards[node % shards];
        shard.now = now;
        shard.drain(node / shards, None, &self.ground);
        self.collect();
    }

    fn connect_at(&mut self, at: Instant, edge: usize) {
        let order = self.order();
        self.connects.push(Reverse((at, order, edge as u32)));
    }

    /// The order of the next thing that is caused from outside: after all that nodes cause.
    fn order(&mut self) -> u64 {
        self.caused += 1;
        u64::from(u32::MAX) << 32 | u64::from(self.caused)
    }

    fn node_at(&self, node: usize) -> &Node {
        &self.shards[node % self.ground.shards].nodes[node / self.ground.shards]
    }

    fn node_mut(&mut self, node: usize) -> &mut Node {
        &mut self.shards[node % self.ground.shards].nodes[node / self.ground.shards]
    }

    fn half(&self, edge: usize, end: usize) -> &Half {
        let Edge { ends, slots, .. } = &self.ground.edges[edge];
        &self.node_at(ends[end]).halves[slots[end] as usize]
    }

    fn half_mut(&mut self, edge: usize, end: usize) -> &mut Half {
        let Edge { ends, slots, .. } = &self.ground.edges[edge];
        let (node, slot) = (ends[end], slots[end] as usize);
        &mut self.node_mut(node).halves[slot]
    }
}

/// No link is quicker.
const LATENCY_MIN: Duration = Duration::from_micros(10);
/// Of a world without links.
const WINDOW_MAX: Duration = Duration::from_millis(50);
/// The resolution of time.
const TICK: Duration = Duration::from_micros(1);
/// Events of a window that are worth a thread: each takes some microseconds, a thread some tens.
const PARALLEL_LEAST: u64 = 200;
