//! Owns one correspondent: the keys shared with it, the handshakes under way, what waits for them.
//!
//! ```text
//!            send()            INIT_ACK                 a packet under the keys
//!   nothing ───────> attempt ───────────> current <──────────────────────────── waiting <── INIT
//!                       └ no answer: gone    │ newer keys, or those of the lesser initiator
//!                                            └───────> old (opens for 60 s more)
//! ```
//!
//! [`keys`] has the handshakes, [`data`] the packets, [`ways`] the source routes that they take, [`probes`] what audits do.
mod data;
mod keys;
mod probes;
mod trace;
mod ways;

use super::cipher::{Indexes, Keys};
use super::handshake::{Identity, Initiator};
use super::{SessionEvent, SessionStats};
use crate::audit::locate::Blame;
use crate::crypto::{Entropy, random};
use crate::error::Unreachable;
use crate::id::{NodeId, Sid};
use crate::lookup::Position;
use crate::route::choose::Routes;
use crate::route::feedback::{ACK_AFTER, ACK_SELDOM, Feedback};
use crate::route::gauge::Tails;
use crate::route::view::Neighbours;
use crate::time::{Duration, Instant};
use crate::wire::body::sealed::{PAYLOAD_MAX, channel};
use crate::wire::body::{Destination, Outbound};
use bytes::Bytes;
use std::collections::{HashMap, VecDeque};

/// What a session shares with the others of its node, for the length of one call.
pub(in crate::session) struct Context<'a> {
    pub(in crate::session) me: &'a Identity,
    /// Highest counter given to an INIT.
    pub(in crate::session) counter: &'a mut u64,
    /// Where this node is.
    pub(in crate::session) own: &'a Position,
    /// Receiver indexes in use, and whose they are.
    pub(in crate::session) indexes: &'a mut HashMap<u32, usize>,
    /// Attempts under way, by what COOKIE and HINT name them with.
    pub(in crate::session) echoes: &'a mut HashMap<[u8; 8], usize>,
    pub(in crate::session) slot: usize,
    pub(in crate::session) out: &'a mut VecDeque<Outbound>,
    pub(in crate::session) events: &'a mut VecDeque<SessionEvent>,
    pub(in crate::session) stats: &'a mut SessionStats,
    pub(in crate::session) entropy: &'a mut dyn Entropy,
    /// `None`: everything goes by the trees.
    pub(in crate::session) neighbours: Option<&'a Neighbours>,
    pub(in crate::session) epoch: u64,
    pub(in crate::session) blame: &'a mut Blame,
    pub(in crate::session) now: Instant,
}

pub(in crate::session) struct Session {
    pub(in crate::session) node: NodeId,
    sid: Sid,
    /// The only source that its IPv6 packets may have.
    pub(in crate::session) address: [u8; 16],
    /// Where packets go; `None` until the lookup has found it.
    pub(in crate::session) place: Option<Position>,
    pub(in crate::session) current: Option<Keys>,
    waiting: Option<Waiting>,
    old: Vec<Old>,
    attempt: Option<Attempt>,
    heard: Option<Heard>,
    /// Lowest counter that the peer takes from us, told by a HINT.
    floor: u64,
    /// HINTs followed since keys were last agreed on.
    hints: u32,
    /// Something here wanted a session with the node; it was not only the node itself.
    pub(in crate::session) wanted: bool,
    parked: VecDeque<(u8, Bytes)>,
    parked_bytes: usize,
    pings: Vec<Ping>,
    trace: Option<Box<trace::Trace>>,
    /// The seq of our position that the peer has confirmed, and what was sent since.
    told: Told,
    /// The ways to the peer, the trees included.
    routes: Routes,
    /// What came by the peer's ways.
    feedback: Feedback,
    /// The ports that the peer's latest packet came by, and which of our indexes it bore.
    way: Vec<u8>,
    turn: u8,
    /// Of INITs and answers.
    tails: Tails,
    /// The latest packets of the application: those that are not answered go once more when their way has failed.
    kept: VecDeque<Kept>,
    up_since: Option<Instant>,
    /// Last sign of use: a packet of the application in either direction, or the beginning.
    pub(in crate::session) used_at: Instant,
    /// The last packet of the application or question of it, in either direction; audits alone need not know where this node is.
    talked_at: Option<Instant>,
    /// First packet of the application that was sent since anything was heard.
    owed_since: Option<Instant>,
    /// The peer has been found silent, and nothing was heard since.
    silent: bool,
    /// No new attempt before, after one that failed.
    attempt_after: Instant,
    /// No notice is heard before.
    setback_after: Instant,
    /// The attempt under way goes along these ports (an audit's).
    via: Option<Bytes>,
    /// The map has found ways: INIT goes by them too.
    mapped: bool,
    /// An audit wants keys, wherever the node is found.
    meeting: bool,
    heard_at: Option<Instant>,
    /// An audit needs the session until then.
    kept_until: Instant,
    rtt: Option<Duration>,
    bytes_in: u64,
    bytes_out: u64,
    /// Nothing here is worth keeping.
    pub(in crate::session) over: bool,
}

