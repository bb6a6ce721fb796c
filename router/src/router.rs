//! Owns the `Router`: frames, commands and time in; frames, events and a deadline out.
use crate::config::{Boot, Config, LinkKind, LinkSpec};
use crate::crypto::{Entropy, SecretKey};
use crate::error::{LinkError, Unreachable};
use crate::id::{LinkId, NodeId, Port, Sid, Target};
use crate::lookup::AccountRecord;
use crate::stats::Stats;
use crate::time::{Duration, Instant};
use bytes::Bytes;
use std::net::Ipv6Addr;

/// The one deterministic state machine of a node. After every `handle_*` the driver drains `poll_event`, `poll_link`
/// and `poll_transmit`, then waits for bytes, a command or the deadline of `poll_timeout`.
pub struct Router {
    secret: SecretKey,
    stats: Stats,
}

/// What the application wants.
#[derive(Clone, Debug)]
pub enum Command {
    /// Sends a packet, sealed to the key. It waits (bounded, the newest are kept) while session and lookup go on.
    Send {
        /// Who gets it.
        to: NodeId,
        /// What it belongs to.
        channel: Channel,
        /// The packet, at most [`Router::mtu`] bytes if it is to arrive over any path.
        payload: Bytes,
    },
    /// Sends an IPv6 packet ([`Channel::Ip`]) to whoever has the address.
    SendToAddress {
        /// An address of fd00::/8.
        to: Ipv6Addr,
        /// The packet.
        payload: Bytes,
    },
    /// Finds a node: [`Event::LookupDone`].
    Lookup {
        /// Comes back in the event.
        id: u64,
        /// What is looked for.
        target: Target,
    },
    /// Measures the way to a node and back, through a session: [`Event::Pong`].
    Ping {
        /// Comes back in the event.
        id: u64,
        /// Who is asked.
        to: NodeId,
    },
    /// Keeps an account record of this node findable until it is withdrawn.
    Publish {
        /// The record, signed by this node.
        record: AccountRecord,
    },
    /// No longer refreshes the account's record.
    Withdraw {
        /// The account.
        acct: [u8; 32],
    },
    /// Finds the nodes of an account: [`Event::AccountFound`].
    FindAccount {
        /// Comes back in the event.
        id: u64,
        /// The account.
        acct: [u8; 32],
    },
    /// Gives a link up: [`Event::LinkClose`].
    CloseLink {
        /// Which.
        link: LinkId,
    },
}

/// What a packet belongs to: the first byte inside its seal. Other values are the router's own.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Channel {
    /// IPv6 packets of the TUN.
    Ip = 0,
    /// Datagrams of streams.
    Stream = 1,
}

/// What the application hears.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event {
    /// A packet, proved to come from that key.
    Received {
        /// Who sent it.
        from: NodeId,
        /// What it belongs to.
        channel: Channel,
        /// The packet.
        payload: Bytes,
    },
    /// A link proved its key.
    PeerUp {
        /// The link.
        link: LinkId,
        /// The peer.
        node: NodeId,
    },
    /// A link that was up is gone. The peer may have others.
    PeerDown {
        /// The link.
        link: LinkId,
        /// The peer.
        node: NodeId,
    },
    /// The router gave the link up: the driver closes the connection.
    LinkClose {
        /// The link.
        link: LinkId,
        /// Why.
        reason: LinkError,
    },
    /// A session with that node stands.
    SessionUp {
        /// The other end.
        node: NodeId,
    },
    /// The session ended by silence.
    SessionDown {
        /// The other end.
        node: NodeId,
    },
    /// Answer to [`Command::Lookup`].
    LookupDone {
        /// That of the command.
        id: u64,
        /// The key, proved by a record or a session.
        result: Result<NodeId, Unreachable>,
    },
    /// Answer to [`Command::Ping`].
    Pong {
        /// That of the command.
        id: u64,
        /// Round-trip time, lookup and session set-up not counted.
        result: Result<Duration, Unreachable>,
    },
    /// Answer to [`Command::FindAccount`].
    AccountFound {
        /// That of the command.
        id: u64,
        /// The records found, verified, newest of each node; empty if there are none.
        records: Vec<AccountRecord>,
    },
    /// Packets to that node were dropped since it cannot be found or does not answer.
    Unreachable {
        /// The node.
        to: NodeId,
    },
    /// Packets to that node take another way than before.
    PathChanged {
        /// The node.
        node: NodeId,
    },
}

/// The node itself, as `ctl self` shows it.
#[derive(Clone, Debug)]
pub struct SelfInfo {
    /// Its key.
    pub id: NodeId,
    /// Its overlay address.
    pub address: Ipv6Addr,
    /// Peers with a link that is up.
    pub peers: usize,
    /// Sessions that stand.
    pub sessions: usize,
    /// Records kept for others.
    pub records: usize,
}

