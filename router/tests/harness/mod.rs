//! A few routers under one hand-moved clock, joined by links with latency and loss. Same seed, same run.
#![allow(dead_code, unreachable_pub)] // each test binary uses its part

use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use router::time::Duration;
use router::{
    Boot, Channel, Command, Config, Entropy, Event, Instant, LinkId, LinkKind, LinkSpec, NodeId, Role,
    RootTimes, Router, SecretKey,
};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

pub struct Seeded(ChaCha12Rng);

impl Seeded {
    pub fn new(rng: ChaCha12Rng) -> Self {
        Self(rng)
    }
}

impl Entropy for Seeded {
    fn fill(&mut self, out: &mut [u8]) {
        self.0.fill_bytes(out);
    }
}

pub struct Net {
    pub now: Instant,
    pub nodes: Vec<Option<Router>>,
    pub ids: Vec<NodeId>,
    pub secrets: Vec<SecretKey>,
    pub events: Vec<Vec<Event>>,
    ends: BTreeMap<(usize, LinkId), End>,
    flying: BinaryHeap<Reverse<Flying>>,
    sent: u64,
    next_link: u64,
    rng: ChaCha12Rng,
    pub config: Config,
    /// Every frame takes up to so much longer than its link's latency, evenly spread.
    pub jitter: Duration,
    /// Sees every frame: (from, to, frame); says whether it is let through.
    pub tap: Tap,
    /// Changes what a node sends, if it gives something: (from, to, frame).
    pub alter: Alter,
}

/// When, which in order, to which node's link, what.
type Flying = (Instant, u64, usize, LinkId, Vec<u8>);
type Alter = Box<dyn FnMut(usize, usize, &[u8]) -> Option<Vec<u8>>>;
type Tap = Box<dyn FnMut(usize, usize, &[u8]) -> bool>;

#[derive(Clone, Copy, Debug)]
struct End {
    node: usize,
    link: LinkId,
    latency: Duration,
    loss: f64,
    kind: LinkKind,
    rate: Option<u64>,
    /// When what was sent has left.
    free: Instant,
    last: Instant,
}

#[derive(Clone, Debug)]
pub struct Wire {
    pub kind: LinkKind,
    pub latency: Duration,
    pub loss: f64,
    /// Bytes a second, if it is slow.
    pub rate: Option<u64>,
}

impl Default for Wire {
    fn default() -> Self {
        Self { kind: LinkKind::Stream, latency: Duration::from_millis(1), loss: 0.0, rate: None }
    }
}

/// What a slow link's driver lets wait behind the router's own queue.
const BUFFER: Duration = Duration::from_millis(4);

/// Not a frame: the link has room again.
const WAKE: &[u8] = &[0];

/// The least time after which TCP sends again.
const RETRANSMIT: Duration = Duration::from_millis(200);

impl Net {
    pub fn new(nodes: usize, seed: u64) -> Self {
        Self::with(nodes, seed, Config::default())
    }

    pub fn with(nodes: usize, seed: u64, config: Config) -> Self {
        let mut net = Self {
            now: Instant::from_micros(1_000_000),
            nodes: Vec::new(),
            ids: Vec::new(),
            secrets: Vec::new(),
            events: Vec::new(),
            ends: BTreeMap::new(),
            flying: BinaryHeap::new(),
            sent: 0,
            next_link: 1,
            rng: ChaCha12Rng::seed_from_u64(seed),
            config,
            jitter: Duration::ZERO,
            tap: Box::new(|_, _, _| true),
            alter: Box::new(|_, _, _| None),
        };
        for _ in 0..nodes {
            net.add();
        }
        net
    }

    pub fn add(&mut self) -> usize {
        let mut seed = [0; 32];
        self.rng.fill_bytes(&mut seed);
        self.add_with(SecretKey::from_seed(seed), 1000)
    }

