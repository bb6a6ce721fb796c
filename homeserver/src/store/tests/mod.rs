//! The store keeps its word: groups are atomic per operation, numbers are never used twice, nothing is half there.
//! Method: real files, real threads, a cut between any two writes.

mod trouble;

use super::*;

fn open(dir: &Path, fault: Option<Arc<Fault>>) -> Store {
    Store::open(dir, Options { fault, ..Options::default() }, Notify::new()).unwrap()
}

#[tokio::test]
async fn an_operation_that_fails_takes_no_other_along() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), None);
    let ops = (0..40).map(|n| {
        store.write_queued(move |tx| {
            let nid = tx.intern(Kind::User, &format!("@u{n}:x"))?;
            if n % 3 == 0 { Err(StoreError::Corrupt("as wished")) } else { Ok(nid) }
        })
    });
    let results = futures_util::future::join_all(ops).await;
    for (n, result) in results.iter().enumerate() {
        assert_eq!(result.is_err(), n % 3 == 0);
    }
    for n in 0..40 {
        let found = store.read(move |tx| tx.lookup(Kind::User, &format!("@u{n}:x"))).await.unwrap();
        assert_eq!(found.is_none(), n % 3 == 0, "@u{n}");
    }
    let panicked: Result<(), StoreError> = store.write(|_| panic!("inside")).await;
    assert!(matches!(panicked, Err(StoreError::Panicked)));
    store.write(|tx| tx.next_seq()).await.unwrap();
}

#[tokio::test]
async fn numbers_are_never_used_twice_and_readers_see_what_was_answered() {
    let dir = tempfile::tempdir().unwrap();
    let mut last = Seq(0);
    for _ in 0..3 {
        let store = open(dir.path(), None);
        assert!(store.position() >= last);
        for _ in 0..1500 {
            let _: Result<(), StoreError> = store
                .write(|tx| {
                    tx.next_seq()?;
                    Err(StoreError::Corrupt("rolled back"))
                })
                .await;
            let seq = store.write(|tx| tx.next_seq()).await.unwrap();
            assert!(seq > last);
            last = seq;
            assert!(store.position() >= seq);
        }
        store.close().await;
        assert!(matches!(store.write(|tx| tx.next_seq()).await, Err(StoreError::Closed)));
    }
}

#[tokio::test]
async fn a_cut_leaves_whole_operations_only() {
    let dir = tempfile::tempdir().unwrap();
    for writes in 0..12 {
        let fault = Fault::new();
        let store = open(dir.path(), Some(fault.clone()));
        let before = store.read(count).await.unwrap();
        let failed = tokio::time::timeout(Duration::from_millis(20), store.failed());
        assert!(failed.await.is_err(), "the writer lives");
        fault.arm(writes);
        let mut answered = 0;
        for n in 0.. {
            let result: Result<(), StoreError> = store
                .write(move |tx| {
                    tx.execute("INSERT INTO meta(key, value) VALUES(?1, 1)", [format!("a{writes}-{n}")])?;
                    tx.execute("INSERT INTO meta(key, value) VALUES(?1, 1)", [format!("b{writes}-{n}")])?;
                    Ok(())
                })
                .await;
            if result.is_err() {
                break;
            }
            answered += 1;
        }
        store.failed().await;
        drop(store);
        let store = open(dir.path(), None);
        assert_eq!(store.read(count).await.unwrap(), before + 2 * answered);
    }
}

fn count(tx: &ReadTx<'_>) -> Result<i64, StoreError> {
    Ok(tx.row("SELECT count(*) FROM meta", [], |row| row.get(0))?.unwrap_or(0))
}

