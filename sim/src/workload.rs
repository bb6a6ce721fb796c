//! Who sends to whom: single packets between strangers, flows between acquaintances, rooms and bulk transfers. Every packet
//! is followed until it arrives or its sender's patience ends.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap, VecDeque},
    time::Duration,
};

use bytes::Bytes;
use rand_chacha::ChaCha8Rng;
use router::{Channel, Command, Instant, NodeId, Target};
use serde::Deserialize;

use crate::{
    link::below,
    topology::Graph,
    trace::Way,
    world::{Happened, World},
};

/// Traffic that goes on for as long as the run wants traffic.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Load {
    /// Who sends to whom.
    pub kind: LoadKind,
    /// Pairs, rooms or transfers.
    pub count: usize,
    /// Nodes of a room.
    #[serde(default = "members")]
    pub members: usize,
    /// Between two packets of a flow, in ms.
    #[serde(default = "every_ms")]
    pub every_ms: f64,
    /// Bytes of a packet.
    #[serde(default = "bytes")]
    pub bytes: usize,
}

const fn members() -> usize {
    5
}

const fn every_ms() -> f64 {
    1000.0
}

const fn bytes() -> usize {
    PROBE_BYTES
}

/// Kinds of traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LoadKind {
    /// Random pairs.
    Pairs,
    /// Random nodes, each of a room sends to each other one.
    Rooms,
    /// Random pairs with large packets.
    Bulk,
}

/// One after the other between the same two.
#[derive(Debug)]
struct Flow {
    from: usize,
    to: usize,
    every: Duration,
    bytes: usize,
    group: u8,
}

/// One packet of an application, all its tries.
#[derive(Debug)]
struct Flight {
    flow: u32,
    from: u32,
    to: u32,
    sent: Instant,
    tries: u8,
    /// In which try it arrived, and the tries that arrived as bits.
    arrived: Option<u8>,
    copies: u8,
    /// Between these no way led when it was sent, or one of them was not there: nothing can be said.
    void: bool,
}

/// What a second brought.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Bin {
    /// Packets sent in that second, whose fate is known.
    pub sent: u32,
    /// Of these, arrived with the first, the second, the third try, all counted up.
    pub within: [u32; TRIES as usize],
}

impl Bin {
    fn add(&mut self, arrived: Option<u8>) {
        self.sent += 1;
        for (tries, within) in self.within.iter_mut().enumerate() {
            *within += u32::from(arrived.is_some_and(|try_| usize::from(try_) <= tries + 1));
        }
    }

    /// Both together.
    #[must_use]
    pub fn plus(mut self, other: Self) -> Self {
        self.sent += other.sent;
        self.within.iter_mut().zip(other.within).for_each(|(a, b)| *a += b);
        self
    }

    /// Share that arrived within so many tries.
    pub fn share(&self, tries: usize) -> Option<f64> {
        (self.sent > 0).then(|| f64::from(self.within[tries - 1]) / f64::from(self.sent))
    }
}

#[derive(Debug)]
struct Lookup {
    key: NodeId,
    from: usize,
    found: Option<bool>,
}

/// A way that a packet took, to be compared with the shortest.
#[derive(Debug, Clone, Copy)]
pub struct Taken {
    /// Who sent it.
    pub from: u32,
    /// Who got it.
    pub to: u32,
    /// Of the links on the way.
    pub latency: Duration,
    /// From command to event.
    pub delay: Duration,
    /// It went by a source route.
    pub listed: bool,
}

/// All traffic of a run.
#[derive(Debug, Default)]
pub struct Workload {
    flows: Vec<Flow>,
    /// Flows whose next packet is due.
    due: BinaryHeap<Reverse<(Instant, u32)>>,
    flights: VecDeque<Flight>,
    /// The number of the first of `flights`.
    first: u64,
    /// Flights to look at when their patience ends, in order of time.
    late: VecDeque<(Instant, u64)>,
    lookups: BTreeMap<u64, Lookup>,
    /// By second and group: packets between strangers (0), and of flows (1, and 2 for those within a part that was cut off).
    pub bins: BTreeMap<(u64, u8), Bin>,
    /// Ways taken, up to a bound.
    pub taken: Vec<Taken>,
    /// Who did not hear from whom, the first few.
    pub missing: Vec<(usize, usize)>,
    /// Packets that never arrived though a way led there.
    pub lost: u64,
    /// By flow: the way of its latest packet.
    carried: BTreeMap<u32, Vec<u32>>,
    /// Ways of flows are counted into `busiest`.
    pub watch_load: bool,
    wrong: Option<String>,
}

