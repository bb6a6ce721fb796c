//! Owns the one connection that writes: groups waiting operations into transactions, commits, publishes, answers.

use std::{
    cell::RefCell,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use rusqlite::Connection;
use tokio::sync::{mpsc::Receiver, oneshot};

use super::{
    GROUP_OPS_MAX, GROUP_TIME_MAX, Shared, StoreError,
    tx::{Counters, Group, Pending, WriteTx},
};

/// A queued operation.
pub(super) struct Op {
    run: Run,
    stop: bool,
    /// Need not be on the disk when it is answered: see [`super::Store::write_soon`].
    soon: bool,
}

/// Does it, and says whether it is to be kept. Without a transaction, it is told why there is none.
type Run = Box<dyn FnOnce(Result<&mut WriteTx<'_>, StoreError>) -> (bool, Answer) + Send>;

/// Tells the caller how it went, once the group's fate is known.
type Answer = Box<dyn FnOnce(Result<(), StoreError>) + Send>;

impl Op {
    /// Commits what came before and ends the writer.
    pub(super) fn stop(done: oneshot::Sender<()>) -> Self {
        let run = move |_: Result<&mut WriteTx<'_>, StoreError>| {
            let answer: Answer = Box::new(move |_| {
                // Whoever asked may have gone; the writer stops all the same.
                let _ = done.send(());
            });
            (true, answer)
        };
        Self { run: Box::new(run), stop: true, soon: false }
    }
}

/// Wraps a caller's closure with the way back to it.
pub(super) fn op<T, E, F>(op: F, sender: oneshot::Sender<Result<T, E>>) -> Op
where
    F: FnOnce(&mut WriteTx<'_>) -> Result<T, E> + Send + 'static,
    T: Send + 'static,
    E: From<StoreError> + Send + 'static,
{
    let run = move |tx: Result<&mut WriteTx<'_>, StoreError>| -> (bool, Answer) {
        let result = match tx {
            Ok(tx) => catch_unwind(AssertUnwindSafe(|| op(tx)))
                .unwrap_or_else(|_| Err(E::from(StoreError::Panicked))),
            Err(error) => Err(E::from(error)),
        };
        let keep = result.is_ok();
        let answer = move |commit: Result<(), StoreError>| {
            let result = match commit {
                Ok(()) => result,
                Err(error) if keep => Err(error.into()),
                Err(_) => result,
            };
            // A caller that no longer waits is no error: the operation is done all the same.
            let _ = sender.send(result);
        };
        (keep, Box::new(answer))
    };
    Op { run: Box::new(run), stop: false, soon: false }
}

impl Op {
    /// The same, in no hurry to reach the disk.
    pub(super) fn soon(self) -> Self {
        Self { soon: true, ..self }
    }
}

/// Log size at which the checkpoint thread is asked to work.
const WAL_CHECKPOINT_BYTES: u64 = 1 << 20;
/// Log size at which the writer itself begins it anew, between two groups. Small: what is in it is on the disk twice, and
/// the few pages that every commit writes are carried over once for some forty commits either way.
const WAL_RESET_BYTES: u64 = 2 << 20;
/// How long a reset waits for readers of the old log.
const WAL_RESET_WAIT: Duration = Duration::from_millis(20);
/// Bytes of a page in the log, with its header (the page size is SQLite's own, 4096).
const WAL_PAGE_BYTES: u64 = 4096 + 24;

/// Starts the writer and its checkpointer.
pub(super) fn spawn(
    mut conn: Connection,
    counters: Counters,
    shared: Arc<Shared>,
    queue: Receiver<Op>,
    path: &Path,
    full: bool,
) -> Result<JoinHandle<()>, StoreError> {
    let (ask, asked) = std::sync::mpsc::sync_channel::<()>(1);
    let checkpoint = super::connect(path, false)?;
    std::thread::Builder::new().name("store-checkpoint".into()).spawn(move || {
        while asked.recv().is_ok() {
            // Passive: never waits for readers nor makes the writer wait. What it cannot do now, it does next time.
            let result = checkpoint.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()));
            if let Err(error) = result {
                tracing::warn!(%error, "checkpoint of the database failed");
            }
        }
    })?;
    let log = Arc::new(AtomicU64::new(0));
    let pages = log.clone();
    conn.wal_hook(Some(move |_: &mut rusqlite::hooks::Wal, count: std::ffi::c_int| {
        pages.store(u64::try_from(count).unwrap_or(0), Ordering::Relaxed);
        Ok(())
    }))?;
    // A log that grew (a slow reader, a backup) is cut when it begins anew; one of ordinary size is written over, which
    // is faster than growing it again: the file system has nothing to note at each commit.
    conn.pragma_update(None, "journal_size_limit", (WAL_RESET_BYTES * 2) as i64)?;
    let end = End { shared: shared.clone(), told: false };
    let mut writer = Writer {
        conn,
        counters,
        shared,
        queue,
        ask,
        log,
        log_seen: 0,
        ask_at: WAL_CHECKPOINT_BYTES,
        reset_at: WAL_RESET_BYTES,
        full,
        syncs: full,
        held: None,
    };
    let thread = std::thread::Builder::new().name("store-writer".into()).spawn(move || {
        // Taken whole: the thread's end is its end.
        let mut end = end;
        let told = writer.run();
        end.told = told;
    })?;
    Ok(thread)
}

