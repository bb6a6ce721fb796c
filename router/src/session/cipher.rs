//! Owns the keys of a session and the packets sealed with them. The hot path: one allocation a packet, no copy but
//! that of the payload.
use super::handshake::{ALIASES, TransportKeys};
use super::window::{COUNTER_MAX, Window};
use crate::crypto::{AeadKey, TAG_LEN};
use crate::time::Instant;
use crate::wire::body::sealed::{CLEAR_LEN, SealedHeader};
use crate::wire::codec::{Reader, Writer};
use crate::wire::{FrameError, body, body::Body};
use bytes::{Buf, Bytes, BytesMut};

/// All receiver indexes of one end of a session, in an order that both ends know. A packet may bear any of them: nobody on
/// the way can tell that they belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Indexes([u32; 1 + ALIASES]);

impl Indexes {
    /// The one that was drawn and named in the handshake, and the others.
    pub fn new(drawn: u32, others: &[u32; ALIASES]) -> Self {
        let mut all = [drawn; 1 + ALIASES];
        all[1..].copy_from_slice(others);
        Self(all)
    }

    /// The one that was drawn: it names the keys.
    pub const fn drawn(&self) -> u32 {
        self.0[0]
    }

    /// One of them, in turn.
    pub const fn nth(&self, turn: u8) -> u32 {
        self.0[turn as usize % self.0.len()]
    }

    /// Whose turn it is with that index, if it is one of them.
    pub fn turn_of(&self, index: u32) -> Option<u8> {
        self.0.iter().position(|&known| known == index).map(|at| at as u8)
    }

    /// All.
    pub fn iter(&self) -> impl Iterator<Item = u32> {
        self.0.into_iter()
    }
}

/// One pair of keys, one for each direction, and the counters that go with them.
pub struct Keys {
    seal: AeadKey,
    open: AeadKey,
    /// Receiver indexes that the peer puts before packets under these keys.
    pub(super) local: Indexes,
    /// Those that we put before ours.
    pub(super) remote: Indexes,
    /// We began the handshake that gave them.
    pub(super) initiator: bool,
    pub(super) made_at: Instant,
    sent: u64,
    window: Window,
}

impl Keys {
    /// Fresh keys.
    pub fn new(keys: TransportKeys, local: Indexes, remote: Indexes, initiator: bool, now: Instant) -> Self {
        Self {
            seal: keys.seal,
            open: keys.open,
            local,
            remote,
            initiator,
            made_at: now,
            sent: 0,
            window: Window::new(),
        }
    }

    /// May no more be sealed with these keys?
    pub(super) fn is_used_up(&self) -> bool {
        self.sent > COUNTER_MAX
    }

    /// Packets sealed so far.
    pub(super) fn sent(&self) -> u64 {
        self.sent
    }

    /// Has a packet of the peer been opened?
    pub(super) fn opened_any(&self) -> bool {
        !self.window.is_unused()
    }

    /// A packet's body: kind and counter in clear, header and payload sealed.
    pub fn seal(&mut self, header: &SealedHeader, payload: &[u8]) -> Body {
        let counter = self.sent;
        self.sent += 1;
        let mut sealed = Body::with_capacity(CLEAR_LEN + SealedHeader::LEN + payload.len() + TAG_LEN);
        sealed.put_byte(body::DATA);
        sealed.put_eight(counter);
        header.encode(&mut sealed);
        sealed.put(payload);
        let tag = self.seal.seal(counter, &[], &mut sealed.as_mut_slice()[CLEAR_LEN..]);
        sealed.put(&tag);
        sealed
    }

    /// Opens a packet's body, once. A packet that is forged, old or repeated changes nothing.
    pub fn open(&mut self, body: &[u8]) -> Result<(SealedHeader, Bytes), PacketError> {
        let mut clear = Reader::new(body);
        if clear.u8()? != body::DATA {
            return Err(FrameError::Value.into());
        }
        let counter = clear.u64()?;
        if clear.rest().len() < SealedHeader::LEN + TAG_LEN {
            return Err(FrameError::Short.into());
        }
        if !self.window.is_new(counter) {
            return Err(PacketError::Repeated);
        }
        let mut bytes = BytesMut::from(clear.rest());
        let text_len = match self.open.open(counter, &[], &mut bytes) {
            Ok(text) => text.len(),
            Err(_) => return Err(FrameError::Seal.into()),
        };
        self.window.mark(counter);
        bytes.truncate(text_len);
        let header = SealedHeader::decode(&mut Reader::new(&bytes))?;
        bytes.advance(SealedHeader::LEN);
        Ok((header, bytes.freeze()))
    }
}

/// Why a packet under a session's keys is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PacketError {
    /// Its bytes or its seal are wrong.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// It came before, or so long ago that this cannot be told.
    #[error("it came before")]
    Repeated,
}

/// What a packet is longer than its payload.
pub const OVERHEAD: usize = CLEAR_LEN + SealedHeader::LEN + TAG_LEN;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pair() -> (Keys, Keys) {
        let key = |seed| AeadKey::new(&[seed; 32]);
        let make = |seal, open| {
            let keys = TransportKeys { seal: key(seal), open: key(open) };
            let (local, remote) = (Indexes::new(1, &[3; ALIASES]), Indexes::new(2, &[4; ALIASES]));
            Keys::new(keys, local, remote, true, Instant::ZERO)
        };
        (make(1, 2), make(2, 1))
    }

    #[test]
    fn packets_open_once_in_any_order() {
        let (mut a, mut b) = pair();
        let header = SealedHeader { channel: 1, sent: 5, ..SealedHeader::default() };
        let first = a.seal(&header, b"first");
        let second = a.seal(&header, b"second");
        assert_eq!(b.open(second.as_slice()).unwrap(), (header, Bytes::from_static(b"second")));
        assert_eq!(b.open(first.as_slice()).unwrap(), (header, Bytes::from_static(b"first")));
        assert_eq!(b.open(first.as_slice()), Err(PacketError::Repeated));
        assert_eq!(a.open(first.as_slice()), Err(FrameError::Seal.into()), "one key for each direction");
    }

    #[test]
    fn a_forged_packet_does_not_use_up_its_counter() {
        let (mut a, mut b) = pair();
        let packet = a.seal(&SealedHeader::default(), b"payload");
        let mut forged = packet.as_slice().to_vec();
        *forged.last_mut().unwrap() ^= 1;
        assert_eq!(b.open(&forged), Err(FrameError::Seal.into()));
        assert!(b.open(packet.as_slice()).is_ok());
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_packet_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let (mut a, _) = pair();
            prop_assert!(a.open(&bytes).is_err());
            let framed = [&[body::DATA][..], &bytes].concat();
            prop_assert!(a.open(&framed).is_err());
        }

        #[test]
        fn what_goes_in_comes_out(payload in proptest::collection::vec(any::<u8>(), 0..3000)) {
            let (mut a, mut b) = pair();
            let packet = a.seal(&SealedHeader::default(), &payload);
            prop_assert_eq!(packet.as_slice().len(), payload.len() + OVERHEAD);
            prop_assert_eq!(b.open(packet.as_slice()).unwrap().1, payload);
        }
    }
}
