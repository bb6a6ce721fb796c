//! What a packet costs on its way: the choice of the next hop alone, and a whole transit node.
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use router::forward::{Course, Destination, HopPeer, Table, next_hop};
use router::lookup::Locator;
use router::lookup::locator::{Coords, Hop};
use router::wire::data::{BUDGET, PHI_NONE};
use router::{
    Boot, Config, Entropy, Instant, LinkId, LinkKind, LinkSpec, NodeId, Port, Role, Router, SecretKey, Sid,
};
use std::hint::black_box;

/// Trees of depth 10, 8 peers: a node in the middle of a net of some thousands.
const DEPTH: u16 = 10;
const PEERS: u16 = 8;

fn coords(tree: u8, last: u16) -> Coords {
    let hop = |step| Hop { port: Port(1 + (step + u16::from(tree)) % 5), cost: 2 };
    let mut hops: Vec<Hop> = (0..DEPTH).map(hop).collect();
    hops.push(Hop { port: Port(last), cost: 2 });
    Coords { root: Sid::from_bytes([tree; 8]), hops }
}

fn locator(last: u16) -> Locator {
    let coords = [0, 1, 2, 3].map(|tree| coords(tree, last));
    Locator::of(coords.iter().enumerate())
}

fn choice(c: &mut Criterion) {
    let mut table = Table::default();
    for tree in 0..4u8 {
        table.me[usize::from(tree)].set(Some(&coords(tree, 1)), None, Instant::ZERO);
    }
    for port in 1..=PEERS {
        let node = NodeId::from_bytes([port as u8; 32]);
        let mut peer = HopPeer {
            port: Port(port),
            node,
            sid: node.sid(),
            cost: 2,
            link: LinkId(port.into()),
            late: false,
            suspect: false,
            mute: false,
            passed: 0,
            trees: Default::default(),
        };
        for tree in 0..4u8 {
            peer.trees[usize::from(tree)].set(Some(&coords(tree, 10 + port)), None, Instant::ZERO);
        }
        table.insert(peer);
    }
    let mut bytes = Vec::new();
    locator(13).encode(&mut bytes);
    let mut destination = Destination::default();
    let fresh = Course { mask: 0x0f, phi_min: PHI_NONE, budget: BUDGET };
    c.bench_function("forward/next_hop, 4 trees of depth 11, 8 peers", |b| {
        b.iter(|| {
            destination.read(black_box(&bytes)).expect("coordinates of our own");
            next_hop(Sid::from_bytes([7; 8]), Port::SELF, &destination, fresh, &table)
        });
    });
}

struct Counter(u64);

impl Entropy for Counter {
    fn fill(&mut self, out: &mut [u8]) {
        for byte in out {
            self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            *byte = (self.0 >> 33) as u8;
        }
    }
}

/// Three routers in a line; gives them and the middle's link towards the first.
fn three() -> (Vec<Router>, Instant) {
    let now = Instant::from_micros(1_000_000);
    let router = |n: u8| {
        let entropy = Box::new(Counter(n.into()));
        Router::new(SecretKey::from_seed([n; 32]), Config::default(), Boot::first(1), entropy, now)
    };
    let mut nodes: Vec<Router> = (1..=3).map(router).collect();
    for (a, b, link) in [(0, 1, 1), (1, 2, 2)] {
        nodes[a].handle_link(LinkId(link), LinkSpec::new(LinkKind::Stream, Role::Dialer), now);
        nodes[b].handle_link(LinkId(link), LinkSpec::new(LinkKind::Stream, Role::Acceptor), now);
    }
    let mut now = now;
    for _ in 0..200 {
        for n in 0..3 {
            nodes[n].handle_timeout(now);
            while let Some(link) = nodes[n].poll_link() {
                while let Some(frame) = nodes[n].poll_transmit(link, now) {
                    let other = if link == LinkId(1) { 1 - n } else { 3 - n };
                    nodes[other].handle_frame(link, &frame, now);
                }
            }
            while nodes[n].poll_event().is_some() {}
        }
        now += std::time::Duration::from_millis(10);
    }
    (nodes, now)
}

fn transit(c: &mut Criterion) {
    let (mut nodes, now) = three();
    let to = nodes[2].id();
    let mut group = c.benchmark_group("transit");
    for size in [64usize, 1200] {
        let payload = bytes::Bytes::from(vec![7; size]);
        let command = router::Command::Send { to, channel: router::Channel::Stream, payload };
        // The first packet makes the session; what comes then is data.
        nodes[0].handle_command(command.clone(), now);
        for _ in 0..6 {
            for n in 0..3 {
                while let Some(link) = nodes[n].poll_link() {
                    while let Some(frame) = nodes[n].poll_transmit(link, now) {
                        let other = if link == LinkId(1) { 1 - n } else { 3 - n };
                        nodes[other].handle_frame(link, &frame, now);
                    }
                }
            }
        }
        nodes[0].handle_command(command, now);
        let frame = nodes[0].poll_transmit(LinkId(1), now).expect("the packet goes to the middle");
        group.throughput(Throughput::Elements(1));
        group.bench_function(format!("one packet of {size} bytes through a node"), |b| {
            b.iter(|| {
                nodes[1].handle_frame(LinkId(1), black_box(&frame), now);
                nodes[1].poll_transmit(LinkId(2), now)
            });
        });
    }
    group.finish();
}

criterion_group!(benches, choice, transit);
criterion_main!(benches);
