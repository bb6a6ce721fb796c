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
}

/// Where a node is: its coordinates in each tree that it knows them of. Kept as the bytes it travels as, which have been
/// checked: a node remembers hundreds of these, each is a hundred bytes or so, and a copy costs nothing.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct Locator(Arc<[u8]>);

/// The coordinates of one tree in a [`Locator`].
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Place<'a> {
    /// The root's short name.
    pub root: Sid,
    /// All of it: root, depth, steps.
    bytes: &'a [u8],
}

impl<'a> Place<'a> {
    /// Steps below the root.
    pub const fn depth(&self) -> usize {
        self.bytes[8] as usize
    }

    /// Bytes that it takes in a locator.
    pub const fn encoded_len(&self) -> usize {
        self.bytes.len()
    }

    /// The steps, from the root down.
    pub fn hops(&self) -> impl Iterator<Item = Hop> + use<'a> {
        let mut reader = Reader::new(&self.bytes[9..]);
        std::iter::from_fn(move || Some(Hop { port: reader.port().ok()?, cost: reader.u8().ok()? }))
    }

    /// The same as a value of its own.
    pub fn to_coords(&self) -> Coords {
        Coords { root: self.root, hops: self.hops().collect() }
    }

    /// Takes one from the reader.
    fn read(reader: &mut Reader<'a>) -> Result<Self, FrameError> {
        let all = reader.rest();
        let root = reader.sid()?;
        for _ in 0..reader.u8()? {
            let hop = Hop { port: reader.port()?, cost: reader.u8()? };
            if hop.cost == 0 || hop.port == Port::SELF {
                return Err(FrameError::Value);
            }
        }
        Ok(Self { root, bytes: &all[..all.len() - reader.rest().len()] })
    }
}

impl Locator {
    /// Of coordinates in these trees, numbers rising.
    pub fn of<'a>(trees: impl IntoIterator<Item = (usize, &'a Coords)>) -> Self {
        let mut bytes = vec![0];
        for (tree, coords) in trees {
            debug_assert!(tree < TREES_MAX && bytes[0] >> tree == 0, "trees come in order, each once");
            bytes[0] |= 1 << tree;
            coords.encode(&mut bytes);
        }
        Self::checked(&bytes)
    }

    /// Bytes that are known to be a locator.
    fn checked(bytes: &[u8]) -> Self {
        // There is one value without trees, whatever it came from.
        if bytes == [0] { Self::default() } else { Self(bytes.into()) }
    }

    /// The bytes it travels as.
    pub fn as_bytes(&self) -> &[u8] {
        if self.0.is_empty() { &[0] } else { &self.0 }
    }

    /// The trees that it has coordinates in, one bit each.
    pub fn mask(&self) -> u8 {
        self.as_bytes()[0]
    }

    /// Knows it no tree at all?
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The trees and the coordinates in them.
    pub fn iter(&self) -> impl Iterator<Item = (u8, Place<'_>)> {
        let mut reader = Reader::new(&self.as_bytes()[1..]);
        let mask = self.mask();
        (0..TREES_MAX as u8)
            .filter(move |tree| mask & 1 << tree != 0)
            .map_while(move |tree| Some((tree, Place::read(&mut reader).ok()?)))
    }

    /// The coordinates in one tree.
    pub fn get(&self, tree: usize) -> Option<Place<'_>> {
        self.iter().find(|(at, _)| usize::from(*at) == tree).map(|(_, place)| place)
    }

    /// In how many trees two locators differ.
    pub fn changes(&self, other: &Self) -> usize {
        if self == other {
            return 0;
        }
        (0..TREES_MAX).filter(|&tree| self.get(tree) != other.get(tree)).count()
    }

    /// Bytes that [`Self::encode`] writes.
    pub fn encoded_len(&self) -> usize {
        self.as_bytes().len()
    }

    /// [`Self::fit`], but the shortest tree stays in even if it alone is longer.
    pub fn fit_or_one(&self, bytes: usize) -> Self {
        if self.encoded_len() <= bytes {
            return self.clone();
        }
        let shortest = self.iter().map(|(_, place)| place.encoded_len()).min().unwrap_or(0);
        self.fit(bytes.max(1 + shortest))
    }

    /// The same with as many trees as fit into `bytes`, the shortest coordinates first.
    pub fn fit(&self, bytes: usize) -> Self {
        if self.encoded_len() <= bytes {
            return self.clone();
        }
        let mut places = [&[][..]; TREES_MAX];
        for (tree, place) in self.iter() {
            places[usize::from(tree)] = place.bytes;
        }
        let mut left = bytes.saturating_sub(1);
        let mut mask = 0u8;
        // The shortest that has not been looked at; of two the one of the lesser tree.
        let mut rest = self.mask();
        while rest != 0 {
            let open = (0..TREES_MAX).filter(|tree| rest & 1 << tree != 0);
            let Some(tree) = open.min_by_key(|&tree| places[tree].len()) else { break };
            rest &= !(1 << tree);
            if let Some(now_left) = left.checked_sub(places[tree].len()) {
                left = now_left;
                mask |= 1 << tree;
            }
        }
        let mut fitting = Vec::with_capacity(bytes.min(self.encoded_len()));
        fitting.push(mask);
        for (tree, place) in places.iter().enumerate() {
            if mask & 1 << tree != 0 {
                fitting.extend_from_slice(place);
            }
        }
        Self::checked(&fitting)
    }

    /// Writes the locator.
    pub fn encode(&self, out: &mut impl Writer) {
        out.put(self.as_bytes());
    }

    /// Reads what [`Self::encode`] wrote.
    pub fn decode(reader: &mut Reader<'_>) -> Result<Self, FrameError> {
        let all = reader.rest();
        let mask = reader.u8()?;
        for _ in 0..mask.count_ones() {
            Place::read(reader)?;
        }
        let len = all.len() - reader.rest().len();
        if len > LOCATOR_MAX {
            return Err(FrameError::Long);
        }
        Ok(Self::checked(&all[..len]))
    }
}

impl std::fmt::Debug for Locator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_map().entries(self.iter().map(|(tree, place)| (tree, place.to_coords()))).finish()
    }
}

impl std::fmt::Debug for Place<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.to_coords().fmt(f)
    }
}

/// Where a node is, and how new that is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// The node's own count of its positions; only grows.
    pub seq: u64,
    /// Where it is.
    pub locator: Locator,
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
        proptest::collection::vec(proptest::option::of(coords), TREES_MAX).prop_map(|trees| {
            Locator::of(trees.iter().enumerate().filter_map(|(tree, coords)| Some((tree, coords.as_ref()?))))
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
                prop_assert_eq!(Some(coords), locator.get(usize::from(tree)));
            }
        }
    }
}
