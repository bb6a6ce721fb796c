//! Follows packets from node to node by their sealed bodies, which no hop changes: how long their ways are, who passes
//! them on, and whether one comes back to where it has been.

use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher},
    time::Duration,
};

use router::{
    Instant, Sid,
    wire::{DataS, DataT, body, kind},
};

/// A packet's way so far.
#[derive(Debug, Clone)]
pub struct Way {
    /// Nodes it was at, the first of them who sent it.
    pub nodes: Vec<u32>,
    /// The sum of the links' latencies.
    pub latency: Duration,
    /// It goes by a list of ports rather than by the trees.
    pub listed: bool,
    /// When it was seen first.
    since: Instant,
    /// Hops that it had left; more again is a repeat by its sender. 0 where packets do not count them.
    ttl: u8,
}

/// The first packet between two nodes that came to its end: by the trees, with the coordinates that the lookup gave.
#[derive(Debug, Clone, Copy)]
pub struct First {
    /// Who sent it.
    pub from: u32,
    /// Where it came to.
    pub to: u32,
    /// The sum of the links' latencies.
    pub latency: Duration,
}

/// The packets under way.
#[derive(Debug, Default)]
pub struct Traces {
    ways: HashMap<u64, Way, BuildHasherDefault<Itself>>,
    /// First packets that came to their end, of the whole run but not more than a bound.
    pub firsts: Vec<First>,
    /// Questions of lookups that came to their end, and the hops that they took together.
    pub questions: (u64, u64),
    /// Packets that came back to a node they had left.
    pub revisits: u64,
    /// The most often that one packet was at one node.
    pub visits_max: usize,
    /// The longest way.
    pub hops_max: usize,
    /// Bytes that came over links, by the first byte of the packet's body.
    bytes: [u64; BODIES],
}

/// Kinds of bodies that are told apart, and one for the others.
const BODIES: usize = body::MAP as usize + 2;

/// A packet is forgotten after this long: the same bytes later are a repeat.
const FORGET: Duration = Duration::from_secs(4);
/// How many packets are followed at once.
const WAYS_MAX: usize = 200_000;
/// How many first packets are kept: more make no mean better.
const FIRSTS_MAX: usize = 100_000;

/// A packet as seen on a link.
pub(crate) struct Seen<'a> {
    /// What names it on all its hops.
    pub(crate) key: u64,
    /// The packet's body.
    pub(crate) body: &'a [u8],
    /// Ports left, of a packet that goes by a list.
    pub(crate) ports: Option<&'a [u8]>,
    /// The way back.
    pub(crate) rev: &'a [u8],
    /// The receiver's index.
    pub(crate) index: u32,
    /// The destination, of a packet that goes by the trees.
    pub(crate) dst: Option<Sid>,
    ttl: u8,
    length: u32,
}

impl<'a> Seen<'a> {
    /// `None` for frames that are no packet.
    pub(crate) fn new(frame: &'a [u8]) -> Option<Self> {
        let length = frame.len() as u32;
        let frame = match *frame.first()? {
            kind::GUARDED => frame.get(GUARD..)?,
            _ => frame,
        };
        match *frame.first()? {
            kind::DATA_T => {
                let packet = DataT::decode(frame).ok()?;
                let (DataT { ttl, dst, rev, index, .. }, body) = (packet, packet.bare_body().ok()?);
                let key = name(index, body);
                Some(Self { key, body, ports: None, rev, index, dst: Some(dst), ttl, length })
            }
            kind::DATA_S => {
                let packet = DataS::decode(frame).ok()?;
                let (DataS { ports, rev, index, .. }, body) = (packet, packet.bare_body().ok()?);
                let key = name(index, body);
                Some(Self { key, body, ports: Some(ports), rev, index, dst: None, ttl: 0, length })
            }
            _ => None,
        }
    }
}

