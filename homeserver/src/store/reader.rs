//! Owns the connections that only read: each a thread that runs one short snapshot at a time.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
        mpsc::Receiver,
    },
    thread::JoinHandle,
    time::Instant,
};

use rusqlite::Connection;
use tokio::sync::oneshot;

use super::{READ_TIME_MAX, ReadTx, Shared, StoreError, slow::Slice};

/// A queued read. A slow one gets the slice of time that it begins in.
pub(super) type Job = Box<dyn FnOnce(&Connection, &Shared, Option<Slice>) + Send>;

/// Wraps a caller's closure with the way back to it.
pub(super) fn job<T, E, F>(op: F, sender: oneshot::Sender<Result<T, E>>) -> Job
where
    F: FnOnce(&ReadTx<'_>) -> Result<T, E> + Send + 'static,
    T: Send + 'static,
    E: From<StoreError> + Send + 'static,
{
    Box::new(move |conn, shared, slice| {
        if sender.is_closed() {
            return;
        }
        let result = snapshot(conn, shared, slice, op);
        // A caller that no longer waits is no error.
        let _ = sender.send(result);
    })
}

fn snapshot<T, E, F>(conn: &Connection, shared: &Shared, slice: Option<Slice>, op: F) -> Result<T, E>
where
    F: FnOnce(&ReadTx<'_>) -> Result<T, E>,
    E: From<StoreError>,
{
    let tx = ReadTx::in_slices(conn, shared, slice);
    conn.prepare_cached("BEGIN").and_then(|mut begin| begin.execute([])).map_err(StoreError::from)?;
    let result =
        catch_unwind(AssertUnwindSafe(|| op(&tx))).unwrap_or_else(|_| Err(E::from(StoreError::Panicked)));
    if !conn.is_autocommit() {
        // A read has nothing to lose; if the end fails, the next BEGIN says so.
        let _ = conn.prepare_cached("ROLLBACK").and_then(|mut end| end.execute([]));
    }
    result
}

/// Virtual machine steps between two looks at the clock.
const PROGRESS_STEPS: i32 = 20_000;

/// Starts one reader.
pub(super) fn spawn(
    mut conn: Connection,
    shared: Arc<Shared>,
    queue: Arc<Mutex<Receiver<Job>>>,
) -> Result<JoinHandle<()>, StoreError> {
    let epoch = Instant::now();
    let deadline = Arc::new(AtomicU64::new(u64::MAX));
    let watched = deadline.clone();
    let late = move || epoch.elapsed().as_millis() as u64 > watched.load(Ordering::Relaxed);
    conn.progress_handler(PROGRESS_STEPS, Some(late))?;
    let thread = std::thread::Builder::new().name("store-reader".into()).spawn(move || {
        loop {
            let next = queue.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).recv();
            let Ok(job) = next else { return };
            let until = (epoch.elapsed() + READ_TIME_MAX).as_millis() as u64;
            deadline.store(until, Ordering::Relaxed);
            job(&conn, &shared, None);
        }
    })?;
    Ok(thread)
}
