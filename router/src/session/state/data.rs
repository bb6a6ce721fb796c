//! Owns a session's packets: sealed and sent, opened, answered; and what both ends tell each other of where they are.
use super::super::cipher::PacketError;
use super::super::{Refused, SessionEvent};
use super::{
    Context, IDLE, PING_TIMEOUT, PING_TRIES, SETBACK_GAP, Session, TALKING, TELL_GAP, TELL_GAP_SILENT,
    TELL_TRIES, retry_delay,
};
use crate::crypto::random;
use crate::error::Unreachable;
use crate::lookup::locator::LOCATOR_MAX;
use crate::lookup::{Locator, Position};
use crate::time::{Duration, Instant};
use crate::wire::body::Inbound;
use crate::wire::body::sealed::{ROUTE_BACK, SealedHeader, channel};
use crate::wire::codec::{Reader, Writer};
use bytes::Bytes;

impl Session {
    /// A packet under keys of this session.
    pub(in crate::session) fn handle_data(
        &mut self,
        index: u32,
        packet: &Inbound<'_>,
        ctx: &mut Context<'_>,
    ) -> Result<(), Refused> {
        let (header, payload) = self.open(index, packet.body)?;
        self.hear();
        self.heard_at = Some(ctx.now);
        self.bytes_in += payload.len() as u64;
        let audit = matches!(header.channel, channel::PROBE | channel::PROBED);
        if !audit {
            self.on_header(&header, packet, ctx);
        }
        if self.waiting.as_ref().is_some_and(|waiting| waiting.keys.local.turn_of(index).is_some()) {
            // The peer has used the keys, so it has them.
            let waiting = self.waiting.take().expect("just seen");
            self.told.confirmed = self.told.confirmed.max(waiting.seq);
            if let Some(place) = self.place.clone() {
                ctx.events.push_back(SessionEvent::Located { node: self.node, place });
            }
            self.end_attempt(ctx);
            self.install(waiting.keys, ctx);
        }
        if audit {
            return self.on_probe(&header, &payload, packet, ctx);
        }
        self.on_payload(&header, payload, packet, ctx)
    }

    /// Opens a packet with the keys that have that index.
    fn open(&mut self, index: u32, body: &[u8]) -> Result<(SealedHeader, Bytes), Refused> {
        let waiting = self.waiting.as_mut().map(|waiting| &mut waiting.keys);
        let old = self.old.iter_mut().map(|old| &mut old.keys);
        let mut all = self.current.iter_mut().chain(waiting).chain(old);
        let with_turn = all.find_map(|keys| keys.local.turn_of(index).map(|turn| (keys, turn)));
        let (keys, turn) = with_turn.ok_or(Refused::Late)?;
        self.turn = turn;
        keys.open(body).map_err(|error| match error {
            PacketError::Frame(_) => Refused::Bad,
            PacketError::Repeated => Refused::Repeated,
        })
    }

    pub(super) fn on_payload(
        &mut self,
        header: &SealedHeader,
        payload: Bytes,
        packet: &Inbound<'_>,
        ctx: &mut Context<'_>,
    ) -> Result<(), Refused> {
        let channel = header.channel;
        match channel {
            channel::IP | channel::STREAM => {
                if channel == channel::IP && payload.get(8..24) != Some(&self.address[..]) {
                    return Err(Refused::Address);
                }
                self.talk(ctx.now);
                ctx.events.push_back(SessionEvent::Received { from: self.node, channel, payload });
            }
            channel::KEEPALIVE => {}
            channel::LOCATOR_UPDATE => {
                let mut reader = Reader::new(&payload);
                let seq = reader.u64().map_err(|_| Refused::Bad)?;
                let locator = Locator::decode(&mut reader).map_err(|_| Refused::Bad)?;
                self.learn_newer(Position { seq, locator }, ctx);
                self.answer(channel::LOCATOR_ACK, &seq.to_be_bytes(), Some(header.route), ctx);
            }
            channel::LOCATOR_ACK => {
                let seq = Reader::new(&payload).u64().map_err(|_| Refused::Bad)?;
                if seq <= self.told.sent {
                    self.told.confirmed = self.told.confirmed.max(seq);
                }
            }
            channel::PING => {
                let token: [u8; 8] = Reader::new(&payload).array().map_err(|_| Refused::Bad)?;
                self.answer_ping(&token, header.route, packet, ctx);
            }
            channel::PONG => {
                let token: [u8; 8] = Reader::new(&payload).array().map_err(|_| Refused::Bad)?;
                self.learn_reply(packet, ctx);
                let Some(at) = self.pings.iter().position(|ping| ping.token == token) else {
                    return if self.on_pong(&token, ctx) { Ok(()) } else { Err(Refused::Late) };
                };
                let ping = self.pings.swap_remove(at);
                let rtt = ctx.now.since(ping.sent_at.ok_or(Refused::Late)?);
                self.on_rtt(rtt);
                ctx.events.push_back(SessionEvent::Pong { id: ping.id, result: Ok(rtt) });
            }
            channel::AGAIN => {
                let mut reader = Reader::new(&payload);
                let index = reader.u32().map_err(|_| Refused::Bad)?;
                let (inner, payload) = self.open(index, reader.rest())?;
                // Nothing else is kept; so none of these holds another one.
                if inner.channel >= channel::KEEPALIVE {
                    return Err(Refused::Bad);
                }
                if inner.route != ROUTE_BACK {
                    self.feedback.on_packet(inner.route, packet.load, true, ctx.now);
                }
                return self.on_payload(&inner, payload, packet, ctx);
            }
            _ => return Err(Refused::Unknown),
        }
        Ok(())
    }

