//! Owns one correspondent: the keys shared with it, the handshakes under way, what waits for them.
//!
//! ```text
//!            send()            INIT_ACK                 a packet under the keys
//!   nothing ───────> attempt ───────────> current <──────────────────────────── waiting <── INIT
//!                       └ no answer: gone    │ newer keys, or those of the lesser initiator
//!                                            └───────> old (opens for 60 s more)
//! ```
use super::cipher::{Keys, PacketError};
use super::handshake::{Identity, Initiator, Responder, echo};
use super::{Refused, SessionEvent, SessionStats};
use crate::crypto::{Entropy, random};
use crate::error::Unreachable;
use crate::id::{NodeId, Sid};
use crate::lookup::locator::LOCATOR_MAX;
use crate::lookup::{Locator, Position};
use crate::time::{Duration, Instant};
use crate::wire::body::init::{AckPayload, Init, InitAck, InitPayload};
use crate::wire::body::sealed::{SealedHeader, channel};
use crate::wire::body::{Body, Outbound, tail};
use crate::wire::codec::{Reader, Writer};
use bytes::Bytes;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

/// What a session shares with the others of its node, for the length of one call.
pub(super) struct Context<'a> {
    pub(super) me: &'a Identity,
    /// Highest counter given to an INIT.
    pub(super) counter: &'a mut u64,
    /// Where this node is.
    pub(super) own: &'a Position,
    /// Receiver indexes in use, and whose they are.
    pub(super) indexes: &'a mut HashMap<u32, usize>,
    /// Attempts under way, by what COOKIE and HINT name them with.
    pub(super) echoes: &'a mut HashMap<[u8; 8], usize>,
    pub(super) slot: usize,
    pub(super) out: &'a mut VecDeque<Outbound>,
    pub(super) events: &'a mut VecDeque<SessionEvent>,
    pub(super) stats: &'a mut SessionStats,
    pub(super) entropy: &'a mut dyn Entropy,
    pub(super) now: Instant,
}

pub(super) struct Session {
    pub(super) node: NodeId,
    sid: Sid,
    /// The only source that its IPv6 packets may have.
    pub(super) address: [u8; 16],
    /// Where packets go; `None` until the lookup has found it.
    pub(super) place: Option<Position>,
    pub(super) current: Option<Keys>,
    waiting: Option<Waiting>,
    old: Vec<Old>,
    attempt: Option<Attempt>,
    heard: Option<Heard>,
    /// Lowest counter that the peer takes from us, told by a HINT.
    floor: u64,
    /// HINTs followed since keys were last agreed on.
    hints: u32,
    /// Something here wanted a session with the node; it was not only the node itself.
    pub(super) wanted: bool,
    parked: VecDeque<(u8, Bytes)>,
    parked_bytes: usize,
    pings: Vec<Ping>,
    /// The seq of our position that the peer has confirmed, and what was sent since.
    told: Told,
    route: Route,
    tails: [[u8; 8]; TAILS],
    tail_next: usize,
    up_since: Option<Instant>,
    /// Last sign of use: a packet of the application in either direction, or the beginning.
    pub(super) used_at: Instant,
    /// First packet of the application that was sent since anything was heard.
    owed_since: Option<Instant>,
    /// The peer has been found silent, and nothing was heard since.
    silent: bool,
    /// The peer's packet shall be answered by then, with a keepalive if there is nothing else.
    keepalive_at: Option<Instant>,
    /// No new attempt before, after one that failed.
    attempt_after: Instant,
    /// No notice is heard before.
    setback_after: Instant,
    rtt: Option<Duration>,
    bytes_in: u64,
    bytes_out: u64,
    /// Nothing here is worth keeping.
    pub(super) over: bool,
}

/// Keys that we answered an INIT with; the peer has not used them yet.
struct Waiting {
    keys: Keys,
    /// Of our position in the Ack.
    seq: u64,
    ack: Bytes,
    way: Bytes,
    resent: u32,
    resend_at: Instant,
    ends_at: Instant,
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
    index: u32,
    counter: u64,
    seq: u64,
    began_at: Instant,
    tries: u32,
    cookies: u32,
    next_at: Instant,
}

