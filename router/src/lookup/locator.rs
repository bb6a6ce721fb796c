//! Owns the locator: a node's coordinates in each tree, and the bytes they travel as.
//!
//! ```text
//! locator = mask:1  then for each bit t set in mask, from the least:  coords of tree t
//! coords  = root sid:8  depth:1  depth x (port:1-3, cost:1)
//! ```
use crate::config::TREES_MAX;
use crate::id::{Port, Sid};
use crate::wire::FrameError;
use crate::wire::codec::{Reader, Writer, port_bytes};
use std::sync::Arc;

/// One step down a tree.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Hop {
    /// The parent's port for the child.
    pub port: Port,
    /// The link's cost, 1..=255.
    pub cost: u8,
}

/// A place in one tree: its root, and the way from there down.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Coords {
    /// The root's short name.
    pub root: Sid,
    /// The way down from it; empty for the root itself.
    pub hops: Vec<Hop>,
}

impl Coords {
    /// Bytes that [`Self::encode`] writes.
    pub fn encoded_len(&self) -> usize {
        9 + self.hops.iter().map(|hop| port_bytes(hop.port).1 + 1).sum::<usize>()
    }

    /// Writes the coordinates. Hops below [`DEPTH_MAX`] are not written: nobody is deeper.
    pub fn encode(&self, out: &mut impl Writer) {
        let hops = &self.hops[..self.hops.len().min(DEPTH_MAX)];
        out.put(self.root.as_bytes());
        out.put_byte(hops.len() as u8);
        for hop in hops {
            out.put_port(hop.port);
            out.put_byte(hop.cost);
        }
    }

    /// Reads what [`Self::encode`] wrote.
    pub fn decode(reader: &mut Reader<'_>) -> Result<Self, FrameError> {
        let root = reader.sid()?;
        let depth = usize::from(reader.u8()?);
        // A hop takes at least two bytes: a short input cannot make a long allocation.
        let mut hops = Vec::with_capacity(depth.min(reader.rest().len() / 2));
        for _ in 0..depth {
            let hop = Hop { port: reader.port()?, cost: reader.u8()? };
            if hop.cost == 0 || hop.port == Port::SELF {
                return Err(FrameError::Value);
            }
            hops.push(hop);
        }
        Ok(Self { root, hops })
    }
}

/// Where a node is: its coordinates in each tree that it knows them of.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Locator {
    /// By number of the tree.
    pub trees: [Option<Coords>; TREES_MAX],
}

impl Locator {
    /// The trees that it has coordinates in, one bit each.
    pub fn mask(&self) -> u8 {
        let bits = self.trees.iter().enumerate().map(|(tree, coords)| u8::from(coords.is_some()) << tree);
        bits.fold(0, |mask, bit| mask | bit)
    }

    /// Knows it no tree at all?
    pub fn is_empty(&self) -> bool {
        self.trees.iter().all(Option::is_none)
    }

    /// The trees and the coordinates in them.
    pub fn iter(&self) -> impl Iterator<Item = (u8, &Coords)> {
        self.trees.iter().enumerate().filter_map(|(tree, coords)| Some((tree as u8, coords.as_ref()?)))
    }

    /// In how many trees two locators differ.
    pub fn changes(&self, other: &Self) -> usize {
        self.trees.iter().zip(&other.trees).filter(|(a, b)| a != b).count()
    }

    /// Bytes that [`Self::encode`] writes.
    pub fn encoded_len(&self) -> usize {
        1 + self.iter().map(|(_, coords)| coords.encoded_len()).sum::<usize>()
    }

    /// [`Self::fit`], but the shortest tree stays in even if it alone is longer.
    pub fn fit_or_one(&self, bytes: usize) -> Self {
        let shortest = self.iter().map(|(_, coords)| coords.encoded_len()).min().unwrap_or(0);
        self.fit(bytes.max(1 + shortest))
    }

