//! Owns the way of packets: passed on, delivered, sent, refused.
use super::Router;
use crate::endpoint::{Body, Destination, Inbound, List, Outbound, Refusal, Setback};
use crate::forward::{self, Course, Hop, next_hop};
use crate::id::{Port, Sid};
use crate::lookup::Locator;
use crate::route::chords::Chords;
use crate::time::Instant;
use crate::timer::Timer;
use crate::wire::codec::port_bytes;
use crate::wire::data::{
    BUDGET, COORDS_BYTES_GOAL, COORDS_BYTES_MAX, FLAG_NO_VICINITY, FLAG_RECORD, FLAG_REPLY, FLAG_VICINITY,
    PHI_NONE, PORTS_BYTES_MAX, TTL, TURNS, split_port,
};
use crate::wire::record::{Entry, LIST_MAX};
use crate::wire::{DataS, DataT, FrameError, Notice, NoticeCode, Record, Reply, kind};
use bytes::Bytes;

impl Router {
    /// A packet or a notice from a peer.
    pub(super) fn on_packet(&mut self, from: Port, frame: &[u8], now: Instant) {
        let read = match frame.first() {
            Some(&kind::DATA_T) => DataT::decode(frame).and_then(|packet| self.on_data_t(from, packet, now)),
            Some(&kind::DATA_S) => DataS::decode(frame).and_then(|packet| self.on_data_s(from, packet, now)),
            Some(&kind::NOTICE) => Notice::decode(frame).and_then(|notice| self.on_notice(from, notice, now)),
            _ => Err(FrameError::Value),
        };
        if read.is_err() {
            self.stats.frames_bad += 1;
        }
    }

    fn on_data_t(&mut self, from: Port, packet: DataT<'_>, now: Instant) -> Result<(), FrameError> {
        let (record, body) = if packet.flags & FLAG_RECORD == 0 {
            (None, packet.body)
        } else {
            Record::split(packet.body).map(|(record, body)| (Some(record), body))?
        };
        if packet.dst == self.sid {
            let list = record.map_or(List::None, List::Record);
            self.deliver(from, packet.rev, packet.index, packet.load, list, body, now);
            return Ok(());
        }
        if packet.ttl == 0 || packet.rev.len() + 3 > PORTS_BYTES_MAX {
            self.stats.dropped_ttl += 1;
            self.refuse(from, packet.rev, NoticeCode::Ttl, 0, packet.body, now);
            return Ok(());
        }
        let mut course = Course { mask: packet.mask, phi_min: packet.phi_min, budget: packet.budget };
        let mut flags = packet.flags;
        let mark = (flags & FLAG_VICINITY != 0).then_some(course.phi_min);
        let seen =
            if flags & FLAG_NO_VICINITY == 0 { self.in_sight_hop(&packet.dst, from, mark) } else { None };
        if mark.is_some() && seen.is_none() {
            // It has been led on to where nobody sees its destination any more: by the trees from here on.
            flags = flags & !FLAG_VICINITY | FLAG_NO_VICINITY;
            course.phi_min = PHI_NONE;
        }
        let hop = match (mark, seen) {
            (Some(_), Some((index, left))) => Hop::in_sight(index, left, course),
            _ => match self.choices.recall(packet.dst, from, packet.coords, course) {
                Some((index, course, total)) => Hop::Send { index, course, total },
                None => {
                    self.destination.read(packet.coords)?;
                    let hop = next_hop(packet.dst, from, &self.destination, course, &self.table);
                    if let Hop::Send { index, course: after, total } = hop {
                        self.choices.keep(packet.dst, from, packet.coords, course, index, after, total);
                    }
                    hop
                }
            },
        };
        let hop = match seen {
            Some((index, left)) if mark.is_some() || hop.is_longer_than(left) => {
                flags |= FLAG_VICINITY;
                Hop::in_sight(index, left, course)
            }
            _ => hop,
        };
        let (index, course) = match hop {
            Hop::Send { index, course, .. } => (index, course),
            hop => {
                self.stats.dropped_no_route += 1;
                let code = if hop == Hop::Stale { NoticeCode::Stale } else { NoticeCode::NoRoute };
                self.refuse(from, packet.rev, code, 0, packet.body, now);
                return Ok(());
            }
        };
        let (id, out_port) = (self.table.peers[index].link, self.table.peers[index].port);
        self.table.peers[index].passed = u16::try_from(body.len()).unwrap_or(u16::MAX);
        let Some(link) = self.links.get_mut(&id) else { return Ok(()) };
        // Our own entry, if there is room; the list says so if there is none.
        let (record, entry) = match record {
            Some(record) => {
                let entry = Entry { sid: self.sid, in_port: from, out_port, link: link.span() };
                let entry = record.has_room(&entry, body.len()).then_some(entry);
                (Some(Record { full: record.full || entry.is_none(), ..record }), entry)
            }
            None => (None, None),
        };
        let list_len = record.map_or(0, |record| record.encoded_len(entry.as_ref()));
        let packet = DataT {
            flags,
            mask: course.mask,
            ttl: packet.ttl - 1,
            budget: course.budget,
            phi_min: course.phi_min,
            load: packet.load.max(link.level()),
            body: if record.is_some() { &[] } else { body },
            ..packet
        };
        let rest = body.len() - packet.body.len();
        let len = packet.encoded_len(Some(from)) + list_len + rest;
        if len > link.packet_max() {
            let size = largest_body(link.packet_max(), len, body.len());
            self.stats.dropped_too_large += 1;
            self.refuse(from, packet.rev, NoticeCode::TooLarge, size, body, now);
            return Ok(());
        }
        make_room(&mut self.arena, len, self.config.arena_bytes);
        packet.encode(Some(from), &mut self.arena);
        if let Some(record) = record {
            record.encode(entry.as_ref(), &mut self.arena);
            self.arena.extend_from_slice(body);
        }
        link.send_packet(from, self.arena.split().freeze(), now);
        self.stats.forwarded += 1;
        self.touch_link(id);
        Ok(())
    }

