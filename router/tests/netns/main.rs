//! Goal: what only real interfaces show: discovery by multicast, hosts whose addresses change, the TUN. Method: nodes
//! in processes of their own, in network namespaces joined by veth cables; as root only, SKIPPED aloud otherwise.

mod dropper;
mod lab;
mod node;
mod spoof;

use std::net::{Ipv6Addr, SocketAddrV6, UdpSocket};
use std::time::{Duration, Instant};

use lab::Lab;

const SOON: Duration = Duration::from_secs(10);
/// What takes several exchanges of several nodes, on a machine that is busy with other tests.
const LATER: Duration = Duration::from_secs(30);

/// Not a test: what the processes of the others run.
#[test]
fn node_process() {
    node::main();
}

/// Not a test either: a peer that lies.
#[test]
fn spoof_process() {
    spoof::main();
}

/// Nor this: a peer that passes nothing on.
#[test]
fn dropper_process() {
    dropper::main();
}

#[test]
fn two_on_a_cable_find_each_other() {
    let Some(mut lab) = Lab::new("pair", 2) else { return };
    lab.cable(0, 1);
    let mut a = lab.node(0, "seed=1 multicast=all");
    let mut b = lab.node(1, "seed=2 multicast=all");
    let took = a.until("neighbours", SOON, |n| n == "1");
    b.until("neighbours", SOON, |n| n == "1");
    eprintln!("found after {took:?}");
    let id = b.id.clone();
    a.until(&format!("ping {id}"), SOON, |p| p.starts_with("ok"));
    assert_eq!((a.ask("links"), b.ask("links")), ("1".into(), "1".into()), "one link is enough");

    // Killed and started again, it is back at once.
    b.kill();
    let start = Instant::now();
    let mut b = lab.node(1, "seed=2 multicast=all");
    b.until("neighbours", SOON, |n| n == "1");
    let back = start.elapsed();
    eprintln!("back after {back:?}, start of the process included");
    assert!(back < Duration::from_secs(2), "{back:?}");
    a.until("links", SOON, |n| n == "1");
}

#[test]
fn a_password_keeps_others_out() {
    let Some(mut lab) = Lab::new("pass", 2) else { return };
    lab.cable(0, 1);
    let mut a = lab.node(0, "seed=1 multicast=all password=swordfish");
    let mut b = lab.node(1, "seed=2 multicast=e0");
    a.until("beacons_bad", SOON, |n| n != "0");
    b.until("beacons_bad", SOON, |n| n != "0");
    assert_eq!((a.ask("links"), b.ask("links")), ("0".into(), "0".into()));
    drop(b);
    let mut b = lab.node(1, "seed=2 multicast=e0 password=swordfish");
    b.until("neighbours", SOON, |n| n == "1");
}

#[test]
fn interfaces_are_followed() {
    let Some(mut lab) = Lab::new("follow", 2) else { return };
    let mut a = lab.node(0, "seed=1 multicast=all");
    let mut b = lab.node(1, "seed=2 multicast=all");
    // A cable that comes after the start.
    lab.cable(0, 1);
    let took = a.until("neighbours", SOON, |n| n == "1");
    eprintln!("cable plugged in: {took:?}");
    b.until("neighbours", SOON, |n| n == "1");
    // The interface gets another address.
    lab.exec(0, "ip link set e0 down");
    a.until("neighbours", SOON, |n| n == "0");
    lab.exec(0, "ip link set e0 address 02:00:00:00:00:77");
    lab.exec(0, "ip link set e0 up");
    let took = a.until("neighbours", SOON, |n| n == "1");
    eprintln!("another address: {took:?}");
    assert!(took < Duration::from_secs(4), "{took:?}");
    let id = b.id.clone();
    a.until(&format!("ping {id}"), SOON, |p| p.starts_with("ok"));
    // It goes, and comes back under another name.
    lab.exec(0, "ip link del e0");
    a.until("neighbours", SOON, |n| n == "0");
    lab.cable(0, 1);
    a.until("neighbours", SOON, |n| n == "1");
    b.until("neighbours", SOON, |n| n == "1");
}

#[test]
fn a_configured_peer_is_dialled_again_when_the_address_changes() {
    let Some(mut lab) = Lab::new("dial", 2) else { return };
    lab.cable(0, 1);
    let mut a = lab.node(0, "seed=1 listen=tcp://0.0.0.0:9001");
    let mut b = lab.node(1, "seed=2 peer=tcp://10.0.0.1:9001");
    b.until("peers", SOON, |n| n == "1");
    lab.exec(1, "ip addr add 10.0.0.7/24 dev e0");
    lab.exec(1, "ip addr del 10.0.0.2/24 dev e0");
    lab.try_exec(1, "ip addr add 10.0.0.7/24 dev e0");
    let id = a.id.clone();
    let took = b.until(&format!("ping {id}"), SOON, |p| p.starts_with("ok"));
    eprintln!("address changed: answered after {took:?}");
    assert!(took < Duration::from_secs(4), "{took:?}");
    a.until("links", SOON, |n| n == "1");
}

