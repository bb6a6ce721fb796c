//! lookup
use crate::id::NodeId;
use bytes::Bytes;
/// Binds an account to a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountRecord {
    /// The account.
    pub acct: [u8; 32],
    /// The node that has it.
    pub node: NodeId,
    /// Only grows.
    pub seq: u64,
    /// Inception entry and chain, at most 1 KiB.
    pub proof: Bytes,
    /// By the node, over (acct, seq, proof).
    pub sig: [u8; 64],
}
