//! Goal: packets reach their key, from the first one on, whatever the shape of the net. Method: small nets under a
//! hand-moved clock; every pair talks.
mod harness;

use harness::{Net, Wire, grid, line, ring};
use router::time::Duration;
use router::wire::DataT;
use router::wire::data::TTL;
use router::{Channel, Command, Event, LinkKind, Target, Unreachable};

use std::cell::Cell;
use std::collections::BTreeSet;
use std::rc::Rc;

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn two_neighbours_talk_within_milliseconds() {
    let mut net = Net::new(2, 1);
    net.join(0, 1);
    net.send(0, 1, b"hello");
    let took = net.run_until(SECOND, |net| !net.received(1).is_empty()).expect("it arrives");
    assert_eq!(net.received(1), [(net.ids[0], b"hello".to_vec())]);
    println!("first packet after {took:?}");
    assert!(took < Duration::from_millis(300), "{took:?}");
}

#[test]
fn pairs_on_a_line_a_ring_and_a_grid() {
    for (name, make) in [("line", line as fn(&mut Net)), ("ring", ring), ("grid", |net| grid(net, 6))] {
        let mut net = Net::new(30, 7);
        make(&mut net);
        net.run(3 * SECOND);
        let start = net.now;
        let missing = net.talk(5, 5 * SECOND);
        println!("{name}: all after {:?}", net.now - start);
        assert!(missing.is_empty(), "{name}: {} missing, {missing:?}", missing.len());
        let hops: u64 = (0..30).map(|n| net.node(n).stats().dropped_ttl).sum();
        assert_eq!(hops, 0);
    }
}

#[test]
fn a_net_that_just_started_is_reachable_within_a_second_and_a_half() {
    for seed in [11] {
        let mut net = Net::new(60, seed);
        grid(&mut net, 10);
        let start = net.now;
        // What is under way while coordinates change may be lost: whoever has not been heard is sent to again.
        let mut missing: BTreeSet<(usize, usize)> =
            (0..60).flat_map(|from| [1, 2, 3].map(|k| (from, (from + k * 19) % 60))).collect();
        while !missing.is_empty() && net.now - start < 5 * SECOND {
            for &(from, to) in &missing {
                net.send(from, to, b"hello");
            }
            net.run(SECOND / 10);
            missing.retain(|&(from, to)| net.received(to).iter().all(|(by, _)| *by != net.ids[from]));
        }
        let took = net.now - start;
        println!("60 nodes: all reached {took:?} after the start");
        assert!(took < Duration::from_millis(1500), "{took:?}");
    }
}

