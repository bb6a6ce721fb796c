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

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesOrdered};
use ruma::{CanonicalJsonObject, OwnedEventId, OwnedRoomId, OwnedServerName, OwnedUserId, RoomId, UserId};
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};

use super::{
    append::{After, Append, AppendError, Before, Done, Forward, TxnKey, Verdict, append},
    authorize::{self, Lookup},
    head::{ENDS_MAX, Head, Key},
    load,
    place::{self, Placed},
};
use crate::{
    clock::Clock,
    room::{
        Draft, RoomError,
        core::{
            build::{self, Signer},
            pdu::{FullEvent, Pdu},
            version,
        },
    },
    store::{
        Kind, ReadTx, Store, StoreError, cpu_time,
        schema::{
            events,
            membership::{self, Membership},
            rooms, state,
            state::StateMap,
        },
    },
};

/// Jobs waiting for a worker; more callers wait in line.
const JOBS_MAX: usize = 256;
/// Events of one room on their way to the writer at once: as many as a group may hold.
const PIPELINE_MAX: usize = 256;
/// Times that a job is built anew before its caller is told to come again.
const TRIES_MAX: u32 = 16;
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
}

/// An answer's way back.
pub(in crate::room) type Answer<T> = oneshot::Sender<Result<T, RoomError>>;

/// Something to be done in a room, in order.
pub(in crate::room) enum Job {
    /// Put an event of ours into the room.
    Draft(DraftJob),
    /// Take a verified event of theirs.
    Pdu(PduJob),
    /// Build an event without storing it; signed or not.
    Template { sender: OwnedUserId, draft: Draft, sign: bool, answer: Answer<Made> },
}

/// See [`Job::Draft`].
pub(in crate::room) struct DraftJob {
    pub(in crate::room) sender: OwnedUserId,
    pub(in crate::room) draft: Draft,
    pub(in crate::room) txn: Option<TxnKey>,
    pub(in crate::room) answer: Answer<OwnedEventId>,
    pub(in crate::room) tries: u32,
}

/// See [`Job::Pdu`].
pub(in crate::room) struct PduJob {
    pub(in crate::room) event: FullEvent,
    /// The state before it, where another server had to tell.
    pub(in crate::room) state: Option<Vec<StateMap>>,
    /// Handed to us by a handshake: passed on to all but this server.
    pub(in crate::room) pass_on: Option<OwnedServerName>,
    pub(in crate::room) answer: Answer<Taken>,
    pub(in crate::room) tries: u32,
}

/// What became of a foreign event.
#[derive(Debug)]
pub(in crate::room) enum Taken {
    /// It was here already.
    Known,
    /// It is in the room.
    Accepted,
    /// Kept, but not shown; with the reason.
    SoftFailed(String),
    /// Kept as not allowed; with the reason.
    Rejected(String),
    /// These are needed first.
    Missing {
        /// Previous events that are not here.
        prev: Vec<OwnedEventId>,
        /// Auth events that are not here.
        auth: Vec<OwnedEventId>,
    },
}

/// A template, with the room's version.
pub(in crate::room) struct Made {
    pub(in crate::room) version: Arc<str>,
    pub(in crate::room) event: CanonicalJsonObject,
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
        loop {
            match self.sender(tools, room).send(job).await {
                Ok(()) => return Ok(()),
                // The worker ended between the look-up and the send.
                Err(back) => job = back.0,
            }
        }
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
            Job::Template { .. } => return,
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

    async fn draft(&mut self, job: DraftJob) {
        let mut built = self.build(&job).await;
        if built.is_err() && self.renew().await {
            built = self.build(&job).await;
        }
        match built {
            Ok(append) => {
                if let Some(head) = &mut self.head {
                    head.advance(&append.event);
                }
                self.launch(append, Job::Draft(job), Verdict::Accepted, String::new());
            }
            Err(error) => refuse(Job::Draft(job), error),
        }
    }

    /// A refusal counts only against what is committed: what is on its way may fail yet, and a room may have been imported
    /// anew since the head was read. True if there was a head to doubt.
    async fn renew(&mut self) -> bool {
        self.drain().await;
        self.head.take().is_some()
    }

    async fn build(&mut self, job: &DraftJob) -> Result<Append, RoomError> {
        let now = self.tools.clock.now_ms();
        let signer = self.tools.signer.clone();
        let head = self.prepared(&job.sender, &job.draft).await?;
        let event = head.build(&job.sender, &job.draft, now, &signer)?;
        let power = head.may_redact(&job.sender);
        Ok(Append {
            event,
            own: signer.name,
            version: head.version.clone(),
            rules: head.rules.clone(),
            head: head.number,
            before: Before::Current,
            after: After::Linear,
            verdict: Verdict::Accepted,
            power,
            // Others meet a merging event when the next one builds on it.
            forward: if job.draft.event_type == DUMMY { Forward::No } else { Forward::All },
            txn: job.txn.clone(),
            now_ms: now,
        })
    }

