//! What a packet costs end to end: sealing and opening, with all the session's bookkeeping around it.
use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use router::crypto::AeadKey;
use router::endpoint::{Endpoint, Inbound, List};
use router::lookup::{Coords, Hop, Locator};
use router::{Channel, Command, Config, Entropy, Event, Instant, Port, SecretKey, Sid};
use std::hint::black_box;

struct Counting(u64);

impl Entropy for Counting {
    fn fill(&mut self, out: &mut [u8]) {
        for chunk in out.chunks_mut(8) {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            chunk.copy_from_slice(&self.0.to_le_bytes()[..chunk.len()]);
        }
    }
}

const NOW: Instant = Instant::from_micros(1_000_000);

fn locator(port: u16) -> Locator {
    let coords = [0, 1, 2, 3].map(|tree| {
        let hops = vec![Hop { port: Port(port), cost: 3 }; 4];
        Coords { root: Sid::from_bytes([tree; 8]), hops }
    });
    Locator::of(coords.iter().enumerate())
}

/// Hands everything over until both are quiet.
fn settle(nodes: &mut [Endpoint; 2], entropy: &mut Counting) -> usize {
    let mut received = 0;
    loop {
        let mut quiet = true;
        for from in 0..2 {
            while let Some(out) = nodes[from].poll_packet() {
                quiet = false;
                let frame = out.body.frame(&[0; 80]);
                let packet = Inbound {
                    ingress: Port(1),
                    way: &[1],
                    index: out.index,
                    load: 0,
                    list: List::None,
                    body: &frame[80..],
                };
                let _ = nodes[1 - from].handle_packet(packet, entropy, NOW);
            }
            while let Some(event) = nodes[from].poll_event() {
                received += usize::from(matches!(black_box(event), Event::Received { .. }));
            }
        }
        if quiet {
            return received;
        }
    }
}

fn pair(entropy: &mut Counting) -> ([Endpoint; 2], [SecretKey; 2]) {
    let secrets = [SecretKey::from_seed([1; 32]), SecretKey::from_seed([2; 32])];
    let mut nodes = secrets.clone().map(|secret| Endpoint::new(secret, &Config::default(), 1, entropy, NOW));
    for at in 0..2 {
        nodes[at].handle_coordinates(locator(at as u16 + 1), entropy, NOW);
        nodes[at].handle_peer(secrets[1 - at].id(), locator(2 - at as u16), entropy, NOW);
    }
    settle(&mut nodes, entropy);
    (nodes, secrets)
}

fn packets(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("packet");
    for len in [1200, 16 * 1024] {
        group.throughput(Throughput::Bytes(len as u64));
        let mut entropy = Counting(1);
        let (mut nodes, secrets) = pair(&mut entropy);
        let payload = Bytes::from(vec![7; len]);
        group.bench_function(format!("send and receive {len}"), |bencher| {
            bencher.iter(|| {
                let command =
                    Command::Send { to: secrets[1].id(), channel: Channel::Stream, payload: payload.clone() };
                nodes[0].handle_command(command, &mut entropy, NOW);
                assert_eq!(settle(&mut nodes, &mut entropy), 1);
            });
        });
        let key = AeadKey::new(&[3; 32]);
        let mut text = vec![7; len];
        group.bench_function(format!("cipher alone, seal {len}"), |bencher| {
            bencher.iter(|| key.seal(1, &[], black_box(&mut text)));
        });
    }
    group.finish();
}

fn handshakes(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("handshake");
    group.bench_function("both ends, and a first packet", |bencher| {
        let mut entropy = Counting(1);
        bencher.iter_batched(
            || pair(&mut Counting(1)),
            |(mut nodes, secrets)| {
                let payload = Bytes::from_static(b"hello");
                let command = Command::Send { to: secrets[1].id(), channel: Channel::Stream, payload };
                nodes[0].handle_command(command, &mut entropy, NOW);
                assert_eq!(settle(&mut nodes, &mut entropy), 1);
            },
            criterion::BatchSize::SmallInput,
        );
    });
    group.finish();
}

criterion_group!(benches, packets, handshakes);
criterion_main!(benches);