/// What comes after a group.
enum Next {
    Go,
    /// It was told to end.
    Stop,
    /// A [`super::Fault`] struck.
    Cut,
}

struct Writer {
    conn: Connection,
    counters: Counters,
    shared: Arc<Shared>,
    queue: Receiver<Op>,
    ask: std::sync::mpsc::SyncSender<()>,
    /// Pages in the log as of the last commit.
    log: Arc<AtomicU64>,
    /// Its bytes when they were last looked at.
    log_seen: u64,
    /// The checkpointer is asked past this.
    ask_at: u64,
    /// A reset is tried past this.
    reset_at: u64,
    /// The store is to sync its commits.
    full: bool,
    /// The connection does so now.
    syncs: bool,
    /// An operation that has to be on disk, come while a group was open that is not synced: the next group's first.
    held: Option<Op>,
}

/// Says so when the writer ends without being told to, also by a panic.
struct End {
    shared: Arc<Shared>,
    told: bool,
}

impl Drop for End {
    fn drop(&mut self) {
        if !self.told {
            tracing::error!("the database's writer has ended; nothing can be stored any more");
            self.shared.failed.send_replace(true);
        }
    }
}

impl Writer {
    /// True if it was told to end.
    fn run(&mut self) -> bool {
        let mut told = true;
        while let Some(first) = self.held.take().or_else(|| self.queue.blocking_recv()) {
            match self.group(first) {
                Next::Go => {}
                Next::Stop => break,
                Next::Cut => {
                    told = false;
                    break;
                }
            }
        }
        self.queue.close();
        // Whoever still waits is told by the dropped sender.
        while self.queue.try_recv().is_ok() {}
        told
    }

    /// One transaction.
    fn group(&mut self, first: Op) -> Next {
        let soon = first.soon;
        let begun =
            self.sync_commits(!soon).and_then(|()| self.conn.prepare_cached("BEGIN IMMEDIATE")?.execute([]));
        if let Err(error) = begun {
            return self.refuse(first, error);
        }
        let committed = self.counters;
        let pending = RefCell::new(Vec::new());
        let mut group =
            Group { counters: self.counters, touched: Vec::new(), events: Vec::new(), cut: false };
        let mut answers = Vec::new();
        let mut stop = false;
        let started = Instant::now();
        let mut next = Some(first);
        while let Some(op) = next.take() {
            stop |= op.stop;
            match self.one(op, &mut group, &pending) {
                Some(answer) => answers.push(answer),
                None => return Next::Cut,
            }
            if !stop && answers.len() < GROUP_OPS_MAX && started.elapsed() < GROUP_TIME_MAX {
                next = self.queue.try_recv().ok();
                if soon && next.as_ref().is_some_and(|op| !op.soon) {
                    self.held = next.take();
                }
            }
        }
        if let Some(fault) = &self.shared.fault
            && fault.strikes()
        {
            return Next::Cut;
        }
        let result = self.conn.prepare_cached("COMMIT").and_then(|mut commit| commit.execute([]));
        self.counters = group.counters;
        let result = match result {
            Ok(_) => {
                for (kind, text, nid) in pending.take() {
                    self.shared.ids.insert(kind, text, nid);
                }
                self.shared.events.committed(&group.events);
                let position = self.counters.position();
                self.shared.position.store(position.0 as u64, Ordering::Release);
                self.shared.notify.publish(position, &group.touched);
                Ok(())
            }
            Err(error) => {
                self.counters.rolled_back(&committed);
                if !self.conn.is_autocommit() {
                    // If even this fails, the next BEGIN says so to whoever comes.
                    let _ = self.conn.execute_batch("ROLLBACK");
                }
                tracing::warn!(%error, "a commit failed: is the disk full?");
                Err(StoreError::Commit(Arc::new(error)))
            }
        };
        for answer in answers {
            answer(result.clone());
        }
        self.look_at_log();
        if stop { Next::Stop } else { Next::Go }
    }