    /// Does the tail belong to one of the last packets?
    pub(in crate::session) fn sent_recently(&self, tail: &[u8; 8]) -> bool {
        self.tails.holds(tail)
            || self.routes.sent_recently(tail)
            || self.routes.is_probe(tail)
            || self.trace.as_ref().is_some_and(|trace| trace.holds(tail))
            || self.kept.iter().any(|kept| kept.tail == *tail)
    }

    /// A packet did not arrive, so the peer is looked for afresh; or the peer says that it has no such session, so a
    /// new INIT goes out beside what there is. Anybody on the way may have said so: it is a hint, at most so often.
    pub(in crate::session) fn handle_setback(
        &mut self,
        no_session: bool,
        tail: &[u8; 8],
        ctx: &mut Context<'_>,
    ) {
        if no_session && self.on_probed(tail, ctx) {
            return;
        }
        if !no_session && self.on_lost(tail, ctx) {
            // Only one of several ways.
            return;
        }
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

    /// Seals and sends; the first packet after a move of ours is preceded by the news.
    pub(super) fn transmit(&mut self, channel: u8, payload: Bytes, ctx: &mut Context<'_>) {
        if channel < channel::KEEPALIVE {
            self.owed_since.get_or_insert(ctx.now);
            if self.told.sent.max(self.told.confirmed) < ctx.own.seq {
                self.tell(ctx);
            }
        }
        if self.can_send() {
            self.send_by_choice(channel, &payload, ctx);
        }
        self.rekey(ctx);
    }

    pub(super) fn control(&mut self, channel: u8, payload: &[u8], ctx: &mut Context<'_>) {
        if self.can_send() {
            self.send_by_choice(channel, payload, ctx);
        }
    }

    pub(super) fn send_pings(&mut self, ctx: &mut Context<'_>) {
        for at in 0..self.pings.len() {
            let ping = &mut self.pings[at];
            if ping.sent_at.is_none() {
                ping.sent_at = Some(ctx.now);
                ping.tries += 1;
                let mut payload = Vec::with_capacity(ping.bytes.max(ping.token.len()));
                payload.put(&ping.token);
                payload.resize(ping.bytes.max(ping.token.len()), 0);
                self.control(channel::PING, &payload, ctx);
                self.rekey(ctx);
            }
        }
    }

    pub(super) fn on_pings_late(&mut self, ctx: &mut Context<'_>) {
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

    /// Tells the peer where we are now.
    pub(super) fn tell(&mut self, ctx: &mut Context<'_>) {
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
    pub(super) fn tell_at(&self, own: &Position) -> Option<Instant> {
        if self.told.confirmed >= own.seq || self.current.is_none() {
            return None;
        }
        let talked = self.talked_at?;
        let at = if self.told.sent < own.seq {
            let soon = self.told.sent_at + TELL_GAP;
            if soon < talked + TALKING { soon } else { self.told.sent_at + TELL_GAP_SILENT }
        } else if self.told.tries < TELL_TRIES {
            self.told.sent_at + retry_delay(self.told.tries)
        } else {
            return None;
        };
        (at < talked + IDLE).then_some(at)
    }

    pub(super) fn hear(&mut self) {
        self.owed_since = None;
        self.silent = false;
    }

    pub(super) fn on_rtt(&mut self, rtt: Duration) {
        self.rtt = Some(self.rtt.map_or(rtt, |smoothed| (smoothed * 7 + rtt) / 8));
    }

    pub(super) fn learn_newer(&mut self, place: Position, ctx: &mut Context<'_>) {
        if self.place.as_ref().is_none_or(|known| place.seq > known.seq) {
            let moved =
                self.is_up() && self.place.as_ref().is_some_and(|known| known.locator != place.locator);
            self.learn(place, ctx);
            if moved {
                self.on_moved(ctx);
            }
        }
    }

    pub(super) fn learn(&mut self, place: Position, ctx: &mut Context<'_>) {
        ctx.events.push_back(SessionEvent::Located { node: self.node, place: place.clone() });
        self.place = Some(place);
    }
}
