//! Owns the router's timers: an enum and a table.
use crate::id::LinkId;
use crate::time::Instant;
use std::collections::{BTreeMap, BTreeSet};

/// What can be waited for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Timer {
    /// A link's handshake, signs of life, repetitions.
    Link(LinkId),
    /// Requests, holds and sweeps of the trees.
    Trees,
    /// The next ANNOUNCE.
    Announce,
    /// Former coordinates that grow too old.
    Generations,
    /// Two networks have met, or this node has come to one; told once that is over.
    Meeting,
    /// Sessions and lookups.
    Endpoint,
    /// Audits of peers.
    Audit,
    /// What peers are told of the nodes around.
    Vicinity,
}

/// Which timer is set to when.
#[derive(Clone, Debug, Default)]
pub struct TimerTable {
    set: BTreeMap<Timer, Instant>,
    order: BTreeSet<(Instant, Timer)>,
}

impl TimerTable {
    /// Sets, moves or (with `None`) stops a timer. O(log n).
    pub fn set(&mut self, timer: Timer, at: Option<Instant>) {
        let old = match at {
            Some(at) => self.set.insert(timer, at),
            None => self.set.remove(&timer),
        };
        if old == at {
            return;
        }
        if let Some(old) = old {
            self.order.remove(&(old, timer));
        }
        if let Some(at) = at {
            self.order.insert((at, timer));
        }
    }

    /// The earliest of all. O(log n).
    pub fn next(&self) -> Option<Instant> {
        self.order.first().map(|&(at, _)| at)
    }

    /// Takes the earliest, if its time has come.
    pub fn expired(&mut self, now: Instant) -> Option<Timer> {
        let &(at, timer) = self.order.first().filter(|(at, _)| *at <= now)?;
        self.order.remove(&(at, timer));
        self.set.remove(&timer);
        Some(timer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_earliest_comes_first_and_each_is_set_once() {
        let at = Instant::from_micros;
        let mut table = TimerTable::default();
        table.set(Timer::Trees, Some(at(5)));
        table.set(Timer::Endpoint, Some(at(3)));
        table.set(Timer::Trees, Some(at(2)));
        assert_eq!(table.next(), Some(at(2)));
        assert_eq!(table.expired(at(1)), None);
        assert_eq!(table.expired(at(4)), Some(Timer::Trees));
        assert_eq!(table.expired(at(4)), Some(Timer::Endpoint));
        table.set(Timer::Announce, Some(at(9)));
        table.set(Timer::Announce, None);
        assert_eq!((table.next(), table.expired(at(10))), (None, None));
    }
}
