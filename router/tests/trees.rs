//! Goal: the trees come together, heal and resist. Method: small nets under a hand-moved clock.
mod harness;

use harness::{Net, Wire, grid, line, ring};
use router::time::Duration;
use router::{LinkKind, NodeId, SecretKey};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn two_become_one_tree_each() {
    let mut net = Net::new(2, 1);
    net.join(0, 1);
    let took = net.run_until(SECOND, |net| net.one_root()).expect("they agree");
    assert!(took < Duration::from_millis(20), "{took:?}");
}

#[test]
fn line_ring_and_grid_agree_on_roots() {
    for (name, make) in [("line", line as fn(&mut Net)), ("ring", ring), ("grid", |net| grid(net, 6))] {
        let mut net = Net::new(30, 7);
        make(&mut net);
        let took = net.run_until(10 * SECOND, |net| net.one_root());
        let took = took.unwrap_or_else(|| panic!("the {name} does not agree"));
        println!("{name}: {took:?}");
        assert!(took < 2 * SECOND, "{name}: {took:?}");
    }
}

/// Which node is the root of that tree now?
fn root_of(net: &mut Net, tree: usize) -> usize {
    let alive = net.alive()[0];
    let root = net.node(alive).trees()[tree].root;
    net.ids.iter().position(|id| *id == root).expect("the root is one of ours")
}

#[test]
fn a_roots_crash_heals_and_its_ghost_does_not_come_back() {
    let mut net = Net::new(36, 3);
    grid(&mut net, 6);
    net.run_until(5 * SECOND, |net| net.one_root()).expect("they agree");
    net.run(400 * SECOND);
    for _ in 0..3 {
        let root = root_of(&mut net, 0);
        net.crash(root);
        // Idle links notice within 32 s + 1.5 s; from then on it is quick.
        net.run_until(40 * SECOND, |net| net.one_root()).expect("they agree again");
        for _ in 0..20 {
            net.run(SECOND);
            assert!(net.one_root(), "a ghost came back");
        }
        net.run(100 * SECOND); // a token comes back
    }
}

#[test]
fn a_root_that_dies_without_a_word_under_traffic_is_replaced_within_two_seconds() {
    let mut net = Net::new(36, 4);
    grid(&mut net, 6);
    net.run_until(5 * SECOND, |net| net.one_root()).expect("they agree");
    net.run(10 * SECOND);
    let root = root_of(&mut net, 1);
    net.crash(root);
    let (crashed, mut sent) = (net.now, 0);
    let took = net.run_until(10 * SECOND, |net| {
        let turn = (net.now - crashed).as_micros() / 100_000;
        if turn >= sent {
            sent = turn + 1;
            for n in (0..36).filter(|&n| n != root) {
                net.send(n, (n + 7) % 36, b"word");
            }
        }
        net.one_root()
    });
    println!("healed in {took:?}");
    assert!(took.expect("they agree again") < 2 * SECOND, "{took:?}");
}

#[test]
fn a_peer_that_is_silent_for_a_second_is_left_and_taken_again() {
    let mut net = Net::new(3, 4);
    // Links that may lose frames.
    let wire = Wire { kind: LinkKind::Datagram, ..Wire::default() };
    for n in 0..3 {
        net.join_by(n, (n + 1) % 3, &wire);
    }
    net.run(10 * SECOND);
    let root = root_of(&mut net, 0);
    let (a, b) = ((root + 1) % 3, (root + 2) % 3);
    let parent = |net: &mut Net| net.node(a).trees()[0].parent;
    let (of_root, of_b) = (net.ids[root], net.ids[b]);
    assert_eq!(parent(&mut net), Some(of_root));
    net.tap = Box::new(move |from, to, _| (from, to) != (root, a));
    net.send(a, root, b"word");
    let left = net.run_until(3 * SECOND, |net| parent(net) == Some(of_b)).expect("it hangs on the other one");
    assert!(left > SECOND / 2 && left < 3 * SECOND / 2, "{left:?}");
    assert_eq!(net.node(a).peers().len(), 2, "the link stands");
    net.tap = Box::new(|_, _, _| true);
    net.run_until(30 * SECOND, |net| parent(net) == Some(of_root)).expect("and comes back");
}

#[test]
fn healing_is_quick_once_a_crash_is_noticed() {
    let mut net = Net::new(36, 4);
    grid(&mut net, 6);
    net.run_until(5 * SECOND, |net| net.one_root()).expect("they agree");
    net.run(10 * SECOND);
    let root = root_of(&mut net, 1);
    for other in 0..36 {
        net.cut(root, other);
    }
    net.crash(root);
    let took = net.run_until(10 * SECOND, |net| net.one_root()).expect("they agree again");
    println!("healed in {took:?}");
    assert!(took < 2 * SECOND, "{took:?}");
}