    /// The peer by which a node in sight is reached, and what the way costs: less than `mark`, if there is one, so that no
    /// packet goes in circles. A peer that is passed over leads to nobody.
    fn in_sight_hop(&self, dst: &Sid, from: Port, mark: Option<u32>) -> Option<(usize, u32)> {
        let (port, cost) = self.vicinity.route(dst)?;
        let at = self.table.peers.binary_search_by_key(&port, |peer| peer.port).ok()?;
        let nearer = mark.is_none_or(|mark| cost < mark);
        (nearer && port != from && !self.table.peers[at].is_passed_over()).then_some((at, cost))
    }

    fn on_data_s(&mut self, from: Port, packet: DataS<'_>, now: Instant) -> Result<(), FrameError> {
        let (reply, body) = if packet.flags & FLAG_REPLY == 0 {
            (None, packet.body)
        } else {
            Reply::split(packet.body).map(|(reply, body)| (Some(reply), body))?
        };
        let Some((port, ports)) = split_port(packet.ports)? else {
            let list = reply.map_or(List::None, List::Reply);
            self.deliver(from, packet.rev, packet.index, packet.load, list, body, now);
            return Ok(());
        };
        // An audit looks like any packet, and ends on the way: whose keys open it.
        if self.endpoint.has_index(packet.index) && self.pass_to_self(from, &packet, body, now) {
            return Ok(());
        }
        // The way of a packet that was led astray in one tree and turned back with the next turns there too; one that turns
        // more often than that is none.
        let turns = (packet.flags & TURNS) + u8::from(port == from);
        if turns > TURNS || packet.rev.len() + 3 > PORTS_BYTES_MAX {
            return Err(FrameError::Value);
        }
        let reply = reply.map(|reply| {
            let granted = self.notices.get_mut(&from).is_some_and(|rate| rate.take(now));
            Chords::find(self.sid, from, packet.ports, reply, body.len(), granted, &self.table, &self.links)
        });
        let peer = self.table.peer_mut(port);
        let link = peer.and_then(|peer| {
            peer.passed = u16::try_from(body.len()).unwrap_or(u16::MAX);
            self.links.get_mut(&peer.link)
        });
        let Some(link) = link else {
            self.stats.dropped_no_route += 1;
            self.refuse(from, packet.rev, NoticeCode::BrokenPort, 0, body, now);
            return Ok(());
        };
        let flags = packet.flags & !TURNS | turns;
        let packet = DataS {
            flags,
            ports,
            load: packet.load.max(link.level()),
            body: if reply.is_some() { &[] } else { body },
            ..packet
        };
        let lists = reply.as_ref().map_or(0, |(reply, chords)| reply.encoded_len() + chords.bytes());
        let len = packet.encoded_len(Some(from)) + lists + body.len() - packet.body.len();
        if len > link.packet_max() {
            let size = largest_body(link.packet_max(), len, body.len());
            self.stats.dropped_too_large += 1;
            self.refuse(from, packet.rev, NoticeCode::TooLarge, size, body, now);
            return Ok(());
        }
        make_room(&mut self.arena, len, self.config.arena_bytes);
        packet.encode(Some(from), &mut self.arena);
        if let Some((reply, chords)) = reply {
            reply.encode(chords.as_slice(), &mut self.arena);
            self.arena.extend_from_slice(body);
        }
        let id = link.id;
        link.send_packet(from, self.arena.split().freeze(), now);
        self.stats.forwarded += 1;
        self.touch_link(id);
        Ok(())
    }

