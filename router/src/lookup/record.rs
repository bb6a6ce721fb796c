//! Owns the records that nodes keep for each other, and the bytes they travel as.
//!
//! ```text
//! locator record = key:32  seq:8  ttl:2 (seconds, 1..=1800)  locator  sig:64
//! account record = acct:32  key:32  seq:8  proof length:2  proof  sig:64
//! ```
//! The signature covers all that stands before it, under the domains "locator" and "account". No clock is shared:
//! whoever holds a record counts its ttl from arrival.
use super::locator::{LOCATOR_MAX, Locator};
use crate::config::SignatureMemory;
use crate::crypto::{BadSignature, SecretKey, domain};
use crate::id::NodeId;
use crate::time::Duration;
use crate::wire::FrameError;
use crate::wire::codec::{Reader, Writer};
use bytes::Bytes;

/// Says where a node is, signed by it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocatorRecord {
    /// The node.
    pub node: NodeId,
    /// Only grows; the newest counts.
    pub seq: u64,
    /// How long it counts from its arrival.
    pub ttl: Duration,
    /// Where the node is.
    pub locator: Locator,
    /// By the node.
    pub sig: [u8; 64],
}

impl LocatorRecord {
    /// Makes and signs a record. Trees that do not fit into [`LOCATOR_MAX`] are left out.
    pub fn sign(secret: &SecretKey, seq: u64, ttl: Duration, locator: &Locator) -> Self {
        let ttl = Duration::from_secs(ttl.min(TTL_MAX).as_secs().max(1));
        let locator = locator.fit(LOCATOR_MAX);
        let mut record = Self { node: secret.id(), seq, ttl, locator, sig: [0; 64] };
        record.sig = secret.sign(domain::LOCATOR, &record.signed_bytes());
        record
    }

    /// Does the signature hold? Costs about 30 microseconds.
    pub fn verify(&self) -> Result<(), BadSignature> {
        self.node.verify(domain::LOCATOR, &self.signed_bytes(), &self.sig)
    }

    /// As [`Self::verify`], with a memory of good signatures; also says whether it was checked.
    pub fn verify_remembering(
        &self,
        memory: Option<&dyn SignatureMemory>,
    ) -> (Result<(), BadSignature>, bool) {
        self.node.verify_remembering(memory, domain::LOCATOR, &self.signed_bytes(), &self.sig)
    }

    /// Bytes that [`Self::encode`] writes.
    pub fn encoded_len(&self) -> usize {
        32 + 8 + 2 + self.locator.encoded_len() + 64
    }

    /// Writes the record.
    pub fn encode(&self, out: &mut impl Writer) {
        self.encode_signed(out);
        out.put(&self.sig);
    }

    /// Reads a record; whether it is genuine, [`Self::verify`] says.
    pub fn decode(reader: &mut Reader<'_>) -> Result<Self, FrameError> {
        let node = reader.node()?;
        let seq = reader.u64()?;
        let ttl = Duration::from_secs(reader.u16()?.into());
        if ttl.is_zero() || ttl > TTL_MAX {
            return Err(FrameError::Value);
        }
        Ok(Self { node, seq, ttl, locator: Locator::decode(reader)?, sig: reader.array()? })
    }

    fn signed_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.encoded_len());
        self.encode_signed(&mut bytes);
        bytes
    }

    fn encode_signed(&self, out: &mut impl Writer) {
        out.put(self.node.as_bytes());
        out.put_eight(self.seq);
        out.put_two(self.ttl.as_secs() as u16);
        self.locator.encode(out);
    }
}

/// Binds an account to a node that has it, signed by the node. Whether the account agrees, the proof inside says;
/// [`crate::Config::verify_account`] reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountRecord {
    /// The account: hash of its inception entry.
    pub acct: [u8; 32],
    /// The node that has it.
    pub node: NodeId,
    /// Only grows; the newest counts.
    pub seq: u64,
    /// Inception entry and the chain that authorises the node, at most [`PROOF_MAX`] bytes.
    pub proof: Bytes,
    /// By the node, over all of the above.
    pub sig: [u8; 64],
}

impl AccountRecord {
    /// Makes and signs a record; `None` if the proof is too long.
    pub fn sign(secret: &SecretKey, acct: [u8; 32], seq: u64, proof: Bytes) -> Option<Self> {
        if proof.len() > PROOF_MAX {
            return None;
        }
        let mut record = Self { acct, node: secret.id(), seq, proof, sig: [0; 64] };
        record.sig = secret.sign(domain::ACCOUNT, &record.signed_bytes());
        Some(record)
    }

    /// Does the node's signature hold? Says nothing about the proof.
    pub fn verify(&self) -> Result<(), BadSignature> {
        self.node.verify(domain::ACCOUNT, &self.signed_bytes(), &self.sig)
    }

    /// Bytes that [`Self::encode`] writes.
    pub fn encoded_len(&self) -> usize {
        32 + 32 + 8 + 2 + self.proof.len() + 64
    }

    /// Writes the record.
    pub fn encode(&self, out: &mut impl Writer) {
        self.encode_signed(out);
        out.put(&self.sig);
    }

    /// Reads a record; whether it is genuine, [`Self::verify`] and the proof say.
    pub fn decode(reader: &mut Reader<'_>) -> Result<Self, FrameError> {
        Ok(Self {
            acct: reader.array()?,
            node: reader.node()?,
            seq: reader.u64()?,
            proof: Bytes::copy_from_slice(reader.counted(PROOF_MAX)?),
            sig: reader.array()?,
        })
    }

    fn signed_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.encoded_len());
        self.encode_signed(&mut bytes);
        bytes
    }

    fn encode_signed(&self, out: &mut impl Writer) {
        out.put(&self.acct);
        out.put(self.node.as_bytes());
        out.put_eight(self.seq);
        out.put_two(self.proof.len() as u16);
        out.put(&self.proof);
    }
}

/// A record that is not refreshed is gone after this.
pub const TTL_MAX: Duration = Duration::from_secs(30 * 60);
/// Nor an account's: which nodes an account has changes seldom, and a record that holds no longer harms nobody.
pub const ACCOUNT_TTL: Duration = Duration::from_secs(90 * 60);
/// With keys, signature and token around it, a proof of this size still fits into one packet of 1280 bytes.
pub const PROOF_MAX: usize = 1024;
