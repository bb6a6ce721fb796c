//! Owns the database: one file, one writer thread with group commit, a few reader threads. No SQL outside this folder.
//!
//! # How work gets done
//! [`Store::write`] takes a synchronous closure over a [`WriteTx`]. The writer thread collects up to
//! [`GROUP_OPS_MAX`] waiting closures (or [`GROUP_TIME_MAX`] worth of them) into one SQLite transaction, each in a
//! `SAVEPOINT` of its own, so that one that fails takes none of the others along. It commits, publishes the new
//! position and who is touched through [`Notify`], and only then answers. An idle writer commits at once.
//!
//! [`Store::read`] runs a closure over a [`ReadTx`]: one consistent snapshot, at most [`READ_TIME_MAX`] long.
//!
//! ```text
//!   verb ──write(closure)──> queue ──> writer thread: BEGIN  SAVEPOINT op…RELEASE  COMMIT ──> notify ──> answer
//!   verb ──read(closure)───> queue ──> reader thread: BEGIN  op  ROLLBACK ──> answer
//! ```
//!
//! Whatever lives in RAM (interned ids, published positions, the rooms' heads) changes after the commit only.

mod cache;
mod cache_db;
pub mod codec;
mod copy;
pub mod ids;
mod lists;
mod migrate;
mod reader;
pub mod schema;
mod slow;
pub mod tx;
mod writer;

use std::{
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicI32, AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use rusqlite::{Connection, OpenFlags};
use tokio::sync::oneshot;

pub use self::{
    cache::EVENT_CACHE_BYTES,
    cache_db::CacheDb,
    ids::{Kind, Nid},
    slow::{SLOW_READS_MAX, cpu_time},
    tx::{ReadTx, Touched, WriteTx},
};
use crate::notify::Notify;

/// A place in the one order of commits; everything a sync shows has one.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(transparent)]
pub struct Seq(pub i64);

/// Operations in one transaction: past this, a commit is amortised well enough and latency starts to count.
pub const GROUP_OPS_MAX: usize = 256;
/// Time that a group may collect operations before it commits.
pub const GROUP_TIME_MAX: Duration = Duration::from_millis(2);
/// Longest read: a longer one keeps the write-ahead log from being reset.
pub const READ_TIME_MAX: Duration = Duration::from_secs(1);
/// How long SQLite waits for a lock. Only checkpoints ever make a connection wait.
const BUSY: Duration = Duration::from_secs(5);
/// Operations waiting for the writer before callers have to wait to queue more.
const WRITE_QUEUE_MAX: usize = 4096;
/// How far a restored database's numbers jump: more than were given out since its copy was made (a thousand a second for
/// a month), and room for a million restores below 2^53.
const COUNTER_JUMP: i64 = 4_000_000_000;
/// Prepared statements kept for each connection: all that the code has.
const STATEMENTS_MAX: usize = 512;

/// How a store is opened.
#[derive(Clone, Debug)]
pub struct Options {
    /// Reader threads (2 to 4 are useful).
    pub readers: usize,
    /// What a commit waits for.
    pub synchronous: Synchronous,
    /// Bytes of events kept in RAM.
    pub event_cache: u64,
    /// Test hook: see [`Fault`].
    pub fault: Option<Arc<Fault>>,
}

impl Default for Options {
    fn default() -> Self {
        Self { readers: 3, synchronous: Synchronous::Full, event_cache: EVENT_CACHE_BYTES, fault: None }
    }
}

/// What a commit waits for before it is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Synchronous {
    /// The disk has it: nothing that left the node is forgotten in a power cut. The default.
    Full,
    /// The operating system has it: safe against `kill -9`, not against a power cut.
    Normal,
}

/// A test's scissors: cuts the power at the n-th write from now. The writer stops where it stands, nothing of the
/// group is committed, and every later operation fails with [`StoreError::Closed`].
#[derive(Debug)]
pub struct Fault {
    left: AtomicI64,
    /// SQLite's code with which every write fails, 0 for none: a disk that is full or cannot be written.
    code: AtomicI32,
}

impl Fault {
    /// A fault that does not strike until [`Fault::arm`] says when.
    pub fn new() -> Arc<Self> {
        Arc::new(Self { left: AtomicI64::new(i64::MAX), code: AtomicI32::new(0) })
    }

    /// Lets `writes` more writes through, then cuts.
    pub fn arm(&self, writes: i64) {
        self.left.store(writes, Ordering::SeqCst);
    }

    /// Lets every write fail with this code of SQLite's from now on; 0 lets them through again.
    pub fn fail_with(&self, code: i32) {
        self.code.store(code, Ordering::SeqCst);
    }