/// The newest INIT of the peer.
struct Heard {
    counter: u64,
    ephemeral: [u8; 32],
}

struct Ping {
    id: u64,
    token: [u8; 8],
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

/// Feedback about one way; only that by the trees, number 0, is used so far.
#[derive(Default)]
struct Route {
    sent: u32,
    received: u32,
    load: u8,
    echoed_received: u32,
    echoed_load: u8,
}

impl Session {
    pub(super) fn new(node: NodeId, now: Instant) -> Self {
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
            told: Told::default(),
            route: Route::default(),
            tails: [[0; 8]; TAILS],
            tail_next: 0,
            up_since: None,
            used_at: now,
            owed_since: None,
            silent: false,
            keepalive_at: None,
            attempt_after: Instant::ZERO,
            setback_after: Instant::ZERO,
            rtt: None,
            bytes_in: 0,
            bytes_out: 0,
            over: false,
        }
    }

    pub(super) fn info(&self, now: Instant) -> Option<crate::router::SessionInfo> {
        Some(crate::router::SessionInfo {
            node: self.node,
            rtt: self.rtt,
            up_for: now.since(self.up_since?),
            bytes_in: self.bytes_in,
            bytes_out: self.bytes_out,
        })
    }

    pub(super) fn is_up(&self) -> bool {
        self.up_since.is_some()
    }

    /// Is this only a stranger's INIT so far?
    pub(super) fn is_half_open(&self) -> bool {
        self.current.is_none() && !self.wanted
    }

    // What the application wants.

