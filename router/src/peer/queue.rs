//! Owns a link's egress queue: who waits, who goes next, who is dropped first.
//!
//! Three lanes. `urgent` (handshake, PING, PONG) and `control` go first and are small by construction. Packets wait by source
//! (the peer they came from, or this node), and within a source by flow (the receiver's index in the header, so a session
//! each way); sources take turns by bytes, and so do the flows of a source (deficit round robin). A flow that begins anew goes
//! before those that have been waiting (FQ-CoDel, RFC 8290), so a session that says little hardly waits for a transfer beside it;
//! and a flow whose packets wait too long loses some (CoDel, RFC 8289).
//!
//! Whoever makes many flows only shares his own turn among more of them: sources are peers, and these cannot be made up.
use crate::id::Port;
use crate::time::{Duration, Instant};
use crate::wire::data::flow_of;
use bytes::Bytes;
use std::collections::{BTreeMap, VecDeque};

mod codel;
mod flows;

use flows::Source;

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
    /// How long packets waited that went lately, in microseconds.
    wait: u32,
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
            wait: 0,
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

    /// In its source's and its flow's turn. If too much waits, the longest flow of the longest source loses its oldest.
    pub fn push_packet(&mut self, source: Port, packet: Bytes, now: Instant) {
        if self.packet_bytes == 0 {
            // Nothing waits: what did so long ago counts less and less.
            self.wait /= 2;
        }
        let entry = self.sources.entry(source).or_default();
        self.packet_bytes += packet.len();
        entry.push(flow_of(&packet), packet, now);
        if !entry.in_turns {
            entry.in_turns = true;
            self.turns.push_back(source);
        }
        while self.packet_bytes > self.packet_bytes_max {
            let longest = self.sources.values_mut().max_by_key(|source| source.bytes());
            let Some(lost) = longest.and_then(Source::drop_oldest) else { break };
            self.packet_bytes -= lost;
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
            if source.bytes() == 0 {
                self.turns.pop_front();
                source.rest();
                if self.sources.len() > IDLE_SOURCES_MAX {
                    self.sources.remove(&port);
                }
                continue;
            }
            if source.deficit <= 0 {
                source.deficit += QUANTUM as isize;
                self.turns.rotate_left(1);
                continue;
            }
            let before = source.bytes();
            let next = source.pop(now);
            let gone = before - source.bytes();
            self.packet_bytes -= gone;
            let sent = next.as_ref().map_or(0, |(packet, _)| packet.len());
            self.dropped += source.take_dropped();
            if let Some((packet, wait)) = next {
                source.deficit -= sent as isize;
                let wait = wait.as_micros().min(u128::from(u32::MAX)) as u32;
                self.wait = self.wait - self.wait / 8 + wait / 8;
                return Some(Waiting::Packet(packet));
            }
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

    /// How loaded it is, 0..=255: the time that packets wait here, 255 being [`WAIT_FULL`], or the share of its room that is
    /// taken, whichever is more. Twice the number is twice the wait.
    pub fn level(&self) -> u8 {
        let room = self.packet_bytes * 255 / self.packet_bytes_max.max(1);
        // What went without waiting says nothing once others wait.
        let wait = self.wait as usize * 255 / WAIT_FULL.as_micros() as usize;
        room.max(wait).min(255) as u8
    }

    /// Frames dropped since this was asked last.
    pub const fn take_dropped(&mut self) -> u64 {
        std::mem::replace(&mut self.dropped, 0)
    }
}

/// PINGs and PONGs are sent one at a time; more than these wait only if the link stands still.
const URGENT_MAX: usize = 64;
/// A whole way to four roots through 250 nodes each, twice over.
const CONTROL_BYTES_MAX: usize = 512 * 1024;
/// A turn's bytes: five full packets of an ordinary path, so that taking turns costs little.
const QUANTUM: usize = 8 * 1024;
/// Sources whose (empty) queues are kept, so that a source that comes back allocates nothing.
const IDLE_SOURCES_MAX: usize = 4;
/// A wait that counts as full: at 15 ms CoDel begins to cut, at 100 ms it has done so for a while.
const WAIT_FULL: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(len: usize) -> Bytes {
        Bytes::from(vec![0; len])
    }

    /// A packet of a flow, as source routes have it.
    fn of_flow(flow: u32, len: usize) -> Bytes {
        let mut packet = vec![crate::wire::kind::DATA_S, 0, 0, 0, 0, 0, 0];
        packet.extend_from_slice(&flow.to_be_bytes());
        packet.resize(len, 0);
        packet.into()
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

    #[test]
    fn a_flow_that_says_little_does_not_wait_for_one_of_the_same_source_that_says_much() {
        let mut queue = Queue::new(1 << 20);
        for _ in 0..100 {
            queue.push_packet(Port(1), of_flow(1, 1400), at(0));
        }
        for ms in 1..50 {
            queue.push_packet(Port(1), of_flow(2, 100), at(ms));
            let mut before = 0;
            while let Some(Waiting::Packet(packet)) = queue.pop(at(ms)) {
                if packet.len() == 100 {
                    break;
                }
                before += 1;
                queue.push_packet(Port(1), of_flow(1, 1400), at(ms));
            }
            assert!(before <= 6, "{before} full packets went before it");
        }
    }

    #[test]
    fn many_flows_of_one_source_are_worth_no_more_than_one_of_another() {
        let mut queue = Queue::new(1 << 24);
        for n in 0..2000 {
            queue.push_packet(Port(1), of_flow(n, 1000), at(0));
        }
        for _ in 0..100 {
            queue.push_packet(Port(2), of_flow(7, 500), at(0));
        }
        let mut small = 0;
        for _ in 0..180 {
            match queue.pop(at(1)) {
                Some(Waiting::Packet(packet)) if packet.len() == 500 => small += 1,
                _ => {}
            }
        }
        assert_eq!(small, 100);
    }

    #[test]
    fn the_level_tells_of_waits_and_falls_again() {
        let mut queue = Queue::new(1 << 20);
        for ms in 0..14 {
            queue.push_packet(Port(1), of_flow(1, 200), at(ms));
        }
        for ms in 14..100 {
            queue.push_packet(Port(1), of_flow(1, 200), at(ms));
            queue.pop(at(ms));
        }
        assert!((30..40).contains(&queue.level()), "14 of 100 ms: {}", queue.level());
        while queue.pop(at(100)).is_some() {}
        for ms in 200..300 {
            queue.push_packet(Port(1), of_flow(1, 200), at(ms));
            queue.pop(at(ms));
        }
        assert_eq!(queue.level(), 0);
    }
}
