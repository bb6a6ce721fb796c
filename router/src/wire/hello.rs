//! Owns HELLO and LINK_ACK, the two frames of a link's handshake.
use super::codec::{Reader, Writer};
use super::{FrameError, VERSION, kind};
use crate::config::Class;
use crate::id::NodeId;

/// First frame of each side, in clear. It names no long-lived key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The sender's protocol version.
    pub version: u8,
    /// Whether the sender has a password for this link.
    pub password: bool,
    /// A fresh x25519 key.
    pub ephemeral: [u8; 32],
}

/// Tells this protocol from others that may be dialled by mistake.
const MAGIC: [u8; 4] = *b"mgrv";
const FLAG_PASSWORD: u8 = 1;

impl Hello {
    /// Bytes of HELLO as this version writes it.
    pub const LEN: usize = 39;
    /// Longest HELLO that is read: room for fields of later versions.
    pub const LEN_MAX: usize = 256;

    /// `kind magic version flags ephemeral`; more may follow and is ignored (but signed).
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(Self::LEN);
        out.put_byte(kind::HELLO);
        out.put(&MAGIC);
        out.put_byte(self.version);
        out.put_byte(if self.password { FLAG_PASSWORD } else { 0 });
        out.put(&self.ephemeral);
        out
    }

    /// Reads a whole frame. Another version is not an error here: nothing behind it is looked at.
    pub fn decode(frame: &[u8]) -> Result<Self, FrameError> {
        if frame.len() > Self::LEN_MAX {
            return Err(FrameError::Long);
        }
        let mut reader = Reader::new(frame);
        if reader.u8()? != kind::HELLO || reader.array()? != MAGIC {
            return Err(FrameError::Value);
        }
        let version = reader.u8()?;
        if version != VERSION {
            return Ok(Self { version, password: false, ephemeral: [0; 32] });
        }
        let flags = reader.u8()?;
        Ok(Self { version, password: flags & FLAG_PASSWORD != 0, ephemeral: reader.array()? })
    }
}

/// What is sealed in LINK_ACK.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proof {
    /// The sender's key.
    pub node: NodeId,
    /// How long the sender tends to stay. (Its port for the receiver comes with the first ANNOUNCE: it belongs to the
    /// receiver's key, which the sender of this frame need not know yet.)
    pub class: Class,
    /// Number of trees that the sender keeps.
    pub trees: u8,
    /// Largest frame that the sender takes on this link.
    pub mtu: u32,
    /// By `node`, over the handshake so far.
    pub sig: [u8; 64],
}

impl Proof {
    /// `node class trees mtu sig`; more may follow and is ignored (but sealed).
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(102);
        out.put(self.node.as_bytes());
        out.put_byte(self.class as u8);
        out.put_byte(self.trees);
        out.put_four(self.mtu);
        out.put(&self.sig);
        out
    }

    /// What the signature covers besides the handshake: everything before it.
    pub fn signed(&self) -> Vec<u8> {
        let mut out = self.encode();
        out.truncate(38);
        out
    }

    /// Reads the opened content of LINK_ACK.
    pub fn decode(bytes: &[u8]) -> Result<Self, FrameError> {
        let mut reader = Reader::new(bytes);
        Ok(Self {
            node: reader.node()?,
            class: decode_class(reader.u8()?)?,
            trees: reader.u8()?,
            mtu: reader.u32()?,
            sig: reader.array()?,
        })
    }
}

/// A class from its byte.
pub fn decode_class(byte: u8) -> Result<Class, FrameError> {
    match byte {
        0 => Ok(Class::Stable),
        1 => Ok(Class::Mobile),
        _ => Err(FrameError::Value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn round_trips_and_later_fields_are_ignored() {
        let hello = Hello { version: VERSION, password: true, ephemeral: [9; 32] };
        let mut bytes = hello.encode();
        assert_eq!(bytes.len(), Hello::LEN);
        assert_eq!(Hello::decode(&bytes), Ok(hello));
        bytes.extend_from_slice(&[1, 2, 3]);
        assert_eq!(Hello::decode(&bytes), Ok(hello));
        bytes.resize(Hello::LEN_MAX + 1, 0);
        assert_eq!(Hello::decode(&bytes), Err(FrameError::Long));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Hello::decode(&bytes);
            let _ = Proof::decode(&bytes);
        }
    }
}
