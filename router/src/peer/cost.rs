//! Owns what a link costs: round-trip times, and the one byte that is made of them.
//!
//! A cost is part of places, and a place that moves is told to all below it, to the keepers of its record and to everybody it
//! talks to: some kilobytes on each link. So a cost follows the link, and not what waits, stalls and jitters on it. While a link is new
//! its measurements count as they come. Later a cost moves only when nearly all of the latest measurements lie beyond it on one
//! side, by half of it at least, over half a minute, and only so often.
use crate::time::{Duration, Instant};

/// What was measured: the smoothed round-trip time (RFC 6298's weights), and the latest ones.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rtt {
    smoothed: Option<Duration>,
    /// The latest that count, in microseconds, the newest at `(samples - 1) % RECENT`.
    recent: [u32; RECENT],
    samples: u32,
    kept: Instant,
}

impl Rtt {
    /// One more measurement. Says whether it counts for the link's cost.
    pub fn sample(&mut self, rtt: Duration, now: Instant) -> bool {
        // One stall of a stream delays all that is asked meanwhile: it counts once.
        let counts = !self.is_known() || now - self.kept >= APART;
        if counts {
            self.recent[self.samples as usize % RECENT] = u32::try_from(rtt.as_micros()).unwrap_or(u32::MAX);
            self.samples = self.samples.saturating_add(1);
            self.kept = now;
        }
        self.smoothed = Some(match self.smoothed {
            None => rtt,
            Some(old) => old - old / 8 + rtt / 8,
        });
        counts
    }

    /// The smoothed time, once there is one.
    pub const fn smoothed(&self) -> Option<Duration> {
        self.smoothed
    }

    /// What a third of the latest are below: what the link takes when nothing goes wrong. Frames that TCP had to send again, or
    /// that waited behind a burst or for a processor, do not move it, but a link on which most go wrong is slow.
    pub fn typical(&self) -> Option<Duration> {
        let mut recent = self.recent;
        let known = &mut recent[..(self.samples as usize).min(RECENT)];
        known.sort_unstable();
        known.get(known.len() / 3).map(|&micros| Duration::from_micros(micros.into()))
    }

    /// Has the link been measured as often as a new one is?
    pub const fn is_known(&self) -> bool {
        self.samples >= FIRST
    }

    /// A new link is measured again after so long; then as often as it is asked for a sign of life.
    pub fn next(&self) -> Option<Duration> {
        (!self.is_known()).then(|| FIRST_EVERY * (1 << self.samples.saturating_sub(QUICK).min(5)))
    }

    /// The smoothed time, or a guess that suits most links.
    pub fn or_guess(&self) -> Duration {
        self.smoothed.unwrap_or(RTT_GUESS)
    }

    /// Of the latest measurements, how many make a cost that is beyond that one, above or below, and how many of the newest in a row.
    fn beyond(&self, cost: u8, above: bool) -> (usize, usize) {
        let count = (self.samples as usize).min(RECENT);
        let newest_first = (1..=count).map(|back| self.recent[(self.samples as usize - back) % RECENT]);
        let beyond = |micros: u32| {
            let sample = quantise(Duration::from_micros(micros.into()));
            is_beyond(cost, sample) && (sample > cost) == above
        };
        let beyond: Vec<bool> = newest_first.map(beyond).collect();
        let row = beyond.iter().take_while(|beyond| **beyond).count();
        (beyond.iter().filter(|beyond| **beyond).count(), row)
    }
}

/// Cost of a link: milliseconds one way on a grid of steps of a quarter, kept still against jitter.
#[derive(Clone, Copy, Debug)]
pub struct Cost {
    fixed: Option<u8>,
    current: u8,
    /// Changes that a known link may still make.
    tokens: u8,
    refilled: Instant,
    /// Since when measurements have been beyond it in a row.
    off_since: Option<Instant>,
    /// When a link that seems to have changed was last measured at once.
    looked: Option<Instant>,
}

impl Cost {
    /// `fixed` by the operator, or measured.
    pub fn new(fixed: Option<u8>) -> Self {
        let fixed = fixed.map(|cost| cost.max(1));
        let (refilled, off_since, looked) = (Instant::ZERO, None, None);
        Self { fixed, current: fixed.unwrap_or(1), tokens: TOKENS, refilled, off_since, looked }
    }

    /// The cost that counts, 1..=255.
    pub const fn get(&self) -> u8 {
        self.current
    }

