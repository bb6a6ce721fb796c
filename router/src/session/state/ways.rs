//! Owns what a session has to do with source routes: which way each packet takes, and what is told back of the peer's.
use super::super::cipher::{Keys, OVERHEAD};
use super::super::{Doubt, SessionEvent};
use super::{Context, KEPT_FOR, KEPT_MAX, KEPT_TRIES, KEYS_TRIED, Kept, Session};
use crate::config::MTU_MIN;
use crate::crypto::{Entropy, random};
use crate::route::choose::{Env, FLOWS, Pick, RouteInfo, Todo};
use crate::route::feedback::Echo;
use crate::route::view::SeenLink;
use crate::time::{Duration, Instant};
use crate::wire::Writer;
use crate::wire::body::sealed::{ROUTE_BACK, SealedHeader, channel};
use crate::wire::body::{self, Body, Destination, Inbound, List, Outbound, tail};
use bytes::Bytes;

impl Session {
    // What comes.

    /// What the sealed header and the way of a packet from the peer say.
    pub(super) fn on_header(&mut self, header: &SealedHeader, packet: &Inbound<'_>, ctx: &mut Context<'_>) {
        let asks = header.channel < channel::KEEPALIVE;
        if header.route != ROUTE_BACK {
            self.feedback.on_packet(header.route, packet.load, asks, ctx.now);
        }
        let echo = Echo { route: header.echo_route, received: header.echo_received, load: header.echo_load };
        if self.with_ways(ctx, |routes, env| routes.on_echo(&echo, env)) {
            self.on_arrived(echo.route, ctx);
        }
        self.learn_way(packet, None, ctx);
        if let (List::Record(record), Some(_)) = (&packet.list, ctx.neighbours) {
            self.routes.on_record(packet.way, record, ctx.now);
        }
    }

    /// The way back of a packet that is proved to be the peer's.
    pub(super) fn learn_way(&mut self, packet: &Inbound<'_>, rtt: Option<Duration>, ctx: &Context<'_>) {
        if ctx.neighbours.is_none() {
            return;
        }
        if self.way != packet.way {
            self.way.clear();
            self.way.extend_from_slice(packet.way);
        }
        self.routes.on_way(packet.way, rtt, ctx.now);
    }

    /// The hops that a reply brings.
    pub(super) fn learn_reply(&mut self, packet: &Inbound<'_>, ctx: &Context<'_>) {
        if let (List::Reply(reply), Some(_)) = (&packet.list, ctx.neighbours) {
            self.routes.on_reply(packet.way, reply, ctx.now);
        }
    }

    /// Answer to a question about a way. False: to none.
    pub(super) fn on_pong(&mut self, token: &[u8; 8], ctx: &mut Context<'_>) -> bool {
        let rtt = self.with_ways(ctx, |routes, env| routes.on_pong(token, env));
        if let Some(rtt) = rtt {
            self.on_rtt(rtt);
        }
        rtt.is_some()
    }

    /// More packets with the number of that way have come: those that were sent long enough ago are no longer kept.
    fn on_arrived(&mut self, id: u8, ctx: &mut Context<'_>) {
        let routes = &self.routes;
        let mut others = 0u8;
        let mut by = [0u8; KEPT_MAX];
        self.kept.retain(|kept| {
            let gone = kept.id == id && routes.is_told_of(id, kept.sent_at, ctx.now);
            if gone && kept.via != id {
                by[usize::from(others)] = kept.via;
                others += 1;
            }
            !gone
        });
        for &via in &by[..usize::from(others)] {
            self.with_ways(ctx, |routes, env| routes.on_resent_arrived(via, env));
        }
    }

    /// A packet did not arrive. False: it was none that went by a way.
    pub(super) fn on_lost(&mut self, tail: &[u8; 8], ctx: &mut Context<'_>) -> bool {
        let was_way = self.with_ways(ctx, |routes, env| routes.on_lost(tail, env));
        self.tend_ways(ctx);
        was_way
    }