    fn error(&self) -> Option<rusqlite::Error> {
        let code = self.code.load(Ordering::SeqCst);
        (code != 0).then(|| rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(code), None))
    }

    /// Writes still let through.
    pub fn left(&self) -> i64 {
        self.left.load(Ordering::SeqCst)
    }

    /// Counts one write; true if the power is off.
    fn strikes(&self) -> bool {
        self.left.fetch_sub(1, Ordering::SeqCst) <= 0
    }
}

/// Why the store could not do what it was asked.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// SQLite said no.
    #[error("database: {0}")]
    Sqlite(Arc<rusqlite::Error>),
    /// The file or the directory could not be made or opened.
    #[error("database file: {0}")]
    Io(Arc<std::io::Error>),
    /// The store was closed, or its writer has stopped.
    #[error("the database is closed")]
    Closed,
    /// The group's commit failed, so this operation did not happen.
    #[error("commit failed: {0}")]
    Commit(Arc<rusqlite::Error>),
    /// The operation panicked; it was rolled back alone.
    #[error("a database operation failed inside; please report it")]
    Panicked,
    /// What is stored cannot be understood.
    #[error("stored data is damaged: {0}")]
    Corrupt(&'static str),
    /// The file was written by a newer program.
    #[error(
        "the database has schema version {found}, this program knows up to {known}: use a newer mangrove"
    )]
    TooNew {
        /// Version in the file.
        found: i64,
        /// Newest that this program knows.
        known: i64,
    },
    /// A [`Fault`] struck (tests only).
    #[error("the power was cut (test)")]
    Fault,
}

/// What keeps the database from working, as far as the operator can mend it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// No space is left.
    Full,
    /// The file system does not let us write (any more).
    ReadOnly,
    /// The file is not what was written.
    Damaged,
    /// The disk answers with errors.
    Disk,
}

impl Trouble {
    /// What happened and what to do, in a sentence for whoever asked.
    pub fn advice(self) -> &'static str {
        match self {
            Self::Full => {
                "the server's disk is full, so nothing was stored; it goes on by itself when there is space again"
            }
            Self::ReadOnly => {
                "the server cannot write its database, so nothing was stored; it goes on when the disk can be \
                 written again"
            }
            Self::Damaged => {
                "the server's database is damaged; its operator should restore a backup (mangrove restore)"
            }
            Self::Disk => {
                "the server's disk reports errors, so nothing was stored; its operator should look at it"
            }
        }
    }
}

impl StoreError {
    /// What the operator can mend, if it is that.
    pub fn trouble(&self) -> Option<Trouble> {
        use rusqlite::ErrorCode;
        let error = match self {
            Self::Sqlite(error) | Self::Commit(error) => error,
            Self::Corrupt(_) => return Some(Trouble::Damaged),
            _ => return None,
        };
        match error.sqlite_error_code()? {
            ErrorCode::DiskFull => Some(Trouble::Full),
            ErrorCode::ReadOnly | ErrorCode::PermissionDenied => Some(Trouble::ReadOnly),
            ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase => Some(Trouble::Damaged),
            ErrorCode::SystemIoFailure | ErrorCode::CannotOpen => Some(Trouble::Disk),
            _ => None,
        }
    }
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(Arc::new(error))
    }
}

impl From<std::io::Error> for StoreError {
    fn from(error: std::io::Error) -> Self {
        Self::Io(Arc::new(error))
    }
}

/// The open database. Clones share it; the last one dropped ends its threads.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    path: std::path::PathBuf,
    shared: Arc<Shared>,
    cache_db: CacheDb,
    writes: tokio::sync::mpsc::Sender<writer::Op>,
    reads: std::sync::mpsc::SyncSender<reader::Job>,
    slow: Arc<slow::Slow>,
    threads: Mutex<Vec<std::thread::JoinHandle<()>>>,
}

/// What the threads and all handles share.
pub(crate) struct Shared {
    pub(crate) ids: ids::IdCache,
    pub(crate) events: cache::EventCache,
    /// Whole lists of state that were decoded lately.
    lists: lists::Lists,
    /// Highest position whose commit is done.
    pub(crate) position: AtomicU64,
    pub(crate) notify: Notify,
    pub(crate) incarnation: u64,
    pub(crate) secret: [u8; 32],
    pub(crate) fault: Option<Arc<Fault>>,
    /// True once the writer has ended without being told to.
    pub(crate) failed: tokio::sync::watch::Sender<bool>,
}

