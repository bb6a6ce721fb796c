//! Owns the question how much of what waits the kernel may have: a few milliseconds' worth, whatever the link's speed. What is
//! in the kernel's hands goes in order, so a small packet waits for all of it; what is in ours takes turns.
use std::time::{Duration, Instant};

/// How much a connection may hold that is not on its way yet, from how fast it takes it.
#[derive(Debug)]
pub(crate) struct Pace {
    /// Since when, and what it took meanwhile; only while more waits than it takes.
    since: Option<Instant>,
    taken: usize,
    bytes: usize,
}

impl Pace {
    pub(crate) const fn new() -> Self {
        Self { since: None, taken: 0, bytes: MOST }
    }

    /// Bytes that it may hold.
    pub(crate) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// The kernel took so much.
    pub(crate) const fn took(&mut self, bytes: usize) {
        self.taken += bytes;
    }

    /// Nothing waits any more: what comes then says nothing about the speed.
    pub(crate) const fn on_done(&mut self) {
        self.since = None;
        self.taken = 0;
    }

    /// It takes no more now. True if [`Self::bytes`] has changed.
    pub(crate) fn on_blocked(&mut self, now: Instant) -> bool {
        let Some(since) = self.since else {
            self.since = Some(now);
            self.taken = 0;
            return false;
        };
        let time = now - since;
        if time < MEASURED {
            return false;
        }
        let wanted = self.taken as u128 * WORTH.as_micros() / time.as_micros();
        let wanted = (wanted as usize).clamp(LEAST, MOST);
        self.since = Some(now);
        self.taken = 0;
        // Small changes are not worth a call into the kernel.
        if wanted * 2 >= self.bytes * 3 || wanted * 3 <= self.bytes * 2 {
            self.bytes = wanted;
            return true;
        }
        false
    }
}

/// What may wait in the kernel: more than a driver that is scheduled late on a busy machine misses.
const WORTH: Duration = Duration::from_millis(4);
/// Time over which the speed is measured.
const MEASURED: Duration = Duration::from_millis(5);
/// Three full packets: 8 ms at 5 Mbit/s.
const LEAST: usize = 4 << 10;
/// Of fast links, and before anything was measured.
const MOST: usize = 128 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    /// Blocks every 2 ms at that speed; says what it may hold in the end.
    fn at(bytes_per_second: usize) -> usize {
        let mut pace = Pace::new();
        let mut now = Instant::now();
        for _ in 0..100 {
            pace.on_blocked(now);
            pace.took(bytes_per_second / 500);
            now += Duration::from_millis(2);
        }
        pace.bytes()
    }

    #[test]
    fn a_slow_link_holds_milliseconds_and_a_fast_one_much() {
        assert_eq!(at(125_000), LEAST);
        assert!((8_000..15_000).contains(&at(2_500_000)), "{}", at(2_500_000));
        assert_eq!(at(500_000_000), MOST);
    }

    #[test]
    fn a_pause_says_nothing_about_the_speed() {
        let mut pace = Pace::new();
        let now = Instant::now();
        assert!(!pace.on_blocked(now));
        pace.took(1000);
        pace.on_done();
        assert!(!pace.on_blocked(now + Duration::from_secs(10)));
        assert_eq!(pace.bytes(), MOST);
    }
}