    /// There is a measurement that counts. Says whether the cost changed: while the link is new as it comes; later only if nearly
    /// all of the latest are beyond it for [`HOLD`], and a token is left.
    pub fn update(&mut self, rtt: &Rtt, now: Instant) -> bool {
        let Some(typical) = rtt.typical().filter(|_| self.fixed.is_none()) else { return false };
        let wanted = quantise(typical);
        if !rtt.is_known() {
            let change = rtt.samples == 1 && wanted != self.current || is_beyond(self.current, wanted);
            if change {
                self.current = wanted;
            }
            return change;
        }
        let rises = wanted > self.current;
        let (beyond, row) = rtt.beyond(self.current, rises);
        if row == 0 {
            self.off_since = None;
            return false;
        }
        let since = *self.off_since.get_or_insert(now);
        if beyond < MOST || !is_beyond(self.current, wanted) || now - since < HOLD {
            return false;
        }
        let rested = (now - self.refilled).as_micros() / TOKEN_EVERY.as_micros();
        if rested > 0 {
            self.tokens = TOKENS.min(self.tokens.saturating_add(u8::try_from(rested).unwrap_or(TOKENS)));
            self.refilled = now;
        }
        if self.tokens == 0 {
            return false;
        }
        self.tokens -= 1;
        self.off_since = None;
        self.current = wanted;
        true
    }

    /// The latest measurement is beyond the cost, and all before were not, or it is the second in a row: it is worth the bytes to
    /// measure again, after so long, while they stay beyond it.
    pub fn next(&mut self, rtt: &Rtt, now: Instant) -> Option<Duration> {
        let (above, below) = (rtt.beyond(self.current, true), rtt.beyond(self.current, false));
        let row = above.1.max(below.1);
        if self.fixed.is_some() || !rtt.is_known() || row == 0 {
            return None;
        }
        let suspicious = row == DOUBTED || above.0 + below.0 == 1;
        if suspicious && self.looked.is_none_or(|last| now - last >= LOOK_REST) {
            self.looked = Some(now);
        }
        let going = self.looked.is_some_and(|last| now - last < LOOK_FOR);
        going.then_some(LOOK_EVERY)
    }
}

/// Is that cost another one, and not the same with noise: by half of the lesser, and by more than [`NOISE`]?
fn is_beyond(cost: u8, other: u8) -> bool {
    let (least, most) = (u32::from(cost.min(other)), u32::from(cost.max(other)));
    2 * most >= 3 * least && most - least > u32::from(NOISE)
}

/// Milliseconds one way, rounded down to a step of the grid.
fn quantise(rtt: Duration) -> u8 {
    let millis = (rtt / 2).as_micros().div_ceil(1000).clamp(1, 255) as u8;
    let step = GRID.partition_point(|&step| step <= millis);
    GRID[step - 1]
}