    /// What went by that way (any, if none is named) and was not answered goes once more, as it is, by what is chosen now.
    pub(super) fn send_again(&mut self, failed: Option<u8>, ctx: &mut Context<'_>) {
        let mut waiting = false;
        for at in 0..self.kept.len() {
            let kept = &self.kept[at];
            let young = ctx.now.since(kept.sent_at) < KEPT_FOR && kept.tries < KEPT_TRIES;
            if failed.is_some_and(|failed| kept.via != failed) || !young {
                continue;
            }
            waiting = true;
            let (flow, len) = (kept.flow, kept.body.len());
            let pick = self.with_ways(ctx, |routes, env| routes.pick(flow, len, env));
            let via = if let Pick::Way(via, _) = pick { via } else { 0 };
            let kept = &mut self.kept[at];
            kept.tries += 1;
            kept.via = via;
            let (id, index, tail, tries) = (kept.id, kept.index, kept.tail, kept.tries);
            let body = Body::from_slice(&kept.body);
            self.routes.on_resent(id, via, tail, ctx.now);
            if let Some(keys) = self.current.as_ref().filter(|keys| keys.remote.drawn() == index) {
                // Not the index that it bore before: whoever swallowed it then may do so again.
                let index = keys.remote.nth(self.routes.turn(via).wrapping_add(tries - 1));
                self.send_sealed(pick, index, body, ctx);
            } else if AGAIN_BYTES + len <= MTU_MIN {
                // Who let packets with the old index through, or not, does not know the new one.
                let mut payload = Vec::with_capacity(AGAIN_BYTES + len);
                payload.put_four(index);
                payload.put(body.as_slice());
                self.send_by(pick, false, true, None, channel::AGAIN, &payload, ctx);
            }
        }
        let stale = |keys: &Keys| keys.made_at + KEYS_TRIED <= ctx.now;
        let trees_failed = failed == Some(0) && waiting && !self.routes.has_live();
        if trees_failed
            && self.attempt.is_none()
            && self.place.is_some()
            && ctx.now >= self.attempt_after
            && self.current.as_ref().is_some_and(stale)
        {
            // Neither ways nor trees: perhaps somebody drops what has this index. New keys have another one.
            self.begin_attempt(ctx);
        }
    }

    /// Sends what is sealed already.
    fn send_sealed(&self, pick: Pick, index: u32, body: Body, ctx: &mut Context<'_>) {
        let Some(place) = &self.place else { return };
        let to = match pick {
            Pick::Way(_, ports) => Destination::Back(ports),
            Pick::Trees(mask) => {
                let (sid, locator) = (self.sid, place.locator.clone());
                Destination::Node { sid, locator, mask, record: false }
            }
        };
        ctx.out.push_back(Outbound { to, index, body });
    }

    /// The peer is somewhere else than it was.
    pub(super) fn on_moved(&mut self, ctx: &mut Context<'_>) {
        self.routes.on_moved(ctx.now);
        if !self.routes.rides() {
            ctx.events.push_back(SessionEvent::Moved { node: self.node });
        }
        if self.can_send() {
            // What was led to where it is no longer.
            self.send_again(Some(0), ctx);
        }
    }

    /// Remembers a packet as it was sealed.
    fn keep(&mut self, flow: usize, id: u8, index: u32, body: &Body, now: Instant) {
        // The oldest gives its room.
        let spare = if self.kept.len() >= KEPT_MAX { self.kept.pop_front() } else { None };
        let mut bytes = spare.map_or(Vec::new(), |kept| kept.body);
        bytes.clear();
        bytes.extend_from_slice(body.as_slice());
        let tail = tail(&bytes);
        self.kept.push_back(Kept { tail, index, body: bytes, flow, id, via: id, sent_at: now, tries: 1 });
    }

    /// A packet was too large for its way; a body of that size would have passed.
    pub(in crate::session) fn handle_too_large(
        &mut self,
        tail: &[u8; 8],
        body: usize,
        ctx: &mut Context<'_>,
    ) {
        self.routes.on_too_large(tail, body.saturating_sub(OVERHEAD));
        self.tend_ways(ctx);
    }