/// One link to a peer, as `ctl peers` shows it.
#[derive(Clone, Debug)]
pub struct PeerInfo {
    /// The link.
    pub link: LinkId,
    /// The peer; `None` while the handshake goes on.
    pub node: Option<NodeId>,
    /// Stream or datagrams.
    pub kind: LinkKind,
    /// My port for the peer.
    pub port: Option<Port>,
    /// Smoothed round-trip time.
    pub rtt: Option<Duration>,
    /// Live cost, 1..=255.
    pub cost: u8,
    /// Frames go over this link rather than over another one to the same peer.
    pub active: bool,
    /// Found by multicast.
    pub multicast: bool,
    /// As given by the driver.
    pub remote: String,
    /// As given by the driver.
    pub interface: Option<String>,
    /// Bytes from the peer over this link.
    pub bytes_in: u64,
    /// Bytes to the peer over this link.
    pub bytes_out: u64,
    /// How long the link has been up.
    pub up_for: Duration,
}

/// The node's place in one tree, as `ctl trees` shows it.
#[derive(Clone, Debug)]
pub struct TreeInfoView {
    /// Number of the tree.
    pub tree: u8,
    /// Its root, as far as this node sees.
    pub root: NodeId,
    /// The parent; `None` for a root.
    pub parent: Option<NodeId>,
    /// Ports and costs from the root down to this node.
    pub coords: Vec<(Port, u8)>,
    /// Sum of the costs up to the root.
    pub cost: u32,
    /// The root's short name.
    pub root_sid: Sid,
}

/// One session, as `ctl sessions` shows it.
#[derive(Clone, Debug)]
pub struct SessionInfo {
    /// The other end.
    pub node: NodeId,
    /// Smoothed round-trip time, once measured.
    pub rtt: Option<Duration>,
    /// How long the session has been up.
    pub up_for: Duration,
    /// Bytes of packets from the other end.
    pub bytes_in: u64,
    /// Bytes of packets to the other end.
    pub bytes_out: u64,
}

impl Router {
    /// A node on its own: no links yet.
    pub fn new(
        secret: SecretKey,
        config: Config,
        boot: Boot,
        entropy: Box<dyn Entropy>,
        now: Instant,
    ) -> Self {
        let _ = (config, boot, entropy, now);
        Self { secret, stats: Stats::default() }
    }

    /// A connection exists; the link handshake runs inside the router.
    pub fn handle_link(&mut self, link: LinkId, spec: LinkSpec, now: Instant) {
        let _ = (link, spec, now);
    }

    /// One whole frame came from the link (the driver takes the length prefix off).
    pub fn handle_frame(&mut self, link: LinkId, frame: &[u8], now: Instant) {
        let _ = (link, frame, now);
    }

    /// The connection is gone.
    pub fn handle_link_lost(&mut self, link: LinkId, now: Instant) {
        let _ = (link, now);
    }

    /// The application wants something.
    pub fn handle_command(&mut self, command: Command, now: Instant) {
        let _ = (command, now);
    }

    /// The deadline of [`Self::poll_timeout`] has come. Harmless at any other time.
    pub fn handle_timeout(&mut self, now: Instant) {
        let _ = now;
    }

    /// A link that has frames to send and was not reported since it ran empty. O(1).
    pub fn poll_link(&mut self) -> Option<LinkId> {
        None
    }

    /// The next frame of that link's egress queue; `None` when it is empty. O(1) but for frames that waited too long,
    /// each of which is dropped once.
    pub fn poll_transmit(&mut self, link: LinkId, now: Instant) -> Option<Bytes> {
        let _ = (link, now);
        None
    }

    /// The next event. O(1).
    pub fn poll_event(&mut self) -> Option<Event> {
        None
    }

    /// When [`Self::handle_timeout`] wants to be called. O(1).
    pub fn poll_timeout(&self) -> Option<Instant> {
        None
    }

    /// Counters since the start.
    pub fn stats(&self) -> Stats {
        self.stats
    }

    /// This node's key.
    pub fn id(&self) -> NodeId {
        self.secret.id()
    }

    /// Largest payload of [`Command::Send`] that the known paths to the node take; never below 1280.
    pub fn mtu(&self, to: &NodeId) -> usize {
        let _ = to;
        crate::config::MTU_MIN
    }

    /// What to store so that the next start's [`Boot`] is above all that was used: a bound, so that it need be
    /// stored only when it changes.
    pub fn persisted(&self) -> u64 {
        0
    }

    /// The node itself.
    pub fn self_info(&self) -> SelfInfo {
        unimplemented!("lands with the state machine")
    }

    /// All links.
    pub fn peers(&self) -> Vec<PeerInfo> {
        Vec::new()
    }

    /// The node's place in each tree.
    pub fn trees(&self) -> Vec<TreeInfoView> {
        Vec::new()
    }

    /// All sessions.
    pub fn sessions(&self) -> Vec<SessionInfo> {
        Vec::new()
    }
}
