//! Owns the decision which packet of a flow that waits too long is dropped (RFC 8289).
use crate::time::{Duration, Instant};

/// RFC 8289: drops at a rising rate while the wait stays above the target.
#[derive(Debug, Default)]
pub(super) struct Codel {
    above_since: Option<Instant>,
    dropping: bool,
    drop_next: Instant,
    count: u32,
}

impl Codel {
    /// A packet that waited for `sojourn` is at the head, `left` bytes of its flow are behind it: does it go?
    pub(super) fn drops(&mut self, sojourn: Duration, left: usize, now: Instant) -> bool {
        if sojourn < CODEL_TARGET || left < CODEL_LEAST_BYTES {
            self.above_since = None;
            self.dropping = false;
            return false;
        }
        let since = *self.above_since.get_or_insert(now);
        if now - since < CODEL_INTERVAL {
            return false;
        }
        if !self.dropping {
            self.dropping = true;
            // Soon after the last bad time, go on at about its rate.
            let recent = now - self.drop_next < 16 * CODEL_INTERVAL;
            self.count = if recent && self.count > 2 { self.count - 2 } else { 1 };
            self.drop_next = now + control_law(self.count);
            return true;
        }
        if now < self.drop_next {
            return false;
        }
        self.count = self.count.saturating_add(1);
        self.drop_next += control_law(self.count);
        true
    }
}

fn control_law(count: u32) -> Duration {
    CODEL_INTERVAL.div_f64(f64::from(count).sqrt())
}

/// Acceptable standing wait. RFC 8289 takes 5 ms; a driver that is scheduled late on a busy machine adds its own.
const CODEL_TARGET: Duration = Duration::from_millis(15);
/// A wait above the target for that long is a standing one.
const CODEL_INTERVAL: Duration = Duration::from_millis(100);
/// Less than a full packet behind it: nothing stands.
const CODEL_LEAST_BYTES: usize = 1536;
