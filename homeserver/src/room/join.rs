//! Verbs that bring a user in: join, invite, knock.

use ruma::{OwnedRoomId, OwnedServerName, RoomId, RoomOrAliasId, UserId};

use super::{RoomError, Rooms};

impl Rooms {
    /// Joins a local user, through another server (`via`) if the room is not here. Joining twice changes nothing.
    pub async fn join(
        &self,
        user: &UserId,
        target: &RoomOrAliasId,
        via: Vec<OwnedServerName>,
        reason: Option<String>,
    ) -> Result<OwnedRoomId, RoomError> {
        let _ = (user, target, via, reason);
        unimplemented!()
    }

    /// Asks to be let in.
    pub async fn knock(
        &self,
        user: &UserId,
        target: &RoomOrAliasId,
        via: Vec<OwnedServerName>,
        reason: Option<String>,
    ) -> Result<OwnedRoomId, RoomError> {
        let _ = (user, target, via, reason);
        unimplemented!()
    }

    /// Invites a user, ours or theirs (theirs: their server is asked to sign first).
    pub async fn invite(
        &self,
        sender: &UserId,
        room: &RoomId,
        target: &UserId,
        reason: Option<String>,
    ) -> Result<(), RoomError> {
        let _ = (sender, room, target, reason);
        unimplemented!()
    }
}