    pub fn add_with(&mut self, secret: SecretKey, counter: u64) -> usize {
        self.ids.push(secret.id());
        self.secrets.push(secret.clone());
        let router = self.router(secret, counter, RootTimes::default());
        self.nodes.push(Some(router));
        self.events.push(Vec::new());
        self.nodes.len() - 1
    }

    /// The node is gone, its neighbours are told, and it begins anew, without links. If it did not crash, it still knows
    /// its roots.
    pub fn restart(&mut self, node: usize, counter: u64) {
        for other in 0..self.nodes.len() {
            self.cut(node, other);
        }
        let roots = self.nodes[node].as_ref().map(Router::root_times).unwrap_or_default();
        let router = self.router(self.secrets[node].clone(), counter, roots);
        self.nodes[node] = Some(router);
    }

    fn router(&mut self, secret: SecretKey, counter: u64, roots: RootTimes) -> Router {
        let entropy = Seeded(ChaCha12Rng::seed_from_u64(self.rng.next_u64()));
        Router::new(secret, self.config.clone(), Boot { counter, roots }, Box::new(entropy), self.now)
    }

    pub fn node(&mut self, node: usize) -> &mut Router {
        self.nodes[node].as_mut().expect("the node is alive")
    }

    pub fn join(&mut self, a: usize, b: usize) -> (LinkId, LinkId) {
        self.join_by(a, b, &Wire::default())
    }

    pub fn join_by(&mut self, a: usize, b: usize, wire: &Wire) -> (LinkId, LinkId) {
        let dialer = LinkSpec::new(wire.kind, Role::Dialer);
        let acceptor = LinkSpec::new(wire.kind, Role::Acceptor);
        self.join_with(a, dialer, b, acceptor, wire)
    }

    pub fn join_with(
        &mut self,
        a: usize,
        spec_a: LinkSpec,
        b: usize,
        spec_b: LinkSpec,
        wire: &Wire,
    ) -> (LinkId, LinkId) {
        let (link_a, link_b) = (LinkId(self.next_link), LinkId(self.next_link + 1));
        self.next_link += 2;
        let (latency, loss, kind) = (wire.latency, wire.loss, wire.kind);
        let (rate, free, last) = (wire.rate, Instant::ZERO, Instant::ZERO);
        let end = |node, link| End { node, link, latency, loss, kind, rate, free, last };
        self.ends.insert((a, link_a), end(b, link_b));
        self.ends.insert((b, link_b), end(a, link_a));
        let now = self.now;
        self.node(a).handle_link(link_a, spec_a, now);
        self.node(b).handle_link(link_b, spec_b, now);
        self.pump(a);
        self.pump(b);
        (link_a, link_b)
    }

    /// The node is gone without a word: nobody is told.
    pub fn crash(&mut self, node: usize) {
        self.nodes[node] = None;
    }

    /// Both ends are told that the link is gone.
    pub fn cut(&mut self, a: usize, b: usize) {
        let now = self.now;
        let ends: Vec<_> = self
            .ends
            .iter()
            .filter(|((n, _), end)| *n == a && end.node == b || *n == b && end.node == a)
            .map(|(&k, _)| k)
            .collect();
        for (node, link) in ends {
            self.ends.remove(&(node, link));
            if let Some(router) = &mut self.nodes[node] {
                router.handle_link_lost(link, now);
                self.pump(node);
            }
        }
    }

    /// From now on the link swallows everything; nobody is told.
    pub fn silence(&mut self, a: usize, b: usize) {
        for ((node, _), end) in &mut self.ends {
            if *node == a && end.node == b || *node == b && end.node == a {
                end.loss = 2.0;
            }
        }
    }

    /// From now on frames take that long.
    pub fn lengthen(&mut self, a: usize, b: usize, latency: Duration) {
        for ((node, _), end) in &mut self.ends {
            if *node == a && end.node == b || *node == b && end.node == a {
                end.latency = latency;
            }
        }
    }

    pub fn command(&mut self, node: usize, command: Command) {
        let now = self.now;
        self.node(node).handle_command(command, now);
        self.pump(node);
    }

