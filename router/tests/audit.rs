//! Goal: peers that drop what they should pass on are found out and passed over; nobody else is. Method: small nets under a
//! hand-moved clock, in which a tap swallows what a node passes on for others.
mod harness;

use harness::{Net, grid, line};
use router::time::Duration;
use router::wire::{DataS, kind};
use router::{Channel, Command, Config, NodeId, Sid};
use std::cell::Cell;
use std::collections::BTreeSet;
use std::rc::Rc;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

/// From now on these nodes pass nothing on: what they send and what came in before is swallowed.
fn drop_all(net: &mut Net, droppers: &[usize]) -> Rc<Cell<u64>> {
    let (droppers, dropped) = (droppers.to_vec(), Rc::new(Cell::new(0)));
    let count = dropped.clone();
    let mut came = BTreeSet::new();
    net.tap = Box::new(move |from, to, frame| {
        if !matches!(frame.first(), Some(&(kind::DATA_T | kind::DATA_S | kind::NOTICE))) {
            return true;
        }
        let name = (frame.len() > 24).then(|| frame[frame.len() - 16..].to_vec());
        if droppers.contains(&to) {
            came.extend(name.map(|name| (to, name)));
            return true;
        }
        let drops = droppers.contains(&from) && name.is_some_and(|name| came.contains(&(from, name)));
        count.set(count.get() + u64::from(drops));
        !drops
    });
    dropped
}

fn suspects(net: &mut Net) -> BTreeSet<(usize, usize)> {
    let mut found = BTreeSet::new();
    for n in net.alive() {
        for peer in net.node(n).peers() {
            let of = net.ids.iter().position(|id| Some(*id) == peer.node);
            if let Some(of) = of.filter(|_| peer.suspect) {
                found.insert((n, of));
            }
        }
    }
    found
}

