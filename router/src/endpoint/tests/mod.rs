//! Goal: what two and more nodes do end to end. Method: endpoints in memory, a clock moved by hand; every node is one
//! hop from every other, and each has a position that packets to it must name.
mod hostile;
mod lookup;
mod sessions;

use super::*;
use crate::id::{Port, Sid};
use crate::lookup::{Coords, Hop};
use crate::session::tests::TestEntropy;
use std::collections::BTreeMap;

pub(crate) struct World {
    pub(crate) now: Instant,
    pub(crate) nodes: Vec<Node>,
    wires: BTreeMap<(Instant, u64), Flight>,
    sequence: u64,
    latency: Duration,
    /// Says whether a packet is lost: (from, to, kind).
    pub(crate) lose: Box<dyn FnMut(usize, usize, u8) -> bool>,
    pub(crate) sent: BTreeMap<u8, usize>,
    /// All packets that were sent, while set.
    pub(crate) tape: Option<Vec<Flight>>,
    /// Changes what a node sends.
    pub(crate) liar: Option<Liar>,
}

pub(crate) type Liar = Box<dyn FnMut(usize, &mut Flight)>;

pub(crate) struct Node {
    pub(crate) secret: SecretKey,
    pub(crate) endpoint: Endpoint,
    pub(crate) entropy: TestEntropy,
    pub(crate) locator: Locator,
    pub(crate) events: Vec<Event>,
    pub(crate) alive: bool,
}

#[derive(Clone)]
pub(crate) struct Flight {
    pub(crate) from: usize,
    pub(crate) to: usize,
    pub(crate) index: u32,
    pub(crate) body: Vec<u8>,
}

pub(crate) fn locator(port: u16) -> Locator {
    locator_of([port; 4])
}

/// One step below the root of each tree, by that port.
pub(crate) fn locator_of(ports: [u16; 4]) -> Locator {
    let coords = [0, 1, 2, 3].map(|tree: usize| {
        let hops = vec![Hop { port: Port(ports[tree]), cost: 3 }];
        Coords { root: Sid::from_bytes([tree as u8; 8]), hops }
    });
    Locator::of(coords.iter().enumerate())
}

fn config() -> Config {
    // Every node is one hop from every other: ways are tested where there are some (router/tests/routes.rs).
    Config {
        verify_account: |record| record.proof.starts_with(b"good"),
        source_routes: false,
        ..Config::default()
    }
}

impl World {
    pub(crate) fn new(count: usize) -> Self {
        let mut world = Self {
            now: Instant::from_micros(1_000_000),
            nodes: Vec::new(),
            wires: BTreeMap::new(),
            sequence: 0,
            latency: Duration::from_millis(10),
            lose: Box::new(|_, _, _| false),
            sent: BTreeMap::new(),
            tape: None,
            liar: None,
        };
        for _ in 0..count {
            world.add();
        }
        world
    }

    pub(crate) fn add(&mut self) -> usize {
        let at = self.nodes.len();
        let mut seed = [0; 32];
        seed[..2].copy_from_slice(&(at as u16 + 1).to_le_bytes());
        let secret = SecretKey::from_seed(seed);
        let mut entropy = TestEntropy::new(at as u64);
        let endpoint = Endpoint::new(secret.clone(), &config(), 1000, &mut entropy, self.now);
        let locator = Locator::default();
        self.nodes.push(Node { secret, endpoint, entropy, locator, events: Vec::new(), alive: true });
        self.place(at, at as u16 + 1);
        at
    }

    pub(crate) fn place(&mut self, at: usize, port: u16) {
        let node = &mut self.nodes[at];
        node.locator = locator(port);
        node.endpoint.handle_coordinates(node.locator.clone(), &mut node.entropy, self.now);
        self.flush(at);
    }

    /// Makes two nodes peers.
    pub(crate) fn peer(&mut self, a: usize, b: usize) {
        for (a, b) in [(a, b), (b, a)] {
            let (id, locator) = (self.id(b), self.nodes[b].locator.clone());
            let node = &mut self.nodes[a];
            node.endpoint.handle_peer(id, locator, &mut node.entropy, self.now);
            self.flush(a);
        }
    }

    pub(crate) fn id(&self, at: usize) -> NodeId {
        self.nodes[at].secret.id()
    }

    pub(crate) fn command(&mut self, at: usize, command: Command) {
        let node = &mut self.nodes[at];
        node.endpoint.handle_command(command, &mut node.entropy, self.now);
        self.flush(at);
    }

    pub(crate) fn send(&mut self, from: usize, to: usize, payload: &[u8]) {
        let to = self.id(to);
        let payload = Bytes::copy_from_slice(payload);
        self.command(from, Command::Send { to, channel: Channel::Stream, payload });
    }

