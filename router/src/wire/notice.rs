//! Owns NOTICE: a packet could not be passed on; it goes back along the way the packet had gathered.
use super::codec::{Reader, Writer};
use super::data::{PORTS_BYTES_MAX, put_counted};
use super::{FrameError, kind};

/// Why a packet was not passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NoticeCode {
    /// No peer is nearer to the destination, in any tree.
    NoRoute,
    /// The packet came to where the coordinates lead, but another node is there.
    Stale,
    /// The link behind a port is gone.
    BrokenPort,
    /// The frame is larger than a link takes.
    TooLarge,
    /// The receiver has no session with that index.
    NoSession,
    /// It went over too many hops.
    Ttl,
    /// A code of a later version.
    Other(u8),
}

impl NoticeCode {
    const fn byte(self) -> u8 {
        match self {
            Self::NoRoute => 1,
            Self::Stale => 2,
            Self::BrokenPort => 3,
            Self::TooLarge => 4,
            Self::NoSession => 5,
            Self::Ttl => 6,
            Self::Other(code) => code,
        }
    }

    const fn of_byte(byte: u8) -> Self {
        match byte {
            1 => Self::NoRoute,
            2 => Self::Stale,
            3 => Self::BrokenPort,
            4 => Self::TooLarge,
            5 => Self::NoSession,
            6 => Self::Ttl,
            code => Self::Other(code),
        }
    }
}

/// Tells the sender of a packet that it was not passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Notice<'a> {
    /// Why.
    pub code: NoticeCode,
    /// For [`NoticeCode::TooLarge`]: the frame size that would have passed; else 0.
    pub size: u32,
    /// The last 8 bytes of the packet: only who saw it knows them.
    pub tail: [u8; 8],
    /// Ports yet to go out of, the next one first.
    pub ports: &'a [u8],
}

impl<'a> Notice<'a> {
    /// Reads a whole frame, kind included.
    pub fn decode(frame: &'a [u8]) -> Result<Self, FrameError> {
        let mut reader = Reader::new(frame);
        if reader.u8()? != kind::NOTICE {
            return Err(FrameError::Value);
        }
        let code = NoticeCode::of_byte(reader.u8()?);
        let notice = Self {
            code,
            size: reader.u32()?,
            tail: reader.array()?,
            ports: reader.counted(PORTS_BYTES_MAX)?,
        };
        if reader.is_empty() { Ok(notice) } else { Err(FrameError::Long) }
    }

    /// Writes the frame.
    pub fn encode(&self, out: &mut impl Writer) {
        out.put_byte(kind::NOTICE);
        out.put_byte(self.code.byte());
        out.put_four(self.size);
        out.put(&self.tail);
        put_counted(out, None, self.ports);
    }

    /// The tail of a packet's body; a shorter body is filled with zeros.
    pub fn tail_of(body: &[u8]) -> [u8; 8] {
        let mut tail = [0; 8];
        let len = body.len().min(8);
        tail[8 - len..].copy_from_slice(&body[body.len() - len..]);
        tail
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_tail_is_the_last_eight_bytes() {
        assert_eq!(Notice::tail_of(b"0123456789"), *b"23456789");
        assert_eq!(Notice::tail_of(b"89"), [0, 0, 0, 0, 0, 0, b'8', b'9']);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let mut frame = vec![kind::NOTICE];
            frame.extend(bytes);
            if let Ok(notice) = Notice::decode(&frame) {
                let mut again = Vec::new();
                notice.encode(&mut again);
                prop_assert_eq!(&again, &frame);
            }
        }
    }
}
