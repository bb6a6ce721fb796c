//! A link: how long a frame takes from one end to the other, and when the next one may go.

use std::time::Duration;

use rand_chacha::ChaCha8Rng;
use rand_core::Rng;
use router::{Instant, LinkId, LinkKind};

/// What a link is like.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Stream (tcp) or datagrams (udp).
    pub kind: LinkKind,
    /// One way, without queue.
    pub latency: Duration,
    /// Up to so much on top, evenly spread.
    pub jitter: Duration,
    /// Frames lost, 0..1. A stream sends them again, which holds up all behind them.
    pub loss: f64,
    /// Bytes in a second, each way.
    pub rate: u64,
    /// How much may wait in the sender's socket before the router's own queue has to keep it.
    pub buffer: Duration,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            kind: LinkKind::Stream,
            latency: Duration::from_millis(2),
            jitter: Duration::from_micros(200),
            loss: 0.0,
            rate: 12_500_000,
            buffer: Duration::from_millis(20),
        }
    }
}

/// A link of the network.
pub(crate) struct Edge {
    pub(crate) ends: [usize; 2],
    /// Its place among the links of either end.
    pub(crate) slots: [u32; 2],
    pub(crate) shape: Shape,
    /// Whether the network has it; a connection follows.
    pub(crate) exists: bool,
    /// Rises with every connection made, and when the link is cut, so that what was under way is lost with it.
    pub(crate) epoch: u32,
}

impl Edge {
    /// The name of a connection at one of its ends: never the same again.
    pub(crate) fn link(number: usize, epoch: u32, end: usize) -> LinkId {
        LinkId(u64::from(epoch) << 33 | (number as u64) << 1 | end as u64)
    }

    /// The link and the end that a connection's name stands for.
    pub(crate) const fn of(link: LinkId) -> (usize, usize) {
        ((link.0 >> 1) as u32 as usize, (link.0 & 1) as usize)
    }

    /// The connection's name at its other end.
    pub(crate) const fn other(link: LinkId) -> LinkId {
        LinkId(link.0 ^ 1)
    }
}

/// One direction of a connection.
#[derive(Debug, Default)]
pub(crate) struct Lane {
    /// When what waits in the socket has left.
    free_at: Instant,
    /// When the last frame arrives: a stream overtakes nothing.
    last_arrival: Instant,
    /// An event is due that tells of room.
    pub(crate) waiting: bool,
}

/// What happens to a frame.
pub(crate) enum Fate {
    Arrives(Instant),
    Lost,
}

/// Bytes around a frame on the cable: Ethernet, IPv6, TCP, length.
const OVERHEAD: u64 = 80;
/// The least time after which TCP sends again.
const RETRANSMIT_MIN: Duration = Duration::from_millis(200);

impl Lane {
    pub(crate) fn new(now: Instant) -> Self {
        Self { free_at: now, last_arrival: now, waiting: false }
    }

    /// Until when the socket takes nothing more; `None` if it does.
    pub(crate) fn full_until(&self, shape: &Shape, now: Instant) -> Option<Instant> {
        (self.free_at.since(now) > shape.buffer).then(|| self.free_at - shape.buffer)
    }

    pub(crate) fn send(&mut self, length: usize, shape: &Shape, now: Instant, dice: &mut Dice) -> Fate {
        let micros = (length as u64 + OVERHEAD) * 1_000_000 / shape.rate.max(1);
        self.free_at = self.free_at.max(now) + Duration::from_micros(micros);
        let mut arrival = self.free_at + shape.latency + shape.jitter.mul_f64(dice.roll());
        if shape.loss > 0.0 && dice.roll() < shape.loss {
            match shape.kind {
                LinkKind::Datagram => return Fate::Lost,
                LinkKind::Stream => arrival += RETRANSMIT_MIN.max(shape.latency * 4),
            }
        }
        if shape.kind == LinkKind::Stream {
            arrival = arrival.max(self.last_arrival);
            self.last_arrival = arrival;
        }
        Fate::Arrives(arrival)
    }
}

/// Chance of one node's links, small and quick.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Evenly in 0..1 (splitmix64).
    pub(crate) const fn roll(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ mixed >> 31) >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// Evenly in 0..1.
pub(crate) fn unit(rng: &mut ChaCha8Rng) -> f64 {
    (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64
}

/// Evenly in `0..bound`.
pub(crate) fn below(rng: &mut ChaCha8Rng, bound: usize) -> usize {
    ((u128::from(rng.next_u64()) * bound as u128) >> 64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_keeps_its_order_whatever_is_lost() {
        let mut dice = Dice::new(1);
        let shape = Shape { loss: 0.3, jitter: Duration::from_millis(5), ..Shape::default() };
        let mut lane = Lane::new(Instant::ZERO);
        let mut last = Instant::ZERO;
        for _ in 0..1000 {
            let Fate::Arrives(at) = lane.send(500, &shape, Instant::ZERO, &mut dice) else { panic!("lost") };
            assert!(at >= last);
            last = at;
        }
        assert!(lane.full_until(&shape, Instant::ZERO).is_some());
    }

    #[test]
    fn datagrams_get_lost_as_often_as_said() {
        let mut dice = Dice::new(1);
        let shape = Shape { kind: LinkKind::Datagram, loss: 0.05, ..Shape::default() };
        let mut lane = Lane::new(Instant::ZERO);
        let lost = (0..10_000)
            .filter(|_| matches!(lane.send(100, &shape, Instant::ZERO, &mut dice), Fate::Lost))
            .count();
        assert!((400..600).contains(&lost), "{lost}");
    }
}
