//! Owns what is measured of one way: round trips, loss, load, and whether an answer is due.
use super::feedback::Echo;
use crate::time::{Duration, Instant};

/// Measurements of one way.
#[derive(Debug)]
pub struct Gauge {
    /// Packets sent by it, low 32 bits.
    sent: u32,
    /// Of those the other end has seen so many, as it said last.
    echoed: Option<u32>,
    srtt: Option<Duration>,
    variation: Duration,
    loss: f32,
    load: u8,
    /// Packets sent by it that went once more by another way: their arrival says nothing of this one.
    excused: u32,
    /// `sent` and `echoed` when loss was last measured.
    window: Option<(u32, u32)>,
    /// A packet that wants an answer was sent then, and nothing was heard since.
    owed_since: Option<Instant>,
    asked_at: Instant,
    tails: Tails,
    /// Which of the other end's receiver indexes its packets bear.
    turn: u8,
}

/// What an echo says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct News {
    /// More packets with this way's number have come than before.
    pub grown: bool,
    /// They came by this way, so it works.
    pub works: bool,
}

/// The last 8 bytes of the latest packets: what a notice must name to be believed.
#[derive(Debug, Default)]
pub struct Tails {
    ring: Vec<[u8; 8]>,
    next: usize,
}

impl Tails {
    /// A packet with that tail was sent.
    pub fn push(&mut self, tail: [u8; 8]) {
        if self.ring.len() < TAILS {
            self.ring.push(tail);
        } else {
            self.ring[self.next] = tail;
            self.next = (self.next + 1) % TAILS;
        }
    }

    /// That packet went another way after all.
    pub fn forget(&mut self, tail: &[u8; 8]) {
        self.ring.iter_mut().filter(|known| *known == tail).for_each(|known| *known = [0; 8]);
    }

    /// Is it one of the latest?
    pub fn holds(&self, tail: &[u8; 8]) -> bool {
        self.ring.contains(tail)
    }
}

impl Default for Gauge {
    fn default() -> Self {
        Self {
            sent: 0,
            echoed: None,
            srtt: None,
            variation: Duration::ZERO,
            loss: 0.0,
            load: 0,
            excused: 0,
            window: None,
            owed_since: None,
            asked_at: Instant::ZERO,
            tails: Tails::default(),
            turn: 0,
        }
    }
}

impl Gauge {
    /// Packets sent by it so far, low 32 bits.
    pub const fn sent(&self) -> u32 {
        self.sent
    }

    /// Which of the other end's receiver indexes its packets bear.
    pub const fn turn(&self) -> u8 {
        self.turn
    }

    /// Packets bear that one from now on.
    pub fn set_turn(&mut self, turn: u8) {
        self.turn = turn;
    }

    /// The latest packets.
    pub const fn tails(&self) -> &Tails {
        &self.tails
    }

    /// Smoothed round trip, once measured.
    pub const fn srtt(&self) -> Option<Duration> {
        self.srtt
    }

    /// Share of packets that do not arrive, 0..=1.
    pub const fn loss(&self) -> f32 {
        self.loss
    }

    /// The highest load met lately, 0..=255.
    pub const fn load(&self) -> u8 {
        self.load
    }

    /// A packet goes out by it; `asks` if the other end will give a sign of it.
    pub fn on_sent(&mut self, tail: [u8; 8], asks: bool, now: Instant) {
        self.sent = self.sent.wrapping_add(1);
        self.tails.push(tail);
        if asks {
            self.owed_since.get_or_insert(now);
            self.asked_at = now;
        }
    }

    /// A packet that was sent by another way goes once more by this one, and its sender waits for a sign.
    pub fn on_resent(&mut self, tail: [u8; 8], now: Instant) {
        self.tails.push(tail);
        self.owed_since.get_or_insert(now);
        self.asked_at = now;
    }

    /// A packet that was sent by this way goes once more by another one.
    pub fn excuse(&mut self, tail: &[u8; 8]) {
        self.tails.forget(tail);
        self.excused += 1;
    }

    /// Have all packets that were sent by it arrived, as far as the other end says?
    pub fn is_complete(&self) -> bool {
        self.echoed == Some(self.sent)
    }

    /// The other end says what it has seen.
    pub fn on_echo(&mut self, echo: &Echo, now: Instant) -> News {
        let seen = self.echoed.replace(echo.received);
        let more = seen.map_or(1 + self.excused, |seen| echo.received.wrapping_sub(seen));
        let grown = more > 0 && more < u32::MAX / 2;
        let news = grown && more > self.excused;
        if grown {
            self.excused = self.excused.saturating_sub(more);
        }
        // Rises at once, falls by half with each echo.
        self.load = echo.load.max(self.load / 2);
        if news {
            // What was asked within the last half round trip cannot be answered yet.
            let young = self.srtt.unwrap_or_default() / 2;
            self.owed_since = (self.asked_at + young > now && self.owed_since.is_some()).then_some(now);
        }
        News { grown, works: news }
    }

