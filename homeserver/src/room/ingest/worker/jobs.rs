//! What a room's worker is given, and how it answers.

use std::sync::Arc;

use ruma::{CanonicalJsonObject, OwnedEventId, OwnedServerName, OwnedUserId};
use tokio::sync::oneshot;

use crate::{
    room::{
        Draft, RoomError,
        core::pdu::FullEvent,
        ingest::append::{Done, Forward, TxnKey, Verdict},
    },
    store::{Nid, schema::state::StateMap},
};

/// An answer's way back.
pub(in crate::room) type Answer<T> = oneshot::Sender<Result<T, RoomError>>;

/// Something to be done in a room, in order.
pub(in crate::room) enum Job {
    /// Put an event of ours into the room.
    Draft(DraftJob),
    /// Take a verified event of theirs.
    Pdu(PduJob),
    /// The whole state before the join by which we came in with a part of it.
    Whole { join: Nid, state: StateMap, answer: Answer<()> },
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

/// To whom a foreign event goes on.
pub(super) fn forward(job: &PduJob) -> Forward {
    match &job.pass_on {
        Some(server) => Forward::Except(server.clone()),
        None => Forward::No,
    }
}

/// Tells whoever waits for a job what became of it.
pub(super) fn answer(job: Job, done: Done, verdict: Verdict, reason: String) {
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
        Job::Template { .. } | Job::Whole { .. } => {}
    }
}

/// Tells whoever waits for a job that nothing came of it.
pub(super) fn refuse(job: Job, error: RoomError) {
    match job {
        // Nobody may wait for it any longer: no error.
        Job::Draft(job) => drop(job.answer.send(Err(error))),
        Job::Pdu(job) => drop(job.answer.send(Err(error))),
        Job::Template { answer, .. } => drop(answer.send(Err(error))),
        Job::Whole { answer, .. } => drop(answer.send(Err(error))),
    }
}
