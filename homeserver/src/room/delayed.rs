//! Verbs for events that are sent later (MSC4140): a client leaves one with a delay, and puts its time off again and again
//! while it is there; when it no longer does, the event goes out. So calls end for whoever's network is gone.
//!
//! ```text
//!   schedule ─> table ─(its time has come, or `send`)─> Rooms::send, with a transaction of its own ─> done with
//!      restart: its time runs anew      cancel: done with, nothing is sent
//! ```
//! What waits is in the database: after a restart, what is overdue goes out at once. The transaction makes sure that one
//! which was sent just before the node ended is not sent twice.
//!
//! spec: MSC4140 <https://github.com/matrix-org/matrix-spec-proposals/pull/4140>

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::{StreamExt as _, stream};
use ruma::{DeviceId, OwnedDeviceId, OwnedEventId, OwnedRoomId, OwnedUserId, UserId};
use serde_json::{json, value::RawValue};
use tokio_util::sync::CancellationToken;

use super::{Draft, RoomError, Rooms, Txn, send::membership_of};
use crate::{
    clock::Clock,
    store::{
        Kind, Nid, ReadTx, Store, StoreError,
        schema::{
            delayed::{self as table, DelayedRow},
            membership::Membership,
        },
    },
};

/// The longest delay: a day.
pub const DELAY_MAX_MS: u64 = 24 * 60 * 60 * 1000;
/// Events of one user that wait at once. A call has one for each device; the bound keeps a user from saving up a flood.
pub const SCHEDULED_MAX: usize = 100;
/// Events of one user that were done with and can still be asked for.
const FINISHED_MAX: u32 = 100;
/// How long they can be.
const FINISHED_KEPT: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// Events that are looked at in one go.
const BATCH: u32 = 500;
/// Rooms that events go into at once: one whose servers do not answer does not hold up the others.
const ROOMS_AT_ONCE: usize = 16;
/// The longest sleep: what is old is forgotten about once an hour.
const SLEEP_MAX: Duration = Duration::from_secs(60 * 60);
/// The sleep after the database failed, or a room was too busy.
const SLEEP_FAILED: Duration = Duration::from_secs(2);
/// The longest content: an event's size.
const CONTENT_BYTES_MAX: usize = 65_535;
/// The longest type or state key, as in any event.
const NAME_BYTES_MAX: usize = 255;
/// Transactions of delayed events begin so, followed by the id.
pub(in crate::room) const TXN_PREFIX: &str = "org.matrix.msc4140.delayed/";

/// Events that are sent later. Clones share them.
#[derive(Clone)]
pub struct Delayed {
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
    rooms: Rooms,
    clock: Clock,
    wake: tokio::sync::Notify,
    /// Who is at work on which: one at a time.
    turns: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

/// An event to be sent later.
#[derive(Clone, Debug)]
pub struct NewDelayed {
    /// Into which room.
    pub room: OwnedRoomId,
    /// Type, state key and content.
    pub draft: Draft,
    /// After how many milliseconds.
    pub delay_ms: u64,
    /// The client's transaction.
    pub txn: Option<String>,
}

/// A delayed event as its owner sees it.
#[derive(Clone, Debug)]
pub struct DelayedEvent {
    /// As stored.
    pub row: DelayedRow,
    /// Its room.
    pub room: String,
}

/// What can be done with an event that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Its time runs anew.
    Restart,
    /// It goes out now.
    Send,
    /// It never does.
    Cancel,
}

