//! Verbs that bring a user out: leave, kick, ban, unban, forget.

use ruma::{OwnedServerName, RoomId, UserId};
use serde_json::json;

use super::{RoomError, Rooms, join::member, send::membership_of};
use crate::store::{
    Kind, Touched,
    schema::{
        events::{self, stream_kind},
        membership::{self, Membership},
        rooms,
    },
};

impl Rooms {
    /// Leaves a room, declines an invite, withdraws a knock. Leaving twice changes nothing.
    pub async fn leave(&self, user: &UserId, room: &RoomId, reason: Option<String>) -> Result<(), RoomError> {
        let (user_id, room_id) = (user.to_owned(), room.to_owned());
        let (membership, resident, via) = self
            .inner
            .store
            .read(move |tx| -> Result<_, RoomError> {
                let (Some(user), Some(room)) =
                    (tx.lookup(Kind::User, user_id.as_str())?, tx.lookup(Kind::Room, room_id.as_str())?)
                else {
                    return Ok((None, false, Vec::new()));
                };
                let resident = rooms::room(tx, room)?.is_some_and(|row| row.resident);
                let row = membership::user_room(tx, user, room)?;
                let mut via: Vec<OwnedServerName> = Vec::new();
                if let Some(row) = &row
                    && let Some(event) = super::ingest::load::pdu(tx, row.nid)?
                {
                    via.push(event.sender.server_name().to_owned());
                }
                Ok((row.map(|row| row.membership), resident, via))
            })
            .await?;
        let mut content = json!({ "membership": "leave" });
        if let Some(reason) = reason {
            content["reason"] = reason.into();
        }
        let draft = member(user, &content)?;
        match membership {
            Some(Membership::Leave) => Ok(()),
            Some(Membership::Ban) => Err(RoomError::Forbidden("you are banned from this room".into())),
            None => Err(RoomError::NotFound("you are not in this room".into())),
            Some(_) if resident => self.submit(user, room, draft, None).await.map(drop),
            Some(_) => self.remote_leave(user, room, &via, draft).await,
        }
    }

    /// Removes `target`, or takes an invite back.
    pub async fn kick(
        &self,
        sender: &UserId,
        room: &RoomId,
        target: &UserId,
        reason: Option<String>,
    ) -> Result<(), RoomError> {
        match self.membership(target, room).await? {
            Some(Membership::Join | Membership::Invite | Membership::Knock) => {
                self.set_membership(sender, room, target, "leave", reason).await
            }
            Some(Membership::Ban) => {
                Err(RoomError::Forbidden(format!("{target} is banned; lift the ban instead")))
            }
            _ => Err(RoomError::Forbidden(format!("{target} is not in the room"))),
        }
    }

    /// Bans `target`.
    pub async fn ban(
        &self,
        sender: &UserId,
        room: &RoomId,
        target: &UserId,
        reason: Option<String>,
    ) -> Result<(), RoomError> {
        self.set_membership(sender, room, target, "ban", reason).await
    }

    /// Lifts a ban.
    pub async fn unban(
        &self,
        sender: &UserId,
        room: &RoomId,
        target: &UserId,
        reason: Option<String>,
    ) -> Result<(), RoomError> {
        if self.membership(target, room).await? != Some(Membership::Ban) {
            return Err(RoomError::Forbidden(format!("{target} is not banned")));
        }
        self.set_membership(sender, room, target, "leave", reason).await
    }

    /// Forgets a room that the user has left: it no longer appears anywhere, and its history is closed to the user.
    pub async fn forget(&self, user: &UserId, room: &RoomId) -> Result<(), RoomError> {
        let (user, room) = (user.to_owned(), room.to_owned());
        self.inner
            .store
            .write(move |tx| -> Result<(), RoomError> {
                let row = match (tx.lookup(Kind::User, user.as_str())?, tx.lookup(Kind::Room, room.as_str())?)
                {
                    (Some(user), Some(room)) => membership::user_room(tx, user, room)?.map(|row| (user, row)),
                    _ => None,
                };
                let Some((user, mut row)) = row else {
                    return Err(RoomError::NotFound("you have not been in this room".into()));
                };
                if !matches!(row.membership, Membership::Leave | Membership::Ban) {
                    return Err(RoomError::NotNow("leave the room before you forget it".into()));
                }
                row.forgotten = true;
                membership::put_user_room(tx, user, &row)?;
                // Room lists are kept up by the stream.
                let (room, nid) = (Some(row.room), Some(row.nid));
                events::push_stream(tx, stream_kind::MEMBERSHIP, room, Some(user), nid)?;
                tx.touch(Touched::User(user));
                Ok(())
            })
            .await
    }

    pub(in crate::room) async fn membership(
        &self,
        user: &UserId,
        room: &RoomId,
    ) -> Result<Option<Membership>, RoomError> {
        let (user, room) = (user.to_owned(), room.to_owned());
        self.inner.store.read(move |tx| membership_of(tx, &user, &room)).await
    }

    async fn set_membership(
        &self,
        sender: &UserId,
        room: &RoomId,
        target: &UserId,
        membership: &str,
        reason: Option<String>,
    ) -> Result<(), RoomError> {
        let mut content = json!({ "membership": membership });
        if let Some(reason) = reason {
            content["reason"] = reason.into();
        }
        self.submit(sender, room, member(target, &content)?, None).await.map(drop)
    }
}
