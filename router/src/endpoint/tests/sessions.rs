//! Goal: each rule of the sessions. Method: two or three endpoints that are each other's peers.
use super::*;
use crate::session::{GIVE_UP, HALF_OPEN_MAX, IDLE, OLD_KEYS, PARKED_MAX, REKEY_AFTER};

fn pair() -> World {
    let mut world = World::new(2);
    world.peer(0, 1);
    world.run(1000);
    world.sent.clear();
    world
}

#[test]
fn two_peers_talk_in_one_round_trip() {
    let mut world = pair();
    world.send(0, 1, b"hello");
    world.run(29);
    assert!(world.received(1).is_empty());
    world.run(1);
    assert_eq!(world.received(1), [b"hello".to_vec()], "INIT, INIT_ACK, packet");
    world.send(1, 0, b"back");
    world.run(10);
    assert_eq!(world.received(0), [b"back".to_vec()]);
}

fn up(world: &World, at: usize) -> usize {
    world.nodes[at].events.iter().filter(|event| matches!(event, Event::SessionUp { .. })).count()
}

/// Loses the first `count` packets of a kind.
fn lose_first(world: &mut World, kind: u8, mut count: usize) {
    world.lose = Box::new(move |_, _, of| {
        let lost = of == kind && count > 0;
        count -= usize::from(lost);
        lost
    });
}

#[test]
fn a_lost_init_is_repeated_after_250_then_500_ms_and_what_waits_arrives_in_order() {
    let mut world = pair();
    // The first, and the first repetition by all trees and by each of the two alone.
    lose_first(&mut world, body::INIT, 4);
    for packet in [b"1", b"2", b"3"] {
        world.send(0, 1, packet);
    }
    world.run(250 + 500 + 29);
    assert!(world.received(1).is_empty());
    world.run(1);
    assert_eq!(world.received(1), [b"1", b"2", b"3"]);
    assert_eq!(world.sent(body::INIT), 7);
}

#[test]
fn a_lost_ack_comes_again_and_is_the_same() {
    let mut world = pair();
    world.tape = Some(Vec::new());
    lose_first(&mut world, body::INIT_ACK, 1);
    world.send(0, 1, b"x");
    world.run(250 + 30);
    assert_eq!(world.received(1), [b"x"]);
    let acks = world.taped(1, 0, body::INIT_ACK);
    // The repetition goes by both trees together and by each alone; each is answered.
    assert_eq!(acks.len(), 4);
    assert!(acks.iter().all(|ack| ack.body == acks[0].body));
    assert_eq!((up(&world, 0), up(&world, 1)), (1, 1));
}

#[test]
fn the_responder_sends_only_once_the_keys_were_used_and_asks_for_that_again() {
    let mut world = pair();
    world.send(0, 1, b"x");
    lose_first(&mut world, body::DATA, 1);
    world.run(20);
    world.send(1, 0, b"y");
    assert_eq!(world.sent(body::DATA), 1, "the initiator's, which is lost");
    world.run(1000);
    assert_eq!(world.received(0), [b"y"]);
    assert_eq!(world.sent(body::INIT), 1, "no second handshake");
}

#[test]
fn only_the_newest_packets_wait() {
    let mut world = World::new(2);
    world.lose = Box::new(|_, _, _| true);
    world.peer(0, 1);
    for at in 0..PARKED_MAX + 10 {
        world.send(0, 1, &[at as u8]);
    }
    world.lose = Box::new(|_, _, _| false);
    world.run(1000);
    let received = world.received(1);
    assert_eq!(received.len(), PARKED_MAX);
    assert_eq!(received[0], [10]);
    assert_eq!(world.stats(0).sessions.dropped_parked, 10);
}

#[test]
fn a_replayed_init_changes_nothing_and_is_answered_with_a_hint() {
    let mut world = pair();
    world.tape = Some(Vec::new());
    world.send(0, 1, b"x");
    world.run(100);
    let old = world.taped(0, 1, body::INIT);
    // A second handshake, so that the first one's counter is an old one.
    world.run(REKEY_AFTER.as_millis() as u64);
    world.send(0, 1, b"y");
    world.run(100);
    world.sent.clear();
    world.arrive(old[0].clone());
    world.run(100);
    assert_eq!((world.sent(body::HINT), world.sent(body::INIT_ACK)), (1, 0));
    assert_eq!(world.stats(1).sessions.inits_old, 1);
    world.send(1, 0, b"z");
    world.run(100);
    assert_eq!((world.received(0).len(), up(&world, 0), up(&world, 1)), (1, 1, 1));
}

