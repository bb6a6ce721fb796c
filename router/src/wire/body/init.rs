//! Owns the bytes of handshakes: INIT, INIT_ACK, COOKIE, HINT.
//!
//! ```text
//! INIT     = 02  cookie:16  ephemeral:32  sealed(key:32)  sealed(counter:8 index:4 seq:8 locator)
//! INIT_ACK = 03  ephemeral:32  sealed(index:4 seq:8 locator)
//! COOKIE   = 04  echo:8  cookie:16
//! HINT     = 05  echo:8  salt:8  sealed(counter:8)
//! sealed(x) = x encrypted, tag:16     echo = the first 8 bytes of INIT's ephemeral
//! ```
//! The cookie is all zero in a first INIT; it stands outside of what the handshake hashes. Locator and its seq say
//! where the sender is.
use super::{COOKIE, HINT, INIT, INIT_ACK};
use crate::crypto::TAG_LEN;
use crate::lookup::Locator;
use crate::wire::FrameError;
use crate::wire::codec::{Reader, Writer};

/// An INIT, its seals not yet opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Init<'a> {
    /// From a COOKIE, or zero.
    pub cookie: [u8; 16],
    /// The initiator's fresh key.
    pub ephemeral: [u8; 32],
    /// Its own key, sealed.
    pub identity: &'a [u8; 32 + TAG_LEN],
    /// An [`InitPayload`], sealed.
    pub payload: &'a [u8],
}

impl<'a> Init<'a> {
    /// Reads the body, kind included.
    pub fn decode(body: &'a [u8]) -> Result<Self, FrameError> {
        let mut reader = of_kind(body, INIT)?;
        let cookie = reader.array()?;
        let ephemeral = reader.array()?;
        let identity = reader.bytes(32 + TAG_LEN)?.first_chunk().ok_or(FrameError::Short)?;
        let payload = reader.rest();
        if payload.len() < InitPayload::LEN_MIN + TAG_LEN {
            return Err(FrameError::Short);
        }
        if payload.len() > INIT_PAYLOAD_MAX + TAG_LEN {
            return Err(FrameError::Long);
        }
        Ok(Self { cookie, ephemeral, identity, payload })
    }

    /// Writes the body.
    pub fn encode(&self, out: &mut impl Writer) {
        out.put_byte(INIT);
        out.put(&self.cookie);
        out.put(&self.ephemeral);
        out.put(self.identity);
        out.put(self.payload);
    }

    /// Puts a cookie into an encoded INIT.
    pub fn set_cookie(body: &mut [u8], cookie: &[u8; 16]) {
        body[1..17].copy_from_slice(cookie);
    }
}

/// What INIT says under its second seal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InitPayload {
    /// Only grows with each new handshake of the initiator.
    pub counter: u64,
    /// Receiver index for packets to the initiator.
    pub index: u32,
    /// Seq of the locator.
    pub seq: u64,
    /// Where the initiator is.
    pub locator: Locator,
}

impl InitPayload {
    /// Counter, index, seq, and the mask of an empty locator.
    pub const LEN_MIN: usize = 8 + 4 + 8 + 1;

    /// Reads what was sealed.
    pub fn decode(text: &[u8]) -> Result<Self, FrameError> {
        let mut reader = Reader::new(text);
        Ok(Self {
            counter: reader.u64()?,
            index: reader.u32()?,
            seq: reader.u64()?,
            locator: Locator::decode(&mut reader)?,
        })
    }

    /// Writes what is to be sealed.
    pub fn encode(&self, out: &mut impl Writer) {
        out.put_eight(self.counter);
        out.put_four(self.index);
        out.put_eight(self.seq);
        self.locator.encode(out);
    }
}

/// An INIT_ACK, its seal not yet opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InitAck<'a> {
    /// The responder's fresh key.
    pub ephemeral: [u8; 32],
    /// An [`AckPayload`], sealed.
    pub payload: &'a [u8],
}

impl<'a> InitAck<'a> {
    /// Reads the body, kind included.
    pub fn decode(body: &'a [u8]) -> Result<Self, FrameError> {
        let mut reader = of_kind(body, INIT_ACK)?;
        let ephemeral = reader.array()?;
        let payload = reader.rest();
        if payload.len() < AckPayload::LEN_MIN + TAG_LEN {
            return Err(FrameError::Short);
        }
        if payload.len() > INIT_PAYLOAD_MAX + TAG_LEN {
            return Err(FrameError::Long);
        }
        Ok(Self { ephemeral, payload })
    }

