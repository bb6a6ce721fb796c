//! What other servers bring and ask: verbs and reads of the federation API, without its handshakes.

use ruma::{
    CanonicalJsonObject, EventId, OwnedEventId, OwnedRoomId, OwnedServerName, RoomId, ServerName, UserId,
};
use serde_json::value::RawValue;

use super::project::membership::stripped;
use super::{Draft, PduJson, RoomError, Rooms};
use crate::store::{
    Kind,
    schema::{
        membership,
        rooms::{self, RoomRow},
    },
};

/// What became of one PDU that was sent to us.
#[derive(Debug)]
pub struct Received {
    /// Its id, if it could be made out.
    pub event_id: Option<OwnedEventId>,
    /// `Err`: not taken, with the reason. A soft-failed or rejected event is taken.
    pub result: Result<(), RoomError>,
}

/// A `send_join` answer to be imported, and what is needed to understand it.
#[derive(Debug)]
pub struct JoinAnswer {
    /// The room.
    pub room_id: OwnedRoomId,
    /// Its version.
    pub version: String,
    /// Our join event, signed (for a restricted join by both).
    pub event: PduJson,
    /// The state before the join.
    pub state: Vec<PduJson>,
    /// The auth chain of that state.
    pub auth_chain: Vec<PduJson>,
    /// The server that answered.
    pub origin: OwnedServerName,
}

/// State before an event, as federation answers it.
#[derive(Debug, Default)]
pub struct StateAnswer {
    /// State events.
    pub state: Vec<PduJson>,
    /// Their auth chain.
    pub auth_chain: Vec<PduJson>,
}

/// An event to be completed and signed by another server (`make_join` and the like).
#[derive(Debug)]
pub struct Template {
    /// The room's version.
    pub version: String,
    /// The event without hashes and signatures.
    pub event: CanonicalJsonObject,
}

impl Rooms {
    /// Takes PDUs from another server (a transaction, in order). Gaps are filled through [`super::Fetch`]. Results come
    /// in the order of `pdus`. An event that is here already is `Ok`.
    pub async fn receive(&self, origin: &ServerName, pdus: Vec<PduJson>) -> Vec<Received> {
        let _ = (origin, pdus);
        unimplemented!()
    }

    /// Takes one PDU that joins the graph by a handshake (`send_join`, `send_leave`, `send_knock`): like
    /// [`Rooms::receive`], but a soft failure or rejection is an error, and the event goes on to the other servers.
    pub async fn receive_handshake(
        &self,
        origin: &ServerName,
        room: &RoomId,
        pdu: CanonicalJsonObject,
    ) -> Result<OwnedEventId, RoomError> {
        let _ = (origin, room, pdu);
        unimplemented!()
    }

    /// Imports a room that a local user has just joined through another server, then appends the join.
    pub async fn import_join(&self, answer: JoinAnswer) -> Result<(), RoomError> {
        let _ = answer;
        unimplemented!()
    }

    /// Stores an invite (or, with another `membership`, its withdrawal or our rejection; a knock of ours) for a local
    /// user in a room whose state we do not hold: the event as an outlier, the stripped state in the user's row. The
    /// PDU is signed by all who have to.
    pub async fn receive_outlier_membership(
        &self,
        room: &RoomId,
        version: &str,
        pdu: CanonicalJsonObject,
        stripped: Vec<Box<RawValue>>,
    ) -> Result<OwnedEventId, RoomError> {
        let _ = (room, version, pdu, stripped);
        unimplemented!()
    }

    /// The template of an event that `sender` (of another server) may put on the present end of the room.
    pub async fn template(
        &self,
        room: &RoomId,
        sender: &UserId,
        draft: Draft,
    ) -> Result<Template, RoomError> {
        let _ = (room, sender, draft);
        unimplemented!()
    }

    /// Builds, hashes and signs an event of ours on the present end of the room WITHOUT storing it (an invite that the
    /// other server signs first). Hand it to [`Rooms::receive_handshake`] afterwards.
    pub async fn build(
        &self,
        room: &RoomId,
        sender: &UserId,
        draft: Draft,
    ) -> Result<CanonicalJsonObject, RoomError> {
        let _ = (room, sender, draft);
        unimplemented!()
    }

    /// The state before an event, whole PDUs, with auth chain. For servers in the room.
    pub async fn state_answer(
        &self,
        origin: &ServerName,
        room: &RoomId,
        event: &EventId,
    ) -> Result<StateAnswer, RoomError> {
        let _ = (origin, room, event);
        unimplemented!()
    }