#[test]
fn a_replayed_packet_is_dropped() {
    let mut world = pair();
    world.tape = Some(Vec::new());
    world.send(0, 1, b"x");
    world.run(100);
    for flight in world.taped(0, 1, body::DATA) {
        world.arrive(flight);
    }
    assert_eq!(world.received(1).len(), 1);
    assert_eq!(world.stats(1).sessions.repeated, 1);
}

#[test]
fn an_init_replayed_to_a_restarted_node_gives_its_sender_nothing() {
    let mut world = pair();
    world.tape = Some(Vec::new());
    world.send(0, 1, b"x");
    world.run(3000);
    let init = world.taped(0, 1, body::INIT);
    world.restart(1, 5000);
    world.run(100);
    world.arrive(init[0].clone());
    assert_eq!(up(&world, 1), 1, "that of before");
    world.run(60_000);
    assert!(world.nodes[1].endpoint.sessions().is_empty());
    // The genuine initiator comes through meanwhile and later.
    world.peer(0, 1);
    world.send(0, 1, b"y");
    world.run(2000);
    world.send(0, 1, b"z");
    world.run(1000);
    assert!(world.received(1).contains(&b"z".to_vec()));
}

#[test]
fn two_inits_that_cross_end_in_one_session() {
    for lesser_first in [false, true] {
        let mut world = pair();
        let (a, b) = if (world.id(0) < world.id(1)) == lesser_first { (0, 1) } else { (1, 0) };
        world.send(a, b, b"from a");
        world.run(3);
        world.send(b, a, b"from b");
        world.run(100);
        assert_eq!(
            (world.received(a), world.received(b)),
            (vec![b"from b".to_vec()], vec![b"from a".to_vec()])
        );
        assert_eq!((up(&world, a), up(&world, b)), (1, 1));
        // Long after the other keys are gone both still talk, without another handshake.
        world.sent.clear();
        for second in 0..90u8 {
            world.send(a, b, &[second]);
            world.send(b, a, &[second]);
            world.run(1000);
        }
        assert_eq!((world.received(a).len(), world.received(b).len()), (90, 90));
        assert_eq!(world.sent(body::INIT), 0);
    }
}

#[test]
fn crossing_works_whatever_single_packet_is_lost() {
    for lost in 0..8 {
        let mut world = pair();
        let mut count = 0;
        world.lose = Box::new(move |_, _, kind| {
            count += usize::from(kind <= body::HINT);
            kind <= body::HINT && count == lost + 1
        });
        world.send(0, 1, b"from 0");
        world.send(1, 0, b"from 1");
        world.run(5000);
        for second in 0..100u8 {
            world.send(0, 1, &[second]);
            world.send(1, 0, &[second]);
            world.run(1000);
        }
        let (at_0, at_1) = (world.received(0).len(), world.received(1).len());
        assert!(at_0 >= 100 && at_1 >= 100, "packet {lost} lost: {at_0} {at_1}");
        assert_eq!((up(&world, 0), up(&world, 1)), (1, 1));
    }
}

#[test]
fn keys_are_renewed_under_traffic_without_losing_a_packet() {
    let mut world = pair();
    world.send(0, 1, b"x");
    world.run(100);
    world.received(1);
    let mut sent = 0u32;
    while world.now < Instant::from_micros(500_000_000) {
        world.send(0, 1, &sent.to_be_bytes());
        world.send(1, 0, &sent.to_be_bytes());
        sent += 1;
        world.run(97);
    }
    world.run(1000);
    let expected: Vec<Vec<u8>> = (0..sent).map(|n| n.to_be_bytes().to_vec()).collect();
    assert_eq!(world.received(0), expected);
    assert_eq!(world.received(1), expected);
    assert_eq!(world.sent(body::INIT), 5, "one every two minutes");
}

