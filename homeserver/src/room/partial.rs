//! Owns rooms that were joined with a part of their state: who waits for the rest, and the task that fetches it.
//!
//! A join through another server asks for the state without its members, so that the room can be used at once. The whole
//! state before the join is fetched afterwards, from the server that let us in or, if that has none, from others in the
//! room; it goes on after a restart and ends when the room is whole ([`super::ingest::whole`]) or nobody of ours is in it
//! any more.
//!
//! spec: <https://spec.matrix.org/v1.19/server-server-api/#put_matrixfederationv2send_joinroomideventid> (`omit_members`)

use std::time::Duration;

use ruma::{OwnedRoomId, OwnedServerName, RoomId, ServerName, UserId};
use tokio::sync::oneshot;

use super::{
    RoomError, Rooms,
    core::pdu::FullEvent,
    ingest::{
        load,
        worker::{Job, Taken},
    },
};
use crate::store::{
    Kind, Nid, ReadTx, StoreError,
    schema::{
        events, membership,
        partial::{self, PartialRoom},
        rooms,
        state::StateMap,
    },
};

/// Rooms whose state is fetched at the same time: each answer may have tens of thousands of events.
pub(in crate::room) const FETCHED_AT_ONCE: usize = 4;
/// Waits between the attempts, in seconds; the last one is repeated for as long as a user of ours is in the room.
const AGAIN_S: [u64; 6] = [1, 5, 15, 60, 300, 900];
/// How long a client waits for the members of a room. Its own time-out is mostly shorter.
const PATIENCE: Duration = Duration::from_secs(180);

/// What is fetched.
struct Wanted {
    row: PartialRoom,
    origin: OwnedServerName,
    servers: Vec<OwnedServerName>,
}

impl Rooms {
    /// Whether a user of ours is in the room and only a part of its state is here.
    pub async fn is_partial(&self, room: &RoomId) -> Result<bool, RoomError> {
        let room = room.to_owned();
        self.inner
            .store
            .read(move |tx| match tx.lookup(Kind::Room, room.as_str())? {
                Some(room) => {
                    Ok(partial::is_partial(tx, room)?
                        && rooms::room(tx, room)?.is_some_and(|row| row.resident))
                }
                None => Ok(false),
            })
            .await
    }

    /// Waits for the members of a room that `user` is in, if they are still on their way.
    pub(in crate::room) async fn await_members(&self, user: &UserId, room: &RoomId) -> Result<(), RoomError> {
        if self.is_partial(room).await? && self.is_joined(user, room).await? {
            return self.wait_whole(room).await;
        }
        Ok(())
    }

    /// Waits until the room's whole state is here, if only a part of it is.
    pub async fn wait_whole(&self, room: &RoomId) -> Result<(), RoomError> {
        match self.is_whole_within(room, PATIENCE).await? {
            true => Ok(()),
            false => Err(RoomError::Unreachable(
                "the room's members are still on their way from another server; try again in some minutes"
                    .into(),
            )),
        }
    }

    /// Whether the room's whole state is here, or comes before `patience` is over.
    pub(in crate::room) async fn is_whole_within(
        &self,
        room: &RoomId,
        patience: Duration,
    ) -> Result<bool, RoomError> {
        // The position is watched before the look, so that nothing falls between.
        let mut position = self.inner.notify.position();
        let wait = async {
            loop {
                position.mark_unchanged();
                if !self.is_partial(room).await? {
                    return Ok(true);
                }
                if position.changed().await.is_err() {
                    return Err(RoomError::Busy);
                }
            }
        };
        tokio::time::timeout(patience, wait).await.unwrap_or(Ok(false))
    }

    /// Holds back what is fetched, until the answer is dropped.
    #[cfg(test)]
    pub(crate) async fn hold_fetching(&self) -> tokio::sync::OwnedSemaphorePermit {
        self.inner.fetching.clone().acquire_many_owned(FETCHED_AT_ONCE as u32).await.unwrap()
    }

    /// A user's membership by the resolved state.
    #[cfg(test)]
    pub(crate) async fn membership_for_tests(
        &self,
        user: &UserId,
        room: &RoomId,
    ) -> Option<membership::Membership> {
        self.membership(user, room).await.unwrap()
    }

    /// Goes on with the rooms that were not whole when the node ended.
    pub async fn resume_partial(&self) -> Result<(), StoreError> {
        let rooms = self
            .inner
            .store
            .read(|tx| -> Result<_, StoreError> {
                let mut rooms = Vec::new();
                for room in partial::rooms(tx)? {
                    if let Some(row) = partial::partial(tx, room)? {
                        rooms.push((load::room_id(tx, room)?, row.join));
                    }
                }
                Ok(rooms)
            })
            .await?;
        rooms.into_iter().for_each(|(room, join)| self.make_whole(room, join));
        Ok(())
    }

