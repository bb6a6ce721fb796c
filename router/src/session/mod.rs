//! Owns the sessions with other nodes: who is talked to, under which keys, and what waits for them.
//!
//! A session is begun by whoever has something to send: INIT, INIT_ACK, and both ends have keys ([`handshake`]); each
//! packet is sealed under them ([`cipher`]) and goes by the best of several ways ([`crate::route`]). [`state`] is one correspondent, [`intake`] the order in which strangers'
//! INITs are served, [`table`] who is kept when there are too many. Places of nodes come from outside:
//! [`SessionEvent::Wanted`] asks for one.
pub mod cipher;
pub mod handshake;
mod intake;
mod state;
mod table;
#[cfg(test)]
pub(crate) mod tests;
mod window;

use crate::audit::locate::Blame;
use crate::crypto::{Entropy, SecretKey, random};
use crate::error::Unreachable;
use crate::id::{NodeId, Port, Sid};
use crate::lookup::Position;
use crate::route::choose::RouteInfo;
use crate::route::view::{Neighbours, SeenLink};
use crate::router::SessionInfo;
use crate::time::{Duration, Instant};
use crate::wire::FrameError;
use crate::wire::body::init::{Cookie, Hint, Init, InitAck};
use crate::wire::body::{self, Destination, Inbound, List, Outbound};
use crate::wire::record::Span;
use bytes::Bytes;
use handshake::{Identity, Responder};
use intake::{Intake, Verdict};
use state::{Context, Session};
#[cfg(test)]
pub(crate) use state::{GIVE_UP, IDLE, OLD_KEYS, PARKED_MAX, REKEY_AFTER};
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::net::Ipv6Addr;
#[cfg(test)]
pub(crate) use table::HALF_OPEN_MAX;
use table::Table;

/// All sessions of one node.
pub struct Sessions {
    me: Identity,
    counter: u64,
    own: Position,
    table: Table,
    indexes: HashMap<u32, usize>,
    echoes: HashMap<[u8; 8], usize>,
    intake: Intake,
    timers: BTreeSet<(Instant, usize)>,
    /// Source routes are on.
    routes: bool,
    neighbours: Neighbours,
    epoch: u64,
    blame: Blame,
    out: VecDeque<Outbound>,
    events: VecDeque<SessionEvent>,
    stats: SessionStats,
}

/// What sessions tell.
#[derive(Clone, Debug)]
pub enum SessionEvent {
    /// There is something to send to the node, but its place is not known: find it and call
    /// [`Sessions::handle_place`] or [`Sessions::handle_lost`].
    Wanted {
        /// The node.
        node: NodeId,
    },
    /// Nothing comes back from the node: perhaps it has moved. Look for it afresh.
    Unanswered {
        /// The node.
        node: NodeId,
    },
    /// The node told where it is.
    Located {
        /// The node.
        node: NodeId,
        /// Its place.
        place: Position,
    },
    /// Packets to the node take another way than before.
    Moved {
        /// The node.
        node: NodeId,
    },
    /// Neither trees nor ways lead to the node, so it seems: the map is asked for others.
    Cornered {
        /// The node.
        node: NodeId,
    },
    /// Packets went out there and nothing came back: whoever is next on that way may have dropped them.
    Doubt(Doubt),
    /// The ways to the node take larger or smaller packets than before.
    Mtu {
        /// The node.
        node: NodeId,
    },
    /// A packet of the application.
    Received {
        /// Who sealed it.
        from: NodeId,
        /// [`body::sealed::channel::IP`] or [`body::sealed::channel::STREAM`].
        channel: u8,
        /// The packet.
        payload: Bytes,
    },
    /// A session stands.
    Up {
        /// The other end.
        node: NodeId,
    },
    /// A session is over.
    Down {
        /// The other end.
        node: NodeId,
    },
    /// What waited for the node was dropped.
    Unreachable {
        /// The node.
        node: NodeId,
        /// Why.
        reason: Unreachable,
    },
    /// Answer to [`Sessions::probe`].
    Probed {
        /// Who answers.
        from: NodeId,
        /// That of the probe.
        token: [u8; 8],
        /// Some ports of that node, encoded.
        beyond: Bytes,
    },
    /// Answer to [`Sessions::trace`].
    Traced {
        /// That of the trace.
        id: u64,
        /// Who is on the way, the node last, and the time there and back, of those that answered.
        hops: Vec<(Sid, Option<Duration>)>,
    },
    /// Answer to [`Sessions::ping`].
    Pong {
        /// That of the ping.
        id: u64,
        /// The way there and back.
        result: Result<Duration, Unreachable>,
    },
}

