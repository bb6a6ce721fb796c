//! What is fuzzed: each decoder, and sequences of frames into a whole router. Used by the fuzz targets beside this file and
//! by `router/tests/corpus.rs`, which replays the corpus without a fuzzer.
#![allow(dead_code, clippy::missing_panics_doc, unreachable_pub)]

use router::crypto::Entropy;
use router::peer::handshake::Ours;
use router::peer::link::{Incoming, Link};
use router::time::Duration;
use router::wire::body::find::{Find, Found, Refresh, Store};
use router::wire::body::init::{AckPayload, Cookie, Hint, Init, InitAck, InitPayload};
use router::wire::body::sealed::SealedHeader;
use router::wire::data::{CoordsIter, decode_ports};
use router::wire::hello::{Hello, Proof};
use router::wire::{Control, DataS, DataT, Notice, Reader, Record, Reply, kind};
use router::{
    Boot, Channel, Class, Command, Config, Instant, LinkId, LinkKind, LinkSpec, NodeId, Role, Router,
    SecretKey, Target,
};

/// Frames in clear: HELLO, DATA_T, DATA_S, NOTICE. What can be read is written the same.
pub fn frame(data: &[u8]) {
    let _ = Hello::decode(data);
    let _ = Proof::decode(data);
    let again = |encode: &dyn Fn(&mut Vec<u8>)| {
        let mut out = Vec::new();
        encode(&mut out);
        assert_eq!(out, data);
    };
    if let Ok(packet) = DataT::decode(data) {
        if let Ok(mut trees) = CoordsIter::new(packet.coords) {
            while let Ok(Some(_)) = trees.peek()
                && trees.steps(|_, _| ()).is_ok()
            {}
        }
        let _ = decode_ports(packet.rev);
        let _ = Record::split(packet.body);
        again(&|out| packet.encode(None, out));
    }
    if let Ok(packet) = DataS::decode(data) {
        let _ = (decode_ports(packet.ports), decode_ports(packet.rev));
        let _ = Reply::split(packet.body);
        again(&|out| packet.encode(None, out));
    }
    if let Ok(notice) = Notice::decode(data) {
        again(&|out| notice.encode(out));
    }
}

/// Control frames. What can be read is written the same.
pub fn control(data: &[u8]) {
    if let Ok(control) = Control::decode(data)
        && !matches!(control, Control::Unknown { .. })
    {
        assert_eq!(control.encode(), data);
    }
}

/// Bodies of packets, by their first byte, and what is inside their seals.
pub fn body(data: &[u8]) {
    let _ = Init::decode(data);
    let _ = InitAck::decode(data);
    let _ = Cookie::decode(data);
    let _ = Hint::decode(data);
    let _ = InitPayload::decode(data);
    let _ = AckPayload::decode(data);
    let _ = Find::decode(data);
    let _ = Found::decode(data);
    let _ = Store::decode(data);
    let _ = Refresh::decode(data);
    let _ = SealedHeader::decode(&mut Reader::new(data));
}

/// A whole router with a peer that has proved its key and then does what the bytes say, beside an honest one. After every
/// step the router must come to rest, and what strangers can grow must be within its bounds.
pub fn sequence(data: &[u8]) {
    let mut net = Net::new();
    let mut reader = Reader::new(data);
    for _ in 0..STEPS_MAX {
        let Ok(op) = reader.u8() else { break };
        let len = usize::from(reader.u8().unwrap_or(0));
        let bytes = reader.bytes(len.min(reader.rest().len())).unwrap_or(&[]);
        net.step(op, bytes);
    }
    for _ in 0..4 {
        net.pass(Duration::from_secs(40));
    }
}

const STEPS_MAX: usize = 96;
const SPIN_MAX: usize = 2_000;

struct Counting(u64);

impl Entropy for Counting {
    fn fill(&mut self, out: &mut [u8]) {
        for byte in out {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            *byte = (self.0 >> 33) as u8;
        }
    }
}

struct Net {
    victim: Router,
    honest: Router,
    evil: Option<Link>,
    secret: SecretKey,
    now: Instant,
}

const TO_EVIL: LinkId = LinkId(1);
const TO_HONEST: LinkId = LinkId(2);
const TO_STRANGER: LinkId = LinkId(3);

impl Net {
    fn new() -> Self {
        let now = Instant::from_micros(1_000_000);
        let router = |n: u8| {
            let entropy = Box::new(Counting(n.into()));
            Router::new(SecretKey::from_seed([n; 32]), Config::default(), Boot::first(9), entropy, now)
        };
        let ours = Ours { class: Class::Stable, trees: 4, mtu: 65_535 };
        let spec = |role| LinkSpec::new(LinkKind::Stream, role);
        let evil = Link::new(LinkId(9), spec(Role::Dialer), ours, 1 << 20, &mut Counting(77), now);
        let mut net = Self {
            victim: router(1),
            honest: router(2),
            evil: Some(evil),
            secret: SecretKey::from_seed([3; 32]),
            now,
        };
        net.victim.handle_link(TO_EVIL, spec(Role::Acceptor), now);
        net.victim.handle_link(TO_HONEST, spec(Role::Acceptor), now);
        net.honest.handle_link(TO_HONEST, spec(Role::Dialer), now);
        // Anybody can throw datagrams.
        net.victim.handle_link(TO_STRANGER, LinkSpec::new(LinkKind::Datagram, Role::Acceptor), now);
        net.pass(Duration::from_secs(2));
        net
    }

