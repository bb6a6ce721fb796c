//! One node: its router, its ends of links, and all that it draws, counts and remembers by itself, so that nodes can be
//! computed beside each other.

use router::{Boot, Config, Entropy, Instant, LinkId, NodeId, RootTimes, Router, SecretKey, Sid};

use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};

use crate::{
    adversary::Malice,
    link::{Dice, Lane},
};

pub(super) struct Node {
    pub(super) number: u32,
    pub(super) router: Option<Router>,
    pub(super) key: NodeId,
    pub(super) sid: Sid,
    pub(super) secret: [u8; 32],
    /// What [`Router::persisted`] said before the crash.
    pub(super) counter: u64,
    /// What [`Router::root_times`] said before the crash.
    pub(super) roots: RootTimes,
    pub(super) starts: u32,
    /// The earliest wake-up that is due.
    pub(super) wakes: Option<Instant>,
    /// Timeouts in a row without time passing.
    pub(super) spins: u32,
    /// Since when it has been up.
    pub(super) since: Instant,
    /// What it does that an honest node does not.
    pub(super) malice: Option<Box<Malice>>,
    /// Its ends of links, in the order in which they came.
    pub(super) halves: Vec<Half>,
    /// How much it has caused.
    pub(super) caused: u32,
    /// How much it has told.
    pub(super) told: u32,
    /// For jitter and loss of what it sends.
    pub(super) dice: Dice,
    pub(super) digest: Digest,
}

/// One end of a link, and the way from here to the other end.
pub(super) struct Half {
    pub(super) edge: u32,
    pub(super) end: u8,
    /// The connection's name here.
    pub(super) link: LinkId,
    /// As far as this end knows.
    pub(super) open: bool,
    pub(super) lane: Lane,
}

impl Node {
    pub(super) fn new(number: u32, key: NodeId, secret: [u8; 32], seed: u64) -> Self {
        Self {
            number,
            router: None,
            key,
            sid: key.sid(),
            secret,
            counter: 0,
            roots: RootTimes::default(),
            starts: 0,
            wakes: None,
            spins: 0,
            since: Instant::ZERO,
            malice: None,
            halves: Vec::new(),
            caused: 0,
            told: 0,
            dice: Dice::new(seed ^ u64::from(number) << 20),
            digest: Digest::default(),
        }
    }

    /// Starts the router, with the node's key and what it stored.
    pub(super) fn start(&mut self, seed: u64, config: Config, now: Instant) {
        self.starts += 1;
        self.since = now;
        let stream = u64::from(self.starts) << 32 | u64::from(self.number);
        let unix_ms = EPOCH_MS + now.as_micros() / 1000;
        let boot = Boot { counter: self.counter.max(unix_ms), roots: self.roots.clone() };
        let entropy = Box::new(SeededEntropy::new(seed, stream));
        self.router = Some(Router::new(SecretKey::from_seed(self.secret), config, boot, entropy, now));
    }

    /// Ends it in the middle of whatever it does; false if it was down.
    pub(super) fn stop(&mut self) -> bool {
        let Some(router) = self.router.take() else { return false };
        self.counter = router.persisted();
        self.roots = router.root_times();
        self.wakes = None;
        true
    }

    /// The order of the next thing that it causes.
    pub(super) fn order(&mut self) -> u64 {
        self.caused = self.caused.wrapping_add(1);
        u64::from(self.number) << 32 | u64::from(self.caused)
    }

    /// The number of the next thing that it tells.
    pub(super) fn tell(&mut self) -> u32 {
        self.told = self.told.wrapping_add(1);
        self.told
    }
}

/// A running sum over all frames that came, with time and link: shows whether two runs were the same, not more.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Digest(u64, u64);

impl Digest {
    pub(super) fn add(&mut self, now: Instant, link: LinkId, frame: &[u8]) {
        self.word(now.as_micros());
        self.word(link.0);
        self.word(frame.len() as u64);
        for chunk in frame.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.word(u64::from_le_bytes(word));
        }
    }

    fn word(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(29) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.1 = (self.1 ^ self.0.rotate_left(17)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    }

    pub(super) fn bytes(&self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.0.to_le_bytes());
        bytes[8..].copy_from_slice(&self.1.to_le_bytes());
        bytes
    }
}

/// Randomness of one start of one node.
struct SeededEntropy(ChaCha8Rng);

impl SeededEntropy {
    fn new(seed: u64, stream: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed ^ 0x5eed);
        rng.set_stream(stream);
        Self(rng)
    }
}

impl Entropy for SeededEntropy {
    fn fill(&mut self, out: &mut [u8]) {
        self.0.fill_bytes(out);
    }
}

/// Unix time at the start of every simulation, in ms.
const EPOCH_MS: u64 = 1_700_000_000_000;