    /// Like [`Rooms::state_answer`], ids only: (state, auth chain).
    pub async fn state_ids_answer(
        &self,
        origin: &ServerName,
        room: &RoomId,
        event: &EventId,
    ) -> Result<(Vec<OwnedEventId>, Vec<OwnedEventId>), RoomError> {
        let _ = (origin, room, event);
        unimplemented!()
    }

    /// An event's auth chain.
    pub async fn event_auth_answer(
        &self,
        origin: &ServerName,
        room: &RoomId,
        event: &EventId,
    ) -> Result<Vec<PduJson>, RoomError> {
        let _ = (origin, room, event);
        unimplemented!()
    }

    /// One event, if the server may see it (history visibility: pruned if it may know that it exists only).
    pub async fn event_answer(
        &self,
        origin: &ServerName,
        event: &EventId,
    ) -> Result<(PduJson, u64), RoomError> {
        let _ = (origin, event);
        unimplemented!()
    }

    /// `from` and what came before, newest first, at most `limit` (bounded here).
    pub async fn backfill_answer(
        &self,
        origin: &ServerName,
        room: &RoomId,
        from: Vec<OwnedEventId>,
        limit: u32,
    ) -> Result<Vec<PduJson>, RoomError> {
        let _ = (origin, room, from, limit);
        unimplemented!()
    }

    /// What lies between `earliest` and `latest`, oldest first, at most `limit` (bounded here).
    pub async fn missing_events_answer(
        &self,
        origin: &ServerName,
        room: &RoomId,
        earliest: Vec<OwnedEventId>,
        latest: Vec<OwnedEventId>,
        limit: u32,
        min_depth: u64,
    ) -> Result<Vec<PduJson>, RoomError> {
        let _ = (origin, room, earliest, latest, limit, min_depth);
        unimplemented!()
    }

    /// Servers with a joined user, ours among them.
    pub async fn room_servers(&self, room: &RoomId) -> Result<Vec<OwnedServerName>, RoomError> {
        let room = room.to_owned();
        self.inner
            .store
            .read(move |tx| {
                let Some(room) = tx.lookup(Kind::Room, room.as_str())? else { return Ok(Vec::new()) };
                let mut names = Vec::new();
                for server in membership::servers(tx, room)? {
                    names.extend(ServerName::parse(&*tx.text(server)?).ok());
                }
                Ok(names)
            })
            .await
    }

    /// The room's version, if we know the room.
    pub async fn version(&self, room: &RoomId) -> Result<Option<String>, RoomError> {
        Ok(self.row(room).await?.map(|row| row.version))
    }

    /// Whether a local user is joined, so that we hold the room's state.
    pub async fn is_resident(&self, room: &RoomId) -> Result<bool, RoomError> {
        Ok(self.row(room).await?.is_some_and(|row| row.resident))
    }

    async fn row(&self, room: &RoomId) -> Result<Option<RoomRow>, RoomError> {
        let room = room.to_owned();
        self.inner
            .store
            .read(move |tx| match tx.lookup(Kind::Room, room.as_str())? {
                Some(room) => Ok(rooms::room(tx, room)?),
                None => Ok(None),
            })
            .await
    }

    /// Whether the room's `m.room.server_acl` lets this server speak. True if there is none.
    pub async fn acl_allows(&self, room: &RoomId, server: &ServerName) -> Result<bool, RoomError> {
        let _ = (room, server);
        unimplemented!()
    }

    /// Stripped state (create, join rules, name, alias, avatar, topic, encryption and the sender's membership), for an
    /// invite or knock.
    pub async fn stripped_state(
        &self,
        room: &RoomId,
        sender: &UserId,
    ) -> Result<Vec<Box<RawValue>>, RoomError> {
        let (room, sender) = (room.to_owned(), sender.to_owned());
        self.inner
            .store
            .read(move |tx| {
                let Some(room) = tx.lookup(Kind::Room, room.as_str())? else { return Ok(Vec::new()) };
                let member = match tx.lookup(Kind::User, sender.as_str())? {
                    Some(user) => membership::member(tx, room, user)?.map(|(_, nid)| nid),
                    None => None,
                };
                Ok(stripped(tx, room, [member])?)
            })
            .await
    }

    /// Fetches older events than the timeline has. True if there are new ones.
    pub(in crate::room) async fn backfill(&self, room: &RoomId) -> Result<bool, RoomError> {
        let _ = room;
        Ok(false)
    }
}