/// What fell silent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doubt {
    /// A way that begins at that port.
    Peer(Port),
    /// Packets to the node by these trees, one bit each.
    Trees(NodeId, u8),
}

/// How an audit's probe goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProbeWay {
    /// Along these ports, the first this node's own.
    Ports(Bytes),
    /// By the trees, but not by that peer first.
    Around(Port),
}

/// Counters of all sessions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SessionStats {
    /// Handshakes begun.
    pub handshakes: u64,
    /// INITs of others served.
    pub inits: u64,
    /// INITs with a counter that had been seen.
    pub inits_old: u64,
    /// INITs answered with a cookie.
    pub cookies: u64,
    /// INITs dropped because too many waited.
    pub inits_dropped: u64,
    /// Packets that came a second time.
    pub repeated: u64,
    /// Bodies that could not be read or opened.
    pub dropped_body: u64,
    /// Packets of ours that waited in vain.
    pub dropped_parked: u64,
    /// IPv6 packets whose source was not their sender's address.
    pub dropped_address: u64,
    /// Sessions ended to make room.
    pub evicted: u64,
}

/// Why something that came led nowhere. All but `NoSession` are only counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Not readable, or its seal does not hold.
    Bad,
    /// It came before.
    Repeated,
    /// It answers nothing that is still asked.
    Late,
    /// Sealed, but of a kind that this version does not know.
    Unknown,
    /// An IPv6 packet whose source is not the address of who sealed it.
    Address,
    /// Its receiver index is not in use.
    NoSession,
}

impl From<FrameError> for Refused {
    fn from(_: FrameError) -> Self {
        Self::Bad
    }
}

impl Sessions {
    /// No sessions yet. `counter` is below the counter of the first INIT.
    pub fn new(
        secret: &SecretKey,
        routes: bool,
        counter: u64,
        entropy: &mut dyn Entropy,
        now: Instant,
    ) -> Self {
        Self {
            me: Identity::new(secret),
            counter,
            own: Position::default(),
            table: Table::default(),
            indexes: HashMap::new(),
            echoes: HashMap::new(),
            intake: Intake::new(random(entropy), now),
            timers: BTreeSet::new(),
            routes,
            neighbours: Neighbours::new(),
            epoch: 0,
            blame: Blame::default(),
            out: VecDeque::new(),
            events: VecDeque::new(),
            stats: SessionStats::default(),
        }
    }

    /// Sends a packet, or lets it wait for a session.
    pub fn send(&mut self, to: NodeId, channel: u8, payload: Bytes, entropy: &mut dyn Entropy, now: Instant) {
        self.with(to, entropy, now, |session, ctx| session.send(channel, payload, ctx));
    }

    /// Measures the way to a node and back, with a payload of so many bytes at least: [`SessionEvent::Pong`].
    pub fn ping(&mut self, id: u64, to: NodeId, bytes: usize, entropy: &mut dyn Entropy, now: Instant) {
        self.with(to, entropy, now, |session, ctx| session.ping(id, bytes, ctx));
    }

    /// Begins a handshake with a node: along those ports, or wherever it is found. An audit does.
    pub fn meet(&mut self, node: NodeId, via: Option<Bytes>, entropy: &mut dyn Entropy, now: Instant) {
        self.with(node, entropy, now, |session, ctx| session.meet(via, ctx));
    }

    /// When a node was heard last whose packets can be sealed. O(1).
    pub fn heard_at(&self, node: &NodeId) -> Option<Instant> {
        self.table.get(self.table.find(node)?).heard_at()
    }

    /// Sends a probe through a session. Nothing without keys.
    pub fn probe(
        &mut self,
        node: &NodeId,
        token: [u8; 8],
        pad: usize,
        way: ProbeWay,
        entropy: &mut dyn Entropy,
        now: Instant,
    ) {
        let Some(slot) = self.table.find(node) else { return };
        let to = match way {
            ProbeWay::Ports(ports) => Some(Destination::Veiled(ports)),
            ProbeWay::Around(peer) => self.table.get(slot).around(peer),
        };
        if let Some(to) = to {
            self.at(slot, entropy, now, |session, ctx| session.audit(&token, pad, to, ctx));
        }
    }

