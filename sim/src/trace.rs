//! Follows packets from node to node by their sealed bodies, which no hop changes: how long their ways are, and
//! whether one comes back to where it has been.

use std::{collections::HashMap, time::Duration};

use router::{
    Instant,
    wire::{DataS, DataT, kind},
};

/// A packet's way so far.
#[derive(Debug, Clone)]
pub struct Way {
    /// Nodes it was at, the first of them who sent it.
    pub nodes: Vec<u32>,
    /// The sum of the links' latencies.
    pub latency: Duration,
    /// When it was seen first.
    since: Instant,
    /// Hops that it had left; more again is a repeat by its sender. 0 where packets do not count them.
    ttl: u8,
}

/// The packets under way.
#[derive(Debug, Default)]
pub struct Traces {
    ways: HashMap<Key, Way>,
    /// Packets that came back to a node they had left.
    pub revisits: u64,
    /// The most often that one packet was at one node.
    pub visits_max: usize,
    /// The longest way.
    pub hops_max: usize,
}

type Key = [u8; 40];

/// A packet is forgotten after this long: the same bytes later are a repeat.
const FORGET: Duration = Duration::from_secs(4);
/// How many packets are followed at once.
const WAYS_MAX: usize = 200_000;

impl Traces {
    /// A frame arrived: returns the way of the packet in it, this hop included.
    pub fn arrived(
        &mut self,
        from: usize,
        to: usize,
        latency: Duration,
        frame: &[u8],
        now: Instant,
    ) -> Option<&Way> {
        let (key, ttl) = key(frame)?;
        if self.ways.len() >= WAYS_MAX {
            self.ways.retain(|_, way| now.since(way.since) < FORGET);
        }
        let (from, to) = (from as u32, to as u32);
        let fresh = || Way { nodes: vec![from], latency: Duration::ZERO, since: now, ttl };
        let way = self.ways.entry(key).or_insert_with(fresh);
        // Its sender sent it again, or it went two ways.
        if way.nodes.last() != Some(&from) || ttl > way.ttl {
            *way = fresh();
        }
        way.ttl = ttl;
        way.nodes.push(to);
        let visits = way.nodes.iter().filter(|&&node| node == to).count();
        self.revisits += u64::from(visits > 1);
        self.visits_max = self.visits_max.max(visits);
        way.latency += latency;
        self.hops_max = self.hops_max.max(way.nodes.len() - 1);
        Some(way)
    }
}

/// What names a packet on all its hops; `None` for frames that are no packet.
fn key(frame: &[u8]) -> Option<(Key, u8)> {
    let frame = match *frame.first()? {
        kind::GUARDED => frame.get(GUARD..)?,
        _ => frame,
    };
    let (index, body, ttl) = match *frame.first()? {
        kind::DATA_T => DataT::decode(frame).ok().map(|packet| (packet.index, packet.body, packet.ttl))?,
        kind::DATA_S => DataS::decode(frame).ok().map(|packet| (packet.index, packet.body, 0))?,
        _ => return None,
    };
    let mut key = [0; 40];
    key[..4].copy_from_slice(&index.to_be_bytes());
    key[4..8].copy_from_slice(&(body.len() as u32).to_be_bytes());
    let head = body.len().min(16);
    key[8..8 + head].copy_from_slice(&body[..head]);
    key[24..24 + head].copy_from_slice(&body[body.len() - head..]);
    Some((key, ttl))
}

/// Bytes before the packet in a guarded frame: kind, counter, MAC.
const GUARD: usize = 1 + 8 + 8;