    /// Is the packet, which could go on, sealed for this node? Then it is taken.
    fn pass_to_self(&mut self, from: Port, packet: &DataS<'_>, body: &[u8], now: Instant) -> bool {
        let way = self.gather_way(from, packet.rev);
        let (index, load) = (packet.index, packet.load);
        let inbound = Inbound { ingress: from, way: &way, index, load, list: List::None, body };
        let taken = self.endpoint.handle_passing(inbound, &mut *self.entropy, now);
        self.way = way;
        self.endpoint_touched |= taken;
        taken
    }

    /// The way back of a packet, in the buffer that is kept for it.
    fn gather_way(&mut self, from: Port, rev: &[u8]) -> Vec<u8> {
        let mut way = std::mem::take(&mut self.way);
        way.clear();
        let (bytes, len) = port_bytes(from);
        way.extend_from_slice(&bytes[..len]);
        way.extend_from_slice(rev);
        way
    }

    fn on_notice(&mut self, from: Port, notice: Notice<'_>, now: Instant) -> Result<(), FrameError> {
        let Some((port, ports)) = split_port(notice.ports)? else {
            self.stats.notices_received += 1;
            self.setback(notice.code, notice.size, notice.tail, now);
            return Ok(());
        };
        if port == from {
            return Err(FrameError::Value);
        }
        if let Some(id) = self.table.peer(port).map(|peer| peer.link) {
            let mut frame = Vec::with_capacity(16 + ports.len());
            Notice { ports, ..notice }.encode(&mut frame);
            if let Some(link) = self.links.get_mut(&id) {
                link.send_packet(from, frame.into(), now);
                self.touch_link(id);
            }
        }
        Ok(())
    }

    /// A packet for this node.
    #[allow(clippy::too_many_arguments)] // the fields of two headers
    fn deliver(
        &mut self,
        from: Port,
        rev: &[u8],
        index: u32,
        load: u8,
        list: List<'_>,
        body: &[u8],
        now: Instant,
    ) {
        self.stats.delivered += 1;
        let way = self.gather_way(from, rev);
        let packet = Inbound { ingress: from, way: &way, index, load, list, body };
        match self.endpoint.handle_packet(packet, &mut *self.entropy, now) {
            Ok(()) => {}
            Err(Refusal::NoSession) => self.refuse(from, rev, NoticeCode::NoSession, 0, body, now),
        }
        self.way = way;
        self.endpoint_touched = true;
    }

    /// Tells the sender of a packet, along the way that it came, that it goes no further.
    fn refuse(&mut self, from: Port, rev: &[u8], code: NoticeCode, size: u32, body: &[u8], now: Instant) {
        let granted = self.notices.get_mut(&from).is_some_and(|rate| rate.take(now));
        let Some(id) = self.table.peer(from).map(|peer| peer.link).filter(|_| granted) else { return };
        let mut frame = Vec::with_capacity(16 + rev.len());
        Notice { code, size, tail: Notice::tail_of(body), ports: rev }.encode(&mut frame);
        if let Some(link) = self.links.get_mut(&id) {
            link.send_packet(Port::SELF, frame.into(), now);
            self.stats.notices_sent += 1;
            self.touch_link(id);
        }
    }

