//! Owns the control frames: what two peers tell each other under their link's keys.
use super::announce::{self, TreeInfo};
use super::codec::{Reader, Writer};
use super::{FrameError, kind};
use crate::id::{NodeId, Port, Sid};

/// What is inside a SEALED frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Control {
    /// Answer with the same number.
    Ping {
        /// Ties the answer to the question.
        nonce: u32,
    },
    /// The answer.
    Pong {
        /// That of the question.
        nonce: u32,
    },
    /// Asks the receiver to countersign the sender's place below it.
    ParentReq {
        /// The place, signed by the sender only.
        info: TreeInfo,
    },
    /// Answer to a [`Control::ParentReq`].
    ParentSig {
        /// The tree.
        tree: u8,
        /// The seq of the place that was asked for.
        seq: u64,
        /// The countersignature; `None` is no.
        sig: Option<[u8; 64]>,
    },
    /// What has changed on the sender's way to the roots.
    Announce {
        /// The sender's port for the receiver.
        port: Port,
        /// Places, in no particular order.
        infos: Vec<TreeInfo>,
    },
    /// The sender wants the receiver's whole way in these trees.
    Resync {
        /// One bit a tree.
        trees: u8,
    },
    /// Who the sender's other peers are, as far as the receiver may audit the sender through them.
    Peers {
        /// "The receiver is a peer of mine", by the sender: the receiver shows it to its other peers.
        half: Option<[u8; 64]>,
        /// Ports of the sender that lead to nobody told of any more; 0 is all of them.
        gone: Vec<Port>,
        /// Peers that are new.
        here: Vec<PeerEntry>,
    },
    /// What has changed among the nodes nearest to the sender.
    Vicinity {
        /// Nodes, and what the sender's way to them costs.
        entries: Vec<VicinityEntry>,
    },
    /// Datagram links: a control frame that must arrive.
    Reliable {
        /// Counts such frames of this sender, from 0.
        seq: u32,
        /// The frame, kind first; never `Reliable` or `Ack`.
        frame: Vec<u8>,
    },
    /// Datagram links: which of those have arrived.
    Ack {
        /// All before this one have.
        next: u32,
        /// And `next + 1 + i` has, for every bit `i`.
        more: u32,
    },
    /// A kind that this version does not know or does not use yet.
    Unknown {
        /// The kind.
        kind: u8,
    },
}

/// A peer of the sender of a [`Control::Peers`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerEntry {
    /// The sender's port for it.
    pub port: Port,
    /// Its key.
    pub node: NodeId,
    /// "The sender is a peer of mine", by that peer.
    pub half: [u8; 64],
}

/// A node near the sender of a [`Control::Vicinity`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VicinityEntry {
    /// Who.
    pub node: Sid,
    /// Summed cost of the links on the sender's way; 65535 if it is near no longer.
    pub cost: u16,
    /// Given by the node itself; only grows.
    pub seq: u32,
}

/// Nodes in one VICINITY: what a frame of 1280 bytes holds.
pub const VICINITY_ENTRIES_MAX: usize = 80;

/// Peers, and ports, in one PEERS: what a frame of 1280 bytes holds.
pub const PEERS_ENTRIES_MAX: usize = 10;
const PEERS_HALF: u8 = 1;

/// Tree entries in one ANNOUNCE: more than a frame of 64 KiB can hold of the short sort.
pub const ANNOUNCE_INFOS_MAX: usize = 1024;

