//! Owns what is learned of ways: by packets that come, replies, notices, and probes of their hops.
use super::super::feedback::Echo;
use super::super::view::{Path, SeenLink, View};
use super::way::State;
use super::{Env, Routes, Todo};
use crate::audit::locate::Step;
use crate::config::MTU_MIN;
use crate::time::{Duration, Instant};
use crate::wire::{Record, Reply};
use bytes::Bytes;

impl Routes {
    /// A packet that is proved to come from the other end came by this way (ports that lead back).
    pub fn on_way(&mut self, way: &[u8], rtt: Option<Duration>, now: Instant) {
        if let Some(known) = self.ways.iter_mut().find(|known| known.path.ports == way) {
            if known.state == State::Fresh {
                known.state = State::Live;
                rtt.into_iter().for_each(|rtt| known.gauge.begin(rtt));
            }
            return;
        }
        // It is worth something only while nothing better is known.
        if self.ways.iter().any(|known| known.state == State::Live) || way.is_empty() {
            return;
        }
        let path = Path { ports: Bytes::copy_from_slice(way), nodes: Vec::new(), cost: 0, frame_max: 0 };
        let mut known = self.make(path, now);
        known.state = State::Live;
        if let Some(rtt) = rtt {
            known.gauge.begin(rtt);
        }
        self.ways.push(known);
        self.limit();
    }

    /// A reply to a record of ours came by this way.
    pub fn on_reply(&mut self, way: &[u8], reply: &Reply<'_>, now: Instant) {
        let view = self.view.get_or_insert_with(|| Box::new(View::new(self.me, self.there)));
        self.rebuild |= view.learn_reply(way, reply, now);
    }

    /// A record of theirs came by this way.
    pub fn on_record(&mut self, way: &[u8], record: &Record<'_>, now: Instant) {
        let view = self.view.get_or_insert_with(|| Box::new(View::new(self.me, self.there)));
        self.rebuild |= view.learn_record(way, record, now);
    }

    /// The map has found these links.
    pub fn on_links(&mut self, links: &[SeenLink], now: Instant) {
        let view = self.view.get_or_insert_with(|| Box::new(View::new(self.me, self.there)));
        view.learn_links(links, now);
        self.rebuild = true;
    }

    /// The other end says what came by a way. True if more has come with its number than before.
    pub fn on_echo(&mut self, echo: &Echo, env: &mut Env<'_>) -> bool {
        let Some(gauge) = self.gauge(echo.route) else { return false };
        let news = gauge.on_echo(echo, env.now);
        if news.works {
            self.works(echo.route, env);
        }
        news.grown
    }

    /// A packet that had been sent by the way `from` goes once more by `to`.
    pub fn on_resent(&mut self, from: u8, to: u8, tail: [u8; 8], now: Instant) {
        if from != to
            && let Some(gauge) = self.gauge(from)
        {
            gauge.excuse(&tail);
        }
        if let Some(gauge) = self.gauge(to) {
            gauge.on_resent(tail, now);
        }
    }

    /// A packet that went once more, by that way, has arrived.
    pub fn on_resent_arrived(&mut self, id: u8, env: &mut Env<'_>) {
        if let Some(gauge) = self.gauge(id) {
            gauge.forgive();
            self.works(id, env);
        }
    }

    /// Can a packet sent by that way at that time have been told of by now?
    pub fn is_told_of(&self, id: u8, sent_at: Instant, now: Instant) -> bool {
        let gauge = if id == 0 { Some(&self.trees) } else { self.way(id).map(|way| &way.gauge) };
        gauge
            .is_some_and(|gauge| gauge.is_complete() || sent_at + gauge.srtt().unwrap_or_default() / 2 <= now)
    }

    /// A question was answered. Gives the round trip.
    pub fn on_pong(&mut self, token: &[u8; 8], env: &mut Env<'_>) -> Option<Duration> {
        let at = self.asks.iter().position(|ask| ask.token == *token)?;
        let ask = self.asks.swap_remove(at);
        let rtt = env.now - ask.sent_at;
        self.gauge(ask.way)?.on_pong(rtt, ask.sent_then, env.now);
        self.works(ask.way, env);
        self.review(env.now);
        Some(rtt)
    }

    /// A packet of ours, named by its tail, did not arrive: it is believed of the latest packets of each way. True if it was
    /// one that went by a way (not by the trees).
    pub fn on_lost(&mut self, tail: &[u8; 8], env: &mut Env<'_>) -> bool {
        let Some(at) = self.ways.iter().position(|way| way.gauge.tails().holds(tail)) else {
            if self.trees.tails().holds(tail) {
                self.fail(0, false, env);
            }
            return false;
        };
        let id = self.ways[at].id;
        self.fail(id, false, env);
        true
    }

    /// A packet of ours was too large for its way; `payload` would have passed. True if it was one of ours.
    pub fn on_too_large(&mut self, tail: &[u8; 8], payload: usize) -> bool {
        let Some(way) = self.ways.iter_mut().find(|way| way.gauge.tails().holds(tail)) else {
            return self.trees.tails().holds(tail);
        };
        if payload < way.mtu {
            way.mtu = payload.max(MTU_MIN);
            self.todo.push(Todo::Mtu);
        }
        true
    }

    /// Did a packet with that tail go by one of the ways, or by the trees?
    pub fn sent_recently(&self, tail: &[u8; 8]) -> bool {
        self.trees.tails().holds(tail) || self.ways.iter().any(|way| way.gauge.tails().holds(tail))
    }

    /// The other end has moved: ways to where it was may have ended. They are asked at once if packets go by them, and
    /// otherwise before any does; others are looked for with the next packet.
    pub fn on_moved(&mut self, now: Instant) {
        self.refreshed_at = None;
        self.rung = 0;
        if now < self.is_active_until() {
            let live = self.ways.iter().filter(|way| way.state == State::Live && !way.is_direct());
            self.todo.extend(live.map(|way| Todo::Ask(way.id)));
        } else {
            self.doubt();
        }
    }

    /// Is that the tail of a probe under way?
    pub fn is_probe(&self, tail: &[u8; 8]) -> bool {
        self.search.as_ref().is_some_and(|search| search.holds(tail))
    }

    /// A hop has answered a probe.
    pub fn on_probed(&mut self, env: &mut Env<'_>) {
        if let Some(search) = &mut self.search {
            search.on_answer(env.blame, env.now);
            self.probe(env);
        }
    }

    /// A probe goes out.
    pub fn on_probe(&mut self, tail: [u8; 8], now: Instant) {
        if let Some(search) = &mut self.search {
            search.on_sent(tail, now);
        }
    }

    pub(super) fn probe(&mut self, env: &mut Env<'_>) {
        let Some(search) = &mut self.search else { return };
        match search.step(env.blame, env.now) {
            Step::Wait => {}
            Step::Probe(ports) => self.todo.push(Todo::Probe(ports)),
            Step::Found(from, to) => {
                self.search = None;
                env.blame.convict(from, to, env.now);
                self.blame.convict(from, to, env.now);
                self.rebuild |= self.view.is_some();
            }
        }
    }
}
