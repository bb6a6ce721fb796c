//! Owns the choice of the next hop: pure, the hot path, alone in its file.
//!
//! phi(x) is the least distance from x to the destination over the trees that the packet may still use and over both
//! generations of x's coordinates. A packet goes to the peer with the least link cost + phi(peer) among those with
//! phi(peer) < phi(me). If there is none, the tree that gave phi(me) is given up. What I believe of a peer's
//! coordinates is not what it has, so the packet carries the least phi it was sent with, and a budget of hops that may
//! fail to lower it: so it can neither circle nor run on. Nor does it go back to the peer that just sent it here by the
//! same trees: that one believes me nearer, I believe it nearer, and it would only come again.
use crate::id::{LinkId, NodeId, Port, Sid};
use crate::tree::generations::{Generations, Head, Way};
use crate::wire::FrameError;
use crate::wire::data::{BUDGET, CoordsIter, PHI_NONE};

use crate::config::TREES_MAX;

/// All that forwarding knows.
#[derive(Debug, Default)]
pub struct Table {
    /// This node's coordinates.
    pub me: [Generations; TREES_MAX],
    /// Peers that are up.
    pub peers: Vec<HopPeer>,
}

/// What forwarding knows of a peer.
#[derive(Debug)]
pub struct HopPeer {
    /// My port for it.
    pub port: Port,
    /// Its key.
    pub node: NodeId,
    /// Its short name.
    pub sid: Sid,
    /// Cost of the link.
    pub cost: u8,
    /// The link that frames go over.
    pub link: LinkId,
    /// It owes a frame for too long: passed over while there is another.
    pub late: bool,
    /// It drops what it should pass on, as far as audits tell: passed over while there is another. What is for it is
    /// still sent to it.
    pub suspect: bool,
    /// It tells of nobody else, so it leads nowhere: passed over in the same way.
    pub mute: bool,
    /// Bytes of the body of a packet of others that was passed on to it lately: audits are as long.
    pub passed: u16,
    /// Its coordinates.
    pub trees: [Generations; TREES_MAX],
}

impl HopPeer {
    /// Is it used only if there is no other?
    pub const fn is_passed_over(&self) -> bool {
        self.late || self.suspect || self.mute
    }
}

impl Table {
    /// The peer behind a port. O(log n): peers are kept in the order of their ports.
    pub fn peer(&self, port: Port) -> Option<&HopPeer> {
        Some(&self.peers[self.peers.binary_search_by_key(&port, |peer| peer.port).ok()?])
    }

    /// The peer behind a port.
    pub fn peer_mut(&mut self, port: Port) -> Option<&mut HopPeer> {
        let at = self.peers.binary_search_by_key(&port, |peer| peer.port).ok()?;
        Some(&mut self.peers[at])
    }

    /// A new peer.
    pub fn insert(&mut self, peer: HopPeer) {
        match self.peers.binary_search_by_key(&peer.port, |peer| peer.port) {
            Ok(at) => self.peers[at] = peer,
            Err(at) => self.peers.insert(at, peer),
        }
    }

    /// Bytes of memory that it takes.
    pub fn bytes(&self) -> usize {
        let generations = self.peers.iter().flat_map(|peer| &peer.trees).chain(&self.me);
        let ways = generations.flat_map(Generations::iter);
        let steps = |way: &Way| size_of_val(&*way.ports) + size_of_val(&*way.sums);
        size_of::<Self>()
            + self.peers.capacity() * size_of::<HopPeer>()
            + ways.map(|generation| steps(&generation.way)).sum::<usize>()
    }

    /// A peer that is gone.
    pub fn remove(&mut self, port: Port) {
        self.peers.retain(|peer| peer.port != port);
    }
}

/// A destination's coordinates, read from a packet. Kept between packets, so that reading allocates nothing.
#[derive(Debug, Default)]
pub struct Destination {
    trees: [Place; TREES_MAX],
    present: u8,
}

#[derive(Debug)]
struct Place {
    root: Sid,
    ports: Vec<u16>,
    sums: Vec<u32>,
    head: Head,
}

