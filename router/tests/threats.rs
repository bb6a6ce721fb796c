//! Goal: what `docs/threats.md` says of attacks that no other test bounds. Method: a net under a hand-moved clock, and frames
//! put into a node's link as if its peer had sent them.
mod harness;

use harness::{Net, Wire, grid, line, ring};
use router::time::Duration;
use router::wire::data::{PORTS_BYTES_MAX, encode_ports};
use router::wire::{DataS, Notice, NoticeCode, kind};
use router::{LinkId, LinkKind, LinkSpec, Port, Role};
use std::cell::Cell;
use std::rc::Rc;

const SECOND: Duration = Duration::from_secs(1);

/// The middle of three in a line, and its link from the first.
fn middle(seed: u64) -> (Net, LinkId) {
    let mut net = Net::new(3, seed);
    let (_, link) = net.join(0, 1);
    net.join(1, 2);
    net.run(3 * SECOND);
    (net, link)
}

#[test]
fn a_route_longer_than_any_is_refused_and_a_loop_ends() {
    let (mut net, link) = middle(1);
    let port_of = |net: &mut Net, n: usize, of: usize| {
        let id = net.ids[of];
        net.node(n).peers().iter().find(|peer| peer.node == Some(id)).and_then(|peer| peer.port).unwrap()
    };
    let (to_two, to_one) = (port_of(&mut net, 1, 2), port_of(&mut net, 2, 1));
    let frame = |ports: &[u8], rev: &[u8]| {
        let mut frame = Vec::new();
        DataS { flags: 0, load: 0, ports, rev, index: 0, body: b"a body" }.encode(None, &mut frame);
        frame
    };
    // More ports than a way may have: no frame at all.
    let bad = net.node(1).stats().frames_bad;
    net.inject(1, link, &frame(&vec![1; PORTS_BYTES_MAX + 1], &[]));
    assert_eq!(net.node(1).stats().frames_bad, bad + 1);
    // A way back that is full already goes no further.
    let forwarded = net.node(1).stats().forwarded;
    net.inject(1, link, &frame(&encode_ports(&[to_two]), &[1; PORTS_BYTES_MAX]));
    assert_eq!(net.node(1).stats().forwarded, forwarded);
    // To and fro between two nodes for as long as the list is: it ends when it has turned three times.
    let circle: Vec<Port> = (0..100).flat_map(|_| [to_two, to_one]).collect();
    let count = Rc::new(Cell::new(0));
    let seen = count.clone();
    net.tap = Box::new(move |_, _, frame| {
        seen.set(seen.get() + u64::from(frame.first() == Some(&kind::DATA_S)));
        true
    });
    net.inject(1, link, &frame(&encode_ports(&circle), &[]));
    net.run(SECOND);
    assert!(count.get() <= 5, "{} frames for one", count.get());
}

#[test]
fn forged_notices_change_nothing() {
    let (mut net, link) = middle(2);
    net.send(1, 2, b"before");
    net.run(2 * SECOND);
    let before = net.node(1).stats();
    for n in 0..200u8 {
        for code in [NoticeCode::NoRoute, NoticeCode::NoSession, NoticeCode::TooLarge, NoticeCode::BrokenPort]
        {
            let mut frame = Vec::new();
            Notice { code, size: 1, tail: [n; 8], ports: &[] }.encode(&mut frame);
            net.inject(1, link, &frame);
        }
    }
    let after = net.node(1).stats();
    assert_eq!(after.notices_ignored - before.notices_ignored, 800);
    assert_eq!(after.session_handshakes, before.session_handshakes);
    assert_eq!(after.lookups, before.lookups);
    net.send(1, 2, b"after");
    net.run(SECOND);
    assert_eq!(net.received(2).len(), 2);
    let far = net.ids[2];
    assert!(net.node(1).mtu(&far) >= 1280);
}

/// A node that says of its links that they cost 1, though packets take 60 ms over them.
#[test]
fn a_lying_latency_draws_no_more_than_its_own_links() {
    let far = Wire { latency: Duration::from_millis(60), ..Wire::default() };
    let mut net = Net::new(9, 3);
    grid(&mut net, 3);
    let liar = net.add();
    for n in [0, 8] {
        let lies = LinkSpec { cost: Some(1), ..LinkSpec::new(LinkKind::Stream, Role::Dialer) };
        net.join_with(liar, lies, n, LinkSpec::new(LinkKind::Stream, Role::Acceptor), &far);
    }
    net.run(30 * SECOND);
    // Its peers count what they measure themselves.
    for n in [0, 8] {
        let id = net.ids[liar];
        let peers = net.node(n).peers();
        let cost = peers.iter().find(|peer| peer.node == Some(id)).unwrap().cost;
        assert!(cost >= 48, "{cost}");
    }
    let through = Rc::new(Cell::new(0));
    let seen = through.clone();
    net.tap = Box::new(move |from, to, frame| {
        let packet = matches!(frame.first(), Some(&(kind::DATA_T | kind::DATA_S))) && frame.len() > 400;
        seen.set(seen.get() + u64::from(packet && (from == liar || to == liar)));
        true
    });
    for _ in 0..20 {
        net.send(0, 8, &[5; 400]);
        net.send(3, 5, &[5; 400]);
    }
    net.run(5 * SECOND);
    assert_eq!(through.get(), 0, "nothing goes by the liar");
}

#[test]
fn floods_of_one_peer_leave_the_others_their_service() {
    let mut net = Net::new(12, 4);
    ring(&mut net);
    net.run(5 * SECOND);
    let (_, link) = net.join(0, 6);
    net.run(3 * SECOND);
    // 3 000 INITs, questions and records in one second, all nonsense behind their heads.
    for n in 0..3000u32 {
        let mut body = vec![[2u8, 8, 10][n as usize % 3]];
        body.extend(n.to_be_bytes().iter().cycle().take(430));
        let mut frame = Vec::new();
        DataS { flags: 0, load: 0, ports: &[], rev: &[3], index: 0, body: &body }.encode(None, &mut frame);
        net.inject(6, link, &frame);
    }
    let stats = net.node(6).stats();
    assert!(net.node(6).self_info().sessions <= 4 && stats.records_stored <= 64, "{stats:?}");
    for n in [1, 3, 9] {
        net.send(n, 6, b"through the flood");
    }
    net.run(3 * SECOND);
    assert_eq!(net.received(6).len(), 3);
}

#[test]
fn probes_of_strangers_cost_no_more_than_their_bytes() {
    // Node 0 audits 1 through 2; what 2 answers is no longer than what it was asked.
    let mut net = Net::new(3, 5);
    line(&mut net);
    let (asked, answered) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
    let (a, b) = (asked.clone(), answered.clone());
    net.run(6 * SECOND);
    net.tap = Box::new(move |from, to, frame| {
        if frame.first() == Some(&kind::DATA_S) {
            match (from, to) {
                (1, 2) => a.set(a.get() + frame.len()),
                (2, 1) => b.set(b.get() + frame.len()),
                _ => {}
            }
        }
        true
    });
    net.run(120 * SECOND);
    assert!(asked.get() > 0 && answered.get() <= asked.get() * 5 / 4, "{} {}", asked.get(), answered.get());
}
