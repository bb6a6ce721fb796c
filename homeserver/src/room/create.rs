//! The verb that makes a room.

use ruma::{OwnedRoomId, UserId, api::client::room::create_room};

use super::{RoomError, Rooms};

impl Rooms {
    /// Makes a room with its first events (preset, power levels, alias, name, topic, `initial_state`, invites).
    pub async fn create(
        &self,
        creator: &UserId,
        request: create_room::v3::Request,
    ) -> Result<OwnedRoomId, RoomError> {
        let _ = (creator, request);
        unimplemented!()
    }
}
