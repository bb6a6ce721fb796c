//! Signatures of the node's own (overlay) key, as the router makes them.

use bytes::Bytes;
use router::{AccountRecord, SecretKey};

/// A signed account record.
pub(super) fn record(key: &SecretKey, acct: [u8; 32], seq: u64, proof: Bytes) -> AccountRecord {
    AccountRecord { acct, node: key.id(), seq, proof, sig: [0; 64] }
}
