//! What sealing and opening a session's packet costs: the cipher with header, counter and replay window, nothing else.
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use router::Instant;
use router::crypto::AeadKey;
use router::session::cipher::{Indexes, Keys};
use router::session::handshake::{ALIASES, TransportKeys};
use router::wire::body::sealed::SealedHeader;
use std::hint::black_box;

/// Keys of both ends.
fn pair() -> (Keys, Keys) {
    let make = |seal, open| {
        let keys = TransportKeys { seal: AeadKey::new(&[seal; 32]), open: AeadKey::new(&[open; 32]) };
        let (local, remote) = (Indexes::new(1, &[3; ALIASES]), Indexes::new(2, &[4; ALIASES]));
        Keys::new(keys, local, remote, true, Instant::ZERO)
    };
    (make(1, 2), make(2, 1))
}

fn cipher(c: &mut Criterion) {
    let mut group = c.benchmark_group("cipher");
    for size in [64usize, 1200, 16 * 1024] {
        let payload = vec![7; size];
        let header = SealedHeader { channel: 1, ..SealedHeader::default() };
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function(format!("seal {size}"), |b| {
            let (mut keys, _) = pair();
            b.iter(|| keys.seal(&header, black_box(&payload)));
        });
        group.bench_function(format!("open {size}"), |b| {
            let (mut ours, mut theirs) = pair();
            b.iter_batched(
                || ours.seal(&header, &payload),
                |packet| theirs.open(black_box(packet.as_slice())),
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

criterion_group!(benches, cipher);
criterion_main!(benches);
