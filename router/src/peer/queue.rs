//! Owns a link's egress queue: who waits, who goes next, who is dropped first.
//!
//! Three lanes. `urgent` (handshake, PING, PONG) and `control` go first and are small by construction; packets wait
//! per source (the peer they came from, or this node), sources take turns by bytes (deficit round robin), and a source
//! whose packets wait too long loses some (CoDel, RFC 8289), so that no source can make the others wait.
use crate::id::Port;
use crate::time::{Duration, Instant};
use bytes::Bytes;
use std::collections::{BTreeMap, VecDeque};

/// Frames that wait for one link.
#[derive(Debug)]
pub struct Queue {
    urgent: VecDeque<Waiting>,
    control: VecDeque<Waiting>,
    control_bytes: usize,
    sources: BTreeMap<Port, Source>,
    turns: VecDeque<Port>,
    packet_bytes: usize,
    packet_bytes_max: usize,
    dropped: u64,
}

/// A frame that goes out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Waiting {
    /// As it is: a frame of the handshake.
    Plain(Bytes),
    /// To be sealed: a control frame, kind first.
    Control(Vec<u8>),
    /// A packet.
    Packet(Bytes),
}

#[derive(Debug, Default)]
struct Source {
    packets: VecDeque<(Bytes, Instant)>,
    bytes: usize,
    deficit: usize,
    codel: Codel,
    in_turns: bool,
}

impl Queue {
    /// Empty; packets of at most that many bytes wait.
    pub fn new(packet_bytes_max: usize) -> Self {
        Self {
            urgent: VecDeque::new(),
            control: VecDeque::new(),
            control_bytes: 0,
            sources: BTreeMap::new(),
            turns: VecDeque::new(),
            packet_bytes: 0,
            packet_bytes_max,
            dropped: 0,
        }
    }

    /// Before everything else.
    pub fn push_urgent(&mut self, frame: Waiting) {
        if self.urgent.len() < URGENT_MAX {
            self.urgent.push_back(frame);
        }
    }

    /// Before all packets. Whoever sends many asks [`Self::control_has_room`] before.
    pub fn push_control(&mut self, frame: Vec<u8>) {
        if self.control_bytes + frame.len() <= CONTROL_BYTES_MAX {
            self.control_bytes += frame.len();
            self.control.push_back(Waiting::Control(frame));
        } else {
            self.dropped += 1;
        }
    }

    /// Whether the next announcements may be made, or had better wait until these are gone.
    pub const fn control_has_room(&self) -> bool {
        self.control_bytes < CONTROL_BYTES_MAX / 4
    }

    /// In its source's turn. If too much waits, the longest source loses its oldest.
    pub fn push_packet(&mut self, source: Port, packet: Bytes, now: Instant) {
        let entry = self.sources.entry(source).or_default();
        entry.bytes += packet.len();
        self.packet_bytes += packet.len();
        entry.packets.push_back((packet, now));
        if !entry.in_turns {
            entry.in_turns = true;
            self.turns.push_back(source);
        }
        while self.packet_bytes > self.packet_bytes_max {
            let longest = self.sources.values_mut().max_by_key(|source| source.bytes);
            let Some((packet, _)) = longest.and_then(Source::pop) else { break };
            self.packet_bytes -= packet.len();
            self.dropped += 1;
        }
    }

    /// The next frame. Packets that waited too long are dropped on the way, each once.
    pub fn pop(&mut self, now: Instant) -> Option<Waiting> {
        if let Some(frame) = self.urgent.pop_front() {
            return Some(frame);
        }
        if let Some(frame) = self.control.pop_front() {
            if let Waiting::Control(bytes) = &frame {
                self.control_bytes -= bytes.len();
            }
            return Some(frame);
        }
        while let Some(&port) = self.turns.front() {
            let source = self.sources.get_mut(&port).expect("a source in the turns exists");
            let Some((packet, _)) = source.packets.front() else {
                self.turns.pop_front();
                source.in_turns = false;
                source.deficit = 0;
                if self.sources.len() > IDLE_SOURCES_MAX {
                    self.sources.remove(&port);
                }
                continue;
            };
            if source.deficit < packet.len() {
                source.deficit += QUANTUM;
                self.turns.rotate_left(1);
                continue;
            }
            let (packet, since) = source.pop().expect("its front was just seen");
            self.packet_bytes -= packet.len();
            if source.codel.drops(now - since, source.bytes, now) {
                self.dropped += 1;
                continue;
            }
            source.deficit -= packet.len();
            return Some(Waiting::Packet(packet));
        }
        None
    }

    /// Nothing waits.
    pub fn is_empty(&self) -> bool {
        self.urgent.is_empty() && self.control.is_empty() && self.packet_bytes == 0
    }

    /// Bytes of packets that wait.
    pub const fn packet_bytes(&self) -> usize {
        self.packet_bytes
    }

    /// How full it is, 0..=255.
    pub fn level(&self) -> u8 {
        (self.packet_bytes * 255 / self.packet_bytes_max.max(1)).min(255) as u8
    }

    /// Frames dropped since this was asked last.
    pub const fn take_dropped(&mut self) -> u64 {
        std::mem::replace(&mut self.dropped, 0)
    }
}

impl Source {
    fn pop(&mut self) -> Option<(Bytes, Instant)> {
        let (packet, since) = self.packets.pop_front()?;
        self.bytes -= packet.len();
        if self.packets.is_empty() && self.packets.capacity() > IDLE_CAPACITY_MAX {
            self.packets = VecDeque::new();
        }
        Some((packet, since))
    }
}

