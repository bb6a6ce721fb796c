//! Owns the door: the last step of a node's locator where all its trees hang on one peer.
//!
//! The least cost often lies over the same peer in all trees, above all next to a hub. If that peer dies or drops, every
//! place that others know of this node leads into it, until they have heard of a new one. So the locator names, in one tree,
//! the way over another peer: that peer's place and its port for this node. Packets that are led there are passed on by that
//! peer, as to any peer of its own. The tree itself is as it is: only who sends to this node sees the other way.
use super::Trees;
use crate::id::Port;
use crate::lookup::locator::{Coords, DEPTH_MAX, Hop, Locator};

impl Trees {
    /// Where this node is, as others shall know it: its coordinates in all trees, or in one of them those over the door.
    pub fn locator(&mut self) -> Locator {
        self.door = self.door.filter(|&(tree, port)| self.over(tree, port).is_some());
        if self.door.is_none() {
            self.door = self.find_door();
        }
        let other = self.door.and_then(|(tree, port)| Some((tree, self.over(tree, port)?.1)));
        Locator::of(self.own.iter().enumerate().map(|(tree, own)| match &other {
            Some((at, coords)) if *at == tree => (tree, coords),
            _ => (tree, &own.way.coords),
        }))
    }

    /// Does all hang on one peer? Then what another peer's place is concerns this node's own.
    pub fn hangs_on_one(&self) -> bool {
        let first = self.own[0].parent;
        self.trees > 1 && first.is_some() && self.own.iter().all(|own| own.parent == first)
    }

    /// The tree and the peer by which the way is least longer than the tree's own. O(peers x trees).
    fn find_door(&self) -> Option<(usize, Port)> {
        let all = (0..self.trees).flat_map(|tree| self.peers.keys().map(move |&port| (tree, port)));
        let more = |(tree, port): (usize, Port)| {
            let (cost, _) = self.over(tree, port)?;
            Some((cost.saturating_sub(self.own[tree].way.cost), tree, port))
        };
        all.filter_map(more).min().map(|(_, tree, port)| (tree, port))
    }

    /// The cost of the way over that peer, and the place that this node has by it.
    fn over(&self, tree: usize, port: Port) -> Option<(u32, Coords)> {
        let own = &self.own[tree];
        let peer = self.peers.get(&port)?;
        let way = peer.ways[tree].as_ref().ok()?;
        let good = self.hangs_on_one() && own.parent != Some(port) && !peer.suspect;
        if !good
            || way.through_me
            || way.void
            || way.root != own.way.root
            || way.coords.hops.len() >= DEPTH_MAX
        {
            return None;
        }
        let mut coords = way.coords.clone();
        coords.hops.push(Hop { port: peer.port_there?, cost: peer.cost.max(1) });
        Some((way.cost + u32::from(peer.cost), coords))
    }
}
