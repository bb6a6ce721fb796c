//! Goal: a link proves who is at its other end, and what comes over it can do no harm. Method: routers joined by hand,
//! and a scripted peer that has a real link's keys but says what it likes.
mod harness;

use harness::{Net, Seeded, Wire, grid, line};
use proptest::prelude::*;
use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::SeedableRng;
use router::config::DATAGRAM_MTU_LEAST;
use router::crypto::domain;
use router::peer::handshake::Ours;
use router::peer::link::{Incoming, Link};
use router::time::Duration;
use router::wire::{Control, DataS, DataT, Notice, NoticeCode, TreeInfo, kind};
use router::{
    Boot, Class, Config, Event, Instant, LinkError, LinkId, LinkKind, LinkSpec, Port, Role, Router, Secret,
    SecretKey, Sid,
};
use std::cell::{Cell, RefCell};
use std::rc::Rc;

const SECOND: Duration = Duration::from_secs(1);

fn closed(net: &Net, node: usize) -> Vec<LinkError> {
    let reason = |event: &Event| match event {
        Event::LinkClose { reason, .. } => Some(*reason),
        _ => None,
    };
    net.events[node].iter().filter_map(reason).collect()
}

fn ups(net: &Net, node: usize) -> usize {
    net.events[node].iter().filter(|event| matches!(event, Event::PeerUp { .. })).count()
}

#[test]
fn a_wrong_password_and_a_wrong_key_are_refused() {
    let spec = |role, password: &[u8]| LinkSpec {
        password: Some(Secret::new(password)),
        ..LinkSpec::new(LinkKind::Stream, role)
    };
    let mut net = Net::new(2, 1);
    net.join_with(0, spec(Role::Dialer, b"right"), 1, spec(Role::Acceptor, b"wrong"), &Wire::default());
    net.run(SECOND);
    assert_eq!((ups(&net, 0), ups(&net, 1)), (0, 0));
    assert!(
        closed(&net, 0).contains(&LinkError::WrongPassword)
            || closed(&net, 1).contains(&LinkError::WrongPassword)
    );
    assert!(net.node(1).stats().handshakes_failed + net.node(0).stats().handshakes_failed >= 1);
    net.join_with(0, spec(Role::Dialer, b"right"), 1, spec(Role::Acceptor, b"right"), &Wire::default());
    net.run(SECOND);
    assert_eq!((ups(&net, 0), ups(&net, 1)), (1, 1));

    let mut net = Net::new(3, 2);
    let pinned = LinkSpec { expect: Some(net.ids[2]), ..LinkSpec::new(LinkKind::Stream, Role::Dialer) };
    net.join_with(0, pinned, 1, LinkSpec::new(LinkKind::Stream, Role::Acceptor), &Wire::default());
    net.run(SECOND);
    assert_eq!((ups(&net, 0), closed(&net, 0)), (0, vec![LinkError::WrongKey]));
    assert!(net.node(1).peers().is_empty(), "the other side hears of it");
}

#[test]
fn one_round_trip_makes_a_link() {
    let mut net = Net::new(2, 3);
    net.join_by(0, 1, &Wire { latency: Duration::from_millis(50), ..Wire::default() });
    let took = net.run_until(SECOND, |net| ups(net, 0) == 1 && ups(net, 1) == 1).unwrap();
    assert_eq!(took, Duration::from_millis(100));
}

#[test]
fn a_silent_connection_is_given_up_and_another_protocol_at_once() {
    let mut net = Net::new(1, 4);
    let now = net.now;
    net.node(0).handle_link(LinkId(900), LinkSpec::new(LinkKind::Stream, Role::Acceptor), now);
    net.run(6 * SECOND);
    assert_eq!(closed(&net, 0), [LinkError::Timeout]);
    let now = net.now;
    net.node(0).handle_link(LinkId(901), LinkSpec::new(LinkKind::Stream, Role::Acceptor), now);
    net.inject(0, LinkId(901), b"GET / HTTP/1.1\r\n");
    assert_eq!(closed(&net, 0), [LinkError::Timeout, LinkError::NotOurProtocol]);
    net.inject(0, LinkId(901), b"more of it");
    assert!(net.node(0).peers().is_empty());
}

