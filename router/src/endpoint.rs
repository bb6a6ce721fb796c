//! Owns all that is end to end: sessions with other nodes and the search for them, in one state machine.
//!
//! It knows nothing of trees, links and forwarding. Bodies of packets for this node, commands and time go in; bodies
//! with their destination, events and a deadline come out. Whoever drives it (the router) carries the bodies.
use crate::config::{Config, H_MAX};
use crate::crypto::{Entropy, SecretKey};
use crate::id::{NodeId, Port, Sid};
use crate::lookup::Locator;
use crate::router::{Command, Event, SessionInfo};
use crate::time::Instant;
use bytes::{Buf, Bytes, BytesMut};
use std::sync::Arc;

/// Sessions and lookup of one node.
pub struct Endpoint {
    secret: SecretKey,
}

/// A packet that was addressed to this node.
#[derive(Clone, Debug)]
pub struct Inbound<'a> {
    /// The peer it came from; quotas are by ingress, since keys are free.
    pub ingress: Port,
    /// The ports that lead back to the sender, to be sent along as they are.
    pub way: &'a [u8],
    /// From the frame's header.
    pub index: u32,
    /// From the frame's header: the fullest queue on the way.
    pub load: u8,
    /// What the header stands before.
    pub body: &'a [u8],
}

/// A packet to be sent.
#[derive(Debug)]
pub struct Outbound {
    /// Where to.
    pub to: Destination,
    /// For the frame's header.
    pub index: u32,
    /// What the header stands before.
    pub body: Body,
}

/// Where a packet goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// To a node, by the trees (or straight, if it is a peer).
    Node {
        /// Its short name.
        sid: Sid,
        /// Where it is; empty if it is only known to be a peer.
        locator: Arc<Locator>,
    },
    /// Along the way that a packet came from.
    Back(Bytes),
}

/// The body of a packet, with room before it for the frame's header, so that nothing is copied on the way out.
#[derive(Debug)]
pub struct Body {
    bytes: BytesMut,
    start: usize,
}

/// Why a packet for this node was not taken, if its sender should hear of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Its receiver index belongs to no session: a NOTICE(no-session) goes back, rate-limited by the router.
    NoSession,
}

/// What came back for a packet of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Setback {
    /// Its destination's locator is stale or leads nowhere (stale, no route, broken port, budget or ttl run out).
    Lost,
    /// The receiver has no such session.
    NoSession,
    /// A node on the way takes at most this many bytes.
    TooLarge(u16),
}

impl Endpoint {
    /// Nothing known, nobody met. `boot` starts all that only grows.
    pub fn new(
        secret: SecretKey,
        config: &Config,
        boot: u64,
        entropy: &mut dyn Entropy,
        now: Instant,
    ) -> Self {
        let _ = (config, boot, entropy, now);
        Self { secret }
    }

    /// A packet addressed to this node has come.
    pub fn handle_packet(
        &mut self,
        packet: Inbound<'_>,
        entropy: &mut dyn Entropy,
        now: Instant,
    ) -> Result<(), Refusal> {
        let _ = (packet, entropy, now);
        Ok(())
    }

    /// All commands but [`Command::CloseLink`].
    pub fn handle_command(&mut self, command: Command, entropy: &mut dyn Entropy, now: Instant) {
        let _ = (command, entropy, now);
    }

    /// This node's coordinates are now these (call it when they first appear and after every change).
    pub fn handle_coordinates(&mut self, locator: Locator, now: Instant) {
        let _ = (locator, now);
    }

    /// A peer is up, or its coordinates have changed.
    pub fn handle_peer(&mut self, node: NodeId, locator: Locator, now: Instant) {
        let _ = (node, locator, now);
    }

    /// A peer is gone.
    pub fn handle_peer_lost(&mut self, node: NodeId, now: Instant) {
        let _ = (node, now);
    }

    /// A NOTICE about one of our packets has come; `tail` is the last 8 bytes of the packet's body.
    pub fn handle_notice(
        &mut self,
        setback: Setback,
        tail: [u8; 8],
        entropy: &mut dyn Entropy,
        now: Instant,
    ) {
        let _ = (setback, tail, entropy, now);
    }

    /// The deadline has come. Harmless at any other time.
    pub fn handle_timeout(&mut self, entropy: &mut dyn Entropy, now: Instant) {
        let _ = (entropy, now);
    }

    /// The next packet to send. O(1).
    pub fn poll_packet(&mut self) -> Option<Outbound> {
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

    /// Above all counters used so far; to be stored before the next start.
    pub fn persisted(&self) -> u64 {
        0
    }

    /// All sessions that stand.
    pub fn sessions(&self) -> Vec<SessionInfo> {
        Vec::new()
    }

    /// Records kept for others.
    pub fn records(&self) -> usize {
        0
    }

    /// Where a node is, as far as this node knows.
    pub fn locator(&self, node: &NodeId) -> Option<Arc<Locator>> {
        let _ = (node, &self.secret);
        None
    }
}

impl Body {
    /// Room before the body.
    pub const HEADROOM: usize = H_MAX;

    /// The body alone.
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    /// The frame: header, then body. Copies only the header, as long as it is no longer than [`Self::HEADROOM`].
    pub fn frame(mut self, header: &[u8]) -> Bytes {
        if let Some(start) = self.start.checked_sub(header.len()) {
            self.bytes[start..self.start].copy_from_slice(header);
            self.bytes.advance(start);
            return self.bytes.freeze();
        }
        let mut frame = BytesMut::with_capacity(header.len() + self.as_slice().len());
        frame.extend_from_slice(header);
        frame.extend_from_slice(self.as_slice());
        frame.freeze()
    }
}