    /// Merges the graph's ends by events that say nothing, if there are too many and someone of ours may send one.
    async fn merge_ends(&mut self) {
        for _ in 0..MERGES_MAX {
            match self.head().await {
                Ok(head) if head.ends.len() > ENDS_MAX => {}
                _ => return,
            }
            let (room, own) = (self.room.clone(), self.tools.signer.name.clone());
            let members = self.tools.store.read(move |tx| mergers(tx, &room)).await;
            let Ok(members) = members else { return };
            let mut merged = false;
            for sender in members.into_iter().filter(|member| member.server_name() == own) {
                let Ok(content) = serde_json::value::to_raw_value(&serde_json::Map::new()) else { return };
                // Nobody waits for the answer.
                let (answer, _) = oneshot::channel();
                let draft = Draft::message(DUMMY, content);
                let job = DraftJob { sender, draft, txn: None, answer, tries: 0 };
                let Ok(append) = self.build(&job).await else { continue };
                if let Some(head) = &mut self.head {
                    head.advance(&append.event);
                }
                self.launch(append, Job::Draft(job), Verdict::Accepted, String::new());
                merged = true;
                break;
            }
            if !merged {
                return;
            }
        }
    }

    /// Notes what an event of another server cost.
    fn charge(&mut self, cpu: Duration) {
        if cpu > FREE_CPU {
            let rest = (cpu * REST_TIMES).min(REST_MAX);
            tracing::debug!(room = %self.room, ?cpu, ?rest, "a costly fork: the room's foreign events rest");
            self.rest = Some(Instant::now() + rest);
        }
    }

    async fn template(&mut self, sender: &OwnedUserId, draft: &Draft, sign: bool) -> Result<Made, RoomError> {
        let now = self.tools.clock.now_ms();
        let signer = self.tools.signer.clone();
        let room = self.room.clone();
        let head = self.prepared(sender, draft).await?;
        let mut event = head.unsigned(sender, draft, now)?;
        // An id is needed to ask the rules; it is not the final one if others have to sign or hash.
        let mut signed = event.clone();
        let id = build::sign(&mut signed, &signer, &head.rules)?;
        let whole = FullEvent::new(id, &room, signed.clone())
            .map_err(|error| RoomError::Invalid(error.to_string()))?;
        head.check(&whole.pdu)?;
        if sign {
            event = signed;
        }
        Ok(Made { version: head.version.clone(), event })
    }

    /// The head, knowing all that a draft needs.
    async fn prepared(&mut self, sender: &OwnedUserId, draft: &Draft) -> Result<&mut Head, RoomError> {
        let keys = self.head().await?.needed(sender, draft)?;
        self.tell(&keys).await?;
        self.head().await
    }

    /// Tells the head the state entries that it misses.
    async fn tell(&mut self, keys: &[Key]) -> Result<(), RoomError> {
        let missing = self.head().await?.missing(keys);
        if missing.is_empty() {
            return Ok(());
        }
        let room = self.room.clone();
        let found = self
            .tools
            .store
            .read(move |tx| -> Result<_, StoreError> { read_entries(tx, &room, missing) })
            .await?;
        let head = self.head().await?;
        for (key, event) in found {
            head.learn(key, event);
        }
        Ok(())
    }