#[test]
fn repeated_and_foreign_datagrams_do_nothing() {
    let seen: Rc<RefCell<Vec<Vec<u8>>>> = Rc::default();
    let mut net = Net::new(2, 5);
    let copy = seen.clone();
    net.tap = Box::new(move |from, _, frame| {
        if from == 0 {
            copy.borrow_mut().push(frame.to_vec());
        }
        true
    });
    let wire = Wire { kind: LinkKind::Datagram, ..Wire::default() };
    let (_, link) = net.join_by(0, 1, &wire);
    net.send(0, 1, b"once");
    net.run(SECOND);
    assert_eq!(net.received(1).len(), 1);
    let before = net.node(1).trees();
    let frames = seen.borrow().clone();
    assert!(frames.len() > 5);
    for frame in &frames {
        net.inject(1, link, frame);
        // And with one bit changed.
        let mut frame = frame.clone();
        *frame.last_mut().unwrap() ^= 1;
        net.inject(1, link, &frame);
    }
    net.run(SECOND);
    assert_eq!(net.received(1).len(), 1);
    assert_eq!(ups(&net, 1), 1);
    assert!(closed(&net, 1).is_empty());
    assert_eq!(net.node(1).trees().len(), before.len());
    assert!(net.node(1).stats().frames_bad >= frames.len() as u64);
}

#[test]
fn a_stream_whose_seal_breaks_is_closed() {
    let mut net = Net::new(2, 6);
    let (_, link) = net.join(0, 1);
    net.run(SECOND);
    net.inject(1, link, &[kind::SEALED, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18]);
    net.run(SECOND);
    assert!(matches!(closed(&net, 1)[..], [LinkError::Frame(_)]));
    assert!(net.node(0).peers().is_empty() && net.node(1).peers().is_empty());
}

#[test]
fn kinds_of_later_versions_are_ignored() {
    let mut net = Net::new(2, 7);
    let (_, link) = net.join(0, 1);
    net.run(SECOND);
    net.inject(1, link, &[0x7f, 1, 2, 3]);
    assert_eq!(net.node(1).stats().frames_unknown, 1);
    net.send(0, 1, b"still here");
    net.run(SECOND);
    assert_eq!(net.received(1).len(), 1);
}

#[test]
fn an_idle_link_says_little() {
    let bytes = Rc::new(RefCell::new((0usize, 0usize)));
    let count = bytes.clone();
    let mut net = Net::new(2, 8);
    net.tap = Box::new(move |_, _, frame| {
        let mut count = count.borrow_mut();
        // Length, and the headers of TCP over IPv6 with timestamps; an acknowledgement of its own for each.
        count.0 += 2 + frame.len() + 40 + 32 + 40 + 32;
        count.1 += 1;
        true
    });
    net.join(0, 1);
    net.run(120 * SECOND);
    *bytes.borrow_mut() = (0, 0);
    net.run(600 * SECOND);
    let (total, frames) = *bytes.borrow();
    println!("{} bytes a minute in {frames} frames", total / 10);
    assert!(total / 10 <= 900, "{}", total / 10);
}

#[test]
fn a_dead_peer_is_noticed_under_traffic_and_a_second_link_takes_over() {
    let mut net = Net::new(2, 9);
    net.join(0, 1);
    net.run(3 * SECOND);
    net.silence(0, 1);
    net.send(0, 1, b"into the void");
    let took = net.run_until(5 * SECOND, |net| net.node(0).peers().is_empty()).unwrap();
    assert!(took >= Duration::from_millis(1400) && took < Duration::from_millis(1700), "{took:?}");

    let mut net = Net::new(2, 10);
    net.join(0, 1);
    net.run(3 * SECOND);
    net.send(0, 1, b"first");
    net.run(SECOND);
    net.silence(0, 1);
    net.join(0, 1);
    net.run(Duration::from_millis(400));
    net.send(0, 1, b"second");
    net.run(Duration::from_millis(500));
    assert_eq!(net.received(1).last().unwrap().1, b"second");
    assert_eq!(net.node(0).self_info().peers, 1);
}

#[test]
fn a_broken_way_is_told_to_the_sender() {
    let mut net = Net::new(4, 11);
    line(&mut net);
    net.run(2 * SECOND);
    net.send(0, 3, b"there");
    net.run(SECOND);
    net.cut(2, 3);
    net.send(0, 3, b"gone");
    net.run(SECOND);
    assert!(net.node(0).stats().notices_received >= 1);
    assert_eq!(net.received(3).len(), 1);
}