    pub fn send(&mut self, from: usize, to: usize, payload: &[u8]) {
        let to = self.ids[to];
        let payload = bytes::Bytes::copy_from_slice(payload);
        self.command(from, Command::Send { to, channel: Channel::Stream, payload });
    }

    /// Hands a frame to a node as if the other end of the link had sent it.
    pub fn inject(&mut self, node: usize, link: LinkId, frame: &[u8]) {
        let now = self.now;
        self.node(node).handle_frame(link, frame, now);
        self.pump(node);
    }

    fn pump(&mut self, node: usize) {
        let now = self.now;
        let Some(router) = &mut self.nodes[node] else { return };
        while let Some(event) = router.poll_event() {
            if let Event::LinkClose { link, .. } = &event
                && let Some(end) = self.ends.remove(&(node, *link))
            {
                // The other side of a closed connection hears of it after the latency; an empty frame tells so.
                self.sent += 1;
                self.flying.push(Reverse((now + end.latency, self.sent, end.node, end.link, Vec::new())));
            }
            self.events[node].push(event);
        }
        while let Some(link) = self.nodes[node].as_mut().and_then(Router::poll_link) {
            self.drain(node, link);
        }
    }

    /// Sends what waits for a link, as far as it takes it.
    fn drain(&mut self, node: usize, link: LinkId) {
        let now = self.now;
        let Some(router) = &mut self.nodes[node] else { return };
        loop {
            if let Some(end) = self.ends.get(&(node, link))
                && end.free > now + BUFFER
            {
                let wake = (end.free - BUFFER, self.sent + 1, node, link, WAKE.to_vec());
                self.sent += 1;
                self.flying.push(Reverse(wake));
                return;
            }
            let Some(frame) = router.poll_transmit(link, now) else { return };
            let Some(end) = self.ends.get_mut(&(node, link)) else { continue };
            let unlucky = end.loss > 0.0 && f64::from(self.rng.next_u32()) / f64::from(u32::MAX) < end.loss;
            let mut at = now + end.latency;
            if let Some(rate) = end.rate {
                let micros = (frame.len() as u64 + 80) * 1_000_000 / rate;
                end.free = end.free.max(now) + Duration::from_micros(micros);
                at = end.free + end.latency;
            }
            if !self.jitter.is_zero() {
                at += self.jitter.mul_f64(f64::from(self.rng.next_u32()) / f64::from(u32::MAX));
            }
            if end.kind == LinkKind::Stream && end.loss < 1.0 {
                // It is sent again, and what comes behind it waits.
                at = (at + if unlucky { RETRANSMIT } else { Duration::ZERO }).max(end.last);
                end.last = at;
            } else if unlucky {
                continue;
            }
            if (self.tap)(node, end.node, &frame) {
                self.sent += 1;
                let frame = (self.alter)(node, end.node, &frame).unwrap_or_else(|| frame.to_vec());
                self.flying.push(Reverse((at, self.sent, end.node, end.link, frame)));
            }
        }
    }

    /// The next thing happens, if it does so before `until`.
    fn step(&mut self, until: Instant) -> bool {
        let timer = self
            .nodes
            .iter()
            .enumerate()
            .filter_map(|(n, node)| Some((node.as_ref()?.poll_timeout()?, n)))
            .min();
        let frame = self.flying.peek().map(|Reverse((at, ..))| *at);
        match (frame, timer) {
            (Some(at), timer) if at <= until && timer.is_none_or(|(timer, _)| at <= timer) => {
                let Reverse((at, _, node, link, frame)) = self.flying.pop().unwrap();
                self.now = self.now.max(at);
                let now = self.now;
                if frame == WAKE {
                    self.drain(node, link);
                } else if let Some(router) = &mut self.nodes[node] {
                    if frame.is_empty() {
                        self.ends.remove(&(node, link));
                        router.handle_link_lost(link, now);
                    } else {
                        router.handle_frame(link, &frame, now);
                    }
                    self.pump(node);
                }
                true
            }
            (_, Some((at, node))) if at <= until => {
                self.now = self.now.max(at);
                let now = self.now;
                self.node(node).handle_timeout(now);
                self.pump(node);
                true
            }
            _ => false,
        }
    }

