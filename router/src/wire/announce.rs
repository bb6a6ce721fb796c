//! Owns `TreeInfo`: a node's place in one tree, signed by itself and by its parent.
use super::FrameError;
use super::codec::{Reader, Writer};
use super::hello::decode_class;
use crate::config::{Class, TREES_MAX};
use crate::id::{NodeId, Port};

/// A node's place in one tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TreeInfo {
    /// The tree.
    pub tree: u8,
    /// Whose place.
    pub node: NodeId,
    /// How long it tends to stay; part of a root's rank.
    pub class: Class,
    /// The parent; the node itself if it is a root.
    pub parent: NodeId,
    /// The parent's port for the node; 0 for a root.
    pub parent_port: Port,
    /// Cost of the link to the parent; 0 for a root.
    pub cost: u8,
    /// Only grows; the newest counts.
    pub seq: u64,
    /// By `node`.
    pub sig: [u8; 64],
    /// By `parent`; none for a root, or while it is only asked for.
    pub parent_sig: Option<[u8; 64]>,
}

const FLAG_CLASS: u8 = 0x10;
const FLAG_ROOT: u8 = 0x20;
const FLAG_COUNTERSIGNED: u8 = 0x40;

impl TreeInfo {
    /// Longest encoded form.
    pub const LEN_MAX: usize = 1 + 32 + 8 + 32 + 3 + 1 + 64 + 64;

    /// Is this the place of a root?
    pub fn is_root(&self) -> bool {
        self.parent == self.node
    }

    /// What both signatures cover: `tree|class|root, node, seq`, and unless it is a root `parent, port, cost`.
    pub fn signed(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(80);
        self.encode_unsigned(&mut out, 0);
        out
    }

    /// `tree|class|root|countersigned node seq [parent port cost] sig [parent_sig]`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let flag = if self.parent_sig.is_some() { FLAG_COUNTERSIGNED } else { 0 };
        self.encode_unsigned(out, flag);
        out.put(&self.sig);
        if let Some(sig) = &self.parent_sig {
            out.put(sig);
        }
    }

    fn encode_unsigned(&self, out: &mut Vec<u8>, flags: u8) {
        let class = if self.class == Class::Mobile { FLAG_CLASS } else { 0 };
        let root = if self.is_root() { FLAG_ROOT } else { 0 };
        out.put_byte(self.tree | class | root | flags);
        out.put(self.node.as_bytes());
        out.put_eight(self.seq);
        if !self.is_root() {
            out.put(self.parent.as_bytes());
            out.put_port(self.parent_port);
            out.put_byte(self.cost);
        }
    }

    /// Reads one entry of an ANNOUNCE; signatures are not checked here.
    pub fn decode(reader: &mut Reader<'_>) -> Result<Self, FrameError> {
        let head = reader.u8()?;
        let tree = decode_tree(head & 0x0f)?;
        let class = decode_class((head & FLAG_CLASS) >> 4)?;
        let (root, countersigned) = (head & FLAG_ROOT != 0, head & FLAG_COUNTERSIGNED != 0);
        if head & 0x80 != 0 || root && countersigned {
            return Err(FrameError::Value);
        }
        let node = reader.node()?;
        let seq = reader.u64()?;
        let (parent, parent_port, cost) = if root {
            (node, Port::SELF, 0)
        } else {
            let (parent, port, cost) = (reader.node()?, reader.port()?, reader.u8()?);
            // A free or portless step would make two places one.
            if parent == node || port == Port::SELF || cost == 0 {
                return Err(FrameError::Value);
            }
            (parent, port, cost)
        };
        let sig = reader.array()?;
        let parent_sig = if countersigned { Some(reader.array()?) } else { None };
        Ok(Self { tree, node, class, parent, parent_port, cost, seq, sig, parent_sig })
    }
}

/// A tree's number, if there can be such a tree.
pub fn decode_tree(tree: u8) -> Result<u8, FrameError> {
    if usize::from(tree) < TREES_MAX { Ok(tree) } else { Err(FrameError::Value) }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(crate) fn some_info(tree: u8) -> TreeInfo {
        TreeInfo {
            tree,
            node: NodeId::from_bytes([1; 32]),
            class: Class::Mobile,
            parent: NodeId::from_bytes([2; 32]),
            parent_port: Port(129),
            cost: 7,
            seq: 1 << 40,
            sig: [3; 64],
            parent_sig: Some([4; 64]),
        }
    }

    #[test]
    fn roots_and_others_round_trip() {
        let other = some_info(3);
        let root =
            TreeInfo { parent: other.node, parent_port: Port::SELF, cost: 0, parent_sig: None, ..other };
        for info in [other, root] {
            let mut bytes = Vec::new();
            info.encode(&mut bytes);
            assert!(bytes.len() <= TreeInfo::LEN_MAX);
            let mut reader = Reader::new(&bytes);
            assert_eq!(TreeInfo::decode(&mut reader), Ok(info));
            assert!(reader.is_empty());
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut reader = Reader::new(&bytes);
            if let Ok(info) = TreeInfo::decode(&mut reader) {
                let mut again = Vec::new();
                info.encode(&mut again);
                prop_assert_eq!(&again[..], &bytes[..bytes.len() - reader.rest().len()]);
            }
        }
    }
}