    /// A hop says that it has no such session: is it the answer to a probe?
    pub(super) fn on_probed(&mut self, tail: &[u8; 8], ctx: &mut Context<'_>) -> bool {
        if self.on_traced(tail, ctx) {
            return true;
        }
        let is_probe = self.routes.is_probe(tail);
        if is_probe {
            self.with_ways(ctx, |routes, env| routes.on_probed(env));
            self.tend_ways(ctx);
        }
        is_probe
    }

    // What goes.

    /// Seals and sends along the way of the flow that the packet belongs to.
    pub(super) fn send_by_choice(&mut self, channel: u8, payload: &[u8], ctx: &mut Context<'_>) {
        let flow = flow_of(channel, payload);
        let pick = match ctx.neighbours {
            Some(_) => self.with_ways(ctx, |routes, env| routes.pick(flow, payload.len(), env)),
            None => Pick::Trees(u8::MAX),
        };
        let asks = channel < channel::KEEPALIVE || channel == channel::PING;
        self.send_by(pick, false, asks, None, channel, payload, ctx);
        if ctx.neighbours.is_some() && channel < channel::KEEPALIVE {
            self.with_ways(ctx, |routes, env| routes.wish(env));
        }
        if self.routes.has_todo() {
            self.tend_ways(ctx);
        }
    }

    /// Seals and sends along a way. `record`: its hops shall write themselves down; `asks`: the peer will give a sign of it,
    /// and until it does one is owed; `about`: which of the peer's ways it shall hear of.
    #[allow(clippy::too_many_arguments)] // what makes a packet
    fn send_by(
        &mut self,
        pick: Pick,
        record: bool,
        asks: bool,
        about: Option<u8>,
        channel: u8,
        payload: &[u8],
        ctx: &mut Context<'_>,
    ) {
        let (Some(keys), Some(place)) = (&mut self.current, &self.place) else { return };
        let route = if let Pick::Way(id, _) = &pick { *id } else { 0 };
        // Searches ask by several trees: each its own flow.
        let turn = match &pick {
            Pick::Trees(mask) if record => self.routes.turn(0).wrapping_add(mask.trailing_zeros() as u8),
            _ => self.routes.turn(route),
        };
        let echo = self.feedback.take(about);
        let body = keys.seal(&header(channel, route, self.routes.sent(route), &echo), payload);
        self.bytes_out += payload.len() as u64;
        let (drawn, index) = (keys.remote.drawn(), keys.remote.nth(turn));
        self.routes.on_sent(route, tail(body.as_slice()), asks, ctx.now);
        // Ways to a peer are those around its link.
        let around = ctx.neighbours.filter(|_| record).and_then(|all| all.get(&self.sid));
        let to = match pick {
            Pick::Way(_, ports) => Destination::Back(ports),
            Pick::Trees(mask) if let Some(&(avoid, _)) = around => {
                Destination::Around { sid: self.sid, locator: place.locator.clone(), avoid, mask, record }
            }
            Pick::Trees(mask) => {
                Destination::Node { sid: self.sid, locator: place.locator.clone(), mask, record }
            }
        };
        if channel < channel::KEEPALIVE && payload.len() <= MTU_MIN && ctx.neighbours.is_some() {
            self.keep(flow_of(channel, payload), route, drawn, &body, ctx.now);
        }
        ctx.out.push_back(Outbound { to, index, body });
    }

    /// Answers along the way that the peer's latest packet came by, which is thereby shown to work both ways.
    pub(super) fn answer(&mut self, channel: u8, payload: &[u8], about: Option<u8>, ctx: &mut Context<'_>) {
        if self.can_send() {
            self.answer_with(channel, payload, about, Bytes::new(), ctx);
        }
    }

