//! Owns the link handshake: one round trip, after which each side has proved its key and both have link keys.
//!
//! ```text
//! both sides:  send HELLO (fresh x25519 key, in clear)
//!   on HELLO:  keys from the secret both share, both HELLOs and the password; send LINK_ACK: our key and a signature
//!              over both HELLOs, sealed
//!   on LINK_ACK: open, check the signature, the pinned key, the allowed keys: the link is up
//! ```
//! Sign-and-seal (SIGMA-I): who only listens learns no key; who stands between has another secret with each side, so a
//! signature over both HELLOs fits neither.
use crate::config::{Class, LinkSpec, Role};
use crate::crypto::{AeadKey, DhPublic, DhSecret, Entropy, SecretKey, domain};
use crate::error::LinkError;
use crate::time::Instant;
use crate::wire::hello::{Hello, Proof};
use crate::wire::{FrameError, VERSION, kind};
use bytes::Bytes;
use zeroize::Zeroizing;

/// One side of a handshake under way.
#[derive(Debug)]
pub struct Handshake {
    hello: Bytes,
    ephemeral: DhSecret,
    ephemeral_public: DhPublic,
    ours: Ours,
    theirs: Option<Agreed>,
    /// When HELLO was first sent.
    pub started: Instant,
}

/// What we say about ourselves.
#[derive(Clone, Copy, Debug)]
pub struct Ours {
    /// How long we tend to stay.
    pub class: Class,
    /// How many trees we keep.
    pub trees: u8,
    /// Largest frame we take.
    pub mtu: u32,
}

/// What both sides know once the HELLOs have crossed.
#[derive(Debug)]
struct Agreed {
    hello: Bytes,
    ack: Bytes,
    transcript: [u8; 32],
    open: AeadKey,
    keys: Option<LinkKeys>,
}

/// Keys of a link, one for each direction and purpose.
#[derive(Debug)]
pub struct LinkKeys {
    /// Seals our control frames.
    pub seal: AeadKey,
    /// Opens theirs.
    pub open: AeadKey,
    /// Guards our data frames (datagram links).
    pub guard: Zeroizing<[u8; 32]>,
    /// Checks theirs.
    pub check: Zeroizing<[u8; 32]>,
}

/// A handshake that succeeded.
#[derive(Debug)]
pub struct Established {
    /// What the peer proved and told.
    pub proof: Proof,
    /// The link's keys.
    pub keys: LinkKeys,
    /// Their HELLO and our LINK_ACK: a repeated HELLO on a datagram link means that the LINK_ACK was lost.
    pub repeat: (Bytes, Bytes),
}

impl Handshake {
    /// Begins; the first frame is [`Self::hello`].
    pub fn new(spec: &LinkSpec, ours: Ours, entropy: &mut dyn Entropy, now: Instant) -> Self {
        let ephemeral = DhSecret::generate(entropy);
        let ephemeral_public = ephemeral.public();
        let hello =
            Hello { version: VERSION, password: spec.password.is_some(), ephemeral: ephemeral_public.0 };
        Self { hello: hello.encode().into(), ephemeral, ephemeral_public, ours, theirs: None, started: now }
    }

    /// Our HELLO, to be sent first (and again on a datagram link).
    pub fn hello(&self) -> Bytes {
        self.hello.clone()
    }

    /// Our LINK_ACK, once their HELLO has come.
    pub fn ack(&self) -> Option<Bytes> {
        self.theirs.as_ref().map(|theirs| theirs.ack.clone())
    }

    /// Their HELLO has come; our LINK_ACK is the answer.
    pub fn on_hello(
        &mut self,
        frame: &[u8],
        spec: &LinkSpec,
        secret: &SecretKey,
    ) -> Result<Bytes, LinkError> {
        if let Some(theirs) = &self.theirs {
            // A repetition is harmless, a second one is not ours to choose from.
            return if theirs.hello == frame {
                Ok(theirs.ack.clone())
            } else {
                Err(LinkError::Frame(FrameError::State))
            };
        }
        let hello = Hello::decode(frame).map_err(|_| LinkError::NotOurProtocol)?;
        if hello.version != VERSION {
            return Err(LinkError::Version { theirs: hello.version, ours: VERSION });
        }
        if hello.ephemeral == self.ephemeral_public.0 {
            return Err(LinkError::SelfConnection);
        }
        if hello.password != spec.password.is_some() {
            return Err(LinkError::WrongPassword);
        }
        let shared =
            self.ephemeral.agree(&DhPublic(hello.ephemeral)).map_err(|_| LinkError::NotOurProtocol)?;

        let (dialer, acceptor) = match spec.role {
            Role::Dialer => (&self.hello[..], frame),
            Role::Acceptor => (frame, &self.hello[..]),
        };
        let transcript = hash_parts("mangrove 1 link transcript", &[dialer, acceptor]);
        let password = spec.password.as_ref().map_or(&[][..], |password| password.expose());
        let mut material = blake3::Hasher::new_derive_key("mangrove 1 link keys");
        material.update(&transcript).update(shared.as_bytes()).update(password);
        let mut keys = Zeroizing::new([[0; 32]; 6]);
        material.finalize_xof().fill(keys.as_flattened_mut());
        if spec.role == Role::Acceptor {
            for pair in keys.chunks_exact_mut(2) {
                pair.swap(0, 1);
            }
        }
        let [seal_ack, open_ack, seal, open, guard, check] = &*keys;

        let mut proof = Proof {
            node: secret.id(),
            class: self.ours.class,
            trees: self.ours.trees,
            mtu: self.ours.mtu,
            sig: [0; 64],
        };
        proof.sig = secret.sign(domain::HELLO, &signed(&transcript, spec.role, &proof));
        let mut ack = vec![kind::LINK_ACK];
        ack.extend(proof.encode());
        let (head, text) = ack.split_at_mut(1);
        let tag = AeadKey::new(seal_ack).seal(0, head, text);
        ack.extend(tag);

        let ack = Bytes::from(ack);
        self.theirs = Some(Agreed {
            hello: Bytes::copy_from_slice(frame),
            ack: ack.clone(),
            transcript,
            open: AeadKey::new(open_ack),
            keys: Some(LinkKeys {
                seal: AeadKey::new(seal),
                open: AeadKey::new(open),
                guard: Zeroizing::new(*guard),
                check: Zeroizing::new(*check),
            }),
        });
        Ok(ack)
    }

