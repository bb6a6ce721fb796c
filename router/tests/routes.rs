//! Goal: source routes: found, used, watched, left when they fail. Method: small nets under a hand-moved clock, a tap on
//! every frame.
mod harness;

use harness::{Net, Wire, grid, line};
use router::route::choose::RouteInfo;
use router::time::Duration;
use router::wire::data::FLAG_REPLY;
use router::wire::{DataS, DataT, Record, Reply, kind};
use router::{Command, Config, Event, LinkKind};
use std::cell::{Cell, RefCell};
use std::rc::Rc;

const SECOND: Duration = Duration::from_secs(1);
const MILLI: Duration = Duration::from_millis(1);

/// What flew: (from, to, kind, length).
type Tape = Rc<RefCell<Vec<(usize, usize, u8, usize)>>>;

fn tape(net: &mut Net) -> Tape {
    let tape = Tape::default();
    let writer = tape.clone();
    net.tap = Box::new(move |from, to, frame| {
        writer.borrow_mut().push((from, to, frame[0], frame.len()));
        true
    });
    tape
}

fn count(tape: &Tape, of: u8) -> usize {
    tape.borrow().iter().filter(|(_, _, kind, _)| *kind == of).count()
}

fn routes(net: &mut Net, from: usize, to: usize) -> Vec<RouteInfo> {
    let to = net.ids[to];
    net.node(from).routes(&to)
}

fn live(net: &mut Net, from: usize, to: usize) -> Vec<RouteInfo> {
    routes(net, from, to).into_iter().filter(|route| route.state == "live").collect()
}

/// One packet, and time for its answer.
fn say(net: &mut Net, from: usize, to: usize) {
    net.send(from, to, b"word");
    net.run(200 * MILLI);
}

#[test]
fn after_the_handshake_packets_take_a_route() {
    let mut net = Net::new(6, 3);
    line(&mut net);
    net.run(3 * SECOND);
    say(&mut net, 0, 5);
    say(&mut net, 5, 0);
    assert_eq!(net.received(5).len(), 1);
    assert_eq!(net.received(0).len(), 1);
    let known = live(&mut net, 0, 5);
    assert_eq!(known.len(), 1, "{known:?}");
    assert_eq!(known[0].length, Some(5));
    let names: Vec<_> = (1..6).map(|n| net.ids[n].sid()).collect();
    assert_eq!(known[0].hops, names);
    assert!(known[0].used);
    let tape = tape(&mut net);
    say(&mut net, 0, 5);
    say(&mut net, 5, 0);
    assert!(count(&tape, kind::DATA_S) >= 10);
    net.run(5 * SECOND);
    let seen = tape.borrow().len();
    let (mut at_rest, mut trees) = (0, 0);
    for &(_, _, kind, _) in &tape.borrow()[seen.saturating_sub(1)..] {
        at_rest += usize::from(kind == kind::DATA_S);
        trees += usize::from(kind == kind::DATA_T);
    }
    assert!(at_rest + trees <= 1);
}

#[test]
fn several_diverse_routes_are_found_on_a_grid() {
    let mut net = Net::new(36, 5);
    grid(&mut net, 6);
    net.run(3 * SECOND);
    for _ in 0..5 {
        say(&mut net, 0, 35);
        say(&mut net, 35, 0);
    }
    for (from, to) in [(0, 35), (35, 0)] {
        let known = live(&mut net, from, to);
        for route in &known {
            println!("{from} to {to}: {} hops, {:?}, {:?}", route.length.unwrap(), route.rtt, route.used);
        }
        assert!(known.len() >= 2, "{known:?}");
        let shortest = known.iter().filter_map(|route| route.length).min();
        assert_eq!(shortest, Some(10));
        let used = known.iter().find(|route| route.used).unwrap();
        assert_eq!(used.length, Some(10));
        assert_eq!(used.hops.len(), 10);
    }
}

#[test]
fn what_a_silent_route_swallowed_arrives_once_by_another() {
    let mut net = Net::new(36, 9);
    grid(&mut net, 6);
    net.run(3 * SECOND);
    for _ in 0..4 {
        say(&mut net, 0, 35);
    }
    let used = live(&mut net, 0, 35).into_iter().find(|route| route.used).unwrap();
    let dropper = (0..36).find(|&n| net.ids[n].sid() == used.hops[4]).unwrap();
    net.tap =
        Box::new(move |from, _, frame| from != dropper || !matches!(frame[0], kind::DATA_S | kind::DATA_T));
    let before = net.received(35).len();
    net.send(0, 35, b"once");
    net.run(3 * SECOND);
    assert_eq!(net.received(35).len(), before + 1, "nobody sent it again but the router");
}

