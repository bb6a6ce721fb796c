//! Owns the handshake's cryptography: Noise IK's shape on x25519, the static keys being those of the nodes.
//!
//! ```text
//! initiator                                                     responder
//!   hash = BLAKE3(name, responder's key, initiator's ephemeral)
//!   key <- e s           seals the initiator's key
//!   key <- s s           seals counter, index, locator     INIT ->
//!                                                      <- INIT_ACK   fresh ephemeral
//!                               key <- e e, key <- s e  seals index, locator
//!   two keys from what remains, one for each direction
//! ```
//! Each seal covers the hash of all that went before, and is made under a key of its own, so its nonce is 0. A HINT is
//! sealed under a key that grows from the state after INIT.
use crate::crypto::{
    AeadKey, BadKey, DhPublic, DhSecret, Entropy, OpenError, SecretKey, Shared, TAG_LEN, hash, random,
};
use crate::id::NodeId;
use crate::wire::FrameError;
use crate::wire::body::init::{AckPayload, Hint, Init, InitAck, InitPayload};
use zeroize::Zeroizing;

/// Who we are in every handshake.
pub struct Identity {
    id: NodeId,
    dh: DhSecret,
}

impl Identity {
    /// Prepares the node's key.
    pub fn new(secret: &SecretKey) -> Self {
        Self { id: secret.id(), dh: secret.dh() }
    }

    /// The node.
    pub fn id(&self) -> NodeId {
        self.id
    }
}

/// The keys of a session that a handshake gave.
pub struct TransportKeys {
    /// For what we send.
    pub seal: AeadKey,
    /// For what we get.
    pub open: AeadKey,
}

/// Receiver indexes that only the two ends know to belong together, beside the two that they drew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Aliases {
    /// Where the initiator receives.
    pub initiator: [u32; ALIASES],
    /// Where the responder does.
    pub responder: [u32; ALIASES],
}

/// Seven, and the one that was drawn: who drops every second index drops all of them in one of 256 sessions.
pub const ALIASES: usize = 7;

/// A handshake that we began.
pub struct Initiator {
    state: Symmetric,
    ephemeral: DhSecret,
    ephemeral_public: [u8; 32],
}

impl Initiator {
    /// Begins a handshake; the bytes are the INIT, without cookie.
    pub fn begin(
        me: &Identity,
        peer: &NodeId,
        payload: &InitPayload,
        entropy: &mut dyn Entropy,
    ) -> Result<(Self, Vec<u8>), BadKey> {
        let peer_dh = me.dh.public_of(peer)?;
        let ephemeral = me.dh.fresh(entropy);
        let ephemeral_public = ephemeral.public().0;
        let mut state = Symmetric::new(peer);
        state.mix(&ephemeral_public);
        let key = state.key(&ephemeral.agree(&peer_dh)?);
        let mut identity = [0; 32 + TAG_LEN];
        identity[..32].copy_from_slice(me.id.as_bytes());
        state.seal(&key, &mut identity);
        let key = state.key(&me.dh.agree(&peer_dh)?);
        let mut sealed = Vec::with_capacity(128);
        payload.encode(&mut sealed);
        sealed.extend_from_slice(&[0; TAG_LEN]);
        state.seal(&key, &mut sealed);
        let mut body = Vec::with_capacity(1 + 16 + 32 + 32 + TAG_LEN + sealed.len());
        Init { cookie: [0; 16], ephemeral: ephemeral_public, identity: &identity, payload: &sealed }
            .encode(&mut body);
        Ok((Self { state, ephemeral, ephemeral_public }, body))
    }

    /// The fresh public key in the INIT.
    pub fn ephemeral(&self) -> &[u8; 32] {
        &self.ephemeral_public
    }

    /// The further indexes of the session, and of the answer.
    pub fn aliases(&self) -> Aliases {
        self.state.aliases()
    }