    /// Asks each hop of the way to a node: [`SessionEvent::Traced`].
    pub fn trace(&mut self, id: u64, to: &NodeId, entropy: &mut dyn Entropy, now: Instant) {
        match self.table.find(to) {
            Some(slot) => self.at(slot, entropy, now, |session, ctx| session.trace(id, ctx)),
            None => self.events.push_back(SessionEvent::Traced { id, hops: Vec::new() }),
        }
    }

    /// The node is there. Does nothing for a node that nobody talks to.
    pub fn handle_place(&mut self, node: &NodeId, place: Position, entropy: &mut dyn Entropy, now: Instant) {
        if let Some(slot) = self.table.find(node) {
            self.at(slot, entropy, now, |session, ctx| session.handle_place(place, ctx));
        }
    }

    /// The node cannot be found.
    pub fn handle_lost(
        &mut self,
        node: &NodeId,
        reason: Unreachable,
        entropy: &mut dyn Entropy,
        now: Instant,
    ) {
        if let Some(slot) = self.table.find(node) {
            self.at(slot, entropy, now, |session, ctx| session.handle_lost(reason, ctx));
        }
    }

    /// This node has moved. O(sessions).
    pub fn handle_own(&mut self, own: Position, entropy: &mut dyn Entropy, now: Instant) {
        self.own = own;
        for slot in self.table.slots() {
            self.at(slot, entropy, now, |session, ctx| session.handle_own_move(ctx));
        }
    }

    /// A packet for this node of kind DATA, INIT, INIT_ACK, COOKIE or HINT.
    pub fn handle_packet(
        &mut self,
        packet: &Inbound<'_>,
        entropy: &mut dyn Entropy,
        now: Instant,
    ) -> Result<(), Refused> {
        let result = self.dispatch(packet, entropy, now);
        match result {
            Err(Refused::Bad) => self.stats.dropped_body += 1,
            Err(Refused::Repeated) => self.stats.repeated += 1,
            Err(Refused::Address) => self.stats.dropped_address += 1,
            _ => {}
        }
        result
    }

    /// A packet on its way that has the receiver index of a session. What does not open is somebody else's: not counted.
    pub fn handle_passing(
        &mut self,
        packet: &Inbound<'_>,
        entropy: &mut dyn Entropy,
        now: Instant,
    ) -> Result<(), Refused> {
        self.dispatch(packet, entropy, now)
    }

    /// A packet of ours, named by its last 8 bytes, did not arrive, or did not find its session at the other end.
    /// False if it was none of ours. O(sessions).
    pub fn handle_notice(
        &mut self,
        no_session: bool,
        tail: &[u8; 8],
        entropy: &mut dyn Entropy,
        now: Instant,
    ) -> bool {
        let Some(slot) = self.table.slots().find(|&slot| self.table.get(slot).sent_recently(tail)) else {
            return false;
        };
        self.at(slot, entropy, now, |session, ctx| session.handle_setback(no_session, tail, ctx));
        true
    }

    /// A packet of ours, named by its last 8 bytes, was too large for its way; a body of that size would have passed.
    /// False if it was none of ours. O(sessions).
    pub fn handle_too_large(
        &mut self,
        tail: &[u8; 8],
        body: usize,
        entropy: &mut dyn Entropy,
        now: Instant,
    ) -> bool {
        let Some(slot) = self.table.slots().find(|&slot| self.table.get(slot).sent_recently(tail)) else {
            return false;
        };
        self.at(slot, entropy, now, |session, ctx| session.handle_too_large(tail, body, ctx));
        true
    }

    /// A peer's link is this one now.
    pub fn handle_link(&mut self, sid: Sid, port: Port, span: Span) {
        if self.neighbours.insert(sid, (port, span)) != Some((port, span)) {
            self.epoch += 1;
        }
    }

    /// A peer is gone.
    pub fn handle_link_lost(&mut self, sid: &Sid) {
        if self.neighbours.remove(sid).is_some() {
            self.epoch += 1;
        }
    }