/// A packet between strangers.
pub const STRANGERS: u8 = 0;
/// A packet of a flow.
pub const FLOWS: u8 = 1;
/// A packet of a flow within the part that was cut off.
pub const ISLAND: u8 = 2;
/// What has not arrived is sent again after this long: the user's patience, not the router's.
pub const PATIENCE: Duration = Duration::from_secs(3);
/// Times a packet is sent.
pub const TRIES: u8 = 3;
/// Ways kept for the comparison with the shortest ones.
const TAKEN_MAX: usize = 60_000;
/// Of what did not arrive, so many are named.
const MISSING_SHOWN: usize = 8;
const PROBE_BYTES: usize = 64;
/// The number of a lookup has this bit.
const LOOKUP: u64 = 1 << 62;
/// Of flows that began less than this ago the ways are not yet what they will be.
const WARM: Duration = Duration::from_secs(10);

/// Who may talk: the components of honest nodes, and which of them lie in the part that was cut off.
pub struct Map<'a> {
    /// By node.
    pub components: &'a [Option<usize>],
    /// The nodes of the part, if there is one.
    pub island: Option<std::ops::Range<usize>>,
}

impl Map<'_> {
    fn connected(&self, from: usize, to: usize) -> bool {
        self.components[from].is_some() && self.components[from] == self.components[to]
    }

    /// Two random nodes between which a way leads.
    fn pair(&self, rng: &mut ChaCha8Rng) -> Option<(usize, usize)> {
        // A few draws find a pair in any network worth probing.
        for _ in 0..256 {
            let (from, to) = (below(rng, self.components.len()), below(rng, self.components.len()));
            if from != to && self.connected(from, to) {
                return Some((from, to));
            }
        }
        None
    }
}

impl Workload {
    /// Starts a load: its flows begin evenly within one interval.
    pub fn add(&mut self, load: &Load, map: &Map<'_>, now: Instant, rng: &mut ChaCha8Rng) {
        let every = Duration::from_secs_f64(load.every_ms.max(1.0) / 1000.0);
        let mut pairs = Vec::new();
        for number in 0..load.count {
            match load.kind {
                LoadKind::Pairs | LoadKind::Bulk => {
                    // Half of the pairs lie within the part that is cut off: their delivery is asked for on its own.
                    let island = map.island.clone().filter(|_| number % 2 == 0);
                    let pair = match island {
                        Some(island) => {
                            let len = island.len();
                            let (a, b) = (island.start + below(rng, len), island.start + below(rng, len));
                            (a != b).then_some((a, b))
                        }
                        None => map.pair(rng),
                    };
                    pairs.extend(pair);
                }
                LoadKind::Rooms => {
                    let mut members: Vec<usize> = Vec::new();
                    if let Some((a, b)) = map.pair(rng) {
                        members.extend([a, b]);
                    }
                    for _ in 0..load.members * 16 {
                        if members.len() >= load.members.max(2) {
                            break;
                        }
                        let Some((next, _)) = map.pair(rng) else { break };
                        if map.connected(members[0], next) && !members.contains(&next) {
                            members.push(next);
                        }
                    }
                    for &from in &members {
                        pairs.extend(members.iter().filter(|&&to| to != from).map(|&to| (from, to)));
                    }
                }
            }
        }
        for (number, &(from, to)) in pairs.iter().enumerate() {
            let inside = |node| map.island.as_ref().is_some_and(|island| island.contains(&node));
            let group = if inside(from) && inside(to) { ISLAND } else { FLOWS };
            let begins = now + every.mul_f64(number as f64 / pairs.len() as f64);
            self.due.push(Reverse((begins, self.flows.len() as u32)));
            self.flows.push(Flow { from, to, every, bytes: load.bytes.max(MIN_BYTES), group });
        }
    }

    /// Ends all loads.
    pub fn stop(&mut self) {
        self.due.clear();
    }

    /// Sends again what is late by now, and sees to it that flows send what is due until then.
    pub fn handle(&mut self, world: &mut World, map: &Map<'_>, until: Instant) {
        let now = world.now();
        while let Some(&(_, id)) = self.late.front().filter(|(at, _)| *at <= now) {
            self.late.pop_front();
            self.on_late(world, map, id);
        }
        while let Some((at, flow)) = self.due.peek().map(|Reverse(due)| *due).filter(|(at, _)| *at <= until) {
            self.due.pop();
            let Flow { from, to, every, bytes, .. } = self.flows[flow as usize];
            self.due.push(Reverse((at + every, flow)));
            self.launch(world, map, flow, (from, to), bytes, at);
        }
    }

