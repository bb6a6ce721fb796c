//! Owns one way: its path, its state, and how good it is.
use super::super::gauge::Gauge;
use super::super::view::Path;
use crate::config::{H_MAX, MTU_MIN};
use crate::id::{Port, Sid};
use crate::time::{Duration, Instant};
use crate::wire::data::split_port;

#[derive(Debug)]
pub(super) struct Way {
    pub(super) id: u8,
    pub(super) path: Path,
    /// Largest payload it is known to take.
    pub(super) mtu: usize,
    pub(super) state: State,
    pub(super) gauge: Gauge,
    pub(super) asked_at: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Made from what hops said; nothing has come back by it yet.
    Fresh,
    Live,
    /// Did not answer so many times; asked again at that time.
    Failed {
        times: u32,
        again: Instant,
    },
}

impl Way {
    /// The other end is a peer, and this is its link: the link's own pings watch over it.
    pub(super) const fn is_direct(&self) -> bool {
        self.path.nodes.len() == 1
    }

    /// Less is better: milliseconds there and back, dearer with loss; a little for each hop.
    pub(super) fn score(&self) -> f32 {
        let announced = 2.0 * self.path.cost.max(1) as f32;
        let millis = self.gauge.srtt().map_or(announced, |srtt| srtt.as_secs_f32() * 1000.0);
        (millis + HOP_MILLIS * count(&self.path.ports) as f32) * (1.0 + LOSS_WEIGHT * self.gauge.loss())
    }

    /// Is it a way out of a crowded one?
    pub(super) fn is_lighter_than(&self, crowded: &Self, len: usize) -> bool {
        self.state == State::Live
            && (self.mtu >= len || len <= MTU_MIN)
            && crowded.gauge.load() >= LOAD_HIGH
            && self.gauge.load() < crowded.gauge.load() / 2
            && self.score() < crowded.score() * DETOUR
    }
}

pub(super) fn chain(me: Sid, nodes: &[Sid]) -> Vec<Sid> {
    std::iter::once(me).chain(nodes.iter().copied()).collect()
}

/// Largest payload that a path takes, as its hops announced.
pub(super) fn payload_max(path: &Path) -> usize {
    let around = H_MAX.max(AROUND + 3 * count(&path.ports));
    path.frame_max.saturating_sub(around).max(MTU_MIN)
}

/// How many ports a list has.
pub(super) fn count(mut ports: &[u8]) -> usize {
    let mut count = 0;
    while let Ok(Some((Port(_), rest))) = split_port(ports) {
        count += 1;
        ports = rest;
    }
    count
}

pub(super) fn backoff(times: u32) -> Duration {
    FAILED_FIRST * (1 << (times - 1).min(6))
}

/// A crowded way: its queues are half full.
pub(super) const LOAD_HIGH: u8 = 128;
/// A way round a crowd may take so many times as long.
const DETOUR: f32 = 3.0;
/// Of two ways equally quick the one with fewer hops.
const HOP_MILLIS: f32 = 0.2;
const LOSS_WEIGHT: f32 = 4.0;
/// A failed way is asked again after that, then after twice as long each time, up to 64 times.
const FAILED_FIRST: Duration = Duration::from_secs(1);
/// Header of DATA_S without its lists, seal and header of the session.
const AROUND: usize = 64;
