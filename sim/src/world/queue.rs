//! What is due, the earliest first: a wheel of short spans, of which only the present one is kept in order. One heap of
//! all that is under way in a large network would be walked from top to bottom for each frame, and lie in no cache.

use std::collections::BinaryHeap;

use super::due::Due;

/// A queue of [`Due`]s. The order is that of one heap.
pub(super) struct Queue {
    /// All that is due up to the end of the span `cursor`.
    near: BinaryHeap<Due>,
    /// What is due in the spans after that, each where its number says.
    wheel: Vec<Vec<Due>>,
    /// How many are in the wheel.
    turning: usize,
    /// What is due later than the wheel reaches.
    far: BinaryHeap<Due>,
    cursor: u64,
}

impl Default for Queue {
    fn default() -> Self {
        let wheel = (0..SPANS).map(|_| Vec::new()).collect();
        Self { near: BinaryHeap::new(), wheel, turning: 0, far: BinaryHeap::new(), cursor: 0 }
    }
}

impl Queue {
    /// One more. O(1), but for what is due within the present span or beyond the wheel.
    pub(super) fn push(&mut self, due: Due) {
        let span = span(&due);
        if span <= self.cursor {
            self.near.push(due);
        } else if span < self.cursor + SPANS {
            self.wheel[(span % SPANS) as usize].push(due);
            self.turning += 1;
        } else {
            self.far.push(due);
        }
    }

    /// The earliest.
    pub(super) fn peek(&mut self) -> Option<&Due> {
        while self.near.is_empty() {
            if self.turning > 0 {
                self.cursor += 1;
            } else {
                self.cursor = span(self.far.peek()?);
            }
            while self.far.peek().is_some_and(|due| span(due) < self.cursor + SPANS) {
                let due = self.far.pop()?;
                self.push(due);
            }
            let present = std::mem::take(&mut self.wheel[(self.cursor % SPANS) as usize]);
            self.turning -= present.len();
            self.near.extend(present);
        }
        self.near.peek()
    }

    /// Takes the earliest.
    pub(super) fn pop(&mut self) -> Option<Due> {
        self.peek()?;
        self.near.pop()
    }
}

fn span(due: &Due) -> u64 {
    due.at.as_micros() / SPAN_US
}

/// Microseconds of a span.
const SPAN_US: u64 = 128;
/// The wheel reaches half a second, which is longer than most frames are under way.
const SPANS: u64 = 4096;

#[cfg(test)]
mod tests {
    use router::Instant;

    use super::{super::due::What, *};
    use crate::link::Dice;

    #[test]
    fn it_gives_what_a_heap_gives() {
        let (mut queue, mut heap, mut dice) = (Queue::default(), BinaryHeap::new(), Dice::new(7));
        let (mut now, mut order) = (0, 0);
        for round in 0..20_000 {
            // Near, within the wheel, far beyond it, now and then all over.
            let reach = [50.0, 20_000.0, 700_000.0, 90_000_000.0][round % 4];
            for _ in 0..if round < 10_000 { 2 } else { 0 } {
                order += 1;
                let at = Instant::from_micros(now + (dice.roll() * reach) as u64);
                let due = || Due { at, order, node: 0, what: What::Wake };
                queue.push(due());
                heap.push(due());
            }
            assert_eq!(
                queue.peek().map(|due| (due.at, due.order)),
                heap.peek().map(|due| (due.at, due.order))
            );
            let (one, other) = (queue.pop(), heap.pop());
            assert_eq!(one.as_ref().map(|due| (due.at, due.order)), other.map(|due| (due.at, due.order)));
            now = one.map_or(now, |due| due.at.as_micros());
        }
        assert!(queue.pop().is_none() && heap.is_empty());
    }
}