    /// The map has found links that may lead to the node.
    pub fn handle_links(
        &mut self,
        node: &NodeId,
        links: &[SeenLink],
        entropy: &mut dyn Entropy,
        now: Instant,
    ) {
        if let Some(slot) = self.table.find(node) {
            self.at(slot, entropy, now, |session, ctx| session.handle_links(links, ctx));
        }
    }

    /// What is suspected of links.
    pub fn blame(&self) -> &Blame {
        &self.blame
    }

    /// Is that the receiver index of a session? O(1).
    pub fn has_index(&self, index: u32) -> bool {
        self.indexes.contains_key(&index)
    }

    /// Largest payloads that all known ways to the node take, and the broadest of them; `None` before there are any.
    pub fn mtu(&self, node: &NodeId) -> Option<(usize, usize)> {
        self.table.get(self.table.find(node)?).mtu()
    }

    /// The ways to the node, if there is a session: the trees first, then source routes.
    pub fn routes(&self, node: &NodeId) -> Vec<RouteInfo> {
        self.table.find(node).map_or(Vec::new(), |slot| self.table.get(slot).routes())
    }

    /// The node with that address, if there is a session with it. O(1).
    pub fn by_address(&self, address: &Ipv6Addr) -> Option<NodeId> {
        Some(self.table.get(self.table.find_address(&address.octets())?).node)
    }

    /// The seq of the node's place, as far as its session knows.
    pub fn place_seq(&self, node: &NodeId) -> Option<u64> {
        Some(self.table.get(self.table.find(node)?).place.as_ref()?.seq)
    }

    /// Where packets to the node go, if there is a session.
    pub fn place(&self, node: &NodeId) -> Option<&Position> {
        self.table.get(self.table.find(node)?).place.as_ref()
    }

    /// Does all that is due. O(what is due).
    pub fn handle_timeout(&mut self, entropy: &mut dyn Entropy, now: Instant) {
        while let Some(waiting) = self.intake.next(now) {
            if let Ok(init) = Init::decode(&waiting.body) {
                self.serve(&init, waiting.way, Bytes::new(), entropy, now);
            }
        }
        while let Some(&(at, slot)) = self.timers.first()
            && at <= now
        {
            self.timers.pop_first();
            self.table.disarm(slot);
            let due = self.table.get(slot).deadline(&self.own) <= now;
            self.at(slot, entropy, now, |session, ctx| {
                if due {
                    session.handle_timeout(ctx);
                }
            });
        }
    }

    /// The next packet to send. O(1).
    pub fn poll_packet(&mut self) -> Option<Outbound> {
        self.out.pop_front()
    }

    /// The next event. O(1).
    pub fn poll_event(&mut self) -> Option<SessionEvent> {
        self.events.pop_front()
    }

    /// When [`Self::handle_timeout`] is wanted. O(1).
    pub fn poll_timeout(&self) -> Option<Instant> {
        let timer = self.timers.first().map(|&(at, _)| at);
        [timer, self.intake.deadline()].into_iter().flatten().min()
    }

    /// The highest counter given to an INIT.
    pub fn counter(&self) -> u64 {
        self.counter
    }

    /// All sessions that stand.
    pub fn infos(&self, now: Instant) -> Vec<SessionInfo> {
        self.table.slots().filter_map(|slot| self.table.get(slot).info(now)).collect()
    }

    /// Counters since the start.
    pub fn stats(&self) -> SessionStats {
        self.stats
    }

    /// Does a session with the node stand?
    pub fn is_up(&self, node: &NodeId) -> bool {
        self.table.find(node).is_some_and(|slot| self.table.get(slot).is_up())
    }

