//! Owns reads of who is where.

use ruma::{OwnedRoomId, OwnedUserId, RoomId, UserId};

use super::{access::access, json::client_event, messages::viewer, timeline::Token};
use crate::{
    room::{
        ClientEvent, RoomError, Rooms,
        ingest::load,
        project::{content, text},
        send::membership_of,
    },
    store::{
        Kind, Nid, ReadTx, StoreError,
        ids::skey_split,
        schema::{
            events,
            membership::{self, Membership},
            state,
        },
    },
};

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

/// Members in one answer: `joined_members` and `members` are as large as the room, and this is the largest we serve.
const MEMBERS_MAX: u32 = 100_000;

impl Rooms {
    /// Member events, at a token or now, with or without a membership.
    pub async fn members(
        &self,
        user: &UserId,
        room: &RoomId,
        at: Option<Token>,
        membership: Option<Membership>,
        not_membership: Option<Membership>,
    ) -> Result<Vec<ClientEvent>, RoomError> {
        self.await_members(user, room).await?;
        let (user, room) = (user.to_owned(), room.to_owned());
        let now_ms = self.inner.clock.now_ms();
        self.inner
            .store
            .read(move |tx| {
                let access = access(tx, &user, &room)?;
                let viewer = viewer(&access, now_ms);
                let sid = match at {
                    Some(at) => state_at(tx, access.row.room, at)?.unwrap_or_else(|| access.state()),
                    None => access.state(),
                };
                let mut list = Vec::new();
                for (skey, nid) in state::full(tx, sid)? {
                    if skey_split(&tx.text(skey)?).0 != "m.room.member" {
                        continue;
                    }
                    let Some(event) = events::event(tx, nid)? else { continue };
                    let is =
                        text(&content(&event.client), "membership").and_then(|text| Membership::parse(&text));
                    if membership.is_none_or(|wanted| is == Some(wanted))
                        && not_membership.is_none_or(|unwanted| is != Some(unwanted))
                    {
                        list.push(client_event(tx, &event, &viewer)?);
                    }
                }
                Ok(list)
            })
            .await
    }

    /// Joined members with their names.
    pub async fn joined_members(&self, user: &UserId, room: &RoomId) -> Result<Vec<JoinedMember>, RoomError> {
        self.await_members(user, room).await?;
        let (user, room) = (user.to_owned(), room.to_owned());
        self.inner
            .store
            .read(move |tx| {
                let access = access(tx, &user, &room)?;
                if !access.joined {
                    return Err(RoomError::Forbidden("you are not in this room".into()));
                }
                let mut list = Vec::new();
                for (user, nid) in
                    membership::members_with(tx, access.row.room, Membership::Join, MEMBERS_MAX)?
                {
                    let Ok(user_id) = UserId::parse(&*tx.text(user)?) else { continue };
                    let content =
                        events::event(tx, nid)?.map(|event| content(&event.client)).unwrap_or_default();
                    list.push(JoinedMember {
                        user_id,
                        displayname: text(&content, "displayname"),
                        avatar_url: text(&content, "avatar_url"),
                    });
                }
                Ok(list)
            })
            .await
    }

    /// Rooms that a local user is joined to.
    pub async fn joined_rooms(&self, user: &UserId) -> Result<Vec<OwnedRoomId>, RoomError> {
        let user = user.to_owned();
        self.inner
            .store
            .read(move |tx| {
                let Some(user) = tx.lookup(Kind::User, user.as_str())? else { return Ok(Vec::new()) };
                membership::user_rooms(tx, user)?
                    .into_iter()
                    .filter(|row| row.membership == Membership::Join)
                    .map(|row| Ok(load::room_id(tx, row.room)?))
                    .collect()
            })
            .await
    }

    /// The rooms that a user is in, is invited to or has knocked at: what it leaves when its account ends.
    pub async fn rooms_to_leave(&self, user: &UserId) -> Result<Vec<OwnedRoomId>, RoomError> {
        let user = user.to_owned();
        self.inner
            .store
            .read(move |tx| {
                let Some(user) = tx.lookup(Kind::User, user.as_str())? else { return Ok(Vec::new()) };
                membership::user_rooms(tx, user)?
                    .into_iter()
                    .filter(|row| {
                        matches!(row.membership, Membership::Join | Membership::Invite | Membership::Knock)
                    })
                    .map(|row| Ok(load::room_id(tx, row.room)?))
                    .collect()
            })
            .await
    }

    /// Whether two users are joined to one room.
    pub async fn share_room(&self, one: &UserId, other: &UserId) -> Result<bool, RoomError> {
        let (one, other) = (one.to_owned(), other.to_owned());
        self.inner
            .store
            .read(move |tx| {
                let (Some(one), Some(other)) =
                    (tx.lookup(Kind::User, one.as_str())?, tx.lookup(Kind::User, other.as_str())?)
                else {
                    return Ok(false);
                };
                Ok(membership::share(tx, one, other)?)
            })
            .await
    }

    /// Whether a user (ours or theirs) is joined to a room.
    pub async fn is_joined(&self, user: &UserId, room: &RoomId) -> Result<bool, RoomError> {
        let (user, room) = (user.to_owned(), room.to_owned());
        self.inner.store.read(move |tx| Ok(membership_of(tx, &user, &room)? == Some(Membership::Join))).await
    }
}

/// The state after the last event before a token; before all events: after the creator's join, before which there was
/// nobody to ask.
fn state_at(tx: &ReadTx<'_>, room: Nid, at: Token) -> Result<Option<i64>, StoreError> {
    let newest = match at.newest_before(tx, room)? {
        Some(nid) => Some(nid),
        None => Token::START.oldest_from(tx, room, 2)?.pop(),
    };
    Ok(match newest {
        Some(nid) => events::event(tx, nid)?.and_then(|event| event.state_after),
        None => None,
    })
}
