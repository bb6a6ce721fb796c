//! Owns what audits have to do with the rest of the node: what they see of it, what they send, what follows from them.
use super::Router;
use crate::audit::{Ask, Verdict, View};
use crate::crypto::random;
use crate::endpoint::Endpoint;
use crate::forward;
use crate::id::{LinkId, NodeId, Port};
use crate::peer::PeerTable;
use crate::peer::link::Link;
use crate::session::{Doubt, ProbeWay};
use crate::time::Instant;
use crate::timer::Timer;
use crate::tree::Trees;
use crate::wire::codec::Writer;
use std::collections::BTreeMap;

struct Sight<'a> {
    links: &'a BTreeMap<LinkId, Box<Link>>,
    peers: &'a PeerTable,
    table: &'a forward::Table,
    endpoint: &'a Endpoint,
    trees: &'a Trees,
}

impl View for Sight<'_> {
    fn sent(&self, port: Port) -> u64 {
        let links = self.peers.get(port).into_iter().flat_map(|peer| &peer.links);
        links.filter_map(|id| self.links.get(id)).map(|link| link.packet_bytes_out).sum()
    }

    fn size(&self, port: Port) -> usize {
        self.table.peer(port).map_or(0, |peer| peer.passed.into())
    }

    fn session(&self, node: &NodeId) -> Option<Instant> {
        self.endpoint.heard_at(node)
    }

    fn claims(&self, port: Port) -> Vec<NodeId> {
        self.trees.claims(port)
    }

    fn is_parent(&self, port: Port) -> bool {
        self.trees.is_parent(port)
    }
}

impl Router {
    pub(super) fn on_audit_timeout(&mut self, now: Instant) {
        let sight = Sight {
            links: &self.links,
            peers: &self.peers,
            table: &self.table,
            endpoint: &self.endpoint,
            trees: &self.trees,
        };
        self.audit.handle_timeout(&sight, &mut *self.entropy, now);
        self.audit_touched = true;
    }

    /// Carries what the audits want.
    pub(super) fn settle_audit(&mut self, now: Instant) {
        while let Some((port, control)) = self.audit.poll_frame() {
            self.send_control(port, &control, now);
        }
        while let Some(ask) = self.audit.poll_ask() {
            let entropy = &mut *self.entropy;
            match ask {
                Ask::Probe { to, ports, token, pad } => {
                    self.endpoint.probe(&to, token, pad, ProbeWay::Ports(ports), entropy, now);
                }
                Ask::Meet { to, ports } => self.endpoint.meet(to, ports, entropy, now),
                Ask::Check { to, avoid } => {
                    let token = random(entropy);
                    self.endpoint.probe(&to, token, 0, ProbeWay::Around(avoid), entropy, now);
                }
            }
            self.endpoint_touched = true;
        }
        while let Some(verdict) = self.audit.poll_verdict() {
            match verdict {
                Verdict::Mute(port, mute) => {
                    if let Some(peer) = self.table.peer_mut(port) {
                        peer.mute = mute;
                    }
                    self.choices.forget();
                }
                Verdict::Suspect(port, suspect) => {
                    if let Some(peer) = self.table.peer_mut(port) {
                        peer.suspect = suspect;
                    }
                    self.choices.forget();
                    self.trees.on_suspect(port, suspect, now);
                }
                Verdict::Places(port, proved, void) => self.trees.on_places(port, proved, void, now),
            }
            self.trees_touched = true;
        }
        self.timers.set(Timer::Audit, self.audit.deadline());
    }

    /// Packets went unanswered: the peer that they were given to is audited sooner.
    pub(super) fn on_doubt(&mut self, doubt: &Doubt, now: Instant) {
        let port = match *doubt {
            Doubt::Peer(port) => Some(port),
            Doubt::Trees(node, mask) => {
                let locator = self.endpoint.locator(&node);
                locator.and_then(|locator| self.first_hop(node.sid(), &locator, mask))
            }
        };
        if let Some(port) = port {
            self.audit.on_doubt(port, now);
            self.audit_touched = true;
        }
    }

    /// What a packet of this node seems to have come by before: a port that leads to another peer, and such as most
    /// nodes have.
    pub(super) fn made_up_way(&mut self, out: Port) -> Vec<u8> {
        let [pick, more, a, b] = random(&mut *self.entropy);
        let mut others = self.table.peers.iter().map(|peer| peer.port).filter(|port| *port != out);
        let count = self.table.peers.len().saturating_sub(1).max(1);
        let mut way = Vec::with_capacity(8);
        way.put_port(others.nth(usize::from(pick) % count).unwrap_or_else(|| Port(1 + u16::from(pick % 6))));
        for junk in [a, b].iter().take(usize::from(more % 3)) {
            way.put_port(Port(1 + u16::from(junk % 8)));
        }
        way
    }
}
