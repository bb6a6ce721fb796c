//! crypto
use crate::id::NodeId;
/// Randomness from outside.
pub trait Entropy: Send {
    /// Fills the buffer.
    fn fill(&mut self, out: &mut [u8]);
}
/// A node's key.
#[derive(Clone)]
pub struct SecretKey([u8; 32]);
impl SecretKey {
    /// From its seed.
    pub fn from_seed(seed: [u8; 32]) -> Self {
        Self(seed)
    }
    /// The public half.
    pub fn id(&self) -> NodeId {
        NodeId::from_bytes(*ed25519_dalek::SigningKey::from_bytes(&self.0).verifying_key().as_bytes())
    }
}
