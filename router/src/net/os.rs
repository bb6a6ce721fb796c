//! What the core cannot have of its own: the clock and randomness.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::crypto::Entropy;
use crate::time::Instant;

/// The operating system's random generator.
#[derive(Clone, Copy, Debug, Default)]
pub struct OsEntropy;

impl Entropy for OsEntropy {
    fn fill(&mut self, out: &mut [u8]) {
        // Linux fails here only before its generator is seeded in early boot, where it blocks instead, and with
        // memory that is not ours. No key may ever be made from less.
        getrandom::fill(out).expect("the operating system gives randomness");
    }
}

/// The one clock of a node: microseconds since it was made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock(std::time::Instant);

impl Clock {
    pub(crate) fn start() -> Self {
        Self(std::time::Instant::now())
    }

    pub(crate) fn now(&self) -> Instant {
        // One hour in, so that "an hour ago" is a time like any other.
        Instant::from_micros(self.0.elapsed().as_micros() as u64 + 3_600_000_000)
    }

    /// How long from now until then.
    pub(crate) fn until(&self, then: Instant) -> std::time::Duration {
        then - self.now()
    }
}

/// Milliseconds since 1970 by this host's clock, wrong as it may be.
pub(crate) fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entropy_fills() {
        let (mut a, mut b) = ([0; 32], [0; 32]);
        OsEntropy.fill(&mut a);
        OsEntropy.fill(&mut b);
        assert_ne!(a, b);
    }
}