    /// Opens the answer. A forged one changes nothing.
    pub fn finish(
        &self,
        me: &Identity,
        ack: &InitAck<'_>,
    ) -> Result<(TransportKeys, AckPayload), HandshakeError> {
        let mut state = self.state.clone();
        let theirs = DhPublic(ack.ephemeral);
        state.mix(&ack.ephemeral);
        state.key(&self.ephemeral.agree(&theirs)?);
        let key = state.key(&me.dh.agree(&theirs)?);
        let mut sealed = ack.payload.to_vec();
        let payload = AckPayload::decode(state.open(&key, &mut sealed)?)?;
        let (forward, backward) = state.split();
        Ok((TransportKeys { seal: AeadKey::new(&forward), open: AeadKey::new(&backward) }, payload))
    }

    /// Opens the answer to an old INIT: the counter that the responder has seen.
    pub fn open_hint(&self, hint: &Hint) -> Result<u64, OpenError> {
        let mut sealed = hint.sealed;
        let key = self.state.hint_key(&hint.salt);
        let text = AeadKey::new(&key).open(0, &self.state.hash, &mut sealed)?;
        let counter = text.first_chunk().copied().ok_or(OpenError)?;
        Ok(u64::from_be_bytes(counter))
    }
}

/// An INIT that we opened.
pub struct Responder {
    /// Who proved to be the initiator (of some INIT: it may be a replay).
    pub peer: NodeId,
    /// What it said.
    pub payload: InitPayload,
    state: Symmetric,
    peer_dh: DhPublic,
    peer_ephemeral: DhPublic,
}

impl Responder {
    /// Opens an INIT. Two Diffie-Hellmans and a point decompression, about 150 microseconds.
    pub fn open(me: &Identity, init: &Init<'_>) -> Result<Self, HandshakeError> {
        let peer_ephemeral = DhPublic(init.ephemeral);
        let mut state = Symmetric::new(&me.id);
        state.mix(&init.ephemeral);
        let key = state.key(&me.dh.agree(&peer_ephemeral)?);
        let mut identity = *init.identity;
        let text = state.open(&key, &mut identity)?;
        let peer = NodeId::from_bytes(text.try_into().map_err(|_| OpenError)?);
        let peer_dh = me.dh.public_of(&peer)?;
        let key = state.key(&me.dh.agree(&peer_dh)?);
        let mut sealed = init.payload.to_vec();
        let payload = InitPayload::decode(state.open(&key, &mut sealed)?)?;
        Ok(Self { peer, payload, state, peer_dh, peer_ephemeral })
    }

    /// The further indexes of the session, and of the answer.
    pub fn aliases(&self) -> Aliases {
        self.state.aliases()
    }

    /// Answers it; the bytes are the INIT_ACK.
    pub fn answer(
        mut self,
        me: &Identity,
        payload: &AckPayload,
        entropy: &mut dyn Entropy,
    ) -> Result<(TransportKeys, Vec<u8>), BadKey> {
        let ephemeral = me.dh.fresh(entropy);
        let public = ephemeral.public().0;
        self.state.mix(&public);
        self.state.key(&ephemeral.agree(&self.peer_ephemeral)?);
        let key = self.state.key(&ephemeral.agree(&self.peer_dh)?);
        let mut sealed = Vec::with_capacity(128);
        payload.encode(&mut sealed);
        sealed.extend_from_slice(&[0; TAG_LEN]);
        self.state.seal(&key, &mut sealed);
        let mut body = Vec::with_capacity(1 + 32 + sealed.len());
        InitAck { ephemeral: public, payload: &sealed }.encode(&mut body);
        let (forward, backward) = self.state.split();
        Ok((TransportKeys { seal: AeadKey::new(&backward), open: AeadKey::new(&forward) }, body))
    }