#[test]
fn what_one_index_does_not_bring_through_another_does() {
    // Everybody's only way leads over a node that drops every second flow, as it tells them apart.
    let mut net = Net::new(3, 9);
    line(&mut net);
    let dropped = Rc::new(Cell::new(0));
    let count = dropped.clone();
    net.tap = Box::new(move |from, _, frame| {
        let packet = matches!(frame[0], kind::DATA_S | kind::DATA_T);
        let drops = from == 1 && packet && router::wire::data::flow_of(frame).count_ones() % 2 == 1;
        count.set(count.get() + u32::from(drops));
        !drops
    });
    net.run(3 * SECOND);
    for _ in 0..20 {
        let before = net.received(2).len();
        net.send(0, 2, b"word");
        assert!(net.run_until(4 * SECOND, |net| net.received(2).len() > before).is_some());
        net.run(SECOND);
    }
    assert!(dropped.get() > 0, "it has tried");
}

#[test]
fn a_route_that_falls_silent_is_left_within_its_patience() {
    let mut net = Net::new(36, 9);
    grid(&mut net, 6);
    net.run(3 * SECOND);
    for _ in 0..4 {
        say(&mut net, 0, 35);
    }
    let used = live(&mut net, 0, 35).into_iter().find(|route| route.used).unwrap();
    let dropper = (0..36).find(|&n| net.ids[n].sid() == used.hops[4]).unwrap();
    // It passes no packets on, but all else.
    net.tap =
        Box::new(move |from, _, frame| from != dropper || !matches!(frame[0], kind::DATA_S | kind::DATA_T));
    let before = net.received(35).len();
    let mut sent = 0;
    let arrived = net.run_until(4 * SECOND, |net| {
        if net.now.as_micros() / 20_000 > sent {
            sent = net.now.as_micros() / 20_000;
            net.send(0, 35, b"probe");
        }
        net.received(35).len() > before
    });
    println!("arrived after {arrived:?}: {:#?}", routes(&mut net, 0, 35));
    assert!(arrived.is_some_and(|took| took < 250 * MILLI), "{arrived:?}");
}

/// Node `at` drops what it should pass on, control and its own packets excepted.
fn drop_at(net: &mut Net, at: usize) {
    net.tap = Box::new(move |from, _, frame| from != at || !matches!(frame[0], kind::DATA_S | kind::DATA_T));
}

#[test]
fn the_search_finds_who_drops_and_ways_avoid_it() {
    let mut net = Net::new(36, 11);
    grid(&mut net, 6);
    net.run(3 * SECOND);
    for _ in 0..4 {
        say(&mut net, 0, 35);
    }
    let used = live(&mut net, 0, 35).into_iter().find(|route| route.used).unwrap();
    let dropper = used.hops[4];
    let at = (0..36).find(|&n| net.ids[n].sid() == dropper).unwrap();
    drop_at(&mut net, at);
    for _ in 0..40 {
        say(&mut net, 0, 35);
    }
    let before = net.received(35).len();
    for _ in 0..20 {
        say(&mut net, 0, 35);
    }
    assert_eq!(net.received(35).len() - before, 20, "nothing more is lost");
    let known = routes(&mut net, 0, 35);
    let used = known.iter().find(|route| route.used).unwrap();
    assert!(used.id == 0 || !used.hops.contains(&dropper), "{known:#?}");
}

#[test]
fn a_switch_of_the_way_is_told_once() {
    let mut net = Net::new(36, 9);
    grid(&mut net, 6);
    net.run(3 * SECOND);
    for _ in 0..4 {
        say(&mut net, 0, 35);
    }
    net.events[0].clear();
    for _ in 0..20 {
        say(&mut net, 0, 35);
    }
    let there = net.ids[35];
    let told = |net: &Net| {
        let told = net.events[0].iter();
        told.filter(|event| matches!(event, Event::PathChanged { node } if *node == there)).count()
    };
    assert_eq!(told(&net), 0, "nothing has changed");
    let used = live(&mut net, 0, 35).into_iter().find(|route| route.used).unwrap();
    let at = (0..36).find(|&n| net.ids[n].sid() == used.hops[4]).unwrap();
    drop_at(&mut net, at);
    for _ in 0..5 {
        say(&mut net, 0, 35);
    }
    assert!((1..=3).contains(&told(&net)), "{}", told(&net));
}