    /// Their LINK_ACK has come: the link is up, or refused.
    pub fn on_ack(
        &mut self,
        frame: &[u8],
        spec: &LinkSpec,
        secret: &SecretKey,
    ) -> Result<Established, LinkError> {
        let theirs = self.theirs.as_mut().ok_or(LinkError::Frame(FrameError::State))?;
        if frame.len() > ACK_LEN_MAX {
            return Err(LinkError::Frame(FrameError::Long));
        }
        let mut copy = frame.to_vec();
        let (head, sealed) = copy.split_at_mut(1.min(frame.len()));
        let text = theirs.open.open(0, head, sealed).map_err(|_| {
            if spec.password.is_some() { LinkError::WrongPassword } else { LinkError::BadProof }
        })?;
        let proof = Proof::decode(text)?;
        if proof.node == secret.id() {
            return Err(LinkError::SelfConnection);
        }
        let role = match spec.role {
            Role::Dialer => Role::Acceptor,
            Role::Acceptor => Role::Dialer,
        };
        let told = signed(&theirs.transcript, role, &proof);
        let (good, _) = proof.node.verify_remembering(secret.stand_in(), domain::HELLO, &told, &proof.sig);
        good.map_err(|_| LinkError::BadProof)?;
        if spec.expect.is_some_and(|expected| expected != proof.node) {
            return Err(LinkError::WrongKey);
        }
        if spec.allowed.as_ref().is_some_and(|allowed| !allowed.contains(&proof.node)) {
            return Err(LinkError::NotAllowed);
        }
        let keys = theirs.keys.take().ok_or(LinkError::Frame(FrameError::State))?;
        Ok(Established { proof, keys, repeat: (theirs.hello.clone(), theirs.ack.clone()) })
    }
}

fn signed(transcript: &[u8; 32], signer: Role, proof: &Proof) -> Vec<u8> {
    let mut bytes = transcript.to_vec();
    bytes.push(match signer {
        Role::Dialer => 0,
        Role::Acceptor => 1,
    });
    bytes.extend(proof.signed());
    bytes
}

fn hash_parts(context: &str, parts: &[&[u8]]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key(context);
    for part in parts {
        hasher.update(&(part.len() as u64).to_be_bytes()).update(part);
    }
    *hasher.finalize().as_bytes()
}

