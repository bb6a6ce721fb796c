//! Owns the order in which strangers' INITs are served: so many a second, round-robin by ingress, and under load only
//! for those who showed with a cookie that they receive what is sent back to them.
use crate::crypto::hash;
use crate::id::Port;
use crate::time::{Duration, Instant};
use crate::wire::body::init::Init;
use bytes::Bytes;
use std::collections::{BTreeMap, VecDeque};

/// Waiting INITs and the budget for serving them.
pub(super) struct Intake {
    boot_secret: [u8; 32],
    /// Microseconds of budget; an INIT costs [`COST`].
    budget: Duration,
    refilled_at: Instant,
    queues: BTreeMap<Port, VecDeque<Waiting>>,
    /// Served last.
    last: Port,
}

/// An INIT that waits.
pub(super) struct Waiting {
    pub(super) body: Bytes,
    pub(super) way: Bytes,
}

/// What to do with an INIT that has just come.
pub(super) enum Verdict {
    /// Serve it now.
    Serve,
    /// It waits its turn.
    Queued,
    /// Answer with this cookie, forget it.
    Demand([u8; 16]),
    /// Its ingress has too many waiting.
    Full,
}

impl Intake {
    pub(super) fn new(boot_secret: [u8; 32], now: Instant) -> Self {
        Self {
            boot_secret,
            budget: BURST * COST,
            refilled_at: now,
            queues: BTreeMap::new(),
            last: Port::SELF,
        }
    }

    /// Decides about an INIT. O(1); a MAC under load.
    pub(super) fn offer(
        &mut self,
        ingress: Port,
        way: &[u8],
        init: &Init<'_>,
        body: &[u8],
        now: Instant,
    ) -> Verdict {
        self.refill(now);
        if self.queues.is_empty() && self.budget >= COST {
            self.budget -= COST;
            return Verdict::Serve;
        }
        let cookie = hash::mac(&self.boot_secret, "cookie", &[&init.ephemeral, way]);
        if !hash::equal(&cookie, &init.cookie) {
            return Verdict::Demand(cookie);
        }
        let ports = self.queues.len();
        let queue = match self.queues.entry(ingress) {
            std::collections::btree_map::Entry::Vacant(_) if ports >= PORTS_MAX => return Verdict::Full,
            entry => entry.or_default(),
        };
        if queue.len() >= QUEUE_MAX {
            return Verdict::Full;
        }
        queue.push_back(Waiting { body: Bytes::copy_from_slice(body), way: Bytes::copy_from_slice(way) });
        Verdict::Queued
    }

    /// The next INIT to serve, if there is budget for it. O(log ports).
    pub(super) fn next(&mut self, now: Instant) -> Option<Waiting> {
        self.refill(now);
        if self.budget < COST {
            return None;
        }
        let after = (std::ops::Bound::Excluded(self.last), std::ops::Bound::Unbounded);
        let port = *self.queues.range(after).chain(self.queues.iter()).next()?.0;
        let queue = self.queues.get_mut(&port)?;
        let waiting = queue.pop_front();
        if queue.is_empty() {
            self.queues.remove(&port);
        }
        self.last = port;
        self.budget -= COST;
        waiting
    }

    /// When [`Self::next`] gives something.
    pub(super) fn deadline(&self) -> Option<Instant> {
        (!self.queues.is_empty()).then(|| self.refilled_at + COST.saturating_sub(self.budget) * SHARE)
    }

    fn refill(&mut self, now: Instant) {
        self.budget = (self.budget + now.since(self.refilled_at) / SHARE).min(BURST * COST);
        self.refilled_at = now;
    }
}

/// CPU time of one INIT, roughly: four Diffie-Hellmans and a point decompression.
const COST: Duration = Duration::from_micros(300);
/// One part in so many of the time may go into strangers' handshakes: about 400 a second.
const SHARE: u32 = 8;
/// INITs served at once after a quiet time: a node that comes up again hears from all its correspondents.
const BURST: u32 = 100;
/// INITs that may wait for one ingress: beyond, the initiator's retry is as good.
const QUEUE_MAX: usize = 32;
/// Ingress ports that may have INITs waiting.
const PORTS_MAX: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    fn init(ephemeral: u8, cookie: [u8; 16]) -> Init<'static> {
        Init { cookie, ephemeral: [ephemeral; 32], identity: &[0; 48], payload: &[0; 40] }
    }

    #[test]
    fn under_load_a_cookie_is_demanded_and_ports_take_turns() {
        let mut intake = Intake::new([1; 32], Instant::ZERO);
        let now = Instant::ZERO;
        for _ in 0..BURST {
            let verdict = intake.offer(Port(1), b"w", &init(0, [0; 16]), b"", now);
            assert!(matches!(verdict, Verdict::Serve));
        }
        let mut offer = |port: u16, ephemeral: u8, way: &'static [u8]| {
            let init_first = init(ephemeral, [0; 16]);
            match intake.offer(Port(port), way, &init_first, &[ephemeral], now) {
                Verdict::Demand(cookie) => {
                    let other_way = intake.offer(Port(port), b"x", &init(ephemeral, cookie), b"", now);
                    assert!(matches!(other_way, Verdict::Demand(_)), "a cookie holds for its way only");
                    intake.offer(Port(port), way, &init(ephemeral, cookie), &[ephemeral], now)
                }
                other => other,
            }
        };
        for ephemeral in 0..QUEUE_MAX as u8 {
            assert!(matches!(offer(1, ephemeral, b"a"), Verdict::Queued));
        }
        assert!(matches!(offer(1, 99, b"a"), Verdict::Full));
        assert!(matches!(offer(2, 100, b"b"), Verdict::Queued));
        assert!(intake.next(now).is_none());
        let now = intake.deadline().unwrap();
        let first = intake.next(now).unwrap();
        let now = intake.deadline().unwrap();
        let second = intake.next(now).unwrap();
        assert!(
            first.body[0] == 100 || second.body[0] == 100,
            "the second port is not behind the first one's queue"
        );
    }

    #[test]
    fn no_port_waits_behind_more_than_a_bounded_number() {
        let mut intake = Intake::new([1; 32], Instant::ZERO);
        intake.budget = Duration::ZERO;
        let mut full = 0;
        for port in 0..1000 {
            let cookie = hash::mac(&[1; 32], "cookie", &[&[3; 32], b""]);
            let verdict = intake.offer(Port(port), b"", &init(3, cookie), b"", Instant::ZERO);
            full += usize::from(matches!(verdict, Verdict::Full));
        }
        assert_eq!(full, 1000 - PORTS_MAX);
    }
}
