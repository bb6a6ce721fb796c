//! Server notices: the operator's word to a user, in a room of the server's own with that user.
// spec: https://spec.matrix.org/v1.19/client-server-api/#server-notices

use ruma::{
    OwnedEventId, OwnedRoomId, RoomId, UserId,
    api::{
        client::room::create_room::v3::{Request as CreateRoom, RoomPreset},
        error::ErrorKind,
    },
};
use serde_json::{Value, json, value::to_raw_value};

use crate::{
    error::Error,
    room::{Draft, Txn},
    server::Server,
    user::{NewAccount, Proof, UserError},
};

/// Who speaks for the server, if the operator does not say.
pub const NOTICES_LOCALPART: &str = "server";
/// The device under which that user's transactions are known.
const DEVICE: &str = "NOTICES";
/// Account data of that user: whose room is which.
const ROOMS: &str = "mangrove.notice_rooms";

impl Server {
    /// Says something to a user of ours; makes the room when there is none yet.
    /// The same transaction again says nothing more.
    pub async fn send_notice(
        &self,
        user: &UserId,
        content: Value,
        txn: Option<&str>,
    ) -> Result<OwnedEventId, Error> {
        if user.server_name() != self.name || !self.users.exists(user).await? {
            return Err(Error::not_found("no such user here"));
        }
        let localpart = &*self.notices_localpart();
        let speaker = self.users.named(localpart)?;
        if !self.users.exists(&speaker).await? {
            let account = NewAccount {
                localpart: Some(localpart.into()),
                displayname: Some("Server notices".into()),
                kind: Some("support".into()),
                ..NewAccount::new(Proof::Operator)
            };
            match self.users.register(account, None).await {
                Ok(_) | Err(UserError::NameTaken) => {}
                Err(other) => return Err(other.into()),
            }
        }
        let mut rooms = self.notice_rooms(&speaker).await?;
        let known = rooms[user.as_str()].as_str().and_then(|room| RoomId::parse(room).ok());
        let room = match known {
            Some(room) if self.rooms.rooms_to_leave(user).await?.contains(&room) => room,
            // Whoever has left is asked back in.
            Some(room) if self.rooms.invite(&speaker, &room, user, None).await.is_ok() => room,
            _ => {
                let room = self.notice_room(&speaker, user).await?;
                rooms[user.as_str()] = room.as_str().into();
                self.users.set_account_data(&speaker, None, ROOMS, rooms.to_string()).await?;
                room
            }
        };
        let content = to_raw_value(&content).map_err(|_| Error::invalid_param("content"))?;
        let txn = txn.map(|txn| Txn { device: DEVICE.into(), id: txn.into() });
        Ok(self.rooms.send(&speaker, &room, Draft::message("m.room.message", content), txn).await?)
    }

    /// Refuses to decline an invite to the room of notices: it can be left once it was looked at.
    pub async fn check_leave(&self, user: &UserId, room: &RoomId) -> Result<(), Error> {
        let speaker = self.users.named(&self.notices_localpart())?;
        if self.users.exists(&speaker).await?
            && self.notice_rooms(&speaker).await?[user.as_str()].as_str() == Some(room.as_str())
            && !self.rooms.is_joined(user, room).await?
        {
            return Err(Error::new(
                ErrorKind::CannotLeaveServerNoticeRoom,
                "this is where the server tells you what you have to know; join it before you leave it",
            ));
        }
        Ok(())
    }

    fn notices_localpart(&self) -> String {
        let settings = self.settings();
        settings.accounts.general.notices_localpart.clone().unwrap_or_else(|| NOTICES_LOCALPART.to_owned())
    }

    /// Whose room is which.
    async fn notice_rooms(&self, speaker: &UserId) -> Result<Value, Error> {
        let known = self.users.account_data(speaker, None, ROOMS).await?;
        Ok(known.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_else(|| json!({})))
    }

    async fn notice_room(&self, speaker: &UserId, user: &UserId) -> Result<OwnedRoomId, Error> {
        let mut request = CreateRoom::new();
        request.name = Some("Server notices".into());
        request.preset = Some(RoomPreset::PrivateChat);
        request.invite = vec![user.to_owned()];
        request.room_version = Some(self.settings().default_room_version.clone());
        let room = self.rooms.create(speaker, request).await?;
        let tags = json!({ "tags": { "m.server_notice": {} } }).to_string();
        self.users.set_account_data(user, Some(&room), "m.tag", tags).await?;
        Ok(room)
    }
}