    /// The head; the committed one if there is none.
    async fn head(&mut self) -> Result<&mut Head, RoomError> {
        if self.head.is_none() {
            let room = self.room.clone();
            let head = self.tools.store.read(move |tx| read_head(tx, &room)).await?;
            self.head = Some(head);
        }
        self.head.as_mut().ok_or(RoomError::Busy)
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

    async fn pdu(&mut self, job: PduJob) {
        match self.take(&job).await {
            Ok(Step::Answer(taken)) => {
                // Nobody may wait for it any longer: no error.
                let _ = job.answer.send(Ok(taken));
            }
            Ok(Step::Append { decided, reason, linear }) => {
                let verdict = decided.verdict;
                match &mut self.head {
                    Some(head) if linear && verdict == Verdict::Accepted => head.advance(&decided.event),
                    Some(head) if linear => head.step(),
                    _ => {}
                }
                self.launch(*decided, Job::Pdu(job), verdict, reason);
                if !linear {
                    self.drain().await;
                    self.head = None;
                }
                if self.merge.is_none() && self.head().await.is_ok_and(|head| head.ends.len() > ENDS_MAX) {
                    self.merge = Some(Instant::now() + MERGE_AFTER);
                }
            }
            Err(error) => refuse(Job::Pdu(job), error),
        }
    }

    async fn take(&mut self, job: &PduJob) -> Result<Step, RoomError> {
        let event = &job.event;
        let pdu = event.pdu.clone();
        let snapshot = {
            let head = self.head().await?;
            head.snapshot
        };
        // Everything the stages need of the database, in one look.
        let unknown_prev: Vec<OwnedEventId> = {
            let head = self.head().await?;
            pdu.prev.iter().filter(|prev| !head.is_recent(prev)).cloned().collect()
        };
        let unknown_auth: Vec<OwnedEventId> =
            pdu.auth.iter().filter(|id| self.known_auth(id).is_none()).cloned().collect();
        let id = pdu.event_id.clone();
        let look = self
            .tools
            .store
            .read(move |tx| -> Result<_, StoreError> {
                place::look(tx, &id, unknown_prev, unknown_auth, snapshot)
            })
            .await?;
        if look.known {
            return Ok(Step::Answer(Taken::Known));
        }
        if self.auth.len() > AUTH_CACHE_MAX {
            self.auth.clear();
        }
        for auth in look.auth {
            self.auth.insert(auth.event_id.clone(), auth);
        }
        let missing_auth: Vec<OwnedEventId> =
            pdu.auth.iter().filter(|id| self.known_auth(id).is_none()).cloned().collect();
        let head = self.head().await?;
        for prev in look.present_state {
            head.note_recent(prev);
        }
        let head = self.head().await?;
        let at_head = job.state.is_none()
            && !pdu.prev.is_empty()
            && pdu.prev.iter().all(|prev| head.is_recent(prev))
            && (pdu.state_key.is_none() || head.ends.iter().all(|(end, _)| pdu.prev.contains(end)));
        if missing_auth.is_empty() && at_head {
            return self.take_linear(job).await;
        }
        // Not on the present head: everything on its way has to be decided first.
        self.drain().await;
        let missing_prev = missing_prev(&self.tools.store, job).await?;
        if !missing_auth.is_empty() || (job.state.is_none() && !missing_prev.is_empty()) {
            return Ok(Step::Answer(Taken::Missing { prev: missing_prev, auth: missing_auth }));
        }
        self.take_forked(job).await
    }

    fn known_auth(&self, id: &OwnedEventId) -> Option<Arc<Pdu>> {
        self.auth.get(id).cloned().or_else(|| self.head.as_ref()?.by_id(id))
    }

    /// The event builds on the present state.
    async fn take_linear(&mut self, job: &PduJob) -> Result<Step, RoomError> {
        let pdu = job.event.pdu.clone();
        let keys = {
            let head = self.head().await?;
            authorize::needed(&head.rules, &pdu)
        };
        self.tell(&keys).await?;
        let (own, now_ms) = (self.tools.signer.name.clone(), self.tools.clock.now_ms());
        let auth: Vec<Arc<Pdu>> = pdu.auth.iter().filter_map(|id| self.known_auth(id)).collect();
        let head = self.head().await?;
        let create = head.entry("m.room.create", "");
        let (verdict, reason) = authorize::decide(
            &head.rules,
            &pdu,
            &Lookup::new(auth, create),
            |kind, key| head.entry(kind, key),
            None::<fn(&str, &str) -> Option<Arc<Pdu>>>,
        );
        let decided = Append {
            event: job.event.clone(),
            own,
            version: head.version.clone(),
            rules: head.rules.clone(),
            head: head.number,
            before: Before::Current,
            after: After::Linear,
            verdict,
            power: head.may_redact(&pdu.sender),
            forward: forward(job),
            txn: None,
            now_ms,
        };
        Ok(Step::Append { decided: Box::new(decided), reason, linear: true })
    }

    /// The event builds on something else: its state, and what the room's becomes, are worked out from the database.
    async fn take_forked(&mut self, job: &PduJob) -> Result<Step, RoomError> {
        let own = self.tools.signer.name.clone();
        let (version, rules) = {
            let head = self.head().await?;
            (head.version.clone(), head.rules.clone())
        };
        let (event, told) = (job.event.clone(), job.state.clone());
        let for_read = rules.clone();
        let (pdu, size) = (event.pdu.clone(), told.iter().flatten().map(StateMap::len).sum::<usize>());
        let wide =
            size > place::WIDE_ENTRIES || self.tools.store.read(move |tx| place::is_wide(tx, &pdu)).await?;
        let work = move |tx: &ReadTx<'_>| -> Result<_, RoomError> {
            let begun = cpu_time();
            let placed = place::place(tx, &for_read, &event.pdu, told)?;
            Ok((placed, cpu_time().saturating_sub(begun)))
        };
        let (placed, cpu) = match wide {
            true => self.tools.store.read_slowly(work).await?,
            false => self.tools.store.read(work).await?,
        };
        self.charge(cpu);
        let Placed { head, before, after, verdict, reason, power } = placed;
        let decided = Append {
            event: job.event.clone(),
            own,
            version,
            rules,
            head: Some(head),
            before,
            after,
            verdict,
            power,
            forward: forward(job),
            txn: None,
            now_ms: self.tools.clock.now_ms(),
        };
        Ok(Step::Append { decided: Box::new(decided), reason, linear: false })
    }
}

