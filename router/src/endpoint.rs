//! Owns all that is end to end: sessions with other nodes and the search for them, in one state machine.
//!
//! It knows nothing of trees, links and forwarding. Bodies of packets for this node, commands and time go in; bodies
//! with their destination, events and a deadline come out. Whoever drives it (the router) carries the bodies.
use crate::config::Config;
use crate::crypto::{Entropy, SecretKey};
use crate::error::Unreachable;
use crate::id::{NodeId, Port, Target};
use crate::lookup::{Locator, Lookup, LookupEvent, LookupStats, Position, Query};
use crate::map::{Map, MapStats};
use crate::route::choose::RouteInfo;
use crate::router::{Channel, Command, Event, SessionInfo};
use crate::session::{Doubt, ProbeWay, Refused, SessionEvent, SessionStats, Sessions};
use crate::time::{Duration, Instant};
use crate::wire::body::{self, sealed};
pub use crate::wire::body::{Body, Destination, Inbound, List, Outbound};
use crate::wire::record::Span;
use bytes::Bytes;
use std::collections::{BTreeMap, VecDeque};
use std::net::Ipv6Addr;

/// Sessions and lookup of one node.
pub struct Endpoint {
    me: NodeId,
    address: Ipv6Addr,
    /// Of the last call.
    now: Instant,
    /// Above all seqs given to our position.
    seq: u64,
    own: Locator,
    sessions: Sessions,
    lookup: Lookup,
    map: Map,
    /// What waits for the outcome of a lookup.
    waiters: BTreeMap<Query, Vec<Waiter>>,
    events: VecDeque<Event>,
    probed: VecDeque<Probed>,
    doubts: VecDeque<Doubt>,
    stats: EndpointStats,
}

/// An answer to a probe: who gave it, the token, some of its ports.
pub type Probed = (NodeId, [u8; 8], Bytes);

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

/// Counters of all that is end to end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EndpointStats {
    /// Of the sessions.
    pub sessions: SessionStats,
    /// Of the lookup.
    pub lookup: LookupStats,
    /// Of the map.
    pub map: MapStats,
    /// Packets of ours that waited in vain for a lookup.
    pub dropped_parked: u64,
    /// Packets of ours to addresses outside of fd00::/8, and larger than a packet may be.
    pub dropped_address: u64,
    /// Bodies of unknown kinds.
    pub dropped_body: u64,
    /// Notices that match nothing that was sent.
    pub notices_ignored: u64,
}

