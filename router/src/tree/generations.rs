//! Owns the two generations of coordinates: after a change the old ones stay usable for a while.
use crate::id::{Port, Sid};
use crate::lookup::locator::Coords;
use crate::time::{Duration, Instant};

/// A place in one tree in the form that distances are computed from.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Way {
    /// Ports from the root down.
    pub ports: Box<[u16]>,
    /// `sums[i]` is the cost of the first `i` steps.
    pub sums: Box<[u32]>,
    /// The beginning, at hand.
    pub head: Head,
}

/// The first steps of a way, so that two ways that part early, as most do, are compared without a look at the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Head {
    /// The first ports, the first in the highest bits; 0, which is no step's port, after the end.
    ports: u64,
    /// Cost of the first 1, 2, 3 steps.
    sums: [u16; HEAD - 1],
    /// Cost of the whole way.
    total: u32,
}

impl Head {
    /// Of a way as [`Way`] has it.
    pub fn of(ports: &[u16], sums: &[u32]) -> Self {
        let port = |at: usize| u64::from(ports.get(at).copied().unwrap_or_default());
        let sum = |at: usize| sums.get(at).map_or(0, |&sum| sum as u16);
        Self {
            ports: (0..HEAD).fold(0, |head, at| head << 16 | port(at)),
            sums: [sum(1), sum(2), sum(3)],
            total: sums.last().copied().unwrap_or_default(),
        }
    }

    /// Sum of the costs on both sides below where the ways part, if that is within the first steps.
    pub const fn distance(&self, other: &Self) -> Option<u32> {
        let differs = self.ports ^ other.ports;
        if differs == 0 {
            return None;
        }
        let common = differs.leading_zeros() as usize / 16;
        let (own, others) =
            if common == 0 { (0, 0) } else { (self.sums[common - 1], other.sums[common - 1]) };
        Some(self.total - own as u32 + (other.total - others as u32))
    }
}

/// Steps in a [`Head`].
const HEAD: usize = 4;

impl From<&Coords> for Way {
    fn from(coords: &Coords) -> Self {
        let mut sums = Vec::with_capacity(coords.hops.len() + 1);
        let mut sum = 0;
        sums.push(sum);
        for hop in &coords.hops {
            sum += u32::from(hop.cost);
            sums.push(sum);
        }
        let ports: Box<[u16]> = coords.hops.iter().map(|hop| hop.port.0).collect();
        Self { head: Head::of(&ports, &sums), ports, sums: sums.into() }
    }
}

/// One generation: whose tree it is, and the way down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Generation {
    /// The root.
    pub root: Sid,
    /// The way down from it.
    pub way: Way,
    /// For this node's own place: the port of the parent that gives it.
    pub via: Option<Port>,
}

/// Current and former coordinates of one node in one tree.
#[derive(Clone, Debug, Default)]
pub struct Generations {
    /// What holds now.
    pub current: Option<Generation>,
    /// What held before, until `former_until`.
    pub former: Option<Box<Generation>>,
    since: Instant,
    former_until: Instant,
}

impl Generations {
    /// What holds and what held.
    pub fn iter(&self) -> impl Iterator<Item = &Generation> {
        self.current.iter().chain(self.former.as_deref())
    }

    /// The coordinates are now these.
    pub fn set(&mut self, coords: Option<&Coords>, via: Option<Port>, now: Instant) {
        let new = coords.map(|coords| Generation { root: coords.root, way: Way::from(coords), via });
        if new == self.current {
            return;
        }
        let old = std::mem::replace(&mut self.current, new);
        // A burst of changes (a merge, a crash) passes through places that nobody ever knew: what was held before
        // the burst is worth keeping, not they.
        let settled = now - self.since >= SETTLED;
        if old.is_some() && (settled || self.former.is_none()) {
            self.former = old.map(Box::new);
            self.former_until = now + FORMER_KEPT;
        }
        self.since = now;
    }

    /// That peer is gone: a former place below it is of no use any more.
    pub fn lose(&mut self, port: Port) {
        if self.former.as_ref().is_some_and(|former| former.via == Some(port)) {
            self.former = None;
        }
    }

    /// Forgets what is too old; says when there is something to forget.
    pub fn expire(&mut self, now: Instant) -> Option<Instant> {
        if self.former.is_some() && now >= self.former_until {
            self.former = None;
        }
        self.former.is_some().then_some(self.former_until)
    }
}

/// Two generations, no more (three hurt); the old one for a minute.
const FORMER_KEPT: Duration = Duration::from_secs(60);
/// Coordinates held shorter than that were never published.
const SETTLED: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lookup::locator::Hop;

    fn coords(root: u8, port: u16) -> Coords {
        Coords { root: Sid::from_bytes([root; 8]), hops: vec![Hop { port: Port(port), cost: 3 }] }
    }

    #[test]
    fn a_burst_keeps_what_was_held_before_it() {
        let at = |secs: u64| Instant::from_micros(secs * 1_000_000);
        let mut generations = Generations::default();
        generations.set(Some(&coords(1, 1)), Some(Port(9)), at(0));
        for port in 2..6 {
            generations.set(Some(&coords(1, port)), None, at(10));
        }
        let former = generations.former.clone().unwrap();
        assert_eq!(&*former.way.ports, [1]);
        generations.lose(Port(8));
        assert_eq!(generations.expire(at(69)), Some(at(70)));
        let mut orphan = generations.clone();
        orphan.lose(Port(9));
        assert!(orphan.former.is_none(), "the link to its parent is gone");
        assert_eq!(generations.expire(at(70)), None);
        assert!(generations.former.is_none());
    }
}