    /// Runs until nothing flies, or until so much time has passed.
    pub(crate) fn run(&mut self, ms: u64) {
        let end = self.now + Duration::from_millis(ms);
        loop {
            let flight = self.wires.first_key_value().map(|((at, _), _)| *at);
            let timer = (0..self.nodes.len())
                .filter(|&at| self.nodes[at].alive)
                .filter_map(|at| Some((self.nodes[at].endpoint.poll_timeout()?, at)))
                .min();
            let next = [flight, timer.map(|(at, _)| at)].into_iter().flatten().min();
            let Some(next) = next.filter(|next| *next <= end) else { break };
            self.now = self.now.max(next);
            if flight == Some(next) {
                let (_, flight) = self.wires.pop_first().unwrap();
                self.arrive(flight);
            } else if let Some((_, at)) = timer {
                let node = &mut self.nodes[at];
                node.endpoint.handle_timeout(&mut node.entropy, self.now);
                self.flush(at);
            }
        }
        self.now = end;
    }

    pub(crate) fn received(&mut self, at: usize) -> Vec<Vec<u8>> {
        let events = std::mem::take(&mut self.nodes[at].events);
        let (received, rest) = events.into_iter().partition(|event| matches!(event, Event::Received { .. }));
        self.nodes[at].events = rest;
        let received: Vec<Event> = received;
        received
            .into_iter()
            .map(|event| match event {
                Event::Received { payload, .. } => payload.to_vec(),
                _ => unreachable!(),
            })
            .collect()
    }

    pub(crate) fn restart(&mut self, at: usize, boot: u64) {
        let now = self.now;
        let node = &mut self.nodes[at];
        node.alive = true;
        node.endpoint = Endpoint::new(node.secret.clone(), &config(), boot, &mut node.entropy, now);
        let locator = node.locator.clone();
        node.endpoint.handle_coordinates(locator, &mut node.entropy, now);
        self.flush(at);
    }

    /// The packets of a kind that were sent from one node to another since the tape began.
    pub(crate) fn taped(&self, from: usize, to: usize, kind: u8) -> Vec<Flight> {
        let of = |flight: &&Flight| flight.from == from && flight.to == to && flight.body[0] == kind;
        self.tape.iter().flatten().filter(of).cloned().collect()
    }

    pub(crate) fn sent(&self, kind: u8) -> usize {
        self.sent.get(&kind).copied().unwrap_or_default()
    }

    pub(crate) fn stats(&self, at: usize) -> EndpointStats {
        self.nodes[at].endpoint.stats()
    }

    pub(crate) fn arrive(&mut self, flight: Flight) {
        let Flight { from, to, index, body } = flight;
        let now = self.now;
        let node = &mut self.nodes[to];
        if !node.alive {
            return;
        }
        let packet = Inbound {
            ingress: Port(from as u16 + 1),
            way: &(from as u16).to_be_bytes(),
            index,
            load: 0,
            list: List::None,
            body: &body,
        };
        let result = node.endpoint.handle_packet(packet, &mut node.entropy, now);
        self.flush(to);
        if result == Err(Refusal::NoSession) {
            self.notice(from, Setback::NoSession, &body);
        }
    }

    fn notice(&mut self, to: usize, setback: Setback, body: &[u8]) {
        let node = &mut self.nodes[to];
        node.endpoint.handle_notice(setback, body::tail(body), &mut node.entropy, self.now);
        self.flush(to);
    }

    fn flush(&mut self, from: usize) {
        while let Some(event) = self.nodes[from].endpoint.poll_event() {
            self.nodes[from].events.push(event);
        }
        while let Some(out) = self.nodes[from].endpoint.poll_packet() {
            let body = out.body.as_slice().to_vec();
            *self.sent.entry(body[0]).or_default() += 1;
            let to = match &out.to {
                Destination::Around { sid, locator, .. } | Destination::Node { sid, locator, .. } => {
                    let to = (0..self.nodes.len()).find(|&at| self.id(at).sid() == *sid);
                    match to {
                        Some(to) if self.nodes[to].locator == *locator => to,
                        _ => {
                            self.notice(from, Setback::Lost, &body);
                            continue;
                        }
                    }
                }
                Destination::Back(way) | Destination::Veiled(way) | Destination::Reply { way, .. } => {
                    usize::from(u16::from_be_bytes(way[..].try_into().unwrap()))
                }
            };
            let mut flight = Flight { from, to, index: out.index, body };
            if let Some(liar) = &mut self.liar {
                liar(from, &mut flight);
            }
            if let Some(tape) = &mut self.tape {
                tape.push(flight.clone());
            }
            if !(self.lose)(from, to, flight.body[0]) {
                let key = (self.now + self.latency, self.sequence);
                self.sequence += 1;
                self.wires.insert(key, flight);
            }
        }
    }
}