/// A packet that came to a node, as far as following it needs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Arrival {
    key: u64,
    from: u32,
    to: u32,
    latency: Duration,
    listed: bool,
    ttl: u8,
    /// It has come to its end.
    ended: bool,
    /// The first byte of its body.
    kind: Option<u8>,
    /// Its length on that link.
    length: u32,
}

impl Arrival {
    /// At the node `to`, whose short name is given, over a link of that latency.
    pub(crate) fn new(seen: &Seen<'_>, from: usize, to: u32, sid: Sid, latency: Duration) -> Self {
        Self {
            key: seen.key,
            from: from as u32,
            to,
            latency,
            listed: seen.ports.is_some(),
            ttl: seen.ttl,
            ended: seen.dst == Some(sid) || seen.ports.is_some_and(<[u8]>::is_empty),
            kind: seen.body.first().copied(),
            length: seen.length,
        }
    }
}

impl Traces {
    /// Bytes of packets that came over links, hop by hop, by what they are for.
    pub fn bytes_by_kind(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let named = |at: usize| match at as u8 {
            body::DATA => "sessions",
            body::INIT | body::INIT_ACK | body::COOKIE | body::HINT => "session handshakes",
            body::FIND | body::FOUND => "lookups",
            body::STORE | body::REFRESH => "records",
            body::MAP_GET | body::MAP => "map",
            _ => "other packets",
        };
        self.bytes.iter().enumerate().map(move |(at, &bytes)| (named(at), bytes))
    }

    /// A packet arrived at a node: returns its way, this hop included, if it has come to its end.
    pub(crate) fn arrived(&mut self, arrival: &Arrival, now: Instant) -> Option<Way> {
        let &Arrival { key, from, to, latency, listed, ttl, ended, kind, length } = arrival;
        self.bytes[kind.map_or(0, usize::from).min(BODIES - 1)] += u64::from(length);
        if self.ways.len() >= WAYS_MAX {
            self.ways.retain(|_, way| now.since(way.since) < FORGET);
        }
        let fresh = || Way { nodes: vec![from], latency: Duration::ZERO, listed, since: now, ttl };
        let way = self.ways.entry(key).or_insert_with(fresh);
        // Its sender sent it again, or it went two ways.
        if way.nodes.last() != Some(&from) || ttl > way.ttl || listed != way.listed {
            *way = fresh();
        }
        way.ttl = ttl;
        way.nodes.push(to);
        let visits = way.nodes.iter().filter(|&&node| node == to).count();
        self.revisits += u64::from(visits > 1);
        self.visits_max = self.visits_max.max(visits);
        way.latency += latency;
        self.hops_max = self.hops_max.max(way.nodes.len() - 1);
        if !ended {
            return None;
        }
        let way = self.ways.remove(&key)?;
        if kind == Some(body::FIND) {
            self.questions.0 += 1;
            self.questions.1 += way.nodes.len() as u64 - 1;
        }
        if !listed && kind == Some(body::INIT) && self.firsts.len() < FIRSTS_MAX {
            self.firsts.push(First { from: way.nodes[0], to, latency: way.latency });
        }
        Some(way)
    }
}

fn name(index: u32, body: &[u8]) -> u64 {
    let head = body.len().min(24);
    let mut hash = u64::from(index) << 32 | body.len() as u64;
    for chunk in body[..head].chunks(8).chain(body[body.len() - head..].chunks(8)) {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        // Bodies are sealed or carry nonces: mixing them is enough.
        hash = (hash.rotate_left(23) ^ u64::from_le_bytes(word)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
    hash ^ hash >> 29
}

/// A name is random enough to be its own hash.
#[derive(Debug, Default)]
pub(crate) struct Itself(u64);

impl Hasher for Itself {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = self.0 << 8 | u64::from(byte);
        }
    }

    fn write_u64(&mut self, name: u64) {
        self.0 = name;
    }
}

/// Bytes before the packet in a guarded frame: kind, counter, MAC.
const GUARD: usize = 1 + 8 + 8;