    /// Seals the packet, or lets it wait for keys and place.
    pub(super) fn send(&mut self, channel: u8, payload: Bytes, ctx: &mut Context<'_>) {
        self.wanted = true;
        self.used_at = ctx.now;
        if self.can_send() {
            self.transmit(channel, &payload, ctx);
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
    pub(super) fn ping(&mut self, id: u64, ctx: &mut Context<'_>) {
        self.wanted = true;
        self.used_at = ctx.now;
        if self.pings.len() >= PINGS_MAX {
            ctx.events.push_back(SessionEvent::Pong { id, result: Err(Unreachable::Busy) });
            return;
        }
        let token = random(ctx.entropy);
        self.pings.push(Ping { id, token, sent_at: None, tries: 0 });
        if self.can_send() {
            self.send_pings(ctx);
        } else {
            self.strive(ctx);
        }
    }

    /// The node is there. An older position than the known one changes nothing.
    pub(super) fn handle_place(&mut self, place: Position, ctx: &mut Context<'_>) {
        let newer = self.place.as_ref().is_none_or(|known| {
            place.seq > known.seq || place.seq == known.seq && place.locator != known.locator
        });
        if newer {
            let moved = self.place.is_some() && self.is_up();
            self.place = Some(place);
            if moved {
                ctx.events.push_back(SessionEvent::Moved { node: self.node });
            }
            self.send_init(ctx);
        }
        self.strive(ctx);
    }

    /// The node cannot be found.
    pub(super) fn handle_lost(&mut self, reason: Unreachable, ctx: &mut Context<'_>) {
        if self.current.is_none() && self.attempt.is_none() {
            self.give_up(reason, ctx);
        }
    }

    /// This node has moved: the peer hears of it, not more often than every [`TELL_GAP`] unless packets go to it.
    pub(super) fn handle_own_move(&mut self, ctx: &mut Context<'_>) {
        self.told.tries = 0;
        if self.can_send() && self.tell_at(ctx.own).is_some_and(|at| at <= ctx.now) {
            self.tell(ctx);
        }
    }

    // What comes from the peer.

    /// An INIT that is proved to come from the peer (or to be a replay of one that did).
    pub(super) fn handle_init(
        &mut self,
        responder: Responder,
        ephemeral: [u8; 32],
        way: Bytes,
        ctx: &mut Context<'_>,
    ) {
        let counter = responder.payload.counter;
        if let Some(heard) = &self.heard {
            if counter == heard.counter && ephemeral == heard.ephemeral {
                // Our Ack was lost. Once its keys have been used there is nothing to say.
                if let Some(waiting) = &mut self.waiting {
                    waiting.way = way;
                    ctx.out.push_back(Outbound::back(&waiting.way, waiting.keys.index_remote, &waiting.ack));
                }
                return;
            }
            if counter <= heard.counter {
                ctx.stats.inits_old += 1;
                ctx.out.push_back(Outbound::back(&way, 0, &responder.hint(heard.counter, ctx.entropy)));
                return;
            }
        }
        let index = ctx.new_index();
        let said = responder.payload.clone();
        let payload = AckPayload { index, seq: ctx.own.seq, locator: ctx.own.locator.fit(LOCATOR_MAX) };
        let Ok((keys, ack)) = responder.answer(&payload, ctx.entropy) else {
            ctx.indexes.remove(&index);
            ctx.stats.dropped_body += 1;
            return;
        };
        if let Some(waiting) = self.waiting.take() {
            ctx.indexes.remove(&waiting.keys.index_local);
        }
        self.heard = Some(Heard { counter, ephemeral });
        let ack = Bytes::from(ack);
        ctx.out.push_back(Outbound::back(&way, said.index, &ack));
        self.waiting = Some(Waiting {
            keys: Keys::new(keys, index, said.index, false, ctx.now),
            seq: payload.seq,
            ack,
            way,
            resent: 0,
            resend_at: ctx.now + RETRY_FIRST,
            ends_at: ctx.now + WAITING_MAX,
        });
        // Others hear of it only once the keys were used: an INIT alone may be a replay.
        if self.place.as_ref().is_none_or(|place| said.seq > place.seq) {
            self.place = Some(Position { seq: said.seq, locator: Arc::new(said.locator) });
        }
    }

    /// The answer to an INIT of ours, by its receiver index.
    pub(super) fn handle_ack(
        &mut self,
        index: u32,
        ack: &InitAck<'_>,
        ctx: &mut Context<'_>,
    ) -> Result<(), Refused> {
        let Some(attempt) = self.attempt.take_if(|attempt| attempt.index == index) else {
            // The peer has not heard us use the keys yet, so the Ack came again.
            if let Some(keys) = &self.current
                && keys.index_local == index
                && keys.initiator
                && !keys.opened_any()
                && self.can_send()
            {
                self.transmit(channel::KEEPALIVE, &[], ctx);
                return Ok(());
            }
            return Err(Refused::Late);
        };
        let Ok((keys, said)) = attempt.initiator.finish(ctx.me, ack) else {
            self.attempt = Some(attempt);
            return Err(Refused::Bad);
        };
        ctx.echoes.remove(&echo(attempt.initiator.ephemeral()));
        if attempt.tries == 1 {
            self.on_rtt(ctx.now.since(attempt.began_at));
        }
        self.hear();
        self.told.confirmed = self.told.confirmed.max(attempt.seq);
        self.learn_newer(Position { seq: said.seq, locator: Arc::new(said.locator) }, ctx);
        let keys = Keys::new(keys, index, said.index, true, ctx.now);
        let sent_before = self.route.sent;
        self.install(keys, ctx);
        if self.route.sent == sent_before {
            // The responder may send only once it has opened a packet under the new keys.
            self.transmit(channel::KEEPALIVE, &[], ctx);
        }
        Ok(())
    }

    /// "I have seen a higher counter of yours." Ours goes on from there, for this peer.
    pub(super) fn handle_hint(
        &mut self,
        hint: &crate::wire::body::init::Hint,
        ctx: &mut Context<'_>,
    ) -> Result<(), Refused> {
        let attempt = self.attempt.as_ref().ok_or(Refused::Late)?;
        let counter = attempt.initiator.open_hint(hint).map_err(|_| Refused::Bad)?;
        if counter < attempt.counter || counter == u64::MAX || self.hints >= HINTS_MAX {
            return Err(Refused::Late);
        }
        self.hints += 1;
        self.floor = counter + 1;
        let began_at = attempt.began_at;
        self.end_attempt(ctx);
        self.begin_attempt(ctx);
        if let Some(attempt) = &mut self.attempt {
            attempt.began_at = began_at;
        }
        Ok(())
    }

    /// "Show that you receive what is sent back to you."
    pub(super) fn handle_cookie(&mut self, cookie: &[u8; 16], ctx: &mut Context<'_>) -> Result<(), Refused> {
        let attempt = self.attempt.as_mut().ok_or(Refused::Late)?;
        if attempt.body[1..17] == cookie[..] || attempt.cookies >= COOKIES_MAX {
            return Err(Refused::Late);
        }
        attempt.cookies += 1;
        Init::set_cookie(&mut attempt.body, cookie);
        self.send_init(ctx);
        Ok(())
    }

    /// A packet under keys of this session.
    pub(super) fn handle_data(
        &mut self,
        index: u32,
        load: u8,
        body: &[u8],
        ctx: &mut Context<'_>,
    ) -> Result<(), Refused> {
        let keys = if let Some(keys) = self.current.as_mut().filter(|keys| keys.index_local == index) {
            keys
        } else if let Some(waiting) =
            self.waiting.as_mut().filter(|waiting| waiting.keys.index_local == index)
        {
            &mut waiting.keys
        } else if let Some(old) = self.old.iter_mut().find(|old| old.keys.index_local == index) {
            &mut old.keys
        } else {
            return Err(Refused::Late);
        };
        let (header, payload) = keys.open(body).map_err(|error| match error {
            PacketError::Frame(_) => Refused::Bad,
            PacketError::Repeated => Refused::Repeated,
        })?;
        self.hear();
        self.bytes_in += payload.len() as u64;
        self.route.received = self.route.received.wrapping_add(1);
        self.route.load = self.route.load.max(load);
        if header.echo_route == 0 {
            self.route.echoed_received = header.echo_received;
            self.route.echoed_load = header.echo_load;
        }
        if self.waiting.as_ref().is_some_and(|waiting| waiting.keys.index_local == index) {
            // The peer has used the keys, so it has them.
            let waiting = self.waiting.take().expect("just seen");
            self.told.confirmed = self.told.confirmed.max(waiting.seq);
            if let Some(place) = self.place.clone() {
                ctx.events.push_back(SessionEvent::Located { node: self.node, place });
            }
            self.end_attempt(ctx);
            self.install(waiting.keys, ctx);
        }
        self.on_payload(header.channel, payload, ctx)
    }

    fn on_payload(&mut self, channel: u8, payload: Bytes, ctx: &mut Context<'_>) -> Result<(), Refused> {
        match channel {
            channel::IP | channel::STREAM => {
                if channel == channel::IP && payload.get(8..24) != Some(&self.address[..]) {
                    return Err(Refused::Address);
                }
                self.used_at = ctx.now;
                self.keepalive_at.get_or_insert(ctx.now + KEEPALIVE_AFTER);
                ctx.events.push_back(SessionEvent::Received { from: self.node, channel, payload });
            }
            channel::KEEPALIVE => {}
            channel::LOCATOR_UPDATE => {
                let mut reader = Reader::new(&payload);
                let seq = reader.u64().map_err(|_| Refused::Bad)?;
                let locator = Locator::decode(&mut reader).map_err(|_| Refused::Bad)?;
                self.learn_newer(Position { seq, locator: Arc::new(locator) }, ctx);
                self.control(channel::LOCATOR_ACK, &seq.to_be_bytes(), ctx);
            }
            channel::LOCATOR_ACK => {
                let seq = Reader::new(&payload).u64().map_err(|_| Refused::Bad)?;
                if seq <= self.told.sent {
                    self.told.confirmed = self.told.confirmed.max(seq);
                }
            }
            channel::PING => {
                let token: [u8; 8] = Reader::new(&payload).array().map_err(|_| Refused::Bad)?;
                self.control(channel::PONG, &token, ctx);
            }
            channel::PONG => {
                let token: [u8; 8] = Reader::new(&payload).array().map_err(|_| Refused::Bad)?;
                let at = self.pings.iter().position(|ping| ping.token == token).ok_or(Refused::Late)?;
                let ping = self.pings.swap_remove(at);
                let rtt = ctx.now.since(ping.sent_at.ok_or(Refused::Late)?);
                self.on_rtt(rtt);
                ctx.events.push_back(SessionEvent::Pong { id: ping.id, result: Ok(rtt) });
            }
            _ => return Err(Refused::Unknown),
        }
        Ok(())
    }

    /// Does the tail belong to one of the last packets?
    pub(super) fn sent_recently(&self, tail: &[u8; 8]) -> bool {
        self.tails.contains(tail)
    }

    /// A packet did not arrive, so the peer is looked for afresh; or the peer says that it has no such session, so a
    /// new INIT goes out beside what there is. Anybody on the way may have said so: it is a hint, at most so often.
    pub(super) fn handle_setback(&mut self, no_session: bool, ctx: &mut Context<'_>) {
        if ctx.now < self.setback_after {
            return;
        }
        self.setback_after = ctx.now + SETBACK_GAP;
        if !no_session {
            ctx.events.push_back(SessionEvent::Unanswered { node: self.node });
        } else if self.attempt.is_none() && self.place.is_some() {
            self.begin_attempt(ctx);
        }
    }

    // What time brings.

    /// When [`Self::handle_timeout`] is wanted.
    pub(super) fn deadline(&self, own: &Position) -> Instant {
        let waiting = self.waiting.as_ref().map(|waiting| {
            if self.wants_keys() && waiting.resent < RESEND_MAX { waiting.resend_at } else { waiting.ends_at }
        });
        let pings = self.pings.iter().filter_map(|ping| Some(ping.sent_at? + PING_TIMEOUT)).min();
        let silence = self.owed_since.filter(|_| !self.silent).map(|since| since + SILENCE);
        let idle = self.attempt.as_ref().map_or(self.used_at + IDLE, |attempt| attempt.next_at);
        [
            waiting,
            self.old.iter().map(|old| old.ends_at).min(),
            pings,
            silence,
            self.keepalive_at.filter(|_| self.can_send()),
            self.tell_at(own).filter(|_| self.can_send()),
        ]
        .into_iter()
        .flatten()
        .fold(idle, Instant::min)
    }

    /// Does all that is due.
    pub(super) fn handle_timeout(&mut self, ctx: &mut Context<'_>) {
        let now = ctx.now;
        self.old.retain(|old| {
            let keep = old.ends_at > now;
            if !keep {
                ctx.indexes.remove(&old.keys.index_local);
            }
            keep
        });
        self.on_waiting(ctx);
        self.retry(ctx);
        self.on_pings_late(ctx);
        if !self.silent && self.owed_since.is_some_and(|since| since + SILENCE <= now) {
            self.silent = true;
            ctx.events.push_back(SessionEvent::Unanswered { node: self.node });
            if self.attempt.is_none() && self.place.is_some() && now >= self.attempt_after {
                self.begin_attempt(ctx);
            }
        }
        if self.keepalive_at.is_some_and(|at| at <= now) && self.can_send() {
            self.control(channel::KEEPALIVE, &[], ctx);
        }
        if self.can_send() && self.tell_at(ctx.own).is_some_and(|at| at <= now) {
            self.tell(ctx);
        }
        let idle = self.used_at + IDLE <= now && self.attempt.is_none();
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
    pub(super) fn end(&mut self, ctx: &mut Context<'_>) {
        if self.over {
            return;
        }
        self.over = true;
        self.end_attempt(ctx);
        for index in self.indexes() {
            ctx.indexes.remove(&index);
        }
        ctx.stats.dropped_parked += self.parked.len() as u64;
        for ping in self.pings.drain(..) {
            ctx.events.push_back(SessionEvent::Pong { id: ping.id, result: Err(Unreachable::NoAnswer) });
        }
        if self.up_since.take().is_some() {
            ctx.events.push_back(SessionEvent::Down { node: self.node });
        }
    }

    fn indexes(&self) -> Vec<u32> {
        let keys = self.current.iter().chain(self.waiting.as_ref().map(|waiting| &waiting.keys));
        keys.chain(self.old.iter().map(|old| &old.keys)).map(|keys| keys.index_local).collect()
    }

    fn on_waiting(&mut self, ctx: &mut Context<'_>) {
        let wants = self.wants_keys();
        let Some(waiting) = &mut self.waiting else { return };
        if waiting.ends_at <= ctx.now {
            ctx.indexes.remove(&waiting.keys.index_local);
            self.waiting = None;
            self.strive(ctx);
        } else if wants && waiting.resend_at <= ctx.now && waiting.resent < RESEND_MAX {
            // The initiator has not used the keys: perhaps its first packet under them was lost.
            ctx.out.push_back(Outbound::back(&waiting.way, waiting.keys.index_remote, &waiting.ack));
            waiting.resent += 1;
            waiting.resend_at = ctx.now + retry_delay(waiting.resent);
            if waiting.resent == RESEND_MAX {
                // It does not come back to us: try from here.
                self.strive(ctx);
            }
        }
    }

    fn retry(&mut self, ctx: &mut Context<'_>) {
        let Some(attempt) = self.attempt.as_mut().filter(|attempt| attempt.next_at <= ctx.now) else {
            return;
        };
        if ctx.now.since(attempt.began_at) < GIVE_UP {
            if attempt.tries >= DOUBT_AFTER {
                ctx.events.push_back(SessionEvent::Unanswered { node: self.node });
            }
            self.send_init(ctx);
            return;
        }
        self.end_attempt(ctx);
        self.attempt_after = ctx.now + GIVE_UP;
        if self.current.is_none() || self.silent {
            self.give_up(Unreachable::NoAnswer, ctx);
        }
    }

    fn on_pings_late(&mut self, ctx: &mut Context<'_>) {
        let mut again = false;
        let now = ctx.now;
        self.pings.retain_mut(|ping| {
            if ping.sent_at.is_none_or(|sent| sent + PING_TIMEOUT > now) {
                return true;
            }
            if ping.tries >= PING_TRIES {
                ctx.events.push_back(SessionEvent::Pong { id: ping.id, result: Err(Unreachable::NoAnswer) });
                return false;
            }
            ping.sent_at = None;
            ping.token = random(ctx.entropy);
            again = true;
            true
        });
        if again && self.can_send() {
            self.send_pings(ctx);
        }
    }

    /// All that waited is dropped, and the session with it.
    fn give_up(&mut self, reason: Unreachable, ctx: &mut Context<'_>) {
        for ping in self.pings.drain(..) {
            ctx.events.push_back(SessionEvent::Pong { id: ping.id, result: Err(reason) });
        }
        ctx.events.push_back(SessionEvent::Unreachable { node: self.node, reason });
        self.end(ctx);
    }

    // Handshakes.

    /// Does anything wait for keys?
    fn wants_keys(&self) -> bool {
        !self.can_send() && (!self.parked.is_empty() || self.pings.iter().any(|ping| ping.sent_at.is_none()))
    }

    /// Can packets be sealed and sent right now?
    fn can_send(&self) -> bool {
        self.place.is_some() && self.current.as_ref().is_some_and(|keys| !keys.is_used_up())
    }

    /// Takes the next step towards keys, if something waits for them.
    fn strive(&mut self, ctx: &mut Context<'_>) {
        if !self.wants_keys() || self.attempt.is_some() {
            return;
        }
        if self.place.is_none() {
            ctx.events.push_back(SessionEvent::Wanted { node: self.node });
        } else if self.waiting.as_ref().is_none_or(|waiting| waiting.resent >= RESEND_MAX) {
            self.begin_attempt(ctx);
        }
    }

    fn begin_attempt(&mut self, ctx: &mut Context<'_>) {
        *ctx.counter = (*ctx.counter).saturating_add(1);
        let counter = (*ctx.counter).max(self.floor);
        self.floor = counter.saturating_add(1);
        let index = ctx.new_index();
        let payload =
            InitPayload { counter, index, seq: ctx.own.seq, locator: ctx.own.locator.fit(LOCATOR_MAX) };
        let Ok((initiator, body)) = Initiator::begin(ctx.me, &self.node, &payload, ctx.entropy) else {
            // The name is no key, so nobody can ever answer to it.
            ctx.indexes.remove(&index);
            self.give_up(Unreachable::NotFound, ctx);
            return;
        };
        ctx.echoes.insert(echo(initiator.ephemeral()), ctx.slot);
        self.attempt = Some(Attempt {
            initiator,
            body,
            index,
            counter,
            seq: ctx.own.seq,
            began_at: ctx.now,
            tries: 0,
            cookies: 0,
            next_at: ctx.now,
        });
        ctx.stats.handshakes += 1;
        self.send_init(ctx);
    }

    fn send_init(&mut self, ctx: &mut Context<'_>) {
        let (Some(attempt), Some(place)) = (&mut self.attempt, &self.place) else { return };
        attempt.next_at = ctx.now + retry_delay(attempt.tries);
        attempt.tries += 1;
        let out = Outbound::node(self.sid, place, 0, Body::from_slice(&attempt.body));
        self.remember(&out);
        ctx.out.push_back(out);
    }

    fn end_attempt(&mut self, ctx: &mut Context<'_>) {
        if let Some(attempt) = self.attempt.take() {
            ctx.indexes.remove(&attempt.index);
            ctx.echoes.remove(&echo(attempt.initiator.ephemeral()));
        }
    }

    /// New keys, known to both ends. Of two handshakes that crossed, the lesser initiator's keys are sent with.
    fn install(&mut self, keys: Keys, ctx: &mut Context<'_>) {
        self.hints = 0;
        let initiator = |keys: &Keys| if keys.initiator { ctx.me.id() } else { self.node };
        let keep = self.current.as_ref().is_some_and(|current| {
            current.initiator != keys.initiator
                && ctx.now.since(current.made_at) < CROSSING
                && initiator(current) < initiator(&keys)
        });
        let replaced = if keep { Some(keys) } else { self.current.replace(keys) };
        if let Some(keys) = replaced {
            self.old.push(Old { keys, ends_at: ctx.now + OLD_KEYS });
            if self.old.len() > OLD_KEYS_MAX {
                let oldest = self.old.remove(0);
                ctx.indexes.remove(&oldest.keys.index_local);
            }
        }
        if self.up_since.is_none() {
            self.up_since = Some(ctx.now);
            self.used_at = ctx.now;
            ctx.events.push_back(SessionEvent::Up { node: self.node });
        }
        if !self.can_send() {
            self.strive(ctx);
            return;
        }
        self.parked_bytes = 0;
        for (channel, payload) in std::mem::take(&mut self.parked) {
            self.transmit(channel, &payload, ctx);
        }
        self.send_pings(ctx);
    }

    // Packets.

    /// Seals and sends; the first packet after a move of ours is preceded by the news.
    fn transmit(&mut self, channel: u8, payload: &[u8], ctx: &mut Context<'_>) {
        if channel < channel::KEEPALIVE {
            self.owed_since.get_or_insert(ctx.now);
            if self.told.sent.max(self.told.confirmed) < ctx.own.seq {
                self.tell(ctx);
            }
        }
        self.control(channel, payload, ctx);
        self.rekey(ctx);
    }

    fn control(&mut self, channel: u8, payload: &[u8], ctx: &mut Context<'_>) {
        if !self.can_send() {
            return;
        }
        let (Some(keys), Some(place)) = (&mut self.current, &self.place) else { return };
        let header = SealedHeader {
            channel,
            route: 0,
            sent: self.route.sent,
            echo_route: 0,
            echo_received: self.route.received,
            echo_load: std::mem::take(&mut self.route.load),
        };
        let body = keys.seal(&header, payload);
        self.route.sent = self.route.sent.wrapping_add(1);
        self.bytes_out += payload.len() as u64;
        self.keepalive_at = None;
        let out = Outbound::node(self.sid, place, keys.index_remote, body);
        self.remember(&out);
        ctx.out.push_back(out);
    }

    /// New keys in time, but only where packets are sent. The responder leaves the first move to the initiator.
    fn rekey(&mut self, ctx: &mut Context<'_>) {
        let Some(keys) = &self.current else { return };
        let age = if keys.initiator { REKEY_AFTER } else { REKEY_AFTER + REKEY_GRACE };
        let due = keys.made_at + age <= ctx.now || keys.sent() >= REKEY_PACKETS;
        if due && self.attempt.is_none() && self.waiting.is_none() && ctx.now >= self.attempt_after {
            self.begin_attempt(ctx);
        }
    }

    fn send_pings(&mut self, ctx: &mut Context<'_>) {
        for at in 0..self.pings.len() {
            let ping = &mut self.pings[at];
            if ping.sent_at.is_none() {
                ping.sent_at = Some(ctx.now);
                ping.tries += 1;
                let token = ping.token;
                self.transmit(channel::PING, &token, ctx);
            }
        }
    }

    /// Tells the peer where we are now.
    fn tell(&mut self, ctx: &mut Context<'_>) {
        if self.told.sent != ctx.own.seq {
            self.told.tries = 0;
        }
        self.told.sent = ctx.own.seq;
        self.told.sent_at = ctx.now;
        self.told.tries += 1;
        let mut payload = Vec::with_capacity(256);
        payload.put_eight(ctx.own.seq);
        ctx.own.locator.fit(LOCATOR_MAX).encode(&mut payload);
        self.control(channel::LOCATOR_UPDATE, &payload, ctx);
    }

    /// When the peer should hear (again) where we are.
    fn tell_at(&self, own: &Position) -> Option<Instant> {
        if self.told.confirmed >= own.seq || self.current.is_none() {
            return None;
        }
        if self.told.sent < own.seq {
            return Some(self.told.sent_at + TELL_GAP);
        }
        (self.told.tries < TELL_TRIES).then(|| self.told.sent_at + retry_delay(self.told.tries))
    }

    // What is learned on the way.

    fn hear(&mut self) {
        self.owed_since = None;
        self.silent = false;
    }

    fn learn_newer(&mut self, place: Position, ctx: &mut Context<'_>) {
        if self.place.as_ref().is_none_or(|known| place.seq > known.seq) {
            let moved =
                self.is_up() && self.place.as_ref().is_some_and(|known| known.locator != place.locator);
            self.learn(place, ctx);
            if moved {
                ctx.events.push_back(SessionEvent::Moved { node: self.node });
            }
        }
    }

    fn learn(&mut self, place: Position, ctx: &mut Context<'_>) {
        ctx.events.push_back(SessionEvent::Located { node: self.node, place: place.clone() });
        self.place = Some(place);
    }

    fn on_rtt(&mut self, rtt: Duration) {
        self.rtt = Some(self.rtt.map_or(rtt, |smoothed| (smoothed * 7 + rtt) / 8));
    }

    fn remember(&mut self, out: &Outbound) {
        self.tails[self.tail_next] = tail(out.body.as_slice());
        self.tail_next = (self.tail_next + 1) % TAILS;
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
}

/// 250 ms, 500 ms, 1 s, ... up to 4 s.
fn retry_delay(tries: u32) -> Duration {
    RETRY_FIRST * (1 << tries.min(4))
}

/// Time to the first repetition of an INIT or an Ack; it doubles.
const RETRY_FIRST: Duration = Duration::from_millis(250);
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
/// A packet of the application is answered by then, so that its sender knows that the way works.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(1);
/// Packets went out and nothing came for so long: a keepalive's time and a slow round trip.
pub(super) const SILENCE: Duration = Duration::from_millis(2500);
/// Notices are followed at most so often.
const SETBACK_GAP: Duration = Duration::from_millis(500);
/// Moves are told at most so often to peers that nothing is sent to.
const TELL_GAP: Duration = Duration::from_secs(5);
/// How often a move is told before it is left to the next packet's fate.
const TELL_TRIES: u32 = 5;
/// Packets that wait for a session; the newest are kept.
pub(crate) const PARKED_MAX: usize = 64;
/// Bytes that wait for a session: two of the largest packets.
pub(super) const PARKED_BYTES_MAX: usize = 128 * 1024;
/// Pings under way to one node.
const PINGS_MAX: usize = 8;
const PING_TIMEOUT: Duration = Duration::from_secs(1);
const PING_TRIES: u32 = 3;
/// COOKIEs that one INIT is sent again for: the way back may have changed meanwhile.
const COOKIES_MAX: u32 = 4;
/// HINTs that are followed: one is enough, unless the counter moved meanwhile.
const HINTS_MAX: u32 = 3;
/// Packets of which a notice is believed.
const TAILS: usize = 64;
