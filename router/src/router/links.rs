//! Owns the way between links, peers and trees: what comes up or goes down, and control frames.
use super::{Event, PeerInfo, Router};
use crate::config::{LinkKind, LinkSpec};
use crate::error::LinkError;
use crate::forward::HopPeer;
use crate::id::{LinkId, Port};
use crate::peer::PEER_LINKS_MAX;
use crate::peer::handshake::Ours;
use crate::peer::link::{Alive, Incoming, Link};
use crate::rate::Rate;
use crate::time::Instant;
use crate::timer::Timer;
use crate::wire::Control;
use crate::wire::hello::Proof;
use bytes::Bytes;

impl Router {
    pub(super) fn open_link(&mut self, id: LinkId, spec: LinkSpec, now: Instant) {
        debug_assert!(!self.links.contains_key(&id), "a LinkId is never reused");
        if self.links.len() >= LINKS_MAX {
            self.events.push_back(Event::LinkClose { link: id, reason: LinkError::TooMany });
            return;
        }
        let ours = Ours {
            class: self.config.class,
            trees: self.trees.len() as u8,
            mtu: u32::try_from(spec.mtu).unwrap_or(u32::MAX),
        };
        let link = Link::new(id, spec, ours, self.config.queue_bytes_max, &mut *self.entropy, now);
        self.links.insert(id, Box::new(link));
        self.touch_link(id);
    }

    pub(super) fn on_frame(&mut self, id: LinkId, frame: &[u8], now: Instant) {
        let Some(link) = self.links.get_mut(&id) else { return };
        let was_late = link.late;
        let result = link.handle_frame(frame, &self.secret, now);
        let (port, kind, up) = (link.port, link.spec.kind, link.is_up());
        if was_late
            && !link.late
            && let Some(port) = port
        {
            self.choose_link(port, now);
        }
        match result {
            Ok(Incoming::Nothing) => self.touch_link(id),
            Ok(Incoming::Established(proof)) => self.on_established(id, proof, now),
            Ok(Incoming::CostChanged) => {
                self.touch_link(id);
                if let Some(port) = port {
                    self.choose_link(port, now);
                }
            }
            Ok(Incoming::Control(control)) => {
                self.touch_link(id);
                if let (Some(port), Control::Vicinity { entries }) = (port, &control) {
                    self.vicinity.on_frame(port, entries, now);
                    self.arm_vicinity();
                } else if let (Some(port), Control::Peers { .. }) = (port, &control) {
                    self.audit.on_frame(port, control, now);
                    self.audit_touched = true;
                } else if let Some(port) = port {
                    self.trees.on_frame(port, control, &mut self.stats, now);
                    self.trees_touched = true;
                }
            }
            Ok(Incoming::Packet(packet)) => {
                if let Some(port) = port {
                    self.on_packet(port, packet, now);
                }
            }
            Ok(Incoming::Joined(packet)) => {
                if let Some(port) = port {
                    self.on_packet(port, &packet, now);
                }
            }
            Ok(Incoming::Unknown) => self.stats.frames_unknown += 1,
            // Anybody can throw datagrams at us: those that do not fit are none.
            Err(LinkError::Frame(_)) if kind == LinkKind::Datagram => self.stats.frames_bad += 1,
            Err(reason) => {
                self.stats.frames_bad += u64::from(up);
                self.stats.handshakes_failed += u64::from(!up);
                self.close_link(id, reason, now);
            }
        }
    }

    fn on_established(&mut self, id: LinkId, proof: Proof, now: Instant) {
        let Some((peer, new)) = self.peers.add_link(proof.node, proof.class, id, now) else {
            return self.close_link(id, LinkError::TooMany, now);
        };
        let (port, sid, active, crowd) =
            (peer.port, peer.sid, peer.active, peer.links.len() > PEER_LINKS_MAX);
        let oldest = peer.links.iter().copied().find(|&other| other != active);
        let Some(link) = self.links.get_mut(&id) else { return };
        link.port = Some(port);
        let (cost, control_max, span) = (link.cost.get(), link.control_max(), link.span());
        self.touch_link(id);
        self.events.push_back(Event::PeerUp { link: id, node: proof.node });
        if new {
            self.choices.forget();
            self.table.insert(HopPeer {
                port,
                node: proof.node,
                sid,
                cost,
                link: id,
                late: false,
                suspect: false,
                mute: false,
                passed: 0,
                trees: Default::default(),
            });
            self.notices.insert(port, Rate::new(NOTICES_BURST, NOTICES_PER_SECOND, now));
            self.trees.on_peer_up(port, proof.node, proof.class, cost, control_max, now);
            self.vicinity.on_peer_up(port, sid, cost, now);
            self.arm_vicinity();
            self.audit.on_peer_up(port, proof.node, &mut *self.entropy, now);
            self.audit_touched = true;
            self.trees_touched = true;
            self.endpoint.handle_link(proof.node, port, span);
            self.endpoint.handle_peer(proof.node, self.trees.peer_locator(port), &mut *self.entropy, now);
            self.endpoint_touched = true;
            self.events.push_back(Event::PathChanged { node: proof.node });
            return;
        }
        // A second link often means that the peer has lost the first.
        if let Some(first) = self.links.get_mut(&active) {
            first.ping(now);
        }
        self.touch_link(active);
        self.choose_link(port, now);
        if crowd && let Some(oldest) = oldest {
            self.close_link(oldest, LinkError::TooMany, now);
        }
    }

