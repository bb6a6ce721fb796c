//! Owns `cache.db`: what can be made again and is never worth a wait for the disk (the connections of sliding sync).
//!
//! It carries the incarnation of `hs.db` and is thrown away with another one. It is not synced: after a power cut, when
//! nobody knows which of its pages reached the disk, it is thrown away, too; a `kill -9` leaves it whole, because the
//! operating system has it. One thread owns its connection; jobs run in the order in which they were handed in.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
};

use rusqlite::{Connection, OptionalExtension as _};
use tokio::sync::{mpsc, oneshot};

use super::{StoreError, schema};

/// Jobs waiting for the thread; beyond, callers wait to hand in more.
const QUEUE_MAX: usize = 1_024;

/// A job; it answers by itself.
type Job = Box<dyn FnOnce(&mut Connection) + Send>;

/// The open cache. Clones share it; the last one dropped ends its thread.
#[derive(Clone)]
pub struct CacheDb {
    jobs: mpsc::Sender<Job>,
}

impl CacheDb {
    /// Opens `cache.db` in `dir`, or makes it anew if it is of another life, damaged or perhaps not whole.
    pub(super) fn open(dir: &Path, incarnation: u64) -> Result<Self, StoreError> {
        let path = dir.join("cache.db");
        let conn = match open_known(&path, incarnation) {
            Ok(Some(conn)) => conn,
            Ok(None) => make(&path, incarnation)?,
            Err(error) => {
                tracing::warn!(%error, "cache.db cannot be read and is made anew; clients sync anew");
                make(&path, incarnation)?
            }
        };
        let (jobs, mut queue) = mpsc::channel::<Job>(QUEUE_MAX);
        std::thread::Builder::new().name("store-cache".into()).spawn(move || {
            let mut conn = conn;
            while let Some(job) = queue.blocking_recv() {
                if catch_unwind(AssertUnwindSafe(|| job(&mut conn))).is_err() {
                    tracing::error!("a job of the cache failed inside; please report it");
                }
            }
            if let Err(error) = close(&conn) {
                tracing::debug!(%error, "cache.db was not closed cleanly");
            }
        })?;
        Ok(Self { jobs })
    }

    /// Runs `op` in one transaction and gives what it gives.
    pub async fn run<T, F>(&self, op: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    {
        let (sender, receiver) = oneshot::channel();
        let job: Job = Box::new(move |conn| {
            // Whoever asked may have gone; the job is done all the same.
            let _ = sender.send(transaction(conn, op));
        });
        self.jobs.send(job).await.map_err(|_| StoreError::Closed)?;
        receiver.await.map_err(|_| StoreError::Closed)?
    }

    /// Hands `op` in and does not wait for it.
    pub async fn post<F>(&self, op: F) -> Result<(), StoreError>
    where
        F: FnOnce(&Connection) -> Result<(), StoreError> + Send + 'static,
    {
        let job: Job = Box::new(move |conn| {
            if let Err(error) = transaction(conn, op) {
                tracing::warn!(%error, "cache.db could not be written; clients may have to sync anew");
            }
        });
        self.jobs.send(job).await.map_err(|_| StoreError::Closed)
    }
}

fn transaction<T>(
    conn: &mut Connection,
    op: impl FnOnce(&Connection) -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    let tx = conn.transaction()?;
    let result = op(&tx)?;
    tx.commit()?;
    Ok(result)
}

/// The file as it is, if it is of this life and whole.
fn open_known(path: &Path, incarnation: u64) -> Result<Option<Connection>, StoreError> {
    if !path.exists() {
        return Ok(None);
    }
    let conn = connect(path)?;
    let get = |key: &str| -> Result<Option<String>, StoreError> {
        Ok(conn.query_row("SELECT value FROM meta WHERE key = ?1", [key], |row| row.get(0)).optional()?)
    };
    let ours = get("incarnation")? == Some(incarnation.to_string())
        && get("schema")? == Some(blake3::hash(schema::conn::SCHEMA.as_bytes()).to_string());
    let whole = get("clean")?.is_some() || get("boot")? == Some(boot_id());
    if !(ours && whole) {
        return Ok(None);
    }
    conn.execute("DELETE FROM meta WHERE key = 'clean'", [])?;
    conn.execute("INSERT OR REPLACE INTO meta(key, value) VALUES('boot', ?1)", [boot_id()])?;
    Ok(Some(conn))
}

/// An empty file.
fn make(path: &Path, incarnation: u64) -> Result<Connection, StoreError> {
    for end in ["", "-wal", "-shm"] {
        let mut name = path.as_os_str().to_owned();
        name.push(end);
        match std::fs::remove_file(PathBuf::from(name)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
    }
    super::create_private(path)?;
    let mut conn = connect(path)?;
    transaction(&mut conn, |conn| {
        conn.execute_batch("CREATE TABLE meta(key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID")?;
        conn.execute_batch(schema::conn::SCHEMA)?;
        let schema = blake3::hash(schema::conn::SCHEMA.as_bytes()).to_string();
        for (key, value) in
            [("incarnation", incarnation.to_string()), ("schema", schema), ("boot", boot_id())]
        {
            conn.execute("INSERT INTO meta(key, value) VALUES(?1, ?2)", (key, value))?;
        }
        Ok(())
    })?;
    Ok(conn)
}

fn connect(path: &Path) -> Result<Connection, StoreError> {
    let conn = super::connect(path, false)?;
    conn.pragma_update(None, "journal_mode", "WAL")?;
    conn.pragma_update(None, "synchronous", "OFF")?;
    conn.pragma_update(None, "cache_size", -1024)?;
    Ok(conn)
}

/// Everything to the disk, and a note that it is there.
fn close(conn: &Connection) -> Result<(), StoreError> {
    conn.pragma_update(None, "synchronous", "FULL")?;
    conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
    conn.execute("INSERT OR REPLACE INTO meta(key, value) VALUES('clean', '1')", [])?;
    Ok(())
}

/// Tells one start of the machine from another; where that cannot be told, nothing is kept over an unclean end.
fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map_or_else(|_| format!("{:?}", std::time::SystemTime::now()), |id| id.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(conn: &Connection) -> Result<i64, StoreError> {
        Ok(conn.query_row("SELECT count(*) FROM conn", [], |row| row.get(0))?)
    }

    #[tokio::test]
    async fn it_is_kept_for_one_life_and_thrown_away_for_another() {
        let dir = tempfile::tempdir().unwrap();
        let cache = CacheDb::open(dir.path(), 1).unwrap();
        let put = |conn: &Connection| {
            conn.execute(
                "INSERT INTO conn(user, device, name, nonce, n, used) VALUES(1, 'D', '', 1, 0, 0)",
                [],
            )?;
            Ok(())
        };
        cache.run(put).await.unwrap();
        // A second opening while the first is still there: as after a kill.
        let again = CacheDb::open(dir.path(), 1).unwrap();
        assert_eq!(again.run(count).await.unwrap(), 1);
        drop((cache, again));
        let other = CacheDb::open(dir.path(), 2).unwrap();
        assert_eq!(other.run(count).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn a_damaged_file_is_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("cache.db"), b"this is no database, is it? ".repeat(40)).unwrap();
        let cache = CacheDb::open(dir.path(), 1).unwrap();
        assert_eq!(cache.run(count).await.unwrap(), 0);
    }
}