#[test]
fn a_dropper_is_suspect_to_all_its_neighbours_within_an_audit_round() {
    let mut net = Net::new(16, 3);
    grid(&mut net, 4);
    drop_all(&mut net, &[5]);
    net.run(2 * MINUTE);
    let found = suspects(&mut net);
    assert_eq!(found, BTreeSet::from([(1, 5), (4, 5), (6, 5), (9, 5)]));
    for n in [1, 4, 6, 9] {
        let dropper = net.ids[5];
        for tree in &net.node(n).trees()[..3] {
            assert_ne!(tree.parent, Some(dropper), "never a parent while there is another");
        }
    }
    let missing = net.talk(8, 5 * SECOND);
    let missing: Vec<_> = missing.into_iter().filter(|&(a, b)| a != 5 && b != 5).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

/// From now on that node drops every second flow, as it tells them apart by the receiver's index.
fn drop_every_second_index(net: &mut Net, dropper: usize) {
    let mut came: BTreeSet<Vec<u8>> = BTreeSet::new();
    net.tap = Box::new(move |from, to, frame| {
        if !matches!(frame.first(), Some(&(kind::DATA_T | kind::DATA_S))) || frame.len() < 24 {
            return true;
        }
        let name = frame[frame.len() - 16..].to_vec();
        if to == dropper && router::wire::data::flow_of(frame).count_ones() % 2 == 1 {
            came.insert(name);
            return true;
        }
        from != dropper || !came.contains(&name)
    });
}

#[test]
fn who_drops_every_second_flow_is_suspect_within_an_audit_round() {
    let mut net = Net::new(16, 3);
    grid(&mut net, 4);
    drop_every_second_index(&mut net, 5);
    net.run(2 * MINUTE);
    assert_eq!(suspects(&mut net), BTreeSet::from([(1, 5), (4, 5), (6, 5), (9, 5)]));
}

#[test]
fn who_begins_to_drop_under_traffic_is_suspect_soon() {
    let mut net = Net::new(16, 3);
    grid(&mut net, 4);
    net.run(5 * MINUTE);
    drop_all(&mut net, &[5]);
    let mut seconds = 0;
    while suspects(&mut net).len() < 2 {
        assert!(seconds < 180, "{:?}", suspects(&mut net));
        for n in [0, 1, 4, 6, 9] {
            net.send(n, (n * 7 + 3 + seconds) % 16, &[7; 1000]);
        }
        net.run(SECOND);
        seconds += 1;
    }
    println!("after {seconds} s: {:?}", suspects(&mut net));
    assert!(suspects(&mut net).iter().all(|&(_, of)| of == 5));
}

#[test]
fn a_sender_that_gets_no_answer_has_the_neighbour_audited_at_once() {
    // After a long quiet time nobody has a purse for probes: what the sender misses brings them.
    let mut net = Net::new(16, 3);
    grid(&mut net, 4);
    net.run(5 * MINUTE);
    for _ in 0..10 {
        net.send(4, 7, b"word");
        net.run(SECOND / 2);
    }
    let to = net.ids[7];
    let used = net.node(4).routes(&to).into_iter().find(|route| route.used).expect("there is a way");
    let first = net.ids.iter().position(|id| Some(&id.sid()) == used.hops.first()).expect("with known hops");
    drop_all(&mut net, &[first]);
    let probes = net.node(4).stats().audit_probes;
    let mut seconds = 0;
    while !suspects(&mut net).contains(&(4, first)) {
        assert!(seconds < 60, "{seconds} s: {:?}", suspects(&mut net));
        net.send(4, 7, b"word");
        net.run(SECOND);
        seconds += 1;
    }
    let probes = net.node(4).stats().audit_probes - probes;
    println!("suspect after {seconds} s and {probes} probes");
    assert!(probes <= 24);
}

#[test]
fn honest_nodes_are_never_suspect() {
    let mut net = Net::new(25, 4);
    grid(&mut net, 5);
    net.run(10 * MINUTE);
    assert!(suspects(&mut net).is_empty());
    let stats: Vec<_> = (0..25).map(|n| net.node(n).stats()).collect();
    let (probes, answers) = (
        stats.iter().map(|s| s.audit_probes).sum::<u64>(),
        stats.iter().map(|s| s.audit_answers).sum::<u64>(),
    );
    println!("{probes} probes, {answers} answers");
    assert!(probes >= 80 * 2 && answers * 100 > probes * 97);
    assert_eq!(stats.iter().map(|s| s.audit_places_void).sum::<u64>(), 0);
    // Some crash and come back: their sessions know nothing of the old ones.
    for (n, counter) in [(12, 10_000_000), (6, 20_000_000)] {
        net.restart(n, counter);
        net.join(n, n - 1);
        net.join(n, n + 1);
        net.join(n, n - 5);
        net.join(n, n + 5);
        net.run(4 * MINUTE);
    }
    net.crash(18);
    net.run(6 * MINUTE);
    assert!(suspects(&mut net).is_empty());
    let void: u64 = net.alive().into_iter().map(|n| net.node(n).stats().audit_places_void).sum();
    assert_eq!(void, 0);
}

#[test]
fn the_only_way_is_used_even_if_it_is_suspect() {
    // 0, 1 and 2 see node 3 pass nothing on to each other; 4 and 5 hang behind it.
    let mut net = Net::new(6, 5);
    for n in [0, 1, 2, 4] {
        net.join(3, n);
    }
    net.join(0, 1);
    net.join(1, 2);
    net.join(0, 2);
    net.join(4, 5);
    let dropped = drop_all(&mut net, &[3]);
    net.run(3 * MINUTE);
    assert!(suspects(&mut net).contains(&(0, 3)), "{:?}", suspects(&mut net));
    net.tap = Box::new(|_, _, _| true);
    let before = dropped.get();
    // Records that were swallowed are published again meanwhile.
    net.run(5 * MINUTE);
    assert!(suspects(&mut net).contains(&(0, 3)));
    net.send(0, 5, b"over the suspect");
    net.run_until(15 * SECOND, |net| !net.received(5).is_empty()).expect("it arrives");
    assert_eq!(dropped.get(), before);
    assert!(net.one_root());
}

#[test]
fn without_audits_nobody_is_judged() {
    let mut net = Net::with(9, 6, Config { audit: false, ..Config::default() });
    grid(&mut net, 3);
    drop_all(&mut net, &[4]);
    net.run(5 * MINUTE);
    assert!(suspects(&mut net).is_empty());
    assert_eq!(net.node(0).stats().audit_probes, 0);
}

/// What a node on the way sees of a packet.
fn looks(frame: &[u8]) -> Option<(usize, usize, u8)> {
    let packet = DataS::decode(frame).ok()?;
    let ports = router::wire::data::decode_ports(packet.ports).ok()?;
    let way = router::wire::data::decode_ports(packet.rev).ok()?;
    Some((ports.len(), way.len(), packet.body.first().copied()?))
}

#[test]
fn an_audit_seems_to_come_from_farther_and_to_go_farther() {
    let mut net = Net::new(3, 7);
    line(&mut net);
    net.run(3 * SECOND);
    let seen = Rc::new(Cell::new(0));
    let count = seen.clone();
    net.tap = Box::new(move |from, to, frame| {
        if let Some((ports, way, body)) = looks(frame).filter(|(.., body)| *body == 1) {
            assert_eq!(body, 1);
            if to == 1 {
                // Comes to the node that is audited: there is a way behind it, and two hops before it at least.
                assert!(way >= 1 && ports >= 2, "from {from}: {ports} ports, {way} behind");
                count.set(count.get() + 1);
            } else {
                assert!(way >= 2 && ports >= 1);
            }
        }
        true
    });
    net.run(2 * MINUTE);
    assert!(seen.get() >= 8, "{}", seen.get());
}

/// A packet that only a node's neighbour sends is not an audit; the thief's own traffic is unharmed. (Here: a thief of a
/// place, see below.)
fn root_sid(net: &mut Net, tree: usize) -> Sid {
    net.node(0).trees()[tree].root_sid
}

#[test]
fn a_stolen_place_is_void_within_half_a_minute() {
    // A ring of ten. The thief (10) hangs on the root of tree 0 at first, then cuts that link; its router is told nothing,
    // and so it goes on to claim the place.
    let mut net = Net::new(11, 21);
    line(&mut net);
    net.cut(9, 10);
    net.join(9, 0);
    net.run(5 * SECOND);
    let root = {
        let sid = root_sid(&mut net, 0);
        net.ids.iter().position(|id| id.sid() == sid)
    };
    let Some(root) = root.filter(|&root| root != 10) else { panic!("choose another seed") };
    let far = (root + 5) % 10;
    net.join(10, root);
    net.run(3 * SECOND);
    let (thief, parent) = (net.ids[10], net.node(10).trees()[0].parent);
    assert_eq!(parent, Some(net.ids[root]));
    // Everything between the thief and the root is swallowed from now on, but for signs of life.
    let pretend = pretends(&mut net, 10, root);
    net.join(10, far);
    let far_neighbours = [(far + 9) % 10, (far + 1) % 10];
    net.run(2 * SECOND);
    net.run(8 * SECOND);
    let drawn = net.node(far).trees()[0].parent == Some(thief);
    println!("the thief draws its neighbour: {drawn}; {} frames swallowed", pretend.get());
    net.run(30 * SECOND);
    let voided = net.node(far).stats().audit_places_void;
    assert!(voided >= 1, "the place is found to be claimed only");
    assert_ne!(net.node(far).trees()[0].parent, Some(thief));
    net.run(60 * SECOND);
    assert_ne!(net.node(far).trees()[0].parent, Some(thief), "void for ten minutes");
    for n in far_neighbours {
        assert_ne!(net.node(n).trees()[0].parent, Some(thief));
    }
}

/// Swallows packets between the two: they go on exchanging signs of life and what the trees say.
fn pretends(net: &mut Net, thief: usize, root: usize) -> Rc<Cell<u64>> {
    let swallowed = Rc::new(Cell::new(0));
    let count = swallowed.clone();
    net.tap = Box::new(move |from, to, frame| {
        let between = from == thief && to == root || from == root && to == thief;
        let packet = matches!(frame.first(), Some(&(kind::DATA_T | kind::DATA_S | kind::NOTICE)));
        count.set(count.get() + u64::from(between && packet));
        !(between && packet)
    });
    swallowed
}

#[test]
fn convergence_is_not_slowed_by_proofs() {
    for audit in [true, false] {
        let mut net = Net::with(49, 8, Config { audit, ..Config::default() });
        grid(&mut net, 7);
        let took = net.run_until(10 * SECOND, |net| net.one_root()).expect("they agree");
        println!("audit {audit}: one root per tree after {took:?}");
        assert!(took < 2 * SECOND);
    }
}

#[test]
fn a_node_that_idles_stays_within_its_budget_with_audits() {
    let mut each = [0, 0];
    for audit in [false, true] {
        let mut net = Net::with(9, 9, Config { audit, ..Config::default() });
        grid(&mut net, 3);
        net.run(5 * MINUTE);
        let sum = |net: &mut Net| {
            let stats = (0..9).map(|n| net.node(n).stats());
            stats.fold((0, 0), |(bytes, frames), stats| (bytes + stats.bytes_out, frames + stats.frames_out))
        };
        let before = sum(&mut net);
        net.run(10 * MINUTE);
        let after = sum(&mut net);
        // Twelve links.
        let (bytes, frames) = ((after.0 - before.0) / 120, (after.1 - before.1) / 120);
        println!("audit {audit}: {bytes} bytes in {frames} frames a link and minute");
        each[usize::from(audit)] = bytes;
    }
    // Each end audits the other, and helps to audit both: four probes and answers in four minutes.
    assert!(each[1] - each[0] <= 180, "{each:?}");
}

#[test]
fn a_ping_still_works_through_sessions_that_audits_made() {
    let mut net = Net::new(3, 10);
    line(&mut net);
    net.run(2 * MINUTE);
    let far: NodeId = net.ids[2];
    assert!(net.node(0).sessions().iter().any(|session| session.node == far), "met for audits");
    net.command(0, Command::Send { to: far, channel: Channel::Stream, payload: b"hello"[..].into() });
    net.run(SECOND);
    assert_eq!(net.received(2).len(), 1);
}
