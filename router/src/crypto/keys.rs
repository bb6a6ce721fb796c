//! Owns a node's secret key: signatures under a domain, and its Diffie-Hellman form.
use super::{Entropy, random};
use crate::config::SignatureMemory;
use crate::id::NodeId;
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use std::fmt;
use std::sync::Arc;
use zeroize::Zeroizing;

/// A node's ed25519 key. Wiped when dropped, never shown.
#[derive(Clone)]
pub struct SecretKey {
    signing: SigningKey,
    id: NodeId,
    stand_in: Option<Arc<dyn SignatureMemory>>,
}

impl SecretKey {
    /// The key that grows from a seed of 32 random bytes.
    pub fn from_seed(seed: [u8; 32]) -> Self {
        let seed = Zeroizing::new(seed);
        let signing = SigningKey::from_bytes(&seed);
        let id = NodeId::from_bytes(*signing.verifying_key().as_bytes());
        Self { signing, id, stand_in: None }
    }

    /// The same key, whose signatures and secrets are made by what stands in for them, if anything does
    /// ([`SignatureMemory::stand_in`]; simulator).
    pub fn with_stand_in(mut self, memory: Option<Arc<dyn SignatureMemory>>) -> Self {
        self.stand_in = memory.filter(|memory| memory.stand_in().is_some());
        self
    }

    /// What stands in for this key's signatures, to check those of others with.
    pub(crate) fn stand_in(&self) -> Option<&dyn SignatureMemory> {
        self.stand_in.as_deref()
    }

    /// A new key.
    pub fn generate(entropy: &mut dyn Entropy) -> Self {
        Self::from_seed(random(entropy))
    }

    /// The seed, to be stored where only the owner reads it.
    pub fn seed(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.signing.to_bytes())
    }

    /// The public half: the node's name.
    pub fn id(&self) -> NodeId {
        self.id
    }

    /// Signs a message of one kind; see [`domain`] for the kinds that the router uses.
    pub fn sign(&self, domain: &str, message: &[u8]) -> [u8; 64] {
        let bytes = signed_bytes(domain, message);
        match self.stand_in().and_then(SignatureMemory::stand_in) {
            Some(stand_in) => stand_in.sign(&self.id, &bytes),
            None => self.signing.sign(&bytes).to_bytes(),
        }
    }

    /// The same secret on the Montgomery curve.
    pub fn dh(&self) -> DhSecret {
        let secret = Zeroizing::new(self.signing.to_scalar_bytes());
        let stand_in = self.stand_in.clone().map(|memory| (memory, *self.id.as_bytes()));
        DhSecret { secret, stand_in }
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretKey({:?})", self.id)
    }
}

impl NodeId {
    /// Checks a signature made by [`SecretKey::sign`] with the same domain.
    pub fn verify(&self, domain: &str, message: &[u8], sig: &[u8; 64]) -> Result<(), BadSignature> {
        let key = VerifyingKey::from_bytes(self.as_bytes()).map_err(|_| BadSignature)?;
        key.verify_strict(&signed_bytes(domain, message), &Signature::from_bytes(sig))
            .map_err(|_| BadSignature)
    }

    /// As [`Self::verify`], but a signature that `memory` knows is not checked again. Also says whether it was checked.
    pub fn verify_remembering(
        &self,
        memory: Option<&dyn SignatureMemory>,
        domain: &str,
        message: &[u8],
        sig: &[u8; 64],
    ) -> (Result<(), BadSignature>, bool) {
        let Some(memory) = memory else { return (self.verify(domain, message, sig), true) };
        if let Some(stand_in) = memory.stand_in() {
            let good = stand_in.sign(self, &signed_bytes(domain, message)) == *sig;
            return (if good { Ok(()) } else { Err(BadSignature) }, false);
        }
        let mut hasher = blake3::Hasher::new();
        hasher.update(self.as_bytes()).update(sig).update(domain.as_bytes()).update(&[0]).update(message);
        let digest = *hasher.finalize().as_bytes();
        if memory.is_known(&digest) {
            return (Ok(()), false);
        }
        let result = self.verify(domain, message, sig);
        if result.is_ok() {
            memory.remember(digest);
        }
        (result, true)
    }

    /// The key on the Montgomery curve. Refuses what is no point, has another spelling, or is of small order, so that
    /// two names never share one secret by accident.
    pub fn dh(&self) -> Result<DhPublic, BadKey> {
        let key = VerifyingKey::from_bytes(self.as_bytes()).map_err(|_| BadKey)?;
        let point = key.to_edwards();
        if point.compress().as_bytes() != self.as_bytes() || point.is_small_order() {
            return Err(BadKey);
        }
        Ok(DhPublic(point.to_montgomery().to_bytes()))
    }
}

/// A secret scalar for x25519. Wiped when dropped.
#[derive(Clone)]
pub struct DhSecret {
    secret: Zeroizing<[u8; 32]>,
    /// What makes its secrets in place of x25519, and its public half there.
    stand_in: Option<(Arc<dyn SignatureMemory>, [u8; 32])>,
}

impl DhSecret {
    /// A new one, for one handshake.
    pub fn generate(entropy: &mut dyn Entropy) -> Self {
        Self { secret: Zeroizing::new(random(entropy)), stand_in: None }
    }