#[test]
fn the_tenth_is_not_shut_out() {
    const NODES: usize = 10;
    let Some(lab) = Lab::new("ten", NODES + 1) else { return };
    lab.switch(NODES, 0..NODES - 1);
    let mut nodes: Vec<_> =
        (0..NODES - 1).map(|n| lab.node(n, &format!("seed={} multicast=all", n + 1))).collect();
    for node in &mut nodes {
        node.until("peers", SOON, |n| n.parse::<usize>().unwrap() >= 2);
    }
    for node in &mut nodes {
        node.until("peers", Duration::from_secs(15), |n| n == "8");
    }
    lab.plug(NODES, NODES - 1);
    let mut tenth = lab.node(NODES - 1, "seed=99 multicast=all");
    let took = tenth.until("peers", SOON, |n| n.parse::<usize>().unwrap() >= 2);
    eprintln!("the tenth is in after {took:?}");
    for node in &mut nodes {
        let peers = node.number("peers");
        assert!((2..=12).contains(&peers), "{peers} peers");
    }
    let root = nodes[0].ask("root");
    tenth.until("root", SOON, |r| r == root);
    let id = tenth.id.clone();
    for node in &mut nodes {
        node.until(&format!("ping {id}"), SOON, |p| p.starts_with("ok"));
    }
}

#[test]
fn garbage_on_the_group_does_no_harm() {
    let Some(mut lab) = Lab::new("noise", 2) else { return };
    lab.cable(0, 1);
    let mut a = lab.node(0, "seed=1 multicast=all");
    let mut b = lab.node(1, "seed=2 multicast=all noise=e0");
    a.until("beacons_bad", SOON, |n| n.parse::<usize>().unwrap() >= 100);
    a.until("neighbours", SOON, |n| n == "1");
    b.until("neighbours", SOON, |n| n == "1");
}

