//! Owns the window that lets every counter of a datagram link through once.

/// Accepts each counter once; those more than [`Self::SPAN`] behind the newest not at all.
#[derive(Clone, Debug)]
pub struct Window {
    next: u64,
    bits: [u64; Self::WORDS],
}

impl Default for Window {
    fn default() -> Self {
        Self::new()
    }
}

impl Window {
    const WORDS: usize = 16;
    /// How far behind the newest a late frame may be: a millisecond of a fast link, a second of a slow one.
    pub const SPAN: u64 = 64 * (Self::WORDS as u64 - 1);

    /// Nothing seen.
    pub const fn new() -> Self {
        Self { next: 0, bits: [0; Self::WORDS] }
    }

    /// Could this counter still be accepted? Ask before the (dear) check of its seal.
    pub const fn is_fresh(&self, counter: u64) -> bool {
        if counter == u64::MAX {
            return false;
        }
        if counter >= self.next {
            return true;
        }
        if self.next - counter > Self::SPAN {
            return false;
        }
        self.bits[(counter / 64) as usize % Self::WORDS] & 1 << (counter % 64) == 0
    }

    /// Its seal held: never again.
    pub fn accept(&mut self, counter: u64) {
        if counter >= self.next {
            // Clear the words that the newest counter takes over from those long ago.
            let (from, to) = (self.next.div_ceil(64), counter / 64);
            for word in from..=to.min(from.saturating_add(Self::WORDS as u64 - 1)) {
                self.bits[word as usize % Self::WORDS] = 0;
            }
            if to >= from.saturating_add(Self::WORDS as u64) {
                self.bits = [0; Self::WORDS];
            }
            self.next = counter + 1;
        }
        self.bits[(counter / 64) as usize % Self::WORDS] |= 1 << (counter % 64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn accepts_what_a_set_would(steps in proptest::collection::vec((0u64..5, 0u64..1500), 1..400)) {
            let (mut window, mut seen, mut newest) = (Window::new(), BTreeSet::new(), 0u64);
            for (kind, step) in steps {
                let counter = if kind < 3 { newest + step % 130 } else if kind == 3 { newest + step } else { newest.saturating_sub(step) };
                let expected = !seen.contains(&counter) && counter + Window::SPAN > newest;
                if counter + Window::SPAN != newest + 1 && counter + Window::SPAN != newest {
                    prop_assert_eq!(window.is_fresh(counter), expected, "counter {} newest {}", counter, newest);
                }
                if window.is_fresh(counter) {
                    window.accept(counter);
                    prop_assert!(!window.is_fresh(counter));
                    seen.insert(counter);
                    newest = newest.max(counter);
                }
            }
        }
    }

    #[test]
    fn the_last_counter_is_never_used() {
        assert!(!Window::new().is_fresh(u64::MAX));
    }
}
