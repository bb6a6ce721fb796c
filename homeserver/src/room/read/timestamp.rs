//! Owns the search for an event by time, here and, where history is not whole, at other servers.

use ruma::{
    EventId, MilliSecondsSinceUnixEpoch, OwnedEventId, OwnedServerName, RoomId, ServerName, UInt, UserId,
    api::{Direction, federation::event::get_event_by_timestamp},
};

use super::access::{ServerAccess, access};
use crate::{
    room::{
        RoomError, Rooms,
        federation::{guest, in_room},
    },
    store::{
        ReadTx, StoreError,
        schema::events::{self, EventRow},
    },
};

/// Events looked at to find one that the asker may see.
const SCAN_MAX: u32 = 500;
/// Other servers asked for one question.
const SERVERS_MAX: usize = 3;

/// An event found by time: its id and its time in milliseconds.
type Found = (OwnedEventId, u64);

impl Rooms {
    /// The event closest to a time (milliseconds) that the user may see, at or after it, or at or before it: its id and
    /// time. Where our history has a gap beside what is found, servers in the room are asked for a closer one, which is
    /// fetched then.
    pub async fn event_at(
        &self,
        user: &UserId,
        room: &RoomId,
        ts_ms: u64,
        backwards: bool,
    ) -> Result<Found, RoomError> {
        let (found, gap) = self.event_at_here(user, room, ts_ms, backwards).await?;
        if gap && let Some(closer) = self.event_at_elsewhere(room, ts_ms, backwards, found.as_ref()).await {
            let (user, room) = (user.to_owned(), room.to_owned());
            let id = closer.0.clone();
            let sees = self.inner.store.read(move |tx| -> Result<bool, RoomError> {
                let mut access = access(tx, &user, &room)?;
                let Some(event) = events::event_by_id(tx, &id)?.filter(|event| event.room == access.row.room)
                else {
                    return Ok(false);
                };
                Ok(event.seq.is_some() && access.may_see(tx, &event)?)
            });
            if sees.await? {
                return Ok(closer);
            }
        }
        found
            .ok_or_else(|| RoomError::NotFound("there is no event in that direction that you may see".into()))
    }

    /// What is here, and whether something closer may lie in a gap.
    async fn event_at_here(
        &self,
        user: &UserId,
        room: &RoomId,
        ts_ms: u64,
        backwards: bool,
    ) -> Result<(Option<Found>, bool), RoomError> {
        let (user, room) = (user.to_owned(), room.to_owned());
        self.inner
            .store
            .read(move |tx| {
                let mut access = access(tx, &user, &room)?;
                let room = access.row.room;
                for event in around(tx, room, ts_ms, backwards)? {
                    if access.may_see(tx, &event)? {
                        let gap = access.row.resident && gap_beside(tx, &event, backwards)?;
                        return Ok((Some((events::id(tx, event.nid)?, event.ts.unsigned_abs())), gap));
                    }
                }
                let gap = access.row.resident && !events::backward(tx, room, 1)?.is_empty();
                Ok((None, gap))
            })
            .await
    }

    /// The closest event that another server knows, if it is closer than `found`; it is here afterwards.
    async fn event_at_elsewhere(
        &self,
        room: &RoomId,
        ts_ms: u64,
        backwards: bool,
        found: Option<&Found>,
    ) -> Option<Found> {
        let own = self.server_name().to_owned();
        let servers: Vec<OwnedServerName> = self.room_servers(room).await.ok()?;
        for server in servers.into_iter().filter(|server| *server != own).take(SERVERS_MAX) {
            let dir = if backwards { Direction::Backward } else { Direction::Forward };
            let ts = MilliSecondsSinceUnixEpoch(UInt::new_saturating(ts_ms));
            let question = get_event_by_timestamp::v1::Request::new(room.to_owned(), ts, dir);
            let answer = match self.inner.remote.request(&server, question).await {
                Ok(answer) => answer,
                Err(error) => {
                    tracing::debug!(%room, %server, %error, "a server knows no event at that time");
                    continue;
                }
            };
            let told = u64::from(answer.origin_server_ts.get());
            let closer = match (backwards, found) {
                (true, found) => told <= ts_ms && found.is_none_or(|(_, known)| told > *known),
                (false, found) => told >= ts_ms && found.is_none_or(|(_, known)| told < *known),
            };
            if !closer {
                continue;
            }
            match self.fetch_history(&server, room, &answer.event_id).await {
                // The time is the event's own, not what was said of it.
                Ok(Some(ts)) if if backwards { ts <= ts_ms } else { ts >= ts_ms } => {
                    return Some((answer.event_id, ts));
                }
                Ok(_) => {}
                Err(error) => {
                    tracing::debug!(%room, %server, %error, "an event found by time could not be had");
                }
            }
        }
        None
    }

    /// An event's time, after it was fetched with what came before it if it was not here.
    async fn fetch_history(
        &self,
        server: &ServerName,
        room: &RoomId,
        event: &EventId,
    ) -> Result<Option<u64>, RoomError> {
        if let Some(ts) = self.placed_ts(room, event).await? {
            return Ok(Some(ts));
        }
        self.backfill_from(server, room, vec![event.to_owned()]).await?;
        self.placed_ts(room, event).await
    }

    async fn placed_ts(&self, room: &RoomId, event: &EventId) -> Result<Option<u64>, RoomError> {
        let (room, event) = (room.to_owned(), event.to_owned());
        self.inner
            .store
            .read(move |tx| {
                let Some(room) = tx.lookup(crate::store::Kind::Room, room.as_str())? else { return Ok(None) };
                match in_room(tx, room, &event) {
                    Ok(row) => Ok(row.seq.map(|_| row.ts.unsigned_abs())),
                    Err(RoomError::NotFound(_)) => Ok(None),
                    Err(error) => Err(error),
                }
            })
            .await
    }

    /// The same for another server in the room, of what is here.
    pub async fn event_at_for_server(
        &self,
        origin: &ServerName,
        room: &RoomId,
        ts_ms: u64,
        backwards: bool,
    ) -> Result<Found, RoomError> {
        let (origin, room) = (origin.to_owned(), room.to_owned());
        self.inner
            .store
            .read(move |tx| {
                let room = guest(tx, &origin, &room)?;
                let mut access = ServerAccess::new(tx, &origin)?;
                for event in around(tx, room, ts_ms, backwards)? {
                    if access.may_see(tx, &event)? {
                        return Ok((events::id(tx, event.nid)?, event.ts.unsigned_abs()));
                    }
                }
                Err(RoomError::NotFound(
                    "there is no event in that direction that your server may see".into(),
                ))
            })
            .await
    }
}

/// Events of the timeline from a time on, nearest first.
fn around(
    tx: &ReadTx<'_>,
    room: crate::store::Nid,
    ts_ms: u64,
    backwards: bool,
) -> Result<Vec<EventRow>, StoreError> {
    let ts = i64::try_from(ts_ms).unwrap_or(i64::MAX);
    let mut list = Vec::new();
    for nid in events::around(tx, room, ts, backwards, SCAN_MAX)? {
        list.extend(events::event(tx, nid)?);
    }
    Ok(list)
}

/// Whether events are missing right before an event (looking forwards, one of them may be the first after the time) or
/// somewhere after it (looking backwards, one of them may be the last before it).
fn gap_beside(tx: &ReadTx<'_>, event: &EventRow, backwards: bool) -> Result<bool, StoreError> {
    match backwards {
        true => events::gap_between(tx, event.room, event.depth.saturating_add(1), i64::MAX),
        false => events::gap_between(tx, event.room, 0, event.depth),
    }
}
