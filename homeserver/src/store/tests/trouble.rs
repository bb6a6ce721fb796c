//! A disk that is full, cannot be written or answers with errors, a file that is damaged, a reader that does not end.

use super::*;

async fn put(store: &Store, key: String) -> Result<Seq, StoreError> {
    store
        .write(move |tx| {
            tx.execute("INSERT INTO meta(key, value) VALUES(?1, 1)", [key])?;
            tx.next_seq()
        })
        .await
}

#[tokio::test]
async fn what_the_disk_refuses_is_said_and_it_goes_on_when_the_cause_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let fault = Fault::new();
    let store = open(dir.path(), Some(fault.clone()));
    let mut last = put(&store, "first".into()).await.unwrap();
    let codes = [
        (rusqlite::ffi::SQLITE_FULL, Trouble::Full),
        (rusqlite::ffi::SQLITE_READONLY, Trouble::ReadOnly),
        (rusqlite::ffi::SQLITE_IOERR, Trouble::Disk),
        (rusqlite::ffi::SQLITE_CORRUPT, Trouble::Damaged),
    ];
    for (round, (code, trouble)) in codes.into_iter().enumerate() {
        fault.fail_with(code);
        for n in 0..3 {
            let error = put(&store, format!("lost {round} {n}")).await.unwrap_err();
            assert_eq!(error.trouble(), Some(trouble));
        }
        // Reading goes on meanwhile.
        assert_eq!(store.read(count).await.unwrap(), 3 + round as i64);
        fault.fail_with(0);
        let seq = put(&store, format!("kept {round}")).await.unwrap();
        assert!(seq > last);
        last = seq;
    }
    store.close().await;
    drop(store);
    let store = open(dir.path(), None);
    assert_eq!(store.read(count).await.unwrap(), 2 + 1 + codes.len() as i64);
}

#[tokio::test]
async fn a_reader_that_does_not_end_holds_up_no_writer_and_the_log_shrinks_afterwards() {
    let megabytes: u64 =
        std::env::var("MANGROVE_SLOW_READER_MIB").ok().and_then(|text| text.parse().ok()).unwrap_or(48);
    let dir = tempfile::tempdir().unwrap();
    let options = Options { synchronous: Synchronous::Normal, ..Options::default() };
    let store = Store::open(dir.path(), options, Notify::new()).unwrap();
    let reader = connect(&dir.path().join("hs.db"), true).unwrap();
    reader.execute_batch("BEGIN").unwrap();
    let seen: i64 = reader.query_row("SELECT count(*) FROM meta", [], |row| row.get(0)).unwrap();
    let log = dir.path().join("hs.db-wal");
    let size = || std::fs::metadata(&log).map_or(0, |log| log.len());
    let (mut n, mut slow) = (0_u64, 0);
    while size() < megabytes << 20 {
        let begun = std::time::Instant::now();
        store
            .write(move |tx| -> Result<(), StoreError> {
                tx.execute(
                    "INSERT INTO meta(key, value) VALUES(?1, zeroblob(30000))",
                    [format!("bulk {n}")],
                )?;
                Ok(())
            })
            .await
            .unwrap();
        n += 1;
        slow += u64::from(begun.elapsed() > Duration::from_millis(15));
    }
    // A reset that is tried in vain waits 20 ms; it is tried seldom, not at every commit.
    assert!(slow * 4 < n, "{slow} of {n} commits waited");
    assert_eq!(reader.query_row("SELECT count(*) FROM meta", [], |row| row.get::<_, i64>(0)).unwrap(), seen);
    reader.execute_batch("ROLLBACK").unwrap();
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    while size() > 16 << 20 {
        assert!(std::time::Instant::now() < deadline, "the log is cut: {} bytes", size());
        n += 1;
        put(&store, format!("after {n}{}", "x".repeat(100_000))).await.unwrap();
    }
    assert_eq!(store.read(count).await.unwrap() as u64, seen as u64 + n);
}

#[tokio::test]
async fn a_damaged_page_is_an_error_where_it_is_read_and_nowhere_else() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), None);
    for n in 0..60 {
        store
            .write(move |tx| -> Result<(), StoreError> {
                tx.execute("INSERT INTO meta(key, value) VALUES(?1, zeroblob(3000))", [format!("{n:04}")])?;
                tx.intern(Kind::User, &format!("@u{n}:x")).map(|_| ())
            })
            .await
            .unwrap();
    }
    store.close().await;
    drop(store);
    let path = dir.path().join("hs.db");
    let root: u32 = {
        let conn = connect(&path, false).unwrap();
        // All of it into the file: what is in the log would be read from there.
        let _: i64 = conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0)).unwrap();
        conn.query_row("SELECT rootpage FROM sqlite_schema WHERE name = 'meta'", [], |row| row.get(0))
            .unwrap()
    };
    // The first child of the table's root becomes nonsense.
    let mut bytes = std::fs::read(&path).unwrap();
    let at = (root as usize - 1) * 4096;
    let child = u32::from_be_bytes(bytes[at + 8..at + 12].try_into().unwrap()) as usize;
    for byte in &mut bytes[(child - 1) * 4096..child * 4096] {
        *byte = 0xa5;
    }
    std::fs::write(&path, bytes).unwrap();
    match Store::open(dir.path(), Options::default(), Notify::new()) {
        // Found out at once: one line with what to do.
        Err(error) => assert_eq!(error.trouble(), Some(Trouble::Damaged), "{error}"),
        Ok(store) => {
            let error = store.read(count).await.unwrap_err();
            assert_eq!(error.trouble(), Some(Trouble::Damaged), "{error}");
            let found = store.read(|tx| tx.lookup(Kind::User, "@u7:x")).await;
            assert!(found.unwrap().is_some(), "what is whole is there");
        }
    }
}
