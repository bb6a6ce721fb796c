//! Goal: who cannot be reached by the trees is reached by the verified map. Method: a net under a hand-moved clock in which
//! whoever should pass on what goes by the trees swallows handshakes.
mod harness;

use harness::{Net, grid};
use router::time::Duration;
use router::wire::{DataT, body, kind};
use router::{Command, Config};
use std::cell::Cell;
use std::rc::Rc;

const SECOND: Duration = Duration::from_secs(1);

/// Handshakes go by lists of ports only.
fn trees_swallow_handshakes(net: &mut Net) -> Rc<Cell<u32>> {
    let swallowed = Rc::new(Cell::new(0));
    let count = swallowed.clone();
    net.tap = Box::new(move |_, _, frame| {
        let init = frame.first() == Some(&kind::DATA_T)
            && DataT::decode(frame).is_ok_and(|packet| {
                packet.bare_body().is_ok_and(|body| body.first() == Some(&body::INIT))
                    && !packet.rev.is_empty()
            });
        count.set(count.get() + u32::from(init));
        !init
    });
    swallowed
}

#[test]
fn a_handshake_that_the_trees_swallow_goes_by_the_map() {
    for map in [true, false] {
        let mut net = Net::with(36, 5, Config { map, audit: false, ..Config::default() });
        grid(&mut net, 6);
        net.run(40 * SECOND);
        let swallowed = trees_swallow_handshakes(&mut net);
        net.send(0, 35, b"around them");
        let took = net.run_until(9 * SECOND, |net| !net.received(35).is_empty());
        assert!(swallowed.get() > 0);
        let stats = net.node(0).stats();
        println!("map {map}: {took:?}, {} questions, {:?}", stats.map_questions, stats.map_searches);
        assert_eq!(took.is_some(), map);
        if map {
            assert!(took.unwrap() < 3 * SECOND);
            assert!(stats.map_questions <= 60 && stats.map_searches == 1);
        } else {
            assert_eq!(stats.map_questions, 0);
        }
    }
}

#[test]
fn nobody_asks_while_packets_arrive() {
    let mut net = Net::new(16, 6);
    grid(&mut net, 4);
    net.run(20 * SECOND);
    assert!(net.talk(6, 5 * SECOND).is_empty());
    for n in 0..16 {
        assert_eq!(net.node(n).stats().map_questions, 0);
    }
}

#[test]
fn a_node_that_is_gone_costs_a_bounded_search() {
    let mut net = Net::new(36, 7);
    grid(&mut net, 6);
    net.run(20 * SECOND);
    net.crash(35);
    net.run(SECOND);
    let to = net.ids[35];
    for _ in 0..10 {
        net.command(0, Command::Ping { id: 1, to });
        net.run(12 * SECOND);
    }
    let stats = net.node(0).stats();
    println!("{} searches, {} questions", stats.map_searches, stats.map_questions);
    assert!(stats.map_questions <= 1000, "{}", stats.map_questions);
}