impl Store {
    /// Opens (or makes) `hs.db` in `dir`, brings its tables up to date and starts the threads.
    pub fn open(dir: &Path, options: Options, notify: Notify) -> Result<Self, StoreError> {
        std::fs::create_dir_all(dir)?;
        let path = dir.join("hs.db");
        create_private(&path)?;
        let mut conn = connect(&path, false)?;
        conn.pragma_update(None, "journal_mode", "WAL")?;
        let level = match options.synchronous {
            Synchronous::Full => "FULL",
            Synchronous::Normal => "NORMAL",
        };
        conn.pragma_update(None, "synchronous", level)?;
        conn.pragma_update(None, "secure_delete", "FAST")?;
        // Checkpoints have a thread of their own, off the commit path.
        conn.pragma_update(None, "wal_autocheckpoint", 0)?;
        let meta = migrate::run(&mut conn)?;
        let mut counters = tx::Counters::load(&conn)?;
        let shared = Arc::new(Shared {
            ids: ids::IdCache::default(),
            events: cache::EventCache::new(options.event_cache),
            lists: lists::Lists::default(),
            position: AtomicU64::new(counters.position().0 as u64),
            notify,
            incarnation: meta.incarnation,
            secret: meta.secret,
            fault: options.fault,
            failed: tokio::sync::watch::channel(false).0,
        });
        migrate::fill(&conn, &shared, &mut counters)?;
        let mut threads = Vec::new();
        let (writes, write_queue) = tokio::sync::mpsc::channel(WRITE_QUEUE_MAX);
        let full = matches!(options.synchronous, Synchronous::Full);
        threads.push(writer::spawn(conn, counters, shared.clone(), write_queue, &path, full)?);
        let (reads, read_queue) = std::sync::mpsc::sync_channel(WRITE_QUEUE_MAX);
        let read_queue = Arc::new(Mutex::new(read_queue));
        for _ in 0..options.readers.clamp(1, 16) {
            let conn = connect(&path, true)?;
            threads.push(reader::spawn(conn, shared.clone(), read_queue.clone())?);
        }
        let slow = slow::Slow::new(path.clone());
        let cache_db = CacheDb::open(dir, shared.incarnation)?;
        let threads = Mutex::new(threads);
        Ok(Self { inner: Arc::new(Inner { path, shared, cache_db, writes, reads, slow, threads }) })
    }