    /// Which of a peer's links do frames go over? One that is not late, the cheapest; among equals the one in use.
    fn choose_link(&mut self, port: Port, now: Instant) {
        let Some(peer) = self.peers.get_mut(port) else { return };
        let worth = |id: LinkId| {
            let link = self.links.get(&id)?;
            // A quarter, or one at least: no moving to and fro.
            let cost = u32::from(link.cost.get()) * 5 + u32::from(id != peer.active) * 6;
            Some((link.late, cost, std::cmp::Reverse(link.since), id))
        };
        let Some((late, _, _, best)) = peer.links.iter().filter_map(|&id| worth(id)).min() else { return };
        let moved = best != peer.active;
        peer.active = best;
        let Some(link) = self.links.get(&best) else { return };
        let (cost, control_max, silent) = (link.cost.get(), link.control_max(), link.silent);
        self.endpoint.handle_link(peer.node, port, link.span());
        self.choices.forget();
        if let Some(hop) = self.table.peer_mut(port) {
            hop.link = best;
            hop.cost = cost;
            hop.late = late;
        }
        self.trees.on_peer_link(port, cost, control_max, now);
        self.trees.on_peer_silent(port, silent, now);
        self.vicinity.on_peer_cost(port, cost, now);
        if moved {
            self.vicinity.on_peer_moved(port);
            self.trees.on_peer_moved(port);
            self.audit.on_peer_moved(port, now);
            self.audit_touched = true;
        }
        self.arm_vicinity();
        self.trees_touched = true;
    }

    pub(super) fn arm_vicinity(&mut self) {
        self.timers.set(Timer::Vicinity, self.vicinity.deadline());
    }

    pub(super) fn close_link(&mut self, id: LinkId, reason: LinkError, now: Instant) {
        if self.links.contains_key(&id) {
            self.drop_link(id, now);
            self.events.push_back(Event::LinkClose { link: id, reason });
        }
    }

    pub(super) fn drop_link(&mut self, id: LinkId, now: Instant) {
        let Some(mut link) = self.links.remove(&id) else { return };
        self.timers.set(Timer::Link(id), None);
        self.stats.dropped_queue += link.take_dropped();
        let Some(port) = link.port else { return };
        let Some(node) = self.peers.get(port).map(|peer| peer.node) else { return };
        self.events.push_back(Event::PeerDown { link: id, node });
        if self.peers.remove_link(port, id, now).is_none() {
            // Others are left. What waited for this one is lost.
            self.vicinity.on_peer_moved(port);
            self.trees.on_peer_moved(port);
            self.audit.on_peer_moved(port, now);
            self.audit_touched = true;
            return self.choose_link(port, now);
        }
        self.choices.forget();
        self.table.remove(port);
        self.table.me.iter_mut().for_each(|generations| generations.lose(port));
        self.notices.remove(&port);
        self.trees.on_peer_down(port, now);
        self.vicinity.on_peer_down(port, now);
        self.arm_vicinity();
        self.audit.on_peer_down(port, now);
        self.audit_touched = true;
        self.endpoint.handle_peer_lost(node, &mut *self.entropy, now);
        self.trees_touched = true;
        self.endpoint_touched = true;
        self.events.push_back(Event::PathChanged { node });
    }

    pub(super) fn on_link_timeout(&mut self, id: LinkId, now: Instant) {
        let Some(link) = self.links.get_mut(&id) else { return };
        link.timer = None;
        let alive = link.handle_timeout(now);
        let (port, up) = (link.port, link.is_up());
        self.touch_link(id);
        match alive {
            Alive::Yes => {}
            Alive::Changed => {
                if let Some(port) = port {
                    self.choose_link(port, now);
                }
            }
            Alive::No => {
                self.stats.handshakes_failed += u64::from(!up);
                self.close_link(id, LinkError::Timeout, now);
            }
        }
    }

    /// Reports the link if it has something to send, and moves its timer if that must be earlier.
    pub(super) fn touch_link(&mut self, id: LinkId) {
        let Some(link) = self.links.get_mut(&id) else { return };
        if !link.reported && link.wants_to_send() {
            link.reported = true;
            self.ready.push_back(id);
        }
        Self::arm(&mut self.timers, link);
    }

    fn arm(timers: &mut crate::timer::TimerTable, link: &mut Link) {
        let deadline = link.deadline();
        if link.timer.is_none_or(|timer| deadline < timer) {
            link.timer = Some(deadline);
            timers.set(Timer::Link(link.id), Some(deadline));
        }
    }