#[test]
fn a_link_that_nobody_reads_keeps_a_bounded_queue() {
    let mut net = Net::new(2, 12);
    let (link, _) = net.join(0, 1);
    net.run(2 * SECOND);
    net.send(0, 1, b"session");
    net.run(SECOND);
    // The driver takes nothing any more.
    let now = net.now;
    let (to, payload) = (net.ids[1], bytes::Bytes::from(vec![7; 1200]));
    for _ in 0..5000 {
        let command =
            router::Command::Send { to, channel: router::Channel::Stream, payload: payload.clone() };
        net.node(0).handle_command(command, now);
    }
    let (mut frames, mut bytes) = (0, 0);
    while let Some(frame) = net.node(0).poll_transmit(link, now) {
        frames += 1;
        bytes += frame.len();
    }
    assert!(frames > 100 && bytes <= Config::default().queue_bytes_max + 4096, "{frames} {bytes}");
    assert!(net.node(0).stats().dropped_queue > 1000);
}

/// A peer that has done the handshake and then says what it likes.
struct Scripted {
    secret: SecretKey,
    link: Link,
    told: Vec<Control>,
    packets: Vec<Vec<u8>>,
    victim: Router,
    at: LinkId,
    now: Instant,
}

impl Scripted {
    fn new(kind: LinkKind) -> Self {
        let entropy = |seed| Box::new(Seeded::new(ChaCha12Rng::seed_from_u64(seed)));
        let now = Instant::from_micros(1_000_000);
        let (secret, theirs) = (SecretKey::from_seed([1; 32]), SecretKey::from_seed([2; 32]));
        let mut victim = Router::new(theirs, Config::default(), Boot::first(9), entropy(1), now);
        let ours = Ours { class: Class::Stable, trees: 4, mtu: 65_535 };
        let link =
            Link::new(LinkId(1), LinkSpec::new(kind, Role::Dialer), ours, 1 << 20, &mut *entropy(2), now);
        victim.handle_link(LinkId(5), LinkSpec::new(kind, Role::Acceptor), now);
        let mut this = Self { secret, link, told: vec![], packets: vec![], victim, at: LinkId(5), now };
        this.settle();
        assert!(this.link.is_up());
        this
    }

    fn settle(&mut self) {
        for _ in 0..100 {
            while let Some((frame, _)) = self.link.poll_transmit(self.now) {
                self.victim.handle_frame(self.at, &frame, self.now);
            }
            let Some(frame) = self.victim.poll_transmit(self.at, self.now) else { break };
            match self.link.handle_frame(&frame, &self.secret, self.now) {
                Ok(Incoming::Control(control)) => self.told.push(control),
                Ok(Incoming::Packet(packet)) => self.packets.push(packet.to_vec()),
                _ => {}
            }
        }
    }

    fn say(&mut self, control: &Control) {
        self.link.send_control(control, self.now);
        self.settle();
    }

    fn wait(&mut self, time: Duration) {
        self.now += time;
        self.victim.handle_timeout(self.now);
        self.settle();
    }

    /// The victim's port for this peer, as it announced it.
    fn port(&self) -> Port {
        self.told
            .iter()
            .find_map(|told| match told {
                Control::Announce { port, .. } => Some(*port),
                _ => None,
            })
            .unwrap()
    }

    fn info(&self, tree: u8, node: &SecretKey, parent: &SecretKey, seq: u64) -> TreeInfo {
        let root = node.id() == parent.id();
        let mut info = TreeInfo {
            tree,
            node: node.id(),
            class: Class::Stable,
            parent: parent.id(),
            parent_port: Port(u16::from(!root)),
            cost: u8::from(!root),
            seq,
            sig: [0; 64],
            parent_sig: None,
        };
        info.sig = node.sign(domain::TREE_INFO, &info.signed());
        info.parent_sig = (!root).then(|| parent.sign(domain::PARENT, &info.signed()));
        info
    }
}