    fn setback(&mut self, code: NoticeCode, size: u32, tail: [u8; 8], now: Instant) {
        let setback = match code {
            NoticeCode::NoRoute | NoticeCode::Stale | NoticeCode::BrokenPort | NoticeCode::Ttl => {
                Setback::Lost
            }
            NoticeCode::NoSession => Setback::NoSession,
            NoticeCode::TooLarge => Setback::TooLarge(u16::try_from(size).unwrap_or(u16::MAX)),
            NoticeCode::Other(_) => return,
        };
        self.endpoint.handle_notice(setback, tail, &mut *self.entropy, now);
        self.endpoint_touched = true;
    }

    /// Carries what the endpoint has to send.
    pub(super) fn settle_endpoint(&mut self, now: Instant) {
        while let Some(Outbound { to, index, body }) = self.endpoint.poll_packet() {
            match to {
                Destination::Node { sid, locator, mask, record } => {
                    self.send_to(sid, &locator, Port::SELF, mask, record, index, body, now);
                }
                Destination::Around { sid, locator, avoid, mask, record } => {
                    self.send_to(sid, &locator, avoid, mask, record, index, body, now);
                }
                Destination::Back(ports) => self.send_back(&ports, &[], false, index, body, now),
                Destination::Veiled(ports) => self.send_back(&ports, &[], true, index, body, now),
                Destination::Reply { way, record } => {
                    self.send_back(&way, &record, false, index, body, now);
                }
            }
        }
        while let Some((from, token, beyond)) = self.endpoint.poll_probed() {
            self.audit.on_answer(&token, &from, &beyond, now);
            self.audit_touched = true;
        }
        while let Some(doubt) = self.endpoint.poll_doubt() {
            self.on_doubt(&doubt, now);
        }
        self.timers.set(Timer::Endpoint, self.endpoint.poll_timeout());
    }

    #[allow(clippy::too_many_arguments)] // the fields of a header
    fn send_to(
        &mut self,
        dst: Sid,
        locator: &Locator,
        avoid: Port,
        mask: u8,
        record: bool,
        index: u32,
        body: Body,
        now: Instant,
    ) {
        if !self.aim.at(locator) {
            return self.setback(NoticeCode::NoRoute, 0, Notice::tail_of(body.as_slice()), now);
        }
        let fresh = Course { mask, phi_min: PHI_NONE, budget: BUDGET };
        // One tree alone is for who got no answer by the straight way.
        let plain = mask != u8::MAX || avoid != Port::SELF;
        let seen = if plain { None } else { self.in_sight_hop(&dst, avoid, None) };
        let hop = next_hop(dst, avoid, &self.aim.destination, fresh, &self.table);
        let seen = seen.filter(|&(_, left)| hop.is_longer_than(left));
        let hop = seen.map_or(hop, |(index, left)| Hop::in_sight(index, left, fresh));
        let Hop::Send { index: at, course, .. } = hop else {
            return self.setback(NoticeCode::NoRoute, 0, Notice::tail_of(body.as_slice()), now);
        };
        let id = self.table.peers[at].link;
        let Some(link) = self.links.get(&id) else { return };
        let list = Record::new(link.span());
        let record = record && list.encoded_len(None) + body.as_slice().len() <= LIST_MAX;
        let header = DataT {
            flags: if record { FLAG_RECORD } else { 0 }
                | if seen.is_some() { FLAG_VICINITY } else { 0 }
                | if plain { FLAG_NO_VICINITY } else { 0 },
            mask: course.mask,
            ttl: TTL,
            budget: course.budget,
            load: link.level(),
            phi_min: course.phi_min,
            dst,
            coords: &self.aim.coords,
            rev: &[],
            index,
            body: &[],
        };
        let mut head = std::mem::take(&mut self.head);
        head.clear();
        header.encode(None, &mut head);
        if record {
            list.encode(None, &mut head);
        }
        self.send_own(id, &head, body, now);
        self.head = head;
    }