    /// Writes the body.
    pub fn encode(&self, out: &mut impl Writer) {
        out.put_byte(INIT_ACK);
        out.put(&self.ephemeral);
        out.put(self.payload);
    }
}

/// What INIT_ACK says under its seal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AckPayload {
    /// Receiver index for packets to the responder.
    pub index: u32,
    /// Seq of the locator.
    pub seq: u64,
    /// Where the responder is.
    pub locator: Locator,
}

impl AckPayload {
    /// Index, seq, and the mask of an empty locator.
    pub const LEN_MIN: usize = 4 + 8 + 1;

    /// Reads what was sealed.
    pub fn decode(text: &[u8]) -> Result<Self, FrameError> {
        let mut reader = Reader::new(text);
        Ok(Self { index: reader.u32()?, seq: reader.u64()?, locator: Locator::decode(&mut reader)? })
    }

    /// Writes what is to be sealed.
    pub fn encode(&self, out: &mut impl Writer) {
        out.put_four(self.index);
        out.put_eight(self.seq);
        self.locator.encode(out);
    }
}

/// A COOKIE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cookie {
    /// Names the INIT that it answers.
    pub echo: [u8; 8],
    /// To be put into it.
    pub cookie: [u8; 16],
}

impl Cookie {
    /// Reads the body, kind included.
    pub fn decode(body: &[u8]) -> Result<Self, FrameError> {
        let mut reader = of_kind(body, COOKIE)?;
        Ok(Self { echo: reader.array()?, cookie: reader.array()? })
    }

    /// Writes the body.
    pub fn encode(&self, out: &mut impl Writer) {
        out.put_byte(COOKIE);
        out.put(&self.echo);
        out.put(&self.cookie);
    }
}

/// A HINT, its seal not yet opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hint {
    /// Names the INIT that it answers.
    pub echo: [u8; 8],
    /// Makes the key of this HINT another one than that of the next.
    pub salt: [u8; 8],
    /// The highest counter seen, sealed.
    pub sealed: [u8; 8 + TAG_LEN],
}

impl Hint {
    /// Reads the body, kind included.
    pub fn decode(body: &[u8]) -> Result<Self, FrameError> {
        let mut reader = of_kind(body, HINT)?;
        Ok(Self { echo: reader.array()?, salt: reader.array()?, sealed: reader.array()? })
    }

    /// Writes the body.
    pub fn encode(&self, out: &mut impl Writer) {
        out.put_byte(HINT);
        out.put(&self.echo);
        out.put(&self.salt);
        out.put(&self.sealed);
    }
}

/// Largest sealed part of a handshake without its tag: a whole locator and the numbers before it.
pub const INIT_PAYLOAD_MAX: usize = 20 + crate::lookup::locator::LOCATOR_MAX;

fn of_kind(body: &[u8], kind: u8) -> Result<Reader<'_>, FrameError> {
    let mut reader = Reader::new(body);
    if reader.u8()? != kind {
        return Err(FrameError::Value);
    }
    Ok(reader)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_cookie_goes_into_an_init() {
        let init = Init {
            cookie: [0; 16],
            ephemeral: [1; 32],
            identity: &[2; 48],
            payload: &[3; InitPayload::LEN_MIN + TAG_LEN],
        };
        let mut body = Vec::new();
        init.encode(&mut body);
        assert_eq!(Init::decode(&body), Ok(init));
        Init::set_cookie(&mut body, &[9; 16]);
        assert_eq!(Init::decode(&body), Ok(Init { cookie: [9; 16], ..init }));
        assert_eq!(InitAck::decode(&body), Err(FrameError::Value));
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_message_or_an_error(kind in 0u8..8, rest in proptest::collection::vec(any::<u8>(), 0..1000)) {
            let body = [&[kind][..], &rest].concat();
            if let Ok(init) = Init::decode(&body) {
                let mut again = Vec::new();
                init.encode(&mut again);
                prop_assert_eq!(again, &body[..]);
            }
            if let Ok(ack) = InitAck::decode(&body) {
                let mut again = Vec::new();
                ack.encode(&mut again);
                prop_assert_eq!(again, &body[..]);
            }
            let _ = (Cookie::decode(&body), Hint::decode(&body));
            let _ = (InitPayload::decode(&rest), AckPayload::decode(&rest));
        }
    }
}