    fn dispatch(
        &mut self,
        packet: &Inbound<'_>,
        entropy: &mut dyn Entropy,
        now: Instant,
    ) -> Result<(), Refused> {
        let inbound = packet;
        let &Inbound { ingress, way, index, body: packet, .. } = packet;
        match *packet.first().ok_or(Refused::Bad)? {
            body::DATA => {
                let slot = *self.indexes.get(&index).ok_or(Refused::NoSession)?;
                self.at(slot, entropy, now, |session, ctx| session.handle_data(index, inbound, ctx))
            }
            body::INIT => {
                let init = Init::decode(packet)?;
                match self.intake.offer(ingress, way, &init, packet, now) {
                    Verdict::Serve => {
                        let mut hops = Vec::new();
                        if let (List::Record(record), true) = (&inbound.list, self.routes) {
                            record.encode(None, &mut hops);
                        }
                        self.serve(&init, Bytes::copy_from_slice(way), hops.into(), entropy, now);
                    }
                    Verdict::Queued => {}
                    Verdict::Full => self.stats.inits_dropped += 1,
                    Verdict::Demand(cookie) => {
                        self.stats.cookies += 1;
                        let mut answer = Vec::with_capacity(32);
                        Cookie { echo: handshake::echo(&init.ephemeral), cookie }.encode(&mut answer);
                        self.out.push_back(Outbound::back(&Bytes::copy_from_slice(way), 0, &answer));
                    }
                }
                Ok(())
            }
            body::INIT_ACK => {
                let ack = InitAck::decode(packet)?;
                let slot = *self.indexes.get(&index).ok_or(Refused::Late)?;
                self.at(slot, entropy, now, |session, ctx| session.handle_ack(index, &ack, inbound, ctx))
            }
            body::COOKIE => {
                let Cookie { echo, cookie } = Cookie::decode(packet)?;
                let slot = *self.echoes.get(&echo).ok_or(Refused::Late)?;
                self.at(slot, entropy, now, |session, ctx| session.handle_cookie(&cookie, ctx))
            }
            body::HINT => {
                let hint = Hint::decode(packet)?;
                let slot = *self.echoes.get(&hint.echo).ok_or(Refused::Late)?;
                self.at(slot, entropy, now, |session, ctx| session.handle_hint(&hint, ctx))
            }
            _ => Err(Refused::Unknown),
        }
    }

    fn serve(&mut self, init: &Init<'_>, way: Bytes, hops: Bytes, entropy: &mut dyn Entropy, now: Instant) {
        self.stats.inits += 1;
        match Responder::open(&self.me, init) {
            Ok(responder) if responder.peer != self.me.id() => {
                let ephemeral = init.ephemeral;
                let peer = responder.peer;
                self.with(peer, entropy, now, |session, ctx| {
                    session.handle_init(responder, ephemeral, way, hops, ctx)
                });
            }
            _ => self.stats.dropped_body += 1,
        }
    }

    /// Does something with the session of that node, which is made if there is none.
    fn with<T>(
        &mut self,
        node: NodeId,
        entropy: &mut dyn Entropy,
        now: Instant,
        act: impl FnOnce(&mut Session, &mut Context<'_>) -> T,
    ) -> T {
        let slot = match self.table.find(&node) {
            Some(slot) => slot,
            None => {
                while let Some(victim) = self.table.victim() {
                    self.stats.evicted += 1;
                    self.at(victim, entropy, now, |session, ctx| session.end(ctx));
                }
                self.table.insert(Session::new(self.me.id().sid(), node, self.routes, now))
            }
        };
        self.at(slot, entropy, now, act)
    }

    /// Does something with a session, then sees to its timer and its end.
    fn at<T>(
        &mut self,
        slot: usize,
        entropy: &mut dyn Entropy,
        now: Instant,
        act: impl FnOnce(&mut Session, &mut Context<'_>) -> T,
    ) -> T {
        let mut ctx = Context {
            me: &self.me,
            counter: &mut self.counter,
            own: &self.own,
            indexes: &mut self.indexes,
            echoes: &mut self.echoes,
            slot,
            out: &mut self.out,
            events: &mut self.events,
            stats: &mut self.stats,
            entropy,
            neighbours: self.routes.then_some(&self.neighbours),
            epoch: self.epoch,
            blame: &mut self.blame,
            now,
        };
        let session = self.table.get_mut(slot);
        let result = act(session, &mut ctx);
        if session.over {
            if let Some(armed) = self.table.remove(slot) {
                self.timers.remove(&(armed, slot));
            }
        } else {
            // What is already due gets another turn, but only after time has moved: no call can loop.
            let at = session.deadline(&self.own).max(now + TICK);
            if let Some(replaced) = self.table.arm(slot, at) {
                replaced.map(|replaced| self.timers.remove(&(replaced, slot)));
                self.timers.insert((at, slot));
            }
        }
        result
    }
}

/// Timers fire at least so far apart.
const TICK: Duration = Duration::from_millis(1);