/// RFC 8289: drops at a rising rate while the wait stays above the target.
#[derive(Debug, Default)]
struct Codel {
    above_since: Option<Instant>,
    dropping: bool,
    drop_next: Instant,
    count: u32,
}

impl Codel {
    /// A packet that waited for `sojourn` is at the head, `left` bytes of its source are behind it: does it go?
    fn drops(&mut self, sojourn: Duration, left: usize, now: Instant) -> bool {
        if sojourn < CODEL_TARGET || left < CODEL_LEAST_BYTES {
            self.above_since = None;
            self.dropping = false;
            return false;
        }
        let since = *self.above_since.get_or_insert(now);
        if now - since < CODEL_INTERVAL {
            return false;
        }
        if !self.dropping {
            self.dropping = true;
            // Soon after the last bad time, go on at about its rate.
            let recent = now - self.drop_next < 16 * CODEL_INTERVAL;
            self.count = if recent && self.count > 2 { self.count - 2 } else { 1 };
            self.drop_next = now + control_law(self.count);
            return true;
        }
        if now < self.drop_next {
            return false;
        }
        self.count = self.count.saturating_add(1);
        self.drop_next += control_law(self.count);
        true
    }
}

fn control_law(count: u32) -> Duration {
    CODEL_INTERVAL.div_f64(f64::from(count).sqrt())
}

/// PINGs and PONGs are sent one at a time; more than these wait only if the link stands still.
const URGENT_MAX: usize = 64;
/// A whole way to four roots through 250 nodes each, twice over.
const CONTROL_BYTES_MAX: usize = 512 * 1024;
/// A turn's bytes: five full packets of an ordinary path, so that taking turns costs little.
const QUANTUM: usize = 8 * 1024;
/// Sources whose (empty) queues are kept, so that a source that comes back allocates nothing.
const IDLE_SOURCES_MAX: usize = 16;
/// Packets an empty source keeps room for.
const IDLE_CAPACITY_MAX: usize = 64;
/// Acceptable standing wait. RFC 8289 takes 5 ms; a driver that is scheduled late on a busy machine adds its own.
const CODEL_TARGET: Duration = Duration::from_millis(15);
/// A wait above the target for that long is a standing one.
const CODEL_INTERVAL: Duration = Duration::from_millis(100);
/// Less than a full packet behind it: nothing stands.
const CODEL_LEAST_BYTES: usize = 1536;

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(len: usize) -> Bytes {
        Bytes::from(vec![0; len])
    }

    fn at(ms: u64) -> Instant {
        Instant::from_micros(ms * 1000)
    }

    #[test]
    fn control_goes_before_packets() {
        let mut queue = Queue::new(1 << 20);
        queue.push_packet(Port(1), packet(10), at(0));
        queue.push_control(vec![1]);
        queue.push_urgent(Waiting::Control(vec![2]));
        assert_eq!(queue.pop(at(0)), Some(Waiting::Control(vec![2])));
        assert_eq!(queue.pop(at(0)), Some(Waiting::Control(vec![1])));
        assert_eq!(queue.pop(at(0)), Some(Waiting::Packet(packet(10))));
        assert_eq!(queue.pop(at(0)), None);
        assert!(queue.is_empty());
    }

    #[test]
    fn a_flood_from_one_source_leaves_the_other_its_half() {
        let mut queue = Queue::new(1 << 20);
        for _ in 0..500 {
            queue.push_packet(Port(1), packet(1000), at(0));
        }
        for _ in 0..50 {
            queue.push_packet(Port(2), packet(500), at(0));
        }
        let mut small = 0;
        for _ in 0..150 {
            match queue.pop(at(1)) {
                Some(Waiting::Packet(packet)) if packet.len() == 500 => small += 1,
                _ => {}
            }
        }
        assert_eq!(small, 50, "25 kB of 150 kB: all of the small flow is out");
    }

    #[test]
    fn the_bound_holds_and_the_longest_source_pays() {
        let mut queue = Queue::new(10_000);
        queue.push_packet(Port(2), packet(1000), at(0));
        for _ in 0..100 {
            queue.push_packet(Port(1), packet(1000), at(0));
            assert!(queue.packet_bytes() <= 10_000);
        }
        assert_eq!(queue.take_dropped(), 91);
        assert_eq!(queue.level(), 255);
        let mut sizes = 0;
        while queue.pop(at(0)).is_some() {
            sizes += 1;
        }
        assert_eq!(sizes, 10);
    }

    #[test]
    fn a_standing_wait_is_cut() {
        let mut queue = Queue::new(1 << 20);
        let mut sent = 0;
        // 2 packets come for each that goes.
        for ms in 0..2000 {
            queue.push_packet(Port(1), packet(1400), at(ms));
            queue.push_packet(Port(1), packet(1400), at(ms));
            sent += usize::from(queue.pop(at(ms)).is_some());
        }
        assert_eq!(sent, 2000);
        assert!(queue.take_dropped() > 20);
    }

    #[test]
    fn a_large_packet_gets_its_turn() {
        let mut queue = Queue::new(1 << 20);
        queue.push_packet(Port(1), packet(65_000), at(0));
        assert_eq!(queue.pop(at(0)), Some(Waiting::Packet(packet(65_000))));
    }
}