impl Default for Place {
    fn default() -> Self {
        let (ports, sums) = (Vec::new(), Vec::new());
        Self { root: Sid::from_bytes([0; 8]), ports, sums, head: Head::default() }
    }
}

impl Destination {
    /// Reads the coordinates of a packet.
    pub fn read(&mut self, coords: &[u8]) -> Result<(), FrameError> {
        self.present = 0;
        let mut trees = CoordsIter::new(coords)?;
        while let Some((tree, root)) = trees.peek()? {
            let place = &mut self.trees[tree];
            place.root = root;
            place.ports.clear();
            place.sums.clear();
            place.sums.push(0);
            let mut sum = 0;
            trees.steps(|port, cost| {
                sum += u32::from(cost);
                place.ports.push(port.0);
                place.sums.push(sum);
            })?;
            place.head = Head::of(&place.ports, &place.sums);
            self.present |= 1 << tree;
        }
        Ok(())
    }

    /// Least distance over the trees in the mask, and the tree that gives it.
    fn phi(&self, trees: &[Generations; TREES_MAX], mask: u8) -> Option<(u32, usize)> {
        let mut best = None;
        let mut left = mask & self.present;
        while left != 0 {
            let tree = left.trailing_zeros() as usize;
            left &= left - 1;
            let place = &self.trees[tree];
            for generation in trees[tree].iter() {
                if generation.root == place.root {
                    let distance = place.distance(&generation.way);
                    if best.is_none_or(|(least, _)| distance < least) {
                        best = Some((distance, tree));
                    }
                }
            }
        }
        best
    }
}

impl Place {
    /// Sum of the costs on both sides below the common prefix.
    fn distance(&self, way: &Way) -> u32 {
        if let Some(distance) = self.head.distance(&way.head) {
            return distance;
        }
        let common = self.ports.iter().zip(&way.ports).take_while(|(a, b)| a == b).count();
        let below = |sums: &[u32]| sums.last().map_or(0, |total| total - sums[common]);
        below(&self.sums) + below(&way.sums)
    }
}

/// The part of a packet's header that decides, and is changed by, the next hop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Course {
    /// Trees that may still be used.
    pub mask: u8,
    /// Least phi it was sent with in this mask.
    pub phi_min: u32,
    /// Hops left that may fail to lower it.
    pub budget: u8,
}

/// Where a packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hop {
    /// To this peer, with this course.
    Send {
        /// The peer's place in [`Table::peers`].
        index: usize,
        /// The course from there on.
        course: Course,
        /// Cost of the link, and what is left from the peer as far as the trees tell.
        total: u32,
    },
    /// It came to where the coordinates lead, but this is another node.
    Stale,
    /// Nobody is nearer.
    NoRoute,
}

impl Hop {
    /// To a peer on the way to a destination in sight, which is so far from here.
    pub const fn in_sight(index: usize, left: u32, course: Course) -> Self {
        Self::Send { index, course: Course { phi_min: left, ..course }, total: left }
    }

    /// Is a way of that cost better? Trees end where they end, so any is better than none.
    pub const fn is_longer_than(&self, left: u32) -> bool {
        match self {
            Self::Send { total, .. } => left < *total,
            Self::Stale | Self::NoRoute => true,
        }
    }
}

/// Chooses the next hop of a packet that came `from` that port ([`Port::SELF`]: it is our own). O(peers x trees x
/// depth), no allocation.
pub fn next_hop(sid: Sid, from: Port, destination: &Destination, course: Course, table: &Table) -> Hop {
    // (Only a packet of our own that shall go around a peer "comes" from its destination.)
    if let Some(index) =
        table.peers.iter().position(|peer| peer.sid == sid && !peer.late && peer.port != from)
    {
        return Hop::Send { index, course, total: table.peers[index].cost.into() };
    }
    match descend(destination, from, course, table, false) {
        send @ Hop::Send { .. } => send,
        // With nobody else left, a late peer is better than none.
        hop if table.peers.iter().any(HopPeer::is_passed_over) => {
            if let Some(index) = table.peers.iter().position(|peer| peer.sid == sid && peer.port != from) {
                return Hop::Send { index, course, total: table.peers[index].cost.into() };
            }
            match descend(destination, from, course, table, true) {
                send @ Hop::Send { .. } => send,
                _ => hop,
            }
        }
        hop => hop,
    }
}