#[test]
fn a_better_root_is_taken_at_once() {
    let mut net = Net::new(20, 5);
    line(&mut net);
    net.run_until(5 * SECOND, |net| net.one_root()).expect("they agree");
    net.run(60 * SECOND);
    // Two nets merge at their ends: one of each pair of roots has to give way, over 20 hops.
    for _ in 20..40 {
        let new = net.add();
        if new > 20 {
            net.join(new - 1, new);
        }
    }
    net.run(20 * SECOND);
    net.join(19, 20);
    let took = net.run_until(10 * SECOND, |net| net.one_root()).expect("the nets are one");
    println!("merged in {took:?}");
    assert!(took < 2 * SECOND, "{took:?}");
}

#[test]
fn control_frames_get_through_links_that_lose_them() {
    let lossy = Wire { kind: LinkKind::Datagram, latency: Duration::from_millis(3), loss: 0.2, rate: None };
    let mut net = Net::new(25, 6);
    for n in 0..25 {
        if n % 5 != 0 {
            net.join_by(n - 1, n, &lossy);
        }
        if n >= 5 {
            net.join_by(n - 5, n, &lossy);
        }
    }
    let took = net.run_until(20 * SECOND, |net| net.one_root()).expect("they agree");
    println!("agreed over lossy links in {took:?}");
    assert!(took < 5 * SECOND, "{took:?}");
}

#[test]
fn a_node_that_lost_its_counters_finds_its_place_again() {
    let mut net = Net::new(5, 8);
    let secret = SecretKey::from_seed([42; 32]);
    let late = net.add_with(secret.clone(), 5_000_000);
    net.join(0, 1);
    line(&mut net);
    net.run(3 * SECOND);
    assert!(net.one_root());
    for other in 0..5 {
        net.cut(late, other);
    }
    net.crash(late);
    net.run(SECOND);
    // The same key, but its disk is gone: its counter begins below what the others remember.
    let again = net.add_with(secret, 7);
    net.join(2, again);
    let took = net.run_until(10 * SECOND, |net| net.one_root()).expect("it is let in again");
    assert!(took < 3 * SECOND, "{took:?}");
    let depth = net.node(again).trees().iter().filter(|tree| tree.parent.is_some()).count();
    assert!(depth >= 3);
}

#[test]
fn a_flood_of_fresh_roots_moves_the_others_rarely() {
    let mut net = Net::new(4, 9);
    line(&mut net);
    net.run(400 * SECOND);
    assert!(net.one_root());
    let mut followed = [0; 4];
    let mut better = 0;
    let mut grinder = 0u64;
    for _ in 0..30 {
        // A key that would be root of the first tree, joined for 5 s.
        let root = net.node(0).trees()[0].root;
        let best = rank(&root);
        let secret = loop {
            grinder += 1;
            let mut seed = [0; 32];
            seed[..8].copy_from_slice(&grinder.to_be_bytes());
            let secret = SecretKey::from_seed(seed);
            if rank(&secret.id()) < best || grinder.is_multiple_of(4000) {
                break secret;
            }
        };
        let fresh = net.add_with(secret, 1_000_000);
        better += usize::from(rank(&net.ids[fresh]) < best);
        net.join(3, fresh);
        net.run(5 * SECOND);
        for (times, tree) in followed.iter_mut().zip(net.node(0).trees()) {
            *times += usize::from(tree.root == net.ids[fresh]);
        }
        net.cut(3, fresh);
        net.crash(fresh);
    }
    println!("{better} better roots in the first tree, followed in each: {followed:?}");
    // Three tokens, and one back in 120 s.
    assert!(better > 8);
    assert!(followed.iter().all(|&times| times <= 5), "{followed:?}");
    net.run(10 * SECOND);
    assert!(net.one_root());
}

fn rank(id: &NodeId) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"tree").update(&[0]).update(id.as_bytes());
    *hasher.finalize().as_bytes()
}

#[test]
fn how_long_roots_were_followed_survives_a_restart() {
    let mut net = Net::new(4, 9);
    line(&mut net);
    net.run(340 * SECOND);
    let before = net.node(1).root_times();
    let foreign = |tree: usize, net: &mut Net| net.node(1).trees()[tree].root != net.ids[1];
    let tree = (0..4).find(|&tree| foreign(tree, &mut net)).expect("not the root of all");
    let (root, followed) = *before.of_tree(tree).last().unwrap();
    assert!(root == net.node(1).trees()[tree].root && followed >= 300 * SECOND);
    net.restart(1, 1_000_000);
    let kept = net.node(1).root_times();
    assert!(kept.of_tree(tree).iter().any(|&(known, before)| known == root && before >= followed));
    net.join(0, 1);
    net.join(1, 2);
    net.run(30 * SECOND);
    let (again, longer) = *net.node(1).root_times().of_tree(tree).last().unwrap();
    assert!(again == root && longer > followed + 25 * SECOND);
}