    fn step(&mut self, op: u8, bytes: &[u8]) {
        let now = self.now;
        match op % 10 {
            0 => self.pass(Duration::from_millis(10 * (1 + bytes.first().copied().unwrap_or(0) as u64))),
            1 => {
                if let (Some(evil), Ok(control)) = (&mut self.evil, Control::decode(bytes)) {
                    evil.send_control(&control, now);
                }
            }
            2 => self.packet(
                &[&[kind::DATA_T + bytes.first().copied().unwrap_or(0) % 3], bytes.get(1..).unwrap_or(&[])]
                    .concat(),
            ),
            3 => self.victim.handle_frame(TO_STRANGER, bytes, now),
            4 => {
                let mut frame = Vec::new();
                DataS { flags: 0, load: 0, ports: &[], rev: &[], index: 0, body: bytes }
                    .encode(None, &mut frame);
                self.packet(&frame);
            }
            5 => {
                let dst = self.victim.id().sid();
                let mut frame = Vec::new();
                let head = DataT {
                    flags: 0,
                    mask: 15,
                    ttl: 9,
                    budget: 8,
                    load: 0,
                    phi_min: 9,
                    dst,
                    coords: &[0],
                    rev: &[1, 2],
                    index: 0,
                    body: bytes,
                };
                head.encode(None, &mut frame);
                self.packet(&frame);
            }
            6 => {
                let to = if bytes.len().is_multiple_of(2) { self.honest.id() } else { self.secret.id() };
                let payload = bytes::Bytes::copy_from_slice(bytes);
                self.victim.handle_command(Command::Send { to, channel: Channel::Stream, payload }, now);
            }
            7 => {
                let mut key = [0; 32];
                key[..bytes.len().min(32)].copy_from_slice(&bytes[..bytes.len().min(32)]);
                let target = Target::Key(NodeId::from_bytes(key));
                self.victim.handle_command(Command::Lookup { id: 1, target }, now);
            }
            8 => {
                // Over the victim to the honest node, with whatever way and list.
                let mut frame = Vec::new();
                let (ports, rest) = bytes.split_at(bytes.len().min(4));
                DataS { flags: op, load: op, ports, rev: &[1], index: 7, body: rest }
                    .encode(None, &mut frame);
                self.packet(&frame);
            }
            _ => {
                // Bytes that are no frame of the link: it is closed for them.
                if bytes.first().is_some_and(|first| first % 8 == 0) {
                    self.victim.handle_frame(TO_EVIL, bytes, now);
                }
            }
        }
        self.settle();
    }

    fn packet(&mut self, frame: &[u8]) {
        let frame = bytes::Bytes::copy_from_slice(frame);
        if let Some(evil) = &mut self.evil {
            evil.send_packet(router::Port::SELF, frame, self.now);
        }
    }

    /// Lets time pass, from deadline to deadline.
    fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        let mut steps = 0;
        loop {
            self.settle();
            let next = [self.victim.poll_timeout(), self.honest.poll_timeout()].into_iter().flatten().min();
            match next.filter(|at| *at <= until) {
                Some(at) => {
                    steps += 1;
                    assert!(steps < SPIN_MAX, "a deadline does not move");
                    self.now = self.now.max(at);
                    self.victim.handle_timeout(self.now);
                    self.honest.handle_timeout(self.now);
                }
                None => break,
            }
        }
        self.now = until;
    }

    fn settle(&mut self) {
        let now = self.now;
        for round in 0.. {
            assert!(round < SPIN_MAX, "the nodes do not come to rest");
            let mut quiet = true;
            while let Some((frame, _)) = self.evil.as_mut().and_then(|evil| evil.poll_transmit(now)) {
                quiet = false;
                self.victim.handle_frame(TO_EVIL, &frame, now);
            }
            while let Some(frame) = self.honest.poll_transmit(TO_HONEST, now) {
                quiet = false;
                self.victim.handle_frame(TO_HONEST, &frame, now);
            }
            while let Some(frame) = self.victim.poll_transmit(TO_HONEST, now) {
                quiet = false;
                self.honest.handle_frame(TO_HONEST, &frame, now);
            }
            while let Some(frame) = self.victim.poll_transmit(TO_EVIL, now) {
                quiet = false;
                if let Some(evil) = &mut self.evil
                    && let Err(_) | Ok(Incoming::Unknown) = evil.handle_frame(&frame, &self.secret, now)
                {
                    self.evil = None;
                }
            }
            while self.victim.poll_transmit(TO_STRANGER, now).is_some() {}
            while let Some(event) = self.victim.poll_event() {
                if matches!(event, router::Event::LinkClose { link: TO_EVIL, .. }) {
                    self.evil = None;
                }
            }
            while self.honest.poll_event().is_some() {}
            while self.victim.poll_link().is_some() || self.honest.poll_link().is_some() {}
            if quiet {
                break;
            }
        }
        assert!(self.victim.sessions().len() <= 4096);
    }
}
