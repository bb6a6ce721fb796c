//! The parts of the homeserver that decide its speed, each by itself: `cargo bench -p mangrove`.

use criterion::{Criterion, criterion_group, criterion_main};
use homeserver::{push::rules::Judge, room::bench::Fork, sync::bench::Account};
use ruma::{UserId, push::Ruleset};

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

/// Members of a room each of whom has rules of their own: the case in which every one is judged.
const JUDGED: usize = 1_000;

fn push_rules(c: &mut Criterion) {
    let room = ruma::room_id!("!bench:here.test");
    let event = serde_json::json!({ "type": "m.room.message", "sender": "@alice:here.test",
        "content": { "msgtype": "m.text", "body": "a message that names nobody, as most do", "m.mentions": {} } });
    let event = serde_json::value::to_raw_value(&event).unwrap();
    let members: Vec<_> = (0..JUDGED)
        .map(|n| {
            let user = UserId::parse(format!("@member{n}:here.test")).unwrap();
            let rules = Ruleset::server_default(&user);
            (user, rules)
        })
        .collect();
    c.bench_function("push rules of 1 000 members, each by their own", |b| {
        b.iter(|| {
            let mut judge = Judge::new(room, &event, JUDGED as u64, None);
            members.iter().filter(|(user, rules)| judge.by_rules_of(user, "Member", rules).notify).count()
        });
    });
    c.bench_function("push rules of 1 000 members who have not changed them", |b| {
        b.iter(|| Judge::new(room, &event, JUDGED as u64, None).by_default_rules());
    });
}

/// Rooms of the account whose syncs are timed, and messages in each.
const ROOMS: usize = 2_000;
const MESSAGES: usize = 20;

fn syncs(c: &mut Criterion) {
    let dir = tempfile::tempdir().unwrap();
    let account = Account::build(dir.path(), ROOMS, MESSAGES).unwrap();
    println!("initial sync of {ROOMS} rooms: {} bytes", account.initial_sync().unwrap());
    let mut group = c.benchmark_group("sync");
    group.sample_size(10);
    let mut connection = 0;
    group.bench_function("first sliding sync, 2 000 rooms", |b| {
        b.iter(|| {
            connection += 1;
            assert_eq!(account.first_sliding_sync(connection).unwrap(), 20);
        });
    });
    group.bench_function("initial v2 sync, 2 000 rooms, 20 events each, lazy members", |b| {
        b.iter(|| account.initial_sync().unwrap());
    });
    let since = account.token().unwrap();
    account.say_and_sync(&since, 0).unwrap();
    group.bench_function("v2 sync that tells of one message", |b| {
        b.iter(|| account.sync_since(&since).unwrap());
    });
    group.finish();
}

criterion_group!(benches, resolution, push_rules, syncs);
criterion_main!(benches);