    /// A question by it was answered, after so long; `sent_then` packets had been sent before the question.
    pub fn on_pong(&mut self, rtt: Duration, sent_then: u32, now: Instant) {
        match self.srtt {
            None => {
                self.srtt = Some(rtt);
                self.variation = rtt / 2;
            }
            Some(srtt) => {
                let off = srtt.abs_diff(rtt);
                self.variation = (self.variation * 3 + off) / 4;
                self.srtt = Some((srtt * 7 + rtt) / 8);
            }
        }
        self.owed_since = (self.asked_at + rtt / 2 > now && self.owed_since.is_some()).then_some(now);
        self.excused = 0;
        let Some(echoed) = self.echoed else { return };
        if let Some((sent, seen)) = self.window {
            let (sent, seen) = (sent_then.wrapping_sub(sent), echoed.wrapping_sub(seen));
            if !(LOSS_WINDOW..=u32::MAX / 2).contains(&sent) {
                return;
            }
            let lost = 1.0 - (seen as f32 / sent as f32).min(1.0);
            self.loss = (self.loss + lost) / 2.0;
        }
        self.window = Some((sent_then, echoed));
    }

    /// The way that the handshake took, measured by it.
    pub fn begin(&mut self, rtt: Duration) {
        self.srtt.get_or_insert(rtt);
        self.variation = rtt / 4;
    }

    /// Nothing is owed any more: it was given up, or the other end was heard otherwise.
    pub fn forgive(&mut self) {
        self.owed_since = None;
    }

    /// No answer for so long and the way is given up: three round trips, 150 ms at least.
    pub fn patience(&self, guess: Duration) -> Duration {
        let srtt = self.srtt.unwrap_or(guess);
        (srtt * 3).max(srtt + self.variation * 4).clamp(PATIENCE_MIN, PATIENCE_MAX)
    }

    /// When an answer that is due is asked for, before the patience ends.
    pub fn ask_at(&self, guess: Duration) -> Option<Instant> {
        let srtt = self.srtt.unwrap_or(guess);
        let wait = (self.patience(guess) / 2).max(srtt + ASK_AFTER).min(self.patience(guess) * 3 / 4);
        Some(self.owed_since? + wait)
    }

    /// When the way is given up, unless something is heard.
    pub fn fail_at(&self, guess: Duration) -> Option<Instant> {
        Some(self.owed_since? + self.patience(guess))
    }
}

/// Packets of which a notice is believed.
const TAILS: usize = 64;
/// Packets over which loss is measured: one of them is 3 %.
const LOSS_WINDOW: u32 = 32;
const PATIENCE_MIN: Duration = Duration::from_millis(150);
/// Beyond, the session has noticed the silence itself.
const PATIENCE_MAX: Duration = Duration::from_secs(3);
/// The other end answers a packet within 25 ms of its coming.
const ASK_AFTER: Duration = Duration::from_millis(35);

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Instant {
        Instant::from_micros(ms * 1000)
    }

    const GUESS: Duration = Duration::from_millis(100);

    #[test]
    fn what_is_not_answered_is_asked_for_and_then_given_up() {
        let mut gauge = Gauge::default();
        gauge.begin(Duration::from_millis(30));
        assert_eq!(gauge.fail_at(GUESS), None);
        gauge.on_sent([1; 8], true, ms(1000));
        gauge.on_sent([2; 8], true, ms(1100));
        assert_eq!(gauge.ask_at(GUESS), Some(ms(1075)));
        assert_eq!(gauge.fail_at(GUESS), Some(ms(1150)));
        assert!(gauge.on_echo(&Echo { route: 1, received: 1, load: 0 }, ms(1110)).works);
        assert_eq!(gauge.fail_at(GUESS), Some(ms(1260)), "the second is younger than half a round trip");
        assert!(!gauge.on_echo(&Echo { route: 1, received: 1, load: 0 }, ms(1130)).grown, "no news");
        assert!(gauge.on_echo(&Echo { route: 1, received: 2, load: 0 }, ms(1130)).works);
        assert_eq!(gauge.fail_at(GUESS), None);
    }

    #[test]
    fn what_went_once_more_by_another_way_is_no_sign_of_this_one() {
        let mut gauge = Gauge::default();
        gauge.on_sent([1; 8], true, ms(0));
        gauge.on_sent([2; 8], true, ms(10));
        gauge.on_echo(&Echo { route: 1, received: 1, load: 0 }, ms(20));
        gauge.excuse(&[2; 8]);
        assert!(!gauge.tails().holds(&[2; 8]), "a notice about it is meant for the other way");
        let news = gauge.on_echo(&Echo { route: 1, received: 2, load: 0 }, ms(200));
        assert_eq!(news, News { grown: true, works: false });
        let news = gauge.on_echo(&Echo { route: 1, received: 3, load: 0 }, ms(300));
        assert_eq!(news, News { grown: true, works: true });
    }

    #[test]
    fn loss_is_what_does_not_arrive() {
        let mut gauge = Gauge::default();
        for round in 0..10u32 {
            let sent = gauge.sent();
            gauge.on_echo(&Echo { route: 1, received: round * 50, load: 0 }, ms(0));
            gauge.on_pong(Duration::from_millis(10), sent, ms(0));
            (0..100).for_each(|_| gauge.on_sent([0; 8], false, ms(0)));
        }
        assert!((0.45..0.51).contains(&gauge.loss()), "{}", gauge.loss());
    }

    #[test]
    fn a_load_falls_slowly() {
        let mut gauge = Gauge::default();
        gauge.on_echo(&Echo { route: 1, received: 1, load: 200 }, ms(0));
        gauge.on_echo(&Echo { route: 1, received: 2, load: 0 }, ms(0));
        assert_eq!(gauge.load(), 100);
    }
}