    /// Fetches in the background what is missing of a room that was joined by `join`.
    pub(in crate::room) fn make_whole(&self, room: OwnedRoomId, join: Nid) {
        let rooms = self.clone();
        tokio::spawn(async move {
            let mut waits = AGAIN_S.iter();
            let mut wait = AGAIN_S[AGAIN_S.len() - 1];
            let mut attempt = 0;
            loop {
                // The database is closed when the node ends.
                let Ok(Some(wanted)) = rooms.wanted(&room, join).await else { return };
                match rooms.fetch_whole(&room, &wanted, attempt).await {
                    Ok(()) => return,
                    Err(error) => tracing::info!(%room, %error, "a room's members cannot be had yet"),
                }
                attempt += 1;
                wait = *waits.next().unwrap_or(&wait);
                tokio::time::sleep(Duration::from_secs(wait)).await;
            }
        });
    }

    async fn wanted(&self, room: &RoomId, join: Nid) -> Result<Option<Wanted>, StoreError> {
        let room = room.to_owned();
        self.inner.store.read(move |tx| wanted(tx, &room, join)).await
    }

    /// One attempt: the servers take turns.
    async fn fetch_whole(&self, room: &RoomId, wanted: &Wanted, attempt: usize) -> Result<(), RoomError> {
        let Ok(_place) = self.inner.fetching.acquire().await else { return Err(RoomError::Busy) };
        let from: &ServerName = match attempt.checked_sub(1) {
            Some(turn) if !wanted.servers.is_empty() => &wanted.servers[turn % wanted.servers.len()],
            _ => &wanted.origin,
        };
        let state = self.state_before(room, wanted.row.join, from).await?;
        let (answer, result) = oneshot::channel();
        let job = Job::Whole { join: wanted.row.join, state, answer };
        self.inner.workers.submit(&self.inner.tools(), room, job).await?;
        result.await.map_err(|_| RoomError::Busy)?
    }

    /// The whole state before the join, as another server tells it.
    async fn state_before(&self, room: &RoomId, join: Nid, from: &ServerName) -> Result<StateMap, RoomError> {
        let gone = || RoomError::NotFound("the join is not here".into());
        let pdu = self
            .inner
            .store
            .read(move |tx| -> Result<_, StoreError> { load::pdu(tx, join) })
            .await?
            .ok_or_else(gone)?;
        let known = self.known(room).await?.filter(|known| known.resident).ok_or_else(gone)?;
        // After its one previous event: servers that were not told of our join know that as well.
        match &pdu.prev[..] {
            [prev] => self.fetch_state_at(from, &known, room, prev.clone(), true).await,
            _ => self.fetch_state_at(from, &known, room, pdu.event_id.clone(), false).await,
        }
    }

    /// Takes our own join of a room that is partly here already, with what comes before it.
    pub(in crate::room) async fn take_join(
        &self,
        origin: &ServerName,
        room: &RoomId,
        join: &FullEvent,
    ) -> Result<Taken, RoomError> {
        let gone = || RoomError::NotFound("this room is not known here".into());
        let known = self.known(room).await?.ok_or_else(gone)?;
        match self.take(origin, &known, join, None).await {
            Ok(Taken::Missing { .. }) | Err(RoomError::Unreachable(_)) => {
                self.take_found(origin, &known, join, None).await
            }
            taken => taken,
        }
    }
}

fn wanted(tx: &ReadTx<'_>, room: &RoomId, join: Nid) -> Result<Option<Wanted>, StoreError> {
    let Some(room) = tx.lookup(Kind::Room, room.as_str())? else { return Ok(None) };
    let Some(row) = partial::partial(tx, room)?.filter(|row| row.join == join) else { return Ok(None) };
    if !rooms::room(tx, room)?.is_some_and(|row| row.resident) {
        // Nobody of ours waits for it any longer; who comes back begins anew.
        return Ok(None);
    }
    let name = |server: Nid| -> Result<Option<OwnedServerName>, StoreError> {
        Ok(ServerName::parse(&*tx.text(server)?).ok())
    };
    let Some(origin) = name(row.origin)? else { return Ok(None) };
    let own = events::event(tx, join)?
        .map(|event| tx.text(event.sender))
        .transpose()?
        .and_then(|user| UserId::parse(&*user).ok())
        .map(|user| user.server_name().to_owned());
    let mut servers = Vec::new();
    for server in membership::servers(tx, room)? {
        servers.extend(name(server)?.filter(|server| Some(server) != own.as_ref()));
    }
    Ok(Some(Wanted { row, origin, servers }))
}
