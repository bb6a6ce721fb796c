//! Owns the `Router`: frames, commands and time in; frames, events and a deadline out. It owns the parts and dispatches,
//! no protocol of its own.
mod api;
mod audits;
mod links;
mod meeting;
mod packets;

pub use api::{Channel, Command, Event, PeerInfo, SelfInfo, SessionInfo, TreeInfoView};

use crate::audit::Audit;
use crate::config::{Boot, Config, H_MAX, LinkSpec, MTU_MIN};
use crate::crypto::{Entropy, SecretKey};
use crate::endpoint::Endpoint;
use crate::error::LinkError;
use crate::forward;
use crate::id::{LinkId, NodeId, Port, Sid};
use crate::peer::PeerTable;
use crate::peer::link::Link;
use crate::rate::Rate;
use crate::route::choose::RouteInfo;
use crate::stats::Stats;
use crate::time::Instant;
use crate::timer::{Timer, TimerTable};
use crate::tree::Trees;
use crate::tree::tenure::RootTimes;
use crate::vicinity::Vicinity;
use bytes::{Bytes, BytesMut};
use std::collections::{BTreeMap, VecDeque};
use std::net::Ipv6Addr;

/// The one deterministic state machine of a node. After every `handle_*` the driver drains `poll_event`, `poll_link`
/// and `poll_transmit`, then waits for bytes, a command or the deadline of `poll_timeout`.
pub struct Router {
    secret: SecretKey,
    sid: Sid,
    config: Config,
    entropy: Box<dyn Entropy>,
    links: BTreeMap<LinkId, Box<Link>>,
    peers: PeerTable,
    trees: Trees,
    table: forward::Table,
    endpoint: Endpoint,
    audit: Audit,
    vicinity: Vicinity,
    timers: TimerTable,
    events: VecDeque<Event>,
    /// Links with frames to send that were not reported yet.
    ready: VecDeque<LinkId>,
    stats: Stats,
    /// Frames that are passed on are written here, one behind the other: one allocation serves many.
    arena: BytesMut,
    destination: forward::Destination,
    choices: forward::Memory,
    /// Where the packets of this node go.
    aim: packets::Aim,
    /// The header of the packet at hand.
    head: Vec<u8>,
    /// The way back of the packet at hand.
    way: Vec<u8>,
    /// Notices that each peer's packets may still cause.
    notices: BTreeMap<Port, Rate>,
    /// Has this node come to another network?
    meeting: meeting::Meeting,
    /// Something came that may concern the trees, or the endpoint.
    trees_touched: bool,
    endpoint_touched: bool,
    audit_touched: bool,
    /// Of the latest call, for views.
    now: Instant,
}

impl Router {
    /// A node on its own: no links yet.
    pub fn new(
        secret: SecretKey,
        config: Config,
        boot: Boot,
        mut entropy: Box<dyn Entropy>,
        now: Instant,
    ) -> Self {
        let secret = secret.with_stand_in(config.checked.clone());
        let mut trees =
            Trees::new(secret.clone(), config.class, config.trees, &boot, config.checked.clone(), now);
        let endpoint = Endpoint::new(secret.clone(), &config, boot.counter, &mut *entropy, now);
        let audit = Audit::new(&secret, &config);
        trees.set_prove(config.audit);
        let seq = u32::try_from(boot.counter / 1000).unwrap_or(u32::MAX);
        let vicinity = Vicinity::new(secret.id().sid(), config.vicinity, seq, now);
        let mut router = Self {
            sid: secret.id().sid(),
            secret,
            config,
            entropy,
            links: BTreeMap::new(),
            peers: PeerTable::default(),
            trees,
            table: forward::Table::default(),
            endpoint,
            audit,
            vicinity,
            timers: TimerTable::default(),
            events: VecDeque::new(),
            ready: VecDeque::new(),
            stats: Stats::default(),
            arena: BytesMut::new(),
            destination: forward::Destination::default(),
            choices: forward::Memory::default(),
            aim: packets::Aim::default(),
            head: Vec::new(),
            way: Vec::new(),
            notices: BTreeMap::new(),
            meeting: meeting::Meeting::default(),
            trees_touched: true,
            endpoint_touched: true,
            audit_touched: false,
            now,
        };
        router.settle(now);
        router
    }

    /// A connection exists; the link handshake runs inside the router.
    pub fn handle_link(&mut self, link: LinkId, spec: LinkSpec, now: Instant) {
        self.open_link(link, spec, now);
        self.settle(now);
    }

