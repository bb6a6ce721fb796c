//! Owns reading and writing of bytes. Every length is checked once, here.
use super::FrameError;
use crate::id::{NodeId, Port, Sid};

/// Reads from a frame; every read says whether the bytes were there.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Starts at the first byte.
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// What has not been read yet.
    pub const fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Is everything read?
    pub const fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next `len` bytes.
    pub fn bytes(&mut self, len: usize) -> Result<&'a [u8], FrameError> {
        let (head, rest) = self.rest.split_at_checked(len).ok_or(FrameError::Short)?;
        self.rest = rest;
        Ok(head)
    }

    /// The next `N` bytes.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], FrameError> {
        let (head, rest) = self.rest.split_first_chunk::<N>().ok_or(FrameError::Short)?;
        self.rest = rest;
        Ok(*head)
    }

    /// One byte.
    pub fn u8(&mut self) -> Result<u8, FrameError> {
        Ok(self.array::<1>()?[0])
    }

    /// Two bytes, big-endian as all numbers.
    pub fn u16(&mut self) -> Result<u16, FrameError> {
        Ok(u16::from_be_bytes(self.array()?))
    }

    /// Three bytes.
    pub fn u24(&mut self) -> Result<u32, FrameError> {
        let [a, b, c] = self.array()?;
        Ok(u32::from_be_bytes([0, a, b, c]))
    }

    /// Four bytes.
    pub fn u32(&mut self) -> Result<u32, FrameError> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    /// Eight bytes.
    pub fn u64(&mut self) -> Result<u64, FrameError> {
        Ok(u64::from_be_bytes(self.array()?))
    }

    /// A key.
    pub fn node(&mut self) -> Result<NodeId, FrameError> {
        Ok(NodeId::from_bytes(self.array()?))
    }

    /// A short name.
    pub fn sid(&mut self) -> Result<Sid, FrameError> {
        Ok(Sid::from_bytes(self.array()?))
    }

    /// A port: seven bits a byte, least first, the high bit says that more follow; one to three bytes, the shortest
    /// form only (two spellings of one port would make two prefixes of one place).
    pub fn port(&mut self) -> Result<Port, FrameError> {
        let first = self.u8()?;
        if first < 0x80 {
            return Ok(Port(u16::from(first)));
        }
        let second = self.u8()?;
        let low = u16::from(first & 0x7f) | u16::from(second & 0x7f) << 7;
        if second < 0x80 {
            return if second == 0 { Err(FrameError::Value) } else { Ok(Port(low)) };
        }
        match self.u8()? {
            third @ 1..=3 => Ok(Port(low | u16::from(third) << 14)),
            _ => Err(FrameError::Value),
        }
    }

    /// A two-byte length and as many bytes.
    pub fn counted(&mut self, max: usize) -> Result<&'a [u8], FrameError> {
        let len = usize::from(self.u16()?);
        if len > max {
            return Err(FrameError::Long);
        }
        self.bytes(len)
    }
}

/// Writes the counterparts of [`Reader`]'s reads to any growing buffer.
pub trait Writer {
    /// Appends bytes.
    fn put(&mut self, bytes: &[u8]);

    /// One byte.
    fn put_byte(&mut self, value: u8) {
        self.put(&[value]);
    }

    /// Two bytes.
    fn put_two(&mut self, value: u16) {
        self.put(&value.to_be_bytes());
    }

    /// Three bytes; a larger value is written as the largest.
    fn put_three(&mut self, value: u32) {
        self.put(&value.min(0xff_ffff).to_be_bytes()[1..]);
    }

    /// Four bytes.
    fn put_four(&mut self, value: u32) {
        self.put(&value.to_be_bytes());
    }

    /// Eight bytes.
    fn put_eight(&mut self, value: u64) {
        self.put(&value.to_be_bytes());
    }

    /// A port in its shortest form.
    fn put_port(&mut self, port: Port) {
        let (bytes, len) = port_bytes(port);
        self.put(&bytes[..len]);
    }
}

impl Writer for Vec<u8> {
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

impl Writer for bytes::BytesMut {
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

/// A port's bytes and how many of them count.
pub fn port_bytes(Port(port): Port) -> ([u8; 3], usize) {
    let low = (port & 0x7f) as u8;
    let middle = (port >> 7 & 0x7f) as u8;
    let high = (port >> 14) as u8;
    match (high, middle) {
        (0, 0) => ([low, 0, 0], 1),
        (0, _) => ([low | 0x80, middle, 0], 2),
        _ => ([low | 0x80, middle | 0x80, high], 3),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn ports_round_trip(port: u16) {
            let mut bytes = Vec::new();
            bytes.put_port(Port(port));
            let mut reader = Reader::new(&bytes);
            prop_assert_eq!(reader.port(), Ok(Port(port)));
            prop_assert!(reader.is_empty());
        }

        #[test]
        fn a_port_has_one_spelling(bytes in proptest::collection::vec(any::<u8>(), 0..4)) {
            let mut reader = Reader::new(&bytes);
            if let Ok(port) = reader.port() {
                let (spelling, len) = port_bytes(port);
                prop_assert_eq!(&bytes[..bytes.len() - reader.rest().len()], &spelling[..len]);
            }
        }
    }
}