    /// Answers a PING; one that came with the hops of its way brings them back.
    pub(super) fn answer_ping(
        &mut self,
        token: &[u8; 8],
        route: u8,
        packet: &Inbound<'_>,
        ctx: &mut Context<'_>,
    ) {
        if !self.can_send() {
            return;
        }
        let mut list = Vec::new();
        if let List::Record(record) = &packet.list {
            record.encode(None, &mut list);
        }
        self.answer_with(channel::PONG, token, Some(route), list.into(), ctx);
    }

    fn answer_with(
        &mut self,
        channel: u8,
        payload: &[u8],
        about: Option<u8>,
        record: Bytes,
        ctx: &mut Context<'_>,
    ) {
        if ctx.neighbours.is_none() || self.way.is_empty() {
            self.send_by(Pick::Trees(u8::MAX), false, false, about, channel, payload, ctx);
            return;
        }
        let Some(keys) = &mut self.current else { return };
        let echo = self.feedback.take(about);
        let body = keys.seal(&header(channel, ROUTE_BACK, 0, &echo), payload);
        self.bytes_out += payload.len() as u64;
        self.tails.push(tail(body.as_slice()));
        let way = Bytes::copy_from_slice(&self.way);
        let to = if record.is_empty() { Destination::Back(way) } else { Destination::Reply { way, record } };
        // What came by that index has arrived: its answer bears the one that belongs to it.
        ctx.out.push_back(Outbound { to, index: keys.remote.nth(self.turn), body });
    }

    // What the ways want.

    /// The map has found links that may lead to the node.
    pub(in crate::session) fn handle_links(&mut self, links: &[SeenLink], ctx: &mut Context<'_>) {
        if ctx.neighbours.is_none() {
            return;
        }
        self.routes.on_links(links, ctx.now);
        if self.attempt.is_some() && self.via.is_none() {
            self.mapped = true;
            self.send_init_by_ways(ctx);
        }
        if self.can_send() {
            self.tend_ways(ctx);
        }
    }

    /// INIT by the ways that the map gave, two of them each time. It is the same INIT: whichever comes first is answered.
    pub(super) fn send_init_by_ways(&mut self, ctx: &mut Context<'_>) {
        let tried = self.attempt.as_mut().map(|attempt| std::mem::take(&mut attempt.by_ways));
        let ways = self.with_ways(ctx, |routes, env| routes.untried(&tried.unwrap_or_default(), env));
        let Some(attempt) = self.attempt.as_mut() else { return };
        for (id, ports) in ways.into_iter().take(INITS_BY_WAYS) {
            attempt.by_ways.push(id);
            ctx.out.push_back(Outbound::back(&ports, any_index(ctx.entropy), &attempt.body));
        }
    }

    /// Does what is due for the ways.
    pub(super) fn tend_ways(&mut self, ctx: &mut Context<'_>) {
        if ctx.neighbours.is_none() {
            return;
        }
        self.with_ways(ctx, |routes, env| routes.handle_timeout(env));
        // Each brings at most one more of each sort: bounded.
        for _ in 0..TODO_MAX {
            let Some(todo) = self.routes.poll() else { break };
            match todo {
                Todo::Ask(id) => {
                    let pick = match self.routes.ports(id) {
                        Some(ports) => Pick::Way(id, ports),
                        None if id == 0 => {
                            Pick::Trees(self.with_ways(ctx, |routes, env| routes.mask(env.trees)))
                        }
                        None => continue,
                    };
                    self.ask(pick, id, false, ctx);
                }
                Todo::Again(id) => self.send_again(Some(id), ctx),
                Todo::Record(mask) => self.ask(Pick::Trees(mask), 0, true, ctx),
                Todo::Probe(ports) => self.probe(ports, ctx),
                Todo::Map => ctx.events.push_back(SessionEvent::Cornered { node: self.node }),
                Todo::Doubt(port) => ctx.events.push_back(SessionEvent::Doubt(Doubt::Peer(port))),
                Todo::DoubtTrees(mask) => {
                    ctx.events.push_back(SessionEvent::Doubt(Doubt::Trees(self.node, mask)));
                }
                Todo::Moved => ctx.events.push_back(SessionEvent::Moved { node: self.node }),
                Todo::Mtu => ctx.events.push_back(SessionEvent::Mtu { node: self.node }),
            }
        }
    }