    /// The same with as many trees as fit into `bytes`, the shortest coordinates first.
    pub fn fit(&self, bytes: usize) -> Self {
        let mut order: Vec<usize> = (0..TREES_MAX).filter(|&t| self.trees[t].is_some()).collect();
        order.sort_by_key(|&tree| self.trees[tree].as_ref().map(Coords::encoded_len));
        let mut fitting = Self::default();
        let mut left = bytes.saturating_sub(1);
        for tree in order {
            let coords = self.trees[tree].as_ref().expect("only trees with coordinates are in the order");
            match left.checked_sub(coords.encoded_len()) {
                Some(rest) if coords.hops.len() <= DEPTH_MAX => {
                    left = rest;
                    fitting.trees[tree] = Some(coords.clone());
                }
                _ => {}
            }
        }
        fitting
    }

    /// Writes the locator.
    pub fn encode(&self, out: &mut impl Writer) {
        let mask = self.iter().fold(0, |mask, (tree, _)| mask | 1 << tree);
        out.put_byte(mask);
        for (_, coords) in self.iter() {
            coords.encode(out);
        }
    }

    /// Reads what [`Self::encode`] wrote.
    pub fn decode(reader: &mut Reader<'_>) -> Result<Self, FrameError> {
        let start = reader.rest().len();
        let mask = reader.u8()?;
        let mut locator = Self::default();
        for (tree, slot) in locator.trees.iter_mut().enumerate() {
            if mask & 1 << tree != 0 {
                *slot = Some(Coords::decode(reader)?);
            }
        }
        if start - reader.rest().len() > LOCATOR_MAX {
            return Err(FrameError::Long);
        }
        Ok(locator)
    }
}

/// Where a node is, and how new that is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// The node's own count of its positions; only grows.
    pub seq: u64,
    /// Where it is.
    pub locator: Arc<Locator>,
}

/// Deepest place in a tree: a length fits into a byte, and a way back has at most as many ports.
pub const DEPTH_MAX: usize = 255;
/// Largest locator in a record or a handshake. Four trees take 384 bytes on average and 630 at the 99th percentile in
/// a wireless mesh of 10 000 nodes; who needs more names fewer trees.
pub const LOCATOR_MAX: usize = 640;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(crate) fn any_locator() -> impl Strategy<Value = Locator> {
        let hop = (1u16.., 1u8..).prop_map(|(port, cost)| Hop { port: Port(port), cost });
        let coords = (any::<[u8; 8]>(), proptest::collection::vec(hop, 0..12))
            .prop_map(|(root, hops)| Coords { root: Sid::from_bytes(root), hops });
        proptest::collection::vec(proptest::option::of(coords), TREES_MAX).prop_map(|trees| Locator {
            trees: trees.try_into().expect("the strategy makes one for each tree"),
        })
    }

    proptest! {
        #[test]
        fn round_trip(locator in any_locator()) {
            let mut bytes = Vec::new();
            locator.encode(&mut bytes);
            prop_assert_eq!(bytes.len(), locator.encoded_len());
            let mut reader = Reader::new(&bytes);
            prop_assert_eq!(Locator::decode(&mut reader), Ok(locator));
            prop_assert!(reader.is_empty());
        }

        #[test]
        fn any_bytes_are_a_locator_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..900)) {
            let mut reader = Reader::new(&bytes);
            if let Ok(locator) = Locator::decode(&mut reader) {
                let mut again = Vec::new();
                locator.encode(&mut again);
                prop_assert_eq!(&again[..], &bytes[..bytes.len() - reader.rest().len()]);
            }
        }

        #[test]
        fn what_is_made_to_fit_fits(locator in any_locator(), bytes in 1usize..700) {
            let fitting = locator.fit(bytes);
            prop_assert!(fitting.encoded_len() <= bytes);
            for (tree, coords) in fitting.iter() {
                prop_assert_eq!(Some(coords), locator.trees[usize::from(tree)].as_ref());
            }
        }
    }
}