/// What taking a foreign event comes to.
enum Step {
    Answer(Taken),
    Append { decided: Box<Append>, reason: String, linear: bool },
}

async fn missing_prev(store: &Store, job: &PduJob) -> Result<Vec<OwnedEventId>, RoomError> {
    let prev = job.event.pdu.prev.clone();
    Ok(store.read(move |tx| place::missing(tx, &prev)).await?)
}

fn forward(job: &PduJob) -> Forward {
    match &job.pass_on {
        Some(server) => Forward::Except(server.clone()),
        None => Forward::No,
    }
}

fn answer(job: Job, done: Done, verdict: Verdict, reason: String) {
    match job {
        Job::Draft(job) => {
            let (Done::Appended(id) | Done::Existing(id)) = done;
            // Nobody may wait for it any longer: no error.
            let _ = job.answer.send(Ok(id));
        }
        Job::Pdu(job) => {
            let taken = match (done, verdict) {
                (Done::Existing(_), _) => Taken::Known,
                (_, Verdict::Accepted) => Taken::Accepted,
                (_, Verdict::SoftFailed) => Taken::SoftFailed(reason),
                (_, Verdict::Rejected) => Taken::Rejected(reason),
            };
            let _ = job.answer.send(Ok(taken));
        }
        Job::Template { .. } => {}
    }
}

fn refuse(job: Job, error: RoomError) {
    match job {
        // Nobody may wait for it any longer: no error.
        Job::Draft(job) => drop(job.answer.send(Err(error))),
        Job::Pdu(job) => drop(job.answer.send(Err(error))),
        Job::Template { answer, .. } => drop(answer.send(Err(error))),
    }
}

/// Members of ours in a room.
fn mergers(tx: &ReadTx<'_>, room: &RoomId) -> Result<Vec<OwnedUserId>, StoreError> {
    let Some(room) = tx.lookup(Kind::Room, room.as_str())? else { return Ok(Vec::new()) };
    let members = membership::local_members(tx, room, Membership::Join)?;
    let mut users = Vec::new();
    for member in members.into_iter().take(MERGERS_MAX) {
        users.extend(UserId::parse(&*tx.text(member)?).ok());
    }
    Ok(users)
}

/// The committed head.
fn read_head(tx: &ReadTx<'_>, room: &RoomId) -> Result<Head, RoomError> {
    let unknown = || RoomError::NotFound("this room is not known here".into());
    let nid = tx.lookup(Kind::Room, room.as_str())?.ok_or_else(unknown)?;
    let row = rooms::room(tx, nid)?.ok_or_else(unknown)?;
    if !row.resident {
        return Err(RoomError::Forbidden("nobody of this server is in the room".into()));
    }
    let rules =
        version::rules(&row.version).ok_or_else(|| RoomError::UnsupportedVersion(row.version.clone()))?;
    let mut ends = Vec::new();
    for end in events::forward(tx, nid)? {
        if let Some(event) = events::event(tx, end)? {
            ends.push((events::id(tx, end)?, event.depth, event.state_after == Some(row.sid)));
        }
    }
    Ok(Head::stored(room.to_owned(), row.version.into(), Arc::new(rules), row.head, ends, row.sid))
}

#[allow(clippy::type_complexity, reason = "pairs of what was asked and what was found")]
fn read_entries(
    tx: &ReadTx<'_>,
    room: &RoomId,
    keys: Vec<Key>,
) -> Result<Vec<(Key, Option<Arc<Pdu>>)>, StoreError> {
    let Some(nid) = tx.lookup(Kind::Room, room.as_str())? else { return Ok(Vec::new()) };
    keys.into_iter()
        .map(|key| {
            let event = match state::current_of(tx, nid, &key.0, &key.1)? {
                Some(event) => load::pdu(tx, event)?,
                None => None,
            };
            Ok((key, event))
        })
        .collect()
}