#[test]
fn forged_places_are_refused() {
    let mut peer = Scripted::new(LinkKind::Stream);
    let other = SecretKey::from_seed([3; 32]);
    let me = peer.secret.clone();
    let good = peer.info(0, &me, &other, 5);
    let above = peer.info(0, &other, &other, 5);
    let refused = |peer: &Scripted| peer.victim.stats().tree_infos_refused;

    // Somebody else's countersignature, a changed cost, a changed seq, a root that does not sign.
    let forged = [
        TreeInfo { parent_sig: Some(me.sign(domain::PARENT, &good.signed())), ..good },
        TreeInfo { cost: 9, ..good },
        TreeInfo { seq: 6, ..good },
        TreeInfo { sig: [0; 64], ..above },
    ];
    for (n, info) in forged.into_iter().enumerate() {
        peer.say(&Control::Announce { port: Port(1), infos: vec![info] });
        assert_eq!(refused(&peer), n as u64 + 1);
    }
    peer.say(&Control::Announce { port: Port(1), infos: vec![good, above] });
    assert_eq!(refused(&peer), forged.len() as u64);
    assert!(peer.victim.stats().tree_infos_accepted >= 2);
}

#[test]
fn a_replayed_place_is_not_taken_and_costs_no_check() {
    let mut peer = Scripted::new(LinkKind::Stream);
    let (other, me) = (SecretKey::from_seed([3; 32]), peer.secret.clone());
    let root = peer.info(0, &other, &other, 5);
    let (old, new) = (peer.info(0, &me, &other, 5), peer.info(0, &me, &me, 6));
    peer.say(&Control::Announce { port: Port(1), infos: vec![root, old] });
    peer.say(&Control::Announce { port: Port(1), infos: vec![new] });
    let before = peer.victim.stats();
    for _ in 0..100 {
        peer.say(&Control::Announce { port: Port(1), infos: vec![old] });
    }
    let after = peer.victim.stats();
    assert_eq!(after.tree_infos_accepted, before.tree_infos_accepted);
    assert_eq!(after.signatures_checked, before.signatures_checked);
}

#[test]
fn a_place_is_countersigned_for_the_peer_itself_only() {
    let mut peer = Scripted::new(LinkKind::Stream);
    let (me, port, them) = (peer.secret.clone(), peer.port(), peer.victim.id());
    let other = SecretKey::from_seed([3; 32]);
    let ask = |node: &SecretKey, port, parent, seq| {
        let mut info = TreeInfo {
            tree: 1,
            node: node.id(),
            class: Class::Stable,
            parent,
            parent_port: port,
            cost: 3,
            seq,
            sig: [0; 64],
            parent_sig: None,
        };
        info.sig = node.sign(domain::TREE_INFO, &info.signed());
        Control::ParentReq { info }
    };
    let answer = |peer: &mut Scripted, control: &Control| {
        peer.told.clear();
        peer.say(control);
        peer.told.iter().find_map(|told| match told {
            Control::ParentSig { sig, .. } => Some(sig.is_some()),
            _ => None,
        })
    };
    assert_eq!(answer(&mut peer, &ask(&other, port, them, 1)), Some(false), "another's key");
    assert_eq!(answer(&mut peer, &ask(&me, Port(port.0 + 1), them, 2)), Some(false), "another port");
    assert_eq!(answer(&mut peer, &ask(&me, port, other.id(), 3)), Some(false), "another parent");
    assert_eq!(answer(&mut peer, &ask(&me, port, them, 4)), Some(true));
    // Work is bounded: of a flood only so many are answered.
    let mut answered = 0;
    for seq in 5..500 {
        answered += usize::from(answer(&mut peer, &ask(&me, port, them, seq)).is_some());
    }
    assert!(answered <= 64, "{answered}");
}

#[test]
fn a_lost_chain_is_asked_for_again() {
    let mut peer = Scripted::new(LinkKind::Stream);
    let other = SecretKey::from_seed([3; 32]);
    let me = peer.secret.clone();
    let below = peer.info(2, &me, &other, 5);
    // The root's entry is lost on the way.
    peer.say(&Control::Announce { port: Port(1), infos: vec![below] });
    peer.told.clear();
    for _ in 0..5 {
        peer.wait(Duration::from_millis(100));
    }
    let asked = |told: &Control| matches!(told, Control::Resync { trees } if trees & 1 << 2 != 0);
    assert!(peer.told.iter().any(asked), "{:?}", peer.told);
    // And who is asked tells all again, once a second at most.
    peer.told.clear();
    for _ in 0..20 {
        peer.say(&Control::Resync { trees: 0x0f });
        peer.wait(Duration::from_millis(60));
    }
    let told = peer.told.iter().filter(|told| matches!(told, Control::Announce { .. })).count();
    assert!((1..=3).contains(&told), "{told}");
}