enum Waiter {
    Session(NodeId),
    Packet(Bytes),
    Lookup(u64),
    Account { id: u64, acct: [u8; 32] },
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
        Self {
            me: secret.id(),
            address: secret.id().address(),
            now,
            seq: boot,
            own: Locator::default(),
            sessions: Sessions::new(&secret, config.source_routes, boot, entropy, now),
            lookup: Lookup::new(&secret, config, entropy, now),
            map: Map::new(&secret, config.map && config.source_routes, boot, now),
            waiters: BTreeMap::new(),
            events: VecDeque::new(),
            probed: VecDeque::new(),
            doubts: VecDeque::new(),
            stats: EndpointStats::default(),
        }
    }

    /// A packet addressed to this node has come.
    pub fn handle_packet(
        &mut self,
        packet: Inbound<'_>,
        entropy: &mut dyn Entropy,
        now: Instant,
    ) -> Result<(), Refusal> {
        let Inbound { ingress, way, body, .. } = packet;
        let result = match body.first() {
            Some(&(body::DATA | body::INIT | body::INIT_ACK | body::COOKIE | body::HINT)) => {
                self.sessions.handle_packet(&packet, entropy, now)
            }
            Some(&(body::MAP_GET | body::MAP)) => {
                self.map.handle_packet(ingress, way, body, self.sessions.blame(), entropy, now);
                Ok(())
            }
            Some(&(body::FIND | body::FOUND | body::STORE | body::REFRESH)) => {
                // What is wrong with it is counted there.
                let _ = self.lookup.handle_packet(ingress, way, body, entropy, now);
                Ok(())
            }
            _ => {
                self.stats.dropped_body += 1;
                Ok(())
            }
        };
        self.settle(entropy, now);
        match result {
            Err(Refused::NoSession) => Err(Refusal::NoSession),
            _ => Ok(()),
        }
    }

    /// Is that the receiver index of a session of this node? O(1).
    pub fn has_index(&self, index: u32) -> bool {
        self.sessions.has_index(index)
    }

    /// A packet that could go on has the receiver index of a session. True if its keys open it: then it is for this node
    /// and goes no further.
    pub fn handle_passing(&mut self, packet: Inbound<'_>, entropy: &mut dyn Entropy, now: Instant) -> bool {
        let data = packet.body.first() == Some(&body::DATA);
        let taken = data && self.sessions.handle_passing(&packet, entropy, now).is_ok();
        if taken {
            self.settle(entropy, now);
        }
        taken
    }

    /// Begins a session with a node, for audits: an INIT along those ports, or wherever it is found.
    pub fn meet(&mut self, node: NodeId, via: Option<Bytes>, entropy: &mut dyn Entropy, now: Instant) {
        if node != self.me {
            self.sessions.meet(node, via, entropy, now);
            self.settle(entropy, now);
        }
    }

    /// Sends a probe through a session, for audits.
    pub fn probe(
        &mut self,
        node: &NodeId,
        token: [u8; 8],
        pad: usize,
        way: ProbeWay,
        entropy: &mut dyn Entropy,
        now: Instant,
    ) {
        self.sessions.probe(node, token, pad, way, entropy, now);
        self.settle(entropy, now);
    }

    /// An answer to a probe: from whom, which, and some of its ports. O(1).
    pub fn poll_probed(&mut self) -> Option<Probed> {
        self.probed.pop_front()
    }

    /// What fell silent. O(1).
    pub fn poll_doubt(&mut self) -> Option<Doubt> {
        self.doubts.pop_front()
    }

    /// When a node was heard last that packets can be sealed for. O(1).
    pub fn heard_at(&self, node: &NodeId) -> Option<Instant> {
        self.sessions.heard_at(node)
    }

    /// A peer's link is this one now: frames to it go out of that port.
    pub fn handle_link(&mut self, node: NodeId, port: Port, span: Span) {
        self.sessions.handle_link(node.sid(), port, span);
        self.map.handle_link(node.sid(), port, span);
    }

    /// All commands but [`Command::CloseLink`].
    pub fn handle_command(&mut self, command: Command, entropy: &mut dyn Entropy, now: Instant) {
        match command {
            Command::Send { to, channel, payload } => self.send(to, channel, payload, entropy, now),
            Command::SendToAddress { to, payload } => {
                if to == self.address {
                    self.deliver(self.me, Channel::Ip, payload);
                } else if let Some(node) = self.sessions.by_address(&to) {
                    self.send(node, Channel::Ip, payload, entropy, now);
                } else if let Some(query) = Query::target(&Target::Address(to)) {
                    self.wait(query, Waiter::Packet(payload), entropy, now);
                } else {
                    self.stats.dropped_address += 1;
                }
            }
            Command::Lookup { id, target } => {
                let is_me = match target {
                    Target::Key(node) => node == self.me,
                    Target::Address(address) => address == self.address,
                };
                match Query::target(&target) {
                    _ if is_me => self.events.push_back(Event::LookupDone { id, result: Ok(self.me) }),
                    Some(query) => self.wait(query, Waiter::Lookup(id), entropy, now),
                    None => {
                        self.events.push_back(Event::LookupDone { id, result: Err(Unreachable::NotFound) });
                    }
                }
            }
            Command::Ping { id, to } | Command::PingSized { id, to, .. } if to == self.me => {
                self.events.push_back(Event::Pong { id, result: Ok(Duration::ZERO) });
            }
            Command::Ping { id, to } => self.sessions.ping(id, to, 0, entropy, now),
            Command::PingSized { id, to, bytes } => self.sessions.ping(id, to, bytes, entropy, now),
            Command::Trace { id, to } => self.sessions.trace(id, &to, entropy, now),
            Command::Publish { record } => {
                self.lookup.publish(record, entropy, now);
            }
            Command::Withdraw { acct } => self.lookup.withdraw(&acct),
            Command::FindAccount { id, acct } => {
                self.wait(Query::account(&acct), Waiter::Account { id, acct }, entropy, now);
            }
            Command::CloseLink { .. } => {}
        }
        self.settle(entropy, now);
    }

    /// This node's coordinates are now these (call it when they first appear and after every change).
    pub fn handle_coordinates(&mut self, locator: Locator, entropy: &mut dyn Entropy, now: Instant) {
        if locator == self.own {
            return;
        }
        self.own = locator;
        self.map.handle_own(self.own.clone());
        self.seq = self.seq.saturating_add(1);
        let own = Position { seq: self.seq, locator: self.own.clone() };
        self.sessions.handle_own(own.clone(), entropy, now);
        self.lookup.handle_own(own, entropy, now);
        self.settle(entropy, now);
    }

    /// A peer is up, or its coordinates have changed.
    pub fn handle_peer(&mut self, node: NodeId, locator: Locator, entropy: &mut dyn Entropy, now: Instant) {
        let seq = self.sessions.place_seq(&node).unwrap_or_default();
        let position = Position { seq, locator };
        self.sessions.handle_place(&node, position.clone(), entropy, now);
        self.lookup.handle_peer(node, position, entropy, now);
        self.settle(entropy, now);
    }

    /// This node has come to another network: what was looked for in vain may be there. `guides` are nodes that may belong to
    /// it.
    pub fn handle_joined(
        &mut self,
        guides: Vec<(NodeId, Position)>,
        entropy: &mut dyn Entropy,
        now: Instant,
    ) {
        self.lookup.handle_joined(guides, entropy, now);
        self.settle(entropy, now);
    }

    /// A peer is gone.
    pub fn handle_peer_lost(&mut self, node: NodeId, entropy: &mut dyn Entropy, now: Instant) {
        self.lookup.handle_peer_lost(&node);
        self.sessions.handle_link_lost(&node.sid());
        self.map.handle_link_lost(&node.sid());
        self.settle(entropy, now);
    }

    /// A NOTICE about one of our packets has come; `tail` is the last 8 bytes of the packet's body.
    pub fn handle_notice(
        &mut self,
        setback: Setback,
        tail: [u8; 8],
        entropy: &mut dyn Entropy,
        now: Instant,
    ) {
        let known = match setback {
            Setback::Lost => {
                self.lookup.handle_notice(&tail, entropy, now)
                    || self.map.handle_notice(&tail, self.sessions.blame(), entropy, now)
                    || self.sessions.handle_notice(false, &tail, entropy, now)
            }
            Setback::NoSession => self.sessions.handle_notice(true, &tail, entropy, now),
            Setback::TooLarge(size) => self.sessions.handle_too_large(&tail, size.into(), entropy, now),
        };
        self.stats.notices_ignored += u64::from(!known);
        self.settle(entropy, now);
    }

    /// The deadline has come. Harmless at any other time.
    pub fn handle_timeout(&mut self, entropy: &mut dyn Entropy, now: Instant) {
        self.sessions.handle_timeout(entropy, now);
        self.lookup.handle_timeout(entropy, now);
        self.map.handle_timeout(self.sessions.blame(), entropy, now);
        self.settle(entropy, now);
    }

    /// The next packet to send. O(1).
    pub fn poll_packet(&mut self) -> Option<Outbound> {
        let packet = self.sessions.poll_packet().or_else(|| self.lookup.poll_packet());
        packet.or_else(|| self.map.poll_packet())
    }

    /// The next event. O(1).
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When [`Self::handle_timeout`] wants to be called. O(1).
    pub fn poll_timeout(&self) -> Option<Instant> {
        let parts = [self.sessions.poll_timeout(), self.lookup.poll_timeout(), self.map.poll_timeout()];
        parts.into_iter().flatten().min()
    }

    /// Above all counters used so far; to be stored before the next start.
    pub fn persisted(&self) -> u64 {
        self.seq.max(self.sessions.counter())
    }

    /// All sessions that stand.
    pub fn sessions(&self) -> Vec<SessionInfo> {
        self.sessions.infos(self.now)
    }

    /// Records kept for others.
    pub fn records(&self) -> usize {
        self.lookup.records()
    }

    /// How many nodes have confirmed that they keep this node's locator record.
    pub fn keepers(&self) -> usize {
        self.lookup.keepers()
    }

    /// Where packets to a node go now, if it is talked to.
    pub fn locator(&self, node: &NodeId) -> Option<Locator> {
        self.sessions.place(node).map(|place| place.locator.clone())
    }

    /// The node with that address, if there is a session with it. O(1).
    pub fn by_address(&self, address: &Ipv6Addr) -> Option<NodeId> {
        self.sessions.by_address(address)
    }

    /// Largest payloads that all known ways to the node take, and the broadest of them; `None` before there are any.
    pub fn mtu(&self, node: &NodeId) -> Option<(usize, usize)> {
        self.sessions.mtu(node)
    }

    /// The ways to a node: the trees first, then source routes; empty without a session.
    pub fn routes(&self, node: &NodeId) -> Vec<RouteInfo> {
        self.sessions.routes(node)
    }

    /// Counters since the start.
    pub fn stats(&self) -> EndpointStats {
        let (sessions, lookup, map) = (self.sessions.stats(), self.lookup.stats(), self.map.stats());
        EndpointStats { sessions, lookup, map, ..self.stats }
    }

    fn send(
        &mut self,
        to: NodeId,
        channel: Channel,
        payload: Bytes,
        entropy: &mut dyn Entropy,
        now: Instant,
    ) {
        if payload.len() > sealed::PAYLOAD_MAX {
            self.stats.dropped_address += 1;
        } else if to == self.me {
            self.deliver(to, channel, payload);
        } else {
            self.sessions.send(to, channel as u8, payload, entropy, now);
        }
    }

    fn deliver(&mut self, from: NodeId, channel: Channel, payload: Bytes) {
        self.events.push_back(Event::Received { from, channel, payload });
    }

    /// Lets something wait until the query is answered.
    fn wait(&mut self, query: Query, waiter: Waiter, entropy: &mut dyn Entropy, now: Instant) {
        let waiters = self.waiters.entry(query).or_default();
        if waiters.len() >= WAITERS_MAX {
            // The oldest packet goes; who asked by command is never left without an answer.
            let oldest = waiters.iter().position(|waiter| matches!(waiter, Waiter::Packet(_)));
            let refused = match oldest {
                Some(at) => {
                    let oldest = waiters.remove(at);
                    waiters.push(waiter);
                    oldest
                }
                None => waiter,
            };
            self.refuse(refused, Unreachable::Busy, entropy, now);
        } else {
            waiters.push(waiter);
        }
        self.lookup.find(query, entropy, now);
    }

    /// Passes on what sessions and lookup have to say to each other and to the application, until both are quiet.
    fn settle(&mut self, entropy: &mut dyn Entropy, now: Instant) {
        self.now = now;
        loop {
            if let Some(event) = self.sessions.poll_event() {
                self.on_session(event, entropy, now);
            } else if let Some(event) = self.lookup.poll_event() {
                self.on_lookup(event, entropy, now);
            } else if let Some((node, links)) = self.map.poll_found() {
                self.sessions.handle_links(&node, &links, entropy, now);
            } else {
                return;
            }
        }
    }

    fn on_session(&mut self, event: SessionEvent, entropy: &mut dyn Entropy, now: Instant) {
        match event {
            SessionEvent::Wanted { node } => {
                let waiting = self.waiters.get(&Query::node(&node));
                if waiting.is_some_and(|waiting| waiting.iter().any(|one| matches!(one, Waiter::Session(_))))
                {
                    return;
                }
                self.wait(Query::node(&node), Waiter::Session(node), entropy, now);
            }
            SessionEvent::Unanswered { node } => {
                let seq = self.sessions.place_seq(&node).unwrap_or_default();
                self.lookup.find_newer(&node, seq, entropy, now);
            }
            SessionEvent::Located { node, place } => {
                self.lookup.handle_correspondent(node, place, entropy, now);
            }
            SessionEvent::Probed { from, token, beyond } => {
                if self.probed.len() < PROBED_MAX {
                    self.probed.push_back((from, token, beyond));
                }
            }
            SessionEvent::Cornered { node } => {
                if let Some(locator) = self.locator(&node) {
                    self.map.want(node, locator, self.sessions.blame(), entropy, now);
                }
            }
            SessionEvent::Doubt(doubt) => {
                if self.doubts.len() < DOUBTS_MAX && !self.doubts.contains(&doubt) {
                    self.doubts.push_back(doubt);
                }
            }
            SessionEvent::Moved { node } => self.events.push_back(Event::PathChanged { node }),
            SessionEvent::Mtu { node } => self.events.push_back(Event::MtuChanged { node }),
            SessionEvent::Received { from, channel, payload } => {
                let channel = if channel == sealed::channel::IP { Channel::Ip } else { Channel::Stream };
                self.deliver(from, channel, payload);
            }
            SessionEvent::Up { node } => self.events.push_back(Event::SessionUp { node }),
            SessionEvent::Down { node } => self.events.push_back(Event::SessionDown { node }),
            SessionEvent::Unreachable { node, .. } => self.events.push_back(Event::Unreachable { to: node }),
            SessionEvent::Traced { id, hops } => self.events.push_back(Event::Traced { id, hops }),
            SessionEvent::Pong { id, result } => self.events.push_back(Event::Pong { id, result }),
        }
    }

    fn on_lookup(&mut self, event: LookupEvent, entropy: &mut dyn Entropy, now: Instant) {
        match event {
            LookupEvent::Found { query, node, position } => {
                self.sessions.handle_place(&node, position, entropy, now);
                for waiter in self.waiters.remove(&query).unwrap_or_default() {
                    match waiter {
                        Waiter::Session(_) => {}
                        Waiter::Packet(payload) => self.send(node, Channel::Ip, payload, entropy, now),
                        Waiter::Lookup(id) => {
                            self.events.push_back(Event::LookupDone { id, result: Ok(node) })
                        }
                        Waiter::Account { .. } => self.refuse(waiter, Unreachable::NotFound, entropy, now),
                    }
                }
            }
            LookupEvent::Accounts { query, records } => {
                for waiter in self.waiters.remove(&query).unwrap_or_default() {
                    if let Waiter::Account { id, acct } = waiter {
                        let mut records = records.clone();
                        if let Some(own) = self.lookup.own_account(&acct) {
                            records.retain(|record| record.node != own.node);
                            records.push(own);
                        }
                        self.events.push_back(Event::AccountFound { id, records });
                    }
                }
            }
            LookupEvent::Failed { query, reason } => {
                for waiter in self.waiters.remove(&query).unwrap_or_default() {
                    self.refuse(waiter, reason, entropy, now);
                }
            }
        }
    }

    fn refuse(&mut self, waiter: Waiter, reason: Unreachable, entropy: &mut dyn Entropy, now: Instant) {
        match waiter {
            Waiter::Session(node) => self.sessions.handle_lost(&node, reason, entropy, now),
            Waiter::Packet(_) => self.stats.dropped_parked += 1,
            Waiter::Lookup(id) => self.events.push_back(Event::LookupDone { id, result: Err(reason) }),
            Waiter::Account { id, acct } => {
                let records = self.lookup.own_account(&acct).into_iter().collect();
                self.events.push_back(Event::AccountFound { id, records });
            }
        }
    }
}

/// Answers that wait within one call of the router: one a packet.
const PROBED_MAX: usize = 64;
/// Doubts within one call of the router: a node has no more peers in use than that.
const DOUBTS_MAX: usize = 64;
/// What may wait for one lookup.
const WAITERS_MAX: usize = 64;

#[cfg(test)]
mod tests;
