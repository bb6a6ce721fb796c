//! Delayed leaves that clients hand over (MSC4195): while somebody is in a call, their leave is put off; when the media
//! server has them no longer, it is sent. A client on a bad network need not ask for it every few seconds.
//!
//! ```text
//!   delegate ─> waits (put off, for a minute at most) ─seen in the call─> watched (put off) ─gone─> sent
//!                     └─never seen: let go; the leave goes out when its own time is over
//! ```
//! The media server is asked who is in the call; it need not be told where we are. While it does not answer nothing is put
//! off: a leave is only ever late while there is proof that its sender is there. What is watched is in the database.
//!
//! spec: <https://github.com/matrix-org/matrix-spec-proposals/pull/4195>

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
    time::Duration,
};

use futures_util::{StreamExt as _, stream};
use serde::Deserialize;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::{LiveKit, Seat};
use crate::{
    clock::Clock,
    remote::web::Web,
    room::delayed::{Change, Delayed, DelayedError},
    store::{
        Store, StoreError,
        schema::delayed::{self as table, DelayedRow, Delegated},
    },
};

/// How long a participant may take to connect.
const CONNECT_WITHIN_MS: i64 = 60_000;
/// Calls that are asked about at once.
const CALLS_AT_ONCE: usize = 8;
/// The pause between two looks at a call, by the shortest delay in it.
const LOOK_EVERY_MS: std::ops::RangeInclusive<i64> = 1_000..=5_000;
/// The sleep when nobody is watched: somebody new ends it.
const SLEEP_MAX: Duration = Duration::from_secs(60 * 60);
/// The sleep after the database failed.
const SLEEP_FAILED: Duration = Duration::from_secs(5);

/// Watches over participants. Clones share it.
#[derive(Clone)]
pub struct Watch {
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
    delayed: Delayed,
    livekit: LiveKit,
    web: Web,
    clock: Clock,
    wake: tokio::sync::Notify,
}

/// What becomes of a leave after a look at its call.
enum Fate {
    /// Its time runs on.
    Leave,
    PutOff,
    Send,
    /// Nobody came: it is its sender's again.
    LetGo,
}

impl Watch {
    /// Those in a store, whose calls are on this media server.
    pub fn new(store: Store, delayed: Delayed, livekit: LiveKit, web: Web, clock: Clock) -> Self {
        let wake = tokio::sync::Notify::new();
        Self { inner: Arc::new(Inner { store, delayed, livekit, web, clock, wake }) }
    }

    /// From now on the leave goes out when the one in this seat is gone. It has to be the seat's user's own and wait
    /// in the call's room.
    pub async fn delegate(&self, seat: &Seat<'_>, delay_id: &str) -> Result<(), DelayedError> {
        let event = self.inner.delayed.one(seat.user, delay_id).await?;
        if event.room != seat.room.as_str() {
            return Err(DelayedError::Unknown);
        }
        if event.row.done.is_some() {
            return Err(DelayedError::Over(if event.row.event.is_some() { "sent" } else { "cancelled" }));
        }
        let row = Delegated {
            id: delay_id.to_owned(),
            call: seat.call(),
            identity: seat.identity(),
            seen: false,
            until: self.now().saturating_add(CONNECT_WITHIN_MS),
        };
        self.inner.store.write(move |tx| table::delegate(tx, &row)).await?;
        self.inner.wake.notify_one();
        Ok(())
    }

    /// Looks again and again, until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        loop {
            let sleep = match self.look().await {
                Ok(sleep) => sleep,
                Err(error) => {
                    tracing::warn!(%error, "calls could not be watched; tried again in a moment");
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

    /// Looks once at every call that somebody is watched in; gives when to look again.
    pub async fn look(&self) -> Result<Duration, StoreError> {
        let rows = self.inner.store.read(table::delegated).await?;
        let every = rows.iter().map(|(_, event)| event.delay / 4).min();
        let mut calls: BTreeMap<String, Vec<(Delegated, DelayedRow)>> = BTreeMap::new();
        for row in rows {
            calls.entry(row.0.call.clone()).or_default().push(row);
        }
        let looks = stream::iter(calls).map(|(call, rows)| self.look_at(call, rows));
        for outcome in looks.buffer_unordered(CALLS_AT_ONCE).collect::<Vec<_>>().await {
            outcome?;
        }
        let Some(every) = every else { return Ok(SLEEP_MAX) };
        let every = every.clamp(*LOOK_EVERY_MS.start(), *LOOK_EVERY_MS.end());
        Ok(Duration::from_millis(every.unsigned_abs()))
    }

    async fn look_at(&self, call: String, rows: Vec<(Delegated, DelayedRow)>) -> Result<(), StoreError> {
        let there = match self.participants(&call).await {
            Ok(there) => there,
            Err(error) => {
                tracing::debug!(%error, "the media server of [livekit] does not say who is in a call");
                return Ok(());
            }
        };
        for (watched, event) in rows {
            let here = there.contains(&watched.identity);
            let id = watched.id.clone();
            if here && !watched.seen {
                self.inner.store.write(move |tx| table::saw(tx, &id)).await?;
            }
            match self.fate(&watched, &event, here) {
                Fate::Leave => {}
                Fate::PutOff => self.change(&watched.id, Change::Restart).await?,
                Fate::Send => {
                    self.change(&watched.id, Change::Send).await?;
                    self.let_go(watched.id).await?;
                }
                Fate::LetGo => self.let_go(watched.id).await?,
            }
        }
        Ok(())
    }

    fn fate(&self, watched: &Delegated, event: &DelayedRow, here: bool) -> Fate {
        let now = self.now();
        match (here, watched.seen) {
            (false, true) => Fate::Send,
            (false, false) if now > watched.until => Fate::LetGo,
            // With enough left of its time for two more looks.
            _ if now - event.since >= event.delay / 3 => Fate::PutOff,
            _ => Fate::Leave,
        }
    }

    async fn change(&self, id: &str, change: Change) -> Result<(), StoreError> {
        match self.inner.delayed.change(id, change).await {
            Ok(()) => Ok(()),
            Err(DelayedError::Store(error)) => Err(error),
            Err(error) => {
                tracing::debug!(id, %error, "a leave that was handed over is not ours to change any more");
                self.let_go(id.to_owned()).await
            }
        }
    }

    async fn let_go(&self, id: String) -> Result<(), StoreError> {
        self.inner.store.write(move |tx| table::undelegate(tx, &id)).await
    }

    /// Who is in a call.
    async fn participants(&self, call: &str) -> Result<HashSet<String>, String> {
        #[derive(Deserialize)]
        struct Answer {
            #[serde(default)]
            participants: Vec<Participant>,
        }
        #[derive(Deserialize)]
        struct Participant {
            identity: String,
            #[serde(default)]
            state: Option<String>,
        }
        let Inner { livekit, web, clock, .. } = &*self.inner;
        let token = livekit.watcher_token(call, clock.now_ms())?;
        let asked = json!({ "room": call });
        let bytes = web.post_json(&livekit.participants_url(), Some(&token), &asked).await?;
        let answer: Answer = serde_json::from_slice(&bytes).map_err(|error| error.to_string())?;
        let there = answer.participants.into_iter();
        let there = there.filter(|one| one.state.as_deref() != Some("DISCONNECTED"));
        Ok(there.map(|one| one.identity).collect())
    }

    fn now(&self) -> i64 {
        i64::try_from(self.inner.clock.now_ms()).unwrap_or(i64::MAX)
    }
}
