//! Owns the bodies of DATA frames: what two ends say to each other over any number of hops. The first byte is the kind.
//!
//! [`DATA`] is sealed under a session's keys; handshakes seal themselves; lookup bodies are in clear and answered along
//! the way they came.
pub mod find;
pub mod init;
pub mod map;
pub mod sealed;

use crate::config::H_MAX;
use crate::id::{Port, Sid};
use crate::lookup::{Locator, Position};
use crate::wire::{Record, Reply};
use bytes::{Buf, Bytes, BytesMut};

/// A packet under a session's keys.
pub const DATA: u8 = 0x01;
/// First message of a handshake.
pub const INIT: u8 = 0x02;
/// Its answer.
pub const INIT_ACK: u8 = 0x03;
/// "Show that you receive what is sent back to you": answer to INIT under load.
pub const COOKIE: u8 = 0x04;
/// "I have seen a higher counter of yours": answer to an old INIT.
pub const HINT: u8 = 0x05;
/// Who is near that key, what is kept for it?
pub const FIND: u8 = 0x08;
/// Answer to FIND, STORE and REFRESH.
pub const FOUND: u8 = 0x09;
/// Please keep this record.
pub const STORE: u8 = 0x0a;
/// Please keep the record that you have for longer.
pub const REFRESH: u8 = 0x0b;
/// Who are your peers?
pub const MAP_GET: u8 = 0x0c;
/// These; the answer to MAP_GET.
pub const MAP: u8 = 0x0d;

/// The last 8 bytes of a body: what a NOTICE names the refused packet by. Zero-filled if it is shorter.
pub fn tail(body: &[u8]) -> [u8; 8] {
    body.last_chunk().copied().unwrap_or_default()
}

/// A packet that was addressed to this node.
#[derive(Clone, Debug)]
pub struct Inbound<'a> {
    /// The peer it came from; quotas are by ingress, since keys are free.
    pub ingress: Port,
    /// The ports that lead back to the sender, to be sent along as they are.
    pub way: &'a [u8],
    /// From the frame's header.
    pub index: u32,
    /// From the frame's header: the fullest queue on the way.
    pub load: u8,
    /// The hops that it gathered, or brings back.
    pub list: List<'a>,
    /// What the header stands before.
    pub body: &'a [u8],
}

/// What stands between header and body of a packet for this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum List<'a> {
    /// Nothing.
    None,
    /// The hops that it came by.
    Record(Record<'a>),
    /// The hops that a packet of ours took, with their chords.
    Reply(Reply<'a>),
}

/// A packet to be sent.
#[derive(Debug)]
pub struct Outbound {
    /// Where to.
    pub to: Destination,
    /// For the frame's header.
    pub index: u32,
    /// What the header stands before.
    pub body: Body,
}

impl Outbound {
    /// To a node, by the trees.
    pub fn node(sid: Sid, place: &Position, index: u32, body: Body) -> Self {
        let to = Destination::Node { sid, locator: place.locator.clone(), mask: u8::MAX, record: false };
        Self { to, index, body }
    }

    /// To a node, by the trees in `mask`; the hops write themselves down.
    pub fn recording(sid: Sid, place: &Position, mask: u8, index: u32, body: Body) -> Self {
        Self {
            to: Destination::Node { sid, locator: place.locator.clone(), mask, record: true },
            index,
            body,
        }
    }

    /// Along the way that a packet came from.
    pub fn back(way: &Bytes, index: u32, body: &[u8]) -> Self {
        Self { to: Destination::Back(way.clone()), index, body: Body::from_slice(body) }
    }
}

/// Where a packet goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// To a node, by the trees (or straight, if it is a peer).
    Node {
        /// Its short name.
        sid: Sid,
        /// Where it is; empty if it is only known to be a peer.
        locator: Locator,
        /// The trees that may be used, one bit each.
        mask: u8,
        /// The hops shall write themselves down.
        record: bool,
    },
    /// Along a list of ports: the way that a packet came from, or a source route.
    Back(Bytes),
    /// To a node by the trees, but not by that peer first.
    Around {
        /// Its short name.
        sid: Sid,
        /// Where it is.
        locator: Locator,
        /// The peer that is passed by.
        avoid: Port,
        /// The trees that may be used, one bit each.
        mask: u8,
        /// The hops shall write themselves down.
        record: bool,
    },
    /// The same as `Back`, as if it came from farther away: the router makes the beginning of its way up.
    Veiled(Bytes),
    /// Along the way that a packet came from, with the hops that it had gathered.
    Reply {
        /// The ports.
        way: Bytes,
        /// The record as it came, encoded.
        record: Bytes,
    },
}

/// The body of a packet, with room before it for the frame's header, so that nothing is copied on the way out.
#[derive(Debug)]
pub struct Body {
    bytes: BytesMut,
    start: usize,
}

impl Body {
    /// Room before the body.
    pub const HEADROOM: usize = H_MAX;

    /// An empty body that will take `len` bytes without a second allocation.
    pub fn with_capacity(len: usize) -> Self {
        let mut bytes = BytesMut::with_capacity(Self::HEADROOM + len);
        bytes.resize(Self::HEADROOM, 0);
        Self { bytes, start: Self::HEADROOM }
    }

    /// A body with that content.
    pub fn from_slice(content: &[u8]) -> Self {
        let mut body = Self::with_capacity(content.len());
        body.bytes.extend_from_slice(content);
        body
    }

    /// The body alone.
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    /// The body alone, to be changed in place.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..]
    }

    /// The frame: header, then body. Copies only the header, as long as it is no longer than [`Self::HEADROOM`].
    pub fn frame(mut self, header: &[u8]) -> Bytes {
        if let Some(start) = self.start.checked_sub(header.len()) {
            self.bytes[start..self.start].copy_from_slice(header);
            self.bytes.advance(start);
            return self.bytes.freeze();
        }
        let mut frame = BytesMut::with_capacity(header.len() + self.as_slice().len());
        frame.extend_from_slice(header);
        frame.extend_from_slice(self.as_slice());
        frame.freeze()
    }
}

impl super::Writer for Body {
    fn put(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_header_and_body_however_long_the_header() {
        for len in [0, 1, Body::HEADROOM, Body::HEADROOM + 1] {
            let header = vec![7; len];
            let frame = Body::from_slice(b"body").frame(&header);
            assert_eq!(frame, [&header[..], b"body"].concat());
        }
    }
}
