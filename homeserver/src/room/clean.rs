//! Verbs that find what one user has said, so that an administrator can take it away.

use ruma::{OwnedEventId, OwnedRoomId, RoomId, UserId};

use super::{RoomError, Rooms, ingest::load};
use crate::store::{
    Kind, ReadTx, Seq, StoreError,
    schema::{
        events::{self, EXPIRED, REDACTED, REJECTED},
        membership::{self, Membership},
    },
};

/// Places of a timeline that one read looks at.
const LOOK: u32 = 500;
/// Events of one room that are looked at: who has said nothing in so many is let be.
const SCAN_MAX: usize = 200_000;

/// Where a walk through a timeline goes on.
type Place = (i64, Seq);

impl Rooms {
    /// Rooms that a user, ours or not, is in or was put out of, as far as they are known here.
    pub async fn rooms_of_anybody(&self, user: &UserId) -> Result<Vec<OwnedRoomId>, RoomError> {
        let user = user.to_owned();
        self.inner
            .store
            .read(move |tx| {
                let Some(user) = tx.lookup(Kind::User, user.as_str())? else { return Ok(Vec::new()) };
                let mut rooms = Vec::new();
                for membership in [Membership::Join, Membership::Leave, Membership::Ban] {
                    for room in membership::rooms_of(tx, user, membership)? {
                        rooms.push(load::room_id(tx, room)?);
                    }
                }
                Ok(rooms)
            })
            .await
    }

    /// A user's latest messages in a room, at most `limit`, the newest first: no state, and nothing that is redacted.
    pub async fn said_by(
        &self,
        user: &UserId,
        room: &RoomId,
        limit: usize,
    ) -> Result<Vec<OwnedEventId>, RoomError> {
        let mut found: Vec<OwnedEventId> = Vec::new();
        let mut place: Place = (i64::MAX, Seq(i64::MAX));
        let mut scanned = 0;
        while found.len() < limit && scanned < SCAN_MAX {
            let (user, room) = (user.to_owned(), room.to_owned());
            let read = move |tx: &ReadTx<'_>| said(tx, &user, &room, place);
            let (ids, next) = self.inner.store.read(read).await?;
            found.extend(ids);
            scanned += LOOK as usize;
            match next {
                Some(next) => place = next,
                None => break,
            }
        }
        found.truncate(limit);
        Ok(found)
    }
}

/// One look: what there is, and where to go on.
fn said(
    tx: &ReadTx<'_>,
    user: &UserId,
    room: &RoomId,
    place: Place,
) -> Result<(Vec<OwnedEventId>, Option<Place>), StoreError> {
    let (Some(user), Some(room)) =
        (tx.lookup(Kind::User, user.as_str())?, tx.lookup(Kind::Room, room.as_str())?)
    else {
        return Ok((Vec::new(), None));
    };
    let all = (Seq(i64::MIN), Seq(i64::MAX));
    let places = events::places(tx, room, place, all, true, LOOK)?;
    let next = places.last().map(|(depth, seq, _)| (*depth, *seq));
    let mut ids = Vec::new();
    for (_, _, nid) in places {
        let Some(event) = events::event(tx, nid)? else { continue };
        let there = event.flags & (REDACTED | EXPIRED | REJECTED) == 0;
        let redaction = || Ok::<_, StoreError>(&*tx.text(event.kind)? == "m.room.redaction");
        if there && event.sender == user && event.skey.is_none() && !redaction()? {
            ids.push(events::id(tx, nid)?);
        }
    }
    Ok((ids, next))
}
