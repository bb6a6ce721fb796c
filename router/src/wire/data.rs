//! Owns the headers of packets on their way: DATA_T (by trees) and DATA_S (by ports), and the way back both gather.
//!
//! Both are read as views into the frame: what a transit node changes lies in front, or is a list whose first element
//! goes or comes, so a frame is passed on with one copy and no intermediate form.
use super::codec::{Reader, Writer, port_bytes};
use super::{FrameError, Record, Reply, kind};
use crate::id::{Port, Sid};

/// Of DATA_T: every hop appends itself to a list between index and body, see [`super::record`].
pub const FLAG_RECORD: u8 = 0x80;
/// Of DATA_S: such a list goes back, between index and body; hops add their chords.
pub const FLAG_REPLY: u8 = 0x80;
/// Do not use the vicinity table (a retry).
pub const FLAG_NO_VICINITY: u8 = 0x40;
/// Somebody on the way found the destination in its vicinity: the least distance is then what the way there costs.
pub const FLAG_VICINITY: u8 = 0x20;

/// Of DATA_S: how often it has gone out where it came in. A tree that is given up may turn a packet back, once each but the last
/// of four; a list of ports that turns for ever would keep a link busy for the price of one packet.
pub const TURNS: u8 = 0x03;

/// Hops a packet may take. The longest shortest paths that wireless meshes of 10 000 nodes showed are near 100.
pub const TTL: u8 = 255;
/// Hops that may fail to come nearer before a tree is given up.
pub const BUDGET: u8 = 8;
/// `phi_min` of a packet that has not been sent yet.
pub const PHI_NONE: u32 = 0xff_ffff;
/// Bytes of coordinates in one packet that are read: one tree of the greatest depth, with the longest ports.
pub const COORDS_BYTES_MAX: usize = 1 + 8 + 1 + 255 * 4;
/// Bytes of coordinates that a sender puts into a packet if more than one tree is to fit: with the way back and the
/// seals it stays within [`crate::config::H_MAX`] on paths of up to 40 hops.
pub const COORDS_BYTES_GOAL: usize = 160;
/// Bytes of a list of ports: 255 of at most three bytes.
pub const PORTS_BYTES_MAX: usize = 3 * 255;

/// A packet that finds its way by the destination's coordinates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DataT<'a> {
    /// [`FLAG_RECORD`] and others; unknown ones are passed on.
    pub flags: u8,
    /// Trees that may still be used, one bit each.
    pub mask: u8,
    /// Hops left.
    pub ttl: u8,
    /// Hops left that may fail to come nearer.
    pub budget: u8,
    /// Highest queue level met, 0..=255.
    pub load: u8,
    /// Least distance it was sent with so far, in this mask.
    pub phi_min: u32,
    /// Short name of the destination.
    pub dst: Sid,
    /// Its coordinates, encoded; see [`CoordsIter`].
    pub coords: &'a [u8],
    /// The way back: ports, the last hop's first.
    pub rev: &'a [u8],
    /// The receiver's index of a session, 0 if none.
    pub index: u32,
    /// Sealed end to end; with [`FLAG_RECORD`] the record stands before it.
    pub body: &'a [u8],
}

impl<'a> DataT<'a> {
    /// Offset of the coordinates' length.
    const FIXED: usize = 17;

    /// Reads a whole frame, kind included. Coordinates and way back are checked only where they are used.
    pub fn decode(frame: &'a [u8]) -> Result<Self, FrameError> {
        let mut reader = Reader::new(frame);
        if reader.u8()? != kind::DATA_T {
            return Err(FrameError::Value);
        }
        Ok(Self {
            flags: reader.u8()?,
            mask: reader.u8()?,
            ttl: reader.u8()?,
            budget: reader.u8()?,
            load: reader.u8()?,
            phi_min: reader.u24()?,
            dst: reader.sid()?,
            coords: reader.counted(COORDS_BYTES_MAX)?,
            rev: reader.counted(PORTS_BYTES_MAX)?,
            index: reader.u32()?,
            body: reader.rest(),
        })
    }

