//! Goal: first packets to nodes in sight go straight on, repetitions by the trees, and nothing circles. Method: a net under a
//! hand-moved clock, a tap on every frame.
mod harness;

use harness::{Net, grid};
use router::Config;
use router::time::Duration;
use router::wire::data::{FLAG_NO_VICINITY, FLAG_VICINITY};
use router::wire::{DataT, body, kind};
use std::cell::RefCell;
use std::rc::Rc;

const SECOND: Duration = Duration::from_secs(1);

/// Hops and flags of handshakes.
fn handshakes(net: &mut Net) -> Rc<RefCell<Vec<(usize, u8)>>> {
    let seen = Rc::new(RefCell::new(Vec::new()));
    let list = seen.clone();
    net.tap = Box::new(move |_, to, frame| {
        if frame.first() == Some(&kind::DATA_T)
            && let Ok(packet) = DataT::decode(frame)
            && packet.bare_body().is_ok_and(|body| body.first() == Some(&body::INIT))
        {
            list.borrow_mut().push((to, packet.flags));
        }
        true
    });
    seen
}

#[test]
fn the_first_packet_takes_the_shortest_way() {
    // One tree, which leads a long way round; with four of them a small grid has no detours.
    let mut hops = [0, 0];
    for on in [false, true] {
        let mut net = Net::with(36, 5, Config { trees: 1, vicinity: on, audit: false, ..Config::default() });
        grid(&mut net, 6);
        net.run(40 * SECOND);
        assert_eq!(net.node(0).in_sight() == 35, on);
        let seen = handshakes(&mut net);
        let (mut straight, mut least) = (0, 0);
        for n in 0..36usize {
            let to = (n * 7 + 11) % 36;
            if to == n {
                continue;
            }
            seen.borrow_mut().clear();
            net.send(n, to, b"word");
            net.run(SECOND);
            assert!(!net.received(to).is_empty());
            hops[usize::from(on)] += seen.borrow().len();
            least += (n % 6).abs_diff(to % 6) + (n / 6).abs_diff(to / 6);
            straight += seen.borrow().iter().filter(|(_, flags)| flags & FLAG_VICINITY != 0).count();
        }
        println!("vicinity {on}: {} hops of {least}, {straight} of them straight on", hops[usize::from(on)]);
        // Where the trees' way is as short it is taken.
        assert_eq!(straight > 0, on);
        assert!(!on || hops[1] == least);
    }
    assert!(hops[1] < hops[0]);
}

#[test]
fn who_is_led_astray_goes_on_by_the_trees() {
    // A link to a corner goes; some still see it over that link.
    let mut net = Net::with(36, 7, Config { vicinity: true, ..Config::default() });
    grid(&mut net, 6);
    net.run(40 * SECOND);
    let seen = handshakes(&mut net);
    net.cut(34, 35);
    for n in [4, 10, 16, 22, 28, 33, 34] {
        net.send(n, 35, b"word");
    }
    net.run(5 * SECOND);
    assert_eq!(net.received(35).len(), 7);
    assert!(seen.borrow().len() < 7 * 25);
    for &(_, flags) in seen.borrow().iter() {
        assert!(flags & FLAG_VICINITY == 0 || flags & FLAG_NO_VICINITY == 0);
    }
}
