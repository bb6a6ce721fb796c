//! Owns what audits do with a session: begin one by a given way, send and answer probes. Their ways are no ways for
//! packets, so nothing here tells [`crate::route`] of them.
use super::super::{Refused, SessionEvent};
use super::{Context, IDLE_AUDIT, Session};
use crate::crypto::random;
use crate::id::Port;
use crate::route::feedback::Echo;
use crate::time::Instant;
use crate::wire::body::sealed::{ROUTE_BACK, SealedHeader, channel};
use crate::wire::body::{Destination, Inbound, Outbound};
use crate::wire::codec::{Reader, Writer};
use bytes::Bytes;

impl Session {
    /// Begins a handshake along those ports; without any, wherever the node is found.
    pub(in crate::session) fn meet(&mut self, via: Option<Bytes>, ctx: &mut Context<'_>) {
        self.kept_until = ctx.now + IDLE_AUDIT;
        if self.attempt.is_some() {
            return;
        }
        if via.is_some() {
            self.via = via;
            self.begin_attempt(ctx);
        } else if self.current.is_none() {
            self.meeting = true;
            self.strive(ctx);
        } else if self.place.is_some() {
            self.begin_attempt(ctx);
        }
    }

    /// When a packet of the node was opened last; `None` if nothing can be sealed for it.
    pub(in crate::session) fn heard_at(&self) -> Option<Instant> {
        self.heard_at.filter(|_| self.can_send())
    }

    /// Sends a probe there.
    pub(in crate::session) fn audit(
        &mut self,
        token: &[u8; 8],
        pad: usize,
        to: Destination,
        ctx: &mut Context<'_>,
    ) {
        let mut payload = Vec::with_capacity(8 + pad);
        payload.put(token);
        payload.resize(8 + pad, 0);
        // Each is a flow of its own to whoever passes it on.
        let [turn] = random(ctx.entropy);
        self.send_veiled(channel::PROBE, &payload, to, turn, ctx);
    }

    /// Where the session's packets go by the trees, past a peer.
    pub(in crate::session) fn around(&self, avoid: Port) -> Option<Destination> {
        let place = self.place.as_ref()?;
        Some(Destination::Around {
            sid: self.sid,
            locator: place.locator.clone(),
            avoid,
            mask: u8::MAX,
            record: false,
        })
    }

    pub(super) fn on_probe(
        &mut self,
        header: &SealedHeader,
        payload: &[u8],
        packet: &Inbound<'_>,
        ctx: &mut Context<'_>,
    ) -> Result<(), Refused> {
        let token: [u8; 8] = Reader::new(payload).array().map_err(|_| Refused::Bad)?;
        // When sessions are too many it does not count as use.
        self.kept_until = ctx.now + IDLE_AUDIT;
        if header.channel == channel::PROBE {
            let mut answer = Vec::with_capacity(16);
            answer.put(&token);
            let pick = usize::from(token[0]);
            let ports: Vec<Port> =
                ctx.neighbours.iter().flat_map(|all| all.values().map(|(port, _)| *port)).collect();
            for at in 0..ports.len().min(PORTS_TOLD) {
                answer.put_port(ports[(pick + at) % ports.len()]);
            }
            let way = Destination::Veiled(Bytes::copy_from_slice(packet.way));
            self.send_veiled(channel::PROBED, &answer, way, self.turn, ctx);
        } else {
            let beyond = Bytes::copy_from_slice(payload.get(8..).unwrap_or_default());
            ctx.events.push_back(SessionEvent::Probed { from: self.node, token, beyond });
        }
        Ok(())
    }

    /// Keys are not renewed for that: an idle session would cost a handshake at each probe.
    fn send_veiled(&mut self, channel: u8, payload: &[u8], to: Destination, turn: u8, ctx: &mut Context<'_>) {
        if !self.can_send() {
            return;
        }
        let Some(keys) = &mut self.current else { return };
        self.kept_until = ctx.now + IDLE_AUDIT;
        let Echo { route, received, load } = self.feedback.take(None);
        let header = SealedHeader {
            channel,
            route: ROUTE_BACK,
            sent: 0,
            echo_route: route,
            echo_received: received,
            echo_load: load,
        };
        let body = keys.seal(&header, payload);
        ctx.out.push_back(Outbound { to, index: keys.remote.nth(turn), body });
    }
}

/// Ports of this node that the answer to a probe tells.
const PORTS_TOLD: usize = 2;
