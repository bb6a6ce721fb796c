//! Goal: where two networks meet, at least one of any two nodes is told, and they reach each other at once; a root that
//! comes and goes is no meeting. Method: whole routers under a hand-moved clock.
mod harness;

use harness::Net;
use router::time::Duration;
use router::{Event, NodeId};

fn joined(net: &Net, node: usize) -> bool {
    net.events[node].iter().any(|event| matches!(event, Event::Joined))
}

/// Two lines of nodes, which a link between their last and first joins.
fn halves(seed: u64, left: usize, right: usize) -> Net {
    let mut net = Net::new(left + right, seed);
    for n in 1..left + right {
        net.join(n - 1, n);
    }
    net
}

#[test]
fn of_two_that_were_cut_off_from_each_other_one_is_told_and_reaches_the_other() {
    for (seed, left, right) in [(1, 3, 3), (2, 5, 1), (3, 2, 4), (4, 1, 1), (5, 6, 2), (6, 4, 4)] {
        let mut net = halves(seed, left, right);
        net.run(Duration::from_secs(60));
        let (a, b) = (0, left + right - 1);
        net.send(a, b, b"before");
        net.run(Duration::from_secs(2));
        assert_eq!(net.received(b).len(), 1);
        net.cut(left - 1, left);
        net.run(Duration::from_secs(3600));
        net.events.iter_mut().for_each(Vec::clear);
        net.join(left - 1, left);
        let told = net.run_until(Duration::from_secs(3), |net| joined(net, a) || joined(net, b));
        let told = told.unwrap_or_else(|| panic!("seed {seed}: neither end was told"));
        let (from, to) = if joined(&net, a) { (a, b) } else { (b, a) };
        net.send(from, to, b"hello");
        let reached = net.run_until(Duration::from_secs(3), |net| !net.received(to).is_empty());
        let took = told + reached.unwrap_or_else(|| panic!("seed {seed}: not reached"));
        assert!(took < Duration::from_millis(1500), "seed {seed}: {took:?}");
        // One side of the link at least knows as a whole.
        let side = |mut nodes: std::ops::Range<usize>| nodes.all(|node| joined(&net, node));
        assert!(side(0..left) || side(left..left + right), "seed {seed}");
    }
}

#[test]
fn a_root_that_crashes_and_comes_back_joins_nothing() {
    let mut net = Net::new(24, 9);
    for n in 1..24 {
        net.join(n, n / 2);
        net.join(n, (n * 5 + 2) % n);
    }
    net.run(Duration::from_secs(30));
    net.events.iter_mut().for_each(Vec::clear);
    let roots: Vec<NodeId> = net.node(0).trees().iter().map(|tree| tree.root).collect();
    // One that is root of a single tree.
    let only = |id: &&NodeId| roots.iter().filter(|other| other == id).count() == 1;
    let root = *roots.iter().find(only).expect("a root of one tree");
    let at = net.ids.iter().position(|id| *id == root).unwrap();
    net.restart(at, 1 << 40);
    net.run(Duration::from_secs(10));
    net.join(at, (at + 1) % 24);
    net.run(Duration::from_secs(10));
    let others: Vec<usize> = (0..24).filter(|n| *n != at && joined(&net, *n)).collect();
    assert!(others.is_empty(), "told: {others:?}");
    assert!(joined(&net, at));
}

#[test]
fn two_meshes_that_meet_find_each_others_nodes() {
    for seed in [1] {
        let (left, all) = (24, 48);
        let mut net = Net::new(all, seed);
        for (start, end) in [(0, left), (left, all)] {
            for n in start + 1..end {
                net.join(n, start + (n - start) / 2);
                net.join(n, start + (n * 7 + 3) % (n - start));
            }
        }
        net.run(Duration::from_secs(70));
        net.join(3, left + 5);
        net.run(Duration::from_secs(3));
        let mut missing = Vec::new();
        for wait in [0, 30] {
            net.run(Duration::from_secs(wait));
            net.events.iter_mut().for_each(Vec::clear);
            let mut asked = 0;
            for n in 0..left {
                for (from, to) in [(n, left + (n * 7 + 1) % 24), (left + n, (n * 11 + 5) % 24)] {
                    let target = router::Target::Key(net.ids[to]);
                    net.command(from, router::Command::Lookup { id: to as u64, target });
                    asked += 1;
                }
            }
            net.run(Duration::from_secs(6));
            let found = |event: &&Event| matches!(event, Event::LookupDone { result: Ok(_), .. });
            let found = net.events.iter().flatten().filter(found).count();
            println!("seed {seed}: {found} of {asked} across");
            missing.push(asked - found);
        }
        assert_eq!(missing, [0, 0], "3 s after the meeting, and 30 s later");
    }
}