    /// One whole frame came from the link (the driver takes the length prefix off).
    pub fn handle_frame(&mut self, link: LinkId, frame: &[u8], now: Instant) {
        self.stats.frames_in += 1;
        self.stats.bytes_in += frame.len() as u64;
        self.on_frame(link, frame, now);
        self.settle(now);
    }

    /// The connection is gone.
    pub fn handle_link_lost(&mut self, link: LinkId, now: Instant) {
        self.drop_link(link, now);
        self.settle(now);
    }

    /// The application wants something.
    pub fn handle_command(&mut self, command: Command, now: Instant) {
        match command {
            Command::CloseLink { link } => self.close_link(link, LinkError::Requested, now),
            command => {
                self.endpoint.handle_command(command, &mut *self.entropy, now);
                self.endpoint_touched = true;
            }
        }
        self.settle(now);
    }

    /// The deadline of [`Self::poll_timeout`] has come. Harmless at any other time.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(timer) = self.timers.expired(now) {
            match timer {
                Timer::Link(link) => self.on_link_timeout(link, now),
                Timer::Trees => {
                    self.trees.handle_timeout(now);
                    self.trees_touched = true;
                }
                Timer::Announce => self.trees_touched = true,
                Timer::Generations => self.expire_generations(now),
                Timer::Meeting => {
                    if self.meeting.take(now) {
                        let guides = self.guides();
                        self.endpoint.handle_joined(guides, &mut *self.entropy, now);
                        self.endpoint_touched = true;
                        self.events.push_back(Event::Joined);
                    }
                }
                Timer::Audit => self.on_audit_timeout(now),
                Timer::Vicinity => {
                    for (port, control) in self.vicinity.handle_timeout(now) {
                        self.send_control(port, &control, now);
                    }
                    self.arm_vicinity();
                }
                Timer::Endpoint => {
                    self.endpoint.handle_timeout(&mut *self.entropy, now);
                    self.endpoint_touched = true;
                }
            }
        }
        self.settle(now);
    }

    /// A link that has frames to send and was not reported since it ran empty. O(1).
    pub fn poll_link(&mut self) -> Option<LinkId> {
        self.ready.pop_front()
    }

    /// The next frame of that link's egress queue; `None` when it is empty. O(1) but for packets that waited too long,
    /// each of which is dropped once.
    pub fn poll_transmit(&mut self, link: LinkId, now: Instant) -> Option<Bytes> {
        self.next_frame(link, now)
    }

    /// The next event. O(1).
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front().or_else(|| self.endpoint.poll_event())
    }

    /// When [`Self::handle_timeout`] wants to be called. O(log n).
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// Counters since the start.
    pub fn stats(&self) -> Stats {
        let ends = self.endpoint.stats();
        let audits = self.audit.stats();
        Stats {
            dropped_body: ends.dropped_body
                + ends.sessions.dropped_body
                + ends.lookup.dropped_body
                + ends.map.dropped_body,
            dropped_parked: ends.dropped_parked + ends.sessions.dropped_parked,
            dropped_address: ends.dropped_address + ends.sessions.dropped_address,
            dropped_repeated: ends.sessions.repeated,
            notices_ignored: ends.notices_ignored,
            audit_probes: audits.probes,
            audit_answers: audits.answered,
            audit_suspected: audits.suspected,
            audit_places_void: audits.places_void,
            map_searches: ends.map.searches,
            map_found: ends.map.found,
            map_questions: ends.map.questions,
            map_answers: ends.map.answers,
            session_handshakes: ends.sessions.handshakes,
            session_cookies: ends.sessions.cookies,
            lookups: ends.lookup.lookups,
            lookups_failed: ends.lookup.lookups_failed,
            lookup_questions: ends.lookup.questions,
            records_stored: ends.lookup.stored,
            records_refused: ends.lookup.refused,
            signatures_checked: self.stats.signatures_checked + ends.lookup.signatures_checked,
            ..self.stats
        }
    }

    /// This node's key.
    pub fn id(&self) -> NodeId {
        self.secret.id()
    }

    /// Largest payload of [`Command::Send`] that the known ways to the node take; never below 1280. More is said only once
    /// there are source routes: the trees' links change under way.
    pub fn mtu(&self, to: &NodeId) -> usize {
        self.endpoint.mtu(to).map_or_else(|| self.mtu_direct(to), |mtu| mtu.0)
    }

    /// Largest payload that the broadest of these ways takes: it is sent by that one.
    pub fn mtu_max(&self, to: &NodeId) -> usize {
        self.endpoint.mtu(to).map_or_else(|| self.mtu_direct(to), |mtu| mtu.1)
    }

    /// The node with that address, if there is a session with it. O(1).
    pub fn by_address(&self, address: &Ipv6Addr) -> Option<NodeId> {
        self.endpoint.by_address(address)
    }

    /// Before there is a session a peer's link is the way.
    fn mtu_direct(&self, to: &NodeId) -> usize {
        let link = self.peers.by_node(to).and_then(|peer| self.links.get(&peer.active));
        link.map_or(MTU_MIN, |link| link.span().frame_max().saturating_sub(H_MAX).max(MTU_MIN))
    }

    /// The ways to a node, as `ctl routes` shows them: the trees first, then source routes. Empty without a session.
    pub fn routes(&self, to: &NodeId) -> Vec<RouteInfo> {
        self.endpoint.routes(to)
    }

    /// What to store so that the next start's [`Boot`] is above all that was used: a bound, so that it need be
    /// stored only when it changes.
    pub fn persisted(&self) -> u64 {
        let used = self.trees.counter().max(self.endpoint.persisted());
        (used | COUNTER_STEP).saturating_add(1)
    }

    /// How long which roots were followed, for the next start's [`Boot`]. O(trees).
    pub fn root_times(&self) -> RootTimes {
        self.trees.root_times(self.now)
    }

    /// The node itself.
    pub fn self_info(&self) -> SelfInfo {
        SelfInfo {
            id: self.id(),
            address: self.id().address(),
            peers: self.peers.len(),
            sessions: self.endpoint.sessions().len(),
            records: self.endpoint.records(),
        }
    }

    /// All links.
    pub fn peers(&self) -> Vec<PeerInfo> {
        self.peer_infos(self.now)
    }

    /// The node's place in each tree.
    pub fn trees(&self) -> Vec<TreeInfoView> {
        let view = |tree| {
            let (parent, cost) = self.trees.parent(tree);
            let coords = self.trees.coords(tree);
            TreeInfoView {
                tree: tree as u8,
                root: self.trees.root(tree),
                root_sid: coords.root,
                parent,
                coords: coords.hops.iter().map(|hop| (hop.port, hop.cost)).collect(),
                cost,
            }
        };
        (0..self.trees.len()).map(view).collect()
    }

    /// The root of a tree as this node sees it, without a copy of the whole place.
    pub fn root(&self, tree: usize) -> Option<NodeId> {
        (tree < self.trees.len()).then(|| self.trees.root(tree))
    }

    /// Parent and coordinates in a tree, without a copy.
    pub fn place(&self, tree: usize) -> Option<(Option<NodeId>, &crate::lookup::Coords)> {
        (tree < self.trees.len()).then(|| (self.trees.parent(tree).0, self.trees.coords(tree)))
    }

    /// Number of trees.
    pub const fn tree_count(&self) -> usize {
        self.trees.len()
    }

    /// Bytes of memory of the tables of trees and forwarding, by the sizes of their parts.
    pub fn table_bytes(&self) -> usize {
        self.trees.bytes() + self.table.bytes()
    }

    /// Nodes in sight, which are reached without the trees.
    pub fn in_sight(&self) -> usize {
        self.vicinity.len()
    }

    /// Nodes of which something is known in any tree.
    pub fn known(&self) -> usize {
        self.trees.known()
    }

    /// All sessions.
    pub fn sessions(&self) -> Vec<SessionInfo> {
        self.endpoint.sessions()
    }

    /// Carries what the parts have for each other and for the links until nobody has anything left.
    fn settle(&mut self, now: Instant) {
        self.now = now;
        // A packet of ours that cannot go anywhere comes back as a notice, which may make the endpoint try again:
        // bounded, whatever it does.
        for _ in 0..SETTLE_ROUNDS_MAX {
            if std::mem::take(&mut self.trees_touched) {
                self.settle_trees(now);
            } else if std::mem::take(&mut self.audit_touched) {
                self.settle_audit(now);
            } else if std::mem::take(&mut self.endpoint_touched) {
                self.settle_endpoint(now);
            } else {
                break;
            }
        }
    }
}

/// The stored counter moves in steps, so that it need not be written at every change.
const COUNTER_STEP: u64 = (1 << 12) - 1;
/// Trees, endpoint, and what follows from both.
const SETTLE_ROUNDS_MAX: usize = 64;