#[test]
fn a_flood_of_places_stays_within_bounds() {
    let mut peer = Scripted::new(LinkKind::Stream);
    for n in 0..3000u32 {
        let mut seed = [9; 32];
        seed[..4].copy_from_slice(&n.to_be_bytes());
        let key = SecretKey::from_seed(seed);
        let info = peer.info(0, &key, &key, 1);
        peer.say(&Control::Announce { port: Port(1), infos: vec![info] });
    }
    let stats = peer.victim.stats();
    assert!(stats.tree_infos_accepted <= 2048 + 4, "{stats:?}");
    assert!(stats.tree_infos_refused >= 900);
}

#[test]
fn packets_that_lie_are_dropped_or_refused() {
    let mut peer = Scripted::new(LinkKind::Stream);
    let send = |peer: &mut Scripted, frame: Vec<u8>| {
        peer.link.send_packet(Port::SELF, frame.into(), peer.now);
        peer.settle();
        let mut back = std::mem::take(&mut peer.packets);
        back.retain(|frame| frame[0] == kind::NOTICE);
        back
    };
    // Out where it came in, after it turned as often as it may.
    let port = router::wire::data::encode_ports(&[peer.port()]);
    let mut frame = Vec::new();
    DataS { flags: router::wire::data::TURNS, load: 0, ports: &port, rev: &[], index: 0, body: b"12345678" }
        .encode(None, &mut frame);
    assert!(send(&mut peer, frame).is_empty());
    assert_eq!(peer.victim.stats().frames_bad, 1);
    // Out of a port that is not there: a notice comes back, the way that the packet gathered.
    let ports = router::wire::data::encode_ports(&[Port(77)]);
    let rev = router::wire::data::encode_ports(&[Port(4), Port(5)]);
    let mut frame = Vec::new();
    DataS { flags: 0, load: 0, ports: &ports, rev: &rev, index: 0, body: b"12345678" }
        .encode(None, &mut frame);
    let back = send(&mut peer, frame);
    let notice = Notice::decode(&back[0]).unwrap();
    assert_eq!((notice.code, &notice.tail, notice.ports), (NoticeCode::BrokenPort, b"12345678", &rev[..]));
    // To nobody, and without ttl.
    let packet = DataT {
        flags: 0,
        mask: 0xff,
        ttl: 9,
        budget: 8,
        load: 0,
        phi_min: 0xff_ffff,
        dst: Sid::from_bytes([9; 8]),
        coords: &[0],
        rev: &rev,
        index: 0,
        body: b"12345678",
    };
    for (packet, code) in [(packet, NoticeCode::NoRoute), (DataT { ttl: 0, ..packet }, NoticeCode::Ttl)] {
        let mut frame = Vec::new();
        packet.encode(None, &mut frame);
        let back = send(&mut peer, frame);
        assert_eq!(Notice::decode(&back[0]).unwrap().code, code);
    }
    // Notices are bounded.
    let mut notices = 0;
    for _ in 0..500 {
        let mut frame = Vec::new();
        packet.encode(None, &mut frame);
        notices += send(&mut peer, frame).len();
    }
    assert!(notices <= 64, "{notices}");
}

#[test]
fn a_grid_serves_on_while_one_of_it_talks_nonsense() {
    let mut net = Net::new(9, 20);
    grid(&mut net, 3);
    net.run(2 * SECOND);
    let links: Vec<LinkId> = net.node(4).peers().iter().map(|peer| peer.link).collect();
    for (n, link) in links.into_iter().enumerate() {
        net.inject(4, link, &[kind::DATA_T, n as u8]);
        net.inject(4, link, &[kind::NOTICE]);
    }
    net.run(3 * SECOND);
    assert!(net.node(4).stats().frames_bad >= 6);
    assert!(net.talk(3, 3 * SECOND).is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]

    #[test]
    fn no_bytes_make_a_router_panic(
        datagram: bool,
        frames in proptest::collection::vec((0u8..8, proptest::collection::vec(any::<u8>(), 0..200)), 1..40),
    ) {
        let kind = if datagram { LinkKind::Datagram } else { LinkKind::Stream };
        let mut peer = Scripted::new(kind);
        for (how, bytes) in frames {
            match how {
                // As they are.
                0 | 1 => peer.victim.handle_frame(peer.at, &bytes, peer.now),
                // As a packet or a notice.
                2 | 3 => {
                    let mut frame = vec![kind::DATA_T + bytes.first().copied().unwrap_or(0) % 3];
                    frame.extend(bytes);
                    peer.link.send_packet(Port::SELF, frame.into(), peer.now);
                }
                // As a packet for the victim, with any body.
                4 | 5 => {
                    let dst = peer.victim.id().sid();
                    let packet = DataT {
                        flags: 0, mask: 15, ttl: 9, budget: 8, load: 0, phi_min: 9, dst, coords: &[0],
                        rev: &[1, 2], index: u32::from(how), body: &bytes,
                    };
                    let mut frame = Vec::new();
                    packet.encode(None, &mut frame);
                    peer.link.send_packet(Port::SELF, frame.into(), peer.now);
                }
                // As a control frame, under the link's keys.
                6 => {
                    if let Ok(control) = Control::decode(&bytes) {
                        peer.link.send_control(&control, peer.now);
                    }
                }
                _ => peer.wait(Duration::from_millis(bytes.len() as u64 * 10)),
            }
            peer.settle();
        }
    }
}