#[tokio::test]
async fn what_need_not_be_on_disk_keeps_its_order_and_is_there_after_a_close() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), Options::default(), Notify::new()).unwrap();
    let mut waits = Vec::new();
    for n in 0..40 {
        let name = format!("s{n}");
        let op = move |tx: &mut WriteTx<'_>| tx.intern(Kind::Server, &name);
        let store = store.clone();
        waits.push(tokio::spawn(async move {
            if n % 3 == 0 { store.write(op).await } else { store.write_soon(op).await }
        }));
    }
    for wait in waits {
        let made: Result<Nid, StoreError> = wait.await.unwrap();
        made.unwrap();
    }
    store.close().await;
    let store = Store::open(dir.path(), Options::default(), Notify::new()).unwrap();
    for n in 0..40 {
        let name = format!("s{n}");
        let found: Result<_, StoreError> = store.read(move |tx| tx.lookup(Kind::Server, &name)).await;
        assert!(found.unwrap().is_some());
    }
}

#[tokio::test]
async fn snapshots_are_found_again_and_read_back_whole() {
    use crate::store::schema::state::{self, Change, StateMap};
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), None);
    store
        .write(|tx| -> Result<(), StoreError> {
            let room = tx.intern(Kind::Room, "!r:x")?;
            let mut map = StateMap::new();
            let mut sid = state::put(tx, room, &map)?;
            let mut history = vec![(sid, map.clone())];
            // Pseudo-random walk: changes, removals, and the way back to states that were there before.
            let mut seed = 7_i64;
            for _ in 0..600 {
                seed = (seed * 48_271) % 2_147_483_647;
                let (skey, event) = (Nid(seed % 97 + 1), Nid(seed % 1009 + 1));
                let old = map.get(&skey).copied();
                let new = (seed % 5 != 0).then_some(event);
                if old == new {
                    continue;
                }
                match new {
                    Some(event) => map.insert(skey, event),
                    None => map.remove(&skey),
                };
                sid = state::derive(tx, room, sid, &[Change { skey, old, new }])?;
                history.push((sid, map.clone()));
            }
            for (sid, map) in &history {
                assert_eq!(state::full(tx, *sid)?, *map);
                assert_eq!(state::put(tx, room, map)?, *sid, "the same state is one snapshot");
                for skey in 1..98 {
                    assert_eq!(state::one(tx, *sid, Nid(skey))?, map.get(&Nid(skey)).copied());
                }
            }
            let longest: i64 = tx.row("SELECT max(chain) FROM state", [], |row| row.get(0))?.unwrap();
            assert!(longest < state::CHAIN_MAX);
            Ok(())
        })
        .await
        .unwrap();
}

/// Long lists are kept decoded between transactions, and what was passed on the way to one is remembered in one.
#[tokio::test]
async fn look_ups_in_long_lists_agree_with_the_lists() {
    use crate::store::schema::state::{self, Change, StateMap};
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), None);
    let history = store
        .write(|tx| -> Result<_, StoreError> {
            let room = tx.intern(Kind::Room, "!r:x")?;
            let mut map: StateMap = (1..=2_000).map(|n| (Nid(n * 2), Nid(n + 7))).collect();
            let mut sid = state::put(tx, room, &map)?;
            let mut history = vec![(sid, map.clone())];
            for n in 0..150 {
                let skey = Nid(n * 13 + 1);
                let (old, new) = (map.get(&skey).copied(), (n % 3 != 0).then_some(Nid(n + 90_000)));
                match new {
                    Some(event) => map.insert(skey, event),
                    None => map.remove(&skey),
                };
                if old != new {
                    sid = state::derive(tx, room, sid, &[Change { skey, old, new }])?;
                    history.push((sid, map.clone()));
                }
            }
            Ok(history)
        })
        .await
        .unwrap();
    // Newest first, as timelines are read, then oldest first with everything in the cache.
    for turn in 0..2 {
        let mut history = history.clone();
        if turn == 0 {
            history.reverse();
        }
        store
            .read(move |tx| -> Result<(), StoreError> {
                for (sid, map) in &history {
                    for skey in (0..2_200).step_by(11).chain([1, 2, 4_000, 4_001]).map(Nid) {
                        assert_eq!(state::one(tx, *sid, skey)?, map.get(&skey).copied(), "{sid} {skey:?}");
                    }
                }
                Ok(())
            })
            .await
            .unwrap();
    }
}
