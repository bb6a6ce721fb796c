//! Goal: a node with nothing to say says little, soon after its start, audits and all. Method: whole routers under a
//! hand-moved clock, all bytes of all links counted as a cable carries them.
mod harness;

use harness::Net;
use router::time::Duration;
use router::{AccountRecord, Command, Config};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

/// Around each frame: its length (2), TCP with timestamps, IPv4 and Ethernet (66), and an acknowledgement (66), of which the
/// answer carries the first and two frames share the second.
const AROUND: usize = 2 + 66 + 33;

/// Bytes and frames by the frame's first byte.
type Seen = Rc<RefCell<BTreeMap<u8, (usize, usize)>>>;

/// A connected graph of that many links, each node having two or more.
fn graph(nodes: usize, links: usize, seed: u64) -> (Net, usize) {
    let config = Config { verify_account: |_| true, ..Config::default() };
    let mut net = Net::with(nodes, seed, config);
    let mut made = 0;
    for n in 0..nodes {
        net.join(n, (n + 1) % nodes);
        made += 1;
    }
    let mut at = seed as usize;
    while made < links {
        at = at.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let (a, b) = ((at >> 33) % nodes, (at >> 13) % nodes);
        if a != b {
            net.join(a, b);
            made += 1;
        }
    }
    (net, made)
}

/// All bytes of all links by the frame's first byte.
fn watch(net: &mut Net) -> Seen {
    let seen = Seen::default();
    let tap = seen.clone();
    net.tap = Box::new(move |_, _, frame| {
        let mut seen = tap.borrow_mut();
        let entry = seen.entry(frame[0]).or_default();
        entry.0 += frame.len() + AROUND;
        entry.1 += 1;
        true
    });
    seen
}

#[test]
fn jitter_makes_a_quiet_network_no_louder() {
    // With so much of it that places move now and then one network is louder than another: 835 to 938.
    for (jitter, seeds, bound) in [(20, 2..=2, 900), (150, 3..=6, 900)] {
        let means: Vec<usize> = seeds.map(|seed| quiet_minute(jitter, seed)).collect();
        let mean = means.iter().sum::<usize>() / means.len();
        assert!(mean <= bound, "{jitter} ms: {mean} bytes a link and minute: {means:?}");
    }
}

/// Bytes a link and minute of a network whose links have so many milliseconds of jitter.
fn quiet_minute(jitter: u64, seed: u64) -> usize {
    let (mut net, links) = graph(12, 24, seed);
    net.jitter = Duration::from_millis(jitter);
    let seen = watch(&mut net);
    for n in 0..12 {
        net.run(Duration::from_millis(50));
        net.send(n, (n * 7 + 3) % 12, b"hello");
    }
    net.run(Duration::from_secs(59));
    seen.take();
    let minutes: Vec<usize> = (0..25)
        .map(|_| {
            net.run(Duration::from_secs(60));
            seen.take().values().map(|(bytes, _)| bytes).sum::<usize>() / links
        })
        .collect();
    let mean = minutes.iter().sum::<usize>() / minutes.len();
    println!("{jitter} ms: {mean} bytes a link and minute, in each: {minutes:?}");
    // Those who keep records hear that they still hold.
    assert!(minutes.iter().all(|bytes| *bytes <= 5000), "{jitter} ms: {minutes:?}");
    mean
}

#[test]
fn a_quiet_network_says_little_soon_after_its_start() {
    for (nodes, links, seed) in [(8, 12, 1), (20, 40, 2), (60, 120, 3)] {
        let (mut net, links) = graph(nodes, links, seed);
        let seen = watch(&mut net);
        for n in 0..nodes {
            let acct = net.ids[n].hash();
            let proof = vec![n as u8; 600].into();
            let record = AccountRecord::sign(&net.secrets[n], acct, 1, proof).unwrap();
            net.command(n, Command::Publish { record });
        }
        // Everybody talks to somebody, as people do before they fall silent.
        for n in 0..nodes {
            net.run(Duration::from_millis(50));
            net.send(n, (n * 7 + 3) % nodes, b"hello");
        }
        net.run(Duration::from_secs(45));
        let start: usize = seen.take().values().map(|(bytes, _)| bytes).sum();
        net.run(Duration::from_secs(60));
        let minute = seen.take();
        let bytes = minute.values().map(|(bytes, _)| bytes).sum::<usize>() / links;
        println!("{nodes} nodes: {} bytes a link to start, {bytes} a minute: {minute:?}", start / links);
        assert!(bytes <= 900, "{nodes} nodes: {bytes} bytes a link and minute: {minute:?}");
        net.run(Duration::from_secs(3600));
        let hour = seen.take();
        let bytes = hour.values().map(|(bytes, _)| bytes).sum::<usize>() / links / 60;
        println!("{nodes} nodes: {bytes} bytes a link and minute over an hour: {hour:?}");
        assert!(bytes <= 900, "{nodes} nodes: {bytes} bytes a link and minute: {hour:?}");
    }
}
