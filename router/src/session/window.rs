//! Owns the replay window: which counters of a key have been seen, however much packets overtook each other.

/// Bits over the newest [`WINDOW`] counters, as a ring of words (RFC 6479).
pub(crate) struct Window {
    /// One more than the highest counter seen.
    next: u64,
    /// Short until so many counters have been used: most sessions never do.
    ring: Vec<u64>,
}

impl Window {
    pub(crate) fn new() -> Self {
        Self { next: 0, ring: vec![0; WORDS_FIRST] }
    }

    /// Has nothing been marked yet?
    pub(crate) fn is_unused(&self) -> bool {
        self.next == 0
    }

    /// Is that counter new? Says nothing about packets older than the window: they are not.
    pub(crate) fn is_new(&self, counter: u64) -> bool {
        if counter >= self.next {
            return counter <= COUNTER_MAX;
        }
        self.next - counter <= WINDOW
            && self.ring.get(word(counter)).is_none_or(|word| word & bit(counter) == 0)
    }

    /// Marks a counter that was found new, after its packet has been opened.
    pub(crate) fn mark(&mut self, counter: u64) {
        if counter >= self.next {
            if word(counter) >= self.ring.len() || counter / 64 >= WORDS as u64 {
                // Nothing has wrapped yet in the short one, so each word keeps its place.
                self.ring.resize(WORDS, 0);
            }
            let (old, new) = (self.next / 64, counter / 64);
            // The word of `next` may hold bits already, those behind it are stale.
            let first = if self.next.is_multiple_of(64) { old } else { old + 1 };
            for stale in first.max((new + 1).saturating_sub(WORDS as u64))..=new {
                self.ring[stale as usize % WORDS] = 0;
            }
            self.next = counter + 1;
        }
        self.ring[word(counter)] |= bit(counter);
    }
}

/// Counters that may arrive late: 8 192 for each of four ways, over which the packets of one key are spread. 8 192 packets of
/// 1 280 bytes are 80 ms at a gigabit a second.
pub(crate) const WINDOW: u64 = 4 * 8192;
/// No key seals more than this; WireGuard's bound.
pub(crate) const COUNTER_MAX: u64 = 1 << 60;
/// One word more than the window, so that a word is cleared before it is reused.
const WORDS: usize = WINDOW as usize / 64 + 1;
/// The first 1 024 counters.
const WORDS_FIRST: usize = 16;

fn word(counter: u64) -> usize {
    (counter / 64) as usize % WORDS
}

fn bit(counter: u64) -> u64 {
    1 << (counter % 64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_edges() {
        let mut window = Window::new();
        assert!(window.is_new(0));
        window.mark(0);
        assert!(!window.is_new(0));
        window.mark(WINDOW);
        assert!(!window.is_new(0), "just behind the window");
        assert!(window.is_new(1), "just inside");
        assert!(!window.is_new(COUNTER_MAX + 1));
        window.mark(COUNTER_MAX);
        assert!(!window.is_new(1));
        assert!(!window.is_new(COUNTER_MAX));
        assert!(window.is_new(COUNTER_MAX - 1));
    }

    proptest! {
        #[test]
        fn each_counter_counts_once(steps in proptest::collection::vec((0u64..50_000, 0u64..1200), 1..300)) {
            let mut window = Window::new();
            let mut seen = BTreeSet::new();
            let mut base = 0;
            for (back, forward) in steps {
                base += forward;
                let counter = (base + 64).saturating_sub(back);
                let highest = seen.last().copied();
                let inside = highest.is_none_or(|highest| counter > highest || highest - counter < WINDOW);
                prop_assert_eq!(window.is_new(counter), inside && !seen.contains(&counter));
                if window.is_new(counter) {
                    window.mark(counter);
                    seen.insert(counter);
                }
            }
        }
    }
}
