//! Owns what came by the other end's ways: how many packets by each, the highest load that they met, and what of it the
//! other end should hear next.
use crate::time::{Duration, Instant};

/// The other end's ways, as far as packets have come by them.
#[derive(Debug)]
pub struct Feedback {
    ways: Vec<Seen>,
    turn: usize,
    patience: Duration,
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    id: u8,
    received: u32,
    load: u8,
    /// A packet that wants an answer came, and nothing was said since.
    owes_since: Option<Instant>,
    used_at: Instant,
}

/// What the sealed header says of one way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Echo {
    /// The other end's number of it.
    pub route: u8,
    /// Packets that came by it, low 32 bits.
    pub received: u32,
    /// The highest load that they met since the last echo.
    pub load: u8,
}

impl Feedback {
    /// Nothing has come yet. A packet of the application is answered after that time, if nothing else goes back.
    pub const fn new(patience: Duration) -> Self {
        Self { ways: Vec::new(), turn: 0, patience }
    }

    /// A packet has come by that way; `asks` if its sender waits for a sign.
    pub fn on_packet(&mut self, id: u8, load: u8, asks: bool, now: Instant) {
        let at = match self.ways.iter().position(|way| way.id == id) {
            Some(at) => at,
            None => {
                if self.ways.len() >= WAYS_MAX {
                    let oldest = (0..self.ways.len()).min_by_key(|&at| self.ways[at].used_at).unwrap_or(0);
                    self.ways.swap_remove(oldest);
                }
                self.ways.push(Seen { id, received: 0, load: 0, owes_since: None, used_at: now });
                self.ways.len() - 1
            }
        };
        let way = &mut self.ways[at];
        way.received = way.received.wrapping_add(1);
        way.load = way.load.max(load);
        way.used_at = now;
        if asks {
            way.owes_since.get_or_insert(now);
        }
    }

    /// What the next packet says: of `about` if that is given, else of a way whose sender waits, else of each in turn.
    pub fn take(&mut self, about: Option<u8>) -> Echo {
        let asked = about.and_then(|id| self.ways.iter().position(|way| way.id == id));
        let owing = || {
            let waiting = self.ways.iter().enumerate().filter_map(|(at, way)| Some((way.owes_since?, at)));
            waiting.min().map(|(_, at)| at)
        };
        let Some(at) = asked.or_else(owing).or_else(|| {
            self.turn = self.turn.wrapping_add(1);
            (!self.ways.is_empty()).then(|| self.turn % self.ways.len())
        }) else {
            return Echo::default();
        };
        let way = &mut self.ways[at];
        way.owes_since = None;
        Echo { route: way.id, received: way.received, load: std::mem::take(&mut way.load) }
    }

    /// When something must be said, if no packet of ours says it before.
    pub fn deadline(&self) -> Option<Instant> {
        Some(self.ways.iter().filter_map(|way| way.owes_since).min()? + self.patience)
    }
}

/// Ways of one sender that are counted apart: its four, those that they replaced, the trees.
const WAYS_MAX: usize = 16;
/// A packet of the application is answered by then: soon enough for a sender that gives a way up after 150 ms.
pub const ACK_AFTER: Duration = Duration::from_millis(25);
/// The same where there are no ways to choose from: so that its sender knows that the other end is there.
pub const ACK_SELDOM: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_longest_is_told_first() {
        let mut feedback = Feedback::new(ACK_AFTER);
        assert_eq!(feedback.take(None), Echo::default());
        feedback.on_packet(3, 10, false, Instant::from_micros(0));
        feedback.on_packet(5, 20, true, Instant::from_micros(10));
        feedback.on_packet(4, 90, true, Instant::from_micros(5));
        feedback.on_packet(4, 30, true, Instant::from_micros(20));
        assert_eq!(feedback.deadline(), Some(Instant::from_micros(5) + ACK_AFTER));
        assert_eq!(feedback.take(None), Echo { route: 4, received: 2, load: 90 });
        assert_eq!(feedback.take(None), Echo { route: 5, received: 1, load: 20 });
        assert_eq!(feedback.deadline(), None);
        assert_eq!(feedback.take(Some(4)), Echo { route: 4, received: 2, load: 0 }, "a load is told once");
    }

    #[test]
    fn the_table_is_bounded() {
        let mut feedback = Feedback::new(ACK_AFTER);
        for id in 0..=255 {
            feedback.on_packet(id, 0, true, Instant::from_micros(id.into()));
        }
        assert_eq!(feedback.ways.len(), WAYS_MAX);
        assert_eq!(feedback.take(Some(255)).received, 1);
    }
}