/// Why a verb on delayed events failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DelayedError {
    /// There is none with this id, or none of the caller's.
    #[error("there is no delayed event with this id")]
    Unknown,
    /// The delay is 0, or none.
    #[error("a delay is a number of milliseconds greater than 0")]
    NoDelay,
    /// The delay is longer than [`DELAY_MAX_MS`].
    #[error("an event can be delayed by at most {DELAY_MAX_MS} milliseconds")]
    TooLong,
    /// The user has [`SCHEDULED_MAX`] events that wait.
    #[error("too many delayed events wait already; the next goes out in {} s", retry_after_ms.div_ceil(1000))]
    TooMany {
        /// When the next of them is due.
        retry_after_ms: u64,
    },
    /// It was sent or cancelled before, and something else was asked.
    #[error("this delayed event was {0} before")]
    Over(&'static str),
    /// It cannot be sent.
    #[error(transparent)]
    Room(#[from] RoomError),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Delayed {
    /// Those in a store.
    pub fn new(store: Store, rooms: Rooms, clock: Clock) -> Self {
        let wake = tokio::sync::Notify::new();
        Self { inner: Arc::new(Inner { store, rooms, clock, wake, turns: Mutex::default() }) }
    }

    /// Keeps an event until its time comes; gives its id. The same transaction again gives the same one.
    pub async fn schedule(
        &self,
        user: &UserId,
        device: &DeviceId,
        new: NewDelayed,
    ) -> Result<String, DelayedError> {
        let NewDelayed { room, draft, delay_ms, txn } = new;
        let now = self.now();
        let mut bytes = [0; 24];
        getrandom::fill(&mut bytes).map_err(|_| StoreError::Closed)?;
        let id = data_encoding::BASE64URL_NOPAD.encode(&bytes);
        let (user, device) = (user.to_owned(), device.to_owned());
        let id = self
            .inner
            .store
            .write(move |tx| -> Result<String, DelayedError> {
                let user_nid = tx.intern(Kind::User, user.as_str())?;
                let device = tx.intern(Kind::Device, device.as_str())?;
                if let (Some(txn), Some(room)) = (&txn, tx.lookup(Kind::Room, room.as_str())?)
                    && let Some(known) = table::by_txn(tx, user_nid, device, room, txn)?
                {
                    return Ok(known);
                }
                check(&draft, delay_ms)?;
                if membership_of(tx, &user, &room)? != Some(Membership::Join) {
                    return Err(RoomError::Forbidden("you are not in this room".into()).into());
                }
                let waiting = table::scheduled(tx, user_nid)?;
                if waiting.len() >= SCHEDULED_MAX {
                    let next = waiting.first().map_or(0, |row| row.since + row.delay - now);
                    return Err(DelayedError::TooMany { retry_after_ms: next.max(0) as u64 });
                }
                let row = DelayedRow {
                    id,
                    user: user_nid,
                    device,
                    room: tx.intern(Kind::Room, room.as_str())?,
                    txn,
                    kind: draft.event_type,
                    state_key: draft.state_key,
                    content: draft.content.get().to_owned(),
                    sticky: draft.sticky_ms,
                    delay: i64::try_from(delay_ms).unwrap_or(i64::MAX),
                    since: now,
                    done: None,
                    event: None,
                    error: None,
                };
                table::put(tx, &row)?;
                Ok(row.id)
            })
            .await?;
        self.inner.wake.notify_one();
        Ok(id)
    }

    /// Changes what becomes of an event. Who knows its id may.
    pub async fn change(&self, id: &str, change: Change) -> Result<(), DelayedError> {
        // One that is on its way out is waited for.
        let _turn = self.turn(id).await;
        let row = self.stored(id).await?.ok_or(DelayedError::Unknown)?;
        if row.done.is_some() {
            let sent = row.event.is_some();
            return match change {
                Change::Send if sent => Ok(()),
                Change::Cancel if !sent => Ok(()),
                _ => Err(DelayedError::Over(if sent { "sent" } else { "cancelled" })),
            };
        }
        let now = self.now();
        match change {
            Change::Send => {
                let event = self.submit(&row).await?;
                self.finish(&row, Some(event.as_str()), None).await?;
            }
            Change::Cancel => self.finish(&row, None, None).await?,
            Change::Restart => {
                self.inner.store.write(move |tx| table::restart(tx, &row.id, now)).await?;
                self.inner.wake.notify_one();
            }
        }
        Ok(())
    }

    /// Those of a user: that wait, or (`finished`) that were done with, each in the order of their time.
    pub async fn list(&self, user: &UserId, finished: bool) -> Result<Vec<DelayedEvent>, DelayedError> {
        let user = user.to_owned();
        self.inner
            .store
            .read(move |tx| {
                let Some(user) = tx.lookup(Kind::User, user.as_str())? else { return Ok(Vec::new()) };
                let rows = if finished { table::finished(tx, user)? } else { table::scheduled(tx, user)? };
                rows.into_iter().map(|row| Ok(shown(tx, row)?)).collect()
            })
            .await
    }

    /// One of a user's.
    pub async fn one(&self, user: &UserId, id: &str) -> Result<DelayedEvent, DelayedError> {
        let (user, id) = (user.to_owned(), id.to_owned());
        self.inner
            .store
            .read(move |tx| {
                let user = tx.lookup(Kind::User, user.as_str())?;
                let row = table::get(tx, &id)?.filter(|row| Some(row.user) == user);
                Ok(shown(tx, row.ok_or(DelayedError::Unknown)?)?)
            })
            .await
    }

    /// Sends events as their time comes, until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        loop {
            let sleep = match self.send_due().await {
                Ok(sleep) => sleep,
                Err(error) => {
                    tracing::warn!(%error, "delayed events could not be sent; tried again in a moment");
                    SLEEP_FAILED
                }
            };
            tokio::select! {
                () = tokio::time::sleep(sleep) => {}
                () = self.inner.wake.notified() => {}
                () = stop.cancelled() => return,
            }
        }
    }

    /// Sends what is due; gives how long there is nothing more to do.
    pub async fn send_due(&self) -> Result<Duration, StoreError> {
        let now = self.now();
        let old = now.saturating_sub(FINISHED_KEPT.as_millis() as i64);
        let due = self.inner.store.read(move |tx| table::due(tx, now, BATCH)).await?;
        let more = due.len() == BATCH as usize;
        // In order within a room, side by side between rooms.
        let mut by_room: BTreeMap<Nid, Vec<DelayedRow>> = BTreeMap::new();
        for row in due {
            by_room.entry(row.room).or_default().push(row);
        }
        let rooms = stream::iter(by_room.into_values());
        let sent = rooms.map(|rows| self.send_in_order(rows)).buffer_unordered(ROOMS_AT_ONCE);
        let later = sent.collect::<Vec<bool>>().await.contains(&true);
        if later {
            return Ok(SLEEP_FAILED);
        }
        if more {
            return Ok(Duration::ZERO);
        }
        let next = self.inner.store.read(table::next_due).await?;
        if next.is_none_or(|next| next - now > SLEEP_FAILED.as_millis() as i64) {
            self.inner.store.write_soon(move |tx| table::forget(tx, old)).await?;
        }
        let now = self.now();
        Ok(next.map_or(SLEEP_MAX, |next| {
            Duration::from_millis(u64::try_from(next - now).unwrap_or(0)).min(SLEEP_MAX)
        }))
    }

    /// Sends one room's; true if something has to be tried again.
    async fn send_in_order(&self, rows: Vec<DelayedRow>) -> bool {
        for row in rows {
            let _turn = self.turn(&row.id).await;
            // It may have been put off or cancelled by now.
            match self.stored(&row.id).await {
                Ok(now) if now.as_ref() == Some(&row) => {}
                Ok(_) => continue,
                Err(_) => return true,
            }
            let done = match self.submit(&row).await {
                Ok(event) => self.finish(&row, Some(event.as_str()), None).await,
                Err(RoomError::Busy | RoomError::Store(_)) => return true,
                Err(error) => {
                    tracing::debug!(id = row.id, %error, "a delayed event could not be sent");
                    let told = json!({ "errcode": errcode(&error), "error": error.to_string() });
                    self.finish(&row, None, Some(told.to_string())).await
                }
            };
            if let Err(error) = done {
                tracing::warn!(%error, "a delayed event could not be noted as sent; tried again in a moment");
                return true;
            }
        }
        false
    }

    /// Puts it into its room, once however often it is tried.
    async fn submit(&self, row: &DelayedRow) -> Result<OwnedEventId, RoomError> {
        let owned = row.clone();
        let (user, device, room) = self
            .inner
            .store
            .read(move |tx| -> Result<_, StoreError> {
                Ok((tx.text(owned.user)?, tx.text(owned.device)?, tx.text(owned.room)?))
            })
            .await?;
        let corrupt = || RoomError::Store(StoreError::Corrupt("a delayed event"));
        let user = OwnedUserId::try_from(&*user).map_err(|_| corrupt())?;
        let room = OwnedRoomId::try_from(&*room).map_err(|_| corrupt())?;
        let content = RawValue::from_string(row.content.clone()).map_err(|_| corrupt())?;
        let draft = Draft {
            state_key: row.state_key.clone(),
            sticky_ms: row.sticky,
            ..Draft::message(row.kind.clone(), content)
        };
        let device = OwnedDeviceId::from(&*device);
        let txn = Txn { device, id: format!("{TXN_PREFIX}{}", row.id).into() };
        self.inner.rooms.send(&user, &room, draft, Some(txn)).await
    }

    async fn finish(
        &self,
        row: &DelayedRow,
        event: Option<&str>,
        error: Option<String>,
    ) -> Result<(), StoreError> {
        let (id, user, now, event) = (row.id.clone(), row.user, self.now(), event.map(ToOwned::to_owned));
        self.inner
            .store
            .write(move |tx| {
                table::finish(tx, &id, user, now, (event.as_deref(), error.as_deref()), FINISHED_MAX)
            })
            .await
            .map(drop)
    }

    async fn stored(&self, id: &str) -> Result<Option<DelayedRow>, StoreError> {
        let id = id.to_owned();
        self.inner.store.read(move |tx| table::get(tx, &id)).await
    }

    /// Waits until nobody else is at work on an event.
    async fn turn(&self, id: &str) -> Turn<'_> {
        let lock = self.inner.turns().entry(id.to_owned()).or_default().clone();
        let guard = lock.lock_owned().await;
        Turn { inner: &self.inner, id: id.to_owned(), guard: Some(guard) }
    }

    fn now(&self) -> i64 {
        i64::try_from(self.inner.clock.now_ms()).unwrap_or(i64::MAX)
    }
}

