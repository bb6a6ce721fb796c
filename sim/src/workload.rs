//! Who sends to whom: probes between random pairs, followed until they arrive or are given up.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use rand_chacha::ChaCha8Rng;
use router::{Channel, Command, Instant, NodeId, Target};

use crate::{
    link::below,
    topology::Graph,
    world::{Happened, World},
};

/// Probes and lookups under way and done.
#[derive(Debug, Default)]
pub struct Workload {
    probes: BTreeMap<u64, Probe>,
    lookups: BTreeMap<u64, Lookup>,
    next: u64,
}

#[derive(Debug)]
struct Probe {
    from: usize,
    to: usize,
    keys: [NodeId; 2],
    sent: Instant,
    tries: u32,
    arrived: Option<Arrived>,
}

#[derive(Debug)]
struct Arrived {
    tries: u32,
    way: Option<Duration>,
}

#[derive(Debug)]
struct Lookup {
    key: NodeId,
    found: Option<bool>,
}

/// How a batch of probes fared.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// Probes sent.
    pub sent: usize,
    /// Those that arrived without being sent again.
    pub first_try: usize,
    /// Those that arrived at all.
    pub arrived: usize,
    /// Latency of the way taken over the least possible, of each.
    pub stretch: Vec<f64>,
    /// Who did not hear from whom.
    pub missing: Vec<(usize, usize)>,
    /// Lookups that ended, and those that named the right key.
    pub lookups: (usize, usize),
}

/// A probe that has not arrived is sent again after this long: the user's patience, not the router's.
pub const RETRY: Duration = Duration::from_secs(3);
/// Times a probe is sent.
pub const TRIES: u32 = 4;

impl Workload {
    /// Numbers its probes from there on, so that two workloads do not take one's probes for the other's.
    pub fn starting_at(next: u64) -> Self {
        Self { next, ..Self::default() }
    }

    /// Sends a probe between two random nodes that are up and, as far as the graph goes, connected.
    pub fn probe(&mut self, world: &mut World, components: &[Option<usize>], rng: &mut ChaCha8Rng) {
        let Some((from, to)) = pair(components, rng) else { return };
        let id = self.next;
        self.next += 1;
        let keys = [world.key(from), world.key(to)];
        self.probes.insert(id, Probe { from, to, keys, sent: world.now(), tries: 1, arrived: None });
        world.command(from, send(id, keys[1]));
    }

    /// Looks a random node up from another one.
    pub fn lookup(&mut self, world: &mut World, components: &[Option<usize>], rng: &mut ChaCha8Rng) {
        let Some((from, to)) = pair(components, rng) else { return };
        let id = self.next;
        self.next += 1;
        let key = world.key(to);
        self.lookups.insert(id, Lookup { key, found: None });
        // By address: nothing but the network knows the answer.
        world.command(from, Command::Lookup { id, target: Target::Address(key.address()) });
    }

    /// Takes what happened in the world.
    pub fn handle(&mut self, happened: &Happened) {
        match happened {
            Happened::Received { at, from, payload, way } => self.on_received(*at, *from, payload, *way),
            Happened::LookupDone { id, result, .. } => {
                if let Some(lookup) = self.lookups.get_mut(id) {
                    lookup.found = Some(*result == Some(lookup.key));
                }
            }
        }
    }

    /// Sends again what is late.
    pub fn resend(&mut self, world: &mut World) {
        let now = world.now();
        for (&id, probe) in &mut self.probes {
            if probe.arrived.is_none() && probe.tries < TRIES && now.since(probe.sent) >= RETRY * probe.tries
            {
                probe.tries += 1;
                world.command(probe.from, send(id, probe.keys[1]));
            }
        }
    }

    fn on_received(&mut self, at: usize, from: NodeId, payload: &[u8], way: Option<Duration>) {
        let Some(id) = payload.first_chunk::<8>().map(|id| u64::from_be_bytes(*id)) else { return };
        let Some(probe) = self.probes.get_mut(&id) else { return };
        // Under a wrong name it counts as not delivered.
        if probe.to == at && probe.keys[0] == from && probe.arrived.is_none() {
            probe.arrived = Some(Arrived { tries: probe.tries, way });
        }
    }

    /// How all probes so far fared. Those sent less than their patience ago should not be among them.
    pub fn outcome(&self, graph: &Graph) -> Outcome {
        let mut distances = BTreeMap::new();
        let mut outcome = Outcome { sent: self.probes.len(), ..Outcome::default() };
        for probe in self.probes.values() {
            match &probe.arrived {
                Some(arrived) => {
                    outcome.arrived += 1;
                    outcome.first_try += usize::from(arrived.tries == 1);
                    let least =
                        distances.entry(probe.from).or_insert_with(|| graph.distances(probe.from))[probe.to];
                    if let (Some(way), Some(least)) = (arrived.way, least.filter(|least| !least.is_zero())) {
                        outcome.stretch.push(way.as_secs_f64() / least.as_secs_f64());
                    }
                }
                None => outcome.missing.push((probe.from, probe.to)),
            }
        }
        outcome.stretch.sort_by(f64::total_cmp);
        for lookup in self.lookups.values() {
            outcome.lookups.0 += 1;
            outcome.lookups.1 += usize::from(lookup.found == Some(true));
        }
        outcome
    }

    /// Whether nothing is under way any more.
    pub fn is_settled(&self) -> bool {
        self.probes.values().all(|probe| probe.arrived.is_some())
            && self.lookups.values().all(|lookup| lookup.found.is_some())
    }
}

fn send(id: u64, to: NodeId) -> Command {
    let mut payload = [0; PROBE_BYTES];
    payload[..8].copy_from_slice(&id.to_be_bytes());
    Command::Send { to, channel: Channel::Stream, payload: Bytes::copy_from_slice(&payload) }
}

const PROBE_BYTES: usize = 64;

fn pair(components: &[Option<usize>], rng: &mut ChaCha8Rng) -> Option<(usize, usize)> {
    // A few draws find a pair in any network worth probing.
    for _ in 0..64 {
        let (from, to) = (below(rng, components.len()), below(rng, components.len()));
        if from != to && components[from].is_some() && components[from] == components[to] {
            return Some((from, to));
        }
    }
    None
}