    /// A new one of the same sort as this.
    pub fn fresh(&self, entropy: &mut dyn Entropy) -> Self {
        let secret = Zeroizing::new(random(entropy));
        let public = |(memory, _): &(Arc<dyn SignatureMemory>, _)| {
            (memory.clone(), *blake3::hash(&*secret).as_bytes())
        };
        let stand_in = self.stand_in.as_ref().map(public);
        Self { secret, stand_in }
    }

    /// The static public half of another node, of the same sort as this.
    pub fn public_of(&self, node: &NodeId) -> Result<DhPublic, BadKey> {
        if self.stand_in.is_some() { Ok(DhPublic(*node.as_bytes())) } else { node.dh() }
    }

    /// Its public half.
    pub fn public(&self) -> DhPublic {
        match &self.stand_in {
            Some((_, public)) => DhPublic(*public),
            None => DhPublic(x25519_dalek::x25519(*self.secret, x25519_dalek::X25519_BASEPOINT_BYTES)),
        }
    }

    /// The secret shared with the holder of `public`; an error if that point makes the result the same for everybody.
    pub fn agree(&self, public: &DhPublic) -> Result<Shared, BadKey> {
        if let Some((memory, own)) = &self.stand_in
            && let Some(stand_in) = memory.stand_in()
        {
            return Ok(Shared(Zeroizing::new(stand_in.agree(own, &public.0))));
        }
        let shared = x25519_dalek::x25519(*self.secret, public.0);
        if shared.iter().fold(0, |all, byte| all | byte) == 0 {
            return Err(BadKey);
        }
        Ok(Shared(Zeroizing::new(shared)))
    }
}

impl fmt::Debug for DhSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DhSecret(..)")
    }
}

/// A public point for x25519.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct DhPublic(pub [u8; 32]);

/// The outcome of a Diffie-Hellman. Wiped when dropped.
pub struct Shared(Zeroizing<[u8; 32]>);

impl Shared {
    /// The bytes, to be hashed into keys and never used as they are.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Shared(..)")
    }
}

/// The signature is not by that key over that message in that domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the signature does not hold")]
pub struct BadSignature;

/// The bytes are no key that a session could be made with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a usable public key")]
pub struct BadKey;

/// What is signed: every signature covers "mangrove/1/" and one of these, so none can pass for one of another kind.
pub mod domain {
    /// Link handshake.
    pub const HELLO: &str = "hello";
    /// A node's entry in a tree.
    pub const TREE_INFO: &str = "tree-info";
    /// The parent's countersignature of it.
    pub const PARENT: &str = "parent";
    /// Multicast beacon.
    pub const BEACON: &str = "beacon";
    /// A link, signed by both ends.
    pub const PEERS: &str = "peers";
    /// A node's links, told to whoever asks.
    pub const MAP: &str = "map";
    /// Locator record.
    pub const LOCATOR: &str = "locator";
    /// Account record.
    pub const ACCOUNT: &str = "account";
}

fn signed_bytes(domain: &str, message: &[u8]) -> Vec<u8> {
    const PREFIX: &[u8] = b"mangrove/1/";
    let mut bytes = Vec::with_capacity(PREFIX.len() + domain.len() + 1 + message.len());
    bytes.extend_from_slice(PREFIX);
    bytes.extend_from_slice(domain.as_bytes());
    bytes.push(0);
    bytes.extend_from_slice(message);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_holds_for_its_key_domain_and_message_only() {
        let key = SecretKey::from_seed([3; 32]);
        let sig = key.sign(domain::LOCATOR, b"here");
        assert_eq!(key.id().verify(domain::LOCATOR, b"here", &sig), Ok(()));
        assert_eq!(key.id().verify(domain::ACCOUNT, b"here", &sig), Err(BadSignature));
        assert_eq!(key.id().verify(domain::LOCATOR, b"there", &sig), Err(BadSignature));
        let other = SecretKey::from_seed([4; 32]).id();
        assert_eq!(other.verify(domain::LOCATOR, b"here", &sig), Err(BadSignature));
        assert_eq!(NodeId::from_bytes([2; 32]).verify("locator", b"here", &sig), Err(BadSignature));
    }

    #[test]
    fn both_ends_agree_on_one_secret() {
        let (a, b) = (SecretKey::from_seed([1; 32]), SecretKey::from_seed([2; 32]));
        assert_eq!(a.dh().public(), a.id().dh().unwrap());
        let ab = a.dh().agree(&b.id().dh().unwrap()).unwrap();
        let ba = b.dh().agree(&a.id().dh().unwrap()).unwrap();
        assert_eq!(ab.as_bytes(), ba.as_bytes());
    }

    #[test]
    fn keys_of_small_order_or_another_spelling_are_refused() {
        let mut identity = [0; 32];
        identity[0] = 1;
        assert_eq!(NodeId::from_bytes(identity).dh().err(), Some(BadKey));
        // y = p + 3: a second spelling of y = 3.
        let mut other_spelling = [0xff; 32];
        other_spelling[0] = 0xf0;
        other_spelling[31] = 0x7f;
        assert_eq!(NodeId::from_bytes(other_spelling).dh().err(), Some(BadKey));
        let secret = DhSecret { secret: Zeroizing::new([5; 32]), stand_in: None };
        assert_eq!(secret.agree(&DhPublic([0; 32])).err(), Some(BadKey));
    }

    #[test]
    fn secrets_are_not_shown() {
        let key = SecretKey::from_seed([9; 32]);
        assert!(!format!("{key:?} {:?}", key.dh()).contains("9, 9"));
    }
}