impl Inner {
    fn turns(&self) -> MutexGuard<'_, HashMap<String, Arc<tokio::sync::Mutex<()>>>> {
        self.turns.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right to be at work on an event.
struct Turn<'a> {
    inner: &'a Inner,
    id: String,
    guard: Option<tokio::sync::OwnedMutexGuard<()>>,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut turns = self.inner.turns();
        drop(self.guard.take());
        // Who waits for it holds it, too.
        if turns.get(&self.id).is_some_and(|lock| Arc::strong_count(lock) == 1) {
            turns.remove(&self.id);
        }
    }
}

/// What can be said of an event before its time. Whether its sender may send it is asked then.
fn check(draft: &Draft, delay_ms: u64) -> Result<(), DelayedError> {
    if delay_ms == 0 {
        return Err(DelayedError::NoDelay);
    }
    if delay_ms > DELAY_MAX_MS {
        return Err(DelayedError::TooLong);
    }
    let key = draft.state_key.as_deref().unwrap_or_default();
    if draft.content.get().len() > CONTENT_BYTES_MAX
        || draft.event_type.len() > NAME_BYTES_MAX
        || key.len() > NAME_BYTES_MAX
    {
        return Err(RoomError::TooLarge.into());
    }
    if !draft.content.get().trim_start().starts_with('{') {
        return Err(RoomError::BadJson("the content of an event is a JSON object".into()).into());
    }
    Ok(())
}

fn shown(tx: &ReadTx<'_>, row: DelayedRow) -> Result<DelayedEvent, StoreError> {
    let room = tx.text(row.room)?.to_string();
    Ok(DelayedEvent { row, room })
}

/// The errcode that an owner is told later.
fn errcode(error: &RoomError) -> &'static str {
    match error {
        RoomError::NotFound(_) => "M_NOT_FOUND",
        RoomError::Forbidden(_) | RoomError::Mixture(_) | RoomError::Rejected(_) => "M_FORBIDDEN",
        RoomError::Invalid(_) => "M_INVALID_PARAM",
        RoomError::BadJson(_) => "M_BAD_JSON",
        RoomError::BadAlias(_) => "M_BAD_ALIAS",
        RoomError::InviteBlocked(_) => "M_INVITE_BLOCKED",
        RoomError::TooLarge => "M_TOO_LARGE",
        _ => "M_UNKNOWN",
    }
}