/// Steps of about a quarter: a change is two steps or more.
const GRID: [u8; 22] = [1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 19, 24, 30, 38, 48, 60, 75, 94, 118, 148, 185, 231];
/// Once a link is known, only measurements so far apart count.
const APART: Duration = Duration::from_secs(1);
/// Measurements that are looked at. Each side makes one a minute over an idle link.
const RECENT: usize = 8;
/// Of these so many must be beyond the cost on one side.
const MOST: usize = 7;
/// A new link is measured so often,
const FIRST: u32 = 10;
/// these first ones so far apart, the later ones each twice as far: a machine that has just started is busy.
const FIRST_EVERY: Duration = Duration::from_millis(250);
/// See [`FIRST_EVERY`].
const QUICK: u32 = 4;
/// A change must last that long: routes that move with every burst of traffic help nobody.
pub const HOLD: Duration = Duration::from_secs(30);
/// Milliseconds that a busy machine adds and takes away: among near neighbours no reason to move.
pub const NOISE: u8 = 2;
/// Changes of a known link in a row,
const TOKENS: u8 = 3;
/// and one more each time that has passed.
const TOKEN_EVERY: Duration = Duration::from_secs(300);
/// On a link that jitters so many measurements beyond the cost in a row are a reason to look.
const DOUBTED: usize = 2;
/// Then so often,
const LOOK_EVERY: Duration = Duration::from_secs(6);
/// for so long at most,
const LOOK_FOR: Duration = Duration::from_secs(50);
/// and not again for so long: eight measurements of 150 bytes in that time.
const LOOK_REST: Duration = Duration::from_secs(180);
/// Before the first measurement.
const RTT_GUESS: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Instant {
        Instant::from_micros(ms * 1000)
    }

    /// A link that is measured as [`super::super::link`] does.
    struct Case {
        rtt: Rtt,
        cost: Cost,
        now: u64,
        changes: u32,
        measured: u32,
    }

    impl Case {
        fn new(fixed: Option<u8>) -> Self {
            Self { rtt: Rtt::default(), cost: Cost::new(fixed), now: 0, changes: 0, measured: 0 }
        }

        /// For so many minutes, each round trip taking so many milliseconds; stops at the first change if that is wanted. Gives
        /// the seconds that passed.
        fn run(&mut self, minutes: u64, stop: bool, mut millis: impl FnMut() -> f64) -> u64 {
            let began = self.now;
            while self.now < began + minutes * 60_000 {
                self.measured += 1;
                let counts = self.rtt.sample(Duration::from_secs_f64(millis() / 1000.0), at(self.now));
                let changed = counts && self.cost.update(&self.rtt, at(self.now));
                self.changes += u32::from(changed);
                if changed && stop {
                    break;
                }
                let next = self.rtt.next().or_else(|| self.cost.next(&self.rtt, at(self.now)));
                self.now += next.map_or(60_000, |next| next.as_millis() as u64);
            }
            (self.now - began) / 1000
        }
    }

    /// Evenly in 0..1.
    fn dice(seed: u64) -> impl FnMut() -> f64 {
        let mut state = seed;
        move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as f64 / (1u64 << 31) as f64
        }
    }

    #[test]
    fn the_first_measurement_counts_at_once() {
        let mut case = Case::new(None);
        case.run(5, true, || 40.0);
        assert_eq!((case.cost.get(), case.now, case.changes), (19, 0, 1));
        case.run(5, false, || 40.0);
        assert_eq!((case.changes, case.rtt.is_known()), (1, true));
    }

    #[test]
    fn a_start_on_a_busy_machine_is_forgotten_soon() {
        let mut case = Case::new(None);
        let mut n = 0;
        case.run(3, false, || {
            n += 1;
            if n <= 5 { 120.0 } else { 0.6 }
        });
        assert_eq!(case.cost.get(), 1);
        assert!(case.changes <= 2);
    }

    #[test]
    fn jitter_moves_no_cost() {
        // Ten links for ten hours each, jitter of a few or many milliseconds on a short or a long way.
        for (base, jitter) in [(0.6, 5.0), (0.6, 20.0), (0.6, 150.0), (20.0, 20.0), (80.0, 150.0)] {
            let (mut changes, mut measured) = (0, 0);
            for seed in 0..10 {
                let (mut case, mut dice) = (Case::new(None), dice(seed));
                case.run(5, false, || base + jitter * (dice() + dice()));
                (case.changes, case.measured) = (0, 0);
                case.run(600, false, || base + jitter * (dice() + dice()));
                changes += case.changes;
                measured += case.measured;
            }
            println!(
                "{base} + {jitter}: {changes} changes in 100 hours, {} measurements an hour",
                measured / 100
            );
            assert!(changes <= 20, "{base} + {jitter}: {changes} in 100 hours");
            assert!(measured <= 100 * 90, "{base} + {jitter}: {measured} measurements in 100 hours");
        }
    }

    #[test]
    fn what_lasts_is_followed_within_minutes() {
        for (before, after, jitter) in
            [(1.0, 20.0, 0.1), (40.0, 8.0, 2.0), (30.0, 130.0, 20.0), (200.0, 20.0, 5.0)]
        {
            let (mut case, mut dice) = (Case::new(None), dice(7));
            case.run(60, false, || before + jitter * dice());
            assert!(case.changes <= 2);
            let took = case.run(60, true, || after + jitter * dice());
            println!("{before} -> {after}: {took} s");
            assert!(took <= 180, "{before} -> {after}: {took} s");
            let wanted = quantise(Duration::from_secs_f64((after + jitter / 2.0) / 1000.0));
            assert!(!is_beyond(wanted, case.cost.get()), "{wanted} {}", case.cost.get());
        }
    }

    #[test]
    fn a_link_that_goes_to_and_fro_does_so_seldom() {
        let mut case = Case::new(None);
        let (mut n, hours) = (0u64, 10);
        case.run(hours * 60, false, || {
            n += 1;
            if n / 12 % 2 == 0 { 2.0 } else { 60.0 }
        });
        assert!(u64::from(case.changes) <= 4 + hours * 12, "{}", case.changes);
    }

    #[test]
    fn a_busy_machine_is_not_a_longer_way() {
        let mut case = Case::new(None);
        let mut n = 0;
        case.run(100, false, || {
            n += 1;
            if n % 20 < 10 { 0.3 } else { 5.9 }
        });
        assert_eq!((case.changes, case.cost.get()), (0, 1));
    }

    #[test]
    fn a_few_late_answers_do_not_move_the_cost() {
        let mut case = Case::new(None);
        let mut n = 0;
        case.run(600, false, || {
            n += 1;
            if n % 3 == 2 || n % 7 == 2 { 400.0 } else { 8.0 }
        });
        assert_eq!((case.changes, case.cost.get()), (1, 4));
        // What else is asked during a stall.
        let counts = |n: u64| case.rtt.sample(Duration::from_millis(300), at(case.now + 10 * n));
        assert_eq!((0..20).map(counts).filter(|counts| *counts).count(), 1);
    }

    #[test]
    fn the_operators_cost_stays() {
        let mut case = Case::new(Some(0));
        case.run(100, false, || 1000.0);
        assert_eq!((case.changes, case.cost.get()), (0, 1));
    }

    #[test]
    fn every_time_has_a_cost() {
        for ms in [0, 1, 2, 3, 77, 255, 256, 509, 511, 10_000, 10_000_000] {
            assert!(quantise(Duration::from_millis(ms)) >= 1);
        }
        assert_eq!(quantise(Duration::from_secs(3600)), 231);
    }
}
