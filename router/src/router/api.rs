//! Owns what goes into and comes out of a [`crate::Router`]: commands, events, views.
use crate::config::LinkKind;
use crate::error::{LinkError, Unreachable};
use crate::id::{LinkId, NodeId, Port, Sid, Target};
use crate::lookup::AccountRecord;
use crate::time::Duration;
use bytes::Bytes;
use std::net::Ipv6Addr;

/// What the application wants.
#[derive(Clone, Debug)]
pub enum Command {
    /// Sends a packet, sealed to the key. It waits (bounded, the newest are kept) while session and lookup go on.
    Send {
        /// Who gets it.
        to: NodeId,
        /// What it belongs to.
        channel: Channel,
        /// The packet, at most [`crate::Router::mtu`] bytes if it is to arrive over any path.
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
    /// The same with a payload of so many bytes, which shows whether packets of that size arrive.
    PingSized {
        /// Comes back in the event.
        id: u64,
        /// Who is asked.
        to: NodeId,
        /// Bytes of the payload, at most those of any packet.
        bytes: usize,
    },
    /// Asks each hop of the way that packets to a node take, if it is a source route: [`Event::Traced`].
    Trace {
        /// Comes back in the event.
        id: u64,
        /// Whose way.
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
    /// Answer to [`Command::Ping`] and [`Command::PingSized`].
    Pong {
        /// That of the command.
        id: u64,
        /// Round-trip time, lookup and session set-up not counted.
        result: Result<Duration, Unreachable>,
    },
    /// Answer to [`Command::Trace`].
    Traced {
        /// That of the command.
        id: u64,
        /// Who is on the way, the node itself last, and the time there and back, of those that answered. Empty if no
        /// source route is in use.
        hops: Vec<(Sid, Option<Duration>)>,
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
    /// This node has come to a network, or two have met: whoever could not be reached may be reachable now, and
    /// somebody may have waited for this node. Where two networks meet, at least one of any two nodes that could
    /// not reach each other is told so. A root that comes or goes is no reason.
    Joined,
    /// The ways to that node take larger or smaller packets than before: see [`crate::Router::mtu`].
    MtuChanged {
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
    /// Audits say that it drops what it should pass on: it is passed over.
    pub suspect: bool,
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
