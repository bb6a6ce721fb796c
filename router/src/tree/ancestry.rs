//! Owns all known tree entries, once per (tree, node), and the walks over them.
//!
//! A chain is nothing stored: it is the walk over the newest entries from a node on, so whatever changes at an ancestor
//! moves every chain through it and voids none. An entry that no chain needs is forgotten soon; its seq is remembered
//! longer, so that no slow peer revives it.
use crate::config::TREES_MAX;
use crate::id::{NodeId, Sid};
use crate::lookup::locator::{Coords, DEPTH_MAX, Hop};
use crate::time::{Duration, Instant};
use crate::wire::TreeInfo;
use std::collections::HashMap;

/// A known node's place in the table.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Slot(u32);

/// A root's rank in its tree: the least wins.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Rank(u8, [u8; 32]);

impl Rank {
    /// `(class, BLAKE3("tree" | t | key))`.
    pub fn of(info: &TreeInfo) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"tree").update(&[info.tree]).update(info.node.as_bytes());
        Self(info.class as u8, *hasher.finalize().as_bytes())
    }
}

/// The table of entries. (The map is never iterated: its order is not the same in every run.)
#[derive(Debug, Default)]
pub struct Ancestry {
    index: HashMap<NodeId, Slot>,
    nodes: Vec<Option<Node>>,
    free: Vec<Slot>,
    /// Entries taken so far.
    taken: u64,
}

#[derive(Debug)]
struct Node {
    id: NodeId,
    sid: Sid,
    entries: [Option<Box<Entry>>; TREES_MAX],
    /// Held by name from outside the entries (peers, this node, what was announced).
    pins: u32,
    needed: bool,
}

#[derive(Debug)]
struct Entry {
    seq: u64,
    place: Option<Box<Place>>,
    needed: bool,
    needed_last: Instant,
}

#[derive(Debug)]
struct Place {
    info: TreeInfo,
    /// Names it among all entries that were ever taken here.
    stamp: u64,
    parent: Slot,
    rank: Option<Rank>,
}

/// Why a walk does not end at a root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Void {
    /// It meets a node of which no entry is known.
    Unknown,
    /// It comes back to itself, or is longer than any chain may be.
    Loop,
}

impl Ancestry {
    /// The node's slot, made and held until [`Self::unpin`].
    pub fn pin(&mut self, id: NodeId) -> Slot {
        let slot = self.slot_or_new(id);
        self.node_mut(slot).pins += 1;
        slot
    }

    /// No longer held.
    pub fn unpin(&mut self, slot: Slot) {
        let node = self.node_mut(slot);
        node.pins = node.pins.saturating_sub(1);
    }

    /// One more holder of a slot that is held already.
    pub fn pin_slot(&mut self, slot: Slot) {
        self.node_mut(slot).pins += 1;
    }

    /// The key in a slot.
    pub fn id(&self, slot: Slot) -> NodeId {
        self.node(slot).id
    }

    /// Its short name.
    pub fn sid(&self, slot: Slot) -> Sid {
        self.node(slot).sid
    }

    /// Known nodes, those that are only remembered included.
    pub fn len(&self) -> usize {
        self.nodes.len() - self.free.len()
    }

    /// Bytes of memory that the table takes, by the sizes of its parts. (A map's capacity differs from run to run: its length
    /// counts.)
    pub fn bytes(&self) -> usize {
        let entries = self.nodes.iter().flatten().flat_map(|node| node.entries.iter().flatten());
        let entries: usize = entries
            .map(|entry| size_of::<Entry>() + entry.place.as_ref().map_or(0, |_| size_of::<Place>()))
            .sum();
        self.nodes.capacity() * size_of::<Option<Node>>()
            + self.index.len() * size_of::<(NodeId, Slot)>()
            + entries
    }

    /// Is nobody known?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Would this entry be taken: is it newer than what is known, or as new as what is only remembered?
    pub fn wants(&self, info: &TreeInfo) -> bool {
        let Some(&slot) = self.index.get(&info.node) else { return true };
        match &self.node(slot).entries[usize::from(info.tree)] {
            None => true,
            Some(entry) => info.seq > entry.seq || info.seq == entry.seq && entry.place.is_none(),
        }
    }

    /// The newest entry of a node.
    pub fn info(&self, tree: usize, slot: Slot) -> Option<&TreeInfo> {
        Some(&self.place(tree, slot)?.info)
    }

    /// Takes an entry whose signatures hold, if [`Self::wants`] it. Gives the node and its former parent.
    pub fn insert(&mut self, info: TreeInfo, now: Instant) -> (Slot, Option<Slot>) {
        let slot = self.slot_or_new(info.node);
        let parent = self.slot_or_new(info.parent);
        let rank = info.is_root().then(|| Rank::of(&info));
        self.taken += 1;
        let place = Some(Box::new(Place { info, stamp: self.taken, parent, rank }));
        let entry = &mut self.node_mut(slot).entries[usize::from(info.tree)];
        let old = entry.as_ref().and_then(|entry| Some(entry.place.as_ref()?.parent));
        *entry = Some(Box::new(Entry { seq: info.seq, place, needed: true, needed_last: now }));
        (slot, old)
    }