    pub fn run(&mut self, time: Duration) {
        let until = self.now + time;
        let mut steps = 0;
        while self.step(until) {
            steps += 1;
            assert!(steps < 5_000_000, "the net does not come to rest");
        }
        self.now = until;
    }

    /// Runs until the condition holds; says how long that took.
    pub fn run_until(
        &mut self,
        within: Duration,
        mut done: impl FnMut(&mut Self) -> bool,
    ) -> Option<Duration> {
        let start = self.now;
        let until = start + within;
        loop {
            if done(self) {
                return Some(self.now - start);
            }
            let now = self.now;
            if !self.step(until) {
                self.now = until;
                return done(self).then(|| until - start);
            }
            // Everything of one instant first.
            let mut steps = 0;
            while self.now == now && self.step(now) {
                steps += 1;
                assert!(steps < 100_000, "a deadline does not move");
            }
        }
    }

    pub fn received(&self, node: usize) -> Vec<(NodeId, Vec<u8>)> {
        let packet = |event: &Event| match event {
            Event::Received { from, payload, .. } => Some((*from, payload.to_vec())),
            _ => None,
        };
        self.events[node].iter().filter_map(packet).collect()
    }

    pub fn alive(&self) -> Vec<usize> {
        (0..self.nodes.len()).filter(|&n| self.nodes[n].is_some()).collect()
    }

    /// Do all that are alive agree on the root of every tree?
    pub fn one_root(&self) -> bool {
        let roots = |n: &usize| -> Vec<NodeId> {
            self.nodes[*n].as_ref().unwrap().trees().iter().map(|tree| tree.root).collect()
        };
        let alive = self.alive();
        let first = roots(&alive[0]);
        alive.iter().all(|n| {
            roots(n) == first && first.iter().all(|root| alive.iter().any(|&n| self.ids[n] == *root))
        })
    }

    /// Every node sends one packet to `each` others, spread over the net; gives those that did not arrive in time.
    pub fn talk(&mut self, each: usize, within: Duration) -> Vec<(usize, usize)> {
        let alive = self.alive();
        for events in &mut self.events {
            events.clear();
        }
        let each = each.min(alive.len() - 1);
        let mut pairs = Vec::new();
        for (i, &a) in alive.iter().enumerate() {
            for k in 0..each {
                let b = alive[(i + 1 + k * (alive.len() - 1) / each) % alive.len()];
                pairs.push((a, b));
                self.send(a, b, format!("{a} to {b}").as_bytes());
            }
        }
        self.run_until(within, |net| {
            let got: usize = alive.iter().map(|&n| net.received(n).len()).sum();
            got >= pairs.len()
        });
        let mut got = BTreeSet::new();
        for &b in &alive {
            got.extend(self.received(b).into_iter().map(|(from, text)| (b, from, text)));
        }
        pairs.retain(|&(a, b)| !got.contains(&(b, self.ids[a], format!("{a} to {b}").into_bytes())));
        pairs
    }

    /// Every ordered pair sends one packet; gives those that did not arrive within the time.
    pub fn all_pairs(&mut self, within: Duration) -> Vec<(usize, usize)> {
        self.talk(usize::MAX, within)
    }
}

pub fn line(net: &mut Net) {
    for n in 1..net.nodes.len() {
        net.join(n - 1, n);
    }
}

pub fn ring(net: &mut Net) {
    line(net);
    net.join(net.nodes.len() - 1, 0);
}

pub fn grid(net: &mut Net, width: usize) {
    for n in 0..net.nodes.len() {
        if n % width != 0 {
            net.join(n - 1, n);
        }
        if n >= width {
            net.join(n - width, n);
        }
    }
}