    /// Sends a packet between two random nodes that are up and connected.
    pub fn probe(&mut self, world: &mut World, map: &Map<'_>, rng: &mut ChaCha8Rng) {
        if let Some((from, to)) = map.pair(rng) {
            let now = world.now();
            self.launch(world, map, u32::MAX, (from, to), PROBE_BYTES, now);
        }
    }

    /// Looks a random node up from another one.
    pub fn lookup(&mut self, world: &mut World, map: &Map<'_>, rng: &mut ChaCha8Rng) {
        let Some((from, to)) = map.pair(rng) else { return };
        let id = LOOKUP | self.lookups.len() as u64;
        let key = world.key(to);
        self.lookups.insert(id, Lookup { key, from, found: None });
        // By address: nothing but the network knows the answer.
        world.command(from, Command::Lookup { id, target: Target::Address(key.address()) });
    }

    fn launch(
        &mut self,
        world: &mut World,
        map: &Map<'_>,
        flow: u32,
        (from, to): (usize, usize),
        bytes: usize,
        at: Instant,
    ) {
        let id = self.first + self.flights.len() as u64;
        let void = !map.connected(from, to);
        self.flights.push_back(Flight {
            flow,
            from: from as u32,
            to: to as u32,
            sent: at,
            tries: 1,
            arrived: None,
            copies: 0,
            void,
        });
        self.late.push_back((at + PATIENCE, id));
        if !void {
            world.command_at(at, from, send(id, 1, world.key(to), bytes));
        }
    }

    fn on_late(&mut self, world: &mut World, map: &Map<'_>, id: u64) {
        let bytes =
            |flows: &[Flow], flow: u32| flows.get(flow as usize).map_or(PROBE_BYTES, |flow| flow.bytes);
        let Some(flight) = id.checked_sub(self.first).and_then(|at| self.flights.get_mut(at as usize)) else {
            return;
        };
        let (from, to) = (flight.from as usize, flight.to as usize);
        // Somebody left, or no way led: that is not the router's fault.
        let there = |node| world.up_since(node).is_some_and(|since| since <= flight.sent);
        flight.void |= !there(from) || !there(to) || !map.connected(from, to);
        if flight.arrived.is_none() && flight.tries < TRIES && !flight.void {
            flight.tries += 1;
            let (tries, bytes) = (flight.tries, bytes(&self.flows, flight.flow));
            self.late.push_back((world.now() + PATIENCE, id));
            world.command(from, send(id, tries, world.key(to), bytes));
        } else {
            self.finish(id);
        }
    }

    /// Its fate is known.
    fn finish(&mut self, id: u64) {
        let flight = &mut self.flights[(id - self.first) as usize];
        let second = flight.sent.as_micros() / 1_000_000;
        let group = self.flows.get(flight.flow as usize).map_or(STRANGERS, |flow| flow.group);
        if !flight.void {
            self.bins.entry((second, group)).or_default().add(flight.arrived);
            if flight.arrived.is_none() {
                self.lost += 1;
                if self.missing.len() < MISSING_SHOWN {
                    self.missing.push((flight.from as usize, flight.to as usize));
                }
            }
        }
        flight.tries = DONE;
        while self.flights.front().is_some_and(|flight| flight.tries == DONE) {
            self.flights.pop_front();
            self.first += 1;
        }
    }

    /// Takes what happened in the world.
    pub fn on_happened(&mut self, happened: &Happened, world: &World) {
        match happened {
            Happened::Received { at, when, from, payload, way } => {
                self.on_received(*at, *when, from, payload, way.as_ref(), world);
            }
            Happened::LookupDone { id, result, .. } => {
                if let Some(lookup) = self.lookups.get_mut(id) {
                    lookup.found = Some(*result == Some(lookup.key));
                }
            }
        }
    }