#[test]
fn an_idle_session_does_nothing_and_is_forgotten() {
    let mut world = pair();
    world.send(0, 1, b"x");
    world.run(3000);
    world.sent.clear();
    world.run(IDLE.as_millis() as u64 / 2);
    let of_sessions = body::DATA..=body::HINT;
    assert!(world.sent.keys().all(|kind| !of_sessions.contains(kind)), "{:?}", world.sent);
    assert_eq!(world.nodes[0].endpoint.sessions().len(), 1);
    world.run(IDLE.as_millis() as u64 / 2);
    assert!(world.nodes[0].endpoint.sessions().is_empty());
    assert!(world.nodes[0].events.iter().any(|event| matches!(event, Event::SessionDown { .. })));
}

#[test]
fn packets_under_replaced_keys_open_for_a_minute() {
    for (late, opens) in
        [(OLD_KEYS - Duration::from_secs(1), true), (OLD_KEYS + Duration::from_secs(1), false)]
    {
        let mut world = pair();
        world.send(0, 1, b"x");
        world.run(REKEY_AFTER.as_millis() as u64 + 100);
        world.tape = Some(Vec::new());
        world.lose = Box::new(|_, _, kind| kind == body::DATA);
        world.send(0, 1, b"overtaken");
        world.lose = Box::new(|_, _, _| false);
        world.run(100);
        let overtaken = world.taped(0, 1, body::DATA)[0].clone();
        world.received(1);
        world.run(late.as_millis() as u64);
        world.arrive(overtaken);
        assert_eq!(world.received(1).len(), usize::from(opens));
    }
}

#[test]
fn under_load_the_way_back_is_shown_first() {
    let mut world = World::new(130);
    for at in 1..130 {
        world.peer(0, at);
    }
    world.run(1000);
    for at in 1..130 {
        world.send(at, 0, &[at as u8]);
    }
    world.run(2000);
    assert_eq!(world.received(0).len(), 129);
    assert!(world.stats(0).sessions.cookies > 0);
    assert_eq!(world.stats(0).sessions.dropped_body, 0);
}

#[test]
fn a_node_that_lost_its_counter_is_told_and_comes_through() {
    let mut world = pair();
    world.send(0, 1, b"x");
    world.run(100);
    // Its disk is lost, its clock wrong: it begins with a counter below the one that the other has seen.
    world.restart(0, 10);
    world.peer(0, 1);
    world.run(100);
    world.send(0, 1, b"y");
    world.run(100);
    assert_eq!(world.received(1), [b"x", b"y"]);
    assert_eq!((world.sent(body::HINT), world.stats(1).sessions.inits_old), (1, 1));
}

#[test]
fn a_node_without_the_session_says_so_and_gets_a_new_one() {
    let mut world = pair();
    world.send(0, 1, b"x");
    world.run(3000);
    world.received(1);
    world.restart(1, 5000);
    world.peer(0, 1);
    world.run(5000);
    world.send(0, 1, b"lost");
    world.run(100);
    world.send(0, 1, b"y");
    world.run(100);
    assert_eq!(world.received(1), [b"y"]);
}

#[test]
fn an_unreachable_node_is_told_after_ten_seconds() {
    let mut world = pair();
    world.nodes[1].alive = false;
    world.send(0, 1, b"x");
    let to = world.id(1);
    world.command(0, Command::Ping { id: 1, to });
    world.run(GIVE_UP.as_millis() as u64 - 3000);
    assert!(world.nodes[0].events.is_empty());
    world.run(6000);
    let events = std::mem::take(&mut world.nodes[0].events);
    assert!(events.iter().any(|event| matches!(event, Event::Unreachable { .. })));
    let no_answer =
        |event: &Event| matches!(event, Event::Pong { id: 1, result: Err(Unreachable::NoAnswer) });
    assert!(events.iter().any(no_answer));
    // Six tries: one packet at first, then two or three.
    assert!((12..=18).contains(&world.sent(body::INIT)), "{:?}", world.sent);
}

#[test]
fn a_correspondent_hears_of_a_move_at_once_and_answers_there() {
    let mut world = World::new(3);
    world.peer(0, 1);
    world.peer(1, 2);
    world.run(2000);
    world.send(0, 2, b"x");
    world.run(1000);
    world.place(2, 77);
    world.run(5500);
    world.send(0, 2, b"there");
    world.run(20);
    assert_eq!(world.received(2), [&b"x"[..], b"there"]);
    // The mover itself sends first: its news goes ahead.
    world.place(0, 78);
    world.send(0, 2, b"from there");
    world.run(20);
    world.send(2, 0, b"back");
    world.run(20);
    assert_eq!(world.received(0), [b"back"]);
}