fn descend(destination: &Destination, from: Port, mut course: Course, table: &Table, late_too: bool) -> Hop {
    let mut arrived = false;
    let mut turning = false;
    course.mask &= destination.present;
    while course.mask != 0 {
        let mine = destination.phi(&table.me, course.mask);
        let phi_me = mine.map_or(u32::MAX, |(phi, _)| phi);
        arrived |= phi_me == 0;

        let mut best: Option<(u32, u32, usize)> = None;
        for (index, peer) in table.peers.iter().enumerate() {
            if peer.is_passed_over() && !late_too || peer.port == from && !turning {
                continue;
            }
            let Some((phi, _)) = destination.phi(&peer.trees, course.mask) else { continue };
            let total = phi + u32::from(peer.cost);
            if phi < phi_me && best.is_none_or(|(least, ..)| total < least) {
                best = Some((total, phi, index));
            }
        }
        if let Some((total, phi, index)) = best {
            let phi = phi.min(PHI_NONE - 1);
            let lower = phi < course.phi_min;
            if lower || course.budget > 0 {
                if lower {
                    course.phi_min = phi;
                } else {
                    course.budget -= 1;
                }
                return Hop::Send { index, course, total };
            }
        }
        // The tree that gave my distance has led astray.
        let Some((_, tree)) = mine else { break };
        course.mask &= !(1 << tree);
        course.phi_min = PHI_NONE;
        course.budget = BUDGET;
        turning = true;
    }
    if arrived { Hop::Stale } else { Hop::NoRoute }
}

/// Choices made lately: packets of one flow look alike to a transit node, and go the same way until something moves.
#[derive(Debug, Default)]
pub struct Memory {
    kept: Vec<Kept>,
    /// Counts the times that something moved.
    version: u64,
}

#[derive(Clone, Debug)]
struct Kept {
    version: u64,
    dst: Sid,
    from: Port,
    coords: Vec<u8>,
    before: Course,
    index: usize,
    after: Course,
    total: u32,
}

impl Memory {
    /// Something in the [`Table`] has moved: no choice holds any more. O(1).
    pub const fn forget(&mut self) {
        self.version += 1;
    }

    /// What was chosen for a packet just like this one: the peer's place in [`Table::peers`], the course, and what is left.
    pub fn recall(
        &self,
        dst: Sid,
        from: Port,
        coords: &[u8],
        course: Course,
    ) -> Option<(usize, Course, u32)> {
        let kept = self.kept.get(Self::slot(dst))?;
        let same = kept.version == self.version
            && kept.dst == dst
            && kept.from == from
            && kept.before == course
            && kept.coords == coords;
        same.then_some((kept.index, kept.after, kept.total))
    }

    /// Keeps a choice, in the place of the one that was there.
    #[allow(clippy::too_many_arguments)] // what names a packet, and what was chosen
    pub fn keep(
        &mut self,
        dst: Sid,
        from: Port,
        coords: &[u8],
        before: Course,
        index: usize,
        after: Course,
        total: u32,
    ) {
        if self.kept.is_empty() {
            let coords = Vec::new();
            let nothing =
                Kept { version: u64::MAX, dst, from, coords, before, index: 0, after: before, total };
            self.kept.resize(FLOWS_KEPT, nothing);
        }
        let kept = &mut self.kept[Self::slot(dst)];
        kept.coords.clear();
        kept.coords.extend_from_slice(coords);
        let coords = std::mem::take(&mut kept.coords);
        *kept = Kept { version: self.version, dst, from, coords, before, index, after, total };
    }

    fn slot(dst: Sid) -> usize {
        usize::from(dst.as_bytes()[7]) % FLOWS_KEPT
    }
}

