//! Owns reads that may take long: state resolution of a wide fork, a walk through a room. They have connections of their
//! own on threads of the lowest priority, so that nothing else waits for them.
//!
//! A slow read has no one snapshot. It is read in slices of [`SLICE`]: at [`ReadTx::breathe`] the snapshot is renewed, so
//! that the log can be reset and other threads get their turn. So a slow read asks only for what never changes once it is
//! there (events, snapshots of state, chains), or reads what changes in its first slice and checks when it writes.

use std::{
    collections::VecDeque,
    path::PathBuf,
    sync::{
        Arc, Condvar, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use super::{READ_TIME_MAX, Shared, StoreError, connect, reader::Job};

/// Slow reads at once. Each is one room's (a room has one worker); more rooms wait in line.
pub const SLOW_READS_MAX: usize = 4;
/// Jobs waiting in line; past this the caller is told to come again.
const QUEUE_MAX: usize = 1024;
/// Time between two renewals of the snapshot.
pub(super) const SLICE: Duration = Duration::from_millis(50);
/// A thread without work ends after this, with its connection and cache.
const IDLE: Duration = Duration::from_secs(20);
/// Least favourable priority of the operating system.
#[cfg(target_os = "linux")]
const NICE: i32 = 19;
/// Virtual machine steps between two looks at the clock.
const PROGRESS_STEPS: i32 = 20_000;

/// The line of slow reads, and the threads that serve it.
pub(super) struct Slow {
    path: PathBuf,
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    threads: usize,
    idle: usize,
    closed: bool,
}

impl Slow {
    pub(super) fn new(path: PathBuf) -> Arc<Self> {
        Arc::new(Self { path, state: Mutex::default(), wake: Condvar::new() })
    }

    /// Queues a job; a thread is started if all are busy.
    pub(super) fn submit(self: &Arc<Self>, shared: &Arc<Shared>, job: Job) -> Result<(), StoreError> {
        let mut state = self.lock();
        if state.closed || state.jobs.len() >= QUEUE_MAX {
            return Err(StoreError::Closed);
        }
        if state.idle <= state.jobs.len() && state.threads < SLOW_READS_MAX {
            let (line, shared) = (self.clone(), shared.clone());
            std::thread::Builder::new().name("store-slow".into()).spawn(move || line.serve(&shared))?;
            state.threads += 1;
        }
        state.jobs.push_back(job);
        self.wake.notify_one();
        Ok(())
    }

    /// Ends the threads after what they do.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.jobs.clear();
        self.wake.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn serve(&self, shared: &Shared) {
        lower_priority();
        let epoch = Instant::now();
        let deadline = Arc::new(AtomicU64::new(u64::MAX));
        let watched = deadline.clone();
        let late = move || epoch.elapsed().as_millis() as u64 > watched.load(Ordering::Relaxed);
        let opened = connect(&self.path, true).and_then(|mut conn| {
            conn.progress_handler(PROGRESS_STEPS, Some(late))?;
            Ok(conn)
        });
        let conn = match opened {
            Ok(conn) => conn,
            Err(error) => {
                tracing::warn!(%error, "a connection for slow reads could not be opened");
                let mut state = self.lock();
                state.threads -= 1;
                if state.threads == 0 {
                    // Their callers hear that the database is closed.
                    state.jobs.clear();
                }
                return;
            }
        };
        while let Some(job) = self.next() {
            // One statement may take as long as any read; `breathe` moves this on.
            let moving = deadline.clone();
            let slice = Slice::new(Box::new(move || {
                let until = (epoch.elapsed() + READ_TIME_MAX).as_millis() as u64;
                moving.store(until, Ordering::Relaxed);
            }));
            job(&conn, shared, Some(slice));
            deadline.store(u64::MAX, Ordering::Relaxed);
        }
    }

    fn next(&self) -> Option<Job> {
        let mut state = self.lock();
        loop {
            if let Some(job) = state.jobs.pop_front() {
                return Some(job);
            }
            if state.closed {
                state.threads -= 1;
                return None;
            }
            state.idle += 1;
            let (woken, waited) =
                self.wake.wait_timeout(state, IDLE).unwrap_or_else(|poisoned| poisoned.into_inner());
            state = woken;
            state.idle -= 1;
            if waited.timed_out() && state.jobs.is_empty() {
                state.threads -= 1;
                return None;
            }
        }
    }
}

/// The time slice that a slow read is in.
pub(super) struct Slice {
    begun: Instant,
    renewed: Box<dyn Fn()>,
}

impl Slice {
    fn new(renewed: Box<dyn Fn()>) -> Self {
        renewed();
        Self { begun: Instant::now(), renewed }
    }

    /// Whether it is over.
    pub(super) fn is_over(&self) -> bool {
        self.begun.elapsed() >= SLICE
    }

    /// The next one begins.
    pub(super) fn renew(&mut self) {
        self.begun = Instant::now();
        (self.renewed)();
    }
}

/// Processor time that this thread has used, since some moment.
pub fn cpu_time() -> Duration {
    #[cfg(target_os = "linux")]
    {
        // The first field is the time on a processor, in nanoseconds.
        let stat = std::fs::read_to_string("/proc/thread-self/schedstat").ok();
        let nanos = stat.and_then(|stat| stat.split_whitespace().next()?.parse().ok());
        if let Some(nanos) = nanos {
            return Duration::from_nanos(nanos);
        }
    }
    static EPOCH: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    EPOCH.get_or_init(Instant::now).elapsed()
}

/// Everything that is short goes before this thread.
fn lower_priority() {
    #[cfg(target_os = "linux")]
    {
        // SAFETY: plain system calls that take numbers; on Linux the priority is the calling thread's.
        #[allow(unsafe_code, reason = "no safe wrapper sets the priority of one thread")]
        let result = unsafe { libc::setpriority(libc::PRIO_PROCESS, libc::gettid() as u32, NICE) };
        if result != 0 {
            tracing::debug!("the priority of a thread could not be lowered");
        }
    }
}
