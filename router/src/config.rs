//! Owns what whoever embeds the router may set, and what describes a link to it.
use crate::id::NodeId;
use crate::lookup::AccountRecord;
use crate::tree::tenure::RootTimes;
use std::fmt;
use std::sync::Arc;
use zeroize::Zeroizing;

/// Settings of one [`crate::Router`]. `Config::default()` is right for a node on its own.
#[derive(Clone)]
pub struct Config {
    /// Number of spanning trees, 1..=8. All nodes of a network use the same; 4 unless an experiment says otherwise.
    pub trees: u8,
    /// Stable nodes (always on) make better roots than mobile ones.
    pub class: Class,
    /// Says whether an account record's proof holds; the homeserver supplies it. The default refuses every record,
    /// so a plain router stores none.
    pub verify_account: fn(&AccountRecord) -> bool,
    /// Shared between the routers of one process, it spares all but the first the check of a signature (simulator).
    pub checked: Option<Arc<dyn SignatureMemory>>,
    /// Packets of a session go by source routes, where such are known. Off, all go by the trees (experiments).
    pub source_routes: bool,
    /// Where neither trees nor ways lead to a node, others are asked for their links. Off, they are not (experiments).
    pub map: bool,
    /// The nearest nodes are told of and reached straight on. Off by default: it shortens first packets by 2 to 3 % and draws
    /// them to droppers (`docs/decisions.md`).
    pub vicinity: bool,
    /// Peers that drop what they should pass on are found out and passed over. Off, nobody is judged (experiments);
    /// others' audits are answered all the same.
    pub audit: bool,
    /// Bytes that may wait for one link before its longest source loses packets.
    pub queue_bytes_max: usize,
    /// Frames that are passed on are written into pieces of so many bytes, one behind the other, so that one allocation
    /// serves many; a piece stays as long as one of its frames waits somewhere. 0: each has its own (simulator).
    pub arena_bytes: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            trees: TREES,
            class: Class::Stable,
            verify_account: |_| false,
            checked: None,
            source_routes: true,
            map: true,
            vicinity: false,
            audit: true,
            queue_bytes_max: QUEUE_BYTES_MAX,
            arena_bytes: ARENA_BYTES,
        }
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("trees", &self.trees)
            .field("class", &self.class)
            .field("queue_bytes_max", &self.queue_bytes_max)
            .finish_non_exhaustive()
    }
}

/// Remembers signatures that were found good, by a digest over (key, domain, message, signature).
pub trait SignatureMemory: Send + Sync {
    /// Was this one good?
    fn is_known(&self, digest: &[u8; 32]) -> bool;
    /// This one is good.
    fn remember(&self, digest: [u8; 32]);
    /// What stands in for signatures and Diffie-Hellmans, if something does. A node that talks to others has none: only
    /// whoever owns all routers can hand them the same.
    fn stand_in(&self) -> Option<&dyn StandIn> {
        None
    }
}

/// Quick in the place of ed25519 and x25519, for many routers in one process that is trusted by them all (simulator). It
/// keeps what a signature and a shared secret are for: nobody in that process makes one without the key.
pub trait StandIn {
    /// The signature of a key under a message, its domain included.
    fn sign(&self, node: &NodeId, message: &[u8]) -> [u8; 64];
    /// The secret of two public points, the same whichever comes first.
    fn agree(&self, one: &[u8; 32], other: &[u8; 32]) -> [u8; 32];
}

/// How long a node tends to stay: part of a root's rank, before the hash.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum Class {
    /// Always on.
    #[default]
    Stable = 0,
    /// Comes and goes.
    Mobile = 1,
}

/// What a node must not repeat, and what it still knows, after a restart.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Boot {
    /// Start of all that only grows (seq of tree entries and records, counters of Inits): the greater of what was
    /// last stored ([`crate::Router::persisted`]) and unix time in milliseconds.
    pub counter: u64,
    /// How long which roots were followed before: [`crate::Router::root_times`].
    pub roots: RootTimes,
}

impl Boot {
    /// A node that has never run, whose numbers begin there.
    pub fn first(counter: u64) -> Self {
        Self { counter, roots: RootTimes::default() }
    }
}

/// What the driver knows of a new connection.
#[derive(Clone, Debug)]
pub struct LinkSpec {
    /// Whether frames can be lost or reordered.
    pub kind: LinkKind,
    /// Largest frame the link takes, in bytes: at least [`DATAGRAM_MTU`] on a stream, at least [`DATAGRAM_MTU_LEAST`] on a
    /// datagram link, which carries packets up to [`DATAGRAM_MTU`] in pieces.
    pub mtu: usize,
    /// Which side opened it.
    pub role: Role,
    /// The key that the other side must prove, if pinned.
    pub expect: Option<NodeId>,
    /// Both sides must have the same.
    pub password: Option<Secret>,
    /// Keys that are let in; `None` is everybody.
    pub allowed: Option<Arc<[NodeId]>>,
    /// Operator's cost, instead of the measured one.
    pub cost: Option<u8>,
    /// Found by multicast, so it may give way to a more useful one.
    pub multicast: bool,
    /// Where it leads, for people to read.
    pub remote: String,
    /// The network interface it uses, if one is known.
    pub interface: Option<String>,
}

impl LinkSpec {
    /// A plain link of that kind, without pinned key, password or list of allowed keys.
    pub fn new(kind: LinkKind, role: Role) -> Self {
        Self {
            kind,
            mtu: match kind {
                LinkKind::Stream => STREAM_MTU,
                LinkKind::Datagram => DATAGRAM_MTU,
            },
            role,
            expect: None,
            password: None,
            allowed: None,
            cost: None,
            multicast: false,
            remote: String::new(),
            interface: None,
        }
    }
}

/// What kind of connection a link is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum LinkKind {
    /// Every frame arrives, once, in order (tcp).
    Stream,
    /// Frames may be lost, repeated or reordered (udp).
    Datagram,
}

/// Which side of a connection this is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Role {
    /// We opened it.
    Dialer,
    /// We were called.
    Acceptor,
}

/// A password: wiped when dropped, never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Arc<Zeroizing<Vec<u8>>>);

impl Secret {
    /// Wraps the bytes of a password.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        Self(Arc::new(Zeroizing::new(bytes.into())))
    }

    /// The password itself.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// Trees of a network: with four, the loss of any one root leaves three whole locators.
pub const TREES: u8 = 4;
/// Most trees the wire can carry: the mask of a packet is half a byte today, a byte at most.
pub const TREES_MAX: usize = 8;
/// A 1 Gbit/s link drains this in 8 ms; a slower one is cut by the queue's own time limit first.
pub const QUEUE_BYTES_MAX: usize = 1 << 20;
/// 40 full packets an allocation.
pub const ARENA_BYTES: usize = 64 * 1024;
/// Frames on stream links have a two-byte length.
pub const STREAM_MTU: usize = 65_535;
/// The least a datagram link must take: 1280 bytes of somebody's packet and [`H_MAX`] around them.
pub const DATAGRAM_MTU: usize = MTU_MIN + H_MAX;
/// Shorter frames than these a datagram link need not have: every IPv4 host takes datagrams of 576 bytes (RFC 791), and each
/// control frame fits into what their headers leave.
pub const DATAGRAM_MTU_LEAST: usize = 548;
/// Every path takes packets of this size (an IPv6 link must).
pub const MTU_MIN: usize = 1280;
/// Room for everything around a packet: frame header, coordinates, way back, seals.
pub const H_MAX: usize = 256;