/// Keys that we answered an INIT with; the peer has not used them yet.
struct Waiting {
    keys: Keys,
    /// Of our position in the Ack.
    seq: u64,
    ack: Bytes,
    way: Bytes,
    /// The hops that INIT wrote down: the Ack brings them back.
    hops: Bytes,
    /// How often it went.
    said: u8,
    resent: u32,
    resend_at: Instant,
    ends_at: Instant,
}

impl Waiting {
    /// The Ack, once more: under another index each time, since somebody on the way may choose by that.
    fn again(&mut self) -> Outbound {
        let mut out = Outbound::back(&self.way, self.keys.remote.nth(self.said), &self.ack);
        self.said = self.said.wrapping_add(1);
        if !self.hops.is_empty() {
            out.to = Destination::Reply { way: self.way.clone(), record: self.hops.clone() };
        }
        out
    }
}

/// Keys that others have replaced; they only open.
struct Old {
    keys: Keys,
    ends_at: Instant,
}

/// An INIT of ours on its way.
struct Attempt {
    initiator: Initiator,
    body: Vec<u8>,
    indexes: Indexes,
    counter: u64,
    seq: u64,
    began_at: Instant,
    tries: u32,
    cookies: u32,
    next_at: Instant,
    /// Ways of the map that its latest repetition took.
    by_ways: Vec<u8>,
}

/// The newest INIT of the peer.
struct Heard {
    counter: u64,
    ephemeral: [u8; 32],
}

/// A packet, as it was sealed, that may have to go by another way. The other end's window takes it only once.
struct Kept {
    tail: [u8; 8],
    /// The drawn index of the keys that it is sealed under.
    index: u32,
    body: Vec<u8>,
    flow: usize,
    /// The way that it is numbered by, and the one that it took last.
    id: u8,
    via: u8,
    sent_at: Instant,
    tries: u8,
}

struct Ping {
    id: u64,
    token: [u8; 8],
    /// Of its payload, at least.
    bytes: usize,
    sent_at: Option<Instant>,
    tries: u32,
}

#[derive(Default)]
struct Told {
    confirmed: u64,
    sent: u64,
    sent_at: Instant,
    tries: u32,
}

impl Session {
    pub(in crate::session) fn new(me: Sid, node: NodeId, routes: bool, now: Instant) -> Self {
        Self {
            node,
            sid: node.sid(),
            address: node.address().octets(),
            place: None,
            current: None,
            waiting: None,
            old: Vec::new(),
            attempt: None,
            heard: None,
            floor: 0,
            hints: 0,
            wanted: false,
            parked: VecDeque::new(),
            parked_bytes: 0,
            pings: Vec::new(),
            trace: None,
            told: Told::default(),
            routes: Routes::new(me, node.sid()),
            feedback: Feedback::new(if routes { ACK_AFTER } else { ACK_SELDOM }),
            way: Vec::new(),
            turn: 0,
            tails: Tails::default(),
            kept: VecDeque::new(),
            up_since: None,
            used_at: now,
            talked_at: None,
            owed_since: None,
            silent: false,
            attempt_after: Instant::ZERO,
            setback_after: Instant::ZERO,
            via: None,
            mapped: false,
            meeting: false,
            heard_at: None,
            kept_until: Instant::ZERO,
            rtt: None,
            bytes_in: 0,
            bytes_out: 0,
            over: false,
        }
    }