    fn on_received(
        &mut self,
        at: usize,
        when: Instant,
        from: &NodeId,
        payload: &[u8],
        way: Option<&Way>,
        world: &World,
    ) {
        let Some(id) = payload.first_chunk::<8>().map(|id| u64::from_be_bytes(*id)) else { return };
        let Some(&number) = payload.get(8) else { return };
        let Some(flight) = id.checked_sub(self.first).and_then(|at| self.flights.get_mut(at as usize)) else {
            return;
        };
        let (sender, to) = (flight.from as usize, flight.to as usize);
        if to != at || world.key(sender) != *from {
            self.wrong.get_or_insert_with(|| {
                format!("a packet from {sender} to {to} came to {at}, as from {from:?}")
            });
            return;
        }
        let copy = 1 << number.min(7);
        if flight.copies & copy != 0 {
            self.wrong.get_or_insert_with(|| format!("a packet from {sender} to {to} came twice"));
        }
        flight.copies |= copy;
        flight.arrived.get_or_insert(number);
        let Some(way) = way else { return };
        let warm = flight.flow == u32::MAX || flight.sent.since(Instant::ZERO) > WARM;
        if number == 1 && warm && self.taken.len() < TAKEN_MAX {
            self.taken.push(Taken {
                from: flight.from,
                to: flight.to,
                latency: way.latency,
                delay: when.since(flight.sent),
                listed: way.listed,
            });
        }
        if self.watch_load && flight.flow != u32::MAX {
            self.carried.insert(flight.flow, way.nodes.clone());
        }
    }

    /// The node that passes most flows on by their latest ways, and its share of them.
    pub fn busiest(&self) -> Option<(u32, f64)> {
        busiest(self.carried.values().map(Vec::as_slice))
    }

    /// The same if each flow took the way of the least latency: what there is to be spread.
    pub fn busiest_by_shortest(&self, graph: &Graph) -> Option<f64> {
        let ends = self.carried.values().filter_map(|way| Some((*way.first()?, *way.last()?)));
        let ways: Vec<Vec<u32>> = ends.filter_map(|(from, to)| graph.shortest(from, to)).collect();
        Some(busiest(ways.iter().map(Vec::as_slice))?.1)
    }

    /// Something that must never happen, if it did.
    pub fn wrong(&self) -> Option<&str> {
        self.wrong.as_deref()
    }

    /// Lookups that ended or should have, and those that named the right key.
    pub fn lookups(&self, world: &World) -> (usize, usize) {
        let counted = self.lookups.values().filter(|lookup| world.router(lookup.from).is_some());
        counted.fold((0, 0), |(all, good), lookup| (all + 1, good + usize::from(lookup.found == Some(true))))
    }

    /// All bins of these groups in these seconds together.
    pub fn sum(&self, groups: &[u8], from: u64, until: u64) -> Bin {
        let bins =
            self.bins.range((from, 0)..(until.max(from), 0)).filter(|((_, group), _)| groups.contains(group));
        bins.fold(Bin::default(), |sum, (_, bin)| sum.plus(*bin))
    }

    /// Whether nothing is under way any more.
    pub fn is_settled(&self) -> bool {
        self.flights.is_empty() && self.lookups.values().all(|lookup| lookup.found.is_some())
    }
}

/// The node that most of these ways lead over, their ends left out, and its share of them.
fn busiest<'a>(ways: impl Iterator<Item = &'a [u32]>) -> Option<(u32, f64)> {
    let (mut passing, mut count) = (BTreeMap::<u32, u32>::new(), 0);
    for way in ways {
        count += 1;
        for &node in way.get(1..way.len().saturating_sub(1)).unwrap_or_default() {
            *passing.entry(node).or_default() += 1;
        }
    }
    let (&node, &flows) = passing.iter().max_by_key(|&(_, flows)| flows)?;
    Some((node, f64::from(flows) / f64::from(count.max(1))))
}

/// Latencies of ways over the least possible, sorted: `(from, to, latency)` in, at most so many looked at.
pub fn stretches(graph: &Graph, ways: impl Iterator<Item = (u32, u32, Duration)>, most: usize) -> Vec<f64> {
    let mut ways: Vec<_> = ways.collect();
    // Evenly over the run.
    if ways.len() > most {
        let step = ways.len().div_ceil(most);
        ways = ways.into_iter().step_by(step).collect();
    }
    ways.sort_unstable();
    let mut stretches = Vec::with_capacity(ways.len());
    let (mut last, mut distances) = (u32::MAX, Vec::new());
    for (from, to, latency) in ways {
        if from != last {
            (last, distances) = (from, graph.distances(from as usize));
        }
        if let Some(least) = distances[to as usize].filter(|least| !least.is_zero()) {
            stretches.push(latency.as_secs_f64() / least.as_secs_f64());
        }
    }
    stretches.sort_by(f64::total_cmp);
    stretches
}

/// Mark of a flight whose fate is known.
const DONE: u8 = u8::MAX;
/// Number and try.
const MIN_BYTES: usize = 9;

fn send(id: u64, tries: u8, to: NodeId, bytes: usize) -> Command {
    let mut payload = vec![0; bytes];
    payload[..8].copy_from_slice(&id.to_be_bytes());
    payload[8] = tries;
    Command::Send { to, channel: Channel::Stream, payload: Bytes::from(payload) }
}
