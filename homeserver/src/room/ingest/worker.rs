//! One task per active room: order by ownership, no per-room locks.
//!
//! A worker owns the room's speculative head and pipelines: it builds the next event on top of those that the writer has
//! not committed yet, so that one busy room profits from group commit. If one of them fails, the later ones come back
//! ([`AppendError::Stale`]), and are built anew on what is committed; callers see no error.
//!
//! ```text
//!   jobs ──> build/authorize on head ──> write_queued ──┐
//!     ^                                                  │ in order
//!     └──────── Stale: again on the stored head <────────┴──> answer
//! ```

mod foreign;
mod jobs;
mod own;
mod some;

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesOrdered};
use ruma::{OwnedEventId, OwnedRoomId, RoomId};
use tokio::{sync::mpsc, time::Instant};

pub(in crate::room) use self::jobs::{DraftJob, Job, Made, PduJob, Taken};
use self::jobs::{answer, refuse};
use super::{
    append::{Append, AppendError, Done, Verdict, append},
    head::Head,
    whole,
};
use crate::{
    clock::Clock,
    room::{
        RoomError,
        core::{build::Signer, pdu::Pdu},
        policy::Policies,
    },
    store::Store,
};

/// Jobs waiting for a worker; more callers wait in line.
const JOBS_MAX: usize = 256;
/// Events of one room on their way to the writer at once: as many as a group may hold.
const PIPELINE_MAX: usize = 256;
/// Times that a job is built anew before its caller is told to come again.
const TRIES_MAX: u32 = 16;
/// Times that a worker is started for one job: one may end just then, a second one has hardly begun.
const STARTS_MAX: u32 = 4;
/// A worker without work ends after this.
const IDLE: Duration = Duration::from_secs(30);
/// Auth events kept by a worker; past this they are read again.
const AUTH_CACHE_MAX: usize = 1024;
/// State resolution that costs less than this is free: most forks are small.
const FREE_CPU: Duration = Duration::from_millis(20);
/// After an event that cost more, other servers' events of the room rest for so many times that: one room gets at most a
/// fifth of one core, and our own users go on writing meanwhile.
const REST_TIMES: u32 = 4;
/// Longest rest.
const REST_MAX: Duration = Duration::from_secs(20);
/// Events that wait while the room rests; past this no more jobs are taken.
const PARKED_MAX: usize = 256;
/// Forks older than this are merged, if there are more than [`ENDS_MAX`]: most close by themselves.
const MERGE_AFTER: Duration = Duration::from_secs(1);
/// Merging events at once: ten ends each.
const MERGES_MAX: usize = 4;
/// Local members that are tried as the sender of a merging event.
const MERGERS_MAX: usize = 16;
/// Type of the event that says nothing but merges ends of the graph. Clients show nothing of it.
const DUMMY: &str = "org.matrix.dummy_event";

/// What a worker needs of the rest.
#[derive(Clone)]
pub(in crate::room) struct Tools {
    pub(in crate::room) store: Store,
    pub(in crate::room) signer: Signer,
    pub(in crate::room) clock: Clock,
    pub(in crate::room) policies: Arc<Policies>,
}

/// The rooms' tasks.
#[derive(Default)]
pub(in crate::room) struct Workers {
    map: Arc<Mutex<HashMap<OwnedRoomId, mpsc::Sender<Job>>>>,
}

impl Workers {
    /// Hands a job to the room's worker, which is started if it is not there.
    pub(in crate::room) async fn submit(
        &self,
        tools: &Tools,
        room: &RoomId,
        mut job: Job,
    ) -> Result<(), RoomError> {
        for _ in 0..STARTS_MAX {
            match self.sender(tools, room).send(job).await {
                Ok(()) => return Ok(()),
                // The worker ended between the look-up and the send.
                Err(back) => job = back.0,
            }
        }
        // The runtime is ending: it drops each worker that is started.
        Err(RoomError::Busy)
    }

    fn sender(&self, tools: &Tools, room: &RoomId) -> mpsc::Sender<Job> {
        let mut map = self.map.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(sender) = map.get(room)
            && !sender.is_closed()
        {
            return sender.clone();
        }
        let (sender, jobs) = mpsc::channel(JOBS_MAX);
        let worker = Worker {
            tools: tools.clone(),
            room: room.to_owned(),
            jobs,
            waiting: VecDeque::new(),
            head: None,
            flight: FuturesOrdered::new(),
            stale: false,
            auth: HashMap::new(),
            parked: VecDeque::new(),
            rest: None,
            merge: None,
        };
        tokio::spawn(worker.run(self.map.clone()));
        map.insert(room.to_owned(), sender.clone());
        sender
    }
}

/// An event on its way to the writer.
struct Flight {
    job: Job,
    verdict: Verdict,
    reason: String,
    result: Result<Done, AppendError>,
}