    pub(in crate::session) fn info(&self, now: Instant) -> Option<crate::router::SessionInfo> {
        Some(crate::router::SessionInfo {
            node: self.node,
            rtt: self.rtt,
            up_for: now.since(self.up_since?),
            bytes_in: self.bytes_in,
            bytes_out: self.bytes_out,
        })
    }

    pub(in crate::session) fn is_up(&self) -> bool {
        self.up_since.is_some()
    }

    /// Is this only a stranger's INIT so far?
    pub(in crate::session) fn is_half_open(&self) -> bool {
        self.current.is_none() && !self.wanted
    }

    /// The application says something, or hears something.
    const fn talk(&mut self, now: Instant) {
        self.used_at = now;
        self.talked_at = Some(now);
    }

    /// Seals the packet, or lets it wait for keys and place.
    pub(in crate::session) fn send(&mut self, channel: u8, payload: Bytes, ctx: &mut Context<'_>) {
        self.wanted = true;
        self.talk(ctx.now);
        if self.can_send() {
            self.transmit(channel, payload, ctx);
            return;
        }
        self.parked_bytes += payload.len();
        self.parked.push_back((channel, payload));
        while self.parked.len() > PARKED_MAX || self.parked_bytes > PARKED_BYTES_MAX {
            let Some((_, dropped)) = self.parked.pop_front() else { break };
            self.parked_bytes -= dropped.len();
            ctx.stats.dropped_parked += 1;
        }
        self.strive(ctx);
    }

    /// Measures the way to the peer and back.
    pub(in crate::session) fn ping(&mut self, id: u64, bytes: usize, ctx: &mut Context<'_>) {
        self.wanted = true;
        self.talk(ctx.now);
        if self.pings.len() >= PINGS_MAX {
            ctx.events.push_back(SessionEvent::Pong { id, result: Err(Unreachable::Busy) });
            return;
        }
        let token = random(ctx.entropy);
        let bytes = bytes.min(PAYLOAD_MAX);
        self.pings.push(Ping { id, token, bytes, sent_at: None, tries: 0 });
        if self.can_send() {
            self.send_pings(ctx);
        } else {
            self.strive(ctx);
        }
    }

    /// The node is there. An older position than the known one changes nothing.
    pub(in crate::session) fn handle_place(&mut self, place: Position, ctx: &mut Context<'_>) {
        let newer = self.place.as_ref().is_none_or(|known| {
            place.seq > known.seq || place.seq == known.seq && place.locator != known.locator
        });
        if newer {
            let moved = self.place.is_some() && self.is_up();
            self.place = Some(place);
            if moved {
                self.on_moved(ctx);
            }
            self.send_init(ctx);
        }
        self.strive(ctx);
    }

    /// The node cannot be found.
    pub(in crate::session) fn handle_lost(&mut self, reason: Unreachable, ctx: &mut Context<'_>) {
        if self.current.is_none() && self.attempt.is_none() {
            self.give_up(reason, ctx);
        }
    }

    /// This node has moved: the peer hears of it if it is talked to, not more often than every [`TELL_GAP`] unless packets go to
    /// it, and more seldom when nothing has been said for [`TALKING`].
    pub(in crate::session) fn handle_own_move(&mut self, ctx: &mut Context<'_>) {
        self.told.tries = 0;
        if self.can_send() && self.tell_at(ctx.own).is_some_and(|at| at <= ctx.now) {
            self.tell(ctx);
        }
    }

