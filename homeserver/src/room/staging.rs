//! Owns events that wait for what comes before them. Whoever brought one is answered at once; the gap before it is filled
//! afterwards, in the order in which the server sent them.
//!
//! A line is a room and a server: one that brings events whose past cannot be had holds up nobody else's. What waits is
//! in the database, so that nothing that was acknowledged is lost by a restart.
//!
//! ```text
//!   transaction ─> worker ─ Missing ─> staged (durable) ─> answered
//!                                        └─> line's task: fill the gap, take it, next
//! ```

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use ruma::{OwnedEventId, OwnedRoomId, OwnedServerName, RoomId, ServerName};
use serde_json::value::RawValue;
use tokio::sync::{Semaphore, oneshot};

use super::{
    RoomError, Rooms,
    federation::Prepared,
    ingest::{load, worker::Taken},
};
use crate::store::{Kind, StoreError, schema::staged as table};

/// Events of one server in one room that wait; beyond, it is told that they were not taken. Later ones find them by the
/// gap that they leave.
const LINE_MAX: i64 = 1_000;
/// Events that wait at all: at 64 KiB each not more than a gigabyte on the disk.
const STAGED_MAX: i64 = 16_000;
/// Lines that are worked on at the same time. Each may wait for answers of slow servers.
const LINES_AT_ONCE: usize = 16;
/// How long a transaction waits for gaps to be filled: most are filled in an instant, and then its answer says how it went.
pub(in crate::room) const PATIENCE: Duration = Duration::from_secs(3);
/// Waits between the attempts to take an event whose past could not be fetched, in seconds. After the last it is given up:
/// the next event of the room finds it, if anybody has it.
const AGAIN_S: [u64; 6] = [2, 10, 60, 300, 1800, 3600];

/// How an event that waited came out.
pub(in crate::room) type Outcome = Result<(), RoomError>;

pub(in crate::room) struct Staging {
    /// Lines with a task; the number counts what was put into them.
    lines: Mutex<HashMap<(OwnedRoomId, OwnedServerName), u64>>,
    /// Transactions that wait for an event of theirs.
    waiting: Mutex<HashMap<OwnedEventId, oneshot::Sender<Outcome>>>,
    places: Semaphore,
}

impl Default for Staging {
    fn default() -> Self {
        Self { lines: Mutex::default(), waiting: Mutex::default(), places: Semaphore::new(LINES_AT_ONCE) }
    }
}

impl Staging {
    fn lines(&self) -> MutexGuard<'_, HashMap<(OwnedRoomId, OwnedServerName), u64>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<OwnedEventId, oneshot::Sender<Outcome>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Rooms {
    /// Puts an event at the end of its line. Gives where its outcome will be told, or nothing if others of the line wait
    /// already: then it may take a while.
    pub(in crate::room) async fn stage(
        &self,
        origin: &ServerName,
        room: &RoomId,
        event: &OwnedEventId,
        pdu: &RawValue,
    ) -> Result<Option<oneshot::Receiver<Outcome>>, RoomError> {
        let line = (room.to_owned(), origin.to_owned());
        let busy = self.inner.staging.lines().contains_key(&line);
        let outcome = (!busy).then(|| {
            let (tell, outcome) = oneshot::channel();
            self.inner.staging.waiting().insert(event.clone(), tell);
            outcome
        });
        let (room, origin, pdu) = (line.0.clone(), line.1.clone(), pdu.get().as_bytes().to_vec());
        let put = self
            .inner
            .store
            .write(move |tx| -> Result<bool, StoreError> {
                let room = tx.intern(Kind::Room, room.as_str())?;
                let origin = tx.intern(Kind::Server, origin.as_str())?;
                table::put(tx, room, origin, &pdu, LINE_MAX, STAGED_MAX)
            })
            .await;
        if !matches!(put, Ok(true)) {
            self.inner.staging.waiting().remove(event);
            put?;
            return Err(RoomError::Rejected("too many events wait for what comes before them".into()));
        }
        self.work(line);
        Ok(outcome)
    }

    /// Goes on with what waited when the node ended.
    pub async fn resume_staged(&self) -> Result<(), StoreError> {
        let lines = self
            .inner
            .store
            .read(|tx| -> Result<_, StoreError> {
                let mut lines = Vec::new();
                for (room, origin) in table::lines(tx)? {
                    if let Ok(origin) = ServerName::parse(&*tx.text(origin)?) {
                        lines.push((load::room_id(tx, room)?, origin));
                    }
                }
                Ok(lines)
            })
            .await?;
        lines.into_iter().for_each(|line| self.work(line));
        Ok(())
    }

