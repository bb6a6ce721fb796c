//! The parts of the homeserver that decide its speed, each by itself: `cargo bench -p mangrove`.

use criterion::{Criterion, criterion_group, criterion_main};
use homeserver::room::bench::Fork;

/// Members and ends of the wide fork.
const MEMBERS: usize = 10_000;
const ENDS: usize = 50;

fn resolution(c: &mut Criterion) {
    let dir = tempfile::tempdir().unwrap();
    let fork = Fork::build(dir.path(), MEMBERS, ENDS).unwrap();
    let (entries, cpu) = fork.resolve().unwrap();
    assert_eq!(entries, MEMBERS + 6);
    println!("state resolution of {ENDS} ends, {entries} entries: {cpu:?} of processor time");
    let mut group = c.benchmark_group("state");
    group.sample_size(10);
    group.bench_function("resolution of 50 ends, 10 000 entries", |b| b.iter(|| fork.resolve().unwrap()));
    group.bench_function("1 000 look-ups in snapshots", |b| b.iter(|| fork.look_up(1_000).unwrap()));
    group.finish();
    let judged = fork.judged().unwrap();
    assert!(judged.ask());
    c.bench_function("auth check of a message", |b| b.iter(|| judged.ask()));
}

criterion_group!(benches, resolution);
criterion_main!(benches);
