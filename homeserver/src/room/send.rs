//! Verbs that put an event into a room.

use ruma::{EventId, OwnedEventId, RoomId, UserId};

use super::{Draft, RoomError, Rooms, Txn};

impl Rooms {
    /// Sends a message or state event. With a transaction the same one again gives the same event.
    pub async fn send(
        &self,
        sender: &UserId,
        room: &RoomId,
        draft: Draft,
        txn: Option<Txn>,
    ) -> Result<OwnedEventId, RoomError> {
        let _ = (sender, room, draft, txn);
        unimplemented!()
    }

    /// Redacts an event.
    pub async fn redact(
        &self,
        sender: &UserId,
        room: &RoomId,
        target: &EventId,
        reason: Option<String>,
        txn: Option<Txn>,
    ) -> Result<OwnedEventId, RoomError> {
        let _ = (sender, room, target, reason, txn);
        unimplemented!()
    }

    /// Writes the user's present profile into its membership of every room it is joined to. Gives the number of rooms.
    pub async fn refresh_profile(&self, user: &UserId) -> Result<usize, RoomError> {
        let _ = user;
        unimplemented!()
    }
}
