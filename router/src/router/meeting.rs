//! Owns the question whether this node has just come to another network, or its network to another one.
//!
//! Each tree has one root in a connected network, and another one in each part of a network that is cut in two. When
//! the parts meet, every tree keeps the better of its two roots: the nodes of the other side change to a better one. So
//! of k trees at least k / 2, rounded up, change for the better on one of the two sides, and that side knows. A root
//! that crashes, moves few trees and to the worse; one that comes back, few as well, unless the network is tiny.
use crate::config::TREES_MAX;
use crate::time::{Duration, Instant};
use crate::tree::Rank;

#[derive(Debug, Default)]
pub(super) struct Meeting {
    ranks: [Option<Rank>; TREES_MAX],
    /// Since when each tree's root is a better one.
    better: [Option<Instant>; TREES_MAX],
    due: Option<Instant>,
}

impl Meeting {
    /// The root of a tree has this rank now; there are so many trees.
    pub(super) fn see(&mut self, tree: usize, rank: Rank, trees: usize, now: Instant) {
        let Some(before) = self.ranks[tree].replace(rank) else { return };
        if rank < before {
            self.better[tree] = Some(now);
        } else if rank > before {
            self.better[tree] = None;
        }
        let recent = |at: &&Option<Instant>| at.is_some_and(|at| now.since(at) < TOGETHER);
        if rank < before && self.better.iter().filter(recent).count() >= trees.div_ceil(2) {
            self.due = Some(self.due.unwrap_or(now + SETTLED));
        }
    }

    /// When [`Self::take`] is wanted.
    pub(super) const fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Is it time to say so?
    pub(super) fn take(&mut self, now: Instant) -> bool {
        let due = self.due.take_if(|due| *due <= now).is_some();
        if due {
            self.better = Default::default();
        }
        due
    }
}

/// Trees that change within that time change for one reason.
const TOGETHER: Duration = Duration::from_secs(5);
/// Until then coordinates have settled, and records have gone out.
const SETTLED: Duration = Duration::from_millis(400);
