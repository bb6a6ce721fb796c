//! Owns what waits of one source: its flows, and their turns.
use super::QUANTUM;
use super::codel::Codel;
use crate::time::{Duration, Instant};
use bytes::Bytes;
use std::collections::VecDeque;

/// The flows of one source.
#[derive(Debug, Default)]
pub(super) struct Source {
    /// Kept when they are empty, for the next flow: their room is not given back for each packet.
    flows: Vec<Flow>,
    /// Flows that began since they were last empty: they go first, once.
    fresh: VecDeque<u8>,
    /// Flows that have had their first turn.
    waiting: VecDeque<u8>,
    bytes: usize,
    dropped: u64,
    /// Bytes that may go in this turn of the source.
    pub(super) deficit: isize,
    pub(super) in_turns: bool,
}

#[derive(Debug, Default)]
struct Flow {
    key: u32,
    packets: VecDeque<(Bytes, Instant)>,
    bytes: usize,
    deficit: isize,
    codel: Codel,
    listed: bool,
}

impl Source {
    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) const fn take_dropped(&mut self) -> u64 {
        std::mem::replace(&mut self.dropped, 0)
    }

    /// Nothing of it waits any more.
    pub(super) fn rest(&mut self) {
        self.in_turns = false;
        self.deficit = 0;
        if self.flows.capacity() > IDLE_FLOWS_MAX && self.fresh.is_empty() && self.waiting.is_empty() {
            self.flows.truncate(IDLE_FLOWS_MAX);
            self.flows.shrink_to(IDLE_FLOWS_MAX);
        }
    }

    pub(super) fn push(&mut self, key: u32, packet: Bytes, now: Instant) {
        let at = self.slot(key);
        self.bytes += packet.len();
        let flow = &mut self.flows[at];
        flow.bytes += packet.len();
        flow.packets.push_back((packet, now));
        if !flow.listed {
            flow.listed = true;
            flow.deficit = QUANTUM as isize;
            self.fresh.push_back(at as u8);
        }
    }

    /// The flow's place: the one it has, an empty one, a new one; when all are taken, one that it shares.
    fn slot(&mut self, key: u32) -> usize {
        if let Some(at) = self.flows.iter().position(|flow| flow.key == key) {
            return at;
        }
        let at = match self.flows.iter().position(|flow| !flow.listed) {
            Some(at) => at,
            None if self.flows.len() < FLOWS_MAX => {
                self.flows.push(Flow::default());
                self.flows.len() - 1
            }
            None => return key as usize % FLOWS_MAX,
        };
        self.flows[at].key = key;
        self.flows[at].codel = Codel::default();
        at
    }

    /// The next packet, and how long it has waited. `None`: those that were left have been dropped.
    pub(super) fn pop(&mut self, now: Instant) -> Option<(Bytes, Duration)> {
        loop {
            let fresh = !self.fresh.is_empty();
            let list = if fresh { &mut self.fresh } else { &mut self.waiting };
            let at = *list.front()?;
            let flow = &mut self.flows[usize::from(at)];
            if flow.deficit <= 0 {
                flow.deficit += QUANTUM as isize;
                list.pop_front();
                self.waiting.push_back(at);
                continue;
            }
            let Some((packet, since)) = flow.packets.pop_front() else {
                list.pop_front();
                // One that came and went at once, again and again, must not always be first.
                if fresh && !self.waiting.is_empty() {
                    self.waiting.push_back(at);
                } else {
                    flow.listed = false;
                    flow.give_back();
                }
                continue;
            };
            flow.bytes -= packet.len();
            self.bytes -= packet.len();
            if flow.codel.drops(now - since, flow.bytes, now) {
                self.dropped += 1;
                if self.bytes == 0 {
                    return None;
                }
                continue;
            }
            flow.deficit -= packet.len() as isize;
            return Some((packet, now - since));
        }
    }

    /// Makes room: the oldest packet of the longest flow. Says how many bytes that were.
    pub(super) fn drop_oldest(&mut self) -> Option<usize> {
        let flow = self.flows.iter_mut().max_by_key(|flow| flow.bytes)?;
        let (packet, _) = flow.packets.pop_front()?;
        flow.bytes -= packet.len();
        self.bytes -= packet.len();
        Some(packet.len())
    }
}

impl Flow {
    fn give_back(&mut self) {
        if self.packets.capacity() > IDLE_CAPACITY_MAX {
            self.packets = VecDeque::new();
        }
    }
}

/// Flows of one source that are told apart: beyond that, some share a turn.
const FLOWS_MAX: usize = 64;
/// Packets that an empty flow keeps room for.
const IDLE_CAPACITY_MAX: usize = 8;
/// Flows that an idle source keeps room for.
const IDLE_FLOWS_MAX: usize = 4;