#[test]
fn a_trace_names_every_hop() {
    let mut net = Net::new(6, 3);
    line(&mut net);
    net.run(3 * SECOND);
    say(&mut net, 0, 5);
    let to = net.ids[5];
    net.command(0, Command::Trace { id: 7, to });
    net.run(SECOND);
    let traced = net.events[0].iter().find_map(|event| match event {
        Event::Traced { id: 7, hops } => Some(hops.clone()),
        _ => None,
    });
    let hops = traced.expect("it is answered");
    let names: Vec<_> = (1..6).map(|n| net.ids[n].sid()).collect();
    assert_eq!(hops.iter().map(|hop| hop.0).collect::<Vec<_>>(), names);
    for (n, (_, took)) in hops.iter().enumerate() {
        assert_eq!(*took, Some(2 * MILLI * (n as u32 + 1)));
    }
}

#[test]
fn large_packets_pass_where_every_link_of_the_way_takes_them() {
    for (kind_of_last, mtu) in [(LinkKind::Stream, 16 * 1024), (LinkKind::Datagram, 1280)] {
        let mut net = Net::new(4, 3);
        net.join(0, 1);
        net.join(1, 2);
        net.join_by(2, 3, &Wire { kind: kind_of_last, ..Wire::default() });
        net.run(3 * SECOND);
        let to = net.ids[3];
        assert_eq!(net.node(0).mtu(&to), 1280, "nothing is known yet");
        say(&mut net, 0, 3);
        assert_eq!(net.node(0).mtu(&to), mtu);
        assert!(net.events[0].iter().any(|event| matches!(event, Event::MtuChanged { .. })) || mtu == 1280);
        let large = vec![7; mtu];
        net.send(0, 3, &large);
        net.run(SECOND);
        assert!(net.received(3).iter().any(|(_, packet)| *packet == large));
    }
}

#[test]
fn a_packet_that_is_too_large_for_its_way_is_told() {
    let mut net = Net::new(4, 3);
    net.join(0, 1);
    net.join(1, 2);
    net.join_by(2, 3, &Wire { kind: LinkKind::Datagram, ..Wire::default() });
    net.run(3 * SECOND);
    say(&mut net, 0, 3);
    net.send(0, 3, &[7; 4000]);
    net.run(SECOND);
    let received = net.received(3).len();
    assert_eq!(received, 1, "it went no further than the narrow link");
    assert!((0..4).any(|n| net.node(n).stats().dropped_too_large > 0));
    say(&mut net, 0, 3);
    assert_eq!(net.received(3).len(), received + 1, "the way is as good as before for others");
}

#[test]
fn a_liar_gains_no_more_than_the_packets_that_pass_it() {
    // Node 2 of a line changes the list of every reply that passes it: it invents hops, or names others.
    for lie in 0..3u8 {
        let mut net = Net::new(6, 3);
        line(&mut net);
        net.run(3 * SECOND);
        let lies = Rc::new(RefCell::new(0));
        let told = lies.clone();
        net.alter = Box::new(move |from, _, frame| {
            if from != 2 || frame[0] != kind::DATA_S {
                return None;
            }
            let packet = DataS::decode(frame).ok()?;
            if packet.flags & FLAG_REPLY == 0 {
                return None;
            }
            let (reply, body) = Reply::split(packet.body).ok()?;
            let mut entries = reply.record.entries.to_vec();
            match lie {
                0 => entries[..8].fill(9),
                1 => entries.truncate(entries.len() / 2),
                _ => entries.rotate_left(1),
            }
            let record = Record { entries: &entries, ..reply.record };
            let mut lists = Vec::new();
            Reply { record, ..reply }.encode(&[], &mut lists);
            lists.extend(body);
            let mut out = Vec::new();
            DataS { body: &lists, ..packet }.encode(None, &mut out);
            *told.borrow_mut() += 1;
            Some(out)
        });
        for _ in 0..10 {
            say(&mut net, 0, 5);
        }
        assert!(*lies.borrow() > 0);
        assert_eq!(net.received(5).len(), 10, "packets arrive all the same");
        for route in live(&mut net, 0, 5) {
            let real: Vec<_> = (1..6).map(|n| net.ids[n].sid()).collect();
            assert!(route.hops.is_empty() || route.hops == real, "{route:?}");
        }
    }
}

