//! Owns how much work somebody may cause: a bucket of tokens.
use crate::time::Instant;

/// So many at once, so many per second.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rate {
    left: f64,
    burst: f64,
    per_second: f64,
    filled: Instant,
}

impl Rate {
    pub(crate) fn new(burst: u32, per_second: u32, now: Instant) -> Self {
        Self { left: burst.into(), burst: burst.into(), per_second: per_second.into(), filled: now }
    }

    /// One more, if it is still within bounds.
    pub(crate) fn take(&mut self, now: Instant) -> bool {
        self.left = (self.left + (now - self.filled).as_secs_f64() * self.per_second).min(self.burst);
        self.filled = now;
        let granted = self.left >= 1.0;
        if granted {
            self.left -= 1.0;
        }
        granted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_then_the_rate() {
        let mut rate = Rate::new(3, 2, Instant::ZERO);
        let granted = (0..5).filter(|_| rate.take(Instant::ZERO)).count();
        assert_eq!(granted, 3);
        assert!(rate.take(Instant::from_micros(500_000)));
        assert!(!rate.take(Instant::from_micros(600_000)));
    }
}