    /// When [`Self::handle_timeout`] is wanted.
    pub(in crate::session) fn deadline(&self, own: &Position) -> Instant {
        let waiting = self.waiting.as_ref().map(|waiting| {
            if self.wants_keys() && waiting.resent < RESEND_MAX { waiting.resend_at } else { waiting.ends_at }
        });
        let pings = self.pings.iter().filter_map(|ping| Some(ping.sent_at? + PING_TIMEOUT)).min();
        let silence = self.owed_since.filter(|_| !self.silent).map(|since| since + SILENCE);
        let ends = (self.used_at + IDLE).max(self.kept_until);
        let idle = self.attempt.as_ref().map_or(ends, |attempt| attempt.next_at);
        [
            waiting,
            self.old.iter().map(|old| old.ends_at).min(),
            pings,
            silence,
            self.trace.as_ref().map(|trace| trace.ends_at),
            self.feedback.deadline().filter(|_| self.can_send()),
            self.routes.deadline().filter(|_| self.can_send()),
            self.tell_at(own).filter(|_| self.can_send()),
        ]
        .into_iter()
        .flatten()
        .fold(idle, Instant::min)
    }

    /// Does all that is due.
    pub(in crate::session) fn handle_timeout(&mut self, ctx: &mut Context<'_>) {
        let now = ctx.now;
        self.old.retain(|old| {
            let keep = old.ends_at > now;
            if !keep {
                ctx.forget_indexes(&old.keys.local);
            }
            keep
        });
        self.on_waiting(ctx);
        self.retry(ctx);
        self.on_pings_late(ctx);
        if self.trace.as_ref().is_some_and(|trace| trace.ends_at <= now) {
            self.end_trace(ctx);
        }
        if !self.silent && self.owed_since.is_some_and(|since| since + SILENCE <= now) {
            self.silent = true;
            ctx.events.push_back(SessionEvent::Unanswered { node: self.node });
            if self.attempt.is_none() && self.place.is_some() && now >= self.attempt_after {
                self.begin_attempt(ctx);
            }
        }
        while self.can_send() && self.feedback.deadline().is_some_and(|at| at <= now) {
            self.answer(channel::KEEPALIVE, &[], None, ctx);
        }
        if self.can_send() {
            self.tend_ways(ctx);
        }
        if self.can_send() && self.tell_at(ctx.own).is_some_and(|at| at <= now) {
            self.tell(ctx);
        }
        let idle = (self.used_at + IDLE).max(self.kept_until) <= now && self.attempt.is_none();
        let empty = self.current.is_none()
            && self.waiting.is_none()
            && self.attempt.is_none()
            && self.parked.is_empty()
            && self.pings.is_empty();
        if idle || empty {
            self.end(ctx);
        }
    }

    /// Takes the session down.
    pub(in crate::session) fn end(&mut self, ctx: &mut Context<'_>) {
        if self.over {
            return;
        }
        self.over = true;
        self.end_attempt(ctx);
        for indexes in self.indexes() {
            ctx.forget_indexes(&indexes);
        }
        ctx.stats.dropped_parked += self.parked.len() as u64;
        self.end_trace(ctx);
        for ping in self.pings.drain(..) {
            ctx.events.push_back(SessionEvent::Pong { id: ping.id, result: Err(Unreachable::NoAnswer) });
        }
        if self.up_since.take().is_some() {
            ctx.events.push_back(SessionEvent::Down { node: self.node });
        }
    }

    /// All that waited is dropped, and the session with it.
    fn give_up(&mut self, reason: Unreachable, ctx: &mut Context<'_>) {
        for ping in self.pings.drain(..) {
            ctx.events.push_back(SessionEvent::Pong { id: ping.id, result: Err(reason) });
        }
        if self.wanted {
            ctx.events.push_back(SessionEvent::Unreachable { node: self.node, reason });
        }
        self.end(ctx);
    }
}

impl Context<'_> {
    fn new_index(&mut self) -> u32 {
        loop {
            let index = u32::from_be_bytes(random(self.entropy));
            if index != 0 && !self.indexes.contains_key(&index) {
                self.indexes.insert(index, self.slot);
                return index;
            }
        }
    }

    /// Packets with these indexes belong to this session. One that is another's already stays its own: who sends by it gets
    /// no answer, and takes the next.
    fn take_indexes(&mut self, indexes: &Indexes) {
        for index in indexes.iter() {
            self.indexes.entry(index).or_insert(self.slot);
        }
    }

    fn forget_indexes(&mut self, indexes: &Indexes) {
        for index in indexes.iter() {
            if self.indexes.get(&index) == Some(&self.slot) {
                self.indexes.remove(&index);
            }
        }
    }
}

