//! Owns making our events: the fields, the hashes, the signature, the id.

use std::sync::Arc;

use ruma::{OwnedServerName, signatures::Ed25519KeyPair};

/// Who we are to other servers: our name and the key that signs events.
#[derive(Clone)]
pub struct Signer {
    /// Our server name.
    pub name: OwnedServerName,
    /// Our event-signing key, with its key id.
    pub key: Arc<Ed25519KeyPair>,
}
