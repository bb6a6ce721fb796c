//! Aliases and the room directory.

use ruma::{OwnedRoomAliasId, OwnedRoomId, OwnedServerName, RoomAliasId, RoomId, UserId};
use serde_json::value::RawValue;

use super::{RoomError, Rooms};

/// A page of the room directory: `PublicRoomsChunk` objects as JSON.
#[derive(Debug, Default)]
pub struct DirectoryPage {
    /// The rooms.
    pub chunk: Vec<Box<RawValue>>,
    /// Where the next page starts.
    pub next_batch: Option<String>,
    /// Where the page before starts.
    pub prev_batch: Option<String>,
    /// All rooms that match.
    pub total: u64,
}

impl Rooms {
    /// Makes an alias of ours for a room.
    pub async fn create_alias(
        &self,
        user: &UserId,
        alias: &RoomAliasId,
        room: &RoomId,
    ) -> Result<(), RoomError> {
        let _ = (user, alias, room);
        unimplemented!()
    }

    /// Removes an alias of ours.
    pub async fn delete_alias(&self, user: &UserId, alias: &RoomAliasId) -> Result<(), RoomError> {
        let _ = (user, alias);
        unimplemented!()
    }

    /// The room behind an alias OF OURS, with servers to join through.
    pub async fn resolve_local_alias(
        &self,
        alias: &RoomAliasId,
    ) -> Result<(OwnedRoomId, Vec<OwnedServerName>), RoomError> {
        let _ = alias;
        unimplemented!()
    }

    /// The room behind any alias; another server's is asked.
    pub async fn resolve_alias(
        &self,
        alias: &RoomAliasId,
    ) -> Result<(OwnedRoomId, Vec<OwnedServerName>), RoomError> {
        let _ = alias;
        unimplemented!()
    }

    /// Our aliases of a room, for a user who may see its state.
    pub async fn aliases(&self, user: &UserId, room: &RoomId) -> Result<Vec<OwnedRoomAliasId>, RoomError> {
        let _ = (user, room);
        unimplemented!()
    }

    /// Whether our directory lists a room.
    pub async fn is_listed(&self, room: &RoomId) -> Result<bool, RoomError> {
        let _ = room;
        unimplemented!()
    }

    /// Lists a room in our directory, or no longer.
    pub async fn set_listed(&self, user: &UserId, room: &RoomId, listed: bool) -> Result<(), RoomError> {
        let _ = (user, room, listed);
        unimplemented!()
    }

    /// Our listed rooms, the largest first; `search` looks into name, topic and alias.
    pub async fn directory(
        &self,
        search: Option<String>,
        limit: u32,
        since: Option<String>,
    ) -> Result<DirectoryPage, RoomError> {
        let _ = (search, limit, since);
        unimplemented!()
    }
}