#[test]
fn a_crash_on_the_way_is_got_round() {
    let mut net = Net::new(25, 12);
    grid(&mut net, 5);
    net.run(3 * SECOND);
    assert!(net.talk(6, 5 * SECOND).is_empty());
    net.crash(12);
    // Under traffic the neighbours pass it over after 0.25 s, and notice within 1.5 s.
    let missing = net.talk(6, 4 * SECOND);
    println!("{} of 144 packets lost at the crash", missing.len());
    assert!(missing.len() < 30);
    net.run(2 * SECOND);
    let missing = net.talk(6, 4 * SECOND);
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn lossy_datagram_links_deliver_most() {
    let lossy = Wire { kind: LinkKind::Datagram, latency: Duration::from_millis(3), loss: 0.05, rate: None };
    let mut net = Net::new(16, 13);
    for n in 1..16 {
        net.join_by(n - 1, n, &lossy);
        if n >= 4 {
            net.join_by(n - 4, n, &lossy);
        }
    }
    net.run(10 * SECOND);
    net.talk(4, 5 * SECOND); // makes the sessions
    let missing = net.talk(4, 5 * SECOND);
    println!("{} of 64 lost", missing.len());
    assert!(missing.len() < 25, "{}", missing.len());
    net.run(60 * SECOND);
    assert!(net.one_root());
}

#[test]
fn commands_are_answered() {
    let mut net = Net::new(9, 14);
    grid(&mut net, 3);
    net.run(3 * SECOND);
    let far = net.ids[8];
    net.command(0, Command::Lookup { id: 1, target: Target::Key(far) });
    net.command(0, Command::Lookup { id: 2, target: Target::Address(far.address()) });
    net.command(0, Command::Ping { id: 3, to: far });
    let nobody = router::NodeId::from_bytes([7; 32]);
    net.command(0, Command::Lookup { id: 4, target: Target::Key(nobody) });
    net.run(20 * SECOND);
    let events = &net.events[0];
    let found = |wanted| {
        events.iter().any(|event| matches!(event, Event::LookupDone { id, result: Ok(key) } if *id == wanted && *key == far))
    };
    assert!(found(1) && found(2));
    assert!(events.iter().any(|event| matches!(event, Event::Pong { id: 3, result: Ok(rtt) } if *rtt >= Duration::from_millis(8) && *rtt < Duration::from_millis(100))));
    assert!(
        events
            .iter()
            .any(|event| matches!(event, Event::LookupDone { id: 4, result: Err(Unreachable::NotFound) }))
    );
}

#[test]
fn a_packet_to_an_address_reaches_its_key() {
    let mut net = Net::new(4, 15);
    line(&mut net);
    net.run(2 * SECOND);
    let mut packet = vec![0x60, 0, 0, 0, 0, 0, 59, 64];
    packet.extend(net.ids[0].address().octets());
    packet.extend(net.ids[3].address().octets());
    let to = net.ids[3].address();
    net.command(0, Command::SendToAddress { to, payload: packet.clone().into() });
    net.run(2 * SECOND);
    let ip = |event: &Event| matches!(event, Event::Received { channel: Channel::Ip, payload, .. } if payload[..] == packet[..]);
    assert!(net.events[3].iter().any(ip));
}

#[test]
fn a_large_packet_goes_to_a_neighbour_in_one_piece() {
    let mut net = Net::new(3, 16);
    line(&mut net);
    net.run(2 * SECOND);
    let (near, far) = (net.ids[1], net.ids[2]);
    assert_eq!((net.node(0).mtu(&near), net.node(0).mtu(&far)), (16 * 1024, 1280));
    net.send(0, 1, &vec![5; 16 * 1024]);
    // Every link of this net would take it, too.
    net.send(0, 2, &vec![6; 60_000]);
    net.run(2 * SECOND);
    assert_eq!(net.received(1)[0].1.len(), 16 * 1024);
    assert_eq!(net.received(2)[0].1.len(), 60_000);
    net.cut(0, 1);
    assert_eq!(net.node(0).mtu(&near), 1280);
}

#[test]
fn a_packet_too_large_for_a_link_on_the_way_is_told() {
    let mut net = Net::new(3, 17);
    net.join(0, 1);
    net.join_by(1, 2, &Wire { kind: LinkKind::Datagram, ..Wire::default() });
    net.run(2 * SECOND);
    net.send(0, 2, b"small");
    net.run(2 * SECOND);
    net.send(0, 2, &vec![6; 1280]);
    net.send(0, 2, &vec![6; 4000]);
    net.run(2 * SECOND);
    let sizes: Vec<usize> = net.received(2).iter().map(|(_, packet)| packet.len()).collect();
    assert_eq!(sizes, [5, 1280]);
    assert_eq!(net.node(1).stats().dropped_too_large, 1);
    assert_eq!(net.node(0).stats().notices_received, 1);
}

#[test]
fn packets_do_not_go_to_and_fro_after_a_crash() {
    let longest = Rc::new(Cell::new(0));
    let seen = longest.clone();
    let mut net = Net::new(25, 2);
    net.tap = Box::new(move |_, _, frame| {
        if let Ok(packet) = DataT::decode(frame) {
            seen.set(seen.get().max(TTL - packet.ttl));
        }
        true
    });
    grid(&mut net, 5);
    net.run(3 * SECOND);
    net.talk(2, 3 * SECOND);
    for node in [12, 7, 16] {
        net.crash(node);
        net.talk(3, SECOND);
    }
    println!("the longest way had {} hops", longest.get());
    assert!(longest.get() <= 30, "{}", longest.get());
}