impl Control {
    /// Writes kind and fields.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(16);
        match self {
            Self::Ping { nonce } => {
                out.put_byte(kind::PING);
                out.put_four(*nonce);
            }
            Self::Pong { nonce } => {
                out.put_byte(kind::PONG);
                out.put_four(*nonce);
            }
            Self::ParentReq { info } => {
                out.put_byte(kind::PARENT_REQ);
                info.encode(&mut out);
            }
            Self::ParentSig { tree, seq, sig } => {
                out.put_byte(kind::PARENT_SIG);
                out.put_byte(*tree);
                out.put_eight(*seq);
                if let Some(sig) = sig {
                    out.put(sig);
                }
            }
            Self::Announce { port, infos } => {
                out.put_byte(kind::ANNOUNCE);
                out.put_port(*port);
                for info in infos {
                    info.encode(&mut out);
                }
            }
            Self::Resync { trees } => {
                out.put_byte(kind::RESYNC);
                out.put_byte(*trees);
            }
            Self::Peers { half, gone, here } => {
                out.put_byte(kind::PEERS);
                out.put_byte(if half.is_some() { PEERS_HALF } else { 0 });
                if let Some(half) = half {
                    out.put(half);
                }
                out.put_byte(gone.len() as u8);
                for port in gone {
                    out.put_port(*port);
                }
                for entry in here {
                    out.put_port(entry.port);
                    out.put(entry.node.as_bytes());
                    out.put(&entry.half);
                }
            }
            Self::Vicinity { entries } => {
                out.put_byte(kind::VICINITY);
                for entry in entries {
                    out.put(entry.node.as_bytes());
                    out.put_two(entry.cost);
                    out.put_four(entry.seq);
                }
            }
            Self::Reliable { seq, frame } => {
                out.put_byte(kind::RELIABLE);
                out.put_four(*seq);
                out.put(frame);
            }
            Self::Ack { next, more } => {
                out.put_byte(kind::ACK);
                out.put_four(*next);
                out.put_four(*more);
            }
            Self::Unknown { kind } => out.put_byte(*kind),
        }
        out
    }

    /// Reads a whole control frame.
    pub fn decode(bytes: &[u8]) -> Result<Self, FrameError> {
        let mut reader = Reader::new(bytes);
        let frame = match reader.u8()? {
            kind::PING => Self::Ping { nonce: reader.u32()? },
            kind::PONG => Self::Pong { nonce: reader.u32()? },
            kind::PARENT_REQ => {
                let info = TreeInfo::decode(&mut reader)?;
                if info.is_root() || info.parent_sig.is_some() {
                    return Err(FrameError::Value);
                }
                Self::ParentReq { info }
            }
            kind::PARENT_SIG => {
                let tree = announce::decode_tree(reader.u8()?)?;
                let seq = reader.u64()?;
                let sig = if reader.is_empty() { None } else { Some(reader.array()?) };
                Self::ParentSig { tree, seq, sig }
            }
            kind::ANNOUNCE => {
                let port = reader.port()?;
                let mut infos = Vec::new();
                while !reader.is_empty() {
                    let info = TreeInfo::decode(&mut reader)?;
                    if !info.is_root() && info.parent_sig.is_none() {
                        return Err(FrameError::Value);
                    }
                    if infos.len() == ANNOUNCE_INFOS_MAX {
                        return Err(FrameError::Long);
                    }
                    infos.push(info);
                }
                Self::Announce { port, infos }
            }
            kind::RESYNC => Self::Resync { trees: reader.u8()? },
            kind::PEERS => {
                let half = match reader.u8()? {
                    0 => None,
                    PEERS_HALF => Some(reader.array()?),
                    _ => return Err(FrameError::Value),
                };
                let count = usize::from(reader.u8()?);
                if count > PEERS_ENTRIES_MAX {
                    return Err(FrameError::Long);
                }
                let gone = (0..count).map(|_| reader.port()).collect::<Result<_, _>>()?;
                let mut here = Vec::new();
                while !reader.is_empty() {
                    if here.len() == PEERS_ENTRIES_MAX {
                        return Err(FrameError::Long);
                    }
                    let port = reader.port()?;
                    if port == Port::SELF {
                        return Err(FrameError::Value);
                    }
                    here.push(PeerEntry { port, node: reader.node()?, half: reader.array()? });
                }
                Self::Peers { half, gone, here }
            }
            kind::VICINITY => {
                let mut entries = Vec::with_capacity(reader.rest().len() / 14);
                while !reader.is_empty() {
                    if entries.len() == VICINITY_ENTRIES_MAX {
                        return Err(FrameError::Long);
                    }
                    entries.push(VicinityEntry {
                        node: reader.sid()?,
                        cost: reader.u16()?,
                        seq: reader.u32()?,
                    });
                }
                Self::Vicinity { entries }
            }
            kind::RELIABLE => {
                let seq = reader.u32()?;
                let frame = reader.bytes(reader.rest().len())?.to_vec();
                if matches!(frame.first(), None | Some(&(kind::RELIABLE | kind::ACK))) {
                    return Err(FrameError::Value);
                }
                Self::Reliable { seq, frame }
            }
            kind::ACK => Self::Ack { next: reader.u32()?, more: reader.u32()? },
            kind => return Ok(Self::Unknown { kind }),
        };
        if reader.is_empty() { Ok(frame) } else { Err(FrameError::Long) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::announce::tests::some_info;
    use proptest::prelude::*;

    #[test]
    fn every_kind_round_trips() {
        let mut asked = some_info(2);
        asked.parent_sig = None;
        for frame in [
            Control::Ping { nonce: 7 },
            Control::Pong { nonce: u32::MAX },
            Control::ParentReq { info: asked },
            Control::ParentSig { tree: 3, seq: 9, sig: Some([1; 64]) },
            Control::ParentSig { tree: 3, seq: 9, sig: None },
            Control::Announce { port: Port(300), infos: vec![some_info(0), some_info(1)] },
            Control::Resync { trees: 15 },
            Control::Peers { half: None, gone: vec![], here: vec![] },
            Control::Peers {
                half: Some([4; 64]),
                gone: vec![Port(9), Port(300)],
                here: vec![PeerEntry { port: Port(4000), node: NodeId::from_bytes([7; 32]), half: [9; 64] }],
            },
            Control::Vicinity { entries: vec![] },
            Control::Vicinity {
                entries: vec![VicinityEntry { node: Sid::from_bytes([3; 8]), cost: 700, seq: 9 }; 3],
            },
            Control::Reliable { seq: 4, frame: vec![kind::RESYNC, 1] },
            Control::Ack { next: 3, more: 5 },
        ] {
            assert_eq!(Control::decode(&frame.encode()), Ok(frame));
        }
        assert_eq!(Control::decode(&[0x7e, 1, 2]), Ok(Control::Unknown { kind: 0x7e }));
    }

    #[test]
    fn an_announced_place_is_countersigned() {
        let mut info = some_info(0);
        info.parent_sig = None;
        let bytes = Control::Announce { port: Port(1), infos: vec![info] }.encode();
        assert_eq!(Control::decode(&bytes), Err(FrameError::Value));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(kind in 0x10u8..0x1b, bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let mut frame = vec![kind];
            frame.extend(bytes);
            if let Ok(control) = Control::decode(&frame)
                && !matches!(control, Control::Unknown { .. }) {
                prop_assert_eq!(control.encode(), frame);
            }
        }
    }
}