    /// The body without the record that stands before it with [`FLAG_RECORD`].
    pub fn bare_body(&self) -> Result<&'a [u8], FrameError> {
        if self.flags & FLAG_RECORD == 0 { Ok(self.body) } else { Ok(Record::split(self.body)?.1) }
    }

    /// Bytes of the frame when `via` is put in front of the way back.
    pub fn encoded_len(&self, via: Option<Port>) -> usize {
        let via = via.map_or(0, |port| port_bytes(port).1);
        Self::FIXED + 2 + self.coords.len() + 2 + via + self.rev.len() + 4 + self.body.len()
    }

    /// Writes the frame, `via` in front of the way back.
    pub fn encode(&self, via: Option<Port>, out: &mut impl Writer) {
        let phi = self.phi_min.min(PHI_NONE).to_be_bytes();
        out.put(&[
            kind::DATA_T,
            self.flags,
            self.mask,
            self.ttl,
            self.budget,
            self.load,
            phi[1],
            phi[2],
            phi[3],
        ]);
        out.put(self.dst.as_bytes());
        put_counted(out, None, self.coords);
        put_counted(out, via, self.rev);
        out.put_four(self.index);
        out.put(self.body);
    }
}

/// A packet that finds its way by a list of ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DataS<'a> {
    /// [`FLAG_REPLY`] and [`TURNS`]; others are passed on.
    pub flags: u8,
    /// Highest queue level met.
    pub load: u8,
    /// Ports yet to go out of, the next one first.
    pub ports: &'a [u8],
    /// The way back: ports, the last hop's first.
    pub rev: &'a [u8],
    /// The receiver's index of a session, 0 if none.
    pub index: u32,
    /// Sealed end to end; with [`FLAG_REPLY`] the reply's lists stand before it.
    pub body: &'a [u8],
}

impl<'a> DataS<'a> {
    /// Offset of the ports' length.
    const FIXED: usize = 3;

    /// Reads a whole frame, kind included.
    pub fn decode(frame: &'a [u8]) -> Result<Self, FrameError> {
        let mut reader = Reader::new(frame);
        if reader.u8()? != kind::DATA_S {
            return Err(FrameError::Value);
        }
        Ok(Self {
            flags: reader.u8()?,
            load: reader.u8()?,
            ports: reader.counted(PORTS_BYTES_MAX)?,
            rev: reader.counted(PORTS_BYTES_MAX)?,
            index: reader.u32()?,
            body: reader.rest(),
        })
    }

    /// The body without the lists that stand before it with [`FLAG_REPLY`].
    pub fn bare_body(&self) -> Result<&'a [u8], FrameError> {
        if self.flags & FLAG_REPLY == 0 { Ok(self.body) } else { Ok(Reply::split(self.body)?.1) }
    }

    /// Bytes of the frame when `via` is put in front of the way back.
    pub fn encoded_len(&self, via: Option<Port>) -> usize {
        let via = via.map_or(0, |port| port_bytes(port).1);
        3 + 2 + self.ports.len() + 2 + via + self.rev.len() + 4 + self.body.len()
    }

    /// Writes the frame, `via` in front of the way back.
    pub fn encode(&self, via: Option<Port>, out: &mut impl Writer) {
        out.put(&[kind::DATA_S, self.flags, self.load]);
        put_counted(out, None, self.ports);
        put_counted(out, via, self.rev);
        out.put_four(self.index);
        out.put(self.body);
    }
}

/// Writes a two-byte length, then `first` and `rest`.
pub fn put_counted(out: &mut impl Writer, first: Option<Port>, rest: &[u8]) {
    let (bytes, len) = first.map_or(([0; 3], 0), port_bytes);
    debug_assert!(len + rest.len() <= usize::from(u16::MAX));
    out.put_two((len + rest.len()) as u16);
    out.put(&bytes[..len]);
    out.put(rest);
}

/// What tells one flow from another on its way: the receiver's index. 0 for what is not a packet, or none that can be read.
/// O(1), for the hot path.
pub fn flow_of(frame: &[u8]) -> u32 {
    let two = |at: usize| Some(usize::from(u16::from_be_bytes(frame.get(at..at + 2)?.try_into().ok()?)));
    let lists = match frame.first() {
        Some(&kind::DATA_T) => DataT::FIXED,
        Some(&kind::DATA_S) => DataS::FIXED,
        _ => return 0,
    };
    let index = || {
        let second = lists + 2 + two(lists)?;
        let at = second + 2 + two(second)?;
        Some(u32::from_be_bytes(frame.get(at..at + 4)?.try_into().ok()?))
    };
    index().unwrap_or(0)
}