#[test]
fn what_a_node_does_not_know_it_ignores_or_passes_on() {
    let mut net = Net::new(5, 3);
    line(&mut net);
    net.run(3 * SECOND);
    // A later version: more flag bits on every packet that node 1 sends.
    net.alter = Box::new(move |from, _, frame| match frame[0] {
        kind::DATA_S if from == 1 => {
            let packet = DataS::decode(frame).ok()?;
            let mut out = Vec::new();
            DataS { flags: packet.flags | 0x74, ..packet }.encode(None, &mut out);
            Some(out)
        }
        kind::DATA_T if from == 1 => {
            let packet = DataT::decode(frame).ok()?;
            let mut out = Vec::new();
            DataT { flags: packet.flags | 0x0f, ..packet }.encode(None, &mut out);
            Some(out)
        }
        _ => None,
    });
    let seen = Rc::new(RefCell::new((0u8, 0u8)));
    let kept = seen.clone();
    net.tap = Box::new(move |from, _, frame| {
        if from == 3 {
            match frame[0] {
                kind::DATA_S => kept.borrow_mut().0 |= frame[1],
                kind::DATA_T => kept.borrow_mut().1 |= frame[1],
                _ => {}
            }
        }
        true
    });
    for _ in 0..5 {
        say(&mut net, 0, 4);
        say(&mut net, 4, 0);
    }
    assert_eq!((net.received(4).len(), net.received(0).len()), (5, 5));
    assert_eq!(seen.borrow().0 & 0x74, 0x74, "passed on as they are");
    assert_eq!(seen.borrow().1 & 0x0f, 0x0f);
    // A frame of an unknown kind is counted, and the link lives on.
    let link = net.node(2).peers()[0].link;
    net.inject(2, link, &[0x2f, 1, 2, 3]);
    assert_eq!(net.node(2).stats().frames_unknown, 1);
    say(&mut net, 0, 4);
    assert_eq!(net.received(4).len(), 6);
}

#[test]
fn a_session_at_rest_says_nothing_of_its_ways() {
    let mut net = Net::new(36, 5);
    grid(&mut net, 6);
    net.run(3 * SECOND);
    for _ in 0..5 {
        say(&mut net, 0, 35);
    }
    net.run(60 * SECOND);
    let to = net.ids[35];
    let sent = |net: &mut Net| net.node(0).routes(&to).iter().map(|route| u64::from(route.sent)).sum::<u64>();
    let before = sent(&mut net);
    net.run(300 * SECOND);
    assert_eq!(sent(&mut net), before);
}

#[test]
fn without_source_routes_all_goes_by_the_trees() {
    let config = Config { source_routes: false, ..Config::default() };
    let mut net = Net::with(6, 3, config);
    line(&mut net);
    net.run(3 * SECOND);
    say(&mut net, 0, 5);
    let tape = tape(&mut net);
    for _ in 0..5 {
        say(&mut net, 0, 5);
    }
    assert_eq!(net.received(5).len(), 6);
    assert_eq!(count(&tape, kind::DATA_S), 0);
}

#[test]
fn a_peer_is_reached_around_its_link_when_that_falls_silent() {
    let mut net = Net::new(16, 12);
    grid(&mut net, 4);
    net.run(3 * SECOND);
    for _ in 0..5 {
        say(&mut net, 5, 6);
    }
    let known = live(&mut net, 5, 6);
    assert!(known.iter().any(|route| route.length == Some(1) && route.used), "{known:?}");
    assert!(known.iter().any(|route| route.length > Some(1) && !route.used), "one stands by: {known:?}");
    let (to, mtu) = (net.ids[6], 16 * 1024);
    assert_eq!(net.node(5).mtu(&to), mtu, "what stands by does not make packets smaller");
    net.silence(5, 6);
    let (before, start) = (net.received(6).len(), net.now);
    let mut sent = 0;
    let arrived = net.run_until(4 * SECOND, |net| {
        if (net.now - start).as_millis() as usize / 20 >= sent {
            sent += 1;
            net.send(5, 6, b"probe");
        }
        net.received(6).len() > before
    });
    println!("arrived after {arrived:?}, {sent} sent");
    assert!(arrived.is_some_and(|took| took < 250 * MILLI), "{arrived:?}");
    // And nothing more is lost, not even when the link is given up.
    let before = net.received(6).len();
    for _ in 0..20 {
        say(&mut net, 5, 6);
    }
    assert!(net.received(6).len() >= before + 20);
    let used = live(&mut net, 5, 6).into_iter().find(|route| route.used);
    assert!(used.is_some_and(|route| route.length > Some(1)), "a source route carries it");
}

#[test]
fn a_node_with_one_link_looks_for_no_way_around_it() {
    let mut net = Net::new(2, 13);
    line(&mut net);
    net.run(10 * SECOND);
    for _ in 0..3 {
        say(&mut net, 0, 1);
    }
    let tape = tape(&mut net);
    for _ in 0..10 {
        say(&mut net, 0, 1);
    }
    assert_eq!(net.received(1).len(), 13);
    assert_eq!(count(&tape, kind::DATA_T), 0);
}