    /// Sees to it that a line has a task, and that it looks again.
    fn work(&self, line: (OwnedRoomId, OwnedServerName)) {
        let mut lines = self.inner.staging.lines();
        if let Some(news) = lines.get_mut(&line) {
            *news += 1;
            return;
        }
        lines.insert(line.clone(), 0);
        drop(lines);
        let rooms = self.clone();
        tokio::spawn(async move {
            let (room, origin) = &line;
            loop {
                let Some(seen) = rooms.inner.staging.lines().get(&line).copied() else { return };
                let next = rooms.first_of(room, origin).await;
                match next {
                    Ok(Some((id, pdu))) => {
                        let (event, outcome) = rooms.take_staged(room, origin, pdu).await;
                        if let Err(error) = &outcome {
                            tracing::debug!(%origin, %room, ?event, %error, "an event that waited was not taken");
                        }
                        let waits = event.and_then(|event| rooms.inner.staging.waiting().remove(&event));
                        if let Some(tell) = waits {
                            // The transaction may have been answered without it.
                            let _ = tell.send(outcome);
                        }
                        // Lost by a crash, it is taken again, which changes nothing.
                        let removed = rooms.inner.store.write_soon(move |tx| table::remove(tx, id)).await;
                        if removed.is_err() {
                            rooms.inner.staging.lines().remove(&line);
                            return;
                        }
                    }
                    Ok(None) => {
                        let mut lines = rooms.inner.staging.lines();
                        if lines.get(&line) == Some(&seen) {
                            lines.remove(&line);
                            return;
                        }
                    }
                    // The database is closed: the node ends.
                    Err(_) => {
                        rooms.inner.staging.lines().remove(&line);
                        return;
                    }
                }
            }
        });
    }

    async fn first_of(
        &self,
        room: &RoomId,
        origin: &ServerName,
    ) -> Result<Option<(i64, Vec<u8>)>, StoreError> {
        let (room, origin) = (room.to_owned(), origin.to_owned());
        self.inner
            .store
            .read(move |tx| {
                let (Some(room), Some(origin)) =
                    (tx.lookup(Kind::Room, room.as_str())?, tx.lookup(Kind::Server, origin.as_str())?)
                else {
                    return Ok(None);
                };
                table::first(tx, room, origin)
            })
            .await
    }

    /// Takes an event that waited, with what comes before it.
    async fn take_staged(
        &self,
        room: &RoomId,
        origin: &ServerName,
        pdu: Vec<u8>,
    ) -> (Option<OwnedEventId>, Outcome) {
        let pdu = String::from_utf8(pdu).ok().and_then(|pdu| RawValue::from_string(pdu).ok());
        let Some(pdu) = pdu else {
            return (None, Err(RoomError::Rejected("a stored event is no JSON".into())));
        };
        // Its room may be another one by now, and a restart may lie between.
        let (id, prepared) = self.prepare(origin, &pdu).await;
        let (known, event) = match prepared {
            Ok(Prepared::Event { known, event }) => (known, event),
            Ok(Prepared::Done) => return (id, Ok(())),
            Err(error) => return (id, Err(error)),
        };
        let mut waits = AGAIN_S.iter();
        loop {
            let taken = {
                let Ok(_place) = self.inner.staging.places.acquire().await else {
                    return (id, Err(RoomError::Busy));
                };
                self.take(origin, &known, &event, None).await
            };
            match (&taken, waits.next()) {
                (Err(RoomError::Unreachable(error)), Some(wait)) => {
                    tracing::debug!(%origin, %room, wait, error, "what comes before an event cannot be had yet");
                    tokio::time::sleep(Duration::from_secs(*wait)).await;
                }
                _ => return (id, taken.and_then(|taken| came_out(origin, &event.pdu.event_id, taken))),
            }
        }
    }
}

/// What a sender is told of an event. One that is kept but not shown was taken.
pub(in crate::room) fn came_out(origin: &ServerName, event: &OwnedEventId, taken: Taken) -> Outcome {
    match taken {
        Taken::Missing { prev, auth } => Err(RoomError::Rejected(format!(
            "{} previous and {} auth events cannot be had",
            prev.len(),
            auth.len()
        ))),
        Taken::Rejected(reason) | Taken::SoftFailed(reason) => {
            tracing::debug!(%origin, %event, reason, "an event is kept but not shown");
            Ok(())
        }
        Taken::Known | Taken::Accepted => Ok(()),
    }
}
