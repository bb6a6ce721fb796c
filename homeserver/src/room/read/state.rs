//! Owns reads of a room's state.

use ruma::{RoomId, UserId};
use serde_json::value::RawValue;

use super::{access::access, json::client_event, messages::viewer};
use crate::{
    room::{ClientEvent, RoomError, Rooms, core::pdu::MEMBER},
    store::{
        Kind, ReadTx, StoreError,
        schema::{
            accounts,
            events::{self, EventRow},
            rooms, state,
        },
    },
};

impl Rooms {
    /// Current state (for a former member: as it was when they left).
    pub async fn state_all(&self, user: &UserId, room: &RoomId) -> Result<Vec<ClientEvent>, RoomError> {
        self.await_members(user, room).await?;
        let (user, room) = (user.to_owned(), room.to_owned());
        let now_ms = self.inner.clock.now_ms();
        self.inner.store.read(move |tx| state_events(tx, &user, &room, now_ms)).await
    }

    /// One state event, whole.
    pub async fn state_one(
        &self,
        user: &UserId,
        room: &RoomId,
        event_type: &str,
        state_key: &str,
    ) -> Result<ClientEvent, RoomError> {
        self.await_member(user, room, event_type, state_key).await?;
        let (user, room) = (user.to_owned(), room.to_owned());
        let key = (event_type.to_owned(), state_key.to_owned());
        let now_ms = self.inner.clock.now_ms();
        self.inner
            .store
            .read(move |tx| {
                let (access, event) = entry(tx, &user, &room, &key)?;
                Ok(client_event(tx, &event, &viewer(&access, now_ms))?)
            })
            .await
    }

    /// Refuses a guest where the room does not let guests in.
    // spec: https://spec.matrix.org/v1.19/client-server-api/#mroomguest_access
    pub(in crate::room) async fn guest_may_join(
        &self,
        user: &UserId,
        room: &RoomId,
    ) -> Result<(), RoomError> {
        let (user, room) = (user.to_owned(), room.to_owned());
        self.inner
            .store
            .read(move |tx| {
                let Some(user) = tx.lookup(Kind::User, user.as_str())? else { return Ok(()) };
                if !accounts::standing(tx, user)?.guest {
                    return Ok(());
                }
                let rule = match tx.lookup_skey("m.room.guest_access", "")? {
                    Some(skey) => {
                        let room = tx.lookup(Kind::Room, room.as_str())?;
                        let row = room.map(|room| rooms::room(tx, room)).transpose()?.flatten();
                        let state = row.map(|row| row.sid);
                        let nid = state.map(|state| state::one(tx, state, skey)).transpose()?.flatten();
                        nid.map(|nid| events::event(tx, nid)).transpose()?.flatten()
                    }
                    None => None,
                };
                #[derive(serde::Deserialize)]
                struct Content {
                    guest_access: String,
                }
                #[derive(serde::Deserialize)]
                struct Client {
                    content: Content,
                }
                let open = rule
                    .and_then(|event| serde_json::from_slice::<Client>(&event.client).ok())
                    .is_some_and(|client| client.content.guest_access == "can_join");
                if open { Ok(()) } else { Err(RoomError::NoGuests) }
            })
            .await
    }

    /// Waits for a member that may be on its way.
    async fn await_member(
        &self,
        user: &UserId,
        room: &RoomId,
        event_type: &str,
        state_key: &str,
    ) -> Result<(), RoomError> {
        if event_type != MEMBER || !self.is_partial(room).await? {
            return Ok(());
        }
        let (at, key) = (room.to_owned(), state_key.to_owned());
        let here = self
            .inner
            .store
            .read(move |tx| -> Result<_, StoreError> {
                let Some(room) = tx.lookup(Kind::Room, at.as_str())? else { return Ok(true) };
                Ok(state::current_of(tx, room, MEMBER, &key)?.is_some())
            })
            .await?;
        if here { Ok(()) } else { self.await_members(user, room).await }
    }

    /// `content` of one state event.
    pub async fn state_content(
        &self,
        user: &UserId,
        room: &RoomId,
        event_type: &str,
        state_key: &str,
    ) -> Result<Box<RawValue>, RoomError> {
        self.await_member(user, room, event_type, state_key).await?;
        let (user, room) = (user.to_owned(), room.to_owned());
        let key = (event_type.to_owned(), state_key.to_owned());
        self.inner
            .store
            .read(move |tx| {
                let (_, event) = entry(tx, &user, &room, &key)?;
                #[derive(serde::Deserialize)]
                struct Client {
                    content: Box<RawValue>,
                }
                let client: Client = serde_json::from_slice(&event.client)
                    .map_err(|_| StoreError::Corrupt("a stored event is no JSON"))?;
                Ok(client.content)
            })
            .await
    }
}

/// The room's state as the user may see it.
pub(in crate::room) fn state_events(
    tx: &ReadTx<'_>,
    user: &UserId,
    room: &RoomId,
    now_ms: u64,
) -> Result<Vec<ClientEvent>, RoomError> {
    let access = access(tx, user, room)?;
    let viewer = viewer(&access, now_ms);
    let mut list = Vec::new();
    for nid in state::full(tx, access.state())?.into_values() {
        if let Some(event) = events::event(tx, nid)? {
            list.push(client_event(tx, &event, &viewer)?);
        }
    }
    Ok(list)
}

fn entry(
    tx: &ReadTx<'_>,
    user: &UserId,
    room: &RoomId,
    key: &(String, String),
) -> Result<(super::access::Access, EventRow), RoomError> {
    let unknown = || RoomError::NotFound("the room has no such state event".into());
    let access = access(tx, user, room)?;
    let skey = tx.lookup_skey(&key.0, &key.1)?.ok_or_else(unknown)?;
    let nid = state::one(tx, access.state(), skey)?.ok_or_else(unknown)?;
    let event = events::event(tx, nid)?.ok_or_else(unknown)?;
    Ok((access, event))
}
