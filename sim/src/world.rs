//! `World`: nodes, links and what is due when. One event after the other, each drained to its end: the same order in
//! every run.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};
use router::{
    Boot, Command, Config, Entropy, Event, Instant, LinkId, LinkSpec, NodeId, Role, RootTimes, Router,
    SecretKey, Sid, Stats,
};

use crate::{
    adversary::{Malice, Verdict},
    link::{Connection, Edge, Fate, Lane, Shape, unit},
    signatures::Checked,
    topology::Graph,
    trace::{Traces, Way},
};

/// A network of routers.
pub struct World {
    now: Instant,
    due: BinaryHeap<Reverse<Due>>,
    order: u64,
    nodes: Vec<Node>,
    numbers: HashMap<NodeId, u32>,
    edges: Vec<Edge>,
    /// Edge and end of every link that ever was, by its number.
    links: Vec<(u32, u8)>,
    edges_of: Vec<Vec<u32>>,
    rng: ChaCha8Rng,
    seed: u64,
    config: Config,
    traces: Traces,
    happened: Vec<Happened>,
    hasher: blake3::Hasher,
    events: u64,
    frames: u64,
    closed: u64,
    stuck: Option<usize>,
    /// Rises with every change of who is up and linked.
    version: u64,
}

struct Node {
    router: Option<Router>,
    key: NodeId,
    sid: Sid,
    secret: [u8; 32],
    /// What [`Router::persisted`] said before the crash.
    counter: u64,
    /// What [`Router::root_times`] said before the crash.
    roots: RootTimes,
    starts: u32,
    /// The earliest wake-up that is due.
    wakes: Option<Instant>,
    /// Timeouts in a row without time passing.
    spins: u32,
    /// Since when it has been up.
    since: Instant,
    /// What it does that an honest node does not.
    malice: Option<Box<Malice>>,
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

struct Due {
    at: Instant,
    order: u64,
    what: What,
}

enum What {
    Frame {
        edge: u32,
        from: u8,
        epoch: u32,
        frame: Bytes,
    },
    /// The socket has room again.
    Room {
        edge: u32,
        from: u8,
        epoch: u32,
    },
    Wake {
        node: u32,
    },
    Connect {
        edge: u32,
    },
    /// The other end notices that the connection is gone.
    Lost {
        edge: u32,
        end: u8,
        link: LinkId,
    },
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.order) == (other.at, other.order)
    }
}

impl Eq for Due {}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Due {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

/// How a node ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The process: its host closes the connections.
    Killed,
    /// The power: nobody is told.
    Silent,
}

/// A connection that was closed is made again after this long.
const REDIAL: Duration = Duration::from_secs(1);
/// Unix time at the start of every simulation, in ms.
const EPOCH_MS: u64 = 1_700_000_000_000;
/// Timeouts without time passing that are still taken for work.
const SPINS_MAX: u32 = 10_000;

