//! Owns how long an answer may take: as long as answers did lately (RFC 6298), within bounds.
//!
//! Where each hop takes a tenth of a second most answers of a few hops come after the least patience: to ask again then would
//! double what searches cost.
use crate::time::Duration;

/// What answers to first questions took.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Patience {
    /// The smoothed time and how far answers are from it, once there is one.
    known: Option<(Duration, Duration)>,
}

impl Patience {
    /// An answer took so long.
    pub(super) fn sample(&mut self, took: Duration) {
        self.known = Some(match self.known {
            None => (took, took / 2),
            Some((smoothed, apart)) => {
                let off = smoothed.max(took) - smoothed.min(took);
                (smoothed - smoothed / 8 + took / 8, apart - apart / 4 + off / 4)
            }
        });
    }

    /// So long a first question waits.
    pub(super) fn get(&self) -> Duration {
        let wanted = self.known.map_or(LEAST, |(smoothed, apart)| smoothed + apart * 4);
        wanted.clamp(LEAST, MOST)
    }
}

/// While nothing is known, and where all is quick.
const LEAST: Duration = Duration::from_millis(300);
/// Who has not answered by then is asked again, whatever answers took: a path of a search waits meanwhile.
const MOST: Duration = Duration::from_millis(1000);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_follows_what_answers_take_within_bounds() {
        let mut patience = Patience::default();
        assert_eq!(patience.get(), LEAST);
        for _ in 0..50 {
            patience.sample(Duration::from_millis(500));
        }
        assert!((500..600).contains(&patience.get().as_millis()), "{:?}", patience.get());
        for _ in 0..50 {
            patience.sample(Duration::from_secs(9));
        }
        assert_eq!(patience.get(), MOST);
        for _ in 0..100 {
            patience.sample(Duration::from_millis(2));
        }
        assert_eq!(patience.get(), LEAST);
    }
}