    /// One operation in its SAVEPOINT; `None` if the power was cut.
    fn one(&self, op: Op, group: &mut Group, pending: &Pending) -> Option<Answer> {
        let counters = group.counters;
        let touched = group.touched.len();
        let interned = pending.borrow().len();
        let begun = self.conn.prepare_cached("SAVEPOINT op").and_then(|mut savepoint| savepoint.execute([]));
        let (keep, answer) = (op.run)(Ok(&mut WriteTx::new(&self.conn, &self.shared, group, pending)));
        if group.cut {
            return None;
        }
        let ended = if keep {
            self.conn.prepare_cached("RELEASE op").and_then(|mut release| release.execute([]))
        } else {
            group.counters.rolled_back(&counters);
            group.touched.truncate(touched);
            pending.borrow_mut().truncate(interned);
            self.conn
                .prepare_cached("ROLLBACK TO op")
                .and_then(|mut rollback| rollback.execute([]))
                .and_then(|_| self.conn.prepare_cached("RELEASE op")?.execute([]))
        };
        match begun.and(ended) {
            Ok(_) => Some(answer),
            Err(error) => {
                // SQLite has given up the whole transaction (disk full, I/O error); the commit below fails and all of
                // the group hears of it.
                let error = Arc::new(error);
                Some(Box::new(move |commit| answer(commit.and(Err(StoreError::Sqlite(error))))))
            }
        }
    }

    /// Lets the next commit wait for the disk, or not. (SQLite takes this outside of transactions only.)
    fn sync_commits(&mut self, wanted: bool) -> rusqlite::Result<()> {
        let wanted = wanted && self.full;
        if wanted != self.syncs {
            self.conn.pragma_update(None, "synchronous", if wanted { "FULL" } else { "NORMAL" })?;
            self.syncs = wanted;
        }
        Ok(())
    }

    /// The transaction could not even begin: this caller hears why, the writer goes on.
    fn refuse(&self, op: Op, error: rusqlite::Error) -> Next {
        tracing::warn!(%error, "the database cannot be written");
        let stop = op.stop;
        let error = StoreError::Sqlite(Arc::new(error));
        let (_, answer) = (op.run)(Err(error.clone()));
        answer(Err(error));
        if stop { Next::Stop } else { Next::Go }
    }

    fn look_at_log(&mut self) {
        let bytes = self.log.load(Ordering::Relaxed) * WAL_PAGE_BYTES;
        if bytes < self.log_seen {
            // It began anew.
            (self.ask_at, self.reset_at) = (WAL_CHECKPOINT_BYTES, WAL_RESET_BYTES);
        }
        self.log_seen = bytes;
        if bytes > self.reset_at {
            // While commits never pause, the checkpointer never sees the log's end; only between two groups can it begin
            // anew. Most of it has been carried over by then, so this is short. A reader in the way (a backup) puts it
            // off until the log has grown as much again: commits do not wait for it time after time.
            match self.reset_log() {
                Ok(true) => {}
                Ok(false) => self.reset_at = bytes + WAL_RESET_BYTES.max(bytes / 8),
                Err(error) => {
                    self.reset_at = bytes + WAL_RESET_BYTES;
                    tracing::warn!(%error, "the database's log could not be carried over");
                }
            }
        } else if bytes > self.ask_at {
            self.ask_at = bytes + WAL_CHECKPOINT_BYTES;
            // Full means that one is under way already.
            let _ = self.ask.try_send(());
        }
    }

    /// True if the next commit begins the log anew.
    fn reset_log(&self) -> rusqlite::Result<bool> {
        self.conn.busy_timeout(WAL_RESET_WAIT)?;
        let result = self.conn.query_row("PRAGMA wal_checkpoint(RESTART)", [], |row| row.get::<_, i64>(0));
        self.conn.busy_timeout(super::BUSY)?;
        result.map(|busy| busy == 0)
    }
}