    /// Sends a packet that ends at a hop: it looks like any other, and no session of the hop has its index.
    fn probe(&mut self, ports: Bytes, ctx: &mut Context<'_>) {
        let (index, body) = probe(ctx.entropy);
        self.routes.on_probe(tail(body.as_slice()), ctx.now);
        ctx.out.push_back(Outbound { to: Destination::Back(ports), index, body });
    }

    fn ask(&mut self, pick: Pick, id: u8, record: bool, ctx: &mut Context<'_>) {
        if !self.can_send() {
            return;
        }
        let token: [u8; 8] = random(ctx.entropy);
        self.routes.on_ask(token, id, ctx.now);
        // It is watched by itself, so nothing is owed for it.
        self.send_by(pick, record, false, None, channel::PING, &token, ctx);
    }

    /// Largest payloads that all ways to the peer take, and the broadest.
    pub(in crate::session) fn mtu(&self) -> Option<(usize, usize)> {
        self.routes.mtus()
    }

    /// The ways, for people to read.
    pub(in crate::session) fn routes(&self) -> Vec<RouteInfo> {
        self.routes.infos()
    }

    fn with_ways<T>(
        &mut self,
        ctx: &mut Context<'_>,
        act: impl FnOnce(&mut crate::route::choose::Routes, &mut Env<'_>) -> T,
    ) -> T {
        let none = crate::route::view::Neighbours::new();
        let mut env = Env {
            neighbours: ctx.neighbours.unwrap_or(&none),
            epoch: ctx.epoch,
            blame: ctx.blame,
            trees: self.place.as_ref().map_or(0, |place| place.locator.mask()),
            now: ctx.now,
        };
        act(&mut self.routes, &mut env)
    }
}

fn header(channel: u8, route: u8, sent: u32, echo: &Echo) -> SealedHeader {
    let Echo { route: echo_route, received: echo_received, load: echo_load } = *echo;
    SealedHeader { channel, route, sent, echo_route, echo_received, echo_load }
}

/// Index and body of a packet as sessions send them, of nobody's session.
pub(super) fn probe(entropy: &mut dyn Entropy) -> (u32, Body) {
    let mut body = Body::with_capacity(PROBE_BYTES);
    body.put_byte(body::DATA);
    // The counter of a session that has been used a little.
    body.put_eight(u64::from(u16::from_be_bytes(random(entropy))));
    while body.as_slice().len() < PROBE_BYTES {
        body.put(&random::<8>(entropy));
    }
    (any_index(entropy), body)
}

/// What a packet of no session bears: nobody can choose by it which to drop but by chance.
pub(super) fn any_index(entropy: &mut dyn Entropy) -> u32 {
    u32::from_be_bytes(random(entropy)).max(1)
}

/// Packets of streams are one flow; those of the TUN are told apart by protocol, ports and flow label.
fn flow_of(channel: u8, payload: &[u8]) -> usize {
    if channel != channel::IP {
        return 0;
    }
    let mut mix = 0u32;
    let label = payload.get(1..4).into_iter();
    let ends = payload.get(40..44).filter(|_| matches!(payload.get(6), Some(6 | 17))).into_iter();
    for &byte in label.chain(ends).flatten().chain(payload.get(6)) {
        mix = mix.wrapping_mul(31).wrapping_add(u32::from(byte));
    }
    1 + (mix.wrapping_mul(0x9e37_79b9) >> 16) as usize % (FLOWS - 1)
}

/// Length of a probe: that of a question with a little to say.
const PROBE_BYTES: usize = 9 + 12 + 16 + 48;
/// Ways that one repetition of INIT takes beside the trees.
const INITS_BY_WAYS: usize = 3;
/// What a packet that goes once more under new keys is longer than before.
const AGAIN_BYTES: usize = 4;
/// Questions, records and news that one call may bring.
const TODO_MAX: usize = 64;