#[test]
fn a_datagram_link_carries_full_packets_in_pieces_and_no_larger_frames() {
    for mtu in [DATAGRAM_MTU_LEAST, 1280, 1400] {
        let spec = |role| LinkSpec { mtu, ..LinkSpec::new(LinkKind::Datagram, role) };
        let mut net = Net::new(3, 21);
        let wire = Wire { kind: LinkKind::Datagram, ..Wire::default() };
        net.join_with(0, spec(Role::Dialer), 1, spec(Role::Acceptor), &wire);
        net.join_with(1, spec(Role::Dialer), 2, spec(Role::Acceptor), &wire);
        let pieces = Rc::new(Cell::new(0));
        let count = pieces.clone();
        net.tap = Box::new(move |_, _, frame| {
            assert!(frame.len() <= mtu, "a frame of {} bytes, kind {}", frame.len(), frame[0]);
            count.set(count.get() + u32::from(frame[0] == kind::PIECE));
            true
        });
        net.run(2 * SECOND);
        for size in [10, 500, 1000, 1280] {
            net.send(0, 2, &vec![size as u8; size]);
            net.run(SECOND);
        }
        let received = net.received(2);
        assert_eq!(
            received.iter().map(|(_, payload)| payload.len()).collect::<Vec<_>>(),
            [10, 500, 1000, 1280]
        );
        assert!(received.iter().all(|(_, payload)| payload.iter().all(|&byte| byte == payload.len() as u8)));
        assert!(pieces.get() >= 4 || mtu == 1400, "{}", pieces.get());
        assert_eq!(net.node(2).stats().frames_bad, 0);
    }
}

#[test]
fn pieces_that_are_lost_lose_their_packet_alone() {
    let spec = |role| LinkSpec { mtu: 600, ..LinkSpec::new(LinkKind::Datagram, role) };
    let mut net = Net::new(2, 22);
    let wire = Wire { kind: LinkKind::Datagram, ..Wire::default() };
    net.join_with(0, spec(Role::Dialer), 1, spec(Role::Acceptor), &wire);
    net.run(SECOND);
    net.send(0, 1, b"first");
    net.run(SECOND);
    let count = Cell::new(0u32);
    // Every seventh piece is lost.
    net.tap = Box::new(move |_, _, frame| {
        count.set(count.get() + u32::from(frame[0] == kind::PIECE));
        frame[0] != kind::PIECE || !count.get().is_multiple_of(7)
    });
    for round in 0..70u8 {
        net.send(0, 1, &[round; 1200]);
        net.run(SECOND / 10);
    }
    let whole = net.received(1).len() - 1;
    assert!((30..=50).contains(&whole), "{whole} of 70 packets of three pieces each");
    assert_eq!(net.node(1).stats().frames_bad, 0);
}

#[test]
fn a_link_that_is_too_small_is_refused() {
    for (kind, mtu) in [(LinkKind::Datagram, DATAGRAM_MTU_LEAST - 1), (LinkKind::Stream, 1000)] {
        let mut net = Net::new(2, 23);
        let small = LinkSpec { mtu, ..LinkSpec::new(kind, Role::Dialer) };
        net.join_with(0, small, 1, LinkSpec::new(kind, Role::Acceptor), &Wire { kind, ..Wire::default() });
        net.run(SECOND);
        assert!(matches!(closed(&net, 0)[..], [LinkError::TooSmall { .. }]), "{:?}", closed(&net, 0));
        assert_eq!((ups(&net, 0), ups(&net, 1)), (0, 0));
    }
}