impl World {
    /// Nodes without links. The seed decides keys, chance and order.
    pub fn new(nodes: usize, seed: u64, mut config: Config) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        // Signatures are made and sent as always; what one router found good another need not check again.
        config.checked.get_or_insert_with(|| Arc::<Checked>::default());
        config.arena_bytes = 0;
        let mut world = Self {
            now: Instant::ZERO,
            due: BinaryHeap::new(),
            order: 0,
            nodes: Vec::new(),
            numbers: HashMap::new(),
            edges: Vec::new(),
            links: Vec::new(),
            edges_of: vec![Vec::new(); nodes],
            rng: ChaCha8Rng::seed_from_u64(rng.next_u64()),
            seed,
            config,
            traces: Traces::default(),
            happened: Vec::new(),
            hasher: blake3::Hasher::new(),
            events: 0,
            frames: 0,
            closed: 0,
            stuck: None,
            version: 0,
        };
        for node in 0..nodes {
            let mut secret = [0; 32];
            rng.fill_bytes(&mut secret);
            world.add(secret);
            world.start(node);
        }
        world
    }

    /// One more node, which is down and has no links.
    pub fn add(&mut self, secret: [u8; 32]) -> usize {
        let key = SecretKey::from_seed(secret).id();
        let number = self.nodes.len();
        self.numbers.insert(key, number as u32);
        self.edges_of.resize(self.edges_of.len().max(number + 1), Vec::new());
        self.nodes.push(Node {
            router: None,
            key,
            sid: key.sid(),
            secret,
            counter: 0,
            roots: RootTimes::default(),
            starts: 0,
            wakes: None,
            spins: 0,
            since: Instant::ZERO,
            malice: None,
        });
        number
    }

    /// Adds a link; its connection is made at once, by the first of the two.
    pub fn link(&mut self, a: usize, b: usize, shape: Shape) -> usize {
        let edge = self.edges.len();
        self.edges.push(Edge { ends: [a, b], shape, exists: true, connection: None, epoch: 0 });
        self.edges_of[a].push(edge as u32);
        self.edges_of[b].push(edge as u32);
        self.schedule(self.now, What::Connect { edge: edge as u32 });
        self.version += 1;
        edge
    }

    /// Starts a node that is down, with its key and what it stored.
    pub fn start(&mut self, node: usize) {
        let (seed, now) = (self.seed, self.now);
        let entry = &mut self.nodes[node];
        if entry.router.is_some() {
            return;
        }
        entry.starts += 1;
        entry.since = now;
        self.version += 1;
        let stream = u64::from(entry.starts) << 32 | node as u64;
        let unix_ms = EPOCH_MS + now.as_micros() / 1000;
        let boot = Boot { counter: entry.counter.max(unix_ms), roots: entry.roots.clone() };
        let entropy = Box::new(SeededEntropy::new(seed, stream));
        let secret = SecretKey::from_seed(entry.secret);
        entry.router = Some(Router::new(secret, self.config.clone(), boot, entropy, now));
        for edge in self.edges_of[node].clone() {
            self.schedule(now + REDIAL, What::Connect { edge });
        }
        self.drain(node, None);
    }

    /// Ends a node in the middle of whatever it does.
    pub fn crash(&mut self, node: usize, end: End) {
        let Some(router) = self.nodes[node].router.take() else { return };
        self.nodes[node].counter = router.persisted();
        self.nodes[node].roots = router.root_times();
        self.nodes[node].wakes = None;
        self.version += 1;
        for edge in self.edges_of[node].clone() {
            self.disconnect(edge, Some(node), end == End::Killed);
        }
    }

    /// Takes a link away or puts it back. Silent: both ends have to notice.
    pub fn set_link(&mut self, edge: usize, exists: bool) {
        self.version += 1;
        self.edges[edge].exists = exists;
        if exists {
            // A connection that nobody gave up meanwhile has lost frames that a stream must not lose.
            self.disconnect(edge as u32, None, true);
            self.schedule(self.now, What::Connect { edge: edge as u32 });
            return;
        }
        // What is under way is lost; the connection stays until the routers give it up.
        self.edges[edge].epoch += 1;
        if let Some(connection) = &mut self.edges[edge].connection {
            connection.lanes.iter_mut().for_each(|lane| lane.waiting = false);
        }
    }

    /// The application of a node wants something.
    pub fn command(&mut self, node: usize, command: Command) {
        let now = self.now;
        if let Some(router) = &mut self.nodes[node].router {
            router.handle_command(command, now);
            self.drain(node, None);
        }
    }

    /// Lets everything happen that is due until then.
    pub fn run_until(&mut self, until: Instant) {
        while self.due.peek().is_some_and(|Reverse(due)| due.at <= until) {
            let Some(Reverse(due)) = self.due.pop() else { break };
            self.now = due.at;
            self.events += 1;
            self.step(due.what);
        }
        self.now = until;
    }

    fn step(&mut self, what: What) {
        match what {
            What::Frame { edge, from, epoch, frame } => self.on_frame(edge, from, epoch, &frame),
            What::Room { edge, from, epoch } => {
                let entry = &mut self.edges[edge as usize];
                if entry.epoch == epoch
                    && let Some(connection) = &mut entry.connection
                {
                    connection.lanes[usize::from(from)].waiting = false;
                    self.pump(edge, from);
                }
            }
            What::Wake { node } => self.on_wake(node as usize),
            What::Connect { edge } => self.on_connect(edge),
            What::Lost { edge, end, link } => {
                let node = self.edges[edge as usize].ends[usize::from(end)];
                let now = self.now;
                if let Some(router) = &mut self.nodes[node].router {
                    router.handle_link_lost(link, now);
                    self.drain(node, None);
                }
            }
        }
    }

    fn on_frame(&mut self, edge: u32, from: u8, epoch: u32, frame: &Bytes) {
        let entry = &self.edges[edge as usize];
        let Some(connection) = entry.connection.as_ref().filter(|_| entry.epoch == epoch) else { return };
        let end = usize::from(1 - from);
        let (link, node, sender) = (connection.links[end], entry.ends[end], entry.ends[1 - end]);
        self.frames += 1;
        self.hasher.update(&self.now.as_micros().to_be_bytes());
        self.hasher.update(&link.0.to_be_bytes());
        self.hasher.update(frame);
        let latency = entry.shape.latency;
        if let Some(malice) = &mut self.nodes[node].malice {
            match malice.comes(frame) {
                Verdict::Pass => {}
                Verdict::Drop => return,
                Verdict::Answer(frame) => return self.inject(edge, 1 - from, frame),
            }
        }
        let ended = self.nodes[node].sid;
        let way = self.traces.arrived(sender, node, ended, latency, frame, self.now);
        let now = self.now;
        if let Some(router) = &mut self.nodes[node].router {
            router.handle_frame(link, frame, now);
            self.drain(node, way);
        }
    }

    /// Sends a frame that no router made.
    fn inject(&mut self, edge: u32, from: u8, frame: Bytes) {
        let now = self.now;
        let entry = &mut self.edges[edge as usize];
        let (epoch, shape, exists) = (entry.epoch, entry.shape, entry.exists);
        let Some(connection) = &mut entry.connection else { return };
        let lane = &mut connection.lanes[usize::from(from)];
        if let (Fate::Arrives(at), true) = (lane.send(frame.len(), &shape, now, &mut self.rng), exists) {
            self.schedule(at, What::Frame { edge, from, epoch, frame });
        }
    }

    fn on_wake(&mut self, node: usize) {
        let now = self.now;
        let entry = &mut self.nodes[node];
        // Of several wake-ups that are due only the one that counts.
        if entry.wakes != Some(now) {
            return;
        }
        entry.wakes = None;
        let Some(router) = &mut entry.router else { return };
        if router.poll_timeout().is_some_and(|at| at <= now) {
            router.handle_timeout(now);
            self.drain(node, None);
        } else {
            self.plan_wake(node);
        }
    }

    fn on_connect(&mut self, edge: u32) {
        let now = self.now;
        let entry = &self.edges[edge as usize];
        let alive = entry.ends.iter().all(|&node| self.nodes[node].router.is_some());
        if entry.connection.is_some() || !entry.exists || !alive {
            return;
        }
        let links = [0, 1].map(|end| {
            self.links.push((edge, end));
            LinkId(self.links.len() as u64 - 1)
        });
        let entry = &mut self.edges[edge as usize];
        entry.epoch += 1;
        entry.connection = Some(Connection { links, lanes: [Lane::new(now), Lane::new(now)] });
        let (ends, kind) = (entry.ends, entry.shape.kind);
        for end in [0, 1] {
            let role = if end == 0 { Role::Dialer } else { Role::Acceptor };
            if let Some(router) = &mut self.nodes[ends[end]].router {
                router.handle_link(links[end], LinkSpec::new(kind, role), now);
                self.drain(ends[end], None);
            }
        }
    }

    /// The connection of an edge ends. Who is named knows it already.
    fn disconnect(&mut self, edge: u32, by: Option<usize>, tell: bool) {
        let now = self.now;
        let entry = &mut self.edges[edge as usize];
        let Some(connection) = entry.connection.take() else { return };
        entry.epoch += 1;
        let (ends, latency) = (entry.ends, entry.shape.latency);
        for end in [0u8, 1] {
            if tell && by != Some(ends[usize::from(end)]) {
                let link = connection.links[usize::from(end)];
                self.schedule(now + latency, What::Lost { edge, end, link });
            }
        }
        self.schedule(now + REDIAL, What::Connect { edge });
    }

    /// After every change of a router: what it has to say, to send and to wait for.
    fn drain(&mut self, node: usize, way: Option<Way>) {
        while let Some(event) = self.nodes[node].router.as_mut().and_then(Router::poll_event) {
            self.on_event(node, event, way.as_ref());
        }
        while let Some(link) = self.nodes[node].router.as_mut().and_then(Router::poll_link) {
            let (edge, end) = self.links[link.0 as usize];
            let current = self.edges[edge as usize].connection.as_ref();
            if current.is_some_and(|connection| connection.links[usize::from(end)] == link) {
                self.pump(edge, end);
            } else {
                self.discard(node, link);
            }
        }
        self.plan_wake(node);
    }

    fn on_event(&mut self, node: usize, event: Event, way: Option<&Way>) {
        match event {
            Event::Received { from, payload, .. } => {
                let (when, way) = (self.now, way.cloned());
                self.happened.push(Happened::Received { at: node, when, from, payload, way });
            }
            Event::LookupDone { id, result } => {
                self.happened.push(Happened::LookupDone { at: node, id, result: result.ok() });
            }
            Event::LinkClose { link, .. } => {
                let (edge, end) = self.links[link.0 as usize];
                let current = self.edges[edge as usize].connection.as_ref();
                if current.is_some_and(|connection| connection.links[usize::from(end)] == link) {
                    self.closed += 1;
                    let exists = self.edges[edge as usize].exists;
                    self.disconnect(edge, Some(node), exists);
                }
            }
            _ => {}
        }
    }

    /// Moves frames from a router's queue into the socket as long as it takes them.
    fn pump(&mut self, edge: u32, end: u8) {
        let now = self.now;
        let entry = &mut self.edges[edge as usize];
        let (node, epoch, shape, exists) =
            (entry.ends[usize::from(end)], entry.epoch, entry.shape, entry.exists);
        let other = entry.ends[usize::from(1 - end)];
        loop {
            let Some(connection) = &mut self.edges[edge as usize].connection else { return };
            let link = connection.links[usize::from(end)];
            let lane = &mut connection.lanes[usize::from(end)];
            if let Some(at) = lane.full_until(&shape, now) {
                if !lane.waiting {
                    lane.waiting = true;
                    self.schedule(at, What::Room { edge, from: end, epoch });
                }
                return;
            }
            let Some(frame) =
                self.nodes[node].router.as_mut().and_then(|router| router.poll_transmit(link, now))
            else {
                return;
            };
            if let Some(malice) = &self.nodes[node].malice {
                let fellow = self.nodes[other].malice.is_some();
                if malice.swallows(&frame, fellow) {
                    continue;
                }
            }
            let fate = lane.send(frame.len(), &shape, now, &mut self.rng);
            if let (Fate::Arrives(at), true) = (fate, exists) {
                self.schedule(at, What::Frame { edge, from: end, epoch, frame });
            }
        }
    }

    /// Frames for a connection that is gone.
    fn discard(&mut self, node: usize, link: LinkId) {
        let now = self.now;
        let Some(router) = &mut self.nodes[node].router else { return };
        while router.poll_transmit(link, now).is_some() {}
    }

    fn plan_wake(&mut self, node: usize) {
        let now = self.now;
        let entry = &mut self.nodes[node];
        let Some(at) = entry.router.as_ref().and_then(Router::poll_timeout) else { return };
        if at > now {
            entry.spins = 0;
        } else {
            entry.spins += 1;
            if entry.spins > SPINS_MAX {
                self.stuck = Some(node);
                return;
            }
        }
        let at = at.max(now);
        if entry.wakes.is_none_or(|planned| at < planned) {
            entry.wakes = Some(at);
            self.schedule(at, What::Wake { node: node as u32 });
        }
    }

    fn schedule(&mut self, at: Instant, what: What) {
        self.order += 1;
        self.due.push(Reverse(Due { at, order: self.order, what }));
    }

    /// Virtual time.
    pub fn now(&self) -> Instant {
        self.now
    }

    /// Number of nodes, those that are down too.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether there are no nodes.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Number of links.
    pub fn edges(&self) -> usize {
        self.edges.len()
    }

    /// The two nodes of a link.
    pub fn ends(&self, edge: usize) -> [usize; 2] {
        self.edges[edge].ends
    }

    /// A node's key.
    pub fn key(&self, node: usize) -> NodeId {
        self.nodes[node].key
    }

    /// The number of a key.
    pub fn node(&self, key: &NodeId) -> Option<usize> {
        self.numbers.get(key).map(|&number| number as usize)
    }

    /// Since when a node has been up.
    pub fn up_since(&self, node: usize) -> Option<Instant> {
        let entry = &self.nodes[node];
        entry.router.is_some().then_some(entry.since)
    }

    /// Makes a node do what an honest one does not.
    pub fn corrupt(&mut self, node: usize, malice: Malice) {
        self.nodes[node].malice = Some(Box::new(malice));
    }

    /// Whether it does only what an honest node does.
    pub fn is_honest(&self, node: usize) -> bool {
        self.nodes[node].malice.is_none()
    }

    /// Changes whenever a node or a link comes or goes.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Links of a node that the network has.
    pub fn degree(&self, node: usize) -> usize {
        self.edges_of[node].iter().filter(|&&edge| self.edges[edge as usize].exists).count()
    }

    /// The links of a node, those that are cut too.
    pub fn edges_of(&self, node: usize) -> &[u32] {
        &self.edges_of[node]
    }

    /// Whether the network has the link now.
    pub fn has_link(&self, edge: usize) -> bool {
        self.edges[edge].exists
    }

    /// A node's router, if it is up.
    pub fn router(&self, node: usize) -> Option<&Router> {
        self.nodes[node].router.as_ref()
    }

    /// All nodes that are up.
    pub fn routers(&self) -> impl Iterator<Item = (usize, &Router)> {
        self.nodes.iter().enumerate().filter_map(|(index, node)| Some((index, node.router.as_ref()?)))
    }

    /// The links between nodes that are up, as a graph of latencies.
    pub fn graph(&self) -> Graph {
        self.graph_of(|node| self.nodes[node].router.is_some())
    }

    /// The links between honest nodes that are up: nobody else need pass anything on.
    pub fn honest_graph(&self) -> Graph {
        self.graph_of(|node| self.nodes[node].router.is_some() && self.nodes[node].malice.is_none())
    }

    fn graph_of(&self, keeps: impl Fn(usize) -> bool) -> Graph {
        let links = self
            .edges
            .iter()
            .filter(|edge| edge.exists && edge.ends.iter().all(|&node| keeps(node)))
            .map(|edge| (edge.ends[0], edge.ends[1], edge.shape.latency));
        Graph::new(self.nodes.len(), links)
    }

    /// The component of every node that is up.
    pub fn components(&self) -> Vec<Option<usize>> {
        self.graph().components(|node| self.nodes[node].router.is_some())
    }

    /// The component of every honest node that is up, ways through others not counted.
    pub fn honest_components(&self) -> Vec<Option<usize>> {
        self.honest_graph()
            .components(|node| self.nodes[node].router.is_some() && self.nodes[node].malice.is_none())
    }

    /// The counters of all nodes that are up, added.
    pub fn stats(&self) -> Vec<Stats> {
        self.routers().map(|(_, router)| router.stats()).collect()
    }

    /// Takes what happened since the last call.
    pub fn take_happened(&mut self) -> Vec<Happened> {
        std::mem::take(&mut self.happened)
    }

    /// How packets fared.
    pub fn traces(&self) -> &Traces {
        &self.traces
    }

    /// The same, to be set and emptied.
    pub fn traces_mut(&mut self) -> &mut Traces {
        &mut self.traces
    }

    /// A node whose router wants to be called over and over without time passing.
    pub fn stuck(&self) -> Option<usize> {
        self.stuck
    }

    /// Events and frames so far.
    pub fn counts(&self) -> (u64, u64) {
        (self.events, self.frames)
    }

    /// Connections that routers gave up.
    pub fn links_closed(&self) -> u64 {
        self.closed
    }

    /// A hash over every frame that arrived, when and on which link.
    pub fn digest(&self) -> String {
        self.hasher.finalize().to_hex()[..32].to_owned()
    }

    /// A latency drawn from a range, by the world's chance.
    pub fn draw(&mut self, from: Duration, to: Duration) -> Duration {
        from + (to - from).mul_f64(unit(&mut self.rng))
    }
}

/// Randomness of one start of one node.
struct SeededEntropy(ChaCha8Rng);

impl SeededEntropy {
    fn new(seed: u64, stream: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed ^ 0x5eed);
        rng.set_stream(stream);
        Self(rng)
    }
}

impl Entropy for SeededEntropy {
    fn fill(&mut self, out: &mut [u8]) {
        self.0.fill_bytes(out);
    }
}
