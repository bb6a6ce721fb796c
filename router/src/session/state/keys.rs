//! Owns a session's keys: the handshakes that give them, who sends with which, and when they are renewed.
use super::super::cipher::{Indexes, Keys};
use super::super::handshake::{Initiator, Responder, echo};
use super::super::{Refused, SessionEvent};
use super::ways::any_index;
use super::{
    Attempt, COOKIES_MAX, CROSSING, Context, DOUBT_AFTER, GIVE_UP, HINTS_MAX, Heard, OLD_KEYS, OLD_KEYS_MAX,
    Old, REKEY_AFTER, REKEY_GRACE, REKEY_PACKETS, RESEND_MAX, RETRY_FIRST, Session, TRIES_VIA, WAITING_MAX,
    Waiting, retry_delay,
};
use crate::error::Unreachable;
use crate::lookup::Position;
use crate::lookup::locator::LOCATOR_MAX;
use crate::time::Instant;
use crate::wire::body::init::{AckPayload, Init, InitAck, InitPayload};
use crate::wire::body::sealed::channel;
use crate::wire::body::{Body, Destination, Inbound, Outbound, tail};
use bytes::Bytes;

impl Session {
    /// An INIT that is proved to come from the peer (or to be a replay of one that did).
    pub(in crate::session) fn handle_init(
        &mut self,
        responder: Responder,
        ephemeral: [u8; 32],
        way: Bytes,
        hops: Bytes,
        ctx: &mut Context<'_>,
    ) {
        let counter = responder.payload.counter;
        if let Some(heard) = &self.heard {
            if counter == heard.counter && ephemeral == heard.ephemeral {
                // Our Ack was lost. Once its keys have been used there is nothing to say.
                if let Some(waiting) = &mut self.waiting {
                    (waiting.way, waiting.hops) = (way, hops);
                    ctx.out.push_back(waiting.again());
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
        let aliases = responder.aliases();
        let payload = AckPayload { index, seq: ctx.own.seq, locator: ctx.own.locator.fit(LOCATOR_MAX) };
        let Ok((keys, ack)) = responder.answer(ctx.me, &payload, ctx.entropy) else {
            ctx.indexes.remove(&index);
            ctx.stats.dropped_body += 1;
            return;
        };
        if let Some(waiting) = self.waiting.take() {
            ctx.forget_indexes(&waiting.keys.local);
        }
        self.heard = Some(Heard { counter, ephemeral });
        let ack = Bytes::from(ack);
        let local = Indexes::new(index, &aliases.responder);
        let remote = Indexes::new(said.index, &aliases.initiator);
        ctx.take_indexes(&local);
        let mut waiting = Waiting {
            keys: Keys::new(keys, local, remote, false, ctx.now),
            seq: payload.seq,
            ack,
            way,
            hops,
            said: 0,
            resent: 0,
            resend_at: ctx.now + RETRY_FIRST,
            ends_at: ctx.now + WAITING_MAX,
        };
        ctx.out.push_back(waiting.again());
        self.waiting = Some(waiting);
        // Others hear of it only once the keys were used: an INIT alone may be a replay.
        if self.place.as_ref().is_none_or(|place| said.seq > place.seq) {
            self.place = Some(Position { seq: said.seq, locator: said.locator });
        }
    }

    /// The answer to an INIT of ours, by its receiver index.
    pub(in crate::session) fn handle_ack(
        &mut self,
        index: u32,
        ack: &InitAck<'_>,
        packet: &Inbound<'_>,
        ctx: &mut Context<'_>,
    ) -> Result<(), Refused> {
        let Some(attempt) = self.attempt.take_if(|attempt| attempt.indexes.turn_of(index).is_some()) else {
            // The peer has not heard us use the keys yet, so the Ack came again.
            if let Some(keys) = &self.current
                && keys.local.turn_of(index).is_some()
                && keys.initiator
                && !keys.opened_any()
                && self.can_send()
            {
                self.control(channel::KEEPALIVE, &[], ctx);
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
        self.heard_at = Some(ctx.now);
        let by_audit = self.via.take().is_some();
        self.told.confirmed = self.told.confirmed.max(attempt.seq);
        self.learn_newer(Position { seq: said.seq, locator: said.locator }, ctx);
        let remote = Indexes::new(said.index, &attempt.initiator.aliases().responder);
        let keys = Keys::new(keys, attempt.indexes, remote, true, ctx.now);
        // It came back by the way that INIT went.
        let rtt = (attempt.tries == 1).then(|| ctx.now.since(attempt.began_at));
        if !by_audit {
            self.learn_way(packet, rtt, ctx);
            self.learn_reply(packet, ctx);
        }
        let sent_before = keys.sent();
        let index = keys.local.drawn();
        self.install(keys, ctx);
        let sent = self.current.as_ref().filter(|keys| keys.local.drawn() == index).map(Keys::sent);
        if sent == Some(sent_before) {
            // The responder may send only once it has opened a packet under the new keys.
            self.control(channel::KEEPALIVE, &[], ctx);
        }
        Ok(())
    }

    /// "I have seen a higher counter of yours." Ours goes on from there, for this peer.
    pub(in crate::session) fn handle_hint(
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
    pub(in crate::session) fn handle_cookie(
        &mut self,
        cookie: &[u8; 16],
        ctx: &mut Context<'_>,
    ) -> Result<(), Refused> {
        let attempt = self.attempt.as_mut().ok_or(Refused::Late)?;
        if attempt.body[1..17] == cookie[..] || attempt.cookies >= COOKIES_MAX {
            return Err(Refused::Late);
        }
        attempt.cookies += 1;
        Init::set_cookie(&mut attempt.body, cookie);
        self.send_init(ctx);
        Ok(())
    }

    pub(super) fn indexes(&self) -> Vec<Indexes> {
        let keys = self.current.iter().chain(self.waiting.as_ref().map(|waiting| &waiting.keys));
        keys.chain(self.old.iter().map(|old| &old.keys)).map(|keys| keys.local).collect()
    }

    pub(super) fn on_waiting(&mut self, ctx: &mut Context<'_>) {
        let wants = self.wants_keys();
        let Some(waiting) = &mut self.waiting else { return };
        if waiting.ends_at <= ctx.now {
            ctx.forget_indexes(&waiting.keys.local);
            self.waiting = None;
            self.strive(ctx);
        } else if wants && waiting.resend_at <= ctx.now && waiting.resent < RESEND_MAX {
            // The initiator has not used the keys: perhaps its first packet under them was lost.
            ctx.out.push_back(waiting.again());
            waiting.resent += 1;
            waiting.resend_at = ctx.now + retry_delay(waiting.resent);
            if waiting.resent == RESEND_MAX {
                // It does not come back to us: try from here.
                self.strive(ctx);
            }
        }
    }

    pub(super) fn retry(&mut self, ctx: &mut Context<'_>) {
        let Some(attempt) = self.attempt.as_mut().filter(|attempt| attempt.next_at <= ctx.now) else {
            return;
        };
        let tries_before = attempt.tries;
        let goes_on = match self.via {
            Some(_) => attempt.tries < TRIES_VIA,
            None => ctx.now.since(attempt.began_at) < GIVE_UP,
        };
        if goes_on {
            if attempt.tries >= MAP_AFTER && self.via.is_none() && ctx.neighbours.is_some() {
                ctx.events.push_back(SessionEvent::Cornered { node: self.node });
            }
            if attempt.tries >= DOUBT_AFTER && self.via.is_none() {
                ctx.events.push_back(SessionEvent::Unanswered { node: self.node });
            }
            if self.via.is_none() && tries_before >= TRIES_ALIKE && tries_before.is_multiple_of(TRIES_ALIKE) {
                self.renew_attempt(ctx);
            } else {
                self.send_init(ctx);
            }
            return;
        }
        self.end_attempt(ctx);
        if self.via.take().is_some() {
            if self.wants_keys() {
                self.strive(ctx);
            } else if self.current.is_none() {
                self.end(ctx);
            }
            return;
        }
        self.attempt_after = ctx.now + GIVE_UP;
        if self.current.is_none() || self.silent {
            self.give_up(Unreachable::NoAnswer, ctx);
        }
    }

    /// Does anything wait for keys?
    pub(super) fn wants_keys(&self) -> bool {
        !self.can_send()
            && (self.meeting
                || !self.parked.is_empty()
                || self.pings.iter().any(|ping| ping.sent_at.is_none()))
    }

    /// Can packets be sealed and sent right now?
    pub(super) fn can_send(&self) -> bool {
        self.place.is_some() && self.current.as_ref().is_some_and(|keys| !keys.is_used_up())
    }

    /// Takes the next step towards keys, if something waits for them.
    pub(super) fn strive(&mut self, ctx: &mut Context<'_>) {
        if !self.wants_keys() || self.attempt.is_some() {
            return;
        }
        if self.place.is_none() {
            ctx.events.push_back(SessionEvent::Wanted { node: self.node });
        } else if self.waiting.as_ref().is_none_or(|waiting| waiting.resent >= RESEND_MAX) {
            self.begin_attempt(ctx);
        }
    }

    pub(super) fn begin_attempt(&mut self, ctx: &mut Context<'_>) {
        self.begin_attempt_as(Goes { began_at: ctx.now, tries: 0, by_ways: Vec::new() }, ctx);
    }

    fn begin_attempt_as(&mut self, goes: Goes, ctx: &mut Context<'_>) {
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
        let indexes = Indexes::new(index, &initiator.aliases().initiator);
        ctx.take_indexes(&indexes);
        self.attempt = Some(Attempt {
            initiator,
            body,
            indexes,
            counter,
            seq: ctx.own.seq,
            began_at: goes.began_at,
            tries: goes.tries,
            cookies: 0,
            next_at: ctx.now,
            by_ways: goes.by_ways,
        });
        ctx.stats.handshakes += 1;
        self.send_init(ctx);
    }

    /// The same attempt goes on under another ephemeral key and index: whoever swallowed what bore the former ones, the answer
    /// above all, cannot tell that this belongs to it.
    fn renew_attempt(&mut self, ctx: &mut Context<'_>) {
        let Some(former) = &mut self.attempt else { return };
        let (began_at, tries, by_ways) = (former.began_at, former.tries, std::mem::take(&mut former.by_ways));
        self.end_attempt(ctx);
        self.begin_attempt_as(Goes { began_at, tries, by_ways }, ctx);
    }

    pub(super) fn send_init(&mut self, ctx: &mut Context<'_>) {
        let Some(attempt) = &mut self.attempt else { return };
        if let Some(via) = &self.via {
            attempt.next_at = ctx.now + retry_delay(attempt.tries);
            attempt.tries += 1;
            ctx.out.push_back(Outbound::back(via, any_index(ctx.entropy), &attempt.body));
            return;
        }
        let Some(place) = &self.place else { return };
        attempt.next_at = ctx.now + retry_delay(attempt.tries);
        attempt.tries += 1;
        self.tails.push(tail(&attempt.body));
        // At first by all trees; then by two alone in turn, and every second time by all: somebody on the way may swallow it.
        let trees = place.locator.mask();
        let turn = attempt.tries - 1;
        // With a single tree all is one.
        let several = trees.count_ones() > 1;
        let alone = (0..2).filter(|_| turn > 0 && several).map(|at| tree_in_turn(trees, 2 * turn + at));
        let all = match turn {
            // The first may have gone straight to a node in sight, as somebody says: all trees together are untried then.
            1 => Some(trees),
            _ => (turn.is_multiple_of(2) || !several).then_some(u8::MAX),
        };
        for mask in all.into_iter().chain(alone) {
            let (body, index) = (Body::from_slice(&attempt.body), any_index(ctx.entropy));
            ctx.out.push_back(match ctx.neighbours {
                Some(_) => Outbound::recording(self.sid, place, mask, index, body),
                None => {
                    let mut out = Outbound::node(self.sid, place, index, body);
                    if let Destination::Node { mask: all, .. } = &mut out.to {
                        *all = mask;
                    }
                    out
                }
            });
        }
        if self.mapped {
            self.send_init_by_ways(ctx);
        }
    }

    pub(super) fn end_attempt(&mut self, ctx: &mut Context<'_>) {
        if let Some(attempt) = self.attempt.take() {
            ctx.forget_indexes(&attempt.indexes);
            ctx.echoes.remove(&echo(attempt.initiator.ephemeral()));
        }
    }

    /// New keys, known to both ends. Of two handshakes that crossed, the lesser initiator's keys are sent with.
    pub(super) fn install(&mut self, keys: Keys, ctx: &mut Context<'_>) {
        self.hints = 0;
        self.mapped = false;
        self.meeting = false;
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
                ctx.forget_indexes(&oldest.keys.local);
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
        self.send_again(None, ctx);
        for (channel, payload) in std::mem::take(&mut self.parked) {
            self.transmit(channel, payload, ctx);
        }
        self.send_pings(ctx);
    }

    /// New keys in time, but only where packets are sent. The responder leaves the first move to the initiator.
    pub(super) fn rekey(&mut self, ctx: &mut Context<'_>) {
        let Some(keys) = &self.current else { return };
        let age = if keys.initiator { REKEY_AFTER } else { REKEY_AFTER + REKEY_GRACE };
        let due = keys.made_at + age <= ctx.now || keys.sent() >= REKEY_PACKETS;
        if due && self.attempt.is_none() && self.waiting.is_none() && ctx.now >= self.attempt_after {
            self.begin_attempt(ctx);
        }
    }
}

/// What an attempt has in common with the one that it goes on for.
struct Goes {
    began_at: Instant,
    tries: u32,
    by_ways: Vec<u8>,
}

/// An INIT goes so often as it is; then with other keys: by then an answer to it would have come from nearly anywhere.
const TRIES_ALIKE: u32 = 2;
/// INITs without an answer before the map is asked for other ways.
const MAP_AFTER: u32 = 2;

/// One of the trees in the mask, in turn.
fn tree_in_turn(trees: u8, turn: u32) -> u8 {
    let mut left = trees;
    for _ in 0..turn.checked_rem(trees.count_ones()).unwrap_or(0) {
        left &= left - 1;
    }
    if left == 0 { u8::MAX } else { left & left.wrapping_neg() }
}
