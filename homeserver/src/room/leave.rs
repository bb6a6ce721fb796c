//! Verbs that bring a user out: leave, kick, ban, unban, forget.

use ruma::{RoomId, UserId};

use super::{RoomError, Rooms};

impl Rooms {
    /// Leaves a room, declines an invite, withdraws a knock.
    pub async fn leave(&self, user: &UserId, room: &RoomId, reason: Option<String>) -> Result<(), RoomError> {
        let _ = (user, room, reason);
        unimplemented!()
    }

    /// Removes `target`.
    pub async fn kick(
        &self,
        sender: &UserId,
        room: &RoomId,
        target: &UserId,
        reason: Option<String>,
    ) -> Result<(), RoomError> {
        let _ = (sender, room, target, reason);
        unimplemented!()
    }

    /// Bans `target`.
    pub async fn ban(
        &self,
        sender: &UserId,
        room: &RoomId,
        target: &UserId,
        reason: Option<String>,
    ) -> Result<(), RoomError> {
        let _ = (sender, room, target, reason);
        unimplemented!()
    }

    /// Lifts a ban.
    pub async fn unban(
        &self,
        sender: &UserId,
        room: &RoomId,
        target: &UserId,
        reason: Option<String>,
    ) -> Result<(), RoomError> {
        let _ = (sender, room, target, reason);
        unimplemented!()
    }

    /// Forgets a room that the user has left.
    pub async fn forget(&self, user: &UserId, room: &RoomId) -> Result<(), RoomError> {
        let _ = (user, room);
        unimplemented!()
    }
}