    /// The peer that a packet of ours is given to first; `None` if the node itself is that peer.
    pub(super) fn first_hop(&mut self, dst: Sid, locator: &Locator, mask: u8) -> Option<Port> {
        if !self.aim.at(locator) {
            return None;
        }
        let fresh = Course { mask, phi_min: PHI_NONE, budget: BUDGET };
        let hop = next_hop(dst, Port::SELF, &self.aim.destination, fresh, &self.table);
        let seen = if mask == u8::MAX { self.in_sight_hop(&dst, Port::SELF, None) } else { None };
        let seen = seen.filter(|&(_, left)| hop.is_longer_than(left));
        match seen.map_or(hop, |(index, left)| Hop::in_sight(index, left, fresh)) {
            Hop::Send { index, .. } => {
                let peer = &self.table.peers[index];
                (peer.sid != dst).then_some(peer.port)
            }
            _ => None,
        }
    }

    /// Sends along a list of ports; with a record, that goes along as the list of a reply. `veiled`: as if it came from farther.
    fn send_back(
        &mut self,
        ports: &Bytes,
        record: &[u8],
        veiled: bool,
        index: u32,
        body: Body,
        now: Instant,
    ) {
        let Ok(Some((port, ports))) = split_port(ports) else { return };
        let link = self.table.peer(port).and_then(|peer| self.links.get(&peer.link));
        let Some(link) = link else {
            return self.setback(NoticeCode::BrokenPort, 0, Notice::tail_of(body.as_slice()), now);
        };
        let flags = if record.is_empty() { 0 } else { FLAG_REPLY };
        let (id, load) = (link.id, link.level());
        let rev = if veiled { self.made_up_way(port) } else { Vec::new() };
        let header = DataS { flags, load, ports, rev: &rev, index, body: &[] };
        let mut head = std::mem::take(&mut self.head);
        head.clear();
        header.encode(None, &mut head);
        if let Ok((record, _)) = Record::split(record) {
            let room = LIST_MAX.saturating_sub(body.as_slice().len() + REPLY_LEAST);
            Reply { record: record.cut(room), chords: &[] }.encode(&[], &mut head);
        }
        self.send_own(id, &head, body, now);
        self.head = head;
    }

    fn send_own(&mut self, id: crate::id::LinkId, head: &[u8], body: Body, now: Instant) {
        let Some(link) = self.links.get_mut(&id) else { return };
        let (tail, len) = (Notice::tail_of(body.as_slice()), body.as_slice().len());
        if head.len() + len > link.packet_max() {
            let size = largest_body(link.packet_max(), head.len() + len, len);
            self.stats.dropped_too_large += 1;
            return self.setback(NoticeCode::TooLarge, size, tail, now);
        }
        link.send_packet(Port::SELF, body.frame(head), now);
        self.touch_link(id);
    }
}

/// Where packets of this node go, as their header says it. A flow's packets all have the same locator, so the last one
/// is kept ready.
#[derive(Debug, Default)]
pub(super) struct Aim {
    locator: Option<Locator>,
    coords: Vec<u8>,
    destination: forward::Destination,
}

impl Aim {
    /// Makes it that locator's; false if no packet can carry it.
    fn at(&mut self, locator: &Locator) -> bool {
        if self.locator.as_ref().is_some_and(|last| last == locator) {
            return true;
        }
        let mut fitting = locator.fit(COORDS_BYTES_GOAL);
        if fitting.is_empty() && !locator.is_empty() {
            // One tree, however deep.
            fitting = locator.fit(COORDS_BYTES_MAX);
        }
        self.coords.clear();
        fitting.encode(&mut self.coords);
        let read = self.destination.read(&self.coords).is_ok();
        self.locator = read.then(|| locator.clone());
        read
    }
}

/// The body that would have fitted with the same header.
fn largest_body(frame_max: usize, frame: usize, body: usize) -> u32 {
    (frame_max + body).saturating_sub(frame) as u32
}

/// Room for one more frame. While frames of the old piece wait in queues it is not reused.
fn make_room(arena: &mut bytes::BytesMut, len: usize, piece: usize) {
    if arena.capacity() < len {
        arena.reserve(len.max(piece));
    }
}

/// The lengths of a reply's two lists, and the first link.
const REPLY_LEAST: usize = 6;