/// 250 ms, 500 ms, 1 s, ... up to 4 s.
fn retry_delay(tries: u32) -> Duration {
    RETRY_FIRST * (1 << tries.min(4))
}

/// Time to the first repetition of an INIT or an Ack; it doubles.
const RETRY_FIRST: Duration = Duration::from_millis(250);
/// INITs along an audit's way: it answers or it does not.
const TRIES_VIA: u32 = 3;
/// A node that has not answered for so long is unreachable until it answers.
pub(crate) const GIVE_UP: Duration = Duration::from_secs(10);
/// After so many unanswered INITs the place is looked up afresh.
const DOUBT_AFTER: u32 = 2;
/// Keys of an INIT that were never used are forgotten: longer than an initiator tries.
const WAITING_MAX: Duration = Duration::from_secs(15);
/// How often an Ack is repeated unasked, for packets that wait here.
const RESEND_MAX: u32 = 3;
/// New keys after two minutes of the old.
pub(crate) const REKEY_AFTER: Duration = Duration::from_secs(120);
/// The responder waits so much longer, so that both do not start at once.
const REKEY_GRACE: Duration = Duration::from_secs(10);
/// Packets after which keys are renewed.
const REKEY_PACKETS: u64 = 1 << 60;
/// Replaced keys still open packets that were on their way.
pub(crate) const OLD_KEYS: Duration = Duration::from_secs(60);
/// Pairs of replaced keys: one, and another if two handshakes crossed; a third only by a peer that rekeys for fun.
const OLD_KEYS_MAX: usize = 3;
/// Handshakes that end within so much of each other, begun from both sides, have crossed.
const CROSSING: Duration = Duration::from_secs(5);
/// An idle session is forgotten; the next packet costs one round trip.
pub(crate) const IDLE: Duration = Duration::from_secs(10 * 60);
/// One that audits go through waits for the next: where little is sent they are rare, and a handshake costs more than they.
const IDLE_AUDIT: Duration = Duration::from_secs(3 * 60 * 60);
/// Packets went out and nothing came for so long: a keepalive's time and a slow round trip.
pub(in crate::session) const SILENCE: Duration = Duration::from_millis(2500);
/// Notices are followed at most so often.
const SETBACK_GAP: Duration = Duration::from_millis(500);
/// Moves are told at most so often to peers that nothing is sent to.
const TELL_GAP: Duration = Duration::from_secs(5);
/// And so often to those that nothing was said to or heard from for [`TALKING`]: old places hold for that long, and their
/// next packet finds its way by the trees that have not changed.
const TELL_GAP_SILENT: Duration = Duration::from_secs(60);
/// See [`TELL_GAP_SILENT`].
const TALKING: Duration = Duration::from_secs(60);
/// How often a move is told before it is left to the next packet's fate.
const TELL_TRIES: u32 = 5;
/// Packets that wait for a session; the newest are kept.
pub(crate) const PARKED_MAX: usize = 64;
/// Bytes that wait for a session: two of the largest packets.
pub(in crate::session) const PARKED_BYTES_MAX: usize = 128 * 1024;
/// Packets kept for another try: those of the round trip in which a way breaks, where packets are few.
const KEPT_MAX: usize = 4;
/// For so long: then whoever sent them has sent them again.
const KEPT_FOR: Duration = Duration::from_secs(3);
/// Keys younger than that are not taken for the reason why nothing is answered.
const KEYS_TRIED: Duration = Duration::from_secs(1);
/// One goes so often in all: each way and each tree once.
const KEPT_TRIES: u8 = 10;
/// Pings under way to one node.
const PINGS_MAX: usize = 8;
const PING_TIMEOUT: Duration = Duration::from_secs(1);
const PING_TRIES: u32 = 3;
/// COOKIEs that one INIT is sent again for: the way back may have changed meanwhile.
const COOKIES_MAX: u32 = 4;
/// HINTs that are followed: one is enough, unless the counter moved meanwhile.
const HINTS_MAX: u32 = 3;