    /// Walks from a node to its root; `chain` gets the slots on the way, both ends included.
    pub fn walk(&self, tree: usize, start: Slot, chain: &mut Vec<Slot>) -> Result<Rank, Void> {
        chain.clear();
        let mut slot = start;
        loop {
            let place = self.place(tree, slot).ok_or(Void::Unknown)?;
            chain.push(slot);
            if let Some(rank) = place.rank {
                return Ok(rank);
            }
            if chain.len() > DEPTH_MAX {
                return Err(Void::Loop);
            }
            slot = place.parent;
        }
    }

    /// Stands for all that [`Self::walk`] from that node finds: the same as before, and nothing on the way has changed. Never 0.
    pub fn stamp(&self, tree: usize, start: Slot) -> u64 {
        let mut stamp = 1u64;
        let mut slot = start;
        for _ in 0..=DEPTH_MAX {
            let Some(place) = self.place(tree, slot) else { break };
            stamp = (stamp ^ place.stamp).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
            if place.rank.is_some() {
                return stamp | 1;
            }
            slot = place.parent;
        }
        stamp & !1 | 2
    }

    /// Coordinates and summed cost of the first node of a chain that [`Self::walk`] gave.
    pub fn coords(&self, tree: usize, chain: &[Slot]) -> (Coords, u32) {
        let Some((&root, below)) = chain.split_last() else {
            return (Coords { root: Sid::from_bytes([0; 8]), hops: Vec::new() }, 0);
        };
        let infos = below.iter().rev().filter_map(|&slot| self.info(tree, slot));
        let hops: Vec<Hop> = infos.map(|info| Hop { port: info.parent_port, cost: info.cost }).collect();
        let cost = hops.iter().map(|hop| u32::from(hop.cost)).sum();
        (Coords { root: self.sid(root), hops }, cost)
    }

    /// Marks what is needed: `chains` gives the starting points of all walks that are.
    pub fn mark(&mut self, trees: usize, chains: &[Slot]) {
        for node in self.nodes.iter_mut().flatten() {
            node.needed = node.pins > 0;
            for entry in node.entries.iter_mut().flatten() {
                entry.needed = false;
            }
        }
        for tree in 0..trees {
            for &start in chains {
                let mut slot = start;
                while let Some(entry) = &mut self.node_mut(slot).entries[tree] {
                    if std::mem::replace(&mut entry.needed, true) {
                        break;
                    }
                    let Some(place) = &entry.place else { break };
                    slot = place.parent;
                }
            }
        }
    }

    /// Forgets what has not been marked for long. Says whether there is more to forget later.
    pub fn sweep(&mut self, now: Instant) -> bool {
        let mut unneeded: Vec<(Instant, Slot, usize)> = Vec::new();
        for (index, node) in self.nodes.iter_mut().enumerate() {
            let Some(node) = node else { continue };
            for (tree, slot) in node.entries.iter_mut().enumerate() {
                let Some(entry) = slot else { continue };
                if entry.needed {
                    entry.needed_last = now;
                } else if now - entry.needed_last >= SEQ_KEPT {
                    *slot = None;
                } else {
                    if now - entry.needed_last >= UNNEEDED_KEPT {
                        entry.place = None;
                    }
                    unneeded.push((entry.needed_last, Slot(index as u32), tree));
                }
            }
        }
        if unneeded.len() > UNNEEDED_MAX {
            unneeded.sort_unstable();
            for (_, slot, tree) in unneeded.drain(..unneeded.len() - UNNEEDED_MAX) {
                self.node_mut(slot).entries[tree] = None;
            }
        }
        let more = !unneeded.is_empty();
        self.free_slots();
        more
    }

    fn free_slots(&mut self) {
        let mut parents = vec![false; self.nodes.len()];
        for node in self.nodes.iter().flatten() {
            for place in node.entries.iter().flatten().filter_map(|entry| entry.place.as_ref()) {
                parents[place.parent.0 as usize] = true;
            }
        }
        for (index, slot) in self.nodes.iter_mut().enumerate() {
            let Some(node) = slot else { continue };
            if node.pins == 0 && !parents[index] && node.entries.iter().all(Option::is_none) {
                self.index.remove(&node.id);
                *slot = None;
                self.free.push(Slot(index as u32));
            }
        }
    }

    fn slot_or_new(&mut self, id: NodeId) -> Slot {
        if let Some(&slot) = self.index.get(&id) {
            return slot;
        }
        let node = Node { id, sid: id.sid(), entries: Default::default(), pins: 0, needed: true };
        let slot = match self.free.pop() {
            Some(slot) => {
                self.nodes[slot.0 as usize] = Some(node);
                slot
            }
            None => {
                self.nodes.push(Some(node));
                Slot(self.nodes.len() as u32 - 1)
            }
        };
        self.index.insert(id, slot);
        slot
    }

    fn place(&self, tree: usize, slot: Slot) -> Option<&Place> {
        self.node(slot).entries[tree].as_ref()?.place.as_deref()
    }

    fn node(&self, slot: Slot) -> &Node {
        self.nodes[slot.0 as usize].as_ref().expect("a slot is freed only when nothing names it")
    }

    fn node_mut(&mut self, slot: Slot) -> &mut Node {
        self.nodes[slot.0 as usize].as_mut().expect("a slot is freed only when nothing names it")
    }
}

/// An entry that no chain needs stays usable for that long: chains that change back find it.
const UNNEEDED_KEPT: Duration = Duration::from_secs(10);
/// And its seq for that long, so that no slow peer revives a ghost.
const SEQ_KEPT: Duration = Duration::from_secs(120);
/// Entries and seqs that no chain needs: 4 096 a tree for four trees.
const UNNEEDED_MAX: usize = 4 * 4096;
