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
        let good = self.hangs_on_one() && own.parent != Some(port) && !peer.suspect && !peer.silent;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Boot, Class};
    use crate::crypto::SecretKey;
    use crate::stats::Stats;
    use crate::time::{Duration, Instant};

    /// All tell each other what they have to say, for a second. `links`: node, its port, node there, its port, cost.
    fn settle(nodes: &mut [Trees], links: &[(usize, u16, usize, u16)], now: &mut Instant) {
        let mut stats = Stats::default();
        for _ in 0..20 {
            *now += Duration::from_millis(50);
            for from in 0..nodes.len() {
                nodes[from].handle_timeout(*now);
                let mut frames: Vec<_> = std::iter::from_fn(|| nodes[from].poll_frame()).collect();
                for port in nodes[from].announceable(*now) {
                    frames.extend(nodes[from].announce(port, *now).into_iter().map(|frame| (port, frame)));
                }
                for (port, frame) in frames {
                    let there = links.iter().find(|link| (link.0, link.1) == (from, port.0)).expect("a link");
                    nodes[there.2].on_frame(Port(there.3), frame, &mut stats, *now);
                }
            }
        }
    }

    #[test]
    fn one_tree_leads_past_the_peer_that_all_hang_on() {
        let mut now = Instant::ZERO;
        let node = |seed, class| {
            Trees::new(SecretKey::from_seed([seed; 32]), class, 4, &Boot::default(), None, Instant::ZERO)
        };
        // The hub is the root of all trees; the last node's link to the other one is ten times dearer.
        let mut nodes = [node(1, Class::Stable), node(2, Class::Mobile), node(3, Class::Mobile)];
        let links = [(0, 1, 1, 1), (1, 1, 0, 1), (0, 2, 2, 1), (2, 1, 0, 2), (1, 2, 2, 2), (2, 2, 1, 2)];
        for &(from, port, to, _) in &links {
            let (there, cost) = (nodes[to].me, if from + to == 3 { 10 } else { 1 });
            let class = if to == 0 { Class::Stable } else { Class::Mobile };
            nodes[from].on_peer_up(Port(port), there, class, cost, 1200, now);
        }
        settle(&mut nodes, &links, &mut now);
        let ports = |coords: &Coords| coords.hops.iter().map(|hop| hop.port.0).collect::<Vec<_>>();
        let told = |nodes: &mut [Trees]| {
            let locator = nodes[2].locator();
            let mut all: Vec<_> =
                (0..4).filter_map(|tree| Some(ports(&locator.get(tree)?.to_coords()))).collect();
            all.sort();
            all
        };
        assert!(nodes[2].hangs_on_one());
        // By the hub's second port, and in one tree by its first and the other node's second.
        assert_eq!(told(&mut nodes), [vec![1, 2], vec![2], vec![2], vec![2]]);
        // A silent peer is no door.
        nodes[2].on_peer_silent(Port(2), true, now);
        assert_eq!(told(&mut nodes), [vec![2], vec![2], vec![2], vec![2]]);
        nodes[2].on_peer_silent(Port(2), false, now);
        // Without the hub there is no need of one: the other node is the parent.
        nodes[2].on_peer_down(Port(1), now);
        settle(&mut nodes, &links[..2].iter().chain(&links[4..]).copied().collect::<Vec<_>>(), &mut now);
        assert_eq!(told(&mut nodes), [vec![1, 2], vec![1, 2], vec![1, 2], vec![1, 2]]);
    }
}
