//! Server notices: the operator's word to a user, in a room of the server's own with that user.
// spec: https://spec.matrix.org/v1.19/client-server-api/#server-notices

use ruma::{
    OwnedEventId, OwnedRoomId, RoomId, UserId,
    api::client::room::create_room::v3::{Request as CreateRoom, RoomPreset},
};
use serde_json::{Value, json, value::to_raw_value};

use crate::{
    error::Error,
    room::Draft,
    server::Server,
    user::{NewAccount, Proof, UserError},
};

/// Who speaks for the server.
pub const NOTICES_LOCALPART: &str = "server";
/// Account data of that user: whose room is which.
const ROOMS: &str = "mangrove.notice_rooms";

impl Server {
    /// Says something to a user of ours; makes the room when there is none yet.
    pub async fn send_notice(&self, user: &UserId, content: Value) -> Result<OwnedEventId, Error> {
        if user.server_name() != self.name || !self.users.exists(user).await? {
            return Err(Error::not_found("no such user here"));
        }
        let speaker = self.users.named(NOTICES_LOCALPART)?;
        if !self.users.exists(&speaker).await? {
            let account = NewAccount {
                localpart: Some(NOTICES_LOCALPART.into()),
                displayname: Some("Server notices".into()),
                kind: Some("support".into()),
                ..NewAccount::new(Proof::Operator)
            };
            match self.users.register(account, None).await {
                Ok(_) | Err(UserError::NameTaken) => {}
                Err(other) => return Err(other.into()),
            }
        }
        let known = self.users.account_data(&speaker, None, ROOMS).await?;
        let mut rooms: Value =
            known.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_else(|| json!({}));
        let room = match rooms[user.as_str()].as_str().and_then(|room| RoomId::parse(room).ok()) {
            Some(room) if self.rooms.rooms_to_leave(user).await?.contains(&room) => room,
            _ => {
                let room = self.notice_room(&speaker, user).await?;
                rooms[user.as_str()] = room.as_str().into();
                self.users.set_account_data(&speaker, None, ROOMS, rooms.to_string()).await?;
                room
            }
        };
        let content = to_raw_value(&content).map_err(|_| Error::invalid_param("content"))?;
        Ok(self.rooms.send(&speaker, &room, Draft::message("m.room.message", content), None).await?)
    }

    async fn notice_room(&self, speaker: &UserId, user: &UserId) -> Result<OwnedRoomId, Error> {
        let mut request = CreateRoom::new();
        request.name = Some("Server notices".into());
        request.preset = Some(RoomPreset::PrivateChat);
        request.invite = vec![user.to_owned()];
        request.room_version = Some(self.settings.default_room_version.clone());
        let room = self.rooms.create(speaker, request).await?;
        let tags = json!({ "tags": { "m.server_notice": {} } }).to_string();
        self.users.set_account_data(user, Some(&room), "m.tag", tags).await?;
        Ok(room)
    }
}