    /// Runs `op` inside the next group's transaction and answers after its commit. An `Err` rolls `op` back alone.
    /// The closure must be quick and must not wait for anything: read and fetch first, decide, write last.
    pub async fn write<T, E, F>(&self, op: F) -> Result<T, E>
    where
        F: FnOnce(&mut WriteTx<'_>) -> Result<T, E> + Send + 'static,
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
    {
        let (sender, receiver) = oneshot::channel();
        let op = writer::op(op, sender);
        self.inner.writes.send(op).await.map_err(|_| StoreError::Closed)?;
        receiver.await.map_err(|_| StoreError::Closed)?
    }

    /// [`Store::write`], answered when the operating system has it rather than the disk: it survives `kill -9`, while a
    /// power cut may undo it (and nothing that was committed before it). For what merely saves work when it is still
    /// there: how far other servers are, answers to requests that may be repeated. Spares a wait for the disk.
    pub async fn write_soon<T, E, F>(&self, op: F) -> Result<T, E>
    where
        F: FnOnce(&mut WriteTx<'_>) -> Result<T, E> + Send + 'static,
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
    {
        let (sender, receiver) = oneshot::channel();
        let op = writer::op(op, sender).soon();
        self.inner.writes.send(op).await.map_err(|_| StoreError::Closed)?;
        receiver.await.map_err(|_| StoreError::Closed)?
    }

    /// Queues `op` now, in the order of these calls, and gives a future of its answer: for callers who pipeline. If the
    /// queue is full, `op` is queued when the future is polled and there is room.
    pub fn write_queued<T, E, F>(
        &self,
        op: F,
    ) -> impl Future<Output = Result<T, E>> + Send + 'static + use<T, E, F>
    where
        F: FnOnce(&mut WriteTx<'_>) -> Result<T, E> + Send + 'static,
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
    {
        let (sender, receiver) = oneshot::channel();
        let late = match self.inner.writes.try_send(writer::op(op, sender)) {
            Ok(()) => None,
            Err(error) => Some((error.into_inner(), self.inner.writes.clone())),
        };
        async move {
            if let Some((op, writes)) = late {
                writes.send(op).await.map_err(|_| StoreError::Closed)?;
            }
            receiver.await.map_err(|_| StoreError::Closed)?
        }
    }

    /// [`Store::write`] for threads outside tokio.
    pub fn write_blocking<T, E, F>(&self, op: F) -> Result<T, E>
    where
        F: FnOnce(&mut WriteTx<'_>) -> Result<T, E> + Send + 'static,
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
    {
        let (sender, receiver) = oneshot::channel();
        self.inner.writes.blocking_send(writer::op(op, sender)).map_err(|_| StoreError::Closed)?;
        receiver.blocking_recv().map_err(|_| StoreError::Closed)?
    }

    /// Runs `op` over one snapshot of the database. A read of more than a second is interrupted.
    pub async fn read<T, E, F>(&self, op: F) -> Result<T, E>
    where
        F: FnOnce(&ReadTx<'_>) -> Result<T, E> + Send + 'static,
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
    {
        let (sender, receiver) = oneshot::channel();
        let job = reader::job(op, sender);
        // The queue is as long as the writer's; when it is full, readers are hopelessly behind and waiting is right.
        if let Err(std::sync::mpsc::TrySendError::Full(mut job)) = self.inner.reads.try_send(job) {
            loop {
                tokio::time::sleep(Duration::from_millis(1)).await;
                match self.inner.reads.try_send(job) {
                    Err(std::sync::mpsc::TrySendError::Full(back)) => job = back,
                    _ => break,
                }
            }
        }
        receiver.await.map_err(|_| StoreError::Closed)?
    }

    /// Runs `op` on a thread of low priority, in slices of time between which the snapshot is renewed
    /// ([`ReadTx::breathe`], which `op` has to call often). For what may take seconds. At most
    /// [`SLOW_READS_MAX`] at once, others wait.
    pub async fn read_slowly<T, E, F>(&self, op: F) -> Result<T, E>
    where
        F: FnOnce(&ReadTx<'_>) -> Result<T, E> + Send + 'static,
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
    {
        let (sender, receiver) = oneshot::channel();
        self.inner.slow.submit(&self.inner.shared, reader::job(op, sender))?;
        receiver.await.map_err(|_| StoreError::Closed)?
    }

    /// [`Store::read`] for threads outside tokio.
    pub fn read_blocking<T, E, F>(&self, op: F) -> Result<T, E>
    where
        F: FnOnce(&ReadTx<'_>) -> Result<T, E> + Send + 'static,
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
    {
        let (sender, receiver) = oneshot::channel();
        self.inner.reads.send(reader::job(op, sender)).map_err(|_| StoreError::Closed)?;
        receiver.blocking_recv().map_err(|_| StoreError::Closed)?
    }

    /// Everything up to here is committed and visible to any read that starts now.
    pub fn position(&self) -> Seq {
        Seq(self.inner.shared.position.load(Ordering::Acquire) as i64)
    }

    /// Tells one life of this database from another (a restored backup gets a new one). Part of every sync token.
    pub fn incarnation(&self) -> u64 {
        self.inner.shared.incarnation
    }

    /// Bytes of events in the cache.
    pub fn event_cache_bytes(&self) -> u64 {
        self.inner.shared.events.bytes()
    }

    /// What can be made again: `cache.db`.
    pub fn cache_db(&self) -> &CacheDb {
        &self.inner.cache_db
    }

    /// Whom commits wake.
    pub fn notify(&self) -> &Notify {
        &self.inner.shared.notify
    }

    /// Waits until the writer has ended without being told to: nothing can be stored any more, and the node should stop.
    pub async fn failed(&self) {
        let mut failed = self.inner.shared.failed.subscribe();
        if failed.wait_for(|failed| *failed).await.is_err() {
            // The sender lives as long as this store.
            std::future::pending::<()>().await;
        }
    }

    /// Commits what is queued, checkpoints the log and ends the threads. Later operations fail with
    /// [`StoreError::Closed`].
    pub async fn close(&self) {
        self.inner.slow.close();
        let (sender, receiver) = oneshot::channel();
        if self.inner.writes.send(writer::Op::stop(sender)).await.is_ok() {
            // An error means that the writer has gone already: closed either way.
            let _ = receiver.await;
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // The threads end when their queues close, which is when the senders of this struct are gone; nothing to wait
        // for but the handles themselves, and a drop inside the runtime must not block.
        self.slow.close();
        if let Ok(threads) = self.threads.get_mut() {
            threads.clear();
        }
    }
}

/// Makes the file readable by its owner only before SQLite puts a byte in it.
fn create_private(path: &Path) -> Result<(), StoreError> {
    let mut options = std::fs::OpenOptions::new();
    options.create(true).append(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)?;
    Ok(())
}

pub(crate) fn connect(path: &Path, read_only: bool) -> Result<Connection, StoreError> {
    let access = if read_only { OpenFlags::SQLITE_OPEN_READ_ONLY } else { OpenFlags::SQLITE_OPEN_READ_WRITE };
    let conn = Connection::open_with_flags(path, access | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    conn.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
    conn.busy_timeout(BUSY)?;
    conn.pragma_update(None, "cache_size", -4096)?;
    conn.pragma_update(None, "temp_store", "MEMORY")?;
    Ok(conn)
}

#[cfg(test)]
mod tests;