struct Worker {
    tools: Tools,
    room: OwnedRoomId,
    jobs: mpsc::Receiver<Job>,
    /// Jobs that came back, before those in the channel.
    waiting: VecDeque<Job>,
    head: Option<Head>,
    flight: FuturesOrdered<BoxFuture<'static, Flight>>,
    /// Something on its way did not happen as foreseen: nothing new until all are back.
    stale: bool,
    auth: HashMap<OwnedEventId, Arc<Pdu>>,
    /// Foreign events that came while the room rests.
    parked: VecDeque<PduJob>,
    /// Until when no foreign events are taken: the room has used its share of the processor.
    rest: Option<Instant>,
    /// When the graph's many ends are to be merged.
    merge: Option<Instant>,
}

impl Worker {
    async fn run(mut self, map: Arc<Mutex<HashMap<OwnedRoomId, mpsc::Sender<Job>>>>) {
        loop {
            if self.stale && self.flight.is_empty() {
                self.stale = false;
                self.head = None;
            }
            let room_for_more = !self.stale && self.flight.len() < PIPELINE_MAX;
            if room_for_more && let Some(job) = self.waiting.pop_front() {
                self.handle(job).await;
                continue;
            }
            if room_for_more
                && self.rest.is_none()
                && let Some(job) = self.parked.pop_front()
            {
                self.pdu(job).await;
                continue;
            }
            let takes_jobs = room_for_more && self.parked.len() < PARKED_MAX;
            let far = Instant::now() + IDLE;
            tokio::select! {
                biased;
                Some(flight) = self.flight.next(), if !self.flight.is_empty() => self.landed(flight),
                () = tokio::time::sleep_until(self.rest.unwrap_or(far)), if self.rest.is_some() => self.rest = None,
                () = tokio::time::sleep_until(self.merge.unwrap_or(far)), if self.merge.is_some() && room_for_more => {
                    self.merge = None;
                    self.merge_ends().await;
                }
                job = self.jobs.recv(), if takes_jobs => match job {
                    Some(Job::Pdu(job)) if self.rest.is_some() => self.parked.push_back(job),
                    Some(job) => self.handle(job).await,
                    None => break,
                },
                () = tokio::time::sleep_until(far), if self.flight.is_empty() && self.rest.is_none()
                    && self.merge.is_none() => {
                    let mut map = map.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                    self.jobs.close();
                    map.remove(&self.room);
                }
            }
        }
        while let Some(flight) = self.flight.next().await {
            self.landed(flight);
        }
    }

    async fn handle(&mut self, job: Job) {
        if self.flight.is_empty()
            && let Some(head) = &mut self.head
        {
            head.shrink();
        }
        match job {
            Job::Draft(job) => self.draft(job).await,
            Job::Pdu(job) => self.pdu(job).await,
            Job::Whole { join, state, answer } => {
                self.drain().await;
                let result = whole::complete(&self.tools, &self.room, join, state).await;
                // Everything that was known of the state is old now.
                self.head = None;
                self.auth.clear();
                let _ = answer.send(result);
            }
            Job::Template { sender, draft, sign, answer } => {
                // Nobody may wait for it any longer: no error.
                let mut made = self.template(&sender, &draft, sign).await;
                if made.is_err() && self.renew().await {
                    made = self.template(&sender, &draft, sign).await;
                }
                let _ = answer.send(made);
            }
        }
    }

    /// One of the events on their way is decided.
    fn landed(&mut self, flight: Flight) {
        let Flight { job, verdict, reason, result } = flight;
        match result {
            Ok(done) => {
                if matches!(done, Done::Existing(_)) {
                    // The head did not move as foreseen.
                    self.stale = true;
                }
                answer(job, done, verdict, reason);
            }
            Err(AppendError::Stale) => {
                self.stale = true;
                self.again(job);
            }
            Err(AppendError::Store(error)) => {
                self.stale = true;
                refuse(job, error.into());
            }
        }
    }

    /// Puts a job back into the line, in order (they come back in order).
    fn again(&mut self, mut job: Job) {
        let tries = match &mut job {
            Job::Draft(job) => &mut job.tries,
            Job::Pdu(job) => &mut job.tries,
            Job::Template { .. } | Job::Whole { .. } => return,
        };
        *tries += 1;
        if *tries > TRIES_MAX {
            refuse(job, RoomError::Busy);
        } else {
            self.waiting.push_back(job);
        }
    }

    /// Waits until nothing is on its way.
    async fn drain(&mut self) {
        while let Some(flight) = self.flight.next().await {
            self.landed(flight);
        }
        if self.stale {
            self.stale = false;
            self.head = None;
        }
    }

    fn launch(&mut self, decided: Append, job: Job, verdict: Verdict, reason: String) {
        let write = self.tools.store.write_queued(move |tx| append(tx, &decided));
        self.flight.push_back(
            async move {
                let result = write.await;
                Flight { job, verdict, reason, result }
            }
            .boxed(),
        );
    }
}
