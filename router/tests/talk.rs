//! Goal: any node reaches any other by its key. Method: whole routers under a hand-moved clock.
mod harness;

use harness::Net;
use router::time::Duration;
use router::{Channel, Command, Event, Target};

#[test]
fn a_line_of_five_carries_from_end_to_end() {
    let mut net = Net::new(5, 1);
    for n in 1..5 {
        net.join(n - 1, n);
    }
    net.run(Duration::from_secs(2));
    net.send(0, 4, b"far");
    let took = net.run_until(Duration::from_secs(2), |net| !net.received(4).is_empty());
    assert!(took.is_some_and(|took| took < Duration::from_millis(100)), "{took:?}");
    assert!(net.all_pairs(Duration::from_secs(2)).is_empty());
}

#[test]
fn all_of_a_random_mesh_reach_each_other_soon_after_the_start() {
    let mut net = Net::new(30, 7);
    for n in 1..30 {
        net.join(n, n / 2);
        net.join(n, (n * 7 + 3) % n.max(1));
    }
    net.run(Duration::from_millis(1500));
    let missing = net.all_pairs(Duration::from_secs(3));
    assert!(missing.is_empty(), "{} of 870 missing: {missing:?}", missing.len());
}

#[test]
fn an_address_is_found_like_a_key() {
    let mut net = Net::new(4, 3);
    for n in 1..4 {
        net.join(n - 1, n);
    }
    net.run(Duration::from_secs(2));
    let to = net.ids[3].address();
    net.command(0, Command::Lookup { id: 5, target: Target::Address(to) });
    net.run(Duration::from_secs(1));
    let found = net.ids[3];
    assert!(
        net.events[0]
            .iter()
            .any(|event| matches!(event, Event::LookupDone { id: 5, result: Ok(node) } if *node == found))
    );
    let mut packet = vec![0x60; 60];
    packet[8..24].copy_from_slice(&net.ids[0].address().octets());
    packet[24..40].copy_from_slice(&to.octets());
    net.command(0, Command::SendToAddress { to, payload: packet.clone().into() });
    // Another one claims to come from somebody else: it goes no further than the receiver's router.
    packet[9] ^= 1;
    net.command(0, Command::SendToAddress { to, payload: packet.into() });
    net.run(Duration::from_secs(1));
    let ip = |event: &&Event| matches!(event, Event::Received { channel: Channel::Ip, .. });
    assert_eq!(net.events[3].iter().filter(ip).count(), 1);
}

#[test]
fn a_packet_follows_a_node_that_moves() {
    let mut net = Net::new(6, 4);
    for n in 1..5 {
        net.join(n - 1, n);
    }
    net.join(4, 5);
    net.run(Duration::from_secs(2));
    net.send(0, 5, b"one");
    net.run(Duration::from_secs(1));
    assert_eq!(net.received(5).len(), 1);
    net.cut(4, 5);
    net.join(1, 5);
    net.run(Duration::from_secs(1));
    net.send(0, 5, b"two");
    let took = net.run_until(Duration::from_secs(5), |net| net.received(5).len() == 2);
    assert!(took.is_some(), "not found at its new place");
}

#[test]
fn a_node_that_restarts_is_talked_to_again() {
    let mut net = Net::new(3, 5);
    net.join(0, 1);
    net.join(1, 2);
    net.run(Duration::from_secs(2));
    net.send(0, 2, b"before");
    net.run(Duration::from_secs(1));
    let counter = net.node(2).persisted();
    net.restart(2, counter);
    net.join(1, 2);
    net.run(Duration::from_secs(2));
    net.events[2].clear();
    let mut sent = 0;
    let took = net.run_until(Duration::from_secs(5), |net| {
        sent += 1;
        if sent % 40 == 1 {
            net.send(0, 2, b"after");
        }
        !net.received(2).is_empty()
    });
    assert!(took.is_some_and(|took| took < Duration::from_secs(2)), "{took:?}");
}

#[test]
fn a_ping_measures_the_way() {
    let mut net = Net::new(3, 6);
    net.join(0, 1);
    net.join(1, 2);
    net.run(Duration::from_secs(2));
    let to = net.ids[2];
    net.command(0, Command::Ping { id: 9, to });
    net.run(Duration::from_secs(1));
    let pong = net.events[0].iter().find_map(|event| match event {
        Event::Pong { id: 9, result } => Some(*result),
        _ => None,
    });
    assert_eq!(pong, Some(Ok(Duration::from_millis(4))));
}