    pub(super) fn next_frame(&mut self, id: LinkId, now: Instant) -> Option<Bytes> {
        let link = self.links.get_mut(&id)?;
        let next = link.poll_transmit(now);
        self.stats.dropped_queue += link.take_dropped();
        let Some((frame, control)) = next else {
            link.reported = false;
            return None;
        };
        Self::arm(&mut self.timers, link);
        self.stats.frames_out += 1;
        self.stats.bytes_out += frame.len() as u64;
        if let Some(kind) = control {
            self.stats.control_frames_out += 1;
            self.stats.control_bytes_out += frame.len() as u64;
            self.stats.control_kinds.add(kind, frame.len());
        }
        Some(frame)
    }

    /// Carries what the trees have to say.
    pub(super) fn settle_trees(&mut self, now: Instant) {
        while let Some((port, control)) = self.trees.poll_frame() {
            self.send_control(port, &control, now);
        }
        while let Some(port) = self.trees.poll_hint() {
            if let Some(peer) = self.peers.get(port) {
                let active = peer.active;
                if let Some(link) = self.links.get_mut(&active) {
                    link.doubt(now);
                }
                self.touch_link(active);
            }
        }
        while let Some(port) = self.trees.poll_claim() {
            self.audit.on_parent(port, now);
            self.audit_touched = true;
        }
        let mut moved: Option<Port> = None;
        while let Some((port, tree)) = self.trees.poll_change() {
            self.endpoint_touched = true;
            if port == Port::SELF {
                let parent = self.trees.parent_port(tree);
                self.meeting.see(tree, self.trees.root_rank(tree), self.trees.len(), now);
                self.table.me[tree].set(Some(self.trees.coords(tree)), parent, now);
            } else if let Some(peer) = self.table.peer_mut(port) {
                peer.trees[tree].set(self.trees.peer_coords(port, tree), None, now);
            }
            if moved.is_some_and(|moved| moved != port) {
                self.tell_endpoint(moved, now);
            }
            moved = Some(port);
        }
        self.tell_endpoint(moved, now);
        if moved.is_some_and(|port| port != Port::SELF) && self.trees.hangs_on_one() {
            // Of what others know of this node, a part may lie over a peer that is not its parent.
            self.tell_endpoint(Some(Port::SELF), now);
        }
        if moved.is_some() {
            self.choices.forget();
            self.expire_generations(now);
        }

        for port in self.trees.announceable(now) {
            let active = self.peers.get(port).map(|peer| peer.active);
            let room = active.and_then(|id| self.links.get(&id)).is_some_and(|link| link.control_has_room());
            if !room {
                self.trees.postpone(port, now);
                continue;
            }
            for control in self.trees.announce(port, now) {
                self.send_control(port, &control, now);
            }
        }
        self.stats.root_changes = self.trees.root_changes;
        self.timers.set(Timer::Meeting, self.meeting.due());
        self.timers.set(Timer::Trees, self.trees.deadline());
        self.timers.set(Timer::Announce, self.trees.announce_at());
    }

    fn tell_endpoint(&mut self, moved: Option<Port>, now: Instant) {
        match moved {
            None => {}
            Some(Port::SELF) => {
                self.endpoint.handle_coordinates(self.trees.locator(), &mut *self.entropy, now)
            }
            Some(port) => {
                if let Some(peer) = self.peers.get(port) {
                    self.endpoint.handle_peer(
                        peer.node,
                        self.trees.peer_locator(port),
                        &mut *self.entropy,
                        now,
                    );
                }
            }
        }
    }

    pub(super) fn send_control(&mut self, port: Port, control: &Control, now: Instant) {
        let Some(active) = self.peers.get(port).map(|peer| peer.active) else { return };
        if let Some(link) = self.links.get_mut(&active) {
            link.send_control(control, now);
            self.touch_link(active);
        }
    }

    pub(super) fn expire_generations(&mut self, now: Instant) {
        self.choices.forget();
        let peers = self.table.peers.iter_mut().flat_map(|peer| &mut peer.trees);
        let next = peers.chain(&mut self.table.me).filter_map(|generations| generations.expire(now)).min();
        self.timers.set(Timer::Generations, next);
    }

    pub(super) fn peer_infos(&self, now: Instant) -> Vec<PeerInfo> {
        let info = |link: &Link| {
            let peer = link.port.and_then(|port| self.peers.get(port));
            PeerInfo {
                link: link.id,
                node: peer.map(|peer| peer.node),
                kind: link.spec.kind,
                port: link.port,
                rtt: link.rtt.smoothed(),
                cost: link.cost.get(),
                active: peer.is_some_and(|peer| peer.active == link.id),
                suspect: link.port.is_some_and(|port| self.audit.is_suspect(port)),
                multicast: link.spec.multicast,
                remote: link.spec.remote.clone(),
                interface: link.spec.interface.clone(),
                bytes_in: link.bytes_in,
                bytes_out: link.bytes_out,
                up_for: now - link.since,
            }
        };
        self.links.values().map(|link| info(link)).collect()
    }
}

/// Links in all, those included whose handshake is not done: twice the peers.
const LINKS_MAX: usize = 2 * crate::peer::PEERS_MAX;
/// Notices that packets from one peer may cause at once.
const NOTICES_BURST: u32 = 64;
/// And per second.
const NOTICES_PER_SECOND: u32 = 64;
