//! Owns the question whether this node has just come to another network, or its network to another one.
//!
//! Each tree has one root in a connected network, and another one in each part of a network that is cut in two. When
//! the parts meet, every tree keeps the better of its two roots: the nodes of the other side change to a better one. So
//! of k trees at least k / 2, rounded up, change for the better on one of the two sides, and that side knows. A root
//! that crashes, moves few trees and to the worse; one that comes back, few as well, unless the network is tiny.
use crate::config::TREES_MAX;
use crate::crypto::random;
use crate::id::NodeId;
use crate::lookup::{Locator, Position};
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

impl super::Router {
    /// Nodes on the ways to the roots, a few of each tree, the roots first: those of the side that has the better roots are
    /// among them.
    pub(super) fn guides(&mut self) -> Vec<(NodeId, Position)> {
        let mut guides: Vec<(NodeId, Position)> = Vec::new();
        let mut ways: Vec<_> = (0..self.trees.len()).map(|tree| self.trees.ancestors(tree)).collect();
        // The root of each, then one anywhere on each way, and so on: not everybody asks the same.
        for round in 0..GUIDES_EACH {
            for (tree, way) in ways.iter_mut().enumerate() {
                if way.is_empty() {
                    continue;
                }
                let byte = usize::from(random::<1>(&mut *self.entropy)[0]);
                let at = if round == 0 { way.len() - 1 } else { byte % way.len() };
                let (node, coords) = way.swap_remove(at);
                let locator = Locator::of([(tree, &coords)]);
                if guides.iter().all(|(known, _)| *known != node) {
                    guides.push((node, Position { seq: 0, locator }));
                }
            }
        }
        guides
    }
}

/// Nodes of each tree's way that are asked.
const GUIDES_EACH: usize = 6;
/// Trees that change within that time change for one reason.
const TOGETHER: Duration = Duration::from_secs(5);
/// Until then coordinates have settled, and records have gone out.
const SETTLED: Duration = Duration::from_millis(400);
