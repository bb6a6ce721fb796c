//! Owns what a link costs: smoothed round-trip time, and the one byte that is made of it.
use crate::time::{Duration, Instant};

/// Smoothed round-trip time (RFC 6298's weights).
#[derive(Clone, Copy, Debug, Default)]
pub struct Rtt {
    smoothed: Option<Duration>,
    recent: [Duration; RECENT],
    samples: usize,
    kept: Instant,
}

impl Rtt {
    /// One more measurement.
    pub fn sample(&mut self, rtt: Duration, now: Instant) {
        // One stall of a stream delays all that is asked meanwhile: it counts once.
        if !self.is_known() || now - self.kept >= APART {
            self.recent[self.samples % RECENT] = rtt;
            self.samples += 1;
            self.kept = now;
        }
        self.smoothed = Some(match self.smoothed {
            None => rtt,
            Some(old) => old - old / 8 + rtt / 8,
        });
    }

    /// The smoothed time, once there is one.
    pub const fn smoothed(&self) -> Option<Duration> {
        self.smoothed
    }

    /// The second least of the latest: what the link takes when nothing goes wrong. A frame that TCP had to send again,
    /// or that waited behind a burst, does not move it, but a link on which most go wrong does.
    pub fn typical(&self) -> Option<Duration> {
        let mut recent = self.recent;
        let known = &mut recent[..self.samples.min(RECENT)];
        known.sort_unstable();
        known.get(usize::from(known.len() == RECENT)).copied()
    }

    /// Are there as many measurements as [`Self::typical`] wants?
    pub const fn is_known(&self) -> bool {
        self.samples >= RECENT
    }

    /// The smoothed time, or a guess that suits most links.
    pub fn or_guess(&self) -> Duration {
        self.smoothed.unwrap_or(RTT_GUESS)
    }
}

/// Cost of a link: milliseconds one way on a grid of steps of a quarter, kept still against jitter.
#[derive(Clone, Copy, Debug)]
pub struct Cost {
    fixed: Option<u8>,
    current: u8,
    moved_since: Option<Instant>,
}

impl Cost {
    /// `fixed` by the operator, or measured.
    pub fn new(fixed: Option<u8>) -> Self {
        let fixed = fixed.map(|cost| cost.max(1));
        Self { fixed, current: fixed.unwrap_or(1), moved_since: None }
    }

    /// The cost that counts, 1..=255.
    pub const fn get(&self) -> u8 {
        self.current
    }

    /// The [`Rtt::typical`] round-trip time is now this. Says whether the cost changed: at once while the link is not yet
    /// `known`, later only if it was off by more than a quarter and more than [`NOISE`] for [`HOLD`].
    pub fn update(&mut self, rtt: Duration, known: bool, now: Instant) -> bool {
        let wanted = quantise(rtt);
        let (old, new) = (u32::from(self.current), u32::from(wanted));
        let still = 4 * new <= 5 * old && 4 * old <= 5 * new || old.abs_diff(new) <= u32::from(NOISE);
        if self.fixed.is_some() || wanted == self.current || known && still {
            self.moved_since = None;
            return false;
        }
        let since = *self.moved_since.get_or_insert(now);
        if known && now - since < HOLD {
            return false;
        }
        self.moved_since = None;
        self.current = wanted;
        true
    }
}

/// Milliseconds one way, rounded down to a step of the grid.
fn quantise(rtt: Duration) -> u8 {
    let millis = (rtt / 2).as_micros().div_ceil(1000).clamp(1, 255) as u8;
    let step = GRID.partition_point(|&step| step <= millis);
    GRID[step - 1]
}

/// Steps of about a quarter: a change of one step is what a change of more than 25 % needs at least.
const GRID: [u8; 22] = [1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 19, 24, 30, 38, 48, 60, 75, 94, 118, 148, 185, 231];
/// Once there are enough measurements, only those so far apart count.
const APART: Duration = Duration::from_secs(1);
/// Measurements that are looked at: an idle link makes two a minute.
const RECENT: usize = 5;
/// A change must last that long: routes that move with every burst of traffic help nobody.
pub const HOLD: Duration = Duration::from_secs(10);
/// Milliseconds that a busy machine adds and takes away: among near neighbours no reason to move.
pub const NOISE: u8 = 2;
/// Before the first measurement.
const RTT_GUESS: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_measurements_count_at_once_and_later_ones_must_last() {
        let mut cost = Cost::new(None);
        let at = |ms: u64| Instant::from_micros(ms * 1000);
        assert!(cost.update(Duration::from_millis(40), false, at(0)));
        assert!(cost.update(Duration::from_millis(20), false, at(100)));
        assert_eq!(cost.get(), 10);
        let mut update = |millis, ms| cost.update(Duration::from_millis(millis), true, at(ms));
        assert!(!update(60, 1_000));
        assert!(!update(22, 5_000), "jitter ends the waiting");
        assert!(!update(60, 6_000));
        assert!(!update(60, 15_000));
        assert!(update(60, 16_000));
        assert_eq!(cost.get(), 30);
    }

    #[test]
    fn a_busy_machine_is_not_a_longer_way() {
        let mut cost = Cost::new(None);
        for n in 0..100 {
            let busy = Duration::from_micros(if n % 20 < 10 { 300 } else { 5_900 });
            assert!(!cost.update(busy, true, Instant::from_micros(n * 28_000_000)));
        }
        assert_eq!(cost.get(), 1);
    }

    #[test]
    fn a_few_late_answers_do_not_move_the_cost() {
        let (mut rtt, mut cost) = (Rtt::default(), Cost::new(None));
        assert_eq!(rtt.typical(), None);
        let mut changes = 0;
        for n in 0..100u64 {
            let now = Instant::from_micros(n * 28_000_000);
            rtt.sample(Duration::from_millis(if n % 3 == 2 || n % 7 == 2 { 400 } else { 8 }), now);
            // What else is asked during the stall.
            rtt.sample(Duration::from_millis(300), now + Duration::from_millis(100));
            changes += u32::from(cost.update(rtt.typical().unwrap(), rtt.is_known(), now));
        }
        assert_eq!((changes, cost.get()), (1, 4));
        for n in 100..110u64 {
            let now = Instant::from_micros(n * 28_000_000);
            rtt.sample(Duration::from_millis(400), now);
            cost.update(rtt.typical().unwrap(), true, now);
        }
        assert_eq!(cost.get(), 185);
    }

    #[test]
    fn the_operators_cost_stays() {
        let mut cost = Cost::new(Some(0));
        assert_eq!(cost.get(), 1);
        assert!(!cost.update(Duration::from_secs(1), true, Instant::ZERO));
        assert_eq!(cost.get(), 1);
    }

    #[test]
    fn every_time_has_a_cost() {
        for ms in [0, 1, 2, 3, 77, 255, 256, 509, 511, 10_000, 10_000_000] {
            assert!(quantise(Duration::from_millis(ms)) >= 1);
        }
        assert_eq!(quantise(Duration::from_secs(3600)), 231);
    }
}