#[test]
fn a_correspondent_that_moved_unheard_is_found_again() {
    let mut world = World::new(3);
    world.peer(0, 1);
    world.peer(1, 2);
    world.run(2000);
    world.send(0, 2, b"x");
    world.run(3000);
    world.received(2);
    // Its news to the correspondent is lost, all of it.
    world.lose = Box::new(|from, to, kind| from == 2 && to == 0 && kind == body::DATA);
    world.place(2, 77);
    world.peer(1, 2);
    world.run(20_000);
    world.lose = Box::new(|_, _, _| false);
    world.send(0, 2, b"lost, but a notice comes");
    world.run(200);
    world.send(0, 2, b"there");
    world.run(200);
    assert_eq!(world.received(2), [b"there"]);
}

#[test]
fn silence_under_traffic_leads_to_a_new_handshake() {
    let mut world = pair();
    world.send(0, 1, b"x");
    world.run(5000);
    world.sent.clear();
    // From now on nothing of the session comes back, but handshakes do.
    world.lose = Box::new(|from, _, kind| from == 1 && kind == body::DATA);
    for _ in 0..40 {
        world.send(0, 1, b"y");
        world.run(100);
    }
    assert!(world.sent(body::INIT) >= 1);
}

#[test]
fn a_one_way_stream_is_answered_once_in_a_while_and_needs_no_handshake() {
    let mut world = pair();
    world.tape = Some(Vec::new());
    for _ in 0..600 {
        world.send(0, 1, b"y");
        world.run(100);
    }
    assert_eq!(world.sent(body::INIT), 1);
    let answers = world.taped(1, 0, body::DATA).len();
    assert!((50..=62).contains(&answers), "{answers}");
}

#[test]
fn strangers_that_never_finish_do_not_push_out_sessions() {
    let mut world = pair();
    world.send(0, 1, b"x");
    world.run(100);
    let mut entropy = TestEntropy::new(77);
    let target = world.id(1);
    for at in 0..HALF_OPEN_MAX + 200 {
        let mut seed = [9; 32];
        seed[..4].copy_from_slice(&(at as u32).to_le_bytes());
        let stranger = crate::session::handshake::Identity::new(&SecretKey::from_seed(seed));
        let payload = body::init::InitPayload { counter: 1, index: 1, seq: 1, locator: Locator::default() };
        let (_, body) =
            crate::session::handshake::Initiator::begin(&stranger, &target, &payload, &mut entropy).unwrap();
        world.arrive(Flight { from: 0, to: 1, index: 0, body });
        world.run(5);
    }
    let stats = world.stats(1).sessions;
    assert!(stats.evicted > 0 && stats.inits > HALF_OPEN_MAX as u64, "{stats:?}");
    world.send(0, 1, b"y");
    world.run(100);
    assert_eq!(world.received(1), [b"x", b"y"]);
    // What was begun and not finished is gone after a while.
    world.run(60_000);
    assert_eq!(world.nodes[1].endpoint.sessions().len(), 1);
}

#[test]
fn a_ping_that_is_lost_is_sent_again() {
    let mut world = pair();
    world.send(0, 1, b"x");
    world.run(3000);
    lose_first(&mut world, body::DATA, 1);
    let to = world.id(1);
    world.command(0, Command::Ping { id: 4, to });
    world.run(1100);
    let pong = |event: &Event| matches!(event, Event::Pong { id: 4, result: Ok(rtt) } if *rtt == Duration::from_millis(20));
    assert!(world.nodes[0].events.iter().any(pong), "{:?}", world.nodes[0].events);
}

#[test]
fn a_key_that_is_no_point_is_unreachable() {
    let mut world = pair();
    let mut bytes = [0; 32];
    bytes[0] = 1;
    let to = NodeId::from_bytes(bytes);
    world.nodes[0].endpoint.handle_peer(to, locator(9), &mut TestEntropy::new(1), world.now);
    world.command(0, Command::Send { to, channel: Channel::Stream, payload: Bytes::new() });
    world.run(100);
    assert!(world.nodes[0].events.iter().any(|event| matches!(event, Event::Unreachable { .. })));
}
