//! Answers, over a read snapshot. Methods of [`super::Rooms`] check who asks; the functions in the files below do not.

pub mod json;
pub mod timeline;

use ruma::{EventId, OwnedRoomId, OwnedUserId, RoomId, UserId};
use serde_json::value::RawValue;

pub use self::{
    json::{client_event, pdu},
    timeline::Token,
};
use super::{ClientEvent, RoomError, Rooms};
use crate::store::schema::membership::Membership;

/// A page of `/messages`.
#[derive(Debug)]
pub struct Messages {
    /// Where the page starts.
    pub start: Token,
    /// Where the next page starts; none at the end.
    pub end: Option<Token>,
    /// Events in the order of the direction.
    pub chunk: Vec<ClientEvent>,
    /// Member events of the senders, for lazy loading.
    pub state: Vec<ClientEvent>,
}

/// How to page.
#[derive(Clone, Debug)]
pub struct MessagesQuery {
    /// Where to start; none: the end of the timeline (backwards) or its start.
    pub from: Option<Token>,
    /// Where to stop.
    pub to: Option<Token>,
    /// Towards the past.
    pub backwards: bool,
    /// Events at most (bounded here).
    pub limit: u32,
    /// Add the senders' member events.
    pub lazy_members: bool,
    /// What the filter lets through, by type, sender and content; none lets all through.
    pub filter: Option<ruma::api::client::filter::RoomEventFilter>,
}

/// What surrounds an event.
#[derive(Debug)]
pub struct Context {
    /// The event.
    pub event: ClientEvent,
    /// Before it, newest first.
    pub before: Vec<ClientEvent>,
    /// After it, oldest first.
    pub after: Vec<ClientEvent>,
    /// Token to page back from.
    pub start: Token,
    /// Token to page on from.
    pub end: Token,
    /// State after the last event shown (with lazy members: of the senders only).
    pub state: Vec<ClientEvent>,
}

/// One joined member.
#[derive(Clone, Debug)]
pub struct JoinedMember {
    /// Who.
    pub user_id: OwnedUserId,
    /// Display name in the room.
    pub displayname: Option<String>,
    /// Avatar in the room.
    pub avatar_url: Option<String>,
}

impl Rooms {
    /// A page of the timeline that the user may see; backfills from other servers when it ends here.
    pub async fn messages(
        &self,
        user: &UserId,
        room: &RoomId,
        query: MessagesQuery,
    ) -> Result<Messages, RoomError> {
        let _ = (user, room, query);
        unimplemented!()
    }

    /// One event, if the user may see it.
    pub async fn event(
        &self,
        user: &UserId,
        room: &RoomId,
        event: &EventId,
    ) -> Result<ClientEvent, RoomError> {
        let _ = (user, room, event);
        unimplemented!()
    }

    /// An event and what surrounds it.
    pub async fn context(
        &self,
        user: &UserId,
        room: &RoomId,
        event: &EventId,
        limit: u32,
        lazy_members: bool,
    ) -> Result<Context, RoomError> {
        let _ = (user, room, event, limit, lazy_members);
        unimplemented!()
    }

    /// Current state (for a former member: as it was when they left).
    pub async fn state_all(&self, user: &UserId, room: &RoomId) -> Result<Vec<ClientEvent>, RoomError> {
        let _ = (user, room);
        unimplemented!()
    }

    /// One state event, whole.
    pub async fn state_one(
        &self,
        user: &UserId,
        room: &RoomId,
        event_type: &str,
        state_key: &str,
    ) -> Result<ClientEvent, RoomError> {
        let _ = (user, room, event_type, state_key);
        unimplemented!()
    }

    /// `content` of one state event.
    pub async fn state_content(
        &self,
        user: &UserId,
        room: &RoomId,
        event_type: &str,
        state_key: &str,
    ) -> Result<Box<RawValue>, RoomError> {
        let _ = (user, room, event_type, state_key);
        unimplemented!()
    }

    /// Member events, at a token or now, with or without a membership.
    pub async fn members(
        &self,
        user: &UserId,
        room: &RoomId,
        at: Option<Token>,
        membership: Option<Membership>,
        not_membership: Option<Membership>,
    ) -> Result<Vec<ClientEvent>, RoomError> {
        let _ = (user, room, at, membership, not_membership);
        unimplemented!()
    }

    /// Joined members with their names.
    pub async fn joined_members(&self, user: &UserId, room: &RoomId) -> Result<Vec<JoinedMember>, RoomError> {
        let _ = (user, room);
        unimplemented!()
    }

    /// Rooms that a local user is joined to.
    pub async fn joined_rooms(&self, user: &UserId) -> Result<Vec<OwnedRoomId>, RoomError> {
        let _ = user;
        unimplemented!()
    }

    /// Whether two users are joined to one room.
    pub async fn share_room(&self, one: &UserId, other: &UserId) -> Result<bool, RoomError> {
        let _ = (one, other);
        unimplemented!()
    }

    /// Whether a user (ours or theirs) is joined to a room.
    pub async fn is_joined(&self, user: &UserId, room: &RoomId) -> Result<bool, RoomError> {
        let _ = (user, room);
        unimplemented!()
    }

    /// Whether a local user may see an event.
    pub async fn may_see(&self, user: &UserId, event: &EventId) -> Result<bool, RoomError> {
        let _ = (user, event);
        unimplemented!()
    }

    /// Children of an event by relation and type, newest first, with a token for the next page.
    #[allow(clippy::too_many_arguments, reason = "the endpoint has them")]
    pub async fn relations(
        &self,
        user: &UserId,
        room: &RoomId,
        parent: &EventId,
        rel_type: Option<String>,
        event_type: Option<String>,
        from: Option<String>,
        limit: u32,
    ) -> Result<(Vec<ClientEvent>, Option<String>), RoomError> {
        let _ = (user, room, parent, rel_type, event_type, from, limit);
        unimplemented!()
    }
}