/// What `noise=` of a node process does: datagrams of every kind to the group of beacons.
pub(crate) fn noise(interface: &str) {
    // The address comes when the kernel has noticed the carrier.
    let index = loop {
        let table = std::fs::read_to_string("/proc/net/if_inet6").unwrap();
        if let Some(line) = table.lines().find(|line| line.ends_with(&format!(" {interface}"))) {
            break u32::from_str_radix(line.split(' ').nth(1).unwrap(), 16).unwrap();
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    let socket = UdpSocket::bind("[::]:0").unwrap();
    let to = SocketAddrV6::new(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0x4d47, 0x5256), 19_745, 0, index);
    for length in 0..1500usize {
        let bytes: Vec<u8> =
            b"MGRV\x01\x01".iter().copied().chain((0..).map(|i: u32| i as u8)).take(length).collect();
        let _ = socket.send_to(&bytes, to);
    }
}

#[test]
fn a_tun_carries_between_the_ends_of_a_line() {
    let Some(mut lab) = Lab::new("tun", 3) else { return };
    lab.cable(0, 1);
    lab.cable(1, 2);
    let mut a = lab.node(0, "seed=1 tun=mg0 peer=tcp://10.0.0.2:9001");
    let mut b = lab.node(1, "seed=2 listen=tcp://0.0.0.0:9001");
    let mut c = lab.node(2, "seed=3 tun=mg0 peer=tcp://10.0.1.1:9001");
    b.until("peers", SOON, |n| n == "2");
    let (to, id) = (c.address.clone(), c.id.clone());
    a.until(&format!("lookup {to}"), SOON, |key| key == id);
    lab.exec(0, &format!("ping -6 -n -c 5 -i 0.1 -W 3 {to}"));
    assert_eq!(c.ask("tcp-serve 7"), "ok");
    let start = Instant::now();
    assert_eq!(a.ask(&format!("tcp-send {to} 7 20000000")), "whole");
    eprintln!("20 MB over two hops in {:?}", start.elapsed());
    // Back again, from the other end.
    let to = a.address.clone();
    assert_eq!(a.ask("tcp-serve 7"), "ok");
    assert_eq!(c.ask(&format!("tcp-send {to} 7 1000000")), "whole");

    // What this host sends from an address that is not its key's goes nowhere.
    lab.exec(2, "ip addr add fd00::7/128 dev mg0");
    let before = c.number("foreign");
    assert!(!lab.try_exec(2, &format!("ping -6 -n -c 2 -i 0.1 -W 1 -I fd00::7 {to}")));
    assert!(c.number("foreign") > before);
}

#[test]
fn large_packets_go_where_a_probe_has_shown_that_they_arrive() {
    let Some(mut lab) = Lab::new("large", 4) else { return };
    for far in [0, 2, 3] {
        lab.cable(1, far);
    }
    let mut hub = lab.node(1, "seed=2 listen=tcp://0.0.0.0:9001 listen=tcp://0.0.0.0:9002?cost=90");
    let a = lab.node(0, "seed=1 tun=mg0 peer=tcp://10.0.0.1:9001");
    let c = lab.node(2, "seed=3 tun=mg0 peer=tcp://10.0.1.1:9001");
    // A link that is dear counts as slow, and takes no more than every link must.
    let mut d = lab.node(3, "seed=4 tun=mg0 peer=tcp://10.0.2.1:9002?cost=90");
    hub.until("peers", SOON, |n| n == "3");
    let ping = |from: usize, to: &str, bytes: usize, more: &str| {
        lab.try_exec(from, &format!("ping -6 -n -c 2 -i 0.2 -W 1 -s {bytes} {more} {to}"))
    };
    let whole = "-M do";
    assert!((0..20).any(|_| ping(0, &c.address, 100, whole)));
    let start = Instant::now();
    while !ping(0, &c.address, 9000, whole) {
        assert!(start.elapsed() < LATER, "packets stay small");
        ping(0, &c.address, 100, whole);
    }
    eprintln!("packets of 9048 bytes after {:?}", start.elapsed());
    // The other end takes what the first has found out by itself.
    assert!(ping(2, &a.address, 100, whole));

    // On the slow way the host knows better than to send them.
    assert!((0..20).any(|_| ping(3, &a.address, 100, whole)));
    for _ in 0..5 {
        assert!(ping(3, &a.address, 1232, whole));
    }
    assert!(!ping(3, &a.address, 1300, whole));
    assert_eq!(d.ask("too_big"), "0");
    assert!(ping(3, &a.address, 9000, "-M dont"), "cut up they arrive");
    // A host that takes the interface's word for it is told, and remembers.
    lab.exec(3, "ip -6 route replace fd00::/8 dev mg0");
    assert!(!ping(3, &a.address, 1300, whole));
    d.until("too_big", SOON, |n| n != "0");
    assert!(ping(3, &a.address, 9000, "-M dont"));
}

/// Four ends, each linked with two hubs. One hub drops what is for others and nothing else, and is the cheaper way to all.
#[test]
fn a_hub_that_drops_is_avoided_at_once_and_found_out_within_an_audit_round() {
    const ENDS: usize = 4;
    const HONEST: usize = ENDS;
    const DROPPER: usize = ENDS + 1;
    let Some(mut lab) = Lab::new("drops", ENDS + 2) else { return };
    for end in 0..ENDS {
        lab.cable(HONEST, end);
    }
    for end in 0..ENDS {
        lab.cable(DROPPER, end);
    }
    let _hub = lab.node(HONEST, "seed=50 listen=tcp://0.0.0.0:9001?cost=20");
    let ends = 0..ENDS;
    let mut ends: Vec<_> = ends
        .map(|end| {
            let words =
                format!("seed={} listen=tcp://0.0.0.0:9002 peer=tcp://10.0.{end}.1:9001?cost=20", end + 1);
            lab.node(end, &words)
        })
        .collect();
    let addresses: Vec<String> = (0..ENDS).map(|end| format!("10.0.{}.2:9002", ENDS + end)).collect();
    let _dropper = lab.dropper(DROPPER, &addresses.join(" "));
    for end in &mut ends {
        end.until("peers", SOON, |n| n == "2");
    }
    // At once: the sender finds the other way.
    let start = Instant::now();
    let ids: Vec<String> = ends.iter().map(|end| end.id.clone()).collect();
    for (from, end) in ends.iter_mut().enumerate() {
        for to in (0..ENDS).filter(|&to| to != from) {
            end.until(&format!("ping {}", ids[to]), LATER, |p| p.starts_with("ok"));
        }
    }
    eprintln!("all pairs reached each other after {:?}", start.elapsed());
    // Within a round of audits (`docs/protocol.md`): everybody knows, and packets go another way from the first on.
    for end in &mut ends {
        let took = end.until("suspects", Duration::from_secs(180), |n| n == "1");
        eprintln!("found out {took:?} later");
    }
    eprintln!("found out by all {:?} after the start", start.elapsed());
    for (from, end) in ends.iter_mut().enumerate() {
        for to in (0..ENDS).filter(|&to| to != from) {
            let answer = end.ask(&format!("ping {}", ids[to]));
            assert!(answer.starts_with("ok"), "{from} to {to}: {answer}");
        }
    }
}

#[test]
fn a_spoofed_source_is_dropped_and_counted() {
    let Some(mut lab) = Lab::new("spoof", 2) else { return };
    lab.cable(0, 1);
    let mut a = lab.node(0, "seed=1 tun=mg0 listen=tcp://0.0.0.0:9001");
    let id = a.id.clone();
    assert!(lab.spoof(1, "10.0.0.1:9001", &id), "the liar could not send");
    a.until("spoofed", SOON, |n| n != "0");
}