    /// Tells the initiator which counter of its we have seen; the bytes are the HINT.
    pub fn hint(&self, counter: u64, entropy: &mut dyn Entropy) -> Vec<u8> {
        let mut sealed = [0; 8 + TAG_LEN];
        sealed[..8].copy_from_slice(&counter.to_be_bytes());
        let salt = random(entropy);
        let key = self.state.hint_key(&salt);
        let (text, tag) = sealed.split_at_mut(8);
        tag.copy_from_slice(&AeadKey::new(&key).seal(0, &self.state.hash, text));
        let mut body = Vec::with_capacity(1 + 8 + sealed.len());
        Hint { echo: echo(&self.peer_ephemeral.0), salt, sealed }.encode(&mut body);
        body
    }
}

/// What names an INIT in a COOKIE or HINT.
pub fn echo(ephemeral: &[u8; 32]) -> [u8; 8] {
    let mut echo = [0; 8];
    echo.copy_from_slice(&ephemeral[..8]);
    echo
}

/// Why a handshake message leads nowhere. All are the peer's doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeError {
    /// A key that no secret can be shared with.
    #[error(transparent)]
    Key(#[from] BadKey),
    /// Not sealed for us, or not by whom we asked.
    #[error(transparent)]
    Seal(#[from] OpenError),
    /// Sealed nonsense.
    #[error(transparent)]
    Frame(#[from] FrameError),
}

/// Noise's symmetric state.
#[derive(Clone)]
struct Symmetric {
    chain: Zeroizing<[u8; 32]>,
    hash: [u8; 32],
}

impl Symmetric {
    fn new(responder: &NodeId) -> Self {
        let name = blake3::hash(NAME);
        let mut state = Self { chain: Zeroizing::new(*name.as_bytes()), hash: *name.as_bytes() };
        state.mix(responder.as_bytes());
        state
    }

    fn mix(&mut self, data: &[u8]) {
        self.hash = *blake3::Hasher::new().update(&self.hash).update(data).finalize().as_bytes();
    }

    fn key(&mut self, shared: &Shared) -> Zeroizing<[u8; 32]> {
        let (chain, key) = hash::split(&self.chain, shared.as_bytes());
        self.chain = chain;
        key
    }

    /// Seals in place; the last bytes of the buffer are room for the tag.
    fn seal(&mut self, key: &[u8; 32], buffer: &mut [u8]) {
        let (text, tag) = buffer.split_at_mut(buffer.len() - TAG_LEN);
        tag.copy_from_slice(&AeadKey::new(key).seal(0, &self.hash, text));
        self.mix(buffer);
    }

    fn open<'a>(&mut self, key: &[u8; 32], sealed: &'a mut [u8]) -> Result<&'a [u8], OpenError> {
        let context = self.hash;
        self.mix(sealed);
        Ok(AeadKey::new(key).open(0, &context, sealed)?)
    }

    fn split(&self) -> (Zeroizing<[u8; 32]>, Zeroizing<[u8; 32]>) {
        hash::split(&self.chain, b"transport")
    }

    /// From the state after INIT: the answer bears one of them already. Nobody on the way can compute them.
    fn aliases(&self) -> Aliases {
        let mut out = [0; 2 * 4 * ALIASES];
        blake3::Hasher::new_keyed(&self.chain).update(b"indexes").finalize_xof().fill(&mut out);
        let (words, _) = out.as_chunks::<4>();
        let index = |at: usize| u32::from_be_bytes(words[at]).max(1);
        Aliases {
            initiator: std::array::from_fn(index),
            responder: std::array::from_fn(|at| index(ALIASES + at)),
        }
    }

    /// The same INIT may be hinted at twice, with different counters: each time under a key of its own.
    fn hint_key(&self, salt: &[u8; 8]) -> Zeroizing<[u8; 32]> {
        hash::split(&self.chain, &[&b"hint"[..], salt].concat()).0
    }
}

