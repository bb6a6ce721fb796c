//! Owns the bytes of DATA: what stands in clear, and the header under the seal.
//!
//! ```text
//! DATA   = 01  counter:8  sealed(channel:1 route:1 sent:4 echo route:1 echo received:4 echo load:1  payload)
//! ```
//! `route` is the way that the packet was sent by, 0 being the trees, 255 the way back; `sent` counts the packets sent by it. The echo
//! says how many packets arrived by the peer's route of that number, and the highest load met there since the last
//! echo: what routes are chosen by.
use crate::wire::FrameError;
use crate::wire::codec::{Reader, Writer};

/// The part of a packet before its payload, under the seal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct SealedHeader {
    /// What the payload is, see [`channel`].
    pub channel: u8,
    /// The way it was sent by; 0 is the trees.
    pub route: u8,
    /// How many packets were sent by that way before, low 32 bits.
    pub sent: u32,
    /// The peer's route that the echo is about.
    pub echo_route: u8,
    /// How many packets came by that route, low 32 bits.
    pub echo_received: u32,
    /// The highest load that they met.
    pub echo_load: u8,
}

impl SealedHeader {
    /// Bytes of the header.
    pub const LEN: usize = 12;

    /// Writes the header.
    pub fn encode(&self, out: &mut impl Writer) {
        out.put_byte(self.channel);
        out.put_byte(self.route);
        out.put_four(self.sent);
        out.put_byte(self.echo_route);
        out.put_four(self.echo_received);
        out.put_byte(self.echo_load);
    }

    /// Reads the header; the payload is what remains.
    pub fn decode(reader: &mut Reader<'_>) -> Result<Self, FrameError> {
        Ok(Self {
            channel: reader.u8()?,
            route: reader.u8()?,
            sent: reader.u32()?,
            echo_route: reader.u8()?,
            echo_received: reader.u32()?,
            echo_load: reader.u8()?,
        })
    }
}

/// What a sealed payload is. Values that a version does not know are ignored.
pub mod channel {
    /// An IPv6 packet.
    pub const IP: u8 = 0x00;
    /// A datagram of streams.
    pub const STREAM: u8 = 0x01;
    /// Nothing: the packet itself is the message.
    pub const KEEPALIVE: u8 = 0x80;
    /// seq:8 locator: where the sender is now.
    pub const LOCATOR_UPDATE: u8 = 0x81;
    /// seq:8: the LOCATOR_UPDATE has arrived.
    pub const LOCATOR_ACK: u8 = 0x82;
    /// token:8: to be sent back at once as PONG.
    pub const PING: u8 = 0x83;
    /// token:8.
    pub const PONG: u8 = 0x84;
    /// token:8 and zeros: to be answered with PROBED along the way that it came, whatever lies beyond on it.
    pub const PROBE: u8 = 0x86;
    /// token:8, then up to two of the sender's ports.
    pub const PROBED: u8 = 0x87;
    /// index:4 body: a packet of the application once more, as it was sealed under former keys of the session.
    pub const AGAIN: u8 = 0x88;
}

/// The number of a route: packets that go by the trees.
pub const ROUTE_TREES: u8 = 0;
/// The number of a route: answers, along the way that what they answer came by. They are not counted.
pub const ROUTE_BACK: u8 = 255;
/// Kind and counter, in clear before what is sealed.
pub const CLEAR_LEN: usize = 9;
/// Largest payload of one packet: the longest that an IPv6 header describes, and what a frame's length leaves room for.
pub const PAYLOAD_MAX: usize = 65_535;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_bytes_are_a_header_or_too_short(bytes in proptest::collection::vec(any::<u8>(), 0..20)) {
            let mut reader = Reader::new(&bytes);
            match SealedHeader::decode(&mut reader) {
                Ok(header) => {
                    let mut again = Vec::new();
                    header.encode(&mut again);
                    prop_assert_eq!(&again[..], &bytes[..SealedHeader::LEN]);
                }
                Err(error) => {
                    prop_assert_eq!(error, FrameError::Short);
                    prop_assert!(bytes.len() < SealedHeader::LEN);
                }
            }
        }
    }
}