/// Destinations whose last choice is kept: some 200 bytes each, a kilobyte at most.
const FLOWS_KEPT: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lookup::locator::{Coords, Hop as Step, Locator};
    use crate::time::Instant;

    fn coords(root: u8, ports: &[u16]) -> Coords {
        let hops = ports.iter().map(|&port| Step { port: Port(port), cost: 2 }).collect();
        Coords { root: Sid::from_bytes([root; 8]), hops }
    }

    fn peer(n: u8, trees: &[Option<Coords>]) -> HopPeer {
        let node = NodeId::from_bytes([n; 32]);
        let mut peer = HopPeer {
            port: Port(n.into()),
            node,
            sid: node.sid(),
            cost: 1,
            link: LinkId(n.into()),
            late: false,
            suspect: false,
            mute: false,
            passed: 0,
            trees: Default::default(),
        };
        for (tree, coords) in trees.iter().enumerate() {
            peer.trees[tree].set(coords.as_ref(), None, Instant::ZERO);
        }
        peer
    }

    fn to(trees: &[Option<Coords>]) -> Destination {
        let known = trees.iter().enumerate().filter_map(|(tree, coords)| Some((tree, coords.as_ref()?)));
        let locator = Locator::of(known);
        let mut bytes = Vec::new();
        locator.encode(&mut bytes);
        let mut destination = Destination::default();
        destination.read(&bytes).unwrap();
        destination
    }

    const FRESH: Course = Course { mask: 0xff, phi_min: PHI_NONE, budget: BUDGET };
    const NOBODY: Sid = Sid::from_bytes([0; 8]);

    #[test]
    fn goes_to_the_nearest_and_over_a_chord_if_that_is_nearer() {
        let mut table = Table::default();
        table.me[0].set(Some(&coords(1, &[1, 1])), None, Instant::ZERO);
        table.insert(peer(1, &[Some(coords(1, &[1]))]));
        table.insert(peer(2, &[Some(coords(1, &[2, 5]))]));
        let destination = to(&[Some(coords(1, &[2, 5, 7]))]);
        let Hop::Send { index, course, .. } = next_hop(NOBODY, Port::SELF, &destination, FRESH, &table)
        else {
            panic!()
        };
        assert_eq!((table.peers[index].port, course.phi_min, course.budget), (Port(2), 2, BUDGET));
        table.peer_mut(Port(2)).unwrap().late = true;
        let Hop::Send { index, .. } = next_hop(NOBODY, Port::SELF, &destination, FRESH, &table) else {
            panic!()
        };
        assert_eq!(table.peers[index].port, Port(1));
        table.remove(Port(1));
        let Hop::Send { index, .. } = next_hop(NOBODY, Port::SELF, &destination, FRESH, &table) else {
            panic!()
        };
        assert_eq!(table.peers[index].port, Port(2), "a late peer is better than none");
    }

    #[test]
    fn a_suspect_is_passed_over_but_still_reached_itself() {
        let mut table = Table::default();
        table.me[0].set(Some(&coords(1, &[1, 1])), None, Instant::ZERO);
        table.insert(peer(1, &[Some(coords(1, &[1]))]));
        table.insert(peer(2, &[Some(coords(1, &[2, 5]))]));
        table.peer_mut(Port(2)).unwrap().suspect = true;
        let to_port = |sid: Sid, trees: &[Option<Coords>], table: &Table| {
            let Hop::Send { index, .. } = next_hop(sid, Port::SELF, &to(trees), FRESH, table) else {
                panic!()
            };
            table.peers[index].port
        };
        let far = [Some(coords(1, &[2, 5, 7]))];
        assert_eq!(to_port(NOBODY, &far, &table), Port(1));
        assert_eq!(to_port(NodeId::from_bytes([2; 32]).sid(), &far, &table), Port(2));
        table.remove(Port(1));
        assert_eq!(to_port(NOBODY, &far, &table), Port(2), "better than nobody");
    }

    #[test]
    fn a_peer_is_reached_straight_without_coordinates() {
        let mut table = Table::default();
        table.insert(peer(3, &[]));
        let hop =
            next_hop(NodeId::from_bytes([3; 32]).sid(), Port::SELF, &Destination::default(), FRESH, &table);
        assert!(matches!(hop, Hop::Send { index: 0, .. }));
    }

    #[test]
    fn a_tree_in_a_dead_end_is_given_up_for_the_next() {
        let mut table = Table::default();
        table.me[0].set(Some(&coords(1, &[1])), None, Instant::ZERO);
        table.me[1].set(Some(&coords(2, &[4])), None, Instant::ZERO);
        table.insert(peer(1, &[Some(coords(1, &[1, 9])), Some(coords(2, &[]))]));
        let destination = to(&[Some(coords(1, &[1])), Some(coords(2, &[7]))]);
        let Hop::Send { course, .. } = next_hop(NOBODY, Port::SELF, &destination, FRESH, &table) else {
            panic!()
        };
        assert_eq!(course.mask, 0b10, "phi is 0 here in the first tree");
        let only_first = to(&[Some(coords(1, &[1]))]);
        assert_eq!(next_hop(NOBODY, Port::SELF, &only_first, FRESH, &table), Hop::Stale);
        let foreign = to(&[Some(coords(9, &[1]))]);
        assert_eq!(next_hop(NOBODY, Port::SELF, &foreign, FRESH, &table), Hop::NoRoute);
    }

    #[test]
    fn a_packet_does_not_go_back_by_the_tree_it_came_by() {
        let mut table = Table::default();
        table.me[0].set(Some(&coords(1, &[1, 1])), None, Instant::ZERO);
        table.me[1].set(Some(&coords(2, &[4, 4])), None, Instant::ZERO);
        table.insert(peer(1, &[Some(coords(1, &[1])), Some(coords(2, &[4]))]));
        let destination = to(&[Some(coords(1, &[]))]);
        assert_eq!(next_hop(NOBODY, Port(1), &destination, FRESH, &table), Hop::NoRoute);
        let destination = to(&[Some(coords(1, &[])), Some(coords(2, &[]))]);
        let Hop::Send { course, .. } = next_hop(NOBODY, Port(1), &destination, FRESH, &table) else {
            panic!()
        };
        assert_eq!(course.mask.count_ones(), 1, "but by another one it does");
    }

    #[test]
    fn a_hop_that_does_not_come_nearer_spends_the_budget() {
        let mut table = Table::default();
        table.me[0].set(Some(&coords(1, &[1, 1])), None, Instant::ZERO);
        table.insert(peer(1, &[Some(coords(1, &[1]))]));
        let destination = to(&[Some(coords(1, &[]))]);
        let astray = Course { phi_min: 1, budget: 1, ..FRESH };
        let Hop::Send { course, .. } = next_hop(NOBODY, Port::SELF, &destination, astray, &table) else {
            panic!()
        };
        assert_eq!((course.phi_min, course.budget), (1, 0));
        assert_eq!(next_hop(NOBODY, Port::SELF, &destination, course, &table), Hop::NoRoute);
    }

    #[test]
    fn a_choice_is_recalled_for_the_same_packet_until_something_moves() {
        let mut memory = Memory::default();
        assert_eq!(memory.recall(NOBODY, Port(1), b"coords", FRESH), None);
        let after = Course { phi_min: 3, ..FRESH };
        memory.keep(NOBODY, Port(1), b"coords", FRESH, 2, after, 9);
        assert_eq!(memory.recall(NOBODY, Port(1), b"coords", FRESH), Some((2, after, 9)));
        assert_eq!(memory.recall(NOBODY, Port(1), b"others", FRESH), None);
        assert_eq!(memory.recall(NOBODY, Port(1), b"coords", after), None);
        assert_eq!(memory.recall(Sid::from_bytes([64; 8]), Port(1), b"coords", FRESH), None, "same place");
        assert_eq!(memory.recall(NOBODY, Port(2), b"coords", FRESH), None);
        memory.forget();
        assert_eq!(memory.recall(NOBODY, Port(1), b"coords", FRESH), None);
    }

    #[test]
    fn the_former_coordinates_still_count() {
        let mut table = Table::default();
        table.me[0].set(Some(&coords(1, &[1])), None, Instant::ZERO);
        let mut moved = peer(1, &[Some(coords(1, &[]))]);
        moved.trees[0].set(Some(&coords(5, &[3])), None, Instant::from_micros(10_000_000));
        table.insert(moved);
        let destination = to(&[Some(coords(1, &[2]))]);
        assert!(matches!(
            next_hop(NOBODY, Port::SELF, &destination, FRESH, &table),
            Hop::Send { index: 0, .. }
        ));
    }
}