/// Takes the first port off a list.
pub fn split_port(ports: &[u8]) -> Result<Option<(Port, &[u8])>, FrameError> {
    if ports.is_empty() {
        return Ok(None);
    }
    let mut reader = Reader::new(ports);
    let port = reader.port()?;
    Ok(Some((port, reader.rest())))
}

/// A list of ports as bytes, cut after the 255th.
pub fn encode_ports(ports: &[Port]) -> Vec<u8> {
    let mut out = Vec::with_capacity(ports.len() + 4);
    for port in ports.iter().take(255) {
        out.put_port(*port);
    }
    out
}

/// A list of ports from its bytes.
pub fn decode_ports(mut bytes: &[u8]) -> Result<Vec<Port>, FrameError> {
    let mut ports = Vec::with_capacity(bytes.len());
    while let Some((port, rest)) = split_port(bytes)? {
        if ports.len() == 255 {
            return Err(FrameError::Long);
        }
        ports.push(port);
        bytes = rest;
    }
    Ok(ports)
}

/// Iterates over the trees of a packet's coordinates, which are an encoded locator: `mask`, then for each bit set in
/// it, from the least, `root depth (port cost)*depth`.
#[derive(Clone, Debug)]
pub struct CoordsIter<'a> {
    reader: Reader<'a>,
    mask: u8,
}

impl<'a> CoordsIter<'a> {
    /// Over [`DataT::coords`].
    pub fn new(coords: &'a [u8]) -> Result<Self, FrameError> {
        let mut reader = Reader::new(coords);
        let mask = reader.u8()?;
        Ok(Self { reader, mask })
    }

    /// The next tree and its root; [`Self::steps`] follows.
    pub fn peek(&mut self) -> Result<Option<(usize, Sid)>, FrameError> {
        if self.mask == 0 {
            return if self.reader.is_empty() { Ok(None) } else { Err(FrameError::Long) };
        }
        let tree = self.mask.trailing_zeros() as usize;
        self.mask &= self.mask - 1;
        Ok(Some((tree, self.reader.sid()?)))
    }

    /// The steps of the tree that [`Self::peek`] named, from the root down.
    pub fn steps(&mut self, mut step: impl FnMut(Port, u8)) -> Result<(), FrameError> {
        for _ in 0..self.reader.u8()? {
            let port = self.reader.port()?;
            step(port, self.reader.u8()?);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_hop_puts_its_port_in_front() {
        let rev = encode_ports(&[Port(5)]);
        let packet = DataT {
            flags: FLAG_RECORD | 1,
            mask: 15,
            ttl: 9,
            budget: BUDGET,
            load: 3,
            phi_min: PHI_NONE,
            dst: Sid::from_bytes([8; 8]),
            coords: &[1, 2, 3],
            rev: &rev,
            index: 77,
            body: b"body",
        };
        let mut frame = Vec::new();
        packet.encode(Some(Port(300)), &mut frame);
        assert_eq!(frame.len(), packet.encoded_len(Some(Port(300))));
        let read = DataT::decode(&frame).unwrap();
        assert_eq!(decode_ports(read.rev).unwrap(), [Port(300), Port(5)]);
        assert_eq!(DataT { rev: packet.rev, ..read }, packet);
    }

    #[test]
    fn a_port_list_ends() {
        assert_eq!(decode_ports(&[]), Ok(vec![]));
        assert_eq!(decode_ports(&[0x80]), Err(FrameError::Short));
        assert_eq!(decode_ports(&[1; 256]), Err(FrameError::Long));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(first in 0x20u8..0x22, bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let mut frame = vec![first];
            frame.extend(bytes);
            if let Ok(packet) = DataT::decode(&frame) {
                if let Ok(mut trees) = CoordsIter::new(packet.coords) {
                    while let Ok(Some(_)) = trees.peek()
                        && trees.steps(|_, _| ()).is_ok()
                    {}
                }
                let _ = decode_ports(packet.rev);
                prop_assert_eq!(flow_of(&frame), packet.index);
                let mut again = Vec::new();
                packet.encode(None, &mut again);
                prop_assert_eq!(&again, &frame);
            }
            if let Ok(packet) = DataS::decode(&frame) {
                prop_assert_eq!(flow_of(&frame), packet.index);
                let mut again = Vec::new();
                packet.encode(None, &mut again);
                prop_assert_eq!(&again, &frame);
            }
        }
    }
}