/// Room for fields of later versions.
const ACK_LEN_MAX: usize = 512;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{LinkKind, Secret};

    struct Fixed(u8);
    impl Entropy for Fixed {
        fn fill(&mut self, out: &mut [u8]) {
            self.0 += 1;
            out.fill(self.0);
        }
    }

    struct Side {
        secret: SecretKey,
        spec: LinkSpec,
        handshake: Handshake,
    }

    fn side(seed: u8, role: Role, change: impl Fn(&mut LinkSpec)) -> Side {
        let secret = SecretKey::from_seed([seed; 32]);
        let mut spec = LinkSpec::new(LinkKind::Stream, role);
        change(&mut spec);
        let ours = Ours { class: Class::Stable, trees: 4, mtu: 65_535 };
        let handshake = Handshake::new(&spec, ours, &mut Fixed(seed * 7), Instant::ZERO);
        Side { secret, spec, handshake }
    }

    fn run(a: &mut Side, b: &mut Side) -> (Result<Established, LinkError>, Result<Established, LinkError>) {
        let (hello_a, hello_b) = (a.handshake.hello(), b.handshake.hello());
        let ack_a = a.handshake.on_hello(&hello_b, &a.spec, &a.secret);
        let ack_b = b.handshake.on_hello(&hello_a, &b.spec, &b.secret);
        let at_a = ack_b.and_then(|ack| a.handshake.on_ack(&ack, &a.spec, &a.secret));
        let at_b = ack_a.and_then(|ack| b.handshake.on_ack(&ack, &b.spec, &b.secret));
        (at_a, at_b)
    }

    #[test]
    fn both_prove_their_keys_and_agree() {
        let (mut a, mut b) = (side(1, Role::Dialer, |_| ()), side(2, Role::Acceptor, |_| ()));
        let (at_a, at_b) = run(&mut a, &mut b);
        let (at_a, at_b) = (at_a.unwrap(), at_b.unwrap());
        assert_eq!(at_a.proof.node, b.secret.id());
        assert_eq!(at_b.proof.node, a.secret.id());
        assert_eq!(at_a.keys.guard, at_b.keys.check);
        let mut text = *b"hello............secret";
        let tag = at_b.keys.seal.seal(5, b"", &mut text);
        let mut sealed = [&text[..], &tag].concat();
        assert_eq!(at_a.keys.open.open(5, b"", &mut sealed).unwrap(), b"hello............secret");
    }

    #[test]
    fn passwords_must_be_the_same() {
        let with = |text: &'static str| {
            move |spec: &mut LinkSpec| spec.password = Some(Secret::new(text.as_bytes()))
        };
        let (a, b) = run(&mut side(1, Role::Dialer, with("x")), &mut side(2, Role::Acceptor, with("x")));
        assert!(a.is_ok() && b.is_ok());
        let (a, b) = run(&mut side(1, Role::Dialer, with("x")), &mut side(2, Role::Acceptor, with("y")));
        assert_eq!((a.err(), b.err()), (Some(LinkError::WrongPassword), Some(LinkError::WrongPassword)));
        let (a, b) = run(&mut side(1, Role::Dialer, with("x")), &mut side(2, Role::Acceptor, |_| ()));
        assert_eq!((a.err(), b.err()), (Some(LinkError::WrongPassword), Some(LinkError::WrongPassword)));
    }

    #[test]
    fn pinned_and_allowed_keys_are_checked() {
        let id = |seed| SecretKey::from_seed([seed; 32]).id();
        let expect = |seed| move |spec: &mut LinkSpec| spec.expect = Some(id(seed));
        let allow = |seed| move |spec: &mut LinkSpec| spec.allowed = Some([id(seed)].into());
        let (a, b) = run(&mut side(1, Role::Dialer, expect(2)), &mut side(2, Role::Acceptor, allow(1)));
        assert!(a.is_ok() && b.is_ok());
        let (a, b) = run(&mut side(1, Role::Dialer, expect(3)), &mut side(2, Role::Acceptor, allow(4)));
        assert_eq!((a.err(), b.err()), (Some(LinkError::WrongKey), Some(LinkError::NotAllowed)));
    }

    #[test]
    fn a_mirror_and_an_own_other_link_are_seen() {
        let mut a = side(1, Role::Dialer, |_| ());
        let mirrored = a.handshake.hello();
        assert_eq!(
            a.handshake.on_hello(&mirrored, &a.spec, &a.secret).err(),
            Some(LinkError::SelfConnection)
        );
        let (mut a, mut b) = (side(1, Role::Dialer, |_| ()), side(1, Role::Acceptor, |_| ()));
        b.handshake = side(2, Role::Acceptor, |_| ()).handshake;
        let (at_a, at_b) = run(&mut a, &mut b);
        assert_eq!(
            (at_a.err(), at_b.err()),
            (Some(LinkError::SelfConnection), Some(LinkError::SelfConnection))
        );
    }

    #[test]
    fn a_proof_from_another_handshake_does_not_hold() {
        let (mut a, mut b) = (side(1, Role::Dialer, |_| ()), side(2, Role::Acceptor, |_| ()));
        let (hello_a, hello_b) = (a.handshake.hello(), b.handshake.hello());
        let old = b.handshake.on_hello(&hello_a, &b.spec, &b.secret).unwrap();
        a.handshake.on_hello(&hello_b, &a.spec, &a.secret).unwrap();
        let mut again = side(1, Role::Dialer, |_| ());
        again.handshake = side(3, Role::Dialer, |_| ()).handshake;
        again.handshake.on_hello(&hello_b, &again.spec, &again.secret).unwrap();
        assert_eq!(again.handshake.on_ack(&old, &again.spec, &again.secret).err(), Some(LinkError::BadProof));
        assert!(a.handshake.on_ack(&old, &a.spec, &a.secret).is_ok());
    }

    #[test]
    fn another_version_and_another_protocol_are_told_apart() {
        let mut a = side(1, Role::Dialer, |_| ());
        let mut hello = side(2, Role::Acceptor, |_| ()).handshake.hello().to_vec();
        hello[5] = 9;
        let error = a.handshake.on_hello(&hello, &a.spec, &a.secret).err();
        assert_eq!(error, Some(LinkError::Version { theirs: 9, ours: VERSION }));
        let error = a.handshake.on_hello(b"GET / HTTP/1.1", &a.spec, &a.secret).err();
        assert_eq!(error, Some(LinkError::NotOurProtocol));
    }
}