const NAME: &[u8] = b"mangrove/1/session IK x25519 ChaCha20-Poly1305 BLAKE3";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lookup::Locator;
    use crate::session::tests::TestEntropy;

    fn identity(seed: u8) -> Identity {
        Identity::new(&SecretKey::from_seed([seed; 32]))
    }

    fn init_payload() -> InitPayload {
        InitPayload { counter: 7, index: 1, seq: 2, locator: Locator::default() }
    }

    fn ack_payload() -> AckPayload {
        AckPayload { index: 9, seq: 3, locator: Locator::default() }
    }

    #[test]
    fn both_ends_get_the_same_keys() {
        let (a, b) = (identity(1), identity(2));
        let mut entropy = TestEntropy::new(1);
        let (initiator, init) = Initiator::begin(&a, &b.id, &init_payload(), &mut entropy).unwrap();
        let responder = Responder::open(&b, &Init::decode(&init).unwrap()).unwrap();
        assert_eq!(responder.peer, a.id);
        assert_eq!(responder.payload, init_payload());
        assert_eq!(responder.aliases(), initiator.aliases());
        assert_ne!(initiator.aliases().initiator, initiator.aliases().responder);
        let (at_b, ack) = responder.answer(&b, &ack_payload(), &mut entropy).unwrap();
        let (at_a, said) = initiator.finish(&a, &InitAck::decode(&ack).unwrap()).unwrap();
        assert_eq!(said, ack_payload());
        for (from, to) in [(&at_a, &at_b), (&at_b, &at_a)] {
            let mut text = *b"hello - room for the tag -";
            let tag = from.seal.seal(4, b"", &mut text[..10]);
            text[10..].copy_from_slice(&tag);
            assert_eq!(to.open.open(4, b"", &mut text).unwrap(), b"hello - ro");
        }
    }

    #[test]
    fn every_changed_byte_is_noticed() {
        let (a, b) = (identity(1), identity(2));
        let mut entropy = TestEntropy::new(1);
        let (initiator, init) = Initiator::begin(&a, &b.id, &init_payload(), &mut entropy).unwrap();
        for at in 17..init.len() {
            let mut forged = init.clone();
            forged[at] ^= 1;
            assert!(Responder::open(&b, &Init::decode(&forged).unwrap()).is_err(), "byte {at}");
        }
        let responder = Responder::open(&b, &Init::decode(&init).unwrap()).unwrap();
        let (_, ack) = responder.answer(&b, &ack_payload(), &mut entropy).unwrap();
        for at in 1..ack.len() {
            let mut forged = ack.clone();
            forged[at] ^= 1;
            assert!(initiator.finish(&a, &InitAck::decode(&forged).unwrap()).is_err(), "byte {at}");
        }
        assert!(initiator.finish(&a, &InitAck::decode(&ack).unwrap()).is_ok());
    }

    #[test]
    fn an_init_opens_only_for_whom_it_is_meant() {
        let (a, b, c) = (identity(1), identity(2), identity(3));
        let mut entropy = TestEntropy::new(1);
        let (_, init) = Initiator::begin(&a, &b.id, &init_payload(), &mut entropy).unwrap();
        assert!(Responder::open(&c, &Init::decode(&init).unwrap()).is_err());
    }

    #[test]
    fn a_hint_reaches_the_one_that_it_answers() {
        let (a, b) = (identity(1), identity(2));
        let mut entropy = TestEntropy::new(1);
        let (initiator, init) = Initiator::begin(&a, &b.id, &init_payload(), &mut entropy).unwrap();
        let (other, _) = Initiator::begin(&a, &b.id, &init_payload(), &mut entropy).unwrap();
        let responder = Responder::open(&b, &Init::decode(&init).unwrap()).unwrap();
        let hint = Hint::decode(&responder.hint(99, &mut entropy)).unwrap();
        assert_eq!(hint.echo, echo(initiator.ephemeral()));
        assert_eq!(initiator.open_hint(&hint), Ok(99));
        assert_eq!(other.open_hint(&hint), Err(OpenError));
    }
}
