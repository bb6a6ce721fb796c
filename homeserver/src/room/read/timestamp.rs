//! Owns the search for an event by time.

use ruma::{OwnedEventId, RoomId, UserId};

use super::access::access;
use crate::{
    room::{RoomError, Rooms},
    store::schema::events,
};

/// Events looked at to find one that the user may see.
const SCAN_MAX: u32 = 500;

impl Rooms {
    /// The event closest to a time (milliseconds) that the user may see, at or after it, or at or before it: its id and
    /// time.
    pub async fn event_at(
        &self,
        user: &UserId,
        room: &RoomId,
        ts_ms: u64,
        backwards: bool,
    ) -> Result<(OwnedEventId, u64), RoomError> {
        let (user, room) = (user.to_owned(), room.to_owned());
        let ts = i64::try_from(ts_ms).unwrap_or(i64::MAX);
        self.inner
            .store
            .read(move |tx| {
                let mut access = access(tx, &user, &room)?;
                for nid in events::around(tx, access.row.room, ts, backwards, SCAN_MAX)? {
                    if let Some(event) = events::event(tx, nid)?
                        && access.may_see(tx, &event)?
                    {
                        return Ok((events::id(tx, nid)?, event.ts.unsigned_abs()));
                    }
                }
                Err(RoomError::NotFound("there is no event in that direction that you may see".into()))
            })
            .await
    }
}
