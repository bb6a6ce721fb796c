//! Goal: source routes: found, used, watched, left when they fail. Method: small nets under a hand-moved clock, a tap on
//! every frame.
mod harness;

use harness::{Net, grid, line};
use router::route::choose::RouteInfo;
use router::time::Duration;
use router::wire::kind;
use std::cell::RefCell;
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
